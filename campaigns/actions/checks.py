"""What publishing asks of a step, and what several actions ask in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from campaigns import graph
from campaigns.graph import Problem
from campaigns.models import Step, Version
from campaigns.triggers import PLANNED, TRIGGERS
from campaigns.unseen import unseen
from events.models import EventType, Kind
from segments import rules


@dataclass(frozen=True)
class Draft:
    """A version that is to be published: its rows, and its drawing as JSON.

    `event_type` is that of the event which starts it; None where it was never seen.
    `to_come`: the names of customers' events that publishing it declares.
    """

    version: Version
    event_type: EventType | None
    drawing: dict[str, Any]
    now: datetime
    to_come: frozenset[str]

    @property
    def carries(self) -> Mapping[str, str] | None:
        """All that the event which starts it says; None: whatever a source sends."""
        return TRIGGERS[self.version.trigger_kind].carries

    @cached_property
    def arrows(self) -> dict[str, list[str]]:
        return graph.arrows(self.drawing["steps"])

    def after(self, key: str) -> set[str]:
        """The step with this key, and all that can be come to from it."""
        return graph.reachable(key, self.arrows)

    def keys(self, action: str) -> set[str]:
        """The keys of all steps with this action."""
        return {
            step["key"] for step in self.drawing["steps"] if step["action"] == action
        }


def error(step: Step, message: str) -> Problem:
    return Problem("error", step.key, message)


def warning(step: Step, message: str) -> Problem:
    return Problem("warning", step.key, message)


def named_event(step: Step, asked: dict[str, Any], what: str) -> Iterator[Problem]:
    """An event of the customer, with conditions, that a step asks for by its name."""
    name = asked["event"]
    event_type = EventType.objects.filter(name=name).first()
    if event_type is None and name in {one.event for one in PLANNED.values()}:
        yield error(
            step,
            f"{what} “{name}”, which is the event of planned times and of no customer. "
            "Choose another event.",
        )
    elif event_type is None:
        yield warning(
            step,
            f"{what} “{name}”, which has not been seen yet. It is declared now; check "
            "that the name is spelt as it will be sent.",
        )
    elif event_type.kind != Kind.CUSTOMER:
        yield error(
            step,
            f"{what} “{name}”, which is a system event and of no customer. Choose "
            "another event.",
        )
    else:
        where = rules.parse_where(asked["where"], event_values=True)
        yield from unseen(
            {line.field for line in where},
            event_type,
            who=f"The step “{step.key}”",
            step=step.key,
        )

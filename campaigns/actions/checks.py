"""What publishing asks of a step, and what several actions ask in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from campaigns import graph
from campaigns.graph import Problem
from campaigns.models import Step, Version
from events.models import EventField, EventType, Kind
from segments import rules


@dataclass(frozen=True)
class Draft:
    """A version that is to be published: its rows, and its drawing as JSON.

    `event_type` is that of the event which starts it; None where it was never seen.
    """

    version: Version
    event_type: EventType | None
    drawing: dict[str, Any]
    now: datetime

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


def unseen(
    codes: set[str], event_type: EventType | None, *, who: str, step: str = ""
) -> Iterator[Problem]:
    """Fields that no event of the type has had, or can have. `who` asks for them."""
    if event_type is None or not codes:
        return
    seen = set(
        EventField.objects.filter(
            type=event_type, code__in=codes | {outermost(code) for code in codes}
        ).values_list("code", flat=True)
    )
    is_enforced = event_type.mode == EventType.Mode.ENFORCED
    for code in sorted(codes - seen):
        if is_enforced and outermost(code) not in seen:
            yield Problem(
                "error",
                step,
                f"{who} asks for “{code}”, which no “{event_type.name}” can carry: the "
                "event is enforced, and declares no such field. Declare it, or choose "
                "another field.",
            )
        else:
            yield Problem(
                "warning",
                step,
                f"{who} asks for “{code}”, which no “{event_type.name}” has had yet.",
            )


def named_event(step: Step, asked: dict[str, Any], what: str) -> Iterator[Problem]:
    """An event of the customer, with conditions, that a step asks for by its name."""
    name = asked["event"]
    event_type = EventType.objects.filter(name=name).first()
    if event_type is None:
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


def outermost(code: str) -> str:
    """The field of a path: address, of address.city."""
    return code.partition(".")[0]

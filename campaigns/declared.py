"""The customers' events that come into being when a drawing is published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from campaigns.actions import ACTIONS
from campaigns.triggers import event_of, trigger_of
from events.models import Kind


def by_steps(steps: Iterable[tuple[str, dict[str, Any]]]) -> set[str]:
    """The names of those that steps, (action, config), speak of."""
    declared: set[str] = set()
    return declared.union(*(ACTIONS[name].declares(config) for name, config in steps))


def by_drawing(definition: Mapping[str, Any]) -> frozenset[str]:
    """The same, and that of the trigger. Any part of the drawing may be missing."""
    steps = definition.get("steps", [])
    names = by_steps((step["action"], step["config"]) for step in steps)
    if trigger_of(definition)[0].on == Kind.CUSTOMER:
        names.add(event_of(definition))
    return frozenset(names - {""})

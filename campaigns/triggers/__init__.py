"""What starts runs. A new kind is a file here and a line in this list."""

from collections.abc import Mapping
from typing import Any

from campaigns.triggers.base import Trigger
from campaigns.triggers.date import DateReached
from campaigns.triggers.event import EventOccurred, SystemEventOccurred
from campaigns.triggers.planned import Planned
from campaigns.triggers.schedule import Schedule
from campaigns.triggers.segment import SegmentEntered, SegmentLeft
from events.models import Kind

__all__ = ["PLANNED", "TRIGGERS", "Trigger", "answering", "event_of", "trigger_of"]

TRIGGERS: dict[str, Trigger] = {
    trigger.name: trigger
    for trigger in (
        EventOccurred(),
        SystemEventOccurred(),
        SegmentEntered(),
        SegmentLeft(),
        DateReached(),
        Schedule(),
    )
}
#: Those that start by the clock.
PLANNED: dict[str, Planned] = {
    name: trigger for name, trigger in TRIGGERS.items() if isinstance(trigger, Planned)
}


def answering(kind: Kind) -> list[str]:
    """The triggers that events of this kind start."""
    return [
        name
        for name, trigger in TRIGGERS.items()
        if trigger.on == kind and not trigger.is_planned
    ]


def trigger_of(definition: Mapping[str, Any]) -> tuple[Trigger, Mapping[str, Any]]:
    """The trigger of a drawing, and what it is told. Never fails."""
    told = definition.get("trigger") or {}
    return TRIGGERS.get(told.get("kind", ""), TRIGGERS["event"]), told


def event_of(definition: Mapping[str, Any]) -> str:
    """The name of the events that start a drawing; empty: none is chosen."""
    trigger, told = trigger_of(definition)
    return trigger.event_name(told)

"""What triggers that start by the clock have in common: see campaigns.planned."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from datetime import datetime, time
from typing import Any, ClassVar

from campaigns.models import Version
from campaigns.triggers.base import (
    Part,
    Stored,
    Told,
    Trigger,
    TriggerInvalid,
    check_segment,
    segment_named,
)
from campaigns.triggers.calendar import Plan, local_day
from events.models import EventField, EventType, Kind, Source
from segments import rules
from segments.moments import zone
from smartcomm.core.errors import UserError

#: Every event of a planned time has these.
DATE, PLANNED_AT = "date", "planned_at"
#: Where these events say they come from.
SOURCE = "calendar"
NOT_IN_SEGMENT = "not_in_segment"


class Planned(Trigger):
    """A trigger that starts by the installation's clock."""

    on = Kind.SYSTEM
    is_planned = True
    default_hours = 24
    #: The name of the system event that each planned time becomes.
    event: ClassVar[str]

    def store(self, told: Told) -> Stored:
        config = {
            key: value
            for key, value in told.items()
            if key not in ("kind", "max_age_hours")
        }
        return Stored(self.event, [], told["max_age_hours"], config)

    def told(self, version: Version) -> Told:
        return {
            "kind": self.name,
            **version.trigger_config,
            "max_age_hours": version.max_age_hours,
        }

    def event_name(self, told: Mapping[str, Any]) -> str:
        return self.event

    def when(self, told: Mapping[str, Any]) -> str:
        return self.describe(told)

    def meaning(self, told: Mapping[str, Any]) -> list[str]:
        hours = told["max_age_hours"]
        return [
            f"It starts {self.describe(told)}.",
            f"A time that is missed, since the campaign is paused or the installation "
            f"is down, is made up for within {hours} hour{'s' * (hours != 1)}; after "
            "that it is left out, and told so.",
        ]

    # Its times

    @abstractmethod
    def plan(self, config: Mapping[str, Any]) -> Plan:
        """When it starts."""

    @abstractmethod
    def audience(
        self, config: Mapping[str, Any], context: Mapping[str, Any]
    ) -> list[Part]:
        """Whom a planned time is for: who meets all parts. None: everybody."""

    #: A time that is missed is made up for even if the next one has come as well.
    each_counts: ClassVar[bool] = True

    def occasion(self, config: Mapping[str, Any], planned: datetime) -> str:
        """What makes a planned time of a campaign this one and no other."""
        return as_text(planned)

    def context(self, config: Mapping[str, Any], planned: datetime) -> dict[str, Any]:
        """What the event of a planned time says."""
        return {DATE: local_day(planned).isoformat(), PLANNED_AT: as_text(planned)}

    def following(self, version: Version, planned: datetime) -> datetime | None:
        """The time after this one."""
        return self.plan(version.trigger_config).after(planned)

    def goes_on(
        self,
        config: Mapping[str, Any],
        old: Mapping[str, Any],
        old_next: datetime,
        *,
        since: datetime,
        now: datetime,
    ) -> datetime | None:
        """The first time, where a version with the same kind of trigger was at work up
        to now. `old_next` is before now where it was paused; `since`: what is earlier
        is too late by now."""
        return self.plan(config).after(now)

    def segments(self, config: Mapping[str, Any]) -> set[int]:
        pk = config.get("segment")
        return set() if pk is None else {pk}

    def check(self, version: Version) -> Iterator[UserError | str]:
        yield from check_segment(version.trigger_config["segment"])
        found = EventType.objects.filter(name=self.event).first()
        if found is not None and found.kind != self.on:
            yield TriggerInvalid(
                f"“{self.event}” was declared as an event of customers, and is the "
                "name of what is planned. Remove that event type first.",
                field="trigger.kind",
            )

    def prepare(self, version: Version) -> EventType:
        """Declares the events of planned times with all that they say."""
        Source.objects.get_or_create(name=SOURCE)
        found, is_new = EventType.objects.get_or_create(
            name=self.event, defaults={"kind": self.on, "is_reviewed": True}
        )
        if is_new:
            EventField.objects.bulk_create(
                EventField(
                    type=found, code=code, label=label, value_type=self._type(code)
                )
                for code, label in (self.carries or {}).items()
            )
        return found

    def _type(self, code: str) -> str:
        if code in (DATE, PLANNED_AT):
            return str(EventField.Type.DATE)
        return str(EventField.Type.NUMBER if code == "days" else EventField.Type.STRING)


def as_text(planned: datetime) -> str:
    """The same for each moment: its time by the installation's clock, with offset."""
    return planned.astimezone(zone()).isoformat(timespec="minutes")


def in_segment(pk: int | None) -> list[Part]:
    """Whoever is in the segment when the broadcast comes to them; None: everybody."""
    if pk is None:
        return []
    return [
        Part(
            NOT_IN_SEGMENT,
            f"they were not in the segment {segment_named(pk)} at that time",
            rules.parse({"segment": pk}),
        )
    ]


def read_time(told: Mapping[str, Any]) -> str:
    at = told.get("at")
    try:
        found = time.fromisoformat(at)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = None
    if found is None or at not in (f"{found:%H:%M}", f"{found:%H:%M}:00"):
        raise TriggerInvalid(
            "“at” is a time of day by the installation's clock, such as 09:00.",
            field="at",
        )
    return found.strftime("%H:%M")

"""At a planned time, once or again and again, for everybody or for a segment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.formats import date_format

from campaigns.models import Version
from campaigns.triggers.base import (
    Part,
    Reading,
    Told,
    TriggerFields,
    TriggerInvalid,
    read_day,
    read_hours,
    read_segment_or_all,
    segment_choices,
    segment_named,
)
from campaigns.triggers.calendar import UNITS, Plan, local_day
from campaigns.triggers.planned import DATE, PLANNED_AT, Planned, in_segment
from segments.moments import start_of
from smartcomm.core.clock import database_now
from smartcomm.core.errors import UserError

MAX_EVERY = 100
WEEKDAYS = (
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
)
SHORT = tuple(name[:3].lower() for name in WEEKDAYS)


class ScheduleFields(TriggerFields):
    template = "campaigns/panels/triggers/schedule.html"

    day = forms.DateField(label="On")
    time = forms.TimeField(label="At", help_text="By the installation's clock.")
    unit = forms.ChoiceField(
        label="Again",
        required=False,
        choices=[
            ("", "never: once only"),
            ("day", "every … days"),
            ("week", "every … weeks"),
            ("month", "every … months"),
        ],
    )
    every = forms.IntegerField(
        label="Every", required=False, min_value=1, max_value=MAX_EVERY
    )
    weekdays = forms.MultipleChoiceField(
        label="On these days of the week",
        required=False,
        choices=list(zip(SHORT, WEEKDAYS, strict=True)),
        widget=forms.CheckboxSelectMultiple,
        help_text="With weeks. None: that of the first day.",
    )
    until = forms.DateField(
        label="The last time on", required=False, help_text="Empty: for ever."
    )
    segment = forms.TypedChoiceField(
        label="For", coerce=int, required=False, empty_value=None
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        told = kwargs.get("initial") or {}
        repeat = told.get("repeat") or {}
        first = datetime.fromisoformat(told["at"]) if told.get("at") else None
        kwargs["initial"] = {
            **told,
            "day": first.date() if first else timezone.localdate() + timedelta(days=1),
            "time": first.time() if first else time(9),
            "unit": repeat.get("unit", ""),
            "every": repeat.get("every", 1),
            "weekdays": repeat.get("weekdays", []),
        }
        super().__init__(*args, **kwargs)
        self.fields["segment"].choices = [("", "Everybody"), *segment_choices()]  # type: ignore[attr-defined]

    def told(self) -> dict[str, Any]:
        data = self.cleaned_data
        repeat = None
        if data["unit"]:
            repeat = {"every": data["every"] or 1, "unit": data["unit"]}
            if data["unit"] == "week" and data["weekdays"]:
                repeat["weekdays"] = data["weekdays"]
        at = datetime.combine(data["day"], data["time"])
        return {
            "at": at.isoformat(timespec="minutes"),
            "repeat": repeat,
            "until": data["until"].isoformat() if data["until"] and repeat else None,
            "segment": data["segment"],
        }


class Schedule(Planned):
    """`{"kind": "schedule", "at": "2026-12-24T09:00", "segment": 5,
    "repeat": {"every": 1, "unit": "week", "weekdays": ["mon"]}, "until": null}`."""

    name = "schedule"
    label = "Planned time"
    symbol = "calendar_month"
    hint = "Once, or every few days, weeks or months, for a segment or everybody."
    event = "schedule.reached"
    carries = {DATE: "The day", PLANNED_AT: "When it was planned for"}
    form = ScheduleFields
    #: Several newsletters at once are no help to anybody.
    each_counts = False

    def clean(self, told: Mapping[str, Any]) -> Told:
        reading = Reading(told, {"at", "repeat", "until", "segment", "max_age_hours"})
        clean = {
            "kind": self.name,
            "at": reading.take(_read_at),
            "repeat": reading.take(_read_repeat),
            "until": reading.take(_read_until),
            "segment": reading.take(read_segment_or_all),
            "max_age_hours": reading.take(read_hours, self.default_hours),
        }
        reading.end()
        return clean

    def describe(self, told: Mapping[str, Any]) -> str:
        if not told.get("at"):
            return "no time is chosen yet"
        first = datetime.fromisoformat(told["at"])
        day, repeat = date_format(first, "j F Y"), told.get("repeat")
        said = f"{_often(repeat, first)}, from {day}" if repeat else f"on {day}"
        if told.get("until"):
            last = date_format(date.fromisoformat(told["until"]), "j F Y")
            said += f" until {last}"
        who = (
            "everybody"
            if told.get("segment") is None
            else f"who is in {segment_named(told['segment'])}"
        )
        return f"{said}, at {first:%H:%M}, for {who}"

    def check(self, version: Version) -> Iterator[UserError | str]:
        yield from super().check(version)
        goes_on = Version.objects.filter(
            campaign=version.campaign_id,
            status=Version.Status.PUBLISHED,
            trigger_kind=self.name,
            next_at__isnull=False,
        )
        is_over = self.plan(version.trigger_config).after(database_now()) is None
        if is_over and not goes_on.exists():
            yield TriggerInvalid(
                "All of its times are over. Choose a later one.", field="trigger.at"
            )

    def plan(self, config: Mapping[str, Any]) -> Plan:
        first, repeat = datetime.fromisoformat(config["at"]), config["repeat"] or {}
        return Plan(
            first.date(),
            first.time(),
            repeat.get("every", 0),
            repeat.get("unit", ""),
            tuple(SHORT.index(day) for day in repeat.get("weekdays", ())),
            date.fromisoformat(config["until"]) if config["until"] else None,
        )

    def audience(
        self, config: Mapping[str, Any], context: Mapping[str, Any]
    ) -> list[Part]:
        return in_segment(config["segment"])

    def following(self, version: Version, planned: datetime) -> datetime | None:
        # It may have come over from the version before, whose times are not these.
        since = max(planned, version.published_at or planned)
        return self.plan(version.trigger_config).after(since)

    def goes_on(
        self,
        config: Mapping[str, Any],
        old: Mapping[str, Any],
        old_next: datetime,
        *,
        since: datetime,
        now: datetime,
    ) -> datetime | None:
        if old_next <= now:
            return old_next  # Missed while it was paused.
        begin = now
        if config["repeat"] and old["repeat"] and _was_today(self.plan(old), now):
            # At another time of day: not twice on one day.
            begin = start_of(local_day(now) + timedelta(days=1)) - timedelta(seconds=1)
        return self.plan(config).after(begin)


def _was_today(plan: Plan, now: datetime) -> bool:
    today = start_of(local_day(now)) - timedelta(seconds=1)
    first = plan.after(today)
    return first is not None and first <= now


def _often(repeat: Mapping[str, Any], first: datetime) -> str:
    every, unit = repeat["every"], repeat["unit"]
    said = f"every {unit}" if every == 1 else f"every {every} {unit}s"
    if unit == "week":
        days = repeat.get("weekdays") or [SHORT[first.weekday()]]
        names = [WEEKDAYS[SHORT.index(day)] for day in days]
        return f"{said} on {', '.join(names)}"
    if unit == "month":
        return f"{said} on day {first.day}"
    return said


def _read_at(told: Mapping[str, Any]) -> str:
    try:
        at = datetime.fromisoformat(told.get("at"))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        at = None
    if (
        at is None
        or at.tzinfo
        # A day without a time would be midnight, which nobody means.
        or told["at"] not in (at.isoformat(timespec="minutes"), f"{at:%FT%H:%M}:00")
        or not 2000 <= at.year <= 2200
    ):
        raise TriggerInvalid(
            "“at” is the first time by the installation's clock, to the minute and "
            "without an offset, such as 2026-12-24T09:00.",
            field="at",
        )
    return at.isoformat(timespec="minutes")


def _read_repeat(told: Mapping[str, Any]) -> dict[str, Any] | None:
    repeat = told.get("repeat")
    if repeat is None:
        return None
    if not isinstance(repeat, dict) or repeat.keys() - {"every", "unit", "weekdays"}:
        raise TriggerInvalid(
            "“repeat” is null, or an object with “every”, “unit” and, for weeks, "
            "“weekdays”.",
            field="repeat",
        )
    every, unit = repeat.get("every", 1), repeat.get("unit")
    if type(every) is not int or not 1 <= every <= MAX_EVERY:
        raise TriggerInvalid(
            f"“every” is a whole number from 1 to {MAX_EVERY}.", field="repeat.every"
        )
    if unit not in UNITS:
        raise TriggerInvalid(
            f"“unit” is one of {', '.join(UNITS)}.", field="repeat.unit"
        )
    clean = {"every": every, "unit": unit}
    weekdays = repeat.get("weekdays")
    if weekdays is None or weekdays == []:
        return clean
    if (
        unit != "week"
        or not isinstance(weekdays, list)
        or any(day not in SHORT for day in weekdays)
    ):
        raise TriggerInvalid(
            f"“weekdays” goes with weeks, and is a list of {', '.join(SHORT)}.",
            field="repeat.weekdays",
        )
    return {**clean, "weekdays": [day for day in SHORT if day in weekdays]}


def _read_until(told: Mapping[str, Any]) -> str | None:
    until = told.get("until")
    if until is None:
        return None
    if not told.get("repeat"):
        raise TriggerInvalid("“until” goes with “repeat”: once is once.", field="until")
    return read_day(until, "until").isoformat()

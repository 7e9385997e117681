"""Wait for a span of time, until a date (of the event, too), or until a time of day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django import forms
from django.conf import settings
from django.utils.formats import date_format

from campaigns.actions.base import (
    Action,
    Config,
    ConfigInvalid,
    Go,
    Outcome,
    Started,
    WaitUntil,
    only,
)
from campaigns.actions.checks import Draft, warning
from campaigns.actions.values import DONE
from campaigns.graph import Problem
from campaigns.models import Step
from customers.models import Customer
from events.models import EventField
from segments.compile import lookup
from segments.moments import EARLIEST
from segments.rules import FIELD_PATH, read_instant

UNITS = ("minutes", "hours", "days")
#: Ten years.
MAX_SPAN = timedelta(days=3650)
#: A longer wait may be a slip, and is asked about.
LONG = timedelta(days=366)
#: The way of those whose event has no date where one is asked for.
NO_DATE = "no_date"


class WaitForm(forms.Form):
    """One of the four; the action's `clean` says so where it is not."""

    number = forms.IntegerField(label="Wait for", required=False, min_value=1)
    unit = forms.ChoiceField(
        label="Unit", choices=[(unit, unit) for unit in UNITS], required=False
    )
    until = forms.DateField(
        label="or until a date", required=False, help_text="The beginning of that day."
    )
    field = forms.CharField(
        label="or until a date in the event",
        required=False,
        help_text="The field with the date, such as return_at.",
    )
    before = forms.IntegerField(
        label="so many days earlier", required=False, min_value=0, max_value=3650
    )
    time_of_day = forms.TimeField(
        label="or until a time of day",
        required=False,
        help_text="In the customer's time zone, where it is known.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        config = kwargs.get("initial")
        kwargs["initial"] = span_initial(config)
        if isinstance(config, dict) and str(config.get("until")).startswith("$"):
            kwargs["initial"] = {
                "field": config["until"].removeprefix("$"),
                "before": config.get("before"),
            }
        super().__init__(*args, **kwargs)

    def clean(self) -> Config:
        data = self.cleaned_data
        config: Config = {}
        if data.get("number"):
            config |= {"for": data["number"], "unit": data.get("unit") or UNITS[0]}
        if data.get("until"):
            config["until"] = data["until"].isoformat()
        if data.get("time_of_day"):
            config["time_of_day"] = data["time_of_day"].strftime("%H:%M")
        if data.get("field"):
            of_event = {"until": f"${data['field'].strip().removeprefix('$')}"}
            if data.get("before"):
                of_event["before"] = data["before"]
        else:
            of_event = {}
        if self.errors:
            return config
        chosen = len(config.keys() & {"for", "until", "time_of_day"}) + bool(of_event)
        if chosen != 1:
            raise forms.ValidationError(
                "Fill in one of the four: how long, until a date, until a date in the "
                "event, or until a time of day."
            )
        config |= of_event
        try:
            self.cleaned_data = Wait().clean(config)
        except ConfigInvalid as error:
            raise forms.ValidationError(error.message) from error
        return self.cleaned_data


class Wait(Action):
    """`{"for": 3, "unit": "days"}`, or `{"until": "2026-12-01"}`, or
    `{"until": "$return_at", "before": 2}` (days), or `{"time_of_day": "09:00"}`."""

    name = "wait"
    label = "Wait"
    waits_by_clock = True
    is_idle = True
    symbol = "hourglass_top"
    hint = "Go on after some time, on a date, or at a time of day."
    way_labels = {DONE: "Then", NO_DATE: "No date"}
    form = WaitForm

    def ways(self, config: Config) -> tuple[str, ...]:
        return (DONE, NO_DATE) if _field_of(config) else (DONE,)

    def event_codes(self, config: Config) -> set[str]:
        return {field} if (field := _field_of(config)) else set()

    def clean(self, config: Config) -> Config:
        only(config, {"for", "unit", "until", "before", "time_of_day"})
        kinds = [kind for kind in ("for", "until", "time_of_day") if kind in config]
        if len(kinds) != 1:
            raise ConfigInvalid(
                "A wait has exactly one of “for” (with “unit”), “until”, “time_of_day”."
            )
        if kinds == ["for"]:
            only(config, {"for", "unit"})
            return read_span(config)
        value = config[kinds[0]]
        if kinds == ["until"] and isinstance(value, str) and value.startswith("$"):
            return _clean_field(config)
        only(config, set(kinds))
        if kinds == ["until"]:
            if not isinstance(value, str) or read_instant(value) is None:
                raise ConfigInvalid(
                    "“until” is a date such as 2026-12-01, a time with its offset, or "
                    "“$field_code” for a date in the event.",
                    field="until",
                )
        else:
            try:
                if not isinstance(value, str):
                    raise ValueError
                at = time.fromisoformat(value)
                if at.tzinfo is not None:
                    raise ValueError  # It is the customer's own time.
                config = {"time_of_day": at.strftime("%H:%M")}
            except ValueError as error:
                raise ConfigInvalid(
                    "“time_of_day” is a time such as 09:00.", field="time_of_day"
                ) from error
        return dict(config)

    def describe(self, config: Config) -> str:
        if "for" in config:
            return f"for {say_span(config)}"
        if field := _field_of(config):
            days = config.get("before", 0)
            earlier = f"{days} day{'s' * (days != 1)} before " if days else ""
            return f"until {earlier}“{field}” of the event"
        if "until" in config:
            moment = read_instant(config["until"])
            return f"until {date_format(moment, 'j F Y')}" if moment else "until a date"
        return f"until {config.get('time_of_day', 'a time of day')}"

    def check(self, step: Step, draft: Draft) -> Iterator[Problem]:
        if field := _field_of(step.config):
            found = EventField.objects.filter(type=draft.event_type, code=field).first()
            if found is not None and found.value_type not in _MAY_BE_DATES:
                yield warning(
                    step,
                    f"“{step.key}” waits for the date in “{field}”, which is no date "
                    f"but {found.get_value_type_display().lower()}: all take the way "
                    f"“{self.way_labels[NO_DATE]}”.",
                )
        elif "time_of_day" not in step.config:
            until = wake_at(step.config, draft.now)
            if until <= draft.now:
                yield warning(
                    step,
                    f"“{step.key}” waits {self.describe(step.config)}, which is over: "
                    "nobody waits there. Choose a later date.",
                )
            else:
                yield from long_wait(
                    step, until - draft.now, self.describe(step.config)
                )
        yield from super().check(step, draft)

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        zones: dict[int, str] = {}
        if "time_of_day" in step.config:
            zones = dict(
                Customer.objects.filter(
                    pk__in={started.run.customer_id for started in runs}
                ).values_list("pk", "time_zone")
            )
        outcomes: dict[int, Outcome] = {}
        for started in runs:
            run = started.run
            config = step.config
            if field := _field_of(config):
                found = lookup(started.context, field)
                if not isinstance(found, str) or read_instant(found) is None:
                    outcomes[run.pk] = Go(
                        NO_DATE, f"The event has no date in “{field}”."
                    )
                    continue
                config = {**config, "until": found}
            moment = wake_at(
                config, run.arrived_at, zone=zones.get(run.customer_id, "")
            )
            outcomes[run.pk] = Go(DONE) if moment <= now else WaitUntil(moment)
        return outcomes


_MAY_BE_DATES = (EventField.Type.DATE, EventField.Type.STRING)


def long_wait(step: Step, span: timedelta, said: str) -> Iterator[Problem]:
    """Ask whether a wait that seems to have no end is meant."""
    if span > LONG:
        yield warning(
            step,
            f"“{step.key}” waits {said}: that is longer than a year. Check that it is "
            "meant.",
        )


def read_span(config: Config) -> Config:
    """“for” and “unit” of a configuration, checked."""
    number, unit = config.get("for"), config.get("unit")
    if unit not in UNITS:
        raise ConfigInvalid(f"“unit” is one of {', '.join(UNITS)}.", field="unit")
    if type(number) is not int or number < 1:
        raise ConfigInvalid("“for” is a whole number from 1 on.", field="for")
    if number > MAX_SPAN / timedelta(**{unit: 1}):
        raise ConfigInvalid("A wait lasts ten years at most.", field="for")
    return {"for": number, "unit": unit}


def span_initial(config: Config | None) -> Config | None:
    """What a form shows of a configuration: “for” stands in the input “number”."""
    return {**config, "number": config["for"]} if config and "for" in config else config


def say_span(config: Config) -> str:
    """3 days, 1 hour."""
    number, unit = config["for"], config["unit"]
    return f"{number} {unit.removesuffix('s') if number == 1 else unit}"


def wake_at(config: Config, arrived_at: datetime, *, zone: str = "") -> datetime:
    """When a run that arrived then goes on. `zone` is the customer's, or empty."""
    if "for" in config:
        return arrived_at + timedelta(**{config["unit"]: config["for"]})
    if "until" in config:
        moment = read_instant(config["until"])
        if moment is None:
            raise AssertionError("`clean` lets only a date or a time through.")
        earlier = timedelta(days=config.get("before", 0))
        try:
            moment -= earlier
        except OverflowError:
            return EARLIEST
        if isinstance(moment, datetime):
            return moment
        return datetime.combine(moment, time.min, tzinfo=ZoneInfo(settings.TIME_ZONE))
    local = arrived_at.astimezone(_zone(zone))
    at = time.fromisoformat(config["time_of_day"])
    day = local.date() if at > local.time() else local.date() + timedelta(days=1)
    found = datetime.combine(day, at, tzinfo=local.tzinfo)
    # In the second pass of an hour that occurs twice, it is the second time.
    return found if found.astimezone(UTC) > arrived_at else found.replace(fold=1)


def _field_of(config: Config) -> str:
    """The field of the event with the date to wait for, or empty."""
    until = config.get("until")
    is_field = isinstance(until, str) and until.startswith("$")
    return str(until)[1:] if is_field else ""


def _clean_field(config: Config) -> Config:
    only(config, {"until", "before"})
    if not FIELD_PATH.match(_field_of(config)):
        raise ConfigInvalid(f"“{config['until']}” is no field code.", field="until")
    before = config.get("before", 0)
    if type(before) is not int or not 0 <= before <= MAX_SPAN.days:
        raise ConfigInvalid(
            f"“before” is a number of days from 0 to {MAX_SPAN.days}.", field="before"
        )
    return {"until": config["until"], **({"before": before} if before else {})}


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name or settings.TIME_ZONE)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo(settings.TIME_ZONE)

"""Wait for a span of time, until a date, or until a time of day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
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
from campaigns.models import Step
from customers.models import Customer
from segments.rules import read_instant

UNITS = ("minutes", "hours", "days")
#: Ten years.
MAX_SPAN = timedelta(days=3650)
DONE = "done"


class WaitForm(forms.Form):
    """One of the three; the action's `clean` says so where it is not."""

    number = forms.IntegerField(label="Wait for", required=False, min_value=1)
    unit = forms.ChoiceField(
        label="Unit", choices=[(unit, unit) for unit in UNITS], required=False
    )
    until = forms.DateField(
        label="or until a date", required=False, help_text="The beginning of that day."
    )
    time_of_day = forms.TimeField(
        label="or until a time of day",
        required=False,
        help_text="In the customer's time zone, where it is known.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        config = kwargs.get("initial")
        if isinstance(config, dict) and "for" in config:
            kwargs["initial"] = {**config, "number": config["for"]}
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
        if self.errors:
            return config
        if len(config.keys() & {"for", "until", "time_of_day"}) != 1:
            raise forms.ValidationError(
                "Fill in one of the three: how long, until a date, or until a time of "
                "day."
            )
        try:
            self.cleaned_data = Wait().clean(config)
        except ConfigInvalid as error:
            raise forms.ValidationError(error.message) from error
        return self.cleaned_data


class Wait(Action):
    """`{"for": 3, "unit": "days"}`, or `{"until": "2026-12-01"}`, or
    `{"time_of_day": "09:00"}`."""

    name = "wait"
    label = "Wait"
    symbol = "hourglass_top"
    hint = "Go on after some time, on a date, or at a time of day."
    way_labels = {DONE: "Then"}
    form = WaitForm

    def clean(self, config: Config) -> Config:
        only(config, {"for", "unit", "until", "time_of_day"})
        kinds = [kind for kind in ("for", "until", "time_of_day") if kind in config]
        if len(kinds) != 1:
            raise ConfigInvalid(
                "A wait has exactly one of “for” (with “unit”), “until”, “time_of_day”."
            )
        if kinds == ["for"]:
            only(config, {"for", "unit"})
            return read_span(config)
        only(config, set(kinds))
        value = config[kinds[0]]
        if kinds == ["until"]:
            if not isinstance(value, str) or read_instant(value) is None:
                raise ConfigInvalid(
                    "“until” is a date such as 2026-12-01, or a time with its offset.",
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
        if "until" in config:
            moment = read_instant(config["until"])
            return f"until {date_format(moment, 'j F Y')}" if moment else "until a date"
        return f"until {config.get('time_of_day', 'a time of day')}"

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
            moment = wake_at(
                step.config, run.arrived_at, zone=zones.get(run.customer_id, "")
            )
            outcomes[run.pk] = Go(DONE) if moment <= now else WaitUntil(moment)
        return outcomes


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
        if isinstance(moment, datetime):
            return moment
        if moment is None:
            raise AssertionError("`clean` lets only a date or a time through.")
        return datetime.combine(moment, time.min, tzinfo=ZoneInfo(settings.TIME_ZONE))
    local = arrived_at.astimezone(_zone(zone))
    at = time.fromisoformat(config["time_of_day"])
    day = local.date() if at > local.time() else local.date() + timedelta(days=1)
    return datetime.combine(day, at, tzinfo=local.tzinfo)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name or settings.TIME_ZONE)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo(settings.TIME_ZONE)

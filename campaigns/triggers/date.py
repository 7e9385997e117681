"""A date of the customer is reached: a birthday, or so many days before or after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from typing import Any

from django import forms
from django.utils.formats import date_format

from campaigns.models import Version
from campaigns.triggers.base import (
    Part,
    Reading,
    Told,
    TriggerFields,
    TriggerInvalid,
    read_hours,
    read_segment_or_all,
    segment_choices,
    segment_named,
)
from campaigns.triggers.calendar import Plan, at_time, local_day
from campaigns.triggers.planned import (
    DATE,
    PLANNED_AT,
    Planned,
    as_text,
    in_segment,
    read_time,
)
from customers.models import Attribute
from segments import rules
from segments.describe import ATTRIBUTE_LABELS
from segments.moments import start_of
from smartcomm.core.errors import UserError

#: Dates that every customer may have.
OWN = ("birth_date", "registered_at")
MAX_DAYS = 3650
NOT_REACHED = "date_not_reached"
BEFORE, ON, AFTER = "before", "on", "after"


class DateFields(TriggerFields):
    template = "campaigns/panels/triggers/date.html"

    attribute = forms.ChoiceField(label="Date")
    side = forms.ChoiceField(
        label="Starts",
        choices=[(ON, "on that day"), (BEFORE, "before it"), (AFTER, "after it")],
    )
    number = forms.IntegerField(
        label="Days", required=False, min_value=1, max_value=MAX_DAYS
    )
    yearly = forms.BooleanField(
        label="Every year, as a birthday",
        required=False,
        help_text="29 February is kept on the 28th in years without one.",
    )
    at = forms.TimeField(
        label="At",
        help_text="By the installation's clock.",
    )
    segment = forms.TypedChoiceField(
        label="Only who is in", coerce=int, required=False, empty_value=None
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        told = kwargs.get("initial") or {}
        days = told.get("days") or 0
        side = ON if not days else BEFORE if days < 0 else AFTER
        kwargs["initial"] = {
            "yearly": True,
            "at": "09:00",
            **told,
            "side": side,
            "number": abs(days) or None,
        }
        super().__init__(*args, **kwargs)
        self.fields["attribute"].choices = date_attributes()  # type: ignore[attr-defined]
        self.fields["segment"].choices = [("", "Everybody"), *segment_choices()]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        if data.get("side") != ON and not data.get("number") and not self.errors:
            self.add_error("number", "Say how many days.")
        return data

    def told(self) -> dict[str, Any]:
        data = self.cleaned_data
        days = {ON: 0, BEFORE: -1, AFTER: 1}[data["side"]] * (data["number"] or 0)
        return {
            "attribute": data["attribute"],
            "days": days,
            "yearly": data["yearly"],
            "at": data["at"].strftime("%H:%M"),
            "segment": data["segment"],
        }


class DateReached(Planned):
    """`{"kind": "date", "attribute": "birth_date", "days": -3, "yearly": true,
    "at": "09:00", "segment": null}`."""

    name = "date"
    label = "Date reached"
    symbol = "cake"
    hint = "A birthday, the end of a contract: on the day, before or after it."
    event = "date.reached"
    carries = {
        DATE: "The date that is reached",
        PLANNED_AT: "When it was planned for",
        "attribute": "Attribute with the date",
        "days": "Days after the date; before it, less than 0",
    }
    form = DateFields

    def clean(self, told: Mapping[str, Any]) -> Told:
        reading = Reading(
            told,
            {"attribute", "days", "yearly", "at", "segment", "max_age_hours"},
        )
        clean = {
            "kind": self.name,
            "attribute": reading.take(_read_attribute),
            "days": reading.take(_read_days),
            "yearly": reading.take(_read_yearly),
            "at": reading.take(read_time),
            "segment": reading.take(read_segment_or_all),
            "max_age_hours": reading.take(read_hours, self.default_hours),
        }
        reading.end()
        return clean

    def describe(self, told: Mapping[str, Any]) -> str:
        if not told.get("attribute"):
            return "no date is chosen yet"
        days = told.get("days") or 0
        is_birthday = told["attribute"] == "birth_date" and told.get("yearly")
        label = "birthday" if is_birthday else label_of(told["attribute"])
        number = f"{abs(days):,} day{'s' * (abs(days) != 1)}"
        side = "before" if days < 0 else "after"
        said = f"{number} {side} the {label}" if days else f"on the {label}"
        if told.get("yearly"):
            said = f"every year, {said}"
        said += f", at {told.get('at')}"
        if told.get("segment") is not None:
            said += f", for who is in {segment_named(told['segment'])}"
        return said

    def check(self, version: Version) -> Iterator[UserError | str]:
        yield from super().check(version)
        code = version.trigger_config["attribute"]
        if code not in dict(date_attributes()):
            yield TriggerInvalid(
                f"“{code}” is no date that customers have. Declare it as an attribute "
                "of the type Date first, or choose another one.",
                field="trigger.attribute",
            )

    def plan(self, config: Mapping[str, Any]) -> Plan:
        """Every day, whether anybody's date is reached or not."""
        return Plan(date(2000, 1, 1), time.fromisoformat(config["at"]), 1, "day")

    def audience(
        self, config: Mapping[str, Any], context: Mapping[str, Any]
    ) -> list[Part]:
        reached = date.fromisoformat(context[DATE])
        rule = (
            {"op": "anniversary within", "value": 0}
            if config["yearly"]
            else {"op": "on", "value": reached.isoformat()}
        )
        return [
            Part(
                NOT_REACHED,
                f"the {label_of(config['attribute'])} was not reached: it was for "
                f"{date_format(reached, 'j F' if config['yearly'] else 'j F Y')}",
                rules.parse({"attribute": config["attribute"], **rule}),
                # By the clock of that day, however late it comes to a customer.
                clock=start_of(reached) + timedelta(hours=12),
            ),
            *in_segment(config["segment"]),
        ]

    def occasion(self, config: Mapping[str, Any], planned: datetime) -> str:
        # By the day that is reached, so that another offset reaches none twice.
        return f"{config['attribute']}-{_reached(config, planned)}"

    def context(self, config: Mapping[str, Any], planned: datetime) -> dict[str, Any]:
        return {
            DATE: _reached(config, planned).isoformat(),
            PLANNED_AT: as_text(planned),
            "attribute": config["attribute"],
            "days": config["days"],
        }

    def goes_on(
        self,
        config: Mapping[str, Any],
        old: Mapping[str, Any],
        old_next: datetime,
        *,
        since: datetime,
        now: datetime,
    ) -> datetime | None:
        """With the first day that the old version has not reached, unless the time for
        that had passed before `since`."""
        if config["attribute"] != old["attribute"]:
            return super().goes_on(config, old, old_next, since=since, now=now)
        first = _reached(old, old_next) + timedelta(days=config["days"])
        begin = at_time(first, time.fromisoformat(config["at"]))
        if begin is not None and begin > since:
            return begin
        return self.plan(config).after(max(begin or since, since))


def _reached(config: Mapping[str, Any], planned: datetime) -> date:
    """The day whose dates are reached at a planned time."""
    return local_day(planned) - timedelta(days=config["days"])


def date_attributes() -> list[tuple[str, str]]:
    """The dates that customers have: code, label."""
    own = [(code, label_of(code)) for code in OWN]
    declared = Attribute.objects.filter(type=Attribute.Type.DATE)
    return own + [(one.code, str(one)) for one in declared]


def label_of(code: str) -> str:
    if code in ATTRIBUTE_LABELS:
        return ATTRIBUTE_LABELS[code]
    found = Attribute.objects.filter(code=code).first()
    return f"“{found or code}”"


def _read_attribute(told: Mapping[str, Any]) -> str:
    code = told.get("attribute")
    if not isinstance(code, str) or not code or len(code) > 64:
        raise TriggerInvalid(
            "“attribute” is a date that customers have, such as birth_date.",
            field="attribute",
        )
    return code


def _read_days(told: Mapping[str, Any]) -> int:
    days = told.get("days", 0)
    if type(days) is not int or abs(days) > MAX_DAYS:
        raise TriggerInvalid(
            f"“days” is a whole number from -{MAX_DAYS} to {MAX_DAYS}; before the date "
            "it is less than 0.",
            field="days",
        )
    return days


def _read_yearly(told: Mapping[str, Any]) -> bool:
    yearly = told.get("yearly", False)
    if not isinstance(yearly, bool):
        raise TriggerInvalid("“yearly” is true or false.", field="yearly")
    return yearly

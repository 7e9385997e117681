"""An event occurred: of a customer, or one that concerns all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django import forms

from campaigns.event_name import EventNameField
from campaigns.models import Version
from campaigns.triggers.base import (
    Reading,
    Stored,
    Told,
    Trigger,
    TriggerFields,
    TriggerInvalid,
    read_hours,
)
from campaigns.unseen import unseen
from events.models import EventType, Kind
from events.wire import MAX_NAME
from segments import rules
from segments.builder import WhereField
from segments.describe import describe_where
from smartcomm.core.errors import UserError

#: The input that tells the rule builder which event starts the campaign.
EVENT_INPUT = "trigger-event"


class EventFields(TriggerFields):
    event = EventNameField(
        label="Event",
        help_text="Choose one that has been seen, or write the name of one to come.",
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "list": "cp-events", "class": "cp-event-name"}
        ),
    )
    where = WhereField(
        label="Only when its context says",
        event_name_from=EVENT_INPUT,
        help_text="All of these must hold. Without any, every such event counts.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The builder reads the name from the form, once there is one.
        self.fields["where"].event_name = self.initial.get("event", "")  # type: ignore[attr-defined]

    def told(self) -> dict[str, Any]:
        data = self.cleaned_data
        return {"event": data["event"], "where": data["where"] or []}


class EventOccurred(Trigger):
    """`{"kind": "event", "event": "Order paid", "where": [...]}`."""

    name = "event"
    label = "Event occurred"
    symbol = "bolt"
    hint = "A customer did something. That customer enters."
    on = Kind.CUSTOMER
    form = EventFields

    def clean(self, told: Mapping[str, Any]) -> Told:
        reading = Reading(told, {"event", "where", "max_age_hours"})
        clean = {
            "kind": self.name,
            "event": reading.take(_read_name),
            "where": reading.take(_read_where),
            "max_age_hours": reading.take(read_hours, self.default_hours),
        }
        reading.end()
        return clean

    def store(self, told: Told) -> Stored:
        return Stored(told["event"], told["where"], told["max_age_hours"], {})

    def told(self, version: Version) -> Told:
        return {
            "kind": self.name,
            "event": version.event_name,
            "where": version.where,
            "max_age_hours": version.max_age_hours,
        }

    def describe(self, told: Mapping[str, Any]) -> str:
        return self._said(told, "")

    def when(self, told: Mapping[str, Any]) -> str:
        return self._said(told, " occurs")

    def _said(self, told: Mapping[str, Any], verb: str) -> str:
        if not told.get("event"):
            return "no event is chosen yet"
        said = f"“{told['event']}”{verb}"
        if where := told.get("where"):
            return f"{said}, and {describe_where(rules.parse_where(where))}"
        return said

    def meaning(self, told: Mapping[str, Any]) -> list[str]:
        enters = (
            "its customer enters"
            if self.on == Kind.CUSTOMER
            else "all customers are looked at"
        )
        return [
            f"When {self.when(told)}, {enters}.",
            "What has occurred before starts nothing; an event that comes in more than"
            f" {told['max_age_hours']} hours late starts nothing either.",
        ]

    def event_name(self, told: Mapping[str, Any]) -> str:
        return told.get("event") or ""

    def check(self, version: Version) -> Iterator[UserError | str]:
        name = version.event_name
        if not name.strip():
            yield TriggerInvalid(
                "Choose the event that starts it.", field="trigger.event"
            )
            return
        found = EventType.objects.filter(name=name).first()
        if found is None:
            yield (
                f"No event “{name}” has been seen yet. It is declared "
                "now; check that the name is spelt as it will be sent."
            )
        elif found.kind != self.on:
            yield TriggerInvalid(other_kind(found), field="trigger.event")
        else:
            codes = {line.field for line in rules.parse_where(version.where)}
            for problem in unseen(codes, found, who="The trigger"):
                if problem.level == "error":
                    yield TriggerInvalid(problem.message, field="trigger.where")
                else:
                    yield problem.message


class SystemEventOccurred(EventOccurred):
    """`{"kind": "system_event", "event": "Product in stock", "where": [...]}`."""

    name = "system_event"
    label = "System event occurred"
    symbol = "campaign"
    hint = (
        "Something happened for everyone. All customers are looked at, and a filter "
        "chooses."
    )
    on = Kind.SYSTEM


def _read_name(told: Mapping[str, Any]) -> str:
    name = told.get("event", "")
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise TriggerInvalid(
            f"“event” is the name of an event, up to {MAX_NAME} characters.",
            field="event",
        )
    return name


def _read_where(told: Mapping[str, Any]) -> list[Any]:
    try:
        return rules.where_json(rules.parse_where(told.get("where", [])))
    except rules.RuleError as error:
        place = f"where.{error.field}" if error.field else "where"
        raise TriggerInvalid(error.message, field=place) from error


def other_kind(found: EventType) -> str:
    return (
        f"“{found.name}” is a {found.get_kind_display().lower()}. Choose the other"
        " trigger, or another event."
    )

"""A customer came into a segment, or went out of it.

The keeper of segments records the event “segment.entered” or “segment.left” of those
that are watched; so this is the event trigger, said more simply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from django import forms

from campaigns.models import Version
from campaigns.triggers.base import (
    Reading,
    Stored,
    Told,
    Trigger,
    TriggerFields,
    TriggerInvalid,
    check_segment,
    read_hours,
    read_segment,
    segment_choices,
    segment_named,
)
from events.models import EventType, Kind
from segments import saving
from segments.models import Segment
from segments.upkeep import refuse_feeding
from segments.upkeep.meanings import ENTERED, LEFT
from smartcomm.core.errors import UserError


class SegmentFields(TriggerFields):
    segment = forms.TypedChoiceField(
        label="Segment",
        coerce=int,
        help_text="Segments and lists. Only changes from now on count: who is in it "
        "when the campaign is published starts nothing.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["segment"].choices = segment_choices()  # type: ignore[attr-defined]

    def told(self) -> dict[str, Any]:
        return {"segment": self.cleaned_data["segment"]}


class _Moved(Trigger):
    on = Kind.CUSTOMER
    carries = {"segment": "Number of the segment", "name": "Name of the segment"}
    form = SegmentFields
    event: ClassVar[str]
    verb: ClassVar[str]

    def clean(self, told: Mapping[str, Any]) -> Told:
        reading = Reading(told, {"segment", "max_age_hours"})
        clean = {
            "kind": self.name,
            "segment": reading.take(read_segment),
            "max_age_hours": reading.take(read_hours, self.default_hours),
        }
        reading.end()
        return clean

    def store(self, told: Told) -> Stored:
        segment = told["segment"]
        where = [{"field": "segment", "op": "=", "value": segment}]
        return Stored(self.event, where, told["max_age_hours"], {"segment": segment})

    def told(self, version: Version) -> Told:
        return {
            "kind": self.name,
            **version.trigger_config,
            "max_age_hours": version.max_age_hours,
        }

    def describe(self, told: Mapping[str, Any]) -> str:
        return segment_named(told.get("segment"))

    def when(self, told: Mapping[str, Any]) -> str:
        return f"a customer {self.verb} {self.describe(told)}"

    def meaning(self, told: Mapping[str, Any]) -> list[str]:
        return [
            f"When {self.when(told)}, that customer enters.",
            "Who is in it now starts nothing: only who comes and goes from now on."
            f" What is known more than {told['max_age_hours']} hours late starts"
            " nothing either.",
        ]

    def event_name(self, told: Mapping[str, Any]) -> str:
        return self.event

    def segments(self, config: Mapping[str, Any]) -> set[int]:
        return {config["segment"]}

    def check(self, version: Version) -> Iterator[UserError | str]:
        pk = version.trigger_config["segment"]
        wrong = list(check_segment(pk))
        yield from wrong
        found = EventType.objects.filter(name=self.event).first()
        if found is not None and found.kind != self.on:
            yield TriggerInvalid(
                f"“{self.event}” was declared as a system event, so segments cannot "
                "record it. Remove that event type first.",
                field="trigger.kind",
            )
        if wrong:
            return
        segment = Segment.objects.get(pk=pk)
        if segment.is_watched:
            return
        segment.is_watched = True
        try:
            refuse_feeding(segment)
        except UserError:
            yield TriggerInvalid(
                f"“{segment}” cannot tell who comes and goes: its rule itself looks at "
                "who enters and leaves segments. Choose another segment, or take that "
                "condition out of its rule.",
                field="trigger.segment",
            )
        else:
            yield (
                f"Who comes into “{segment}” and goes is recorded from now on. A "
                "rehearsal knows nobody from before."
            )

    def prepare(self, version: Version) -> EventType:
        """Has the segment record who comes and goes."""
        segment = Segment.objects.get(pk=version.trigger_config["segment"])
        if not segment.is_watched:
            saving.change(
                segment,
                saving.Wanted(
                    segment.name, segment.description, segment.rule, is_watched=True
                ),
                author=f"campaign “{version.campaign}”",
            )
        return super().prepare(version)


class SegmentEntered(_Moved):
    """`{"kind": "segment_entered", "segment": 5}`."""

    name = "segment_entered"
    label = "Segment entered"
    symbol = "login"
    hint = "A customer comes to meet a rule, or is put on a list."
    event = ENTERED
    verb = "comes into"


class SegmentLeft(_Moved):
    """`{"kind": "segment_left", "segment": 5}`."""

    name = "segment_left"
    label = "Segment left"
    symbol = "logout"
    hint = "A customer no longer meets a rule, or is taken off a list."
    event = LEFT
    verb = "leaves"

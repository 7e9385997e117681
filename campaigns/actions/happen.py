"""Wait until the customer does something, or has not done it in time.

Events count from the moment when the run came to the step; where nothing made it wait
on its way there, from the event that started it, so that nothing is missed between the
two. What counts is when an event occurred: one that was recorded late, but occurred in
time, still counts if it comes in before the time is over.

A run that waits is woken by the dispatcher (`dispatch.wake`), which sees every event of
the type. The first look after arriving is repeated a little later: an event that was
committed while the run came here can have woken nobody.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django import forms

from campaigns.actions.base import (
    Action,
    Config,
    Go,
    Outcome,
    Started,
    WaitUntil,
    only,
)
from campaigns.actions.checks import Draft, named_event
from campaigns.actions.values import lacking, read_event_name
from campaigns.actions.wait import UNITS, long_wait, read_span, say_span, span_initial
from campaigns.event_name import EventNameField
from campaigns.graph import Problem
from campaigns.models import Passage, Step
from segments import rules
from segments.builder import WhereField
from segments.compile import bind_where, events_matching, lookup
from segments.describe import describe_where
from segments.rules import RuleError
from smartcomm.core.db import fetch_all

NAME = "wait_for_event"
HAPPENED, TIMED_OUT = "happened", "timed_out"
#: When a run that came here is looked at a second time.
SECOND_LOOK = timedelta(seconds=15)
#: What makes a run wait. After one of these, events count from its arrival on.
WAITING = ("wait", NAME, "send_email", "send_sms", "send_push", "call_webhook")

# The starting event is none that is waited for. Newest first is no better than oldest:
# each is looked at in turn, and one that fits is enough.
CANDIDATES = """
    SELECT run.id, event.id
      FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::timestamptz[],
                  %s::timestamptz[]) AS run (id, customer_id, event_id, since, until)
      JOIN events_event AS event
        ON event.customer_id = run.customer_id AND event.type_id = %s
       AND event.occurred_at >= run.since AND event.occurred_at < run.until
       AND event.id IS DISTINCT FROM run.event_id
"""


class HappenForm(forms.Form):
    event = EventNameField(
        label="Event",
        help_text="Of the same customer. Choose one that has been seen, or write it.",
    )
    where = WhereField(
        label="Only when its context says",
        event_name_from="event",
        allow_event_values=True,
        help_text="All of these must hold. Without any, every such event counts.",
    )
    number = forms.IntegerField(label="Wait at most", min_value=1, initial=1)
    unit = forms.ChoiceField(
        label="Unit", choices=[(unit, unit) for unit in UNITS], initial="days"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["initial"] = span_initial(kwargs.get("initial"))
        super().__init__(*args, **kwargs)
        self.fields["where"].event_name = self.initial.get("event", "")  # type: ignore[attr-defined]

    def clean(self) -> Config:
        data = self.cleaned_data
        config = {**data, "for": data.get("number")}
        config.pop("number", None)
        self.cleaned_data = config
        return config


class WaitForEvent(Action):
    """`{"event": "Order paid", "where": [{"field": "product_id", "op": "=", "value":
    "$product_id"}], "for": 2, "unit": "days"}`."""

    name = NAME
    label = "Wait for an event"
    waits_by_clock = True
    symbol = "notification_important"
    hint = "Go on as soon as the customer does something, or after a time without."
    way_labels = {HAPPENED: "It happened", TIMED_OUT: "It did not"}
    form = HappenForm

    def clean(self, config: Config) -> Config:
        only(config, {"event", "where", "for", "unit"})
        try:
            where = rules.parse_where(config.get("where") or [], event_values=True)
        except RuleError as error:
            place = f"where.{error.field}" if error.field else "where"
            raise RuleError(error.message, field=place) from error
        return {
            "event": read_event_name(config),
            "where": rules.where_json(where),
            **read_span(config),
        }

    def describe(self, config: Config) -> str:
        where = rules.parse_where(config["where"], event_values=True)
        said = f"“{config['event']}”"
        if where:
            said = f"{said} where {describe_where(where)}"
        return f"{said}, {say_span(config)} at most"

    def event_codes(self, config: Config) -> set[str]:
        return rules.event_values(rules.parse_where(config["where"], event_values=True))

    def declares(self, config: Config) -> set[str]:
        return {config["event"]}

    def check(self, step: Step, draft: Draft) -> Iterator[Problem]:
        yield from named_event(step, step.config, f"“{step.key}” waits for")
        span = timedelta(**{step.config["unit"]: step.config["for"]})
        yield from long_wait(step, span, f"for {self.describe(step.config)}")
        yield from super().check(step, draft)

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        waits = _waits(step, runs)
        happened = _happened(step, waits, now=now) if step.event_type_id else set()
        outcomes: dict[int, Outcome] = {}
        for one in waits:
            run = one.started.run
            if run.pk in happened:
                outcomes[run.pk] = Go(HAPPENED)
            elif one.until <= now:
                outcomes[run.pk] = Go(TIMED_OUT, lacking(one.missing))
            else:
                second = run.arrived_at + SECOND_LOOK
                outcomes[run.pk] = WaitUntil(
                    min(second, one.until) if second > now else one.until
                )
        return outcomes


@dataclass(frozen=True, slots=True)
class _Wait:
    """A run at the step, and the time in which the event counts."""

    started: Started
    since: datetime
    until: datetime
    #: Fields that the conditions ask for and that the starting event does not have.
    missing: list[str]


def _waits(step: Step, runs: Sequence[Started]) -> list[_Wait]:
    span = timedelta(**{step.config["unit"]: step.config["for"]})
    where = rules.parse_where(step.config["where"], event_values=True)
    codes = sorted(rules.event_values(where))
    has_waited = set(
        Passage.objects.filter(
            run__in=[started.run.pk for started in runs], step__action__in=WAITING
        ).values_list("run_id", flat=True)
    )
    has_waited |= {
        started.run.pk
        for started in runs
        if not set(WAITING).isdisjoint(started.passed)
    }
    return [
        _Wait(
            started,
            started.run.arrived_at
            if started.run.pk in has_waited
            else min(started.occurred_at, started.run.arrived_at),
            started.run.arrived_at + span,
            [code for code in codes if lookup(started.context, code) is None],
        )
        for started in runs
    ]


def _happened(step: Step, waits: Iterable[_Wait], *, now: datetime) -> set[int]:
    """The runs whose event has occurred."""
    able = {one.started.run.pk: one for one in waits if not one.missing}
    events: dict[int, list[int]] = defaultdict(list)
    runs = [one.started.run for one in able.values()]
    for run_id, event_id in fetch_all(
        CANDIDATES,
        [
            [run.pk for run in runs],
            [run.customer_id for run in runs],
            [run.event_id for run in runs],
            [one.since for one in able.values()],
            [one.until for one in able.values()],
            step.event_type_id,
        ],
    ):
        events[run_id].append(event_id)
    where = rules.parse_where(step.config["where"], event_values=True)
    # Runs whose events agree in what the conditions ask for are asked about together.
    alike: dict[str, list[int]] = defaultdict(list)
    codes = sorted(rules.event_values(where))
    for run_id in events:
        context = able[run_id].started.context
        values = {code: lookup(context, code) for code in codes}
        alike[json.dumps(values, sort_keys=True)].append(run_id)
    happened: set[int] = set()
    for group in alike.values():
        fitting = events_matching(
            bind_where(where, able[group[0]].started.context),
            [event_id for run_id in group for event_id in events[run_id]],
            event_type_id=step.event_type_id or 0,
            system=False,
            now=now,
        )
        happened |= {run_id for run_id in group if fitting & set(events[run_id])}
    return happened

"""Record an event of the customer, which segments and other campaigns can answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django import forms

from campaigns.actions.base import (
    Action,
    Config,
    Go,
    Outcome,
    Started,
    only,
)
from campaigns.actions.fields import (
    FieldsWidget,
    clean_fields,
    codes_of,
    context_for,
    read_lines,
    rehearse_fields,
)
from campaigns.actions.values import DONE, FAILED, external_ids, read_event_name
from campaigns.event_name import EventNameField
from campaigns.models import Step
from events.ingest import record_events
from events.models import Source

#: Where these events say they come from.
SOURCE = "campaigns"


class RecordForm(forms.Form):
    event = EventNameField(
        label="Event",
        help_text="Choose one that has been seen, or write the name of a new one.",
    )
    context = forms.CharField(
        label="What it says",
        required=False,
        widget=FieldsWidget(attrs={"rows": 4}),
        help_text="A line for each field: reason = won back, or product = $product_id.",
    )

    def clean_context(self) -> dict[str, Any]:
        return read_lines(self.cleaned_data["context"])


class RecordEvent(Action):
    """`{"event": "Won back", "context": {"product_id": "$product_id"}}`."""

    name = "record_event"
    label = "Record an event"
    takes_values = True
    symbol = "add_notes"
    hint = "Note that something happened; others can answer it."
    way_labels = {DONE: "Then", FAILED: "Not recorded"}
    form = RecordForm

    def clean(self, config: Config) -> Config:
        only(config, {"event", "context"})
        return {
            "event": read_event_name(config),
            "context": clean_fields(config, "context"),
        }

    def event_codes(self, config: Config) -> set[str]:
        return codes_of(config["context"])

    def describe(self, config: Config) -> str:
        return f"“{config['event']}”"

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        names = external_ids(runs)
        outcomes: dict[int, Outcome] = {}
        items, told = [], []
        for started in runs:
            context, missing = context_for(step.config["context"], started.context)
            if missing:
                outcomes[started.run.pk] = Go(FAILED, missing)
                continue
            items.append(
                {
                    # The same when it is tried again.
                    "id": f"run-{started.run.pk}-{step.key}",
                    "name": step.config["event"],
                    "customer": names[started.run.customer_id],
                    "occurred_at": now.isoformat(),
                    "context": context,
                }
            )
            told.append(started)
        if items:
            source, _ = Source.objects.get_or_create(name=SOURCE)
            recorded = record_events(items, source=source, now=now, keep_rejected=False)
            for started, result in zip(told, recorded.results, strict=True):
                outcomes[started.run.pk] = (
                    Go(FAILED, result.message)
                    if result.status == "rejected"
                    else Go(DONE)
                )
        return outcomes

    def rehearse(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        return rehearse_fields(step.config["context"], runs)

"""Record an event of the customer, which segments and other campaigns can answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django import forms

from campaigns.actions.base import (
    Action,
    Config,
    ConfigInvalid,
    Go,
    Outcome,
    Started,
    only,
)
from campaigns.actions.customer import DONE
from campaigns.actions.values import FAILED, event_codes, read_value, value_for
from campaigns.models import Step
from customers.models import Customer
from events.ingest import record_events
from events.models import Source
from events.wire import MAX_NAME
from segments.rules import FIELD_PATH

#: Where these events say they come from.
SOURCE = "campaigns"
MAX_FIELDS = 50


class ContextWidget(forms.Textarea):
    def format_value(self, value: Any) -> str:
        if isinstance(value, dict):
            return "\n".join(f"{code} = {_typed(one)}" for code, one in value.items())
        return str(value or "")


class RecordForm(forms.Form):
    event = forms.CharField(
        label="Event",
        max_length=MAX_NAME,
        help_text="Choose one that has been seen, or write the name of a new one.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "list": "cp-events"}),
    )
    context = forms.CharField(
        label="What it says",
        required=False,
        widget=ContextWidget(attrs={"rows": 4}),
        help_text="A line for each field: reason = won back, or product = $product_id.",
    )

    def clean_context(self) -> dict[str, Any]:
        return read_lines(self.cleaned_data["context"])


class RecordEvent(Action):
    """`{"event": "Won back", "context": {"product_id": "$product_id"}}`."""

    name = "record_event"
    label = "Record an event"
    symbol = "add_notes"
    hint = "Note that something happened; others can answer it."
    way_labels = {DONE: "Then", FAILED: "Not recorded"}
    form = RecordForm

    def clean(self, config: Config) -> Config:
        only(config, {"event", "context"})
        name, context = config.get("event"), config.get("context") or {}
        if not isinstance(name, str) or not 0 < len(name.strip()) <= MAX_NAME:
            raise ConfigInvalid(
                f"“event” is the name of an event, up to {MAX_NAME} characters.",
                field="event",
            )
        if not isinstance(context, dict) or len(context) > MAX_FIELDS:
            raise ConfigInvalid(
                f"“context” is an object of up to {MAX_FIELDS} fields.", field="context"
            )
        for code, value in context.items():
            if not FIELD_PATH.match(code) or "." in code:
                raise ConfigInvalid(
                    f"“{code}” cannot be the code of a field. Use letters, digits and "
                    "underscores.",
                    field="context",
                )
            read_value(value, field=f"context.{code}")
        return {"event": name.strip(), "context": dict(context)}

    def event_codes(self, config: Config) -> set[str]:
        return {
            code for value in config["context"].values() for code in event_codes(value)
        }

    def describe(self, config: Config) -> str:
        return f"“{config['event']}”"

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        names = dict(
            Customer.objects.filter(
                pk__in={started.run.customer_id for started in runs}
            ).values_list("pk", "external_id")
        )
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
        outcomes: dict[int, Outcome] = {}
        for started in runs:
            _, missing = context_for(step.config["context"], started.context)
            outcomes[started.run.pk] = Go(FAILED, missing) if missing else Go(DONE)
        return outcomes


def read_lines(text: str) -> dict[str, Any]:
    """Fields with values, a line each: reason = won back. Raises ValidationError."""
    fields: dict[str, Any] = {}
    for line in text.splitlines():
        code, sign, value = (part.strip() for part in line.partition("="))
        if not code and not sign:
            continue
        if not sign:
            raise forms.ValidationError(
                f"“{line}” is not understood. Write a line as: field = value."
            )
        fields[code] = _meant(value)
    return fields


def context_for(
    wanted: Mapping[str, Any], context: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """(fields with their values for this event, why some have none or "")."""
    found = {}
    for code, value in wanted.items():
        found[code], missing = value_for(value, context)
        if missing:
            return {}, missing
    return found, ""


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _meant(text: str) -> Any:
    """A number, true, false, null or a list in JSON; anything else is a text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, dict) else value

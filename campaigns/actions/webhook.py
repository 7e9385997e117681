"""Tell a system outside about a run, and wait for what it answers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.conf import settings

from campaigns.actions.base import (
    ANSWERS,
    ASKING,
    Action,
    Config,
    ConfigInvalid,
    Go,
    Outcome,
    Started,
    WaitForAnswer,
    only,
)
from campaigns.actions.checks import Draft, warning
from campaigns.actions.fields import (
    FieldsWidget,
    clean_fields,
    codes_of,
    context_for,
    read_lines,
    rehearse_fields,
)
from campaigns.actions.values import DONE, FAILED
from campaigns.graph import Problem
from campaigns.models import Step, WebhookCall
from campaigns.webhooks import body
from campaigns.webhooks.queue import queue_calls
from customers.models import Customer
from events.models import EventField
from segments.rules import FIELD_PATH
from smartcomm.core.outbound import MAX_URL, AddressRefused, read_target, take_apart

NAME = ASKING
GIVE_UP_HOURS, MAX_HOURS = 24, 7 * 24


class WebhookForm(forms.Form):
    url = forms.CharField(
        label="Address",
        max_length=MAX_URL,
        widget=forms.TextInput(
            attrs={
                "placeholder": "https://erp.example.com/stock",
                "autocomplete": "off",
                "spellcheck": "false",
            }
        ),
        help_text="It gets a signed POST with the customer and the event, as JSON.",
    )
    body = forms.CharField(
        label="What it says besides",
        required=False,
        widget=FieldsWidget(attrs={"rows": 3}),
        help_text="A line for each field: shop = Paris, or product = $product_id.",
    )
    profile = forms.BooleanField(
        label="Tell name, e-mail, phone, language, city and country as well",
        required=False,
        initial=True,
        help_text="Otherwise only the ID of the customer.",
    )
    give_up_hours = forms.IntegerField(
        label="Give up after (hours)",
        min_value=1,
        max_value=MAX_HOURS,
        initial=GIVE_UP_HOURS,
        help_text="As long it is tried again when the other side does not answer.",
    )

    def clean_body(self) -> dict[str, Any]:
        return read_lines(self.cleaned_data["body"])


class CallWebhook(Action):
    """`{"url": "https://erp.example.com/stock", "body": {"product": "$product_id"},
    "profile": true, "give_up_hours": 24}`; all but the address may be left out."""

    name = NAME
    label = "Call webhook"
    takes_values = True
    symbol = "webhook"
    hint = "Tell another system, and go on with what it answers."
    way_labels = {DONE: "Done", FAILED: "Failed"}
    form = WebhookForm

    def clean(self, config: Config) -> Config:
        only(config, {"url", "body", "profile", "give_up_hours"})
        url = config.get("url")
        if not isinstance(url, str):
            raise ConfigInvalid("“url” is the address to call.", field="url")
        try:
            read_target(url.strip(), internal=settings.WEBHOOK_INTERNAL_HOSTS)
        except AddressRefused as error:
            raise ConfigInvalid(error.message, field="url") from error
        extra = clean_fields(config, "body")
        profile = config.get("profile", True)
        if type(profile) is not bool:
            raise ConfigInvalid("“profile” is true or false.", field="profile")
        hours = config.get("give_up_hours", GIVE_UP_HOURS)
        if type(hours) is not int or not 1 <= hours <= MAX_HOURS:
            raise ConfigInvalid(
                f"“give_up_hours” is a whole number from 1 to {MAX_HOURS}.",
                field="give_up_hours",
            )
        return {
            "url": url.strip(),
            "body": extra,
            "profile": profile,
            "give_up_hours": hours,
        }

    def event_codes(self, config: Config) -> set[str]:
        return codes_of(config["body"])

    def describe(self, config: Config) -> str:
        # What follows the host may be secret.
        return take_apart(config["url"]).host

    def check(self, step: Step, draft: Draft) -> Iterator[Problem]:
        by = draft.event_type
        if by and EventField.objects.filter(type=by, code=ANSWERS).exists():
            yield warning(
                step,
                f"“{by.name}” has a field “{ANSWERS}” itself. After “{step.key}” the "
                "answers of webhooks stand there.",
            )
        if not FIELD_PATH.match(step.key):
            yield warning(
                step,
                f"What “{step.key}” is answered cannot be asked for in filters and "
                "values: a path has letters, digits and _ only, and no digit first. "
                "Give the step such a short name if you need its answer.",
            )
        yield from super().check(step, draft)

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        version = step.version
        asker = body.Asker(
            version.campaign_id, version.campaign.name, version.number, step.key
        )
        customers = Customer.objects.in_bulk(
            {started.run.customer_id for started in runs}
        )
        url = step.config["url"]
        receiver = take_apart(url).receiver
        outcomes: dict[int, Outcome] = {}
        calls = []
        for started in runs:
            run = started.run
            extra, missing = context_for(step.config["body"], started.context)
            if missing:
                outcomes[run.pk] = Go(FAILED, missing)
                continue
            webhook_id = uuid.uuid4()
            text = body.write(
                str(webhook_id),
                asker,
                run_id=run.pk,
                customer=customers[run.customer_id],
                profile=step.config["profile"],
                event=body.Happening(
                    started.event_name, started.occurred_at, started.of_event
                ),
                answers=started.answers,
                extra=extra,
                now=now,
            )
            calls.append(
                WebhookCall(
                    customer_id=run.customer_id,
                    run=run,
                    campaign_id=run.campaign_id,
                    step=step,
                    webhook_id=webhook_id,
                    url=url,
                    receiver=receiver,
                    body=text,
                    due_at=now,
                    created_at=now,
                    expires_at=now + timedelta(hours=step.config["give_up_hours"]),
                )
            )
            outcomes[run.pk] = WaitForAnswer()
        queue_calls(calls)
        return outcomes

    def rehearse(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        """As if the receiver had taken it, without an answer: nobody is called."""
        return rehearse_fields(step.config["body"], runs)

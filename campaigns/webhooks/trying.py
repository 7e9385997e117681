"""One call to look at, before publishing: really made, and marked as a test.

It takes the same way as the calls of runs, but no row is written and nothing is tried
again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.conf import settings

from campaigns.actions.fields import context_for
from campaigns.webhooks import body, signing
from campaigns.webhooks.send import HEADERS, judge
from customers.models import Customer
from events.models import Event, SystemEvent
from messaging.preview import find_event, somebody
from smartcomm.core import outbound
from smartcomm.core.errors import UserError
from smartcomm.core.outbound import Answer, NoAnswer

#: Somebody waits for it before a screen.
SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What was sent and what came back, ready to be shown."""

    #: Why nothing was sent, or nothing came back.
    error: str = ""
    customer: Customer | None = None
    event: Event | SystemEvent | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    answer: Answer | None = None
    shown_answer: str = ""
    ms: int = 0
    #: What the answer would mean for a run.
    refusal: str = ""
    is_tried_again: bool = False
    note: str = ""

    @property
    def is_done(self) -> bool:
        return self.answer is not None and not self.refusal


def try_call(
    config: Mapping[str, Any],
    asker: body.Asker,
    *,
    external_id: str,
    event_name: str,
    now: datetime,
) -> Trial:
    """Call once, for this customer or for some real one, with a real event if there is
    one. Takes up to SECONDS; call outside a transaction."""
    customer: Customer | None = None
    if external_id:
        customer = Customer.objects.filter(external_id=external_id).first()
        if customer is None:
            return Trial(error=f"There is no customer “{external_id}”.")
    event = find_event(event_name, customer) if event_name else None
    if customer is None:
        customer = event.customer if isinstance(event, Event) else somebody()
    if customer is None:
        return Trial(error="There is no customer yet to make it for.")
    context = event.context if event else {}
    extra, missing = context_for(config["body"], context)
    if missing:
        return Trial(
            error=f"{missing} A run with such an event goes on by “Failed”.",
            customer=customer,
            event=event,
        )
    webhook_id = f"test-{uuid.uuid4()}"
    text = body.write(
        webhook_id,
        asker,
        run_id=None,
        customer=customer,
        profile=config["profile"],
        event=body.Happening(event_name, event.occurred_at if event else now, context),
        answers={},
        extra=extra,
        now=now,
        is_test=True,
    )
    headers = HEADERS | signing.sign(webhook_id, text.encode(), now=now)
    trial = Trial(
        customer=customer,
        event=event,
        url=config["url"],
        headers=headers,
        body=_pretty(text),
    )
    return _made(trial, text.encode(), now=now)


def _made(trial: Trial, sent: bytes, *, now: datetime) -> Trial:
    begun = time.monotonic()
    try:
        answer = outbound.post(
            trial.url,
            sent,
            trial.headers,
            internal=settings.WEBHOOK_INTERNAL_HOSTS,
            seconds=SECONDS,
        )
    except (UserError, NoAnswer) as error:
        return replace(trial, error=error.message)
    meaning = judge(answer, now=now)
    return replace(
        trial,
        ms=round((time.monotonic() - begun) * 1000),
        answer=answer,
        shown_answer=_pretty(answer.body.decode(errors="replace")),
        refusal=meaning.get("error", ""),
        is_tried_again=not meaning.get("is_final", True),
        note=meaning.get("note", ""),
    )


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text

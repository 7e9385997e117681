"""What a call says. Made once, and sent to the letter at every try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from customers.models import Customer

#: The word for receivers that get other calls as well.
TYPE = "campaign.step"
PROFILE = (
    "first_name",
    "last_name",
    "email",
    "phone",
    "language",
    "time_zone",
    "city",
    "country",
)


@dataclass(frozen=True, slots=True)
class Asker:
    """The step that calls."""

    campaign_id: int
    campaign: str
    version: int
    step: str


@dataclass(frozen=True, slots=True)
class Happening:
    """The event that started the run."""

    name: str
    occurred_at: datetime
    context: Mapping[str, Any]


def write(
    webhook_id: str,
    asker: Asker,
    *,
    run_id: int | None,
    customer: Customer,
    profile: bool,
    event: Happening,
    answers: Mapping[str, Any],
    extra: Mapping[str, Any],
    now: datetime,
    is_test: bool = False,
) -> str:
    """The JSON of a call. `profile`: more of the customer than the ID."""
    who: dict[str, Any] = {"external_id": customer.external_id}
    if profile:
        who |= {name: getattr(customer, name) or None for name in PROFILE}
    told = {
        "id": webhook_id,
        "type": TYPE,
        "timestamp": now,
        "test": is_test,
        "campaign": {
            "id": asker.campaign_id,
            "name": asker.campaign,
            "version": asker.version,
        },
        "step": asker.step,
        "run": run_id,
        "customer": who,
        "event": {
            "name": event.name,
            "occurred_at": event.occurred_at,
            "context": event.context,
        },
        "answers": answers,
        "body": extra,
    }
    return msgspec.json.encode(told).decode()

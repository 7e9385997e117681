"""What customers answered to: may we write to you on this channel?

Whether a message may be sent is decided elsewhere (messaging/eligibility.py), when
it is really sent. Here the answers are kept: the one that holds as `Consent`, and every
one there was as `ConsentChange`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from customers.models import Consent, ConsentChange
from customers.wire import Answer
from smartcomm.core.db import execute, fetch_all

#: (customer, channel, category): what was asked; the category may be none.
Question = tuple[int, str, int | None]

HELD = """
    SELECT customer_id, channel, category_id, is_granted, changed_at
      FROM customers_consent WHERE customer_id = ANY(%s)
"""

_TOLD = """
    jsonb_to_recordset(%s::jsonb) AS told (
        customer_id bigint, channel text, category_id bigint, is_granted boolean,
        origin text, changed_at timestamptz)
"""

FORGET = f"""
    DELETE FROM customers_consent AS consent USING {_TOLD}
     WHERE consent.customer_id = told.customer_id
       AND consent.channel = told.channel
       AND consent.category_id IS NOT DISTINCT FROM told.category_id
"""  # noqa: S608  (the list above)

RECORD = f"""
    INSERT INTO customers_consent
           (customer_id, channel, category_id, is_granted, origin, changed_at)
    SELECT customer_id, channel, category_id, is_granted, origin, changed_at
      FROM {_TOLD}
     ORDER BY customer_id, channel, category_id
        ON CONFLICT (customer_id, channel, category_id) DO UPDATE
       SET is_granted = excluded.is_granted,
           origin = excluded.origin,
           changed_at = excluded.changed_at
"""  # noqa: S608  (the list above)

REMEMBER = f"""
    INSERT INTO customers_consentchange
           (customer_id, channel, category_id, is_granted, origin, changed_at,
            recorded_at)
    SELECT customer_id, channel, category_id, is_granted, origin, changed_at, %s
      FROM {_TOLD}
        ON CONFLICT DO NOTHING
"""  # noqa: S608  (the list above)


@dataclass(frozen=True)
class Held:
    """The answer that holds."""

    granted: bool
    at: datetime


def counts(told: Answer, held: Held | None) -> bool:
    """Whether an answer takes the place of the one that holds.

    One that says when it was given never overwrites a newer one, and of two given at
    the same time the no holds. One that does not say is the answer of this moment; if
    it is the same again, the old one keeps its time, for that is when the customer
    really gave it.
    """
    if held is None:
        return told.granted is not None
    if told.at is None:
        return told.granted != held.granted
    return told.at > held.at or (
        told.at == held.at and held.granted and not told.granted
    )


def record_answers(
    answers: Mapping[int, Sequence[Answer]],
    *,
    categories: Mapping[str, int] | None = None,
    origin: str,
    now: datetime,
) -> None:
    """Keep what customers (by primary key) answered, in the order told.

    Call with the customers locked. `categories`: code → primary key, for answers that
    name one. `origin` is who told us, for answers that do not say where they are from.
    At most four statements, and one where nothing changes.
    """
    asked = [customer for customer, given in answers.items() if given]
    if not asked:
        return
    held: dict[Question, Held] = {
        (customer, channel, category): Held(granted, at)
        for customer, channel, category, granted, at in fetch_all(HELD, [asked])
    }
    final: dict[Question, dict[str, Any]] = {}
    changes: list[dict[str, Any]] = []
    for customer in asked:
        for told in answers[customer]:
            category = (categories or {})[told.category] if told.category else None
            question = (customer, told.channel, category)
            row = {
                "customer_id": customer,
                "channel": told.channel,
                "category_id": category,
                "is_granted": told.granted,
                "origin": (told.origin or origin)[:150],
                "changed_at": told.at or now,
            }
            if counts(told, held.get(question)):
                final[question] = row
                changes.append(row)
                if told.granted is None:
                    del held[question]
                else:
                    held[question] = Held(told.granted, told.at or now)
            elif told.at is not None:
                changes.append(row)  # It came late, or again: it was an answer.
    forgotten = [row for row in final.values() if row["is_granted"] is None]
    given = [row for row in final.values() if row["is_granted"] is not None]
    if forgotten:
        execute(FORGET, [_json(forgotten)])
    if given:
        execute(RECORD, [_json(given)])
    if changes:
        execute(REMEMBER, [now, _json(changes)])


def remember(consents: Iterable[Consent], *, gone: bool = False, now: datetime) -> None:
    """Note in the history what staff changed by hand, or removed."""
    ConsentChange.objects.bulk_create(
        [
            ConsentChange(
                customer_id=consent.customer_id,
                channel=consent.channel,
                category_id=consent.category_id,
                is_granted=None if gone else consent.is_granted,
                origin=consent.origin,
                changed_at=now,
                recorded_at=now,
            )
            for consent in consents
        ],
        ignore_conflicts=True,
    )


def _json(rows: Iterable[dict[str, Any]]) -> str:
    return msgspec.json.encode(list(rows)).decode()

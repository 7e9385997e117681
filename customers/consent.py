"""What customers answered to: may we write to you on this channel?

Whether a message may be sent is decided elsewhere (messaging/eligibility.py), when
it is really sent. Here the answers are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from smartcomm.core.db import execute

#: Channel → yes, no, or None to forget the answer.
Answers = Mapping[str, bool | None]

FORGET = """
    DELETE FROM customers_consent AS consent
     USING jsonb_to_recordset(%s::jsonb) AS answer(customer_id bigint, channel text)
     WHERE consent.customer_id = answer.customer_id
       AND consent.channel = answer.channel
       AND consent.category_id IS NULL
"""

# The same answer again keeps its time: that is when the customer really gave it.
RECORD = """
    INSERT INTO customers_consent
           (customer_id, channel, is_granted, origin, changed_at)
    SELECT customer_id, channel, is_granted, %s, %s
      FROM jsonb_to_recordset(%s::jsonb)
           AS answer(customer_id bigint, channel text, is_granted boolean)
     ORDER BY customer_id, channel
        ON CONFLICT (customer_id, channel, category_id) DO UPDATE
       SET is_granted = excluded.is_granted,
           origin = excluded.origin,
           changed_at = excluded.changed_at
     WHERE customers_consent.is_granted <> excluded.is_granted
"""


def record_answers(
    answers: Mapping[int, Answers], *, origin: str, now: datetime
) -> None:
    """Keep what customers (by primary key) answered for whole channels.

    At most two statements. `origin` says who told us.
    """
    rows = [
        {"customer_id": customer, "channel": channel, "is_granted": answer}
        for customer, given in answers.items()
        for channel, answer in given.items()
    ]
    forgotten = [row for row in rows if row["is_granted"] is None]
    given = [row for row in rows if row["is_granted"] is not None]
    if forgotten:
        execute(FORGET, [msgspec.json.encode(forgotten).decode()])
    if given:
        execute(RECORD, [origin[:150], now, msgspec.json.encode(given).decode()])

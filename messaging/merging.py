"""The messages of two customers who are merged."""

from __future__ import annotations

from collections.abc import Mapping

from customers.merging import Pair
from events.merging import COPIES
from smartcomm.core.db import execute

# What a sender has in hand, and what a run waits for: locked before the runs, as those
# do who tell runs how their messages ended.
HOLD = """
    SELECT FROM messaging_message
     WHERE customer_id = %(former)s
       AND (status IN ('queued', 'sending') OR (run_id IS NOT NULL AND NOT is_settled))
     ORDER BY id FOR UPDATE
"""

# A lease ends here. Whoever held it has written to the former customer's address, asked
# their consents; the message is claimed anew, and made for the one who was kept.
MOVE = f"""
    UPDATE messaging_message AS message
       SET customer_id = %(kept)s,
           event_id = coalesce((SELECT copies.event_id FROM ({COPIES}) AS copies
                                 WHERE copies.copy_id = message.event_id),
                               message.event_id),
           lease = NULL, leased_until = NULL
     WHERE message.customer_id = %(former)s
"""  # noqa: S608  (the query of events.merging)

# By their messages, which have an index; only the former's are found under it.
MOVE_DELIVERIES = """
    UPDATE messaging_delivery AS delivery SET customer_id = %(kept)s
      FROM messaging_message AS message
     WHERE message.customer_id = %(kept)s
       AND delivery.message_id = message.id AND delivery.customer_id = %(former)s
"""


def hold_messages(pair: Pair) -> Mapping[str, int]:
    execute(HOLD, pair.params)
    return {}


def move_messages(pair: Pair) -> Mapping[str, int]:
    moved = execute(MOVE, pair.params)
    execute(MOVE_DELIVERIES, pair.params)
    return {"messages": moved}

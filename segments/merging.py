"""The memberships of two customers who are merged.

Those of the former go; whether the kept one belongs anywhere by what came along is
asked anew, as for a customer who is new.
"""

from __future__ import annotations

from collections.abc import Mapping

from customers.merging import Pair
from smartcomm.core.db import execute

# On a list the kept one stands for both.
MOVE_LISTED = """
    INSERT INTO segments_membership (customer_id, segment_id, since)
    SELECT %(kept)s, segment_id, since
      FROM segments_membership AS theirs
      JOIN segments_segment AS segment ON segment.id = segment_id
     WHERE customer_id = %(former)s AND segment.kind = 'static'
        ON CONFLICT DO NOTHING
"""
FORGET = "DELETE FROM segments_membership WHERE customer_id = %(former)s"
# Under an index only by time: what is left of the former there finds nobody.
ASK_AGAIN = """
    INSERT INTO segments_change (customer_id, what) VALUES (%(kept)s, '{*}')
"""


def move_memberships(pair: Pair) -> Mapping[str, int]:
    """Forget the former's, and have the kept one looked at again."""
    execute(MOVE_LISTED, pair.params)
    execute(FORGET, pair.params)
    execute(ASK_AGAIN, pair.params)
    return {}

"""The events of two customers who are merged.

The database lets an event change hands in this one case, and nothing else of it: see
migrations/0002_immutable.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from customers.merging import Pair
from smartcomm.core.db import execute

ALLOW = "SELECT set_config('smartcomm.merging', %s, true)"

# The same ID under both, for two things that happened: both stay, and the one that
# moves is told apart by whose it was. Cut to the column; should that be taken too, a
# hash tells them apart.
RENAME = """
    WITH clash AS (
        SELECT theirs.id, theirs.source_id, theirs.external_id,
               left(theirs.external_id, 199 - length(%(former_id)s))
                   || '~' || %(former_id)s AS new_id
          FROM events_event AS theirs
          JOIN events_event AS mine
            ON mine.customer_id = %(kept)s
           AND mine.source_id = theirs.source_id
           AND mine.external_id = theirs.external_id
         WHERE theirs.customer_id = %(former)s
           AND NOT (mine.type_id = theirs.type_id
                    AND mine.occurred_at = theirs.occurred_at
                    AND mine.context = theirs.context)
    ), named AS (
        SELECT id,
               CASE WHEN row_number() OVER (PARTITION BY source_id, new_id
                                            ORDER BY id) > 1
                      OR EXISTS (
                          SELECT FROM events_event AS taken
                           WHERE taken.customer_id IN (%(kept)s, %(former)s)
                             AND taken.source_id = clash.source_id
                             AND taken.external_id = clash.new_id)
                    THEN left(external_id, 167) || '~'
                         || md5(external_id || ' ' || %(former_id)s)
                    ELSE new_id END AS new_id
          FROM clash
    )
    UPDATE events_event AS event
       SET customer_id = %(kept)s, external_id = named.new_id
      FROM named
     WHERE event.id = named.id AND event.customer_id = %(former)s
"""

# What stays behind is what the kept one has already: it goes in the end, when nothing
# refers to it any more.
MOVE = """
    UPDATE events_event AS theirs
       SET customer_id = %(kept)s
     WHERE theirs.customer_id = %(former)s
       AND NOT EXISTS (
           SELECT FROM events_event AS mine
            WHERE mine.customer_id = %(kept)s
              AND mine.source_id = theirs.source_id
              AND mine.external_id = theirs.external_id)
"""
DROP_COPIES = "DELETE FROM events_event WHERE customer_id = %(former)s"

#: Copies that were left behind, each with the event that stands for it. Apps above join
#: it to what they keep of events: (copy_id, event_id, is_backfill).
COPIES = """
    SELECT copy.id AS copy_id, mine.id AS event_id, mine.is_backfill
      FROM events_event AS copy
      JOIN events_event AS mine
        ON mine.customer_id = %(kept)s
       AND mine.source_id = copy.source_id
       AND mine.external_id = copy.external_id
     WHERE copy.customer_id = %(former)s
"""

# Of both: a campaign must not be asked about an event of the kept one while we look
# whether it has been.
HOLD_PENDING = """
    SELECT FROM events_pendingevent WHERE customer_id IN (%(kept)s, %(former)s)
     ORDER BY id FOR UPDATE
"""
# Campaigns have looked at the event itself, or will; unless it came as a thing of the
# past, which triggers nothing, and the copy came as news.
DROP_PENDING = f"""
    DELETE FROM events_pendingevent AS pending USING ({COPIES}) AS copies
     WHERE pending.customer_id = %(former)s AND pending.event_id = copies.copy_id
       AND NOT copies.is_backfill
"""  # noqa: S608  (the query above)
MOVE_PENDING = f"""
    UPDATE events_pendingevent AS pending
       SET customer_id = %(kept)s,
           event_id = coalesce((SELECT copies.event_id FROM ({COPIES}) AS copies
                                 WHERE copies.copy_id = pending.event_id),
                               pending.event_id)
     WHERE pending.customer_id = %(former)s
"""  # noqa: S608  (the query above)


def move_events(pair: Pair) -> Mapping[str, int]:
    """Move the events that the kept one does not have."""
    with_permission(pair)
    renamed = execute(RENAME, pair.params)
    moved = execute(MOVE, pair.params)
    return {"events": moved + renamed, "events_renamed": renamed}


def hold_pending(pair: Pair) -> Mapping[str, int]:
    execute(HOLD_PENDING, pair.params)
    return {}


def move_pending(pair: Pair) -> Mapping[str, int]:
    execute(DROP_PENDING, pair.params)
    execute(MOVE_PENDING, pair.params)
    return {}


def drop_copies(pair: Pair) -> Mapping[str, int]:
    """Drop the events that the kept one has, the same in name, time and context."""
    dropped = execute(DROP_COPIES, pair.params)
    execute(ALLOW, [""])
    return {"events_twice": dropped}


def with_permission(pair: Pair) -> None:
    """Tell the database, for this transaction, whose events go to whom."""
    execute(ALLOW, [f"{pair.former} {pair.kept}"])

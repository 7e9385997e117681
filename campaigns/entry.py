"""Who may enter, decided in the statement that starts runs.

Both ways an event starts runs (one by one, or a system event for the whole base) end
in the same statement, `START`, over a query of candidates.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from campaigns.models import Version
from segments.sql import Sql, sql

#: Nobody is turned away.
EVERYONE = Sql("SELECT candidate.* FROM candidate")

# The row of an entry is the lock: of two workers that let the same customer in at
# once, the second waits here and is then turned away. Who already has a run for this
# very event is no candidate, so that trying again does not use up an entry.
ONE_ENTRY = """
    SELECT candidate.* FROM candidate JOIN entering USING (customer_id)
"""
ENTERING = """
    entering AS (
        INSERT INTO campaigns_entry AS entry (customer_id, campaign_id, entered_at)
        SELECT customer_id, {}, {} FROM candidate ORDER BY customer_id
            ON CONFLICT (customer_id, campaign_id) DO UPDATE
           SET entered_at = EXCLUDED.entered_at WHERE {}
     RETURNING entry.customer_id
    ),
"""


def entering(version: Version, *, now: datetime) -> tuple[Sql, Sql]:
    """(a common table expression `entering` or nothing, the query of who enters).

    Both read the common table expression `candidate`, which has each customer once.
    """
    again = _again(version, now=now)
    if again is None:
        return Sql(""), EVERYONE
    return sql(ENTERING, version.campaign_id, now, again), Sql(ONE_ENTRY)


def _again(version: Version, *, now: datetime) -> Sql | None:
    """Whether who has entered before may enter again; None: nobody is turned away."""
    match version.entry_rule:
        case Version.Entry.ONCE:
            return Sql("FALSE")
        case Version.Entry.INTERVAL:
            days = timedelta(days=version.entry_days or 0)
            return sql("entry.entered_at <= {}", now - days)
    return None


MAY_ENTER = """
    SELECT member.customer_id FROM ({}) AS member
     WHERE NOT EXISTS (
               SELECT FROM campaigns_entry AS entry
                WHERE entry.customer_id = member.customer_id
                  AND entry.campaign_id = {} AND NOT ({}))
"""


def may_enter(members: Sql, version: Version, *, now: datetime) -> Sql:
    """The query for those of `members` that `entering` would let in; it lets nobody in,
    and knows of no run that the event has started already."""
    again = _again(version, now=now)
    if again is None:
        return members
    return sql(MAY_ENTER, members, version.campaign_id, again)

"""Who may enter, decided in the statement that starts runs.

Both ways an event starts runs (one by one, or a system event for the whole base) end
in the same statement, `START`, over a query of candidates.

Wherever it is asked whether an event has started a run already, that is looked up for
each customer by the unique key. `OFFSET 0` keeps PostgreSQL from making a join of it,
and `campaign_id + 0` from the index of all runs of a campaign: where a campaign or a
system event is new since the last ANALYZE it expects one run, and would go through all
of them for each customer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from campaigns.models import Version
from segments.sql import Sql, sql
from smartcomm.core.db import execute

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
    turned_away AS (
        INSERT INTO campaigns_turnedaway (customer_id, campaign_id, version_id,
                                          event_id, system_event_id, entered_at, at)
        SELECT candidate.customer_id, {}, {}, {}, entry.entered_at, {}
          FROM candidate
          LEFT JOIN campaigns_entry AS entry
            ON entry.customer_id = candidate.customer_id AND entry.campaign_id = {}
         WHERE candidate.customer_id NOT IN (SELECT customer_id FROM entering)
         ORDER BY candidate.customer_id
            ON CONFLICT DO NOTHING
    ),
"""


TURN_AWAY = """
    INSERT INTO campaigns_turnedaway (customer_id, campaign_id, version_id, event_id,
                                      entered_at, at)
    SELECT sent.customer_id, %(campaign)s, %(version)s, sent.event_id,
           entry.entered_at, %(now)s
      FROM unnest(%(customers)s::bigint[], %(events)s::bigint[])
               AS sent (customer_id, event_id)
      LEFT JOIN campaigns_entry AS entry
        ON entry.customer_id = sent.customer_id AND entry.campaign_id = %(campaign)s
     WHERE NOT EXISTS (
               SELECT FROM campaigns_run AS run
                WHERE run.customer_id = sent.customer_id
                  AND run.campaign_id + 0 = %(campaign)s
                  AND run.event_id = sent.event_id
               OFFSET 0)
        ON CONFLICT DO NOTHING
"""


def turn_away(
    version: Version, events: Sequence[tuple[int, int]], *, now: datetime
) -> None:
    """Write down that these events, (customer, event), let nobody in."""
    execute(
        TURN_AWAY,
        {
            "campaign": version.campaign_id,
            "version": version.pk,
            "customers": [customer for customer, _ in events],
            "events": [event for _, event in events],
            "now": now,
        },
    )


def entering(version: Version, event: Sql, *, now: datetime) -> tuple[Sql, Sql]:
    """(common table expressions or nothing, the query of who enters).

    Both read the common table expression `candidate`, which has each customer once.
    Who is turned away is written down, with `event`: the columns event_id and
    system_event_id.
    """
    again = _again(version, now=now)
    if again is None:
        return Sql(""), EVERYONE
    campaign = version.campaign_id
    common = sql(
        ENTERING, campaign, now, again, campaign, version.pk, event, now, campaign
    )
    return common, Sql(ONE_ENTRY)


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

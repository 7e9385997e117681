"""A broadcast with a pace: so many customers a period, chosen anew for each portion.

A portion is one statement over those who match at that moment: who has bought meanwhile
is left out, who has come to match is taken. Once a period's limit is taken, a whole
period passes before the next one begins, also after a pause or an outage: within any
hour no more than an hour's limit. What a portion starts and what is counted here are
one transaction, under the lock of the broadcast's row.

A broadcast ends when a portion has taken all who matched; it does not wait for others
to come, since the event it tells of grows old. Or when its pace says that it is enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from campaigns.actions.filter import read_rule
from campaigns.entry import may_enter
from campaigns.models import Broadcast, Campaign, Step, Version
from campaigns.pace import BY_INTEREST, LATEST_INTEREST, NEWEST_CUSTOMER, Pace
from campaigns.pace import interests as interests_of
from segments.compile import IdRange, bind, chosen_events
from segments.dictionary import Dictionary
from segments.sql import Sql, join, sql
from smartcomm.core.db import execute

#: A statement starts no more; a larger limit is taken in several, one after the other.
MOST = 20_000

NOBODY_LEFT = "Nobody else matches."

#: How many could have been taken, in the statement that starts runs.
TOTAL = Sql("(SELECT max(total) FROM member)")

OPEN = """
    SELECT member.customer_id FROM ({}) AS member
     WHERE NOT EXISTS (
               SELECT FROM campaigns_run AS run
                WHERE run.customer_id = member.customer_id
                  AND run.campaign_id + 0 = {} AND run.system_event_id = {}
                OFFSET 0)
"""
PORTION = """
    SELECT able.customer_id, count(*) OVER () AS total
      FROM ({}) AS able {}
     ORDER BY {}, able.customer_id LIMIT {}
"""
INTEREST = """
    LEFT JOIN (SELECT customer_id, {}(moment) AS moment
                 FROM ({}) AS chosen GROUP BY customer_id) AS interest
           ON interest.customer_id = able.customer_id
"""
CUSTOMER = Sql("JOIN customers_customer AS customer ON customer.id = able.customer_id")

# Whom the entry rule kept out to the end. Asked once, then: with an interval somebody
# may be let in by a later portion.
TURN_AWAY = """
    INSERT INTO campaigns_turnedaway (customer_id, campaign_id, version_id,
                                      system_event_id, entered_at, at)
    SELECT able.customer_id, {}, {}, {}, entry.entered_at, {}
      FROM ({}) AS able
      LEFT JOIN campaigns_entry AS entry
        ON entry.customer_id = able.customer_id AND entry.campaign_id = {}
        ON CONFLICT DO NOTHING
"""


@dataclass(slots=True)
class Portion:
    """What the broadcast may take now. `total` is known once it was taken."""

    broadcast: Broadcast
    pace: Pace
    most: int
    now: datetime
    total: int = 0
    #: All who match, taken or not.
    members: Sql = field(init=False)

    def of(self, members: Sql) -> Sql:
        """The query for those of `members` who are taken, in the order of the pace."""
        self.members = members
        able = may_enter(self._open(), self.broadcast.version, now=self.now)
        joined, order = self._order()
        return sql(PORTION, able, joined, order, self.most)

    def _open(self) -> Sql:
        broadcast = self.broadcast
        return sql(OPEN, self.members, broadcast.campaign_id, broadcast.system_event_id)

    def _order(self) -> tuple[Sql, Sql]:
        """(what to join, what to sort by)."""
        if self.pace.first in BY_INTEREST:
            chosen = _interest(self.broadcast, now=self.now)
            latest = self.pace.first == LATEST_INTEREST
            return (
                sql(INTEREST, Sql("max" if latest else "min"), chosen),
                Sql(f"interest.moment {'DESC' if latest else 'ASC'} NULLS LAST"),
            )
        way = "DESC" if self.pace.first == NEWEST_CUSTOMER else "ASC"
        since = f"COALESCE(customer.registered_at, customer.created_at) {way}"
        return CUSTOMER, Sql(since)

    def turn_away_the_rest(self) -> None:
        broadcast = self.broadcast
        if broadcast.version.entry_rule == Version.Entry.EVERY_EVENT:
            return
        query = sql(
            TURN_AWAY,
            broadcast.campaign_id,
            broadcast.version_id,
            broadcast.system_event_id,
            self.now,
            self._open(),
            broadcast.campaign_id,
        )
        execute(query.text, query.params)


def begin(broadcast: Broadcast, *, now: datetime) -> Portion | None:
    """What may be taken now, with the broadcast's row locked; None: nothing yet."""
    pace = Pace.of(broadcast.version)
    if pace is None:
        raise AssertionError("A broadcast without a pace takes no portions.")
    if broadcast.taken_at is None or now >= broadcast.taken_at + pace.period:
        broadcast.taken_at, broadcast.period_taken = now, 0
        broadcast.portions += 1
    most = min(MOST, pace.limit - broadcast.period_taken)
    if pace.stop_after is not None:
        most = min(most, pace.stop_after - broadcast.entered)
    if most <= 0:  # Clocks of workers differ.
        broadcast.due_at = broadcast.taken_at + pace.period
        return None
    return Portion(broadcast, pace, most, now)


def end(broadcast: Broadcast, portion: Portion, *, started: int) -> None:
    """Count what was started, and say when it goes on, or that it is over."""
    pace, now = portion.pace, portion.now
    broadcast.entered += started
    broadcast.period_taken += started
    broadcast.still_match = max(0, portion.total - portion.most)
    # From the last that a period took: what it took late is not followed at once.
    broadcast.taken_at = max(now, broadcast.taken_at or now)
    broadcast.due_at = now
    if broadcast.period_taken >= pace.limit:
        broadcast.due_at = broadcast.taken_at + pace.period
    # A reason that was given already: the filter can match nobody.
    if not broadcast.reason and portion.total <= portion.most:
        broadcast.reason = NOBODY_LEFT
        portion.turn_away_the_rest()
    if not broadcast.reason and broadcast.entered == pace.stop_after:
        broadcast.reason = stopped_after(pace)
    if broadcast.reason:
        broadcast.status, broadcast.finished_at = Broadcast.Status.FINISHED, now


def stopped_after(pace: Pace) -> str:
    return f"Stopped after {pace.stop_after or 0:,}, as its pace says."


def _interest(broadcast: Broadcast, *, now: datetime) -> Sql:
    """The events that show how long each has been interested."""
    steps: dict[str, Step] = {step.key: step for step in broadcast.version.steps.all()}
    rule = read_rule(steps[broadcast.version.start].config)
    context: Mapping[str, Any] = broadcast.system_event.context
    dictionary = Dictionary.of(bind(rule, context))
    chosen = (
        chosen_events(
            bind(one, context),  # type: ignore[arg-type]
            now=now,
            dictionary=dictionary,
            restrict=IdRange(0, broadcast.last_id),
        )
        for one in interests_of(rule)
    )
    return join(
        " UNION ALL ",
        (
            sql(
                "SELECT customer_id, moment FROM ({}) AS shown",
                Sql(one.sql, tuple(one.params)),
            )
            for one in chosen
        ),
    )


# --- how far it is ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a broadcast with a pace is."""

    pace: Pace
    #: Who are still to be taken, as far as is known: they matched at the last portion.
    #: Empty before the first one, and when it is over.
    left: int | None
    #: Empty when it is over, or the campaign paused.
    next_at: datetime | None
    #: When the last of those is taken at this pace.
    ends_at: datetime | None


def progress(broadcast: Broadcast, *, now: datetime) -> Progress | None:
    """None for a broadcast without a pace. The campaign and version are needed too."""
    pace = Pace.of(broadcast.version)
    if pace is None:
        return None
    if broadcast.status != Broadcast.Status.RUNNING:
        return Progress(pace, None, None, None)
    left = still_to_take(broadcast)
    if broadcast.campaign.status == Campaign.Status.PAUSED:
        return Progress(pace, left, None, None)
    return Progress(pace, left, broadcast.due_at, _ends_at(broadcast, pace, left, now))


def still_to_take(broadcast: Broadcast) -> int | None:
    """Who matched at the last portion as well; None: there was none yet."""
    pace, left = Pace.of(broadcast.version), broadcast.still_match
    if left is not None and pace is not None and pace.stop_after is not None:
        left = min(left, pace.stop_after - broadcast.entered)
    return left


def _ends_at(
    broadcast: Broadcast, pace: Pace, left: int | None, now: datetime
) -> datetime | None:
    if left is None or broadcast.taken_at is None:
        return None
    late = max(now - broadcast.due_at, 0 * pace.period)
    rest = left - (pace.limit - broadcast.period_taken)
    if rest <= 0:
        return broadcast.due_at + late
    return broadcast.taken_at + math.ceil(rest / pace.limit) * pace.period + late

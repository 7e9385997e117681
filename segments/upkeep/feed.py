"""What happened since → whom to ask about which segment.

Four streams, a bounded piece of each at a time: events and new customers, by their ids;
changes of customers, which the database itself noted; and who is due by the clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from segments.models import Dependency, Segment, Upkeep
from segments.upkeep import settling
from segments.upkeep.clock import Touched
from segments.upkeep.meanings import Meaning
from smartcomm.core.db import execute, fetch_all

#: Ids of events, rows of changes, ids of customers and rows of dues taken at once.
EVENTS = 10_000
CHANGES = 5_000
CUSTOMERS = 10_000
DUES = 5_000
#: With more than this to catch up on, and more than a part of all customers, counting
#: all is cheaper.
BACKLOG = 50_000
PART = 0.25

EVENTS_BY_TYPE = """
    SELECT type_id, array_agg(DISTINCT customer_id), min(occurred_at), max(occurred_at)
      FROM events_event
     WHERE id > %s AND id <= %s AND type_id = ANY(%s::bigint[])
     GROUP BY type_id
"""
TAKE_CHANGES = """
    DELETE FROM segments_change
     WHERE id IN (SELECT id FROM segments_change ORDER BY id LIMIT %s)
    RETURNING customer_id, what
"""
MORE_CHANGES = "SELECT EXISTS (SELECT FROM segments_change OFFSET %s)"
NEW_CUSTOMERS = "SELECT id FROM customers_customer WHERE id > %s AND id <= %s"
# Those of segments that are being counted wait for the count.
WHO_IS_DUE = """
    SELECT id, segment_id, customer_id, due_at FROM segments_due
     WHERE due_at <= %s AND segment_id <> ALL(%s::bigint[])
     ORDER BY due_at, id LIMIT %s
"""
DUE_BY_SEGMENT = """
    SELECT segment_id, count(*) FROM segments_due
     WHERE due_at <= %s AND segment_id <> ALL(%s::bigint[])
     GROUP BY segment_id
"""


@dataclass(slots=True)
class Taken:
    """Whom to ask, and how much of the streams that was."""

    #: Segment's id → customers' ids.
    ask: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    touched: Touched = field(default_factory=Touched)
    #: Segments of which so much is to be caught up on that all had better be counted.
    overrun: set[int] = field(default_factory=set)
    #: Dues that are over once these customers have been asked.
    over: list[int] = field(default_factory=list)
    #: How much was taken.
    rows: int = 0
    #: Whether more is there already.
    is_more: bool = False


class Dependencies:
    """Which segments look at what."""

    def __init__(self, segments: Mapping[int, Segment]) -> None:
        self.events: dict[int, set[int]] = defaultdict(set)
        self.customer: dict[str, set[int]] = defaultdict(set)
        rows = Dependency.objects.filter(segment__in=list(segments))
        for pk, kind, name in rows.values_list("segment_id", "kind", "name"):
            if kind == Dependency.Kind.EVENT:
                self.events[int(name)].add(pk)
            else:
                self.customer[name].add(pk)


def take(upkeep: Upkeep, meant: Mapping[Segment, Meaning], *, now: datetime) -> Taken:
    """Take the next piece of each stream, and move `upkeep` on. Call in a transaction.

    `meant` are the segments that are looked after, whether counted at present or not.
    """
    segments = {segment.pk: segment for segment in meant}
    known = Dependencies(segments)
    taken = Taken()
    most = int(max(BACKLOG, PART * upkeep.customers_upto))
    settle(upkeep, now=now)
    _take_changes(taken, known, segments, most)
    _take_events(upkeep, taken, known, most)
    _take_customers(upkeep, taken, segments, most)
    _take_dues(taken, segments, most, now=now)
    for pk in taken.overrun:
        taken.ask.pop(pk, None)
    return taken


def settle(upkeep: Upkeep, *, now: datetime) -> None:
    """Find up to where all is settled, and may be looked at.

    While somebody is writing, that is what had been given out the last time.
    """
    for _ in range(2):
        if not settling.have_ended(upkeep.writers, settling.BY_ID):
            return
        upkeep.events_settled = upkeep.events_seen
        upkeep.customers_settled = upkeep.customers_seen
        upkeep.settled_at = upkeep.seen_at
        upkeep.events_seen = settling.last_id("events_event")
        upkeep.customers_seen = settling.last_id("customers_customer")
        upkeep.seen_at = now
        upkeep.writers = settling.writers(settling.BY_ID)
        if upkeep.writers:
            return


def _take_changes(
    taken: Taken, known: Dependencies, segments: Mapping[int, Segment], most: int
) -> None:
    rows = fetch_all(TAKE_CHANGES, [CHANGES])
    taken.rows += len(rows)
    by_what: dict[str, set[int]] = defaultdict(set)
    for customer_id, what in rows:
        for one in what:
            by_what[one].add(customer_id)
    taken.touched.wholly = wholly = by_what.pop("*", set())
    taken.touched.changes = by_what
    for pk in segments if wholly else ():
        taken.ask[pk] |= wholly
    for what, ids in by_what.items():
        for pk in known.customer.get(what, ()):
            taken.ask[pk] |= ids
    if len(rows) == CHANGES:
        taken.is_more = True
        if fetch_all(MORE_CHANGES, [most])[0][0]:
            execute("DELETE FROM segments_change")
            taken.overrun.update(segments)


def _take_events(upkeep: Upkeep, taken: Taken, known: Dependencies, most: int) -> None:
    first, settled = upkeep.events_upto, upkeep.events_settled
    if settled <= first:
        return
    if not known.events:
        upkeep.events_upto = settled
        return
    if settled - first > most:
        taken.overrun.update(*known.events.values())
        upkeep.events_upto = settled
        return
    upto = min(settled, first + EVENTS)
    rows = fetch_all(EVENTS_BY_TYPE, [first, upto, sorted(known.events)])
    for type_id, ids, earliest, latest in rows:
        taken.touched.events[type_id] = ids, earliest, latest
        taken.rows += len(ids)
        for pk in known.events[type_id]:
            taken.ask[pk].update(ids)
    upkeep.events_upto = upto
    taken.is_more |= upto < settled


def _take_customers(
    upkeep: Upkeep, taken: Taken, segments: Mapping[int, Segment], most: int
) -> None:
    first, settled = upkeep.customers_upto, upkeep.customers_settled
    if settled <= first:
        return
    if settled - first > most:
        taken.overrun.update(segments)
        upkeep.customers_upto = settled
        return
    upto = min(settled, first + CUSTOMERS)
    ids = [row[0] for row in fetch_all(NEW_CUSTOMERS, [first, upto])]
    taken.rows += len(ids)
    taken.touched.fresh = ids
    for pk in segments if ids else ():
        taken.ask[pk].update(ids)
    upkeep.customers_upto = upto
    taken.is_more |= upto < settled


def _take_dues(
    taken: Taken, segments: Mapping[int, Segment], most: int, *, now: datetime
) -> None:
    counted = [s.pk for s in segments.values() if s.recount_edition is not None]
    rows = fetch_all(WHO_IS_DUE, [now, counted, DUES])
    for row_id, pk, customer_id, due_at in rows:
        if due_at < now:
            taken.over.append(row_id)
        if pk in segments:
            taken.ask[pk].add(customer_id)
    # Those who are due at this very time are asked again: that is no work left.
    taken.rows += len(taken.over)
    if len(rows) == DUES:
        taken.is_more |= bool(taken.over)
        for pk, number in fetch_all(DUE_BY_SEGMENT, [now, counted]):
            if number > most:
                taken.overrun.add(pk)

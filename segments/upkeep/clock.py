"""What changes by the clock alone: who is due, and when everybody is.

A customer crosses an edge when an event, a message or a date of theirs has become so
many days old. Nobody is asked over and over: for each hour to come it is looked up once
who crosses an edge in it, and that is a row of Due. What arrives meanwhile and has an
edge within the time already looked at adds its own.

Whether a rule counts an edge itself to the one side or the other differs; so who is due
is asked at that very time and once more after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

from django.db import connection

from segments.looks import AttributeEdge, ContextEdge, Edge, EventEdge, MessageEdge
from segments.models import Due, Segment
from segments.sql import Sql, sql
from segments.upkeep.meanings import Meaning
from smartcomm.core.db import batches, execute

#: So far ahead it is looked at once, and again when only half of it is left.
AHEAD = timedelta(hours=1)
#: Behind by more than this, counting all is cheaper than catching up.
FAR_BEHIND = timedelta(days=1)
ROWS_AT_ONCE = 5_000

ADD = """
    INSERT INTO segments_due (segment_id, customer_id, due_at)
    SELECT segment_id, customer_id, due_at
      FROM unnest(%s::bigint[]) AS segment_id,
           unnest(%s::bigint[], %s::timestamptz[]) AS due (customer_id, due_at)
        ON CONFLICT DO NOTHING
"""
# At most one for a customer who waits already.
TOUCH = """
    INSERT INTO segments_due (segment_id, customer_id, due_at)
    SELECT %(segment)s, touched.customer_id, %(now)s
      FROM unnest(%(ids)s::bigint[]) AS touched (customer_id)
     WHERE NOT EXISTS (
               SELECT FROM segments_due AS due
                WHERE due.segment_id = %(segment)s
                  AND due.customer_id = touched.customer_id
                  AND due.due_at <= %(now)s)
        ON CONFLICT DO NOTHING
"""


@dataclass(slots=True)
class Touched:
    """Whose edges may be new: those with new events, by their type; with changes, by
    what changed; and those about whom everything may be another."""

    #: Event type's id → (customers, the earliest event, the latest event).
    events: dict[int, tuple[Sequence[int], datetime, datetime]] = field(
        default_factory=dict
    )
    changes: Mapping[str, Collection[int]] = field(default_factory=dict)
    wholly: Collection[int] = ()
    #: Customers who are new: of them only the profile, all else arrives as such.
    fresh: Collection[int] = ()

    def by(self, edge: Edge, now: datetime, until: datetime) -> set[int]:
        """The customers who may have such an edge within the time."""
        ids = set(self.wholly)
        match edge:
            case EventEdge(type_id):
                if type_id in self.events:
                    some, first, last = self.events[type_id]
                    if edge.due(last) >= now and edge.due(first) <= until:
                        ids.update(some)
            case ContextEdge(type_id):
                if type_id in self.events:
                    ids.update(self.events[type_id][0])
            case MessageEdge():
                ids.update(self.changes.get("message", ()))
            case AttributeEdge(name):
                ids.update(self.changes.get(name, ()))
                ids.update(self.fresh)
        return ids


def look_ahead(
    meant: Mapping[Segment, Meaning], *, now: datetime
) -> tuple[list[Segment], list[Segment]]:
    """Note who crosses an edge within the hour, for the segments that need it.

    Returns those that were looked at, and those so far behind that all must be counted.
    Costs a query for each kind of edge; one for all segments that have it.
    """
    until = now + AHEAD
    behind, looked = [], []
    having: dict[tuple[Edge, datetime], list[int]] = defaultdict(list)
    for segment, meaning in meant.items():
        since = segment.looked_until
        if since is None or since >= now + AHEAD / 2:
            continue
        if since < now - FAR_BEHIND and meaning.looks.edges:
            behind.append(segment)
            continue
        looked.append(segment)
        for edge in meaning.looks.edges:
            having[edge, since].append(segment.pk)
    for (edge, since), segments in having.items():
        rows = _stream(edge.query(since, until))
        _add(segments, edge, rows, since, until)
    pks = [segment.pk for segment in looked]
    Segment.objects.filter(pk__in=pks).update(looked_until=until)
    return looked, behind


def note_edges(
    meant: Mapping[Segment, Meaning], touched: Touched, *, now: datetime
) -> None:
    """Note the edges of these customers that lie within the time looked at already."""
    having: dict[tuple[Edge, datetime], list[int]] = defaultdict(list)
    for segment, meaning in meant.items():
        if segment.looked_until is not None and segment.looked_until >= now:
            for edge in meaning.looks.edges:
                having[edge, segment.looked_until].append(segment.pk)
    for (edge, until), segments in having.items():
        ids = touched.by(edge, now, until)
        if ids:
            query = sql(
                "SELECT * FROM ({}) AS edges WHERE customer_id = ANY({}::bigint[])",
                edge.query(now, until),
                sorted(ids),
            )
            _add(segments, edge, _stream(query), now, until)


def touch(segment: Segment, ids: Iterable[int], *, now: datetime) -> None:
    """Have these customers asked as soon as the count of all is done."""
    execute(TOUCH, {"segment": segment.pk, "ids": sorted(ids), "now": now})


def forget(segment: Segment) -> None:
    """Nobody is due any more."""
    Due.objects.filter(segment=segment).delete()


def _add(
    segments: Sequence[int],
    edge: Edge,
    rows: Iterable[tuple[int, datetime]],
    since: datetime,
    until: datetime,
) -> None:
    for some in batches(rows, ROWS_AT_ONCE):
        due = {(pk, edge.due(moment)) for pk, moment in some}
        found = sorted(one for one in due if since <= one[1] <= until)
        if found:
            ids = list(map(itemgetter(0), found))
            times = list(map(itemgetter(1), found))
            execute(ADD, [segments, ids, times])


def _stream(query: Sql) -> Iterable[tuple[Any, ...]]:
    """The rows of a query, never many at once."""
    with connection.chunked_cursor() as cursor:
        cursor.execute(query.text, query.params)
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            yield from rows

"""How events differ from what is known of their type: noted, shown, settled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import (
    Count,
    DateTimeField,
    ExpressionWrapper,
    F,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Value,
)
from django.db.models.functions import Coalesce

from events.models import Drift, EventField, EventType, Source
from smartcomm.core.db import execute

#: A field that none of a type's events carried for so long is told as gone.
GONE_AFTER = timedelta(days=14)
#: So many ways to differ are kept for a type: who makes up field codes fills no table.
MAX_KEPT = 200

# One row for each way to differ, written again at most once an hour. Sorted, so that
# two batches never wait for each other.
NOTE = """
    INSERT INTO events_drift AS known (type_id, code, what, found_type, source_id,
                                       event_id, first_seen_at, last_seen_at)
    SELECT new.type_id, new.code, new.what, new.found_type, %(source)s, new.event_id,
           %(now)s, %(now)s
      FROM unnest(%(types)s::bigint[], %(codes)s::text[], %(whats)s::text[],
                  %(founds)s::text[], %(events)s::text[])
               AS new (type_id, code, what, found_type, event_id)
     WHERE (SELECT count(*) FROM events_drift AS kept
             WHERE kept.type_id = new.type_id) < %(most)s
        OR EXISTS (SELECT FROM events_drift AS kept
                    WHERE kept.type_id = new.type_id AND kept.code = new.code
                      AND kept.what = new.what AND kept.found_type = new.found_type)
     ORDER BY 1, 2, 3, 4
        ON CONFLICT (type_id, code, what, found_type) DO UPDATE
       SET last_seen_at = EXCLUDED.last_seen_at, source_id = EXCLUDED.source_id,
           event_id = EXCLUDED.event_id
     WHERE date_trunc('hour', known.last_seen_at)
           < date_trunc('hour', EXCLUDED.last_seen_at)
"""

# Rows that others hold are passed over: they write the same day, or the next reading
# tells that they did not.
MARK_SEEN = """
    UPDATE {table} SET last_seen_on = %(day)s
     WHERE id IN (SELECT id FROM {table}
                   WHERE id = ANY(%(ids)s)
                     AND (last_seen_on IS NULL OR last_seen_on < %(day)s)
                   ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
"""
MARK_TYPES_SEEN = MARK_SEEN.format(table="events_eventtype")
MARK_FIELDS_SEEN = MARK_SEEN.format(table="events_eventfield")


def write(
    found: Mapping[tuple[int, str, str, str], str], *, source: Source, now: datetime
) -> None:
    """Note differences: (type's id, path, what, found type) → id of such an event."""
    if not found:
        return
    types, codes, whats, founds = zip(*found, strict=True)
    execute(
        NOTE,
        {
            "source": source.pk,
            "now": now,
            "types": list(types),
            "codes": list(codes),
            "whats": [str(what) for what in whats],
            "founds": [str(one) for one in founds],
            "events": list(found.values()),
            "most": MAX_KEPT,
        },
    )


def mark_seen(types: Iterable[int], fields: Iterable[int], *, day: date) -> None:
    """Write down that events of these types, and with these fields, came that day."""
    for sql, ids in ((MARK_TYPES_SEEN, types), (MARK_FIELDS_SEEN, fields)):
        if found := list(ids):
            execute(sql, {"ids": found, "day": day})


def is_gone(field: EventField, event_type: EventType) -> bool:
    """Whether the type still arrives, and long without this field."""
    return (
        event_type.last_seen_on is not None
        and field.last_seen_on is not None
        and event_type.last_seen_on - field.last_seen_on > GONE_AFTER
        and (
            field.gone_reviewed_on is None
            or field.gone_reviewed_on < field.last_seen_on
        )
    )


def with_changes(types: QuerySet[EventType]) -> QuerySet[Any]:
    """The types, each with `changes`: how many there are to look at."""
    unseen = Coalesce(
        Subquery(
            Drift.objects.filter(type=OuterRef("pk"), reviewed_at=None)
            .order_by()
            .values("type")
            .annotate(n=Count("pk"))
            .values("n")
        ),
        Value(0),
        output_field=IntegerField(),
    )
    long_ago = ExpressionWrapper(
        OuterRef("last_seen_on") - GONE_AFTER, output_field=DateTimeField()
    )
    gone = Coalesce(
        Subquery(
            EventField.objects.filter(
                Q(gone_reviewed_on=None) | Q(gone_reviewed_on__lt=F("last_seen_on")),
                type=OuterRef("pk"),
                last_seen_on__lt=long_ago,
            )
            .order_by()
            .values("type")
            .annotate(n=Count("pk"))
            .values("n")
        ),
        Value(0),
        output_field=IntegerField(),
    )
    return types.annotate(changes=unseen + gone)

"""Asking the rule about some customers, and putting them in or taking them out.

Each time one statement compares those who meet the rule with those who are in, and
writes the difference. EXCEPT, and no anti-joins: what is compared is an array or a
query whose size the planner does not know, and a nested loop would be for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from django.db import transaction

from customers.models import Customer
from events.ingest import record_events
from events.models import Source
from segments.compile import Compiled
from segments.models import Segment
from segments.upkeep.meanings import ENTERED, LEFT
from smartcomm.core.db import batches, execute, fetch_all
from smartcomm.core.errors import Conflict

logger = structlog.get_logger(__name__)

SOURCE = "Smart Communications"
ANNOUNCED_AT_ONCE = 1_000
ATTEMPTS = 5

CHANGE = """
    WITH found AS MATERIALIZED ({found}), mine AS MATERIALIZED (
        SELECT customer_id FROM segments_membership WHERE segment_id = %s AND {some}
    ), gone AS (
        DELETE FROM segments_membership
         WHERE segment_id = %s
           AND customer_id = ANY(ARRAY(
               SELECT customer_id FROM mine EXCEPT SELECT customer_id FROM found))
        RETURNING customer_id
    ), come AS (
        INSERT INTO segments_membership (customer_id, segment_id, since)
        SELECT fresh.customer_id, %s, %s
          FROM (SELECT customer_id FROM found EXCEPT SELECT customer_id FROM mine)
               AS fresh
          JOIN customers_customer AS customer ON customer.id = fresh.customer_id
            ON CONFLICT DO NOTHING
        RETURNING customer_id
    )
    SELECT customer_id, true FROM come UNION ALL SELECT customer_id, false FROM gone
"""
BY_IDS = CHANGE.replace("{some}", "customer_id = ANY(%s::bigint[])")
COUNTED = CHANGE.replace(
    "{found}",
    "SELECT unnest(customer_ids) AS customer_id FROM segments_counted WHERE id = %s",
).replace("{some}", "customer_id > %s AND customer_id <= %s")

# Tells the trigger that the counts are taken care of.
AT_WORK = "SELECT set_config('segments.keeping', %s, true)"


@dataclass(slots=True)
class Moved:
    """Who came into a segment and who went out of it."""

    come: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)

    @property
    def more(self) -> int:
        return len(self.come) - len(self.gone)


@contextmanager
def at_work() -> Iterator[None]:
    """Write members only within this: whoever else does is told to the keeper."""
    execute(AT_WORK, ["on"])
    yield
    # After an error the database takes it back by itself.
    execute(AT_WORK, ["off"])


def apply_query(
    segment: Segment, query: Compiled, ids: Sequence[int], *, now: datetime
) -> Moved:
    """Let of these customers those be in who are found by the query, which asks about
    these alone."""
    statement = BY_IDS.replace("{found}", query.sql)
    pk, asked = segment.pk, list(ids)
    return _moved(statement, [*query.params, pk, asked, pk, pk, now])


def apply_counted(
    segment: Segment, counted: int, after: int, upto: int, *, now: datetime
) -> Moved:
    """Let of the customers in a range of ids those be in who were counted."""
    pk = segment.pk
    return _moved(COUNTED, [counted, pk, after, upto, pk, pk, now])


def _moved(statement: str, params: list[object]) -> Moved:
    moved = Moved()
    for customer_id, has_come in fetch_all(statement, params):
        (moved.come if has_come else moved.gone).append(customer_id)
    return moved


def announce(segment: Segment, moved: Moved, *, now: datetime) -> None:
    """Record that these customers entered and left, in this transaction."""
    if not segment.is_watched:
        return
    told = [(pk, ENTERED) for pk in moved.come] + [(pk, LEFT) for pk in moved.gone]
    for some in batches(told, ANNOUNCED_AT_ONCE):
        _record(segment, some, now=now)


def _record(segment: Segment, some: list[tuple[int, str]], *, now: datetime) -> None:
    for attempt in range(ATTEMPTS):
        try:
            with transaction.atomic():
                _record_once(segment, some, now=now)
                return
        except Conflict:
            # One of them was erased since we looked; the next time they are not there.
            if attempt == ATTEMPTS - 1:
                raise


def _record_once(
    segment: Segment, some: list[tuple[int, str]], *, now: datetime
) -> None:
    source, _ = Source.objects.get_or_create(name=SOURCE)
    names = dict(
        Customer.objects.filter(pk__in=[pk for pk, _ in some]).values_list(
            "pk", "external_id"
        )
    )
    recorded = record_events(
        [
            {
                "id": f"{name}-{segment.pk}-{pk}-{now.isoformat()}",
                "name": name,
                "customer": names[pk],
                "occurred_at": now.isoformat(),
                "context": {"segment": segment.pk, "name": segment.name},
            }
            for pk, name in some
            # Who was erased has left everything.
            if pk in names
        ],
        source=source,
        now=now,
    )
    if recorded.rejected:
        # Kept, as all that is refused; somebody declared the events otherwise.
        logger.warning(
            "segments.announcement_refused",
            segment=segment.pk,
            rejected=recorded.rejected,
        )

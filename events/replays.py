"""Rejected events, sent through the door again once the cause is fixed.

`replay` does it at once. A `Replay` is a row that does it batch by batch, in the
request that asks for it as far as there is time, then in the background.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import structlog
from django.db import OperationalError, transaction
from django.db.models import Max, Q, QuerySet

from events import mappings
from events.compat.recording import replay_people, tells_of_people
from events.formats import TRANSLATORS
from events.ingest import ACCEPTED, DUPLICATE, Result, record_events
from events.models import Format, Kind, RejectedEvent, Replay, Source, SystemEvent
from events.rejects import Which
from events.wire import MAX_ITEMS, Refusal
from smartcomm.core import doorbell
from smartcomm.core.clock import database_now
from smartcomm.core.db import execute, fetch_all, sqlstate
from smartcomm.core.strict_json import NotJson, decode_item

T = TypeVar("T")

logger = structlog.get_logger(__name__)

ADVANCE = "events.tasks.advance_replays"

#: A request works on a replay for so long; what is left goes on in the background.
PATIENCE_SECONDS = 2.0
#: A batch that fails is tried again after so long, twice as long each time…
PAUSE = timedelta(seconds=10)
#: … and the replay is given up after so many times.
MAX_ATTEMPTS = 6

DEADLOCK = "40P01"
DEADLOCKS = 3

#: Ids for events that came without one, made from the rejected event's own: however
#: often it is replayed, it is one event.
NAMESPACE = uuid.UUID("6f0d3c5e-6a51-4c1b-9d5a-8f3e5b1f6a77")

Status = RejectedEvent.Status


@dataclass
class Replayed:
    """What became of the rejected events that were replayed."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0


def replay(
    rejected: QuerySet[RejectedEvent],
    *,
    as_backfill: bool = False,
    create_customers: bool = False,
) -> Replayed:
    """Record these events now. Those still refused stay, with the reason of today.

    Safe to repeat and to run twice at once: an event is replayed once, and its id
    counts once. Batch by batch, each in a transaction of its own.
    """
    total = Replayed()
    rows = rejected.filter(status=Status.OPEN).order_by("pk")
    last_id, up_to_id = 0, rows.aggregate(last=Max("pk"))["last"] or 0
    while pks := _next(rows, last_id, up_to_id):
        done = _despite_deadlocks(
            lambda pks=pks: _replay_batch(  # type: ignore[misc]
                pks, as_backfill=as_backfill, create_customers=create_customers
            )
        )
        total.accepted += done.accepted
        total.duplicates += done.duplicates
        total.rejected += done.rejected
        last_id = pks[-1]
    return total


def begin_replay(
    which: Which,
    *,
    by: str,
    now: datetime,
    as_backfill: bool = False,
    create_customers: bool = False,
    patience: float | None = None,
) -> Replay:
    """Ask for a replay, and work on it for as long as the caller has patience.

    Returns the row: done, or under way in the background.
    """
    rows = which.rows()
    asked = Replay.objects.create(
        which=which.to_json(),
        as_backfill=as_backfill,
        create_customers=create_customers,
        total=rows.count(),
        up_to_id=rows.aggregate(last=Max("pk"))["last"] or 0,
        requested_by=by,
        created_at=now,
    )
    end = time.monotonic() + (PATIENCE_SECONDS if patience is None else patience)
    while time.monotonic() < end and advance_replay(asked.pk):
        pass
    asked.refresh_from_db()
    if asked.status == Replay.Status.WAITING:
        doorbell.ring(ADVANCE)
    return asked


def advance_replays(*, now: datetime | None = None) -> int:
    """One batch of each replay under way. Returns how many had one."""
    now = now or database_now()
    due = Replay.objects.filter(
        Q(due_at=None) | Q(due_at__lte=now), status=Replay.Status.WAITING
    )
    return sum(
        advance_replay(pk) for pk in due.order_by("pk").values_list("pk", flat=True)
    )


def advance_replay(pk: int) -> bool:
    """The next batch of one replay. False once there is none, or another worker is
    at it. What cannot be done is put off, and after some times given up."""
    try:
        return _despite_deadlocks(lambda: _advance(pk))
    except Exception:
        logger.exception("replay.batch_failed", replay=pk)
        _put_off(pk)
        return False


def stop_replay(pk: int, *, now: datetime) -> bool:
    """Take no further batch. What was replayed stays so."""
    return bool(
        Replay.objects.filter(pk=pk, status=Replay.Status.WAITING).update(
            status=Replay.Status.STOPPED, finished_at=now
        )
    )


@transaction.atomic
def _advance(pk: int) -> bool:
    waiting = Replay.objects.filter(pk=pk, status=Replay.Status.WAITING)
    asked = waiting.select_for_update(skip_locked=True).first()
    if asked is None:
        return False
    rows = Which.parse(asked.which).rows().order_by("pk")
    pks = _next(rows, asked.last_id, asked.up_to_id)
    if pks:
        done = _replay_batch(
            pks,
            as_backfill=asked.as_backfill,
            create_customers=asked.create_customers,
        )
        asked.accepted += done.accepted
        asked.duplicates += done.duplicates
        asked.rejected += done.rejected
        asked.last_id = pks[-1]
    else:
        asked.status, asked.finished_at = Replay.Status.DONE, database_now()
    asked.attempts, asked.due_at = 0, None
    asked.save()
    return bool(pks)


def _put_off(pk: int) -> None:
    now = database_now()
    with transaction.atomic():
        asked = Replay.objects.select_for_update().get(pk=pk)
        if asked.status != Replay.Status.WAITING:
            return
        asked.attempts += 1
        asked.due_at = now + PAUSE * 2 ** (asked.attempts - 1)
        if asked.attempts >= MAX_ATTEMPTS:
            asked.status, asked.finished_at = Replay.Status.FAILED, now
        asked.save()


def _next(rows: QuerySet[RejectedEvent], last_id: int, up_to_id: int) -> list[int]:
    found = rows.filter(pk__gt=last_id, pk__lte=up_to_id).values_list("pk", flat=True)
    return list(found[:MAX_ITEMS])


def _despite_deadlocks(work: Callable[[], T]) -> T:
    """Again, where the database chose this one of two that waited for each other."""
    for attempt in range(1, DEADLOCKS + 1):
        try:
            return work()
        except OperationalError as error:
            deadlock = sqlstate(error) == DEADLOCK
            if not deadlock or attempt == DEADLOCKS:
                raise
    raise AssertionError("unreachable")


@transaction.atomic
def _replay_batch(
    pks: list[int], *, as_backfill: bool, create_customers: bool
) -> Replayed:
    now = database_now()
    total = Replayed()
    # A mapping that was made a moment ago is why they are replayed.
    mappings.forget()
    groups: dict[tuple[int, str], list[RejectedEvent]] = defaultdict(list)
    # In the order of their ids, and waiting for whoever has them: two replays of the
    # same events take turns, and the second one finds them replayed.
    rows = RejectedEvent.objects.filter(pk__in=pks, status=Status.OPEN)
    for row in rows.order_by("pk").select_for_update():
        groups[row.source_id, row.kind].append(row)
    for (source_id, kind), members in sorted(groups.items()):
        source = Source.objects.get(pk=source_id)
        if create_customers:
            # For this batch only: it is not saved.
            source.unknown_customers = Source.UnknownCustomers.CREATE
        _replay_group(
            members,
            source=source,
            kind=Kind(kind),
            as_backfill=as_backfill,
            now=now,
            total=total,
        )
    return total


def _replay_group(
    rows: list[RejectedEvent],
    *,
    source: Source,
    kind: Kind,
    as_backfill: bool,
    now: datetime,
    total: Replayed,
) -> None:
    people = [row for row in rows if tells_of_people(row)]
    if people:
        _replay_people(people, source=source, now=now, total=total)
        told = {row.pk for row in people}
        rows = [row for row in rows if row.pk not in told]
    readable = []
    for row in rows:
        try:
            item = _as_sent(row, as_backfill=as_backfill)
        except Refusal as refusal:
            row.code, row.field = refusal.code, refusal.field[:255]
            row.message = refusal.message
            total.rejected += 1
        else:
            readable.append((row, item))
    recorded = record_events(
        [item for _, item in readable],
        source=source,
        kind=kind,
        now=now,
        keep_rejected=False,
    )
    stored: list[tuple[RejectedEvent, Result]] = []
    for (row, _), result in zip(readable, recorded.results, strict=True):
        if result.status in (ACCEPTED, DUPLICATE):
            row.status, row.replayed_at = Status.REPLAYED, now
            stored.append((row, result))
        else:
            row.code, row.field = result.code, result.field[:255]
            row.message = result.message
    _link(stored, source=source, kind=kind)
    _write(rows)
    total.accepted += recorded.accepted
    total.duplicates += recorded.duplicates
    total.rejected += recorded.rejected


def _replay_people(
    rows: list[RejectedEvent], *, source: Source, now: datetime, total: Replayed
) -> None:
    """Messages that tell of customers: there is no event that they become."""
    recorded = replay_people(rows, source=source, now=now)
    for row, result in zip(rows, recorded.results, strict=True):
        if result.status == ACCEPTED:
            row.status, row.replayed_at = Status.REPLAYED, now
        else:
            row.code, row.field = result.code, result.field[:255]
            row.message = result.message
    _write(rows)
    total.accepted += recorded.accepted
    total.rejected += recorded.rejected


# All rows of a batch at once: the ORM's CASE for each of them takes ten times as long.
WRITE = """
    UPDATE events_rejectedevent AS row
       SET status = done.status, replayed_at = done.replayed_at,
           stored_id = done.stored_id, code = done.code, field = done.field,
           message = done.message
      FROM unnest(%s::bigint[], %s::text[], %s::timestamptz[], %s::bigint[], %s::text[],
                  %s::text[], %s::text[])
               AS done (id, status, replayed_at, stored_id, code, field, message)
     WHERE row.id = done.id
"""


def _write(rows: list[RejectedEvent]) -> None:
    """Write what became of these rejected events."""
    execute(
        WRITE,
        [
            [row.pk for row in rows],
            [str(row.status) for row in rows],
            [row.replayed_at for row in rows],
            [row.stored_id for row in rows],
            [row.code for row in rows],
            [row.field for row in rows],
            [row.message for row in rows],
        ],
    )


def _as_sent(row: RejectedEvent, *, as_backfill: bool) -> object:
    """What the source sent, in our own shape.

    An event without a time happened when it came; one without an id gets one that is
    the same each time.
    """
    try:
        sent = decode_item(row.payload)
    except NotJson as error:
        raise Refusal("not_json", "What was sent is not JSON.") from error
    data = TRANSLATORS[Format(row.format)](sent)
    if not isinstance(data, dict):
        return data
    defaults: dict[str, object] = {}
    if data.get("occurred_at") is None:
        defaults["occurred_at"] = row.received_at.isoformat()
    if data.get("id") is None:
        defaults["id"] = str(uuid.uuid5(NAMESPACE, str(row.pk)))
    if as_backfill:
        defaults["backfill"] = True
    return data | defaults


# The ids of events that are stored, those recorded before among them. The pairs first,
# so that each is one look-up in the unique index.
FIND_EVENTS = """
    SELECT event.id, asked.customer, event.external_id
      FROM unnest(%s::text[], %s::text[]) AS asked (customer, external_id)
      JOIN customers_customer AS customer ON customer.external_id = asked.customer
      JOIN events_event AS event ON event.customer_id = customer.id
       AND event.external_id = asked.external_id AND event.source_id = %s
"""


def _link(
    stored: list[tuple[RejectedEvent, Result]], *, source: Source, kind: Kind
) -> None:
    """Note which events these rejected events have become."""
    if not stored:
        return
    found: dict[tuple[str, str], int]
    if kind == Kind.CUSTOMER:
        keys = [(result.customer, result.id) for _, result in stored]
        rows = fetch_all(
            FIND_EVENTS,
            [[key[0] for key in keys], [key[1] for key in keys], source.pk],
        )
        found = {(customer, id): pk for pk, customer, id in rows}
    else:
        ids = {result.id for _, result in stored}
        events = SystemEvent.objects.filter(source=source, external_id__in=ids)
        found = {("", id): pk for id, pk in events.values_list("external_id", "pk")}
    for row, result in stored:
        row.stored_id = found.get((result.customer, result.id))

"""Pending events → runs and broadcasts.

Events leave the queue in the transaction that starts what they start, so that a
crash leaves both undone. A unique key says that an event starts a campaign once; so
where one of several campaigns cannot be asked, the others start, the event stays in
the queue, and is looked at again later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F, Max, Min, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Least

from campaigns.entry import entering, turn_away
from campaigns.models import Broadcast, Campaign, Run, Step, Version
from campaigns.triggers import TRIGGERS, answering
from customers.models import Customer
from events.models import Kind, PendingEvent, PendingSystemEvent, SystemEvent
from segments import rules
from segments.compile import events_matching
from segments.sql import Sql, sql
from smartcomm.core.clock import database_now
from smartcomm.core.db import claim, execute, fetch_all

logger = structlog.get_logger(__name__)

#: How long an event waits that a campaign could not be asked about: so long after the
#: first attempt, twice that after the second, and so on.
PAUSE = timedelta(minutes=1)
MOST_PAUSES = 60


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event in the queue."""

    row_id: int
    event_id: int
    customer_id: int
    type_id: int
    occurred_at: datetime
    received_at: datetime


#: So many events of a type are claimed, however many types wait.
SHARE = 20

# In lanes, one for each type that waits: a backlog of one type is one step, and keeps
# no other waiting. Joined on the customer as well: the tables are distributed by it one
# day. A row whose event is not visible yet is not claimed.
CLAIM = """
    WITH RECURSIVE lane (type_id) AS (
        (SELECT type_id FROM events_pendingevent ORDER BY type_id LIMIT 1)
        UNION ALL
        SELECT following.type_id
          FROM lane, LATERAL (
              SELECT type_id FROM events_pendingevent
               WHERE type_id > lane.type_id ORDER BY type_id LIMIT 1
          ) AS following
    ), claimed AS MATERIALIZED (
        SELECT waiting.*
          FROM lane, LATERAL (
              SELECT pending.id, event.id AS event_id, event.customer_id,
                     event.type_id, event.occurred_at, event.received_at
                FROM events_pendingevent AS pending
                JOIN events_event AS event
                  ON event.id = pending.event_id
                 AND event.customer_id = pending.customer_id
               WHERE pending.type_id = lane.type_id
                 AND (pending.due_at IS NULL OR pending.due_at <= %(now)s)
               ORDER BY pending.id
               LIMIT least(%(limit)s, greatest(
                         %(limit)s / (SELECT count(*) FROM lane), %(share)s))
                 FOR UPDATE OF pending SKIP LOCKED
          ) AS waiting
    )
    SELECT * FROM claimed ORDER BY id
"""

START = """
    WITH sent AS (
        SELECT * FROM unnest({}::bigint[], {}::bigint[]) AS sent (customer_id, event_id)
    ), candidate AS (
        SELECT sent.customer_id, sent.event_id FROM sent
         WHERE NOT EXISTS (
                   SELECT FROM campaigns_run AS run
                    WHERE run.customer_id = sent.customer_id
                      AND run.campaign_id + 0 = {} AND run.event_id = sent.event_id
                   OFFSET 0)
    ), {} entered AS ({})
    INSERT INTO campaigns_run (customer_id, campaign_id, version_id, event_id, step_id,
                               status, due_at, attempts, reason, started_at, arrived_at)
    SELECT customer_id, {}, {}, event_id, {}, 'waiting', {}, 0, '', {}, {}
      FROM entered ORDER BY customer_id
        ON CONFLICT DO NOTHING
 RETURNING id
"""


def claim_events(limit: int, *, now: datetime) -> list[Waiting]:
    """Lock events that no other worker holds, some of each type that waits. Call inside
    a transaction."""
    rows = fetch_all(CLAIM, {"now": now, "limit": limit, "share": SHARE})
    return [Waiting(*row) for row in rows]


WAKE = """
    UPDATE campaigns_run AS run SET due_at = %s
      FROM (SELECT waiting.id
              FROM (SELECT DISTINCT * FROM unnest(%s::bigint[], %s::bigint[]))
                       AS event (customer_id, type_id)
              JOIN campaigns_step AS step ON step.event_type_id = event.type_id
              JOIN campaigns_run AS waiting
                ON waiting.customer_id = event.customer_id
               AND waiting.step_id = step.id
               AND waiting.status = 'waiting' AND waiting.due_at > %s
             ORDER BY waiting.id
               FOR UPDATE OF waiting) AS found
     WHERE run.id = found.id
"""


def dispatch_events(*, limit: int = 500, now: datetime | None = None) -> int:
    """Start a run for every event that a published campaign waits for.

    Returns how many events left the queue. Queries: a constant number, and up to
    three for each campaign that waits.
    """
    now = now or database_now()
    with transaction.atomic():
        claimed = claim_events(limit, now=now)
        if not claimed:
            return 0
        by_type: dict[int, list[Waiting]] = defaultdict(list)
        for event in claimed:
            by_type[event.type_id].append(event)
        again: set[int] = set()
        for version in waiting_versions(by_type, kind=Kind.CUSTOMER):
            events = by_type[version.event_type_id or 0]
            if not _isolated(version, _start_runs, events, now=now):
                again.update(event.row_id for event in events)
        wake(claimed, now=now)
        pending = PendingEvent.objects.filter(
            pk__in=[event.row_id for event in claimed]
        )
        _leave(pending, again, now=now)
    return len(claimed)


def wake(events: Sequence[Waiting], *, now: datetime) -> None:
    """Let the runs look again that wait for an event like one of these.

    In the order of their ids, so that two dispatchers wait for each other and never
    crosswise. A paused campaign's runs look when it goes on.
    """
    execute(
        WAKE,
        [
            now,
            [event.customer_id for event in events],
            [event.type_id for event in events],
            now,
        ],
    )


def dispatch_system_events(*, limit: int = 50, now: datetime | None = None) -> int:
    """Start a broadcast for every system event that a published campaign waits for."""
    now = now or database_now()
    with transaction.atomic():
        claimed = claim(
            PendingSystemEvent.objects.filter(Q(due_at=None) | Q(due_at__lte=now))
            .select_related("system_event")
            .order_by("pk"),
            limit,
        )
        if not claimed:
            return 0
        by_type: dict[int, list[PendingSystemEvent]] = defaultdict(list)
        for row in claimed:
            by_type[row.system_event.type_id].append(row)
        again: set[int] = set()
        for version in waiting_versions(by_type, kind=Kind.SYSTEM):
            rows = by_type[version.event_type_id or 0]
            events = [row.system_event for row in rows]
            if not _isolated(version, _start_broadcasts, events, now=now):
                again.update(row.pk for row in rows)
        pending = PendingSystemEvent.objects.filter(pk__in=[row.pk for row in claimed])
        _leave(pending, again, now=now)
    return len(claimed)


def waiting_versions(type_ids: Iterable[int], *, kind: Kind) -> list[Version]:
    """The published versions that wait for these types, each with its `first_step_id`
    and the time `live_since` its campaign was first published."""
    first_step = Step.objects.filter(version=OuterRef("pk"), key=OuterRef("start"))
    first_published = (
        Version.objects.filter(campaign=OuterRef("campaign"))
        .order_by()
        .values("campaign")
        .annotate(first=Min("published_at"))
        .values("first")
    )
    return list(
        Version.objects.filter(
            event_type_id__in=list(type_ids),
            trigger_kind__in=answering(kind),
            status=Version.Status.PUBLISHED,
            campaign__status=Campaign.Status.PUBLISHED,
        )
        .annotate(
            first_step_id=Subquery(first_step.values("pk")),
            live_since=Subquery(first_published),
        )
        .order_by("pk")
    )


def is_fresh(
    version: Version, occurred_at: datetime, received_at: datetime, *, now: datetime
) -> bool:
    """Not older than the trigger allows, and not from before the campaign began."""
    since: datetime = version.live_since  # type: ignore[attr-defined]
    return not is_too_old(version, occurred_at, now=now) and received_at >= since


def is_too_old(version: Version, occurred_at: datetime, *, now: datetime) -> bool:
    return occurred_at < now - timedelta(hours=version.max_age_hours)


def matching(version: Version, event_ids: Sequence[int], *, now: datetime) -> set[int]:
    """Which of these events meet the trigger's conditions on the context."""
    if not event_ids:
        return set()
    return events_matching(
        rules.parse_where(version.where),
        event_ids,
        event_type_id=version.event_type_id or 0,
        system=TRIGGERS[version.trigger_kind].on == Kind.SYSTEM,
        now=now,
    )


def start_run(version: Version, event: Waiting, *, now: datetime) -> Run | None:
    """Start the run of one event, which the trigger wants; None where the entry rule
    does not let the customer in."""
    _start_runs(version, [event], now=now)
    return Run.objects.filter(
        customer_id=event.customer_id, version=version, event_id=event.event_id
    ).first()


def _isolated(
    version: Version,
    start: Callable[..., None],
    events: Sequence[Any],
    *,
    now: datetime,
) -> bool:
    """Start what these events start in one version. Tells whether that went well."""
    try:
        with transaction.atomic():
            start(version, events, now=now)
    except Exception:
        # Whatever it is, it must not hold up the other campaigns.
        logger.exception("dispatch.fault", version=version.pk)
        return False
    return True


def _leave(
    claimed: QuerySet[PendingEvent] | QuerySet[PendingSystemEvent],
    again: set[int],
    *,
    now: datetime,
) -> None:
    """Take rows off the queue, but for those to look at again later."""
    if again:
        # Longer after every attempt, an hour at most; never given up.
        pause = Least(F("attempts") + 1, Value(MOST_PAUSES)) * PAUSE
        claimed.filter(pk__in=again).update(
            attempts=Least(F("attempts") + 1, Value(MOST_PAUSES)), due_at=now + pause
        )
    claimed.exclude(pk__in=again).delete()


def _wanted(
    version: Version,
    events: Mapping[int, Waiting] | Mapping[int, SystemEvent],
    *,
    now: datetime,
) -> list[int]:
    """The ids of the events that start something in this version, in the order of the
    queue: of two that let a customer in once, the first is the one."""
    fresh = [
        event_id
        for event_id, event in events.items()
        if is_fresh(version, event.occurred_at, event.received_at, now=now)
    ]
    found = matching(version, fresh, now=now)
    return [event_id for event_id in fresh if event_id in found]


def _start_broadcasts(
    version: Version, events: Sequence[SystemEvent], *, now: datetime
) -> None:
    found = _wanted(version, {event.pk: event for event in events}, now=now)
    if not found:
        return
    last_id = Customer.objects.aggregate(last=Max("pk"))["last"] or 0
    Broadcast.objects.bulk_create(
        [
            Broadcast(
                campaign_id=version.campaign_id,
                version=version,
                system_event_id=event_id,
                last_id=last_id,
                due_at=now,
            )
            for event_id in found
        ],
        ignore_conflicts=True,
    )


def _start_runs(version: Version, events: Sequence[Waiting], *, now: datetime) -> None:
    by_id = {event.event_id: event for event in events}
    started = [by_id[event_id] for event_id in _wanted(version, by_id, now=now)]
    if version.entry_rule != Version.Entry.EVERY_EVENT:
        # A statement lets a customer in once: the first event of each is the one.
        first: dict[int, Waiting] = {}
        for event in started:
            first.setdefault(event.customer_id, event)
        rest = [event for event in started if first[event.customer_id] is not event]
        started = list(first.values())
    else:
        rest = []
    if not started:
        return
    common, entered = entering(
        version, Sql("candidate.event_id, NULL::bigint"), now=now
    )
    query = sql(
        START,
        [event.customer_id for event in started],
        [event.event_id for event in started],
        version.campaign_id,
        common,
        entered,
        version.campaign_id,
        version.pk,
        version.first_step_id,  # type: ignore[attr-defined]
        now,
        now,
        now,
    )
    execute(query.text, query.params)
    if rest:
        turn_away(
            version, [(event.customer_id, event.event_id) for event in rest], now=now
        )

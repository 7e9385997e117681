"""One system event → runs for everyone it concerns.

The base is walked in chunks of customer ids. A chunk is one statement: the leading
filter is compiled into it, so that customers it does not match cost nothing, and no
customer comes into memory. How far the walk got is committed with the chunk's runs.
With a pace it is not walked, but asked for portions: see campaigns.portions.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from django.db import transaction

from campaigns import portions
from campaigns.actions.filter import NEGATIVE, POSITIVE, missing_reason, read_rule
from campaigns.engine import ARCHIVED
from campaigns.entry import entering
from campaigns.models import Broadcast, Campaign, Run, Step
from campaigns.portions import TOTAL, Portion
from campaigns.triggers import PLANNED
from segments.compile import IdRange, MissingField, compile_rule
from segments.sql import Sql, join, sql
from smartcomm.core.clock import database_now
from smartcomm.core.db import claim, fetch_all
from smartcomm.core.errors import UserError

logger = structlog.get_logger(__name__)

CHUNK = 20_000
MAX_ATTEMPTS = 5
PAUSE = timedelta(minutes=1)

# The last id of the next chunk, and how many customers it has.
NEXT_CHUNK = """
    SELECT max(id), count(*)
      FROM (SELECT id FROM customers_customer
             WHERE id > %s AND id <= %s ORDER BY id LIMIT %s) AS chunk
"""

START = """
    WITH member AS ({}), candidate AS (
        SELECT member.customer_id FROM member
         WHERE NOT EXISTS (
                   SELECT FROM campaigns_run AS run
                    WHERE run.customer_id = member.customer_id
                      AND run.campaign_id + 0 = {}
                      AND run.system_event_id = {}
                   OFFSET 0)
    ), {} entered AS ({}), started AS (
        INSERT INTO campaigns_run (customer_id, campaign_id, version_id,
                                   system_event_id,
                                   step_id, status, due_at, finished_at, attempts,
                                   reason, started_at, arrived_at)
        SELECT customer_id, {}, {}, {}, {}, {}, {}, {}, 0, '', {}, {} FROM entered
            ON CONFLICT DO NOTHING
     RETURNING id, customer_id
    ), passed AS (
        INSERT INTO campaigns_passage (customer_id, run_id, step_id, way, reason,
                                       arrived_at, left_at)
        SELECT customer_id, id, {}, {}, {}, {}, {} FROM started WHERE {}
     RETURNING 1
    )
    SELECT (SELECT count(*) FROM started), {}
"""


def walk_broadcasts(*, now: datetime | None = None, chunk: int = CHUNK) -> int:
    """Go one chunk on with the broadcast that has waited longest.

    Returns how many customers were examined, at least 1 where there was a broadcast;
    0 means that none is due.
    """
    now = now or database_now()
    with transaction.atomic():
        due = Broadcast.objects.filter(
            status=Broadcast.Status.RUNNING,
            due_at__lte=now,
            campaign__status__in=[Campaign.Status.PUBLISHED, Campaign.Status.ARCHIVED],
        ).order_by("due_at", "pk")
        related = due.select_related("campaign", "version", "system_event")
        for broadcast in claim(related, 1):
            try:
                with transaction.atomic():
                    return max(1, _walk(broadcast, now=now, chunk=chunk))
            except Exception as error:
                # Any fault of one broadcast, whatever it is, must not stop the others.
                logger.exception("broadcast.fault", broadcast=broadcast.pk)
                _put_back(broadcast, error, now=now)
                return 1
    return 0


def stop(broadcast: Broadcast, *, by: str, now: datetime) -> bool:
    """Let nobody else enter. Who has entered goes on; see `publish.archive` for ending
    those as well. Waits for the chunk under way. Returns whether there was any to stop.
    """
    with transaction.atomic():
        held = Broadcast.objects.select_for_update().get(pk=broadcast.pk)
        if held.status != Broadcast.Status.RUNNING:
            return False
        held.status, held.finished_at = Broadcast.Status.FINISHED, now
        far = f"{held.examined:,} customers had been looked at"
        if held.version.pace:
            far = f"{held.entered:,} had been taken"
        held.reason = f"Stopped by {by} after {far}."
        held.save(update_fields=["status", "reason", "finished_at"])
    return True


def _walk(broadcast: Broadcast, *, now: datetime, chunk: int) -> int:
    broadcast.reason = ""
    if broadcast.campaign.status == Campaign.Status.ARCHIVED:
        _end_archived(broadcast, now=now)
        return 0
    if broadcast.version.pace:
        return _take_portion(broadcast, now=now)
    upto, count = fetch_all(NEXT_CHUNK, [broadcast.after_id, broadcast.last_id, chunk])[
        0
    ]
    if count:
        broadcast.examined += count
        broadcast.entered += _start_runs(
            broadcast, IdRange(broadcast.after_id, upto), now=now
        )
        broadcast.after_id = upto
    # A reason given here ends the walk: nobody else would match either.
    if not count or upto >= broadcast.last_id or broadcast.reason:
        broadcast.status = Broadcast.Status.FINISHED
        broadcast.finished_at = now
    # To the end of the line, so that several broadcasts go on side by side.
    broadcast.due_at, broadcast.attempts = now, 0
    broadcast.save(
        update_fields=[
            "examined",
            "entered",
            "after_id",
            "status",
            "finished_at",
            "due_at",
            "attempts",
            "reason",
        ]
    )
    return int(count)


def _take_portion(broadcast: Broadcast, *, now: datetime) -> int:
    portion, started = portions.begin(broadcast, now=now), 0
    if portion is not None:
        everyone = IdRange(0, broadcast.last_id)
        started = _start_runs(broadcast, everyone, now=now, portion=portion)
        portions.end(broadcast, portion, started=started)
    broadcast.attempts = 0
    broadcast.save()
    return started


def _end_archived(broadcast: Broadcast, *, now: datetime) -> None:
    broadcast.status, broadcast.reason = Broadcast.Status.FINISHED, ARCHIVED
    broadcast.finished_at = now
    broadcast.save(update_fields=["status", "reason", "finished_at"])


def _put_back(broadcast: Broadcast, error: Exception, *, now: datetime) -> None:
    fresh = Broadcast.objects.get(pk=broadcast.pk)
    fresh.attempts += 1
    fresh.due_at = now + PAUSE * fresh.attempts
    fresh.reason = (
        error.message
        if isinstance(error, UserError)
        else "Internal error; see the log."
    )
    if fresh.attempts >= MAX_ATTEMPTS:
        fresh.status, fresh.finished_at = Broadcast.Status.FAILED, now
    fresh.save(update_fields=["attempts", "due_at", "reason", "status", "finished_at"])


def _start_runs(
    broadcast: Broadcast,
    chunk: IdRange,
    *,
    now: datetime,
    portion: Portion | None = None,
) -> int:
    """Start the runs of one chunk, or of a portion of those who match. Returns how
    many."""
    steps = {step.key: step for step in broadcast.version.steps.all()}
    first = steps[broadcast.version.start]
    everyone = _audience(broadcast, chunk, now=now)
    if first.action != "filter_customers":
        return _insert(broadcast, everyone, first, now=now, portion=portion)

    positive, negative = (first.next.get(way) for way in (POSITIVE, NEGATIVE))
    try:
        query = compile_rule(
            read_rule(first.config),
            now=now,
            restrict=chunk,
            context=broadcast.system_event.context,
        )
    except MissingField as missing:
        reason = missing_reason(sorted(missing.codes))
        if negative is None or portion:
            broadcast.reason = reason
            return 0
        return _insert(
            broadcast,
            everyone,
            steps[negative],
            passed=first,
            way=NEGATIVE,
            reason=reason,
            now=now,
        )
    members = Sql(query.sql, tuple(query.params))
    if broadcast.version.trigger_kind in PLANNED:
        members = sql("({}) INTERSECT ({})", everyone, members)
    entered = _insert(
        broadcast,
        members,
        steps[positive] if positive else None,
        passed=first,
        way=POSITIVE,
        now=now,
        portion=portion,
    )
    if negative is not None and not portion:
        rest = sql("({}) EXCEPT ({})", everyone, members)
        entered += _insert(
            broadcast, rest, steps[negative], passed=first, way=NEGATIVE, now=now
        )
    return entered


def _audience(broadcast: Broadcast, chunk: IdRange, *, now: datetime) -> Sql:
    """Those of a chunk whom it is for: of a planned time who meets its rules, which are
    compiled as the filter is; of a system event all."""
    everyone = sql(
        "SELECT id AS customer_id FROM customers_customer WHERE id > {} AND id <= {}",
        chunk.after,
        chunk.upto,
    )
    planned = PLANNED.get(broadcast.version.trigger_kind)
    if planned is None:
        return everyone
    queries = [
        compile_rule(part.rule, now=part.clock or now, restrict=chunk)
        for part in planned.audience(
            broadcast.version.trigger_config, broadcast.system_event.context
        )
    ]
    found = [Sql(f"({query.sql})", tuple(query.params)) for query in queries]
    return join(" INTERSECT ", found) if found else everyone


def _insert(
    broadcast: Broadcast,
    members: Sql,
    step: Step | None,
    *,
    passed: Step | None = None,
    way: str = "",
    reason: str = "",
    now: datetime,
    portion: Portion | None = None,
) -> int:
    """Start a run at `step` for each member, or for a portion of them; without a step
    the run is over at once."""
    event = sql("NULL::bigint, {}::bigint", broadcast.system_event_id)
    common, entered = entering(broadcast.version, event, now=now)
    standing = step or passed
    if standing is None:
        raise AssertionError("A run starts at a step, or has passed one.")
    query = sql(
        START,
        portion.of(members) if portion else members,
        broadcast.campaign_id,
        broadcast.system_event_id,
        common,
        entered,
        broadcast.campaign_id,
        broadcast.version_id,
        broadcast.system_event_id,
        standing.pk,
        Run.Status.WAITING.value if step else Run.Status.FINISHED.value,
        sql("{}::timestamptz", now if step else None),
        sql("{}::timestamptz", None if step else now),
        now,
        now,
        sql("{}::bigint", passed.pk if passed else None),
        way,
        reason,
        now,
        now,
        sql("{}::boolean", passed is not None),
        TOTAL if portion else Sql("NULL"),
    )
    [(started, total)] = fetch_all(query.text, query.params)
    if portion:
        portion.total = total or 0
    return int(started)

"""Asking everybody: after a change of the rule, at a turn of the calendar, as a check.

It goes over ranges of customers' ids, each a short transaction that keeps whom it found
in Counted. In the end one transaction puts those in and out who differ. Until then the
last members stay; whoever is touched meanwhile is asked after it. A crash costs the
range at hand.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import OperationalError, transaction
from django.db.models import Max, Min, QuerySet
from django.utils import timezone

from customers.models import Customer
from segments.compile import IdRange, compile_rule
from segments.models import Change, Counted, Membership, Reminder, Segment, Upkeep
from segments.reading import FAULT, too_long
from segments.upkeep import applying, clock, settling
from segments.upkeep.meanings import NO_RECOUNT, Meaning, fail
from smartcomm.core.clock import database_now
from smartcomm.core.db import QUERY_CANCELED, execute, fetch_all, sqlstate
from smartcomm.core.errors import UserError

logger = structlog.get_logger(__name__)

#: Ids of customers asked in one transaction.
RANGE = 50_000
#: How long the database may take for one range.
LIMIT_MS = 60_000
#: A check waits so long for what it must have been told, then calls nothing a repair.
PATIENCE = timedelta(minutes=2)
#: Checks of the night begin at this hour of the project's zone.
NIGHT = 3

KEEP_FOUND = """
    INSERT INTO segments_counted (segment_id, upto, customer_ids)
    SELECT %s, %s, coalesce(array_agg(customer_id), '{}') FROM ({found}) AS found
"""
# Who was neither touched nor due, and yet found otherwise than known.
UNTOLD = """
    SELECT count(*) FROM unnest(%s::bigint[]) AS moved (customer_id)
     WHERE NOT EXISTS (
               SELECT FROM segments_due AS due
                WHERE due.segment_id = %s AND due.due_at <= %s
                  AND due.customer_id = moved.customer_id)
"""


class Overtaken(Exception):
    """The segment means another thing by now: what was counted is of no use."""


def want(pks: list[int], *, now: datetime, looked: bool = True) -> None:
    """Have everybody asked about these segments. `looked`: whether it is known who is
    due meanwhile."""
    found = Segment.objects.filter(pk__in=pks)
    found.filter(recount_wanted_at=None).update(recount_wanted_at=now)
    found.update(check_wanted=False, **({} if looked else {"looked_until": None}))
    # One that is under way can prove nothing any more.
    found.update(recount_is_check=False)


def want_checks(*, now: datetime | None = None) -> int:
    """Have all segments checked that were not counted since last night. How many."""
    now = now or database_now()
    night = timezone.localtime(now).replace(hour=NIGHT, minute=0, second=0)
    if night > timezone.localtime(now):
        night -= timedelta(days=1)
    old = Segment.objects.filter(
        kind=Segment.Kind.DYNAMIC,
        archived_at=None,
        recount_wanted_at=None,
        recount_edition=None,
        counted_at__lt=night,
    ).exclude(status=Segment.Status.FAILED)
    wanted = old.update(recount_wanted_at=now, check_wanted=True)
    if wanted:
        # Whatever was declared otherwise without anybody noticing.
        Reminder.objects.create(what="meaning")
    return wanted


def step(upkeep: Upkeep, meant: Mapping[Segment, Meaning], *, now: datetime) -> bool:
    """Count the next range of some segment, or finish one. Call in a transaction.

    Tells whether anything was done; not where all that is left must wait.
    """
    under_way = [s for s in meant if s.recount_edition is not None]
    for segment in sorted(under_way, key=_order):
        if _go_on(upkeep, segment, meant[segment], now=now):
            return True
    waiting = [
        segment
        for segment in meant
        if segment.recount_edition is None
        and segment.recount_wanted_at is not None
        and (segment.retry_at is None or segment.retry_at <= now)
    ]
    if not waiting:
        return False
    _begin(min(waiting, key=_order), now=now)
    return True


def _order(segment: Segment) -> tuple[bool, bool, datetime | None, int]:
    # Those that have no members yet, then those that have wrong ones.
    return (
        segment.members_of != 0,
        segment.members_of == segment.edition,
        segment.recount_wanted_at,
        segment.pk,
    )


def _begin(segment: Segment, *, now: datetime) -> None:
    is_known = segment.members_of == segment.edition
    is_looked = segment.looked_until is not None
    ends = Customer.objects.aggregate(first=Min("pk"), last=Max("pk"))
    after = (ends["first"] or 1) - 1
    values: dict[str, Any] = {
        "recount_edition": segment.edition,
        "recount_began_at": now,
        "recount_after": after,
        "recounted_upto": after,
        "recount_end": ends["last"] or 0,
        "recount_waits_for": settling.writers(settling.noted_tables()),
        "recount_wanted_at": None,
        "recount_is_check": segment.check_wanted and is_known and is_looked,
        "check_wanted": False,
        "recount_ms": 0,
        "tried_at": now,
    }
    if not is_known:
        values["status"] = Segment.Status.COMPUTING
    if not is_looked:
        clock.forget(segment)
        values["looked_until"] = now
    _of(segment).update(**values)
    Counted.objects.filter(segment=segment).delete()


def _go_on(
    upkeep: Upkeep, segment: Segment, meaning: Meaning, *, now: datetime
) -> bool:
    if segment.recount_edition != segment.edition:
        # Cannot be: a new edition ends the count of the old one.
        Segment.objects.filter(pk=segment.pk).update(**NO_RECOUNT)
        return True
    if segment.recount_waits_for:
        if not settling.have_ended(segment.recount_waits_for, settling.noted_tables()):
            return False
        _of(segment).update(recount_waits_for=[])
        segment.recount_waits_for = []
    try:
        with transaction.atomic():
            if (segment.recounted_upto or 0) < (segment.recount_end or 0):
                _count_range(segment, meaning, now=now)
            elif not _is_told(upkeep, segment, now=now):
                return False
            else:
                _finish(segment, now=now)
    except Overtaken:
        return True
    except Exception as error:
        fail(segment, reason(error, segment), now=now)
    return True


def _count_range(segment: Segment, meaning: Meaning, *, now: datetime) -> None:
    began = time.monotonic()
    after = segment.recounted_upto or 0
    upto = min(after + RANGE, segment.recount_end or 0)
    query = compile_rule(
        meaning.rule,
        now=now,
        restrict=IdRange(after, upto),
        dictionary=meaning.dictionary,
    )
    limit_time()
    execute(KEEP_FOUND.replace("{found}", query.sql), [segment.pk, upto, *query.params])
    values: dict[str, object] = {}
    if upto == segment.recount_end and segment.recount_is_check:
        last = Change.objects.aggregate(last=Max("pk"))["last"]
        values = {
            "recount_events": settling.last_id("events_event"),
            "recount_changes": last or 0,
        }
    took = round((time.monotonic() - began) * 1000)
    _of(segment).update(
        recounted_upto=upto, recount_ms=segment.recount_ms + took, **values
    )


def _is_told(upkeep: Upkeep, segment: Segment, *, now: datetime) -> bool:
    """Whether all that the count may have seen has been told to the keeper as well."""
    if not segment.recount_is_check or segment.recount_events is None:
        return True
    is_told = upkeep.events_upto >= segment.recount_events and not (
        Change.objects.filter(pk__lte=segment.recount_changes).exists()
    )
    if not is_told and _is_impatient(segment, now):
        segment.recount_is_check = False
        return True
    return is_told


def _is_impatient(segment: Segment, now: datetime) -> bool:
    began = segment.recount_began_at
    return began is not None and now - began > PATIENCE


def _finish(segment: Segment, *, now: datetime) -> None:
    began = time.monotonic()
    limit_time()
    is_known = segment.members_of == segment.edition
    repaired = 0
    after = 0  # Whatever is below the first of the customers is gone.
    rows = Counted.objects.filter(segment=segment).order_by("upto")
    for pk, upto in list(rows.values_list("pk", "upto")):
        with applying.at_work():
            moved = applying.apply_counted(segment, pk, after, upto, now=now)
        after = upto
        if is_known:
            applying.announce(segment, moved, now=now)
        if segment.recount_is_check and (ids := moved.come + moved.gone):
            repaired += fetch_all(UNTOLD, [ids, segment.pk, now])[0][0]
    if repaired:
        logger.error("segments.repaired", segment=segment.pk, customers=repaired)
    took = round((time.monotonic() - began) * 1000)
    finished = _of(segment).update(
        members_of=segment.edition,
        status=Segment.Status.FRESH,
        count=Membership.objects.filter(segment=segment).count(),
        counted_at=now,
        took_ms=segment.recount_ms + took,
        error="",
        failed_at=None,
        failures=0,
        retry_at=None,
        **({"repaired": repaired} if segment.recount_is_check else {}),
        **NO_RECOUNT,
    )
    if not finished:
        raise Overtaken
    # After the segment itself, as for whoever saves it: so neither waits for the other.
    Counted.objects.filter(segment=segment).delete()


def limit_time() -> None:
    """Let no statement of this transaction hold the database up for ever."""
    execute("SELECT set_config('statement_timeout', %s, true)", [str(LIMIT_MS)])


#: What passes by itself: deadlocks, locks that were not to be had, a server that goes.
PASSING = {"40P01", "40001", "55P03", "57P01", "57P02", "57P03"}


def reason(error: Exception, segment: Segment) -> str:
    """Why a segment cannot be kept, for people. Raises what passes by itself."""
    if isinstance(error, UserError):
        return error.message
    if isinstance(error, OperationalError):
        state = sqlstate(error)
        if state == QUERY_CANCELED:
            return too_long(LIMIT_MS)
        if state in PASSING or not state or state.startswith("08"):
            raise error
    logger.error("segments.fault", segment=segment.pk, exc_info=error)
    return FAULT


def _of(segment: Segment) -> QuerySet[Segment]:
    """The segment's row, unless it means another thing by now."""
    return Segment.objects.filter(pk=segment.pk, edition=segment.edition)

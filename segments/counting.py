"""The exact count of a rule, made in the background for somebody who waits.

A row of Count is the order. A worker (segments.tasks.count_exactly) takes it and asks
the customers, range by range of their ids, those known last first. Each range is a
short transaction that only reads, so that how far it has come is true, nothing is held
for long, and it can be stopped at any moment: the backend that reads is cancelled.

The result is of the minute in which it was made, not of one moment: a customer who
changes meanwhile counts as they were when their range was asked. Nobody counts twice.

Whoever asks for the same rule within a minute waits for the same row. It is cancelled
when nobody waits any more: each asker is a page or a request, and says so again and
again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q

from segments import dearness, rules
from segments.compile import IdRange, bind
from segments.dictionary import Dictionary
from segments.models import Count
from segments.preview import SHOWN, preview
from segments.reading import FAULT, Stopped, TooDear, read_only, source
from segments.tally import external_ids, tally
from smartcomm.core import doorbell
from smartcomm.core.clock import database_now
from smartcomm.core.db import fetch_all
from smartcomm.core.errors import Conflict, Invalid, UserError

logger = structlog.get_logger(__name__)

#: The task that counts.
COUNT = "segments.tasks.count_exactly"

#: For so long a count is as good as a new one.
REUSED_FOR = timedelta(minutes=1)
#: Nobody has said for so long that they wait: they went away.
WANTED_FOR = timedelta(seconds=8)
#: A worker that shows no sign of life for so long is gone, and another one begins anew.
ALIVE_FOR = timedelta(seconds=30)
#: Rows that are older are deleted.
KEPT_FOR = timedelta(hours=1)

#: So many ids are asked first, then as many as take about so long, and twice as long
#: each time: in small ranges all customers cost up to three times what they do in one.
FIRST_RANGE = 20_000
LEAST_RANGE = 500
FIRST_MS = 400
LONGEST_MS = 4_000
GROWTH = 8
#: A range that takes longer is given up, and a smaller one is tried.
MOST_RANGE_MS = 15_000
#: A rule that is too dear to be counted is estimated for so long.
INSTEAD_MS = 2_000
#: How often a waiting request looks.
GLANCE_SECONDS = 0.05

#: Any number, but the same in all processes: who takes a count decides alone.
_TAKING = 7_301_114


# For whoever waits


def ask(
    rule: rules.Rule,
    *,
    asker: str,
    now: datetime,
    context: Mapping[str, Any] | None = None,
) -> Count:
    """Order the exact count, or join those who wait for the same already.

    `asker` is a page or a request; what it waited for before is let go.
    """
    count = recent(rule, now=now, context=context)
    let_go(asker, except_for=count)
    if count is not None and count.is_open:
        with transaction.atomic():
            count = Count.objects.select_for_update().get(pk=count.pk)
            if count.is_open:
                count.askers = sorted({*count.askers, asker})
                count.wanted_at = now
                count.save(update_fields=["askers", "wanted_at"])
    if count is None or count.status == Count.Status.CANCELLED:
        count = Count.objects.create(
            rule=rules.to_json(rule),
            context=needed(rule, context),
            askers=[asker],
            asked_at=now,
            wanted_at=now,
        )
    if count.status == Count.Status.WAITING:
        doorbell.ring(COUNT)
    return count


def recent(
    rule: rules.Rule, *, now: datetime, context: Mapping[str, Any] | None = None
) -> Count | None:
    """A count of the same rule that is under way, or ended within the last minute."""
    fresh = now - REUSED_FOR
    values = needed(rule, context)
    same = Count.objects.filter(rule=rules.to_json(rule))
    same = same.filter(
        # None alone would mean a JSON null.
        **({"context__isnull": True} if values is None else {"context": values})
    )
    return (
        same.filter(
            Q(status=Count.Status.WAITING, asked_at__gte=fresh)
            | Q(status=Count.Status.RUNNING, alive_at__gte=now - ALIVE_FOR)
            | Q(
                status__in=[Count.Status.DONE, Count.Status.FAILED],
                ended_at__gte=fresh,
            )
        )
        .order_by("-asked_at")
        .first()
    )


def look(pk: UUID, *, asker: str, now: datetime) -> Count | None:
    """How far a count is; says that the asker still waits. None: it is gone."""
    count = Count.objects.filter(pk=pk).first()
    if count is not None and count.is_open and asker in count.askers:
        Count.objects.filter(pk=pk).update(wanted_at=now)
        if count.status == Count.Status.WAITING:
            doorbell.ring(COUNT)
    return count


def let_go(asker: str, *, except_for: Count | None = None) -> None:
    """The asker waits for nothing any more, but for this. At once: what only they
    waited for is stopped where it is."""
    waited = Count.objects.filter(
        askers__contains=[asker],
        status__in=[Count.Status.WAITING, Count.Status.RUNNING],
    )
    if except_for is not None:
        waited = waited.exclude(pk=except_for.pk)
    for pk in waited.values_list("pk", flat=True):
        cancel(pk, asker=asker)


def cancel(pk: UUID, *, asker: str) -> None:
    """The asker does not wait for this count any more. It goes on only for others."""
    with transaction.atomic():
        count = Count.objects.select_for_update().filter(pk=pk).first()
        if count is None or not count.is_open:
            return
        count.askers = [one for one in count.askers if one != asker]
        if not count.askers:
            count.status = Count.Status.CANCELLED
            count.ended_at = database_now()
        count.save(update_fields=["askers", "status", "ended_at"])
    if not count.askers:
        _stop_reading(count)


def is_busy(now: datetime) -> bool:
    """So many are being counted that the next one has to wait."""
    return _running(now) >= int(settings.SEGMENT_COUNTS_AT_ONCE)


def settle(
    rule: rules.Rule, *, asker: str, limit_ms: int, context: Any = None
) -> Count:
    """Wait for the exact count for so long, and count here if nobody else does.

    For a request that has to answer anyway. Raises TooDear with the reason.
    """
    until = time.monotonic() + limit_ms / 1000
    count = ask(rule, asker=asker, now=database_now(), context=context)
    try:
        while True:
            left_ms = round((until - time.monotonic()) * 1000)
            if count.status == Count.Status.DONE:
                return count
            if count.status in (Count.Status.FAILED, Count.Status.CANCELLED):
                raise _refusal(count)
            if left_ms <= 0:
                raise TooDear(
                    f"Counting takes longer than {limit_ms / 1000:g} seconds. Ask for "
                    "an estimate, or narrow the rule."
                )
            if count.status == Count.Status.WAITING and (
                mine := take(now=database_now(), only=count.pk)
            ):
                # Who counts does not look meanwhile, and waits all the same.
                wanted_at = database_now() + timedelta(milliseconds=left_ms)
                Count.objects.filter(pk=mine.pk).update(wanted_at=wanted_at)
                run(mine, limit_ms=left_ms)
                _forget_haste(mine, asker)
            else:
                time.sleep(GLANCE_SECONDS)
            found = look(count.pk, asker=asker, now=database_now())
            if found is not None:
                count = found
    finally:
        let_go(asker)


def _forget_haste(count: Count, asker: str) -> None:
    """What was too dear for the time of a request is not so for a page that waits."""
    with transaction.atomic():
        failed = Count.objects.select_for_update().filter(
            pk=count.pk, status=Count.Status.FAILED, code=TooDear.code
        )
        if failed.filter(askers=[asker]).exists():
            failed.update(ended_at=count.asked_at - REUSED_FOR)
        elif failed.update(status=Count.Status.WAITING, error="", code=""):
            doorbell.ring(COUNT)


def _refusal(count: Count) -> UserError:
    if count.status == Count.Status.CANCELLED:
        return Conflict("The count was stopped by somebody else. Ask again.")
    if count.code == TooDear.code:
        return TooDear(count.error)
    return Invalid(count.error, code=count.code)


def needed(
    rule: rules.Rule, context: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """What the rule takes from the event's context, and no more of it."""
    if context is None:
        return None
    codes = {path.partition(".")[0] for path in rules.event_values(rule)}
    return {code: context[code] for code in sorted(codes) if code in context}


def _stop_reading(count: Count) -> None:
    """Cancel the statement that counts, wherever it runs."""
    fetch_all(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = %s AND pid <> pg_backend_pid()",
        [_name(count)],
        using=source(),
    )


def _name(count: Count) -> str:
    """What the backend that counts is called meanwhile."""
    return f"smartcomm count {count.pk}"


# For workers


def work() -> int:
    """Count what is waiting, until nothing is, or enough are counting. How many."""
    done = 0
    now = database_now()
    Count.objects.filter(asked_at__lt=now - KEPT_FOR).delete()
    while count := take(now=database_now()):
        run(count, limit_ms=settings.SEGMENT_COUNT_SECONDS * 1000)
        done += 1
    return done


def take(*, now: datetime, only: UUID | None = None) -> Count | None:
    """The next count, for this worker alone; None if there is none, or enough run.

    One that nobody waits for any more is cancelled instead.
    """
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_TAKING])
        waiting = Count.objects.filter(
            Q(status=Count.Status.WAITING)
            | Q(status=Count.Status.RUNNING, alive_at__lt=now - ALIVE_FOR)
        )
        waiting.filter(wanted_at__lt=now - WANTED_FOR).update(
            status=Count.Status.CANCELLED, ended_at=now
        )
        if _running(now) >= settings.SEGMENT_COUNTS_AT_ONCE:
            return None
        if only is not None:
            waiting = waiting.filter(pk=only)
        count = waiting.select_for_update().order_by("asked_at").first()
        if count is not None:
            count.status = Count.Status.RUNNING
            count.began_at = count.alive_at = now
            count.progress = count.found = count.base = 0
            count.reach, count.sample = {}, []
            count.save()
        return count


def run(count: Count, *, limit_ms: int) -> None:
    """Count, and keep the result or the reason why there is none in the row."""
    began = time.monotonic()
    try:
        _count(count, limit_ms, began)
    except (Stopped, _NotWanted):
        _end(count, status=Count.Status.CANCELLED)
    except UserError as error:
        _end(
            count,
            status=Count.Status.FAILED,
            error=error.message,
            code=error.code,
            **(_instead(count) if isinstance(error, TooDear) else {}),
        )
    except Exception:
        logger.exception("segments.count_failed", count=str(count.pk))
        _end(
            count,
            status=Count.Status.FAILED,
            error=FAULT,
            code="internal",
        )


class _NotWanted(Exception):
    """Nobody waits for the count any more."""


def _count(count: Count, limit_ms: int, began: float) -> None:
    now = count.began_at or database_now()
    rule = rules.parse(count.rule, event_values=True)
    if count.context is not None:
        rule = bind(rule, count.context)
    known = Dictionary.of(rule)
    [(low, high)] = fetch_all(
        "SELECT min(id), max(id) FROM customers_customer", using=source()
    )
    ids: list[int] = []
    size, aim_ms = FIRST_RANGE, FIRST_MS
    upto = high or 0
    while low is not None and upto >= low:
        left_ms = limit_ms - _ms_since(began)
        if left_ms <= 0:
            raise _too_dear(count, rule, known, limit_ms, now)
        after = max(low - 1, upto - size)
        asked_at = time.monotonic()
        try:
            with read_only(
                min(left_ms, MOST_RANGE_MS),
                using=source(),
                application_name=_name(count),
            ):
                part = tally(
                    rule,
                    now=now,
                    known=known,
                    restrict=IdRange(after, upto),
                    show=SHOWN - len(ids),
                )
        except TooDear:
            if left_ms < MOST_RANGE_MS or size == LEAST_RANGE:
                raise _too_dear(count, rule, known, limit_ms, now) from None
            size = max(LEAST_RANGE, size // GROWTH)
            _go_on(count)
            continue
        took_ms = max(1, _ms_since(asked_at))
        size = max(
            LEAST_RANGE, min(size * GROWTH, round((upto - after) * aim_ms / took_ms))
        )
        aim_ms = min(LONGEST_MS, aim_ms * 2)
        upto = after
        ids += part.ids
        count.found += part.found
        count.base += part.base
        count.reach = {
            channel: count.reach.get(channel, 0) + number
            for channel, number in part.reach.items()
        }
        count.progress = (high - upto) / (high - low + 1)
        _go_on(count)
    with read_only(MOST_RANGE_MS, using=source()):
        sample = external_ids(ids)
    _end(
        count,
        status=Count.Status.DONE,
        sample=sample,
        took_ms=_ms_since(began),
        progress=1,
    )


def _instead(count: Count) -> dict[str, Any]:
    """What is told where counting is too dear: an estimate with more time for it."""
    try:
        about = preview(
            rules.parse(count.rule, event_values=True),
            exact=False,
            now=count.began_at,
            context=count.context,
            budget_ms=INSTEAD_MS,
        )
    except (UserError, Stopped):
        return {}
    return {
        "found": about.count,
        "margin": about.margin,
        "base": about.base,
        "reach": about.reach,
        "sample": about.sample,
    }


def _go_on(count: Count) -> None:
    """Tell how far it is. Raises _NotWanted when it is to stop."""
    now = database_now()
    is_wanted = Count.objects.filter(
        pk=count.pk,
        status=Count.Status.RUNNING,
        began_at=count.began_at,
        wanted_at__gte=now - WANTED_FOR,
    ).update(
        alive_at=now,
        progress=count.progress,
        found=count.found,
        base=count.base,
        reach=count.reach,
    )
    if not is_wanted:
        raise _NotWanted


def _end(count: Count, **values: Any) -> None:
    # Not one that was cancelled meanwhile, nor one that another worker has begun anew.
    Count.objects.filter(
        pk=count.pk, status=Count.Status.RUNNING, began_at=count.began_at
    ).update(ended_at=database_now(), **values)


def _too_dear(
    count: Count, rule: rules.Rule, known: Dictionary, limit_ms: int, now: datetime
) -> TooDear:
    _go_on(count)
    done = "near its beginning"
    if count.progress >= 0.01:
        all_seconds = limit_ms / 1000 / count.progress
        done = (
            f"after {count.progress * 100:.0f}\u00a0% of the customers; all of them "
            f"would take about {dearness.time_in_words(all_seconds)}"
        )
    return TooDear(
        f"Counting takes longer than {limit_ms / 1000:g} seconds, and was stopped "
        f"{done}. {dearness.why(rule, known=known, now=now)}"
    )


def _running(now: datetime) -> int:
    return Count.objects.filter(
        status=Count.Status.RUNNING, alive_at__gte=now - ALIVE_FOR
    ).count()


def _ms_since(moment: float) -> int:
    return round((time.monotonic() - moment) * 1000)

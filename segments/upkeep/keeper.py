"""The keeper: one round of all that keeps the members true.

Whoever holds the lock of the row of Upkeep is the keeper, for one transaction. So
several may run, none waits for another, and a keeper that is killed loses nothing but
the transaction it was in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from segments.compile import compile_rule
from segments.models import Due, Membership, Segment, Upkeep
from segments.upkeep import applying, clock, feed, meanings, recount
from segments.upkeep.meanings import Meaning, Meanings
from smartcomm.core.clock import database_now
from smartcomm.core.db import execute, fetch_all
from smartcomm.core.errors import UserError

logger = structlog.get_logger(__name__)

#: With nothing to do, the row of Upkeep is written this rarely.
SAY_EVERY = timedelta(seconds=5)

# All an idle round asks: whether there may be anything to do.
IS_IDLE = """
    SELECT NOT (
        events_upto < coalesce(pg_sequence_last_value(
            pg_get_serial_sequence('events_event', 'id')::regclass), 0)
        OR customers_upto < coalesce(pg_sequence_last_value(
            pg_get_serial_sequence('customers_customer', 'id')::regclass), 0)
        OR EXISTS (SELECT FROM segments_reminder)
        OR EXISTS (SELECT FROM segments_change)
        OR EXISTS (SELECT FROM segments_due WHERE due_at <= %(now)s)
        OR EXISTS (
            SELECT FROM segments_segment
             WHERE archived_at IS NULL AND kind = 'dynamic'
               AND (recount_edition IS NOT NULL
                    OR (recount_wanted_at IS NOT NULL
                        AND (retry_at IS NULL OR retry_at <= %(now)s))
                    OR looked_until < %(soon)s
                    OR turns_at <= %(now)s))
        OR counted_on IS DISTINCT FROM %(today)s
        OR kept_at IS NULL OR kept_at < %(a_while_ago)s OR kept_at > %(now)s)
      FROM segments_upkeep
"""

ADD_TO_COUNT = """
    UPDATE segments_segment SET count = greatest(count + %s, 0)
     WHERE id = %s AND edition = %s
"""
KEEP_DAY = """
    INSERT INTO segments_dailycount (segment_id, day, count)
    SELECT id, %s, count FROM segments_segment
     WHERE count IS NOT NULL AND archived_at IS NULL AND (%s OR id = ANY(%s::bigint[]))
        ON CONFLICT (segment_id, day) DO UPDATE SET count = excluded.count
     WHERE segments_dailycount.count <> excluded.count
"""

_meanings = Meanings()


@dataclass(frozen=True, slots=True)
class Round:
    """What a round of the keeper came to."""

    #: There is more to do at once.
    is_more: bool = False
    #: Somebody must end before what they are writing can be looked at.
    is_waiting: bool = False

    def __or__(self, other: Round) -> Round:
        return Round(self.is_more or other.is_more, self.is_waiting or other.is_waiting)


def keep(*, now: datetime | None = None) -> Round:
    """Look at a piece of all that may change members, in a few short transactions.

    With nothing to do it costs one query. A segment that fails stops no other.
    """
    now = now or database_now()
    if _is_idle(now):
        return Round()
    done = Round()
    try:
        for part in (_declare, _look_ahead, _feed, _recount):
            with transaction.atomic():
                upkeep = _lock()
                if upkeep is None:
                    return Round()  # Somebody else is at it.
                done |= part(upkeep, now)
    except BaseException:
        # What was learnt in a transaction that came to nothing may never have been so.
        _meanings.forget()
        raise
    return done


def keep_all(*, now: datetime | None = None, rounds: int = 10_000) -> None:
    """Go on until everything is as it should be at this moment, as far as it can be."""
    now = now or database_now()
    for _ in range(rounds):
        if not keep(now=now).is_more:
            return


def _is_idle(now: datetime) -> bool:
    rows = fetch_all(
        IS_IDLE,
        {
            "now": now,
            "soon": now + clock.AHEAD / 2,
            "a_while_ago": now - SAY_EVERY,
            "today": timezone.localdate(now),
        },
    )
    if not rows:
        Upkeep.objects.get_or_create(id=1)
        return False
    return bool(rows[0][0])


def _lock() -> Upkeep | None:
    rows = Upkeep.objects.select_for_update(skip_locked=True)
    return rows.filter(id=1).first()


def _segments(upkeep: Upkeep, now: datetime) -> dict[Segment, Meaning]:
    """The segments that are looked after, each with what it means."""
    rows = Segment.objects.filter(kind=Segment.Kind.DYNAMIC, archived_at=None)
    meant = {}
    for segment in rows.exclude(fingerprint="").order_by("pk"):
        try:
            meant[segment] = _meanings.of(segment, at=upkeep.meanings)
        except UserError as error:
            meanings.fail(segment, error.message, now=now, fingerprint="")
    return meant


def _declare(upkeep: Upkeep, now: datetime) -> Round:
    """See to what is no single customer's: rules, declarations, lists, who is gone."""
    told = _reminders()
    broken = Segment.objects.filter(
        Q(retry_at=None) | Q(retry_at__lte=now), fingerprint="", archived_at=None
    ).filter(recount_wanted_at__isnull=False, kind=Segment.Kind.DYNAMIC)
    if "meaning" in told or broken.exists():
        upkeep.meanings += 1
        upkeep.save(update_fields=["meanings"])
        meanings.refresh(now=now)
    if gone := [_number(what) for what in told if what.startswith("customer.")]:
        # Told to ourselves, so that the counts are put right.
        Membership.objects.filter(customer_id__in=gone)._raw_delete("default")
        told += _reminders()
    lists = sorted({_number(what) for what in told if what.startswith("members.")})
    for pk in lists:
        count = Membership.objects.filter(segment=pk).count()
        # Of a segment by a rule that was never counted, nothing is known.
        Segment.objects.filter(pk=pk).filter(
            Q(kind=Segment.Kind.STATIC) | Q(members_of__gt=0)
        ).update(count=count)
        lists_too = Segment.objects.filter(pk=pk, kind=Segment.Kind.STATIC)
        lists_too.update(counted_at=now, status=Segment.Status.FRESH)
    _keep_days(upkeep, lists, now)
    return Round()


def _look_ahead(upkeep: Upkeep, now: datetime) -> Round:
    meant = _segments(upkeep, now)
    turned = [s for s in meant if s.turns_at is not None and s.turns_at <= now]
    if turned:
        recount.want([segment.pk for segment in turned], now=now)
        for segment in turned:
            Segment.objects.filter(pk=segment.pk, edition=segment.edition).update(
                turns_at=meant[segment].looks.next_turn(now)
            )
    _, behind = clock.look_ahead(meant, now=now)
    if behind:
        recount.want([segment.pk for segment in behind], now=now, looked=False)
    return Round()


def _feed(upkeep: Upkeep, now: datetime) -> Round:
    meant = _segments(upkeep, now)
    taken = feed.take(upkeep, meant, now=now)
    if taken.overrun:
        pks = sorted(taken.overrun)
        recount.want(pks, now=now, looked=False)
        Due.objects.filter(segment__in=pks)._raw_delete("default")
    clock.note_edges(meant, taken.touched, now=now)
    more = _ask(taken.ask, meant, now=now)
    if taken.over:
        execute("DELETE FROM segments_due WHERE id = ANY(%s::bigint[])", [taken.over])
    # As late as can be: whoever saves a segment waits for these rows.
    for segment, number in more.items():
        execute(ADD_TO_COUNT, [number, segment.pk, segment.edition])
    is_up_to_date = not taken.is_more and (
        upkeep.events_upto >= upkeep.events_settled
        and upkeep.customers_upto >= upkeep.customers_settled
    )
    if is_up_to_date and not taken.overrun:
        upkeep.kept_at = upkeep.settled_at
    _keep_days(upkeep, [segment.pk for segment in more], now)
    upkeep.save()
    return Round(
        is_more=taken.is_more or bool(taken.rows), is_waiting=bool(upkeep.writers)
    )


def _ask(
    ask: Mapping[int, set[int]], meant: Mapping[Segment, Meaning], *, now: datetime
) -> dict[Segment, int]:
    """Ask these customers, and let them in and out. How many more each segment has."""
    segments = {segment.pk: segment for segment in meant}
    recount.limit_time()
    kept = []
    for pk in sorted(ask):
        segment = segments[pk]
        if segment.recount_edition is not None:
            clock.touch(segment, ask[pk], now=now)
        elif _is_kept(segment):
            kept.append(segment)
    more = {}
    try:
        with transaction.atomic(), applying.at_work():
            for segment in kept:
                more[segment] = _ask_one(
                    segment, meant[segment], ask[segment.pk], now=now
                )
    except Exception:
        # Once more, each on its own, to find out which it was.
        more = _ask_each(kept, ask, meant, now=now)
    return {segment: number for segment, number in more.items() if number}


def _ask_each(
    kept: list[Segment],
    ask: Mapping[int, set[int]],
    meant: Mapping[Segment, Meaning],
    *,
    now: datetime,
) -> dict[Segment, int]:
    more = {}
    for segment in kept:
        try:
            with transaction.atomic(), applying.at_work():
                more[segment] = _ask_one(
                    segment, meant[segment], ask[segment.pk], now=now
                )
        except Exception as error:
            meanings.fail(segment, recount.reason(error, segment), now=now)
    return more


def _is_kept(segment: Segment) -> bool:
    """Whether asking some is enough: all others are known, and no count awaited."""
    return (
        segment.members_of == segment.edition
        and segment.status != Segment.Status.FAILED
        and segment.looked_until is not None
    )


def _ask_one(
    segment: Segment, meaning: Meaning, ids: set[int], *, now: datetime
) -> int:
    asked = sorted(ids)
    query = compile_rule(
        meaning.rule, now=now, restrict=asked, dictionary=meaning.dictionary
    )
    moved = applying.apply_query(segment, query, asked, now=now)
    applying.announce(segment, moved, now=now)
    return moved.more


def _recount(upkeep: Upkeep, now: datetime) -> Round:
    meant = _segments(upkeep, now)
    is_more = recount.step(upkeep, meant, now=now)
    if is_more:
        _keep_days(upkeep, [segment.pk for segment in meant], now)
    return Round(is_more=is_more)


def _keep_days(upkeep: Upkeep, changed: list[int], now: datetime) -> None:
    """Keep how many members there are today, of those that have changed; at the first
    round of a day of all."""
    today = timezone.localdate(now)
    is_new_day = upkeep.counted_on != today
    if changed or is_new_day:
        execute(KEEP_DAY, [today, is_new_day, changed])
    if is_new_day:
        upkeep.counted_on = today
        upkeep.save(update_fields=["counted_on"])


def _reminders() -> list[str]:
    return [
        what for (what,) in fetch_all("DELETE FROM segments_reminder RETURNING what")
    ]


def _number(what: str) -> int:
    return int(what.partition(".")[2])

"""The numbers of the dashboard, bounded at any size of the tables.

The journals are only appended to, so a day is a range of ids (paging.first_id_since):
what is counted is the days shown, never the table. Days that cannot change any more
are kept in the cache; the rest is counted at most once a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, TypeVar

import structlog
from django.core.cache import cache
from django.db import models
from django.utils import timezone

from campaigns.models import Campaign, Run, Step, Version
from events.models import Event, PendingEvent, PendingSystemEvent
from messaging.models import Hold, Message
from smartcomm.core.db import fetch_all
from smartcomm.core.paging import Count, count, first_id_since

logger = structlog.get_logger(__name__)
T = TypeVar("T")

DAYS = 14
KEPT_SECONDS = 60
#: A message is sent, or given up, within its time to live: its day changes so long.
MESSAGES_SETTLE = timedelta(days=4)
#: An id may be given a moment before or after its neighbour's time was read.
DISORDER = timedelta(minutes=5)


@dataclass
class Day:
    """What was done on one day of the project's time zone.

    A message belongs to the day on which it was asked for, so that the numbers of a
    day add up.
    """

    date: date
    events: int = 0
    backfilled: int = 0
    runs: int = 0
    sent: int = 0
    suppressed: int = 0
    failed: int = 0


@dataclass(frozen=True)
class AtWork:
    """A campaign that is published or paused, with what it did today."""

    campaign: Campaign
    entered: int
    sent: int
    stopped: int


NONE = Count(0)


@dataclass(frozen=True)
class Queue:
    """Rows that wait for a worker, and for how long the oldest has."""

    name: str
    waiting: Count
    oldest: datetime | None
    age: timedelta = timedelta()
    #: Those beside them that wait for a campaign to be resumed, and for no worker.
    held: Count = NONE

    @property
    def tone(self) -> str:
        if not self.waiting.number or self.age < timedelta(minutes=1):
            return "good"
        return "warn" if self.age < timedelta(minutes=10) else "bad"


@dataclass(frozen=True)
class Numbers:
    """All of it, as of one moment. The last of the days is today."""

    days: list[Day]
    at_work: list[AtWork]
    failed_runs: int
    made_at: datetime

    @property
    def today(self) -> Day:
        return self.days[-1]

    def week(self, name: str) -> int:
        return sum(getattr(day, name) for day in self.days[-7:])


def numbers(*, now: datetime) -> Numbers:
    """The numbers, at most a minute old."""
    return _kept("numbers", KEPT_SECONDS, lambda: _numbers(now))


def _numbers(now: datetime) -> Numbers:
    return Numbers(
        days=last_days(now=now),
        at_work=campaigns_at_work(now=now),
        failed_runs=failed_runs(since=now - timedelta(days=7)),
        made_at=now,
    )


# --- days -------------------------------------------------------------------------


def last_days(*, now: datetime) -> list[Day]:
    """The last two weeks, oldest first, today last."""
    today = timezone.localdate(now)
    days = {day: Day(day) for day in (today - timedelta(days=n) for n in range(DAYS))}
    _fill(days, Event, "received_at", "is_backfill", _event, today)
    _fill(days, Run, "started_at", None, _run, today)
    settled = today - MESSAGES_SETTLE
    _fill(days, Message, "created_at", "status", _message, settled)
    return [days[day] for day in sorted(days)]


def _event(day: Day, is_backfill: bool, n: int) -> None:
    if is_backfill:
        day.backfilled += n
    else:
        day.events += n


def _run(day: Day, _: Any, n: int) -> None:
    day.runs += n


def _message(day: Day, status: str, n: int) -> None:
    if status in Message.WENT_OUT:
        day.sent += n
    elif status == Message.Status.SUPPRESSED:
        day.suppressed += n
    elif status == Message.Status.FAILED:
        day.failed += n


# Which day a row belongs to is asked of the list of midnights: one pass over the range.
PER_DAY = """
    SELECT width_bucket({time}, %(midnights)s::timestamptz[]) AS day, {kind}, count(*)
      FROM {table}
     WHERE id >= %(first)s AND {time} >= %(since)s {more}
     GROUP BY 1, 2
"""


def _fill(
    days: dict[date, Day],
    model: type[models.Model],
    at: str,
    kind: str | None,
    add: Callable[[Day, Any, int], None],
    final_before: date,
) -> None:
    """Add one journal's counts to the days; those before `final_before` may be kept."""
    table = model._meta.db_table
    known: dict[date, list[tuple[Any, int]]] = {}
    for day in days:
        if day < final_before:
            kept = _read(_key(table, day))
            if kept is not None:
                known[day] = kept
    missing = sorted(days.keys() - known.keys())
    counted: dict[date, list[tuple[Any, int]]] = {day: [] for day in missing}
    span = [day for day in sorted(days) if day >= missing[0]]
    midnights = [_midnight(day) for day in span]
    since = midnights[0]
    sql = PER_DAY.format(
        time=at,
        table=table,
        kind=kind or "NULL",
        more="AND NOT is_test" if model is Message else "",
    )
    first = first_id_since(model, at, since - DISORDER)
    for bucket, value, n in fetch_all(
        sql, {"midnights": midnights, "first": first, "since": since}
    ):
        day = span[bucket - 1]
        if day in counted:
            counted[day].append((value, n))
    for day, rows in counted.items():
        if day < final_before:
            _write(_key(table, day), rows, DAYS * 24 * 3600)
    for day, rows in {**known, **counted}.items():
        for value, n in rows:
            add(days[day], value, n)


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time()))


def _key(table: str, day: date) -> str:
    return f"numbers:{table}:{day.isoformat()}:{timezone.get_default_timezone_name()}"


# --- campaigns --------------------------------------------------------------------

TODAY_BY_CAMPAIGN = """
    SELECT campaign_id, count(*) FROM campaigns_run
     WHERE id >= %s AND started_at >= %s GROUP BY 1
"""
MESSAGES_BY_CAMPAIGN = """
    SELECT campaign_id, status, count(*) FROM messaging_message
     WHERE id >= %s AND created_at >= %s AND NOT is_test GROUP BY 1, 2
"""


def campaigns_at_work(*, now: datetime, most: int = 8) -> list[AtWork]:
    """The published and paused campaigns, those that did most today first."""
    at_work = Campaign.objects.filter(
        status__in=[Campaign.Status.PUBLISHED, Campaign.Status.PAUSED]
    )
    since = _midnight(timezone.localdate(now))
    first = first_id_since(Run, "started_at", since - DISORDER)
    entered = dict(fetch_all(TODAY_BY_CAMPAIGN, [first, since]))
    first = first_id_since(Message, "created_at", since - DISORDER)
    sent: dict[int, int] = {}
    stopped: dict[int, int] = {}
    for campaign_id, status, n in fetch_all(MESSAGES_BY_CAMPAIGN, [first, since]):
        if status in Message.WENT_OUT:
            sent[campaign_id] = sent.get(campaign_id, 0) + n
        elif status in (Message.Status.SUPPRESSED, Message.Status.FAILED):
            stopped[campaign_id] = stopped.get(campaign_id, 0) + n
    rows = [
        AtWork(c, entered.get(c.pk, 0), sent.get(c.pk, 0), stopped.get(c.pk, 0))
        for c in at_work
    ]
    rows.sort(key=lambda row: (-row.entered, -row.sent, row.campaign.name.lower()))
    return rows[:most]


# By the index of the reports (version, step, status), a step at a time.
FAILED_RUNS = """
    SELECT coalesce(sum(found.n), 0)
      FROM unnest(%(steps)s::bigint[], %(versions)s::bigint[]) AS wanted(step, version)
     CROSS JOIN LATERAL (
         SELECT count(*) AS n FROM (
             SELECT 1 FROM campaigns_run
              WHERE version_id = wanted.version AND step_id = wanted.step
                AND status = 'failed' AND finished_at >= %(since)s
              LIMIT 1000
         ) AS failed
     ) AS found
"""


def failed_runs(*, since: datetime) -> int:
    """How many runs of campaigns at work failed since then, up to 1,000 a step."""
    at_work = [Campaign.Status.PUBLISHED, Campaign.Status.PAUSED]
    versions = Version.objects.filter(campaign__status__in=at_work)
    steps = Step.objects.filter(version__in=versions).order_by()
    pairs = list(steps.values_list("pk", "version_id"))
    if not pairs:
        return 0
    params = {
        "steps": [step for step, _ in pairs],
        "versions": [version for _, version in pairs],
        "since": since,
    }
    return int(fetch_all(FAILED_RUNS, params)[0][0])


# --- queues -----------------------------------------------------------------------


def queues(*, now: datetime) -> list[Queue]:
    """What waits for workers just now: counted up to 10,000, by their own indexes.

    What a paused campaign holds back waits for no worker, and is told apart.
    """
    pending = PendingEvent.objects.order_by("pk")
    systems = PendingSystemEvent.objects.order_by("pk")
    messages = Message.objects.filter(status=Message.Status.QUEUED, due_at__lte=now)
    held = list(Hold.objects.values_list("campaign_id", flat=True))
    return [
        _queue("Events to look at", pending, "event__received_at", now),
        _queue("System events to look at", systems, "system_event__received_at", now),
        _runs(now),
        _queue(
            "Messages to send",
            messages.exclude(campaign_id__in=held).order_by("due_at", "pk"),
            "due_at",
            now,
            held=count(messages.filter(campaign_id__in=held)),
        ),
    ]


def _runs(now: datetime) -> Queue:
    """Campaign by campaign, along the index by which the engine claims them."""
    due = Run.objects.filter(status=Run.Status.WAITING, due_at__lte=now)
    paused = Campaign.objects.filter(status=Campaign.Status.PAUSED)
    at_work = Campaign.objects.exclude(status=Campaign.Status.PAUSED)
    first = due.filter(campaign=models.OuterRef("pk")).order_by("due_at", "pk")
    oldest = at_work.aggregate(
        oldest=models.Min(models.Subquery(first.values("due_at")[:1]))
    )["oldest"]
    waiting, held = (
        count(due.filter(campaign_id__in=list(campaigns.values_list("pk", flat=True))))
        for campaigns in (at_work, paused)
    )
    return Queue("Runs to go on", waiting, oldest, _age(oldest, now), held)


def _queue(
    name: str,
    rows: models.QuerySet[Any],
    at: str,
    now: datetime,
    *,
    held: Count = NONE,
) -> Queue:
    oldest = rows.values_list(at, flat=True).first()
    # A queue is short or it is news: the estimate of the table would be neither.
    return Queue(name, count(rows.filter(pk__gt=0)), oldest, _age(oldest, now), held)


def _age(oldest: datetime | None, now: datetime) -> timedelta:
    return max(now - oldest, timedelta()) if oldest else timedelta()


# --- the cache --------------------------------------------------------------------


def _kept(key: str, seconds: int, make: Callable[[], T]) -> T:
    value: T | None = _read(key)
    if value is None:
        value = make()
        _write(key, value, seconds)
    return value


def _read(key: str) -> Any:
    try:
        return cache.get(key)
    except Exception:
        # With the cache away the page is slower, and still right.
        logger.warning("numbers.cache_away")
        return None


def _write(key: str, value: Any, seconds: int) -> None:
    try:
        cache.set(key, value, seconds)
    except Exception:
        logger.warning("numbers.cache_away")

"""The numbers of a campaign day by day, in the days of the installation's zone.

For each version and day: how many entered, finished and failed, and how many were under
way at its end, so that under way = under way the day before + entered - finished -
failed. For each step who came and which way they left. Messages count for the day on
which they were queued, with what has become of them since, so that queued = sent +
failed + suppressed + pending + unknown. All of an equation is of one statement.

Where a day begins is worked out here, once for each day and not for each row.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

from campaigns.models import Run, Version
from segments import moments
from smartcomm.core.db import fetch_all

#: So many days can be asked for at once.
MOST_DAYS = 366

# Bucket 0 is before the first day, and those over by then are of no interest.
RUNS = """
    SELECT version_id, status, width_bucket(started_at, %(begins)s::timestamptz[]),
           width_bucket(finished_at, %(begins)s::timestamptz[]), count(*)
      FROM campaigns_run
     WHERE version_id = ANY(%(versions)s)
     GROUP BY 1, 2, 3, 4
"""
PASSAGES = """
    SELECT step_id, way, width_bucket(left_at, %(begins)s::timestamptz[]), count(*)
      FROM campaigns_passage
     WHERE step_id = ANY(%(steps)s) AND left_at >= %(begin)s AND left_at < %(end)s
     GROUP BY 1, 2, 3
"""
MESSAGES = """
    SELECT version_id, status, reason,
           width_bucket(created_at, %(begins)s::timestamptz[]), count(*)
      FROM messaging_message
     WHERE campaign_id = %(campaign)s AND version_id = ANY(%(versions)s)
       AND NOT is_test AND created_at >= %(begin)s AND created_at < %(end)s
     GROUP BY 1, 2, 3, 4
"""


@dataclass(frozen=True)
class Days:
    """The days from the first to the last, both included."""

    first: date
    last: date

    @classmethod
    def until(cls, now: datetime, *, number: int) -> Days:
        """So many days, today among them."""
        today = moments.today(now)
        return cls(today - timedelta(days=number - 1), today)

    def __iter__(self) -> Any:
        return (self.first + timedelta(days=n) for n in range(len(self)))

    def __len__(self) -> int:
        return (self.last - self.first).days + 1

    @cached_property
    def begins(self) -> list[datetime]:
        """When each day begins, and the one after the last."""
        return [
            moments.start_of(self.first + timedelta(days=n))
            for n in range(len(self) + 1)
        ]


#: The statuses, reasons and numbers of messages, as `report.message_counts` takes them.
MessageRows = list[tuple[str, str, int]]


@dataclass(frozen=True)
class Told:
    """What happened in one version, by day: places in Days, from 0."""

    entered: Counter[int]
    finished: Counter[int]
    failed: Counter[int]
    #: At the end of each day.
    waiting: list[int]
    #: Step's key → day → way → how many left.
    left: Mapping[str, Mapping[int, Counter[str]]]
    messages: Mapping[int, MessageRows]


def by_day(
    campaign_id: int, versions: Sequence[Version], days: Days
) -> dict[int, Told]:
    """For each version, by id. Three queries; the steps of the versions are loaded."""
    params = {
        "campaign": campaign_id,
        "versions": [version.pk for version in versions],
        "steps": [step.pk for version in versions for step in version.steps.all()],
        "begins": days.begins,
        "begin": days.begins[0],
        "end": days.begins[-1],
    }
    runs: dict[int, list[tuple[str, int, int | None, int]]] = defaultdict(list)
    for version_id, *run in fetch_all(RUNS, params):
        runs[version_id].append(tuple(run))
    left: dict[int, dict[int, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for step_id, way, bucket, count in fetch_all(PASSAGES, params):
        left[step_id][bucket - 1][way] += count
    messages: dict[int, dict[int, MessageRows]] = defaultdict(lambda: defaultdict(list))
    for version_id, status, reason, bucket, count in fetch_all(MESSAGES, params):
        messages[version_id][bucket - 1].append((status, reason, count))
    return {
        version.pk: Told(
            *_of_runs(runs[version.pk], len(days)),
            left={step.key: left[step.pk] for step in version.steps.all()},
            messages=messages[version.pk],
        )
        for version in versions
    }


def _of_runs(
    rows: Iterable[tuple[str, int, int | None, int]], days: int
) -> tuple[Counter[int], Counter[int], Counter[int], list[int]]:
    """Entered, finished and failed for each day, and who was under way at its end."""
    entered: Counter[int] = Counter()
    ended: dict[str, Counter[int]] = defaultdict(Counter)
    for status, start, end, count in rows:
        entered[start - 1] += count
        if end is not None:
            ended[status][end - 1] += count
    finished, failed = ended[Run.Status.FINISHED], ended[Run.Status.FAILED]
    waiting, now = [], entered[-1] - finished[-1] - failed[-1]
    for day in range(days):
        now += entered[day] - finished[day] - failed[day]
        waiting.append(now)
    return entered, finished, failed, waiting

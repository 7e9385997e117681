"""Reports as they are shown: counted anew where that is quick, kept where it is dear.

A report of many runs is kept with its time once counting took long. Whoever looks at it
when it is old gets it as it is, and has it counted anew in the background. Pages never
wait for the first count of a large campaign either. All numbers of a report are of one
count, so it adds up however old it is.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from operator import methodcaller
from typing import Any

from django.db.models import F

from campaigns.bells import COUNT
from campaigns.days import Days
from campaigns.models import Campaign, KeptReport, Run
from campaigns.report import report
from smartcomm.core import doorbell
from smartcomm.core.clock import database_now

#: What takes longer to count is kept, and counted by whoever has time.
DEAR = timedelta(milliseconds=700)
#: With more runs a campaign is large: its report is kept however long counting took.
LARGE = 50_000
#: A kept report is old after so many times what it took, and not before this time.
TIMES = 20
LEAST = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Counted:
    """A report, and when it was counted."""

    answer: dict[str, Any]
    at: datetime
    #: When it is worth looking again.
    fresh_for: timedelta


def reported(campaign: Campaign, *, days: int = 0, now: datetime) -> Counted:
    """The report of a campaign, with so many days until today."""
    kept = _find(campaign, days)
    if kept is None or not kept.answer:
        return count(campaign, days=days, now=now)
    return _old(kept, now=now)


def glance(campaign: Campaign, *, days: int = 0, now: datetime) -> Counted | None:
    """The same for those who do not wait; None while it is counted for the first time,
    in the background."""
    kept = _find(campaign, days)
    if kept is None:
        if not _is_large(campaign):
            return count(campaign, days=days, now=now)
        KeptReport.objects.bulk_create(
            [
                KeptReport(
                    campaign=campaign,
                    days=days,
                    counted_at=now,
                    took_ms=0,
                    wanted_at=now,
                )
            ],
            ignore_conflicts=True,
        )
        doorbell.ring(COUNT)
        return None
    return _old(kept, now=now) if kept.answer else None


def count(campaign: Campaign, *, days: int = 0, now: datetime) -> Counted:
    """Count anew, and keep it if that was dear or the campaign is large."""
    began = time.monotonic()
    answer = report(campaign, days=Days.until(now, number=days) if days else None)
    took = timedelta(seconds=time.monotonic() - began)
    took_ms = round(took.total_seconds() * 1000)
    if took < DEAR and not _is_large(campaign):
        KeptReport.objects.filter(campaign=campaign, days=days).delete()
    else:
        KeptReport.objects.update_or_create(
            campaign=campaign,
            days=days,
            defaults={
                "answer": json.dumps(answer, default=methodcaller("isoformat")),
                "counted_at": now,
                "took_ms": took_ms,
                "wanted_at": None,
            },
        )
    return Counted(answer, now, _fresh_for(took_ms))


def count_next(*, now: datetime | None = None) -> int:
    """Count the report that was wanted first. Returns how many were wanted."""
    now = now or database_now()
    wanted = (
        KeptReport.objects.filter(wanted_at__lte=now)
        .select_related("campaign")
        .order_by("wanted_at", "pk")
        .first()
    )
    if wanted is None:
        return 0
    # Its turn comes later again if this worker dies; and nobody else counts meanwhile.
    if KeptReport.objects.filter(pk=wanted.pk, wanted_at=wanted.wanted_at).update(
        wanted_at=F("wanted_at") + timedelta(minutes=10)
    ):
        count(wanted.campaign, days=wanted.days, now=now)
    return 1


def _find(campaign: Campaign, days: int) -> KeptReport | None:
    return KeptReport.objects.filter(campaign=campaign, days=days).first()


def _old(kept: KeptReport, *, now: datetime) -> Counted:
    """What was kept; counted anew in the background where it is too old."""
    fresh_for = _fresh_for(kept.took_ms)
    if kept.counted_at < now - fresh_for and kept.wanted_at is None:
        KeptReport.objects.filter(pk=kept.pk).update(wanted_at=now)
        doorbell.ring(COUNT)
    return Counted(_alive(kept.answer), kept.counted_at, fresh_for)


def _is_large(campaign: Campaign) -> bool:
    """Read from an index, as far as the limit."""
    return Run.objects.filter(campaign=campaign).order_by("-pk")[LARGE:].exists()


def _fresh_for(took_ms: int) -> timedelta:
    return max(LEAST, TIMES * timedelta(milliseconds=took_ms))


def _alive(text: str) -> dict[str, Any]:
    """A report that was kept, with its times and days."""
    answer: dict[str, Any] = json.loads(text)
    for numbers in answer["versions"]:
        for holder, name in (
            (numbers, "published_at"),
            *((goal, "measured_at") for goal in numbers["goals"]),
        ):
            if holder[name] is not None:
                holder[name] = datetime.fromisoformat(holder[name])
        for day in numbers.get("days", ()):
            day["day"] = date.fromisoformat(day["day"])
    return answer

"""Keeping the counts of saved segments: when they were taken is always shown."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import structlog
from django.db.models import F, Q
from django.utils import timezone

from segments import preview, rules
from segments.models import Segment
from smartcomm.core.errors import UserError

logger = structlog.get_logger(__name__)

#: A count older than this is taken again.
FRESH_FOR = timedelta(minutes=15)
#: Counting in the background may take longer than while somebody waits.
LIMIT_MS = 60_000
REFRESH = "segments.tasks.refresh_stale"


def refresh_stale(*, now: datetime | None = None) -> int:
    """Count the segments whose number is missing or old. Returns how many.

    Several workers may do this at once: each segment is taken by one of them.
    """
    now = now or timezone.now()
    counted = 0
    while segment := _take(now):
        count_segment(segment, now=now)
        counted += 1
    return counted


def count_segment(segment: Segment, *, now: datetime | None = None) -> Segment:
    """Count a segment and keep the number. A failure is kept too, beside the last
    number that was good. Returns the segment as it is now.

    A rule that is changed meanwhile wins: the number of the old one is dropped.
    """
    now = now or timezone.now()
    began = time.monotonic()
    values: dict[str, object]
    try:
        found = preview.count(rules.parse(segment.rule), now=now, limit_ms=LIMIT_MS)
    except UserError as error:
        values = {"status": Segment.Status.FAILED, "error": error.message}
    except Exception:
        logger.exception("segments.count_failed", segment=segment.pk)
        values = {
            "status": Segment.Status.FAILED,
            "error": "Counting failed. Whoever runs this installation finds the "
            "cause in its log.",
        }
    else:
        values = {
            "status": Segment.Status.FRESH,
            "error": "",
            "count": found,
            "counted_at": now,
            "took_ms": round((time.monotonic() - began) * 1000),
        }
    Segment.objects.filter(pk=segment.pk, rule=segment.rule).update(
        tried_at=now, **values
    )
    segment.refresh_from_db()
    return segment


def _take(now: datetime) -> Segment | None:
    """The next segment to count, for this worker alone."""
    due = Segment.objects.filter(
        Q(tried_at=None)
        | Q(tried_at__lte=now - FRESH_FOR)
        # Its rule has been changed since it was tried.
        | Q(status=Segment.Status.NEW, tried_at__lt=F("updated_at"))
    )
    for segment in due.order_by(F("tried_at").asc(nulls_first=True), "pk"):
        if _claim(segment, now):
            return segment
    return None


def _claim(segment: Segment, now: datetime) -> bool:
    """Only the first of those who saw the segment as it was gets it."""
    seen = Segment.objects.filter(pk=segment.pk, tried_at=segment.tried_at)
    return bool(seen.update(tried_at=now))

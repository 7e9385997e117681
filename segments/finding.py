"""Which of the saved segments are listed, in the back office and by the API."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F, Q, QuerySet

from segments.models import Segment, Upkeep
from segments.upkeep.states import is_away

Status = Segment.Status


def with_text(rows: QuerySet[Segment], text: str) -> QuerySet[Segment]:
    """Those whose name or description has every word of it."""
    for word in text.split():
        rows = rows.filter(Q(name__icontains=word) | Q(description__icontains=word))
    return rows


def with_status(
    rows: QuerySet[Segment], status: str, *, now: datetime
) -> QuerySet[Segment]:
    """Those in this state, as `upkeep.state` tells it of each. Costs a query more."""
    kept_at = Upkeep.objects.values_list("kept_at", flat=True).first()
    nobody_keeps = is_away(kept_at, now)
    is_list, is_archived = Q(kind=Segment.Kind.STATIC), Q(archived_at__isnull=False)
    failed = Q(status=Status.FAILED)
    counting = Q(recount_edition__isnull=False) | (
        Q(recount_wanted_at__isnull=False) & ~Q(members_of=F("edition"))
    )
    kept = Q(members_of__gt=0)
    by_rule = ~is_list & ~is_archived
    well = by_rule & ~failed & ~counting & kept
    match status:
        case Status.FAILED:
            return rows.filter(by_rule & failed)
        case Status.COMPUTING:
            return rows.filter(by_rule & ~failed & counting)
        case Status.NEW:
            return rows.filter(by_rule & ~failed & ~counting & ~kept)
        case Status.STALE:
            return rows.filter(
                (~is_list & is_archived) | (well if nobody_keeps else Q(pk=0))
            )
        case Status.FRESH:
            return rows.filter(is_list | (Q(pk=0) if nobody_keeps else well))
    return rows.none()

"""How well the members of a segment are known, for people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet, Subquery

from segments.models import Segment, Upkeep

#: Nobody has kept the members for so long: they are stale.
STALE_AFTER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class State:
    """What to show beside the members of a segment."""

    #: One of Segment.Status; also "stale", which no row holds.
    status: str
    #: A whole sentence for people.
    words: str
    #: How much of a count is done, from 0 to 100; None where none is under way.
    percent: int | None
    #: As of when the members are right; None where they never were counted.
    since: datetime | None


def with_state(segments: QuerySet[Segment]) -> QuerySet[Segment]:
    """Segments of which each can tell its state without another query."""
    return segments.annotate(kept_at=Subquery(Upkeep.objects.values("kept_at")[:1]))


def state(segment: Segment, now: datetime) -> State:
    """How well the members are known. One small query, unless it came `with_state`."""
    if "kept_at" in segment.__dict__:
        return _state(segment, segment.__dict__["kept_at"], now)
    kept_at = Upkeep.objects.values_list("kept_at", flat=True).first()
    return _state(segment, kept_at, now)


def stale_since(now: datetime) -> datetime | None:
    """As of when all members are right, if that is too long ago; None if it is not, or
    nothing was ever kept."""
    kept_at = Upkeep.objects.values_list("kept_at", flat=True).first()
    return kept_at if kept_at and is_away(kept_at, now) else None


def is_away(kept_at: datetime | None, now: datetime) -> bool:
    """Whether nobody has kept the members for too long."""
    return kept_at is None or kept_at < now - STALE_AFTER


def _state(segment: Segment, kept_at: datetime | None, now: datetime) -> State:
    since = segment.counted_at
    if segment.is_static:
        return State(Segment.Status.FRESH, "A list: its members are fixed.", None, now)
    if segment.is_archived:
        return State(
            Segment.Status.STALE,
            "Archived: the members are not kept up to date.",
            None,
            min(since, segment.archived_at or since) if since else None,
        )
    if since is not None and kept_at is not None:
        since = max(since, kept_at)
    if segment.status == Segment.Status.FAILED:
        since = segment.failed_at if segment.counted_at else None
        return State(Segment.Status.FAILED, f"Failed: {segment.error}", None, since)
    if segment.is_counting:
        # Since then nobody was put in or out.
        stood = segment.recount_wanted_at or segment.recount_began_at
        if since is not None and stood is not None:
            since = min(since, stood)
        has_old = segment.members_of > 0
        words = f"Counting, {segment.percent} % done."
        if has_old and segment.members_of != segment.edition:
            words += " Until then, these are the members by the former rule."
        return State(Segment.Status.COMPUTING, words, segment.percent, since)
    if segment.members_of == 0:
        return State(Segment.Status.NEW, "Not counted yet.", None, None)
    if is_away(kept_at, now):
        return State(
            Segment.Status.STALE,
            "Stale: nobody has kept the members up to date since then. "
            "Are the workers running?",
            None,
            since,
        )
    return State(Segment.Status.FRESH, "Fresh.", None, since)

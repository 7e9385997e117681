"""Events that were refused: fix the cause, then send them through the door again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from events.ingest import ACCEPTED, DUPLICATE, record_events
from events.models import Format, Kind, RejectedEvent
from events.wire import MAX_ITEMS
from smartcomm.core.db import batches, claim
from smartcomm.core.strict_json import decode_item


@dataclass
class Replayed:
    """What became of the rejected events that were replayed."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0


def replay(rejected: QuerySet[RejectedEvent]) -> Replayed:
    """Record these events now. Those still refused stay, with the reason of today.

    Safe to repeat and to run twice at once: an event is replayed once, and its id
    counts once.
    """
    total = Replayed()
    pks = rejected.filter(status=RejectedEvent.Status.OPEN).order_by("pk")
    for batch in batches(pks.values_list("pk", flat=True).iterator(), MAX_ITEMS):
        _replay_batch(batch, total)
    return total


@transaction.atomic
def _replay_batch(pks: list[int], total: Replayed) -> None:
    now = timezone.now()
    open_rows = RejectedEvent.objects.filter(
        pk__in=pks, status=RejectedEvent.Status.OPEN
    ).order_by("pk")
    groups: dict[tuple[int, str, str], list[RejectedEvent]] = defaultdict(list)
    for row in claim(open_rows, len(pks)):
        groups[row.source_id, row.kind, row.format].append(row)
    for (_, kind, format), rows in groups.items():
        recorded = record_events(
            [_as_sent(row) for row in rows],
            source=rows[0].source,
            kind=Kind(kind),
            format=Format(format),
            now=now,
            keep_rejected=False,
        )
        for row, result in zip(rows, recorded.results, strict=True):
            if result.status in (ACCEPTED, DUPLICATE):
                row.status, row.replayed_at = RejectedEvent.Status.REPLAYED, now
            else:
                row.code, row.field = result.code, result.field[:255]
                row.message = result.message
        RejectedEvent.objects.bulk_update(
            rows, ["status", "replayed_at", "code", "field", "message"]
        )
        total.accepted += recorded.accepted
        total.duplicates += recorded.duplicates
        total.rejected += recorded.rejected


def _as_sent(row: RejectedEvent) -> object:
    """What the source sent; an event without a time happened when it came."""
    data = decode_item(row.payload)
    if isinstance(data, dict) and data.get("occurred_at") is None:
        return data | {"occurred_at": row.received_at.isoformat()}
    return data

"""What came of a rehearsal, read from the stage: as JSON, kept with the order."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import Count
from django.utils import timezone

from campaigns.engine import NOT_SENT
from campaigns.models import Broadcast, Campaign, Passage, Run, TurnedAway, Version
from campaigns.portions import still_to_take
from campaigns.rehearsal.replay import Replayed
from campaigns.report import report
from campaigns.triggers import PLANNED
from customers.models import Customer
from events.models import Event, SystemEvent
from messaging.models import Message
from smartcomm.core.db import fetch_all

MINUTE = timedelta(minutes=1)
SAMPLES = 10
#: So many different reasons are told of each kind.
REASONS = 10

# A day of the installation.
RUNS_BY_DAY = """
    SELECT (started_at AT TIME ZONE %s)::date::text, count(*)
      FROM campaigns_run GROUP BY 1 ORDER BY 1
"""
MESSAGES_BY_DAY = """
    SELECT (sent_at AT TIME ZONE %s)::date::text, channel, count(*)
      FROM messaging_message WHERE sent_at IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
"""
# Spread over all of them, and the same each time.
SAMPLE = """
    SELECT id FROM messaging_message
     WHERE sent_at IS NOT NULL ORDER BY md5(customer_id || step || id) LIMIT %s
"""


def outcome(version: Version, replayed: Replayed) -> dict[str, Any]:
    """The numbers and samples of a rehearsal. A constant number of queries."""
    campaign = Campaign.objects.get(pk=version.campaign_id)
    [numbers] = report(campaign)["versions"]
    for real in ("published_at", "goals"):
        numbers.pop(real)
    zone = timezone.get_default_timezone_name()
    return {
        "events": replayed.events,
        # 0: right to the second.
        "tick_minutes": round(replayed.tick / MINUTE) if replayed.tick else 0,
        "turned_away": TurnedAway.objects.count(),
        "left": _left(),
        "report": numbers,
        "runs_by_day": dict(fetch_all(RUNS_BY_DAY, [zone])),
        "messages_by_day": [
            {"day": day, "channel": channel, "count": count}
            for day, channel, count in fetch_all(MESSAGES_BY_DAY, [zone])
        ],
        "missing_variables": _reasons(
            Message.objects.filter(reason=Message.Reason.MISSING_VARIABLE), "detail"
        ),
        "why": _reasons(
            # Of those who were not written to the messages tell.
            Passage.objects.exclude(reason="").exclude(way=NOT_SENT),
            "reason",
        ),
        "failed": _reasons(Run.objects.filter(status=Run.Status.FAILED), "reason"),
        "samples": _samples(is_planned=version.trigger_kind in PLANNED),
    }


def _left() -> int:
    """How many a pace would have taken later: they matched at the last portion."""
    under_way = Broadcast.objects.filter(status=Broadcast.Status.RUNNING)
    return sum(still_to_take(one) or 0 for one in under_way.select_related("version"))


def _reasons(rows: Any, column: str) -> list[dict[str, Any]]:
    found = (
        rows.order_by()
        .values_list(column)
        .annotate(count=Count("pk"))
        .order_by("-count", column)[:REASONS]
    )
    return [{"reason": reason, "count": count} for reason, count in found]


def _samples(*, is_planned: bool) -> list[dict[str, Any]]:
    ids = [pk for (pk,) in fetch_all(SAMPLE, [SAMPLES])]
    messages = list(Message.objects.filter(pk__in=ids).order_by("sent_at", "pk"))
    customers = Customer.objects.in_bulk({one.customer_id for one in messages})
    events = {
        one.pk: one
        for one in Event.objects.filter(
            pk__in=[one.event_id for one in messages if one.event_id],
            customer__in=[one.customer_id for one in messages],
        ).select_related("type")
    }
    system = SystemEvent.objects.select_related("type").in_bulk(
        {one.system_event_id for one in messages if one.system_event_id}
    )
    samples = []
    for one in messages:
        event = events.get(one.event_id or 0) or system.get(one.system_event_id or 0)
        customer = customers.get(one.customer_id)
        samples.append(
            {
                "channel": one.channel,
                "step": one.step,
                "customer": customer.external_id if customer else "",
                "customer_id": one.customer_id,
                "address": one.address,
                "event": event.type.name if event else "",
                "event_id": event.external_id if event else "",
                "event_kind": event._meta.model_name if event else "",
                # Planned ones are on the stage only.
                "event_pk": event.pk if event and not is_planned else None,
                "occurred_at": event.occurred_at.isoformat() if event else None,
                "sent_at": one.sent_at.isoformat() if one.sent_at else None,
                "subject": one.subject,
                "body": one.body,
                "html": one.html,
            }
        )
    return samples

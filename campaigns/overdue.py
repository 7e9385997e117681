"""What became due while a campaign was paused; leaving out what is too old by now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Min, QuerySet

from campaigns import planned
from campaigns.models import Broadcast, Campaign, Run, WebhookCall
from campaigns.webhooks import queue as calls
from messaging import queue
from messaging.models import Message
from segments.answers import on

LEFT_OUT = (
    "Left out when the campaign was resumed {resumed}: it had been due before {due}."
)


@dataclass(frozen=True, slots=True)
class Overdue:
    """How much waits for a campaign to go on, and since when at the longest."""

    runs: int
    messages: int
    calls: int
    broadcasts: int
    #: Planned times.
    times: int
    oldest: datetime | None

    def __bool__(self) -> bool:
        return bool(
            self.runs or self.messages or self.calls or self.broadcasts or self.times
        )


def overdue(campaign: Campaign, *, before: datetime) -> Overdue:
    """What should have gone on before this time. Five queries."""
    found = [
        rows.aggregate(count=Count("pk"), oldest=Min("due_at"))
        for rows in (
            _runs(campaign, before),
            _messages(campaign, before),
            _calls(campaign, before),
            _broadcasts(campaign, before),
        )
    ]
    runs, messages, of_calls, broadcasts = (one["count"] for one in found)
    times = planned.missed(campaign, before=before)
    since = [one["oldest"] for one in found if one["oldest"]] + times[:1]
    oldest = min(since, default=None)
    return Overdue(runs, messages, of_calls, broadcasts, len(times), oldest)


def skip(campaign: Campaign, *, before: datetime, now: datetime) -> None:
    """End what should have gone on before this time. Call inside a transaction, with
    the campaign paused, so that nobody else is at it.

    A run whose message or call is left out ends with it, and says why.
    """
    reason = LEFT_OUT.format(resumed=on(now), due=on(before))
    planned.leave_out(campaign, before=before, reason=reason, now=now)
    _broadcasts(campaign, before).update(
        status=Broadcast.Status.FINISHED, reason=reason, finished_at=now
    )
    _end(_runs(campaign, before), reason, now=now)
    for cancel in (queue.cancel_due, calls.cancel_due):
        while ids := cancel(campaign.pk, before=before, reason=reason, now=now):
            waiting = Run.objects.filter(pk__in=ids, status=Run.Status.WAITING)
            _end(waiting, reason, now=now)


def _runs(campaign: Campaign, before: datetime) -> QuerySet[Run]:
    return Run.objects.filter(
        campaign=campaign, status=Run.Status.WAITING, due_at__lt=before
    )


def _messages(campaign: Campaign, before: datetime) -> QuerySet[Message]:
    return Message.objects.filter(
        campaign_id=campaign.pk, status=Message.Status.QUEUED, due_at__lt=before
    )


def _calls(campaign: Campaign, before: datetime) -> QuerySet[WebhookCall]:
    return WebhookCall.objects.filter(
        campaign=campaign, status=WebhookCall.Status.QUEUED, due_at__lt=before
    )


def _broadcasts(campaign: Campaign, before: datetime) -> QuerySet[Broadcast]:
    """One with a pace is never overdue: what a pause kept from it, it takes later."""
    return Broadcast.objects.filter(
        campaign=campaign,
        status=Broadcast.Status.RUNNING,
        due_at__lt=before,
        version__pace__isnull=True,
    )


def _end(runs: QuerySet[Run], reason: str, *, now: datetime) -> None:
    runs.update(status=Run.Status.FINISHED, due_at=None, finished_at=now, reason=reason)

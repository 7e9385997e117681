"""Lines for a profile: a campaign, and what became of the customer's latest event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Exists, Max, OuterRef, Q

from campaigns.models import (
    Campaign,
    Run,
    Version,
)
from campaigns.triggers import PLANNED
from campaigns.why.shapes import (
    Outcome,
    WhyLine,
)
from campaigns.why.telling import in_short, line_of
from campaigns.why.verdicts import History, Known, Verdict
from customers.models import Customer
from events.history import Item, items
from events.models import (
    Event,
    Kind,
    SystemEvent,
)
from smartcomm.core.paging import newest_below

#: So many of a customer's latest events, and so many campaigns, are looked at.
LATELY = 50
MOST_CAMPAIGNS = 30


@dataclass(frozen=True)
class Line:
    """A campaign and what became of the customer's latest event in it."""

    campaign: Campaign
    line: WhyLine


def lately(customer: Customer, *, now: datetime) -> list[Line]:
    """A line for each campaign that waits for one of the customer's latest events, or
    that they had a run in. The newest first; a constant number of queries, and one for
    each condition of those campaigns' triggers."""
    latest = _latest(customer)
    last_runs = dict(
        Run.objects.filter(customer=customer)
        .values_list("campaign_id")
        .annotate(last=Max("pk"))
        .order_by("-last")[:MOST_CAMPAIGNS]
    )
    waiting = Campaign.objects.filter(
        Q(pk__in=last_runs)
        | Exists(
            Version.objects.filter(
                campaign=OuterRef("pk"),
                event_type__in=latest,
                status=Version.Status.PUBLISHED,
            ).exclude(trigger_kind__in=PLANNED)
        )
        & ~Q(status=Campaign.Status.ARCHIVED)
    ).order_by("-pk")[:MOST_CAMPAIGNS]
    history = History.of(waiting)
    known = Known.about(customer, history, latest.values(), now=now)
    runs = Run.objects.filter(customer=customer, pk__in=last_runs.values())
    last = {
        run.campaign_id: run
        for run in runs.select_related(
            "version", "step", "campaign", "event__type", "system_event__type"
        )
    }
    found = [
        Line(campaign, line)
        for campaign in history.campaigns.values()
        if (line := _latest_line(known, campaign, latest, last.get(campaign.pk)))
    ]
    return sorted(found, key=lambda one: one.line.at, reverse=True)


def _latest(customer: Customer) -> dict[int, Item]:
    """Type → the customer's latest event of it, or the latest system event, among the
    last few."""
    own = Event.objects.filter(customer=customer)
    system = SystemEvent.objects.filter(occurred_at__gte=customer.created_at)
    found: dict[int, Item] = {}
    for rows, kind in ((own, Kind.CUSTOMER), (system, Kind.SYSTEM)):
        for item in items(newest_below(rows, "occurred_at", None, LATELY), kind):
            found.setdefault(item.type_id, item)
    return found


def _latest_line(
    known: Known, campaign: Campaign, latest: Mapping[int, Item], run: Run | None
) -> WhyLine | None:
    types = {
        version.event_type_id
        for version in known.history.versions[campaign.pk]
        if version.trigger_kind not in PLANNED
    }
    events = [item for pk, item in latest.items() if pk in types]
    item = max(events, key=lambda one: one.place, default=None)
    if run is not None and (item is None or run.started_at > item.received_at):
        by = run.event or run.system_event
        verdict = Verdict(Outcome.STARTED, run.version, run)
        return WhyLine(
            event=by.external_id if by else "",
            name=by.type.name if by else "",
            at=run.started_at,
            outcome=verdict.outcome,
            sentence=in_short(verdict, now=known.now),
            run=run.pk,
        )
    return line_of(known, campaign, item) if item else None

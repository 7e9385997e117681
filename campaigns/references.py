"""What campaigns need of the apps below, so that it is not deleted under them."""

from __future__ import annotations

from collections import defaultdict

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.urls import reverse

from campaigns.actions import ACTIONS, Action
from campaigns.models import Broadcast, Campaign, Run, Step, Version
from campaigns.triggers import TRIGGERS
from segments.usage import Use

SPEAK_OF_SEGMENTS = [
    name
    for name, action in ACTIONS.items()
    if type(action).segments is not Action.segments
]


def users_of_segments() -> dict[int, list[Use]]:
    """A segment's id → the campaigns that speak of it in their trigger or steps, now
    or for runs under way. Those of which only a draft speaks of it are not at work."""
    under_way = Exists(
        Run.objects.filter(version=OuterRef("version"), status=Run.Status.WAITING)
    )
    steps = (
        Step.objects.filter(action__in=SPEAK_OF_SEGMENTS)
        .annotate(under_way=under_way)
        .filter(
            Q(version__status__in=[Version.Status.DRAFT, Version.Status.PUBLISHED])
            | Q(under_way=True)
        )
        .exclude(version__campaign__status=Campaign.Status.ARCHIVED)
        .select_related("version__campaign")
        .order_by("version__campaign__name", "-version__number")
    )
    #: (segment's id, campaign's id) → whether it is at work.
    live: dict[tuple[int, int], bool] = defaultdict(bool)
    names: dict[int, str] = {}
    for step in steps:
        version = step.version
        at_work = version.status == Version.Status.PUBLISHED or step.under_way
        for pk in ACTIONS[step.action].segments(step.config):
            names[version.campaign_id] = version.campaign.name
            live[pk, version.campaign_id] |= at_work
    awaited = set()
    for version in _speaking_versions():
        at_work = version.status == Version.Status.PUBLISHED or version.under_way  # type: ignore[attr-defined]
        trigger = TRIGGERS[version.trigger_kind]
        for pk in trigger.segments(version.trigger_config):
            names[version.campaign_id] = version.campaign.name
            live[pk, version.campaign_id] |= at_work
            if not trigger.is_planned:
                awaited.add((pk, version.campaign_id))
    found: dict[int, list[Use]] = defaultdict(list)
    for (pk, campaign), at_work in live.items():
        url = reverse("admin:campaigns_campaign_change", args=[campaign])
        found[pk].append(
            Use(
                "campaign",
                names[campaign],
                url,
                at_work,
                needs_events=(pk, campaign) in awaited,
            )
        )
    return found


def _speaking_versions() -> QuerySet[Version]:
    """Versions whose trigger may speak of a segment, now or while a broadcast goes."""
    under_way = Exists(
        Broadcast.objects.filter(
            version=OuterRef("pk"), status=Broadcast.Status.RUNNING
        )
    )
    return (
        Version.objects.annotate(under_way=under_way)
        .filter(
            Q(status__in=[Version.Status.DRAFT, Version.Status.PUBLISHED])
            | Q(under_way=True),
            trigger_config__has_key="segment",
        )
        .exclude(campaign__status=Campaign.Status.ARCHIVED)
        .select_related("campaign")
        .order_by("campaign__name", "-number")
    )

"""Planned times → broadcasts, each once.

A planned time becomes a system event, whose id is made of the campaign and the time,
and a broadcast of that campaign; both are unique, and are committed with the time of
the next one. What is left out becomes a broadcast that is over, with the reason: so
“why?” and the page of runs can tell.

The row of the campaign is locked meanwhile, as it is for publishing, pausing and
resuming: which of them comes first, the other sees all of it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import Max

from campaigns.models import Broadcast, Campaign, Version
from campaigns.triggers import PLANNED
from campaigns.triggers.planned import SOURCE, Planned
from customers.models import Customer
from events.models import Source, SystemEvent
from segments.answers import on
from smartcomm.core.clock import database_now

logger = structlog.get_logger(__name__)


def start_planned(*, limit: int = 50, now: datetime | None = None) -> int:
    """Start what was planned for now or before. Returns in how many campaigns."""
    now = now or database_now()
    done = 0
    with transaction.atomic():
        due = Version.objects.filter(
            status=Version.Status.PUBLISHED, next_at__lte=now
        ).values("campaign")
        campaigns = (
            Campaign.objects.filter(pk__in=due, status=Campaign.Status.PUBLISHED)
            .order_by("pk")
            .select_for_update(of=("self",), skip_locked=True, no_key=True)
        )
        for campaign in campaigns[:limit]:
            try:
                with transaction.atomic():
                    done += settle(at_work(campaign), now=now)
            except Exception:
                # Whatever it is, it must not hold up the other campaigns.
                logger.exception("planned.fault", campaign=campaign.pk)
    return done


def at_work(campaign: Campaign) -> Version | None:
    """The version that is published."""
    return campaign.versions.filter(status=Version.Status.PUBLISHED).first()


def settle(version: Version | None, *, now: datetime, may_start: bool = True) -> bool:
    """Start or leave out what has become due of a version. Call with the campaign
    locked. `may_start=False`, for one that is paused, only leaves out what is too late.

    Returns whether there was anything to do.
    """
    planned = _planned(version)
    if version is None or planned is None:
        return False
    before = version.next_at
    while version.next_at is not None and version.next_at <= now:
        following = planned.following(version, version.next_at)
        why_not = _too_late(version, planned, following, now=now)
        if not why_not and not may_start:
            break
        _settle(version, planned, reason=why_not, now=now)
        version.next_at = following
    if version.next_at == before:
        return False
    version.save(update_fields=["next_at"])
    return True


def leave_out(
    campaign: Campaign, *, before: datetime, reason: str, now: datetime
) -> None:
    """Leave out what was planned for before then. Call with the campaign locked."""
    version = at_work(campaign)
    planned = _planned(version)
    if version is None or planned is None:
        return
    while version.next_at is not None and version.next_at < before:
        _settle(version, planned, reason=reason, now=now)
        version.next_at = planned.following(version, version.next_at)
    version.save(update_fields=["next_at"])


def missed(campaign: Campaign, *, before: datetime) -> list[datetime]:
    """The times that were planned for before then, and have not been started."""
    version = at_work(campaign)
    planned = _planned(version)
    if version is None or planned is None:
        return []
    found, following = [], version.next_at
    while following is not None and following < before:
        found.append(following)
        following = planned.following(version, following)
    return found


def hand_over(
    campaign: Campaign, old: Version | None, new: Version, *, now: datetime
) -> None:
    """Set when a version that is being published starts first, so that no time of the
    one before is lost or doubled. Call with the campaign locked.

    What is due of the old version by now starts on it, unless the campaign is paused.
    """
    settle(old, now=now, may_start=campaign.status == Campaign.Status.PUBLISHED)
    planned = _planned(new)
    if old is not None and old.next_at is not None:
        if planned is not None and new.trigger_kind == old.trigger_kind:
            new.next_at = planned.goes_on(
                new.trigger_config,
                old.trigger_config,
                old.next_at,
                since=now - timedelta(hours=new.max_age_hours),
                now=now,
            )
            return
        leave_out(
            campaign,
            before=now,
            reason=f"Version {new.number}, which starts otherwise, was published "
            f"{on(now)}, while the campaign was paused.",
            now=now,
        )
    if planned is not None:
        new.next_at = planned.plan(new.trigger_config).after(now)


def next_times(version: Version, number: int = 3, *, now: datetime) -> list[datetime]:
    """When it starts next: as it is planned, or would be if it were published now."""
    planned = _planned(version)
    if planned is None:
        return []
    plan = planned.plan(version.trigger_config)
    if version.status != Version.Status.PUBLISHED:
        return plan.next_times(now, number)
    if version.next_at is None or number == 0:
        return []
    return [version.next_at, *plan.next_times(version.next_at, number - 1)]


def _planned(version: Version | None) -> Planned | None:
    return PLANNED.get(version.trigger_kind) if version is not None else None


def _too_late(
    version: Version, planned: Planned, following: datetime | None, *, now: datetime
) -> str:
    """Why what was planned is not started any more; empty: it is."""
    if version.next_at is None:
        raise AssertionError("Nothing is planned.")
    hours = version.max_age_hours
    if version.next_at < now - timedelta(hours=hours):
        return (
            f"{_called(version)} and was left out {on(now)}, since that was more than "
            f"{hours:,} hour{'s' * (hours != 1)} ago."
        )
    if not planned.each_counts and following is not None and following <= now:
        return (
            f"{_called(version)} and was left out {on(now)}, since the next time had "
            "come as well."
        )
    return ""


def _called(version: Version) -> str:
    return f"It was planned for {on(version.next_at)}," if version.next_at else ""


def _settle(version: Version, planned: Planned, *, reason: str, now: datetime) -> None:
    """Make what was planned a system event and a broadcast; with a reason, one that is
    over. Happens once, however often it is called for the same time."""
    if version.next_at is None or version.event_type_id is None:
        raise AssertionError("Nothing is planned.")
    config = version.trigger_config
    source = Source.objects.get(name=SOURCE)
    event, _ = SystemEvent.objects.get_or_create(
        source=source,
        external_id=(
            f"campaign-{version.campaign_id}-"
            f"{planned.occasion(config, version.next_at)}"
        ),
        defaults={
            "type_id": version.event_type_id,
            "occurred_at": version.next_at,
            "received_at": now,
            "context": planned.context(config, version.next_at),
        },
    )
    last_id = Customer.objects.aggregate(last=Max("pk"))["last"] or 0
    broadcast = Broadcast(
        campaign_id=version.campaign_id,
        version=version,
        system_event=event,
        last_id=last_id,
        due_at=now,
    )
    if reason:
        broadcast.status, broadcast.finished_at = Broadcast.Status.FINISHED, now
        broadcast.reason = reason
    Broadcast.objects.bulk_create([broadcast], ignore_conflicts=True)

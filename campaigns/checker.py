"""Do the numbers add up? Asked of the rows again and again, not of the report.

For every step of a version: who came to it (all who entered, at the first step, all who
took a way that leads there, and all who were moved there from another version) is who
left it, was moved on, waits at it, failed at it or was ended at it. A run that is over
and says nothing of having been ended must have left its last step. And nobody waits for
a message or an answer that nobody owes them. All of one campaign is read in one
snapshot, so that work under way disturbs nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import Count

from campaigns.engine import ARCHIVED
from campaigns.merging import WHY as MERGED
from campaigns.models import Campaign, Imbalance, MovedRun, Passage, Run, Step, Version
from campaigns.overdue import LEFT_OUT
from smartcomm.core.clock import database_now
from smartcomm.core.db import execute, fetch_all

logger = structlog.get_logger(__name__)

#: A campaign is asked again after so long.
EVERY = timedelta(minutes=10)

SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
# The words of runs that are over without having left their step. All others that are
# over took a way; words that change stay here as well, for the runs that have them.
ENDED_BY = [
    ARCHIVED,
    LEFT_OUT.format(resumed="%", due="%"),
    "%" + MERGED.format(former_id="%", kept_id="%"),
]
ENDED_THERE = """
    SELECT run.step_id, count(*)
      FROM campaigns_run AS run
     WHERE run.campaign_id = %s AND run.status = 'finished'
       AND run.reason LIKE ANY (%s)
       AND NOT EXISTS (
               SELECT FROM campaigns_passage AS passage
                WHERE passage.run_id = run.id AND passage.step_id = run.step_id
                  AND passage.customer_id = run.customer_id)
     GROUP BY 1
"""
_FORGOTTEN = """
      FROM campaigns_run AS run JOIN campaigns_step AS step ON step.id = run.step_id
     WHERE run.campaign_id = %s AND run.status = 'waiting' AND run.due_at IS NULL
       AND NOT EXISTS (
               SELECT FROM messaging_message AS message
                WHERE message.customer_id = run.customer_id
                  AND message.run_id = run.id AND message.step = step.key
                  AND NOT message.is_settled)
       AND NOT EXISTS (
               SELECT FROM campaigns_webhookcall AS call
                 JOIN campaigns_step AS asking ON asking.id = call.step_id
                WHERE call.customer_id = run.customer_id AND call.run_id = run.id
                  AND asking.key = step.key AND NOT call.is_settled)
"""
FORGOTTEN = f"SELECT run.step_id, count(*) {_FORGOTTEN} GROUP BY 1"
FORGOTTEN_AT = f"SELECT run.id {_FORGOTTEN} AND step.id = %s ORDER BY 1 LIMIT %s"


@dataclass(frozen=True, slots=True)
class Off:
    """Something that does not add up at a step."""

    step_id: int
    what: str
    found: int
    wanted: int


def check_next(*, now: datetime | None = None) -> int:
    """Check the campaign that has waited longest. Returns how many were due."""
    now = now or database_now()
    campaign = (
        Campaign.objects.exclude(status=Campaign.Status.DRAFT)
        .exclude(checked_at__gt=now - EVERY)
        .order_by("checked_at", "pk")
        .first()
    )
    if campaign is None:
        return 0
    found = what_is_off(campaign)
    with transaction.atomic():
        _note(campaign, found, now=now)
        Campaign.objects.filter(pk=campaign.pk).update(checked_at=now)
    return 1


def what_is_off(campaign: Campaign) -> list[Off]:
    """All that does not add up. Six queries, in a transaction of their own."""
    with transaction.atomic():
        execute(SNAPSHOT)
        steps = list(
            Step.objects.filter(version__campaign=campaign)
            .exclude(version__status=Version.Status.DRAFT)
            .select_related("version")
        )
        standing: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        entered: dict[int, int] = defaultdict(int)
        for version_id, step_id, status, count in (
            Run.objects.filter(campaign=campaign)
            .values_list("version_id", "step_id", "status")
            .annotate(count=Count("pk"))
            .order_by()
        ):
            standing[step_id][status] += count
            entered[version_id] += count
        taken: dict[int, dict[str, int]] = defaultdict(dict)
        for step_id, way, count in (
            Passage.objects.filter(step__in=steps)
            .values_list("step_id", "way")
            .annotate(count=Count("pk"))
            .order_by()
        ):
            taken[step_id][way] = count
        moved = list(
            MovedRun.objects.filter(move__campaign=campaign)
            .values_list("from_step_id", "to_step_id")
            .annotate(count=Count("pk"))
            .order_by()
        )
        ended = dict(fetch_all(ENDED_THERE, [campaign.pk, ENDED_BY]))
        lost = dict(fetch_all(FORGOTTEN, [campaign.pk]))
    by_key = {(step.version_id, step.key): step for step in steps}
    came: dict[int, int] = defaultdict(int)
    for step in steps:
        if step.key == step.version.start:
            came[step.pk] += entered[step.version_id]
        for way, count in taken[step.pk].items():
            following = step.next.get(way)
            if following is not None:
                came[by_key[step.version_id, following].pk] += count
    gone_over: dict[int, int] = defaultdict(int)
    for from_step, to_step, count in moved:
        gone_over[from_step] += count
        came[to_step] += count
    off = []
    for step in steps:
        gone = (
            sum(taken[step.pk].values())
            + standing[step.pk][Run.Status.WAITING]
            + standing[step.pk][Run.Status.FAILED]
            + ended.get(step.pk, 0)
            + gone_over[step.pk]
        )
        if gone != came[step.pk]:
            off.append(Off(step.pk, Imbalance.What.STEP, gone, came[step.pk]))
        if waiting := lost.get(step.pk, 0):
            off.append(Off(step.pk, Imbalance.What.FORGOTTEN, waiting, 0))
    return off


def forgotten(campaign: Campaign, step_id: int, *, most: int) -> list[int]:
    """Some of the runs that wait at a step for what nobody owes them."""
    return [pk for (pk,) in fetch_all(FORGOTTEN_AT, [campaign.pk, step_id, most])]


def _note(campaign: Campaign, found: list[Off], *, now: datetime) -> None:
    """Keep what is off, and let go of what adds up again."""
    Imbalance.objects.filter(step__version__campaign=campaign).exclude(
        pk__in=[
            Imbalance.objects.update_or_create(
                step_id=one.step_id,
                what=one.what,
                defaults={"found": one.found, "wanted": one.wanted, "seen_at": now},
                create_defaults={
                    "found": one.found,
                    "wanted": one.wanted,
                    "seen_at": now,
                    "since": now,
                },
            )[0].pk
            for one in found
        ]
    ).delete()
    for one in found:
        logger.error(
            "campaign.does_not_add_up",
            campaign=campaign.pk,
            step=one.step_id,
            what=one.what,
            found=one.found,
            wanted=one.wanted,
        )

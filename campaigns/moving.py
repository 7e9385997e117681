"""Taking runs that are under way over to the version at work.

Runs stay on their version unless this is ordered. A run moves where it stands: to the
step with the same key and the same action. What it waits for stays what it is: a
message that was queued, a call that was made; a wait by the clock is measured anew,
from when the run came to the step. A run stays where the new version has no such step,
and where it could come once more to a step that it has left, since a step writes to a
customer once.

The row of a Move is the queue. Each chunk is one transaction with how far it got, so
that whoever dies is followed by another who goes on there. Runs are locked one chunk at
a time, in the order in which the engine locks them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from django.db import transaction
from django.db.models import Count, Exists, OuterRef, QuerySet

from campaigns import graph
from campaigns.actions import ACTIONS
from campaigns.actions.base import WaitUntil
from campaigns.bells import TICK
from campaigns.drawing import as_json
from campaigns.engine import look_again
from campaigns.models import Campaign, Move, MovedRun, Passage, Run, Step, Version
from smartcomm.core import doorbell
from smartcomm.core.clock import database_now
from smartcomm.core.errors import Conflict

#: So many runs are moved in one transaction.
CHUNK = 500


@dataclass(frozen=True, slots=True)
class Standing:
    """How many runs stand at a step of the older version, and what becomes of them."""

    step: str
    label: str
    runs: int
    #: So many of them can be moved.
    can_move: int
    #: Why the others stay, in a sentence; empty where none does.
    why: str

    @property
    def stay(self) -> int:
        return self.runs - self.can_move


@dataclass(frozen=True, slots=True)
class Forecast:
    """What moving the runs of a version would do now."""

    from_version: Version
    to_version: Version
    steps: list[Standing]

    @property
    def runs(self) -> int:
        return sum(one.runs for one in self.steps)

    @property
    def can_move(self) -> int:
        return sum(one.can_move for one in self.steps)

    @property
    def stay(self) -> int:
        return self.runs - self.can_move

    @property
    def sentence(self) -> str:
        """1,204 runs stand at 3 steps; 1,190 can move; 14 stay, because …"""
        if not self.runs:
            return f"Nobody is under way on version {self.from_version.number}."
        several = len(self.steps) > 1
        told = (
            f"{self.runs:,} {'run stands' if self.runs == 1 else 'runs stand'} at "
            f"{len(self.steps)} step{'s' * several}; {self.can_move:,} can move"
        )
        if not self.stay:
            return f"{told}, all of them."
        return (
            f"{told}; {self.stay:,} {'stays' if self.stay == 1 else 'stay'}. "
            + " ".join(one.why for one in self.steps if one.stay)
        )


def standing(campaign: Campaign) -> dict[int, int]:
    """Number of a version → how many runs are under way on it now. One query."""
    return dict(
        Run.objects.filter(campaign=campaign, status=Run.Status.WAITING)
        .order_by()
        .values_list("step__version__number")
        .annotate(count=Count("pk"))
    )


def forecast(version: Version) -> Forecast:
    """What moving the runs of this version to the one at work would do.

    Raises Conflict where it cannot be done. Two queries, and one for each step at
    which somebody stands who may have been further on already.
    """
    to = _target(version)
    plan = _Plan(version, to)
    counted = dict(
        _under_way(version).values_list("step_id").annotate(count=Count("pk"))
    )
    found = []
    for step in version.steps.all():
        if not (runs := counted.get(step.pk, 0)):
            continue
        why = plan.obstacle(step)
        stays = runs if why else 0
        if not why and (again := plan.after(step)):
            stays = (
                _under_way(version)
                .filter(
                    Exists(
                        Passage.objects.filter(
                            run=OuterRef("pk"),
                            customer=OuterRef("customer_id"),
                            step__key__in=again,
                        )
                    ),
                    step=step,
                )
                .count()
            )
            if stays:
                why = (
                    f"Of those at “{step.key}”, {stays:,} have already been at a step "
                    f"that comes after it in version {to.number}."
                )
        found.append(
            Standing(step.key, ACTIONS[step.action].label, runs, runs - stays, why)
        )
    return Forecast(version, to, found)


def order(version: Version, *, by: str, now: datetime | None = None) -> Move:
    """Have the runs of this version moved to the one at work. Workers do it.

    Raises Conflict where it cannot be done, or is being done.
    """
    with transaction.atomic():
        campaign = Campaign.objects.select_for_update(no_key=True).get(
            pk=version.campaign_id
        )
        to = _target(version)
        if campaign.moves.filter(status=Move.Status.RUNNING).exists():
            raise Conflict(
                "Runs of this campaign are being moved already. Wait until that is "
                "done."
            )
        move = Move.objects.create(
            campaign=campaign,
            from_version=version,
            to_version=to,
            by=by,
            asked_at=now or database_now(),
        )
        doorbell.ring(TICK)
    return move


def move_some(*, limit: int = CHUNK, now: datetime | None = None) -> int:
    """Move the next runs of the oldest order that nobody else is at. Returns how many
    were looked at, and at least 1 while there is something to do."""
    now = now or database_now()
    with transaction.atomic():
        move = (
            Move.objects.select_for_update(of=("self",), skip_locked=True)
            .filter(status=Move.Status.RUNNING)
            .select_related("from_version")
            .order_by("pk")
            .first()
        )
        if move is None:
            return 0
        # So that nobody publishes or archives meanwhile. New runs are not kept waiting.
        Campaign.objects.select_for_update(no_key=True).get(pk=move.campaign_id)
        try:
            to = _target(move.from_version)
            if to.pk != move.to_version_id:
                raise Conflict(f"Version {to.number} was published meanwhile.")
        except Conflict as conflict:
            _finish(move, Move.Status.STOPPED, conflict.message, now=now)
            return 1
        plan = _Plan(move.from_version, to)
        runs = list(
            _under_way(move.from_version)
            .select_for_update(of=("self",), no_key=True)
            .filter(step__in=plan.movable, pk__gt=move.after_id)
            .order_by("pk")[:limit]
        )
        moved = _move(move, plan, runs, now=now)
        move.moved += moved
        if len(runs) < limit:
            move.stayed = [asdict(one) for one in forecast(move.from_version).steps]
            _finish(move, Move.Status.DONE, "", now=now)
        else:
            move.after_id = runs[-1].pk
            move.save(update_fields=["moved", "after_id"])
    return max(len(runs), 1)


def _move(move: Move, plan: _Plan, runs: Sequence[Run], *, now: datetime) -> int:
    been: dict[int, set[str]] = defaultdict(set)
    for run_id, key in Passage.objects.filter(
        run__in=runs, customer__in={run.customer_id for run in runs}
    ).values_list("run_id", "step__key"):
        been[run_id].add(key)
    moved, records = [], []
    clocks: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        old = plan.old[run.step_id]
        if been[run.pk] & plan.after(old):
            continue
        new = plan.movable[run.step_id]
        records.append(
            MovedRun(
                customer_id=run.customer_id,
                run=run,
                move=move,
                from_step=old,
                to_step=new,
                at=now,
            )
        )
        run.step = new
        moved.append(run)
        is_clock = ACTIONS[new.action].waits_by_clock
        if is_clock and run.due_at is not None and old.config != new.config:
            clocks[new.pk].append(run)
    for pk, waiting in clocks.items():
        outcomes = look_again(plan.new[pk], waiting, now=now)
        for run in waiting:
            outcome = outcomes.get(run.pk)
            # Whatever else comes of it, the engine finds out.
            run.due_at = outcome.moment if isinstance(outcome, WaitUntil) else now
    Run.objects.bulk_update(moved, ["step", "due_at"])
    MovedRun.objects.bulk_create(records)
    return len(moved)


def _finish(move: Move, status: Move.Status, reason: str, *, now: datetime) -> None:
    move.status, move.reason, move.finished_at = status, reason, now
    move.save()


class _Plan:
    """Which step of one version becomes which of another."""

    def __init__(self, version: Version, to: Version) -> None:
        self.to = to
        self.old: Mapping[int, Step] = {step.pk: step for step in version.steps.all()}
        self.new: Mapping[int, Step] = {step.pk: step for step in to.steps.all()}
        self._by_key = {step.key: step for step in self.new.values()}
        self._arrows = graph.arrows(as_json(to)["steps"])

    @cached_property
    def movable(self) -> dict[int, Step]:
        """Old step → new step, for those that are still there."""
        return {
            pk: self._by_key[step.key]
            for pk, step in self.old.items()
            if not self.obstacle(step)
        }

    def obstacle(self, step: Step) -> str:
        """Why nobody at this step can be moved, or empty."""
        new = self._by_key.get(step.key)
        if new is None:
            return f"There is no “{step.key}” in version {self.to.number}."
        if new.action != step.action:
            return (
                f"“{step.key}” does something else in version {self.to.number}: "
                f"{ACTIONS[new.action].label}."
            )
        return ""

    def after(self, step: Step) -> set[str]:
        """The keys of steps that come after it in the new version."""
        return graph.reachable(step.key, self._arrows) - {step.key}


def _under_way(version: Version) -> QuerySet[Run]:
    return Run.objects.filter(
        campaign=version.campaign_id,
        status=Run.Status.WAITING,
        step__in=version.steps.values("pk"),
    ).order_by()


def _target(version: Version) -> Version:
    """The version at work, to which the runs of this one can be moved."""
    if version.status != Version.Status.SUPERSEDED:
        raise Conflict(
            "Only runs of an older version can be moved, to the one that is at work."
        )
    campaign = Campaign.objects.get(pk=version.campaign_id)
    if campaign.status == Campaign.Status.ARCHIVED:
        raise Conflict("The campaign is archived, so nobody is under way in it.")
    return campaign.versions.get(status=Version.Status.PUBLISHED)


def in_words(move: Move) -> str:
    """What an order has come to: 1,190 runs of version 1 are on version 3 now; 14 …"""
    before, after = move.from_version.number, move.to_version.number
    told = (
        f"{move.moved:,} run{'s' * (move.moved != 1)} of version {before} "
        f"{'is' if move.moved == 1 else 'are'} on version {after} now"
    )
    left: list[dict[str, Any]] = [one for one in move.stayed if one["runs"]]
    stayed = sum(one["runs"] for one in left)
    if move.status == Move.Status.RUNNING:
        return f"{told}, and it goes on."
    if move.status == Move.Status.STOPPED:
        return f"{told}; then it stopped: {move.reason}"
    if not stayed:
        return f"{told}, and nobody is left."
    why = " ".join(one["why"] for one in left if one["why"])
    return f"{told}; {stayed:,} stayed. {why}".strip()

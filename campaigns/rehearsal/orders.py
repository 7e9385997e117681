"""Who asked for a rehearsal, how far it is, and how to stop it.

The row is the order, and a worker takes it (campaigns.tasks.rehearse). The rehearsal
itself runs in a thread with a connection of its own; the thread of the task tells how
far it is, and whether it is still wanted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Q

from campaigns.bells import REHEARSE
from campaigns.drawing import as_json
from campaigns.models import Campaign, Rehearsal, Version
from campaigns.rehearsal.outcome import outcome
from campaigns.rehearsal.replay import (
    Stopped,
    publish_on_stage,
    replay,
    write_script,
)
from campaigns.rehearsal.stage import close_doors, own_connection, set_stage
from smartcomm.core import doorbell
from smartcomm.core.clock import database_now
from smartcomm.core.errors import Conflict, Invalid, UserError
from smartcomm.core.stopping import is_stopping

logger = structlog.get_logger(__name__)

DAYS = 30
MOST_DAYS = 365
#: A worker that shows no sign of life for so long is gone; another one begins anew.
ALIVE_FOR = timedelta(seconds=60)
#: So many orders of a campaign are kept.
KEPT = 20
#: How often the row is told how far it is.
SECONDS = 0.5
FAULT = (
    "The rehearsal failed. Whoever runs this installation finds the cause in the log."
)


def ask(
    version: Version,
    *,
    days: int = DAYS,
    until: datetime | None = None,
    user: AbstractBaseUser | None = None,
) -> Rehearsal:
    """Order a rehearsal of this version over the last days, up to `until` (now).

    Raises Conflict while one of the campaign is under way, Invalid for what cannot be
    rehearsed.
    """
    if not 1 <= days <= MOST_DAYS:
        raise Invalid(f"“days” is a number from 1 to {MOST_DAYS}.", field="days")
    if not version.start or not version.event_name:
        raise Invalid("There is nothing to rehearse: draw a trigger and a step first.")
    now = database_now()
    with transaction.atomic():
        Campaign.objects.select_for_update().get(pk=version.campaign_id)
        if under_way(version.campaign_id) is not None:
            raise Conflict("A rehearsal of this campaign is under way. Stop it first.")
        order = Rehearsal.objects.create(
            campaign_id=version.campaign_id,
            version=version,
            days=days,
            until=until or now,
            asked_at=now,
            asked_by=user,  # type: ignore[misc]
        )
        _forget_old(version.campaign_id)
        doorbell.ring(REHEARSE)
    return order


def under_way(campaign_id: int) -> Rehearsal | None:
    """The rehearsal of a campaign that waits or is at it."""
    return Rehearsal.objects.filter(
        campaign=campaign_id, status__in=Rehearsal.OPEN
    ).first()


def cancel(order: Rehearsal) -> None:
    """Stop it where it is. Nothing happens to one that is over."""
    Rehearsal.objects.filter(pk=order.pk, status__in=Rehearsal.OPEN).update(
        status=Rehearsal.Status.CANCELLED, ended_at=database_now()
    )
    order.refresh_from_db()


def rehearse_next() -> int:
    """Take the order that has waited longest, and carry it out. Returns how many."""
    order = _take(database_now())
    if order is None:
        return 0
    work = _Work(order)
    thread = threading.Thread(target=work.run, name=f"rehearsal {order.pk}")
    thread.start()
    while thread.is_alive():
        thread.join(SECONDS)
        work.is_stopped |= not _tell(order, work.progress) or is_stopping()
    _end(order, work)
    return 1


def rehearse(
    version: Version,
    *,
    begin: datetime,
    end: datetime,
    tell: Callable[[float], None] = lambda progress: None,
) -> dict[str, Any]:
    """What the version would have done between these times; see `outcome`.

    Call in `own_connection`, which it leaves unusable for anything else. `tell` is told
    how far it is, from 0 to 1, and may raise Stopped.
    """
    drawn = as_json(version)
    set_stage(version)
    version = publish_on_stage(version, at=begin)
    write_script(version, begin=begin, end=end)
    close_doors()
    replayed = replay(version, begin=begin, end=end, tell=tell)
    # A draft goes on being drawn; the numbers are of what was rehearsed.
    return {**outcome(version, replayed), "drawing": drawn}


class _Work:
    """One rehearsal in a thread of its own."""

    def __init__(self, order: Rehearsal) -> None:
        self.order = order
        self.version = order.version
        self.progress = 0.0
        self.is_stopped = False
        self.result: dict[str, Any] | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        begin = self.order.until - timedelta(days=self.order.days)
        try:
            with own_connection(), doorbell.muted():
                self.result = rehearse(
                    self.version, begin=begin, end=self.order.until, tell=self._tell
                )
        except Exception as error:
            self.error = error

    def _tell(self, progress: float) -> None:
        self.progress = progress
        if self.is_stopped:
            raise Stopped


def _take(now: datetime) -> Rehearsal | None:
    """The next order, marked as under way: one that waits, or whose worker is gone."""
    with transaction.atomic():
        order = (
            Rehearsal.objects.select_for_update(skip_locked=True, of=("self",))
            .filter(
                Q(status=Rehearsal.Status.WAITING)
                | Q(status=Rehearsal.Status.RUNNING, alive_at__lt=now - ALIVE_FOR)
            )
            .order_by("asked_at")
            .first()
        )
        if order is not None:
            order.status = Rehearsal.Status.RUNNING
            order.began_at = order.alive_at = now
            order.progress = 0
            order.save(update_fields=["status", "began_at", "alive_at", "progress"])
    return order


def _tell(order: Rehearsal, progress: float) -> bool:
    """Say how far it is. Returns whether it is still wanted."""
    told = Rehearsal.objects.filter(pk=order.pk, status=Rehearsal.Status.RUNNING)
    return bool(told.update(progress=progress, alive_at=database_now()))


def _end(order: Rehearsal, work: _Work) -> None:
    status, error = Rehearsal.Status.DONE, ""
    if isinstance(work.error, Stopped):
        # Cancelled, which the row says already; or the worker was stopped, and another
        # one begins anew.
        Rehearsal.objects.filter(pk=order.pk, status=Rehearsal.Status.RUNNING).update(
            status=Rehearsal.Status.WAITING
        )
        return
    if work.error is not None:
        logger.error("rehearsal.fault", rehearsal=order.pk, exc_info=work.error)
        status, error = Rehearsal.Status.FAILED, FAULT
        if isinstance(work.error, UserError):
            error = work.error.message
    Rehearsal.objects.filter(pk=order.pk, status=Rehearsal.Status.RUNNING).update(
        status=status,
        error=error,
        result=work.result,
        progress=1 if work.error is None else work.progress,
        ended_at=database_now(),
    )


def _forget_old(campaign_id: int) -> None:
    kept = Rehearsal.objects.filter(campaign=campaign_id).order_by("-asked_at", "-pk")
    Rehearsal.objects.filter(
        campaign=campaign_id, pk__in=list(kept.values_list("pk", flat=True)[KEPT:])
    ).delete()

"""Calls are written, held, cancelled; and runs are told how theirs ended.

    queued ──claim──▶ sending ──▶ done | failed
      ▲                  │
      └── tried again ───┘   also when its sender died: a receiver may get a call twice

A call waits while its campaign is paused. Whoever cancels one that is being sent lets
that try end, and there is no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet

from campaigns.bells import CALL
from campaigns.models import WebhookCall
from smartcomm.core.db import fetch_all
from smartcomm.core.doorbell import ring

Status = WebhookCall.Status
#: For how long a call is tried that had been given up.
ONCE_MORE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Settled:
    """How a call ended that a run waits for."""

    customer_id: int
    run_id: int
    #: The key of its step.
    step: str
    is_done: bool
    reason: str


#: So many calls are cancelled in one statement.
AT_ONCE = 10_000


def queue_calls(calls: Sequence[WebhookCall]) -> None:
    """Write calls down, and wake a sender after commit. One statement.

    A call that was written before (same customer, run and step) stays as it is.
    """
    WebhookCall.objects.bulk_create(calls, ignore_conflicts=True)
    if calls:
        ring(CALL)


# The words of the partial index webhook_unsettled, so that it is used. Materialised: a
# subquery may be run again by the plan, and would then take more than its limit.
TAKE_SETTLED = """
    WITH ended AS MATERIALIZED (
        SELECT id FROM campaigns_webhookcall
         WHERE NOT is_settled AND status IN ('done', 'failed', 'cancelled')
         ORDER BY id
         LIMIT %s
           FOR UPDATE SKIP LOCKED
    )
    UPDATE campaigns_webhookcall AS call SET is_settled = true
      FROM ended, campaigns_step AS step
     WHERE call.id = ended.id AND step.id = call.step_id
 RETURNING customer_id, run_id, step.key, status = 'done', reason
"""


def take_settled(limit: int) -> list[Settled]:
    """Take calls that have ended and whose run has not been told yet.

    Call inside a transaction that also moves the runs on: the calls count as told when
    it commits, and come again if it does not.
    """
    return [Settled(*row) for row in fetch_all(TAKE_SETTLED, [limit])]


def wake() -> None:
    """Have calls sent again that waited for their campaign."""
    ring(CALL)


def cancel(campaign_id: int, *, reason: str, now: datetime) -> None:
    """Do not make the calls of a campaign whose runs have ended."""
    _cancel(WebhookCall.objects.filter(campaign=campaign_id), reason, now, told=True)


def cancel_runs(
    run_ids: Iterable[int], *, customer_id: int, reason: str, now: datetime
) -> None:
    """The same for runs of one customer that have ended before their time."""
    calls = WebhookCall.objects.filter(customer=customer_id, run__in=list(run_ids))
    _cancel(calls, reason, now, told=True)


def cancel_due(
    campaign_id: int, *, before: datetime, reason: str, now: datetime
) -> list[int]:
    """The same for what should have been called before this time, AT_ONCE at most.

    Returns the runs that wait for it; call it until there are none.
    """
    due = WebhookCall.objects.filter(
        campaign=campaign_id, status=Status.QUEUED, due_at__lt=before
    ).order_by("pk")
    found = dict(due.values_list("pk", "run_id")[:AT_ONCE])
    _cancel(WebhookCall.objects.filter(pk__in=list(found)), reason, now, told=True)
    return list(found.values())


def cancel_calls(ids: Iterable[int], *, reason: str, now: datetime) -> int:
    """Give up calls that are queued; their runs go on as if they had failed.

    Returns how many were queued.
    """
    calls = WebhookCall.objects.filter(pk__in=list(ids))
    return _cancel(calls, reason, now, told=False)


def _cancel(
    calls: QuerySet[WebhookCall], reason: str, now: datetime, *, told: bool
) -> int:
    # Of one that is on its way the answer is still kept; see send.RECORD.
    calls.filter(status=Status.SENDING).update(expires_at=now)
    cancelled = {"status": Status.CANCELLED, "reason": reason, "finished_at": now}
    if told:
        cancelled["is_settled"] = True
    return calls.filter(status=Status.QUEUED).update(**cancelled)


def retry_calls(ids: Iterable[int], *, now: datetime) -> int:
    """Try calls now that wait for their next try, and once more those that have ended
    without success. Returns how many. A run that was told is not told again."""
    calls = WebhookCall.objects.filter(pk__in=list(ids))
    waiting = calls.filter(status=Status.QUEUED).update(due_at=now)
    ended = calls.filter(status__in=[Status.FAILED, Status.CANCELLED]).update(
        status=Status.QUEUED,
        due_at=now,
        expires_at=now + ONCE_MORE,
        finished_at=None,
    )
    ring(CALL)
    return waiting + ended

"""Asking for messages, and being told how they ended.

The row is the queue: `queue_messages` writes it, messaging.send works it off,
`take_settled` tells whoever asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from customers.models import Channel
from messaging.models import ChannelSettings, Hold, Message
from smartcomm.core.db import fetch_all
from smartcomm.core.doorbell import ring

SEND_TASK = "messaging.tasks.send_messages"


@dataclass(frozen=True, slots=True)
class Request:
    """One text for one customer, asked for by a step of a run."""

    customer_id: int
    run_id: int | None
    campaign_id: int | None
    version_id: int | None
    step: str
    content_id: int
    channel: str
    event_id: int | None = None
    system_event_id: int | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """How a message ended that a run waits for."""

    message_id: int
    customer_id: int
    run_id: int
    step: str
    status: str
    reason: str
    detail: str


# The ORM has no "insert, skip repeats, tell me which were new".
QUEUE = """
    INSERT INTO messaging_message
        (customer_id, run_id, campaign_id, version_id, step, content_id, channel,
         event_id, system_event_id, expires_at, due_at, created_at, status, is_test,
         reason, detail, attempts, is_settled, address, subject, body, html, link,
         image, provider, provider_id)
    SELECT asked.*, %(now)s, %(now)s, 'queued', false,
           '', '', 0, false, '', '', '', '', '', '', '', ''
      FROM unnest(
        %(customer_id)s::bigint[], %(run_id)s::bigint[], %(campaign_id)s::bigint[],
        %(version_id)s::bigint[], %(step)s::text[], %(content_id)s::bigint[],
        %(channel)s::text[], %(event_id)s::bigint[], %(system_event_id)s::bigint[],
        %(expires_at)s::timestamptz[]
      ) AS asked
    ON CONFLICT (customer_id, run_id, step) DO NOTHING
    RETURNING id
"""


def queue_messages(requests: Sequence[Request], *, now: datetime) -> int:
    """Queue a message for each request, and wake a sender after commit.

    A request that was made before (same customer, run and step) changes nothing.
    Returns how many messages are new. Two statements, however many requests.
    """
    if not requests:
        return 0
    lives = times_to_live()
    columns = {
        name: [getattr(request, name) for request in requests]
        for name in Request.__slots__
    }
    expires_at = [now + lives[request.channel] for request in requests]
    new = fetch_all(QUEUE, {**columns, "expires_at": expires_at, "now": now})
    if new:
        ring(SEND_TASK)
    return len(new)


def times_to_live() -> dict[str, timedelta]:
    """How long a message of each channel may wait. One query."""
    decided = {row.channel: row for row in ChannelSettings.objects.all()}
    return {
        channel: timedelta(
            hours=decided.get(channel, ChannelSettings(channel=channel)).ttl_hours
        )
        for channel in Channel.values
    }


# The words of the partial index message_unsettled, so that it is used.
TAKE_SETTLED = """
    UPDATE messaging_message SET is_settled = true
     WHERE id IN (
        SELECT id FROM messaging_message
         WHERE NOT is_settled AND run_id IS NOT NULL
           AND NOT (status IN ('queued', 'sending'))
         ORDER BY id
         LIMIT %s
           FOR UPDATE SKIP LOCKED
     )
    RETURNING id, customer_id, run_id, step, status, reason, detail
"""


def take_settled(limit: int) -> list[Settled]:
    """Take messages that have ended and whose run has not been told yet.

    Call inside a transaction that also moves the runs on: the messages count as told
    when it commits, and come again if it does not. Two callers never get the same.
    """
    return sorted(
        (Settled(*row) for row in fetch_all(TAKE_SETTLED, [limit])),
        key=lambda settled: settled.message_id,
    )


def hold(campaign_id: int) -> None:
    """Let the messages of a campaign wait.

    From the commit on no further group of them is handed over; a group that is being
    handed over just then (at most 20 per worker) still goes out.
    """
    Hold.objects.get_or_create(campaign_id=campaign_id)


def release(campaign_id: int) -> None:
    """Send the messages of a campaign again. What expired meanwhile is suppressed."""
    Hold.objects.filter(campaign_id=campaign_id).delete()
    ring(SEND_TASK)


def queue_again(message_ids: Iterable[int], *, now: datetime) -> int:
    """Give failed messages one more attempt. Returns how many were failed.

    Only failed ones: of these it is certain that they did not go out. The run that
    asked was told of the failure and is not told again.
    """
    failed = Message.objects.filter(
        pk__in=list(message_ids), status=Message.Status.FAILED
    )
    lives = times_to_live()
    again = 0
    for channel in Channel.values:
        again += failed.filter(channel=channel).update(
            status=Message.Status.QUEUED,
            reason="",
            due_at=now,
            expires_at=now + lives[channel],
            lease=None,
            leased_until=None,
        )
    if again:
        ring(SEND_TASK)
    return again

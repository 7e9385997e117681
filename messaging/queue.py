"""Asking for messages, and being told how they ended.

The row is the queue: `queue_messages` writes it, messaging.send works it off,
`take_settled` tells whoever asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet

from customers.contacts import normalise_email, normalise_phone
from customers.models import Channel, Customer
from events.models import Event, SystemEvent
from messaging import render
from messaging.eligibility import ADDRESS
from messaging.models import ChannelSettings, Content, Hold, Message, Text
from messaging.render import Written
from messaging.rows import as_json
from smartcomm.core.clock import database_now
from smartcomm.core.db import fetch_all
from smartcomm.core.doorbell import ring
from smartcomm.core.errors import Invalid, Several

SEND_TASK = "messaging.tasks.send_messages"
#: So many messages are cancelled in one statement.
AT_ONCE = 10_000


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
    SELECT asked.*,
           %(now)s + make_interval(secs => (%(lives)s::json ->> channel)::numeric),
           %(now)s, %(now)s, 'queued', false,
           '', '', 0, false, '', '', '', '', '', '', '', ''
      FROM json_to_recordset(%(requests)s::json) AS asked (
        customer_id bigint, run_id bigint, campaign_id bigint, version_id bigint,
        step text, content_id bigint, channel text, event_id bigint,
        system_event_id bigint
      )
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
    seconds = {channel: life.total_seconds() for channel, life in lives.items()}
    new = fetch_all(
        QUEUE, {"requests": as_json(requests), "lives": as_json(seconds), "now": now}
    )
    if new:
        ring(SEND_TASK)
    return len(new)


def send_test(
    text: Written,
    *,
    customer: Customer,
    event: Event | SystemEvent | None = None,
    address: str = "",
    now: datetime,
) -> Message:
    """Queue a message that is only a try, put together for this customer and event.

    It takes the same way as a real one. With an `address` it goes there, and nobody's
    consent is asked; without, it goes to the customer, if they may be written to.
    """
    problems = render.problems(
        text.channel,
        {name: getattr(text, name) for name in render.FIELDS[text.channel]},
    )
    if problems:
        raise Several(list(problems))
    message = Message(
        customer=customer,
        channel=text.channel,
        content=_content(text),
        event=event if isinstance(event, Event) else None,
        system_event=event if isinstance(event, SystemEvent) else None,
        is_test=True,
        due_at=now,
        created_at=now,
        expires_at=now + times_to_live()[text.channel],
        address=_checked(text.channel, address),
    )
    message.save()
    ring(SEND_TASK)
    return message


def _content(text: Written) -> Content:
    if isinstance(text, Content) and text.pk:
        return text
    names = [field.name for field in Text._meta.fields]
    content = Content(
        **{name: getattr(text, name) for name in names if hasattr(text, name)}
    )
    content.save()
    return content


def _checked(channel: str, address: str) -> str:
    if not address.strip():
        return ""
    if channel == Channel.PUSH:
        return address.strip()
    contact = (
        normalise_email(address)
        if channel == Channel.EMAIL
        else normalise_phone(address)
    )
    if not contact.is_valid:
        what = ADDRESS[Channel(channel)]
        raise Invalid(f"“{contact.value}” is no valid {what}.", field="address")
    return contact.value


def times_to_live() -> dict[str, timedelta]:
    """How long a message of each channel may wait. One query."""
    decided = {row.channel: row for row in ChannelSettings.objects.all()}
    return {
        channel: timedelta(
            hours=decided.get(channel, ChannelSettings(channel=channel)).ttl_hours
        )
        for channel in Channel.values
    }


# The words of the partial index message_unsettled, so that it is used. Materialised: a
# subquery may be run again by the plan, and would then take more than its limit.
TAKE_SETTLED = """
    WITH ended AS MATERIALIZED (
        SELECT id FROM messaging_message
         WHERE NOT is_settled AND run_id IS NOT NULL
           AND NOT (status IN ('queued', 'sending'))
         ORDER BY id
         LIMIT %s
           FOR UPDATE SKIP LOCKED
    )
    UPDATE messaging_message AS message SET is_settled = true
      FROM ended
     WHERE message.id = ended.id
    RETURNING message.id, customer_id, run_id, step, status, reason, detail
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


def cancel(campaign_id: int, *, reason: str) -> int:
    """Suppress what a campaign has queued and not handed over. Returns how many.

    Whoever asked for them has ended, and is not told. What is being handed over just
    now may still go out, but is not tried again.
    """
    of_campaign = Message.objects.filter(campaign_id=campaign_id)
    return _cancel(of_campaign, reason=reason, now=database_now())


def cancel_runs(
    run_ids: Iterable[int], *, customer_id: int, reason: str, now: datetime
) -> int:
    """The same for runs of one customer that have ended before their time."""
    of_runs = Message.objects.filter(customer_id=customer_id, run_id__in=list(run_ids))
    return _cancel(of_runs, reason=reason, now=now)


def cancel_due(
    campaign_id: int, *, before: datetime, reason: str, now: datetime
) -> list[int]:
    """The same for what should have gone out before this time, AT_ONCE at most.

    Returns the runs that had asked for it; call it until there are none.
    """
    due = Message.objects.filter(
        campaign_id=campaign_id, status=Message.Status.QUEUED, due_at__lt=before
    ).order_by("pk")
    found = dict(due.values_list("pk", "run_id")[:AT_ONCE])
    _cancel(Message.objects.filter(pk__in=list(found)), reason=reason, now=now)
    return [run_id for run_id in found.values() if run_id is not None]


def _cancel(messages: QuerySet[Message], *, reason: str, now: datetime) -> int:
    messages.filter(status=Message.Status.SENDING).update(expires_at=now)
    return messages.filter(status=Message.Status.QUEUED).update(
        status=Message.Status.SUPPRESSED,
        reason=Message.Reason.CANCELLED,
        detail=reason,
        is_settled=True,
        lease=None,
        leased_until=None,
    )


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

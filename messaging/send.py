"""Claim messages, hand them over, record what came of it.

    queued ──claim: lease──▶ queued ──check, render──▶ suppressed | failed
                               │
                               └──start, 20 at most──▶ sending ──▶ sent
                                                          │        queued again, later
                                                          │        failed
                                                          └──▶ unknown

A lease is a promise to look at a message, not a state: it ends by itself, and the
message is anybody's again. `sending` is the state of no return. It is committed before
anything leaves the house, and nobody claims a message that is in it. So a worker that
dies leaves at most one group `sending`, which close_interrupted turns to `unknown`;
everything else it held goes out later, once.

Only what is queued can be leased: the database says so. The statements below rely on it
and ask for the lease alone; asking for the status as well would tempt the planner to
read the index of the whole queue for a group of twenty.

Each statement below is its own transaction. No transaction is open during a hand-over.
That of START waits for the disk: after a power cut, too, what left the house is known.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
import structlog
from django.db import InterfaceError, OperationalError, connection, transaction

from customers.models import Channel
from messaging import channels
from messaging.channels import Outcome, Outgoing, Provider, Result
from messaging.crew import Crew
from messaging.eligibility import Refusal, refusal
from messaging.language import TemplateError
from messaging.models import Delivery, Message, Missing
from messaging.recipients import Claimed, Recipients
from messaging.render import Rendered, facts, render_facts
from messaging.retry import next_attempt
from messaging.rows import as_json
from messaging.signals import messages_settled
from smartcomm.core import stopping
from smartcomm.core.clock import database_now
from smartcomm.core.db import Prepared, execute, fetch_all

logger = structlog.get_logger(__name__)
T = TypeVar("T")
#: Channel → its provider.
WaysOut = Callable[[str], type[Provider]]

#: How many messages one statement claims.
BATCH = 500
#: How many messages at most a dead worker leaves behind in doubt.
IN_DOUBT_AT_MOST = 20
#: Its threads share that number.
crew = Crew(IN_DOUBT_AT_MOST)
#: Of each lane, so many messages at least are claimed.
SHARE = 20
#: A worker looks after its batch for BATCH_SECONDS and lets go of the rest; should it
#: be dead, others take over when the lease ends.
BATCH_SECONDS = 30.0
LEASE = timedelta(minutes=2)
#: No answer for so long means that the worker is dead.
INTERRUPTED_AFTER = timedelta(minutes=10)
#: A provider that cannot be reached is left alone for so long, by this process.
AWAY_SECONDS = 30.0
#: Pauses between attempts to record an outcome while the database is away.
RECORD_PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 20.0)

MAY_HAVE_ARRIVED = (
    "The worker stopped between hand-over and record. It may have arrived, so it is "
    "not sent again."
)

#: Channels whose provider cannot be reached, and until when (time.monotonic).
_away: dict[str, float] = {}


def send_messages(
    *,
    limit: int = BATCH,
    now: datetime | None = None,
    ways_out: WaysOut = channels.provider_class,
) -> int:
    """Take one batch of due messages as far as it goes. Returns how many were claimed.

    Call it until it returns 0. Any number of workers may call it at the same time.
    `ways_out` tells the provider of a channel.
    """
    clock = _clock(now)
    lease = uuid.uuid4()
    batch = _claim(lease, limit, now=clock())
    if not batch:
        return 0
    ended, letters = _prepare(batch, now=clock())
    settled = _close(ended, lease)
    with crew.working():
        started, is_awaited = _hand_over(letters, lease, clock=clock, ways_out=ways_out)
    _let_go([one.row for one in letters if one.row.id not in started], lease)
    if settled or is_awaited:
        _tell_settled()
    return len(batch)


def close_interrupted(*, now: datetime | None = None) -> int:
    """Close the messages whose worker died while handing them over. Returns how many.

    They may have arrived, so they are not tried again. Should the worker turn out to be
    slow, not dead, its answer still counts.
    """
    moment = now or database_now()
    closed = fetch_all(
        CLOSE_INTERRUPTED,
        {"now": moment, "before": moment - INTERRUPTED_AFTER, "why": MAY_HAVE_ARRIVED},
    )
    if any(run_id is not None for (run_id,) in closed):
        _tell_settled()
    return len(closed)


def why_not(message: Message, *, now: datetime) -> str:
    """Why this queued message would not be sent if it were sent now; empty if it would.

    Asks what sending asks, and changes nothing.
    """
    row = Claimed(
        id=message.pk,
        customer_id=message.customer_id,
        channel=message.channel,
        content_id=message.content_id,
        event_id=message.event_id,
        system_event_id=message.system_event_id,
        run_id=message.run_id,
        is_test=message.is_test,
        address=message.address,
        attempts=message.attempts,
        expires_at=message.expires_at,
    )
    ended, _ = _prepare([row], now=now)
    return ended[0].detail if ended else ""


# --- claim ------------------------------------------------------------------------

# The queue is read in lanes, one for each campaign and channel that has messages in it:
# a million messages of a paused campaign, or of a provider that is away, cost one step,
# and a big mailing does not keep the others waiting. The first part hops from lane to
# lane along the index message_queue, the last takes its share of each.
CLAIM = """
    WITH RECURSIVE lane (campaign, channel) AS (
        (SELECT coalesce(campaign_id, 0), channel
           FROM messaging_message
          WHERE status = 'queued'
          ORDER BY coalesce(campaign_id, 0), channel
          LIMIT 1)
        UNION ALL
        SELECT following.*
          FROM lane, LATERAL (
              SELECT coalesce(campaign_id, 0), message.channel
                FROM messaging_message AS message
               WHERE status = 'queued'
                 AND (coalesce(campaign_id, 0), message.channel)
                   > (lane.campaign, lane.channel)
               ORDER BY coalesce(campaign_id, 0), message.channel
               LIMIT 1
          ) AS following
    ), open_lane AS MATERIALIZED (
        SELECT campaign, channel
          FROM lane
         WHERE channel = ANY(%(channels)s)
           AND NOT EXISTS (
               SELECT FROM messaging_hold AS hold WHERE hold.campaign_id = campaign
           )
    ), claimed AS MATERIALIZED (
        SELECT due.id
          FROM open_lane, LATERAL (
              SELECT id, due_at
                FROM messaging_message AS message
               WHERE status = 'queued'
                 AND coalesce(campaign_id, 0) = open_lane.campaign
                 AND message.channel = open_lane.channel
                 AND due_at <= %(now)s
                 AND (leased_until IS NULL OR leased_until < %(now)s)
               ORDER BY due_at, id
               LIMIT greatest(%(limit)s / (SELECT count(*) FROM open_lane), %(share)s)
                 FOR UPDATE SKIP LOCKED
          ) AS due
         ORDER BY row_number() OVER (
                   PARTITION BY campaign, channel ORDER BY due_at, id
               ), due_at, id
         LIMIT %(limit)s
    )
    UPDATE messaging_message AS message
       SET lease = %(lease)s, leased_until = %(until)s
      FROM claimed
     WHERE message.id = claimed.id
    RETURNING message.id, customer_id, channel, content_id, event_id, system_event_id,
              run_id, is_test, address, attempts, expires_at
"""


def _claim(lease: uuid.UUID, limit: int, *, now: datetime) -> list[Claimed]:
    rows = fetch_all(
        CLAIM,
        {
            "now": now,
            "until": now + LEASE,
            "lease": lease,
            "limit": limit,
            "share": SHARE,
            "channels": _reachable_channels(),
        },
    )
    return sorted((Claimed(*row) for row in rows), key=lambda row: row.id)


def _reachable_channels() -> list[str]:
    return [
        channel
        for channel in Channel.values
        if _away.get(channel, 0.0) <= time.monotonic()
    ]


# Held messages and those not reached in time: for whoever comes next.
LET_GO = """
    UPDATE messaging_message SET lease = NULL, leased_until = NULL
     WHERE id = ANY(%s) AND lease = %s
"""


def _let_go(rows: list[Claimed], lease: uuid.UUID) -> None:
    if rows:
        execute(LET_GO, [[row.id for row in rows], lease])


# --- check and render -------------------------------------------------------------


class Letter(msgspec.Struct, frozen=True):
    """A message that may be sent, as the customer will see it."""

    row: Claimed
    address: str
    rendered: Rendered


class Ended(msgspec.Struct, frozen=True):
    """A message that is not sent, and why."""

    row: Claimed
    status: str
    reason: str
    detail: str
    address: str = ""


def _prepare(
    batch: list[Claimed], *, now: datetime
) -> tuple[list[Ended], list[Letter]]:
    recipients = Recipients(batch)
    ended: list[Ended] = []
    letters: list[Letter] = []
    for row in batch:
        result = _judge(row, recipients, now=now)
        if isinstance(result, Ended):
            ended.append(result)
        else:
            letters.append(result)
    return ended, letters


def _judge(row: Claimed, recipients: Recipients, *, now: datetime) -> Letter | Ended:
    situation = recipients.situation(row)
    no = refusal(situation, now=now)
    if no is not None:
        return _suppressed(row, no, situation.address)
    content = recipients.contents[row.content_id]
    happening = recipients.happening(row)
    try:
        rendered = render_facts(
            content,
            facts(
                recipients.customers[row.customer_id],
                context=happening.context,
                event_name=happening.name,
                occurred_at=happening.occurred_at,
                answers=recipients.answers_for(row),
            ),
        )
    except TemplateError as error:
        where = f"In the {error.field}: " if error.field else ""
        return Ended(
            row, Message.Status.FAILED, "", f"{where}{error.message}", situation.address
        )
    except Exception as error:
        # One strange value must not stop the queue.
        logger.exception("message.not_rendered", message_id=row.id)
        detail = f"It could not be rendered: {type(error).__name__}: {error}"
        return Ended(row, Message.Status.FAILED, "", detail, situation.address)
    if rendered.missing and content.missing != Missing.SEND:
        names = ", ".join(rendered.missing)
        no = Refusal(Message.Reason.MISSING_VARIABLE, f"There is no value for {names}.")
        if content.missing == Missing.SKIP:
            return _suppressed(row, no, situation.address)
        return Ended(
            row, Message.Status.FAILED, no.reason, no.detail, situation.address
        )
    return Letter(row, situation.address, rendered)


def _suppressed(row: Claimed, no: Refusal, address: str) -> Ended:
    return Ended(row, Message.Status.SUPPRESSED, no.reason, no.detail, address)


CLOSE = """
    UPDATE messaging_message AS message
       SET status = ended.status, reason = ended.reason, detail = ended.detail,
           address = ended.address, lease = NULL, leased_until = NULL
      FROM json_to_recordset(%s::json)
        AS ended (id bigint, status text, reason text, detail text, address text)
     WHERE message.id = ended.id AND message.lease = %s
    RETURNING message.run_id
"""


def _close(ended: list[Ended], lease: uuid.UUID) -> bool:
    """Record the messages that are not sent. Tells whether a run waits for one."""
    if not ended:
        return False
    closed = fetch_all(
        CLOSE,
        [
            as_json(
                [
                    {
                        "id": one.row.id,
                        "status": one.status,
                        "reason": one.reason,
                        "detail": _storable(one.detail),
                        "address": one.address,
                    }
                    for one in ended
                ]
            ),
            lease,
        ],
    )
    return any(run_id is not None for (run_id,) in closed)


# --- hand over --------------------------------------------------------------------


def _hand_over(
    letters: list[Letter],
    lease: uuid.UUID,
    *,
    clock: Callable[[], datetime],
    ways_out: WaysOut = channels.provider_class,
) -> tuple[set[int], bool]:
    """Hand over, group by group. Returns those it got to, and whether a run waits for
    one of them."""
    by_channel: dict[str, list[Letter]] = defaultdict(list)
    for letter in letters:
        by_channel[letter.row.channel].append(letter)
    stop_at = time.monotonic() + BATCH_SECONDS
    reached: set[int] = set()
    is_awaited = False
    for channel, waiting in by_channel.items():
        while waiting and channel in _reachable_channels():
            if time.monotonic() > stop_at or stopping.is_stopping():
                return reached, is_awaited
            with crew.group(len(waiting)) as size:
                group, waiting = waiting[:size], waiting[size:]
                started, told = _hand_over_group(
                    channel, group, lease, clock=clock, provider_class=ways_out(channel)
                )
            reached |= started
            is_awaited |= told
    return reached, is_awaited


def _hand_over_group(
    channel: str,
    group: list[Letter],
    lease: uuid.UUID,
    *,
    clock: Callable[[], datetime],
    provider_class: type[Provider],
) -> tuple[set[int], bool]:
    began = time.monotonic()
    # Made before the messages are marked: what cannot even be made has sent nothing.
    provider = provider_class()
    started = _start(group, lease, provider_class.name, now=clock())
    if not started:
        return set(), False
    by_id = {letter.row.id: letter for letter in group}
    outgoing = [_outgoing(by_id[one.message_id], one.attempt) for one in started]
    before = time.monotonic()
    outcomes = provider.hand_over(outgoing)
    at_provider = time.monotonic() - before
    if any(outcome.result is Result.AWAY for outcome in outcomes):
        _away[channel] = time.monotonic() + AWAY_SECONDS
        logger.warning("provider.away", channel=channel, error=outcomes[-1].error)
    records = [
        _record_of(one, by_id[one.message_id].row, outcome, now=clock())
        for one, outcome in zip(started, outcomes, strict=True)
    ]
    is_awaited = _insist(lambda: _record(records, now=clock()))
    crew.tell(at_provider=at_provider, in_all=time.monotonic() - began)
    return {one.message_id for one in started}, is_awaited


class Started(msgspec.Struct, frozen=True):
    message_id: int
    delivery_id: int
    attempt: int


# Whoever marks a message `sending` sends it: nobody else, and never again. One
# statement, so that message and delivery cannot part ways.
START = Prepared(
    "messaging_start",
    """
    WITH started AS (
        UPDATE messaging_message AS message
           SET status = 'sending', sending_since = %(now)s, attempts = attempts + 1,
               lease = NULL, leased_until = NULL, detail = '',
               provider = %(provider)s, address = letter.address,
               subject = letter.subject, body = letter.body, html = letter.html,
               link = letter.link, image = letter.image
          FROM json_to_recordset(%(letters)s::json) AS letter (
                   id bigint, address text, subject text, body text, html text,
                   link text, image text
               )
         WHERE message.id = letter.id
           AND message.lease = %(lease)s
           AND NOT EXISTS (
               SELECT FROM messaging_hold AS hold
                WHERE hold.campaign_id = message.campaign_id
           )
        RETURNING message.id, message.customer_id, message.attempts
    )
    INSERT INTO messaging_delivery
        (customer_id, message_id, attempt, provider, outcome, provider_id, error,
         started_at)
    SELECT customer_id, id, attempts, %(provider)s, 'started', '', '', %(now)s
      FROM started
    RETURNING message_id, id, attempt
    """,
    now="timestamptz",
    provider="text",
    letters="json",
    lease="uuid",
)


def _start(
    group: list[Letter], lease: uuid.UUID, provider: str, *, now: datetime
) -> list[Started]:
    rows = START.fetch_all(
        {
            "now": now,
            "lease": lease,
            "provider": provider,
            "letters": as_json(
                [
                    {
                        "id": letter.row.id,
                        "address": letter.address,
                        "subject": _storable(letter.rendered.subject),
                        "body": _storable(letter.rendered.body),
                        "html": _storable(letter.rendered.html),
                        "link": _storable(letter.rendered.link),
                        "image": _storable(letter.rendered.image),
                    }
                    for letter in group
                ]
            ),
        },
    )
    return [Started(*row) for row in rows]


def _outgoing(letter: Letter, attempt: int) -> Outgoing:
    rendered = letter.rendered
    return Outgoing(
        id=letter.row.id,
        attempt=attempt,
        channel=letter.row.channel,
        address=letter.address,
        subject=rendered.subject,
        body=rendered.body,
        html=rendered.html,
        link=rendered.link,
        image=rendered.image,
    )


# --- record -----------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True):
    """What becomes of a message and its delivery."""

    message_id: int
    delivery_id: int
    status: str
    outcome: str
    provider_id: str
    detail: str
    due_at: datetime | None


def _record_of(
    started: Started, row: Claimed, outcome: Outcome, *, now: datetime
) -> Record:
    status, delivery = Message.Status.FAILED, Delivery.Outcome.FAILED
    due_at: datetime | None = None
    match outcome.result:
        case Result.ACCEPTED:
            status, delivery = Message.Status.SENT, Delivery.Outcome.ACCEPTED
        case Result.IN_DOUBT:
            status, delivery = Message.Status.UNKNOWN, Delivery.Outcome.UNKNOWN
        case Result.REFUSED | Result.LATER | Result.AWAY:
            due_at = next_attempt(
                started.attempt,
                permanent=outcome.result is Result.REFUSED,
                now=now,
                expires_at=row.expires_at,
            )
            if due_at is not None:
                status, delivery = Message.Status.QUEUED, Delivery.Outcome.RETRY
    return Record(
        message_id=started.message_id,
        delivery_id=started.delivery_id,
        status=status,
        outcome=delivery,
        provider_id=_storable(outcome.provider_id)[:255],
        detail=_storable(outcome.error),
        due_at=due_at,
    )


# The delivery says which attempt is meant, and is recorded once. An answer that comes
# after close_interrupted still counts, but a message that was called unknown is not
# tried again: its run has been told how it ended. Messages are locked before their
# deliveries here and below, so that the two never wait for each other in a ring.
#
# Nobody waits for the disk here. The next group is started by a commit that does wait,
# and the log is written in order: what is handed over next has this record before it on
# the disk. Should the database fall over in between, this one group is in doubt.
RECORD = Prepared(
    "messaging_record",
    """
    WITH record AS (
        SELECT *
          FROM json_to_recordset(%(records)s::json) AS record (
                   message_id bigint, delivery_id bigint, status text, outcome text,
                   provider_id text, detail text, due_at timestamptz
               )
    ), held AS MATERIALIZED (
        SELECT id FROM messaging_message
         WHERE id IN (SELECT message_id FROM record) ORDER BY id FOR UPDATE
    ), recorded AS (
        UPDATE messaging_delivery AS delivery
           SET outcome = record.outcome, provider_id = record.provider_id,
               error = record.detail, finished_at = %(now)s
          FROM record JOIN held ON held.id = record.message_id
         WHERE delivery.id = record.delivery_id
           AND delivery.outcome IN ('started', 'unknown')
        RETURNING record.*
    )
    UPDATE messaging_message AS message
       SET status = CASE
               WHEN message.status = 'unknown' AND recorded.status = 'queued'
               THEN 'failed' ELSE recorded.status END,
           detail = recorded.detail,
           provider_id = recorded.provider_id,
           due_at = coalesce(recorded.due_at, message.due_at),
           sent_at = CASE WHEN recorded.status = 'sent' THEN %(now)s END
      FROM recorded, (SELECT set_config('synchronous_commit', 'off', true)) AS relaxed
     WHERE message.id = recorded.message_id
       AND message.status IN ('sending', 'unknown')
    RETURNING message.run_id, message.status
    """,
    now="timestamptz",
    records="json",
)


def _record(records: Sequence[Record], *, now: datetime) -> bool:
    """Record the outcomes of a group. Tells whether a run waits for one of them."""
    rows = RECORD.fetch_all(
        {
            "now": now,
            "records": as_json(records),
        },
    )
    return any(run_id is not None and status != "queued" for run_id, status in rows)


def _insist(operation: Callable[[], T]) -> T:
    """Do it, on a new connection if need be, for as long as the database may be away.

    Safe to repeat: an outcome is recorded once. If it cannot be recorded at all, the
    messages stay `sending` and end as unknown; they are never sent again.
    """
    for pause in RECORD_PAUSES:
        try:
            return operation()
        except (OperationalError, InterfaceError):
            if connection.in_atomic_block:
                raise
            logger.warning("record.database_away", pause=pause)
            connection.close()
            time.sleep(pause)
    return operation()


CLOSE_INTERRUPTED = """
    WITH interrupted AS MATERIALIZED (
        SELECT id FROM messaging_message
         WHERE status = 'sending' AND sending_since < %(before)s
         ORDER BY sending_since
         LIMIT 10000
           FOR UPDATE SKIP LOCKED
    ), closed AS (
        UPDATE messaging_delivery AS delivery
           SET outcome = 'unknown', error = %(why)s, finished_at = %(now)s
          FROM interrupted
         WHERE delivery.message_id = interrupted.id AND delivery.outcome = 'started'
    )
    UPDATE messaging_message AS message
       SET status = 'unknown', detail = %(why)s
      FROM interrupted
     WHERE message.id = interrupted.id
    RETURNING message.run_id
"""


def _tell_settled() -> None:
    transaction.on_commit(lambda: _signal_settled(), robust=True)


def _signal_settled() -> None:
    for receiver, response in messages_settled.send_robust(sender=None):
        if isinstance(response, Exception):
            logger.error("messages_settled.receiver", receiver=str(receiver))


def _storable(text: str) -> str:
    """PostgreSQL has no NUL in texts."""
    return text.replace("\x00", "") if "\x00" in text else text


def _clock(now: datetime | None) -> Callable[[], datetime]:
    return database_now if now is None else lambda: now


def forget_away() -> None:
    """Try every provider again at once. For tests, and after settings changed."""
    _away.clear()

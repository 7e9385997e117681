"""Claim calls, make them, record what came of it.

A call is marked `sending`, and that is committed, before anything leaves the house. Its
`due_at` says meanwhile when its sender counts as dead; then it is anybody's again, and
is made again: at least once, with the same id, so that a receiver can tell.

One thread talks to the database. The others talk to receivers, each of whom gets only
some of them, so that a slow one holds up itself and nobody else. No transaction is open
during a call.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction

from campaigns.bells import TICK
from campaigns.models import WebhookCall
from campaigns.webhooks import answers, signing
from campaigns.webhooks.retry import can_help, next_try, read_retry_after
from messaging.rows import as_json
from smartcomm.core import outbound, stopping
from smartcomm.core.clock import database_now
from smartcomm.core.db import execute, fetch_all
from smartcomm.core.doorbell import ring
from smartcomm.core.outbound import AddressRefused, Answer, NoAnswer

logger = structlog.get_logger(__name__)

#: No word of a sender for so long means that it is dead: well above what a call takes,
#: with a name server that keeps one waiting.
LEASE = timedelta(minutes=2)
#: How often a sender with calls on their way looks for new ones.
LOOK_SECONDS = 0.5
#: After so many failures in a row this process leaves a receiver alone for a while.
FAILURES_IN_A_ROW = 3
AWAY_SECONDS = 30.0
#: A receiver who asks for a longer pause is asked again after this one: by a few calls.
AWAY_AT_MOST = 60.0
#: So many tries of a call are kept.
MAX_TRIES = 50
EXCERPT = 300
HEADERS = {
    "content-type": "application/json",
    "user-agent": "SmartCommunications/1",
    "connection": "close",
}

Status = WebhookCall.Status


@dataclass(frozen=True, slots=True)
class Claimed:
    """A call that this sender makes."""

    id: int
    lease: uuid.UUID
    webhook_id: uuid.UUID
    url: str
    receiver: str
    body: str
    attempts: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Tried:
    """How one try ended."""

    call: Claimed
    at: datetime
    ms: int
    status: int | None = None
    #: Empty: it was taken.
    error: str = ""
    is_final: bool = True
    answer: Any = None
    note: str = ""
    retry_after: timedelta | None = None
    #: The receiver does not answer, or does not want to.
    is_away: bool = False


@dataclass
class Receivers:
    """Who does not answer, as far as this process has seen."""

    failures: Counter[str] = field(default_factory=Counter)
    #: Receiver → until when it is left alone (time.monotonic).
    away: dict[str, float] = field(default_factory=dict)

    def note(self, tried: Tried) -> None:
        receiver = tried.call.receiver
        if not tried.is_away:
            self.failures.pop(receiver, None)
            return
        self.failures[receiver] += 1
        seconds = 0.0
        if tried.retry_after is not None:
            seconds = min(tried.retry_after.total_seconds(), AWAY_AT_MOST)
        elif self.failures[receiver] >= FAILURES_IN_A_ROW:
            seconds = AWAY_SECONDS
        if seconds:
            self.away[receiver] = time.monotonic() + seconds
            logger.warning("webhook.receiver_away", receiver=receiver, seconds=seconds)

    def left_alone(self) -> list[str]:
        now = time.monotonic()
        return [receiver for receiver, until in self.away.items() if until > now]


_receivers = Receivers()


def send_calls() -> int:
    """Make due calls until there are none. Returns how many tries were made.

    Any number of processes may do so at the same time.
    """
    made = 0
    at_once: int = settings.WEBHOOK_CALLS_AT_ONCE
    under_way: set[Future[Tried]] = set()
    with ThreadPoolExecutor(at_once, thread_name_prefix="webhook") as pool:
        while True:
            free = at_once - len(under_way)
            if free and not stopping.is_stopping():
                under_way |= {pool.submit(_try, call) for call in _claim(free)}
            if not under_way:
                return made
            ended, under_way = wait(
                under_way, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED
            )
            _record([future.result() for future in ended])
            made += len(ended)


def forget_away() -> None:
    """Try every receiver again at once. For tests."""
    _receivers.failures.clear()
    _receivers.away.clear()


# --- claim ------------------------------------------------------------------------

# One claim at a time, so that the calls of a receiver are counted right.
ALONE = "SELECT pg_advisory_xact_lock(hashtext('campaigns.webhooks.claim'))"

# The queue is read in lanes, one for each campaign and receiver: a million calls of a
# paused campaign, or to a receiver who is away, cost one step. The first part hops from
# lane to lane along the index webhook_queue, the last takes from each as much as its
# receiver may get. What expired while nobody looked is claimed too, and not made.
CLAIM = """
    WITH RECURSIVE lane (campaign_id, receiver) AS (
        (SELECT campaign_id, receiver
           FROM campaigns_webhookcall
          WHERE status IN ('queued', 'sending')
          ORDER BY campaign_id, receiver
          LIMIT 1)
        UNION ALL
        SELECT following.*
          FROM lane, LATERAL (
              SELECT call.campaign_id, call.receiver
                FROM campaigns_webhookcall AS call
               WHERE call.status IN ('queued', 'sending')
                 AND (call.campaign_id, call.receiver)
                     > (lane.campaign_id, lane.receiver)
               ORDER BY call.campaign_id, call.receiver
               LIMIT 1
          ) AS following
    ), busy AS (
        SELECT receiver, count(*) AS number
          FROM campaigns_webhookcall
         WHERE status = 'sending' AND due_at > %(now)s
         GROUP BY receiver
    ), due AS (
        SELECT due.id, due.due_at, lane.receiver
          FROM lane
          JOIN campaigns_campaign AS campaign
            ON campaign.id = lane.campaign_id AND campaign.status <> 'paused',
               LATERAL (
              SELECT id, due_at
                FROM campaigns_webhookcall AS call
               WHERE call.status IN ('queued', 'sending')
                 AND call.campaign_id = lane.campaign_id
                 AND call.receiver = lane.receiver
                 AND call.due_at <= %(now)s
               ORDER BY due_at, id
               LIMIT %(each)s
                 FOR UPDATE SKIP LOCKED
          ) AS due
         WHERE NOT (lane.receiver = ANY(%(away)s::text[]))
    ), ranked AS (
        SELECT id, due_at, receiver,
               row_number() OVER (PARTITION BY receiver ORDER BY due_at, id) AS place
          FROM due
    ), claimed AS (
        SELECT id
          FROM ranked LEFT JOIN busy USING (receiver)
         WHERE place + coalesce(busy.number, 0) <= %(each)s
         ORDER BY place, due_at, id
         LIMIT %(limit)s
    )
    UPDATE campaigns_webhookcall AS call
       SET status = 'sending', lease = gen_random_uuid(), due_at = %(until)s,
           attempts = least(attempts + (expires_at > %(now)s)::int, 32767)
      FROM claimed
     WHERE call.id = claimed.id
 RETURNING call.id, lease, webhook_id, url, call.receiver, body, attempts, expires_at
"""


def _claim(limit: int) -> list[Claimed]:
    now = database_now()
    with transaction.atomic():
        execute(ALONE)
        rows = fetch_all(
            CLAIM,
            {
                "now": now,
                "until": now + LEASE,
                "each": settings.WEBHOOK_CALLS_PER_RECEIVER,
                "away": _receivers.left_alone(),
                "limit": limit,
            },
        )
    return [Claimed(*row) for row in rows]


# --- call -------------------------------------------------------------------------


def _try(call: Claimed) -> Tried:
    """Make one call. Never raises: whatever happens is how it ended."""
    at, begun = database_now(), time.monotonic()
    if call.expires_at <= at:
        return Tried(call, at, 0, error="Its time was over before it could be made.")
    body = call.body.encode()
    outcome: dict[str, Any]
    try:
        answer = outbound.post(
            call.url,
            body,
            HEADERS | signing.sign(str(call.webhook_id), body, now=at),
            internal=settings.WEBHOOK_INTERNAL_HOSTS,
        )
        outcome = judge(answer, now=at)
    except AddressRefused as error:
        outcome = {"error": error.message}
    except NoAnswer as error:
        outcome = {"error": error.message, "is_final": False, "is_away": True}
    except Exception as error:
        # A setting that is wrong, or a fault of ours: told, and tried again.
        logger.exception("webhook.fault", call=call.id)
        outcome = {"error": f"Internal error: {type(error).__name__}; see the log."}
        outcome["is_final"] = False
    return Tried(call, at, round((time.monotonic() - begun) * 1000), **outcome)


def judge(answer: Answer, *, now: datetime) -> dict[str, Any]:
    """What an answer means, as fields of `Tried`."""
    value = None if answer.is_cut else answers.read(answer.body)
    told: dict[str, Any] = {"status": answer.status, "answer": value}
    if 200 <= answer.status <= 299:
        if answer.is_cut:
            kib = outbound.MAX_ANSWER // 1024
            told["note"] = f"The answer is longer than {kib} KiB and was not kept."
        elif answer.body.strip() and value is None:
            told["note"] = "The answer is no JSON that can be kept."
        return told
    said = " ".join(answer.body[: 4 * EXCERPT].decode(errors="replace").split())
    said = said.replace("\x00", "")[:EXCERPT]
    told["error"] = f"It answered {answer.status} {answer.phrase}".rstrip() + (
        f": {said}" if said else "."
    )
    if 300 <= answer.status <= 399:
        told["error"] = (
            f"It answered {answer.status}, which sends one elsewhere. Redirects are "
            "not followed: call the right address."
        )
    if can_help(answer.status):
        retry_after = read_retry_after(answer.headers.get("retry-after", ""), now=now)
        is_away = answer.status in (429, 502, 503, 504)
        told |= {"is_final": False, "is_away": is_away, "retry_after": retry_after}
    return told


# --- record -----------------------------------------------------------------------

# By the lease: a sender that was thought dead and comes back late changes nothing. What
# was cancelled meanwhile has a new end, and is not queued again. Locked in the order of
# their ids, as a merge locks those of a customer.
RECORD = """
    WITH record AS (
        SELECT *
          FROM json_to_recordset(%(records)s::json) AS record (
                   id bigint, lease uuid, status text, due_at timestamptz,
                   http_status smallint, answer jsonb, reason text, try jsonb
               )
    ), held AS MATERIALIZED (
        SELECT id FROM campaigns_webhookcall
         WHERE id IN (SELECT id FROM record) ORDER BY id FOR UPDATE
    )
    UPDATE campaigns_webhookcall AS call
       SET status = CASE WHEN record.status = 'queued'
                              AND record.due_at > call.expires_at
                         THEN 'failed' ELSE record.status END,
           due_at = coalesce(record.due_at, call.due_at),
           finished_at = CASE WHEN record.status = 'queued'
                                   AND record.due_at <= call.expires_at
                              THEN NULL ELSE %(now)s END,
           http_status = record.http_status, answer = record.answer,
           reason = record.reason, lease = NULL,
           tries = CASE WHEN jsonb_array_length(call.tries) < %(most)s
                        THEN call.tries || record.try ELSE call.tries END
      FROM record JOIN held USING (id)
     WHERE call.id = record.id AND call.lease = record.lease
       AND call.status = 'sending'
 RETURNING call.status, call.is_settled
"""


def _record(ended: Iterable[Tried]) -> None:
    records = []
    for tried in ended:
        _receivers.note(tried)
        records.append(_record_of(tried, now=database_now()))
    if not records:
        return
    rows = fetch_all(
        RECORD,
        {"now": database_now(), "most": MAX_TRIES, "records": as_json(records)},
    )
    if any(status != Status.QUEUED and not settled for status, settled in rows):
        ring(TICK)


def _record_of(tried: Tried, *, now: datetime) -> dict[str, Any]:
    call = tried.call
    status, due_at, reason = Status.DONE, None, tried.note
    if tried.error:
        status, reason = Status.FAILED, tried.error
        if not tried.is_final:
            due_at = next_try(
                call.attempts,
                now=now,
                expires_at=call.expires_at,
                retry_after=tried.retry_after,
            )
            if due_at is not None:
                status = Status.QUEUED
            else:
                reason = f"Given up after {_times(call.attempts)}. {reason}"
    return {
        "id": call.id,
        "lease": call.lease,
        "status": status.value,
        "due_at": due_at,
        "http_status": tried.status,
        "answer": tried.answer,
        "reason": reason,
        "try": {
            "at": tried.at,
            "ms": tried.ms,
            "status": tried.status,
            "error": tried.error,
        },
    }


def _times(number: int) -> str:
    return f"{number} {'try' if number == 1 else 'tries'}"

"""Events from a RabbitMQ queue: the door for senders that put their events in one.

    collect messages ──▶ record their events ──▶ keep what was refused ──▶ acknowledge
                         commit                   commit                    all at once

Never lost: a message is acknowledged after what became of it is committed, and until
then the broker keeps it. Never doubled: whatever dies in between, the broker delivers
again, and the same ids come again (see events/envelope.py). An event that has no id,
in a message that has none, cannot be told from its own repetition: it is refused and
kept. No message holds up the queue: what cannot be recorded is kept as rejected.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

import amqp
import structlog
from django.db import (
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
)

from events.envelope import (
    Envelope,
    Unreadable,
    as_text,
    id_by,
    open_envelope,
)
from events.ingest import REJECTED, item_as_text, record_events
from events.models import Format, Kind, RejectedEvent, Source
from events.wire import MAX_ID, MAX_ITEMS, MAX_NAME, UNSTORABLE, Refusal
from smartcomm.core import rabbitmq
from smartcomm.core.clock import database_now
from smartcomm.core.db import sqlstate
from smartcomm.core.errors import Conflict, Invalid
from smartcomm.core.strict_json import Unfit

logger = structlog.get_logger(__name__)

#: A batch ends with so many bytes, too, and no more are read ahead of it.
BATCH_BYTES = 8 * 1024 * 1024
#: How often it is looked whether we shall stop, and whether the line lives.
IDLE_SECONDS = 0.25
#: Until the first new attempt, and at most, while broker or database are away.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
#: What staff change about the source counts after so long.
SOURCE_SECONDS = 5.0
#: How often the log tells how it goes.
REPORT_SECONDS = 10.0
#: How long a queue must bring nothing to be called empty.
EMPTY_SECONDS = 1.0

_FAULT = (
    "The event could not be recorded: a fault of ours, which is logged. Replay it when "
    "it is mended."
)


class DatabaseAway(Exception):
    """The database takes nothing at the moment. Later it will."""


class SourceInactive(Exception):
    """Staff switched the source off: its messages stay in the queue."""


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """Which queue is read, for whom, and how much at once."""

    url: str
    queue: str
    source: str
    kind: Kind = Kind.CUSTOMER
    #: How many messages the broker hands out before one is acknowledged.
    prefetch: int = 2_000
    #: How many events one transaction records,
    batch: int = MAX_ITEMS
    #: and how long the first of them waits for the others.
    batch_ms: int = 50

    def __post_init__(self) -> None:
        scheme = urlsplit(self.url).scheme
        for is_good, sentence in (
            (
                scheme in ("amqp", "amqps"),
                "Set AMQP_URL to an address such as amqp://user:password@host/vhost.",
            ),
            (
                0 < len(self.queue.encode(errors="replace")) <= 255
                and not self.queue.startswith("amq."),
                "The name of a queue has 1 to 255 characters and does not start with "
                "“amq.”.",
            ),
            (
                0 < len(self.source.strip()) <= 128,
                "The name of a source has 1 to 128 characters.",
            ),
            (1 <= self.prefetch <= 65_535, "Prefetch is a number from 1 to 65,535."),
            (1 <= self.batch <= MAX_ITEMS, "A batch has 1 to 1,000 events."),
            (0 <= self.batch_ms <= 10_000, "A batch waits 0 to 10,000 milliseconds."),
        ):
            if not is_good:
                raise Invalid(sentence)


@dataclass
class Counts:
    """What became of messages; the last three add up to the events in them."""

    messages: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0

    def add(self, other: Counts) -> None:
        self.messages += other.messages
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        self.rejected += other.rejected


@dataclass
class Batch:
    """Messages whose events are recorded, and which are acknowledged, together."""

    messages: int = 0
    last_tag: int = 0
    size: int = 0
    bytes: int = 0
    items: dict[Kind, list[object]] = field(default_factory=dict)
    refused: list[RejectedEvent] = field(default_factory=list)

    def add(self, tag: int, envelope: Envelope, read: _Read) -> None:
        self.messages += 1
        self.last_tag = tag
        self.size += read.size
        self.bytes += len(envelope.body)
        self.items.setdefault(read.kind, []).extend(read.items)
        self.refused.extend(read.refused)


@dataclass
class _Read:
    """One message, as far as it could be read."""

    kind: Kind
    items: list[object] = field(default_factory=list)
    refused: list[RejectedEvent] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.items) + len(self.refused)


# --- one batch --------------------------------------------------------------------


def read_envelope(envelope: Envelope, *, kind: Kind) -> _Read:
    """What can be recorded of a message, and what is refused already. Never raises."""
    try:
        opened = open_envelope(envelope, kind=kind)
    except Unreadable as unreadable:
        refusal = unreadable.refusal
        return _Read(
            unreadable.kind,
            refused=[
                RejectedEvent(
                    kind=unreadable.kind,
                    format=unreadable.format,
                    payload=unreadable.payload,
                    external_id=_storable(id_by(envelope), MAX_ID),
                    code=refusal.code,
                    field=refusal.field[:255],
                    message=refusal.message,
                )
            ],
        )
    except Exception:
        # Whatever is wrong with it or with us, those behind it must not wait.
        logger.exception("consume.unreadable", message_id=envelope.message_id)
        return _Read(
            kind,
            refused=[
                RejectedEvent(
                    kind=kind,
                    format=Format.UNREADABLE,
                    payload=as_text(envelope),
                    external_id=_storable(id_by(envelope), MAX_ID),
                    code="internal",
                    message=_FAULT,
                )
            ],
        )
    read = _Read(opened.kind)
    for place, item in enumerate(opened.items):
        if isinstance(item, dict) and item.get("id") is not None:
            read.items.append(item)
        else:
            one = _refused(item, opened.kind, refusal=_why_nameless(item))
            called = id_by(envelope, place, of=len(opened.items))
            one.external_id = _storable(called, MAX_ID)
            read.refused.append(one)
    return read


def _why_nameless(item: object) -> Refusal:
    if isinstance(item, Unfit):
        return Refusal(item.code, item.message, field=item.field)
    if not isinstance(item, dict):
        return Refusal("not_an_object", "An event is a JSON object.")
    return Refusal(
        "id_missing",
        "Neither the event has an “id” nor the message a message_id. A queue may "
        "deliver twice, and without either that cannot be told. Send one of them.",
        field="id",
    )


def record_batch(batch: Batch, *, source: Source, now: datetime) -> Counts:
    """Record the events of a batch and keep what is refused. Committed when it returns.

    Safe to repeat: ids count once, and what is kept once is not kept again. Raises
    DatabaseAway, and then all of it is to be done again.
    """
    counts = Counts(messages=batch.messages)
    refused = list(batch.refused)
    for kind, items in batch.items.items():
        for start in range(0, len(items), MAX_ITEMS):
            part = items[start : start + MAX_ITEMS]
            refused += _record(part, counts, kind=kind, source=source, now=now)
    _keep(refused, source=source)
    counts.rejected = len(refused)
    return counts


def _record(
    items: list[object], counts: Counts, *, kind: Kind, source: Source, now: datetime
) -> list[RejectedEvent]:
    """Record these, each alone if it does not go together. Returns what is refused."""
    try:
        with _database():
            recorded = record_events(
                items, source=source, kind=kind, now=now, keep_rejected=False
            )
    except DatabaseAway:
        raise
    except Conflict as error:
        # What it met is over in a moment.
        raise DatabaseAway(error.message) from error
    except Exception:
        logger.exception("consume.fault", events=len(items))
        if len(items) == 1:
            return [_refused(items[0], kind, refusal=Refusal("internal", _FAULT))]
        refused = []
        for item in items:
            refused += _record([item], counts, kind=kind, source=source, now=now)
        return refused
    counts.accepted += recorded.accepted
    counts.duplicates += recorded.duplicates
    return [
        _refused(
            items[result.index],
            kind,
            refusal=Refusal(result.code, result.message, field=result.field),
        )
        for result in recorded.results
        if result.status == REJECTED
    ]


def _keep(refused: list[RejectedEvent], *, source: Source) -> None:
    """Keep what was refused. What has an id and is kept already is not kept again."""
    if not refused:
        return
    ids = {one.external_id for one in refused if one.external_id}
    try:
        kept = set(
            RejectedEvent.objects.filter(
                source=source, external_id__in=ids
            ).values_list("kind", "external_id", "payload")
        )
        new = []
        for one in refused:
            key = (str(one.kind), one.external_id, one.payload)
            if key not in kept:
                one.source = source
                new.append(one)
                if one.external_id:
                    kept.add(key)
        RejectedEvent.objects.bulk_create(new)
    except Error as error:
        # Whatever it is: what is not kept is not acknowledged.
        raise DatabaseAway(_in_words(error)) from error


def _refused(item: object, kind: Kind, *, refusal: Refusal) -> RejectedEvent:
    return RejectedEvent(
        kind=kind,
        name=_sent_text(item, "name", MAX_NAME),
        external_id=_sent_text(item, "id", MAX_ID),
        payload=item_as_text(item),
        code=refusal.code,
        field=refusal.field[:255],
        message=refusal.message,
    )


def _sent_text(item: object, key: str, most: int) -> str:
    sent = item.get(key) if isinstance(item, dict) else None
    return _storable(sent, most) if isinstance(sent, str) else ""


def _storable(text: str, most: int) -> str:
    return UNSTORABLE.sub("\ufffd", text)[:most]


@contextmanager
def _database() -> Iterator[None]:
    """Tell a database that takes nothing from an event that it does not take."""
    try:
        yield
    except Error as error:
        if _is_the_events_fault(error):
            raise
        raise DatabaseAway(_in_words(error)) from error


def _is_the_events_fault(error: Error) -> bool:
    if isinstance(error, DataError | IntegrityError):
        return True
    state = sqlstate(error)
    if isinstance(error, OperationalError | InterfaceError):
        # Too large or too complex for it. All else passes: a line that is cut, a full
        # disk, a lock that was not to be had.
        return state.startswith("54")
    # Without a state it comes from the client, which cannot send such a value. With
    # one, tables are not as this code needs them, or a standby takes no writes yet.
    return not state


def _in_words(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


# --- the queue --------------------------------------------------------------------


class Consumer:
    """Reads one queue until it is told to stop. Any number may read the same one."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._stopping = threading.Event()
        self._delivered: deque[amqp.basic_message.Message] = deque()
        self._delivered_bytes = 0
        self._next: _Read | None = None
        self._line: amqp.Connection | None = None
        self._source: Source | None = None
        self._source_read_at = 0.0
        self._pause = FIRST_PAUSE
        self._reported_at = time.monotonic()
        self._unreported = Counts()
        self.total = Counts()

    def stop(self) -> None:
        """End after the batch at hand. What was not acknowledged stays in the queue."""
        self._stopping.set()

    def run(self, *, until_empty: bool = False) -> None:
        """Read until `stop`, or until nothing is left. Outlives broker and database."""
        while not self._stopping.is_set():
            try:
                # Asked first: without a database nothing is taken from the queue.
                self._current_source()
                with self._queue() as channel:
                    self._consume(channel, until_empty=until_empty)
                    return
            except SourceInactive:
                logger.warning("consume.inactive", source=self._subscription.source)
            except DatabaseAway as error:
                _note_database_away(error)
            except rabbitmq.ERRORS as error:
                logger.warning("consume.broker_away", error=_in_words(error))
            except Exception:
                # Clients of brokers raise odd things when the line is cut.
                logger.exception("consume.failed")
            self._stopping.wait(self._next_pause())
        self._report(at_once=True)

    @contextmanager
    def _queue(self) -> Iterator[amqp.Channel]:
        """The queue, declared if it is missing, with its messages on the way to us."""
        subscription = self._subscription
        with rabbitmq.connect(subscription.url) as self._line:
            channel = rabbitmq.open_queue(self._line, subscription.queue)
            channel.basic_qos(0, subscription.prefetch, False)
            channel.basic_consume(subscription.queue, callback=self._take)
            logger.info("consume.connected", queue=subscription.queue)
            try:
                yield channel
            finally:
                # What was delivered on this line can be acknowledged on no other.
                self._delivered.clear()
                self._delivered_bytes = 0
                self._next = None

    def _take(self, message: amqp.basic_message.Message) -> None:
        self._delivered.append(message)
        self._delivered_bytes += len(message.body)

    def _consume(self, channel: amqp.Channel, *, until_empty: bool) -> None:
        active_at = time.monotonic()
        while not self._stopping.is_set():
            batch = self._collect()
            if batch.messages:
                if not self._record(batch):
                    return
                channel.basic_ack(batch.last_tag, multiple=True)
                self._pause = FIRST_PAUSE
                active_at = time.monotonic()
            elif until_empty and time.monotonic() - active_at > EMPTY_SECONDS:
                self.stop()
            self._beat()
            self._report()

    def _collect(self) -> Batch:
        """The messages of one batch; none if there are none for a moment."""
        subscription = self._subscription
        batch = Batch()
        ends_at = 0.0
        while not self._stopping.is_set():
            if self._delivered:
                message = self._delivered[0]
                envelope = _envelope(message)
                read = self._next or read_envelope(envelope, kind=subscription.kind)
                if batch.messages and batch.size + read.size > subscription.batch:
                    self._next = read
                    break
                self._next = None
                self._delivered.popleft()
                self._delivered_bytes -= len(message.body)
                batch.add(int(message.delivery_tag or 0), envelope, read)
                ends_at = ends_at or time.monotonic() + subscription.batch_ms / 1000
            if (
                batch.size >= subscription.batch
                or batch.messages >= subscription.prefetch
                or batch.bytes >= BATCH_BYTES
            ):
                break
            if not self._delivered:
                left = ends_at - time.monotonic() if batch.messages else IDLE_SECONDS
                if left <= 0 or not (self._drain(left) or batch.messages):
                    break
                self._beat()
        return batch

    def _record(self, batch: Batch) -> bool:
        """Record a batch, however long it takes; False if told to stop meanwhile."""
        started = time.monotonic()
        while True:
            try:
                counts = record_batch(
                    batch, source=self._current_source(), now=database_now()
                )
                break
            except DatabaseAway as error:
                _note_database_away(error)
                # Kept in hand: each time a message goes back counts against it where
                # the queue has a limit of deliveries.
                if not self._wait(self._next_pause()):
                    return False
        self.total.add(counts)
        self._unreported.add(counts)
        logger.debug(
            "consume.batch",
            messages=counts.messages,
            accepted=counts.accepted,
            duplicates=counts.duplicates,
            rejected=counts.rejected,
            ms=round((time.monotonic() - started) * 1000),
        )
        return True

    def _current_source(self) -> Source:
        """The source, as staff have set it up; made if it is missing."""
        now = time.monotonic()
        if self._source is None or now - self._source_read_at > SOURCE_SECONDS:
            try:
                self._source = self._find_source()
            except Error as error:
                raise DatabaseAway(_in_words(error)) from error
            self._source_read_at = now
        if not self._source.is_active:
            self._source_read_at = 0.0
            raise SourceInactive
        return self._source

    def _find_source(self) -> Source:
        # By its key, once it is known: it may be given another name.
        if self._source and (
            found := Source.objects.filter(pk=self._source.pk).first()
        ):
            return found
        name = self._subscription.source.strip()
        return Source.objects.get_or_create(name=name)[0]

    def _drain(self, seconds: float) -> bool:
        """Wait for one more message, some moments at most; False if none came."""
        if self._line is None or not self._line.connected:
            raise amqp.RecoverableConnectionError("The connection is closed.")
        try:
            # The client counts anew with each heartbeat of the broker: a long time
            # would never end.
            self._line.drain_events(timeout=min(seconds, IDLE_SECONDS))
        except TimeoutError:
            return False
        return True

    def _wait(self, seconds: float) -> bool:
        """Wait, and keep the line to the broker alive; False if told to stop."""
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0:
            if self._stopping.is_set():
                return False
            moment = min(left, IDLE_SECONDS)
            if self._delivered_bytes < BATCH_BYTES:
                self._drain(moment)
            else:
                self._stopping.wait(moment)
            self._beat()
        return not self._stopping.is_set()

    def _beat(self) -> None:
        if self._line is None or not self._line.connected:
            raise amqp.RecoverableConnectionError("The connection is closed.")
        self._line.heartbeat_tick()

    def _next_pause(self) -> float:
        """Longer from time to time, and not the same for all consumers."""
        pause = self._pause
        self._pause = min(pause * 2, LONGEST_PAUSE)
        return pause * random.uniform(0.5, 1)  # noqa: S311

    def _report(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        seconds = now - self._reported_at
        if at_once or seconds >= REPORT_SECONDS:
            counts, self._unreported = self._unreported, Counts()
            self._reported_at = now
            if counts.messages:
                logger.info(
                    "consume.progress",
                    messages=counts.messages,
                    accepted=counts.accepted,
                    duplicates=counts.duplicates,
                    rejected=counts.rejected,
                    seconds=round(seconds, 1),
                )


def _note_database_away(error: DatabaseAway) -> None:
    logger.warning("consume.database_away", error=str(error))
    # The next attempt has a new connection.
    with suppress(Exception):
        connection.close()


def _envelope(message: amqp.basic_message.Message) -> Envelope:
    properties = message.properties
    headers = properties.get("application_headers") or {}
    return Envelope(
        body=message.body if isinstance(message.body, bytes) else b"",
        message_id=properties.get("message_id") or "",
        encoding=(properties.get("content_encoding") or "").strip().lower(),
        compression=str(headers.get("compression") or "").strip().lower(),
        timestamp=properties.get("timestamp"),
        headers=headers,
    )

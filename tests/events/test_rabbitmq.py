"""Events from a real RabbitMQ."""

from __future__ import annotations

import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import amqp
import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from kombu import Connection, Exchange, Producer
from kombu import Queue as KombuQueue

from events import consuming
from events.consuming import Consumer, Subscription
from events.ingest import record_events
from events.models import Event, RejectedEvent, Source, SystemEvent
from smartcomm.core import rabbitmq
from tests import make
from tests.rabbitmq import Queue, address, eventually, queue_at

pytestmark = [pytest.mark.rabbitmq, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(consuming, "EMPTY_SECONDS", 0.3)
    monkeypatch.setattr(consuming, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(consuming, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(consuming, "SOURCE_SECONDS", 0)


@pytest.fixture
def queue() -> Iterator[Queue]:
    with queue_at(address()) as found:
        yield found


def event(number: int, **more: Any) -> str:
    return json.dumps(
        {"id": f"e-{number}", "name": "Order paid", "customer": "C-1"} | more
    )


def consumer(queue: Queue, **more: Any) -> Consumer:
    return Consumer(
        Subscription(url=queue.url, queue=queue.name, source="shop", **more)
    )


def consume(queue: Queue, **more: Any) -> consuming.Counts:
    """Read the queue until it is empty."""
    reader = consumer(queue, **more)
    reader.run(until_empty=True)
    return reader.total


def test_what_a_queue_brings_is_recorded_and_gone_from_it(queue):
    queue.put(event(1))
    queue.put(json.dumps({"events": [json.loads(event(2)), json.loads(event(3))]}))
    queue.put(gzip.compress(event(4).encode()), content_encoding="gzip")
    queue.put(
        json.dumps({"id": "s", "name": "Shop opened"}),
        application_headers={"kind": "system"},
    )
    queue.put(b"not json")

    counts = consume(queue)

    assert counts == consuming.Counts(messages=5, accepted=5, rejected=1)
    assert Event.objects.count() == 4
    assert SystemEvent.objects.get().external_id == "s"
    assert RejectedEvent.objects.get().code == "not_json"
    assert Event.objects.first().source == Source.objects.get(name="shop")
    assert queue.count() == 0


def test_a_publisher_with_kombu_needs_nothing_special(queue):
    target = KombuQueue(queue.name, Exchange(""), routing_key=queue.name, durable=True)
    with Connection(queue.url) as line:
        producer = Producer(line)
        for number, compression in ((1, None), (2, "gzip")):
            producer.publish(
                json.loads(event(number)),
                routing_key=target.name,
                serializer="json",
                compression=compression,
                message_id=f"m-{number}",
            )

    assert consume(queue).accepted == 2


def test_the_command_reads_the_queue_and_tells_what_became_of_it(queue):
    for number in (1, 2, 2):
        queue.put(event(number))
    told = StringIO()

    call_command(
        "consume_events",
        url=queue.url,
        queue=queue.name,
        source="Till",
        until_empty=True,
        stdout=told,
    )

    assert told.getvalue() == (
        "3 messages: 2 events accepted, 1 duplicates, 0 rejected.\n"
    )
    assert Source.objects.get().name == "Till"


def test_the_command_refuses_in_a_sentence_what_makes_no_sense():
    with pytest.raises(CommandError, match=r"^Set AMQP_URL to an address.*\.$"):
        call_command("consume_events", url="http://localhost")
    with pytest.raises(CommandError, match=r"^A batch has 1 to 1,000 events\.$"):
        call_command("consume_events", url="amqp://localhost//", batch=5_000)


def test_a_queue_that_is_missing_is_made_and_outlives_its_broker():
    queue = Queue(address())
    assert consume(queue) == consuming.Counts()

    # Declaring it otherwise than it is would be refused.
    queue.declare()
    queue.close()


def test_a_queue_of_another_type_is_read_as_it_is(queue):
    quorum = Queue(address())
    quorum.declare(**{"x-queue-type": "quorum"})
    quorum.put(event(1))

    assert consume(quorum).accepted == 1

    quorum.close()


def test_a_batch_has_no_more_events_than_asked_for(queue, monkeypatch):
    sizes: list[int] = []

    def counting(items, **more):
        sizes.append(len(items))
        return record_events(items, **more)

    monkeypatch.setattr(consuming, "record_events", counting)
    for first in range(0, 50, 5):
        queue.put(
            json.dumps({"events": [json.loads(event(first + n)) for n in range(5)]})
        )

    assert consume(queue, batch=12, batch_ms=500).accepted == 50

    assert sizes == [10, 10, 10, 10, 10]
    assert Event.objects.count() == 50


def test_a_prefetch_below_the_batch_holds_nothing_up(queue):
    for number in range(20):
        queue.put(event(number))

    assert consume(queue, prefetch=4, batch=1_000, batch_ms=10_000).accepted == 20


class Raw(amqp.Message):
    """A message whose properties are sent as these bytes, whatever they are."""

    raw = b""

    def _serialize_properties(self) -> bytes:
        return self.raw


def header_with_time(seconds: int) -> bytes:
    entry = b"\x04date" + b"T" + struct.pack(">Q", seconds)
    return struct.pack(">HI", 0x2000, len(entry)) + entry


@pytest.mark.parametrize(
    "properties",
    [
        # Milliseconds where seconds belong, as many a sender has it.
        header_with_time(1_763_622_900_000),
        # A message id in Latin-1.
        struct.pack(">HB", 0x0080, 5) + b"sch\xf6n",
    ],
    ids=["a time that does not exist", "a text that is not UTF-8"],
)
def test_properties_that_cannot_be_read_hold_nothing_up(queue, properties):
    queue.put(event(1))
    message = Raw(event(2))
    message.raw = properties
    queue.channel.basic_publish_confirm(message, routing_key=queue.name)
    queue.put(event(3))

    counts = consume(queue)

    assert counts == consuming.Counts(messages=3, accepted=2, rejected=1)
    kept = RejectedEvent.objects.get()
    assert kept.code == "properties_invalid"
    assert json.loads(json.loads(kept.payload)) == json.loads(event(2))
    assert queue.count() == 0


def test_a_crash_between_commit_and_acknowledgement_doubles_nothing(queue, monkeypatch):
    queue.put(event(1))
    queue.put(event(2, context={"a-b": 1}))

    class Crash(BaseException):
        pass

    def crash(*args, **more):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(amqp.Channel, "basic_ack", crash)
        with pytest.raises(Crash):
            consume(queue)
    assert (Event.objects.count(), RejectedEvent.objects.count()) == (1, 1)
    eventually(lambda: queue.count() == 2)

    counts = consume(queue)

    assert counts == consuming.Counts(messages=2, duplicates=1, rejected=1)
    assert (Event.objects.count(), RejectedEvent.objects.count()) == (1, 1)
    assert queue.count() == 0


def test_a_database_that_goes_away_and_comes_back_loses_nothing(queue, monkeypatch):
    calls = []

    def sometimes(items, **more):
        calls.append([item["id"] for item in items])
        if len(calls) <= 3:
            raise OperationalError("the server closed the connection")
        return record_events(items, **more)

    monkeypatch.setattr(consuming, "record_events", sometimes)
    for number in range(3):
        queue.put(event(number))

    counts = consume(queue)

    # In hand all the while, not given back and taken again.
    assert calls == [["e-0", "e-1", "e-2"]] * 4
    assert counts == consuming.Counts(messages=3, accepted=3)
    assert Event.objects.count() == 3


def test_told_to_stop_while_the_database_is_away_it_leaves_all_in_the_queue(
    queue, monkeypatch
):
    reader = consumer(queue)

    def away(items, **more):
        reader.stop()
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(consuming, "record_events", away)
    queue.put(event(1))
    queue.put(b"broken")

    reader.run()

    assert reader.total == consuming.Counts()
    assert not RejectedEvent.objects.exists()
    eventually(lambda: queue.count() == 2)


def test_a_source_that_is_switched_off_leaves_its_messages_in_the_queue(queue):
    source = make.source("shop", is_active=False)
    queue.put(event(1))
    reader = consumer(queue)
    thread = threading.Thread(target=running(reader))
    thread.start()
    try:
        thread.join(1)
        assert not Event.objects.exists()
        assert queue.count() == 1

        # Under another name it is still the same source.
        Source.objects.filter(pk=source.pk).update(is_active=True, name="Shop 2")
        eventually(Event.objects.exists)
        assert Event.objects.get().source == source
        assert Source.objects.count() == 1
    finally:
        reader.stop()
        thread.join(10)


def running(reader: Consumer) -> Any:
    def run() -> None:
        try:
            reader.run()
        finally:
            connection.close()

    return run


def test_a_queue_that_is_deleted_is_made_again(queue):
    reader = consumer(queue)
    thread = threading.Thread(target=running(reader))
    thread.start()
    try:
        queue.put(event(1))
        eventually(Event.objects.exists)
        queue.channel.queue_delete(queue.name)
        again = Queue(queue.url, queue.name)
        eventually(lambda: there(again))
        again.put(event(2))
        eventually(lambda: Event.objects.count() == 2)
        again.close(delete=False)
    finally:
        reader.stop()
        thread.join(10)


def there(queue: Queue) -> bool:
    try:
        queue.count()
    except amqp.NotFound:
        queue.close(delete=False)
        return False
    return True


def test_a_broker_that_refuses_is_asked_again_until_told_to_stop(queue):
    reader = Consumer(
        Subscription(
            url=queue.url.replace("guest:guest", "guest:wrong"),
            queue=queue.name,
            source="shop",
        )
    )
    thread = threading.Thread(target=running(reader))
    thread.start()
    thread.join(1)
    assert thread.is_alive()

    reader.stop()
    thread.join(10)
    assert not thread.is_alive()


CONSUMER = """
import os
import sys
import django
from django.conf import settings

settings.DATABASES["default"]["NAME"] = os.environ["TEST_DATABASE"]
django.setup()
from django.core.management import call_command

call_command("consume_events", *sys.argv[1:])
"""


def test_sigterm_ends_it_after_the_batch_at_hand(queue):
    for number in range(2_000):
        queue.channel.basic_publish(
            amqp.Message(event(number), delivery_mode=2), routing_key=queue.name
        )
    options = ["--url", queue.url, "--queue", queue.name, "--batch", "20"]
    process = subprocess.Popen(
        [sys.executable, "-c", CONSUMER, *options],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "smartcomm.test_settings",
            "TEST_DATABASE": connection.settings_dict["NAME"],
        },
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: Event.objects.count() >= 100, seconds=60)

    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=10)

    assert process.returncode == 0
    stored = Event.objects.count()
    assert told.startswith(f"{stored:,} messages: {stored:,} events accepted, 0 dup")
    assert 100 <= stored < 2_000
    # Nothing recorded is left in the queue, and nothing that is not is missing.
    eventually(lambda: queue.count() == 2_000 - stored)
    assert consume(queue).accepted == 2_000 - stored


def test_the_line_lives_while_a_batch_waits_longer_than_the_broker_has_patience(
    queue, monkeypatch
):
    monkeypatch.setattr(rabbitmq, "HEARTBEAT_SECONDS", 1)
    away = []
    monkeypatch.setattr(consuming.logger, "warning", lambda *a, **k: away.append(a))
    queue.put(event(1))

    assert consume(queue, batch_ms=4_000).accepted == 1

    assert away == []

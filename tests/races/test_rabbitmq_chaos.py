"""Consumers and a broker that are killed while events come in: what is stored is what
was published, exactly.

RABBITMQ_MESSAGES=100000 asks for more than a run of CI has time for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import amqp
import pytest
from django.db import connection
from kombu import Connection

from events.models import Event, RejectedEvent, Source
from tests.rabbitmq import Broker, Queue, eventually

pytestmark = [
    pytest.mark.rabbitmq,
    pytest.mark.race,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
]

MESSAGES = int(os.environ.get("RABBITMQ_MESSAGES", "5000"))
#: Published before the sender waits for the broker to confirm them.
WINDOW = 200
#: Of so many messages one is broken.
BROKEN = 50
PATIENCE = 120 + MESSAGES / 100

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


@pytest.fixture
def broker(tmp_path) -> Iterator[Broker]:
    found = Broker(tmp_path / "rabbitmq")
    found.start()
    yield found
    found.stop()


class Consumers:
    """Consumers in processes of their own, one at a time, that may be killed."""

    def __init__(self, queue: Queue, log: Path) -> None:
        self._queue = queue
        self._log = log.open("wb")
        self._process: subprocess.Popen[bytes] | None = None
        self.killed = 0

    def start(self) -> None:
        options = ["--url", self._queue.url, "--queue", self._queue.name]
        self._process = subprocess.Popen(
            [sys.executable, "-c", CONSUMER, *options, "--source", "chaos"],
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "smartcomm.test_settings",
                "TEST_DATABASE": connection.settings_dict["NAME"],
            },
            cwd=Path(__file__).parents[2],
            stdout=self._log,
            stderr=self._log,
        )

    def kill(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, "It ended by itself."
        self._process.kill()
        assert self._process.wait() == -signal.SIGKILL
        self.killed += 1

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            # One that had not begun when all was done has nothing to finish.
            assert self._process.wait(timeout=30) in (0, -signal.SIGTERM)
        self._log.close()


class Sender(threading.Thread):
    """Publishes until all is confirmed; what is not confirmed is published again."""

    def __init__(self, url: str, queue: str) -> None:
        super().__init__(daemon=True)
        self._url, self._queue = url, queue
        self.confirmed = 0
        self.published = 0
        #: Told by whoever counts: it keeps at most a fifth ahead, to be at work when
        #: the others are killed.
        self.stored = 0

    def run(self) -> None:
        while self.confirmed < MESSAGES:
            # Whatever the client raises when the line is cut.
            with suppress(Exception), Connection(self._url, connect_timeout=2) as line:
                channel = line.default_channel
                try:
                    self._publish(channel)
                except Exception:
                    # Not sure of the last ones before either, as senders may be.
                    self.confirmed = max(0, self.confirmed - WINDOW)
                    raise
            time.sleep(0.2)

    def _publish(self, channel: Any) -> None:
        waiting: set[int] = set()

        def confirm(tag: int, multiple: bool) -> None:
            done = {one for one in waiting if one <= tag} if multiple else {tag}
            waiting.difference_update(done)

        channel.confirm_select()
        channel.events["basic_ack"].add(confirm)
        tag = 0
        while self.confirmed < MESSAGES:
            window = range(self.confirmed, min(self.confirmed + WINDOW, MESSAGES))
            for number in window:
                tag += 1
                waiting.add(tag)
                channel.basic_publish(message(number), routing_key=self._queue)
                self.published += 1
            while waiting:
                channel.connection.drain_events(timeout=10)
            self.confirmed = window.stop
            while self.confirmed > self.stored + MESSAGES / 5 + WINDOW:
                time.sleep(0.01)


def message(number: int) -> amqp.Message:
    """Every other event has its id from its message, and some are broken."""
    body: dict[str, Any] = {"name": "Order paid", "customer": f"C-{number % 1_000}"}
    properties: dict[str, Any] = {"delivery_mode": 2, "message_id": f"m-{number}"}
    if number % 2:
        body["id"] = f"e-{number}"
    if number % BROKEN == 0:
        body["context"] = {"price-eur": number}
    text = json.dumps(body)
    if number % (2 * BROKEN) == 0:
        text = text[:-1]
    return amqp.Message(text, **properties)


def test_consumers_and_the_broker_are_killed_and_stored_is_published_exactly(
    broker, tmp_path
):
    queue = Queue(broker.url, "chaos")
    queue.declare()
    queue.close(delete=False)
    sender = Sender(broker.url, queue.name)
    consumers = Consumers(queue, tmp_path / "log")

    def wait_for(share: float) -> None:
        def is_done() -> bool:
            sender.stored = done()
            return sender.stored >= share * MESSAGES

        eventually(is_done, PATIENCE)

    started = time.monotonic()
    try:
        consumers.start()
        sender.start()
        for share in (0.1, 0.25, 0.4):
            wait_for(share)
            consumers.kill()
            consumers.start()
        # While both of its ends are at work.
        wait_for(0.5)
        assert sender.confirmed < MESSAGES
        broker.kill()
        time.sleep(0.5)
        broker.start()
        for share in (0.7, 0.9):
            wait_for(share)
            consumers.kill()
            consumers.start()
        wait_for(1)
        sender.join(PATIENCE)
        assert sender.confirmed == MESSAGES
        # Had anything come twice, it would come now.
        eventually(lambda: queue.count() == 0)
    finally:
        consumers.end()
    took = time.monotonic() - started

    broken = {f"m-{n}" for n in range(0, MESSAGES, BROKEN)}
    good = {f"e-{n}" if n % 2 else f"m-{n}" for n in range(MESSAGES) if n % BROKEN}
    stored = list(Event.objects.values_list("external_id", flat=True))
    kept = list(RejectedEvent.objects.values_list("external_id", flat=True))
    print(  # noqa: T201
        f"{MESSAGES:,} messages, published {sender.published:,} times; consumer killed "
        f"{consumers.killed} times, broker once; stored {len(stored):,}, rejected "
        f"{len(kept):,}, together {len(stored) + len(kept):,}; {took:.0f} s."
    )
    assert sender.published > MESSAGES
    assert len(stored) == len(good)
    assert set(stored) == good
    assert len(kept) == len(broken)
    assert set(kept) == broken
    assert Source.objects.get().name == "chaos"
    assert queue.count() == 0
    queue.close()


def done() -> int:
    return Event.objects.count() + RejectedEvent.objects.count()

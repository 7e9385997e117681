"""A real RabbitMQ for tests: the one at AMQP_URL, or one of a test's own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import amqp
import pytest
from kombu import Connection

SCRIPT = Path(__file__).parents[1] / "bin" / "rabbitmq"
SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"


def skip_or_fail(reason: str) -> None:
    """CI says that there must be one: a test that never runs protects nothing."""
    if os.environ.get("REQUIRE_RABBITMQ"):
        pytest.fail(reason)
    pytest.skip(reason)


def address() -> str:
    """The broker at AMQP_URL."""
    url = os.environ.get("AMQP_URL", "")
    if not url:
        skip_or_fail(
            "AMQP_URL is not set; `bin/rabbitmq start DIR PORT` starts a RabbitMQ and "
            "prints an address."
        )
    return url


class Broker:
    """A RabbitMQ of a test's own, which may be killed."""

    def __init__(self, directory: Path) -> None:
        if not Path(SERVER).exists():
            skip_or_fail(
                "No RabbitMQ is installed; on Debian: apt install rabbitmq-server."
            )
        self.directory = directory
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        done = subprocess.run(
            [str(SCRIPT), "start", str(self.directory), str(self.port)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert done.stdout.strip() == self.url

    def kill(self) -> None:
        os.kill(int((self.directory / "pid").read_text()), signal.SIGKILL)

    def stop(self) -> None:
        subprocess.run([str(SCRIPT), "stop", str(self.directory)], check=True)
        shutil.rmtree(self.directory, ignore_errors=True)


class Queue:
    """A queue, for a test to put messages into and to look at."""

    def __init__(self, url: str, name: str = "") -> None:
        self.url = url
        self.name = name or f"test.{uuid.uuid4()}"
        self._connection: Connection | None = None

    @property
    def channel(self) -> amqp.Channel:
        if self._connection is None:
            self._connection = Connection(self.url)
        found = self._connection.default_channel
        assert isinstance(found, amqp.Channel)
        return found

    def declare(self, **arguments: Any) -> None:
        self.channel.queue_declare(
            self.name, durable=True, auto_delete=False, arguments=arguments or None
        )

    def put(self, body: bytes | str, **properties: Any) -> None:
        message = amqp.Message(body, delivery_mode=2, **properties)
        self.channel.basic_publish_confirm(message, routing_key=self.name)

    def put_all(self, bodies: Iterable[bytes | str]) -> None:
        for body in bodies:
            self.put(body)

    def count(self) -> int:
        """How many are ready to be delivered."""
        declared = self.channel.queue_declare(self.name, passive=True)
        assert declared is not None
        _, messages, _ = declared
        return messages

    def close(self, *, delete: bool = True) -> None:
        if self._connection is not None:
            if delete:
                self.channel.queue_delete(self.name)
            self._connection.release()
            self._connection = None


@contextmanager
def queue_at(url: str) -> Iterator[Queue]:
    queue = Queue(url)
    queue.declare()
    try:
        yield queue
    finally:
        queue.close()


def eventually(what: Any, seconds: float = 20) -> None:
    """Wait until `what()` is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "It did not come true in time."
        time.sleep(0.05)

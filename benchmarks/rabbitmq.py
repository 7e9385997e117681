"""How fast events come in from RabbitMQ.

    .venv/bin/python -m benchmarks.rabbitmq [--events 100000] [--rounds 3]

Starts a broker and a new installation, fills a queue, and lets consumers empty it: one
event in a message, then a hundred, each with one consumer and with two. Prints the
medians of the rounds. Needs Debian's rabbitmq-server.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import amqp
import psycopg
from kombu import Connection

from benchmarks.installation import PROJECT, PYTHON, free_port, installation
from smartcomm.embedded import database_url

QUEUE = "benchmark"


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--events", type=int, default=100_000)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()

    rates: dict[tuple[int, int], list[float]] = {}
    expected = 0
    with broker() as url, installation():
        for number in range(options.rounds):
            for each in (1, 100):
                for consumers in (1, 2):
                    name = f"{number}-{each}-{consumers}"
                    fill(url, name, events=options.events, each=each)
                    expected += options.events
                    seconds = empty(url, consumers=consumers, expected=expected)
                    rates.setdefault((each, consumers), []).append(
                        options.events / seconds
                    )
            print(f"round {number + 1} done", file=sys.stderr)
    print("| events in a message | consumers | events/s | messages/s |")
    print("|---|---|---|---|")
    for (each, consumers), found in rates.items():
        rate = statistics.median(found)
        print(f"| {each} | {consumers} | {rate:,.0f} | {rate / each:,.0f} |")


@contextmanager
def broker() -> Iterator[str]:
    script = str(PROJECT / "bin" / "rabbitmq")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        started = subprocess.run(
            [script, "start", directory, str(free_port())],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield started.stdout.strip()
        finally:
            subprocess.run([script, "stop", directory], check=True)


def fill(url: str, name: str, *, events: int, each: int) -> None:
    with Connection(url) as line:
        channel: Any = line.default_channel
        channel.queue_declare(QUEUE, durable=True, auto_delete=False)
        for start in range(0, events, each):
            items = [event(name, n) for n in range(start, start + each)]
            body = json.dumps(items[0] if each == 1 else {"events": items})
            channel.basic_publish(
                amqp.Message(body, delivery_mode=2), routing_key=QUEUE
            )


def event(name: str, number: int) -> dict[str, object]:
    return {
        "id": f"{name}-{number}",
        "name": "Product viewed",
        "customer": f"C-{number % 10_000}",
        "context": {"product_id": number % 500, "name": "Bag", "price": 49.9},
    }


def empty(url: str, *, consumers: int, expected: int) -> float:
    """Seconds from the first connection to the last commit."""
    command = [*PYTHON, "manage.py", "consume_events", "--until-empty"]
    processes = [
        subprocess.Popen(
            [*command, "--url", url, "--queue", QUEUE, "--source", "benchmark"],
            cwd=PROJECT,
            env={**os.environ, "LOG_LEVEL": "INFO"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(consumers)
    ]
    assert processes[0].stderr is not None
    while "consume.connected" not in processes[0].stderr.readline():
        pass
    started = time.monotonic()
    with psycopg.connect(database_url(), autocommit=True) as database:
        while stored(database) < expected:
            if all(process.poll() is not None for process in processes):
                raise RuntimeError("The consumers ended before all was stored.")
            time.sleep(0.1)
    seconds = time.monotonic() - started
    for process in processes:
        process.communicate()
    return seconds


def stored(database: psycopg.Connection) -> int:
    row = database.execute("SELECT count(*) FROM events_event").fetchone()
    assert row is not None
    return int(row[0])


if __name__ == "__main__":
    main()

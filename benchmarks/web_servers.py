"""Which web server takes in events fastest.

    .venv/bin/python -m benchmarks.web_servers [--rounds 3] [--seconds 5]

Starts each server in turn on the same new installation, and posts to /api/v1/events:
batches of 1,000 events on 4 connections, and single events on 1, 8 and 32. Prints the
medians of the rounds: events a second, and events for a second of the server's
processor time, which stays the same when the machine is busy with other things; and
each server's ratio to the first. Servers that are not installed are left out; `pip
install gunicorn` brings the rival.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import sys
import threading
import time
from dataclasses import dataclass

from benchmarks.installation import (
    free_port,
    installation,
    processor_seconds,
    running,
)

GRANIAN = (
    "granian --interface wsgi --host 127.0.0.1 --port {port} --workers {workers} "
    "--blocking-threads {threads} --no-ws --log-level error"
)
SERVERS = {
    "granian": GRANIAN,
    "granian, one runtime thread": GRANIAN + " --runtime-mode st",
    "gunicorn, gthread": "gunicorn --worker-class gthread --bind 127.0.0.1:{port} "
    "--workers {workers} --threads {threads} --log-level error",
}


@dataclass(frozen=True)
class Load:
    name: str
    events_each: int
    connections: int


@dataclass(frozen=True)
class Rate:
    """Events accepted per second on the clock, and per second of processor time."""

    wall: float
    processor: float


LOADS = [
    Load("batches of 1,000 x 4", 1000, 4),
    Load("single x 1", 1, 1),
    Load("single x 8", 1, 8),
    Load("single x 32", 1, 32),
]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=float, default=5)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--threads", type=int, default=4)
    options = arguments.parse_args()

    servers = {
        name: f"{command} smartcomm.wsgi:application"
        for name, command in SERVERS.items()
        if shutil.which(command.split()[0])
    }
    rates: dict[tuple[str, str], list[Rate]] = {}
    # The limit on requests is what this must not measure.
    os.environ["API_REQUESTS_PER_SECOND"] = "0"
    with installation() as key:
        for round_number in range(options.rounds):
            for name, command in servers.items():
                port = free_port()
                line = command.format(
                    port=port, workers=options.workers, threads=options.threads
                )
                with running(line, port) as server:
                    for load in LOADS:
                        rate = measure(load, server, port, key, options.seconds)
                        rates.setdefault((name, load.name), []).append(rate)
                print(f"round {round_number + 1}: {name} done", file=sys.stderr)
    report(list(servers), rates)


def measure(load: Load, server: int, port: int, key: str, seconds: float) -> Rate:
    request = make_request(load, key)
    accepted = [0] * load.connections
    end = time.monotonic() + seconds

    def post(index: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            while time.monotonic() < end:
                server.sendall(request)
                read_answer(server)
                accepted[index] += load.events_each

    threads = [
        threading.Thread(target=post, args=[index]) for index in range(load.connections)
    ]
    started, busy = time.monotonic(), processor_seconds(server)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Rate(
        wall=sum(accepted) / (time.monotonic() - started),
        processor=sum(accepted) / (processor_seconds(server) - busy),
    )


def make_request(load: Load, key: str) -> bytes:
    """A whole HTTP request, made once: what is measured is the server."""
    events = [
        {
            "name": "Product viewed",
            "customer": f"C-{number % 500}",
            "context": {"name": "Bag", "product_id": number, "price": 49.9},
        }
        for number in range(load.events_each)
    ]
    body = json.dumps({"events": events}).encode()
    head = (
        "POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def read_answer(server: socket.socket) -> None:
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += server.recv(65_536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 202 " in head.split(b"\r\n")[0], head
    length = next(
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    left = length - len(body)
    while left > 0:
        left -= len(server.recv(65_536))


def report(servers: list[str], rates: dict[tuple[str, str], list[Rate]]) -> None:
    for load in LOADS:
        print(f"\n{load.name:30} {'events/s':>18} {'events/processor s':>24}")
        for name in servers:
            found, first = rates[name, load.name], rates[servers[0], load.name]
            wall = column([r.wall for r in found], [r.wall for r in first])
            busy = column([r.processor for r in found], [r.processor for r in first])
            print(f"  {name:28} {wall} {busy:>24}")


def column(found: list[float], first: list[float]) -> str:
    ratios = [rate / base for rate, base in zip(found, first, strict=True)]
    return f"{statistics.median(found):>10,.0f}  x {statistics.median(ratios):.2f}"


if __name__ == "__main__":
    main()

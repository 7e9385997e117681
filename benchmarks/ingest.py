"""How fast events come in, over HTTP, committed.

    .venv/bin/python -m benchmarks.ingest [--stored 1000000] [--rounds 3] [--seconds 5]
                                          [--grow-to 10000000]

On a new installation with its own PostgreSQL and Valkey, durable as a real one, with
the web server of `make run`, its limit on requests counted, but too high to be met. The
load comes from a process of its own, on the same cores. Every event is new; its
customer is one of 100,000. In the same rounds
the two limits: COPY of the same rows into the same table with all its indexes, and
INSERT + COMMIT of one row at a time. `--grow-to` measures again once so many events are
stored. Prints medians, and each round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from benchmarks.installation import (
    free_port,
    installation,
    memory_mib,
    processor_seconds,
    running,
)
from benchmarks.load import Measured, send_from_elsewhere
from smartcomm.embedded import database_url
from smartcomm.stack.environment import read_environment
from smartcomm.stack.programs import read_procfile

CUSTOMERS = 100_000
TYPES = 50
COPIED_AT_ONCE = 20_000


@dataclass(frozen=True)
class Load:
    name: str
    events_each: int
    connections: int
    #: How many events a round takes for each second asked for.
    events_a_second: int


LOADS = [
    Load("batches of 1,000 × 4", 1_000, 4, 30_000),
    Load("batches of 100 × 32", 100, 32, 25_000),
    Load("single × 1", 1, 1, 1_000),
    Load("single × 8", 1, 8, 2_000),
    Load("single × 32", 1, 32, 2_000),
]
COPY, INSERT = "COPY, one connection", "INSERT + COMMIT, one row"


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--stored", type=int, default=1_000_000)
    arguments.add_argument("--grow-to", type=int, default=0)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=float, default=5)
    arguments.add_argument("--only", default="", help="loads whose name has this text")
    options = arguments.parse_args()
    loads = [load for load in LOADS if options.only in load.name]
    with installation() as key, psycopg.connect(database_url(), autocommit=True) as db:
        prepare(db)
        with web() as (server, port):
            rates = {}
            for stored in [options.stored, options.grow_to]:
                if stored:
                    store(db, stored)
                    rates[stored] = measure(db, server, port, key, loads, options)
    if options.grow_to:
        compare(rates[options.stored], rates[options.grow_to])


# The installation


@contextmanager
def web() -> Iterator[tuple[int, int]]:
    """The web server as `make run` starts it; its process id, and its port."""
    port = free_port()
    os.environ["API_REQUESTS_PER_SECOND"] = "100000"
    environment = read_environment({"PORT": str(port)})
    program = next(one for one in read_procfile() if one.name == "web")
    command = program.command
    for name, value in environment.variables().items():
        command = command.replace(f"${name}", value)
    with running(command, port) as pid:
        yield pid, port


def prepare(db: psycopg.Connection) -> None:
    db.execute(
        "INSERT INTO customers_customer (external_id, first_name, last_name, email, "
        "email_is_valid, phone, phone_is_valid, gender, city, country, language, "
        "time_zone, attributes, is_stub, created_at, updated_at) "
        "SELECT 'C-' || n, '', '', '', false, '', false, '', '', '', '', '', '{}', "
        "false, now(), now() FROM generate_series(0, %s - 1) AS n",
        [CUSTOMERS],
    )
    db.execute(
        "INSERT INTO events_eventtype (name, kind, description, mode, is_reviewed, "
        "is_awaited, created_at) SELECT 'Event ' || n, 'customer', '', 'open', true, "
        "false, now() FROM generate_series(0, %s - 1) AS n",
        [TYPES],
    )


def store(db: psycopg.Connection, total: int) -> None:
    """Fill the table with events of the last two years, up to `total`."""
    [(have,)] = db.execute("SELECT count(*) FROM events_event").fetchall()
    print(f"storing events, up to {total:,}…", file=sys.stderr)
    db.execute(
        """
        INSERT INTO events_event (customer_id, type_id, source_id, external_id,
                                  occurred_at, received_at, context, is_backfill)
        SELECT first_customer + (random() ^ 2 * %(customers)s)::bigint %% %(customers)s,
               first_type + (random() ^ 3 * %(types)s)::bigint %% %(types)s,
               source, gen_random_uuid()::text,
               now() - random() * interval '730 days', now(),
               jsonb_build_object('name', 'Bag', 'product_id', (random() * 5000)::int,
                                  'price', round((random() * 100)::numeric, 2),
                                  'category', 'C' || (random() * 40)::int,
                                  'in_stock', random() < 0.9), false
          FROM generate_series(1, %(wanted)s),
               (SELECT min(id) AS first_customer FROM customers_customer) AS c,
               (SELECT min(id) AS first_type FROM events_eventtype) AS t,
               (SELECT min(id) AS source FROM events_source) AS s
        """,
        {"customers": CUSTOMERS, "types": TYPES, "wanted": max(total - have, 0)},
    )
    db.execute("VACUUM ANALYZE events_event")
    db.execute("CHECKPOINT")


# What is sent


def events(count: int, seed: str) -> Iterator[dict[str, Any]]:
    pick = random.Random(seed)
    for number in range(count):
        yield {
            "id": f"{seed}-{number}",
            "name": f"Event {int(pick.random() ** 3 * TYPES)}",
            "customer": f"C-{int(pick.random() ** 2 * CUSTOMERS)}",
            "occurred_at": f"2026-0{pick.randint(1, 9)}-1{pick.randint(0, 9)}"
            f"T1{pick.randint(0, 9)}:00:00Z",
            "context": {
                "name": "Bag",
                "product_id": pick.randint(0, 5000),
                "price": pick.randint(0, 10_000) / 100,
                "category": f"C{pick.randint(0, 40)}",
                "in_stock": pick.random() < 0.9,
            },
        }


def requests(load: Load, key: str, count: int, seed: str) -> Sequence[bytes]:
    """Whole HTTP requests, made beforehand."""
    made = []
    stream = events(count, seed)
    while batch := list(itertools.islice(stream, load.events_each)):
        body = json.dumps(batch[0] if load.events_each == 1 else {"events": batch})
        head = (
            "POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        made.append((head + body).encode())
    return made


# The limits


def copy(db: psycopg.Connection, count: int, seed: str) -> float:
    """COPY rows as the door stores them, a transaction for each 20,000. Seconds."""
    rows = table_rows(db, count, seed)
    started = time.perf_counter()
    for batch in batched(rows, COPIED_AT_ONCE):
        with (
            db.transaction(),
            db.cursor() as cursor,
            cursor.copy(
                "COPY events_event (customer_id, type_id, source_id, external_id, "
                "occurred_at, received_at, context, is_backfill) FROM STDIN"
            ) as table,
        ):
            table.write(batch)
    return time.perf_counter() - started


def batched(rows: Sequence[str], size: int) -> list[str]:
    return ["".join(rows[i : i + size]) for i in range(0, len(rows), size)]


def table_rows(db: psycopg.Connection, count: int, seed: str) -> list[str]:
    customers = dict(ids(db, "customers_customer", "external_id"))
    types = dict(ids(db, "events_eventtype", "name"))
    [(source,)] = db.execute("SELECT min(id) FROM events_source").fetchall()
    return [
        f"{customers[one['customer']]}\t{types[one['name']]}\t{source}\t{one['id']}\t"
        f"{one['occurred_at']}\tnow\t{json.dumps(one['context'])}\tf\n"
        for one in events(count, seed)
    ]


def ids(db: psycopg.Connection, table: str, name: str) -> list[tuple[str, int]]:
    return db.execute(f"SELECT {name}, id FROM {table}").fetchall()


def insert(db: psycopg.Connection, count: int, seed: str) -> float:
    """One row, one commit, with a prepared statement. Seconds."""
    rows = [row.rstrip("\n").split("\t") for row in table_rows(db, count, seed)]
    statement = (
        "INSERT INTO events_event (customer_id, type_id, source_id, external_id, "
        "occurred_at, received_at, context, is_backfill) "
        "VALUES (%s, %s, %s, %s, %s, now(), %s, false)"
    )
    prepared = [(*row[:5], Jsonb(json.loads(row[6]))) for row in rows]
    started = time.perf_counter()
    for row in prepared:
        db.execute(statement, row, prepare=True)
    return time.perf_counter() - started


# Measuring


@dataclass
class Row:
    """One load or limit over all rounds."""

    name: str
    rates: list[float]
    p50: list[float]
    p99: list[float]
    processor: list[float]


def measure(
    db: psycopg.Connection,
    server: int,
    port: int,
    key: str,
    loads: list[Load],
    options: argparse.Namespace,
) -> dict[str, Row]:
    found: dict[str, Row] = {}

    def note(name: str, rate: float, told: Measured | None, busy: float = 0) -> None:
        row = found.setdefault(name, Row(name, [], [], [], []))
        row.rates.append(rate)
        row.processor.append(busy)
        if told:
            row.p50.append(told.percentile(50) * 1000)
            row.p99.append(told.percentile(99) * 1000)
        print(f"  {name}: {rate:,.0f}/s", file=sys.stderr)

    # Connections, statements and caches of the server are not what is measured.
    run(LOADS[2], port, key, 500)
    run(LOADS[0], port, key, 8_000)
    before = memory_mib(server)
    for number in range(options.rounds):
        print(f"round {number + 1}", file=sys.stderr)
        count = int(options.seconds * 30_000)
        note(COPY, count / copy(db, count, uuid.uuid4().hex), None)
        count = int(options.seconds * 2_000)
        note(INSERT, count / insert(db, count, uuid.uuid4().hex), None)
        for load in loads:
            count = int(options.seconds * load.events_a_second)
            count -= count % load.events_each
            busy = processor_seconds(server)
            told = run(load, port, key, count)
            busy = processor_seconds(server) - busy
            note(load.name, count / told.seconds, told, busy / count * 1e6)
    [(stored,)] = db.execute("SELECT count(*) FROM events_event").fetchall()
    report(found, stored)
    print(f"memory of the web server: {before:.0f} → {memory_mib(server):.0f} MiB")
    return found


def run(load: Load, port: int, key: str, count: int) -> Measured:
    make: Callable[[], Sequence[bytes]] = partial(
        requests, load, key, count, uuid.uuid4().hex
    )
    return send_from_elsewhere(make, port, load.connections)


def report(found: dict[str, Row], stored: int) -> None:
    print(f"\n{stored:,} events stored at the end; medians of the rounds\n")
    print("| load | events/s | of its limit | p50 ms | p99 ms | web CPU µs | rounds |")
    print("|---|---|---|---|---|---|---|")
    for row in found.values():
        limit = found[INSERT if row.name.startswith(("single", "INS")) else COPY]
        share = [rate / top for rate, top in zip(row.rates, limit.rates, strict=True)]
        p50 = f"{statistics.median(row.p50):.1f}" if row.p50 else ""
        p99 = f"{statistics.median(row.p99):.1f}" if row.p99 else ""
        busy = f"{statistics.median(row.processor):.0f}" if row.p50 else ""
        rounds = " · ".join(f"{rate:,.0f}" for rate in row.rates)
        print(
            f"| {row.name} | {statistics.median(row.rates):,.0f} | "
            f"{statistics.median(share):.0%} | {p50} | {p99} | {busy} | {rounds} |"
        )


def compare(few: dict[str, Row], many: dict[str, Row]) -> None:
    print("\n| load | rate with many events stored, of the rate with few |")
    print("|---|---|")
    for name, row in few.items():
        ratio = statistics.median(many[name].rates) / statistics.median(row.rates)
        print(f"| {name} | {ratio:.0%} |")


if __name__ == "__main__":
    main()

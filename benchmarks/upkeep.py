"""What it costs to keep the members of 50 segments true while events come in.

    .venv/bin/python -m benchmarks.upkeep [--customers 100000] [--stored 1000000]
                                          [--rounds 5] [--seconds 6]

On a new installation with its own PostgreSQL and Valkey, durable as a real one, with
the web server and the worker for segments of `make run`. The load comes from a process
of its own, on the same cores. In each round the same load twice, in turns: with the
worker stopped, and with the worker at work. Then how soon a member is in after the
answer to the event that makes one, alone and under load; what a thousand events cost;
and a count of all as a check: it must find nothing to repair. Also what noting changes
costs who updates customers, and an idle round. Prints medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from benchmarks import ingest
from benchmarks.ingest import LOADS, prepare, run, store, web
from benchmarks.installation import installation, memory_mib, processor_seconds
from smartcomm.embedded import database_url
from smartcomm.stack.environment import read_environment
from smartcomm.stack.programs import read_procfile

SEGMENTS = 50
LOAD = LOADS[1]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--customers", type=int, default=100_000)
    arguments.add_argument("--stored", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=6)
    options = arguments.parse_args()
    ingest.CUSTOMERS = options.customers
    with installation() as key, psycopg.connect(database_url(), autocommit=True) as db:
        os.environ["LOG_LEVEL"] = "WARNING"
        prepare(db)
        db.execute(
            "UPDATE customers_customer SET city = CASE id % 3 WHEN 0 THEN 'Paris' "
            "WHEN 1 THEN 'Rome' ELSE '' END"
        )
        store(db, options.stored)
        db.execute("VACUUM ANALYZE")
        import django

        django.setup()
        upserts(db, "no segment")
        count_first()
        with web() as (_, port):
            run(LOAD, port, key, 5_000)
            run(LOADS[2], port, key, 200)
            rates(db, port, key, options)
            delays(db, port, key)
        upserts(db, "50 segments")
        a_thousand(db)
        idle()
        check()


def rules() -> Iterator[dict[str, Any]]:
    """Fifty, of many kinds; the busiest types have most."""
    for n in range(SEGMENTS):
        event = f"Event {n // 3}"
        bag = [{"field": "product_id", "op": "<", "value": 500 + n}]
        days = {"last": 7 + n, "unit": "days"}
        city = {"attribute": "city", "op": "=", "value": "Paris"}
        kinds: list[dict[str, Any]] = [
            {"event": event, "count": {"op": ">=", "value": 3}},
            {"event": event, "period": days},
            {"all": [{"event": event, "where": bag}, city]},
            {"event": event, "days_since_last": {"op": ">=", "value": n}},
            {"all": [{"not": {"event": event, "period": days}}, city]},
            {"all": [{"event": event, "period": days}, {"not": {"event": "Event 1"}}]},
        ]
        yield kinds[n % 6]


def count_first() -> None:
    """Make the segments, and count each for the first time."""
    from segments.models import Membership, Segment
    from segments.upkeep import keeper

    for n, rule in enumerate(rules()):
        Segment.objects.create(name=f"Segment {n}", rule=rule)
    began = time.monotonic()
    keeper.keep_all()
    took = time.monotonic() - began
    members = Membership.objects.count()
    assert not Segment.objects.exclude(status="fresh").exists()
    print(f"first count of {SEGMENTS} segments: {took:.1f} s, {members:,} memberships")


@contextmanager
def worker() -> Iterator[int]:
    """The worker for segments, and what wakes it, as `make run` starts them."""
    import subprocess

    environment = read_environment({}).variables()
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    started = [
        subprocess.Popen(
            one.command.split(), env={**os.environ, **environment, "PATH": path}
        )
        for one in read_procfile()
        if one.name in ("segments", "beat")
    ]
    try:
        yield next(one.pid for one in started)
    finally:
        for one in started:
            one.terminate()
        for one in started:
            one.wait()


def is_drained(db: psycopg.Connection) -> bool:
    [(drained,)] = db.execute(
        "SELECT events_upto >= (SELECT last_value FROM events_event_id_seq) "
        "FROM segments_upkeep"
    ).fetchall()
    return bool(drained)


def until(holds: Callable[[], bool], seconds: float = 300) -> float:
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise RuntimeError("It never came to that.")
        time.sleep(0.01)
    return time.monotonic() - began


def rates(
    db: psycopg.Connection, port: int, key: str, options: argparse.Namespace
) -> None:
    for load, each in [(LOAD, 12_000), (LOADS[3], 1_500)]:
        without, with_, behind, busy = [], [], [], []
        count = int(options.seconds * each)
        count -= count % load.events_each
        for _ in range(options.rounds):
            without.append(count / run(load, port, key, count).seconds)
            with worker() as pid:
                until(lambda: is_drained(db))
                time.sleep(3)
                used = processor_seconds(pid)
                with_.append(count / run(load, port, key, count).seconds)
                busy.append(processor_seconds(pid) - used)
                behind.append(until(lambda: is_drained(db)))
                memory = memory_mib(pid)
            print(
                f"  {load.name}: {without[-1]:,.0f}/s, with upkeep {with_[-1]:,.0f}/s",
                file=sys.stderr,
            )
        ratio = statistics.median(
            [one / other for one, other in zip(with_, without, strict=True)]
        )
        print(
            f"{load.name}: {statistics.median(without):,.0f} events/s without upkeep, "
            f"{statistics.median(with_):,.0f} with: {1 - ratio:.0%} less; "
            f"caught up {statistics.median(behind):.1f} s after the last event; the "
            f"worker used {statistics.median(busy) / count * 1e6:.0f} µs an event and "
            f"holds {memory:.0f} MiB"
        )


def delays(db: psycopg.Connection, port: int, key: str) -> None:
    """From the answer to an event until its customer is a member."""
    import json
    import urllib.request

    [(segment,)] = db.execute(
        "SELECT id FROM segments_segment WHERE name = 'Segment 0'"
    ).fetchall()

    def one() -> float:
        name = f"N-{uuid.uuid4().hex[:8]}"
        body = {"events": [{"name": "Event 0", "customer": name} for _ in range(3)]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/v1/events",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).read()
        return until(
            lambda: bool(
                db.execute(
                    "SELECT FROM segments_membership AS m JOIN customers_customer AS c "
                    "ON c.id = customer_id WHERE external_id = %s AND segment_id = %s",
                    [name, segment],
                ).fetchall()
            )
        )

    with worker():
        until(lambda: is_drained(db))
        time.sleep(3)
        told = sorted(one() for _ in range(20))
        print(f"in after, alone: median {told[10]:.1f} s, at most {told[-1]:.1f} s")
        loading = threading.Thread(target=run, args=(LOAD, port, key, 150_000))
        loading.start()
        told = []
        while loading.is_alive():
            told.append(one())
        told.sort()
        print(
            f"in after, under full load: median {told[len(told) // 2]:.1f} s, at most "
            f"{told[-1]:.1f} s of {len(told)}"
        )


def a_thousand(db: psycopg.Connection) -> None:
    """What a thousand events cost the keeper, at several sizes of a batch."""
    from django.utils import timezone

    from events.ingest import record_events
    from events.models import Source
    from segments.upkeep import keeper

    source = Source.objects.get(name="benchmark")
    for count in (100, 1_000, 10_000):
        took = []
        for _ in range(5):
            now = timezone.now()
            items = list(ingest.events(count, uuid.uuid4().hex))
            for item in items:
                item["occurred_at"] = now.isoformat()
            record_events(items, source=source, now=now)
            began = time.monotonic()
            keeper.keep_all()
            took.append(time.monotonic() - began)
        median = statistics.median(took) * 1000
        print(
            f"{count:,} events at once: {median:,.0f} ms, {median / count * 1000:,.0f} "
            "ms for a thousand"
        )


def upserts(db: psycopg.Connection, with_: str) -> None:
    """Updates of 1,000 customers in the city, with the triggers and without."""
    from django.utils import timezone

    from customers.upsert import upsert_customers

    told: dict[str, list[float]] = {"off": [], "on": []}
    for number in range(12):
        for state in told:
            word = "ENABLE" if state == "on" else "DISABLE"
            db.execute(f"ALTER TABLE customers_customer {word} TRIGGER USER")
            items = [
                {
                    "external_id": f"C-{n}",
                    "city": f"City {number} {state}",
                    "attributes": {"tier": f"{number} {state}"},
                }
                for n in range(number * 1000, number * 1000 + 1000)
            ]
            began = time.monotonic()
            upsert_customers(items, origin="benchmark", now=timezone.now())
            told[state].append(time.monotonic() - began)
    db.execute("ALTER TABLE customers_customer ENABLE TRIGGER USER")
    off, on = (statistics.median(told[state]) * 1000 for state in ("off", "on"))
    print(
        f"1,000 customers changed, {with_}: {off:.0f} ms without triggers, {on:.0f} ms "
        f"with ({on / off - 1:+.0%})"
    )


def idle() -> None:
    from segments.upkeep import keeper

    keeper.keep_all()
    took = []
    for _ in range(200):
        began = time.perf_counter()
        keeper.keep()
        took.append(time.perf_counter() - began)
    print(f"an idle round: {statistics.median(took) * 1000:.2f} ms")


def check() -> None:
    """Count all anew, as each night: nothing must be found otherwise."""
    from segments.models import Segment
    from segments.upkeep import keeper, recount_wanted

    keeper.keep_all()
    for segment in Segment.objects.all():
        recount_wanted(segment)
    began = time.monotonic()
    keeper.keep_all()
    took = time.monotonic() - began
    repaired = sum(s.repaired or 0 for s in Segment.objects.all())
    print(f"a check of all: {took:.1f} s, {repaired} repaired")
    if repaired or Segment.objects.exclude(status="fresh").exists():
        sys.exit(1)


if __name__ == "__main__":
    main()

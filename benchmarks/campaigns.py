"""How quick campaigns are: from the event to the message, and a system event for all.

    .venv/bin/python -m benchmarks.campaigns [--customers 1000000] [--seconds 20]
                                             [--rounds 3] [--backlog 200000]

On a whole installation of its own, as `make run` starts it, on the same cores as the
load. Messages go to the local outbox, which takes them and does nothing.

latency    events over HTTP at 20, 100 and 500 a second; from when an event was stored
           until its message was handed over, by the rows
everyone   a system event whose filter finds a tenth of the customers: until all runs
           exist, until all messages are handed over; the memory of each process
backlog    one event type has so many events waiting; another one's messages meanwhile
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.installation import Whole, family, memory_mib

#: The aims, in seconds and in messages a second.
LATENCY_P99 = 1.0
RUNS_IN = 5.0
MESSAGES = 4_000
MEMORY_MIB = 200
DELAY = 1.0

PEOPLE = """
    INSERT INTO customers_customer
        (external_id, first_name, last_name, email, email_is_valid, phone,
         phone_is_valid, gender, city, country, language, time_zone, attributes,
         is_stub, created_at, updated_at)
    SELECT 'C-' || n, 'First ' || n, 'Last', '', false,
           '+49151' || lpad(n::text, 8, '0'), true, '',
           CASE WHEN n %% 10 = 0 THEN 'Paris' ELSE 'Rome' END, 'DE', 'de', '', '{}',
           false, now(), now()
      FROM generate_series(1, %s) AS n
"""
CONSENTS = """
    INSERT INTO customers_consent (customer_id, channel, is_granted, changed_at, origin)
    SELECT id, 'sms', true, now(), '' FROM customers_customer
"""
TOOK = """
    SELECT extract(epoch FROM message.sent_at - event.received_at)
      FROM messaging_message AS message
      JOIN events_event AS event ON event.id = message.event_id
       AND event.customer_id = message.customer_id
     WHERE message.sent_at IS NOT NULL AND event.external_id LIKE %s
"""


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--customers", type=int, default=1_000_000)
    arguments.add_argument("--seconds", type=float, default=20)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--backlog", type=int, default=200_000)
    options = arguments.parse_args()
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        installation = Whole(Path(folder))
        with installation.running():
            import django

            django.setup()
            prepare(options.customers)
            for number in range(options.rounds):
                print(f"\nround {number + 1} of {options.rounds}")
                for rate in (20, 100, 500):
                    latency(installation, rate, options, number, missed)
                everyone(installation, options, number, missed)
                backlog(installation, options, number, missed)
    for line in missed:
        print(f"MISSED: {line}")
    return 1 if missed else 0


def prepare(customers: int) -> None:
    from campaigns.drawing import save_draft
    from campaigns.models import Campaign
    from campaigns.publish import publish
    from smartcomm.core.db import execute

    execute(PEOPLE, [customers])
    execute(CONSENTS)
    execute("ANALYZE")
    in_paris = {"rule": {"attribute": "city", "op": "=", "value": "Paris"}}
    text = "Thank you, {{ client.firstName }}: {{ client.eventContext.number }}"
    sms = {
        "key": "sms",
        "action": "send_sms",
        "config": {"text": text, "missing": "send"},
        "next": {"sent": None},
    }
    who = {
        "key": "who",
        "action": "filter_customers",
        "config": in_paris,
        "next": {"positive": "sms", "negative": None},
    }
    for event, kind, steps in [
        ("Order paid", "event", [sms]),
        ("Sale began", "system_event", [who, sms]),
        ("Page viewed", "event", [{**who, "next": {}}]),
    ]:
        campaign = Campaign.objects.create(name=event)
        save_draft(
            campaign,
            {
                "trigger": {"kind": kind, "event": event},
                "entry": {"rule": "every_event"},
                "start": steps[0]["key"],
                "steps": steps,
            },
        )
        publish(campaign)


def send(
    installation: Whole, name: str, mark: str, *, rate: int, seconds: float, base: int
) -> int:
    """Events at a steady rate, in requests of a twentieth of a second. How many."""
    beat = 0.05
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        due = round(rate * passed)
        if due > sent:
            installation.post(
                "events",
                {
                    "events": [
                        {
                            "id": f"{mark}-{number}",
                            "name": name,
                            "customer": f"C-{1 + (base + number) % 10_000}",
                            "context": {"number": number},
                        }
                        for number in range(sent, due)
                    ]
                },
            )
            sent = due
        time.sleep(beat)
    return sent


def took(mark: str, wanted: int) -> list[float]:
    """Seconds from stored to handed over, sorted, once all are."""
    from smartcomm.core.db import fetch_all

    until = time.monotonic() + 300
    while True:
        found = sorted(float(row[0]) for row in fetch_all(TOOK, [f"{mark}-%"]))
        if len(found) >= wanted or time.monotonic() > until:
            return found
        time.sleep(0.5)


def latency(
    installation: Whole, rate: int, options: Any, number: int, missed: list[str]
) -> None:
    mark = f"l{number}-{rate}"
    sent = send(
        installation, "Order paid", mark, rate=rate, seconds=options.seconds, base=0
    )
    found = took(mark, sent)
    p50, p99 = statistics.median(found), found[int(len(found) * 0.99)]
    print(
        f"  {rate} events/s: {len(found):,} of {sent:,} messages, "
        f"p50 {p50 * 1000:,.0f} ms, p99 {p99 * 1000:,.0f} ms",
        flush=True,
    )
    if len(found) != sent or p99 > LATENCY_P99:
        missed.append(f"{rate} events/s: p99 {p99:.2f} s, {len(found)} of {sent}")


def everyone(installation: Whole, options: Any, number: int, missed: list[str]) -> None:
    from campaigns.models import Broadcast, Run
    from messaging.models import Message

    began = time.time()
    installation.post(
        "system-events",
        {
            "events": [
                {"id": f"e{number}", "name": "Sale began", "context": {"number": 1}}
            ]
        },
    )
    wanted = options.customers // 10
    while not Broadcast.objects.filter(
        system_event__external_id=f"e{number}", status="finished"
    ).exists():
        time.sleep(0.05)
    runs = time.time() - began
    of_it = Broadcast.objects.get(
        system_event__external_id=f"e{number}"
    ).system_event_id
    assert Run.objects.filter(system_event=of_it).count() == wanted
    highest = 0.0
    while Message.objects.filter(system_event=of_it, status="sent").count() < wanted:
        highest = max(
            highest, *(memory_mib(pid) for pid in family(installation.pid)[1:])
        )
        time.sleep(0.5)
    all_sent = time.time() - began
    rate = wanted / (all_sent - runs)
    print(
        f"  everyone: {wanted:,} runs after {runs:.1f} s, all messages after "
        f"{all_sent:.1f} s ({rate:,.0f}/s, of one worker process); the largest process "
        f"held {highest:.0f} MiB",
        flush=True,
    )
    if runs > RUNS_IN:
        missed.append(f"{wanted:,} runs after {runs:.1f} s")
    if rate < MESSAGES:
        missed.append(f"{rate:,.0f} messages a second")
    if highest > MEMORY_MIB:
        missed.append(f"a process of {highest:.0f} MiB")


def backlog(installation: Whole, options: Any, number: int, missed: list[str]) -> None:
    """Events of one type, more than can be dispatched at once; then some of another."""
    from smartcomm.core.db import execute, fetch_all

    execute(
        """
        WITH made AS (
            INSERT INTO events_event (customer_id, type_id, source_id, external_id,
                                      occurred_at, received_at, context, is_backfill)
            SELECT 1 + n %% 10000, (SELECT id FROM events_eventtype
                                     WHERE name = 'Page viewed'),
                   (SELECT id FROM events_source WHERE name = 'load'),
                   %s || n, now(), now(), '{}', false
              FROM generate_series(1, %s) AS n
            RETURNING id, customer_id, type_id
        )
        INSERT INTO events_pendingevent (event_id, customer_id, type_id)
        SELECT id, customer_id, type_id FROM made
        """,
        [f"b{number}-", options.backlog],
    )
    mark = f"m{number}"
    sent = send(installation, "Order paid", mark, rate=20, seconds=10, base=50)
    left = fetch_all("SELECT count(*) FROM events_pendingevent")[0][0]
    found = took(mark, sent)
    p99 = found[int(len(found) * 0.99)]
    print(
        f"  with {options.backlog:,} events of another type waiting ({left:,} still "
        f"after 10 s): p50 {statistics.median(found) * 1000:,.0f} ms, "
        f"p99 {p99 * 1000:,.0f} ms",
        flush=True,
    )
    if p99 > DELAY + LATENCY_P99:
        missed.append(f"beside a backlog: p99 {p99:.2f} s")


if __name__ == "__main__":
    raise SystemExit(main())

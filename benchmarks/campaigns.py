"""How quick campaigns are: from the event to the message, and a system event for all.

    .venv/bin/python -m benchmarks.campaigns [--customers 1000000] [--seconds 20]
                                             [--rounds 3] [--backlog 200000]

On a whole installation of its own, as `make run` starts it, on the same cores as the
load. Messages go to the local outbox, which takes them and does nothing.

latency    events over HTTP at 20, 100 and 500 a second; from when an event was stored
           until its message was handed over, by the rows
everyone   a system event whose filter finds a tenth of the customers: until all runs
           exist, until all messages are handed over
hand-over  as many messages, all queued beforehand: by one worker process, and by two
backlog    one event type has so many events waiting; another one's messages meanwhile
statements of a batch of one and of 500, by what is done with it
memory     of each process, the most it held

Beside them, of the same minutes, what the machine can do: commits that wait for the
disk, and rows of messages that are merely inserted.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.installation import PROJECT, Whole, family, own_mib

#: Measure → one number for each round.
Numbers = dict[str, list[float]]

LATENCY = "{} events/s, {}, ms"
RUNS = "a system event for all: until all runs exist, s"
MESSAGES = "a system event for all: until all messages are handed over, s"
HAND_OVER = "hand-over, {} worker process{}, messages/s"
BESIDE = "beside a backlog, {}, ms"
COMMITS = "limit: commits of one connection, a second"
INSERTS = "limit: messages inserted in one statement, a second"
#: Measure → the most, or least, it should be.
MOST = {
    **{LATENCY.format(rate, "p99"): 1_000 for rate in (20, 100, 500)},
    RUNS: 5,
    BESIDE.format("p99"): 2_000,
}
LEAST = {HAND_OVER.format("one", ""): 4_000}
MEMORY_MIB = 200
STATEMENTS = 9

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
    numbers: Numbers = defaultdict(list)
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        installation = Whole(Path(folder))
        with installation.running(), watched(installation, memory):
            import django

            django.setup()
            prepare(options.customers)
            # What a process does once, it does before it is measured.
            warm = send(installation, "Order paid", "warm", rate=50, seconds=3, base=0)
            took("warm", warm)
            for number in range(options.rounds):
                print(f"\nround {number + 1} of {options.rounds}", flush=True)
                for rate in (20, 100, 500):
                    latency(installation, rate, options, number, numbers)
                everyone(installation, options, number, numbers)
                hand_over(options, number, numbers, processes=1)
                with another_worker():
                    hand_over(options, number, numbers, processes=2)
                backlog(installation, options, number, numbers)
                commits(numbers)
            counted = {size: statements(size) for size in (1, 500)}
    return conclude(numbers, memory, counted)


def conclude(
    numbers: Numbers, memory: dict[str, float], counted: dict[int, dict[str, int]]
) -> int:
    """Print the tables. Returns 1 if an aim was missed."""
    missed = []
    print("\n| measure | median | rounds | aim |\n|---|---|---|---|")
    for name, found in numbers.items():
        median = statistics.median(found)
        aim = ""
        if name in MOST:
            aim = f"at most {MOST[name]:,}"
            is_met = median <= MOST[name]
        elif name in LEAST:
            aim = f"at least {LEAST[name]:,}"
            is_met = median >= LEAST[name]
        else:
            is_met = True
        if not is_met:
            missed.append(name)
        rounds = " · ".join(shown(one) for one in found)
        print(f"| {name} | {shown(median)} | {rounds} | {aim} |")
    print("\n| statements of a batch | of one | of 500 |\n|---|---|---|")
    for part, one in counted[1].items():
        print(f"| {part} | {one} | {counted[500][part]} |")
        if one > STATEMENTS:
            missed.append(f"statements: {part}")
    print("\n| process | MiB at most |\n|---|---|")
    for process, most in sorted(memory.items()):
        print(f"| {process} | {most:.0f} |")
        if most > MEMORY_MIB:
            missed.append(f"memory: {process}")
    for name in missed:
        print(f"MISSED: {name}")
    return 1 if missed else 0


def shown(number: float) -> str:
    return f"{number:,.1f}" if number < 10 else f"{number:,.0f}"


def prepare(customers: int) -> None:
    from campaigns.drawing import save_draft
    from campaigns.models import Campaign
    from campaigns.publish import publish
    from smartcomm.core.db import execute

    execute(PEOPLE, [customers])
    execute(CONSENTS)
    execute("VACUUM ANALYZE")
    execute("CHECKPOINT")
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
    installation: Whole, rate: int, options: Any, number: int, numbers: Numbers
) -> None:
    mark = f"l{number}-{rate}"
    sent = send(
        installation, "Order paid", mark, rate=rate, seconds=options.seconds, base=0
    )
    note(took(mark, sent), sent, LATENCY.replace("{}", str(rate), 1), numbers)


def note(found: list[float], sent: int, name: str, numbers: Numbers) -> None:
    """Keep p50 and p99 of these seconds."""
    if len(found) != sent:
        raise RuntimeError(f"{len(found):,} messages of {sent:,} events.")
    for which, seconds in [
        ("p50", statistics.median(found)),
        ("p99", found[int(len(found) * 0.99)]),
    ]:
        keep(numbers, name.format(which), seconds * 1000)


def keep(numbers: Numbers, name: str, number: float) -> None:
    numbers[name].append(number)
    print(f"  {name}: {shown(number)}", flush=True)


def everyone(installation: Whole, options: Any, number: int, numbers: Numbers) -> None:
    from campaigns.models import Broadcast, Run

    began = time.time()
    event = {"id": f"e{number}", "name": "Sale began", "context": {"number": 1}}
    installation.post("system-events", {"events": [event]})
    wanted = options.customers // 10
    of_it = Broadcast.objects.filter(
        system_event__external_id=f"e{number}", status="finished"
    )
    while not of_it.exists():
        time.sleep(0.05)
    keep(numbers, RUNS, time.time() - began)
    event_id = of_it.get().system_event_id
    if Run.objects.filter(system_event=event_id).count() != wanted:
        raise RuntimeError("There are not as many runs as there are customers.")
    keep(numbers, MESSAGES, all_sent(event_id, wanted) - began)
    while Run.objects.filter(system_event=event_id, status="waiting").exists():
        time.sleep(0.5)


def all_sent(event_id: int, wanted: int) -> float:
    """When the last of the messages about a system event was handed over."""
    from django.db.models import Max

    from messaging.models import Message

    of_it = Message.objects.filter(system_event=event_id)
    # Asked rarely, and of a small index first: it takes from what is measured.
    while (
        Message.objects.filter(status="queued").exists()
        or of_it.filter(status="sent").count() < wanted
    ):
        time.sleep(0.5)
    return float(of_it.aggregate(last=Max("sent_at"))["last"].timestamp())


QUEUED = """
    INSERT INTO messaging_message
        (customer_id, campaign_id, version_id, step, content_id, channel,
         system_event_id, expires_at, due_at, created_at, status, is_test, reason,
         detail, attempts, is_settled, address, subject, body, html, link, image,
         provider, provider_id)
    SELECT customer.id, step.campaign_id, step.version_id, 'sms', step.content_id,
           'sms', %s, now() + interval '1 day', now(), now(), 'queued', false, '', '',
           0, false, '', '', '', '', '', '', '', ''
      FROM (SELECT id FROM customers_customer ORDER BY id LIMIT %s) AS customer,
           (SELECT step.content_id, step.version_id, version.campaign_id
              FROM campaigns_step AS step
              JOIN campaigns_version AS version ON version.id = step.version_id
             WHERE step.content_id IS NOT NULL ORDER BY step.id DESC LIMIT 1) AS step
"""


def hand_over(options: Any, number: int, numbers: Numbers, *, processes: int) -> None:
    """Messages that nobody's run waits for: all other workers are idle."""
    from celery import current_app

    from messaging.queue import SEND_TASK
    from smartcomm.core.db import execute, fetch_all

    wanted = options.customers // 10
    ((event_id,),) = fetch_all(
        """
        INSERT INTO events_systemevent (type_id, source_id, external_id, occurred_at,
                                        received_at, context, is_backfill)
        SELECT type.id, source.id, %s, now(), now(), '{"number": 1}', true
          FROM events_eventtype AS type, events_source AS source
         WHERE type.name = 'Sale began' AND source.name = 'load'
        RETURNING id
        """,
        [f"h{number}-{processes}"],
    )
    began = time.time()
    execute(QUEUED, [event_id, wanted])
    keep(numbers, INSERTS, wanted / (time.time() - began))
    began = time.time()
    for _ in range(processes):
        current_app.send_task(SEND_TASK)
    rate = wanted / (all_sent(event_id, wanted) - began)
    words = ("one", "") if processes == 1 else ("two", "es")
    keep(numbers, HAND_OVER.format(*words), rate)


@contextmanager
def another_worker() -> Iterator[None]:
    """A second process that hands over messages."""
    lines = dict(
        line.split(": ", 1) for line in (PROJECT / "Procfile").read_text().splitlines()
    )
    command = lines["messages"].replace("messages@", "more@")
    command = command.replace("$MESSAGE_THREADS", "1")
    worker = subprocess.Popen(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(5)
        yield
    finally:
        worker.terminate()
        worker.wait(timeout=60)


def backlog(installation: Whole, options: Any, number: int, numbers: Numbers) -> None:
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
    print(f"  of {options.backlog:,} events {left:,} still wait after 10 s")
    note(took(mark, sent), sent, BESIDE, numbers)
    while fetch_all("SELECT EXISTS (SELECT FROM events_pendingevent)")[0][0]:
        time.sleep(0.5)


def commits(numbers: Numbers) -> None:
    """How often a second one connection can write a row and wait for the disk."""
    from smartcomm.core.db import execute

    execute("CREATE TABLE IF NOT EXISTS benchmark_row (number bigint)")
    done, end = 0, time.monotonic() + 2
    while time.monotonic() < end:
        execute("INSERT INTO benchmark_row VALUES (1)")
        done += 1
    keep(numbers, COMMITS, done / 2)


def statements(events: int) -> dict[str, int]:
    """How many statements each part takes for a batch. Nothing of it is kept."""
    from django.db import connection, transaction
    from django.test.utils import CaptureQueriesContext

    from campaigns.dispatch import dispatch_events
    from campaigns.engine import advance_runs, settle_runs
    from messaging.send import IN_DOUBT_AT_MOST as GROUP
    from messaging.send import send_messages
    from smartcomm.core.db import execute

    def of(part: Callable[[], int]) -> int:
        with CaptureQueriesContext(connection) as captured:
            if part() != events:
                raise RuntimeError(f"{part.__name__} did not take all.")
        return sum(
            "SAVEPOINT" not in query["sql"] for query in captured.captured_queries
        )

    with transaction.atomic():
        execute(
            """
            WITH made AS (
                INSERT INTO events_event (customer_id, type_id, source_id, external_id,
                                          occurred_at, received_at, context,
                                          is_backfill)
                SELECT n, (SELECT id FROM events_eventtype WHERE name = 'Order paid'),
                       (SELECT id FROM events_source WHERE name = 'load'),
                       's' || n, now(), now(), '{"number": 1}', false
                  FROM generate_series(1, %s) AS n
                RETURNING id, customer_id, type_id
            )
            INSERT INTO events_pendingevent (event_id, customer_id, type_id)
            SELECT id, customer_id, type_id FROM made
            """,
            [events],
        )
        counted = {
            "events → runs": of(dispatch_events),
            "runs → messages": of(advance_runs),
            "messages → provider": of(send_messages),
            "what was sent → runs": of(settle_runs),
        }
        transaction.set_rollback(True)
    more = 2 * (-(-events // GROUP) - 1)
    counted["messages → provider"] -= more
    if more:
        print(f"  and {more} for {more // 2} groups of {GROUP} after the first")
    return counted


@contextmanager
def watched(installation: Whole, memory: dict[str, float]) -> Iterator[None]:
    """Keep what each process held at most, until the end."""
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(1):
            for pid in family(installation.pid)[1:]:
                with suppress(OSError, ProcessLookupError):
                    name = name_of(Path(f"/proc/{pid}/cmdline").read_bytes().decode())
                    memory[name] = max(memory.get(name, 0), own_mib(pid))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def name_of(command: str) -> str:
    words = command.split("\0")
    if "--hostname" in words:
        return words[words.index("--hostname") + 1].partition("@")[0]
    for name in ("granian", "beat", "postgres", "valkey"):
        if name in command:
            return {"granian": "web"}.get(name, name)
    return Path(words[0]).name


if __name__ == "__main__":
    raise SystemExit(main())

"""Events into three campaigns, while everything that can die does.

    python -m tests.chaos.storm [--events 100000] [--seconds 300] [--seed 1]

An installation of its own, all of `make run`, and beside it a second beat, a second
worker for campaigns and one for messages. While events come in over HTTP, somebody is
killed with -9 every second: workers, beats, the web server, Valkey, and PostgreSQL in
immediate mode; Valkey is flushed as well. Then the rows are counted: each event that
should start a run has exactly one, each run its message exactly once, what was handed
over was handed over once but for messages marked unknown, and nothing is stuck.

Prints what was done and what was found; exit code 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller

from benchmarks.installation import Whole, free_port

PROJECT = Path(__file__).resolve().parents[2]
CUSTOMERS = 400
BATCH = 50
#: One system event in so many batches.
SYSTEM_EVERY = 20
#: Beside the workers of the installation: whoever comes second finds nothing to do.
RIVALS = [
    "beat",
    "worker --queues campaigns --hostname rival-campaigns@%h --pool threads "
    "--concurrency 2",
    "worker --queues messages --hostname rival-messages@%h --pool threads "
    "--concurrency 2",
]
#: What is killed, the likeliest first.
TARGETS = {
    "campaigns@": 5,
    "messages@": 5,
    "broadcasts@": 2,
    "beat": 2,
    "granian": 1,
    "all workers": 1,
    "flush": 2,
    "valkey": 1,
    "postgres": 1,
}
GROUP = 20
RESTARTED_SECONDS = 120.0


class Mailbox:
    """An SMTP server that counts which messages it was given."""

    def __init__(self) -> None:
        #: Id of the message → how often it came.
        self.taken: Counter[int] = Counter()
        self.server = Controller(self, hostname="127.0.0.1", port=free_port())

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        key = re.search(rb"Message-ID:\s*<message-(\d+)@", envelope.content)
        assert key is not None, envelope.content
        self.taken[int(key[1])] += 1
        return "250 Ok"

    def __enter__(self) -> Mailbox:
        self.server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.stop()


class Installation(Whole):
    """A whole installation whose processes can be killed by what they are."""

    def __init__(self, data: Path, mailbox: Mailbox) -> None:
        super().__init__(data, EMAIL_URL=f"smtp://127.0.0.1:{mailbox.server.port}")
        self.mailbox = mailbox

    def processes(self, words: str) -> list[int]:
        """The ids of this installation's processes with these words in their line."""
        mark = f"SMARTCOMM_DATA={self.home}\0".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    if words.encode() in command:
                        found.append(int(entry.name))
        return found

    def kill(self, words: str) -> int:
        victims = [pid for pid in self.processes(words) if pid != os.getpid()]
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(victims)


class Rivals:
    """A second beat and second workers, started again whenever they are gone."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._keep)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def _keep(self) -> None:
        while not self.stopped.wait(0.5):
            for number, words in enumerate(RIVALS):
                process = self.running.get(words)
                if process is None or process.poll() is not None:
                    more = ["--loglevel", "error"]
                    if words == "beat":
                        more += ["--schedule", str(self.home / f"rival-beat-{number}")]
                    self.running[words] = subprocess.Popen(
                        [
                            *(sys.executable, "-m", "celery", "--app", "smartcomm"),
                            *("--quiet", "--skip-checks", *words.split(), *more),
                        ],
                        cwd=PROJECT,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )

    def __enter__(self) -> Rivals:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self.thread.join()
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(timeout=60)


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--events", type=int, default=100_000)
    arguments.add_argument("--seconds", type=float, default=300)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, Mailbox() as mailbox:
        Path(folder).chmod(0o711)
        installation = Installation(Path(folder), mailbox)
        with installation.running():
            import django

            django.setup()
            prepare(installation)
            with Rivals(installation.home):
                kills = storm(installation, options)
            wait_until_quiet()
            wrong = check(installation, kills)
    for line in wrong:
        print(f"WRONG: {line}")
    print("all is well" if not wrong else f"{len(wrong)} things are wrong")
    return 1 if wrong else 0


# What is at work


def prepare(installation: Installation) -> None:
    from campaigns.drawing import save_draft
    from campaigns.models import Campaign
    from campaigns.publish import publish

    installation.post(
        "customers",
        {
            "customers": [
                {
                    "external_id": f"C-{number}",
                    "email": f"c{number}@example.com",
                    "city": ["Paris", "Rome"][number % 2],
                    "consents": {"email": True},
                }
                for number in range(CUSTOMERS)
            ]
        },
    )

    def mail(text: str) -> dict[str, Any]:
        config = {"subject": text, "text": text, "html": "", "missing": "send"}
        return {
            "key": "mail",
            "action": "send_email",
            "config": config,
            "next": {"sent": None},
        }

    in_paris = {
        "key": "who",
        "action": "filter_customers",
        "config": {"rule": {"attribute": "city", "op": "=", "value": "Paris"}},
        "next": {"positive": "split", "negative": None},
    }
    split = {
        "key": "split",
        "action": "ab_split",
        "config": {
            "shares": [{"name": "A", "percent": 50}, {"name": "B", "percent": 50}]
        },
        "next": {"A": "mail", "B": "mail"},
    }
    for name, kind, event, entry, steps in [
        ("every", "event", "Order paid", "every_event", [mail("Thank you")]),
        ("once", "event", "Order paid", "once", [in_paris, split, mail("Welcome")]),
        (
            "everyone",
            "system_event",
            "Sale began",
            "every_event",
            [
                {**in_paris, "next": {"positive": "mail", "negative": None}},
                mail("It is on"),
            ],
        ),
    ]:
        campaign = Campaign.objects.create(name=name)
        save_draft(
            campaign,
            {
                "trigger": {"kind": kind, "event": event},
                "entry": {"rule": entry},
                "start": steps[0]["key"],
                "steps": steps,
            },
        )
        publish(campaign)


# The storm


def storm(installation: Installation, options: argparse.Namespace) -> Counter[str]:
    """Send the events, and kill meanwhile. Returns how often who was killed."""
    chance = random.Random(options.seed)
    batches = max(1, options.events // BATCH)
    done = threading.Event()

    def send() -> None:
        began = time.monotonic()
        for batch in range(batches):
            installation.post(
                "events",
                {
                    "events": [
                        {
                            "id": f"o-{batch}-{number}",
                            "name": "Order paid",
                            "customer": f"C-{chance.randrange(CUSTOMERS)}",
                            "context": {"amount": number},
                        }
                        for number in range(BATCH)
                    ]
                },
            )
            if batch % SYSTEM_EVERY == 0:
                installation.post(
                    "system-events",
                    {"events": [{"id": f"s-{batch}", "name": "Sale began"}]},
                )
            # Spread over the time there is.
            due = began + options.seconds * (batch + 1) / batches
            time.sleep(max(0.0, due - time.monotonic()))
        done.set()

    kills: Counter[str] = Counter()
    sender = threading.Thread(target=send)
    sender.start()
    names, weights = list(TARGETS), list(TARGETS.values())
    dice = random.Random(options.seed + 1)
    while not done.wait(1.0):
        target = dice.choices(names, weights)[0]
        if strike(installation, target):
            kills[target] += 1
    sender.join()
    return kills


def strike(installation: Installation, target: str) -> bool:
    """Kill somebody. Returns whether there was anybody to kill."""
    match target:
        case "all workers":
            return installation.kill(" celery ") > 0 or installation.kill("celery") > 0
        case "flush":
            from django.core.cache import cache

            with suppress(Exception):
                cache.clear()
                return True
            return False
        case "postgres":
            pid_file = installation.home / "postgres" / "postmaster.pid"
            with suppress(OSError, ValueError):
                os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
                return True
            return False
    return installation.kill(target) > 0


def wait_until_quiet() -> None:
    """Until the workers have done all they can. What a dead one had leased is let go
    when its lease ends; here by a clock that is ahead."""
    from django.utils import timezone

    from campaigns.dispatch import dispatch_events, dispatch_system_events
    from campaigns.engine import advance_runs, settle_runs
    from messaging import send

    until = time.monotonic() + RESTARTED_SECONDS
    while outstanding() and time.monotonic() < until:
        time.sleep(1)
    later = timezone.now() + 2 * send.LEASE
    parts: list[Any] = [
        *(dispatch_system_events, dispatch_events, settle_runs, advance_runs),
    ]
    while sum(part(now=later) for part in parts) + send.send_messages(now=later):
        pass
    send.close_interrupted(now=later + 2 * send.INTERRUPTED_AFTER)
    while sum(part(now=later) for part in parts):
        pass


def outstanding() -> dict[str, int]:
    """What is not done yet, if the database answers; else everything."""
    from django.db import DatabaseError, connection
    from django.utils import timezone

    from campaigns.models import Broadcast, Run
    from events.models import PendingEvent, PendingSystemEvent
    from messaging.models import Message

    now = timezone.now()
    try:
        rows = {
            "events": PendingEvent.objects.all(),
            "system events": PendingSystemEvent.objects.all(),
            "broadcasts": Broadcast.objects.filter(status="running"),
            "due runs": Run.objects.filter(status="waiting", due_at__lte=now),
            "free messages": Message.objects.filter(
                status="queued", leased_until__isnull=True, due_at__lte=now
            ),
        }
        return {name: count for name, one in rows.items() if (count := one.count())}
    except DatabaseError:
        connection.close()
        return {"everything": 1}


# What must hold


def check(installation: Installation, kills: Counter[str]) -> list[str]:
    """What is wrong, in sentences."""
    from campaigns.models import Broadcast, Campaign, Run, TurnedAway
    from campaigns.report import report
    from campaigns.report_page import equations
    from customers.models import Customer
    from events.models import Event, SystemEvent
    from messaging.models import Message

    wrong: list[str] = []

    def equal(what: str, found: object, wanted: object) -> None:
        print(f"{what:<58} {found!s:>12} {wanted!s:>12}")
        if found != wanted:
            wrong.append(f"{what}: {found}, not {wanted}")

    print(f"\nkilled: {dict(kills)}\n\n{'':<58} {'found':>12} {'wanted':>12}")
    paid = Event.objects.filter(type__name="Order paid")
    sales = SystemEvent.objects.filter(type__name="Sale began").count()
    in_paris = Customer.objects.filter(city="Paris").count()
    every, once, everyone = (
        Campaign.objects.get(name=name) for name in ("every", "once", "everyone")
    )
    runs = Run.objects.filter
    equal(
        "runs of the campaign for every event",
        runs(campaign=every).count(),
        paid.count(),
    )
    equal(
        "events without a run of it",
        paid.exclude(pk__in=runs(campaign=every).values("event")).count(),
        0,
    )
    buyers = paid.values("customer").distinct().count()
    equal("runs of the campaign for once", runs(campaign=once).count(), buyers)
    equal(
        "customers in it",
        runs(campaign=once).values("customer").distinct().count(),
        buyers,
    )
    equal(
        "events that it turned away",
        TurnedAway.objects.filter(campaign=once).count(),
        paid.count() - buyers,
    )
    equal("broadcasts", Broadcast.objects.filter(campaign=everyone).count(), sales)
    equal(
        "runs of the campaign for everyone",
        runs(campaign=everyone).count(),
        sales * in_paris,
    )

    messages = Message.objects.all()
    buyers_in_paris = (
        paid.filter(customer__city="Paris").values("customer").distinct().count()
    )
    wanted = paid.count() + buyers_in_paris + sales * in_paris
    equal("messages", messages.count(), wanted)
    equal(
        "runs and steps with a message",
        messages.values("run_id", "step").distinct().count(),
        wanted,
    )

    handed_over = installation.mailbox.taken
    statuses = Counter(messages.values_list("status", flat=True))
    unknown = set(messages.filter(status="unknown").values_list("pk", flat=True))
    sent = set(messages.filter(status="sent").values_list("pk", flat=True))
    print(f"\nmessages by status: {dict(statuses)}\n")
    equal("messages handed over twice", sum(n > 1 for n in handed_over.values()), 0)
    equal("messages sent that were not handed over", len(sent - set(handed_over)), 0)
    equal(
        "messages handed over that are neither sent nor unknown",
        len(set(handed_over) - sent - unknown),
        0,
    )
    deadly = sum(kills[one] for one in ("messages@", "all workers", "postgres"))
    most = 2 * GROUP * deadly
    equal(f"unknown messages, at most {most}", min(len(unknown), most), len(unknown))
    equal("sent and unknown", len(sent) + len(unknown), wanted)
    equal("work that is left", outstanding(), {})
    equal("runs that wait or failed", runs(status__in=["waiting", "failed"]).count(), 0)
    for campaign in (every, once, everyone):
        for numbers in report(campaign)["versions"]:
            for equation in equations(numbers):
                equal(
                    f"{campaign.name}: {equation.total} and its parts",
                    sum(number for _, number in equation.parts),
                    equation.number,
                )
    return wrong


if __name__ == "__main__":
    sys.exit(main())

"""Events into three campaigns, while everything that can die does.

    python -m tests.chaos.storm [--events 100000] [--seconds 300] [--seed 1] [--every 1]

An installation of its own, all of `make run`, and beside it a second beat, a second
worker for campaigns and one for messages, whose clocks are a minute ahead or behind.
While events come in over HTTP, somebody who is at work is killed with -9 every second:
workers, beats, the web server, Valkey, and PostgreSQL in immediate mode; Valkey is
flushed as well. Who is still starting is let be: to kill it again would show nothing.
On a machine that is busy with other things, kill less often: `--every 4`.
Then the rows are counted: each event that should start a run has exactly one, each run
its message exactly once, what was handed over was handed over once but for messages
marked unknown, nobody who waits a minute went on earlier, and nothing is stuck.

Prints what was done and what was found; exit code 1 when anything is wrong, 2 when
something is missing that it needs.
"""

from __future__ import annotations

import argparse
import logging
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
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, cycle
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller

from benchmarks.installation import Whole, free_port, processor_seconds

PROJECT = Path(__file__).resolve().parents[2]
CUSTOMERS = 400
BATCH = 50
#: One system event in so many batches.
SYSTEM_EVERY = 20
#: So many orders of a batch are small; their customers wait a minute.
SMALL = 5
MINUTE = 60.0
#: Beside the workers of the installation: whoever comes second finds nothing to do.
RIVALS = [
    "beat",
    "worker --queues campaigns --hostname rival-campaigns@%h --pool threads "
    "--concurrency 2",
    "worker --queues messages --hostname rival-messages@%h --pool threads "
    "--concurrency 2",
]
#: How far the clocks of the rivals are off, one after the other as they are started.
SECONDS_OFF = (60, -60)
#: What is killed, the likeliest first.
TARGETS = {
    "campaigns@": 5,
    "messages@": 5,
    "broadcasts@": 2,
    " beat ": 2,
    "granian": 1,
    "all workers": 1,
    "flush": 2,
    "valkey": 1,
    "postgres": 1,
}
#: Those that may take a worker which is handing over messages.
DEADLY = ("messages@", "all workers", "postgres")
GROUP = 20
#: How far the clock that messages go by may be ahead, by what its answer took to come.
CLOCK_ERROR = 0.1
#: Nothing more is done, and something left: then it is stuck.
STUCK_SECONDS = 180.0
#: How long PostgreSQL may take to be gone.
GONE_SECONDS = 10.0


def faketime() -> Path | None:
    """The library that shows a process another time (Debian: package faketime)."""
    for folder in (Path("/usr/lib"), Path("/usr/local/lib")):
        for name in ("libfaketimeMT.so.1", "libfaketimeMT.so"):
            if found := next(folder.glob(f"**/faketime/{name}"), None):
                return found
    return None


def by_a_clock(library: Path, seconds_off: int) -> dict[str, str]:
    """The environment of a process whose clock is off by so much. Its stop watch is
    not: that of a real machine is right, too."""
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{seconds_off:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def seconds_off(library: Path, wanted: int) -> float:
    """How far the clock of a process really is off that is started so."""
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env={**os.environ, **by_a_clock(library, wanted)},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(told.stdout) - time.time()


class Mailbox:
    """An SMTP server that counts which messages it was given."""

    def __init__(self) -> None:
        #: Id of the message → how often it came, and when first.
        self.taken: Counter[int] = Counter()
        self.first: dict[int, float] = {}
        self.server = Controller(self, hostname="127.0.0.1", port=free_port())

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        key = re.search(rb"Message-ID:\s*<message-(\d+)@", envelope.content)
        assert key is not None, envelope.content
        self.taken[int(key[1])] += 1
        self.first.setdefault(int(key[1]), time.time())
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
        #: How many orders were sent, each until it was taken.
        self.sent = 0
        #: What a process takes to start, in seconds on the processor.
        self.starting = 0.0

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

    def learn_what_starting_takes(self) -> None:
        """Now that all are up: the time on the processor that the quickest took."""
        self.starting = 0.9 * min(map(processor_seconds, self.processes("celery")))

    def at_work(self, words: str) -> set[int]:
        """Of these processes, those that have begun to talk to somebody: Valkey, the
        database. Who has not cannot have anything in hand."""
        return {pid for pid in self.processes(words) if has_socket(pid)}

    def has_started(self, words: str) -> bool:
        """Whether one of these has done more than start; for those whose sockets they
        are given."""
        for pid in self.processes(words):
            with suppress(OSError):
                if processor_seconds(pid) >= self.starting:
                    return True
        return False


def has_socket(pid: int) -> bool:
    """Whether this process has one; False once it is gone."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.readlink(entry).startswith("socket:"):
                    return True
    return False


def kill(victims: Iterable[int]) -> set[int]:
    """Kill them. Returns those that were still there."""
    killed = set()
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    return killed


class Rivals:
    """A second beat and second workers by other clocks, started again when gone."""

    def __init__(self, home: Path, library: Path) -> None:
        self.home = home
        self.library = library
        self.clocks = cycle(SECONDS_OFF)
        #: Seconds a clock was off → how many processes went by it.
        self.started: Counter[int] = Counter()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._keep)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def _keep(self) -> None:
        while not self.stopped.wait(0.5):
            for words in RIVALS:
                process = self.running.get(words)
                if process is None or process.poll() is not None:
                    self.running[words] = self._start(words, next(self.clocks))

    def _start(self, words: str, seconds_off: int) -> subprocess.Popen[bytes]:
        more = ["--loglevel", "error"]
        if words == "beat":
            more += ["--schedule", str(self.home / "rival-beat")]
        self.started[seconds_off] += 1
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "--app", "smartcomm"),
                *("--quiet", "--skip-checks", *words.split(), *more),
            ],
            cwd=PROJECT,
            # As many as the threads of its pool, so that they share a group.
            env={
                **os.environ,
                "MESSAGE_THREADS": "2",
                **by_a_clock(self.library, seconds_off),
            },
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
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass(frozen=True, slots=True)
class Kill:
    """Somebody was killed: when, who, and how many processes that were."""

    at: float
    target: str
    processes: int
    #: Of these, or cut off by it, workers that hand over messages.
    senders: int


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--events", type=int, default=100_000)
    arguments.add_argument("--seconds", type=float, default=300)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--every", type=float, default=1, help="seconds, a kill")
    options = arguments.parse_args()
    # Whoever ends it wants an end of all that it started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # That the database goes away is known.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    library = faketime()
    if library is None:
        print(
            "Clocks that differ need libfaketime: run `apt install faketime` as root.",
            file=sys.stderr,
        )
        return 2
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    print(
        f"{options.events:,} events in {options.seconds:,.0f} s or longer, "
        f"a kill every {options.every:g} s, seed {options.seed}"
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Mailbox() as mailbox:
        Path(folder).chmod(0o711)
        installation = Installation(Path(folder), mailbox)
        with installation.running():
            import django

            django.setup()
            prepare(installation)
            installation.learn_what_starting_takes()
            with Rivals(installation.home, library) as rivals:
                kills = storm(installation, options)
                print(f"the storm is over after {time.monotonic() - began:,.0f} s")
                wait_until_done()
            tidy_up()
            print(f"all was done after {time.monotonic() - began:,.0f} s\n")
            tell_kills(kills)
            tell_clocks(rivals)
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
    rest = {
        "key": "rest",
        "action": "wait",
        "config": {"for": 1, "unit": "minutes"},
        "next": {"done": "who"},
    }
    note = {
        "key": "note",
        "action": "record_event",
        "config": {"event": "Reminded", "context": {}},
        "next": {"done": "mail", "failed": None},
    }
    small = [{"field": "amount", "op": "<", "value": SMALL}]
    paid: dict[str, Any] = {"kind": "event", "event": "Order paid"}
    for name, trigger, entry, steps in [
        ("every", paid, "every_event", [mail("Thank you")]),
        ("once", paid, "once", [in_paris, split, mail("Welcome")]),
        (
            "everyone",
            {"kind": "system_event", "event": "Sale began"},
            "every_event",
            [
                {**in_paris, "next": {"positive": "mail", "negative": None}},
                mail("It is on"),
            ],
        ),
        (
            "later",
            {**paid, "where": small},
            "every_event",
            [
                rest,
                {**in_paris, "next": {"positive": "note", "negative": None}},
                note,
                mail("Another one?"),
            ],
        ),
    ]:
        campaign = Campaign.objects.create(name=name)
        save_draft(
            campaign,
            {
                "trigger": trigger,
                "entry": {"rule": entry},
                "start": steps[0]["key"],
                "steps": steps,
            },
        )
        publish(campaign)


# The storm


def storm(installation: Installation, options: argparse.Namespace) -> list[Kill]:
    """Send the events, and kill meanwhile. Returns who was killed when."""
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
            installation.sent += BATCH
            if batch % SYSTEM_EVERY == 0:
                installation.post(
                    "system-events",
                    {"events": [{"id": f"s-{batch}", "name": "Sale began"}]},
                )
            # Spread over the time there is.
            due = began + options.seconds * (batch + 1) / batches
            time.sleep(max(0.0, due - time.monotonic()))
        done.set()

    kills: list[Kill] = []
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    names, weights = list(TARGETS), list(TARGETS.values())
    dice = random.Random(options.seed + 1)
    began = time.monotonic()
    for number in count(1):
        # On the second, whatever a kill takes.
        if done.wait(max(0.0, began + number * options.every - time.monotonic())):
            break
        # Of some, most may be starting.
        for target in dice.choices(names, weights, k=5):
            senders = set(installation.processes("messages@"))
            talking = set(filter(has_socket, senders))
            if struck := strike(installation, target):
                if target == "postgres":  # They outlive it, and others have come.
                    senders = talking | installation.at_work("messages@")
                else:
                    senders &= struck
                kills.append(
                    Kill(time.time(), target.strip(), len(struck), len(senders))
                )
                break
    sender.join()
    return kills


def strike(installation: Installation, target: str) -> set[int]:
    """Kill somebody who is at work. Returns the processes that were struck: of a flush
    Valkey's, of PostgreSQL the one that ends all others."""
    match target:
        case "all workers":
            return kill(installation.at_work("celery"))
        case "granian":
            # With the one that starts the others.
            started = installation.has_started(target)
            return kill(installation.processes(target)) if started else set()
        case "flush":
            return set(installation.processes("valkey")) if flush() else set()
        case "valkey":
            return kill(installation.processes(target)) if flush() else set()
        case "postgres":
            pid_file = installation.home / "postgres" / "postmaster.pid"
            if "everything" not in outstanding():
                with suppress(OSError, ValueError):
                    pid = int(pid_file.read_text().split()[0])
                    os.kill(pid, signal.SIGQUIT)
                    wait_until_gone(pid)
                    return {pid}
            return set()
    return kill(installation.at_work(target))


def wait_until_gone(pid: int) -> None:
    """PostgreSQL takes a moment to end what it has started, and commits meanwhile."""
    until = time.monotonic() + GONE_SECONDS
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.01)


def flush() -> bool:
    """Empty Valkey. Returns whether it was up."""
    from django.core.cache import cache

    with suppress(Exception):
        cache.clear()
        return True
    return False


def wait_until_done() -> None:
    """Until the workers have done all they can; at the latest when nothing happens."""
    left, since = outstanding(), time.monotonic()
    while left and time.monotonic() - since < STUCK_SECONDS:
        time.sleep(1)
        if (now := outstanding()) != left:
            left, since = now, time.monotonic()


def tidy_up() -> None:
    """What a dead worker held is let go when its lease ends, and is unknown when it
    does not come back for long; here by a clock that is ahead."""
    from django.utils import timezone

    from campaigns.engine import advance_runs, settle_runs
    from messaging import send

    later = timezone.now() + 2 * send.LEASE
    while send.send_messages(now=later):
        pass
    send.close_interrupted(now=later + 2 * send.INTERRUPTED_AFTER)
    while settle_runs(now=later) + advance_runs(now=later):
        pass


def outstanding() -> dict[str, int]:
    """What is not done yet, if the database answers; else everything."""
    from django.db import DatabaseError, connection

    from campaigns.models import Broadcast, Run
    from events.models import PendingEvent, PendingSystemEvent
    from messaging.models import Message

    try:
        rows = {
            "events": PendingEvent.objects.all(),
            "system events": PendingSystemEvent.objects.all(),
            "broadcasts": Broadcast.objects.filter(status="running"),
            "runs that wait for a time": Run.objects.filter(
                status="waiting", due_at__isnull=False
            ),
            "free messages": Message.objects.filter(
                status="queued", leased_until__isnull=True
            ),
            "messages that have ended": Message.objects.filter(
                is_settled=False, run_id__isnull=False
            ).exclude(status__in=["queued", "sending"]),
        }
        return {name: count for name, one in rows.items() if (count := one.count())}
    except DatabaseError:
        connection.close()
        return {"everything": 1}


# What was done


def tell_kills(kills: list[Kill]) -> None:
    """How often who was killed or restarted."""
    print(f"{'killed or restarted':<24} {'times':>8} {'processes':>10}")
    for target in map(str.strip, TARGETS):
        some = [kill for kill in kills if kill.target == target]
        processes = sum(kill.processes for kill in some)
        print(f"{target:<24} {len(some):>8} {processes:>10}")
    print(
        f"{'in all':<24} {len(kills):>8} {sum(kill.processes for kill in kills):>10}\n"
    )


def tell_clocks(rivals: Rivals) -> None:
    """How many processes went by another clock, and how far that really was off."""
    for wanted, number in sorted(rivals.started.items()):
        off = seconds_off(rivals.library, wanted)
        print(f"rivals by a clock that is off by {off:+.1f} s: {number}")


# What must hold


@dataclass(frozen=True, slots=True)
class Doubt:
    """The messages that one kill left in doubt."""

    kill: Kill
    messages: list[int]

    @property
    def is_too_many(self) -> bool:
        return len(self.messages) > GROUP * self.kill.senders


def doubts(
    unknown: Iterable[tuple[int, datetime | None]], kills: Iterable[Kill]
) -> tuple[list[Doubt], list[int]]:
    """Unknown messages, (id, sending since), by the kill that left them: the first one
    since that may have taken their worker, or where that one cannot have left so many,
    the one just before. And those that no kill explains."""
    deadly = [kill for kill in kills if kill.target in DEADLY]
    left: dict[Kill, list[int]] = {}
    unexplained = []
    for pk, since in unknown:
        marked = since.timestamp() if since else float("inf")
        # A kill is written down a moment after it.
        later = [one for one in deadly if one.at >= marked][:1]
        before = [one for one in deadly if 0 < marked - one.at <= CLOCK_ERROR][-1:]
        may = [*later, *before]
        roomy = [
            one for one in may if len(left.get(one, [])) < GROUP * one.senders
        ] or may
        if roomy:
            left.setdefault(roomy[0], []).append(pk)
        else:
            unexplained.append(pk)
    return [Doubt(kill, pks) for kill, pks in left.items()], unexplained


def check(installation: Installation, kills: list[Kill]) -> list[str]:
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

    print(f"\n{'':<58} {'found':>12} {'wanted':>12}")
    paid = Event.objects.filter(type__name="Order paid")
    small = paid.filter(context__amount__lt=SMALL)
    small_in_paris = small.filter(customer__city="Paris").count()
    sales = SystemEvent.objects.filter(type__name="Sale began").count()
    in_paris = Customer.objects.filter(city="Paris").count()
    every, once, everyone, later = (
        Campaign.objects.get(name=name)
        for name in ("every", "once", "everyone", "later")
    )
    runs = Run.objects.filter
    equal("orders", paid.count(), installation.sent)
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
    equal(
        "runs of the campaign with a wait", runs(campaign=later).count(), small.count()
    )
    equal(
        "small orders without a run of it",
        small.exclude(pk__in=runs(campaign=later).values("event")).count(),
        0,
    )
    reminded = Event.objects.filter(type__name="Reminded").count()
    equal("events that it recorded", reminded, small_in_paris)

    messages = Message.objects.all()
    buyers_in_paris = (
        paid.filter(customer__city="Paris").values("customer").distinct().count()
    )
    wanted = paid.count() + buyers_in_paris + sales * in_paris + small_in_paris
    equal("messages", messages.count(), wanted)
    equal(
        "runs and steps with a message",
        messages.values("run_id", "step").distinct().count(),
        wanted,
    )

    handed_over = installation.mailbox.taken
    statuses = Counter(messages.values_list("status", flat=True))
    in_doubt = messages.filter(status="unknown").order_by("sending_since", "pk")
    unknown = set(in_doubt.values_list("pk", flat=True))
    sent = set(messages.filter(status="sent").values_list("pk", flat=True))
    equal("messages handed over twice", sum(n > 1 for n in handed_over.values()), 0)
    equal("messages sent that were not handed over", len(sent - set(handed_over)), 0)
    equal(
        "messages handed over that are neither sent nor unknown",
        len(set(handed_over) - sent - unknown),
        0,
    )
    equal("sent and unknown", len(sent) + len(unknown), wanted)
    early = [
        installation.mailbox.first[pk] - occurred_at.timestamp()
        for pk, occurred_at in messages.filter(
            campaign_id=later.pk, pk__in=list(handed_over)
        ).values_list("pk", "event__occurred_at")
    ]
    equal("who did not wait the minute", sum(took < MINUTE for took in early), 0)
    equal("work that is left", outstanding(), {})
    equal("runs that wait or failed", runs(status__in=["waiting", "failed"]).count(), 0)
    found, unexplained = doubts(in_doubt.values_list("pk", "sending_since"), kills)
    equal("unknown messages that no kill explains", len(unexplained), 0)
    equal(
        f"kills that left more than {GROUP} unknown for each sender",
        sum(one.is_too_many for one in found),
        0,
    )
    for campaign in (every, once, everyone, later):
        for numbers in report(campaign)["versions"]:
            for equation in equations(numbers):
                equal(
                    f"{campaign.name}: {equation.total} and its parts",
                    sum(number for _, number in equation.parts),
                    equation.number,
                )

    print(f"\nmessages by status: {dict(statuses)}")
    least, most = (
        f"{one:.1f} s" for one in (min(early, default=0), max(early, default=0))
    )
    print(
        f"from a small order to its message, after a minute's wait: {least} to {most}"
    )
    print(f"\nleft unknown by {len(found)} of {len(kills)} kills:")
    for one in found:
        arrived = sum(pk in handed_over for pk in one.messages)
        print(
            f"  {datetime.fromtimestamp(one.kill.at):%H:%M:%S} {one.kill.target:<12}"  # noqa: DTZ006
            f" {one.kill.senders} senders, {len(one.messages):>2} unknown, {arrived} of"
            f" them arrived: {', '.join(map(str, one.messages))}"
        )
    too_many = [pk for one in found if one.is_too_many for pk in one.messages]
    if unexplained or too_many:
        print("\ntoo many, or by no kill, with when they were marked as sending:")
        for message in in_doubt.filter(pk__in=[*unexplained, *too_many]):
            came = "arrived" if message.pk in handed_over else "did not arrive"
            print(f"  {message.pk} {message.sending_since} {came}: {message.detail}")
        print("\nkills that may leave such:")
        for kill in kills:
            if kill.target in DEADLY:
                at = datetime.fromtimestamp(kill.at, UTC)
                print(f"  {at} {kill.target} {kill.senders} senders")
    print()
    return wrong


if __name__ == "__main__":
    sys.exit(main())

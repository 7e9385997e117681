"""Does what a rehearsal foretells come true? A year of a grocer, lived through twice.

    python -m benchmarks.verify_rehearsal [--size full] [--days 30] [--million]

An installation of its own gets the Complete Journey study up to the last days, and its
database is copied. The one then gets these days as well, and two campaigns are
rehearsed over them. In the other, which knows nothing of those days, the campaigns are
published when they begin, and the days are lived through: each receipt is recorded in
the second in which it was paid, by the code that records what comes in, and dispatch,
broadcasts, engine and sender work on it at once, by a clock that is turned. Messages go
to the outbox. Then all rows are compared: who entered with which event, who was turned
away, every step and way, every message with its text. `--past 20` leaves out what is
longer ago, for a quick run.

Prints the numbers of both, how long the rehearsals took and what they held in memory;
exit code 1 when anything differs. `--million` rehearses a campaign that answers every
line of every receipt of the year as well, only to measure it; `--times 7` as if each
had been bought seven times, ten million in all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks.installation import PROJECT, PYTHON, installation
from smartcomm.embedded import database_url

if TYPE_CHECKING:
    from smartcomm.site.demo.study import Study

PURCHASED, PAID, IN_STOCK = "Product purchased", "Order paid", "Product in stock"


def bought(days: int) -> dict[str, Any]:
    """Bought the product of the event in the last days."""
    return {
        "event": PURCHASED,
        "where": [{"field": "product_id", "op": "=", "value": "$product_id"}],
        "period": {"last": days, "unit": "days"},
    }


def step(key: str, action: str, config: dict[str, Any], **ways: str | None) -> Any:
    return {"key": key, "action": action, "config": config, "next": ways}


def mail(key: str, subject: str, text: str, **ways: str | None) -> Any:
    config = {"subject": subject, "html": "", "text": text, "missing": "skip"}
    return step(key, "send_email", config, **ways)


CAMPAIGNS: dict[str, dict[str, Any]] = {
    "Back in stock": {
        "trigger": {"kind": "system_event", "event": IN_STOCK},
        "entry": {"rule": "every_event"},
        "start": "buyers",
        "steps": [
            step(
                "buyers",
                "filter_customers",
                {"rule": bought(90)},
                positive="mail",
                negative=None,
            ),
            mail(
                "mail",
                "{{ client.eventContext.product }} is back",
                "{{ client.firstName }}, you bought it: {{ client.eventContext.brand }}"
                " {{ client.eventContext.product }}, {{ client.eventContext.price }}.",
                sent=None,
            ),
        ],
    },
    "After an order": {
        "trigger": {
            "kind": "event",
            "event": PAID,
            "where": [{"field": "amount", "op": ">=", "value": 20}],
        },
        "entry": {"rule": "interval", "days": 7},
        "start": "no_coupon",
        "steps": [
            step(
                "no_coupon",
                "filter_customers",
                {
                    "rule": {
                        "all": [
                            {
                                "not": {
                                    "event": "Coupon redeemed",
                                    "period": {"last": 14, "unit": "days"},
                                }
                            },
                            {
                                "event": PAID,
                                "period": {"last": 30, "unit": "days"},
                                "count": {"op": ">=", "value": 2},
                            },
                        ]
                    }
                },
                positive="split",
                negative="push",
            ),
            step(
                "split",
                "ab_split",
                {
                    "shares": [
                        {"name": "mail", "percent": 60},
                        {"name": "wait", "percent": 40},
                    ]
                },
                mail="mail",
                wait="rest",
            ),
            # A receipt of a single line has no second product.
            mail(
                "mail",
                "Thank you, {{ client.firstName }}",
                "{{ client.eventContext.products[0].name }} and "
                "{{ client.eventContext.products[1].name }}: "
                "{{ client.eventContext.amount }} in all.",
                sent="rest",
            ),
            step("rest", "wait", {"for": 2, "unit": "days"}, done="still_away"),
            step(
                "still_away",
                "filter_customers",
                {
                    "rule": {
                        "not": {
                            "event": PAID,
                            "period": {"last": 40, "unit": "hours"},
                        }
                    }
                },
                positive="sms",
                negative="again",
            ),
            step(
                "again",
                "wait_for_event",
                {
                    "event": PAID,
                    "where": [
                        {"field": "store_id", "op": "=", "value": "$store_id"},
                        {"field": "amount", "op": ">", "value": "$amount"},
                    ],
                    "for": 3,
                    "unit": "days",
                },
                happened="sms",
                timed_out=None,
            ),
            step(
                "sms",
                "send_sms",
                {"text": "{{ client.firstName }}, see you soon.", "missing": "skip"},
                sent=None,
            ),
            step(
                "push",
                "send_push",
                {
                    "title": "Thank you",
                    "text": "For {{ client.eventContext.items }} things.",
                    "missing": "skip",
                },
                sent=None,
            ),
        ],
    },
}
MILLION: dict[str, Any] = {
    "trigger": {"kind": "event", "event": PURCHASED},
    "entry": {"rule": "interval", "days": 7},
    "start": "often",
    "steps": [
        step(
            "often",
            "filter_customers",
            {
                "rule": {
                    "event": PURCHASED,
                    "where": [{"field": "category", "op": "=", "value": "$category"}],
                    "period": {"last": 30, "unit": "days"},
                    "count": {"op": ">=", "value": 3},
                }
            },
            positive="mail",
            negative=None,
        ),
        mail("mail", "{{ client.eventContext.product }}", "Again?", sent=None),
    ],
}

EVER = datetime(1970, 1, 1, tzinfo=UTC)
#: The database in which the days are lived through.
COPY = "lived_through"
#: A product is back on each day at this hour, another one each day.
BACK_AT = 10
#: Kept apart from each other, in this order: who, with which event, and how far.
ROWS = {
    "runs": """
        SELECT customer.external_id, coalesce(own.external_id, system.external_id),
               run.status, step.key, run.reason, run.started_at
          FROM campaigns_run AS run
          JOIN customers_customer AS customer ON customer.id = run.customer_id
          JOIN campaigns_step AS step ON step.id = run.step_id
          LEFT JOIN events_event AS own ON own.id = run.event_id
          LEFT JOIN events_systemevent AS system ON system.id = run.system_event_id
         WHERE run.campaign_id = %s
    """,
    "ways": """
        SELECT customer.external_id, coalesce(own.external_id, system.external_id),
               step.key, passage.way, passage.reason, passage.left_at
          FROM campaigns_passage AS passage
          JOIN campaigns_run AS run ON run.id = passage.run_id
          JOIN customers_customer AS customer ON customer.id = run.customer_id
          JOIN campaigns_step AS step ON step.id = passage.step_id
          LEFT JOIN events_event AS own ON own.id = run.event_id
          LEFT JOIN events_systemevent AS system ON system.id = run.system_event_id
         WHERE run.campaign_id = %s
    """,
    "messages": """
        SELECT customer.external_id, coalesce(own.external_id, system.external_id),
               step, channel, status, message.reason, detail, address, subject, body,
               coalesce(sent_at, message.created_at)
          FROM messaging_message AS message
          JOIN customers_customer AS customer ON customer.id = message.customer_id
          LEFT JOIN events_event AS own ON own.id = message.event_id
          LEFT JOIN events_systemevent AS system ON system.id = message.system_event_id
         WHERE message.campaign_id = %s
    """,
    "turned away": """
        SELECT customer.external_id, coalesce(own.external_id, system.external_id), at
          FROM campaigns_turnedaway AS away
          JOIN customers_customer AS customer ON customer.id = away.customer_id
          LEFT JOIN events_event AS own ON own.id = away.event_id
          LEFT JOIN events_systemevent AS system ON system.id = away.system_event_id
         WHERE away.campaign_id = %s
    """,
}
COPIES = """
    INSERT INTO events_event (customer_id, type_id, source_id, external_id, occurred_at,
                              received_at, context, is_backfill)
    SELECT customer_id, type_id, source_id, external_id || '-' || copy,
           occurred_at + copy * interval '7 seconds', received_at, context, is_backfill
      FROM events_event CROSS JOIN generate_series(1, %s) AS copy
     WHERE type_id = (SELECT id FROM events_eventtype WHERE name = %s)
"""
STAGE_MIB = """
    SELECT coalesce(sum(pg_total_relation_size(oid)), 0) / 1024 / 1024 FROM pg_class
     WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["small", "full"], default="full")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--past", type=int, default=400)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--now", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        import django

        django.setup()
        told = PARTS[options.part](options)
        options.into.write_text(json.dumps(told, default=str))
        return 0
    options.now = datetime.now().astimezone().isoformat()
    with installation(), tempfile.TemporaryDirectory() as folder:
        told = {part: Path(folder) / part for part in PARTS}

        def start(part: str, database: str = "") -> subprocess.Popen[bytes]:
            return start_part(part, options, into=told[part], database=database)

        wait_for(start("past"))
        copy_database()
        wait_for(start("days"))
        # Side by side: neither knows of the other.
        wait_for(start("foretold"), start("happened", COPY))
        foretold, happened = (
            json.loads(told[part].read_text()) for part in ("foretold", "happened")
        )
    return compare(foretold, happened)


def start_part(
    part: str, options: argparse.Namespace, *, into: Path, database: str
) -> subprocess.Popen[bytes]:
    """One part in a process of its own, so that its memory is its own."""
    environment = dict(os.environ)
    if database:
        base, _, _ = database_url().rpartition("/")
        environment["DATABASE_URL"] = f"{base}/{database}"
    return subprocess.Popen(
        [
            *(*PYTHON, "-m", "benchmarks.verify_rehearsal"),
            *("--part", part, "--into", str(into)),
            *("--size", options.size, "--days", str(options.days)),
            *("--past", str(options.past), "--now", options.now),
            *(["--million"] if options.million else []),
            *("--times", str(options.times)),
        ],
        cwd=PROJECT,
        env=environment,
    )


def wait_for(*parts: subprocess.Popen[bytes]) -> None:
    codes = [part.wait() for part in parts]
    if any(codes):
        raise SystemExit(2)


def copy_database() -> None:
    """As it is now, under another name. Nobody may be connected to it."""
    base, _, name = database_url().rpartition("/")
    with psycopg.connect(f"{base}/postgres", autocommit=True) as server:
        server.execute(f"CREATE DATABASE {COPY} TEMPLATE {name}")


# What is known of the year


class Year:
    """The study, moved so that its last day is yesterday, and the days in question."""

    def __init__(self, options: argparse.Namespace) -> None:
        from django.utils import timezone

        from smartcomm.site.demo import load

        self.now = datetime.fromisoformat(options.now)
        self.source = load.demo_source()
        self.calendar = load.remember_calendar(
            self.source, size=options.size, now=self.now
        )
        self.size = options.size
        # The project's midnight after the last day.
        self.end = timezone.localtime(self.now).replace(
            hour=0, minute=0, second=0, microsecond=0
        )
        self.begin = self.end - timedelta(days=options.days)
        first_day = (self.begin - timedelta(days=options.past)).date()
        if self.calendar.first_day is None or self.calendar.first_day < first_day:
            self.calendar = replace(self.calendar, first_day=first_day)

    @cached_property
    def study(self) -> Study:
        from smartcomm.site.demo import load

        return load.open_study(size=self.size)

    def load_customers(self) -> None:
        from customers.upsert import upsert_customers
        from smartcomm.core.db import batches
        from smartcomm.site.demo import load

        load._declare_attributes()
        for people in batches(load._customers(self.study, self.calendar), load.BATCH):
            upsert_customers(people, origin=load.SOURCE, now=self.now)

    def load_events(self, *, after: datetime, upto: datetime) -> int:
        """What occurred in that time, as a load brings it. Returns how many."""
        from events.models import Kind
        from smartcomm.core.db import batches
        from smartcomm.site.demo import load

        count = 0
        for kind, items in (
            (Kind.SYSTEM, self.system()),
            (Kind.CUSTOMER, self.own(after=after)),
        ):
            wanted = (item for item in items if after < moment(item) <= upto)
            for batch in batches(wanted, load.BATCH):
                load.record(batch, source=self.source, kind=kind)
                count += len(batch)
        load._analyze()
        return count

    def own(self, *, after: datetime) -> Iterator[dict[str, Any]]:
        """Events of customers, none from before that day."""
        from smartcomm.site.demo import journey

        first_day = max(after.date(), self.calendar.first_day or after.date())
        since = replace(self.calendar, first_day=first_day)
        return journey.events(self.study, since)

    def system(self) -> Iterator[dict[str, Any]]:
        """The notices of the demo, and a product that is back on each day."""
        from smartcomm.site.demo import journey

        yield from journey.system_events(self.study, self.calendar)
        often = self._bought_most(60)
        day = self.begin
        while day < self.end:
            number = often[day.toordinal() % len(often)]
            yield {
                "id": f"back-{day:%Y-%m-%d}",
                "name": IN_STOCK,
                "occurred_at": day.replace(hour=BACK_AT, minute=day.day).isoformat(),
                "context": {
                    **journey.product_context(self.study.products[number]),
                    # Some do not tell what it costs.
                    **({"price": 0.99 + day.day} if day.day % 4 else {}),
                },
                "backfill": True,
            }
            day += timedelta(days=1)

    def _bought_most(self, number: int) -> list[int]:
        counts: Counter[int] = Counter()
        _, last_day = self.calendar.study_days
        for week in self.study.weeks(since=last_day - timedelta(weeks=8)):
            counts.update(week.lines.product)
        listed = (one for one, _ in counts.most_common() if one in self.study.products)
        return [one for one, _ in zip(listed, range(number), strict=False)]


def moment(item: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(item["occurred_at"])


def past(options: argparse.Namespace) -> None:
    """What both databases know: everybody, and what occurred before the days."""
    year, began = Year(options), time.monotonic()
    year.load_customers()
    say(
        f"{year.load_events(after=EVER, upto=year.begin):,} events before the days "
        f"loaded in {time.monotonic() - began:,.0f} s"
    )


def days(options: argparse.Namespace) -> None:
    year, began = Year(options), time.monotonic()
    say(
        f"{year.load_events(after=year.begin, upto=year.end):,} events of the days "
        f"loaded in {time.monotonic() - began:,.0f} s"
    )


def say(line: str) -> None:
    print(line, flush=True)


# Foretold


def foretell(options: argparse.Namespace) -> dict[str, Any]:
    """Rehearse, as a worker does that has done nothing else."""
    year = Year(options)
    drawings = CAMPAIGNS | ({"Every line": MILLION} if options.million else {})
    found: dict[str, Any] = {}
    for name, drawing in drawings.items():
        is_measured_only = name not in CAMPAIGNS
        begin = year.end - timedelta(days=364) if is_measured_only else year.begin
        if is_measured_only and options.times > 1:
            multiply(options.times)
        told = rehearse(name, drawing, begin=begin, end=year.end)
        minutes = told["tick_minutes"]
        say(
            f"“{name}” rehearsed over {(year.end - begin).days} days, "
            f"{told['outcome']['events']:,} events, in {told['ticks']:,} ticks of "
            f"{f'{minutes} minutes' if minutes else 'a moment'}: "
            f"{told['seconds']:,.0f} s; memory of the process "
            f"{told['peak_mib']:,.0f} MiB, {told['memory_mib']:,.0f} of it for this; "
            f"temporary tables {told['stage_mib']:,.0f} MiB"
        )
        if not is_measured_only:
            found[name] = told
    return found


def multiply(times: int) -> None:
    """Every line of every receipt so often, some seconds apart."""
    from smartcomm.core.db import execute
    from smartcomm.site.demo import load

    began = time.monotonic()
    execute(COPIES, [times - 1, PURCHASED])
    load._analyze()
    say(f"lines of receipts {times} times after {time.monotonic() - began:,.0f} s")


def rehearse(
    name: str, drawing: dict[str, Any], *, begin: datetime, end: datetime
) -> dict[str, Any]:
    """As a worker does it, and then all rows that came of it."""
    from campaigns.drawing import save_draft
    from campaigns.models import Campaign
    from campaigns.rehearsal import orders
    from campaigns.rehearsal.stage import own_connection
    from smartcomm.core import doorbell
    from smartcomm.core.db import fetch_all

    campaign = Campaign.objects.create(name=name)
    save_draft(campaign, drawing)
    version = campaign.versions.get()
    found: dict[str, Any] = {}
    ticks: list[float] = []

    def work() -> None:
        with own_connection(), doorbell.muted():
            began, before = time.monotonic(), peak_mib()
            result = orders.rehearse(version, begin=begin, end=end, tell=ticks.append)
            found.update(
                outcome=result,
                seconds=time.monotonic() - began,
                memory_mib=peak_mib() - before,
                peak_mib=peak_mib(),
                ticks=len(ticks),
                tick_minutes=result["tick_minutes"],
                stage_mib=float(fetch_all(STAGE_MIB)[0][0]),
                rows=rows_of(campaign.pk),
            )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rows_of(campaign: int) -> dict[str, list[Any]]:
    from smartcomm.core.db import fetch_all

    return {what: fetch_all(query, [campaign]) for what, query in ROWS.items()}


# Lived through


def live(options: argparse.Namespace) -> dict[str, Any]:
    from campaigns.drawing import save_draft
    from campaigns.models import Campaign, Version
    from campaigns.publish import publish
    from campaigns.rehearsal.replay import next_due, work_until_quiet
    from events.models import Event, Kind, PendingEvent
    from smartcomm.core import doorbell
    from smartcomm.site.demo import load

    year = Year(options)
    for name, drawing in CAMPAIGNS.items():
        campaign = Campaign.objects.create(name=name)
        save_draft(campaign, drawing)
        publish(campaign)
    # They went live when the days began.
    Version.objects.update(published_at=year.begin)
    assert not PendingEvent.objects.exists()
    say(f"{Event.objects.count():,} events are known when the days begin")

    items = [
        (moment(item), kind, {**item, "backfill": False})
        for kind, some in (
            (Kind.SYSTEM, year.system()),
            (Kind.CUSTOMER, year.own(after=year.begin)),
        )
        for item in some
        if year.begin < moment(item) <= year.end
    ]
    items.sort(key=itemgetter(0))
    began = time.monotonic()
    with doorbell.muted():
        for at, group in groupby(items, key=itemgetter(0)):
            # What is due before it is done when it is due.
            while (due := next_due()) is not None and due <= at:
                work_until_quiet(due, is_rehearsal=False)
            some = list(group)
            for kind in (Kind.SYSTEM, Kind.CUSTOMER):
                mine = [item for _, one, item in some if one == kind]
                if mine:
                    load.record(mine, source=year.source, kind=kind, now=at)
            work_until_quiet(at, is_rehearsal=False)
        while (due := next_due()) is not None and due <= year.end:
            work_until_quiet(due, is_rehearsal=False)
    say(f"{len(items):,} events lived through in {time.monotonic() - began:,.0f} s")
    return {
        one.name: {"rows": rows_of(one.pk)} for one in Campaign.objects.order_by("pk")
    }


PARTS = {"past": past, "days": days, "foretold": foretell, "happened": live}


# Compared


def compare(foretold: dict[str, Any], happened: dict[str, Any]) -> int:
    differences = 0
    for name in CAMPAIGNS:
        ours, theirs = foretold[name]["rows"], happened[name]["rows"]
        print(f"\n{name:<60} {'foretold':>9} {'happened':>9}")
        tables = [numbers(ours), numbers(theirs)]
        for what in sorted({*tables[0], *tables[1]}):
            pair = [table[what] for table in tables]
            differences += pair[0] != pair[1]
            mark = "" if pair[0] == pair[1] else "  DIFFERENT"
            print(f"{what:<60} {pair[0]:>9,} {pair[1]:>9,}{mark}")
        told = foretold[name]["outcome"]
        differences += agrees_with(told, ours)
        for what in ROWS:
            differences += compare_rows(what, ours[what], theirs[what])
    print(f"\n{differences} differences" if differences else "\nall is equal")
    return 1 if differences else 0


def numbers(rows: dict[str, list[Any]]) -> Counter[str]:
    """What a marketer is told: the same is counted on both sides."""
    found: Counter[str] = Counter()
    found["runs"] = len(rows["runs"])
    found["turned away by the entry rule"] = len(rows["turned away"])
    for row in rows["runs"]:
        found[f"runs that are {row[2]}"] += 1
        found[f"runs begun on {row[-1][:10]}"] += 1
    for row in rows["ways"]:
        found[f"step {row[2]}: {row[3]}"] += 1
    for row in rows["messages"]:
        _, _, _, channel, status, reason, detail, *_, at = row
        why = f", {reason}" if reason else ""
        found[f"{channel}: {status}{why}"] += 1
        if reason == "missing_variable":
            found[f"{channel}: {detail}"] += 1
        if status == "sent":
            found[f"{channel} sent on {at[:10]}"] += 1
    return found


def agrees_with(outcome: dict[str, Any], rows: dict[str, list[Any]]) -> int:
    """What the page of the rehearsal shows, against the rows. How many differ."""
    report = outcome["report"]
    sent = sum(row[4] == "sent" for row in rows["messages"])
    pairs = [
        (report["entered"], len(rows["runs"])),
        (report["messages"]["queued"], len(rows["messages"])),
        (report["messages"]["sent"], sent),
        (sum(one["count"] for one in outcome["messages_by_day"]), sent),
        (outcome["turned_away"], len(rows["turned away"])),
        (sum(outcome["runs_by_day"].values()), len(rows["runs"])),
        (sum(sum(one["out"].values()) for one in report["steps"]), len(rows["ways"])),
    ]
    return sum(shown != counted for shown, counted in pairs)


def compare_rows(what: str, ours: list[Any], theirs: list[Any]) -> int:
    """Row by row, times aside. How many are on one side only."""
    mine = Counter(tuple(row[:-1]) for row in ours)
    other = Counter(tuple(row[:-1]) for row in theirs)
    only = (mine - other).total() + (other - mine).total()
    same = (mine & other).total()
    print(
        f"{what}, row by row: {same:,} the same, {only} on one side only; times differ "
        f"by {largest(ours, theirs):,.0f} s at most"
    )
    for row in [*list(mine - other)[:3], *list(other - mine)[:3]]:
        print(f"    only {'foretold' if row in mine else 'happened'}: {row}")
    return only


def largest(ours: Iterable[Any], theirs: Iterable[Any]) -> float:
    """The largest difference of times between rows that are otherwise the same."""
    at = {tuple(row[:-1]): datetime.fromisoformat(row[-1]) for row in theirs}
    return max(
        (
            abs((datetime.fromisoformat(row[-1]) - at[key]).total_seconds())
            for row in ours
            if (key := tuple(row[:-1])) in at
        ),
        default=0.0,
    )


if __name__ == "__main__":
    sys.exit(main())

"""A rehearsal says what would happen: held against what does happen."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, connections
from django.utils import timezone

from campaigns import dispatch, planned
from campaigns.actions import ACTIONS
from campaigns.models import Campaign, Passage, Rehearsal, Run, TurnedAway, Version
from campaigns.publish import publish
from campaigns.rehearsal import orders
from campaigns.rehearsal.replay import next_due, tick_for, work_until_quiet
from campaigns.rehearsal.stage import own_connection
from campaigns.report import report
from customers.models import Customer
from events.ingest import record_events
from events.models import (
    Event,
    EventField,
    EventType,
    Kind,
    PendingEvent,
    Source,
    SystemEvent,
)
from messaging.models import Content, Message
from smartcomm.core import stopping
from smartcomm.core.errors import Conflict, Invalid
from tests import make

pytestmark = pytest.mark.django_db(transaction=True)

END = timezone.now().replace(second=0, microsecond=0)
DAYS = 4
BEGIN = END - timedelta(days=DAYS)


def rehearsed(version: Version, **how: Any) -> dict[str, Any]:
    """The result of a rehearsal, made as a worker makes it: in a thread of its own."""
    found: dict[str, Any] = {}

    def work() -> None:
        with own_connection():
            found["result"] = orders.rehearse(version, begin=BEGIN, end=END, **how)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found["result"]


def history(seed: int) -> list[dict[str, Any]]:
    """Items of events over more days than are rehearsed, in their order."""
    chance = random.Random(seed)
    items = []
    for number in range(250):
        at = BEGIN + timedelta(
            minutes=chance.randint(-3 * 24 * 60, DAYS * 24 * 60 - 1),
            seconds=chance.randint(0, 59),
        )
        name = chance.choice(["Product viewed", "Product viewed", "Order paid"])
        context: dict[str, Any] = {"product_id": chance.randint(1, 4)}
        if chance.random() < 0.8:
            context["name"] = chance.choice(["Bag", "Shoe"])
        items.append(
            {
                "id": f"h-{number}",
                "name": name,
                "customer": f"C-{chance.randint(1, 12)}",
                "occurred_at": at.isoformat(),
                "context": context,
            }
        )
    for number in range(4):
        at = BEGIN + timedelta(minutes=chance.randint(1, DAYS * 24 * 60 - 1))
        items.append(
            {
                "id": f"s-{number}",
                "name": "Product in stock",
                "occurred_at": at.isoformat(),
                "context": {"product_id": number + 1, "name": "Bag"},
            }
        )
    return sorted(items, key=lambda item: item["occurred_at"])


def record(items: list[dict[str, Any]], *, now: Any) -> None:
    for kind in (Kind.CUSTOMER, Kind.SYSTEM):
        some = [
            item for item in items if ("customer" in item) is (kind == Kind.CUSTOMER)
        ]
        if some:
            recorded = record_events(some, source=make.source(), kind=kind, now=now)
            assert recorded.accepted == len(some), recorded


def customers() -> None:
    for number in range(1, 13):
        if number % 3:
            make.reachable(f"C-{number}", first_name=f"Name {number}")
        else:
            make.customer(f"C-{number}")


FOLLOW_UP = [
    make.step(
        "regulars",
        "filter_customers",
        {
            "rule": {
                "all": [
                    {
                        "event": "Product viewed",
                        "count": {"op": ">=", "value": 2},
                        "period": {"last": 3, "unit": "days"},
                    },
                    {
                        "not": {
                            "event": "Order paid",
                            "count": {"op": ">=", "value": 4},
                            "period": {"last": 3, "unit": "days"},
                        }
                    },
                ]
            }
        },
        positive="split",
        negative="again",
    ),
    make.step(
        "split",
        "ab_split",
        {"shares": [{"name": "A", "percent": 50}, {"name": "B", "percent": 50}]},
        A="mail",
        B="rest",
    ),
    make.step("rest", "wait", {"for": 7, "unit": "hours"}, done="mail"),
    make.step(
        "again",
        "wait_for_event",
        {
            "event": "Order paid",
            "where": [{"field": "product_id", "op": "=", "value": "$product_id"}],
            "for": 2,
            "unit": "days",
        },
        happened="mail",
        timed_out=None,
    ),
    make.step(
        "mail",
        "send_email",
        {
            "subject": "{{ client.eventContext.name }}",
            "html": "",
            "text": "Thank you, {{ client.firstName }}",
        },
        sent="few",
    ),
    make.step("few", "limit_participants", {"limit": 9, "per": "day"}, within="tell"),
    make.step("tell", "record_event", {"event": "Thanked"}),
]
IN_STOCK = [
    make.step(
        "viewers",
        "filter_customers",
        {
            "rule": {
                "event": "Product viewed",
                "period": {"last": 2, "unit": "days"},
                "where": [{"field": "product_id", "op": "=", "value": "$product_id"}],
            }
        },
        positive="sms",
        negative=None,
    ),
    make.step(
        "sms", "send_sms", {"text": "{{ client.eventContext.name }} is back"}, sent=None
    ),
]


def came_of_it() -> dict[str, Any]:
    """What really happened, as far as a rehearsal tells it."""
    campaign = Campaign.objects.get()
    [numbers] = report(campaign)["versions"]
    for real in ("published_at", "goals"):
        numbers.pop(real)
    sent = Message.objects.filter(sent_at__isnull=False)
    return {
        "report": numbers,
        "turned_away": TurnedAway.objects.count(),
        "runs_by_day": dict(
            Counter(
                str(timezone.localdate(at))
                for at in Run.objects.values_list("started_at", flat=True)
            )
        ),
        "sent": sorted(
            sent.values_list("customer__external_id", "step", "sent_at", "body")
        ),
    }


def replay_live(draft: Campaign, items: list[dict[str, Any]]) -> None:
    """The same days again in a database that knows nothing of them yet: recorded as
    they come, and worked on by what always works on them."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE events_event, events_pendingevent CASCADE")
        cursor.execute("TRUNCATE events_systemevent, events_pendingsystemevent CASCADE")
    record([one for one in items if one["occurred_at"] <= BEGIN.isoformat()], now=BEGIN)
    publish(draft)
    Version.objects.update(published_at=BEGIN)
    PendingEvent.objects.all().delete()
    for item in items:
        at = datetime.fromisoformat(item["occurred_at"])
        if BEGIN < at <= END:
            work_until(at)
            record([item], now=at)
            work_until_quiet(at, is_rehearsal=False)
    work_until(END)


def work_until(until: datetime) -> None:
    """What is due before is done when it is due."""
    while (due := next_due()) is not None and due <= until:
        work_until_quiet(due, is_rehearsal=False)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("steps", "drawing"),
    [
        (FOLLOW_UP, {"on": "Order paid"}),
        (
            FOLLOW_UP,
            {"on": "Order paid", "entry": {"rule": "interval", "days": 2}},
        ),
        (IN_STOCK, {"on": "Product in stock", "system": True}),
        (
            IN_STOCK,
            {
                "on": "Product in stock",
                "system": True,
                "pace": {"limit": 1, "per": "hour", "first": "longest_interest"},
                "entry": {"rule": "interval", "days": 1},
            },
        ),
    ],
    ids=["follow-up", "with an entry rule", "in stock", "in portions"],
)
def test_what_is_foretold_comes_true(steps, drawing, seed, monkeypatch):
    monkeypatch.setattr("campaigns.rehearsal.replay.TIDY_EVERY", 20)
    customers()
    items = history(seed)
    record(items, now=END)
    draft = make.draft(*steps, **drawing)

    foretold = rehearsed(draft.versions.get())
    replay_live(draft, items)
    true = came_of_it()

    assert foretold["report"] == true["report"]
    assert foretold["turned_away"] == true["turned_away"]
    assert foretold["report"]["messages"]["sent"] == len(true["sent"]) > 0
    samples = {
        (one["customer"], one["step"], one["sent_at"], one["body"])
        for one in foretold["samples"]
    }
    assert samples <= {
        (who, step, at.isoformat(), body) for who, step, at, body in true["sent"]
    }
    assert foretold["runs_by_day"] == true["runs_by_day"]
    assert sum(one["count"] for one in foretold["messages_by_day"]) == len(true["sent"])


@pytest.fixture
def many(monkeypatch) -> None:
    """As with more events than the clock stops at one by one."""
    monkeypatch.setattr("campaigns.rehearsal.replay.EXACT_EVENTS", -1)


@pytest.mark.usefixtures("many")
def test_portions_come_at_their_time_however_long_a_tick_is(monkeypatch):
    monkeypatch.setattr("campaigns.rehearsal.replay.FINEST", timedelta(hours=1))
    customers()
    item = {"name": "Product viewed", "context": {"product_id": 1}}
    viewed = [
        {
            **item,
            "id": f"v-{number}",
            "customer": f"C-{number}",
            "occurred_at": (END - timedelta(hours=20)).isoformat(),
        }
        for number in range(1, 9)
    ]
    at = (END - timedelta(hours=2)).isoformat()
    stock = {"id": "s", "name": "Product in stock", "context": {"product_id": 1}}
    record([*viewed, {**stock, "occurred_at": at}], now=END)
    pace = {"limit": 1, "per": "minute"}
    draft = make.draft(*IN_STOCK, on="Product in stock", system=True, pace=pace)

    result = rehearsed(draft.versions.get())

    assert (result["report"]["entered"], result["left"]) == (8, 0)
    slowly = draft.versions.get()
    slowly.pace = {"limit": 3, "per": "day"}
    slowly.save()
    result = rehearsed(slowly)
    assert (result["report"]["entered"], result["left"]) == (3, 5)


@pytest.mark.usefixtures("many")
def test_what_occurred_first_lets_a_customer_in_whenever_it_was_recorded():
    make.reachable("C-1")
    for name, seconds in (("late", 40), ("early", 10)):
        at = BEGIN + timedelta(hours=1, seconds=seconds)
        record(
            [
                {
                    "id": name,
                    "name": "Order paid",
                    "customer": "C-1",
                    "occurred_at": at.isoformat(),
                }
            ],
            now=END,
        )
    draft = make.draft(on="Order paid", entry={"rule": "once"})

    result = rehearsed(draft.versions.get())

    assert [one["event_id"] for one in result["samples"]] == ["early"]
    assert result["turned_away"] == 1


def paid(*seconds: int) -> None:
    """An order each, so many seconds after the first hour."""
    for number, second in enumerate(seconds):
        make.reachable(f"C-{number}")
        at = BEGIN + timedelta(hours=1, seconds=second)
        record(
            [
                {
                    "id": f"o-{number}",
                    "name": "Order paid",
                    "customer": f"C-{number}",
                    "occurred_at": at.isoformat(),
                }
            ],
            now=END,
        )


def sent_after(result: dict[str, Any]) -> list[float]:
    """Seconds after the first hour."""
    return sorted(
        (
            datetime.fromisoformat(one["sent_at"]) - BEGIN - timedelta(hours=1)
        ).total_seconds()
        for one in result["samples"]
    )


@pytest.mark.usefixtures("many")
def test_of_many_what_is_alone_in_its_tick_happens_at_its_very_second():
    paid(10, 130, 150)
    draft = make.draft(on="Order paid")

    result = rehearsed(draft.versions.get())

    assert sent_after(result) == [10, 150, 150]
    assert result["tick_minutes"] == 1


def test_each_of_a_few_happens_at_its_very_second():
    paid(10, 20, 20, 45)
    draft = make.draft(
        make.step("rest", "wait", {"for": 1, "unit": "minutes"}, done="sms"),
        make.sms(),
        on="Order paid",
    )

    result = rehearsed(draft.versions.get())

    assert sent_after(result) == [70, 80, 80, 105]
    assert result["tick_minutes"] == 0


def test_where_too_many_moments_come_of_a_few_events_ticks_become_long(monkeypatch):
    monkeypatch.setattr("campaigns.rehearsal.replay.MOST_STOPS", 2)
    paid(10, 20, 30, 40)
    draft = make.draft(on="Order paid")

    result = rehearsed(draft.versions.get())

    assert sent_after(result) == [10, 20, 40, 40]
    assert result["tick_minutes"] == 1


@pytest.mark.parametrize("system", [True, False], ids=["system", "own"])
def test_what_publishing_would_declare_is_declared_on_the_stage(system):
    customers()
    name = "Product in stock" if system else "Order paid"
    at = (END - timedelta(hours=2)).isoformat()
    item = {"id": "i", "name": name, "occurred_at": at}
    record([item if system else {**item, "customer": "C-1"}], now=END)
    never = {"not": {"event": "Bag returned"}}
    wait = {"event": "Bag returned", "for": 1, "unit": "hours"}
    draft = make.draft(
        make.step("who", "filter_customers", {"rule": never}, positive="wait"),
        make.step("wait", "wait_for_event", wait, happened=None, timed_out="sms"),
        make.sms(),
        on=name,
        system=system,
    )
    before = everything()

    result = rehearsed(draft.versions.get())

    entered = Customer.objects.count() if system else 1
    numbers = result["report"]
    assert (numbers["entered"], numbers["messages"]["queued"]) == (entered, entered)
    assert result["failed"] == []
    assert everything() == before


def test_events_that_are_waited_for_count_as_well(monkeypatch):
    monkeypatch.setattr("campaigns.rehearsal.replay.EXACT_EVENTS", 2)
    paid(10)
    make.reachable("C-1")
    for number in range(2):
        at = BEGIN + timedelta(hours=1, seconds=20 + number)
        viewed = {
            "id": f"v-{number}",
            "name": "Product viewed",
            "customer": "C-1",
            "occurred_at": at.isoformat(),
        }
        record([viewed], now=END)
    wait = {"event": "Product viewed", "for": 1, "unit": "hours"}
    draft = make.draft(
        make.step("wait", "wait_for_event", wait, happened="sms", timed_out="sms"),
        make.sms(),
        on="Order paid",
    )

    assert rehearsed(draft.versions.get())["tick_minutes"] == 1
    monkeypatch.setattr("campaigns.rehearsal.replay.EXACT_EVENTS", 3)
    assert rehearsed(draft.versions.get())["tick_minutes"] == 0


def test_what_nobody_takes_on_keeps_no_clock_standing(monkeypatch):
    monkeypatch.setattr("campaigns.rehearsal.replay.advance_runs", lambda **how: 0)
    paid(10, 20)
    told: list[float] = []

    def tell(progress: float) -> None:
        told.append(progress)
        assert len(told) < 50, "The clock stands."

    result = rehearsed(make.draft(on="Order paid").versions.get(), tell=tell)

    assert result["report"]["waiting"] == 2


def test_an_event_that_was_put_back_is_looked_at_again_in_time(monkeypatch):
    real, calls = dispatch.matching, itertools.count()

    def once(*args: Any, **how: Any) -> set[int]:
        if next(calls) == 0:
            raise RuntimeError("broken")
        return real(*args, **how)

    monkeypatch.setattr(dispatch, "matching", once)
    paid(10, 400)

    result = rehearsed(make.draft(on="Order paid").versions.get())

    assert sent_after(result) == [70, 400]


def test_within_a_stop_that_takes_long_it_is_stopped_as_well(monkeypatch):
    monkeypatch.setattr("campaigns.rehearsal.replay.AT_ONCE", 2)
    for number in range(20):
        make.reachable(f"C-{number}")
    at = (END - timedelta(hours=2)).isoformat()
    record([{"id": "i", "name": "In stock", "occurred_at": at}], now=END)
    told: list[float] = []

    rehearsed(make.draft(on="In stock", system=True).versions.get(), tell=told.append)

    assert len(told) > 10


def test_a_worker_that_is_asked_to_end_gives_a_rehearsal_back():
    paid(10)
    draft = make.draft(on="Order paid")
    order = orders.ask(draft.versions.get(), days=DAYS, until=END)

    def work() -> None:
        try:
            orders.rehearse_next()
        finally:
            connections.close_all()

    stopping._asked.set()
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(30)
        is_over = not thread.is_alive()
    finally:
        stopping._asked.clear()
        thread.join()
    assert is_over
    order.refresh_from_db()
    assert order.status == "waiting"


def test_planned_times_are_on_the_stage_only():
    make.reachable("C-1")
    for _ in range(5):
        make.system_event("Product in stock")
    daily = {"every": 1, "unit": "day"}
    draft = make.draft(
        make.sms(),
        starts={"kind": "schedule", "at": "2020-01-01T09:00", "repeat": daily},
    )
    before = everything()

    samples = rehearsed(draft.versions.get())["samples"]

    assert {one["event"] for one in samples} == {"schedule.reached"}
    # No link: there are real events with their numbers.
    assert {one["event_pk"] for one in samples} == {None}
    assert everything() == before


def everything() -> dict[str, Any]:
    """All rows of all that a rehearsal could touch."""
    return {
        model.__name__: list(model.objects.order_by("pk").values())
        for model in (
            *(Campaign, Version, Run, Passage, TurnedAway, Message, Content),
            *(
                Customer,
                Event,
                SystemEvent,
                PendingEvent,
                EventType,
                EventField,
                Source,
            ),
        )
    }


def test_nothing_is_written_and_nothing_sent():
    customers()
    record(history(1), now=END)
    draft = make.draft(*FOLLOW_UP, on="Order paid")
    before = everything()

    result = rehearsed(draft.versions.get())

    assert result["report"]["entered"] > 0
    assert everything() == before


def test_an_action_that_would_write_is_stopped_by_the_database(monkeypatch):
    customers()
    record(history(1), now=END)
    draft = make.draft(
        make.step("city", "set_attribute", {"attribute": "city", "value": "Rome"}),
        on="Order paid",
    )
    action = ACTIONS["set_attribute"]
    monkeypatch.setattr(action, "rehearse", action.execute, raising=False)
    before = everything()

    result = rehearsed(draft.versions.get())

    assert result["report"]["finished"] == 0
    assert everything() == before


def test_the_connection_is_thrown_away():
    draft = make.draft(on="Order paid")
    make.event(make.customer(), "Order paid")
    rehearsed(draft.versions.get())

    for _ in range(30):
        connections["default"].close()
        assert Campaign.objects.count() == 1
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('pg_temp.campaigns_run')")
            assert cursor.fetchone() == (None,)
            cursor.execute("SHOW transaction_read_only")
            assert cursor.fetchone() == ("off",)


def test_variables_that_are_missing_are_counted():
    customers()
    record(history(1), now=END)
    draft = make.draft(
        make.step(
            "sms", "send_sms", {"text": "{{ client.eventContext.name }}"}, sent=None
        ),
        on="Order paid",
    )
    result = rehearsed(draft.versions.get())
    [missing] = result["missing_variables"]
    assert "name" in missing["reason"]
    counts = result["report"]["messages"]
    assert missing["count"] == counts["suppressed"]["missing_variable"]


def test_an_event_that_nobody_has_sent_yet_starts_nothing():
    draft = make.draft(on="Never seen")
    result = rehearsed(draft.versions.get())
    assert (result["events"], result["report"]["entered"]) == (0, 0)


# Orders


def ordered(**more: Any) -> Rehearsal:
    customers()
    record(history(1), now=END)
    draft = make.draft(*FOLLOW_UP, on="Order paid")
    return orders.ask(draft.versions.get(), days=DAYS, until=END, **more)


def test_an_order_is_carried_out_and_keeps_its_result():
    order = ordered()
    assert orders.rehearse_next() == 1
    order.refresh_from_db()
    assert (order.status, order.progress, order.error) == ("done", 1, "")
    assert order.result["report"]["entered"] > 0
    assert orders.rehearse_next() == 0


def test_one_at_a_time():
    order = ordered()
    with pytest.raises(Conflict):
        orders.ask(order.version)
    orders.cancel(order)
    orders.ask(order.version)


def test_it_stops_when_it_is_cancelled(monkeypatch):
    order = ordered()
    monkeypatch.setattr(orders, "SECONDS", 0.01)

    def cancelled(self: Any, progress: float) -> None:
        orders_cancelled.append(progress)
        if len(orders_cancelled) == 1:
            Rehearsal.objects.filter(pk=order.pk)  # The real one is not seen here.
        tell(self, progress)

    orders_cancelled: list[float] = []
    tell = orders._Work._tell
    monkeypatch.setattr(orders._Work, "_tell", cancelled)
    real_told = orders._tell

    def told(one: Rehearsal, progress: float) -> bool:
        orders.cancel(one)
        return real_told(one, progress)

    monkeypatch.setattr(orders, "_tell", told)
    orders.rehearse_next()

    order.refresh_from_db()
    assert (order.status, order.result) == ("cancelled", None)
    assert len(orders_cancelled) < 200


def test_an_order_whose_worker_died_is_taken_up_again():
    order = ordered()
    Rehearsal.objects.filter(pk=order.pk).update(
        status="running", alive_at=timezone.now() - timedelta(minutes=5)
    )
    assert orders.rehearse_next() == 1
    order.refresh_from_db()
    assert order.status == "done"


def test_a_fault_is_told(monkeypatch):
    order = ordered()

    def fault(*args: Any, **more: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(orders, "replay", fault)
    orders.rehearse_next()
    order.refresh_from_db()
    assert (order.status, order.error) == ("failed", orders.FAULT)


def test_what_cannot_be_rehearsed_is_refused():
    draft = make.draft(on="Order paid")
    version = draft.versions.get()
    for days in (0, 366):
        with pytest.raises(Invalid):
            orders.ask(version, days=days)
    version.start = ""
    with pytest.raises(Invalid):
        orders.ask(version)


@pytest.mark.parametrize(
    ("days", "minutes"), [(1, 1), (4, 1), (5, 2), (30, 8), (365, 88)]
)
def test_ticks_are_whole_minutes_and_not_too_many(days, minutes):
    assert tick_for(timedelta(days=days)) == timedelta(minutes=minutes)


def test_planned_times_are_rehearsed_as_they_are_kept():
    """The days before, and then the same days again, live."""
    for number in range(8):
        day = (BEGIN + timedelta(days=number)).date()
        make.reachable(f"B-{number}", birth_date=day.replace(year=day.year - 30))
    campaign = make.draft(
        make.step("sms", "send_sms", {"text": "{{ client.eventContext.date }}"}),
        starts={
            "kind": "date",
            "attribute": "birth_date",
            "days": -1,
            "yearly": True,
            "at": "09:00",
        },
    )
    version = campaign.versions.get()
    told = rehearsed(version)

    assert not SystemEvent.objects.exists()
    assert not Run.objects.exists()
    assert told["events"] == DAYS
    assert told["report"]["entered"] == DAYS
    assert sum(told["runs_by_day"].values()) == DAYS
    assert {one["event"] for one in told["samples"]} == {"date.reached"}

    publish(campaign)
    Version.objects.update(
        published_at=BEGIN, next_at=planned.next_times(version, 1, now=BEGIN)[0]
    )
    clock = BEGIN
    while clock < END:
        clock += timedelta(minutes=10)
        work_until_quiet(clock, is_rehearsal=False)
    [live] = report(campaign)["versions"]
    for numbers in (live, told["report"]):
        for real in ("published_at", "goals", "status"):
            numbers.pop(real, None)
    assert live == told["report"]


def test_a_planned_time_with_a_pace_is_rehearsed():
    """Four days; each is for five who take two days, at two a day and three at most."""
    for number in range(5):
        make.reachable(f"B-{number}", city="Paris")
    for number in range(3):
        make.reachable(f"R-{number}", city="Rome")
    draft = make.draft(
        make.sms(),
        starts={
            "kind": "schedule",
            "at": "2020-01-01T09:00",
            "repeat": {"every": 1, "unit": "day"},
            "segment": make.segment(
                rule={"attribute": "city", "op": "=", "value": "Paris"}
            ).pk,
        },
        pace={"limit": 2, "per": "day", "stop_after": 3},
    )

    told = rehearsed(draft.versions.get())

    assert told["events"] == DAYS
    # Of the last day two: the third would come the day after.
    assert told["report"]["entered"] == 3 * (DAYS - 1) + 2
    assert told["left"] == 1

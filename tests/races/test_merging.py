"""Customers merged while everything else goes on: nothing is lost, nothing doubled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from campaigns import broadcast, dispatch
from campaigns.broadcast import walk_broadcasts
from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Passage, Run
from customers import merging
from customers.merging import merge
from customers.models import Customer, FormerId
from customers.upsert import upsert_customers
from events import ingest
from events.ingest import record_events
from events.models import Event, PendingEvent
from messaging.models import Delivery, Message
from messaging.send import send_messages
from smartcomm.core.errors import Conflict
from tests import make
from tests.races.together import at_once

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]


def merge_them(kept: str = "C-1", former: str = "C-2") -> merging.Merged:
    return merge(kept, former, by="shop", now=timezone.now())


def in_a_thread(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def leftovers() -> list[str]:
    """Tables with rows of customers who do not exist."""
    known = set(Customer.objects.values_list("pk", flat=True))
    return [
        model._meta.label
        for model in merging.moved_models
        if set(model._default_manager.values_list("customer_id", flat=True)) - known
    ]


def test_events_recorded_for_both_ids_meanwhile_are_all_there_once():
    make.customer("C-1")
    make.customer("C-2")
    source, at = make.source(), timezone.now().isoformat()

    def record(worker: int, round: int) -> None:
        items = [
            {
                "id": f"e-{worker}-{round}-{n}",
                "name": "Order paid",
                "customer": "C-1" if n % 2 else "C-2",
                "occurred_at": at,
            }
            for n in range(20)
        ]
        recorded = record_events(items, source=source)
        assert recorded.accepted == 20

    def work(number: int) -> None:
        if number == 0:
            time.sleep(0.05)
            merge_them()
            return
        for round in range(10):
            record(number, round)

    at_once(4, work)

    kept = Customer.objects.get()
    assert kept.external_id == "C-1"
    assert Event.objects.filter(customer=kept).count() == 3 * 10 * 20
    assert leftovers() == []


def test_an_event_that_waits_for_the_merge_reaches_the_kept_one(monkeypatch):
    make.customer("C-1")
    make.customer("C-2")
    item = {"id": "o-1", "name": "Order paid", "customer": "C-2"}
    record_events([item | {"id": "o-0"}], source=make.source())  # Teaches the type.

    with transaction.atomic():
        merge_them()
        thread = in_a_thread(lambda: record_events([item], source=make.source()))
        time.sleep(0.3)
        assert thread.is_alive()  # The race is real: it waits for the row.
    thread.join(timeout=20)

    assert set(Event.objects.values_list("external_id", "customer__external_id")) == {
        ("o-0", "C-1"),
        ("o-1", "C-1"),
    }
    assert Customer.objects.count() == 1


def test_without_the_look_for_former_ids_it_would_not(monkeypatch):
    """The twin: what the test above protects from."""
    monkeypatch.setattr(ingest, "current_ids", lambda ids: {})
    test = test_an_event_that_waits_for_the_merge_reaches_the_kept_one
    with pytest.raises(AssertionError):
        test(monkeypatch)


def test_a_merge_waits_for_who_is_recording(monkeypatch):
    make.customer("C-1")
    make.customer("C-2")
    make.event(Customer.objects.get(external_id="C-2"), "Order paid")
    item = {"id": "o-1", "name": "Order paid", "customer": "C-2"}

    with transaction.atomic():
        record_events([item], source=make.source())
        thread = in_a_thread(merge_them)
        time.sleep(0.3)
        assert thread.is_alive()
    thread.join(timeout=20)

    kept = Customer.objects.get()
    assert Event.objects.filter(customer=kept).count() == 2
    assert leftovers() == []


def test_customers_told_meanwhile_are_the_kept_one():
    make.customer("C-1")
    make.customer("C-2")

    def work(number: int) -> None:
        if number == 0:
            merge_them()
            return
        for _ in range(15):
            upserted = upsert_customers(
                [
                    {"external_id": "C-2", "consents": {"email": True}},
                    {"external_id": "C-1", "attributes": {"n": number}},
                    {
                        "external_id": "C-2",
                        "devices": [{"platform": "ios", "token": f"t-{number}"}],
                    },
                ],
                origin="shop",
                now=timezone.now(),
            )
            assert upserted.count("rejected") == 0

    at_once(4, work)

    kept = Customer.objects.get()
    assert kept.external_id == "C-1"
    assert kept.devices.count() == 3
    assert leftovers() == []


def test_the_same_merge_asked_for_at_once_is_one():
    make.customer("C-1")
    make.event(make.customer("C-2"), "Order paid")

    answers = at_once(6, lambda _: merge_them())

    assert sorted(answer.is_new for answer in answers) == [False] * 5 + [True]
    assert {tuple(sorted(answer.moved.items())) for answer in answers} == {
        (("events", 1),)
    }
    assert FormerId.objects.count() == 1


def test_a_chain_merged_from_both_ends_at_once_ends_in_one():
    for round in range(5):
        a, b, c = (f"{name}-{round}" for name in "ABC")
        for id in (a, b, c):
            make.event(make.customer(id), "Order paid")

        at_once(2, lambda n, a=a, b=b, c=c: merge_them(*((b, a), (c, b))[n]))

        kept = Customer.objects.get(external_id__endswith=f"-{round}")
        assert kept.external_id == c
        assert set(kept.former_ids.values_list("external_id", flat=True)) == {a, b}
        assert Event.objects.filter(customer=kept).count() == 3


def test_two_merged_into_each_other_at_once_are_one():
    for round in range(5):
        a, b = f"A-{round}", f"B-{round}"
        make.customer(a)
        make.customer(b)

        def work(number: int, a: str = a, b: str = b) -> str:
            try:
                merge_them(*((a, b), (b, a))[number])
            except Conflict as error:
                return error.code
            return ""

        assert sorted(at_once(2, work)) == ["", "merge_reversed"]
        assert Customer.objects.filter(external_id__in=[a, b]).count() == 1


def test_workers_at_work_meanwhile_send_each_message_once_and_leave_nothing():
    make.campaign(on="Order paid")
    pairs = 12
    for n in range(pairs):
        for id in (f"K-{n}", f"F-{n}"):
            customer = make.reachable(id)
            for _ in range(3):
                make.event(customer, "Order paid")
    done = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            for n in range(pairs):
                merge_them(f"K-{n}", f"F-{n}")
            done.set()
            return
        step = [
            lambda: dispatch_events(limit=5),
            lambda: advance_runs(limit=5),
            lambda: send_messages(limit=5),
            lambda: settle_runs(limit=5),
        ][number - 1]
        stop = time.monotonic() + 60
        idle = 0
        while time.monotonic() < stop and idle < 20:
            try:
                idle = 0 if step() else idle + done.is_set()
            except OperationalError as error:
                # As with a real worker: it gives way, and the tick comes again.
                if "deadlock" not in str(error):
                    raise
            time.sleep(0.01)

    at_once(5, work)

    assert Customer.objects.count() == pairs
    assert leftovers() == []
    assert not PendingEvent.objects.exists()
    assert Run.objects.count() == pairs * 6
    assert set(Run.objects.values_list("status", flat=True)) == {"finished"}
    assert Message.objects.count() == pairs * 6
    assert set(Message.objects.values_list("status", flat=True)) == {"sent"}
    assert Delivery.objects.count() == pairs * 6
    assert Passage.objects.count() == pairs * 6
    assert not Delivery.objects.exclude(
        message__customer_id__in=Customer.objects.values("pk")
    ).exists()


def broadcast_meanwhile(monkeypatch) -> None:
    """A walk that is about to start the runs of two customers, who are merged then."""
    make.reachable("C-1")
    make.reachable("C-2")
    make.campaign(on="Sale", system=True)
    make.system_event("Sale")
    dispatch_system_events()
    insert, inserted = broadcast._insert, threading.Event()
    threads = []

    def started_then_merged(*args, **more):
        entered = insert(*args, **more)  # Not committed yet.
        threads.append(in_a_thread(merge_them))
        threads[0].join(timeout=0.5)
        inserted.set()
        return entered

    monkeypatch.setattr(broadcast, "_insert", started_then_merged)
    walk_broadcasts()
    assert inserted.is_set()
    threads[0].join(timeout=20)


def test_a_broadcast_under_way_leaves_no_run_of_a_customer_who_is_gone(monkeypatch):
    broadcast_meanwhile(monkeypatch)

    assert leftovers() == []
    assert Run.objects.count() == 2
    assert Run.objects.filter(status="waiting").count() == 1


def test_without_the_lock_on_broadcasts_it_would(monkeypatch):
    """The twin."""
    from campaigns import merging as of_campaigns

    monkeypatch.setattr(of_campaigns, "HOLD_BROADCASTS", "SELECT 1")
    broadcast_meanwhile(monkeypatch)

    assert leftovers() == ["campaigns.Run"]


def test_a_dispatch_under_way_is_waited_for(monkeypatch):
    make.customer("C-1")
    make.campaign(on="Order paid")
    make.event(make.customer("C-2"), "Order paid")
    start, threads = dispatch._start_runs, []

    def started_then_merged(*args, **more):
        start(*args, **more)
        threads.append(in_a_thread(merge_them))
        threads[0].join(timeout=0.5)
        assert threads[0].is_alive()

    monkeypatch.setattr(dispatch, "_start_runs", started_then_merged)
    dispatch_events()
    threads[0].join(timeout=20)

    run = Run.objects.get()
    assert run.customer == Customer.objects.get()
    assert leftovers() == []

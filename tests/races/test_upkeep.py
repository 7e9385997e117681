"""Members while everything commits out of order, and keepers that are killed."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from django.db import connection, transaction
from django.utils import timezone

from customers.merging import merge
from customers.models import Customer
from customers.upsert import upsert_customers
from events.ingest import record_events
from events.models import Event
from segments import rules, saving
from segments.compile import compile_rule, customers_matching
from segments.models import Membership, Segment, Upkeep
from segments.upkeep import applying, feed, keeper, meanings, recount, settling
from tests import make
from tests.races.together import at_once
from tests.races.workers import start, wait_until_ready

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]

PAID = {"event": "Order paid"}
OFTEN = PAID | {"count": {"op": ">=", "value": 3}}
PARIS = {"attribute": "city", "op": "=", "value": "Paris"}

KEEPER = """
from segments.upkeep import keeper

print("ready", flush=True)
while True:
    keeper.keep()
"""


def a_keeper() -> subprocess.Popen[bytes]:
    """A keeper in a process of its own, which never rests."""
    process = start(KEEPER)
    wait_until_ready(process)
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
    process.communicate()


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def differences() -> dict[str, set[int]]:
    """Segment → who is a member and should not be, or the other way round."""
    known = set(Customer.objects.values_list("pk", flat=True))
    found = {}
    for segment in Segment.objects.all():
        query = compile_rule(rules.parse(segment.rule), now=timezone.now())
        rows = Membership.objects.filter(segment=segment)
        members = set(rows.values_list("customer_id", flat=True))
        wrong = members ^ (customers_matching(query) & known)
        if wrong or segment.count != len(members):
            found[segment.name] = wrong
    return found


def in_by_what_was_told(before: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """(segment, customer) by all that was recorded, which must come in turns."""
    inside = set(before)
    told = Event.objects.filter(type__name__in=["segment.entered", "segment.left"])
    rows = told.order_by("pk").values_list("type__name", "context", "customer_id")
    for name, context, customer_id in rows:
        one = context["segment"], customer_id
        assert (one in inside) == (name == "segment.left"), "told twice"
        inside ^= {one}
    return inside


def segments() -> None:
    make.event_type("Order paid")
    for name, rule in [
        ("Payers", PAID),
        ("Often", OFTEN),
        ("Never", {"not": PAID}),
        ("Paris", {"all": [PARIS, PAID]}),
        ("Lately", PAID | {"period": {"last": 30, "unit": "days"}}),
    ]:
        Segment.objects.create(name=name, rule=rule)


class OutOfOrder:
    """Another connection that has taken an id and not committed yet."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.may_commit = threading.Event()
        self.has_written = threading.Event()
        self.work = work
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        assert self.has_written.wait(timeout=20)

    def run(self) -> None:
        try:
            with transaction.atomic():
                self.work()
                self.has_written.set()
                assert self.may_commit.wait(timeout=20)
        finally:
            connection.close()

    def commit(self) -> None:
        self.may_commit.set()
        self.thread.join(timeout=20)


@pytest.fixture
def early() -> Iterator[OutOfOrder]:
    """An event of C-1 with a low id, that commits late."""
    segments()
    anna = make.customer("C-1")
    make.customer("C-2")
    make.event(anna, "Order paid")  # The type and its fields are known.
    keeper.keep_all()
    Membership.objects.all()
    source = make.source()
    item = {"id": "early", "name": "Order paid", "customer": "C-2"}
    one = OutOfOrder(lambda: record_events([item], source=source))
    yield one
    one.commit()


def test_an_event_that_commits_after_later_ones_is_not_missed(early):
    make.event(Customer.objects.get(external_id="C-1"), "Order paid", id="late")
    late = Event.objects.get(external_id="late")
    for _ in range(3):
        keeper.keep()
    assert Upkeep.objects.get().events_upto < late.pk, "not past what is not settled"
    early.commit()

    keeper.keep_all()

    assert Event.objects.get(external_id="early").pk < late.pk
    assert differences() == {}


def test_without_waiting_for_writers_that_event_would_be_missed(early, monkeypatch):
    monkeypatch.setattr(settling, "writers", lambda tables: [])
    make.event(Customer.objects.get(external_id="C-1"), "Order paid", id="late")
    keeper.keep_all()
    early.commit()

    keeper.keep_all()

    assert differences() != {}


def a_change_under_way_when_its_segment_is_made() -> None:
    make.event_type("Order paid")
    make.customer("C-1", city="Rome")
    change = OutOfOrder(lambda: Customer.objects.update(city="Paris"))
    # The database was not told that anybody cares when the change was made.
    Segment.objects.create(name="Paris", rule=PARIS)
    for _ in range(5):
        keeper.keep()
    change.commit()
    keeper.keep_all()


def test_a_change_under_way_when_its_segment_is_made_is_not_missed():
    a_change_under_way_when_its_segment_is_made()

    assert differences() == {}
    assert Membership.objects.count() == 1


def test_without_waiting_for_those_who_cannot_know_it_would_be_missed(monkeypatch):
    monkeypatch.setattr(settling, "writers", lambda tables: [])

    a_change_under_way_when_its_segment_is_made()

    assert differences() != {}


@pytest.mark.chaos
@pytest.mark.slow
def test_keepers_killed_over_and_over_miss_nothing_of_what_is_sent(monkeypatch):
    monkeypatch.setattr(feed, "EVENTS", 200)
    segments()
    Segment.objects.update(is_watched=True)
    ids = [make.customer(f"C-{n}").external_id for n in range(60)]
    source = make.source()
    keeper.keep_all()
    never = Segment.objects.get(name="Never").pk
    in_before = {(never, pk) for pk in Customer.objects.values_list("pk", flat=True)}
    stop = threading.Event()
    killed = 0

    def kill_them() -> None:
        nonlocal killed
        try:
            while not stop.is_set():
                keepers = [a_keeper(), a_keeper()]
                stop.wait(timeout=0.4)
                for process in keepers:
                    kill(process)
                    killed += 1
        finally:
            connection.close()

    def send(worker: int) -> None:
        for number in range(60):
            items = [
                {
                    "id": f"{worker}-{number}-{n}",
                    "name": "Order paid",
                    "customer": f"{ids[(worker * 7 + number * 3 + n) % len(ids)]}",
                }
                for n in range(10)
            ]
            with transaction.atomic():
                record_events(items, source=source)
                if number % 3 == 0:
                    time.sleep(0.02)  # It commits after others that began later.
            city = "Paris" if (number + worker) % 2 else "Rome"
            changed = [{"external_id": ids[(number * 11) % len(ids)], "city": city}]
            upsert_customers(changed, origin="shop", now=timezone.now())

    killer = threading.Thread(target=kill_them)
    killer.start()
    try:
        at_once(4, send)
    finally:
        stop.set()
        killer.join(timeout=60)
    assert killed >= 2
    assert Event.objects.filter(type__name="Order paid").count() == 4 * 60 * 10

    until(lambda: keeper.keep() == keeper.Round())

    assert differences() == {}
    assert not Segment.objects.exclude(status="fresh").exists()
    members = set(Membership.objects.values_list("segment_id", "customer_id"))
    assert in_by_what_was_told(in_before) == members


def test_of_two_keepers_at_once_one_works_and_no_one_waits():
    segments()
    make.event(make.customer("C-1"), "Order paid")
    with transaction.atomic():
        assert keeper._lock() is None  # There is no row yet.
    keeper.keep()
    held = OutOfOrder(keeper._lock)

    began = time.monotonic()
    assert keeper.keep() == keeper.Round()
    assert time.monotonic() - began < 5
    held.commit()

    keeper.keep_all()
    assert differences() == {}


def test_customers_merged_while_members_are_kept_leave_no_one_behind():
    segments()
    for n in range(40):
        make.event(make.customer(f"C-{n}"), "Order paid")
    keeper.keep_all()
    over = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            while not over.is_set():
                keeper.keep()
            return
        try:
            for n in range(0, 40, 2):
                merge(f"C-{n}", f"C-{n + 1}", by="shop", now=timezone.now())
        finally:
            over.set()

    at_once(2, work)
    keeper.keep_all()

    assert Customer.objects.count() == 20
    assert differences() == {}
    known = set(Customer.objects.values_list("pk", flat=True))
    assert set(Membership.objects.values_list("customer_id", flat=True)) <= known


def meanwhile(
    monkeypatch: pytest.MonkeyPatch,
    where: ModuleType,
    name: str,
    work: Callable[[], object],
) -> list[threading.Thread]:
    """When the keeper first calls that, do this elsewhere, for as long as it takes."""
    real = getattr(where, name)
    started: list[threading.Thread] = []

    def call(*args: object, **more: object) -> object:
        if not started:
            started.append(threading.Thread(target=run))
            started[0].start()
            started[0].join(timeout=0.5)
        return real(*args, **more)

    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    monkeypatch.setattr(where, name, call)
    return started


@pytest.mark.parametrize(
    ("where", "name"), [(applying, "apply_query"), (recount, "compile_rule")]
)
def test_a_segment_deleted_while_it_is_kept_leaves_nothing_behind(
    where, name, monkeypatch
):
    monkeypatch.setattr(recount, "RANGE", 2)
    segment = Segment.objects.create(name="Cities", rule=PARIS)
    if where is applying:
        keeper.keep_all()
    for n in range(4):
        make.customer(f"C-{n}", city="Paris")

    started = meanwhile(monkeypatch, where, name, lambda: saving.delete(segment))
    keeper.keep_all()
    started[0].join(timeout=20)
    keeper.keep_all()

    assert not Segment.objects.exists()
    assert not Membership.objects.exists()


def test_a_rule_is_changed_while_its_count_of_all_ends_and_neither_gives_up(
    monkeypatch,
):
    make.event_type("Order paid")
    make.event(make.customer("C-1"), "Order paid")
    segment = Segment.objects.create(name="Payers", rule=PAID)
    looked_up, may_go_on = threading.Event(), threading.Event()
    meaning_of = meanings.meaning_of

    def meaning_slowly(segment: Segment) -> meanings.Meaning:
        if threading.current_thread() is not threading.main_thread():
            looked_up.set()
            assert may_go_on.wait(timeout=20)
        return meaning_of(segment)

    def change() -> None:
        saving.change(segment, saving.Wanted("Often", "", OFTEN), author="Anna")
        changed.set()

    changed = threading.Event()
    monkeypatch.setattr(meanings, "meaning_of", meaning_slowly)
    started = meanwhile(monkeypatch, applying, "apply_counted", change)
    # Goes on once the keeper waits for the segment, which is locked.
    threading.Timer(1.5, may_go_on.set).start()
    keeper.keep_all()
    started[0].join(timeout=20)
    keeper.keep_all()

    assert looked_up.is_set()
    assert changed.is_set()
    assert differences() == {}

"""Rejected events: fix the cause, replay, and nothing is lost or doubled."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from customers.models import Customer
from events import replays, tasks
from events.ingest import record_events
from events.models import (
    Event,
    EventField,
    EventType,
    FieldMapping,
    Format,
    Kind,
    PendingEvent,
    RejectedEvent,
    Source,
    SystemEvent,
)
from events.rejects import Which
from events.replays import advance_replay, advance_replays, begin_replay, replay
from tests import make

pytestmark = pytest.mark.django_db


@pytest.fixture
def order_type():
    return make.event_type("Order paid", mode=EventType.Mode.ENFORCED)


def reject(count=1):
    items = [
        {
            "id": str(i),
            "name": "Order paid",
            "customer": "C-1",
            "context": {"amount": i},
        }
        for i in range(count)
    ]
    assert record_events(items, source=make.source()).rejected == count


def test_once_the_cause_is_fixed_a_replay_records_the_event(order_type):
    reject(3)
    EventField.objects.create(type=order_type, code="amount", value_type="number")

    done = replay(RejectedEvent.objects.all())

    assert (done.accepted, done.rejected) == (3, 0)
    assert Event.objects.count() == 3
    assert set(RejectedEvent.objects.values_list("status", flat=True)) == {"replayed"}


def test_replaying_again_doubles_nothing(order_type):
    reject()
    EventField.objects.create(type=order_type, code="amount", value_type="number")

    replay(RejectedEvent.objects.all())
    again = replay(RejectedEvent.objects.all())

    assert (again.accepted, again.duplicates) == (0, 0)
    assert Event.objects.count() == 1


def test_what_is_still_refused_stays_with_the_reason_of_today(order_type):
    reject()
    order_type.mode = EventType.Mode.OPEN
    order_type.save()
    Source.objects.update(unknown_customers=Source.UnknownCustomers.REJECT)

    done = replay(RejectedEvent.objects.all())

    assert (done.accepted, done.rejected) == (0, 1)
    row = RejectedEvent.objects.get()
    assert (row.status, row.code) == ("open", "customer_unknown")


def test_an_event_without_a_time_happened_when_it_was_refused(order_type):
    reject()
    order_type.delete()

    replay(RejectedEvent.objects.all())

    assert Event.objects.get().occurred_at == RejectedEvent.objects.get().received_at


def test_a_replayed_event_is_linked_to_the_event_it_is_now(order_type):
    reject(2)
    order_type.mode = EventType.Mode.OPEN
    order_type.save()

    replay(RejectedEvent.objects.all())

    for row in RejectedEvent.objects.all():
        event = Event.objects.get(pk=row.stored_id)
        assert event.external_id == row.external_id
        assert event.customer.external_id == "C-1"


def test_one_that_was_recorded_before_is_linked_to_that_event(order_type):
    reject()
    order_type.mode = EventType.Mode.OPEN
    order_type.save()
    sent_again = {"id": "0", "name": "Order paid", "customer": "C-1"}
    record_events([sent_again], source=make.source())

    done = replay(RejectedEvent.objects.all())

    assert (done.accepted, done.duplicates) == (0, 1)
    assert RejectedEvent.objects.get().stored_id == Event.objects.get().pk


def test_a_system_event_is_replayed_as_one_and_linked():
    bad = {"id": "s-1", "name": "Product in stock", "context": {"product-id": 77}}
    record_events([bad], source=make.source(), kind=Kind.SYSTEM)
    FieldMapping.objects.create(sent="product-id", code="product_id")

    replay(RejectedEvent.objects.all())

    event = SystemEvent.objects.get()
    assert event.context == {"product_id": 77}
    assert RejectedEvent.objects.get().stored_id == event.pk


def test_an_event_without_an_id_is_one_event_however_often_it_is_replayed(order_type):
    item = {"name": "Order paid", "customer": "C-1", "context": {"amount": 1}}
    record_events([item], source=make.source())
    order_type.mode = EventType.Mode.OPEN
    order_type.save()
    replay(RejectedEvent.objects.all())
    # As if it had been opened again, by hand or from a backup.
    RejectedEvent.objects.update(status="open")

    again = replay(RejectedEvent.objects.all())

    assert (again.accepted, again.duplicates) == (0, 1)
    assert Event.objects.count() == 1


def test_the_time_of_receipt_of_what_was_refused_stays(order_type):
    reject()
    order_type.mode = EventType.Mode.OPEN
    order_type.save()
    before = timezone.now() - timedelta(days=3)
    RejectedEvent.objects.update(received_at=before)

    replay(RejectedEvent.objects.all())

    row, event = RejectedEvent.objects.get(), Event.objects.get()
    assert row.received_at == before
    assert event.occurred_at == before
    # Events are appended: the journal finds the last day by the order of receipt.
    assert event.received_at == row.replayed_at


def test_what_is_not_json_stays_open_and_spoils_no_other(order_type):
    reject()
    order_type.mode = EventType.Mode.OPEN
    order_type.save()
    for format in (Format.NATIVE, Format.UNREADABLE):
        RejectedEvent.objects.create(
            source=make.source(),
            kind=Kind.CUSTOMER,
            format=format,
            payload="{not json",
            code="not_json",
            message="What was sent is not JSON.",
        )

    done = replay(RejectedEvent.objects.all())

    assert (done.accepted, done.rejected) == (1, 2)
    assert RejectedEvent.objects.filter(status="open", code="not_json").count() == 2


@pytest.mark.parametrize("as_backfill", [False, True])
def test_a_replay_without_triggering_is_a_backfill(order_type, as_backfill):
    reject()
    EventType.objects.update(mode=EventType.Mode.OPEN, is_awaited=True)

    replay(RejectedEvent.objects.all(), as_backfill=as_backfill)

    assert Event.objects.get().is_backfill is as_backfill
    assert PendingEvent.objects.count() == (0 if as_backfill else 1)


def test_customers_can_be_created_for_a_replay_alone():
    source = make.source(unknown_customers=Source.UnknownCustomers.REJECT)
    items = [
        {"name": "Order paid", "customer": "C-1"},
        {"name": "Order paid", "customer": {"external_id": "C-2"}},
    ]
    assert record_events(items, source=source).rejected == 2

    done = replay(RejectedEvent.objects.all(), create_customers=True)

    assert done.accepted == 2
    assert set(Customer.objects.values_list("external_id", "is_stub")) == {
        ("C-1", True),
        ("C-2", True),
    }
    # The source itself still may not.
    source.refresh_from_db()
    assert source.unknown_customers == Source.UnknownCustomers.REJECT
    assert record_events([{"name": "Order paid", "customer": "C-3"}], source=source)
    assert not Customer.objects.filter(external_id="C-3").exists()


# in the background


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(replays, "MAX_ITEMS", 4)


def begin(which=None, **more):
    more.setdefault("patience", 0)
    return begin_replay(which or Which(), by="demo", now=timezone.now(), **more)


def mixed():
    """Seven that will be recorded, two that stay refused, one sent again since."""
    order_type = make.event_type("Order paid", mode=EventType.Mode.ENFORCED)
    items = [
        {"id": f"{i}", "name": "Order paid", "customer": "C-1", "context": {"a": 1}}
        for i in range(8)
    ]
    items += [{"id": f"n{i}", "name": "", "customer": "C-1"} for i in range(2)]
    assert record_events(items, source=make.source()).rejected == 10
    order_type.mode = EventType.Mode.OPEN
    order_type.save()
    record_events(items[:1], source=make.source())


@pytest.mark.usefixtures("small_batches")
def test_a_replay_goes_on_batch_by_batch_and_its_numbers_add_up():
    mixed()
    asked = begin()
    assert (asked.status, asked.total, asked.handled) == ("waiting", 10, 0)

    handled = []
    while advance_replays():
        asked.refresh_from_db()
        handled.append(asked.handled)

    asked.refresh_from_db()
    assert handled == [4, 8, 10]
    assert (asked.accepted, asked.duplicates, asked.rejected) == (7, 1, 2)
    assert asked.accepted + asked.duplicates + asked.rejected == asked.total
    assert (asked.status, asked.finished_at is not None) == ("done", True)
    assert Event.objects.count() == 8
    assert RejectedEvent.objects.filter(status="open").count() == 2


def test_a_small_replay_is_done_while_one_waits():
    mixed()

    asked = begin(patience=5)

    assert (asked.status, asked.handled) == ("done", 10)


@pytest.mark.usefixtures("small_batches")
def test_a_bell_or_a_tick_takes_a_replay_to_its_end():
    mixed()
    asked = begin()

    tasks.advance_replays()

    asked.refresh_from_db()
    assert (asked.status, asked.handled) == ("done", 10)


@pytest.mark.usefixtures("small_batches")
def test_what_is_refused_while_a_replay_is_under_way_is_none_of_it():
    mixed()
    asked = begin()
    record_events([{"name": "", "customer": "C-9"}], source=make.source())

    while advance_replays():
        pass

    asked.refresh_from_db()
    assert (asked.handled, asked.total) == (10, 10)


@pytest.mark.usefixtures("small_batches")
def test_a_replay_that_is_stopped_takes_no_further_batch():
    mixed()
    asked = begin()
    advance_replays()

    assert replays.stop_replay(asked.pk, now=timezone.now())

    assert advance_replays() == 0
    asked.refresh_from_db()
    assert (asked.status, asked.handled) == ("stopped", 4)
    assert Event.objects.count() == 4


def test_a_batch_that_fails_is_tried_again_and_given_up_in_the_end(monkeypatch):
    mixed()
    asked = begin()

    def fail(*args, **kwargs):
        raise ValueError("a fault of ours")

    monkeypatch.setattr(replays, "record_events", fail)
    assert advance_replays() == 0
    asked.refresh_from_db()
    assert (asked.status, asked.attempts, asked.handled) == ("waiting", 1, 0)
    assert asked.due_at > timezone.now()
    assert advance_replays() == 0
    asked.refresh_from_db()
    assert asked.attempts == 1  # It is not due.

    for _ in range(replays.MAX_ATTEMPTS):
        advance_replays(now=timezone.now() + timedelta(days=1))

    asked.refresh_from_db()
    assert asked.status == "failed"
    assert RejectedEvent.objects.filter(status="open").count() == 10


def test_a_fault_that_has_passed_loses_and_doubles_nothing(monkeypatch):
    mixed()
    asked = begin()
    record = replays.record_events

    def fail(*args, **kwargs):
        record(*args, **kwargs)
        raise OperationalError("the connection is gone")

    monkeypatch.setattr(replays, "record_events", fail)
    advance_replays()
    assert Event.objects.count() == 1  # The one that was sent again.

    monkeypatch.setattr(replays, "record_events", record)
    while advance_replays(now=timezone.now() + timedelta(days=1)):
        pass

    asked.refresh_from_db()
    assert (asked.status, asked.accepted, asked.duplicates) == ("done", 7, 1)
    assert Event.objects.count() == 8


@pytest.mark.usefixtures("small_batches")
def test_only_what_was_asked_for_is_replayed():
    mixed()
    chosen = RejectedEvent.objects.filter(external_id__in=["3", "5"])
    ids = tuple(chosen.values_list("pk", flat=True))

    by_ids = begin(Which(ids=ids), patience=5)
    by_name = begin(Which(name="", code="name_missing"), patience=5)

    assert (by_ids.total, by_ids.accepted) == (2, 2)
    assert (by_name.total, by_name.rejected) == (2, 2)
    assert Event.objects.count() == 3


def test_a_batch_costs_as_many_queries_for_many_events_as_for_few():
    def cost(count):
        items = [
            {"name": f"Paid {count}", "customer": f"C-{i}", "context": {"a-b": 1}}
            for i in range(count)
        ]
        assert record_events(items, source=make.source()).rejected == count
        FieldMapping.objects.create(
            event_name=f"Paid {count}", sent="a-b", code=f"a_{count}"
        )
        asked = begin()
        with CaptureQueriesContext(connection) as captured:
            assert advance_replay(asked.pk)
        asked.refresh_from_db()
        assert asked.accepted == count
        return len(captured)

    few, many = cost(4), cost(40)

    assert few == many
    assert few < 30

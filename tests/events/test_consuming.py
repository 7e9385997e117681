"""A batch of messages: what is recorded, what is kept, and what happens again."""

from __future__ import annotations

import json

import pytest
from django.db import DataError, OperationalError, ProgrammingError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from events import consuming
from events.consuming import (
    Batch,
    Counts,
    DatabaseAway,
    Subscription,
    read_envelope,
    record_batch,
)
from events.envelope import Envelope
from events.ingest import record_events
from events.models import Event, Format, Kind, RejectedEvent, SystemEvent
from events.replays import replay
from smartcomm.core.errors import Conflict, Invalid
from tests import make

pytestmark = pytest.mark.django_db


def event(number: int, **more) -> dict:
    return {"id": f"e-{number}", "name": "Order paid", "customer": "C-1"} | more


def batch_of(*bodies, kind: Kind = Kind.CUSTOMER, **properties) -> Batch:
    batch = Batch()
    for tag, body in enumerate(bodies, start=1):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        envelope = Envelope(raw, **properties)
        batch.add(tag, envelope, read_envelope(envelope, kind=kind))
    return batch


def record(*bodies, **properties) -> Counts:
    return record_batch(
        batch_of(*bodies, **properties), source=make.source(), now=timezone.now()
    )


def test_good_and_bad_messages_in_one_batch_are_recorded_and_kept():
    counts = record(
        event(1),
        {"events": [event(2), event(3, context={"price-eur": 5})]},
        b"not json",
        event(1),
        {"events": "many"},
    )

    assert counts == Counts(messages=5, accepted=2, duplicates=1, rejected=3)
    assert set(Event.objects.values_list("external_id", flat=True)) == {"e-1", "e-2"}
    kept = RejectedEvent.objects.order_by("code")
    assert [(one.code, one.field, one.format) for one in kept] == [
        ("field_code_invalid", "context.price-eur", "native"),
        ("not_a_list", "events", "native"),
        ("not_json", "", "unreadable"),
    ]
    assert (kept[0].name, kept[0].external_id) == ("Order paid", "e-3")
    assert json.loads(kept[0].payload) == event(3, context={"price-eur": 5})


def test_both_kinds_may_share_a_queue():
    batch = batch_of(event(1))
    system = batch_of({"id": "s-1", "name": "Shop opened"}, headers={"kind": "system"})
    batch.items |= system.items

    record_batch(batch, source=make.source(), now=timezone.now())

    assert (Event.objects.count(), SystemEvent.objects.count()) == (1, 1)


def test_a_batch_that_comes_again_doubles_neither_events_nor_rejected_events():
    bodies = [event(1), event(2, context={"a-b": 1}), event(3, customer="")]

    first, second = record(*bodies), record(*bodies)

    assert first == Counts(messages=3, accepted=1, rejected=2)
    assert second == Counts(messages=3, duplicates=1, rejected=2)
    assert (Event.objects.count(), RejectedEvent.objects.count()) == (1, 2)


def test_a_broken_message_with_an_id_is_kept_once_however_often_it_comes():
    record(b"{broken", message_id="m-1")
    record(b"{broken", message_id="m-1")
    record(b"{broken", message_id="m-2")

    assert RejectedEvent.objects.count() == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"name": "x", "name": "y"}', "key_duplicate"),
        (b'{"events": [{"id": "1", "context": {"n": 1e999}}]}', "number_too_large"),
        (b'{"events": [5]}', "not_an_object"),
    ],
)
def test_an_item_that_cannot_be_held_is_kept_once_by_its_message(body, code):
    first = record(body, message_id="m-1")
    record(body, message_id="m-1")

    assert first == Counts(messages=1, rejected=1)
    kept = RejectedEvent.objects.get()
    assert (kept.code, kept.external_id) == (code, "m-1")
    assert kept.payload in body.decode()


def test_the_same_id_with_another_fault_is_another_rejected_event():
    record(event(1, context={"a-b": 1}))
    record(event(1, context={"a-c": 1}))

    assert RejectedEvent.objects.count() == 2


def test_an_event_that_nothing_identifies_is_refused_since_it_might_come_twice():
    counts = record({"name": "Order paid", "customer": "C-1"})

    assert counts == Counts(messages=1, rejected=1)
    assert not Event.objects.exists()
    kept = RejectedEvent.objects.get()
    assert (kept.code, kept.field, kept.name) == ("id_missing", "id", "Order paid")


def test_two_true_events_that_look_the_same_are_two_by_their_messages():
    bare = {"name": "Order paid", "customer": "C-1"}

    for message_id in ("m-1", "m-2", "m-1"):
        record(bare, message_id=message_id)

    assert Event.objects.count() == 2


def test_a_rejected_event_is_replayed_under_the_id_of_its_message():
    source = make.source(unknown_customers="reject")
    bare = {"name": "Order paid", "customer": "C-1"}
    assert record(bare, message_id="m-1").rejected == 1
    make.customer("C-1")

    assert replay(RejectedEvent.objects.all()).accepted == 1

    # And should the message come once more after that, nothing is doubled.
    assert record(bare, message_id="m-1").duplicates == 1
    assert Event.objects.get().external_id == "m-1"
    assert RejectedEvent.objects.filter(status="replayed", source=source).count() == 1


def test_a_broken_message_stays_rejected_when_it_is_replayed():
    record(b"\xff{broken")

    assert replay(RejectedEvent.objects.all()).rejected == 1

    assert RejectedEvent.objects.get().format == Format.UNREADABLE


def test_many_events_in_one_message_are_recorded_a_thousand_at_a_time(monkeypatch):
    sizes = []

    def counting(items, **more):
        sizes.append(len(items))
        return record_events(items, **more)

    monkeypatch.setattr(consuming, "record_events", counting)

    counts = record({"events": [event(number) for number in range(2_500)]})

    assert sizes == [1_000, 1_000, 500]
    assert counts.accepted == Event.objects.count() == 2_500


def poisoned(items, **more):
    """The door, with a fault for one event that nothing foresaw."""
    if any(item.get("id") == "e-2" for item in items):
        raise POISON
    return record_events(items, **more)


POISON: Exception = ZeroDivisionError("A fault of ours.")


@pytest.mark.parametrize(
    "fault", [ZeroDivisionError("x"), DataError("x"), ProgrammingError("x")]
)
def test_an_event_that_breaks_us_is_kept_and_holds_up_no_other(monkeypatch, fault):
    monkeypatch.setattr(consuming, "record_events", poisoned)
    monkeypatch.setattr(f"{__name__}.POISON", fault)

    counts = record(*(event(number) for number in range(5)))

    assert counts == Counts(messages=5, accepted=4, rejected=1)
    assert set(Event.objects.values_list("external_id", flat=True)) == {
        "e-0",
        "e-1",
        "e-3",
        "e-4",
    }
    kept = RejectedEvent.objects.get()
    assert (kept.code, json.loads(kept.payload)) == ("internal", event(2))

    monkeypatch.undo()
    assert replay(RejectedEvent.objects.all()).accepted == 1


def test_a_message_that_breaks_the_reading_is_kept_and_holds_up_no_other(monkeypatch):
    def broken(*args, **more):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(consuming, "open_envelope", broken)
        batch = batch_of(event(1))
    counts = record_batch(batch, source=make.source(), now=timezone.now())

    assert counts == Counts(messages=1, rejected=1)
    assert RejectedEvent.objects.get().code == "internal"


def with_state(error: Exception, state: str | None) -> Exception:
    error.__cause__ = type("FromServer", (Exception,), {"sqlstate": state})()
    return error


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("the connection is lost"),
        with_state(OperationalError("disk full"), "53100"),
        with_state(OperationalError("deadlock"), "40P01"),
        with_state(ProgrammingError("no such table, yet"), "42P01"),
        Conflict("A customer was erased at this very moment. Send the events again."),
    ],
)
def test_a_database_that_takes_nothing_makes_no_rejected_events(monkeypatch, error):
    def away(*args, **more):
        raise error

    monkeypatch.setattr(consuming, "record_events", away)

    with pytest.raises(DatabaseAway):
        record(event(1), b"broken")

    assert not RejectedEvent.objects.exists()


def test_what_cannot_be_kept_is_not_taken_for_done(monkeypatch):
    def full(*args, **more):
        raise DataError("There is no room.")

    monkeypatch.setattr(RejectedEvent.objects, "bulk_create", full)

    with pytest.raises(DatabaseAway):
        record(event(1), b"broken")


def test_the_number_of_queries_does_not_grow_with_the_batch(django_assert_num_queries):
    record(event(0), event(0, context={"a-b": 1}))

    def bodies(start: int, count: int) -> list:
        good = [event(number) for number in range(start, start + count)]
        return [*good, *(one | {"context": {"a-b": 1}} for one in good)]

    source, now = make.source(), timezone.now()
    few, many = batch_of(*bodies(1, 5)), batch_of(*bodies(100, 100))
    with CaptureQueriesContext(connection) as first:
        record_batch(few, source=source, now=now)
    with django_assert_num_queries(len(first)):
        record_batch(many, source=source, now=now)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"url": "redis://localhost"}, "Set AMQP_URL"),
        ({"queue": ""}, "The name of a queue"),
        ({"queue": "amq.gen-1"}, "The name of a queue"),
        ({"queue": "ü" * 128}, "The name of a queue"),
        ({"source": " "}, "The name of a source"),
        ({"prefetch": 0}, "Prefetch"),
        ({"prefetch": 65_536}, "Prefetch"),
        ({"batch": 1_001}, "A batch has"),
        ({"batch_ms": -1}, "A batch waits"),
    ],
)
def test_a_subscription_that_makes_no_sense_is_refused_in_a_sentence(wrong, words):
    right = {"url": "amqp://localhost//", "queue": "events", "source": "shop"}

    with pytest.raises(Invalid, match=f"^{words}.*\\.$"):
        Subscription(**(right | wrong))

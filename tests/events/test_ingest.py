"""Recording events: nothing lost, nothing doubled, bad items told apart."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from customers.merging import merge
from customers.models import Customer
from events.ingest import record_events
from events.models import (
    Event,
    EventField,
    EventType,
    Kind,
    PendingEvent,
    PendingSystemEvent,
    RejectedEvent,
    Source,
    SystemEvent,
)
from events.signals import events_recorded
from smartcomm.core.strict_json import decode_item
from tests import make

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def record(*items, kind=Kind.CUSTOMER, **how):
    return record_events(
        items, source=how.pop("source", make.source()), kind=kind, **how
    )


def statuses(recorded):
    return [result.status for result in recorded.results]


def test_an_event_is_stored_as_it_was_sent():
    recorded = record(
        {
            "id": "order-8812-paid",
            "name": "Order paid",
            "customer": "C-1001",
            "occurred_at": "2026-11-20T10:15:00+03:00",
            "context": {"name": "Bag", "product_id": 77, "price": 49.9, "gift": None},
        },
        now=NOW,
    )

    event = Event.objects.select_related("type", "customer", "source").get()
    assert recorded.accepted == 1
    assert recorded.results[0].id == "order-8812-paid"
    assert event.type.name == "Order paid"
    assert event.customer.external_id == "C-1001"
    assert event.occurred_at == datetime(2026, 11, 20, 7, 15, tzinfo=UTC)
    assert event.received_at == NOW
    assert event.context == {
        "name": "Bag",
        "product_id": 77,
        "price": 49.9,
        "gift": None,
    }


def test_an_event_without_id_gets_one_and_without_time_the_time_of_receipt():
    recorded = record({"name": "Order paid", "customer": "C-1"}, now=NOW)

    event = Event.objects.get()
    assert event.external_id == recorded.results[0].id != ""
    assert event.occurred_at == NOW


def test_the_same_id_again_is_a_duplicate_and_changes_nothing():
    record({"id": "1", "name": "Order paid", "customer": "C-1", "context": {"a": 1}})

    again = record({"id": "1", "name": "Other", "customer": "C-1", "context": {"a": 2}})

    assert statuses(again) == ["duplicate"]
    assert Event.objects.get().context == {"a": 1}


def test_an_id_counts_once_for_each_source_and_customer():
    item = {"id": "1", "name": "Order paid", "customer": "C-1"}
    record(item)

    assert statuses(record(item, source=make.source("call centre"))) == ["accepted"]
    assert statuses(record(item | {"customer": "C-2"})) == ["accepted"]
    assert Event.objects.count() == 3


def test_the_same_id_twice_in_a_batch_counts_once():
    item = {"id": "1", "name": "Order paid", "customer": "C-1"}

    recorded = record(item, item)

    assert statuses(recorded) == ["accepted", "duplicate"]
    assert (recorded.accepted, recorded.duplicates) == (1, 1)


@pytest.mark.parametrize("kind", Kind)
def test_of_the_same_id_in_a_batch_the_first_is_the_one_that_is_stored(kind):
    whose = {"customer": "C-1"} if kind == Kind.CUSTOMER else {}
    items = [
        {"id": str(i % 50), "name": "Shown", "context": {"i": i}, **whose}
        for i in range(100)
    ]

    recorded = record(*items, kind=kind)

    assert statuses(recorded) == ["accepted"] * 50 + ["duplicate"] * 50
    model = Event if kind == Kind.CUSTOMER else SystemEvent
    stored = {event.external_id: event.context["i"] for event in model.objects.all()}
    assert stored == {str(i): i for i in range(50)}


def test_a_bad_item_is_kept_whole_and_spoils_nothing():
    bad = {
        "id": "2",
        "name": "Order paid",
        "customer": "C-1",
        "context": {"price-eur": 1},
    }

    recorded = record(
        {"id": "1", "name": "Order paid", "customer": "C-1"},
        bad,
        {"id": "3", "name": "Order paid", "customer": "C-1"},
    )

    assert statuses(recorded) == ["accepted", "rejected", "accepted"]
    assert recorded.results[1].code == "field_code_invalid"
    assert recorded.results[1].field == "context.price-eur"
    kept = RejectedEvent.objects.get()
    assert json.loads(kept.payload) == bad
    assert (kept.code, kept.source.name) == ("field_code_invalid", "shop")
    assert Event.objects.count() == 2


def test_characters_that_no_text_can_hold_are_refused_and_kept():
    recorded = record({"id": "\ud800", "name": "a\x00b", "customer": "C-1"})

    assert statuses(recorded) == ["rejected"]
    assert json.loads(RejectedEvent.objects.get().payload)["name"] == "a\x00b"


def test_an_unknown_customer_is_created_as_a_stub():
    record({"name": "Order paid", "customer": "C-new"})

    customer = Customer.objects.get()
    assert (customer.external_id, customer.is_stub) == ("C-new", True)


def test_a_source_may_refuse_unknown_customers():
    strict = make.source("strict", unknown_customers=Source.UnknownCustomers.REJECT)

    recorded = record({"name": "Order paid", "customer": "C-new"}, source=strict)

    assert recorded.results[0].code == "customer_unknown"
    assert not Customer.objects.exists()
    assert not Event.objects.exists()
    assert RejectedEvent.objects.count() == 1


def test_a_customer_is_found_by_contact():
    anna = make.customer(email="anna@example.com")

    record({"name": "Order paid", "customer": {"email": "Anna@EXAMPLE.com"}})

    assert Event.objects.get().customer == anna


def test_a_contact_of_several_customers_is_refused():
    make.customer(phone="+4915112345678")
    make.customer(phone="+4915112345678")

    recorded = record({"name": "Order paid", "customer": {"phone": "+49 151 12345678"}})

    assert recorded.results[0].code == "customer_ambiguous"
    assert not Event.objects.exists()


def test_a_name_is_of_one_kind_only():
    record({"name": "Product in stock"}, kind=Kind.SYSTEM)

    recorded = record({"name": "Product in stock", "customer": "C-1"})

    assert recorded.results[0].code == "kind_mismatch"
    assert SystemEvent.objects.count() == 1
    assert not Event.objects.exists()


def test_a_system_event_counts_once_for_its_source():
    item = {"id": "1", "name": "Product in stock", "context": {"product_id": 7}}

    assert statuses(record(item, item, kind=Kind.SYSTEM)) == ["accepted", "duplicate"]
    assert statuses(record(item, kind=Kind.SYSTEM)) == ["duplicate"]


def test_a_new_type_registers_itself_unreviewed_with_its_fields():
    record(
        {
            "name": "Order paid",
            "customer": "C-1",
            "context": {
                "amount": 5,
                "paid": True,
                "shop": "Riga",
                "day": "2026-11-20",
                "lines": [1],
                "address": {"city": "Riga", "zip-code": "1"},
                "nothing": None,
            },
        }
    )

    assert EventType.objects.get().is_reviewed is False
    assert dict(EventField.objects.values_list("code", "value_type")) == {
        "amount": "number",
        "paid": "boolean",
        "shop": "string",
        "day": "date",
        "lines": "list",
        "address": "object",
        "address.city": "string",
    }


def test_a_type_keeps_the_type_of_field_it_learnt_first():
    record({"name": "Order paid", "customer": "C-1", "context": {"amount": 5}})
    record({"name": "Order paid", "customer": "C-1", "context": {"amount": "five"}})

    assert EventField.objects.get().value_type == "number"


def test_an_enforced_type_refuses_unknown_fields_and_wrong_types():
    order = make.event_type("Order paid", mode=EventType.Mode.ENFORCED)
    EventField.objects.create(type=order, code="amount", value_type="number")

    recorded = record(
        {"name": "Order paid", "customer": "C-1", "context": {"amount": 5}},
        {"name": "Order paid", "customer": "C-1", "context": {"amount": "5"}},
        {"name": "Order paid", "customer": "C-1", "context": {"sum": 5}},
    )

    assert [result.code for result in recorded.results] == [
        "",
        "field_type",
        "field_unknown",
    ]
    assert RejectedEvent.objects.count() == 2
    assert not EventField.objects.filter(code="sum").exists()


def test_only_awaited_types_go_into_the_queue_and_never_a_backfill(
    django_capture_on_commit_callbacks,
):
    make.event_type("Order paid", is_awaited=True)
    heard = []
    events_recorded.connect(
        lambda **news: heard.append(news), weak=False, dispatch_uid="t"
    )

    with django_capture_on_commit_callbacks(execute=True):
        record({"name": "Product viewed", "customer": "C-1"})
        record({"name": "Order paid", "customer": "C-1", "backfill": True})
    assert (PendingEvent.objects.count(), heard) == (0, [])

    with django_capture_on_commit_callbacks(execute=True):
        record({"name": "Order paid", "customer": "C-1"})
    assert (PendingEvent.objects.count(), len(heard)) == (1, 1)
    events_recorded.disconnect(dispatch_uid="t")


def test_an_awaited_system_event_goes_into_its_queue_once():
    make.event_type("Product in stock", Kind.SYSTEM, is_awaited=True)
    item = {"id": "1", "name": "Product in stock"}

    record(item, kind=Kind.SYSTEM)
    record(item, kind=Kind.SYSTEM)

    assert PendingSystemEvent.objects.count() == 1


@pytest.mark.parametrize("change", ["update", "delete"])
def test_the_database_refuses_to_change_what_happened(change):
    event = make.event(make.customer(), "Order paid")
    system_event = make.system_event("Product in stock")

    for row in (event, system_event):
        rows = type(row).objects.filter(pk=row.pk)
        with (
            pytest.raises(DatabaseError, match="Events never change"),
            transaction.atomic(),
        ):
            rows.update(context={}) if change == "update" else rows._raw_delete(
                "default"
            )
        assert rows.exists()


def test_a_batch_costs_the_same_queries_whatever_its_size():
    def cost(size):
        items = [
            {"id": f"{size}-{i}", "name": "Order paid", "customer": f"C-{size}-{i}"}
            for i in range(size)
        ]
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert record(*items).accepted == size
        return len(queries)

    record({"name": "Order paid", "customer": "C-0"})
    assert cost(2) == cost(200)


def test_the_past_is_welcome_and_the_future_is_not():
    def at(moment):
        sent = {
            "name": "Order paid",
            "customer": "C-1",
            "occurred_at": moment.isoformat(),
        }
        return statuses(record(sent, now=NOW))

    assert at(NOW - timedelta(days=9000)) == ["accepted"]
    assert at(NOW + timedelta(minutes=5)) == ["accepted"]
    assert at(NOW + timedelta(minutes=5, seconds=1)) == ["rejected"]


# Named by contact, and nobody has it


def by_email(email: str, id: str = "1") -> dict:
    return {"id": id, "name": "Order paid", "customer": {"email": email}}


def test_a_long_address_spoils_no_batch_and_is_one_customer():
    """Its stub's ID would be longer than an ID can be."""
    long = f"{'a' * 60}@{'b' * 50}.{'c' * 12}.com"
    longer = f"{'a' * 60}@{'b' * 60}.{'c' * 60}.{'d' * 40}.com"

    first = record(by_email(long), by_email(longer), by_email("b@example.com"))
    again = record(by_email(long, "2"), by_email(longer, "2"))

    assert (first.accepted, again.accepted) == (3, 2)
    assert Customer.objects.count() == 3
    assert set(Customer.objects.values_list("email", flat=True)) == {
        long,
        longer,
        "b@example.com",
    }


def test_an_event_is_not_booked_to_who_had_the_address_before():
    record(by_email("old@example.com"))
    Customer.objects.update(email="new@example.com")

    record(by_email("old@example.com", "2"))
    record(by_email("old@example.com", "3"))

    was, now = Customer.objects.order_by("pk")
    assert (was.email, now.email) == ("new@example.com", "old@example.com")
    assert was.events.count() == 1
    assert now.events.count() == 2


def test_nor_to_whom_that_one_was_merged_into():
    record(by_email("old@example.com"))
    stub = Customer.objects.get()
    kept = make.customer("C-1", email="anna@example.com")
    merge(kept.external_id, stub.external_id, by="test", now=NOW)
    assert Customer.objects.count() == 1

    record(by_email("old@example.com", "2"))

    other = Customer.objects.exclude(pk=kept.pk).get()
    assert other.email == "old@example.com"
    assert other.events.get().external_id == "2"


def test_a_stub_named_by_id_and_by_contact_has_the_contact():
    record(
        by_email("a@example.com"),
        {"id": "2", "name": "Order paid", "customer": "email:a@example.com"},
    )

    assert Customer.objects.get().email == "a@example.com"


def test_an_odd_item_keeps_its_id_and_name():
    text = (
        '{"id": "odd", "name": "Order paid", "customer": "x", "context": {"a": 1e400}}'
    )

    recorded = record(decode_item(text))

    assert recorded.results[0].id == "odd"
    kept = RejectedEvent.objects.get()
    assert (kept.external_id, kept.name, kept.payload) == ("odd", "Order paid", text)

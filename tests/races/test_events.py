"""Many senders at once: one event, and the right answer for each of them."""

from __future__ import annotations

import pytest

from customers.models import Customer
from events import declare
from events.declare import Declaration, Field
from events.ingest import record_events
from events.models import (
    Drift,
    Event,
    EventField,
    EventType,
    Kind,
    PendingEvent,
    SystemEvent,
)
from events.schema import FieldType
from tests import make
from tests.races.together import at_once

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]

ITEM = {"id": "1", "name": "Order paid", "customer": "C-1", "context": {"amount": 5}}


def test_the_same_event_from_many_senders_at_once_is_one_event():
    source = make.source()
    make.event_type("Order paid", is_awaited=True)

    answers = at_once(8, lambda _: record_events([ITEM], source=source))

    assert sorted(answer.results[0].status for answer in answers) == [
        "accepted",
        *["duplicate"] * 7,
    ]
    assert (Event.objects.count(), PendingEvent.objects.count()) == (1, 1)
    assert (Customer.objects.count(), EventType.objects.count()) == (1, 1)
    assert EventField.objects.count() == 1


def test_batches_that_overlap_in_opposite_orders_do_not_lock_each_other_up():
    source = make.source()
    items = [
        {"id": str(i), "name": f"Type {i % 3}", "customer": f"C-{i % 7}"}
        for i in range(200)
    ]

    answers = at_once(
        6,
        lambda n: record_events(items if n % 2 else items[::-1], source=source),
    )

    assert sum(answer.accepted for answer in answers) == 200
    assert sum(answer.duplicates for answer in answers) == 200 * 5
    assert Event.objects.count() == 200
    assert Customer.objects.count() == 7


def test_the_same_system_event_at_once_is_one():
    source = make.source()

    answers = at_once(
        6,
        lambda _: record_events(
            [{"id": "1", "name": "Shop opened"}], source=source, kind=Kind.SYSTEM
        ),
    )

    assert sum(answer.accepted for answer in answers) == 1
    assert SystemEvent.objects.count() == 1


def test_what_differs_in_many_requests_at_once_is_noted_once_and_loses_no_event():
    source = make.source()
    order = make.event_type("Order paid", is_reviewed=True)
    EventField.objects.create(type=order, code="amount", value_type="number")

    def send(number: int) -> int:
        items = [
            {
                "name": "Order paid",
                "customer": f"C-{number}",
                # The new fields come in another order in each of them.
                "context": {f"new_{(i + number) % 5}": "x", "amount": "five"},
            }
            for i in range(20)
        ]
        return record_events(items, source=source).accepted

    assert sum(at_once(8, send)) == 160

    assert Event.objects.count() == 160
    assert Drift.objects.filter(code="amount", what="type_changed").count() == 1
    assert Drift.objects.filter(what="new_field").count() == 5
    assert EventField.objects.count() == 6
    assert not EventField.objects.filter(last_seen_on=None).exclude(code="amount")


def test_a_type_may_be_declared_while_its_first_events_arrive():
    source = make.source()
    context = {"a": "x", "b": {"c": "x"}}

    def work(number: int) -> object:
        if number % 2:
            declaration = Declaration(
                mode=EventType.Mode.WARN,
                fields=(Field("a", FieldType.NUMBER), Field("b.c", FieldType.STRING)),
            )
            return declare.put_type("Order paid", None, declaration)
        items = [
            {"name": "Order paid", "customer": "C-1", "context": context}
            for _ in range(5)
        ]
        return record_events(items, source=source).accepted

    at_once(8, work)

    assert EventType.objects.get().mode == "warn"
    assert Event.objects.count() == 20
    # What was declared stands, whatever was learnt meanwhile.
    assert dict(EventField.objects.values_list("code", "value_type")) == {
        "a": "number",
        "b": "object",
        "b.c": "string",
    }

"""Many senders at once: one event, and the right answer for each of them."""

from __future__ import annotations

import pytest

from customers.models import Customer
from events.ingest import record_events
from events.models import Event, EventField, EventType, Kind, PendingEvent, SystemEvent
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

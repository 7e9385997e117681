"""Rejected events: fix the cause, replay, and nothing is lost or doubled."""

from __future__ import annotations

import pytest

from events.ingest import record_events
from events.models import Event, EventField, EventType, RejectedEvent, Source
from events.replays import replay
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

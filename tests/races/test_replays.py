"""Rejected events, replayed by several at once: each is recorded once."""

from __future__ import annotations

import pytest
from django.utils import timezone

from customers.models import Customer
from events import replays
from events.ingest import record_events
from events.models import (
    Event,
    EventField,
    FieldMapping,
    PendingEvent,
    RejectedEvent,
    Replay,
    Source,
)
from events.rejects import Which
from tests import make
from tests.races.together import at_once

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]

COUNT = 120


@pytest.fixture
def mended(monkeypatch):
    """Events without ids, which nothing but the replay itself keeps apart."""
    monkeypatch.setattr(replays, "MAX_ITEMS", 25)
    make.event_type("Order paid", is_awaited=True)
    items = [
        {"name": "Order paid", "customer": f"C-{i % 9}", "context": {"price-eur": i}}
        for i in range(COUNT)
    ]
    assert record_events(items, source=make.source()).rejected == COUNT
    FieldMapping.objects.create(sent="price-eur", code="price_eur")


def recorded_once():
    assert Event.objects.count() == COUNT
    assert PendingEvent.objects.count() == COUNT
    prices = Event.objects.values_list("context__price_eur", flat=True)
    assert sorted(prices) == list(range(COUNT))
    rows = RejectedEvent.objects.all()
    assert {row.status for row in rows} == {"replayed"}
    assert {row.stored_id for row in rows} == set(
        Event.objects.values_list("pk", flat=True)
    )
    assert EventField.objects.count() == 1


def test_two_who_replay_the_same_events_record_each_of_them_once(mended):
    done = at_once(4, lambda _: replays.replay(RejectedEvent.objects.all()))

    assert sum(one.accepted for one in done) == COUNT
    assert sum(one.duplicates + one.rejected for one in done) == 0
    recorded_once()


def test_several_replays_of_the_same_events_add_up(mended):
    done = at_once(
        4,
        lambda n: replays.begin_replay(
            Which(), by=str(n), now=timezone.now(), patience=60
        ),
    )

    assert {one.status for one in done} == {"done"}
    assert sum(one.accepted for one in done) == COUNT
    assert sum(one.duplicates + one.rejected for one in done) == 0
    recorded_once()


def test_several_workers_on_one_replay_take_turns(mended):
    asked = replays.begin_replay(Which(), by="demo", now=timezone.now(), patience=0)

    def work(_):
        for _ in range(200):
            replays.advance_replays()
            if not Replay.objects.filter(status="waiting").exists():
                return

    at_once(4, work)

    asked.refresh_from_db()
    assert (asked.status, asked.accepted, asked.handled) == ("done", COUNT, COUNT)
    recorded_once()


def test_replays_and_senders_with_the_same_ids_and_strangers_make_each_once(
    monkeypatch,
):
    monkeypatch.setattr(replays, "MAX_ITEMS", 25)
    source = make.source(unknown_customers=Source.UnknownCustomers.REJECT)
    items = [
        {"id": str(i), "name": f"Type {i % 3}", "customer": f"C-{i % 9}"}
        for i in range(COUNT)
    ]
    assert record_events(items, source=source).rejected == COUNT
    source.unknown_customers = Source.UnknownCustomers.CREATE

    def work(number):
        if number % 2:
            record_events(items[::-1], source=source)
        else:
            replays.replay(RejectedEvent.objects.all(), create_customers=True)

    at_once(6, work)

    assert Event.objects.count() == COUNT
    assert Customer.objects.count() == 9
    assert not RejectedEvent.objects.filter(status="open").exists()


def test_without_the_lock_on_the_rows_they_would_be_taken_twice(mended, monkeypatch):
    """The race is real: what the tests above would see."""
    monkeypatch.setattr(
        "django.db.models.query.QuerySet.select_for_update",
        lambda self, **more: self,
    )
    monkeypatch.setattr(replays.uuid, "uuid5", lambda *args: replays.uuid.uuid4())

    at_once(4, lambda _: replays.replay(RejectedEvent.objects.all()))

    assert Event.objects.count() > COUNT

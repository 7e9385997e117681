"""Dry runs beside real requests: neither spoils the other."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest
from django.db import connection, transaction

from customers.models import Customer
from events import sandbox, schema
from events.ingest import record_events
from events.models import Drift, Event, EventField, EventType
from events.sandbox import Busy, try_events
from tests import make
from tests.races.together import at_once

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]

ITEM = {"id": "1", "name": "Order paid", "customer": "C-1", "context": {"amount": 5}}


@pytest.fixture(autouse=True)
def forget() -> None:
    """Types of other tests, which are in no table any more."""
    schema.forget_known()


def test_dry_runs_among_real_requests_change_nothing_about_them():
    source = make.source()

    def send_or_try(number: int) -> str:
        if number % 2:
            return record_events([ITEM], source=source).results[0].status
        try:
            try_events([ITEM], source=source)
        except Busy:
            return "busy"
        return "tried"

    answers = Counter(at_once(16, send_or_try))

    assert (answers["accepted"], answers["duplicate"]) == (1, 7)
    assert answers["tried"] + answers["busy"] == 8
    assert Event.objects.count() == Customer.objects.count() == 1
    assert EventType.objects.count() == EventField.objects.count() == 1


def test_what_a_process_knows_of_a_type_is_not_learnt_from_a_trial():
    """Otherwise it would take drift and days for told that were taken back."""
    source = make.source()
    price = EventField.objects.create(
        type=make.event_type("Order paid", mode="warn"),
        code="price",
        value_type="number",
    )
    record_events([{**ITEM, "context": {}}], source=source)
    odd = {**ITEM, "id": "2", "context": {"price": 1, "amount": "x", "new": 1}}

    try_events([odd], source=source)

    assert not Drift.objects.exists()
    record_events([odd], source=source)
    assert set(Drift.objects.values_list("code", "what")) == {
        ("amount", Drift.What.NEW_FIELD),
        ("new", Drift.What.NEW_FIELD),
    }
    price.refresh_from_db()
    assert price.last_seen_on is not None


def test_a_dry_run_waits_a_second_for_the_same_event_and_gives_up():
    source = make.source()
    make.event(make.customer("C-1"), "Order paid", amount=1)
    stored, tried = threading.Event(), threading.Event()

    def store(_: int) -> None:
        with transaction.atomic():
            record_events([ITEM], source=source)
            stored.set()
            assert tried.wait(20)

    def try_it(_: int) -> tuple[str, float]:
        assert stored.wait(20)
        began = time.monotonic()
        try:
            try_events([ITEM], source=source)
        except Busy as error:
            return error.code, time.monotonic() - began
        finally:
            tried.set()
        return "told", 0.0

    _, (code, took) = at_once(2, lambda n: try_it(n) if n else store(n))

    assert code == "dry_run_busy"
    assert took < 3
    # The connection is as it was: no limit of the trial is left on it.
    with connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("0",)
    assert Event.objects.filter(external_id="1").count() == 1


def test_a_real_event_waits_for_a_trial_of_the_same_and_is_stored(monkeypatch):
    source = make.source()
    make.event(make.customer("C-1"), "Order paid", amount=1)
    standing = threading.Event()

    def slow(coming: Any, trial: Any) -> Any:
        def after(stored: Any) -> list[Any]:
            standing.set()
            time.sleep(0.5)
            return []

        return after

    monkeypatch.setitem(sandbox._looks, "campaigns", ("campaigns", slow))

    def send(_: int) -> str:
        assert standing.wait(20)
        return record_events([ITEM], source=source).results[0].status

    def try_it(_: int) -> str:
        return try_events([ITEM], source=source).results[0].status

    assert at_once(2, lambda n: send(n) if n else try_it(n)) == ["accepted", "accepted"]
    assert Event.objects.filter(external_id="1").count() == 1

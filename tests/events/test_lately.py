"""What a source sent in the last day: a short one is counted, a long one sampled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from events import lately as module
from events.ingest import record_events
from events.lately import Lately, lately
from events.models import Kind
from tests import make

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def send(
    source: str, number: int, *, at: datetime = NOON, kind: Kind = Kind.CUSTOMER
) -> None:
    item: dict[str, Any] = {"name": f"{kind} event"}
    if kind == Kind.CUSTOMER:
        item["customer"] = "C-1"
    done = record_events([item] * number, source=make.source(source), kind=kind, now=at)
    assert done.accepted == number


def of(source: str, *, at: datetime = NOON) -> Lately:
    return lately(make.source(source), now=at)


def test_a_source_that_sent_nothing_is_told_so():
    found = of("shop")

    assert (str(found.events), str(found.system_events)) == ("0", "0")
    assert (found.rejected.number, found.last_at, found.ago) == (0, None, "")


def test_the_events_of_a_day_are_counted_by_source():
    yesterday = NOON - timedelta(hours=25)
    send("shop", 4, at=yesterday)
    send("till", 5, at=NOON - timedelta(hours=3))
    send("shop", 2, at=NOON - timedelta(hours=2))
    send("shop", 3, kind=Kind.SYSTEM, at=NOON - timedelta(hours=1))

    shop, till = of("shop"), of("till")

    assert (str(shop.events), str(shop.system_events)) == ("2", "3")
    assert shop.last_at == NOON - timedelta(hours=1)
    assert shop.ago == "60 minutes ago"
    assert (str(till.events), str(till.system_events)) == ("5", "0")


def test_an_older_last_event_is_found_at_the_end_of_the_journal():
    send("shop", 1, at=NOON - timedelta(days=5))

    found = of("shop")

    assert str(found.events) == "0"
    assert found.ago == "5 days ago"


def test_what_was_rejected_and_waits_is_counted():
    record_events([{"name": ""}] * 3, source=make.source("shop"))
    record_events([{"name": ""}], source=make.source("till"))

    assert str(of("shop").rejected) == "3"


def test_of_a_long_day_a_sample_is_taken(monkeypatch):
    monkeypatch.setattr(module, "COUNTED", 100)
    monkeypatch.setattr(module, "DRAWN", 200)
    send("shop", 300)
    send("till", 100)

    shop, till = of("shop").events, of("till").events

    assert not shop.is_exact
    assert str(shop).startswith("about ")
    assert 220 <= shop.number <= 380
    assert 40 <= till.number <= 160
    assert shop.last_at == NOON


def test_of_a_source_that_was_hardly_drawn_is_told_what_it_is_below(monkeypatch):
    monkeypatch.setattr(module, "COUNTED", 100)
    monkeypatch.setattr(module, "DRAWN", 200)
    send("shop", 399)
    make.source("till")

    none = of("till").events

    assert str(none) == "fewer than 6"
    assert none.last_at is None


def test_a_longer_day_costs_no_more_queries(monkeypatch):
    monkeypatch.setattr(module, "COUNTED", 100)
    monkeypatch.setattr(module, "DRAWN", 50)
    send("shop", 200)

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            of("shop")
        return len(captured)

    few = queries()
    send("shop", 800)

    # Finding where the day begins takes one more look for each doubling.
    assert queries() <= few + 3

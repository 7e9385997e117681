"""Segment's own library, pointed at us: nothing else is changed in its user's code."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from django.db import OperationalError
from rest_framework.exceptions import Throttled
from segment.analytics import request as wire
from segment.analytics.client import Client
from segment.analytics.request import APIError

from customers.models import Customer, FormerId
from events.compat import api
from events.keys import create_key
from events.models import Event, RejectedEvent, Scope
from tests import make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture(autouse=True)
def connections(monkeypatch):
    """The library keeps its connections for ever; here they end with the test."""
    with requests.Session() as session:
        monkeypatch.setattr(wire, "_session", session)
        yield


@pytest.fixture
def key() -> str:
    return create_key(make.source("website"), [Scope.EVENTS, Scope.CUSTOMERS])[1]


@pytest.fixture
def client(key, live_server):
    """Every call is one request, and a refusal an exception."""
    return Client(key, host=live_server.url, sync_mode=True)


@pytest.fixture
def background(key, live_server):
    """As it is used: a thread sends compressed batches."""
    failures: list[Any] = []
    client = Client(
        key,
        host=live_server.url,
        gzip=True,
        upload_interval=0.2,
        on_error=lambda error, batch: failures.append(error),
    )
    yield client
    client.shutdown()
    assert failures == []


def history(external_id: str) -> list[tuple[str, dict]]:
    rows = Event.objects.filter(customer__external_id=external_id).order_by("pk")
    return list(rows.values_list("type__name", "context"))


def test_every_call_of_the_library_arrives(client):
    client.page(
        anonymous_id="a-1", name="Sale", properties={"url": "https://x.example"}
    )
    client.identify(
        "C-1",
        anonymous_id="a-1",
        traits={
            "email": "anna@example.com",
            "firstName": "Anna",
            "createdAt": datetime(2024, 1, 2, 10, tzinfo=UTC),
            "address": {"city": "Berlin", "country": "DE"},
            "Loyalty Level": 3,
        },
    )
    client.track("C-1", "Order paid", {"Order ID": 8812, "price": 49.9})
    client.group("C-1", "g-7", {"name": "Initech"})
    client.screen("C-1", "Shop", "Basket")
    client.alias("old-1", "C-1")
    client.track("old-1", "Order sent")

    anna = Customer.objects.get()
    assert (anna.external_id, anna.email, anna.first_name, anna.city, anna.country) == (
        "C-1",
        "anna@example.com",
        "Anna",
        "Berlin",
        "DE",
    )
    assert anna.registered_at == datetime(2024, 1, 2, 10, tzinfo=UTC)
    assert anna.attributes == {
        "Loyalty_Level": 3,
        "group_id": "g-7",
        "group_name": "Initech",
    }
    assert history("C-1") == [
        ("Page viewed", {"url": "https://x.example", "name": "Sale"}),
        ("Order paid", {"Order_ID": 8812, "price": 49.9}),
        ("Screen viewed", {"name": "Basket", "category": "Shop"}),
        ("Order sent", {}),
    ]
    assert {*FormerId.objects.values_list("external_id", flat=True)} == {
        "anon:a-1",
        "old-1",
    }
    assert not RejectedEvent.objects.exists()


def test_the_id_and_the_time_of_a_message_are_those_the_library_chose(client):
    at = datetime(2020, 5, 17, 12, 0, tzinfo=UTC)

    _, sent = client.track("C-1", "Order paid", timestamp=at, message_id="m-1")

    event = Event.objects.get()
    assert event.external_id == sent["messageId"] == "m-1"
    # Corrected by how long it was under way.
    assert timedelta() <= event.occurred_at - at < timedelta(seconds=5)


def test_a_naive_time_is_sent_by_the_library_as_utc(client):
    client.track("C-1", "Order paid", timestamp=datetime(2020, 5, 17, 12, 0))  # noqa: DTZ001

    at = Event.objects.get().occurred_at
    assert at.replace(microsecond=0, second=0) == datetime(2020, 5, 17, 12, tzinfo=UTC)


def test_a_client_whose_clock_is_wrong_tells_the_right_time(client, monkeypatch):
    now = datetime.now(UTC)
    wrong = now + timedelta(days=400)
    real = wire._session.post

    def post_by_the_wrong_clock(url: str, *, data: str, **more: Any) -> Any:
        body = json.loads(data) | {"sentAt": wrong.isoformat()}
        return real(url, data=json.dumps(body), **more)

    monkeypatch.setattr(wire._session, "post", post_by_the_wrong_clock)
    client.track("C-1", "Order paid", timestamp=wrong - timedelta(hours=1))

    off = Event.objects.get().occurred_at - (now - timedelta(hours=1))
    assert abs(off) < timedelta(seconds=5)


def test_a_refusal_reaches_the_user_of_the_library(client):
    client.write_key = "sck_wrong"

    with pytest.raises(APIError) as caught:
        client.track("C-1", "Order paid")

    assert (caught.value.status, caught.value.code) == (401, "key_refused")
    assert "not known" in caught.value.message


def test_a_thread_sends_everything_compressed(background):
    for number in range(1_000):
        background.identify(f"C-{number % 50}", {"visits": number})
        background.track(f"C-{number % 50}", "Order paid", {"number": number})
    background.flush()

    assert Event.objects.count() == 1_000
    assert Customer.objects.count() == 50
    assert {
        row["number"] for row in Event.objects.values_list("context", flat=True)
    } == set(range(1_000))
    assert not RejectedEvent.objects.exists()


def lost_answer() -> Exception:
    return OperationalError("The connection was cut.")


def too_many() -> Exception:
    return Throttled(wait=1)


@pytest.mark.parametrize("failure", [lost_answer, too_many, RuntimeError])
@pytest.mark.parametrize("stored", [True, False])
def test_what_is_sent_again_counts_once(background, monkeypatch, failure, stored):
    """Both ways to fail: before it is stored, and after, with the answer lost."""
    real, calls = api.record_messages, Counter()

    def fail_once(*args: Any, **more: Any) -> Any:
        calls["all"] += 1
        if calls["all"] > 1:
            return real(*args, **more)
        if stored:
            real(*args, **more)
        raise failure()

    monkeypatch.setattr(api, "record_messages", fail_once)
    for number in range(20):
        background.identify("C-1", {"visits": number})
        background.track("C-1", "Order paid", {"number": number})
    background.flush()

    assert calls["all"] > 1
    assert Event.objects.count() == 20
    assert Customer.objects.get().attributes == {"visits": 19}


def test_one_bad_message_does_not_cost_a_batch(background):
    background.track("C-1", "Order paid", {"цена": 1})
    background.track("C-1", "Order paid", {"price": 1})
    background.flush()

    assert history("C-1") == [("Order paid", {"price": 1})]
    assert RejectedEvent.objects.get().code == "field_code_invalid"

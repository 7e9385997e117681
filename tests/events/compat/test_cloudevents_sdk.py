"""The CloudEvents project's own library, against a server that runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from cloudevents.core.bindings.http import (
    HTTPMessage,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from events.keys import create_key
from events.models import Event, RejectedEvent, Scope, SystemEvent
from tests import make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

AT = datetime(2026, 11, 20, 7, 15, tzinfo=UTC)
MODES = {"binary": to_binary_event, "structured": to_structured_event}


@pytest.fixture
def send(live_server):
    _, key = create_key(make.source("shop"), [Scope.EVENTS])

    def post(message: HTTPMessage) -> requests.Response:
        return requests.post(
            f"{live_server.url}/api/v1/cloudevents",
            headers={**message.headers, "Authorization": f"Bearer {key}"},
            data=message.body,
            timeout=10,
        )

    return post


def paid(id: str = "8812", data: Any = None, **more: Any) -> CloudEvent:
    attributes = {
        "id": id,
        "source": "/shop/orders",
        "type": "Order paid",
        "subject": "C-1",
        "time": AT,
        "datacontenttype": "application/json",
        **more,
    }
    return CloudEvent(attributes, {"price": 49.9} if data is None else data)


@pytest.mark.parametrize("mode", MODES)
def test_an_event_of_the_library_arrives(send, mode):
    response = send(MODES[mode](paid()))

    assert response.status_code == 202, response.text
    event = Event.objects.get()
    assert (event.type.name, event.customer.external_id) == ("Order paid", "C-1")
    assert (event.external_id, event.occurred_at) == ("/shop/orders#8812", AT)
    assert event.context == {"price": 49.9}


@pytest.mark.parametrize("mode", MODES)
def test_words_of_all_languages_arrive(send, mode):
    event = paid(
        type="Заказ “оплачен” 100 % 😀",
        subject="Größe-7",
        data={"name": "Сумка"},
        source="/магазин?a=1#b",
    )

    response = send(MODES[mode](event))

    assert response.status_code == 202, response.text
    stored = Event.objects.get()
    assert stored.type.name == "Заказ “оплачен” 100 % 😀"
    assert stored.customer.external_id == "Größe-7"
    assert stored.external_id == "/магазин?a=1%23b#8812"
    assert stored.context == {"name": "Сумка"}


def test_a_batch_of_the_library_arrives(send):
    events = [paid(str(number), {"number": number}) for number in range(100)]
    written = [JSONFormat().write(event) for event in events]

    # The library writes events, and leaves the array to its user.
    batch = HTTPMessage(
        {"content-type": "application/cloudevents-batch+json"},
        b"[" + b",".join(written) + b"]",
    )
    first, second = send(batch), send(batch)

    assert (first.json()["accepted"], second.json()["duplicates"]) == (100, 100)
    assert Event.objects.count() == 100


@pytest.mark.parametrize("mode", MODES)
def test_an_event_of_nobodys_is_the_systems(send, mode):
    told = {"type": "Product in stock", "source": "/stock", "id": "77"}
    event = CloudEvent(
        told | {"datacontenttype": "application/json"}, {"product_id": 77}
    )

    assert send(MODES[mode](event)).status_code == 202
    assert SystemEvent.objects.get().context == {"product_id": 77}


@pytest.mark.parametrize("mode", MODES)
def test_sent_in_both_modes_it_counts_once(send, mode):
    send(MODES[mode](paid()))

    for other in MODES.values():
        assert send(other(paid())).json()["duplicates"] == 1
    assert Event.objects.count() == 1


@pytest.mark.parametrize("mode", MODES)
def test_extensions_say_whose_and_that_it_is_past(send, mode):
    event = paid(customer="C-2", backfill=True, traceparent="00-4bf9-01")

    if mode == "binary":
        event = paid(customer="C-2", backfill="true", traceparent="00-4bf9-01")
    response = send(MODES[mode](event))

    assert response.status_code == 202, response.text
    stored = Event.objects.get()
    assert (stored.customer.external_id, stored.is_backfill) == ("C-2", True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("type", "data", "code"),
    [
        ("text/plain", "hello", "data_unsupported"),
        ("application/octet-stream", b"\xff\x00", "data_unsupported"),
        ("application/json", {"price-eur": 1}, "field_code_invalid"),
    ],
)
def test_data_that_is_no_context_is_refused_and_kept(send, mode, type, data, code):
    response = send(MODES[mode](paid(data=data, datacontenttype=type)))

    assert response.status_code == 422
    assert response.json()["results"][0]["code"] == code
    assert RejectedEvent.objects.get().code == code


@pytest.mark.parametrize("mode", MODES)
def test_bytes_that_are_json_are_read_as_json(send, mode):
    response = send(MODES[mode](paid(data=b'{"price": 49.9}')))

    assert response.status_code == 202, response.text
    assert Event.objects.get().context == {"price": 49.9}

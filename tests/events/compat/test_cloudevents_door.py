"""CloudEvents at the door: three modes, one answer."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events.models import Event, Format, Kind, RejectedEvent, SystemEvent
from events.replays import replay
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

EVENT = {
    "specversion": "1.0",
    "id": "8812",
    "source": "/shop/orders",
    "type": "Order paid",
    "subject": "C-1",
    "time": "2026-11-20T10:15:00+03:00",
    "data": {"price": 49.9},
}
ONE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json; charset=utf-8"


@pytest.fixture
def api() -> Api:
    return Api("events:write")


def post(api: Api, body: Any, *, type: str = ONE, **more: Any) -> Any:
    return api.post("/cloudevents", body, type=type, **more)


def binary(
    api: Api, body: bytes, *, type: str = "application/json", **told: str
) -> Any:
    attributes = {"specversion": "1.0", "id": "8812", "source": "/shop", "type": "Paid"}
    headers = {f"ce-{name}": value for name, value in (attributes | told).items()}
    return api.post("/cloudevents", raw=body, type=type, **headers)


def test_one_in_structured_mode(api):
    response = post(api, EVENT)

    assert response.status_code == 202
    assert response.json() == {
        "accepted": 1,
        "duplicates": 0,
        "rejected": 0,
        "results": [{"index": 0, "id": "/shop/orders#8812", "status": "accepted"}],
    }
    event = Event.objects.get()
    assert event.type.name == "Order paid"
    assert event.customer.external_id == "C-1"
    assert event.context == {"price": 49.9}
    assert event.occurred_at.isoformat() == "2026-11-20T07:15:00+00:00"


def test_one_in_binary_mode(api):
    response = binary(api, b'{"price": 49.9}', subject="C-%E2%82%AC")

    assert response.status_code == 202
    event = Event.objects.get()
    assert (event.customer.external_id, event.context) == ("C-€", {"price": 49.9})


def test_one_in_binary_mode_without_data(api):
    assert binary(api, b"", subject="C-1", type="").status_code == 202
    assert Event.objects.get().context == {}


def test_many_in_batch_mode_of_customers_and_of_the_system(api):
    stock = {key: EVENT[key] for key in ("specversion", "source")}
    stock |= {"id": "s-1", "type": "Product in stock"}

    response = post(
        api,
        [EVENT, stock, EVENT, EVENT | {"id": "8813", "data": {"price-eur": 1}}],
        type=BATCH,
    )

    assert response.status_code == 202
    told = response.json()
    assert (told["accepted"], told["duplicates"], told["rejected"]) == (2, 1, 1)
    assert [(one["index"], one["id"], one["status"]) for one in told["results"]] == [
        (0, "/shop/orders#8812", "accepted"),
        (1, "/shop/orders#s-1", "accepted"),
        (2, "/shop/orders#8812", "duplicate"),
        (3, "/shop/orders#8813", "rejected"),
    ]
    assert told["results"][3]["field"] == "context.price-eur"
    assert Event.objects.get().external_id == "/shop/orders#8812"
    assert SystemEvent.objects.get().type.name == "Product in stock"


def test_an_empty_batch_says_nothing(api):
    response = post(api, [], type=BATCH)

    assert response.status_code == 202
    assert response.json()["results"] == []


def test_sent_again_in_another_mode_it_is_a_duplicate(api):
    post(api, EVENT)

    response = binary(
        api, b"{}", source="/shop/orders", type_="x", subject="C-1", id="8812"
    )

    assert response.json()["duplicates"] == 1
    assert Event.objects.count() == 1


def test_the_same_id_of_two_sources_is_two_events(api):
    post(api, EVENT)
    post(api, EVENT | {"source": "/call-centre"})

    assert Event.objects.count() == 2


def test_when_every_one_is_rejected_it_is_422_and_they_are_kept_as_they_came(api):
    sent = EVENT | {"data": {"price-eur": 1}}

    response = post(api, [sent], type=BATCH)

    assert response.status_code == 422
    assert response.json()["rejected"] == 1
    kept = RejectedEvent.objects.get()
    assert (kept.format, kept.name, kept.external_id, kept.code) == (
        Format.CLOUDEVENTS,
        "Order paid",
        "/shop/orders#8812",
        "field_code_invalid",
    )
    assert json.loads(kept.payload) == sent
    assert not Event.objects.exists()


@pytest.mark.parametrize(
    ("body", "type", "code"),
    [
        (b"<a/>", "application/xml", "data_unsupported"),
        (b"{", "application/json", "data_not_json"),
        (b"\xff", "application/json", "data_not_json"),
    ],
)
def test_data_that_cannot_be_read_is_kept_to_the_byte(api, body, type, code):
    response = binary(api, body, type=type, subject="C-1")

    assert response.status_code == 422
    assert response.json()["results"][0]["code"] == code
    kept = json.loads(RejectedEvent.objects.get().payload)
    assert base64.b64decode(kept["data_base64"]) == body
    assert kept["subject"] == "C-1"


def test_a_refused_event_is_read_again_as_what_it_was(api):
    binary(api, b'{"price-eur": 1}', kind="system", subject="shelf-7")
    kept = RejectedEvent.objects.get()
    assert kept.kind == Kind.SYSTEM
    kept.payload = json.dumps(json.loads(kept.payload) | {"data": {"price_eur": 1}})
    kept.save()

    with time_machine.travel(kept.received_at + timedelta(days=1)):
        assert replay(RejectedEvent.objects.all()).accepted == 1
    stored = SystemEvent.objects.get()
    assert stored.context == {"price_eur": 1}
    assert abs(stored.occurred_at - kept.received_at).total_seconds() < 5


def test_an_item_that_cannot_be_held_spoils_no_other(api):
    raw = f'[{json.dumps(EVENT)}, {{"id": "1", "id": "2"}}, 7]'.encode()

    response = api.post("/cloudevents", raw=raw, type=BATCH)

    assert response.status_code == 202
    assert [one.get("code") for one in response.json()["results"]] == [
        None,
        "key_duplicate",
        "not_an_object",
    ]
    assert RejectedEvent.objects.count() == 2


def test_a_name_of_the_other_kind_is_refused(api):
    post(api, EVENT)

    response = post(api, EVENT | {"subject": "", "id": "8813"})

    assert response.json()["results"][0]["code"] == "kind_mismatch"


def test_a_body_may_be_compressed(api):
    raw = gzip.compress(json.dumps(EVENT).encode())

    response = api.post(
        "/cloudevents", raw=raw, type=ONE, **{"Content-Encoding": "gzip"}
    )

    assert response.status_code == 202


@pytest.mark.parametrize(
    ("raw", "type", "status", "code"),
    [
        (b" ", ONE, 400, "not_json"),
        (b"{", ONE, 400, "not_json"),
        (b"\xff", ONE, 400, "not_json"),
        (b" ", BATCH, 400, "not_json"),
        (b"[", BATCH, 400, "not_json"),
        (b'[], "more": []', BATCH, 400, "not_json"),
        (b"{}", BATCH, 422, "not_a_list"),
        (b"[%s1]" % (b"1," * 1_000), BATCH, 413, "too_many_items"),
        (b"[" + b"1" * (5 * 2**20) + b"]", BATCH, 413, "too_large"),
        (b"{}", "application/json", 415, "not_a_cloudevent"),
        (b"{}", "application/cloudevents+avro", 415, "not_a_cloudevent"),
        (b"{}", "", 415, "not_a_cloudevent"),
    ],
)
def test_what_is_no_cloudevent_is_refused(api, raw, type, status, code):
    response = api.post("/cloudevents", raw=raw, type=type)

    problem(response, status, code)
    assert not RejectedEvent.objects.exists()


TEXTS = ["", "\x00", "\ud83d", "null", "C-1", "x" * 300, "2026-11-20T24:00:00Z"]
WORDS = ["bm8=", "application/json", "1.0", "system"]
OBJECTS = [{}, {"a\x00": 1}, {"\ud83d": [1]}, {"a b": 1}]
NAMES = [*EVENT, "datacontenttype", "data_base64", "customer", "kind", "backfill"]
odd = st.sampled_from([*TEXTS, *WORDS, *OBJECTS, 0, 10**400, 1e300, True, None, []])
changes = st.dictionaries(st.sampled_from(NAMES), odd, max_size=4)


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(odd | changes.map(lambda change: EVENT | change), max_size=4))
def test_nothing_that_can_be_sent_is_a_fault_or_lost(api, sent):
    before = RejectedEvent.objects.count()

    response = api.post("/cloudevents", raw=json.dumps(sent).encode(), type=BATCH)

    assert response.status_code in (202, 422), response.content
    told = response.json()
    assert len(told["results"]) == len(sent)
    assert RejectedEvent.objects.count() - before == told["rejected"]

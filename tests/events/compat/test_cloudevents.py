"""What a CloudEvent becomes: read from the event, without a database."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.compat import cloudevents
from events.compat.cloudevents import id_of, kind_of, translate
from events.models import Kind
from events.wire import MAX_ID, Refusal, read_item

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
EVENT = {
    "specversion": "1.0",
    "id": "8812",
    "source": "/shop/orders",
    "type": "Order paid",
    "subject": "C-1",
    "time": "2026-11-20T10:15:00+03:00",
    "data": {"price": 49.9},
}


def without(*names: str) -> dict:
    return {key: value for key, value in EVENT.items() if key not in names}


def refusal(event: object) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        read_item(translate(event), kind=kind_of(event), now=NOW)
    return caught.value.code, caught.value.field


def test_a_cloudevent_is_an_event_of_its_subject():
    assert translate(EVENT) == {
        "id": "/shop/orders#8812",
        "name": "Order paid",
        "customer": "C-1",
        "occurred_at": "2026-11-20T10:15:00+03:00",
        "context": {"price": 49.9},
        "backfill": None,
    }


@pytest.mark.parametrize(
    ("event", "kind", "customer"),
    [
        (EVENT, Kind.CUSTOMER, "C-1"),
        (EVENT | {"customer": "C-2"}, Kind.CUSTOMER, "C-2"),
        (without("subject"), Kind.SYSTEM, None),
        (EVENT | {"subject": ""}, Kind.SYSTEM, None),
        (EVENT | {"kind": "system"}, Kind.SYSTEM, None),
        (EVENT | {"kind": "customer"}, Kind.CUSTOMER, "C-1"),
    ],
)
def test_an_event_that_names_no_customer_is_the_systems(event, kind, customer):
    assert kind_of(event) == kind
    item = read_item(translate(event), kind=kind, now=NOW)
    assert item.customer == (("external_id", customer) if customer else None)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ([], ("not_an_object", "")),
        (without("specversion"), ("attribute_missing", "specversion")),
        (without("id"), ("attribute_missing", "id")),
        (without("source"), ("attribute_missing", "source")),
        (without("type"), ("attribute_missing", "type")),
        (EVENT | {"id": ""}, ("attribute_missing", "id")),
        (EVENT | {"id": 8812}, ("attribute_invalid", "id")),
        (EVENT | {"specversion": "0.3"}, ("specversion_unsupported", "specversion")),
        (EVENT | {"kind": "all"}, ("attribute_invalid", "kind")),
        (EVENT | {"subject": 7}, ("customer_invalid", "customer")),
        (without("subject") | {"kind": "customer"}, ("customer_missing", "customer")),
        (EVENT | {"type": "x" * 129}, ("name_too_long", "name")),
        (EVENT | {"time": "2026-11-20T10:15:00"}, ("occurred_at_naive", "occurred_at")),
        (EVENT | {"data": [1]}, ("data_invalid", "data")),
        (EVENT | {"data": "text"}, ("data_invalid", "data")),
        (
            EVENT | {"data": "<a/>", "datacontenttype": "application/xml"},
            ("data_unsupported", "datacontenttype"),
        ),
        (EVENT | {"data_base64": "e30="}, ("data_invalid", "data_base64")),
        (without("data") | {"data_base64": "%%"}, ("data_not_json", "data")),
        (without("data") | {"data_base64": "/w=="}, ("data_not_json", "data")),
        (
            EVENT | {"data": {"price-eur": 1}},
            ("field_code_invalid", "context.price-eur"),
        ),
        (EVENT | {"backfill": "perhaps"}, ("backfill_invalid", "backfill")),
    ],
)
def test_an_event_that_cannot_be_read_is_refused_for_a_reason(event, told):
    assert refusal(event) == told


@pytest.mark.parametrize("type", ["application/json", "text/json; charset=utf-8", None])
@pytest.mark.parametrize("name", ["data", "data_base64"])
def test_json_is_read_whichever_way_it_is_written(type, name):
    data = {"price": 49.9}
    encoded = base64.b64encode(json.dumps(data).encode()).decode()
    event = without("data") | {name: data if name == "data" else encoded}
    event |= {"datacontenttype": type} if type else {}

    assert translate(event)["context"] == data


def test_an_event_may_have_no_data():
    assert (
        read_item(translate(without("data")), kind=Kind.CUSTOMER, now=NOW).context == {}
    )


@pytest.mark.parametrize(
    ("value", "told"), [(True, True), ("true", True), ("false", False), (None, False)]
)
def test_the_past_can_be_told_in_json_and_in_a_header(value, told):
    item = read_item(
        translate(EVENT | {"backfill": value}), kind=Kind.CUSTOMER, now=NOW
    )

    assert item.backfill is told


def test_attributes_of_other_extensions_do_no_harm():
    event = EVENT | {"traceparent": "00-4bf9-01", "partitionkey": "7"}

    assert translate(event) == translate(EVENT)


# The id


@pytest.mark.parametrize(
    ("source", "id", "told"),
    [
        ("/shop", "1", "/shop#1"),
        ("/shop#a", "1", "/shop%23a#1"),
        ("/shop%23a", "1", "/shop%2523a#1"),
        ("/shop", "a#1", "/shop#a#1"),
    ],
)
def test_source_and_id_make_one_id_that_can_be_read(source, id, told):
    assert id_of(source, id) == told


texts = st.text(alphabet="a#%2 35", max_size=8) | st.text(min_size=90, max_size=220)


@given(texts, texts, texts, texts)
def test_no_two_pairs_make_the_same_id(source, id, other_source, other_id):
    same = (source, id) == (other_source, other_id)

    assert (id_of(source, id) == id_of(other_source, other_id)) == same
    assert len(id_of(source, id)) <= MAX_ID


# Binary mode


def meta(**attributes: str) -> dict[str, str]:
    told = {"specversion": "1.0", "id": "8812", "source": "/shop", "type": "Paid"}
    return {"CONTENT_TYPE": "application/json"} | {
        f"HTTP_CE_{name.upper()}": value for name, value in (told | attributes).items()
    }


def test_headers_and_a_body_are_put_together():
    assert cloudevents.from_binary(meta(subject="C-1"), b'{"price": 49.9}') == {
        "specversion": "1.0",
        "id": "8812",
        "source": "/shop",
        "type": "Paid",
        "subject": "C-1",
        "datacontenttype": "application/json",
        "data": {"price": 49.9},
    }


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ('"quoted"', "quoted"),
        ('"a \\"b\\" \\\\ c"', 'a "b" \\ c'),
        ("Größe".encode().decode("latin-1"), "Größe"),
        ("100%25", "100%"),
        ("100%", "100%"),
    ],
)
def test_headers_are_decoded_as_the_specification_has_it(header, value):
    assert cloudevents.from_binary(meta(subject=header), b"")["subject"] == value


def test_a_header_that_is_no_utf_8_is_refused_and_can_be_kept():
    event = cloudevents.from_binary(meta(subject="%FF"), b"{}")

    assert json.loads(json.dumps(event)) == event
    assert refusal(event)[0] == "customer_invalid"


@pytest.mark.parametrize(
    ("type", "body", "code"),
    [
        ("application/json", b"{", "data_not_json"),
        ("application/json", b'{"a": 1, "a": 2}', "key_duplicate"),
        ("application/json", b"[1]", "data_invalid"),
        ("application/json", b"null", "data_invalid"),
        ("text/plain", b"hello", "data_unsupported"),
        ("application/octet-stream", b"\xff\x00", "data_unsupported"),
    ],
)
def test_a_body_that_cannot_be_read_is_kept_and_refused(type, body, code):
    event = cloudevents.from_binary(meta(subject="C-1") | {"CONTENT_TYPE": type}, body)

    assert refusal(event)[0] == code
    if "data_base64" in event:
        assert base64.b64decode(event["data_base64"]) == body

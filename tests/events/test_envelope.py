"""What a message of a queue may look like, and what is kept of one without sense."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from events.envelope import (
    Envelope,
    Unreadable,
    as_text,
    open_envelope,
)
from events.models import Format, Kind
from smartcomm.core.bodies import MAX_BODY_BYTES
from smartcomm.core.rabbitmq import UNREADABLE_PROPERTIES

EVENT = {"id": "1", "name": "Order paid", "customer": "C-1"}


def envelope(body=EVENT, **more) -> Envelope:
    return Envelope(
        body if isinstance(body, bytes) else json.dumps(body).encode(), **more
    )


def refused(body=EVENT, **more) -> Unreadable:
    with pytest.raises(Unreadable) as refusal:
        open_envelope(envelope(body, **more))
    assert refusal.value.refusal.message.endswith(".")
    return refusal.value


def test_a_message_brings_one_event_or_many():
    assert open_envelope(envelope()).items == [EVENT]
    assert open_envelope(envelope({"events": [EVENT, 5]})).items == [EVENT, 5]
    assert open_envelope(envelope({"events": []})).items == []


def test_more_than_a_request_may_carry_is_taken_from_a_message():
    assert len(open_envelope(envelope({"events": [EVENT] * 5_000})).items) == 5_000


def test_a_header_names_the_kind_and_the_consumer_says_what_holds_without():
    assert open_envelope(envelope()).kind == Kind.CUSTOMER
    assert open_envelope(envelope(), kind=Kind.SYSTEM).kind == Kind.SYSTEM
    named = envelope(headers={"kind": "customer"})
    assert open_envelope(named, kind=Kind.SYSTEM).kind == Kind.CUSTOMER
    assert open_envelope(envelope(headers={"kind": "system"})).kind == Kind.SYSTEM


@pytest.mark.parametrize("kind", ["System", "", 5, b"system", ["system"], True])
def test_a_kind_that_is_not_known_is_refused_not_guessed(kind):
    assert refused(headers={"kind": kind}).refusal.code == "kind_invalid"


def test_an_event_without_an_id_gets_it_from_its_message():
    bare = {"name": "Order paid", "customer": "C-1"}

    [alone] = open_envelope(envelope(bare, message_id="m-7")).items
    many = open_envelope(
        envelope({"events": [bare, EVENT, bare | {"id": None}]}, message_id="m-7")
    )

    assert alone == bare | {"id": "m-7"}
    assert [item["id"] for item in many.items] == ["m-7:0", "1", "m-7:2"]


def test_an_id_of_a_message_that_is_too_long_for_an_event_is_told_by_its_digest():
    long = envelope({"events": [{"name": "x"}]}, message_id="m" * 255)
    other = envelope({"events": [{"name": "x"}]}, message_id="m" * 254 + "n")

    [one], [again], [another] = (
        [item["id"] for item in open_envelope(each).items]
        for each in (long, long, other)
    )

    assert one == again != another
    assert len(one) <= 200
    assert len(one) == 64


def test_an_event_without_a_time_happened_when_its_message_was_sent():
    [item] = open_envelope(envelope(timestamp=1_763_622_900)).items
    [timed] = open_envelope(
        envelope(
            EVENT | {"occurred_at": "2026-01-01T00:00:00Z"}, timestamp=1_763_622_900
        )
    ).items

    assert item["occurred_at"] == "2025-11-20T07:15:00+00:00"
    assert timed["occurred_at"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize("timestamp", [None, 0, 1_763_622_900_000, 2**64 - 1])
def test_a_clock_that_was_never_set_tells_no_time(timestamp):
    assert open_envelope(envelope(timestamp=timestamp)).items == [EVENT]


@pytest.mark.parametrize(
    "named",
    [
        {"encoding": "gzip"},
        {"encoding": "deflate"},
        {"encoding": "utf-8", "compression": "application/x-gzip"},
    ],
)
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_body_may_be_packed(named, pack):
    packed = pack(json.dumps(EVENT).encode())

    assert open_envelope(envelope(packed, **named)).items == [EVENT]


def test_a_packed_body_that_is_none_or_cut_or_goes_on_is_refused():
    packed = gzip.compress(json.dumps(EVENT).encode())

    for body in (b"{}", b"", packed[:-4], packed + b"more", packed * 2):
        assert refused(body, encoding="gzip").refusal.code == "encoding_broken"


def test_a_bomb_is_refused_early_and_kept_as_it_came():
    bomb = gzip.compress(b" " * (MAX_BODY_BYTES * 40))
    assert len(bomb) < 300_000

    kept = refused(bomb, encoding="gzip")

    assert kept.refusal.code == "too_large"
    assert kept.format == Format.UNREADABLE
    assert json.loads(kept.payload).startswith("base64:H4sI")
    assert len(kept.payload) < 400_000


def test_the_largest_body_is_taken_and_one_byte_more_is_not():
    room = b" " * (MAX_BODY_BYTES - len(json.dumps(EVENT)))
    full = json.dumps(EVENT).encode() + room

    assert open_envelope(envelope(full)).items == [EVENT]
    assert open_envelope(envelope(gzip.compress(full), encoding="gzip")).items == [
        EVENT
    ]
    assert refused(full + b" ").refusal.code == "too_large"
    assert (
        refused(gzip.compress(full + b" "), encoding="gzip").refusal.code == "too_large"
    )


def test_an_encoding_that_is_not_known_is_refused():
    assert refused(encoding="zstd").refusal.code == "encoding_unknown"
    assert refused(compression="application/x-bz2").refusal.code == "encoding_unknown"
    assert refused(encoding=UNREADABLE_PROPERTIES).refusal.code == "properties_invalid"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        (b"{", "{"),
        (b"<xml/>", "<xml/>"),
        (b'{"a": NaN}', '{"a": NaN}'),
        (b'{"a": "\xff\xfe"}', '{"a": "\\xff\\xfe"}'),
        (b"\x00\x01", "\x00\x01"),
        ("schön".encode("latin-1"), "sch\\xf6n"),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
def test_what_is_not_json_is_kept_as_text_with_escapes(body, text):
    kept = refused(body)

    assert kept.refusal.code == "not_json"
    assert kept.format == Format.UNREADABLE
    assert json.loads(kept.payload) == text
    assert "\x00" not in kept.payload


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([EVENT], "not_an_object"),
        ("text", "not_an_object"),
        (None, "not_an_object"),
        ({"events": EVENT}, "not_a_list"),
        ({"events": None}, "not_a_list"),
        ({"events": [EVENT], "source": "x"}, "key_unknown"),
        ({"events": [EVENT] * 2, "also": []}, "key_unknown"),
    ],
)
def test_json_of_another_shape_is_kept_as_it_is(body, code):
    kept = refused(body)

    assert kept.refusal.code == code
    assert kept.format == Format.NATIVE
    assert json.loads(kept.payload) == body


def test_a_list_that_is_told_twice_is_refused_and_kept_as_it_came():
    kept = refused(b'{"events": [], "events": [1]}')

    assert (kept.refusal.code, kept.format) == ("key_duplicate", Format.NATIVE)
    assert kept.payload == '{"events": [], "events": [1]}'


def test_half_a_surrogate_pair_is_its_events_fault_and_spoils_no_other():
    half = b'{"events": [{"id": "\\ud83d", "name": "x"}, {"id": "2", "name": "x"}]}'

    assert len(open_envelope(envelope(half)).items) == 2


def test_what_is_kept_has_an_end(monkeypatch):
    monkeypatch.setattr("events.envelope.MAX_KEPT_BYTES", 10)

    assert json.loads(as_text(envelope(b"x" * 50))) == "x" * 10

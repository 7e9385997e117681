"""What a source may send, as a table."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.models import Kind
from events.wire import Refusal, read_item

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
GOOD = {"id": "1", "name": "Order paid", "customer": "C-1"}


def read(**change):
    data = {key: value for key, value in (GOOD | change).items() if value is not ...}
    return read_item(data, kind=Kind.CUSTOMER, now=NOW)


@pytest.mark.parametrize(
    ("code", "field", "change"),
    [
        ("key_unknown", "contxt", {"contxt": {}}),
        ("id_invalid", "id", {"id": ""}),
        ("id_invalid", "id", {"id": 7}),
        ("id_invalid", "id", {"id": "x" * 201}),
        ("name_missing", "name", {"name": ...}),
        ("name_missing", "name", {"name": "  "}),
        ("name_too_long", "name", {"name": "x" * 129}),
        ("text_invalid", "name", {"name": "a\x00"}),
        ("customer_missing", "customer", {"customer": ...}),
        ("customer_missing", "customer", {"customer": ""}),
        ("customer_invalid", "customer", {"customer": 7}),
        ("customer_invalid", "customer", {"customer": "C\n1"}),
        ("customer_invalid", "customer", {"customer": "\ud800"}),
        (
            "customer_invalid",
            "customer",
            {"customer": {"email": "a@b.c", "phone": "1"}},
        ),
        ("customer_invalid", "customer", {"customer": {"name": "Anna"}}),
        ("occurred_at_naive", "occurred_at", {"occurred_at": "2026-01-01T10:00:00"}),
        ("occurred_at_invalid", "occurred_at", {"occurred_at": "2026-02-30T10:00:00Z"}),
        ("occurred_at_invalid", "occurred_at", {"occurred_at": "2026-01-01T24:00:00Z"}),
        ("occurred_at_invalid", "occurred_at", {"occurred_at": "0000-01-01T10:00:00Z"}),
        (
            "occurred_at_invalid",
            "occurred_at",
            {"occurred_at": "0001-01-01T00:00:00+05:00"},
        ),
        ("occurred_at_invalid", "occurred_at", {"occurred_at": "yesterday"}),
        ("occurred_at_invalid", "occurred_at", {"occurred_at": 1700000000}),
        (
            "occurred_at_in_future",
            "occurred_at",
            {"occurred_at": "2026-11-20T12:06:00Z"},
        ),
        ("backfill_invalid", "backfill", {"backfill": "yes"}),
        ("context_invalid", "context", {"context": []}),
        ("field_code_invalid", "context.price-eur", {"context": {"price-eur": 1}}),
        ("field_code_invalid", "context.1st", {"context": {"1st": 1}}),
        ("field_code_invalid", "context.", {"context": {"": 1}}),
        ("field_code_invalid", "context.a.b", {"context": {"a.b": 1}}),
        ("text_invalid", "context.a", {"context": {"a": "\x00"}}),
        ("text_invalid", "context.a.b", {"context": {"a": {"b": ["\ud800"]}}}),
        ("number_too_large", "context.a", {"context": {"a": 10**100}}),
        ("number_invalid", "context.a", {"context": {"a": float("nan")}}),
        ("context_too_large", "context", {"context": {"a": "x" * 32769}}),
        (
            "context_too_many_fields",
            "context",
            {"context": {f"f{i}": 1 for i in range(101)}},
        ),
        ("context_too_deep", "", {"context": {"a": [[[[[[1]]]]]]}}),
    ],
)
def test_what_is_refused_says_why_and_where(code, field, change):
    with pytest.raises(Refusal) as caught:
        read(**change)

    assert caught.value.code == code
    assert caught.value.field.startswith(field)
    assert caught.value.message.endswith(".")


def test_a_system_event_belongs_to_nobody():
    with pytest.raises(Refusal, match="belongs to no customer"):
        read_item(GOOD, kind=Kind.SYSTEM, now=NOW)


@pytest.mark.parametrize(
    ("sent", "understood"),
    [
        ("2026-11-20T10:15:00+03:00", datetime(2026, 11, 20, 7, 15, tzinfo=UTC)),
        (
            "2026-11-20t10:15:00.5z",
            datetime(2026, 11, 20, 10, 15, 0, 500000, tzinfo=UTC),
        ),
        ("2026-11-20 10:15:00Z", datetime(2026, 11, 20, 10, 15, tzinfo=UTC)),
        (
            "2016-02-29T23:59:59.123456789Z",
            datetime(2016, 2, 29, 23, 59, 59, 123456, tzinfo=UTC),
        ),
    ],
)
def test_times_are_rfc_3339(sent, understood):
    assert read(occurred_at=sent).occurred_at == understood


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["id", "name", "customer", "occurred_at", "context", "backfill", "x"]
        ),
        JSON,
    )
    | JSON
)
def test_whatever_is_sent_is_read_or_refused(data):
    try:
        item = read_item(data, kind=Kind.CUSTOMER, now=NOW)
    except Refusal as refusal:
        told = refusal.code and refusal.message
    else:
        told = item.name and item.customer
    assert told

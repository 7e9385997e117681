"""The language of segments, without a database."""

from __future__ import annotations

import pytest

from segments import rules
from segments.describe import describe
from segments.rules import RuleError, parse, to_json

BAG = {"field": "name", "op": "=", "value": "Bag"}
TODAY = "2026-10-01"
#: The example of the product's description.
EXAMPLE = {
    "all": [
        {"attribute": "city", "op": "=", "value": "Paris"},
        {
            "event": "Product viewed",
            "where": [BAG],
            "period": {"last": 30, "unit": "days"},
            "count": {"op": ">=", "value": 3},
        },
        {"not": {"event": "Order paid", "period": {"last": 7, "unit": "days"}}},
        {"event": "Call received", "days_since_last": {"op": ">=", "value": 14}},
        {"event": "Call received", "last": {"op": "before", "value": "2026-10-01"}},
        {"segment": 12},
    ]
}


def test_the_example_is_understood_and_written_back():
    rule = parse(EXAMPLE)

    assert isinstance(rule, rules.All)
    assert len(rule.parts) == 6
    assert parse(to_json(rule)) == rule


def test_a_rule_reads_as_a_sentence():
    assert describe(parse(EXAMPLE)) == (
        "City is “Paris”, and “Product viewed” with name is “Bag” in the last 30 days "
        "at least 3 times, and never “Order paid” in the last 7 days, and the last "
        "“Call received” was at least 14 days ago, and the last “Call received” was "
        "before 1 October 2026, and in the segment “12”"
    )


@pytest.mark.parametrize(
    ("place", "data"),
    [
        ("", None),
        ("", {}),
        ("", []),
        ("", {"any": [{"event": "A"}], "all": [{"event": "A"}]}),
        ("all", {"all": []}),
        ("any", {"any": {"event": "A"}}),
        ("all.0", {"all": ["A"]}),
        ("all.1.not", {"all": [{"event": "A"}, {"not": []}]}),
        ("perod", {"event": "A", "perod": {"last": 1, "unit": "days"}}),
        ("event", {"event": ""}),
        ("event", {"event": 7}),
        ("", {"event": "A", "count": {"op": "=", "value": 1}, "last": {}}),
        ("count", {"event": "A", "count": 3}),
        ("count.op", {"event": "A", "count": {"op": ">", "value": 1}}),
        ("count.value", {"event": "A", "count": {"op": "=", "value": -1}}),
        ("count.value", {"event": "A", "count": {"op": "=", "value": 1.5}}),
        ("count.value", {"event": "A", "count": {"op": "=", "value": True}}),
        ("count.value", {"event": "A", "count": {"op": "between", "value": [3, 1]}}),
        (
            "days_since_last.value",
            {"event": "A", "days_since_last": {"op": "=", "value": "1"}},
        ),
        ("last.op", {"event": "A", "last": {"op": "=", "value": "2026-01-01"}}),
        ("last.op", {"event": "A", "last": {"op": [], "value": "2026-01-01"}}),
        ("count.op", {"event": "A", "count": {"op": {}, "value": 1}}),
        ("period.unit", {"event": "A", "period": {"last": 1, "unit": ["days"]}}),
        ("last.value", {"event": "A", "last": {"op": "on", "value": "2026-02-30"}}),
        (
            "last.value",
            {"event": "A", "last": {"op": "before", "value": "2026-01-01T10:00:00"}},
        ),
        ("period", {"event": "A", "period": {}}),
        ("period", {"event": "A", "period": {"last": 1}}),
        ("period.unit", {"event": "A", "period": {"last": 1, "unit": "years"}}),
        ("period.last", {"event": "A", "period": {"last": 0, "unit": "days"}}),
        ("period.from", {"event": "A", "period": {"from": None}}),
        ("period.to", {"event": "A", "period": {"to": "tomorrow"}}),
        ("where", {"event": "A", "where": {}}),
        ("where.0.field", {"event": "A", "where": [{**BAG, "field": "price-eur"}]}),
        ("where.0.op", {"event": "A", "where": [{**BAG, "op": "is"}]}),
        ("where.0.value", {"event": "A", "where": [{"field": "name", "op": "="}]}),
        ("where.0.value", {"event": "A", "where": [{**BAG, "op": "is set"}]}),
        ("value", {"attribute": "city", "op": "=", "value": None}),
        ("value", {"attribute": "city", "op": "=", "value": ["Paris"]}),
        ("value", {"attribute": "city", "op": "in", "value": []}),
        ("value", {"attribute": "city", "op": "in", "value": "Paris"}),
        ("value.1", {"attribute": "city", "op": "in", "value": ["Paris", None]}),
        ("value", {"attribute": "city", "op": "contains", "value": ""}),
        ("value", {"attribute": "age", "op": ">", "value": "old"}),
        ("value", {"attribute": "age", "op": ">", "value": True}),
        ("value", {"attribute": "age", "op": "between", "value": [1, "2026-01-01"]}),
        ("value", {"attribute": "age", "op": "=", "value": float("inf")}),
        ("value", {"attribute": "age", "op": "=", "value": 1e100}),
        ("value", {"attribute": "city", "op": "=", "value": "a\x00"}),
        ("value", {"attribute": "city", "op": "=", "value": "a" * 4097}),
        ("attribute", {"attribute": "city\x00", "op": "=", "value": "a"}),
        ("attribute", {"attribute": "a" * 129, "op": "=", "value": "a"}),
        ("event", {"event": "A\x00"}),
        ("event", {"event": "A" * 129}),
        ("source", {"event": "A", "source": ["shop", "\ud800"]}),
        ("category", {"reachable": "email", "category": "news\x00"}),
        (
            "period.since.event",
            {"event": "A", "period": {"since": {"event": "B\x00"}}},
        ),
        (
            "where.0.field",
            {"event": "A", "where": [{**BAG, "field": ".".join(["a"] * 11)}]},
        ),
        ("with.same", {"event": "A", "with": {"event": "B", "same": ["a." * 11]}}),
        ("value", {"attribute": "paid", "op": "days ago <=", "value": 1_000_001}),
        ("value", {"attribute": "age", "op": "between", "value": [25, 18]}),
        ("value", {"attribute": "age", "op": "between", "value": [0.2, 0.1]}),
        (
            "value",
            {"attribute": "paid", "op": "between", "value": ["2026-10-02", TODAY]},
        ),
        (
            "where.0.value",
            {"event": "A", "where": [{"field": "n", "op": "between", "value": [2, 1]}]},
        ),
        (
            "first.value",
            {"event": "A", "first": {"op": "between", "value": ["2026-10-02", TODAY]}},
        ),
        ("period.to", {"event": "A", "period": {"from": "2026-10-02", "to": TODAY}}),
        (
            "period.to",
            {"message": "sent", "period": {"from": "2026-10-02", "to": TODAY}},
        ),
        ("segment", {"segment": "12"}),
        ("segment", {"segment": True}),
        ("value", {"attribute": "city", "op": "=", "value": "$city"}),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(place, data):
    with pytest.raises(RuleError) as caught:
        parse(data)

    assert caught.value.field == place
    assert caught.value.message.endswith(".")


@pytest.mark.parametrize(
    ("low", "high", "reversed_"),
    [
        (1, 1, False),
        (1, 1.5, False),
        (-1, -2, True),
        (TODAY, TODAY, False),
        (TODAY, "2026-09-30", True),
        # A day is a whole day of the project's zone.
        (TODAY, f"{TODAY}T00:00:00Z", False),
        (TODAY, f"{TODAY}T00:00:00+00:01", True),
        (f"{TODAY}T23:59:59Z", TODAY, False),
        (f"{TODAY}T23:59:59-00:01", TODAY, True),
        (f"{TODAY}T10:00:00+02:00", f"{TODAY}T08:00:00Z", False),
        (f"{TODAY}T10:00:00+01:00", f"{TODAY}T08:00:00Z", True),
        ("0001-01-01", "9999-12-31", False),
        ("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", True),
    ],
)
def test_the_low_end_comes_first(low, high, reversed_):
    assert rules.is_reversed(low, high) is reversed_


def test_ends_taken_from_an_event_are_put_in_order_by_nobody():
    data = {"attribute": "age", "op": "between", "value": ["$high", 1]}

    assert to_json(parse(data, event_values=True)) == data


@pytest.mark.parametrize(
    "data",
    [
        {"x" * 100_000: 1},
        {f"x{i}": i for i in range(10_000)},
        {**{f"x{i}": i for i in range(10_000)}, "event": "A"},
        {"event": "A", "x" * 100_000: 1},
        {"event": "x" * 100_000},
        {"event": "A", "where": [{**BAG, "field": "x" * 100_000}]},
        {"attribute": "city", "op": "x" * 100_000, "value": 1},
        {"attribute": "city", "op": "=", "value": "$" + "x" * 4_000},
    ],
)
def test_a_refusal_does_not_send_back_all_that_was_sent(data):
    with pytest.raises(RuleError) as caught:
        parse(data)

    assert len(caught.value.message) < 500
    assert len(caught.value.field) < 100


def test_a_value_may_be_the_event_s_where_an_event_starts_things():
    data = {"attribute": "city", "op": "in", "value": ["$address.city", "Riga"]}

    rule = parse(data, event_values=True)

    assert rules.event_values(rule) == {"address.city"}
    assert to_json(rule) == data
    assert describe(rule) == "City is one of the event's address.city, “Riga”"


def test_a_dollar_that_is_meant_is_written_twice():
    rule = parse({"attribute": "city", "op": "=", "value": "$$5"})

    assert isinstance(rule, rules.Attribute)
    assert rule.value == "$5"
    assert to_json(rule)["value"] == "$$5"
    assert rules.event_values(rule) == set()


def test_groups_do_not_nest_without_end():
    data: dict = {"event": "A"}
    for _ in range(30):
        data = {"not": data}

    with pytest.raises(RuleError, match="20 deep"):
        parse(data)


def test_a_rule_has_a_limit_of_conditions():
    with pytest.raises(RuleError, match="200 conditions"):
        parse({"any": [{"event": "A"}] * 201})

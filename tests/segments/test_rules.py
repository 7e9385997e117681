"""The language of segments, without a database."""

from __future__ import annotations

import pytest

from segments import rules
from segments.describe import describe
from segments.rules import RuleError, parse, to_json

BAG = {"field": "name", "op": "=", "value": "Bag"}
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
        ("value", {"attribute": "city", "op": "=", "value": "a\x00"}),
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

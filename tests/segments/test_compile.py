"""Rules that compile to the right set of customers. See test_agreement.py as well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from customers.models import Attribute
from segments.compile import (
    MissingField,
    compile_rule,
    customers_matching,
    events_matching,
)
from segments.models import Segment
from segments.rules import RuleConflict, RuleError, parse, parse_where
from tests import make

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def members(data, *, now=None, **how):
    rule = parse(data, event_values="context" in how)
    return customers_matching(compile_rule(rule, now=now or timezone.now(), **how))


def test_every_condition_on_the_context_must_hold_on_the_same_event():
    anna = make.customer()
    make.event(anna, "Product viewed", name="Bag", price=10)
    make.event(anna, "Product viewed", name="Hat", price=99)

    def where(*lines):
        return members({"event": "Product viewed", "where": list(lines)})

    bag = {"field": "name", "op": "=", "value": "Bag"}
    assert where(bag, {"field": "price", "op": "<", "value": 50}) == {anna.pk}
    assert where(bag, {"field": "price", "op": ">", "value": 50}) == set()


def test_the_period_and_the_context_bind_to_the_same_event():
    anna = make.customer()
    make.event(anna, "Product viewed", name="Bag", at=NOW - timedelta(days=40), now=NOW)
    make.event(anna, "Product viewed", name="Hat", at=NOW - timedelta(days=1), now=NOW)
    rule = {
        "event": "Product viewed",
        "where": [{"field": "name", "op": "=", "value": "Bag"}],
        "period": {"last": 7, "unit": "days"},
    }

    assert members(rule, now=NOW) == set()


def test_a_customer_without_a_city_is_not_in_paris():
    make.customer(city="Paris")
    berlin, nowhere = make.customer(city="Berlin"), make.customer()

    assert members({"not": {"attribute": "city", "op": "=", "value": "Paris"}}) == {
        berlin.pk,
        nowhere.pk,
    }
    assert members({"attribute": "city", "op": "!=", "value": "Paris"}) == {
        berlin.pk,
        nowhere.pk,
    }


def test_last_days_are_rolling_to_the_second():
    anna = make.customer()
    make.event(anna, "Order paid", at=NOW - timedelta(days=7), now=NOW)
    week = {"event": "Order paid", "period": {"last": 7, "unit": "days"}}

    assert members(week, now=NOW) == {anna.pk}
    assert members(week, now=NOW + timedelta(seconds=1)) == set()


def test_calendar_dates_are_days_of_the_project_s_zone(settings):
    settings.TIME_ZONE = "Europe/Berlin"
    anna = make.customer()
    make.event(
        anna, "Order paid", at=datetime(2026, 10, 31, 23, 30, tzinfo=UTC), now=NOW
    )
    on = {"event": "Order paid", "last": {"op": "on", "value": "2026-11-01"}}

    assert members(on, now=NOW) == {anna.pk}
    settings.TIME_ZONE = "UTC"
    assert members(on, now=NOW) == set()


@pytest.mark.parametrize("op", ["after", ">"])
def test_nobody_has_a_date_after_the_last_day_of_all(op):
    Attribute.objects.create(code="valid_until", type="date")
    make.customer()
    make.customer(attributes={"valid_until": "9999-12-31"})
    make.customer(attributes={"valid_until": 9})
    rule = {"attribute": "valid_until", "op": op, "value": "9999-12-31"}

    assert members(rule) == set()
    assert (
        members({**rule, "value": "$until"}, context={"until": "9999-12-31"}) == set()
    )
    rule = {"attribute": "registered_at", "op": op, "value": "9999-12-31"}
    assert members(rule) == set()


def test_up_to_the_last_day_of_all_is_any_date_and_no_missing_one():
    Attribute.objects.create(code="valid_until", type="date")
    make.customer()
    anna = make.customer(attributes={"valid_until": "9999-12-31"})
    bert = make.customer(attributes={"valid_until": "2026-01-01T10:00:00Z"})

    for op, value in (("<=", "9999-12-31"), ("between", ["2026-01-01", "9999-12-31"])):
        rule = {"attribute": "valid_until", "op": op, "value": value}
        assert members(rule) == {anna.pk, bert.pk}


def test_a_late_event_counts_by_when_it_occurred():
    anna = make.customer()
    make.event(anna, "Order paid", at=NOW - timedelta(days=100), now=NOW)

    assert members(
        {"event": "Order paid", "days_since_last": {"op": "=", "value": 100}}, now=NOW
    ) == {anna.pk}


def test_the_event_s_values_take_their_places_with_their_types():
    anna, bert = make.customer(), make.customer()
    make.event(anna, "Product viewed", product_id=77)
    make.event(bert, "Product viewed", product_id="78")
    rule = {
        "event": "Product viewed",
        "where": [{"field": "product_id", "op": "=", "value": "$product.id"}],
    }

    assert members(rule, context={"product": {"id": "77"}}) == {anna.pk}
    assert members(rule, context={"product": {"id": 78}}) == {bert.pk}
    assert members(rule, context={"product": {"id": True}}) == set()
    assert members(rule, context={"product": {"id": {"x": 1}}}) == set()


@pytest.mark.parametrize("op", ["=", ">", "contains", "before", "between"])
@pytest.mark.parametrize("found", [[], [77], [1, 99], ["2026-01-01"]])
def test_a_list_of_the_event_compares_with_nothing_where_one_value_is_asked(op, found):
    anna = make.customer()
    make.event(anna, "Product viewed", product_id=77, price=50, day="2026-01-01")
    value = ["$list", "$list"] if op == "between" else "$list"

    for field in ("product_id", "price", "day"):
        line = {"field": field, "op": op, "value": value}
        rule = {"event": "Product viewed", "where": [line]}
        assert members(rule, context={"list": found}) == set()
    last = {"op": "between" if op == "between" else "before", "value": value}
    rule = {"event": "Product viewed", "last": last}
    assert members(rule, context={"list": found}) == set()


def test_a_list_of_the_event_may_stand_for_the_list_of_in():
    anna = make.customer()
    make.event(anna, "Product viewed", product_id=77)
    line = {"field": "product_id", "op": "in", "value": "$list"}
    rule = {"event": "Product viewed", "where": [line]}

    assert members(rule, context={"list": [1, "77"]}) == {anna.pk}
    assert members(rule, context={"list": 77}) == {anna.pk}
    assert members(rule, context={"list": [1]}) == set()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price", "1e999999"),
        ("price", "-1e-999999"),
        ("price", "9" * 4_000 + "e999"),
        ("day", "2026-01-01T00:00:00+99:99"),
        ("day", "2026-13-45"),
        ("day", "0000-01-01"),
    ],
)
def test_an_odd_value_of_one_event_spoils_no_rule(field, value):
    anna, bert = make.customer(), make.customer()
    make.event(anna, "Product viewed", price=10, day="2026-01-01")
    make.event(bert, "Product viewed", **{field: value})
    asked = {"price": -5, "day": "2020-01-01"}[field]

    for op in (">", "<", ">=", "between"):
        line = {"field": field, "op": op, "value": asked}
        if op == "between":
            line["value"] = [asked, asked]
        found = members({"event": "Product viewed", "where": [line]})
        assert found - {bert.pk} == ({anna.pk} if op in (">", ">=") else set())
    number = {"field": field, "op": "=", "value": value}
    assert members({"event": "Product viewed", "where": [number]}) == {bert.pk}


def test_a_field_that_the_event_lacks_is_named():
    make.event_type("Product viewed")
    rule = {
        "not": {
            "event": "Product viewed",
            "where": [{"field": "product_id", "op": "=", "value": "$product_id"}],
        }
    }

    with pytest.raises(MissingField) as caught:
        members(rule, context={"product_id": None})
    assert caught.value.codes == {"product_id"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"event": "Never seen"}, "no event “Never seen”"),
        ({"event": "Product in stock"}, "is a system event"),
        ({"attribute": "shoe_size", "op": "is set"}, "no attribute “shoe_size”"),
        ({"attribute": "city", "op": ">", "value": 3}, "does not fit"),
        ({"attribute": "birth_date", "op": "contains", "value": "3"}, "does not fit"),
        ({"segment": 999}, "no segment 999"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_and_matches_nobody(data, message):
    make.customer()
    make.event_type("Product in stock", "system")

    with pytest.raises(RuleError, match=message):
        members({"not": data})


def test_a_field_that_no_event_has_had_is_simply_not_set():
    anna = make.customer()
    make.event(anna, "Order paid")

    assert (
        members({"event": "Order paid", "where": [{"field": "x", "op": "is set"}]})
        == set()
    )
    assert members(
        {"event": "Order paid", "where": [{"field": "x", "op": "!=", "value": 1}]}
    ) == {anna.pk}


def test_a_segment_within_a_rule_means_its_rule_of_now():
    paris, berlin = make.customer(city="Paris"), make.customer(city="Berlin")
    segment = Segment.objects.create(
        name="Parisians", rule={"attribute": "city", "op": "=", "value": "Paris"}
    )

    assert members({"segment": segment.pk}) == {paris.pk}
    assert members({"not": {"segment": segment.pk}}) == {berlin.pk}


def test_segments_in_a_circle_are_refused_with_their_path():
    one = Segment.objects.create(name="One", rule={})
    two = Segment.objects.create(name="Two", rule={"not": {"segment": one.pk}})
    one.rule = {"segment": two.pk}
    one.save()

    with pytest.raises(RuleConflict, match=r"One → Two → One|Two → One → Two"):
        members({"segment": one.pk})


def test_text_is_taken_literally():
    percent = make.customer(city="50% off")
    make.customer(city="50 off")

    assert members({"attribute": "city", "op": "contains", "value": "0%"}) == {
        percent.pk
    }


def test_values_are_parameters_never_text():
    sting = "'; DROP TABLE events_event; --"
    Attribute.objects.create(code="nick", type="string")
    anna = make.customer(city=sting, attributes={"nick": sting})
    make.event(anna, sting, name=sting)

    for op in ("=", "contains", "starts with"):
        for rule in (
            {"attribute": "city", "op": op, "value": sting},
            {"attribute": "nick", "op": op, "value": sting},
            {"event": sting, "where": [{"field": "name", "op": op, "value": sting}]},
        ):
            assert members(rule) == {anna.pk}
            assert sting not in compile_rule(parse(rule), now=NOW).sql


def test_looking_up_names_costs_no_more_for_more_conditions():
    for name in ("A", "B"):
        make.event_type(name)

    def cost(times):
        conditions = [{"event": name} for name in ("A", "B")] * times
        with CaptureQueriesContext(connection) as queries:
            compile_rule(parse({"any": conditions}), now=NOW)
        return len(queries)

    assert cost(1) == cost(20)


def test_a_trigger_s_conditions_choose_events():
    anna = make.customer()
    returns = make.event(anna, "Call received", topic="returns")
    praise = make.event(anna, "Call received", topic="praise")
    where = parse_where([{"field": "topic", "op": "=", "value": "returns"}])

    assert events_matching(
        where,
        [returns.pk, praise.pk],
        event_type_id=returns.type_id,
        system=False,
        now=NOW,
    ) == {returns.pk}


def test_since_looks_no_further_back_than_what_stands_beside_it_wants():
    anna, ben = make.customer(), make.customer()
    for who, what, days in [
        (anna, {"name": "Bag"}, 40),
        (anna, {"name": "Hat"}, 5),
        (ben, {"name": "Bag"}, 5),
    ]:
        make.event(who, "Product viewed", **what, at=NOW - timedelta(days=days))
    for who, days in [(anna, 35), (ben, 4)]:
        make.event(who, "Order paid", at=NOW - timedelta(days=days))
    bag = [{"field": "name", "op": "=", "value": "Bag"}]

    def viewed_and_paid_since(viewed, since):
        period = {"last": 30, "unit": "days"}
        paid = {"event": "Order paid", "period": {"since": since}}
        return {"all": [{**viewed, "period": period}, paid]}

    any_view = {"event": "Product viewed"}
    bag_view = {"event": "Product viewed", "where": bag}
    # Anna's last view of a bag is older than the period of her views.
    both = {anna.pk, ben.pk}
    assert members(viewed_and_paid_since(any_view, bag_view), now=NOW) == both
    assert members(viewed_and_paid_since(any_view, any_view), now=NOW) == {ben.pk}
    assert members(viewed_and_paid_since(bag_view, any_view), now=NOW) == {ben.pk}
    assert read(viewed_and_paid_since(any_view, bag_view)) > read(
        viewed_and_paid_since(bag_view, bag_view)
    )


@pytest.mark.parametrize(
    ("question", "old_ones_matter"),
    [
        ({"days_since_last": {"op": "<=", "value": 9}}, False),
        ({"days_since_last": {"op": "between", "value": [1, 9]}}, False),
        ({"days_since_last": {"op": ">=", "value": 1}}, True),
        ({"last": {"op": "after", "value": "2026-11-10"}}, False),
        ({"last": {"op": "before", "value": "2026-11-19"}}, True),
        ({"first": {"op": "after", "value": "2026-11-10"}}, True),
    ],
)
def test_who_asks_for_the_last_event_reads_none_that_is_too_old(
    question, old_ones_matter
):
    anna = make.customer()
    for days in (500, 400, 300, 2):
        make.event(anna, "Order paid", at=NOW - timedelta(days=days))

    rule = {"event": "Order paid", **question}
    assert read(rule) == (4 if old_ones_matter else 1)
    assert members(rule, now=NOW) == (set() if "first" in question else {anna.pk})


def read(data, *, restrict=None):
    """How many rows of events the query for a rule reads."""

    def of(plan):
        own = plan["Actual Rows"] * plan["Actual Loops"]
        is_scan = plan.get("Relation Name") == "events_event"
        return own * is_scan + sum(map(of, plan.get("Plans", [])))

    query = compile_rule(parse(data), now=NOW, restrict=restrict)
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query.sql}", query.params)
        return of(cursor.fetchone()[0][0]["Plan"])


def test_questions_about_the_same_events_read_them_once():
    anna, ben = make.customer(), make.customer()
    for who, days in [(anna, 40), (anna, 20), (anna, 10), (ben, 40), (ben, 1)]:
        make.event(who, "Call received", at=NOW - timedelta(days=days))
    called = {"event": "Call received"}
    thrice = {**called, "count": {"op": ">=", "value": 3}}
    long_ago = {**called, "days_since_last": {"op": ">=", "value": 7}}

    assert members({"all": [thrice, long_ago]}, now=NOW) == {anna.pk}
    assert read({"all": [thrice, long_ago]}) == read(thrice) == 5
    assert members({"any": [thrice, {"not": long_ago}]}, now=NOW) == {anna.pk, ben.pk}


@pytest.mark.parametrize(
    "beside",
    [
        {"without": {"event": "Order paid", "same": ["product_id"], "order": "after"}},
        {"with": {"event": "Order paid", "same": ["product_id"]}},
        {"period": {"since": {"event": "Order paid"}}},
        {
            "period": {"since": {"event": "Order paid"}},
            "count": {"op": "=", "value": 0},
        },
    ],
    ids=["without", "with", "since", "none since"],
)
def test_of_some_customers_events_of_a_new_type_are_read_once_or_twice(beside):
    """The planner has not heard of it, and expects no more than one event."""
    customers = [make.customer() for _ in range(60)]
    for customer in customers * 4:
        make.event(customer, "Page viewed", at=NOW)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE events_event")
    for customer in customers:
        for day in range(3):
            for name in ("Order paid", "Product viewed"):
                at = NOW - timedelta(days=day)
                make.event(customer, name, at=at, product_id=day)

    some = [customer.pk for customer in customers[::2]]
    rule = {"event": "Product viewed", **beside}

    assert read(rule, restrict=some) <= 2 * 6 * len(some)

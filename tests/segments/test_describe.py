"""Rules as a marketer would say them."""

from __future__ import annotations

import pytest

from segments.describe import describe
from segments.rules import parse, to_json

BAG = {"field": "name", "op": "=", "value": "Bag"}
MONTH = {"last": 30, "unit": "days"}
NAMES = {
    "attributes": {"tags": "interests"},
    "segments": {12: "Regulars"},
    "campaigns": {5: "Hello"},
    "categories": {"news": "News"},
}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            {
                "event": "Product viewed",
                "where": [BAG],
                "period": MONTH,
                "without": {
                    "event": "Order paid",
                    "same": ["product_id"],
                    "order": "after",
                },
            },
            "“Product viewed” with name is “Bag” in the last 30 days, not followed by "
            "“Order paid” with the same product_id, at least once",
        ),
        (
            {
                "event": "Order paid",
                "with": {
                    "event": "Product viewed",
                    "where": [BAG],
                    "same": ["product_id", "size"],
                    "order": "before",
                },
                "count": {"op": ">=", "value": 3},
            },
            "“Order paid”, preceded by “Product viewed” with the same product_id and "
            "size and name is “Bag”, at least 3 times",
        ),
        (
            {
                "not": {
                    "event": "A",
                    "with": {"event": "B"},
                    "without": {"event": "C", "same": ["x"]},
                }
            },
            "Never “A”, along with “B”, without any “C” with the same x",
        ),
        (
            {
                "event": "Order paid",
                "period": {"since": {"event": "Product viewed", "where": [BAG]}},
                "count": {"op": "=", "value": 0},
            },
            "Never “Order paid” since the last “Product viewed” with name is “Bag”",
        ),
        ({"event": "A", "source": "shop"}, "“A” from “shop” at least once"),
        (
            {"event": "A", "source": ["shop", "till"], "period": {"this": "week"}},
            "“A” from “shop” or “till” this week at least once",
        ),
        (
            {"not": {"event": "A", "period": {"previous": "quarter"}}},
            "Never “A” in the previous quarter",
        ),
        ({"event": "A", "period": {"this": "day"}}, "“A” today at least once"),
        ({"event": "A", "period": {"previous": "day"}}, "“A” yesterday at least once"),
        (
            {"event": "A", "period": {"last": 1, "unit": "months"}},
            "“A” in the last month at least once",
        ),
        (
            {
                "event": "A",
                "period": {"from": "2026-10-01", "to": "2026-10-31T10:00:00+00:00"},
            },
            "“A” from 1 October 2026 until 31 October 2026, 10:00 at least once",
        ),
        (
            {"event": "A", "first": {"op": "on", "value": "2026-10-01"}},
            "The first “A” was on 1 October 2026",
        ),
        (
            {"event": "A", "days_since_first": {"op": "<=", "value": 1}},
            "The first “A” was at most 1 day ago",
        ),
        (
            {"event": "A", "days_since_last": {"op": "between", "value": [3, 9]}},
            "The last “A” was between 3 and 9 days ago",
        ),
        (
            {"message": "opened", "campaign": 5, "channel": "email", "period": MONTH},
            "Opened an e-mail of the campaign “Hello” in the last 30 days at least "
            "once",
        ),
        (
            {"not": {"message": "sent", "campaign": 7}},
            "Was never sent a message of the campaign “7”",
        ),
        (
            {"message": "clicked", "count": {"op": "=", "value": 0}},
            "Never clicked in a message",
        ),
        (
            {"message": "sent", "channel": "sms", "count": {"op": "<=", "value": 2}},
            "Was sent an SMS at most 2 times",
        ),
        (
            {
                "message": "delivered",
                "channel": "push",
                "days_since_last": {"op": ">=", "value": 14},
            },
            "Last received a push message at least 14 days ago",
        ),
        (
            {"message": "opened", "first": {"op": "before", "value": "2026-10-01"}},
            "First opened a message before 1 October 2026",
        ),
        ({"consent": "email", "is": "yes"}, "Said yes to e-mail"),
        (
            {"consent": "email", "category": "news", "is": "no"},
            "Said no to “News” by e-mail",
        ),
        ({"consent": "sms", "is": "unanswered"}, "Never answered about SMS"),
        ({"not": {"consent": "sms", "is": "unanswered"}}, "Answered about SMS"),
        ({"not": {"consent": "push", "is": "yes"}}, "Did not say yes to push"),
        ({"reachable": "push"}, "Can be reached by push"),
        (
            {"not": {"reachable": "email", "category": "news"}},
            "Cannot be reached by e-mail with “News”",
        ),
        ({"not": {"segment": 12}}, "Not in the segment “Regulars”"),
        ({"attribute": "age", "op": ">=", "value": 18}, "Age is at least 18"),
        (
            {"attribute": "tags", "op": "includes any of", "value": ["tea", 5]},
            "Interests includes any of “tea”, 5",
        ),
        (
            {"attribute": "birth_date", "op": "anniversary within", "value": 0},
            "Birthday is today",
        ),
        (
            {"attribute": "registered_at", "op": "anniversary within", "value": 7},
            "The anniversary of registration is within the next 7 days",
        ),
        (
            {"attribute": "registered_at", "op": "days ago >=", "value": 1},
            "Registration was at least 1 day ago",
        ),
        (
            {"attribute": "expires", "op": "days ahead <=", "value": 3},
            "Expires is at most 3 days ahead",
        ),
        (
            {
                "event": "A",
                "where": [{"field": "day", "op": "anniversary within", "value": 1}],
            },
            "“A” with day has its anniversary within the next 1 day at least once",
        ),
    ],
)
def test_a_condition_reads_as_it_is_said(data, sentence, settings):
    settings.TIME_ZONE = "UTC"
    assert describe(parse(data), **NAMES) == sentence


def test_what_the_event_gives_is_said_so_wherever_it_stands():
    lines = [{"field": "product_id", "op": "=", "value": "$product_id"}]
    rule = parse(
        {
            "event": "A",
            "where": lines,
            "without": {"event": "B", "where": lines},
            "first": {"op": "before", "value": "$day"},
        },
        event_values=True,
    )

    assert describe(rule) == (
        "The first “A” with product_id is the event's product_id, without any “B” with "
        "product_id is the event's product_id, was before the event's day"
    )


@pytest.mark.parametrize(
    "moment", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"]
)
def test_a_moment_at_the_end_of_time_can_be_told(moment):
    asked = [
        {"attribute": "registered_at", "op": ">=", "value": moment},
        {"event": "Order paid", "period": {"from": moment}},
        {"event": "Order paid", "period": {"to": moment}},
    ]

    assert describe(parse({"all": asked}))
    assert to_json(parse(asked[0])) == asked[0]

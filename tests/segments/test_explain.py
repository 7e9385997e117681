"""Why somebody is in a segment or not: each part of the rule with its reason."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from customers.models import Consent, Customer, Device, MailingCategory
from messaging.models import Message, Suppression
from segments import rules
from segments.explain import Node, explain
from segments.models import Membership, Segment
from tests import make

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 30, 12, tzinfo=UTC)
PARIS = {"attribute": "city", "op": "=", "value": "Paris"}
MONTH = {"last": 30, "unit": "days"}


@pytest.fixture(autouse=True)
def zone(settings):
    settings.TIME_ZONE = "Europe/Berlin"


@pytest.fixture
def anna() -> Customer:
    return make.customer("C-1001", city="Rome")


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def tree(rule: Any, customer: Customer, **more: Any) -> Node:
    return explain(rules.parse(rule, event_values=True), customer.pk, now=NOW, **more)


def did(customer: Customer, event: str, /, *days: float, **context: Any) -> list[Any]:
    return [make.event(customer, event, at=ago(d), now=NOW, **context) for d in days]


# groups


def test_every_group_and_condition_says_whether_it_holds(anna):
    did(anna, "Paid", 2)

    found = tree({"all": [PARIS, {"any": [PARIS, {"event": "Paid"}]}]}, anna)

    assert (found.kind, found.holds, found.fact) == ("all", False, "1 of 2 holds")
    city, group = found.parts
    assert (city.kind, city.holds, city.at) == ("attribute", False, "all.0")
    assert (group.kind, group.holds, group.at) == ("any", True, "all.1")
    assert [part.holds for part in group.parts] == [False, True]


def test_what_keeps_the_customer_out_is_marked_and_nothing_else(anna):
    did(anna, "Paid", 2)
    lacking = {"attribute": "tier", "op": "is set"}
    make_attribute("tier")

    found = tree(
        {"all": [PARIS, {"any": [lacking, {"event": "Paid"}]}, {"not": PARIS}]}, anna
    )

    assert [(part.holds, part.blocks) for part in found.parts] == [
        (False, True),
        (True, False),
        (True, False),
    ]
    assert not found.parts[1].parts[0].blocks  # The other one is enough.


def test_who_is_in_is_kept_out_by_nothing(anna):
    found = tree({"not": PARIS}, anna)

    assert found.holds
    assert (found.blocks, found.parts[0].blocks) == (False, False)
    assert found.parts[0].change == ""


def test_below_a_not_it_is_what_holds_that_keeps_the_customer_out(anna):
    did(anna, "Paid", 2)

    found = tree({"not": {"any": [PARIS, {"event": "Paid"}]}}, anna)

    assert (found.words, found.holds, found.wanted) == ("None of these", False, True)
    city, paid = found.parts[0].parts
    assert (city.holds, city.wanted, city.blocks) == (False, False, False)
    assert (paid.holds, paid.wanted, paid.blocks) == (True, False, True)


def test_a_tree_is_json(anna):
    did(anna, "Paid", 2, price=5)

    told = msgspec.to_builtins(tree({"all": [PARIS, {"event": "Paid"}]}, anna))

    assert told["parts"][1]["events"][0]["context"] == {"price": 5}
    assert msgspec.convert(told, Node).parts[1].count == 1


# attributes


def make_attribute(code: str, type: str = "string") -> None:
    from customers.models import Attribute

    Attribute.objects.create(code=code, type=type, label=code.title())


@pytest.mark.parametrize(
    ("condition", "fact", "change"),
    [
        (
            {"op": "in", "value": ["Paris", "Berlin"]},
            "City is “Rome”",
            "City must be one of “Paris”, “Berlin”.",
        ),
        ({"op": "!=", "value": "Rome"}, "City is “Rome”", "City must not be “Rome”."),
        ({"op": "is not set"}, "City is “Rome”", "City must not be set."),
        (
            {"op": "contains", "value": "par"},
            "City is “Rome”",
            "City must contain “par”.",
        ),
    ],
)
def test_an_attribute_shows_its_value_and_what_it_must_be(
    anna, condition, fact, change
):
    found = tree({"attribute": "city", **condition}, anna)

    assert (found.fact, found.change) == (fact, change)
    assert found.value == "Rome"


def test_a_missing_attribute_is_said_to_be_missing():
    nobody = make.customer()

    found = tree(PARIS, nobody)

    assert (found.fact, found.value) == ("City is not set", "")


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ({"not": PARIS}, "City must not be “Paris”."),
        (
            {"not": {"attribute": "city", "op": "is set"}},
            "City must not be set.",
        ),
        # Not “must not be other than”.
        (
            {"not": {"attribute": "city", "op": "!=", "value": "Rome"}},
            "City must be “Rome”.",
        ),
    ],
)
def test_what_must_not_hold_is_said_so(rule, change):
    ben = make.customer(city="Paris")

    assert tree(rule, ben).parts[0].change == change


def test_an_age_in_days_changes_by_itself_and_it_is_said_when():
    ben = make.customer(registered_at=ago(12))
    rule = {"attribute": "registered_at", "op": "days ago >=", "value": 14}

    found = tree(rule, ben)

    assert found.fact == "Registration is 18 Mar 2026, 13:00, 12 days ago"
    assert found.change == "By itself on 1 Apr 2026, 14:00."


def test_the_age_of_a_customer_is_in_whole_years():
    ben = make.customer(birth_date=date(1996, 2, 29))

    found = tree({"attribute": "age", "op": ">=", "value": 31}, ben)

    assert (found.value, found.holds) == (30, False)


# events


def test_a_count_says_how_many_there_are_and_how_many_are_wanted(anna):
    did(anna, "Viewed", 1, 5, 40)

    found = tree(
        {"event": "Viewed", "period": MONTH, "count": {"op": ">=", "value": 3}}, anna
    )

    assert found.fact == "Twice, at least 3 wanted; the last 1 day ago"
    assert found.change == "1 more such event must come."
    assert (found.count, found.first, found.last) == (2, ago(5), ago(1))


def test_the_events_that_made_it_so_are_linked_newest_first_and_more_are_counted(anna):
    made = did(anna, "Viewed", *range(1, 9), name="Bag")
    did(anna, "Viewed", 0.5, name="Shoe")
    did(make.customer(), "Viewed", 0.1, name="Bag")

    found = tree(
        {
            "event": "Viewed",
            "where": [{"field": "name", "op": "=", "value": "Bag"}],
            "count": {"op": ">=", "value": 3},
        },
        anna,
    )

    assert [event.pk for event in found.events] == [event.pk for event in made[:5]]
    assert (found.count, found.more) == (8, 3)
    assert found.events[0].id == made[0].external_id
    assert (found.events[0].name, found.events[0].source) == ("Viewed", "shop")
    assert found.fields == ("name",)


def test_never_is_said_with_what_there_is_of_that_name(anna):
    did(anna, "Viewed", 40, 50)

    found = tree({"event": "Viewed", "period": MONTH}, anna)

    assert found.fact == "Never; 2 of that name, the last 40 days ago"


def test_nothing_at_all_is_never(anna):
    make.event_type("Viewed")

    assert tree({"event": "Viewed"}, anna).fact == "Never"


def test_too_many_in_a_rolling_period_leave_it_by_themselves_at_a_time(anna):
    did(anna, "Paid", 1, 3, 6)
    week = {"last": 7, "unit": "days"}

    never = tree({"not": {"event": "Paid", "period": week}}, anna).parts[0]
    once = tree(
        {"event": "Paid", "period": week, "count": {"op": "<=", "value": 1}}, anna
    )

    # The newest must leave, or all but the newest.
    assert never.change == (
        "By itself after 5 Apr 2026, 14:00, unless another such event comes until then."
    )
    assert once.change == (
        "By itself after 3 Apr 2026, 14:00, unless another such event comes until then."
    )


def test_what_happened_stays_where_there_is_no_period(anna):
    did(anna, "Paid", 2)

    found = tree({"not": {"event": "Paid"}}, anna)

    assert found.parts[0].change == "Not any more: what has happened stays."


def test_this_month_ends_by_itself(anna):
    did(anna, "Paid", 2)

    found = tree({"not": {"event": "Paid", "period": {"this": "month"}}}, anna)

    assert found.parts[0].change == (
        "By itself when the next month begins, 1 Apr 2026, 00:00."
    )


def test_a_period_up_to_the_last_day_of_all_is_not_over(anna):
    make.event_type("Paid")

    found = tree({"event": "Paid", "period": {"to": "9999-12-31"}}, anna)

    assert found.change == "1 such event must come."


def test_a_period_that_is_over_can_get_late_events_only(anna):
    make.event_type("Paid")

    found = tree({"event": "Paid", "period": {"to": "2026-03-01"}}, anna)

    assert found.change == (
        "1 such event would have to be reported late: the period is over."
    )


@pytest.mark.parametrize(
    ("asked", "fact", "change"),
    [
        (
            {"days_since_last": {"op": ">=", "value": 14}},
            "The last was 12 days ago, 18 Mar 2026, 13:00",
            "By itself on 1 Apr 2026, 14:00, unless another such event comes.",
        ),
        (
            {"days_since_last": {"op": "<=", "value": 7}},
            "The last was 12 days ago, 18 Mar 2026, 13:00",
            "Another such event must come.",
        ),
        (
            {"days_since_first": {"op": "<=", "value": 7}},
            "The first was 20 days ago, 10 Mar 2026, 13:00",
            "Not any more: the first one stays the first.",
        ),
        (
            {"last": {"op": "before", "value": "2026-03-01"}},
            "The last was 12 days ago, 18 Mar 2026, 13:00",
            "The last one must be before 1 Mar 2026.",
        ),
    ],
)
def test_the_last_and_the_first_are_told_with_their_day(anna, asked, fact, change):
    did(anna, "Called", 12, 20)

    found = tree({"event": "Called", **asked}, anna)

    assert (found.holds, found.fact, found.change) == (False, fact, change)


def test_where_the_first_is_asked_about_the_oldest_events_are_shown(anna):
    made = did(anna, "Called", *range(1, 9))

    found = tree(
        {"event": "Called", "first": {"op": "before", "value": "2026-03-01"}}, anna
    )

    assert [event.pk for event in found.events] == [e.pk for e in made[:2:-1]]


def test_no_last_is_never(anna):
    make.event_type("Called")

    found = tree({"event": "Called", "days_since_last": {"op": ">=", "value": 1}}, anna)

    assert (found.fact, found.change) == ("Never", "1 such event must come.")


# events beside and since others


def test_the_other_event_that_left_one_out_is_shown_beside_it(anna):
    bag, shoe = (did(anna, "Viewed", 5, product=p)[0] for p in (1, 2))
    paid = did(anna, "Paid", 3, product="1")[0]

    found = tree(
        {"event": "Viewed", "without": {"event": "Paid", "same": ["product"]}}, anna
    )

    assert found.holds
    assert [(one.pk, one.others) for one in found.events] == [(shoe.pk, ())]
    assert [one.pk for one in found.left_out] == [bag.pk]
    assert [one.pk for one in found.left_out[0].others] == [paid.pk]
    assert found.fact == (
        "Once; the last 5 days ago; 1 more left out: with “Paid” of the same product"
    )


def test_the_other_event_that_is_asked_for_is_shown_beside_each(anna):
    bag, shoe = (did(anna, "Viewed", 5, product=p)[0] for p in (1, 2))
    did(anna, "Paid", 6, product=2)
    paid = did(anna, "Paid", 3, product=1)[0]

    found = tree(
        {
            "event": "Viewed",
            "with": {"event": "Paid", "same": ["product"], "order": "after"},
        },
        anna,
    )

    assert [one.pk for one in found.events] == [bag.pk]
    assert [one.pk for one in found.events[0].others] == [paid.pk]
    assert [(one.pk, one.others) for one in found.left_out] == [(shoe.pk, ())]
    assert "without “Paid” after it of the same product" in found.fact


def test_the_event_that_begins_the_period_is_shown(anna):
    viewed = did(anna, "Viewed", 9, 4)
    did(anna, "Paid", 2)

    found = tree(
        {"not": {"event": "Paid", "period": {"since": {"event": "Viewed"}}}}, anna
    ).parts[0]

    assert found.since is not None
    assert found.since.pk == viewed[1].pk
    assert found.change == "Another “Viewed” must come, and begin the period anew."


def test_a_period_that_never_began_is_said_to_be_so(anna):
    did(anna, "Paid", 2)
    make.event_type("Viewed")

    found = tree({"event": "Paid", "period": {"since": {"event": "Viewed"}}}, anna)

    assert "there was no “Viewed” to begin the period" in found.fact
    assert found.change == "A “Viewed” must come, and begin the period."


# segments


def test_a_segment_within_goes_on_with_its_own_tree(anna):
    inner = Segment.objects.create(name="Parisians", rule={"all": [PARIS]})

    found = tree({"all": [{"segment": inner.pk}]}, anna).parts[0]

    assert (found.kind, found.segment, found.holds) == ("segment", inner.pk, False)
    assert found.words == "In the segment “Parisians”"
    assert found.parts[0].parts[0].fact == "City is “Rome”"
    assert found.parts[0].parts[0].blocks


def test_a_segment_that_comes_twice_is_explained_once(anna):
    inner = Segment.objects.create(name="Parisians", rule=PARIS)

    one, two = tree({"any": [{"segment": inner.pk}] * 2}, anna).parts

    assert (len(one.parts), len(two.parts)) == (1, 0)
    assert two.fact == "Not in it, as explained above"


def test_a_list_says_since_when(anna):
    listed = Segment.objects.create(name="Panel", kind=Segment.Kind.STATIC)
    rule = {"segment": listed.pk}

    found = tree(rule, anna)
    assert (found.holds, found.fact) == (False, "Not on the list")
    assert found.change == "The customer must be put on the list."

    Membership.objects.create(customer=anna, segment=listed, since=ago(3))
    found = tree(rule, anna)
    assert (found.holds, found.fact) == (True, "On the list since 27 Mar 2026, 13:00")
    assert found.member_since == ago(3)


# consent, reach, messages


def test_a_consent_is_told_with_its_day_and_origin(anna):
    rule = {"consent": "email", "is": "yes"}
    assert tree(rule, anna).fact == "Never answered about e-mail"
    assert tree(rule, anna).change == "The customer must say yes to e-mail."

    Consent.objects.create(
        customer=anna,
        channel="email",
        is_granted=False,
        changed_at=ago(4),
        origin="till",
    )

    assert tree(rule, anna).fact == "Said no to e-mail, 26 Mar 2026, 13:00 (till)"


def test_reach_is_explained_in_the_words_of_sending():
    ben = make.customer(email="ben@example.com", phone="+4915112345678")
    make.consent(ben, "email", yes=False)
    make.consent(ben, "sms")
    Suppression.objects.create(channel="sms", address=ben.phone, reason="asked")

    def told(channel: str, **more: Any) -> tuple[bool | None, str, str]:
        found = tree({"reachable": channel, **more}, ben)
        return found.holds, found.fact, found.change

    assert told("email") == (
        False,
        "The customer said no to e-mail.",
        "The customer must say yes.",
    )
    assert told("sms") == (
        False,
        "+4915112345678 is on the list of suppressed addresses.",
        "The address must be taken off that list.",
    )
    assert told("push") == (
        False,
        "The customer has no device for push.",
        "The customer needs a device for push.",
    )


def test_reach_within_a_category_is_explained_by_the_category():
    ben = make.reachable()
    news = MailingCategory.objects.create(code="news", name="News")
    Consent.objects.create(
        customer=ben, channel="email", category=news, is_granted=False, changed_at=NOW
    )
    Device.objects.create(customer=ben, platform="web", token="t")

    found = tree({"reachable": "email", "category": "news"}, ben)

    assert found.fact == "The customer said no to “News” by e-mail."


def test_messages_are_linked_with_what_they_say_and_their_campaign():
    ben = make.reachable()
    campaign = make.campaign(name="Welcome")
    message = make.message(ben, make.content("email", subject="Hello, Ben"))
    Message.objects.update(
        sent_at=ago(3), opened_at=ago(2), campaign_id=campaign.pk, subject="Hello, Ben"
    )

    found = tree({"message": "opened", "campaign": campaign.pk}, ben)

    assert (found.kind, found.count, found.last) == ("message", 1, ago(2))
    shown = found.events[0]
    assert (shown.pk, shown.name, shown.source) == (message.pk, "Hello, Ben", "Welcome")
    assert shown.occurred_at == ago(2)

    clicked = tree({"message": "clicked", "count": {"op": ">=", "value": 2}}, ben)
    assert clicked.change == "2 such messages must be clicked in."


# what cannot be asked


def test_a_name_that_does_not_exist_is_told_in_its_place_and_the_rest_explained(anna):
    found = tree({"all": [PARIS, {"event": "Payed"}, {"not": PARIS}]}, anna)

    assert found.holds is None
    assert [part.holds for part in found.parts] == [False, None, True]
    assert found.parts[1].problem.startswith("There is no event “Payed”.")
    assert found.parts[0].fact == "City is “Rome”"


def test_a_broken_segment_within_is_explained_up_to_what_is_broken(anna):
    inner = Segment.objects.create(
        name="Broken", rule={"all": [PARIS, {"event": "Payed"}]}
    )

    found = tree({"any": [{"segment": inner.pk}, PARIS]}, anna).parts[0]

    assert found.holds is None
    assert found.problem
    assert [part.holds for part in found.parts[0].parts] == [False, None]


@pytest.mark.parametrize("rule", [{"segment": 10**9}, {"all": [{"segment": 10**9}]}])
def test_a_segment_that_is_gone_is_told(anna, rule):
    found = tree(rule, anna)

    leaf = found.parts[0] if found.parts else found
    assert leaf.problem == f"There is no segment {10**9}. Choose another one."


def test_segments_in_a_circle_end(anna):
    one = Segment.objects.create(name="One", rule=PARIS)
    two = Segment.objects.create(name="Two", rule={"segment": one.pk})
    Segment.objects.filter(pk=one.pk).update(rule={"segment": two.pk})

    found = tree({"any": [{"segment": one.pk}, PARIS]}, anna)

    assert "circle" in found.parts[0].problem
    assert found.parts[1].fact == "City is “Rome”"


def test_values_of_the_event_that_started_a_run_take_their_places(anna):
    did(anna, "Viewed", 1, product=7)
    rule = {
        "event": "Viewed",
        "where": [{"field": "product", "op": "=", "value": "$product_id"}],
    }

    assert tree(rule, anna, context={"product_id": 7}).holds
    assert tree(rule, anna, context={"product_id": 8}).holds is False
    for missing in ({}, {"context": {"other": 7}}):
        found = tree({"any": [rule, PARIS]}, anna, **missing)
        assert found.holds is None
        assert "“product_id”" in found.parts[0].problem
        assert found.parts[1].holds is False


# what it costs


def test_the_cost_does_not_grow_with_the_rule_nor_with_the_history(anna):
    did(anna, "Viewed", *range(1, 40), name="Bag")
    did(anna, "Paid", 3)
    inner = [
        Segment.objects.create(name=f"S{i}", rule={"all": [PARIS, {"event": "Paid"}]})
        for i in range(8)
    ]

    def queries(size: int) -> int:
        rule = {
            "all": [
                part
                for i in range(size)
                for part in (
                    PARIS,
                    {"event": "Viewed", "count": {"op": ">=", "value": i}},
                    {
                        "not": {
                            "event": "Paid",
                            "period": {"last": i + 1, "unit": "days"},
                        }
                    },
                    {"segment": inner[i].pk},
                )
            ]
        }
        with CaptureQueriesContext(connection) as captured:
            tree(rule, anna)
        return len(captured)

    assert queries(6) == queries(1)

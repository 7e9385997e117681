"""What each action does to the customers who come to it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from campaigns.actions import ACTIONS
from campaigns.actions.limit import period_of
from campaigns.actions.split import chance
from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs
from campaigns.models import Passage, Run, Step, StepCount
from campaigns.publish import publish
from customers.models import Attribute
from events.models import Event, EventField, EventType, Source
from segments.models import Segment
from segments.usage import uses_of
from smartcomm.core.errors import Several, UserError
from tests import make

pytestmark = pytest.mark.django_db


def one_step(action, config, **next):
    """A published campaign of “Order paid” with this step alone."""
    step = {"key": "it", "action": action, "config": config, "next": next}
    return make.campaign(step, on="Order paid")


def go(now=None):
    while dispatch_events(now=now) + advance_runs(now=now):
        pass


def ways():
    return Counter(Passage.objects.values_list("way", flat=True))


def refused(action, config):
    with pytest.raises(UserError) as info:
        ACTIONS[action].clean(config)
    return info.value.message


# A/B split, control group


HALVES = {"shares": [{"name": "A", "percent": 50}, {"name": "B", "percent": 50}]}


def test_a_split_sends_about_its_shares_each_way():
    one_step(
        "ab_split",
        {"shares": [{"name": "A", "percent": 80}, {"name": "B", "percent": 20}]},
    )
    for _ in range(300):
        make.event(make.customer(), "Order paid")

    go()

    taken = ways()
    assert set(taken) == {"A", "B"}
    assert 210 <= taken["A"] <= 270


def test_a_customer_takes_the_same_way_every_time_and_in_every_version():
    campaign = one_step("ab_split", HALVES)
    customers = [make.customer() for _ in range(20)]
    for customer in customers:
        make.event(customer, "Order paid")
    go()
    before = dict(Passage.objects.values_list("customer_id", "way"))

    make.publish_again(campaign, entry={"rule": "every_event"})
    for customer in customers:
        make.event(customer, "Order paid")
    go()

    after = dict(Passage.objects.order_by("pk").values_list("customer_id", "way"))
    assert Passage.objects.count() == 40
    assert before == after


@given(customer=st.integers(1, 10**12), percent=st.integers(1, 99))
def test_chance_depends_on_campaign_step_and_customer_alone(customer, percent):
    run, other = Run(campaign_id=1, customer_id=customer), Step(key="it")
    assert 0 <= chance(run, other) < 100
    assert chance(run, other) == chance(
        Run(pk=9, campaign_id=1, customer_id=customer, version_id=7), Step(key="it")
    )


def test_two_splits_after_each_other_are_independent():
    run_of = [Run(campaign_id=1, customer_id=n) for n in range(4_000)]
    first = [chance(run, Step(key="first")) < 50 for run in run_of]
    second = [chance(run, Step(key="second")) < 50 for run in run_of]
    both = sum(a and b for a, b in zip(first, second, strict=True))
    assert 900 <= both <= 1_100


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([{"name": "A", "percent": 100}], "“shares” is a list of 2 to 6"),
        (
            [{"name": "A", "percent": 60}, {"name": "B", "percent": 60}],
            "The shares are 120 % together.",
        ),
        (
            [{"name": "A", "percent": 50}, {"name": "A", "percent": 50}],
            "Two shares are called “A”.",
        ),
        (
            [{"name": "A/B", "percent": 50}, {"name": "B", "percent": 50}],
            "“name” is a short word",
        ),
        (
            [{"name": "A", "percent": 0}, {"name": "B", "percent": 100}],
            "“percent” is a whole number",
        ),
        ([{"name": "A"}, {"name": "B", "percent": 50}], "A share is an object"),
        ("half", "“shares” is a list"),
    ],
)
def test_shares_that_are_no_split_are_refused(shares, message):
    assert message in refused("ab_split", {"shares": shares})


def test_the_form_of_a_split_reads_its_rows():
    data = QueryDict(
        "shares_name=A&shares_percent=70&shares_name=B&shares_percent=30"
        "&shares_name=&shares_percent="
    )
    form = ACTIONS["ab_split"].form(data)
    assert form.is_valid()
    assert ACTIONS["ab_split"].clean(form.cleaned_data)["shares"] == [
        {"name": "A", "percent": 70},
        {"name": "B", "percent": 30},
    ]
    assert 'value="70"' in str(form["shares"])


def test_a_control_group_is_held_back():
    one_step("control_group", {"percent": 30})
    for _ in range(200):
        make.event(make.customer(), "Order paid")

    go()

    taken = ways()
    assert set(taken) == {"treated", "control"}
    assert 35 <= taken["control"] <= 85


# Limit


def test_only_so_many_go_on_first_come_first_served():
    one_step("limit_participants", {"limit": 3})
    customers = [make.customer() for _ in range(5)]
    for customer in customers:
        make.event(customer, "Order paid")
        go()

    by_customer = dict(Passage.objects.values_list("customer_id", "way"))
    assert [by_customer[one.pk] for one in customers] == [
        *["within"] * 3,
        "over",
        "over",
    ]
    assert StepCount.objects.get().used == 3


def test_a_limit_counts_on_in_the_next_version():
    campaign = one_step("limit_participants", {"limit": 1})
    make.event(make.customer(), "Order paid")
    go()
    make.publish_again(campaign, entry={"rule": "every_event"})
    make.event(make.customer(), "Order paid")
    go()

    assert ways() == {"within": 1, "over": 1}


def test_a_limit_of_an_hour_begins_anew_with_the_next():
    one_step("limit_participants", {"limit": 2, "per": "hour"})
    now = timezone.now().replace(minute=10) + timedelta(hours=1)
    for hour in range(2):
        at = now + timedelta(hours=hour)
        for _ in range(3):
            make.event(make.customer(), "Order paid", at=at, now=at)
        go(now=at + timedelta(minutes=1))

    assert ways() == {"within": 4, "over": 2}


def test_periods_begin_where_the_clock_says(settings):
    now = datetime(2026, 11, 25, 10, 40, tzinfo=UTC)  # A Wednesday.
    assert period_of("hour", now) == datetime(2026, 11, 25, 10, tzinfo=UTC)
    assert period_of("day", now) == datetime(2026, 11, 25, tzinfo=UTC)
    assert period_of("week", now) == datetime(2026, 11, 23, tzinfo=UTC)
    assert period_of("", now) == period_of("", now + timedelta(days=9_999))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"limit": 0}, "“limit” is a whole number from 1"),
        ({"limit": True}, "“limit” is a whole number from 1"),
        ({"limit": 5, "per": "year"}, "“per” is hour, day or week"),
        ({"limit": 5, "per": ["day"]}, "“per” is hour, day or week"),
    ],
)
def test_a_limit_that_is_none_is_refused(config, message):
    assert message in refused("limit_participants", config)


# Attributes and lists


def test_an_attribute_is_set_from_the_event_with_its_type():
    Attribute.objects.create(code="spent", type="number")
    one_step("set_attribute", {"attribute": "spent", "value": "$amount"})
    anna = make.customer()
    make.event(anna, "Order paid", amount=12.5)

    go()

    anna.refresh_from_db()
    assert anna.attributes == {"spent": 12.5}
    assert ways() == {"done": 1}


def test_an_attribute_of_the_profile_is_set_as_well_and_one_is_taken_away():
    Attribute.objects.create(code="tier", type="string")
    anna = make.customer(attributes={"tier": "gold"}, city="Rome")
    make.campaign(
        {
            "key": "city",
            "action": "set_attribute",
            "config": {"attribute": "city", "value": "Paris"},
            "next": {"done": "tier"},
        },
        {
            "key": "tier",
            "action": "set_attribute",
            "config": {"attribute": "tier", "value": None},
            "next": {},
        },
        on="Order paid",
    )
    make.event(anna, "Order paid")

    go()

    anna.refresh_from_db()
    assert (anna.city, anna.attributes) == ("Paris", {})


def test_a_value_that_does_not_fit_or_is_missing_goes_the_other_way():
    Attribute.objects.create(code="spent", type="number")
    one_step("set_attribute", {"attribute": "spent", "value": "$amount"})
    make.event(make.customer(), "Order paid", amount="much")
    make.event(make.customer(), "Order paid")

    go()

    reasons = set(Passage.objects.values_list("way", "reason"))
    assert reasons == {
        ("failed", "The attribute “spent” must be a number, without quotes."),
        ("failed", "The event has no “amount”."),
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"attribute": "nothing", "value": 1}, "“attribute” is the code of"),
        ({"attribute": "spent"}, "“value” is missing"),
        ({"attribute": "spent", "value": "much"}, "must be a number"),
        ({"attribute": "spent", "value": {"a": 1}}, "A value is a text, a number"),
        ({"attribute": "spent", "value": "$1x y"}, "is no field code"),
    ],
)
def test_an_attribute_that_cannot_be_set_is_refused(config, message):
    Attribute.objects.create(code="spent", type="number")
    assert message in refused("set_attribute", config)


@pytest.mark.parametrize(
    ("type", "typed", "meant"),
    [
        ("number", "12", 12),
        ("number", "12.5", 12.5),
        ("boolean", "Yes", True),
        ("list", "a, b", ["a", "b"]),
        ("string", "12", "12"),
        ("string", "", None),
        ("number", "$amount", "$amount"),
    ],
)
def test_the_form_of_an_attribute_reads_its_type(type, typed, meant):
    Attribute.objects.create(code="it", type=type)
    form = ACTIONS["set_attribute"].form({"attribute": "it", "value": typed})
    assert form.is_valid(), form.errors
    assert ACTIONS["set_attribute"].clean(form.cleaned_data)["value"] == meant


def test_customers_are_put_in_a_list_and_taken_out():
    guests, others = make.segment("Guests"), make.segment("Others")
    anna = make.customer()
    make.kept(others, anna)
    make.campaign(
        {
            "key": "in",
            "action": "add_to_list",
            "config": {"segment": guests.pk},
            "next": {"done": "out"},
        },
        {
            "key": "out",
            "action": "remove_from_list",
            "config": {"segment": others.pk},
            "next": {},
        },
        on="Order paid",
    )
    make.event(anna, "Order paid")
    make.event(anna, "Order paid")

    go()

    assert [m.customer for m in guests.memberships.all()] == [anna]
    assert not others.memberships.exists()
    assert Segment.objects.get(pk=guests.pk).count == 1


def test_only_a_list_can_be_added_to():
    dynamic = make.segment(rule={"attribute": "city", "op": "=", "value": "Paris"})
    message = "“segment” is the number of a list of customers."
    assert message in refused("add_to_list", {"segment": dynamic.pk})
    assert message in refused("remove_from_list", {"segment": 999})
    assert message in refused("remove_from_list", {"segment": "Guests"})


# Events


def test_an_event_is_recorded_once_with_values_of_the_first():
    one_step(
        "record_event",
        {"event": "Won back", "context": {"product": "$product_id", "by": "mail"}},
    )
    anna = make.customer()
    make.event(anna, "Order paid", product_id=7)

    go()

    event = Event.objects.get(type__name="Won back")
    assert event.customer == anna
    assert event.context == {"product": 7, "by": "mail"}
    assert event.source == Source.objects.get(name="campaigns")
    assert ways() == {"done": 1}


def test_an_event_that_lacks_a_field_is_not_recorded():
    one_step("record_event", {"event": "Won back", "context": {"product": "$product"}})
    make.event(make.customer(), "Order paid")

    go()

    assert not Event.objects.filter(type__name="Won back").exists()
    assert Passage.objects.get().reason == "The event has no “product”."


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"event": ""}, "“event” is the name of an event"),
        ({"event": "X", "context": []}, None),
        ({"event": "X", "context": {"a b": 1}}, "cannot be the code of a field"),
        ({"event": "X", "context": {"a": {"b": 1}}}, "A value is a text, a number"),
    ],
)
def test_an_event_that_cannot_be_recorded_is_refused(config, message):
    if message is None:
        assert ACTIONS["record_event"].clean(config) == {"event": "X", "context": {}}
    else:
        assert message in refused("record_event", config)


def test_the_form_of_an_event_reads_a_line_for_each_field():
    form = ACTIONS["record_event"].form(
        {"event": "Won back", "context": "product = $product_id\n\npoints = 5"}
    )
    assert form.is_valid()
    assert form.cleaned_data["context"] == {"product": "$product_id", "points": 5}
    again = ACTIONS["record_event"].form(initial=form.cleaned_data)
    assert "product = $product_id\npoints = 5" in str(again["context"])


# End


def test_the_end_tells_why():
    one_step("end", {"reason": "Bought already"})
    make.event(make.customer(), "Order paid")

    go()

    run = Run.objects.get()
    assert (run.status, run.reason) == ("finished", "Bought already")
    assert ways() == {"ended": 1}


# All of them


CONFIGS = {
    "ab_split": HALVES,
    "limit_participants": {"limit": 5_000},
    "control_group": {"percent": 10},
    "set_attribute": {"attribute": "city", "value": "Paris"},
    "record_event": {"event": "Won back", "context": {"amount": "$amount"}},
    "end": {},
}


@pytest.mark.parametrize("action", CONFIGS)
def test_an_action_costs_the_same_queries_for_few_and_for_many(action):
    one_step(action, CONFIGS[action])

    def queries(number):
        for _ in range(number):
            make.event(make.customer(), "Order paid", amount=1)
        dispatch_events()
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert advance_runs() == number
        return len(captured)

    queries(1)
    assert queries(2) == queries(20)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_that_is_offered_is_done(action):
    make.event_type("Order paid")
    paris = {"attribute": "city", "op": "=", "value": "Paris"}
    config = {
        **CONFIGS,
        "filter_customers": {"rule": paris},
        "refresh_filter": {"filter": "first"},
        "send_email": {"subject": "Hello", "text": "Hello"},
        "send_sms": {"text": "Hello"},
        "send_push": {"title": "Hello", "text": "Hello"},
        "wait": {"for": 1, "unit": "days"},
        "wait_for_event": {"event": "Order paid", "for": 1, "unit": "days"},
        "add_to_list": {"segment": make.segment().pk},
        "remove_from_list": {"segment": make.segment().pk},
        "call_webhook": {"url": "https://erp.example.com/"},
    }[action]
    first = make.step(
        "first", "filter_customers", {"rule": paris}, positive="it", negative="it"
    )
    make.campaign(first, make.step("it", action, config), on="Order paid")
    make.event(make.reachable(), "Order paid", amount=1)
    go()

    run = Run.objects.get()
    assert (run.attempts, run.step.key) == (0, "it")
    assert run.status in ("waiting", "finished")


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_has_a_face_a_form_and_words(action):
    known = ACTIONS[action]
    assert all([known.label, known.symbol, known.hint])
    assert known.form()
    if config := CONFIGS.get(action):
        assert known.describe(known.clean(config))


# Waiting for a date of the event


def test_it_waits_for_days_before_a_date_in_the_event():
    campaign = one_step("wait", {"until": "$return_at", "before": 2})
    campaign.versions.update(published_at=timezone.now() - timedelta(days=1))
    now = timezone.now()
    anna = make.customer()
    make.event(
        anna, "Order paid", return_at=(now + timedelta(days=5)).isoformat(), now=now
    )

    go(now=now)
    assert Run.objects.get().due_at == now + timedelta(days=3)
    go(now=now + timedelta(days=3))
    assert ways() == {"done": 1}


@pytest.mark.parametrize("found", ["soon", 5, None])
def test_an_event_without_such_a_date_goes_another_way(found):
    one_step("wait", {"until": "$return_at"})
    make.event(make.customer(), "Order paid", return_at=found)

    go()

    assert ways() == {"no_date": 1}
    assert Passage.objects.get().reason == "The event has no date in “return_at”."


def test_a_day_in_the_event_begins_in_the_installation_s_zone(settings):
    settings.TIME_ZONE = "Europe/Berlin"
    one_step("wait", {"until": "$return_on", "before": 1})
    make.event(make.customer(), "Order paid", return_on="2099-03-02")

    go()

    assert Run.objects.get().due_at == datetime(2099, 2, 28, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"until": "$a b"}, "“$a b” is no field code."),
        ({"until": "$a", "before": -1}, "“before” is a number of days"),
        ({"until": "2026-12-01", "before": 1}, "“before” is not understood here"),
    ],
)
def test_a_date_of_the_event_that_cannot_be_is_refused(config, message):
    assert message in refused("wait", config)


def test_the_form_of_a_wait_reads_a_date_of_the_event():
    form = ACTIONS["wait"].form({"field": "return_at", "before": "2"})
    assert form.is_valid(), form.errors
    assert form.cleaned_data == {"until": "$return_at", "before": 2}
    assert 'value="return_at"' in str(
        ACTIONS["wait"].form(initial=form.cleaned_data)["field"]
    )
    two = ACTIONS["wait"].form({"field": "return_at", "number": "2", "unit": "days"})
    assert not two.is_valid()


# What publishing says


def problems(*steps, **more):
    with pytest.raises(Several) as info:
        make.campaign(*steps, **more)
    return [error.message for error in info.value.errors]


def test_an_event_that_starts_its_own_campaign_is_refused():
    again = make.step("again", "record_event", {"event": "Order paid"})
    assert problems(again, on="Order paid") == [
        "“again” records an event that starts this campaign again: it would never end. "
        "Record another event, or let customers enter once."
    ]
    make.campaign(again, on="Order paid", entry={"rule": "once"})


def test_a_circle_through_other_campaigns_is_refused_with_its_path():
    there = make.step("there", "record_event", {"event": "Won back"})
    back = make.step("back", "record_event", {"event": "Order paid"})
    make.campaign(back, on="Won back", name="Welcome")

    [message] = problems(there, on="Order paid")

    assert "starts this campaign again, by way of “Welcome”" in message


def test_who_is_held_back_is_not_written_to():
    group = make.step("group", "control_group", {"percent": 10}, control="wait")
    wait = make.step("wait", "wait", {"for": 1, "unit": "days"}, done="sms")
    assert problems(group, wait, make.sms()) == [
        "“group” holds customers back, and the way of those leads to “sms”, which "
        "writes to them. Lead it elsewhere."
    ]


def test_a_list_that_is_archived_is_refused_and_one_in_use_stays():
    guests = make.segment("Guests")
    add = make.step("add", "add_to_list", {"segment": guests.pk})
    make.campaign(add, name="Welcome")
    assert [use.name for use in uses_of(guests.pk)] == ["Welcome"]

    Segment.objects.filter(pk=guests.pk).update(archived_at=timezone.now())
    assert problems(add) == ["The list in “add” is archived. Choose another one."]


def test_fields_that_no_event_has_had_are_told():
    make.event(make.customer(), "Order paid", amount=1)
    campaign = make.draft(
        make.step(
            "note",
            "record_event",
            {"event": "X", "context": {"a": "$sum"}},
            done=None,
            failed=None,
        )
    )
    assert publish(campaign).warnings == [
        "The step “note” asks for “sum”, which no “Order paid” has had yet."
    ]


@pytest.mark.parametrize(
    "step",
    [
        make.step(
            "one",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "$town"}},
        ),
        make.step("one", "wait", {"until": "$town"}),
        make.step("one", "record_event", {"event": "X", "context": {"a": "$town"}}),
    ],
    ids=lambda step: step["action"],
)
def test_a_field_that_no_event_can_carry_is_refused(step):
    type = make.event_type("Order paid")
    EventType.objects.update(mode=EventType.Mode.ENFORCED)
    EventField.objects.create(type=type, code="amount", value_type="number")
    campaign = make.draft(step)

    with pytest.raises(Several, match="“town”, which no “Order paid” can carry"):
        publish(campaign)


def test_a_nested_field_of_an_enforced_event_may_yet_come():
    type = make.event_type("Order paid")
    EventType.objects.update(mode=EventType.Mode.ENFORCED)
    EventField.objects.create(type=type, code="address", value_type="object")
    [said] = [
        one
        for one in publish(
            make.draft(
                make.step("wait", "wait", {"until": "$address.moved_on"}, done="sms"),
                make.sms(),
            )
        ).warnings
        if "asks for" in one
    ]
    assert "“address.moved_on”, which no “Order paid” has had yet" in said


@pytest.mark.parametrize(
    ("action", "config", "said"),
    [
        (
            "wait",
            {"until": "2020-03-01"},
            "“pause” waits until 1 March 2020, which is over: nobody waits there. "
            "Choose a later date.",
        ),
        (
            "wait",
            {"for": 400, "unit": "days"},
            "“pause” waits for 400 days: that is longer than a year. Check that it is "
            "meant.",
        ),
        (
            "wait_for_event",
            {"event": "Order paid", "where": [], "for": 400, "unit": "days"},
            "“pause” waits for “Order paid”, 400 days at most: that is longer than a "
            "year. Check that it is meant.",
        ),
        (
            "wait",
            {"until": "$amount"},
            "“pause” waits for the date in “amount”, which is no date but number: all "
            "take the way “No date”.",
        ),
        ("wait", {"for": 3, "unit": "days"}, None),
        ("wait", {"until": "$day"}, None),
    ],
)
def test_a_wait_that_is_over_or_has_no_end_is_told(action, config, said):
    make.event(make.customer(), "Order paid", amount=1, day="2026-12-01")
    ways = ACTIONS[action].ways(config)
    pause = make.step("pause", action, config, **dict.fromkeys(ways, "sms"))

    assert publish(make.draft(pause, make.sms())).warnings == ([said] if said else [])

"""Waiting for an event: what counts, for whom, from when until when."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from campaigns.actions import ACTIONS
from campaigns.actions.happen import SECOND_LOOK
from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs
from campaigns.models import Passage, Run
from campaigns.publish import archive, pause, publish, resume
from events.models import EventType, PendingEvent
from segments.rules import RuleError
from smartcomm.core.errors import Invalid, Several
from tests import make

pytestmark = pytest.mark.django_db

NOW = timezone.now().replace(microsecond=0)
HOUR = timedelta(hours=1)


def cart(*before, where=None, **more):
    """A campaign that waits two hours for the payment of what was put in the cart."""
    wait = make.step(
        "wait",
        "wait_for_event",
        {"event": "Order paid", "where": where or [], "for": 2, "unit": "hours"},
    )
    return published(make.campaign(*before, wait, on="Cart filled", **more))


def published(campaign):
    """The campaign, as if published before all that happens here."""
    campaign.versions.update(published_at=NOW - timedelta(days=1))
    return campaign


def happens(customer, name, at, **context):
    return make.event(customer, name, at=at, now=at, **context)


def go(now):
    while dispatch_events(now=now) + advance_runs(now=now):
        pass


def taken():
    return list(
        Passage.objects.filter(step__key="wait")
        .order_by("pk")
        .values_list("customer__external_id", "way")
    )


def test_who_does_it_in_time_goes_on_at_once():
    cart()
    anna, ben = make.customer("anna"), make.customer("ben")
    for one in (anna, ben):
        happens(one, "Cart filled", NOW)
    go(NOW)
    go(NOW + SECOND_LOOK)
    assert taken() == []

    happens(anna, "Order paid", NOW + HOUR)
    go(NOW + HOUR)
    assert taken() == [("anna", "happened")]

    go(NOW + 2 * HOUR - timedelta(seconds=1))
    assert taken() == [("anna", "happened")]
    go(NOW + 2 * HOUR)
    assert taken() == [("anna", "happened"), ("ben", "timed_out")]
    happens(ben, "Order paid", NOW + 3 * HOUR)
    go(NOW + 3 * HOUR)
    assert len(taken()) == 2


def test_another_event_or_another_s_event_is_none():
    cart()
    anna, ben = make.customer("anna"), make.customer("ben")
    happens(anna, "Cart filled", NOW)
    go(NOW)
    happens(anna, "Product viewed", NOW + HOUR)
    happens(ben, "Order paid", NOW + HOUR)
    go(NOW + HOUR)
    assert taken() == []


def test_conditions_compare_with_the_event_that_started_the_run():
    cart(where=[{"field": "cart", "op": "=", "value": "$cart"}])
    anna = make.customer("anna")
    happens(anna, "Cart filled", NOW, cart=7)
    go(NOW)
    happens(anna, "Order paid", NOW + HOUR / 2, cart=8)
    go(NOW + HOUR / 2)
    assert taken() == []
    happens(anna, "Order paid", NOW + HOUR, cart=7)
    go(NOW + HOUR)
    assert taken() == [("anna", "happened")]


def test_each_run_waits_for_its_own():
    cart(where=[{"field": "cart", "op": "=", "value": "$cart"}])
    anna = make.customer("anna")
    for number in (1, 2):
        happens(anna, "Cart filled", NOW, cart=number)
    go(NOW)
    happens(anna, "Order paid", NOW + HOUR, cart=2)
    go(NOW + HOUR)
    assert Run.objects.get(status="finished").event.context == {"cart": 2}


def test_a_field_that_the_starting_event_lacks_can_be_met_by_nothing():
    cart(where=[{"field": "cart", "op": "=", "value": "$cart"}])
    anna = make.customer("anna")
    happens(anna, "Cart filled", NOW)
    go(NOW)
    happens(anna, "Order paid", NOW + HOUR, cart=7)
    go(NOW + HOUR)
    assert taken() == []
    go(NOW + 2 * HOUR)
    assert Passage.objects.get().reason == "The event has no “cart”."


def test_what_happened_between_the_start_and_the_first_look_counts():
    cart()
    anna = make.customer("anna")
    happens(anna, "Cart filled", NOW)
    happens(anna, "Order paid", NOW + timedelta(seconds=2))
    go(NOW + timedelta(seconds=30))
    assert taken() == [("anna", "happened")]


def test_after_a_wait_events_count_from_the_arrival_on():
    cart(make.step("rest", "wait", {"for": 1, "unit": "hours"}, done="wait"))
    anna = make.customer("anna")
    happens(anna, "Cart filled", NOW)
    go(NOW)
    happens(anna, "Order paid", NOW + HOUR / 2)
    go(NOW + HOUR)
    assert taken() == []
    happens(anna, "Order paid", NOW + 2 * HOUR)
    go(NOW + 2 * HOUR)
    assert taken() == [("anna", "happened")]


def test_what_occurred_in_time_counts_even_when_the_workers_were_away():
    cart()
    anna, ben = make.customer("anna"), make.customer("ben")
    for one in (anna, ben):
        happens(one, "Cart filled", NOW)
    go(NOW)
    happens(anna, "Order paid", NOW + HOUR)
    happens(ben, "Order paid", NOW + 2 * HOUR)
    go(NOW + 5 * HOUR)
    assert taken() == [("anna", "happened"), ("ben", "timed_out")]


def test_an_event_that_starts_and_is_waited_for_is_not_its_own_answer():
    wait = make.step(
        "wait", "wait_for_event", {"event": "Order paid", "for": 2, "unit": "hours"}
    )
    published(make.campaign(wait, on="Order paid"))
    anna = make.customer("anna")
    happens(anna, "Order paid", NOW)
    go(NOW)
    assert taken() == []
    happens(anna, "Order paid", NOW + HOUR)
    go(NOW + HOUR)
    assert taken() == [("anna", "happened")]
    assert Run.objects.count() == 2


def test_a_system_event_s_runs_wait_as_well():
    wait = make.step(
        "wait", "wait_for_event", {"event": "Order paid", "for": 2, "unit": "hours"}
    )
    campaign = make.campaign(wait, on="Product in stock", system=True)
    anna = make.customer("anna")
    event = make.system_event("Product in stock")
    Run.objects.create(
        customer=anna,
        campaign=campaign,
        version=campaign.versions.get(),
        system_event=event,
        step=campaign.versions.get().steps.get(),
        due_at=NOW,
        started_at=NOW,
        arrived_at=NOW,
    )
    go(NOW)
    happens(anna, "Order paid", NOW + HOUR)
    go(NOW + HOUR)
    assert taken() == [("anna", "happened")]


def test_pausing_holds_back_what_happened_and_resuming_goes_on():
    campaign = cart()
    anna = make.customer("anna")
    happens(anna, "Cart filled", NOW)
    go(NOW)
    pause(campaign)
    happens(anna, "Order paid", NOW + HOUR)
    go(NOW + HOUR)
    assert taken() == []
    resume(campaign)
    go(NOW + HOUR)
    assert taken() == [("anna", "happened")]


# The queue


def test_the_type_is_awaited_until_nobody_waits():
    campaign = cart()
    waited_for = EventType.objects.get(name="Order paid")
    assert waited_for.is_awaited

    pause(campaign)
    waited_for.refresh_from_db()
    assert waited_for.is_awaited

    archive(campaign)
    waited_for.refresh_from_db()
    assert not waited_for.is_awaited


def test_runs_of_an_older_version_are_woken():
    campaign = cart()
    anna = make.customer("anna")
    happens(anna, "Cart filled", NOW)
    go(NOW)
    make.publish_again(campaign, steps=[make.sms()], start="sms")
    happens(anna, "Order paid", NOW + HOUR)
    go(NOW + HOUR)
    assert taken() == [("anna", "happened")]


@pytest.mark.django_db(transaction=True)
def test_an_event_that_comes_while_the_run_arrives_is_not_missed():
    """The run has looked and not committed yet; the event is dispatched meanwhile."""
    cart()
    anna = make.customer("anna")
    happens(anna, "Cart filled", NOW)
    dispatch_events(now=NOW)

    def event_comes():
        try:
            happens(anna, "Order paid", NOW + timedelta(seconds=1))
            while dispatch_events(now=NOW + timedelta(seconds=1)):
                pass
        finally:
            connection.close()

    with transaction.atomic():
        advance_runs(now=NOW)
        other = threading.Thread(target=event_comes)
        other.start()
        other.join(timeout=5)
        is_waiting = other.is_alive()
    other.join()
    assert not PendingEvent.objects.exists()
    assert not is_waiting

    go(NOW + SECOND_LOOK)
    assert taken() == [("anna", "happened")]


def test_looking_costs_the_same_queries_for_few_and_for_many():
    cart(where=[{"field": "cart", "op": "=", "value": "$cart"}])

    def queries(number):
        customers = [make.customer() for _ in range(number)]
        for one in customers:
            happens(one, "Cart filled", NOW, cart=1)
        dispatch_events(now=NOW)
        for one in customers:
            happens(one, "Order paid", NOW + HOUR, cart=1)
        with CaptureQueriesContext(connection) as dispatching:
            dispatch_events(now=NOW + HOUR)
        with CaptureQueriesContext(connection) as looking:
            assert advance_runs(now=NOW + HOUR) == number
        return len(dispatching), len(looking)

    queries(1)
    assert queries(2) == queries(20)


# Configuration


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"event": "", "for": 1, "unit": "days"}, "“event” is the name of an event"),
        ({"event": "X", "for": 0, "unit": "days"}, "“for” is a whole number"),
        ({"event": "X", "for": 1, "unit": "years"}, "“unit” is one of"),
        ({"event": "X", "for": 1, "unit": "days", "where": [{}]}, "“field”"),
    ],
)
def test_a_wait_that_cannot_be_is_refused(config, message):
    with pytest.raises((Invalid, RuleError)) as info:
        ACTIONS["wait_for_event"].clean(config)
    assert message in info.value.message


def test_it_says_what_it_waits_for():
    config = ACTIONS["wait_for_event"].clean(
        {
            "event": "Order paid",
            "where": [{"field": "cart", "op": "=", "value": "$cart"}],
            "for": 1,
            "unit": "days",
        }
    )
    said = ACTIONS["wait_for_event"].describe(config)
    assert said.startswith("“Order paid” where")
    assert said.endswith("1 day at most")


def test_publishing_refuses_a_system_event_and_tells_of_an_unknown_one():
    make.system_event("Product in stock")
    wait = {"event": "Product in stock", "for": 1, "unit": "days"}
    with pytest.raises(Several) as info:
        make.campaign(make.step("wait", "wait_for_event", wait), on="Cart filled")
    assert "which is a system event and of no customer" in str(
        [error.message for error in info.value.errors]
    )
    draft = make.draft(
        make.step("wait", "wait_for_event", {**wait, "event": "Never seen"})
    )
    assert any("“Never seen”" in one for one in publish(draft).warnings)


def test_a_name_is_waited_for_as_it_is_sent():
    wait = {"event": "Order paid ", "for": 1, "unit": "days"}
    campaign = make.campaign(make.step("wait", "wait_for_event", wait))
    assert campaign.versions.get().steps.get().event_type.name == "Order paid "

"""A planned time with a pace: whom it is for, in portions, and why it took nobody."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from campaigns import broadcast, publish
from campaigns.broadcast import walk_broadcasts
from campaigns.models import Broadcast, Campaign, Run
from campaigns.planned import start_planned
from campaigns.why import WhyReason, why
from customers.models import Customer
from segments import lists
from tests import make

pytestmark = pytest.mark.django_db

NINE = datetime(2026, 12, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
DAILY = {
    "kind": "schedule",
    "at": "2026-12-01T09:00",
    "repeat": {"every": 1, "unit": "day"},
}
BIRTHDAY = {"kind": "date", "attribute": "birth_date", "yearly": True, "at": "09:00"}
ONE_AN_HOUR = {"limit": 1, "per": "hour"}
VIEWED = {"event": "Product viewed"}


@pytest.fixture(autouse=True)
def clock(settings: Any) -> Iterator[Any]:
    """It is half past eight, and time stands still unless a test shifts it."""
    settings.TIME_ZONE = "UTC"
    with time_machine.travel(NINE - HOUR / 2, tick=False) as traveller:
        yield traveller


def work() -> None:
    while start_planned() + walk_broadcasts():
        pass


def entered(campaign: Campaign) -> list[str]:
    runs = Run.objects.filter(campaign=campaign).order_by("id")
    return list(runs.values_list("customer__external_id", flat=True))


def viewers(negative: str | None = None) -> dict[str, Any]:
    make.event_type("Product viewed")
    return make.step(
        "who", "filter_customers", {"rule": VIEWED}, positive="sms", negative=negative
    )


def reason_for(customer: Customer, campaign: Campaign) -> WhyReason:
    campaign.refresh_from_db()
    [reason] = why(customer, campaign, now=timezone.now()).answer.reasons
    return reason


def test_portions_take_whom_it_is_for_in_the_order_of_the_pace(clock):
    guests = make.segment("Guests")
    names = ["late", "outside", "early", "never"]
    for name in names:
        make.customer(name)
    lists.edit(guests, add=["late", "early", "never"])
    for hours, name in enumerate(("late", "outside", "early"), start=1):
        customer = Customer.objects.get(external_id=name)
        make.event(customer, "Product viewed", at=timezone.now() - hours * HOUR)
    campaign = make.campaign(
        viewers("sms"),
        make.sms(),
        starts={**DAILY, "segment": guests.pk},
        pace={**ONE_AN_HOUR, "first": "longest_interest"},
    )

    clock.move_to(NINE)
    work()
    assert entered(campaign) == ["early"]
    clock.shift(HOUR)
    work()

    assert entered(campaign) == ["early", "late"]
    assert Broadcast.objects.get().reason == "Nobody else matches."


def test_the_next_time_comes_while_the_last_one_is_still_taken(clock):
    make.customer("C-1")
    make.customer("C-2")
    campaign = make.campaign(starts=DAILY, pace={"limit": 1, "per": "day"})

    clock.move_to(NINE)
    work()
    clock.shift(DAY)
    work()

    # Each time has its own portions, and takes everybody once.
    assert sorted(entered(campaign)) == ["C-1", "C-1", "C-2"]
    clock.shift(DAY - HOUR)
    work()
    assert len(entered(campaign)) == 3
    clock.shift(HOUR)
    work()
    assert sorted(entered(campaign)) == ["C-1", "C-1", "C-1", "C-2", "C-2"]
    first, second, third = Broadcast.objects.order_by("pk")
    assert (first.status, first.entered) == ("finished", 2)
    assert (second.status, second.entered) == ("finished", 2)
    assert (third.status, third.entered) == ("running", 1)


@pytest.fixture
def guests() -> Any:
    """A list of two: one, who is taken first, and two."""
    segment = make.segment("Guests")
    for name in ("one", "two"):
        make.customer(name)
    lists.edit(segment, add=["one", "two"])
    return segment


def test_who_was_not_meant_is_told_so_and_not_that_the_time_was_left_out(guests, clock):
    anna = make.customer("anna")
    campaign = make.campaign(
        starts={**DAILY, "segment": guests.pk}, pace={"limit": 5, "per": "hour"}
    )
    clock.move_to(NINE)
    work()
    assert Broadcast.objects.get().reason == "Nobody else matches."

    reason = reason_for(anna, campaign)

    assert reason.because == "not_in_segment"
    assert reason.sentence == "They were not in the segment “Guests” at that time."
    assert reason.tree is not None


def test_whose_date_was_not_reached_is_told_so_after_portions(clock):
    anna = make.customer("anna", birth_date=NINE.date().replace(year=1990, day=2))
    campaign = make.campaign(starts=BIRTHDAY, pace=ONE_AN_HOUR)
    clock.move_to(NINE)
    work()

    reason = reason_for(anna, campaign)

    assert reason.because == "date_not_reached"


def test_while_portions_are_taken_whoever_is_meant_waits_for_their_turn(guests, clock):
    anna = make.customer("anna")
    campaign = make.campaign(starts={**DAILY, "segment": guests.pk}, pace=ONE_AN_HOUR)
    clock.move_to(NINE)
    work()

    two = Customer.objects.get(external_id="two")
    reason = reason_for(two, campaign)
    assert reason.because == "broadcast_under_way"
    assert "It takes 1 an hour, oldest customer first; 1 so far" in reason.sentence
    assert "The next one is due 1 Dec 2026, 10:00." in reason.sentence
    reason = reason_for(anna, campaign)
    assert reason.because == "broadcast_under_way"
    assert reason.sentence.endswith("They do not match now.")
    assert reason.tree is not None
    assert "Guests" in reason.tree.words


def test_while_portions_are_taken_the_filter_s_tree_keeps_their_words(guests, clock):
    for name in ("one", "two"):
        customer = Customer.objects.get(external_id=name)
        make.event(customer, "Product viewed")
    anna = make.customer("anna")
    lists.edit(guests, add=["anna"])
    campaign = make.campaign(
        viewers(), make.sms(), starts={**DAILY, "segment": guests.pk}, pace=ONE_AN_HOUR
    )
    clock.move_to(NINE)
    work()

    reason = reason_for(Customer.objects.get(external_id="two"), campaign)
    assert "It takes 1 an hour" in reason.sentence
    assert reason.sentence.endswith("They match now.")
    reason = reason_for(anna, campaign)
    assert reason.sentence.endswith("They do not match now.")
    assert reason.tree is not None
    assert reason.tree.kind == "event"


def test_whom_a_planned_broadcast_had_not_taken_hears_why_it_ended(guests, clock):
    campaign = make.campaign(
        starts={**DAILY, "segment": guests.pk}, pace={**ONE_AN_HOUR, "stop_after": 1}
    )
    two = Customer.objects.get(external_id="two")
    clock.move_to(NINE)
    work()

    reason = reason_for(two, campaign)
    assert reason.because == "broadcast_ended"
    assert "Stopped after 1, as its pace says." in reason.sentence
    clock.shift(DAY)
    Broadcast.objects.all().delete()
    Run.objects.all().delete()
    make.publish_again(campaign, pace=ONE_AN_HOUR)
    clock.shift(DAY)
    work()
    broadcast.stop(Broadcast.objects.latest("pk"), by="mia", now=timezone.now())
    reason = reason_for(two, campaign)
    assert reason.because == "broadcast_ended"
    assert "Stopped by mia after 1 had been taken." in reason.sentence


def test_an_archived_planned_broadcast_says_so(guests, clock):
    campaign = make.campaign(starts={**DAILY, "segment": guests.pk}, pace=ONE_AN_HOUR)
    clock.move_to(NINE)
    work()
    publish.archive(campaign)
    clock.shift(HOUR)
    work()

    reason = reason_for(Customer.objects.get(external_id="two"), campaign)

    assert reason.because == "archived"


def test_a_time_that_was_left_out_says_so_with_a_pace_as_well(guests, clock):
    campaign = make.campaign(
        starts={**DAILY, "segment": guests.pk, "max_age_hours": 1}, pace=ONE_AN_HOUR
    )
    clock.move_to(NINE + 2 * HOUR)
    work()

    reason = reason_for(Customer.objects.get(external_id="two"), campaign)

    assert reason.because == "planned_time_left_out"
    assert "It was planned for 1 Dec 2026, 09:00" in reason.sentence


def test_who_takes_the_negative_way_of_a_walk_is_not_said_to_have_missed_it(clock):
    """Without a pace everybody it is for gets a run, whatever the filter says."""
    guests = make.segment("Guests")
    make.customer("in")
    anna = make.customer("anna")
    lists.edit(guests, add=["in"])
    campaign = make.campaign(
        viewers("sms"), make.sms(), starts={**DAILY, "segment": guests.pk}
    )
    clock.move_to(NINE)
    work()
    assert entered(campaign) == ["in"]
    lists.edit(guests, add=["anna"])

    reason = reason_for(anna, campaign)

    assert reason.sentence.endswith("what it looks at has changed since.")

"""“Why?”, in as many situations as there are answers.

`pytest -s tests/campaigns/test_why.py` prints the answers as people read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from campaigns import broadcast, publish
from campaigns.broadcast import walk_broadcasts
from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Broadcast, Campaign, Run
from campaigns.why import PER_PAGE, Why, lately, why
from customers.merging import merge
from customers.models import Customer
from events.ingest import record_events
from events.models import Event, EventType
from messaging.send import send_messages
from segments.explain import Node
from tests import make

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
BIG = [{"field": "amount", "op": ">", "value": 50}]
VIEWED = {
    "event": "Product viewed",
    "where": [{"field": "product_id", "op": "=", "value": "$product_id"}],
}


@pytest.fixture(autouse=True)
def clock() -> Iterator[Any]:
    """It is noon, and time stands still unless a test shifts it."""
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


@pytest.fixture
def anna() -> Customer:
    return make.reachable("C-1001", first_name="Anna", city="Paris")


def work() -> None:
    """What the workers do, until nothing is left to do now."""
    while sum(
        (
            dispatch_events(),
            dispatch_system_events(),
            walk_broadcasts(),
            advance_runs(),
            send_messages(),
            settle_runs(),
        )
    ):
        pass


def ask(customer: Customer, campaign: Campaign, **more: Any) -> Why:
    campaign.refresh_from_db()
    told = why(customer, campaign, now=timezone.now(), **more)
    print(f"\n{in_words(told)}")  # noqa: T201  (for who reads along, with -s)
    return told


def in_words(told: Why) -> str:
    answer = told.answer
    about = f"“{answer.event.name}” ({answer.event.id})" if answer.event else "no event"
    lines = [f"Why {told.customer} in “{told.name}”, {about}?", f"  {answer.sentence}"]
    lines += [f"  note: {note}" for note in told.notes]
    for reason in answer.reasons:
        how = "stored" if reason.stored else "recomputed now"
        lines.append(f"  {reason.because} ({how}): {reason.sentence}")
        lines += tree_in_words(reason.tree)
    for stop in answer.run.stops if answer.run else ():
        way = f" → {stop.way_label}" if stop.way else ""
        lines.append(f"  {stop.arrived_at:%H:%M} {stop.label}: {stop.does}{way}")
        lines += [f"      {stop.reason}"] * bool(stop.reason)
        lines += [f"      {m.channel} {m.status} {m.detail}" for m in stop.messages]
        lines += tree_in_words(stop.tree)
    lines += [f"  also: {one.name}: {one.sentence}" for one in told.others]
    return "\n".join(lines)


def tree_in_words(node: Node | None, depth: int = 3) -> list[str]:
    if node is None:
        return []
    mark = {True: "yes", False: "no", None: "?"}[node.holds]
    lines = [f"{'  ' * depth}[{mark}] {node.words}: {node.fact or node.problem}"]
    for part in node.parts:
        lines += tree_in_words(part, depth + 1)
    return lines


def becauses(told: Why) -> list[str]:
    return [str(reason.because) for reason in told.answer.reasons]


# Runs


def test_a_run_is_told_step_by_step_with_its_message(anna):
    campaign = make.campaign(
        make.step(
            "paris",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "Paris"}},
            positive="sms",
            negative=None,
        ),
        make.sms(),
        on="Order paid",
        where=BIG,
        name="Thank you",
    )
    event = make.event(anna, "Order paid", amount=70)
    work()

    told = ask(anna, campaign)

    answer = told.answer
    assert (told.customer, told.name, answer.outcome) == (
        "C-1001",
        "Thank you",
        "started",
    )
    assert answer.event is not None
    assert answer.event.id == event.external_id
    assert (answer.version, answer.reasons) == (1, [])
    [condition] = answer.conditions
    assert (condition.sentence, condition.fits, condition.value) == (
        "amount is more than 50",
        True,
        70,
    )
    run = answer.run
    assert run is not None
    assert (run.status, run.waits_for) == ("finished", "")
    paris, sms = run.stops
    assert (paris.way, paris.way_label) == ("positive", "Yes")
    assert paris.tree is not None
    assert (paris.tree.holds, paris.tree.fact) == (True, "City is “Paris”")
    assert (sms.way, sms.tree) == ("sent", None)
    [message] = sms.messages
    assert (message.channel, message.status) == ("sms", "sent")


def test_a_filter_of_a_run_that_would_go_the_other_way_now_shows_it(anna):
    campaign = make.campaign(
        make.step(
            "paris",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "Paris"}},
            positive=None,
            negative=None,
        )
    )
    make.event(anna, "Order paid")
    work()
    Customer.objects.filter(pk=anna.pk).update(city="Rome")

    [stop] = ask(anna, campaign).answer.run.stops

    assert stop.way == "positive"
    assert stop.tree.holds is False


def test_a_filter_is_asked_again_by_the_clock_of_then(anna, clock):
    make.event_type("Product viewed")
    rule = {"event": "Product viewed", "period": {"last": 2, "unit": "days"}}
    campaign = make.campaign(
        make.step(
            "seen", "filter_customers", {"rule": rule}, positive="wait", negative=None
        ),
        make.step("wait", "wait", {"for": 7, "unit": "days"}, done="again"),
        make.step(
            "again", "refresh_filter", {"filter": "seen"}, positive=None, negative=None
        ),
    )
    make.event(anna, "Product viewed")
    make.event(anna, "Order paid")
    work()
    clock.shift(timedelta(days=8))
    work()

    stops = ask(anna, campaign).answer.run.stops

    ways = [(stop.step, stop.way, stop.tree and stop.tree.holds) for stop in stops]
    assert ways == [
        ("seen", "positive", True),
        ("wait", "done", None),
        ("again", "negative", False),
    ]


def test_a_run_that_waits_says_for_what_and_until_when(anna):
    campaign = make.campaign(
        make.step("wait", "wait", {"for": 3, "unit": "days"}, done=None)
    )
    make.event(anna, "Order paid")
    work()

    run = ask(anna, campaign).answer.run

    assert run.waits_for == "Waits until 7 May 2026, 12:00."
    assert run.waits_until == NOON + timedelta(days=3)
    publish.pause(campaign)
    run = ask(anna, campaign).answer.run
    assert run.waits_for == "Nothing goes on until the campaign is resumed."


def test_a_run_that_waits_for_an_event_says_when_it_gives_up(anna):
    campaign = make.campaign(
        make.step(
            "paid",
            "wait_for_event",
            {"event": "Order paid", "for": 2, "unit": "days"},
            happened=None,
            timed_out=None,
        ),
        on="Cart left",
    )
    make.event(anna, "Cart left")
    work()

    run = ask(anna, campaign).answer.run

    assert run.waits_for == "Waits for “Order paid” until 6 May 2026, 12:00."
    assert run.waits_until == NOON + timedelta(days=2)


def test_a_message_that_was_not_sent_says_why():
    ben = make.customer("C-2", phone="+4915112345678")
    campaign = make.campaign(make.sms())
    make.event(ben, "Order paid")
    work()

    answer = ask(ben, campaign).answer

    [stop] = answer.run.stops
    [message] = stop.messages
    assert (message.status, message.reason) == ("suppressed", "no_consent")
    assert message.detail
    assert message.detail in answer.sentence


# Not started, by a customer's event


def test_no_such_event_came(anna):
    campaign = make.campaign(on="Order paid")

    told = ask(anna, campaign)

    assert becauses(told) == ["no_event"]
    assert told.answer.sentence == (
        "Not started. No “Order paid” of theirs has come in, nor of anybody else."
    )
    make.event(make.customer(), "Order paid")
    EventType.objects.update(last_seen_on=NOON.date())
    sentence = ask(anna, campaign).answer.sentence
    assert sentence.endswith("the last one of anybody came on 4 May 2026.")


def test_the_trigger_s_condition_is_false_and_the_value_is_shown(anna):
    campaign = make.campaign(on="Order paid", where=BIG)
    make.event(anna, "Order paid", amount=49.9)
    work()

    told = ask(anna, campaign)

    [reason] = told.answer.reasons
    assert (reason.because, reason.stored) == ("condition_false", False)
    assert reason.sentence == (
        "The campaign asks that amount is more than 50; the event says 49.9."
    )
    assert [one.fits for one in told.answer.conditions] == [False]


def test_conditions_are_asked_of_the_version_that_was_at_work_then(anna, clock):
    campaign = make.campaign(on="Order paid", where=BIG)
    old = make.event(anna, "Order paid", amount=10)
    work()
    clock.shift(timedelta(hours=1))
    trigger = {"kind": "event", "event": "Order paid", "where": []}
    make.publish_again(campaign, trigger=trigger)
    make.event(anna, "Order paid", amount=10)
    work()

    told = ask(anna, campaign, event=old.external_id)

    assert (told.answer.version, becauses(told)) == (1, ["condition_false"])
    newest = ask(anna, campaign)
    assert (newest.answer.version, newest.answer.outcome) == (2, "started")
    assert [one.outcome for one in newest.others] == ["not_started"]


def test_how_long_ago_something_was_is_asked_by_the_clock_of_then(anna, clock):
    fresh = [{"field": "day", "op": "days ago <=", "value": 1}]
    campaign = make.campaign(on="Order paid", where=fresh)
    make.event(anna, "Order paid", day="2026-05-04")
    work()
    clock.shift(timedelta(days=30))

    answer = ask(anna, campaign).answer

    assert answer.outcome == "started"
    assert [one.fits for one in answer.conditions] == [True]


def test_each_event_of_a_page_is_asked_by_its_own_clock(anna, clock):
    long_ago = [{"field": "day", "op": "days ago >=", "value": 5}]
    campaign = make.campaign(on="Order paid", where=long_ago)
    for _ in range(2):
        make.event(anna, "Order paid", day="2026-05-01")
        work()
        clock.shift(timedelta(days=30))

    told = ask(anna, campaign)

    [earlier] = told.others
    assert (told.answer.outcome, earlier.outcome) == ("started", "not_started")
    assert "day was at least 5 days ago" in earlier.sentence


def test_an_event_that_was_too_old(anna):
    campaign = make.campaign(on="Order paid", max_age_hours=2)
    make.event(anna, "Order paid", at=NOON - timedelta(hours=3))
    work()

    [reason] = ask(anna, campaign).answer.reasons

    assert (reason.because, reason.stored) == ("too_old", True)
    assert reason.sentence == (
        "It occurred more than 2 hours before it came in, which is too old."
    )


def test_an_event_from_before_the_campaign_was_published(anna, clock):
    campaign = make.draft(on="Order paid")
    clock.shift(timedelta(hours=1))
    make.event(anna, "Order paid")
    clock.shift(timedelta(hours=1))
    publish.publish(campaign)
    work()

    [reason] = ask(anna, campaign).answer.reasons

    assert (reason.because, reason.stored) == ("not_published", True)
    assert "published 4 May 2026, 14:00" in reason.sentence


def test_an_event_from_before_the_campaign_existed(anna, clock):
    make.event(anna, "Order paid")
    clock.shift(timedelta(hours=1))
    campaign = make.campaign(on="Order paid")
    work()

    assert becauses(ask(anna, campaign)) == ["campaign_did_not_exist"]


def test_a_campaign_that_was_never_published(anna):
    campaign = make.draft(on="Order paid")
    event = make.event(anna, "Order paid")

    assert becauses(ask(anna, campaign)) == ["not_published"]
    assert becauses(ask(anna, campaign, event=event.external_id)) == ["not_published"]


def test_a_backfill(anna):
    campaign = make.campaign(on="Order paid")
    make.event(anna, "Order paid", backfill=True)
    work()

    [reason] = ask(anna, campaign).answer.reasons

    assert (reason.because, reason.stored) == ("backfill", True)


def test_whom_the_entry_rule_turned_away_hears_since_when(anna, clock):
    campaign = make.campaign(on="Order paid", entry={"rule": "interval", "days": 7})
    first = make.event(anna, "Order paid")
    work()
    clock.shift(timedelta(days=2))
    make.event(anna, "Order paid")
    work()

    told = ask(anna, campaign)

    [reason] = told.answer.reasons
    assert (reason.because, reason.stored) == ("entry_rule", True)
    assert reason.sentence == (
        "The customer entered on 4 May 2026, and may not enter again within 7 days."
    )
    [other] = told.others
    assert (other.event, other.outcome) == (first.external_id, "started")


def test_a_campaign_that_was_paused_then_though_it_is_at_work_now(anna, clock):
    campaign = make.campaign(on="Order paid")
    clock.shift(timedelta(hours=1))
    publish.pause(campaign)
    clock.shift(timedelta(hours=1))
    make.event(anna, "Order paid")
    clock.shift(timedelta(hours=1))
    publish.resume(campaign)
    work()

    [reason] = ask(anna, campaign).answer.reasons

    assert (reason.because, reason.stored) == ("paused", True)
    assert "paused from 4 May 2026, 13:00 until 4 May 2026, 15:00" in reason.sentence


def test_a_campaign_that_was_archived(anna, clock):
    campaign = make.campaign(on="Order paid")
    clock.shift(timedelta(hours=1))
    publish.archive(campaign)
    make.event(anna, "Order paid")
    work()

    assert becauses(ask(anna, campaign)) == ["archived"]


def test_an_event_that_was_still_in_the_queue_when_the_campaign_was_paused(anna, clock):
    campaign = make.campaign(on="Order paid")
    make.event(anna, "Order paid")
    clock.shift(timedelta(seconds=5))
    publish.pause(campaign)
    work()
    clock.shift(timedelta(hours=1))
    publish.resume(campaign)

    [reason] = ask(anna, campaign).answer.reasons

    assert (reason.because, reason.stored) == ("paused", False)
    assert "right after the event came in" in reason.sentence


def test_an_event_that_is_still_in_the_queue(anna):
    campaign = make.campaign(on="Order paid")
    make.event(anna, "Order paid")

    told = ask(anna, campaign)

    assert (told.answer.outcome, becauses(told)) == ("not_yet", ["in_queue"])
    publish.pause(campaign)
    told = ask(anna, campaign)
    assert (told.answer.outcome, becauses(told)) == ("not_started", ["paused"])


def test_an_event_that_the_campaign_does_not_wait_for(anna):
    campaign = make.campaign(on="Order paid")
    event = make.event(anna, "Call received")

    told = ask(anna, campaign, event=event.external_id)

    assert becauses(told) == ["other_event"]
    assert "waits for “Order paid”" in told.answer.sentence


def test_an_event_that_was_refused_at_the_door(anna):
    campaign = make.campaign(on="Order paid")
    item = {"id": "o-1", "name": "Order paid", "customer": "C-1001"}
    record_events([{**item, "context": {"price-eur": 1}}], source=make.source())

    told = ask(anna, campaign, event="o-1")

    assert becauses(told) == ["event_refused"]
    assert "price-eur" in told.answer.sentence


def test_an_event_that_never_came(anna):
    campaign = make.campaign(on="Order paid")
    make.event(make.customer(), "Order paid", id="o-9")

    told = ask(anna, campaign, event="o-9")

    assert becauses(told) == ["no_event"]
    assert "“o-9”" in told.answer.sentence


def test_what_nothing_explains_is_not_explained_away(anna):
    campaign = make.campaign(on="Order paid")
    make.event(anna, "Order paid")
    work()
    Run.objects.all().delete()

    [reason] = ask(anna, campaign).answer.reasons

    assert (reason.because, reason.stored) == ("unexplained", False)


# By a system event


def viewers(negative: str | None = None, **more: Any) -> Campaign:
    make.event_type("Product viewed")
    steps = [
        make.step(
            "who",
            "filter_customers",
            {"rule": VIEWED},
            positive="sms",
            negative=negative,
        ),
        make.sms(),
    ]
    return make.campaign(*steps, on="Product in stock", system=True, **more)


def test_the_leading_filter_of_a_broadcast_shows_which_condition_was_not_met(anna):
    campaign = viewers(name="Back in stock")
    make.event(anna, "Product viewed", product_id=1)
    event = make.system_event("Product in stock", product_id=77)
    work()

    told = ask(anna, campaign, event=event.external_id)

    assert told.answer.outcome == "not_started"
    [reason] = told.answer.reasons
    assert (reason.because, reason.stored) == ("filter_negative", True)
    assert reason.tree is not None
    assert (reason.tree.kind, reason.tree.holds) == ("event", False)
    assert "would match them now" not in reason.sentence


def test_a_filter_that_would_match_by_now_says_so(anna, clock):
    campaign = viewers()
    make.system_event("Product in stock", product_id=77)
    work()
    clock.shift(timedelta(days=1))
    make.event(anna, "Product viewed", product_id=77)

    [reason] = ask(anna, campaign).answer.reasons

    assert reason.tree.holds is True
    assert "It would match them now" in reason.sentence


def test_a_system_event_without_the_field_that_the_filter_asks_for(anna):
    campaign = viewers()
    make.system_event("Product in stock")
    work()

    [reason] = ask(anna, campaign).answer.reasons

    assert (reason.because, reason.stored) == ("filter_negative", True)
    assert "has no “product_id”" in reason.sentence


HOURLY = {"limit": 1, "per": "hour", "first": "longest_interest"}


def viewed(*customers: Customer) -> None:
    """They have viewed it, a minute after each other."""
    for minutes, one in enumerate(customers, start=-60):
        at = timezone.now() + timedelta(minutes=minutes)
        make.event(one, "Product viewed", product_id=77, at=at)


def test_whose_turn_has_not_come_hears_when_the_next_portion_is_due(anna, clock):
    campaign = viewers(pace=HOURLY)
    viewed(make.customer(), anna, make.customer())
    make.system_event("Product in stock", product_id=77)
    work()
    stranger = make.customer("C-stranger")
    Broadcast.objects.update(last_id=stranger.pk)

    told = ask(anna, campaign)

    assert told.answer.outcome == "not_yet"
    [reason] = told.answer.reasons
    assert (reason.because, reason.stored) == ("broadcast_under_way", True)
    assert reason.sentence == (
        "It takes 1 an hour, longest interest first; 1 so far, and not them yet. Each "
        "portion takes those who match by then. The next one is due 4 May 2026, 13:00. "
        "At this pace the last of the 2 who matched at the last one are taken 4 May "
        "2026, 14:00. They match now."
    )
    [reason] = ask(stranger, campaign).answer.reasons
    assert reason.sentence.endswith("They do not match now.")
    assert reason.tree is not None
    publish.pause(Campaign.objects.get(pk=campaign.pk))
    [reason] = ask(anna, campaign).answer.reasons
    assert "The campaign is paused" in reason.sentence


def test_whom_the_entry_rule_will_not_let_in_hears_so_before_their_turn(anna, clock):
    campaign = viewers(pace=HOURLY, entry={"rule": "once"})
    make.event(anna, "Product viewed", product_id=77)
    make.system_event("Product in stock", product_id=77)
    work()
    for _ in range(3):
        make.event(make.customer(), "Product viewed", product_id=77)
    make.system_event("Product in stock", product_id=77)
    work()

    [reason] = ask(anna, campaign).answer.reasons

    assert reason.because == "broadcast_under_way"
    assert reason.sentence.endswith("on 4 May 2026, and may enter once only.")


def test_who_matched_when_it_had_been_enough_hears_so(anna, clock):
    campaign = viewers(pace={**HOURLY, "stop_after": 1})
    viewed(make.customer(), anna)
    make.system_event("Product in stock", product_id=77)
    work()

    [reason] = ask(anna, campaign).answer.reasons

    assert (reason.because, reason.stored) == ("broadcast_ended", True)
    assert reason.sentence == (
        "The broadcast ended before a portion had taken them. Stopped after 1, as its "
        "pace says. They matched then."
    )


def test_who_had_bought_before_their_turn_sees_the_condition(anna, clock):
    bought = {"not": {**VIEWED, "event": "Order paid"}}
    make.event_type("Order paid")
    make.event_type("Product viewed")
    campaign = make.campaign(
        make.step(
            "who",
            "filter_customers",
            {"rule": {"all": [VIEWED, bought]}},
            positive="sms",
            negative=None,
        ),
        make.sms(),
        on="Product in stock",
        system=True,
        pace=HOURLY,
    )
    viewed(make.customer(), anna)
    make.system_event("Product in stock", product_id=77)
    work()
    clock.shift(timedelta(minutes=30))
    make.event(anna, "Order paid", product_id=77)
    clock.shift(timedelta(minutes=30))
    work()

    [reason] = ask(anna, campaign).answer.reasons

    assert reason.because == "filter_negative"
    assert [part.holds for part in reason.tree.parts] == [True, False]


def test_a_broadcast_that_was_stopped_says_who_stopped_it(anna, clock):
    campaign = viewers(pace=HOURLY)
    viewed(make.customer(), anna)
    make.system_event("Product in stock", product_id=77)
    work()
    broadcast.stop(Broadcast.objects.get(), by="mia", now=timezone.now())

    [reason] = ask(anna, campaign).answer.reasons

    assert reason.because == "broadcast_ended"
    assert "Stopped by mia after 1 had been taken." in reason.sentence


def test_a_walk_that_was_stopped_says_so_to_whom_it_had_not_come(anna, clock):
    campaign = make.campaign(on="Product in stock", system=True)
    make.system_event("Product in stock")
    dispatch_system_events()
    broadcast.stop(Broadcast.objects.get(), by="mia", now=timezone.now())

    [reason] = ask(anna, campaign).answer.reasons

    assert reason.because == "broadcast_ended"
    assert "Stopped by mia" in reason.sentence


def test_who_came_into_the_base_after_the_broadcast_had_begun(clock):
    campaign = make.campaign(on="Product in stock", system=True)
    make.customer()
    make.system_event("Product in stock")
    work()
    clock.shift(timedelta(minutes=5))
    late = make.customer("C-late")

    assert becauses(ask(late, campaign)) == ["customer_came_later"]


def test_whom_a_broadcast_has_not_come_to_yet():
    campaign = make.campaign(on="Product in stock", system=True)
    first, second = make.customer(), make.customer()
    make.system_event("Product in stock")
    dispatch_system_events()
    walk_broadcasts(chunk=1)

    assert ask(first, campaign).answer.outcome == "started"
    told = ask(second, campaign)
    assert (told.answer.outcome, becauses(told)) == (
        "not_yet",
        ["broadcast_under_way"],
    )
    publish.archive(campaign)
    walk_broadcasts()
    assert becauses(ask(second, campaign)) == ["archived"]
    Broadcast.objects.update(status="failed", reason="Internal error; see the log.")
    assert becauses(ask(second, campaign)) == ["broadcast_failed"]


def test_a_system_event_that_the_trigger_did_not_want(anna):
    campaign = make.campaign(on="Product in stock", system=True, where=BIG)
    make.system_event("Product in stock", amount=5)
    work()

    [reason] = ask(anna, campaign).answer.reasons

    assert reason.sentence.endswith("the event says 5.")


def test_a_system_event_in_the_queue(anna):
    campaign = make.campaign(on="Product in stock", system=True)
    make.system_event("Product in stock")

    assert becauses(ask(anna, campaign)) == ["in_queue"]


def test_the_entry_rule_of_a_broadcast(anna):
    campaign = make.campaign(on="In stock", system=True, entry={"rule": "once"})
    for _ in range(2):
        make.system_event("In stock")
        work()

    told = ask(anna, campaign)

    assert becauses(told) == ["entry_rule"]
    assert [one.outcome for one in told.others] == ["started"]


# Merged


def test_who_was_merged_is_answered_for_both(anna):
    campaign = make.campaign(on="Order paid")
    other = make.customer("C-old")
    event = make.event(other, "Order paid")
    work()
    merge("C-1001", "C-old", by="staff: ben", now=timezone.now())

    told = ask(anna, campaign, asked_for="C-old")

    assert told.notes == [
        "“C-old” was merged into “C-1001” on 4 May 2026, 12:00; events and runs of "
        "both are told here."
    ]
    assert told.answer.event.id == event.external_id
    assert told.answer.outcome == "started"
    assert ask(anna, campaign, asked_for="C-1001").notes == []


def test_the_run_that_a_merge_ended_is_told_without_its_event(anna):
    campaign = make.campaign(
        make.step("wait", "wait", {"for": 3, "unit": "days"}, done=None)
    )
    other = make.customer("C-old")
    for customer in (anna, other):
        make.event(customer, "Order paid", id="o-1")
    work()
    merge("C-1001", "C-old", by="staff: ben", now=timezone.now())

    told = ask(anna, campaign)

    lines = [told.answer.sentence, *(one.sentence for one in told.others)]
    assert len(lines) == 2
    assert any("was merged into “C-1001”" in line for line in lines)


def test_a_run_whose_event_was_erased_is_told(anna):
    campaign = make.campaign(
        make.step("wait", "wait", {"for": 3, "unit": "days"}, done=None)
    )
    event = make.event(anna, "Order paid")
    work()
    Run.objects.update(event_id=event.pk + 1_000)

    told = ask(anna, campaign)

    [line] = told.others
    assert (told.answer.event, told.answer.outcome) == (None, "started")
    assert told.answer.run.waits_until == NOON + timedelta(days=3)
    assert (line.event, line.outcome) == (event.external_id, "not_started")


# Many


def many(customer: Customer, number: int) -> None:
    source, event_type = make.source(), make.event_type("Order paid")
    Event.objects.bulk_create(
        Event(
            customer=customer,
            type=event_type,
            source=source,
            external_id=f"{customer.external_id}-{i}",
            occurred_at=NOON - timedelta(minutes=i),
            received_at=NOON - timedelta(minutes=i),
            context={"amount": 10},
        )
        for i in range(number)
    )


def runs_for(customer: Customer, campaign: Campaign) -> None:
    version = campaign.versions.get()
    step = version.steps.get()
    Run.objects.bulk_create(
        Run(
            customer=customer,
            campaign=campaign,
            version=version,
            step=step,
            event=event,
            status="finished",
            started_at=event.received_at,
            arrived_at=event.received_at,
            finished_at=event.received_at,
        )
        for event in Event.objects.filter(customer=customer).order_by("pk")[::2]
    )


def test_ten_thousand_events_and_runs_cost_as_many_queries_as_ten(clock):
    clock.move_to(NOON - timedelta(days=30))
    campaign = make.campaign(on="Order paid", where=BIG)
    clock.move_to(NOON)
    few, lots = make.customer("few"), make.customer("lots")
    many(few, 10)
    many(lots, 10_000)
    runs_for(few, campaign)
    runs_for(lots, campaign)

    def cost(customer: Customer, call: Any) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert call(customer)
        return len(captured)

    def asked(customer: Customer) -> Why:
        return why(customer, campaign, now=NOON)

    def lines(customer: Customer) -> list[Any]:
        return lately(customer, now=NOON)

    cost(few, asked)  # what a process looks up once

    assert cost(lots, asked) == cost(few, asked) < 30
    assert cost(lots, lines) == cost(few, lines) < 30
    assert len(asked(lots).others) == PER_PAGE - 1


def test_older_events_are_on_the_next_page(anna, clock):
    clock.move_to(NOON - timedelta(days=30))
    campaign = make.campaign(on="Order paid")
    clock.move_to(NOON)
    many(anna, PER_PAGE + 5)

    first = ask(anna, campaign)
    second = ask(anna, campaign, before=first.next or "")

    ids = [
        one.event for page in (first, second) for one in page.others if one.event
    ] + [page.answer.event.id for page in (first, second) if page.answer.event]
    assert sorted(ids) == sorted(f"C-1001-{i}" for i in range(PER_PAGE + 5))
    assert (len(second.others), second.next) == (4, None)


# Lines for a profile


def test_a_profile_has_a_line_for_each_campaign_that_concerns_the_customer(anna, clock):
    thanks = make.campaign(on="Order paid", name="Thanks")
    big = make.campaign(on="Order paid", where=BIG, name="Big orders")
    make.campaign(on="Call received", name="Calls")
    stock = make.campaign(on="In stock", system=True, name="Stock")
    make.event(anna, "Order paid", amount=10)
    clock.shift(timedelta(minutes=1))
    make.system_event("In stock")
    work()
    clock.shift(timedelta(days=90))
    for _ in range(60):
        make.event(anna, "Product viewed")

    found = lately(anna, now=timezone.now())

    assert {one.campaign: one.line.outcome for one in found} == {
        thanks: "started",
        stock: "started",
    }
    make.event(anna, "Order paid", amount=10)
    work()
    found = lately(anna, now=timezone.now())
    lines = {one.campaign: one.line for one in found}
    assert {campaign: line.outcome for campaign, line in lines.items()} == {
        thanks: "started",
        big: "not_started",
        stock: "started",
    }
    assert "amount is more than 50" in lines[big].sentence

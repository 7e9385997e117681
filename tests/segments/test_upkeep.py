"""Members come and go by themselves: with events, changes, the clock, and new rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from campaigns.dispatch import dispatch_events
from campaigns.models import Run
from customers.merging import merge
from customers.models import Attribute, Consent, Customer, Device, MailingCategory
from customers.upsert import upsert_customers
from events.models import Event, EventField, EventType, Source
from messaging.models import ChannelSettings, Message, Suppression
from segments import upkeep
from segments.models import (
    Change,
    Counted,
    DailyCount,
    Due,
    Membership,
    Reminder,
    Segment,
    Upkeep,
)
from segments.rules import RuleConflict
from segments.upkeep import applying, feed, keeper, recount
from smartcomm.core.errors import Conflict
from tests import make

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PARIS = {"attribute": "city", "op": "=", "value": "Paris"}
PAID = {"event": "Order paid"}
PAID_LATELY = {"event": "Order paid", "period": {"last": 30, "unit": "days"}}


def saved(name: str, rule: object, **more: object) -> Segment:
    """A segment whose members are known."""
    for event in ("Order paid", "Product viewed"):
        make.event_type(event)
    segment = Segment.objects.create(name=name, rule=rule, **more)
    keep()
    # Whoever was touched while all were counted is asked a moment later once more.
    keep(NOW + timedelta(microseconds=1))
    segment.refresh_from_db()
    return segment


def keep(now: datetime = NOW) -> None:
    keeper.keep_all(now=now)


def members(segment: Segment) -> set[str]:
    """The external ids of the members; the count must agree."""
    segment.refresh_from_db()
    rows = Membership.objects.filter(segment=segment)
    assert segment.count == rows.count()
    return set(rows.values_list("customer__external_id", flat=True))


def told(segment: Segment) -> list[tuple[str, str]]:
    """Who entered and left, in the order told."""
    events = Event.objects.filter(type__name__in=["segment.entered", "segment.left"])
    return [
        (event.type.name, event.customer.external_id)
        for event in events.filter(context__segment=segment.pk).order_by("pk")
    ]


# What brings members in and out


def test_a_new_segment_is_counted_and_its_members_are_kept_with_since_when():
    make.customer("C-1", city="Paris")
    make.customer("C-2", city="Rome")

    segment = saved("Paris", PARIS)

    assert members(segment) == {"C-1"}
    assert Membership.objects.get().since == NOW
    assert (segment.status, segment.counted_at) == ("fresh", NOW)
    found = upkeep.state(segment, NOW)
    assert (found.status, found.words, found.percent) == ("fresh", "Fresh.", None)
    assert found.since is not None
    assert found.since - NOW < timedelta(seconds=1)


def test_an_event_brings_its_customer_in_and_asks_nobody_else(monkeypatch):
    anna, _ = make.customer("C-1"), make.customer("C-2")
    segment = saved("Payers", PAID)
    other = saved("Viewers", {"event": "Product viewed"})
    later = NOW + timedelta(seconds=5)
    make.event(anna, "Order paid", now=later)
    asked = []
    really = keeper._ask_one

    def note(segment, meaning, ids, **more):
        asked.append((segment.name, ids))
        return really(segment, meaning, ids, **more)

    monkeypatch.setattr(keeper, "_ask_one", note)

    keep(later)

    assert asked == [("Payers", {anna.pk})]
    assert members(segment) == {"C-1"}
    assert Membership.objects.get().since == later
    assert members(other) == set()


def test_a_changed_attribute_moves_its_customer_and_says_only_what_changed():
    make.customer("C-1", city="Rome", first_name="Anna")
    segment = saved("Paris", PARIS)

    item = {"external_id": "C-1", "city": "Paris", "last_name": "Berg"}
    upsert_customers([item], origin="shop", now=NOW)

    assert Change.objects.get().what == ["last_name", "city"]
    keep()
    assert members(segment) == {"C-1"}
    assert not Change.objects.exists()


def test_nothing_is_written_for_what_no_segment_looks_at():
    make.customer("C-1", city="Rome", attributes={"tier": "gold"})
    saved("Paris", PARIS)

    item = {
        "external_id": "C-1",
        "first_name": "Anna",
        "attributes": {"tier": "silver"},
        "consents": {"email": True},
        "devices": [{"platform": "ios", "token": "t"}],
    }
    upsert_customers([item], origin="shop", now=NOW)

    assert not Change.objects.exists()


def test_a_custom_attribute_is_told_apart_from_others():
    Attribute.objects.create(code="tier", type="string")
    Attribute.objects.create(code="score", type="number")
    make.customer("C-1", attributes={"tier": "silver", "score": 1})
    segment = saved("Gold", {"attribute": "tier", "op": "=", "value": "gold"})

    upsert_customers(
        [{"external_id": "C-1", "attributes": {"score": 2}}], origin="shop", now=NOW
    )
    assert not Change.objects.exists()
    upsert_customers(
        [{"external_id": "C-1", "attributes": {"tier": "gold"}}], origin="shop", now=NOW
    )

    keep()
    assert members(segment) == {"C-1"}


def test_a_new_customer_is_asked_about_every_segment():
    segment = saved("Not in Paris", {"not": PARIS})

    make.customer("C-1", city="Rome")
    keep()

    assert members(segment) == {"C-1"}
    assert not Change.objects.exists(), "known by the id alone"


def test_who_grows_out_of_a_rolling_period_leaves_when_it_is_due():
    anna = make.customer("C-1")
    paid_at = NOW - timedelta(days=29, hours=23, minutes=30)
    make.event(anna, "Order paid", at=paid_at, now=NOW)
    segment = saved("Payers", PAID_LATELY)
    edge = paid_at + timedelta(days=30)
    assert list(Due.objects.values_list("due_at", flat=True)) == [edge]

    keep(edge)
    assert members(segment) == {"C-1"}, "at the very end of the period it counts"
    keep(edge + timedelta(microseconds=1))
    assert members(segment) == set()
    assert not Due.objects.exists()


def test_whole_days_since_an_event_are_over_at_the_very_moment():
    anna = make.customer("C-1")
    called_at = NOW - timedelta(days=2, hours=23, minutes=50)
    rule = {"event": "Order paid", "days_since_last": {"op": ">=", "value": 3}}
    make.event(anna, "Order paid", at=called_at, now=NOW)
    segment = saved("Quiet", rule)
    assert members(segment) == set()

    keep(called_at + timedelta(days=3))

    assert members(segment) == {"C-1"}


def test_a_late_event_whose_period_ends_within_the_hour_is_due_as_well():
    anna = make.customer("C-1")
    segment = saved("Payers", PAID_LATELY)

    make.event(anna, "Order paid", at=NOW - timedelta(days=30, minutes=-5), now=NOW)
    keep()
    assert members(segment) == {"C-1"}

    keep(NOW + timedelta(minutes=6))
    assert members(segment) == set()


def test_an_hour_later_it_is_looked_ahead_again():
    anna = make.customer("C-1")
    make.event(anna, "Order paid", at=NOW - timedelta(days=29, hours=20), now=NOW)
    segment = saved("Payers", PAID_LATELY)
    assert not Due.objects.exists()

    for hours in range(1, 5):
        keep(NOW + timedelta(hours=hours, seconds=1))

    assert members(segment) == set()


def test_the_age_of_an_attribute_is_looked_ahead_too():
    make.customer("C-1", registered_at=NOW - timedelta(days=9, hours=23, minutes=55))
    rule = {"attribute": "registered_at", "op": "days ago >=", "value": 10}
    segment = saved("Old", rule)
    assert members(segment) == set()

    keep(NOW + timedelta(minutes=6))
    assert members(segment) == {"C-1"}


def test_a_changed_date_within_the_hour_is_due_as_well():
    make.customer("C-1")
    rule = {"attribute": "registered_at", "op": "days ago >=", "value": 10}
    segment = saved("Old", rule)
    registered_at = NOW - timedelta(days=9, hours=23, minutes=55)
    Customer.objects.update(registered_at=registered_at)
    keep()
    assert members(segment) == set()

    keep(NOW + timedelta(minutes=6))
    assert members(segment) == {"C-1"}


def test_days_without_a_keeper_are_made_up_for_by_a_count():
    anna = make.customer("C-1")
    make.event(anna, "Order paid", at=NOW - timedelta(days=20), now=NOW)
    segment = saved("Payers", PAID_LATELY)

    keep(NOW + timedelta(days=15))

    assert members(segment) == set()
    assert not Due.objects.exists()
    assert segment.counted_at == NOW + timedelta(days=15)


# Rules, and what they are made of


def test_a_changed_rule_keeps_the_last_members_until_all_are_counted():
    make.customer("C-1", city="Paris")
    make.customer("C-2", city="Rome")
    segment = saved("City", PARIS)

    segment.rule = PARIS | {"value": "Rome"}
    segment.save()
    upkeep.rule_saved(segment)

    assert members(segment) == {"C-1"}
    assert upkeep.state(segment, NOW).status == "computing"
    assert upkeep.state(segment, NOW).words == (
        "Counting, 0 % done. Until then, these are the members by the former rule."
    )
    keep()
    assert members(segment) == {"C-2"}
    assert segment.edition == segment.members_of == 3


def test_saving_the_same_rule_again_counts_nothing():
    segment = saved("City", PARIS)

    upkeep.rule_saved(segment)

    segment.refresh_from_db()
    assert (segment.recount_wanted_at, segment.status) == (None, "fresh")


def test_a_segment_follows_the_segments_it_speaks_of():
    make.customer("C-1", city="Rome")
    inner = saved("City", PARIS)
    outer = saved("Outer", {"all": [{"segment": inner.pk}]})
    assert members(outer) == set()

    Customer.objects.update(city="Paris")
    keep()
    assert members(outer) == {"C-1"}

    inner.rule = PARIS | {"value": "Rome"}
    inner.save()
    keep()
    assert members(outer) == set()


def test_a_segment_follows_a_list_that_it_speaks_of():
    anna = make.customer("C-1")
    listed = Segment.objects.create(name="List", kind="static")
    outer = saved("Outer", {"segment": listed.pk})
    assert members(outer) == set()

    Membership.objects.create(customer=anna, segment=listed, since=NOW)
    keep()
    assert members(outer) == members(listed) == {"C-1"}
    assert upkeep.state(listed, NOW).status == "fresh"

    Membership.objects.filter(segment=listed).delete()
    keep()
    assert members(outer) == members(listed) == set()


def test_a_field_declared_a_number_has_everybody_asked_again():
    anna = make.customer("C-1")
    rule = PAID | {"where": [{"field": "price", "op": ">", "value": 50}]}
    make.event(anna, "Order paid", price="60", now=NOW)
    segment = saved("Dear", rule)
    assert members(segment) == set()

    EventField.objects.filter(code="price").update(value_type="number")
    keep()

    assert members(segment) == {"C-1"}


def test_a_field_that_no_rule_speaks_of_changes_nothing():
    make.event(make.customer("C-1"), "Order paid", price="60", now=NOW)
    segment = saved("Payers", PAID)

    EventField.objects.filter(code="price").update(value_type="number")
    keep(NOW + timedelta(minutes=1))

    segment.refresh_from_db()
    assert (segment.edition, segment.counted_at) == (2, NOW)


def test_an_attribute_taken_back_breaks_the_rule_and_the_members_stay():
    attribute = Attribute.objects.create(code="tier", type="string")
    make.customer("C-1", attributes={"tier": "gold"}, city="Rome")
    gold = saved("Gold", {"attribute": "tier", "op": "=", "value": "gold"})
    paris = saved("Paris", PARIS)

    attribute.delete()
    Customer.objects.update(city="Paris")
    keep()

    assert members(gold) == {"C-1"}
    assert gold.status == "failed"
    assert "There is no attribute “tier”" in gold.error
    assert members(paris) == {"C-1"}, "no other segment is stopped"
    found = upkeep.state(gold, NOW)
    assert (found.status, found.since) == ("failed", NOW)
    assert found.words.startswith("Failed: There is no attribute “tier”.")

    Attribute.objects.create(code="tier", type="string")
    keep()
    assert members(gold) == {"C-1"}
    assert (gold.status, gold.error) == ("fresh", "")


def test_an_event_type_that_is_gone_breaks_the_rule():
    segment = saved("Payers", PAID)

    EventType.objects.filter(name="Order paid").delete()
    keep()

    segment.refresh_from_db()
    assert segment.status == "failed"
    assert "There is no event “Order paid”" in segment.error


def test_an_archived_segment_is_left_alone_and_counted_when_it_comes_back():
    make.customer("C-1", city="Paris")
    segment = saved("Paris", PARIS)
    Segment.objects.update(archived_at=NOW)
    keep()

    Customer.objects.update(city="Rome")
    keep()
    assert members(segment) == {"C-1"}
    assert upkeep.state(segment, NOW).status == "stale"

    Segment.objects.update(archived_at=None)
    keep()
    assert members(segment) == set()


# Customers who are merged, or gone


def test_who_was_merged_is_in_by_what_came_along():
    make.customer("C-1")
    former = make.customer("C-2")
    make.event(former, "Order paid", now=NOW)
    segment = saved("Payers", PAID)
    assert members(segment) == {"C-2"}

    merge("C-1", "C-2", by="shop", now=NOW)
    keep()

    assert members(segment) == {"C-1"}


def test_who_is_erased_is_in_nothing_and_the_count_follows():
    customer = make.customer("C-1", city="Paris")
    segment = saved("Paris", PARIS)

    customer.delete()
    keep()

    assert members(segment) == set()
    assert not Reminder.objects.exists()


# Entered and left


def test_a_watched_segment_records_who_enters_and_leaves_once():
    anna = make.customer("C-1")
    segment = saved("Payers", PAID_LATELY, is_watched=True)
    make.event(anna, "Order paid", at=NOW - timedelta(days=29), now=NOW)

    keep()
    keep()
    assert told(segment) == [("segment.entered", "C-1")]
    event = Event.objects.get(type__name="segment.entered")
    assert event.source.name == "Smart Communications"
    assert event.context == {"segment": segment.pk, "name": "Payers"}
    assert event.occurred_at == NOW

    keep(NOW + timedelta(days=1, seconds=1))
    assert told(segment)[1:] == [("segment.left", "C-1")]


def test_neither_the_first_count_nor_a_changed_rule_is_told():
    make.customer("C-1", city="Paris")
    segment = saved("City", PARIS, is_watched=True)
    segment.rule = PARIS | {"value": "Rome"}
    segment.save()
    keep()

    assert members(segment) == set()
    assert told(segment) == []


def test_a_segment_that_is_not_watched_tells_nothing():
    make.customer("C-1")
    segment = saved("Paris", PARIS)
    Customer.objects.update(city="Paris")
    keep()

    assert members(segment) == {"C-1"}
    assert told(segment) == []


def test_what_a_turn_of_the_calendar_brings_is_told():
    anna = make.customer("C-1")
    make.event(anna, "Order paid", now=NOW)
    rule = PAID | {"period": {"this": "month"}}
    segment = saved("This month", rule, is_watched=True)
    assert members(segment) == {"C-1"}

    keep(datetime(2026, 12, 1, 0, 0, tzinfo=UTC))

    assert members(segment) == set()
    assert told(segment) == [("segment.left", "C-1")]


def test_a_campaign_is_triggered_by_who_enters_a_segment():
    anna = make.customer("C-1")
    segment = saved("Payers", PAID, is_watched=True)
    make.event_type("segment.entered")
    where = [{"field": "segment", "op": "=", "value": segment.pk}]
    campaign = make.campaign(on="segment.entered", where=where)
    now = timezone.now()
    make.event(anna, "Order paid", now=now)

    keep(now)
    dispatch_events(now=now)
    keep(now)
    dispatch_events(now=now)

    run = Run.objects.get(campaign=campaign)
    assert run.customer == anna
    assert run.event.type.name == "segment.entered"


def test_who_is_erased_while_it_is_told_that_they_entered_is_left_out(monkeypatch):
    anna, berta = make.customer("C-1"), make.customer("C-2")
    segment = saved("Payers", PAID, is_watched=True)
    make.event(anna, "Order paid", now=NOW)
    make.event(berta, "Order paid", now=NOW)
    really = applying.record_events
    calls = []

    def record_events(items, **more):
        if not calls:
            calls.append(items)
            raise Conflict("A customer was erased at this very moment.")
        return really(items, **more)

    monkeypatch.setattr(applying, "record_events", record_events)

    keep()

    assert calls
    assert len(told(segment)) == 2
    assert members(segment) == {"C-1", "C-2"}
    assert segment.status == "fresh"


@pytest.mark.parametrize("event", ["segment.entered", "segment.left"])
def test_a_watched_segment_may_not_look_at_who_enters_and_leaves(event):
    make.event_type(event)
    inner = saved("Entered", {"event": event})
    segment = Segment(
        name="Loop", rule={"all": [{"segment": inner.pk}]}, is_watched=True
    )

    with pytest.raises(RuleConflict, match="it might feed itself"):
        upkeep.refuse_feeding(segment)

    segment.save()
    keep()
    segment.refresh_from_db()
    assert segment.status == "failed"
    assert "it might feed itself" in segment.error


# Counting all


def test_a_count_goes_over_ranges_and_says_how_far_it_is(monkeypatch):
    for n in range(4):
        make.customer(f"C-{n}", city="Paris")
    monkeypatch.setattr(recount, "RANGE", 2)
    segment = Segment.objects.create(name="Paris", rule=PARIS)

    keeper.keep(now=NOW)  # Begins.
    keeper.keep(now=NOW)

    segment.refresh_from_db()
    found = upkeep.state(segment, NOW)
    assert (found.status, found.percent) == ("computing", segment.percent)
    assert segment.percent == 50
    assert segment.count is None
    assert not Membership.objects.exists()
    keep()
    assert members(segment) == {"C-0", "C-1", "C-2", "C-3"}
    assert not Counted.objects.exists()


def test_who_is_touched_while_all_are_counted_is_asked_after_it(monkeypatch):
    for n in range(4):
        make.customer(f"C-{n}", city="Paris")
    segment = saved("Paris", PARIS)
    monkeypatch.setattr(recount, "RANGE", 2)
    upkeep.recount_wanted(segment)
    keeper.keep(now=NOW)
    keeper.keep(now=NOW)  # The first two have been counted.

    Customer.objects.filter(external_id__in=["C-0", "C-3"]).update(city="Rome")
    keeper.keep(now=NOW)

    assert members(segment) == {"C-0", "C-1", "C-2", "C-3"}, "the last members stay"
    keep()
    assert members(segment) == {"C-1", "C-2"}
    assert segment.repaired == 0, "what was told is no repair"


def test_a_rule_changed_while_it_is_counted_drops_what_was_counted(monkeypatch):
    for n in range(4):
        make.customer(f"C-{n}", city="Paris")
    monkeypatch.setattr(recount, "RANGE", 2)
    segment = Segment.objects.create(name="City", rule=PARIS)
    keeper.keep(now=NOW)
    keeper.keep(now=NOW)
    assert Counted.objects.exists()

    segment.refresh_from_db()
    segment.rule = PARIS | {"value": "Rome"}
    segment.save()
    upkeep.rule_saved(segment)
    assert not Counted.objects.exists()
    keep()

    assert members(segment) == set()


def test_a_check_puts_right_what_went_wrong_and_says_how_many():
    right, wrong = make.customer("C-1", city="Paris"), make.customer("C-2")
    segment = saved("Paris", PARIS, is_watched=True)
    Membership.objects.filter(customer=right).delete()
    Membership.objects.create(customer=wrong, segment=segment, since=NOW)
    keep()
    assert members(segment) == {"C-2"}

    upkeep.recount_wanted(segment)
    keep(NOW + timedelta(minutes=1))

    assert members(segment) == {"C-1"}
    assert segment.repaired == 2
    assert told(segment) == [("segment.entered", "C-1"), ("segment.left", "C-2")]

    upkeep.recount_wanted(segment)
    keep(NOW + timedelta(minutes=2))
    segment.refresh_from_db()
    assert segment.repaired == 0


def test_a_check_calls_nothing_a_repair_that_it_was_not_told_of_yet():
    anna = make.customer("C-1")
    segment = saved("Payers", PAID)
    upkeep.recount_wanted(segment)
    keeper.keep(now=NOW)  # Begins.
    # The event is there, and the keeper has not come to it.
    settled = Upkeep.objects.get().events_upto
    make.event(anna, "Order paid", now=NOW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "_take_events", lambda *_: None)
        for _ in range(5):
            keeper.keep(now=NOW)
        assert Upkeep.objects.get().events_upto == settled
        segment.refresh_from_db()
        assert segment.recount_edition is not None

    keep()

    assert members(segment) == {"C-1"}
    assert segment.repaired == 0


def test_every_segment_is_checked_once_a_night():
    segment = saved("Paris", PARIS)
    evening = NOW.replace(hour=23)
    night = NOW.replace(hour=3, minute=0) + timedelta(days=1)

    assert recount.want_checks(now=evening) == 0
    assert recount.want_checks(now=night - timedelta(seconds=1)) == 0
    assert recount.want_checks(now=night) == 1
    assert recount.want_checks(now=night) == 0
    keep(night)
    segment.refresh_from_db()
    assert (segment.counted_at, segment.repaired) == (night, 0)
    assert recount.want_checks(now=night + timedelta(hours=1)) == 0


def test_a_failure_is_tried_again_ever_more_rarely_and_on_the_button(monkeypatch):
    make.customer("C-1", city="Paris")
    segment = saved("Paris", PARIS)
    other = saved("Rome", PARIS | {"value": "Rome"})
    really = recount.compile_rule
    calls = []

    def compile_rule(rule, **more):
        if rule.value == "Paris":
            calls.append(rule)
            raise ZeroDivisionError
        return really(rule, **more)

    monkeypatch.setattr(recount, "compile_rule", compile_rule)
    monkeypatch.setattr(keeper, "compile_rule", compile_rule)
    Customer.objects.update(city="Rome")
    keep()

    assert members(other) == {"C-1"}
    assert members(segment) == {"C-1"}, "the last good members stay"
    assert (segment.status, segment.failures) == ("failed", 1)
    assert segment.error.startswith("Counting failed.")
    calls.clear()
    keep(NOW + timedelta(seconds=59))
    assert not calls
    keep(NOW + timedelta(seconds=60))
    segment.refresh_from_db()
    assert (len(calls), segment.failures) == (1, 2)
    assert segment.retry_at == NOW + timedelta(minutes=3)

    monkeypatch.setattr(recount, "compile_rule", really)
    monkeypatch.setattr(keeper, "compile_rule", really)
    upkeep.recount_wanted(segment)
    keep(NOW + timedelta(seconds=61))
    assert members(segment) == set()
    assert (segment.status, segment.failures) == ("fresh", 0)


def test_a_rule_that_is_too_dear_says_so(monkeypatch):
    make.customer("C-1", city="Paris")
    monkeypatch.setattr(recount, "LIMIT_MS", 20)
    monkeypatch.setattr(
        recount,
        "KEEP_FOUND",
        "WITH slow AS MATERIALIZED (SELECT pg_sleep(5)) "
        + recount.KEEP_FOUND.replace(
            "FROM ({found}) AS found", "FROM ({found}) AS found, slow"
        ),
    )
    segment = saved("Dear", PARIS)

    segment.refresh_from_db()
    assert segment.status == "failed"
    assert segment.error == (
        "Counting takes longer than 0.02 seconds, and was stopped. Shorten the "
        "periods, or ask for rarer events."
    )


@pytest.mark.parametrize("what", ["events", "changes", "customers", "dues"])
def test_with_too_much_to_catch_up_on_all_are_counted_instead(what, monkeypatch):
    customers = [make.customer(f"C-{n}") for n in range(12)]
    payers = saved("Payers", PAID_LATELY)
    paris = saved("Not in Paris", {"not": PARIS})
    later = NOW + timedelta(minutes=1)
    if what == "dues":
        for customer in customers:
            at = NOW - timedelta(days=30, seconds=-50)
            make.event(customer, "Order paid", at=at, now=NOW)
        keep()
    monkeypatch.setattr(feed, "BACKLOG", 10)
    monkeypatch.setattr(feed, "PART", 0)
    monkeypatch.setattr(feed, "CHANGES", 5)
    monkeypatch.setattr(feed, "DUES", 5)
    if what == "events":
        for customer in customers:
            make.event(customer, "Order paid", now=NOW)
    elif what == "changes":
        for customer in customers:
            upsert_customers(
                [{"external_id": customer.external_id, "city": "Paris"}],
                origin="shop",
                now=NOW,
            )
        # More comes behind those that the first batch takes.
        Customer.objects.update(city="Rome")
        Customer.objects.update(city="Paris")
    elif what == "customers":
        for n in range(20, 32):
            make.customer(f"C-{n}", city="Paris")

    keep(later)

    everyone = Customer.objects.count()
    assert len(members(payers)) == {"events": 12}.get(what, 0)
    assert len(members(paris)) == {"changes": 0}.get(what, 12)
    counted = payers if what in ("events", "dues") else paris
    assert counted.counted_at == later
    assert everyone in (12, 24)


# What it costs, and what it says


def test_with_nothing_to_do_it_costs_one_query():
    saved("Paris", PARIS)
    make.event(make.customer("C-1"), "Order paid", now=NOW)
    keep()

    with CaptureQueriesContext(
        connection,
    ) as queries:
        keeper.keep(now=NOW + timedelta(seconds=2))

    assert len(queries) == 1


def test_asking_costs_the_same_queries_for_few_customers_and_for_many():
    saved("Payers", PAID)
    costs = []
    for number in (1, 2, 20):
        for n in range(number):
            make.event(make.customer(f"{number}-{n}"), "Order paid", now=NOW)
        with CaptureQueriesContext(connection) as queries:
            keeper.keep(now=NOW)
        costs.append(len(queries))
        keep()

    assert costs[1] == costs[2]


def test_without_a_keeper_every_segment_is_stale_after_a_minute():
    segment = saved("Paris", PARIS)

    assert upkeep.state(segment, NOW + timedelta(minutes=1)).status == "fresh"
    stale = upkeep.state(segment, NOW + timedelta(minutes=1, seconds=1))
    assert (stale.status, stale.since) == ("stale", NOW)
    assert "Are the workers running?" in stale.words


def test_a_segment_that_must_be_counted_anew_is_not_called_fresh_meanwhile():
    segment = saved("Paris", PARIS)
    later = NOW + timedelta(seconds=30)
    keep(later)
    assert upkeep.state(segment, later).status == "fresh"
    recount.want([segment.pk], now=NOW + timedelta(seconds=10), looked=False)
    segment.refresh_from_db()

    found = upkeep.state(segment, later)

    assert (found.status, found.percent) == ("computing", 0)
    assert found.since == NOW + timedelta(seconds=10)


def test_a_check_that_waits_its_turn_leaves_a_segment_fresh():
    segment = saved("Paris", PARIS)
    upkeep.recount_wanted(segment)
    segment.refresh_from_db()

    assert upkeep.state(segment, NOW).status == "fresh"


def test_a_list_of_segments_tells_all_states_with_one_query():
    for n in range(5):
        Segment.objects.create(name=f"{n}", rule=PARIS)
    keep()

    with CaptureQueriesContext(connection) as queries:
        found = [
            upkeep.state(one, NOW).status
            for one in upkeep.with_state(Segment.objects.all())
        ]

    assert found == ["fresh"] * 5
    assert len(queries) == 1


def test_a_segment_not_counted_yet_says_so():
    segment = Segment.objects.create(name="Paris", rule=PARIS)

    assert upkeep.state(segment, NOW) == upkeep.State(
        "new", "Not counted yet.", None, None
    )


def test_how_many_there_were_is_kept_for_each_day(settings):
    settings.TIME_ZONE = "Asia/Tokyo"
    with timezone.override("Asia/Tokyo"):
        make.customer("C-1", city="Paris")
        segment = saved("Paris", PARIS)
        make.customer("C-2", city="Paris")
        keep(NOW + timedelta(hours=2))
        # In Tokyo the next day has begun.
        keep(NOW + timedelta(hours=4))
        make.customer("C-3", city="Paris")
        keep(NOW + timedelta(hours=5))

    days = DailyCount.objects.filter(segment=segment).order_by("day")
    assert [(f"{row.day}", row.count) for row in days] == [
        ("2026-11-20", 2),
        ("2026-11-21", 3),
    ]


def test_a_consent_is_told_only_where_a_rule_asks_for_it():
    anna = make.customer("C-1")
    segment = saved("Yes", {"consent": "email", "is": "yes"})

    make.consent(anna, "email")
    keep()
    assert members(segment) == {"C-1"}

    Consent.objects.update(is_granted=False)
    keep()
    assert members(segment) == set()


# Whatever a rule may look at is told, however it is changed


def told_of(segment: Segment) -> set[str]:
    """Keep, and say who is in; a check must agree."""
    keep()
    found = members(segment)
    upkeep.recount_wanted(segment)
    keep()
    assert members(segment) == found
    assert segment.repaired == 0
    return found


def test_consents_and_devices_are_told_when_given_changed_and_taken_back():
    anna = make.customer("C-1", email="a@example.com")
    segment = saved(
        "Reachable", {"any": [{"reachable": "email"}, {"reachable": "push"}]}
    )
    assert told_of(segment) == set()

    make.consent(anna, "email")
    assert told_of(segment) == {"C-1"}
    Consent.objects.update(is_granted=False)
    assert told_of(segment) == set()
    Consent.objects.update(is_granted=True)
    assert told_of(segment) == {"C-1"}
    Consent.objects.all().delete()
    assert told_of(segment) == set()

    make.consent(anna, "push")
    Device.objects.create(customer=anna, platform="ios", token="t")
    assert told_of(segment) == {"C-1"}
    Device.objects.update(is_valid=False)
    assert told_of(segment) == set()
    Device.objects.update(is_valid=True)
    assert told_of(segment) == {"C-1"}
    Device.objects.all().delete()
    assert told_of(segment) == set()


@pytest.mark.parametrize("channel", ["email", "sms", "push"])
def test_a_suppressed_address_is_told_to_whoever_has_it(channel):
    anna = make.customer("C-1", email="Anna@example.com", phone="+4915112345678")
    Device.objects.create(customer=anna, platform="ios", token="A token")
    make.consent(anna, channel)
    segment = saved("Reachable", {"reachable": channel})
    assert members(segment) == {"C-1"}
    address = {"email": anna.email, "sms": anna.phone, "push": "A token"}[channel]

    one = Suppression.objects.create(channel=channel, address=address)
    assert told_of(segment) == set()
    Suppression.objects.update(channel="sms" if channel == "email" else "email")
    assert told_of(segment) == {"C-1"}
    Suppression.objects.update(channel=channel)
    assert told_of(segment) == set()
    one.delete()
    assert told_of(segment) == {"C-1"}


@pytest.mark.parametrize("stage", ["sent", "delivered", "opened", "clicked"])
def test_messages_are_told_when_they_come_so_far(stage):
    anna = make.customer("C-1")
    message = make.message(anna, now=NOW)
    rule = {"message": stage, "campaign": make.campaign().pk}
    segment = saved("Got", rule)
    campaign = rule["campaign"]
    at = {f"{stage}_at": NOW, "campaign_id": campaign}

    Message.objects.filter(pk=message.pk).update(**at)
    assert told_of(segment) == {"C-1"}
    Message.objects.filter(pk=message.pk).update(is_test=True)
    assert told_of(segment) == set()
    Message.objects.filter(pk=message.pk).update(is_test=False)
    assert told_of(segment) == {"C-1"}
    Message.objects.filter(pk=message.pk).update(campaign_id=campaign + 1)
    assert told_of(segment) == set()
    Message.objects.filter(pk=message.pk).update(campaign_id=campaign)
    assert told_of(segment) == {"C-1"}
    message.delete()
    assert told_of(segment) == set()


def test_a_message_leaves_its_period_when_it_is_due():
    anna = make.customer("C-1")
    message = make.message(anna, now=NOW)
    rule = {"message": "opened", "period": {"last": 2, "unit": "hours"}}
    segment = saved("Opened", rule)

    opened_at = NOW - timedelta(hours=1, minutes=30)
    Message.objects.filter(pk=message.pk).update(opened_at=opened_at)
    assert told_of(segment) == {"C-1"}

    keep(NOW + timedelta(minutes=31))
    assert members(segment) == set()


def test_what_is_decided_for_everybody_is_told():
    news = MailingCategory.objects.create(code="news", name="News")
    anna = make.customer("C-1", email="a@example.com")
    by_channel = saved("Channel", {"reachable": "email"})
    by_category = saved("Category", {"reachable": "email", "category": "news"})
    assert told_of(by_channel) == told_of(by_category) == set()

    ChannelSettings.objects.create(channel="email", default_consent=True)
    assert told_of(by_channel) == told_of(by_category) == {"C-1"}
    news.default_email = False
    news.save()
    assert told_of(by_category) == set()
    assert told_of(by_channel) == {"C-1"}
    ChannelSettings.objects.all().delete()
    assert told_of(by_channel) == set()
    assert anna.pk


def test_a_source_that_is_renamed_breaks_its_rule():
    make.event(make.customer("C-1"), "Order paid", now=NOW)
    segment = saved("Shop", PAID | {"source": "shop"})
    assert members(segment) == {"C-1"}

    Source.objects.filter(name="shop").update(name="store")
    keep()

    segment.refresh_from_db()
    assert segment.status == "failed"
    assert "There is no source “shop”" in segment.error


def test_a_campaign_that_is_gone_breaks_its_rule():
    campaign = make.draft()
    segment = saved("Got", {"message": "sent", "campaign": campaign.pk})

    campaign.delete()
    keep()

    segment.refresh_from_db()
    assert segment.status == "failed"
    assert "There is no campaign" in segment.error

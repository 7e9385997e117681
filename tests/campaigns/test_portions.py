"""A broadcast with a pace: so many a period, in an order, chosen anew each time."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from campaigns import broadcast, portions, publish
from campaigns.broadcast import walk_broadcasts
from campaigns.dispatch import dispatch_system_events
from campaigns.models import Broadcast, Campaign, Passage, Run, TurnedAway
from segments.sql import Sql, sql
from smartcomm.core.db import execute, fetch_all
from tests import make

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
BY_PRODUCT = [{"field": "product_id", "op": "=", "value": "$product_id"}]
VIEWED = {"event": "Product viewed", "where": BY_PRODUCT}
NOT_PAID = {"not": {"event": "Order paid", "where": BY_PRODUCT}}
INTERESTED = {"all": [VIEWED, NOT_PAID]}


@pytest.fixture
def now():
    return timezone.now()


def paced(limit=2, *, rule=INTERESTED, first="longest_interest", **more):
    """Product in stock → an SMS to those who viewed it, in portions."""
    stop_after = more.pop("stop_after", None)
    per = more.pop("per", "hour")
    for name in ("Product viewed", "Order paid"):
        make.event_type(name)
    step = make.step(
        "who", "filter_customers", {"rule": rule}, positive="sms", negative=None
    )
    pace = {"limit": limit, "per": per, "first": first, "stop_after": stop_after}
    return make.campaign(
        step, make.sms(), on="Product in stock", system=True, pace=pace, **more
    )


def viewers(count, *, now, product=1):
    """So many customers; the first one viewed it longest ago."""
    found = [make.customer() for _ in range(count)]
    for number, customer in enumerate(found):
        at = now - timedelta(days=60) + timedelta(hours=number)
        make.event(customer, "Product viewed", product_id=product, at=at)
    return found


def in_stock(now, **context):
    make.system_event("Product in stock", **{"product_id": 1, **context})
    dispatch_system_events(now=now)
    return Broadcast.objects.latest("pk")


def walk(now):
    while walk_broadcasts(now=now):
        pass


def taken():
    return list(Run.objects.order_by("pk").values_list("customer_id", flat=True))


def ids(customers):
    return [one.pk for one in customers]


def test_a_portion_an_hour_the_longest_interest_first(now):
    paced(2)
    # Who has viewed it longest is not who came first, nor who viewed it last.
    late, early, middle = (make.customer() for _ in range(3))
    for customer, days in ((late, 1), (early, 30), (middle, 10), (early, 0.5)):
        at = now - timedelta(days=days)
        make.event(customer, "Product viewed", product_id=1, at=at)
    in_stock(now)

    walk(now)
    assert set(taken()) == {early.pk, middle.pk}
    found = Broadcast.objects.get()
    assert (found.status, found.portions, found.entered) == ("running", 1, 2)
    assert (found.still_match, found.due_at) == (1, now + HOUR)

    walk(now + HOUR - timedelta(seconds=1))
    assert len(taken()) == 2
    walk(now + HOUR)
    assert taken()[2:] == [late.pk]
    found.refresh_from_db()
    assert (found.status, found.reason) == ("finished", "Nobody else matches.")
    assert (found.portions, found.entered, found.progress) == (2, 3, 1.0)
    # They have passed the filter, as everybody whom a broadcast starts.
    assert Passage.objects.filter(way="positive").count() == 3


def test_the_latest_interest_goes_by_the_newest_event(now):
    paced(1, first="latest_interest")
    anna, bert = make.customer(), make.customer()
    for customer, days in ((anna, 30), (anna, 1), (bert, 2)):
        at = now - timedelta(days=days)
        make.event(customer, "Product viewed", product_id=1, at=at)
    # Of another product, which shows no interest in this one.
    make.event(bert, "Product viewed", product_id=2, at=now)
    in_stock(now)

    walk(now)

    assert taken() == [anna.pk]


@pytest.mark.parametrize(
    ("first", "who"), [("oldest_customer", 1), ("newest_customer", 2)]
)
def test_by_how_long_they_have_been_customers(now, first, who):
    paced(1, first=first)
    people = [
        make.customer(registered_at=now - timedelta(days=days)) for days in (5, 90, 1)
    ]
    for one in people:
        make.event(one, "Product viewed", product_id=1)
    in_stock(now)

    walk(now)

    assert taken() == [people[who].pk]


def test_with_several_conditions_any_of_them_shows_interest(now):
    called = {"event": "Call received", "where": BY_PRODUCT}
    make.event_type("Call received")
    paced(1, rule={"any": [VIEWED, called]})
    viewed, calling = make.customer(), make.customer()
    make.event(viewed, "Product viewed", product_id=1, at=now - timedelta(days=2))
    make.event(calling, "Call received", product_id=1, at=now - timedelta(days=3))
    in_stock(now)

    walk(now)

    assert taken() == [calling.pk]


def test_the_filter_is_asked_again_before_each_portion(now):
    paced(1)
    first, buyer, last = viewers(3, now=now)
    in_stock(now)
    walk(now)
    # Meanwhile one has bought it, and somebody who was there already has looked at it.
    make.event(buyer, "Order paid", product_id=1)
    walk(now + HOUR)

    assert taken() == [first.pk, last.pk]


def test_who_comes_to_match_meanwhile_is_taken_who_is_new_is_not(now):
    paced(1)
    old = make.customer()
    (first, second) = viewers(2, now=now)
    in_stock(now)
    walk(now)
    make.event(old, "Product viewed", product_id=1)
    make.event(make.customer(), "Product viewed", product_id=1)
    for hour in range(1, 5):
        walk(now + hour * HOUR)

    assert taken() == [first.pk, second.pk, old.pk]
    assert Broadcast.objects.get().status == "finished"


def test_it_stops_after_as_many_as_its_pace_says(now):
    paced(2, stop_after=3)
    people = viewers(6, now=now)
    in_stock(now)
    for hour in range(5):
        walk(now + hour * HOUR)

    assert taken() == ids(people[:3])
    found = Broadcast.objects.get()
    assert found.status == "finished"
    assert found.reason == "Stopped after 3, as its pace says."


def test_it_ends_at_once_when_nobody_else_matches(now):
    paced(5)
    viewers(2, now=now)
    in_stock(now)

    walk(now)

    found = Broadcast.objects.get()
    assert (found.status, found.finished_at) == ("finished", now)


def test_a_pause_of_five_hours_releases_one_portion(now):
    campaign = paced(2)
    viewers(20, now=now)
    in_stock(now)
    walk(now)
    publish.pause(Campaign.objects.get(pk=campaign.pk))
    walk(now + 3 * HOUR)
    assert len(taken()) == 2
    publish.resume(Campaign.objects.get(pk=campaign.pk))

    walk(now + 5.5 * HOUR)
    assert len(taken()) == 4
    # And a whole hour passes to the next.
    walk(now + 6 * HOUR)
    assert len(taken()) == 4
    walk(now + 6.5 * HOUR)
    assert len(taken()) == 6


def test_a_large_portion_is_taken_in_several_statements(now, monkeypatch):
    monkeypatch.setattr(portions, "MOST", 2)
    paced(5)
    people = viewers(8, now=now)
    in_stock(now)

    assert walk_broadcasts(now=now) == 2
    # In the same period, at once.
    walk(now)

    assert taken()[:4] == ids(people[:4])
    found = Broadcast.objects.get()
    assert (found.portions, found.period_taken, found.entered) == (1, 5, 5)
    assert (found.still_match, found.due_at) == (3, now + HOUR)


def test_what_a_period_took_late_is_not_followed_at_once(now, monkeypatch):
    monkeypatch.setattr(portions, "MOST", 2)
    paced(5)
    viewers(12, now=now)
    in_stock(now)
    minute = timedelta(minutes=1)

    walk_broadcasts(now=now)  # The first two; then nobody is at work.
    walk_broadcasts(now=now + 50 * minute)
    walk(now + 55 * minute)
    assert len(taken()) == 5
    walk(now + 114 * minute)
    assert len(taken()) == 5
    walk(now + 115 * minute)
    assert len(taken()) == 10


def test_what_breaks_in_between_leaves_nothing_half_done(now, monkeypatch):
    paced(2)
    people = viewers(4, now=now)
    in_stock(now)
    count = portions.end

    def broken(*args, **how):
        raise RuntimeError("after the runs, before the numbers")

    monkeypatch.setattr(portions, "end", broken)
    walk(now)
    assert taken() == []
    found = Broadcast.objects.get()
    assert (found.entered, found.period_taken, found.attempts) == (0, 0, 1)

    monkeypatch.setattr(portions, "end", count)
    walk(now + timedelta(minutes=5))
    assert taken() == ids(people[:2])
    # Its period began when it was taken.
    assert Broadcast.objects.get().due_at == now + timedelta(minutes=65)


def test_the_entry_rule_chooses_before_the_portion_is_cut(now):
    # Who may not enter uses up no place; they are written down when it is over.
    paced(2, entry={"rule": "once"})
    people = viewers(4, now=now)
    in_stock(now)
    for hour in range(3):
        walk(now + hour * HOUR)
    newcomer = make.customer()
    make.event(newcomer, "Product viewed", product_id=1)
    Run.objects.all().delete()
    second = in_stock(now)
    walk(now + 9 * HOUR)

    assert taken() == [newcomer.pk]
    away = TurnedAway.objects.filter(system_event=second.system_event)
    assert sorted(away.values_list("customer_id", flat=True)) == ids(people)
    assert all(one.entered_at for one in away)


def test_with_an_interval_a_later_portion_may_let_them_in(now):
    paced(1, entry={"rule": "interval", "days": 1}, per="day")
    anna, bert, _ = viewers(3, now=now)
    in_stock(now)
    walk(now)
    in_stock(now)
    walk(now + timedelta(hours=1))  # Anna has entered an hour ago.
    assert taken() == [anna.pk, bert.pk]
    walk(now + timedelta(days=1, hours=1))
    walk(now + timedelta(days=2, hours=2))

    second = Broadcast.objects.latest("pk")
    of_it = Run.objects.filter(system_event=second.system_event)
    assert anna.pk in of_it.values_list("customer_id", flat=True)


def test_who_has_entered_by_the_very_event_is_not_taken_again(now):
    paced(2)
    viewers(5, now=now)
    in_stock(now)
    for hour in range(6):
        walk(now + hour * HOUR)

    assert Counter(taken()).most_common(1)[0][1] == 1
    assert len(taken()) == 5


def test_without_a_filter_everyone_is_taken(now):
    make.campaign(on="Shop opened", system=True, pace={"limit": 2, "per": "day"})
    people = [make.customer() for _ in range(3)]
    make.system_event("Shop opened")
    dispatch_system_events(now=now)
    walk(now)
    assert taken() == ids(people[:2])
    walk(now + timedelta(days=1))
    assert taken() == ids(people)


def test_without_the_field_it_ends_and_says_why(now):
    paced(2)
    viewers(2, now=now)
    in_stock(now, product_id=None)
    walk(now)

    found = Broadcast.objects.get()
    assert (found.status, found.entered) == ("finished", 0)
    assert "has no “product_id”" in found.reason


def test_a_filter_that_leads_nowhere_ends_the_runs_of_the_portion(now):
    make.event_type("Product viewed")
    make.campaign(
        make.step(
            "who", "filter_customers", {"rule": VIEWED}, positive=None, negative=None
        ),
        on="Product in stock",
        system=True,
        pace={"limit": 1, "per": "hour"},
    )
    viewers(2, now=now)
    in_stock(now)
    walk(now)

    assert Run.objects.get().status == "finished"


def test_stopping_tells_how_many_had_been_taken(now):
    paced(2)
    viewers(5, now=now)
    found = in_stock(now)
    walk(now)

    assert broadcast.stop(found, by="mia", now=now)

    found.refresh_from_db()
    assert found.reason == "Stopped by mia after 2 had been taken."
    walk(now + HOUR)
    assert len(taken()) == 2


def test_a_portion_costs_the_same_queries_whatever_its_size(now):
    def cost(limit):
        paced(limit)
        viewers(limit + 3, now=now, product=limit)
        in_stock(now, product_id=limit)
        with CaptureQueriesContext(connection) as queries:
            walk_broadcasts(now=now)
        Campaign.objects.update(status="archived")
        walk(now)
        assert Run.objects.filter(campaign=Campaign.objects.latest("pk")).count()
        return len(queries)

    assert cost(2) == cost(40)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_meanwhile_the_pace_is_kept(now, seed):
    """Clocks that jump, pauses, purchases and newcomers: never more than the limit in
    any hour, nobody twice, each portion those who matched first."""
    chance = random.Random(seed)
    limit = chance.randint(1, 4)
    stop_after = chance.choice([None, 9])
    campaign = paced(limit, stop_after=stop_after)
    # Some viewed it before others; some will only come to it, or buy it, meanwhile.
    people = [make.customer() for _ in range(18)]
    since, bought = {}, set()
    for one in people[:12]:
        since[one.pk] = now - timedelta(minutes=chance.randint(100, 90_000))
        make.event(one, "Product viewed", product_id=1, at=since[one.pk])
    in_stock(now)
    clock, portions_taken = now, []
    for _ in range(40):
        before = set(taken())
        could = sorted(
            (pk for pk in since if pk not in bought | before),
            key=lambda pk: (since[pk], pk),
        )
        paused = chance.random() < 0.15
        if paused:
            publish.pause(Campaign.objects.get(pk=campaign.pk))
        running = Broadcast.objects.get().status == "running"
        walk(clock)
        new = [pk for pk in taken() if pk not in before]
        if paused:
            assert not new
            publish.resume(Campaign.objects.get(pk=campaign.pk))
        # The order holds, and the filter is that of now.
        assert set(new) == set(could[: len(new)])
        assert running or not new
        if new:
            portions_taken.append((clock, len(new)))
        one = chance.choice(people)
        if one.pk in since and chance.random() < 0.5:
            bought.add(one.pk)
            make.event(one, "Order paid", product_id=1)
        elif one.pk not in since:
            since[one.pk] = timezone.now()
            make.event(one, "Product viewed", product_id=1, at=since[one.pk])
        clock += timedelta(minutes=chance.choice([1, 20, 59, 60, 61, 300]))

    for at, _ in portions_taken:
        within = sum(n for other, n in portions_taken if at <= other < at + HOUR)
        assert within <= limit
    everyone = taken()
    assert len(everyone) == len(set(everyone)) == Broadcast.objects.get().entered
    assert stop_after is None or len(everyone) <= stop_after
    assert len(everyone) > limit or stop_after


def test_who_has_a_run_is_looked_up_by_the_unique_key():
    # A table this small would be read whole: what counts is that nothing else can serve
    # when PostgreSQL expects hardly any runs of the campaign.
    execute("SET LOCAL enable_seqscan = off")
    everyone = Sql("SELECT id AS customer_id FROM customers_customer")
    query = sql(portions.OPEN, everyone, 1, 1)
    plan = fetch_all(f"EXPLAIN {query.text}", query.params)
    told = "\n".join(line for (line,) in plan)
    assert "SubPlan" in told
    assert "run_once_per_system_event" in told

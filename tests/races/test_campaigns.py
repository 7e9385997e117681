"""Dispatchers, engines and walkers at once: every run once, every message once."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from campaigns import dispatch, drawing, engine, publish
from campaigns.broadcast import walk_broadcasts
from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Broadcast, Campaign, Entry, Passage, Run, Version
from campaigns.planned import start_planned
from events.models import EventType, PendingEvent, SystemEvent
from messaging.models import Message
from tests import make
from tests.races.together import at_once

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]


def until_none(work):
    total = 0
    while done := work():
        total += done
    return total


def test_two_dispatchers_share_the_queue():
    make.campaign(on="Order paid")
    for _ in range(60):
        make.event(make.customer(), "Order paid")

    shares = at_once(4, lambda _: until_none(lambda: dispatch_events(limit=7)))

    assert sum(shares) == 60
    assert Run.objects.count() == 60
    assert not PendingEvent.objects.exists()


def test_a_dispatcher_passes_over_what_another_holds():
    make.campaign(on="Order paid")
    for _ in range(2):
        make.event(make.customer(), "Order paid")

    with transaction.atomic():
        dispatch.claim_events(1, now=timezone.now())
        (done,) = at_once(1, lambda _: dispatch_events())

    assert done == 1


def test_once_is_once_for_two_events_dispatched_at_once():
    make.campaign(on="Order paid", entry={"rule": "once"})
    anna = make.customer()
    for _ in range(8):
        make.event(anna, "Order paid")

    at_once(8, lambda _: dispatch_events(limit=1))

    assert (Run.objects.count(), Entry.objects.count()) == (1, 1)


def test_without_the_entry_s_row_the_race_would_be_lost(monkeypatch):
    # If this fails, the test above tests nothing: only looking whether somebody is in,
    # before letting them in, starts more than one run.
    make.campaign(on="Order paid", entry={"rule": "once"})
    anna = make.customer()
    for _ in range(8):
        make.event(anna, "Order paid")
    from segments.sql import Sql

    look_first = Sql(
        "SELECT candidate.* FROM candidate WHERE NOT EXISTS ("
        "SELECT FROM campaigns_run AS run "
        " WHERE run.customer_id = candidate.customer_id)"
        " AND pg_sleep(0.2) IS NOT NULL"
    )
    monkeypatch.setattr(dispatch, "entering", lambda *_, **__: (Sql(""), look_first))

    at_once(8, lambda _: dispatch_events(limit=1))

    assert Run.objects.count() > 1


def test_engines_at_once_take_every_run_through_once():
    make.campaign(
        make.step(
            "paris",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "Paris"}},
            positive="sms",
            negative=None,
        ),
        make.sms(),
    )
    for i in range(40):
        make.event(make.reachable(city="Paris" if i % 2 else "Riga"), "Order paid")
    dispatch_events()

    at_once(4, lambda _: until_none(lambda: advance_runs(limit=5)))

    assert Message.objects.count() == 20
    assert Passage.objects.count() == 40
    assert Run.objects.filter(status="finished").count() == 20


def test_a_message_that_ended_takes_its_run_on_once():
    make.campaign(make.sms())
    for _ in range(30):
        make.event(make.reachable(), "Order paid")
    dispatch_events()
    advance_runs()
    Message.objects.update(status="sent", sent_at=timezone.now())

    shares = at_once(4, lambda _: until_none(lambda: settle_runs(limit=3)))

    assert sum(shares) == 30
    assert Passage.objects.count() == 30
    assert Run.objects.filter(status="finished").count() == 30


def test_walkers_at_once_start_every_run_of_a_broadcast_once():
    for name in ("One", "Two"):
        make.campaign(on="Shop opened", system=True, name=name)
    for _ in range(50):
        make.customer()
    make.system_event("Shop opened")
    at_once(2, lambda _: dispatch_system_events())

    at_once(4, lambda _: until_none(lambda: walk_broadcasts(chunk=4)))
    # A walker that finds all of them held goes home; the next tick finishes them.
    until_none(walk_broadcasts)

    assert Broadcast.objects.filter(status="finished").count() == 2
    assert Run.objects.count() == 100
    assert [b.entered for b in Broadcast.objects.all()] == [50, 50]


def test_publishing_at_once_publishes_once():
    campaign = make.draft()

    def attempt(_):
        try:
            publish.publish(Campaign.objects.get(pk=campaign.pk))
        except Exception as error:
            return type(error).__name__
        return "published"

    assert sorted(at_once(4, attempt)) == ["Conflict"] * 3 + ["published"]
    assert campaign.versions.filter(status="published").count() == 1


def test_a_type_stays_awaited_when_one_campaign_is_paused_while_another_begins():
    one = make.campaign(on="Order paid")
    other = make.draft(on="Order paid")
    paused = threading.Event()

    def work(number):
        if number:
            paused.wait(timeout=20)
            publish.publish(other)
            return
        with transaction.atomic():
            publish.pause(one)
            paused.set()
            time.sleep(1)  # The other publishes meanwhile, unless it waits for us.

    at_once(2, work)

    assert EventType.objects.get(name="Order paid").is_awaited
    make.event(make.reachable(), "Order paid")
    assert dispatch_events() == 1
    assert Run.objects.get().campaign == other


def test_engines_in_each_other_s_way_are_no_run_s_fault(monkeypatch):
    add = ("add_to_list", {"segment": make.segment().pk})
    write = ("set_attribute", {"attribute": "city", "value": "Riga"})
    make.event_type("Order paid")
    more = [{"field": "amount", "op": ">", "value": "$amount"}]
    rule = {"event": "Order paid", "where": more}
    make.campaign(
        make.step(
            "ask", "filter_customers", {"rule": rule}, positive="a", negative="c"
        ),
        make.step("a", *add, done="b"),
        make.step("b", *write, done=None),
        make.step("c", *write, done="d"),
        make.step("d", *add, done=None),
        on="Order paid",
    )
    anna = make.customer()
    for amount in (10, 20):
        make.event(anna, "Order paid", amount=amount)
    dispatch_events()
    execute = engine._execute

    def slow(batch, step, group):
        outcomes = execute(batch, step, group)
        time.sleep(0.5)  # By now each engine holds what the other wants next.
        return outcomes

    monkeypatch.setattr(engine, "_execute", slow)
    at_once(2, lambda _: until_none(lambda: advance_runs(limit=1)))

    runs = Run.objects.values_list("status", "attempts", "reason")
    assert list(runs) == [("finished", 0, "")] * 2
    assert Passage.objects.count() == 6


def test_two_workers_start_a_planned_time_once():
    for _ in range(3):
        make.customer()
    campaigns = [
        make.campaign(
            starts={
                "kind": "schedule",
                "at": "2020-01-01T09:00",
                "repeat": {"every": 1, "unit": "day"},
            }
        )
        for _ in range(5)
    ]
    now = timezone.now() + timedelta(days=1)

    at_once(4, lambda _: start_planned(now=now))
    while start_planned(now=now):
        pass
    at_once(4, lambda _: until_none(lambda: walk_broadcasts(now=now)))

    assert Broadcast.objects.count() == SystemEvent.objects.count() == 5
    assert Run.objects.count() == 15
    assert set(Run.objects.values_list("campaign", flat=True)) == {
        campaign.pk for campaign in campaigns
    }


def test_publishing_and_starting_at_once_neither_double_nor_lose_a_time():
    make.customer()
    daily = {
        "kind": "schedule",
        "at": "2020-01-01T09:00",
        "repeat": {"every": 1, "unit": "day"},
    }
    for _ in range(6):
        campaign = make.campaign(starts=daily)
        Version.objects.filter(campaign=campaign).update(
            next_at=timezone.now() - timedelta(minutes=1)
        )
        drawing.save_draft(campaign, drawing.as_json(campaign.versions.get()))
        deeds = [
            lambda: start_planned(),
            lambda campaign=campaign: publish.publish(campaign),
            lambda: start_planned(),
        ]
        at_once(3, lambda number, deeds=deeds: deeds[number]())
        assert Broadcast.objects.filter(campaign=campaign).count() == 1
        following = campaign.versions.get(status=Version.Status.PUBLISHED).next_at
        assert following is not None
        assert following > timezone.now()

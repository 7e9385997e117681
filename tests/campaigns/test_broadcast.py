"""One system event, answered for the whole base."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from campaigns import dispatch, publish
from campaigns.broadcast import walk_broadcasts
from campaigns.dispatch import dispatch_system_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Broadcast, Campaign, Passage, Run, TurnedAway
from messaging.models import Message
from messaging.send import send_messages
from segments.models import Segment
from tests import make

pytestmark = pytest.mark.django_db

VIEWED = {
    "event": "Product viewed",
    "where": [{"field": "product_id", "op": "=", "value": "$product_id"}],
}


def viewers(negative=None, **more):
    """Product in stock → an SMS to those who viewed it."""
    make.event_type("Product viewed")
    steps = [
        make.step(
            "who",
            "filter_customers",
            {"rule": VIEWED},
            positive="sms",
            negative=negative,
        ),
        make.sms("{{ client.eventContext.name }} is back"),
    ]
    if negative:
        steps.append(make.step(negative, "wait", {"for": 1, "unit": "days"}, done=None))
    return make.campaign(*steps, on="Product in stock", system=True, **more)


def walk(chunk=20_000):
    dispatch_system_events()
    while walk_broadcasts(chunk=chunk):
        pass


def work():
    walk()
    while sum((settle_runs(), advance_runs(), send_messages())):
        pass


def test_those_whose_own_events_match_the_event_s_context_get_a_message():
    viewers()
    anna, bert = make.reachable(), make.reachable()
    make.event(anna, "Product viewed", product_id=77)
    make.event(bert, "Product viewed", product_id=78)
    make.reachable()

    make.system_event("Product in stock", product_id="77", name="Bag")
    work()

    message = Message.objects.get()
    assert (message.customer, message.body) == (anna, "Bag is back")
    broadcast = Broadcast.objects.get()
    assert (broadcast.status, broadcast.examined, broadcast.entered) == (
        "finished",
        3,
        1,
    )
    # Customers it does not match cost nothing.
    assert Run.objects.count() == 1
    assert Passage.objects.filter(way="positive").count() == 1


def test_the_base_is_walked_in_chunks_that_can_be_taken_up_again():
    viewers()
    for _ in range(7):
        make.event(make.customer(), "Product viewed", product_id=1)
    make.system_event("Product in stock", product_id=1)
    dispatch_system_events()

    assert walk_broadcasts(chunk=3) == 3
    broadcast = Broadcast.objects.get()
    assert (broadcast.status, broadcast.entered) == ("running", 3)
    assert 0 < broadcast.progress < 1

    walk(chunk=3)
    broadcast.refresh_from_db()
    assert (broadcast.status, broadcast.examined, broadcast.entered) == (
        "finished",
        7,
        7,
    )
    assert Run.objects.values("customer").distinct().count() == 7


def test_a_chunk_in_which_nobody_matches_does_not_end_the_walk():
    viewers()
    for _ in range(6):
        make.customer()
    anna = make.customer()
    make.event(anna, "Product viewed", product_id=1)
    make.system_event("Product in stock", product_id=1)
    dispatch_system_events()

    walk(chunk=2)

    assert Broadcast.objects.get().status == "finished"
    assert Run.objects.get().customer == anna


def test_a_chunk_costs_the_same_queries_whatever_its_size():
    viewers()
    for _ in range(60):
        make.event(make.customer(), "Product viewed", product_id=1)

    def cost(chunk):
        make.system_event("Product in stock", product_id=1)
        dispatch_system_events()
        with CaptureQueriesContext(connection) as queries:
            walk_broadcasts(chunk=chunk)
        while walk_broadcasts():
            pass
        return len(queries)

    assert cost(2) == cost(50)


def test_who_comes_after_the_broadcast_began_is_not_part_of_it():
    make.campaign(on="Product in stock", system=True)
    make.customer()
    make.system_event("Product in stock")
    dispatch_system_events()
    make.customer()

    walk()

    assert Run.objects.count() == 1


def test_the_negative_way_takes_everybody_else():
    viewers(negative="later")
    anna, bert = make.customer(), make.customer()
    make.event(anna, "Product viewed", product_id=77)

    make.system_event("Product in stock", product_id=77)
    walk()

    assert Run.objects.get(customer=anna).step.key == "sms"
    assert Run.objects.get(customer=bert).step.key == "later"
    assert dict(Passage.objects.values_list("customer", "way")) == {
        anna.pk: "positive",
        bert.pk: "negative",
    }


def test_without_the_field_nobody_matches_and_the_broadcast_says_why():
    viewers()
    make.event(make.customer(), "Product viewed", product_id=77)

    make.system_event("Product in stock", name="no id")
    walk()

    broadcast = Broadcast.objects.get()
    assert (broadcast.status, broadcast.entered) == ("finished", 0)
    assert (
        broadcast.reason
        == "The event has no “product_id”, so the filter matches nobody."
    )
    assert not Run.objects.exists()


def test_without_the_field_everyone_takes_the_negative_way_where_there_is_one():
    viewers(negative="later")
    for _ in range(3):
        make.customer()

    make.system_event("Product in stock", name="no id")
    walk(chunk=2)

    assert Run.objects.filter(step__key="later").count() == 3
    assert Broadcast.objects.get().examined == 3


def test_without_a_leading_filter_everyone_enters():
    make.campaign(on="Shop opened", system=True)
    for _ in range(3):
        make.customer()

    make.system_event("Shop opened")
    walk()

    assert Run.objects.count() == 3


def test_a_positive_way_that_leads_nowhere_ends_the_run():
    make.event_type("Product viewed")
    make.campaign(
        make.step(
            "who", "filter_customers", {"rule": VIEWED}, positive=None, negative=None
        ),
        on="Product in stock",
        system=True,
    )
    make.event(make.customer(), "Product viewed", product_id=1)

    make.system_event("Product in stock", product_id=1)
    walk()

    run = Run.objects.get()
    assert (run.status, run.finished_at is not None) == ("finished", True)


def test_once_holds_across_system_events():
    make.campaign(on="Shop opened", system=True, entry={"rule": "once"})
    make.customer()
    for _ in range(2):
        make.system_event("Shop opened")
        walk()

    assert Run.objects.count() == 1
    first, second = Broadcast.objects.order_by("pk")
    assert (first.entered, second.entered) == (1, 0)
    away = TurnedAway.objects.get()
    assert (away.system_event, away.event) == (second.system_event, None)


def test_two_events_are_two_messages_when_every_event_counts():
    viewers()
    anna = make.reachable()
    make.event(anna, "Product viewed", product_id=1)
    make.event(anna, "Product viewed", product_id=2)

    make.system_event("Product in stock", product_id=1, name="One")
    make.system_event("Product in stock", product_id=2, name="Two")
    work()

    assert sorted(Message.objects.values_list("body", flat=True)) == [
        "One is back",
        "Two is back",
    ]


def test_a_system_event_that_is_too_old_starts_nothing():
    viewers()
    make.system_event("Product in stock", at=timezone.now() - timedelta(hours=73))

    walk()

    assert not Broadcast.objects.exists()


def test_a_paused_campaign_s_broadcast_waits():
    campaign = make.campaign(on="Shop opened", system=True)
    make.customer()
    make.system_event("Shop opened")
    dispatch_system_events()

    publish.pause(Campaign.objects.get(pk=campaign.pk))
    assert walk_broadcasts() == 0
    publish.resume(Campaign.objects.get(pk=campaign.pk))
    walk()

    assert Run.objects.count() == 1


def test_a_campaign_that_cannot_be_asked_holds_up_no_other(monkeypatch):
    broken = make.campaign(on="Shop opened", system=True)
    fine = make.campaign(on="Shop opened", system=True)
    make.system_event("Shop opened")
    now, ask = timezone.now(), dispatch.matching

    def fault(version, ids, **how):
        if version.campaign_id == broken.pk:
            raise RuntimeError("broken")
        return ask(version, ids, **how)

    monkeypatch.setattr(dispatch, "matching", fault)
    dispatch_system_events(now=now)
    assert Broadcast.objects.get().campaign == fine

    monkeypatch.setattr(dispatch, "matching", ask)
    assert dispatch_system_events(now=now) == 0
    dispatch_system_events(now=now + timedelta(minutes=2))
    assert Broadcast.objects.count() == 2


def test_a_filter_that_breaks_is_tried_again_and_then_given_up_visibly():
    segment = Segment.objects.create(
        name="Parisians", rule={"attribute": "city", "op": "=", "value": "Paris"}
    )
    make.campaign(
        make.step(
            "who",
            "filter_customers",
            {"rule": {"segment": segment.pk}},
            positive="sms",
            negative=None,
        ),
        make.sms(),
        on="Shop opened",
        system=True,
    )
    make.customer(city="Paris")
    make.system_event("Shop opened")
    dispatch_system_events()
    rule = segment.rule
    Segment.objects.update(rule={"broken": True})
    now = timezone.now()

    walk_broadcasts(now=now)
    broadcast = Broadcast.objects.get()
    assert (broadcast.status, broadcast.attempts) == ("running", 1)
    assert "Parisians" in broadcast.reason
    assert walk_broadcasts(now=now) == 0

    Segment.objects.update(rule=rule)
    assert walk_broadcasts(now=now + timedelta(hours=1)) == 1
    broadcast.refresh_from_db()
    assert (broadcast.status, broadcast.reason, broadcast.entered) == (
        "finished",
        "",
        1,
    )


def test_the_walk_for_a_campaign_that_was_archived_ends_where_it_is():
    campaign = make.campaign(make.sms(), on="Shop opened", system=True)
    for _ in range(3):
        make.customer()
    make.system_event("Shop opened")
    dispatch_system_events()
    walk_broadcasts(chunk=1)

    publish.archive(campaign)
    while walk_broadcasts(chunk=1):
        pass

    broadcast = Broadcast.objects.get()
    assert (broadcast.status, broadcast.reason) == (
        "finished",
        "The campaign was archived.",
    )
    assert (broadcast.examined, broadcast.entered) == (1, 1)
    assert broadcast.finished_at is not None
    assert Run.objects.count() == 1


def test_a_broadcast_that_is_stopped_lets_nobody_else_in(admin_client):
    campaign = make.campaign(on="Shop opened", system=True)
    for _ in range(3):
        make.customer()
    make.system_event("Shop opened")
    dispatch_system_events()
    walk_broadcasts(chunk=1)
    broadcast = Broadcast.objects.get()
    page = reverse("admin:campaigns_campaign_runs", args=[campaign.pk])
    assert "Stop" in admin_client.get(page).content.decode()

    asked = admin_client.post(page, {"broadcast": broadcast.pk}).content.decode()
    broadcast.refresh_from_db()
    assert broadcast.status == "running"
    assert "1 customer has entered" in asked
    assert "2 have not been looked at yet: about 2 of them would still come" in asked

    admin_client.post(page, {"broadcast": broadcast.pk, "sure": "yes"})
    assert walk_broadcasts(chunk=1) == 0

    broadcast.refresh_from_db()
    assert broadcast.status == "finished"
    assert broadcast.reason == "Stopped by admin after 1 customers had been looked at."
    assert Run.objects.count() == 1
    again = admin_client.post(page, {"broadcast": broadcast.pk}, follow=True)
    assert "It was over already." in again.content.decode()
    assert admin_client.post(page, {"broadcast": "x"}).status_code == 404


def test_stopping_takes_the_right_to_publish(client, django_user_model):
    campaign = make.campaign(on="Shop opened", system=True)
    make.system_event("Shop opened")
    dispatch_system_events()
    user = django_user_model.objects.create_user("mia", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_campaign"))
    client.force_login(user)
    page = reverse("admin:campaigns_campaign_runs", args=[campaign.pk])
    answer = client.post(page, {"broadcast": Broadcast.objects.get().pk})
    assert answer.status_code == 403

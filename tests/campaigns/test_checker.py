"""The checker finds what does not add up, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from campaigns.broadcast import walk_broadcasts
from campaigns.checker import EVERY, check_next, what_is_off
from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.engine import ARCHIVED, advance_runs, settle_runs
from campaigns.models import Imbalance, Passage, Run
from campaigns.publish import archive, pause, resume
from customers.merging import merge
from messaging.models import Message
from messaging.send import send_messages
from tests import make

pytestmark = pytest.mark.django_db(transaction=True)


def work():
    while (
        dispatch_system_events()
        + walk_broadcasts()
        + dispatch_events()
        + settle_runs()
        + advance_runs()
        + send_messages()
    ):
        pass


PARIS = {"rule": {"attribute": "city", "op": "=", "value": "Paris"}}


@pytest.fixture
def campaign():
    """Some of its runs are over, some wait, some were not written to."""
    found = make.campaign(
        make.step("who", "filter_customers", PARIS, positive="sms", negative="rest"),
        make.step("rest", "wait", {"for": 1, "unit": "days"}, done="sms"),
        make.sms(),
        on="Order paid",
    )
    for city in ("Paris", "Rome", "Paris"):
        make.event(make.reachable(city=city), "Order paid")
    make.event(make.customer(city="Paris"), "Order paid")
    work()
    return found


def test_what_adds_up_is_left_alone(campaign):
    assert what_is_off(campaign) == []
    archive(campaign)
    assert what_is_off(campaign) == []


def test_a_broadcast_adds_up_as_well():
    campaign = make.campaign(
        make.step("who", "filter_customers", PARIS, positive="sms", negative=None),
        make.sms(),
        on="Shop opened",
        system=True,
    )
    for city in ("Paris", "Rome"):
        make.reachable(city=city)
    make.system_event("Shop opened")
    work()
    assert Run.objects.count() == 1
    assert what_is_off(campaign) == []


def test_runs_of_an_older_version_add_up_too(campaign):
    make.publish_again(campaign, steps=[make.sms("Other")], start="sms")
    make.event(make.reachable(), "Order paid")
    work()
    assert what_is_off(campaign) == []


def test_a_passage_that_is_gone_is_found(campaign):
    Passage.objects.filter(step__key="who").first().delete()
    [one, *more] = what_is_off(campaign)
    assert (one.what, one.wanted - one.found) == ("step", 1)
    assert len(more) == 1


@pytest.mark.parametrize("way", ["sent", "not_sent"])
def test_the_last_passage_of_a_run_that_is_over_is_missed_as_well(campaign, way):
    last = Passage.objects.filter(step__key="sms", way=way).first()
    last.delete()
    [one] = what_is_off(campaign)
    assert (one.step_id, one.what) == (last.step_id, "step")
    assert one.wanted - one.found == 1


def test_who_was_left_out_after_a_pause_adds_up(campaign):
    pause(campaign)
    due = timezone.now() - timedelta(hours=2)
    assert Run.objects.filter(status="waiting").update(due_at=due) == 1
    resume(campaign, skip_older_than=timedelta(hours=1))
    assert not Run.objects.filter(status="waiting").exists()
    assert what_is_off(campaign) == []


def test_who_was_merged_adds_up():
    campaign = make.campaign(
        make.step("rest", "wait", {"for": 1, "unit": "days"}, done="sms"),
        make.sms(),
        on="Shop opened",
        system=True,
    )
    make.reachable("C-1")
    make.reachable("C-2")
    make.system_event("Shop opened")
    work()
    merge("C-1", "C-2", by="shop", now=timezone.now())
    assert Run.objects.filter(status="finished").count() == 1
    assert what_is_off(campaign) == []


def test_a_run_that_waits_for_a_message_that_is_gone_is_found(campaign):
    make.event(make.reachable(city="Paris"), "Order paid")
    dispatch_events()
    advance_runs()
    assert what_is_off(campaign) == []
    Message.objects.filter(status="queued").delete()
    [one] = what_is_off(campaign)
    assert (one.what, one.found) == ("forgotten", 1)


def test_it_is_told_on_the_home_page_until_it_adds_up_again(campaign, admin_client):
    now = timezone.now()
    Run.objects.filter(status="waiting").update(
        status="finished", due_at=None, reason=ARCHIVED
    )
    gone = Passage.objects.filter(step__key="who").first()
    Passage.objects.filter(pk=gone.pk).delete()

    assert check_next(now=now) == 1
    assert check_next(now=now) == 0
    assert Imbalance.objects.count() == 2
    home = admin_client.get(reverse("admin:index")).content.decode()
    assert f"“{campaign}” does not add up at “who”" in home
    told = "4 came to “who” of version 1, and 3 have left it, wait, failed or were"
    assert told in home
    assert told in shown_report(admin_client, campaign)

    gone.save(force_insert=True)
    assert check_next(now=now + EVERY - timedelta(seconds=1)) == 0
    assert check_next(now=now + EVERY) == 1
    assert not Imbalance.objects.exists()
    home = admin_client.get(reverse("admin:index")).content.decode()
    assert "does not add up" not in home
    assert "does not add up" not in shown_report(admin_client, campaign)


def test_the_report_names_who_waits_for_what_is_not_coming(campaign, admin_client):
    make.event(make.reachable("C-7", city="Paris"), "Order paid")
    dispatch_events()
    advance_runs()
    Message.objects.filter(status="queued").delete()
    check_next()

    shown = shown_report(admin_client, campaign)

    assert "This does not add up" in shown
    assert "1 customer waits at “sms” of version 1, and nothing takes them on" in shown
    run = Run.objects.get(customer__external_id="C-7")
    page = reverse("admin:campaigns_run_change", args=[run.pk])
    assert f'<a href="{page}">{run.customer}</a>' in shown


def shown_report(client, campaign):
    page = reverse("admin:campaigns_campaign_report", args=[campaign.pk])
    return client.get(page).content.decode()

"""Going on after a pause: with all that became due, or without what is too old."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Broadcast, Run
from campaigns.overdue import overdue
from campaigns.publish import pause, resume
from campaigns.report import report
from messaging.models import Message
from messaging.send import send_messages
from tests import make
from tests.client import Api

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


def work():
    while dispatch_events() + settle_runs() + advance_runs() + send_messages():
        pass


@pytest.fixture
def paused():
    """A campaign with a run that waits for a time and one that waits for its message,
    both due three hours ago, and one that is due since half an hour."""
    campaign = make.campaign(
        make.step("rest", "wait", {"for": 1, "unit": "days"}, done="sms"),
        make.sms(),
        on="Order paid",
    )
    for _ in range(3):
        make.event(make.reachable(), "Order paid")
    work()
    waits, written, late = Run.objects.order_by("pk")
    now = timezone.now()
    Run.objects.update(arrived_at=now - 30 * HOUR)
    Run.objects.filter(pk=written.pk).update(due_at=now - HOUR)
    advance_runs(now=now)
    pause(campaign)
    Run.objects.filter(pk=waits.pk).update(due_at=now - 3 * HOUR)
    Run.objects.filter(pk=late.pk).update(due_at=now - HOUR / 2)
    Message.objects.update(due_at=now - 3 * HOUR)
    return campaign, waits, written, late


def test_what_is_overdue_is_counted(paused):
    campaign, *_ = paused
    now = timezone.now()
    found = overdue(campaign, before=now)
    assert (found.runs, found.messages, found.calls, found.broadcasts) == (2, 1, 0, 0)
    assert now - found.oldest > 2 * HOUR
    assert not overdue(campaign, before=now - 4 * HOUR)


def test_all_of_it_goes_on(paused):
    campaign, *_ = paused
    resume(campaign)
    work()
    assert Message.objects.filter(status="sent").count() == 3
    assert set(Run.objects.values_list("status", flat=True)) == {"finished"}


def test_what_is_too_old_is_left_out_and_says_so(paused):
    campaign, waits, written, late = paused
    resume(campaign, skip_older_than=HOUR)
    work()

    for run in (waits, written):
        run.refresh_from_db()
        assert run.status == "finished"
        assert run.reason.startswith("Left out when the campaign was resumed")
    late.refresh_from_db()
    assert (late.status, late.reason) == ("finished", "")
    assert sorted(Message.objects.values_list("run_id", "status", "reason")) == [
        (written.pk, "suppressed", "cancelled"),
        (late.pk, "sent", ""),
    ]
    [numbers] = report(campaign)["versions"]
    assert (numbers["entered"], numbers["finished"]) == (3, 3)


def test_a_broadcast_that_was_under_way_is_left_out():
    campaign = make.campaign(on="Shop opened", system=True)
    make.system_event("Shop opened")
    dispatch_system_events()
    pause(campaign)
    Broadcast.objects.update(due_at=timezone.now() - 3 * HOUR)

    resume(campaign, skip_older_than=HOUR)

    assert Broadcast.objects.get().status == "finished"
    assert Broadcast.objects.get().reason.startswith("Left out")


def test_a_broadcast_with_a_pace_goes_on():
    campaign = make.campaign(
        on="Shop opened", system=True, pace={"limit": 1, "per": "hour"}
    )
    make.system_event("Shop opened")
    dispatch_system_events()
    pause(campaign)
    Broadcast.objects.update(due_at=timezone.now() - 3 * HOUR)

    assert not overdue(campaign, before=timezone.now())
    resume(campaign, skip_older_than=HOUR)

    assert Broadcast.objects.get().status == "running"


def test_only_what_is_paused_is_left_out():
    campaign = make.campaign(on="Order paid")
    make.event(make.reachable(), "Order paid")
    dispatch_events()
    Run.objects.update(due_at=timezone.now() - 3 * HOUR)
    with pytest.raises(Exception, match="cannot be done"):
        resume(campaign, skip_older_than=HOUR)
    assert Run.objects.get().status == "waiting"


def test_the_page_asks_and_does_what_was_chosen(admin_client, paused):
    campaign, waits, *_ = paused
    page = reverse("admin:campaigns_campaign_state", args=[campaign.pk, "resume"])
    asked = admin_client.get(page).content.decode()
    assert "2 customers, 1 message should have gone on meanwhile" in asked

    refused = admin_client.post(page, {"overdue": "skip", "hours": "x"}, follow=True)
    assert "Say in whole hours" in refused.content.decode()
    admin_client.post(page, {"overdue": "skip", "hours": "1"})
    waits.refresh_from_db()
    assert waits.reason.startswith("Left out")


def test_the_api_does_it_as_well(paused):
    campaign, waits, *_ = paused
    api = Api()
    here = f"/campaigns/{campaign.pk}/resume"
    for body in ({"skip_older_than_hours": -1}, {"older": 1}):
        assert api.post(here, body).status_code == 422
    assert api.post(here, {"skip_older_than_hours": 1}).status_code == 200
    waits.refresh_from_db()
    assert waits.reason.startswith("Left out")

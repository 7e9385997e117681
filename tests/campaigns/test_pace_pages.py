"""The pace in the admin: chosen with the trigger, seen on its way."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from campaigns import drawing
from campaigns.broadcast import walk_broadcasts
from campaigns.dispatch import dispatch_system_events
from campaigns.models import Broadcast, Campaign, Version
from tests import make

pytestmark = pytest.mark.django_db

OPENED = {
    "trigger-kind": "system_event",
    "trigger-event": "Shop opened",
    "trigger-where": "[]",
    "trigger-entry": "every_event",
    "trigger-max_age_hours": "72",
}
PACE = {
    "pace-is_paced": "on",
    "pace-limit": "500",
    "pace-per": "hour",
    "pace-first": "oldest_customer",
    "pace-stop_after": "5000",
}


def url(campaign, what):
    return reverse("admin:campaigns_campaign_panel", args=[campaign.pk, what])


def panel(client, campaign):
    return client.get(url(campaign, "trigger")).content.decode()


def save(client, campaign, **told):
    shown = panel(client, campaign)
    stamp = re.search(r'name="stamp" value="(\w+)"', shown)[1]
    return client.post(url(campaign, "trigger"), {**OPENED, "stamp": stamp, **told})


def pace_of(campaign):
    draft = campaign.versions.get(status=Version.Status.DRAFT)
    return drawing.as_json(draft).get("pace")


def test_a_pace_is_chosen_with_the_trigger_and_drawn(admin_client):
    campaign = make.draft(on="Shop opened", system=True)

    answer = save(admin_client, campaign, **PACE)

    assert answer.status_code == 200
    words = "500 an hour, oldest customer first, stop after 5,000"
    assert words in answer.content.decode()
    assert pace_of(campaign) == {
        "limit": 500,
        "per": "hour",
        "first": "oldest_customer",
        "stop_after": 5000,
    }
    # The panel shows it again, and it can be taken away.
    shown = panel(admin_client, campaign)
    assert re.search(r'name="pace-is_paced"[^>]* checked', shown)
    assert re.search(r'name="pace-stop_after" value="5000"', shown)
    save(admin_client, campaign)
    assert pace_of(campaign) is None


def test_a_portion_without_a_number_is_refused_beside_its_field(admin_client):
    campaign = make.draft(on="Shop opened", system=True)

    answer = save(admin_client, campaign, **{**PACE, "pace-limit": ""})

    assert answer.status_code == 422
    assert "Say how many customers a portion may take." in answer.content.decode()


def test_a_trigger_of_one_customer_has_no_pace(admin_client):
    campaign = make.draft(
        on="Shop opened", system=True, pace={"limit": 5, "per": "day"}
    )
    one = {"trigger-kind": "event", "trigger-event": "Order paid"}

    assert save(admin_client, campaign, **{**PACE, **one}).status_code == 200

    assert pace_of(campaign) is None


def test_a_new_campaign_may_have_a_pace_from_the_start(admin_client):
    told = {**OPENED, **PACE, "name": "Slowly", "description": ""}
    answer = admin_client.post(reverse("admin:campaigns_campaign_add"), told)

    assert answer.status_code == 302
    assert pace_of(Campaign.objects.get())["limit"] == 500


def test_publishing_tells_how_the_portions_go(admin_client):
    campaign = make.draft(
        on="Shop opened", system=True, pace={"limit": 5, "per": "day"}
    )
    page = admin_client.get(
        reverse("admin:campaigns_campaign_publish", args=[campaign.pk])
    ).content.decode()
    assert "in portions: 5 a day, oldest customer first." in page


def test_the_page_of_runs_tells_how_far_it_is_and_how_long_it_takes(admin_client):
    campaign = make.campaign(
        on="Shop opened", system=True, pace={"limit": 2, "per": "hour"}
    )
    for _ in range(7):
        make.customer()
    make.system_event("Shop opened")
    dispatch_system_events()
    walk_broadcasts()
    runs = reverse("admin:campaigns_campaign_runs", args=[campaign.pk])

    page = " ".join(admin_client.get(runs).content.decode().split())

    assert "1 portion, 2 an hour, oldest customer first. 5 to go." in page
    assert "the last about" in page
    assert "Stop" in page
    change = reverse(
        "admin:campaigns_broadcast_change", args=[Broadcast.objects.get().pk]
    )
    assert admin_client.get(change).status_code == 200

    Campaign.objects.update(status="paused")
    assert "The campaign is paused." in admin_client.get(runs).content.decode()
    Campaign.objects.update(status="published")
    for hour in range(1, 5):
        walk_broadcasts(now=timezone.now() + timedelta(hours=hour, seconds=hour))
    page = admin_client.get(runs).content.decode()
    assert "Nobody else matches." in page
    assert "to go" not in page

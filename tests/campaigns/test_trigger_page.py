"""Choosing what starts a campaign, on its page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse

from campaigns import editing
from campaigns.drawing import as_json
from campaigns.models import Campaign
from campaigns.publish import publish
from tests import make

pytestmark = pytest.mark.django_db

COMMON = {"trigger-entry": "every_event", "trigger-max_age_hours": "24"}
BIRTHDAY = {
    **COMMON,
    "trigger-kind": "date",
    "trigger-date-attribute": "birth_date",
    "trigger-date-side": "before",
    "trigger-date-number": "3",
    "trigger-date-yearly": "on",
    "trigger-date-at": "09:00",
    "trigger-date-segment": "",
}
WEEKLY = {
    **COMMON,
    "trigger-kind": "schedule",
    "trigger-plan-day": "2030-01-01",
    "trigger-plan-time": "18:30",
    "trigger-plan-unit": "week",
    "trigger-plan-every": "2",
    "trigger-plan-weekdays": ["mon", "thu"],
    "trigger-plan-until": "",
    "trigger-plan-segment": "",
}


@pytest.fixture
def marketer(client: Client) -> Client:
    user = get_user_model().objects.create_superuser("anna", "a@example.com", "x")
    client.force_login(user)
    return client


def saved(marketer: Client, data: dict[str, Any]) -> tuple[Campaign, Any]:
    campaign = make.draft()
    drawn = as_json(campaign.versions.get())
    url = reverse("admin:campaigns_campaign_panel", args=[campaign.pk, "trigger"])
    return campaign, marketer.post(url, {**data, "stamp": editing.stamp(drawn)})


def trigger(campaign: Campaign) -> dict[str, Any]:
    found: dict[str, Any] = as_json(campaign.versions.get(status="draft"))["trigger"]
    return found


def test_a_birthday(marketer):
    campaign, answer = saved(marketer, BIRTHDAY)
    assert answer.status_code == 200
    assert trigger(campaign) == {
        "kind": "date",
        "attribute": "birth_date",
        "days": -3,
        "yearly": True,
        "at": "09:00",
        "segment": None,
        "max_age_hours": 24,
    }
    assert "Every year, 3 days before the birthday, at 09:00." in (
        answer.content.decode()
    )


def test_a_planned_time(marketer):
    campaign, answer = saved(marketer, WEEKLY)
    assert answer.status_code == 200
    assert trigger(campaign) == {
        "kind": "schedule",
        "at": "2030-01-01T18:30",
        "repeat": {"every": 2, "unit": "week", "weekdays": ["mon", "thu"]},
        "until": None,
        "segment": None,
        "max_age_hours": 24,
    }


def test_a_segment(marketer):
    segment = make.segment("Guests")
    data = {
        **COMMON,
        "trigger-kind": "segment_left",
        "trigger-segment": str(segment.pk),
    }
    campaign, answer = saved(marketer, data)
    assert answer.status_code == 200
    assert trigger(campaign)["segment"] == segment.pk


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({**BIRTHDAY, "trigger-date-number": ""}, "Say how many days."),
        ({**BIRTHDAY, "trigger-date-at": ""}, "This field is required."),
        ({**COMMON, "trigger-kind": "segment_left"}, "This field is required."),
    ],
)
def test_what_is_missing_is_told_beside_the_field(marketer, data, told):
    campaign, answer = saved(marketer, data)
    assert answer.status_code == 422
    assert told in answer.content.decode()
    assert trigger(campaign)["kind"] == "event"


def test_the_form_shows_what_is_drawn_and_when_it_comes(marketer):
    campaign, _ = saved(marketer, WEEKLY)
    url = reverse("admin:campaigns_campaign_panel", args=[campaign.pk, "trigger"])
    page = marketer.get(url).content.decode()
    assert 'value="2030-01-01"' in page
    chosen = set(re.findall(r'value="(\w+)"[^>]* checked', page))
    assert {"schedule", "mon", "thu"} <= chosen
    assert not {"event", "tue", "wed", "fri"} & chosen
    # The weeks of New Year's Day, and every other one after that.
    assert "3 Jan 2030, 18:30; 14 Jan 2030, 18:30; 17 Jan 2030, 18:30" in page

    publish(campaign)
    url = reverse("admin:campaigns_campaign_change", args=[campaign.pk])
    assert "Starts next: 3 Jan 2030, 18:30" in marketer.get(url).content.decode()


def test_the_page_before_publishing_says_what_it_means(marketer):
    campaign, _ = saved(marketer, BIRTHDAY)
    url = reverse("admin:campaigns_campaign_publish", args=[campaign.pk])
    page = marketer.get(url).content.decode()
    assert "It starts every year, 3 days before the birthday, at 09:00." in page
    assert "The next times:" in page


def test_a_text_offers_what_a_planned_time_says(marketer):
    """Before any has come: who draws the first one needs its fields."""
    campaign = make.draft(
        make.sms(),
        starts={"kind": "schedule", "at": "2030-01-01T09:00"},
    )
    url = reverse("admin:campaigns_campaign_panel", args=[campaign.pk, "step"])
    page = marketer.get(url, {"step": "sms"}).content.decode()
    assert 'data-insert="{{ client.eventContext.planned_at }}"' in page

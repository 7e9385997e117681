"""What changes between versions: on the pages of a campaign, and through the API."""

from __future__ import annotations

import msgspec
import pytest
from django.urls import reverse

from campaigns import drawing
from campaigns.versions_api import DIFF, VERSION, CampaignDiff, CampaignVersion
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db


@pytest.fixture
def campaign():
    """Version 1 superseded, 2 at work, 3 a draft; each says something else."""
    campaign = make.campaign(make.sms("one"), name="Paid")
    make.publish_again(campaign, steps=[make.sms("two")])
    definition = drawing.as_json(campaign.versions.get(status="published"))
    drawing.save_draft(campaign, {**definition, "steps": [make.sms("three")]})
    return campaign


def pages(campaign):
    return (
        reverse(f"admin:campaigns_campaign_{page}", args=[campaign.pk])
        for page in ("publish", "versions")
    )


def test_publishing_says_first_what_will_change(admin_client, campaign):
    publish, _ = pages(campaign)
    html = admin_client.get(publish).content.decode()

    assert "What will change" in html
    assert "<del>two</del>" in html
    assert "<ins>three</ins>" in html


def test_what_is_published_for_the_first_time_changes_nothing(admin_client):
    publish, _ = pages(make.draft())
    assert "What will change" not in admin_client.get(publish).content.decode()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"to": "2"}, ("one", "two")),
        ({"from": "1", "to": "3"}, ("one", "three")),
        ({"from": "3", "to": "1"}, ("three", "one")),
        ({"to": "1"}, None),
        ({"to": "9"}, None),
        ({"from": "x", "to": "2"}, None),
        ({}, None),
    ],
)
def test_any_two_versions_are_compared(admin_client, campaign, query, told):
    _, versions = pages(campaign)
    html = admin_client.get(versions, query).content.decode()

    if told is None:
        assert "What changed from" not in html
    else:
        assert f"<del>{told[0]}</del>" in html
        assert f"<ins>{told[1]}</ins>" in html


def test_texts_are_shown_and_not_run(admin_client, campaign):
    definition = drawing.as_json(campaign.versions.get(number=3))
    drawing.save_draft(
        campaign, {**definition, "steps": [make.sms("<script>alert(1)</script>")]}
    )
    _, versions = pages(campaign)
    html = admin_client.get(versions, {"to": "3"}).content.decode()
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html


def test_the_api_tells_of_versions_and_what_changed(campaign):
    api, here = Api("read"), f"/campaigns/{campaign.pk}/versions"
    listed = api.get(here).json()["results"]
    assert [(one["version"], one["status"]) for one in listed] == [
        (3, "draft"),
        (2, "published"),
        (1, "superseded"),
    ]

    assert api.get(f"{here}/1/diff?to=2").json() == {
        "campaign": campaign.pk,
        "from": 1,
        "to": 2,
        "changes": [
            {
                "what": "text",
                "step": "sms",
                "sentence": "“sms”: the text “Text” changes.",
                "before": "one",
                "after": "two",
            }
        ],
    }
    # Without another one, it is the draft.
    assert api.get(f"{here}/1/diff").json()["to"] == 3
    problem(api.get(f"{here}/9/diff"), 404, "not_found")
    problem(api.get(f"{here}/1/diff?to=9"), 404, "not_found")
    problem(api.get(f"{here}/1/diff?to=x"), 400, "parameter_invalid")


def test_the_examples_are_what_is_answered():
    msgspec.convert(DIFF, CampaignDiff)
    msgspec.convert(VERSION, CampaignVersion)

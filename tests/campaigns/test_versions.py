"""What changes between versions: on the pages of a campaign, and through the API."""

from __future__ import annotations

import msgspec
import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from campaigns import drawing, moving
from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs
from campaigns.models import Move, Run
from campaigns.versions_api import (
    DIFF,
    FORECAST,
    MOVE,
    VERSION,
    CampaignDiff,
    CampaignVersion,
    MoveForecast,
    MoveOut,
)
from tests import make
from tests.campaigns.test_editor import user_who_may
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


# moving runs


@pytest.fixture
def outdated():
    """A campaign at version 2, with three under way on version 1."""
    wait = make.step("pause", "wait", {"for": 2, "unit": "days"}, done="sms")
    campaign = make.campaign(wait, make.sms())
    for _ in range(3):
        make.event(make.reachable(), "Order paid")
    while dispatch_events() + advance_runs():
        pass
    return make.publish_again(campaign)


def move_page(campaign, number=1):
    return reverse("admin:campaigns_campaign_move", args=[campaign.pk, number])


def test_runs_are_moved_after_a_page_that_foretells_it(admin_client, outdated):
    _, versions = pages(outdated)
    here = move_page(outdated)
    assert here in admin_client.get(versions).content.decode()
    assert "3 runs stand at 1 step; 3 can move, all of them." in (
        admin_client.get(here).content.decode()
    )
    assert not Move.objects.exists()

    answer = admin_client.post(here, follow=True)
    assert "are being moved to version 2" in answer.content.decode()
    while moving.move_some():
        pass
    html = admin_client.get(versions).content.decode()
    assert "3 runs of version 1 are on version 2 now, and nobody is left." in html
    assert here not in html
    assert LogEntry.objects.filter(change_message__contains="are being moved").exists()
    run = reverse("admin:campaigns_run_change", args=[Run.objects.all()[0].pk])
    html = admin_client.get(run).content.decode()
    assert "version 1, now on version 2" in html
    assert "Moved from version 1 to version 2 by admin" in html


def test_the_report_page_adds_up_after_a_move(admin_client, outdated):
    moving.order(outdated.versions.get(number=1), by="anna")
    while moving.move_some():
        pass
    page = reverse("admin:campaigns_campaign_report", args=[outdated.pk])
    for version, sum_ in (
        (
            "1",
            "3 entered or moved in = 0 finished + 0 waiting + 0 failed + 3 moved out",
        ),
        (
            "2",
            "3 entered or moved in = 0 finished + 3 waiting + 0 failed + 0 moved out",
        ),
    ):
        assert sum_ in admin_client.get(page, {"version": version}).content.decode()


def test_moving_needs_the_permission_to_publish(client, outdated):
    client.force_login(user_who_may("view", "change"))
    assert client.get(move_page(outdated)).status_code == 403
    assert client.post(move_page(outdated)).status_code == 403
    _, versions = pages(outdated)
    assert move_page(outdated) not in client.get(versions).content.decode()


def test_the_version_at_work_has_nowhere_to_move_to(admin_client, outdated):
    answer = admin_client.get(move_page(outdated, 2), follow=True).content.decode()
    assert "Only runs of an older version can be moved" in answer
    assert admin_client.get(move_page(outdated, 9)).status_code == 404


def test_runs_are_moved_through_the_api(outdated):
    api = Api()
    here = f"/campaigns/{outdated.pk}/versions/1/move"
    foretold = api.get(here).json()
    assert (foretold["runs"], foretold["can_move"], foretold["stay"]) == (3, 3, 0)

    ordered = api.post(here)
    assert ordered.status_code == 202
    problem(api.post(here), 409, "conflict")
    while moving.move_some():
        pass
    done = api.get(f"/campaigns/moves/{ordered.json()['id']}").json()
    assert (done["status"], done["moved"], done["by"]) == ("done", 3, "a key of shop")
    problem(api.get("/campaigns/moves/999"), 404, "not_found")
    problem(api.post(f"/campaigns/{outdated.pk}/versions/2/move"), 409, "conflict")


def test_the_examples_are_what_is_answered():
    msgspec.convert(DIFF, CampaignDiff)
    msgspec.convert(VERSION, CampaignVersion)
    msgspec.convert(FORECAST, MoveForecast)
    msgspec.convert(MOVE, MoveOut)

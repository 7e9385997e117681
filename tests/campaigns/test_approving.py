"""Where the installation wants it, nobody publishes what they have drawn themselves."""

from __future__ import annotations

import msgspec
import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from campaigns import approving, drawing, editing, publish
from campaigns.approving_api import DECIDED, EXAMPLE, PublishRequestOut
from campaigns.models import Campaign, PublishRequest, Version
from smartcomm.core.errors import Conflict, Invalid, Several
from tests import make
from tests.campaigns.test_editor import user_who_may
from tests.client import Api, problem

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def two(settings) -> None:
    settings.PUBLISHING_NEEDS_TWO = True


@pytest.fixture
def anna() -> User:
    return User.objects.create_superuser("anna")


@pytest.fixture
def ben() -> User:
    return User.objects.create_superuser("ben")


def change(campaign: Campaign, user: User, text: str = "Hello") -> Version:
    steps = [make.sms(text)]
    return drawing.save_draft(
        campaign,
        {
            "trigger": {"kind": "event", "event": "Order paid"},
            "start": "sms",
            "steps": steps,
        },
        user=user,
    )


@pytest.fixture
def campaign(anna) -> Campaign:
    found = Campaign.objects.create(name="Paid")
    change(found, anna)
    return found


def status(campaign: Campaign) -> str:
    campaign.refresh_from_db()
    return campaign.status


def test_an_author_is_refused_and_somebody_else_is_not(campaign, anna, ben):
    with pytest.raises(Conflict, match="a second person publishes") as refused:
        publish.publish(campaign, user=anna)
    assert refused.value.code == "second_person_needed"
    with pytest.raises(Conflict):
        publish.publish(campaign)  # Nobody in particular is nobody else.
    assert status(campaign) == "draft"

    publish.publish(campaign, user=ben)
    assert status(campaign) == "published"


def test_everyone_who_has_changed_the_draft_is_an_author(campaign, anna, ben):
    change(campaign, ben, "Hello you")
    for user in (anna, ben):
        with pytest.raises(Conflict):
            publish.publish(campaign, user=user)


def test_saving_it_unchanged_makes_nobody_an_author(campaign, ben):
    change(campaign, ben)
    publish.publish(campaign, user=ben)


def test_what_nobody_is_known_to_have_drawn_anybody_publishes(anna):
    publish.publish(make.draft(), user=anna)


def test_without_the_setting_an_author_publishes(settings, campaign, anna):
    settings.PUBLISHING_NEEDS_TWO = False
    publish.publish(campaign, user=anna)
    change(campaign, anna, "more")
    with pytest.raises(Conflict, match="Nobody needs to be asked"):
        publish.ask(campaign, by="anna")


def test_what_is_asked_for_is_approved_with_a_word(campaign, ben):
    publish.ask(campaign, by="anna")
    publish.approve(campaign, user=ben, word="Fine.")

    [request] = campaign.publish_requests.all()
    assert (request.status, request.asked_by, request.decided_by, request.word) == (
        "approved",
        "anna",
        "ben",
        "Fine.",
    )
    assert request.decided_at > request.asked_at
    assert campaign.versions.get().published_by == ben


def test_nobody_approves_what_they_asked_for_or_drew(campaign, anna, ben):
    publish.ask(campaign, by="ben")
    for user in (anna, ben):
        with pytest.raises(Conflict) as refused:
            publish.approve(campaign, user=user)
        assert refused.value.code == "second_person_needed"
    assert approving.open_request(campaign)


def test_declining_needs_a_word_and_publishes_nothing(campaign):
    publish.ask(campaign, by="anna")
    with pytest.raises(Invalid):
        approving.decline(campaign, by="ben", word=" ")
    approving.decline(campaign, by="ben", word="Not before Monday.")

    assert status(campaign) == "draft"
    with pytest.raises(Conflict, match="Nobody asks"):
        approving.decline(campaign, by="ben", word="again")
    publish.ask(campaign, by="anna")
    assert campaign.publish_requests.count() == 2


def test_who_asked_takes_it_back_without_a_word(client, anna, campaign):
    publish.ask(campaign, by="anna")
    client.force_login(anna)
    here = reverse("admin:campaigns_campaign_publish", args=[campaign.pk])
    client.post(here, {"stamp": drawing_stamp(campaign), "deed": "decline"})
    assert approving.open_request(campaign) is None
    assert "declined it" not in client.get(here).content.decode()


def test_who_asked_is_told_on_the_page_why_not(client, anna, ben, campaign):
    publish.ask(campaign, by="anna")
    here = reverse("admin:campaigns_campaign_publish", args=[campaign.pk])
    form = {"stamp": drawing_stamp(campaign), "deed": "decline"}
    client.force_login(ben)
    refused = client.post(here, form)
    assert "Say why, in up to 1,000 characters." in refused.content.decode()
    assert "Put it right" not in refused.content.decode()
    client.post(here, {**form, "word": "Not before Monday."})
    client.force_login(anna)
    html = client.get(here).content.decode()
    assert "ben declined it" in html
    assert "Not before Monday." in html


def test_a_draft_that_is_changed_makes_the_request_void(campaign, anna, ben):
    publish.ask(campaign, by="anna")
    change(campaign, anna)  # The same as before.
    assert approving.open_request(campaign)

    change(campaign, anna, "Something else")
    request = PublishRequest.objects.get()
    assert (request.status, request.decided_by) == ("void", "anna")
    with pytest.raises(Conflict, match="Nobody asks"):
        publish.approve(campaign, user=ben)
    assert status(campaign) == "draft"


def test_it_is_asked_for_once(campaign):
    publish.ask(campaign, by="anna")
    with pytest.raises(Conflict, match="already"):
        publish.ask(campaign, by="anna")


def test_what_is_not_sound_is_not_asked_for(campaign, anna):
    drawing.save_draft(
        campaign,
        {**drawing.as_json(campaign.versions.get()), "start": "nowhere"},
        user=anna,
    )
    with pytest.raises(Several):
        publish.ask(campaign, by="anna")


# on the page


def test_on_the_page_one_asks_and_another_approves(client, anna, ben, campaign):
    here = reverse("admin:campaigns_campaign_publish", args=[campaign.pk])
    stamp = drawing_stamp(campaign)
    client.force_login(anna)
    html = client.get(here).content.decode()
    assert "Ask for publishing version 1" in html
    assert "Publish version 1<" not in html
    assert client.post(here, {"stamp": stamp}).status_code == 409
    client.post(here, {"stamp": stamp, "deed": "ask"})
    html = client.get(here).content.decode()
    assert "It waits for somebody else" in html
    assert 'value="approve"' not in html

    client.force_login(ben)
    html = client.get(here).content.decode()
    assert "anna asks to publish version 1" in html
    assert client.post(here, {"stamp": stamp, "deed": "decline"}).status_code == 409
    client.post(here, {"stamp": stamp, "deed": "approve", "word": "Fine."})
    assert status(campaign) == "published"
    versions = reverse("admin:campaigns_campaign_versions", args=[campaign.pk])
    html = client.get(versions).content.decode()
    assert "Version 1: approved by ben" in html
    assert "Version 1 is approved and published." in html


def test_a_second_person_needs_the_permission(client, campaign):
    publish.ask(campaign, by="anna")
    client.force_login(user_who_may("view", "change"))
    here = reverse("admin:campaigns_campaign_publish", args=[campaign.pk])
    answer = client.post(here, {"stamp": drawing_stamp(campaign), "deed": "approve"})
    assert answer.status_code == 403
    assert status(campaign) == "draft"


def test_a_discarded_draft_makes_the_request_void(client, anna, ben, campaign):
    publish.publish(campaign, user=ben)
    change(campaign, anna, "more")
    publish.ask(campaign, by="anna")
    client.force_login(anna)
    versions = reverse("admin:campaigns_campaign_versions", args=[campaign.pk])
    told = {"deed": "discard", "version": "2"}
    asked = client.post(versions, told).content.decode()
    assert "Nobody is asked any more to publish it." in asked
    client.post(versions, {**told, "sure": drawing_stamp(campaign)})
    assert PublishRequest.objects.get().status == "void"


def drawing_stamp(campaign: Campaign) -> str:
    return editing.stamp(drawing.as_json(campaign.versions.get(status="draft")))


# through the API


def test_keys_of_two_sources_are_two_persons():
    shop, erp = Api(source="Shop"), Api(source="ERP")
    steps = [make.sms()]
    made = shop.post(
        "/campaigns",
        {
            "name": "Paid",
            "trigger": {"kind": "event", "event": "Order paid"},
            "start": "sms",
            "steps": steps,
        },
    ).json()
    here = f"/campaigns/{made['id']}"
    problem(shop.post(f"{here}/publish"), 409, "second_person_needed")
    asked = shop.post(f"{here}/publish-requests")
    assert asked.status_code == 201
    assert asked.json()["asked_by"] == "a key of Shop"
    decision = f"{here}/publish-requests/decision"
    problem(shop.post(decision, {"approve": True}), 409, "second_person_needed")
    problem(erp.post(decision, {"approve": False}), 422, "invalid")

    said = erp.post(decision, {"approve": True, "word": "Fine."}).json()
    assert (said["status"], said["decided_by"]) == ("approved", "a key of ERP")
    assert erp.get(here).json()["status"] == "published"
    assert erp.get(f"{here}/publish-requests").json()["results"] == [said]


def test_the_examples_are_what_is_answered():
    msgspec.convert(EXAMPLE, PublishRequestOut)
    msgspec.convert(DECIDED, PublishRequestOut)

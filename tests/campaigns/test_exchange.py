"""Campaigns as files: out of here, and in again, here or elsewhere."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.urls import reverse

from campaigns import exchange
from campaigns.drawing import as_json
from campaigns.models import Campaign
from segments.models import Segment
from smartcomm.core.errors import Conflict, Invalid, Several
from tests import make
from tests.client import Api

pytestmark = pytest.mark.django_db


@pytest.fixture
def campaign():
    """One that speaks of segments in its trigger, a filter and a list."""
    vip = make.segment("VIP", rule={"attribute": "city", "op": "=", "value": "Paris"})
    guests = make.segment("Guests")
    return make.draft(
        make.step(
            "who",
            "filter_customers",
            {"rule": {"all": [{"segment": vip.pk}, {"not": {"segment": guests.pk}}]}},
            positive="add",
            negative=None,
        ),
        make.step("add", "add_to_list", {"segment": guests.pk}, done=None),
        on="segment.entered",
        where=[{"field": "segment", "op": "=", "value": vip.pk}],
        name="Welcome",
    )


def elsewhere():
    """The same segments, under other numbers."""
    for segment in list(Segment.objects.order_by("pk")):
        name, rule = segment.name, segment.rule
        Segment.objects.filter(pk=segment.pk).update(name=f"old {name}")
        make.segment(name, rule=rule)


def test_it_comes_in_as_it_went_out(campaign):
    told = exchange.export(campaign)
    again = exchange.read(json.loads(json.dumps(told)), name="Welcome 2")

    assert again.status == "draft"
    assert as_json(again.versions.get()) == as_json(campaign.versions.get())
    assert exchange.export(again) == {**told, "name": "Welcome 2"}


def test_a_pace_goes_out_and_comes_in():
    pace = {"limit": 500, "per": "hour", "first": "oldest_customer", "stop_after": 9}
    campaign = make.draft(on="Shop opened", system=True, pace=pace)
    told = exchange.export(campaign)
    again = exchange.read(json.loads(json.dumps(told)), name="Again")

    assert told["pace"] == pace
    assert exchange.export(again) == {**told, "name": "Again"}


def test_elsewhere_segments_are_found_by_their_names(campaign):
    told = exchange.export(campaign)
    elsewhere()
    again = exchange.read(told, name="Welcome 2")

    here = dict(Segment.objects.values_list("name", "pk"))
    drawing = as_json(again.versions.get())
    assert drawing["trigger"]["where"][0]["value"] == here["VIP"]
    asked = drawing["steps"][0]["config"]["rule"]["all"]
    assert asked == [{"segment": here["VIP"]}, {"not": {"segment": here["Guests"]}}]
    assert drawing["steps"][1]["config"] == {"segment": here["Guests"]}


def test_elsewhere_a_number_is_a_segment_only_where_it_means_one(campaign):
    [vip, guests] = Segment.objects.order_by("pk")
    about = [{"field": "segment", "op": "in", "value": [vip.pk, guests.pk]}]
    says = {"segment": vip.pk}
    url = "https://erp.example.com/"
    waits = {"event": "segment.left", "where": about, "for": 1, "unit": "days"}
    rule = {"event": "segment.left", "where": about}
    other = make.draft(
        make.step("wait", "wait_for_event", waits, happened="who"),
        make.step("who", "filter_customers", {"rule": rule}, positive="note"),
        make.step("note", "record_event", {"event": "Seen", "context": says}, done="t"),
        make.step("t", "call_webhook", {"url": url, "body": says}),
        name="Farewell",
    )
    told = exchange.export(other)
    assert set(told["segments"].values()) == {"VIP", "Guests"}
    elsewhere()
    again = as_json(exchange.read(told, name="Farewell 2").versions.get())

    here = dict(Segment.objects.values_list("name", "pk"))
    wait, who, note, call = (step["config"] for step in again["steps"])
    asked = [here["VIP"], here["Guests"]]
    assert wait["where"][0]["value"] == who["rule"]["where"][0]["value"] == asked
    assert note["context"] == call["body"] == says


def test_a_number_without_a_name_is_refused_and_no_other_segment_is_taken(campaign):
    told = exchange.export(campaign)
    told["segments"].popitem()
    with pytest.raises(Invalid, match="does not say what it is called"):
        exchange.read(told, name="Welcome 2")


def test_a_segment_that_is_not_here_is_named(campaign):
    told = exchange.export(campaign)
    Segment.objects.filter(name="VIP").update(name="Other")
    with pytest.raises(Invalid, match="speaks of “VIP”, which is not here"):
        exchange.read(told, name="Welcome 2")
    assert Campaign.objects.count() == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": "x"}, Invalid, "This is no campaign"),
        ({"colour": "red"}, Invalid, "“colour” is not understood"),
        ({"name": ""}, Invalid, "has no name"),
        ({"name": 5}, Invalid, "“name” is a text"),
        ({"name": "x" * 151}, Invalid, "“name” is a text"),
        ({"segments": []}, Invalid, "“segments” is an object"),
        ({"segments": {"x": "y"}}, Invalid, "“segments” is an object"),
        ({"segments": {"9" * 5_000: "y"}}, Invalid, "“segments” is an object"),
        ({"segments": {"9": "\x00"}}, Invalid, "“segments.9” is a text"),
        ({"segments": {"9": 9}}, Invalid, "“segments.9” is a text"),
        ({"steps": json.loads("[" * 600 + "]" * 600)}, Invalid, "nested more than"),
        ({"steps": "none", "name": "Other"}, Several, "“steps” is a list"),
        ({}, Conflict, "There is a campaign “Welcome” already"),
    ],
)
def test_what_is_no_campaign_is_refused_and_nothing_is_made(
    campaign, change, error, message
):
    told = {**exchange.export(campaign), **change}
    with pytest.raises(error) as info:
        exchange.read(told)
    assert message in str(getattr(info.value, "errors", [info.value]))
    assert Campaign.objects.count() == 1


def test_commands_write_files_and_read_them(campaign, tmp_path):
    out = StringIO()
    call_command("export_campaigns", tmp_path / "all", stdout=out)
    [path] = (tmp_path / "all").iterdir()
    assert str(path) in out.getvalue()
    assert path.name == f"{campaign.pk}-welcome.json"
    Campaign.objects.update(name="Before")

    broken = tmp_path / "broken.json"
    broken.write_text("{")
    err = StringIO()
    with pytest.raises(CommandError, match="2 of 3 files"):
        call_command(
            *("import_campaigns", broken, path, tmp_path / "none.json"),
            stdout=out,
            stderr=err,
        )
    assert Campaign.objects.filter(name="Welcome").exists()
    assert "broken.json" in err.getvalue()
    assert "It cannot be read" in err.getvalue()


def test_the_admin_offers_both(admin_client, campaign):
    page = reverse("admin:campaigns_campaign_export", args=[campaign.pk])
    file = admin_client.get(page)
    assert file["Content-Disposition"] == 'attachment; filename="welcome.json"'
    versions = reverse("admin:campaigns_campaign_versions", args=[campaign.pk])
    assert page in admin_client.get(versions).content.decode()

    def send(content, **more):
        upload = SimpleUploadedFile("welcome.json", content)
        return admin_client.post(
            reverse("admin:campaigns_campaign_import"),
            {"file": upload, **more},
            follow=True,
        ).content.decode()

    assert "There is a campaign “Welcome” already" in send(file.content)
    assert "“Welcome 2” is a draft now" in send(file.content, name="Welcome 2")
    assert "This is no file of a campaign: it is not JSON." in send(b"{")
    assert Campaign.objects.count() == 2


def test_the_api_offers_both(campaign):
    api = Api()
    told = api.get(f"/campaigns/{campaign.pk}/export").json()
    assert told == exchange.export(campaign)
    assert api.post("/campaigns/import", told).status_code == 409
    made = api.post("/campaigns/import", {**told, "name": "Welcome 2"})
    assert made.status_code == 201
    assert made.json()["name"] == "Welcome 2"

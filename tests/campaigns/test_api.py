"""Campaigns through the API: drawn, published, paused, reported."""

from __future__ import annotations

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from campaigns.api import CAMPAIGN, CampaignOut
from campaigns.dispatch import dispatch_events
from campaigns.models import Campaign, Version
from campaigns.report_api import REPORT, ReportOut
from campaigns.why import Why
from campaigns.why_api import WHY
from events.models import EventType
from messaging.models import Message
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

SMS = {
    "key": "sms",
    "action": "send_sms",
    "config": {"text": "Thank you, {{ client.firstName }}", "missing": "skip"},
    "next": {"sent": None},
}
THANKS = {
    "name": "Thanks for calling",
    "trigger": {"kind": "event", "event": "Call received"},
    "entry": {"rule": "every_event"},
    "start": "sms",
    "steps": [SMS],
}


@pytest.fixture
def api() -> Api:
    return Api()


def draw(api: Api, **more) -> dict:
    response = api.post("/campaigns", THANKS | more)
    assert response.status_code == 201, response.content
    return response.json()


def act(api: Api, campaign: dict, deed: str) -> dict:
    response = api.post(f"/campaigns/{campaign['id']}/{deed}", {})
    assert response.status_code == 200, response.content
    return response.json()


def test_a_campaign_is_created_from_json_as_a_draft(api):
    response = api.post("/campaigns", THANKS)

    assert response.status_code == 201
    answer = response.json()
    assert answer["name"] == "Thanks for calling"
    assert (answer["status"], answer["version"]) == ("draft", 1)
    assert answer["published_version"] is None
    assert answer["trigger"] == {
        "kind": "event",
        "event": "Call received",
        "where": [],
        "max_age_hours": 72,
    }
    assert answer["entry"] == {"rule": "every_event"}
    assert answer["start"] == "sms"
    assert [step["key"] for step in answer["steps"]] == ["sms"]
    assert answer["steps"][0]["next"] == {"sent": None}
    assert api.get(response["Location"]).json() == answer
    assert not EventType.objects.exists()


def test_what_is_shown_may_be_sent_back(api):
    drawn = draw(api)

    response = api.put(f"/campaigns/{drawn['id']}", drawn)

    assert response.status_code == 200
    answer = response.json()
    assert {k: v for k, v in answer.items() if k != "updated_at"} == {
        k: v for k, v in drawn.items() if k != "updated_at"
    }


def test_everything_that_is_not_understood_is_told_at_once_with_its_place(api):
    body = THANKS | {
        "trigger": {"kind": "weather", "event": "Rain"},
        "steps": [{**SMS, "action": "send_pigeon"}],
        "colour": "red",
    }

    told = problem(api.post("/campaigns", body), 422, "invalid")

    fields = {error["field"] for error in told["errors"]}
    assert {"trigger.kind", "steps.0.action", "colour"} <= fields
    assert not Campaign.objects.exists()


@pytest.mark.parametrize("name", [None, "", "  ", 5, "x" * 151, "\x00"])
def test_a_campaign_needs_a_name(api, name):
    response = api.post("/campaigns", THANKS | {"name": name})

    told = problem(response, 422, "invalid")
    assert told["errors"][0]["field"] == "name"
    assert not Campaign.objects.exists()


def test_two_campaigns_have_two_names(api):
    draw(api)
    other = draw(api, name="Other")

    problem(api.post("/campaigns", THANKS), 409, "name_taken")
    problem(api.put(f"/campaigns/{other['id']}", THANKS), 409, "name_taken")


def test_publishing_puts_it_to_work_and_tells_what_should_be_known(api):
    drawn = draw(api)

    answer = act(api, drawn, "publish")

    assert (answer["status"], answer["published_version"]) == ("published", 1)
    assert any("Call received" in warning for warning in answer["warnings"])
    assert EventType.objects.get(name="Call received").is_awaited


def test_a_drawing_that_is_not_sound_is_not_published(api):
    drawn = draw(api, steps=[{**SMS, "next": {"sent": "nowhere"}}])

    response = api.post(f"/campaigns/{drawn['id']}/publish", {})

    told = problem(response, 422, "invalid")
    assert told["errors"]
    assert Campaign.objects.get().status == "draft"


def test_what_is_published_stays_at_work_while_it_is_drawn_anew(api):
    drawn = draw(api)
    act(api, drawn, "publish")
    new = {**SMS, "config": {"text": "Thanks!", "missing": "skip"}}

    answer = api.put(f"/campaigns/{drawn['id']}", THANKS | {"steps": [new]}).json()

    assert (answer["version"], answer["published_version"]) == (2, 1)
    assert answer["steps"][0]["config"]["text"] == "Thanks!"
    at_work = Version.objects.get(status="published").steps.get()
    assert at_work.config["text"] == SMS["config"]["text"]


def test_a_campaign_is_paused_resumed_and_archived(api):
    drawn = draw(api)
    act(api, drawn, "publish")

    assert act(api, drawn, "pause")["status"] == "paused"
    assert act(api, drawn, "resume")["status"] == "published"
    assert act(api, drawn, "archive")["status"] == "archived"
    for deed in ("pause", "resume", "archive", "publish"):
        problem(api.post(f"/campaigns/{drawn['id']}/{deed}"), 409, "conflict")
    problem(api.put(f"/campaigns/{drawn['id']}", THANKS), 409, "conflict")


def test_a_deed_needs_no_body(api):
    drawn = draw(api)

    assert api.post(f"/campaigns/{drawn['id']}/publish").status_code == 200


def test_campaigns_are_listed_newest_first(api):
    first, second = draw(api), draw(api, name="Second")
    act(api, first, "publish")

    answer = api.get("/campaigns").json()

    assert [(c["id"], c["status"]) for c in answer["results"]] == [
        (second["id"], "draft"),
        (first["id"], "published"),
    ]
    assert "steps" not in answer["results"][0]


def test_a_longer_list_costs_no_more_queries(api):
    costs = []
    for number in (1, 5):
        for one in range(number):
            draw(api, name=f"Campaign {number} {one}")
        with CaptureQueriesContext(connection) as spent:
            api.get("/campaigns")
        costs.append(len(spent))

    assert costs[0] == costs[1]


def test_a_report_adds_up(api):
    drawn = draw(api)
    act(api, drawn, "publish")
    make.reachable("C-1", first_name="Anna")
    make.customer("C-2")
    for customer in ("C-1", "C-2"):
        api.post("/events", {"name": "Call received", "customer": customer})

    from campaigns.dispatch import dispatch_events
    from campaigns.engine import advance_runs
    from messaging.send import send_messages

    dispatch_events()
    advance_runs()
    send_messages()
    advance_runs()
    answer = api.get(f"/campaigns/{drawn['id']}/report").json()

    # Just what the schema says, no more and no less.
    msgspec.convert(answer, ReportOut)
    [version] = answer["versions"]
    assert version["entered"] == 2
    assert version["entered"] == (
        version["finished"] + version["waiting"] + version["failed"]
    )
    told = version["messages"]
    assert told["queued"] == 2
    assert told["queued"] == (
        told["sent"]
        + told["failed"]
        + sum(told["suppressed"].values())
        + told["pending"]
        + told["unknown"]
    )
    [step] = version["steps"]
    assert (step["key"], step["in"]) == ("sms", 2)
    assert Message.objects.count() == 2


def test_the_examples_of_the_schema_have_its_shape():
    msgspec.convert(REPORT, ReportOut)
    msgspec.convert(CAMPAIGN, CampaignOut)


def test_a_report_tells_of_the_versions_that_were_superseded_too(api):
    campaign = f"/campaigns/{draw(api)['id']}"
    api.post(f"{campaign}/publish")
    api.put(campaign, THANKS)
    api.post(f"{campaign}/publish")

    versions = api.get(f"{campaign}/report").json()["versions"]

    assert [(one["version"], one["status"]) for one in versions] == [
        (2, "published"),
        (1, "superseded"),
    ]


def test_a_report_of_what_was_never_published_is_empty(api):
    drawn = draw(api)

    response = api.get(f"/campaigns/{drawn['id']}/report")

    assert response.status_code == 200
    assert response.json()["versions"] == []


def test_what_does_not_exist_is_told_so(api):
    for method, path in [
        ("GET", ""),
        ("PUT", ""),
        ("GET", "/report"),
        ("POST", "/publish"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/archive"),
    ]:
        response = api.call(method, f"/campaigns/404{path}", THANKS)
        problem(response, 404, "not_found")


# Why


def test_why_is_answered_for_a_customer_and_an_event():
    anna = make.customer("C-1001")
    where = [{"field": "price", "op": ">", "value": 50}]
    campaign = make.campaign(on="Order paid", where=where)
    make.event(anna, "Order paid", id="o-1", price=49.9)
    make.event(anna, "Order paid", id="o-2", price=70)
    dispatch_events()
    api = Api("read")

    told = api.get(f"/campaigns/{campaign.pk}/why?customer=C-1001&event=o-1").json()

    assert (told["customer"], told["campaign"]) == ("C-1001", campaign.pk)
    answer = told["answer"]
    assert (answer["event"]["id"], answer["outcome"]) == ("o-1", "not_started")
    [reason] = answer["reasons"]
    assert (reason["because"], reason["stored"]) == ("condition_false", False)
    assert answer["conditions"][0]["value"] == 49.9
    assert (told["others"], told["next"]) == ([], None)
    newest = api.get(f"/campaigns/{campaign.pk}/why?customer=C-1001").json()
    assert newest["answer"]["event"]["id"] == "o-2"
    assert newest["answer"]["run"]["stops"][0]["step"] == "sms"
    assert [line["event"] for line in newest["others"]] == ["o-1"]


def test_why_goes_on_where_the_last_page_ended():
    anna = make.customer("C-1001")
    campaign = make.campaign(on="Order paid")
    for i in range(25):
        make.event(anna, "Order paid", id=f"o-{i}")
    api = Api("read")

    first = api.get(f"/campaigns/{campaign.pk}/why?customer=C-1001").json()
    second = api.get(first["next"]).json()

    assert len(first["others"]) == 19
    assert [
        second["answer"]["event"]["id"],
        *(one["event"] for one in second["others"]),
    ] == [
        "o-4",
        "o-3",
        "o-2",
        "o-1",
        "o-0",
    ]
    assert second["next"] is None


def test_why_needs_a_customer_and_a_campaign_that_exist():
    campaign = make.campaign()
    api = Api("read")
    address = f"/campaigns/{campaign.pk}/why"

    problem(api.get(address), 400, "parameter_invalid")
    problem(api.get(f"{address}?customer=nobody"), 404, "not_found")
    problem(api.get("/campaigns/0/why?customer=nobody"), 404, "not_found")
    make.customer("C-1")
    problem(api.get(f"{address}?customer=C-1&cursor=x"), 400, "parameter_invalid")
    assert api.get(f"{address}?customer=C-1").json()["answer"]["event"] is None


def test_the_example_of_why_is_such_an_answer():
    told = msgspec.convert(WHY, Why)

    assert msgspec.to_builtins(told)["answer"].keys() == WHY["answer"].keys()

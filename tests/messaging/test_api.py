"""Messages through the API: what was sent, to whom, and why not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from messaging.models import Content, Message
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def api() -> Api:
    return Api("read")


def message(customer, **more) -> Message:
    channel = more.setdefault("channel", "email")
    return Message.objects.create(
        customer=customer,
        content=Content.objects.create(channel=channel),
        due_at=NOW,
        expires_at=NOW,
        created_at=NOW,
        **more,
    )


def found(api: Api, query: str = "") -> list[int]:
    response = api.get(f"/messages{query}")
    assert response.status_code == 200, response.content
    return [row["id"] for row in response.json()["results"]]


def test_a_message_shows_its_text_and_what_became_of_it(api):
    sent = message(
        make.customer("C-1"),
        status="sent",
        subject="Bag is back",
        body="Dear Anna",
        html="<p>Bag &lt;new&gt;</p>",
        campaign_id=7,
        run_id=9,
        step="mail",
        sent_at=NOW,
    )

    shown = {
        "id": sent.pk,
        "customer": "C-1",
        "channel": "email",
        "status": "sent",
        "reason": None,
        "detail": None,
        "subject": "Bag is back",
        "body": "Dear Anna",
        "html": "<p>Bag &lt;new&gt;</p>",
        "campaign": 7,
        "step": "mail",
        "created_at": "2026-11-20T12:00:00Z",
        "sent_at": "2026-11-20T12:00:00Z",
    }
    assert api.get(f"/messages/{sent.pk}").json() == shown
    assert api.get("/messages").json() == {"results": [shown], "next": None}
    assert api.get("/customers/C-1/messages").json()["results"] == [shown]


def test_a_suppressed_message_tells_the_reason(api):
    kept_back = message(
        make.customer(),
        channel="push",
        status="suppressed",
        reason="missing_variable",
        detail="The event has no “agent”.",
    )

    shown = api.get(f"/messages/{kept_back.pk}").json()

    assert shown["status"] == "suppressed"
    assert shown["reason"] == "missing_variable"
    assert shown["detail"] == "The event has no “agent”."
    assert (shown["subject"], shown["body"], shown["sent_at"]) == (None, None, None)


def test_messages_are_listed_newest_first_and_narrowed(api):
    anna, bob = make.customer("A ü"), make.customer("B")
    first = message(anna, campaign_id=1, status="sent").pk
    second = message(anna, campaign_id=2, channel="sms", status="failed").pk
    third = message(bob, campaign_id=1, channel="sms", status="queued").pk

    assert found(api) == [third, second, first]
    assert found(api, "?campaign=1") == [third, first]
    assert found(api, "?channel=sms") == [third, second]
    assert found(api, "?customer=A%20%C3%BC") == [second, first]
    assert found(api, "?status=sent") == [first]
    assert found(api, "?status=sent&status=failed") == [second, first]
    assert found(api, "?campaign=1&channel=sms&status=queued&customer=B") == [third]
    assert found(api, "?customer=nobody") == []
    assert found(api, "?campaign=404") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("channel=pigeon", "channel"),
        ("status=lost", "status"),
        ("campaign=summer", "campaign"),
        ("campaign=None", "campaign"),
        ("campaign=1.5", "campaign"),
        ("campaign=1e400", "campaign"),
        ("campaign=99999999999999999999999", "campaign"),
        ("customer=%00", "customer"),
        ("customer=", "customer"),
        ("channel=", "channel"),
        ("status=sent&status=", "status"),
        ("run=1", "run"),
    ],
)
def test_a_filter_that_is_not_understood_is_refused_by_name(api, query, field):
    told = problem(api.get(f"/messages?{query}"), 400, "parameter_invalid")

    assert told["errors"][0]["field"] == field
    assert told["errors"][0]["message"]


def test_a_list_of_messages_is_told_page_by_page(api):
    anna = make.customer("A")
    made = [message(anna, campaign_id=1).pk for _ in range(5)]

    seen, path = [], "/messages?campaign=1&limit=2"
    while path:
        answer = api.get(path).json()
        seen += [row["id"] for row in answer["results"]]
        path = answer["next"]

    assert seen == made[::-1]


@pytest.mark.parametrize("path", ["/messages", "/customers/A/messages"])
def test_a_longer_list_costs_no_more_queries(api, path):
    anna = make.customer("A")
    api.get(path)
    costs = []
    for number in (1, 10):
        for _ in range(number):
            message(anna)
        with CaptureQueriesContext(connection) as spent:
            api.get(path)
        costs.append(len(spent))

    assert costs[0] == costs[1]


def test_what_does_not_exist_is_told_so(api):
    problem(api.get("/messages/404"), 404, "not_found")
    problem(api.get("/customers/404/messages"), 404, "not_found")
    problem(api.get("/messages/99999999999999999999999"), 404, "not_found")

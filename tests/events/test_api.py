"""The API's door for events, over HTTP."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from events.models import Event, EventType, Kind, RejectedEvent, SystemEvent
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db


@pytest.fixture
def api() -> Api:
    return Api()


def event(number: int = 1, **more):
    return {"id": f"e-{number}", "name": "Order paid", "customer": "C-1", **more}


def test_one_event_is_accepted_and_stored(api):
    response = api.post(
        "/events",
        event(
            occurred_at="2026-01-20T10:15:00+03:00",
            context={"name": "Bag", "product_id": 77, "price": 49.9},
        ),
    )

    assert response.status_code == 202
    assert response.json() == {
        "accepted": 1,
        "duplicates": 0,
        "rejected": 0,
        "results": [{"index": 0, "id": "e-1", "status": "accepted"}],
    }
    stored = Event.objects.get()
    assert stored.customer.external_id == "C-1"
    assert stored.source.name == "shop"
    assert stored.context == {"name": "Bag", "product_id": 77, "price": 49.9}


def test_an_event_sent_again_is_a_duplicate(api):
    api.post("/events", {"events": [event(1), event(2)]})

    response = api.post("/events", {"events": [event(1), event(2)]})

    assert response.status_code == 202
    answer = response.json()
    assert (answer["accepted"], answer["duplicates"], answer["rejected"]) == (0, 2, 0)
    assert Event.objects.count() == 2


def test_another_source_has_ids_of_its_own(api):
    api.post("/events", event())

    Api(source="call centre").post("/events", event())

    assert Event.objects.count() == 2


def test_without_an_id_the_answer_tells_the_one_that_was_made(api):
    response = api.post("/events", {"name": "Order paid", "customer": "C-1"})

    made = response.json()["results"][0]["id"]
    assert Event.objects.get().external_id == made


def test_a_bad_item_is_told_apart_and_kept(api):
    response = api.post(
        "/events", {"events": [event(1), event(2, context={"price-eur": 1}), event(3)]}
    )

    assert response.status_code == 202
    answer = response.json()
    assert (answer["accepted"], answer["rejected"]) == (2, 1)
    bad = answer["results"][1]
    assert (bad["index"], bad["id"], bad["status"]) == (1, "e-2", "rejected")
    assert bad["code"] == "field_code_invalid"
    assert bad["field"] == "context.price-eur"
    assert "price-eur" in bad["message"]
    kept = RejectedEvent.objects.get()
    assert json.loads(kept.payload)["id"] == "e-2"


def test_when_every_item_is_rejected_the_status_says_so_and_the_body_is_the_same(api):
    response = api.post("/events", {"events": [event(name=""), event(name=None)]})

    assert response.status_code == 422
    assert response["Content-Type"] == "application/json"
    assert response.json()["rejected"] == 2
    assert [r["status"] for r in response.json()["results"]] == ["rejected"] * 2
    assert RejectedEvent.objects.count() == 2


def test_a_duplicate_and_a_rejected_item_are_not_all_rejected(api):
    api.post("/events", event(1))

    response = api.post("/events", {"events": [event(1), event(2, name="")]})

    assert response.status_code == 202


def test_a_thousand_events_are_taken_at_once_and_no_more(api):
    thousand = [event(number) for number in range(1_000)]

    assert api.post("/events", {"events": thousand}).json()["accepted"] == 1_000
    response = api.post("/events", {"events": [*thousand, event(1_001)]})

    told = problem(response, 413, "too_many_items")
    assert "1,000" in told["detail"]
    assert Event.objects.count() == 1_000


def test_no_events_are_no_error(api):
    response = api.post("/events", {"events": []})

    assert response.status_code == 202
    assert response.json()["results"] == []


@pytest.mark.parametrize("events", [None, {}, "x", 5])
def test_events_that_are_no_list_are_refused(api, events):
    told = problem(api.post("/events", {"events": events}), 422, "not_a_list")

    assert told["errors"][0]["field"] == "events"


def test_what_stands_beside_the_list_is_refused_by_name(api):
    told = problem(
        api.post("/events", {"events": [], "source": "till"}), 422, "key_unknown"
    )

    assert told["errors"][0]["field"] == "source"


def test_a_system_event_belongs_to_no_customer(api):
    item = {"id": "s-1", "name": "Product in stock", "context": {"product_id": 77}}

    first = api.post("/system-events", item)
    again = api.post("/system-events", {"events": [item]})

    assert (first.status_code, first.json()["accepted"]) == (202, 1)
    assert (again.status_code, again.json()["duplicates"]) == (202, 1)
    assert SystemEvent.objects.get().context == {"product_id": 77}
    refused = api.post("/system-events", item | {"id": "s-2", "customer": "C-1"})
    assert refused.status_code == 422
    assert SystemEvent.objects.count() == 1


def test_a_bigger_batch_costs_no_more_queries(api):
    api.post("/events", event(0, context={"price": 1}))
    costs = []
    for size in (1, 50):
        batch = [
            event(f"{size}-{n}", customer=f"C-{n}", context={"price": n})
            for n in range(size)
        ]
        with CaptureQueriesContext(connection) as spent:
            assert api.post("/events", {"events": batch}).json()["rejected"] == 0
        costs.append(len(spent))

    assert costs[1] <= costs[0] + 2  # Customers that are new.


# History


def test_a_history_shows_own_and_system_events_newest_first(api):
    now = timezone.now()
    anna = make.customer("C-1", created_at=now)
    make.event(anna, "Order paid", id="o-1", at=now - timedelta(days=3), price=10)
    make.event(anna, "Order paid", at=now - timedelta(days=1), price=20)
    make.system_event("Product in stock", at=now - timedelta(days=2), product_id=77)
    make.event(make.customer(), "Order paid")

    answer = api.get("/customers/C-1/events").json()

    assert [e["name"] for e in answer["results"]] == [
        "Order paid",
        "Product in stock",
        "Order paid",
    ]
    assert [e["kind"] for e in answer["results"]] == ["customer", "system", "customer"]
    oldest = answer["results"][2]
    assert oldest.keys() == {
        "id",
        "name",
        "kind",
        "occurred_at",
        "received_at",
        "source",
        "context",
        "backfill",
    }
    assert (oldest["id"], oldest["source"]) == ("o-1", "shop")
    assert oldest["context"] == {"price": 10}
    assert oldest["occurred_at"].endswith("Z")


def test_a_history_is_told_page_by_page(api):
    now = timezone.now()
    anna = make.customer("C/1 ü")
    for hours in range(5):
        make.event(anna, "Order paid", at=now - timedelta(hours=hours), hours=hours)

    seen, path = [], "/customers/C%2F1%20%C3%BC/events?limit=2&name=Order%20paid"
    while path:
        answer = api.get(path).json()
        seen += [item["context"]["hours"] for item in answer["results"]]
        path = answer["next"]

    assert seen == [0, 1, 2, 3, 4]


def test_a_history_is_narrowed_by_name_period_and_text(api):
    now = timezone.now()
    anna = make.customer("C-1")
    make.event(anna, "Order paid", at=now - timedelta(days=2), item="Bag")
    make.event(anna, "Call received", at=now - timedelta(days=1), topic="returns")
    day = (now - timedelta(days=1, hours=1)).isoformat()

    def names(**query) -> list[str]:
        response = api.client.get(
            "/api/v1/customers/C-1/events",
            query,
            headers={"Authorization": f"Bearer {api.key}"},
        )
        assert response.status_code == 200, response.content
        return [item["name"] for item in response.json()["results"]]

    assert names(name="Order paid") == ["Order paid"]
    assert names(name="Order Paid") == []
    assert names(since=day) == ["Call received"]
    assert names(until=day) == ["Order paid"]
    assert names(text="bag") == ["Order paid"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("since=yesterday", "since"),
        ("since=", "since"),
        ("until=2026-01-01T10:00:00", "until"),
        ("since=0001-01-01T00:00:00%2B05:00", "since"),
        ("cursor=nonsense", "cursor"),
        ("limit=0", "limit"),
        ("name=%00", "name"),
        ("nmae=Order", "nmae"),
    ],
)
def test_a_filter_that_is_not_understood_is_refused(api, query, field):
    make.customer("C-1")

    told = problem(api.get(f"/customers/C-1/events?{query}"), 400, "parameter_invalid")

    assert told["errors"][0]["field"] == field


def test_the_history_of_nobody_does_not_exist(api):
    problem(api.get("/customers/C-404/events"), 404, "not_found")
    problem(api.get("/customers/%00/events"), 404, "not_found")


# Event types


def test_event_types_tell_what_can_happen_and_its_fields(api):
    make.event(make.customer(), "Order paid", price=10, item="Bag", gift=True)
    make.event_type("Product in stock", Kind.SYSTEM, is_reviewed=True, is_awaited=True)

    answer = api.get("/event-types").json()

    assert answer["next"] is None
    first, second = answer["results"]
    assert (first["name"], first["kind"], first["mode"]) == (
        "Order paid",
        "customer",
        "open",
    )
    assert (first["reviewed"], first["awaited"]) == (False, False)
    assert {field["code"]: field["type"] for field in first["fields"]} == {
        "price": "number",
        "item": "string",
        "gift": "boolean",
    }
    assert (second["kind"], second["reviewed"], second["awaited"]) == (
        "system",
        True,
        True,
    )
    assert EventType.objects.count() == 2

"""The registry through the API: types are read, declared and changed by programs."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from events.models import Drift, Event, EventField, EventType, Kind
from tests import make
from tests.client import Api, problem
from tests.events.test_schema import NOON, TODAY, a_type

pytestmark = pytest.mark.django_db


@pytest.fixture
def api() -> Api:
    return Api()


def drift(order: EventType, code: str, what: str = "new_field") -> Drift:
    return Drift.objects.create(
        type=order,
        code=code,
        what=what,
        found_type="string",
        event_id="1",
        first_seen_at=NOON,
        last_seen_at=NOON,
    )


def test_a_type_is_declared_before_its_first_event(api):
    answer = api.post(
        "/event-types",
        {
            "name": "Order paid",
            "mode": "enforced",
            "fields": [
                {"code": "price", "type": "number", "required": True, "label": "Price"},
                {"code": "shop.city", "type": "string"},
            ],
        },
    )

    assert answer.status_code == 201
    told = answer.json()
    assert answer["Location"].endswith(f"/api/v1/event-types/{told['id']}")
    assert api.get(answer["Location"]).json() == told
    assert (told["kind"], told["mode"], told["reviewed"]) == (
        "customer",
        "enforced",
        True,
    )
    assert (told["last_seen"], told["changes"]) == (None, 0)
    assert [(one["code"], one["type"], one["required"]) for one in told["fields"]] == [
        ("price", "number", True),
        ("shop", "object", False),
        ("shop.city", "string", False),
    ]
    # And the door knows it.
    item = {"name": "Order paid", "customer": "C-1", "context": {"colour": "red"}}
    assert api.post("/events", item).json()["results"][0]["code"] == "field_unknown"
    assert not Event.objects.exists()


def test_a_name_is_declared_once(api):
    make.event_type("Order paid", Kind.SYSTEM)

    problem(api.post("/event-types", {"name": "Order paid"}), 409, "name_taken")

    assert EventType.objects.get().kind == Kind.SYSTEM


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid"),
        ({"name": ""}, "invalid"),
        ({"name": "   "}, "name_invalid"),
        ({"name": "x" * 129}, "invalid"),
        ({"name": "a\x00b"}, "name_invalid"),
        ({"name": "x", "colour": 1}, "invalid"),
        ({"name": "x", "mode": "strict"}, "invalid"),
        ({"name": "x", "kind": "both"}, "invalid"),
        (
            {"name": "x", "fields": [{"code": "a-b", "type": "date"}]},
            "field_code_invalid",
        ),
        ({"name": "x", "fields": [{"code": "a"}]}, "type_missing"),
        ({"name": "x", "fields": [{"code": "a", "type": "file"}]}, "invalid"),
        (
            {"name": "x", "fields": [{"code": "a", "type": "date", "label": "a\x00"}]},
            "too_long",
        ),
    ],
)
def test_what_cannot_be_declared_is_refused_and_nothing_is_made(api, body, code):
    problem(api.post("/event-types", body), 422, code)

    assert not EventType.objects.exists()


def test_a_change_changes_only_what_it_names(api):
    order = a_type("warn")
    drift(order, "coupon")
    drift(order, "other")

    told = api.put(
        f"/event-types/{order.pk}",
        {"mode": "open", "fields": [{"code": "coupon", "type": "string"}]},
    ).json()

    assert (told["mode"], told["reviewed"]) == ("open", True)
    assert len(told["fields"]) == 6
    # What is declared differs no longer.
    assert told["changes"] == 1
    assert Drift.objects.get().code == "other"
    order.refresh_from_db()
    assert order.mode == "open"


def test_a_type_that_is_not_there_is_not_found(api):
    for path in ("/event-types/77", "/event-types/77/schema"):
        problem(api.get(path), 404, "not_found")
        problem(api.put(path, {}), 404, "not_found")
    problem(api.get("/event-types/schema?name=Nothing"), 404, "not_found")


def test_the_list_tells_what_is_required_last_seen_and_changed(api):
    order = a_type("warn", last_seen_on=TODAY)
    EventField.objects.filter(code="amount").update(last_seen_on=TODAY)
    drift(order, "coupon")
    make.event_type("Call received")

    (told,) = api.get("/event-types?name=Order%20paid").json()["results"]

    assert (told["last_seen"], told["changes"]) == ("2026-11-20", 1)
    amount = next(one for one in told["fields"] if one["code"] == "amount")
    assert (amount["required"], amount["last_seen"]) == (True, "2026-11-20")
    assert len(api.get("/event-types").json()["results"]) == 2


def test_the_list_costs_the_same_queries_however_many_types_there_are(api):
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert api.get("/event-types").status_code == 200
        return len(queries)

    drift(a_type(), "coupon")
    cost()
    before = cost()
    for number in range(20):
        drift(make.event_type(f"Type {number}"), "coupon")

    assert cost() == before


# JSON Schema

CLOSED = {
    "title": "Order paid",
    "type": "object",
    "properties": {
        "price": {"type": "number", "title": "Price"},
        "coupon": {"type": ["string", "null"], "pattern": "^[A-Z]+$"},
    },
    "required": ["price"],
    "additionalProperties": False,
}


def test_a_schema_makes_the_type_with_a_name_that_holds_slashes_and_then_keeps_it(api):
    path = "/event-types/schema?name=Shop%2FOrder%20paid"

    first = api.put(path, CLOSED | {"x-kind": "system"})
    again = api.put(path, CLOSED)

    assert (first.status_code, again.status_code) == (201, 200)
    told = again.json()
    assert api.get(first["Location"]).json() == told["event_type"]
    assert (told["event_type"]["name"], told["event_type"]["mode"]) == (
        "Shop/Order paid",
        "enforced",
    )
    assert {one["field"] for one in told["not_kept"]} == {
        "title",
        "properties.coupon.pattern",
    }
    exported = api.get(path).json()
    assert exported["required"] == ["price"]
    assert exported["x-kind"] == "system"
    pk = told["event_type"]["id"]
    assert api.get(f"/event-types/{pk}/schema").json() == exported
    assert api.put(f"/event-types/{pk}/schema", exported).json()["not_kept"] == []


def test_a_schema_that_is_refused_changes_nothing_and_names_every_place(api):
    order = a_type("warn")
    data = CLOSED | {"properties": {"a": {}, "price": {"oneOf": []}}}

    told = problem(api.put(f"/event-types/{order.pk}/schema", data), 422, "invalid")

    assert [one["field"] for one in told["errors"]] == [
        "properties.a.type",
        "properties.price.type",
    ]
    assert {one["code"] for one in told["errors"]} == {"schema_invalid"}
    order.refresh_from_db()
    assert (order.mode, order.fields.count()) == ("warn", 5)


def test_a_type_keeps_its_kind(api):
    order = a_type()
    data = CLOSED | {"x-kind": "system"}

    problem(api.put(f"/event-types/{order.pk}/schema", data), 409, "kind_mismatch")
    problem(
        api.put("/event-types/schema?name=Order%20paid", data), 409, "kind_mismatch"
    )

    assert order.fields.count() == 5


@pytest.mark.parametrize(
    ("query", "field"),
    [("", "name"), ("?name=", "name"), ("?name=%00", "name"), ("?nmae=x", "nmae")],
)
def test_a_name_that_is_no_name_is_refused(api, query, field):
    for answer in (
        api.get(f"/event-types/schema{query}"),
        api.put(f"/event-types/schema{query}", CLOSED),
    ):
        told = problem(answer, 400, "parameter_invalid")
        assert told["errors"][0]["field"] == field
    assert not EventType.objects.exists()

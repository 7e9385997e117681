"""Rejected events through the API: read what is left, replay it by program."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from events import rejects_api, replays
from events.models import Event, FieldMapping, RejectedEvent, Replay
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db


@pytest.fixture
def api():
    return Api()


def refuse(api, *ids, name="Order paid", field="price-eur"):
    items = [
        {"id": one, "name": name, "customer": "C-1", "context": {field: 1}}
        for one in ids
    ]
    answer = api.post("/events", {"events": items})
    assert answer.json()["rejected"] == len(ids)


def mend():
    FieldMapping.objects.create(sent="price-eur", code="price_eur")


def test_a_rejected_event_is_told_whole_with_its_reason(api):
    refuse(api, "order-1")

    (row,) = api.get("/rejected-events").json()["results"]

    assert row == {
        "id": RejectedEvent.objects.get().pk,
        "status": "open",
        "code": "field_code_invalid",
        "field": "context.price-eur",
        "message": "“price-eur” is no field code: use letters, digits and underscores, "
        "not starting with a digit, up to 64 characters.",
        "source": "shop",
        "kind": "customer",
        "format": "native",
        "name": "Order paid",
        "event_id": "order-1",
        "received_at": row["received_at"],
        "replayed_at": None,
        "sent": {
            "id": "order-1",
            "name": "Order paid",
            "customer": "C-1",
            "context": {"price-eur": 1},
        },
    }


def test_they_are_listed_newest_first_page_by_page(api):
    refuse(api, "1", "2", "3", "4", "5")
    seen, address, pages = [], "/rejected-events?limit=2", 0

    while address:
        page = api.get(address).json()
        seen += [row["event_id"] for row in page["results"]]
        address, pages = page["next"], pages + 1

    assert (seen, pages) == (["5", "4", "3", "2", "1"], 3)


def test_they_are_narrowed_by_status_reason_name_and_source(api):
    refuse(api, "1")
    refuse(api, "2", name="Call received")
    api.post("/events", {"id": "3", "name": "", "customer": "C-1"})
    refuse(Api(source="till"), "4")
    RejectedEvent.objects.filter(external_id="1").update(status="set_aside")

    def ids(query):
        found = api.get(f"/rejected-events?{query}").json()["results"]
        return [row["event_id"] for row in found]

    assert ids("") == ["4", "3", "2"]
    assert ids("status=set_aside") == ["1"]
    assert ids("code=name_missing") == ["3"]
    assert ids("name=Call+received") == ["2"]
    assert ids("source=till") == ["4"]
    assert ids("source=till&code=name_missing") == []


@pytest.mark.parametrize(
    "query", ["status=gone", "status=", "reason=x", "code=%00", "cursor=x"]
)
def test_a_filter_that_is_not_understood_is_refused(api, query):
    refuse(api, "1")

    problem(api.get(f"/rejected-events?{query}"), 400, "parameter_invalid")


def test_a_source_that_does_not_exist_is_told_so(api):
    refuse(api, "1")

    problem(api.get("/rejected-events?source=nobody"), 404, "not_found")


def test_what_is_not_json_and_half_a_surrogate_pair_are_told_too(api):
    source = make.source()
    for payload in ("{not json", '{"name": "\\ud800"}'):
        RejectedEvent.objects.create(
            source=source, kind="customer", payload=payload, code="x", message="No."
        )

    answer = api.get("/rejected-events")

    assert answer.status_code == 200
    newest, oldest = answer.json()["results"]
    assert oldest["sent"] == "{not json"
    assert newest["sent"] == {"name": "\ud800"}


def test_the_list_costs_as_many_queries_for_many_rows_as_for_few(api):
    def cost():
        with CaptureQueriesContext(connection) as captured:
            assert api.get("/rejected-events").status_code == 200
        return len(captured)

    refuse(api, "1")
    cost()
    few = cost()
    refuse(api, *(f"x{i}" for i in range(20)))

    assert cost() == few


# replaying


def test_all_are_replayed_by_an_empty_filter_and_the_counts_add_up(api):
    refuse(api, "1", "2")
    api.post("/events", {"id": "3", "name": "", "customer": "C-1"})
    mend()

    answer = api.post("/rejected-events/replay", {"filter": {}})

    assert answer.status_code == 200
    told = answer.json()
    assert told == {
        "id": Replay.objects.get().pk,
        "status": "done",
        "total": 3,
        "accepted": 2,
        "duplicates": 0,
        "rejected": 1,
    }
    assert api.get(f"/rejected-events/replays/{told['id']}").json() == told
    assert Event.objects.count() == 2


def test_replaying_twice_records_nothing_twice(api):
    refuse(api, "1", "2")
    mend()

    api.post("/rejected-events/replay", {"filter": {}})
    again = api.post("/rejected-events/replay", {"filter": {}}).json()

    assert (again["status"], again["total"], again["accepted"]) == ("done", 0, 0)
    assert Event.objects.count() == 2


@pytest.mark.parametrize(
    ("narrowed", "recorded"),
    [
        ({"code": "field_code_invalid"}, {"1", "2", "4"}),
        ({"field": "context.price-eur", "source": "shop"}, {"1", "2"}),
        ({"name": "Call received"}, {"2"}),
        ({"source": "till"}, {"4"}),
        ({"code": "name_missing"}, set()),
    ],
)
def test_some_are_replayed_by_a_filter(api, narrowed, recorded):
    refuse(api, "1")
    refuse(api, "2", name="Call received")
    refuse(Api(source="till"), "4")
    mend()

    api.post("/rejected-events/replay", {"filter": narrowed})

    assert set(Event.objects.values_list("external_id", flat=True)) == recorded


def test_some_are_replayed_by_their_ids(api):
    refuse(api, "1", "2", "3")
    mend()
    ids = {row.external_id: row.pk for row in RejectedEvent.objects.all()}

    told = api.post(
        "/rejected-events/replay", {"ids": [ids["1"], ids["3"], ids["3"], 10**9]}
    ).json()

    assert (told["total"], told["accepted"]) == (2, 2)
    assert set(Event.objects.values_list("external_id", flat=True)) == {"1", "3"}


def test_a_replay_as_backfill_triggers_nothing(api):
    refuse(api, "1")
    mend()

    api.post("/rejected-events/replay", {"filter": {}, "backfill": True})

    assert Event.objects.get().is_backfill


def test_what_takes_longer_than_one_waits_goes_on_in_the_background(api, monkeypatch):
    monkeypatch.setattr(rejects_api, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(replays, "MAX_ITEMS", 2)
    refuse(api, "1", "2", "3")
    mend()

    answer = api.post("/rejected-events/replay", {"filter": {}})

    assert (answer.status_code, answer.json()["status"]) == (202, "waiting")
    while replays.advance_replays():
        pass
    told = api.get(f"/rejected-events/replays/{answer.json()['id']}").json()
    assert (told["status"], told["accepted"]) == ("done", 3)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "filter"),
        ({"ids": [1], "filter": {}}, "filter"),
        ({"ids": []}, "ids"),
        ({"ids": ["1"]}, "ids.0"),
        ({"ids": [0]}, "ids.0"),
        ({"ids": [2**63]}, "ids.0"),
        ({"ids": list(range(1, 1_002))}, "ids"),
        ({"filter": {"reason": "x"}}, "filter"),
        ({"filter": {"code": 5}}, "filter.code"),
        ({"filter": {"source": "nobody"}}, "filter.source"),
        ({"filter": {"name": "a\x00b"}}, "filter.name"),
        ({"filter": {}, "backfill": "yes"}, "backfill"),
        ({"filter": {}, "dry": True}, ""),
    ],
)
def test_a_replay_that_is_not_understood_is_refused_and_replays_nothing(
    api, body, field
):
    refuse(api, "1")
    mend()

    told = problem(api.post("/rejected-events/replay", body), 422, "invalid")

    assert [error["field"] for error in told.get("errors", [{"field": ""}])] == [field]
    assert not Replay.objects.exists()
    assert not Event.objects.exists()


def test_a_replay_that_does_not_exist_is_not_found(api):
    for pk in (1, 2**70):
        problem(api.get(f"/rejected-events/replays/{pk}"), 404, "not_found")

"""Segments through the API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from customers.models import Attribute, Customer
from segments import saving
from segments.models import Segment, Upkeep
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

PARIS = {"attribute": "city", "op": "=", "value": "Paris"}


@pytest.fixture
def api() -> Api:
    return Api()


def save(api: Api, name: str = "Parisians", rule=PARIS, **more) -> dict:
    response = api.post("/segments", {"name": name, "rule": rule, **more})
    assert response.status_code == 201, response.content
    return response.json()


def test_a_segment_is_saved_and_shown_with_its_rule_in_words(api):
    response = api.post(
        "/segments", {"name": " Parisians ", "rule": PARIS, "description": "Of Paris"}
    )

    assert response.status_code == 201
    answer = response.json()
    assert (answer["name"], answer["description"]) == ("Parisians", "Of Paris")
    assert answer["rule"] == PARIS
    assert "Paris" in answer["sentence"]
    assert (answer["status"], answer["count"]) == ("computing", None)
    assert api.get(response["Location"]).json() == answer
    assert api.get("/segments").json() == {"results": [answer], "next": None}


def test_the_sentence_of_a_segment_is_the_one_of_its_preview(api):
    parisians = save(api)
    rule = {"not": {"segment": parisians["id"]}}
    elsewhere = save(api, "Elsewhere", rule)

    told = api.post("/segments/preview", {"rule": rule}).json()["sentence"]

    assert "“Parisians”" in told
    assert elsewhere["sentence"] == told
    assert api.get(f"/segments/{elsewhere['id']}").json()["sentence"] == told
    listed = [one["sentence"] for one in api.get("/segments").json()["results"]]
    assert listed[1] == told


def test_a_saved_segment_tells_its_count_once_it_was_taken(api):
    saved = save(api)
    make.kept(Segment.objects.get(), make.customer(city="Paris"))

    answer = api.get(f"/segments/{saved['id']}").json()
    assert (answer["status"], answer["count"]) == ("fresh", 1)
    assert answer["counted_at"]


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({}, None),
        ({"al": [PARIS]}, None),
        ({"all": [PARIS, {"attribute": "city", "op": "~", "value": 1}]}, "all.1"),
        ({"attribute": "shoe_size", "op": "=", "value": 42}, "attribute"),
        ({"event": "Never seen"}, "event"),
        ({"segment": 404}, "segment"),
        ({**PARIS, "valeu": "x"}, None),
        ({"not": {"attribute": "city", "op": ">", "value": 3}}, "not.op"),
    ],
)
def test_a_rule_that_is_not_understood_is_refused_and_nothing_saved(api, rule, field):
    for response in (
        api.post("/segments", {"name": "x", "rule": rule}),
        api.post("/segments/preview", {"rule": rule}),
    ):
        told = problem(response, 422, "rule_invalid")
        if field:
            assert told["errors"][0]["field"].startswith(field)
    assert not Segment.objects.exists()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"rule": PARIS}, ""),
        ({"name": "x"}, "rule"),
        ({"name": "x", "rule": PARIS, "kind": "dynamo"}, "kind"),
        ({"name": "x", "rule": PARIS, "watched": None}, "watched"),
        ({"name": "x", "rule": PARIS, "kind": "static"}, "rule"),
        ({"name": "", "rule": PARIS}, "name"),
        ({"name": "  ", "rule": PARIS}, "name"),
        ({"name": "x" * 151, "rule": PARIS}, "name"),
        ({"name": 5, "rule": PARIS}, "name"),
        ({"name": "x", "rule": []}, "rule"),
        ({"name": "x", "rule": PARIS, "description": None}, "description"),
        ({"name": "x", "rule": PARIS, "description": "x" * 2001}, "description"),
        ({"name": "x", "rule": PARIS, "description": "x\x00"}, "description"),
        ({"name": "x\x00", "rule": PARIS}, "name"),
        ({"name": "x", "rule": PARIS, "colour": "red"}, ""),
    ],
)
def test_a_body_that_does_not_fit_is_refused_by_name(api, body, field):
    response = api.post("/segments", body)

    told = problem(response, 422, "invalid")
    assert [error["field"] for error in told.get("errors", [])] == [field] * bool(field)
    assert not Segment.objects.exists()


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({**PARIS, "value": "\x00"}, "value"),
        ({**PARIS, "attribute": "city\x00"}, "attribute"),
        ({"event": "Order paid\x00"}, "event"),
    ],
)
def test_what_the_database_cannot_hold_is_refused_with_its_place(api, rule, field):
    for response in (
        api.post("/segments", {"name": "x", "rule": rule}),
        api.post("/segments/preview", {"rule": rule}),
    ):
        told = problem(response, 422, "rule_invalid")
        assert told["errors"][0]["field"] == field
    assert not Segment.objects.exists()


def test_what_is_wrong_with_a_body_is_quoted_in_one_way(api):
    told = problem(api.post("/segments", {"name": 5, "rule": PARIS}), 422, "invalid")

    assert told["detail"] == "Expected “str”, got “int”."


def test_an_id_that_nobody_can_have_hinders_none_of_the_others(api):
    anna = make.customer()
    some = make.segment()

    response = api.post(
        f"/segments/{some.pk}/customers", {"add": ["C\x00", anna.external_id]}
    )

    assert response.status_code == 200
    assert (response.json()["added"], response.json()["unknown"]) == (1, ["C\x00"])


def test_two_segments_have_two_names(api):
    save(api)
    other = save(api, "Others")

    problem(
        api.post("/segments", {"name": "Parisians", "rule": PARIS}), 409, "name_taken"
    )
    response = api.put(f"/segments/{other['id']}", {"name": "Parisians", "rule": PARIS})
    problem(response, 409, "name_taken")


def test_a_segment_is_replaced(api):
    saved = save(api, description="Old")
    make.kept(Segment.objects.get(), make.customer(city="Paris"))
    rule = {"attribute": "city", "op": "=", "value": "Riga"}

    response = api.put(f"/segments/{saved['id']}", {"name": "Rigans", "rule": rule})

    assert response.status_code == 200
    answer = response.json()
    assert (answer["name"], answer["rule"], answer["description"]) == (
        "Rigans",
        rule,
        "",
    )
    segment = Segment.objects.get()
    assert segment.members_of != segment.edition
    assert answer["version"] == 2


def test_a_new_name_alone_leaves_the_count_as_it_is(api):
    saved = save(api)
    make.kept(Segment.objects.get())

    answer = api.put(
        f"/segments/{saved['id']}", {"name": "Paris", "rule": PARIS}
    ).json()

    assert (answer["status"], answer["count"]) == ("fresh", 0)


def test_segments_cannot_speak_of_each_other_in_a_circle(api):
    first = save(api)
    second = save(api, "Second", {"segment": first["id"]})

    for target in (first["id"], second["id"]):
        response = api.put(
            f"/segments/{first['id']}", {"name": "First", "rule": {"segment": target}}
        )
        problem(response, 422, "rule_conflict")
    assert Segment.objects.get(pk=first["id"]).rule == PARIS


def test_a_segment_is_deleted_unless_another_needs_it(api):
    first = save(api)
    second = save(api, "Second", {"not": {"segment": first["id"]}})

    told = problem(api.delete(f"/segments/{first['id']}"), 409, "segment_used")
    assert "Second" in told["detail"]

    for pk in (second["id"], first["id"]):
        response = api.delete(f"/segments/{pk}")
        assert (response.status_code, response.content) == (204, b"")
    assert not Segment.objects.exists()


def test_a_segment_that_does_not_exist_is_told_so(api):
    for method in ("GET", "PUT", "DELETE"):
        problem(
            api.call(method, "/segments/404", {"name": "x", "rule": PARIS}),
            404,
            "not_found",
        )
    problem(api.get("/segments/404/customers"), 404, "not_found")
    problem(api.get(f"/segments/{10**30}"), 404, "not_found")


def test_a_segment_is_archived_unless_it_is_at_work_and_restored(api):
    first = save(api)
    second = save(api, "Second", {"not": {"segment": first["id"]}})

    problem(api.post(f"/segments/{first['id']}/archive"), 409, "segment_used")
    for one in (second, first):
        answer = api.post(f"/segments/{one['id']}/archive").json()
        assert (answer["archived_at"] is not None, answer["status"]) == (True, "stale")
    problem(api.post(f"/segments/{second['id']}/restore"), 422, "rule_conflict")
    told = api.post("/segments", {"name": "x", "rule": {"segment": first["id"]}})
    assert "is archived" in problem(told, 422, "rule_conflict")["detail"]

    answer = api.post(f"/segments/{first['id']}/restore").json()
    assert answer["archived_at"] is None


def names(api: Api, asked: str) -> list[str]:
    return [one["name"] for one in api.get(f"/segments?{asked}").json()["results"]]


def test_the_list_is_narrowed_by_kind_state_archive_and_words(api):
    make.kept(make.segment("Parisians", PARIS))
    make.segment("Buyers", PARIS, description="of bags")
    make.segment("Guests")
    saving.archive(make.segment("Old", PARIS))

    assert names(api, "") == ["Parisians", "Buyers", "Guests"]
    assert names(api, "archived=true") == ["Old"]
    assert names(api, "kind=static") == ["Guests"]
    assert names(api, "status=fresh&kind=dynamic") == ["Parisians"]
    assert names(api, "status=computing&search=bags") == ["Buyers"]
    assert names(api, "status=stale") == []
    Upkeep.objects.update(kept_at=timezone.now() - timedelta(minutes=5))
    assert names(api, "status=stale") == ["Parisians"]
    assert api.get("/segments").json()["results"][0]["status"] == "stale"
    problem(api.get("/segments?status=old"), 400, "parameter_invalid")
    problem(api.get("/segments?kind=x"), 400, "parameter_invalid")
    problem(api.get("/segments?archived=maybe"), 400, "parameter_invalid")


def test_the_list_costs_the_same_for_few_and_for_many(api):
    costs = []
    api.get("/segments")  # The key's last use is written once.
    for number in (1, 20):
        for i in range(number):
            base = make.segment(f"{number} {i}", PARIS)
            make.segment(f"In {number} {i}", {"segment": base.pk})
        with CaptureQueriesContext(connection) as spent:
            api.get("/segments")
        costs.append(len(spent))

    assert costs[0] == costs[1]


def test_a_put_leaves_recording_as_it_is_unless_it_says(api):
    saved = save(api, watched=True)
    path = f"/segments/{saved['id']}"
    body = {"name": "Parisians", "rule": PARIS}

    assert api.put(path, body).json()["watched"] is True
    assert api.put(path, {**body, "watched": False}).json()["watched"] is False
    assert api.get(f"{path}/versions").json()["results"][0]["number"] == 1


def test_a_put_over_what_another_one_saved_is_refused_where_it_tells_its_version(api):
    saved = save(api)
    path = f"/segments/{saved['id']}"
    body = {"name": "Parisians", "rule": PARIS, "version": saved["version"]}
    assert api.put(path, {**body, "name": "In Paris"}).json()["version"] == 2

    problem(api.put(path, body), 409, "changed_meanwhile")

    assert Segment.objects.get().name == "In Paris"
    assert api.put(path, {**body, "version": 2}).status_code == 200


def test_versions_are_told_newest_first_with_their_authors(api):
    saved = save(Api(source="loyalty"), description="First")
    path = f"/segments/{saved['id']}"
    rule = {"attribute": "city", "op": "=", "value": "Riga"}
    api.put(path, {"name": "Rigans", "rule": rule})

    first = api.get(f"{path}/versions?limit=1").json()
    second = api.get(first["next"]).json()

    assert [v["author"] for v in first["results"] + second["results"]] == [
        "shop",
        "loyalty",
    ]
    told = first["results"][0]
    assert (told["number"], told["name"], told["rule"]) == (2, "Rigans", rule)
    assert "Riga" in told["sentence"]
    assert second["next"] is None
    problem(api.get("/segments/404/versions"), 404, "not_found")


# Lists


def a_list(api: Api, name: str = "Guests") -> str:
    saved = api.post("/segments", {"name": name, "kind": "static"})
    assert saved.status_code == 201, saved.content
    answer = saved.json()
    assert (answer["kind"], answer["rule"], answer["sentence"]) == (
        "static",
        None,
        None,
    )
    assert (answer["count"], answer["status"]) == (0, "fresh")
    return f"/segments/{answer['id']}"


def members_of(api: Api, path: str) -> list[str]:
    rows = api.get(f"{path}/customers").json()["results"]
    return [row["external_id"] for row in rows]


def test_customers_are_put_into_a_list_and_taken_out(api):
    for number in range(3):
        make.customer(f"C-{number}")
    path = a_list(api)

    first = api.post(f"{path}/customers", {"add": ["C-0", "C-1", "x", "x"]})
    second = api.post(f"{path}/customers", {"add": ["C-1", "C-2"], "remove": ["C-0"]})

    assert first.json() == {"added": 2, "removed": 0, "unknown": ["x"], "count": 2}
    assert second.json() == {"added": 1, "removed": 1, "unknown": [], "count": 2}
    assert members_of(api, path) == ["C-2", "C-1"]
    assert api.get(path).json()["count"] == 2
    change = Segment.objects.get().list_changes.first()
    assert (change.author, change.origin) == ("shop", "the API")


def test_the_same_sent_again_changes_nothing(api):
    make.customer("C-0")
    path = a_list(api)
    body = {"add": ["C-0"]}

    api.post(f"{path}/customers", body)
    again = api.post(f"{path}/customers", body).json()

    assert again == {"added": 0, "removed": 0, "unknown": [], "count": 1}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"add": ["C-0"], "remove": ["C-0"]}, "remove"),
        ({"add": "C-0"}, "add"),
        ({"add": [5]}, "add.0"),
        ({"add": [""]}, "add.0"),
        ({"add": ["x"] * 10_001}, "add"),
        ({"put": ["C-0"]}, ""),
    ],
)
def test_what_does_not_fit_a_list_is_refused_whole(api, body, field):
    make.customer("C-0")
    path = a_list(api)

    told = problem(api.post(f"{path}/customers", body), 422, "invalid")

    assert [error["field"] for error in told.get("errors", [])] == [field] * bool(field)
    assert members_of(api, path) == []


def test_ten_thousand_customers_are_taken_at_once(api):
    Customer.objects.bulk_create(
        Customer(external_id=f"C-{number}") for number in range(10_000)
    )
    path = a_list(api)

    ids = [f"C-{number}" for number in range(10_000)]
    with CaptureQueriesContext(connection) as spent:
        answer = api.post(f"{path}/customers", {"add": ids}).json()

    assert answer["count"] == 10_000
    assert len(spent) < 40


def test_a_segment_with_a_rule_takes_nobody_and_keeps_its_kind(api):
    saved = save(api)
    path = f"/segments/{saved['id']}"

    problem(api.post(f"{path}/customers", {"add": ["C-0"]}), 409, "not_a_list")
    told = problem(
        api.put(path, {"name": "x", "rule": PARIS, "kind": "static"}), 422, "invalid"
    )
    assert told["errors"][0]["field"] == "kind"


def test_a_list_gets_another_name_and_no_rule(api):
    path = a_list(api)

    assert api.put(path, {"name": "Visitors"}).json()["name"] == "Visitors"
    told = problem(api.put(path, {"name": "x", "rule": PARIS}), 422, "invalid")
    assert told["errors"][0]["field"] == "rule"


def test_rules_and_previews_ask_for_a_list_as_for_any_segment(api):
    make.customer("C-0")
    make.customer("C-1")
    path = a_list(api)
    api.post(f"{path}/customers", {"add": ["C-1"]})
    rule = {"not": {"segment": int(path.rsplit("/", 1)[1])}}

    answer = api.post("/segments/preview", {"rule": rule, "exact": True}).json()

    assert answer["sample"] == ["C-0"]


def test_the_members_of_a_segment_are_told_page_by_page(api):
    for number in range(5):
        make.reachable(f"P-{number}", city="Paris", first_name=f"Name{number}")
    make.customer("R-1", city="Riga")
    saved = save(api)

    seen, path = [], f"/segments/{saved['id']}/customers?limit=2"
    while path:
        answer = api.get(path).json()
        seen += answer["results"]
        path = answer["next"]

    assert [row["external_id"] for row in seen] == ["P-4", "P-3", "P-2", "P-1", "P-0"]
    assert seen[0]["first_name"] == "Name4"
    assert seen[0]["consents"] == {"email": True, "sms": True, "push": None}


def test_a_page_of_members_costs_the_same_however_many(api):
    saved = save(api)
    costs = []
    for number in (1, 10):
        for _ in range(number):
            make.reachable(city="Paris")
        with CaptureQueriesContext(connection) as spent:
            api.get(f"/segments/{saved['id']}/customers")
        costs.append(len(spent))

    assert costs[0] == costs[1]


def test_a_preview_tells_count_sentence_and_sample(api):
    now = timezone.now()
    for letter, city in zip("ABCD", ["Paris", "Berlin", "Paris", ""], strict=True):
        customer = make.customer(f"t-{letter}", city=city)
        if letter in "AB":
            make.event(
                customer, "Product viewed", at=now - timedelta(days=1), name="Bag"
            )

    response = api.post(
        "/segments/preview",
        {
            "rule": {
                "all": [
                    {"attribute": "external_id", "op": "starts with", "value": "t-"},
                    {"event": "Product viewed"},
                ]
            },
            "exact": True,
        },
    )

    assert response.status_code == 200
    answer = response.json()
    assert answer.keys() == {
        "count",
        "exact",
        "margin",
        "sentence",
        "sample",
        "took_ms",
        "reach",
    }
    assert (answer["count"], answer["exact"], answer["margin"]) == (2, True, 0)
    assert sorted(answer["sample"]) == ["t-A", "t-B"]
    assert "Product viewed" in answer["sentence"]
    assert not Segment.objects.exists()


def test_the_sample_of_a_preview_has_all_members_when_they_are_few(api):
    for number in range(12):
        make.customer(f"P-{number}", city="Paris")

    answer = api.post("/segments/preview", {"rule": PARIS, "exact": True}).json()

    assert len(answer["sample"]) == 12


def test_a_preview_takes_nothing_else(api):
    response = api.post("/segments/preview", {"rule": PARIS, "exakt": True})

    assert "exakt" in problem(response, 422, "invalid")["detail"]


def test_what_a_preview_counts_the_member_list_shows(api):
    Attribute.objects.create(code="tier", type="string")
    make.customer("A", attributes={"tier": "gold"}, birth_date="1990-05-01")
    make.customer("B", attributes={"tier": "Gold"})
    make.customer("C", created_at=datetime(2020, 1, 1, tzinfo=UTC))
    rule = {"not": {"attribute": "tier", "op": "=", "value": "gold"}}

    counted = api.post("/segments/preview", {"rule": rule, "exact": True}).json()
    saved = save(api, rule=rule)
    listed = api.get(f"/segments/{saved['id']}/customers").json()["results"]

    assert counted["count"] == len(listed) == 2
    assert sorted(counted["sample"]) == sorted(row["external_id"] for row in listed)

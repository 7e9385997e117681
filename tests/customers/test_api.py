"""The API's door for customers, over HTTP."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from django.utils import timezone

from customers.models import Consent, Customer, MailingCategory
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

CHANGE = {
    "first_name": "Anna",
    "last_name": "Berg",
    "email": "anna@example.com",
    "phone": "+4915112345678",
    "birth_date": "1990-05-01",
    "gender": "female",
    "city": "Berlin",
    "country": "DE",
    "language": "de",
    "time_zone": "Europe/Berlin",
    "registered_at": "2024-01-02T10:00:00Z",
    "attributes": {"tier": "gold"},
    "consents": {"email": True, "sms": True, "push": False},
    "devices": [{"platform": "android", "token": "t-1"}],
}


@pytest.fixture
def api() -> Api:
    return Api()


def test_a_customer_comes_out_as_they_went_in(api):
    first = api.put("/customers/C-1001", CHANGE)
    again = api.put("/customers/C-1001", CHANGE)

    assert (first.status_code, again.status_code) == (201, 200)
    shown = api.get("/customers/C-1001").json()
    assert shown == again.json()
    assert CHANGE.items() <= shown.items()
    assert shown["external_id"] == "C-1001"
    assert (shown["email_is_valid"], shown["phone_is_valid"]) == (True, True)


def test_what_is_shown_may_be_sent_back_and_changes_nothing(api):
    api.put("/customers/C-1001", CHANGE)
    shown = api.get("/customers/C-1001").json()

    again = api.put("/customers/C-1001", shown)

    assert again.json() == shown


def test_what_is_not_known_is_null(api):
    shown = api.put("/customers/C-1001", {}).json()

    for name in CHANGE.keys() - {"attributes", "consents", "devices"}:
        assert shown[name] is None
    assert (shown["attributes"], shown["devices"]) == ({}, [])
    assert shown["consents"] == {"email": None, "sms": None, "push": None}


def test_a_put_changes_only_what_it_names(api):
    api.put("/customers/C-1001", CHANGE)

    shown = api.put("/customers/C-1001", {"city": None, "consents": {"sms": False}})

    assert shown.json()["city"] is None
    assert shown.json()["first_name"] == "Anna"
    assert shown.json()["consents"] == {"email": True, "sms": False, "push": False}
    assert Consent.objects.filter(origin="shop").count() == 3


def test_an_answer_for_a_category_is_not_one_for_the_channel(api):
    anna = make.customer("C-1")
    make.consent(anna, "email", yes=True)
    anna.consents.create(
        channel="email",
        category=MailingCategory.objects.create(code="news", name="News"),
        is_granted=False,
        changed_at=timezone.now(),
    )

    assert api.get("/customers/C-1").json()["consents"]["email"] is True


def test_everything_that_is_wrong_is_told_at_once_and_nothing_is_stored(api):
    told = problem(
        api.put("/customers/C-1001", {"city": 5, "nickname": "Bo"}), 422, "invalid"
    )

    assert {error["field"]: error["code"] for error in told["errors"]} == {
        "city": "type_wrong",
        "nickname": "key_unknown",
    }
    assert not Customer.objects.exists()


def test_one_thing_that_is_wrong_gives_the_problem_its_code(api):
    told = problem(api.put("/customers/C-1001", {"nickname": "Bo"}), 422, "key_unknown")

    assert [error["field"] for error in told["errors"]] == ["nickname"]


def test_the_body_cannot_name_another_customer_than_the_address(api):
    response = api.put("/customers/C-1001", {"external_id": "C-1002"})

    assert problem(response, 422, "invalid")["errors"][0]["field"] == "external_id"
    assert not Customer.objects.exists()


@pytest.mark.parametrize(
    "external_id",
    ["a/b", "a//b", "a/events/b", "Ä ö", "50%", "a?b#c", "a+b", "..", "%2F", "👩‍🚀"],
)
def test_an_id_of_any_characters_can_stand_percent_encoded_in_an_address(
    api, external_id
):
    path = f"/customers/{quote(external_id, safe='')}"

    assert api.put(path, {"city": "Riga"}).status_code == 201
    assert api.get(path).json()["external_id"] == external_id
    assert Customer.objects.get().external_id == external_id
    assert api.get(f"{path}/events").json() == {"results": [], "next": None}
    assert api.get(f"{path}/messages").json() == {"results": [], "next": None}


@pytest.mark.parametrize("path", ["/customers/C-1/", "/customers//C-1", "/customers/"])
def test_a_slip_with_slashes_makes_no_customer(api, path):
    problem(api.put(path, {}), 404, "not_found")

    assert not Customer.objects.exists()


def test_an_id_that_cannot_be_is_refused(api):
    problem(api.put(f"/customers/{'x' * 129}", {}), 422, "value_invalid")
    problem(api.put("/customers/a%00b", {}), 422, "value_invalid")
    problem(api.get("/customers/a%00b"), 404, "not_found")


def test_a_customer_nobody_knows_does_not_exist(api):
    told = problem(api.get("/customers/C-404"), 404, "not_found")

    assert "C-404" in told["detail"]


def test_a_key_that_may_only_write_is_not_told_what_is_known(api):
    api.put("/customers/C-1001", CHANGE)

    response = Api("customers:write").put("/customers/C-1001", {"city": "Riga"})

    assert (response.status_code, response.json()) == (200, {"external_id": "C-1001"})
    assert Customer.objects.get().city == "Riga"


def test_many_customers_come_in_one_request(api):
    make.customer("C-1", is_stub=True)

    response = api.post(
        "/customers",
        {
            "customers": [
                {"external_id": "C-1", "city": "Riga"},
                {"external_id": "C-2", "phone": "12345"},
                {"external_id": "C-3", "gender": "x", "country": "XX"},
            ]
        },
    )

    assert response.status_code == 202
    answer = response.json()
    assert {k: answer[k] for k in ("accepted", "created", "updated", "rejected")} == {
        "accepted": 2,
        "created": 1,
        "updated": 1,
        "rejected": 1,
    }
    first, second, third = answer["results"]
    assert first == {"index": 0, "external_id": "C-1", "status": "updated"}
    assert second["status"] == "created"
    assert second["warnings"][0]["field"] == "phone"
    assert (third["status"], third["code"]) == ("rejected", "value_invalid")
    assert third["field"] == "gender"
    assert [error["field"] for error in third["errors"]] == ["gender", "country"]
    assert sorted(Customer.objects.values_list("external_id", flat=True)) == [
        "C-1",
        "C-2",
    ]


def test_one_customer_comes_as_an_object(api):
    response = api.post("/customers", {"external_id": "C-1", "city": "Riga"})

    assert (response.status_code, response.json()["created"]) == (202, 1)


def test_when_every_customer_is_rejected_the_status_says_so(api):
    response = api.post("/customers", {"customers": [{"city": "Riga"}, 5]})

    assert response.status_code == 422
    assert response["Content-Type"] == "application/json"
    first, second = response.json()["results"]
    assert (first["code"], first["field"]) == ("required", "external_id")
    assert (second["code"], second["external_id"]) == ("not_an_object", None)


def test_a_thousand_customers_are_taken_at_once_and_no_more(api):
    thousand = [{"external_id": f"C-{number}"} for number in range(1_000)]

    answer = api.post("/customers", {"customers": thousand}).json()
    response = api.post("/customers", {"customers": [*thousand, {"external_id": "x"}]})

    assert answer["created"] == 1_000
    problem(response, 413, "too_many_items")
    assert Customer.objects.count() == 1_000


def test_an_empty_body_is_no_customer(api):
    problem(api.call("PUT", "/customers/C-1", raw=b""), 400, "not_json")
    problem(api.call("POST", "/customers", raw=b" "), 400, "not_json")
    problem(api.put("/customers/C-1", []), 422, "not_an_object")
    told = api.post("/customers", {})
    assert (told.status_code, told.json()["results"][0]["code"]) == (422, "required")
    assert not Customer.objects.exists()


def test_no_customers_at_all_are_taken(api):
    answer = api.post("/customers", {"customers": []})

    assert answer.status_code == 202
    assert answer.json() == {
        "accepted": 0,
        "created": 0,
        "updated": 0,
        "rejected": 0,
        "results": [],
    }


@pytest.mark.parametrize("name", ["attributes", "consents", "devices"])
def test_null_for_what_holds_many_is_refused_for_it_could_mean_either(api, name):
    api.put("/customers/C-1001", CHANGE)

    problem(api.put("/customers/C-1001", {name: None}), 422, "type_wrong")

    assert CHANGE.items() <= api.get("/customers/C-1001").json().items()


def test_nothing_in_what_holds_many_changes_nothing(api):
    api.put("/customers/C-1001", CHANGE)
    before = api.get("/customers/C-1001").json()

    api.put("/customers/C-1001", {"attributes": {}, "consents": {}, "devices": []})

    assert api.get("/customers/C-1001").json() == before

"""Customers come in many at once: only what is named changes, and nothing is spoilt."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from customers.models import Attribute, Consent, Customer, Device
from customers.upsert import upsert_customers
from tests import make

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=1)

ANNA = {
    "external_id": "C-1001",
    "first_name": "Anna",
    "last_name": "Berg",
    "email": "anna@EXAMPLE.com",
    "phone": "01511 2345678",
    "birth_date": "1990-05-01",
    "gender": "female",
    "city": "Berlin",
    "country": "de",
    "language": "DE",
    "time_zone": "Europe/Berlin",
    "registered_at": "2024-01-02T10:00:00+01:00",
    "attributes": {"tier": "gold", "points": 12, "vip": True, "since": "2024-01-02"},
    "consents": {"email": True, "sms": True, "push": False},
    "devices": [{"platform": "android", "token": "t-1"}],
}


def upsert(*items, now=NOW, origin="shop"):
    return upsert_customers(items, origin=origin, now=now).results


def put(now=NOW, origin="shop", **named):
    """Change C-1001, and expect it to be taken."""
    [result] = upsert({"external_id": "C-1001", **named}, now=now, origin=origin)
    assert not result.errors, result.errors
    return result


def refused(**named):
    """The errors of an item, by place."""
    [result] = upsert({"external_id": "C-1001", **named})
    assert result.status == "rejected"
    return {error.field: error.code for error in result.errors}


def anna() -> Customer:
    return Customer.objects.get(external_id="C-1001")


def test_a_customer_is_stored_as_told_with_contacts_normalised():
    [result] = upsert(ANNA)

    assert (result.status, result.errors, result.warnings) == ("created", [], [])
    stored = anna()
    assert (stored.first_name, stored.last_name) == ("Anna", "Berg")
    assert (stored.email, stored.email_is_valid) == ("anna@example.com", True)
    assert (stored.phone, stored.phone_is_valid) == ("+4915112345678", True)
    assert stored.birth_date == date(1990, 5, 1)
    assert (stored.gender, stored.city, stored.country) == ("female", "Berlin", "DE")
    assert (stored.language, stored.time_zone) == ("de", "Europe/Berlin")
    assert stored.registered_at == datetime(2024, 1, 2, 9, tzinfo=UTC)
    assert stored.attributes == ANNA["attributes"]
    assert not stored.is_stub
    assert (stored.created_at, stored.updated_at) == (NOW, NOW)


def test_only_what_is_named_changes():
    upsert(ANNA)
    before = Customer.objects.values().get()

    result = put(city="Hamburg", now=LATER)

    assert result.status == "updated"
    after = Customer.objects.values().get()
    assert after == before | {"city": "Hamburg", "updated_at": LATER}
    assert Consent.objects.count() == 3
    assert Device.objects.count() == 1


def test_null_clears():
    upsert(ANNA)

    put(first_name=None, email=None, phone=None, birth_date=None, registered_at=None)

    stored = anna()
    assert (stored.first_name, stored.email, stored.phone) == ("", "", "")
    assert not stored.email_is_valid
    assert not stored.phone_is_valid
    assert (stored.birth_date, stored.registered_at) == (None, None)
    assert stored.last_name == "Berg"


def test_what_did_not_change_is_not_written_again():
    upsert(ANNA)

    upsert(ANNA, now=LATER)

    assert anna().updated_at == NOW


def test_a_stub_becomes_a_full_customer():
    make.customer("C-1001", is_stub=True)

    result = put()

    assert result.status == "updated"
    assert not anna().is_stub


def test_one_bad_item_never_spoils_the_batch():
    results = upsert(
        {"external_id": "C-1", "city": "Riga"},
        {"external_id": "C-2", "city": 7},
        "nonsense",
        {"city": "Riga"},
        {"external_id": "C-3", "nickname": "Bo"},
        {"external_id": "C-4"},
    )

    assert [result.status for result in results] == [
        "created",
        "rejected",
        "rejected",
        "rejected",
        "rejected",
        "created",
    ]
    assert [result.index for result in results] == [0, 1, 2, 3, 4, 5]
    assert sorted(Customer.objects.values_list("external_id", flat=True)) == [
        "C-1",
        "C-4",
    ]


def test_everything_that_is_wrong_with_an_item_is_told_at_once():
    assert refused(
        first_name=5,
        birth_date="1990-02-30",
        gender="f",
        country="Germany",
        nickname="Bo",
        consents={"fax": True, "sms": True},
        attributes={"shoe-size": 42},
    ) == {
        "first_name": "type_wrong",
        "birth_date": "value_invalid",
        "gender": "value_invalid",
        "country": "value_invalid",
        "nickname": "key_unknown",
        "consents.fax": "key_unknown",
        "attributes.shoe-size": "attribute_code_invalid",
    }
    assert not Customer.objects.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("external_id", ""),
        ("external_id", " "),
        ("external_id", "x" * 129),
        ("external_id", "a\x00b"),
        ("external_id", "a\nb"),
        ("external_id", 1001),
        ("external_id", None),
        ("first_name", "x" * 151),
        ("first_name", "Anna\nBcc: all@example.com"),
        ("first_name", "\x00"),
        ("last_name", ["Berg"]),
        ("email", 5),
        ("email", "x" * 255),
        ("phone", 49151),
        ("phone", "1" * 65),
        ("birth_date", "01.05.1990"),
        ("birth_date", "1990"),
        ("birth_date", 1990),
        ("birth_date", "2026-11-22"),
        ("birth_date", "1066-10-14"),
        ("gender", True),
        ("city", {}),
        ("country", "XX"),
        ("country", "UK"),
        ("country", "DEU"),
        ("language", "german!"),
        ("time_zone", "Berlin"),
        ("time_zone", "../../etc/passwd"),
        ("registered_at", "2024-01-02"),
        ("registered_at", "2024-01-02T10:00:00"),
        ("registered_at", "0001-01-01T00:00:00+05:00"),
        ("registered_at", "2027-01-01T00:00:00Z"),
        ("registered_at", 1704189600),
        ("attributes", []),
        ("attributes", None),
        ("attributes", {f"a{n}": n for n in range(101)}),
        ("attributes", {"tier": {"level": 1}}),
        ("attributes", {"tier": [["gold"]]}),
        ("attributes", {"tier": ["gold", None]}),
        ("attributes", {"tier": [{"level": 1}]}),
        ("attributes", {"tier": ["x"] * 201}),
        ("attributes", {"tier": ["x" * 4097]}),
        ("attributes", {"tier": ["\x00"]}),
        ("attributes", {"tier": "x" * 4097}),
        ("attributes", {"tier": "\x00"}),
        ("attributes", {"1st": "x"}),
        ("attributes", {"city": "Riga"}),
        ("attributes", {"external_id": "C-5"}),
        ("consents", None),
        ("consents", {"email": "yes"}),
        ("consents", {"email": 1}),
        ("consents", ["email"]),
        ("devices", None),
        ("devices", {}),
        ("devices", [{}]),
        ("devices", [{"platform": "nokia", "token": "t"}]),
        ("devices", [{"platform": "ios"}]),
        ("devices", [{"platform": "ios", "token": ""}]),
        ("devices", [{"platform": "ios", "token": "t", "model": "x"}]),
        ("devices", [{"platform": "ios", "token": "x" * 4097}]),
    ],
)
def test_what_is_not_understood_is_refused_by_name(name, value):
    errors = refused(**{name: value})

    assert len(errors) == 1
    assert next(iter(errors)).split(".")[0] == name
    assert not Customer.objects.exists()
    assert not Attribute.objects.exists()


@pytest.mark.parametrize(
    "external_id", ["x" * 128, "a/b", "Ä ö", "50%", "👩‍🚀", "select 1; --", "."]
)
def test_an_id_may_be_nearly_any_text(external_id):
    [result] = upsert({"external_id": external_id})

    assert result.status == "created"
    assert Customer.objects.get().external_id == external_id


def test_what_an_answer_shows_beside_may_be_sent_back_and_says_nothing():
    put(email="anna@example.com", email_is_valid=False, is_stub=True, created_at="x")

    assert anna().email_is_valid
    assert not anna().is_stub


def test_the_same_customer_twice_in_a_batch_is_taken_in_the_order_told():
    results = upsert(
        {"external_id": "C-1001", "first_name": "Ann", "city": "Riga"},
        {"external_id": "C-1001", "first_name": "Anna", "consents": {"sms": True}},
        {"external_id": "C-1001", "city": None, "consents": {"sms": False}},
    )

    assert [result.status for result in results] == ["created", "updated", "updated"]
    assert (anna().first_name, anna().city) == ("Anna", "")
    assert not Consent.objects.get().is_granted


# Contacts


def test_an_invalid_contact_is_kept_marked_and_told():
    result = put(email="anna@nowhere", phone="12345")

    stored = anna()
    assert (stored.email, stored.email_is_valid) == ("anna@nowhere", False)
    assert (stored.phone, stored.phone_is_valid) == ("12345", False)
    assert {warning.field for warning in result.warnings} == {"email", "phone"}


def test_a_phone_is_read_as_one_dials_it_in_the_customers_country():
    put(country="DE")

    put(phone="01511 2345678")

    assert (anna().phone, anna().phone_is_valid) == ("+4915112345678", True)


def test_a_country_told_later_makes_sense_of_a_phone_that_made_none():
    put(phone="01511 2345678")
    assert not anna().phone_is_valid

    put(country="DE")

    assert (anna().phone, anna().phone_is_valid) == ("+4915112345678", True)


# Attributes


def test_the_first_value_teaches_the_type_of_an_attribute():
    upsert(ANNA)

    assert dict(Attribute.objects.values_list("code", "type")) == {
        "tier": "string",
        "points": "number",
        "vip": "boolean",
        "since": "date",
    }


@pytest.mark.parametrize(
    ("type", "wrong", "right"),
    [
        ("number", "12", 12.5),
        ("number", True, -1),
        ("boolean", 1, False),
        ("boolean", "true", True),
        ("string", 5, "2024-01-02"),
        ("date", "yesterday", "2024-01-02T10:00:00Z"),
        ("date", "2024-02-30", "2024-02-29"),
        ("date", 20240102, "2024-01-02"),
        ("list", "gold", ["gold", 5, True]),
        ("string", ["gold"], "gold"),
    ],
)
def test_another_type_later_is_refused_naming_the_attribute(type, wrong, right):
    Attribute.objects.create(code="thing", type=type)

    assert refused(attributes={"thing": wrong}) == {
        "attributes.thing": "attribute_type_wrong"
    }
    put(attributes={"thing": right})

    assert anna().attributes == {"thing": right}
    assert Attribute.objects.get().type == type


def test_within_a_batch_too_the_first_value_teaches():
    results = upsert(
        {"external_id": "C-1", "attributes": {"points": 5}},
        {"external_id": "C-2", "attributes": {"points": "many"}},
        {"external_id": "C-3", "attributes": {"points": 7}},
    )

    assert [r.status for r in results] == ["created", "rejected", "created"]
    assert results[1].errors[0].field == "attributes.points"


def test_an_item_that_is_refused_teaches_nothing():
    upsert({"external_id": "C-1", "attributes": {"tier": "gold"}, "city": 5})

    assert not Attribute.objects.exists()


def test_a_list_replaces_the_one_before():
    put(attributes={"interests": ["tea", "jazz"]})
    put(attributes={"interests": ["tea", 7]})

    assert anna().attributes == {"interests": ["tea", 7]}
    assert Attribute.objects.get().type == "list"
    put(attributes={"interests": []})
    assert anna().attributes == {"interests": []}


def test_attributes_are_added_to_those_known_and_null_removes_one():
    put(attributes={"tier": "gold", "points": 5})

    put(attributes={"points": None, "vip": True, "never_heard_of": None})

    assert anna().attributes == {"tier": "gold", "vip": True}
    assert not Attribute.objects.filter(code="never_heard_of").exists()


# Consents


def test_an_answer_is_kept_with_who_told_it_and_when():
    put(consents={"email": True}, origin="shop")

    consent = Consent.objects.get()
    assert (consent.channel, consent.is_granted) == ("email", True)
    assert (consent.origin, consent.changed_at) == ("shop", NOW)


def test_the_same_answer_again_keeps_its_time():
    put(consents={"email": True}, origin="shop")

    put(consents={"email": True}, origin="import", now=LATER)

    assert Consent.objects.get().changed_at == NOW
    assert Consent.objects.get().origin == "shop"


def test_another_answer_is_of_now():
    put(consents={"email": True, "sms": True})

    put(consents={"email": False}, origin="call centre", now=LATER)

    told = {c.channel: (c.is_granted, c.origin, c.changed_at) for c in consents()}
    assert told == {
        "email": (False, "call centre", LATER),
        "sms": (True, "shop", NOW),
    }


def test_null_forgets_an_answer_but_none_for_a_category():
    from customers.models import MailingCategory

    put(consents={"email": True, "sms": True})
    news = MailingCategory.objects.create(code="news", name="News")
    make_category_consent(news)

    put(consents={"email": None})

    assert [(c.channel, c.category) for c in consents()] == [
        ("email", news),
        ("sms", None),
    ]


def consents():
    return Consent.objects.order_by("channel", "category_id").select_related("category")


def make_category_consent(category) -> None:
    Consent.objects.create(
        customer=anna(),
        channel="email",
        category=category,
        is_granted=False,
        changed_at=NOW,
    )


# Devices


@pytest.mark.parametrize("platform", [{}, [], 5, None, "fax"])
def test_a_device_of_no_platform_is_refused(platform):
    item = {
        "external_id": "C-1",
        "devices": [{"platform": platform, "token": "t"}],
    }

    (result,) = upsert(item)

    assert result.status == "rejected"
    assert result.errors[0].field == "devices.0.platform"


def test_a_device_is_added_and_others_stay():
    put(devices=[{"platform": "android", "token": "t-1"}])

    put(devices=[{"platform": "ios", "token": "t-2"}])

    assert sorted(anna().devices.values_list("platform", "token")) == [
        ("android", "t-1"),
        ("ios", "t-2"),
    ]


def test_a_device_told_again_counts_again():
    put(devices=[{"platform": "android", "token": "t-1"}])
    Device.objects.update(is_valid=False)

    put(devices=[{"platform": "android", "token": "t-1"}], now=LATER)

    assert Device.objects.get().is_valid


def test_a_device_belongs_to_whoever_was_told_to_have_it_last():
    put(devices=[{"platform": "android", "token": "t-1"}])

    upsert(
        {"external_id": "B", "devices": [{"platform": "android", "token": "t-1"}]},
        {"external_id": "C", "devices": [{"platform": "android", "token": "t-1"}]},
    )

    assert Device.objects.get().customer.external_id == "C"


# Cost


def test_a_bigger_batch_costs_no_more_statements():
    def batch(size: int, city: str) -> list[dict]:
        return [
            ANNA
            | {
                "external_id": f"C-{n}",
                "city": city,
                "devices": [{"platform": "ios", "token": f"t-{n}"}],
                "consents": {"email": True, "sms": None},
            }
            for n in range(size)
        ]

    upsert(ANNA)  # Teaches the attributes.
    costs = []
    for size in (2, 40):
        for city in ("Riga", "Tartu"):  # First created, then updated.
            with CaptureQueriesContext(connection) as spent:
                results = upsert(*batch(size, city))
            assert not any(result.errors for result in results)
            costs.append(len(spent))
        Customer.objects.all().delete()

    assert costs[:2] == costs[2:]
    assert max(costs) <= 14

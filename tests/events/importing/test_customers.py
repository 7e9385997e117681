"""`manage.py import_customers`: created, changed, known already, or rejected."""

from __future__ import annotations

import csv

import pytest
from django.core.management import CommandError

from customers.models import Attribute, Consent, Customer, Device
from events.importing import run
from events.models import RejectedEvent
from tests import make
from tests.events.importing.files import (
    csv_file,
    import_customers,
    last_import,
    ndjson_file,
    numbers,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _own_directory(settings, tmp_path):
    settings.DATA_DIR = tmp_path / "data"


def test_a_csv_file_of_customers_is_understood_by_the_names_of_its_columns(tmp_path):
    path = csv_file(
        tmp_path / "f.csv",
        "Customer ID;Surname;E-Mail;Mobile;Birthday;country;Tier;Zip;email consent;"
        "devices.android",
        "C-1;Berg;anna@example.com;0151 12345678;01.05.1990;de;gold;01067;yes;tok",
    )

    printed = import_customers(path, date_format="%d.%m.%Y")

    assert "1 rows read = 1 imported + 0 duplicates + 0 rejected" in printed
    anna = Customer.objects.get()
    assert (anna.external_id, anna.last_name) == ("C-1", "Berg")
    assert (anna.email, anna.email_is_valid) == ("anna@example.com", True)
    assert (anna.phone, anna.phone_is_valid) == ("+4915112345678", True)
    assert anna.birth_date is not None
    assert anna.birth_date.isoformat() == "1990-05-01"
    assert anna.attributes == {"tier": "gold", "zip": "01067"}
    consent = Consent.objects.get()
    assert (consent.channel, consent.is_granted, consent.origin) == (
        "email",
        True,
        "shop",
    )
    assert Device.objects.get().token == "tok"


def test_the_same_file_again_is_all_duplicates_and_what_changed_is_imported(tmp_path):
    lines = [f"C-{n},Anna {n},{'true' if n % 2 else ''},tok{n}" for n in range(1, 7)]
    header = "external_id,first_name,consents.sms,devices.web"
    path = csv_file(tmp_path / "f.csv", header, *lines)
    import_customers(path)
    before = list(Customer.objects.order_by("pk").values())

    import_customers(path)

    assert numbers(last_import()) == (6, 0, 6, 0)
    assert list(Customer.objects.order_by("pk").values()) == before

    lines[0] = lines[0].replace("Anna", "Eva")
    lines[2] = lines[2].replace("true", "false")
    lines[3] = lines[3].replace("tok4", "other")
    import_customers(csv_file(tmp_path / "g.csv", header, *lines, "C-9,Neu,,"))
    assert numbers(last_import()) == (7, 4, 3, 0)


def test_an_empty_field_changes_nothing(tmp_path):
    make.customer("C-1", first_name="Anna", city="Riga")
    path = csv_file(tmp_path / "f.csv", "external_id,first_name,city", "C-1,,Paris")

    import_customers(path)

    anna = Customer.objects.get()
    assert (anna.first_name, anna.city) == ("Anna", "Paris")


def test_an_attribute_keeps_the_type_it_was_declared_with(tmp_path):
    Attribute.objects.create(code="card", label="Card", type="string")
    path = csv_file(tmp_path / "f.csv", "external_id,card,points", "C-1,77,5")

    import_customers(path)

    assert Customer.objects.get().attributes == {"card": "77", "points": 5}


def test_ndjson_of_customers_is_read_as_the_api_reads_it(tmp_path):
    path = ndjson_file(
        tmp_path / "f",
        [
            {"external_id": "C-1", "attributes": {"tier": "gold"}, "city": "Riga"},
            {"external_id": "C-2", "consents": {"email": True}},
        ],
    )

    import_customers(path)

    assert Customer.objects.get(external_id="C-1").attributes == {"tier": "gold"}
    assert Consent.objects.get().customer.external_id == "C-2"


def test_a_rejected_customer_is_in_the_file_with_all_that_is_wrong(tmp_path):
    path = csv_file(
        tmp_path / "f.csv",
        "external_id,country,birth_date,consents.sms",
        "C-1,Narnia,never,",
        "C-2,DE,1990-05-01,maybe",
        "C-3,DE,1990-05-01,no",
    )

    import_customers(path)

    assert numbers(last_import()) == (3, 1, 0, 2)
    assert not RejectedEvent.objects.exists()
    with run.errors_path(last_import()).open() as file:
        first, second = csv.DictReader(file)
    assert first["_field"] == "country"
    assert "“country” must be" in first["_message"]
    assert "“birth_date” must be" in first["_message"]
    assert (second["_field"], second["_code"]) == ("consents.sms", "value_type")
    assert first["_id"] == second["_id"] == ""


def test_a_file_of_customers_needs_their_ids(tmp_path):
    path = csv_file(tmp_path / "f.csv", "first_name,city", "Anna,Riga")

    with pytest.raises(CommandError, match="which column is the customer's ID"):
        import_customers(path)
    assert not Customer.objects.exists()

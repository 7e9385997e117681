"""A contact that several customers have is kept, told, and listed."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from customers import sharing
from customers.models import Customer, SharedContact
from customers.upsert import upsert_customers
from events.ingest import record_events
from events.models import RejectedEvent
from tests import make
from tests.client import Api

pytestmark = pytest.mark.django_db


def tell(external_id: str, **named):
    [result] = upsert_customers(
        [{"external_id": external_id, **named}], origin="shop", now=timezone.now()
    ).results
    return [(w.code, w.field, w.message) for w in result.warnings]


def listed() -> set[tuple[str, str]]:
    return set(SharedContact.objects.values_list("kind", "value"))


def test_who_else_has_a_contact_is_told_and_the_contact_is_kept():
    tell("C-1", email="anna@example.com", phone="+4915112345678")

    warnings = tell("C-2", email="Anna@Example.com", phone="+49 151 12345678")

    assert [(code, field) for code, field, _ in warnings] == [
        ("contact_shared", "email"),
        ("contact_shared", "phone"),
    ]
    assert all("“C-1”" in message for _, _, message in warnings)
    assert Customer.objects.filter(email="anna@example.com").count() == 2
    assert listed() == {("email", "anna@example.com"), ("phone", "+4915112345678")}


def test_up_to_five_others_are_named():
    for number in range(1, 9):
        warnings = tell(f"C-{number}", email="office@example.com")

    [(_, _, message)] = warnings
    assert message.count("“") == 5
    assert "and others have the same e-mail address." in message
    assert "C-8" not in message


def test_two_of_one_batch_who_share_a_contact_are_both_told():
    results = upsert_customers(
        [{"external_id": id, "email": "a@example.com"} for id in ("C-1", "C-2")],
        origin="shop",
        now=timezone.now(),
    ).results

    assert [
        "“C-2”" in results[0].warnings[0].message,
        "“C-1”" in results[1].warnings[0].message,
    ] == [True, True]


def test_a_contact_that_cannot_be_written_to_is_not_shared():
    tell("C-1", email="n/a", phone="0")

    assert {code for code, _, _ in tell("C-2", email="n/a", phone="0")} == {
        "contact_invalid"
    }
    assert listed() == set()


def test_who_is_not_told_a_contact_is_not_warned_of_it():
    tell("C-1", email="a@example.com")
    tell("C-2", email="a@example.com")

    assert tell("C-2", city="Riga") == []


@pytest.mark.parametrize("email", [None, "other@example.com"])
def test_a_contact_that_was_given_up_is_no_longer_listed(email):
    tell("C-1", email="a@example.com")
    tell("C-2", email="a@example.com")
    assert listed()

    tell("C-2", email=email)

    assert listed() == set()


def test_a_key_that_may_not_read_is_not_told_who_it_is():
    make.customer("C-1", email="a@example.com")

    answer = Api("customers:write").put("/customers/C-2", {"email": "a@example.com"})

    [warning] = answer.json()["warnings"]
    assert warning["code"] == "contact_shared"
    assert warning["message"].startswith("Another customer has the same e-mail")
    assert "C-1" not in answer.content.decode()


def test_an_event_that_names_a_shared_contact_is_refused_with_the_ids():
    for number in range(7):
        make.customer(f"C-{number}", email="a@example.com")
    item = {"name": "Order paid", "customer": {"email": "a@example.com"}}

    recorded = record_events([item], source=make.source())

    [result] = recorded.results
    assert (result.code, result.field) == ("customer_ambiguous", "customer.email")
    assert result.message.count("“C-") == 5
    assert RejectedEvent.objects.get().code == "customer_ambiguous"


def test_once_they_are_merged_the_event_can_be_replayed():
    from customers.merging import merge

    for id in ("C-1", "C-2"):
        make.customer(id, email="a@example.com")
    item = {"name": "Order paid", "customer": {"email": "a@example.com"}}
    assert record_events([item], source=make.source()).rejected == 1

    merge("C-1", "C-2", by="shop", now=timezone.now())

    assert record_events([item], source=make.source()).accepted == 1


def test_a_stub_made_from_an_email_and_the_customer_told_later_share_it():
    item = {"name": "Order paid", "customer": {"email": "a@example.com"}}
    record_events([item], source=make.source())

    [(code, _, message)] = tell("C-1", email="a@example.com")

    assert (code, listed()) == ("contact_shared", {("email", "a@example.com")})
    assert "“email:a@example.com”" in message


def test_who_has_a_contact_is_asked_of_the_indexes():
    Customer.objects.bulk_create(
        Customer(external_id=f"C-{n}", email=f"c{n}@example.com", email_is_valid=True)
        for n in range(2_000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE customers_customer")
        asked = '[{"kind": "email", "value": "c7@example.com"}]'
        cursor.execute(f"EXPLAIN {sharing.OWNERS}", [asked, 7, 7])
        plan = "\n".join(row for (row,) in cursor.fetchall())

    assert "Index Scan using customer_email" in plan
    assert "Index Scan using customer_phone" in plan
    assert "Seq Scan" not in plan


def test_many_contacts_cost_as_many_queries_as_few():
    costs = []
    for size in (1, 60):
        owners = [("email", f"{size}-{n}@example.com") for n in range(size)]
        with CaptureQueriesContext(connection) as spent:
            sharing.look_again(owners)
        costs.append(len(spent))

    assert costs[0] == costs[1]

"""Customers told by several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.db import connection, transaction

from customers import upsert
from customers.models import Attribute, Consent, Customer
from customers.upsert import upsert_customers
from tests.client import Api

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def at_once(*deeds: Callable[[], object]) -> list[object]:
    """Do all of these in threads that start together; what each returned."""
    start = threading.Barrier(len(deeds))
    answers: list[object] = [None] * len(deeds)

    def run(index: int, deed: Callable[[], object]) -> None:
        try:
            start.wait(timeout=10)
            answers[index] = deed()
        except BaseException as error:
            answers[index] = error
        finally:
            connection.close()

    threads = [
        threading.Thread(target=run, args=(index, deed))
        for index, deed in enumerate(deeds)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    return answers


def both_look_before_either_writes(monkeypatch) -> None:
    """Hold two threads after they looked for the customers, until both have."""
    looked = threading.Barrier(2)
    lock = upsert._lock
    waited = threading.local()

    def look(ids):
        found = lock(ids)
        if not hasattr(waited, "once"):
            waited.once = True
            looked.wait(timeout=10)
        return found

    monkeypatch.setattr(upsert, "_lock", look)


def test_the_same_new_customer_told_twice_at_once_is_one_row_with_both(monkeypatch):
    both_look_before_either_writes(monkeypatch)

    def tell(**named):
        item = {"external_id": "C-1", **named}
        return lambda: upsert_customers([item], origin="shop", now=NOW).results[0]

    first, second = at_once(
        tell(city="Riga", consents={"email": True}),
        tell(first_name="Anna", consents={"email": True, "sms": False}),
    )

    assert sorted([first.status, second.status]) == ["created", "updated"]
    customer = Customer.objects.get()
    assert (customer.city, customer.first_name) == ("Riga", "Anna")
    assert Consent.objects.count() == 2


def test_over_http_nobody_sees_a_fault():
    api = Api()
    key = api.key

    def put(number: int):
        return lambda: (
            Api(key=key).put("/customers/C-1", {"city": f"City {number}"}).status_code
        )

    statuses = at_once(*[put(number) for number in range(8)])

    assert sorted(statuses) == [200] * 7 + [201]
    assert Customer.objects.count() == 1


def test_batches_that_cross_each_other_never_fail():
    ids = [f"C-{number}" for number in range(60)]

    def tell(order: list[str], city: str):
        items = [
            {
                "external_id": one,
                "city": city,
                "consents": {"email": True},
                "devices": [{"platform": "ios", "token": f"t-{one}"}],
            }
            for one in order
        ]
        return lambda: upsert_customers(items, origin=city, now=NOW)

    for _ in range(3):
        answers = at_once(
            tell(ids, "Riga"),
            tell(ids[::-1], "Tartu"),
            tell(ids[30:] + ids[:30], "Vilnius"),
        )

        for answer in answers:
            assert not isinstance(answer, BaseException), answer
            assert answer.count("rejected") == 0
    assert Customer.objects.count() == 60


def test_one_attribute_learnt_twice_at_once_has_one_type():
    def tell(external_id: str, value: object):
        item = {"external_id": external_id, "attributes": {"size": value}}
        return lambda: upsert_customers([item], origin="shop", now=NOW).results[0]

    results = at_once(*[tell(f"N-{n}", n) for n in range(4)], tell("T", "large"))

    assert not [r for r in results if isinstance(r, BaseException)]
    learnt = Attribute.objects.get()
    accepted = {r.external_id for r in results if r.status == "created"}
    assert accepted == (
        {"T"} if learnt.type == "string" else {f"N-{n}" for n in range(4)}
    )
    for value in Customer.objects.values_list("attributes__size", flat=True):
        assert isinstance(value, str if learnt.type == "string" else int)


def test_who_only_refers_to_a_customer_does_not_wait_for_those_who_change_them():
    """Events are recorded while a batch of customers is being written."""
    upsert_customers([{"external_id": "C-1"}], origin="shop", now=NOW)
    item = {"name": "Order paid", "customer": "C-1"}
    api = Api()
    answers: list[int] = []

    def record() -> None:
        answers.append(Api(key=api.key).post("/events", item).status_code)
        connection.close()

    with transaction.atomic():
        upsert_customers(
            [{"external_id": "C-1", "city": "Riga"}], origin="shop", now=NOW
        )
        thread = threading.Thread(target=record)
        thread.start()
        thread.join(timeout=10)
        assert answers == [202]

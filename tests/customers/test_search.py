"""Finding customers by the beginning of what somebody remembers."""

from __future__ import annotations

import pytest
from django.db import connection

from customers.models import Customer
from customers.search import find
from tests import make

pytestmark = pytest.mark.django_db


def found(text: str) -> set[str]:
    rows = find(Customer.objects.all(), text)
    return set(rows.values_list("external_id", flat=True))


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("C-1", {"C-1"}),
        ("c-", {"C-1", "C-2"}),
        ("anna", {"C-1"}),
        ("ANN", {"C-1"}),
        ("berg", {"C-1"}),
        ("anna berg", {"C-1"}),
        ("Berg Anna", {"C-1"}),
        ("an be", {"C-1"}),
        ("  anna   berg ", {"C-1"}),
        ("anna@example.com", {"C-1"}),
        ("anna@", {"C-1"}),
        ("+4915112", {"C-1"}),
        ("4915112", {"C-1"}),
        ("0049 151 12", {"C-1"}),
        ("+49 (151) 12-34", {"C-1"}),
        ("maria anna", {"M-1"}),
        ("maria anna von", {"M-1"}),
        ("von der berg", {"M-1"}),
        ("anna schmidt", set()),
        ("nna", set()),
        ("%", set()),
        ("c_1", set()),
        ("", {"C-1", "C-2", "M-1"}),
        ("   ", {"C-1", "C-2", "M-1"}),
    ],
)
def test_the_beginning_of_an_id_a_contact_or_a_name_finds_the_customer(text, who):
    make.customer(
        "C-1",
        first_name="Anna",
        last_name="Berg",
        email="anna@example.com",
        phone="+4915112345678",
    )
    make.customer("C-2", first_name="Ben", last_name="Ahlers")
    make.customer("M-1", first_name="Maria Anna", last_name="von der Berg")

    assert found(text) == who


@pytest.mark.parametrize(
    "text", ["C-77", "anna", "anna berg", "anna@example", "+49151", "49 151", "a b c"]
)
def test_every_way_to_match_is_answered_by_an_index(text):
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")

    plan = find(Customer.objects.all(), text).order_by().explain()

    assert "Seq Scan" not in plan
    for column in ("external_id", "first_name", "last_name", "email", "phone"):
        assert f"customer_{column}_search" in plan

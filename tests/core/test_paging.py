"""Counting no further than it is worth, and cursors."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db import connection
from django.db.models import FloatField, Func, Value

from customers.models import Customer
from smartcomm.core import paging
from smartcomm.core.paging import Count, Place, count, estimate, read_cursor
from tests import make


@pytest.mark.parametrize(
    ("counted", "words"),
    [
        (Count(0), "0"),
        (Count(1_234), "1,234"),
        (Count(1_234_567, exact=False), "about 1,234,567"),
        (Count(10_000, exact=False, at_least=True), "more than 10,000"),
        (Count(0, exact=False, at_least=True), "many"),
    ],
)
def test_a_count_says_how_sure_it_is(counted, words):
    assert str(counted) == words


@pytest.mark.django_db
def test_a_short_table_is_counted():
    for _ in range(3):
        make.customer()

    assert count(Customer.objects.all()) == Count(3)


@pytest.mark.django_db
def test_what_is_filtered_is_counted_up_to_a_limit():
    for number in range(5):
        make.customer(city="Riga" if number else "")
    riga = Customer.objects.filter(city="Riga").order_by("pk")

    assert count(riga, up_to=4) == Count(4)
    assert count(riga, up_to=3) == Count(3, exact=False, at_least=True)


@pytest.mark.django_db
def test_a_long_table_is_estimated_and_a_filter_on_it_is_not(monkeypatch):
    make.customer(city="Riga")
    monkeypatch.setattr(paging, "estimate", lambda model: 5_000_000)

    assert count(Customer.objects.all()) == Count(5_000_000, exact=False)
    assert count(Customer.objects.filter(city="Riga")) == Count(1)


@pytest.mark.django_db
def test_the_estimate_follows_the_size_of_the_table():
    for _ in range(50):
        make.customer()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE customers_customer")

    assert estimate(Customer) == 50


@pytest.mark.django_db
def test_counting_is_given_up_in_time_and_leaves_the_connection_as_it_was(monkeypatch):
    monkeypatch.setattr(paging, "COUNTING_MS", 20)
    make.customer()
    # pg_sleep answers nothing; as text that is '', which is no number.
    sleep = Func(Value(5), function="pg_sleep", output_field=FloatField())
    slow = Customer.objects.annotate(slept=sleep).exclude(slept=None)

    assert str(count(slow)) == "many"
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)
    assert count(Customer.objects.filter(city="")) == Count(1)
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)


@pytest.mark.parametrize(
    "at",
    [
        datetime(2026, 5, 4, 12, 0, 0, 123_456, tzinfo=UTC),
        datetime(1890, 1, 1, tzinfo=UTC),
        datetime(2026, 5, 4, 12, 0, 0, 999_999, tzinfo=UTC),
    ],
)
def test_a_cursor_leads_back_to_its_place_to_the_microsecond(at):
    place = Place(at, 2, 77)

    assert read_cursor(place.cursor()) == place

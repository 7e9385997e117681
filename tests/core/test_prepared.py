"""Statements that each connection plans once."""

import pytest
from django.db import DataError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from smartcomm.core.db import Prepared, fetch_all

pytestmark = pytest.mark.django_db(transaction=True)

ADD = Prepared(
    "test_add",
    "SELECT %(left)s + %(right)s, %(at)s, %(text)s",
    left="int",
    right="int",
    at="timestamptz",
    text="text",
)
DIVIDE = Prepared("test_divide", "SELECT 1 / %(by)s", by="int")


def prepared() -> list[str]:
    rows = fetch_all("SELECT name FROM pg_prepared_statements WHERE name LIKE 'test%%'")
    return sorted(name for (name,) in rows)


def test_it_answers_as_any_statement_and_is_planned_once():
    now = timezone.now()
    for _ in range(3):
        rows = ADD.fetch_all({"left": 1, "right": 2, "at": now, "text": "a'b %s $1"})
        assert rows == [(3, now, "a'b %s $1")]
    assert prepared().count("test_add") == 1


def test_a_new_connection_plans_it_anew():
    assert DIVIDE.fetch_all({"by": 1}) == [(1,)]
    connection.connection.close()  # Cut, as by a restart of the database.
    connection.close()
    assert DIVIDE.fetch_all({"by": 1}) == [(1,)]


def test_its_errors_are_those_of_django_and_the_line_stays_good():
    with pytest.raises(DataError, match="division by zero"):
        DIVIDE.fetch_all({"by": 0})
    assert DIVIDE.fetch_all({"by": 1}) == [(1,)]


def test_in_a_transaction_it_is_part_of_it():
    with transaction.atomic():
        assert DIVIDE.fetch_all({"by": 1}) == [(1,)]
        one = fetch_all("SELECT pg_current_xact_id()")
        assert Prepared("test_xact", "SELECT pg_current_xact_id()").fetch_all({}) == one


def test_who_counts_statements_sees_it():
    with CaptureQueriesContext(connection) as queries:
        DIVIDE.fetch_all({"by": 1})
    assert len(queries) == 1


def test_nothing_is_prepared_where_a_pooler_does_not_let_it_pass(settings):
    settings.DATABASE_PREPARES = False
    assert Prepared("test_pooled", "SELECT 1").fetch_all({}) == [(1,)]
    assert "test_pooled" not in prepared()

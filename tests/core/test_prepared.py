"""Statements that each connection plans once."""

import psycopg
import pytest
from django.db import DataError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from smartcomm.core import db
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
XACT = Prepared("test_xact", "SELECT pg_current_xact_id()::text || %(add)s", add="text")
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


def test_the_plan_grows_with_the_table(monkeypatch):
    monkeypatch.setattr(db, "PLANNED_ANEW_AFTER", 3)
    plans = Prepared("test_plan", "SELECT %(one)s", one="int")
    when = "SELECT prepare_time FROM pg_prepared_statements WHERE name = 'test_plan'"
    made = set()
    for _ in range(7):
        plans.fetch_all({"one": 1})
        made.update(fetch_all(when))
    assert len(made) == 3


def test_a_new_connection_plans_it_anew():
    assert DIVIDE.fetch_all({"by": 1}) == [(1,)]
    connection.connection.close()  # Cut, as by a restart of the database.
    connection.close()
    assert DIVIDE.fetch_all({"by": 1}) == [(1,)]


def test_its_errors_are_those_of_django_and_the_line_stays_good():
    with pytest.raises(DataError, match="division by zero"):
        DIVIDE.fetch_all({"by": 0})
    assert DIVIDE.fetch_all({"by": 1}) == [(1,)]


def test_a_line_that_is_cut_is_an_error_after_which_one_may_try_again():
    assert DIVIDE.fetch_all({"by": 1}) == [(1,)]
    own = fetch_all("SELECT pg_backend_pid()")
    with psycopg.connect(connection.connection.info.dsn) as other:
        other.execute("SELECT pg_terminate_backend(%s)", own[0])
    with pytest.raises(OperationalError):
        DIVIDE.fetch_all({"by": 1})
    connection.close()
    assert DIVIDE.fetch_all({"by": 1}) == [(1,)]


def test_in_a_transaction_it_is_part_of_it():
    with transaction.atomic():
        one = fetch_all("SELECT pg_current_xact_id()::text")
        assert XACT.fetch_all({"add": ""}) == one


def test_who_counts_statements_sees_it():
    with CaptureQueriesContext(connection) as queries:
        DIVIDE.fetch_all({"by": 1})
    assert len(queries) == 1


def test_nothing_is_prepared_where_a_pooler_does_not_let_it_pass(settings):
    settings.DATABASE_PREPARES = False
    pooled = Prepared("test_pooled", "SELECT %(one)s::int", one="int")
    assert pooled.fetch_all({"one": 1}) == [(1,)]
    assert "test_pooled" not in prepared()

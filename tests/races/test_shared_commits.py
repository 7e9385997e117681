"""Requests that share a commit: each gets its own answer, and none waits for another's
trouble."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from django.db import close_old_connections, connection, connections, transaction

from customers.models import Customer
from events import schema
from events.ingest import record_events
from events.models import Event, IdempotentRequest, PendingEvent
from events.store import SharedCommits, shared
from tests import make
from tests.client import Api
from tests.races.together import at_once

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    schema.forget_known()
    yield
    shared.close()


def event(number: int, customer: str = "C-1") -> dict:
    return {"id": f"e-{number}", "name": "Order paid", "customer": customer}


def record(*items: dict):
    try:
        return record_events(items, source=make.source(), together=True)
    finally:
        close_old_connections()


@pytest.fixture
def statements(monkeypatch) -> list[int]:
    """How many events each statement of a group carried."""
    found: list[int] = []
    run = SharedCommits._run

    def note(self, rows):
        found.append(rows.count(b'"external_id"'))
        return run(self, rows)

    monkeypatch.setattr(SharedCommits, "_run", note)
    return found


def test_fifty_identical_events_at_once_are_one_and_get_fifty_right_answers():
    make.customer("C-1")
    make.event_type("Order paid", is_awaited=True)
    make.source()

    answers = at_once(50, lambda _: record(event(1)))

    told = sorted(answer.results[0].status for answer in answers)
    assert told == ["accepted", *["duplicate"] * 49]
    assert (Event.objects.count(), PendingEvent.objects.count()) == (1, 1)


def test_fifty_identical_requests_under_one_key_are_answered_once():
    make.customer("C-1")
    make.source()
    api = Api()
    body = {"name": "Order paid", "customer": "C-1"}

    def send(_: int):
        caller = Api(key=api.key)
        return caller.post("/events", body, **{"Idempotency-Key": "k"})

    answers = at_once(50, send)

    stored = [one for one in answers if one.status_code == 202]
    waiting = [one for one in answers if one.status_code == 409]
    assert len(stored) + len(waiting) == 50
    assert len({one.content for one in stored}) == 1
    assert sum("Idempotency-Replay" not in one for one in stored) == 1
    assert {one["Retry-After"] for one in waiting} <= {"1"}
    assert (Event.objects.count(), IdempotentRequest.objects.count()) == (1, 1)


def test_commits_are_shared(statements):
    """The twin of all the others here: the groups are real."""
    make.customer("C-1")
    make.source()
    record(event(0))
    statements.clear()

    answers = at_once(32, lambda n: record(event(n + 1)))

    assert sum(answer.accepted for answer in answers) == 32
    assert sum(statements) == 32
    assert len(statements) < 32, "nobody ever waited"


def test_events_of_unknown_customers_do_not_spoil_the_group():
    make.customer("C-1")
    make.source()

    answers = at_once(20, lambda n: record(event(n, f"C-{n % 3}")))

    assert [answer.accepted for answer in answers] == [1] * 20
    assert Event.objects.count() == 20
    assert Customer.objects.count() == 3


def test_two_sources_in_one_group_keep_their_own_ids(statements):
    make.customer("C-1")
    sources = [make.source(name) for name in ("shop", "call centre")]
    record_events([event(0)], source=sources[0], together=True)

    answers = at_once(
        16, lambda n: record_events([event(1)], source=sources[n % 2], together=True)
    )

    assert sum(answer.accepted for answer in answers) == 2
    assert Event.objects.filter(external_id="e-1").count() == 2


def test_a_customer_who_is_locked_holds_up_nobody_else():
    """As while two customers are merged."""
    for name in ("C-1", "C-2"):
        make.customer(name)
    make.source()
    record(event(0), event(1, "C-2"))
    released = threading.Event()
    answers: list[str] = []

    def send(number: int, customer: str) -> None:
        answers.append(f"{customer} {record(event(number, customer)).accepted}")
        connections.close_all()

    with transaction.atomic():
        Customer.objects.select_for_update().get(external_id="C-1")
        threads = [
            threading.Thread(target=send, args=(10 + n, f"C-{1 + n % 2}"))
            for n in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads[1::2]:
            thread.join(timeout=20)
        assert sorted(answers) == ["C-2 1"] * 3
        released.set()
    for thread in threads:
        thread.join(timeout=20)

    assert sorted(answers) == ["C-1 1"] * 3 + ["C-2 1"] * 3
    assert Event.objects.count() == 8


def test_a_connection_that_was_cut_is_replaced_and_nobody_notices():
    """As by a restart of the database."""
    make.customer("C-1")
    make.source()
    record(event(0))
    wrapper = shared._connection
    assert wrapper is not None
    pid = wrapper.connection.info.backend_pid
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    answers = at_once(8, lambda n: record(event(n + 1)))

    assert [answer.accepted for answer in answers] == [1] * 8
    assert Event.objects.count() == 9
    assert shared._connection is not wrapper

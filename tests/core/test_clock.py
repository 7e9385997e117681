"""All processes go by one clock, whatever the clocks of their machines say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings as installed
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Passage, Run, Version
from campaigns.planned import start_planned
from campaigns.publish import publish
from messaging.send import send_messages
from smartcomm.core import clock
from smartcomm.core.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)
#: A process whose clock is off by so much.
Off = Callable[[timedelta], AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def _of_the_database(settings) -> Iterator[None]:
    settings.CLOCK_OF_DATABASE = True
    clock.forget()
    yield
    clock.forget()


@pytest.fixture
def off(monkeypatch) -> Off:
    right = timezone.now

    @contextmanager
    def by(seconds: timedelta) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr("django.utils.timezone.now", lambda: right() + seconds)
            clock.forget()
            yield
        clock.forget()

    return by


@pytest.mark.parametrize("wrong", [MINUTE, -MINUTE])
def test_it_is_the_time_of_the_database(off, wrong):
    right = timezone.now()
    with off(wrong):
        assert abs(database_now() - right) < timedelta(seconds=5)


def test_the_database_is_asked_once_in_ten_seconds(
    monkeypatch, django_assert_num_queries
):
    monkeypatch.setattr(clock, "QUICK_SECONDS", 60.0)
    with django_assert_num_queries(1):
        first = database_now()
        second = database_now()
    assert second > first
    watch = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: watch() + 11)
    with django_assert_num_queries(1):
        database_now()


def slow_watch(monkeypatch, *answers: float) -> list[str]:
    """The database's clock stands; its answers take so many seconds on their way. The
    time it tells is that of the end of the way. Returns what was done."""
    done: list[str] = []
    passed = 0.0
    ways = iter(answers)
    noon = datetime(2026, 5, 4, 12, tzinfo=UTC)

    def ask(text: str) -> list[tuple[datetime]]:
        nonlocal passed
        passed += next(ways)
        done.append("asked")
        return [(noon + timedelta(seconds=passed),)]

    def connect() -> None:
        nonlocal passed
        passed += 4
        done.append("connected")

    monkeypatch.setattr(clock, "fetch_all", ask)
    monkeypatch.setattr(connection, "ensure_connection", connect)
    monkeypatch.setattr(time, "monotonic", lambda: passed)
    return done


@pytest.mark.parametrize(
    ("answers", "asked", "off_by"),
    [
        ([0.002], 1, 0.001),
        ([2.0, 0.004], 2, 0.002),
        ([2.0, 0.5, 0.01, 1.0, 1.0, 1.0], 5, 0.005),
    ],
)
def test_a_slow_answer_makes_no_wrong_clock(monkeypatch, answers, asked, off_by):
    done = slow_watch(monkeypatch, *answers)
    told = database_now()
    right = datetime(2026, 5, 4, 12, tzinfo=UTC) + timedelta(seconds=time.monotonic())
    assert done == ["connected", *["asked"] * asked]
    assert told - right == timedelta(seconds=off_by)


@pytest.mark.django_db(transaction=True)
def test_it_goes_on_while_the_database_is_away(monkeypatch):
    first = database_now()

    def away() -> None:
        raise OperationalError

    monkeypatch.setattr(clock, "_ask", away)
    monkeypatch.setattr(clock, "ASK_AGAIN_SECONDS", 0.0)
    assert database_now() > first
    # In a transaction, whoever asked must not be told that all is well.
    with transaction.atomic(), pytest.raises(OperationalError):
        database_now()


def follow_up(*steps):
    campaign = make.draft(*steps, on="Order paid")
    publish(campaign)
    return campaign


def test_what_came_in_after_publishing_starts_runs_whoever_published(off):
    customer = make.customer()
    with off(MINUTE):
        follow_up(make.sms())
    make.event(customer, "Order paid")
    dispatch_events()
    assert Run.objects.count() == 1


@pytest.mark.parametrize("wrong", [MINUTE, -MINUTE])
def test_a_minute_is_a_minute_whoever_looks(off, wrong):
    follow_up(
        make.step("rest", "wait", {"for": 1, "unit": "minutes"}, done="sms"), make.sms()
    )
    make.event(make.customer(), "Order paid")
    dispatch_events()
    advance_runs()
    with off(wrong):
        advance_runs()
    run = Run.objects.get()
    assert (run.step.key, run.due_at - run.arrived_at) == ("rest", MINUTE)
    advance_runs(now=timezone.now() + MINUTE)
    run.refresh_from_db()
    assert run.step.key == "sms"


def test_what_a_worker_ahead_does_is_gone_on_with_at_once(off):
    campaign = follow_up(make.sms())
    make.event(make.reachable(), "Order paid")
    with off(MINUTE):
        dispatch_events()
        advance_runs()
    assert send_messages() == 1
    assert settle_runs() == 1
    assert Run.objects.get(campaign=campaign).status == "finished"


def test_a_planned_time_comes_by_the_clock_of_the_database(off):
    starts = {
        "kind": "schedule",
        "at": "2020-01-01T09:00",
        "repeat": {"every": 1, "unit": "day"},
    }
    publish(make.draft(make.sms(), starts=starts))
    Version.objects.update(next_at=timezone.now() + MINUTE)
    with off(2 * MINUTE):
        assert start_planned() == 0
    Version.objects.update(next_at=timezone.now())
    with off(-2 * MINUTE):
        assert start_planned() == 1


def test_what_happens_right_after_arriving_counts_whoever_took_the_run_there(off):
    customer = make.reachable()
    follow_up(
        make.step("sms", "send_sms", {"text": "Hello"}, sent="again"),
        make.step(
            "again",
            "wait_for_event",
            {"event": "Order paid", "where": [], "for": 1, "unit": "days"},
            happened=None,
            timed_out=None,
        ),
    )
    make.event(customer, "Order paid")
    dispatch_events()
    advance_runs()
    send_messages()
    with off(MINUTE):
        settle_runs()
        advance_runs()
    make.event(customer, "Order paid")
    dispatch_events()
    advance_runs()
    assert Passage.objects.filter(step__key="again", way="happened").exists()


def test_ticks_outlive_clocks_that_differ_by_two_minutes():
    for entry in installed.CELERY_BEAT_SCHEDULE.values():
        assert entry["options"]["expires"] > 120

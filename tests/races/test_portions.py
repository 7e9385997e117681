"""Portions under rivals and kills: the limit holds, nobody is taken twice."""

from __future__ import annotations

import signal
import subprocess
import time
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from campaigns import broadcast, portions
from campaigns.broadcast import stop, walk_broadcasts
from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.models import Broadcast, Run
from tests import make
from tests.races.together import at_once
from tests.races.workers import go, start, wait_until_ready

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]

HOUR = timedelta(hours=1)

WALKER = """
from campaigns import portions
from campaigns.broadcast import walk_broadcasts

portions.MOST = 3
print("ready", flush=True)
input()
while True:
    walk_broadcasts()
"""


def opened(*, customers=40, **pace):
    make.campaign(
        on="Shop opened", system=True, pace={"limit": 10, "per": "hour", **pace}
    )
    for _ in range(customers):
        make.customer()
    make.system_event("Shop opened")
    dispatch_system_events()
    return Broadcast.objects.get()


def until_none(work):
    while work():
        pass


def test_walkers_at_once_take_one_portion_between_them(monkeypatch):
    monkeypatch.setattr(portions, "MOST", 2)
    now = opened().due_at

    for hour in range(3):
        then = now + hour * HOUR
        at_once(4, lambda _, then=then: until_none(lambda: walk_broadcasts(now=then)))
        until_none(lambda then=then: walk_broadcasts(now=then))
        found = Broadcast.objects.get()
        assert found.entered == Run.objects.count() == 10 * (hour + 1)
        assert found.portions == hour + 1
    assert Run.objects.values("customer").distinct().count() == 30


def test_without_the_lock_the_race_would_be_lost(monkeypatch):
    # If this fails, the test above tests nothing: walkers that read the row without
    # locking it each believe that the portion is theirs.
    now = opened().due_at
    take = broadcast._start_runs

    def slowly(*args, **how):
        time.sleep(0.3)
        return take(*args, **how)

    monkeypatch.setattr(broadcast, "_start_runs", slowly)
    monkeypatch.setattr(broadcast, "claim", lambda rows, limit: list(rows[:limit]))

    at_once(2, lambda _: walk_broadcasts(now=now))
    at_once(2, lambda _: walk_broadcasts(now=now))

    assert Run.objects.count() != Broadcast.objects.get().entered


def test_stopping_waits_for_the_portion_and_is_the_end_of_it():
    found = opened()

    def attempt(number):
        if number:
            return stop(found, by="mia", now=timezone.now())
        return until_none(lambda: walk_broadcasts(now=found.due_at))

    at_once(2, attempt)
    until_none(lambda: walk_broadcasts(now=found.due_at + HOUR))

    found.refresh_from_db()
    assert found.status == "finished"
    assert found.entered == Run.objects.count() <= 10


def test_once_is_once_for_a_portion_and_an_event_of_their_own():
    """Two broadcasts that take the same customers at once; each enters once."""
    make.campaign(
        on="Shop opened",
        system=True,
        pace={"limit": 4, "per": "hour"},
        entry={"rule": "once"},
    )
    for _ in range(12):
        make.customer()
    for _ in range(2):
        make.system_event("Shop opened")
    dispatch_system_events()
    now = timezone.now()

    for hour in range(4):
        then = now + hour * HOUR
        at_once(2, lambda _, then=then: until_none(lambda: walk_broadcasts(now=then)))
        until_none(lambda then=then: walk_broadcasts(now=then))

    assert (
        Run.objects.count() == Run.objects.values("customer").distinct().count() == 12
    )
    assert sum(one.entered for one in Broadcast.objects.all()) == 12
    assert dispatch_events() == 0


def walker() -> subprocess.Popen[bytes]:
    process = start(WALKER)
    wait_until_ready(process)
    return process


def wait_until_they_are_gone():
    """A statement of a killed process may still be at work in the database."""
    others = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND state <> 'idle'"
    )
    for _ in range(100):
        with connection.cursor() as cursor:
            cursor.execute(others)
            if cursor.fetchone() == (0,):
                return
        time.sleep(0.05)
    raise AssertionError("They are still there.")


@pytest.mark.chaos
@pytest.mark.slow
def test_walkers_that_are_killed_leave_no_portion_half_taken_and_none_twice():
    opened(customers=400, limit=60, per="day")
    for _ in range(3):
        walkers = [walker(), walker()]
        for one in walkers:
            go(one)
        time.sleep(0.25)
        for one in walkers:
            one.send_signal(signal.SIGKILL)
        for one in walkers:
            with one:  # Closes its pipes.
                one.wait()
        wait_until_they_are_gone()
        found = Broadcast.objects.get()
        assert found.entered == found.period_taken == Run.objects.count() <= 60

    until_none(walk_broadcasts)

    found = Broadcast.objects.get()
    assert (found.entered, found.portions, Run.objects.count()) == (60, 1, 60)
    assert found.due_at == found.taken_at + timedelta(days=1)

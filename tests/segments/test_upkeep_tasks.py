"""The worker: it goes on while there is work, rests in between, and gives way."""

from __future__ import annotations

import pytest

from segments import tasks
from segments.models import Membership, Segment
from segments.upkeep import KEEP, keeper
from segments.upkeep.keeper import Round
from tests import make

pytestmark = pytest.mark.django_db

PARIS = {"attribute": "city", "op": "=", "value": "Paris"}


class Clock:
    """A clock that goes on only while one works or sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tasks, "time", clock)
    return clock


@pytest.fixture
def rung(monkeypatch) -> list[str]:
    rung: list[str] = []
    monkeypatch.setattr("smartcomm.core.doorbell.ring", rung.append)
    return rung


def test_the_task_keeps_until_there_is_nothing_more_to_do(rung):
    make.customer(city="Paris")
    Segment.objects.create(name="Paris", rule=PARIS)

    tasks.keep()

    assert Membership.objects.count() == 1
    assert Segment.objects.get().status == "fresh"
    assert rung == []


def test_after_long_work_it_leaves_the_database_to_others_for_longer(
    monkeypatch, clock, rung
):
    rounds = [(1.0, True), (0.01, True), (3.0, True), (0.01, False)]

    def keep():
        took, is_more = rounds.pop(0)
        clock.now += took
        return Round(is_more=is_more)

    monkeypatch.setattr(keeper, "keep", keep)

    tasks.keep()

    assert clock.slept == pytest.approx([2.0, 6.0])
    assert rung == []


def test_it_gives_way_after_some_time_and_rings_for_itself(monkeypatch, clock, rung):
    def keep():
        clock.now += 3
        return Round(is_more=True)

    monkeypatch.setattr(keeper, "keep", keep)

    tasks.keep()

    assert clock.now < tasks.SECONDS + 3 + 2 * 3
    assert rung == [KEEP]


def test_for_those_who_are_writing_it_waits_a_little_and_not_for_ever(
    monkeypatch, clock
):
    monkeypatch.setattr(keeper, "keep", lambda: Round(is_waiting=True))

    tasks.keep()

    assert clock.slept == [tasks.SOON] * tasks.TIMES


def test_a_second_task_leaves_the_work_to_the_first(monkeypatch):
    monkeypatch.setattr(keeper, "keep", lambda: pytest.fail("somebody is at it"))

    with tasks._at_work:
        tasks.keep()


def test_a_worker_that_is_asked_to_end_ends(monkeypatch, rung):
    monkeypatch.setattr(tasks, "is_stopping", lambda: True)
    monkeypatch.setattr(keeper, "keep", lambda: pytest.fail("it should end"))

    tasks.keep()

    assert rung == []


def test_the_nightly_task_rings_only_where_something_is_to_be_checked(rung):
    tasks.check()
    assert rung == []

    Segment.objects.create(name="Paris", rule=PARIS)
    keeper.keep_all()
    Segment.objects.update(counted_at="2026-01-01T00:00:00Z")
    tasks.check()

    assert rung == [KEEP]

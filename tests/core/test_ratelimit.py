"""How often one may call: the bucket in Valkey, and what a process holds of it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartcomm.core import ratelimit
from smartcomm.core.ratelimit import HELD_SECONDS, SHARE, Rate, count

NOON = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _fresh():
    start_afresh()
    yield
    start_afresh()


def start_afresh() -> None:
    ratelimit._asked_again_at = 0.0
    ratelimit._held.clear()
    ratelimit.client().flushdb()


class Process:
    """One of several web processes: with handfuls of its own, on the same Valkey."""

    def __init__(self) -> None:
        self.held: dict[str, ratelimit._Held] = {}

    def count(self, who: str, *, limit: int, now: float) -> Rate:
        before, ratelimit._held = ratelimit._held, self.held
        try:
            rate = count(who, limit=limit, now=now)
        finally:
            ratelimit._held = before
        assert rate is not None
        return rate


def let_through(process: Process, requests: int, *, limit: int, now: float) -> int:
    rates = [process.count("a", limit=limit, now=now) for _ in range(requests)]
    return sum(not rate.is_exceeded for rate in rates)


def questions(monkeypatch) -> list[int]:
    """How many were asked for, each time Valkey is asked."""
    asked: list[int] = []
    take = ratelimit._take

    def spy(who, held, moment, now):
        asked.append(held.wanted(moment))
        return take(who, held, moment, now)

    monkeypatch.setattr(ratelimit, "_take", spy)
    return asked


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 39, 159])
def test_a_small_limit_is_kept_to_the_request_by_any_number_of_processes(limit):
    processes = [Process(), Process(), Process()]

    rates = [
        processes[n % 3].count("a", limit=limit, now=NOON) for n in range(limit + 5)
    ]

    assert [rate.is_exceeded for rate in rates] == [False] * limit + [True] * 5
    assert [rate.remaining for rate in rates[:limit]] == list(range(limit))[::-1]


def test_a_quiet_source_is_counted_exactly_whatever_its_limit():
    process, other = Process(), Process()

    for n in range(20):
        process.count("a", limit=1_000, now=NOON + n * 0.06)
    rate = other.count("a", limit=1_000, now=NOON + 1.2)

    # One each 60 ms is filled in again at once; nobody holds any back.
    assert rate.remaining == 999


def test_after_the_limit_one_waits_for_as_long_as_one_is_told():
    process = Process()
    assert let_through(process, 3, limit=2, now=NOON) == 2
    refused = process.count("a", limit=2, now=NOON)

    assert refused.wait == pytest.approx(0.5)
    assert process.count("a", limit=2, now=NOON + 0.49).is_exceeded
    assert not process.count("a", limit=2, now=NOON + 0.51).is_exceeded
    assert process.count("a", limit=2, now=NOON + 0.52).is_exceeded


def test_after_a_second_of_silence_all_is_there_again():
    process = Process()
    assert let_through(process, 40, limit=30, now=NOON) == 30

    assert let_through(process, 40, limit=30, now=NOON + 1) == 30


def test_a_source_that_uses_up_its_limit_takes_nothing_from_another():
    process = Process()
    let_through(process, 5, limit=2, now=NOON)

    assert not process.count("b", limit=2, now=NOON).is_exceeded


def test_a_busy_process_asks_valkey_rarely(monkeypatch):
    asked = questions(monkeypatch)
    process = Process()

    for n in range(2_000):
        rate = process.count("a", limit=2_000, now=NOON + n / 2_000)
        assert not rate.is_exceeded

    assert len(asked) < 60
    assert 64 <= max(asked) <= 2_000 // SHARE


def test_one_who_floods_us_is_refused_without_asking_valkey(monkeypatch):
    process = Process()
    let_through(process, 2_000, limit=1_000, now=NOON)
    asked = questions(monkeypatch)

    assert let_through(process, 10_000, limit=1_000, now=NOON) == 0

    assert not asked


def test_a_process_takes_no_more_than_it_has_used_just_before(monkeypatch):
    asked = questions(monkeypatch)
    process = Process()

    for _ in range(64):
        process.count("a", limit=10_000, now=NOON)
    assert asked == [1] * 8 + [8, 16, 32]
    process.count("a", limit=10_000, now=NOON + 10)

    assert asked[-1] == 1


def test_what_is_held_too_long_is_not_used():
    process = Process()
    let_through(process, 20, limit=10_000, now=NOON)
    (held,) = process.held.values()
    assert held.tokens

    later = NOON + HELD_SECONDS + 0.001
    left = process.count("a", limit=10_000, now=later).remaining

    assert held.taken_at == later
    # It is lost until it is filled in again.
    assert left < 10_000


def test_what_is_held_is_not_filled_in_and_given_out_a_second_time():
    holder, other = Process(), Process()
    let_through(holder, 9, limit=1_000, now=NOON)
    assert holder.held["a"].tokens == 7

    # Almost too long: the bucket has been filled in as much as was taken from it.
    later = NOON + HELD_SECONDS - 0.005
    through = let_through(other, 1_100, limit=1_000, now=later)
    through += let_through(holder, 7, limit=1_000, now=later)

    assert 900 <= through <= 1_000


def test_held_requests_cost_a_burst_a_tenth_of_the_limit_at_most():
    busy, idle = Process(), Process()
    # The one holds as many as it can, and then is asked no more.
    while (held := idle.held.get("a")) is None or held.tokens < 1_000 / SHARE - 1:
        idle.count("a", limit=1_000, now=NOON)
    used = 1_000 - idle.count("a", limit=1_000, now=NOON).remaining

    through = let_through(busy, 1_000, limit=1_000, now=NOON)

    assert used + through >= 1_000 * (1 - 2 / SHARE)
    assert used + through <= 1_000


@settings(deadline=None)
@given(
    limit=st.integers(1, 2_000),
    steps=st.lists(
        st.tuples(
            st.integers(0, 3),  # which process
            st.integers(1, 200),  # how many requests at once
            st.sampled_from([0.0, 0.001, 0.02, 0.05, 0.3, 1.5]),  # and then a pause
        ),
        max_size=40,
    ),
)
def test_in_no_span_of_time_is_more_let_through_than_it_holds(limit, steps):
    """However the requests come, and to whichever process: limit * (1 + t) at most."""
    start_afresh()
    processes = [Process() for _ in range(4)]
    now, through = NOON, []
    for number, requests, pause in steps:
        passed = let_through(processes[number], requests, limit=limit, now=now)
        through.append((now, passed))
        now += pause

    for first, (began, _) in enumerate(through):
        total = 0
        for at, passed in through[first:]:
            total += passed
            assert total <= limit * (1 + at - began) + 0.001


@settings(deadline=None)
@given(limit=st.integers(1, 3_000), pace=st.floats(0.2, 0.85))
def test_who_stays_well_below_the_limit_is_never_refused(limit, pace):
    start_afresh()
    processes = [Process(), Process()]

    for n in range(300):
        now = NOON + n / (limit * pace)
        assert not processes[n % 2].count("a", limit=limit, now=now).is_exceeded


def test_a_raised_limit_holds_at_once():
    process = Process()
    let_through(process, 3, limit=2, now=NOON)

    assert not process.count("a", limit=20, now=NOON).is_exceeded


def test_a_clock_that_was_set_back_locks_nobody_out():
    process = Process()
    let_through(process, 3, limit=2, now=NOON)
    process.held.clear()
    earlier = NOON - 3_600
    assert process.count("a", limit=2, now=earlier).is_exceeded

    process.held.clear()
    assert not process.count("a", limit=2, now=earlier + 1).is_exceeded


def test_without_a_clock_told_valkey_reads_its_own():
    assert count("a", limit=5) == Rate(5, 4, pytest.approx(0.2))


def test_many_callers_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(ratelimit, "MAX_HELD", 3)
    for number in range(10):
        count(f"address:{number}", limit=5, now=NOON)

    assert len(ratelimit._held) <= 3


def test_what_is_kept_in_valkey_goes_by_itself():
    count("a", limit=5)

    assert 0 < ratelimit.client().pttl("rate:a") <= 2_000


def test_counting_a_busy_source_takes_microseconds():
    count("a", limit=1_000_000)
    began = time.thread_time()
    for _ in range(20_000):
        count("a", limit=1_000_000)

    # 2 µs by measurement, and 100 with a round trip for each: far from either.
    assert (time.thread_time() - began) / 20_000 < 30e-6

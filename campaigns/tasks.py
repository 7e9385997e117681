"""Doorbells. Each looks for rows until there are none, or its time is up."""

from __future__ import annotations

import time
from collections.abc import Callable

from celery import shared_task

from campaigns import (
    broadcast,
    checker,
    dispatch,
    engine,
    kept,
    measuring,
    moving,
    planned,
)
from campaigns.bells import CALL, COUNT, REHEARSE, TICK, WALK
from campaigns.rehearsal import orders
from campaigns.webhooks import send
from smartcomm.core import doorbell
from smartcomm.core.stopping import is_stopping

#: After so long a task gives way to others, and rings for itself again.
SECONDS = 20


@shared_task(name=TICK)
def tick() -> None:
    """Pending events and planned times → runs and broadcasts; due runs one step on;
    runs moved.

    A part that fails is left alone until the next tick, and stops none of the others.
    """
    doorbell.answer(TICK)
    faults: dict[str, Exception] = {}

    def work() -> int:
        # One after the other in every round, so that none starves.
        done = 0
        for part in (
            _start_planned,
            _start_broadcasts,
            dispatch.dispatch_events,
            engine.settle_runs,
            engine.settle_calls,
            engine.advance_runs,
            moving.move_some,
        ):
            name = getattr(part, "__name__", "")
            if name in faults:
                continue
            try:
                done += part()
            except Exception as error:
                faults[name] = error
        return done

    _until_done(work, again=TICK)
    if faults:
        raise ExceptionGroup(", ".join(faults), list(faults.values()))


def _start_planned() -> int:
    started = planned.start_planned()
    if started:
        doorbell.ring(WALK)
    return started


def _start_broadcasts() -> int:
    started = dispatch.dispatch_system_events()
    if started:
        doorbell.ring(WALK)
    return started


@shared_task(name=WALK)
def walk_broadcasts() -> None:
    """Broadcasts, chunk by chunk."""
    doorbell.answer(WALK)

    def work() -> int:
        examined = broadcast.walk_broadcasts()
        if examined:
            doorbell.ring(TICK)
        return examined

    _until_done(work, again=WALK)


@shared_task(name=REHEARSE)
def rehearse() -> None:
    """Rehearsals that were asked for, one after the other."""
    doorbell.answer(REHEARSE)
    _until_done(orders.rehearse_next, again=REHEARSE)


@shared_task(name=CALL)
def send_webhooks() -> None:
    """Calls to systems outside. Its worker does nothing else, so it goes on as long as
    there are calls."""
    doorbell.answer(CALL)
    send.send_calls()


@shared_task(name="campaigns.tasks.check")
def check() -> None:
    """Whether the numbers of campaigns add up, one after the other."""
    end = time.monotonic() + SECONDS
    while checker.check_next() and time.monotonic() < end and not is_stopping():
        pass


@shared_task(name="campaigns.tasks.measure")
def measure() -> None:
    """Who reached the goals of campaigns, one step after the other."""
    end = time.monotonic() + SECONDS
    while measuring.measure_next() and time.monotonic() < end and not is_stopping():
        pass


@shared_task(name=COUNT)
def count_reports() -> None:
    """Reports that are dear to count and were looked at."""
    doorbell.answer(COUNT)
    _until_done(kept.count_next, again=COUNT)


def _until_done(work: Callable[[], int], *, again: str) -> None:
    end = time.monotonic() + SECONDS
    while work():
        if is_stopping():
            return  # The tick goes on where the rows say.
        if time.monotonic() > end:
            doorbell.ring(again)
            return

"""Doorbells: the work itself is in segments/upkeep/ and counting.py."""

from __future__ import annotations

import threading
import time

from celery import shared_task

from segments import counting
from segments.upkeep import KEEP, keeper, recount
from smartcomm.core import doorbell
from smartcomm.core.stopping import is_stopping

#: After so long the task gives way, and rings for itself again.
SECONDS = 20
#: After work that took long, the keeper leaves the database to others for so many times
#: as long: while all is busy, upkeep takes no more than its share, and a larger piece
#: the next time costs less for each event.
REST = 2.0
LONG = 0.05
#: So soon it is seen whether those who were writing have ended; some times, then the
#: tick will do.
SOON = 0.2
TIMES = 10

_at_work = threading.Lock()


@shared_task(name=KEEP)
def keep() -> None:
    """Keep the members of segments true, until there is nothing more to do."""
    doorbell.answer(KEEP)
    if not _at_work.acquire(blocking=False):
        return
    try:
        _keep()
    finally:
        _at_work.release()


def _keep() -> None:
    end = time.monotonic() + SECONDS
    waited = 0
    while not is_stopping():
        began = time.monotonic()
        done = keeper.keep()
        took = time.monotonic() - began
        if time.monotonic() > end:
            doorbell.ring(KEEP)
            return
        if done.is_more:
            waited = 0
            if took > LONG:
                time.sleep(took * REST)
        elif done.is_waiting and waited < TIMES:
            waited += 1
            time.sleep(SOON)
        else:
            return


@shared_task
def check() -> None:
    """Have all segments counted once a night, to prove that their members are right."""
    if recount.want_checks():
        doorbell.ring(KEEP)


@shared_task(name=counting.COUNT)
def count_exactly() -> None:
    """Count the rules that somebody waits for, until no more are waiting."""
    doorbell.answer(counting.COUNT)
    counting.work()

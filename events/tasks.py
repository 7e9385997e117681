"""Doorbells of events. The work itself is rows, and stands in the modules named."""

from __future__ import annotations

import time
from collections.abc import Callable

from celery import shared_task

from events import idempotency, replays
from events.importing import run
from smartcomm.core import doorbell
from smartcomm.core.clock import database_now
from smartcomm.core.stopping import is_stopping

#: After so long a replay gives way to others, and rings for itself again;
REPLAY_SECONDS = 5
#: and so does an import to others that wait.
IMPORT_SECONDS = 30


@shared_task
def forget_old_keys() -> None:
    now = database_now()
    while idempotency.forget_old_keys(now=now) and not is_stopping():
        pass


@shared_task(name=replays.ADVANCE)
def advance_replays() -> None:
    """Rejected events through the door again, a batch of each replay in turn."""
    doorbell.answer(replays.ADVANCE)
    is_over = _turn_of(REPLAY_SECONDS)
    while replays.advance_replays():
        if is_stopping():
            return  # The tick goes on where the rows say.
        if is_over():
            doorbell.ring(replays.ADVANCE)
            return


@shared_task(name=run.RUN)
def run_imports() -> None:
    """Files that were uploaded, one after the other."""
    doorbell.answer(run.RUN)
    while not is_stopping() and (one := run.claim_next(now=database_now())):
        run.work_on(one, stop=_turn_of(IMPORT_SECONDS))
        run.let_go(one)


def _turn_of(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: is_stopping() or time.monotonic() > end

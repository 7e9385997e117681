"""Housekeeping, and the doorbell of imports (see events/importing/run.py)."""

from __future__ import annotations

import time
from collections.abc import Callable

from celery import shared_task
from django.utils import timezone

from events import idempotency
from events.importing import run
from smartcomm.core import doorbell
from smartcomm.core.stopping import is_stopping

#: After so long an import gives way to others that wait, and has its turn again.
SECONDS = 30


@shared_task
def forget_old_keys() -> None:
    now = timezone.now()
    while idempotency.forget_old_keys(now=now) and not is_stopping():
        pass


@shared_task(name=run.RUN)
def run_imports() -> None:
    doorbell.answer(run.RUN)
    while not is_stopping() and (one := run.claim_next(now=timezone.now())):
        run.work_on(one, stop=_its_turn_is_over(time.monotonic() + SECONDS))
        run.let_go(one)


def _its_turn_is_over(end: float) -> Callable[[], bool]:
    return lambda: is_stopping() or time.monotonic() > end

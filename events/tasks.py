"""Doorbells of events. The work itself is rows, and stands in the modules named."""

from __future__ import annotations

import time

from celery import shared_task
from django.utils import timezone

from events import idempotency, replays
from smartcomm.core import doorbell
from smartcomm.core.stopping import is_stopping

#: After so long a task gives way to others, and rings for itself again.
SECONDS = 5


@shared_task
def forget_old_keys() -> None:
    now = timezone.now()
    while idempotency.forget_old_keys(now=now) and not is_stopping():
        pass


@shared_task(name=replays.ADVANCE)
def advance_replays() -> None:
    """Rejected events through the door again, a batch of each replay in turn."""
    doorbell.answer(replays.ADVANCE)
    end = time.monotonic() + SECONDS
    while replays.advance_replays():
        if is_stopping():
            return  # The tick goes on where the rows say.
        if time.monotonic() > end:
            doorbell.ring(replays.ADVANCE)
            return

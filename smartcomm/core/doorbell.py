"""Wake a worker. Losing a ring costs seconds, never work: the rows are the queue."""

from __future__ import annotations

import structlog
from celery import current_app
from django.core.cache import cache
from django.db import transaction

logger = structlog.get_logger(__name__)

#: A ring that nobody answered for so long no longer keeps others from ringing.
UNANSWERED_SECONDS = 5


def ring(task: str) -> None:
    """Wake `task` when the current transaction has committed.

    Many rings before the worker answers are one. Never raises: with the broker
    away the next tick finds the rows.
    """
    transaction.on_commit(lambda: _ring_now(task), robust=True)


def answer(task: str) -> None:
    """Say that `task` is awake, before it looks for rows: later rings count again."""
    try:
        cache.delete(_key(task))
    except Exception:
        logger.warning("doorbell.cache_away", task=task)


def _ring_now(task: str) -> None:
    try:
        if cache.add(_key(task), 1, timeout=UNANSWERED_SECONDS):
            current_app.send_task(task)
    except Exception:
        # Whatever the broker's client raises: the rows are safe, the tick comes.
        logger.warning("doorbell.broker_away", task=task)


def _key(task: str) -> str:
    return f"doorbell:{task}"

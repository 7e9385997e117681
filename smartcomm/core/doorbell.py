"""Wake a worker. Losing a ring costs seconds, never work: the rows are the queue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import structlog
from celery import current_app
from django.core.cache import cache
from django.db import transaction

logger = structlog.get_logger(__name__)

#: A ring that nobody answered for so long no longer keeps others from ringing.
UNANSWERED_SECONDS = 5
#: How long this process leaves Valkey alone once it did not answer: whoever records
#: events must not wait for a bell each time. The tick finds the rows meanwhile.
LEFT_ALONE_SECONDS = 5.0

_asked_again_at = 0.0
_is_muted: ContextVar[bool] = ContextVar("doorbell_muted", default=False)


@contextmanager
def muted() -> Iterator[None]:
    """Ring nowhere, where the rows that are written are nobody's work."""
    before = _is_muted.set(True)
    try:
        yield
    finally:
        _is_muted.reset(before)


def ring(task: str) -> None:
    """Wake `task` when the current transaction has committed.

    Many rings before the worker answers are one. Never raises: with the broker
    away the next tick finds the rows.
    """
    if not _is_muted.get():
        transaction.on_commit(lambda: _ring_now(task), robust=True)


def answer(task: str) -> None:
    """Say that `task` is awake, before it looks for rows: later rings count again."""
    if _is_left_alone():
        return
    try:
        cache.delete(_key(task))
    except Exception:
        _leave_alone()
        logger.warning("doorbell.cache_away", task=task)


def _ring_now(task: str) -> None:
    if _is_left_alone():
        return
    try:
        if cache.add(_key(task), 1, timeout=UNANSWERED_SECONDS):
            current_app.send_task(task)
    except Exception:
        # Whatever the broker's client raises: the rows are safe, the tick comes.
        _leave_alone()
        logger.warning("doorbell.broker_away", task=task)


def _is_left_alone() -> bool:
    return time.monotonic() < _asked_again_at


def _leave_alone() -> None:
    global _asked_again_at
    _asked_again_at = time.monotonic() + LEFT_ALONE_SECONDS


def _key(task: str) -> str:
    return f"doorbell:{task}"

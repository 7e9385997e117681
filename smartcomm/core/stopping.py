"""Whether this worker was asked to end.

Tasks loop over rows for many seconds. They ask here between two rounds, so that a
worker ends in a moment and nothing is cut in the middle.
"""

from __future__ import annotations

import threading

from celery.signals import worker_shutting_down

_asked = threading.Event()


@worker_shutting_down.connect
def _note(**kwargs: object) -> None:
    _asked.set()


def is_stopping() -> bool:
    return _asked.is_set()

"""Doorbells: the work itself is in refresh.py."""

from celery import shared_task

from segments import refresh
from smartcomm.core import doorbell


@shared_task(name=refresh.REFRESH)
def refresh_stale() -> None:
    doorbell.answer(refresh.REFRESH)
    refresh.refresh_stale()

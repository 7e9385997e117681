"""Housekeeping."""

from celery import shared_task
from django.utils import timezone

from events import idempotency
from smartcomm.core.stopping import is_stopping


@shared_task
def forget_old_keys() -> None:
    now = timezone.now()
    while idempotency.forget_old_keys(now=now) and not is_stopping():
        pass

"""Wake-ups. The work is rows, and stands in messaging.send."""

from time import monotonic

from celery import shared_task

from messaging import send
from messaging.queue import SEND_TASK
from smartcomm.core import doorbell, stopping

#: Then others have their turn; the bell rings again for what is left.
SECONDS_AT_MOST = 30


@shared_task(name=SEND_TASK)
def send_messages() -> None:
    doorbell.answer(SEND_TASK)
    stop_at = monotonic() + SECONDS_AT_MOST
    while send.send_messages():
        if stopping.is_stopping():
            return  # The next worker, or tick, goes on where the rows say.
        if monotonic() > stop_at:
            doorbell.ring(SEND_TASK)
            return


@shared_task
def close_interrupted() -> None:
    send.close_interrupted()

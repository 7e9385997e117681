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
    if not send.crew.join():
        return  # Those at work look for what this bell rang for.
    try:
        is_done = _send_all()
    except BaseException:
        send.crew.leave()
        raise  # The tick comes.
    if send.crew.leave() or not (is_done or stopping.is_stopping()):
        doorbell.ring(SEND_TASK)


def _send_all() -> bool:
    """Send until nothing is due. Returns whether that was reached."""
    stop_at = monotonic() + SECONDS_AT_MOST
    while True:
        while send.send_messages():
            # Stopped: the next worker, or tick, goes on where the rows say.
            if stopping.is_stopping() or monotonic() > stop_at:
                return False
        if not send.crew.is_called():
            return True


@shared_task
def close_interrupted() -> None:
    send.close_interrupted()

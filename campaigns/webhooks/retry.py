"""When to try a call again. Pure, so that it can be read as a table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

#: After the first try, after the second, and so on; then always the last.
PAUSES = (
    timedelta(seconds=10),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(hours=2),
    timedelta(hours=4),
)
#: A pause that no clock could hold means: never again.
NEVER = timedelta(days=10_000)


def next_try(
    attempts: int,
    *,
    now: datetime,
    expires_at: datetime,
    retry_after: timedelta | None = None,
) -> datetime | None:
    """When to try again after this many tries; None means give up.

    A receiver may ask for a longer pause, not for a shorter one.
    """
    pause = PAUSES[min(max(attempts, 1), len(PAUSES)) - 1]
    if retry_after is not None:
        pause = max(pause, retry_after)
    return now + pause if now + pause <= expires_at else None


def can_help(status: int) -> bool:
    """Whether the same call may be answered otherwise later."""
    return status == 429 or 500 <= status <= 599


def read_retry_after(text: str, *, now: datetime) -> timedelta | None:
    """How long a receiver asks to be left alone: seconds, or a date of HTTP."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:12])), NEVER)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(moment - now, timedelta(0)), NEVER)

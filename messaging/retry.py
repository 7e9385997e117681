"""When to try a message again. Pure, so that it can be read as a table."""

from __future__ import annotations

from datetime import datetime, timedelta

#: After the first failed attempt, after the second, and so on; then it is given up.
PAUSES = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=12),
)


def next_attempt(
    attempts: int, *, permanent: bool, now: datetime, expires_at: datetime
) -> datetime | None:
    """When to try again after this many attempts; None means give up.

    A try that would come after the message's time to live is not made.
    """
    if permanent or attempts > len(PAUSES):
        return None
    moment = now + PAUSES[max(attempts, 1) - 1]
    return moment if moment <= expires_at else None

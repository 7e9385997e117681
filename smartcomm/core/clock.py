"""What time it is: the same for all processes, whatever the clocks of their machines.

Leases, due times and "since when" are written by one process and read by another. By
clocks that differ, a wait of a minute would be none, an event that came in right after
publishing would count as older, and a lease could end while it is new. So whoever
writes or reads such times asks here, and gets the time of the database.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter

from django.conf import settings
from django.db import Error, connection
from django.utils import timezone

from smartcomm.core.db import fetch_all

#: The database is asked once in so many seconds; meanwhile the stop watch of this
#: process goes on from there.
ASK_AGAIN_SECONDS = 10.0
#: When the answer was given is known to half of what it took on its way. One that took
#: longer than this is asked for again, a few times, and the quickest is gone by.
QUICK_SECONDS = 0.005
TRIES = 5


@dataclass(frozen=True, slots=True)
class _Asked:
    told: datetime
    #: time.monotonic, halfway between question and answer.
    at: float

    @property
    def seconds_ago(self) -> float:
        return time.monotonic() - self.at

    @property
    def now(self) -> datetime:
        return self.told + timedelta(seconds=self.seconds_ago)


_asked: _Asked | None = None


def database_now() -> datetime:
    """The time by the clock of the database. Costs a query once in ten seconds."""
    global _asked
    if not settings.CLOCK_OF_DATABASE:
        return timezone.now()
    known = _asked
    if known is None or known.seconds_ago > ASK_AGAIN_SECONDS:
        try:
            known = _asked = _ask()
        except Error:
            # Whoever asked finds out by what it does next, if that is still so then.
            if known is None or connection.in_atomic_block:
                raise
            connection.close()
            known = _asked = _Asked(known.now, time.monotonic())
    return known.now


def forget() -> None:
    """Ask the database the next time. For tests."""
    global _asked
    _asked = None


def _ask() -> _Asked:
    # To open a connection may take seconds, and must not count as the way of an answer.
    connection.ensure_connection()
    quickest, found = _measure()
    for _ in range(TRIES - 1):
        if quickest <= QUICK_SECONDS:
            break
        quickest, found = min((quickest, found), _measure(), key=itemgetter(0))
    return found


def _measure() -> tuple[float, _Asked]:
    """What the answer took, in seconds, and what it was."""
    before = time.monotonic()
    [(told,)] = fetch_all("SELECT clock_timestamp()")
    after = time.monotonic()
    return after - before, _Asked(told, (before + after) / 2)

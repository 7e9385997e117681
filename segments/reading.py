"""Reading for people who wait: nothing is written, and nothing is read for long.

On the replica where there is one (`DATABASE_REPLICA_URL`), so that a rule that is dear
does not slow down those who write.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, OperationalError, transaction

from smartcomm.core.db import QUERY_CANCELED, fetch_all, sqlstate
from smartcomm.core.errors import UserError

REPLICA = "replica"
#: What a replica answers when what it reads was just cleaned up on the primary.
RECOVERY_CONFLICT = "40001"


#: What is said of a fault that is nobody's who made a rule.
FAULT = "Counting failed. Whoever runs this installation finds the cause in its log."


class TooDear(UserError):
    """A rule cannot be counted in the time that is allowed for it."""

    code = "too_dear"
    status = 422


class Stopped(Exception):
    """A statement was ended from outside, not by its time limit."""


def source() -> str:
    """The alias of the database to read from."""
    return REPLICA if REPLICA in settings.DATABASES else DEFAULT_DB_ALIAS


@contextmanager
def read_only(
    limit_ms: int, *, using: str = DEFAULT_DB_ALIAS, **local: str
) -> Iterator[None]:
    """A transaction that can write nothing, with a time limit for each statement.

    `local` are settings of PostgreSQL for its length. Works inside another transaction
    as well, and leaves that one as it was. Raises TooDear when a statement takes too
    long, Stopped when somebody else ended it.
    """
    began = time.monotonic()
    try:
        with transaction.atomic(using=using):
            _set({"transaction_read_only": "on", **local}, limit_ms, using)
            yield
            # Within another transaction this takes the settings back.
            transaction.set_rollback(True, using=using)
    except OperationalError as error:
        state = sqlstate(error)
        if state not in (QUERY_CANCELED, RECOVERY_CONFLICT):
            raise
        # Which of both it was, PostgreSQL says in the language of its administrator.
        is_early = time.monotonic() - began < limit_ms / 1000
        if state == QUERY_CANCELED and is_early:
            raise Stopped from error
        raise TooDear(too_long(limit_ms)) from error


def too_long(limit_ms: int, what: str = "Counting") -> str:
    """What is said of a rule that took longer than is allowed."""
    return (
        f"{what} takes longer than {limit_ms / 1000:g} seconds, and was stopped. "
        "Shorten the periods, or ask for rarer events."
    )


def _set(local: Mapping[str, str], limit_ms: int, using: str) -> None:
    names = {**local, "statement_timeout": str(max(1, limit_ms))}
    calls = ", ".join(["set_config(%s, %s, true)"] * len(names))
    fetch_all(
        f"SELECT {calls}", [one for pair in names.items() for one in pair], using=using
    )

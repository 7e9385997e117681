"""Up to where it is known what was committed.

Ids are given out before their rows are committed, and not in the order in which they
are. Whoever writes to a table holds a lock on it from before the first id until after
the commit; so once those who held one at a time have let go, all ids given out until
then are there to be seen, or never will be. Nobody is made to wait.
"""

from __future__ import annotations

from collections.abc import Collection

from segments import outside
from segments.rules import RuleError
from smartcomm.core.db import fetch_all

#: Where rows are found by their ids alone.
BY_ID = ("events_event", "customers_customer")
#: Where changes are noted if any segment looks at them.
NOTED = (
    "customers_customer",
    "customers_consent",
    "customers_device",
    "segments_membership",
)

WRITERS = """
    SELECT DISTINCT virtualtransaction
      FROM pg_locks
     WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND relation = ANY(SELECT to_regclass(name) FROM unnest(%s::text[]) AS name)
       AND pid IS DISTINCT FROM pg_backend_pid()
"""
LAST_ID = """
    SELECT coalesce(pg_sequence_last_value(
        pg_get_serial_sequence(%s, 'id')::regclass), 0)
"""


def writers(tables: Collection[str]) -> list[str]:
    """The other transactions that are writing to one of these tables now."""
    return sorted(one for (one,) in fetch_all(WRITERS, [list(tables)]))


def have_ended(waited_for: Collection[str], tables: Collection[str]) -> bool:
    """Whether none of these writers is at it any more."""
    return not waited_for or not set(waited_for) & set(writers(tables))


def last_id(table: str) -> int:
    """The highest id that was given out so far, committed or not."""
    return int(fetch_all(LAST_ID, [table])[0][0])


def noted_tables() -> list[str]:
    """All tables whose triggers ask what segments look at."""
    try:
        known = outside.known()
    except RuleError:
        return list(NOTED)
    return [*NOTED, known.messages, known.suppressions]

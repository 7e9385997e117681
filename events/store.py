"""Events → the table: one statement for any number of them, and shared commits.

A commit costs more than an event. So requests that carry a few events each, and come at
the same moment, are written by one of them for all: whoever comes while another writes
is in the next group. Alone, a request waits for nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import structlog
from django.conf import settings
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from events.signals import events_recorded
from smartcomm.core.db import fetch_all

logger = structlog.get_logger(__name__)

# One statement, and one parameter for all rows: the fastest of the forms that were
# measured. Customers are locked against being erased, in the order of their ids, and
# events inserted in a fixed order, so that two batches never wait crosswise. If a
# customer is missing, nothing is inserted at all. Whether a campaign waits for a type
# is read here, as late as can be; the queue is in the order of the events. Of repeated
# events those that were new are named.
RECORD = """
    WITH sent AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(%s::jsonb) AS sent (
               customer text, type_id bigint, source_id bigint, external_id text,
               occurred_at timestamptz, received_at timestamptz, context jsonb,
               is_backfill boolean)
    ), known AS MATERIALIZED (
        SELECT id, external_id FROM customers_customer
         WHERE external_id = ANY(
                   (SELECT array_agg(DISTINCT customer) FROM sent)::text[])
         ORDER BY id
           FOR KEY SHARE
    ), recorded AS (
        INSERT INTO events_event (customer_id, type_id, source_id, external_id,
                                  occurred_at, received_at, context, is_backfill)
        SELECT known.id, type_id, source_id, sent.external_id,
               occurred_at, received_at, context, is_backfill
          FROM sent JOIN known ON known.external_id = sent.customer
         WHERE (SELECT count(*) FROM known)
             = (SELECT count(DISTINCT customer) FROM sent)
         ORDER BY known.id, source_id, sent.external_id
            ON CONFLICT DO NOTHING
        RETURNING id, customer_id, source_id, external_id, type_id, is_backfill
    ), queued AS (
        INSERT INTO events_pendingevent (event_id, customer_id, type_id)
        SELECT recorded.id, customer_id, type_id
          FROM recorded JOIN events_eventtype AS type
            ON type.id = type_id AND type.is_awaited
         WHERE NOT is_backfill
         ORDER BY recorded.id
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM known),
           (SELECT count(*) FROM queued),
           CASE WHEN (SELECT count(*) FROM recorded) < (SELECT count(*) FROM sent)
                THEN (SELECT coalesce(json_agg(json_build_array(known.external_id,
                                   source_id, recorded.external_id)), '[]')::text
                        FROM recorded JOIN known ON known.id = customer_id) END
"""

#: What an event counts once by: the customer's external id, the source's id, the id.
Key = tuple[str, int, str]

#: Runs `RECORD` on rows as JSON, and returns its one row.
Run = Callable[[bytes], tuple[int, int, str | None]]


class Sent(msgspec.Struct):
    """An event as `RECORD` takes it."""

    customer: str
    type_id: int
    source_id: int
    external_id: str
    occurred_at: datetime
    received_at: datetime
    context: Any
    is_backfill: bool

    @property
    def key(self) -> Key:
        return self.customer, self.source_id, self.external_id


@dataclass(frozen=True, slots=True)
class Inserted:
    """Which events were new, and whether some of them wait for campaigns."""

    keys: set[Key]
    has_queued: bool


def insert(sent: Sequence[Sent], run: Run) -> Inserted | None:
    """Insert what is new of these, each key once among them.

    None, and nothing inserted, if one of their customers is not there.
    """
    known, queued, named = run(msgspec.json.encode(sent))
    if known < len({one.customer for one in sent}):
        return None
    if named is None:
        return Inserted({one.key for one in sent}, bool(queued))
    return Inserted(set(msgspec.json.decode(named, type=list[Key])), bool(queued))


def run_here(rows: bytes) -> tuple[int, int, str | None]:
    """Run `RECORD` on the connection, and in the transaction, of this thread."""
    [(known, queued, named)] = fetch_all(RECORD, [rows.decode()])
    return known, queued, named


# Sharing a commit

#: So few events share the commit of others; more are worth one of their own.
MOST_SHARED = 50
#: So many events are written in one group.
MOST_IN_GROUP = 500
#: A group does not wait for a customer who is locked, as while being merged: each of
#: its requests goes on alone, and only those wait that have to.
LOCK_TIMEOUT = "500ms"


class Unshared(Exception):
    """The group came to nothing: write the events alone."""


class _Ticket:
    """A request's place in a group."""

    __slots__ = ("gate", "keys", "sent", "state")

    WAITING, LEADS, DONE, ALONE = range(4)

    def __init__(self, sent: Sequence[Sent]) -> None:
        self.sent = sent
        self.state = self.WAITING
        self.keys: set[Key] | None = None
        # Cheaper than an Event: it is let through once, by whoever sets the state.
        self.gate = threading.Lock()
        self.gate.acquire()


class SharedCommits:
    """One writer at a time for a process; who waits is written with the next group."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Ticket] = []
        self._is_led = False
        self._connection: BaseDatabaseWrapper | None = None

    def record(self, sent: Sequence[Sent]) -> set[Key] | None:
        """Insert what is new of these, as `insert` does; None if a customer is missing.

        Committed when it returns. Raises Unshared, with nothing of these committed as
        far as is known, when the group failed.
        """
        ticket = _Ticket(sent)
        with self._lock:
            self._waiting.append(ticket)
            leads = not self._is_led
            self._is_led = True
        if not leads:
            ticket.gate.acquire()
            leads = ticket.state == ticket.LEADS
        if leads:
            self._lead()
        if ticket.state == ticket.ALONE:
            raise Unshared
        return ticket.keys

    def _lead(self) -> None:
        with self._lock:
            group = self._next_group()
        try:
            self._write(group)
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._is_led = following is not None
            if following is not None:
                following.state = following.LEADS
                following.gate.release()
            for ticket in group[1:]:
                ticket.gate.release()

    def _next_group(self) -> list[_Ticket]:
        count = size = 0
        for ticket in self._waiting:
            size += len(ticket.sent)
            if count and size > MOST_IN_GROUP:
                break
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    def _write(self, group: list[_Ticket]) -> None:
        # Until it is known to be written, whatever happens to whoever leads.
        for ticket in group:
            ticket.state = ticket.ALONE
        first: dict[Key, Sent] = {}
        for ticket in group:
            for one in ticket.sent:
                first.setdefault(one.key, one)
        try:
            inserted = insert(list(first.values()), self._run)
        except DatabaseError as error:
            self._note(error, group)
            return
        if inserted is None:
            if len(group) == 1:
                group[0].state = _Ticket.DONE
            return
        for ticket in group:
            keys = {one.key for one in ticket.sent}
            ticket.keys = inserted.keys & keys
            # Sent by two requests of the group, it is new to the first.
            inserted.keys.difference_update(ticket.keys)
            ticket.state = ticket.DONE
        if inserted.has_queued:
            events_recorded.send_robust(sender=None)

    def _run(self, rows: bytes) -> tuple[int, int, str | None]:
        wrapper = self._connection = self._connection or _connect()
        with wrapper.wrap_database_errors:
            return _run_prepared(wrapper.connection.pgconn, rows)

    def _note(self, error: DatabaseError, group: list[_Ticket]) -> None:
        logger.warning("events.unshared", requests=len(group), error=str(error))
        wrapper = self._connection
        if wrapper is not None and wrapper.connection.closed:
            self.close()

    def close(self) -> None:
        """End the connection; the next group makes another."""
        wrapper, self._connection = self._connection, None
        if wrapper is not None:
            wrapper.close()


def _connect() -> BaseDatabaseWrapper:
    """A connection for whichever thread leads, and for nothing else.

    Not from the pool: those who wait for the leader may have taken all of it.
    """
    wrapper = connections.create_connection("default")
    options = wrapper.settings_dict["OPTIONS"]
    wrapper.settings_dict = {
        **wrapper.settings_dict,
        "OPTIONS": {name: options[name] for name in options if name != "pool"},
    }
    wrapper.inc_thread_sharing()
    wrapper.ensure_connection()
    with wrapper.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        # The plan is the same for any number of rows; making it takes longer than
        # following it.
        cursor.execute("SET plan_cache_mode = force_generic_plan")
    if settings.DATABASE_PREPARES:
        _checked(wrapper.connection.pgconn.prepare(PREPARED, SQL))
    return wrapper


# Past psycopg's cursors, whose care for any statement costs more than this one takes.
PREPARED = b"smartcomm_record"
SQL = RECORD.replace("%s", "$1").encode()


def _run_prepared(libpq: PGconn, rows: bytes) -> tuple[int, int, str | None]:
    result = _checked(
        libpq.exec_prepared(PREPARED, [rows])
        if settings.DATABASE_PREPARES
        else libpq.exec_params(SQL, [rows])
    )
    known, queued, named = (result.get_value(0, column) for column in range(3))
    return int(known or 0), int(queued or 0), named.decode() if named else None


def _checked(result: PGresult) -> PGresult:
    if result.status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        return result
    raise error_from_result(result)


shared = SharedCommits()

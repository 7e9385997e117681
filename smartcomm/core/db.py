"""What every customer-owned table and every table-queue has in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, Error, connection, connections, models
from psycopg import OperationalError
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus

M = TypeVar("M", bound=models.Model)


class CustomerOwned(models.Model):
    """A row that belongs to one customer.

    `customer_id` is the distribution column when the tables outgrow one machine:
    every unique key of such a table contains it. It is never updated, but where two
    customers are merged: each such table has a mover, see customers/merging.py.
    """

    class Meta:
        abstract = True

    def _do_update(
        self,
        base_qs: Any,
        using: Any,
        pk_val: Any,
        values: Any,
        update_fields: Any,
        forced_update: Any,
        *more: Any,
    ) -> Any:
        values = [value for value in values if value[0].attname != "customer_id"]
        return super()._do_update(
            base_qs, using, pk_val, values, update_fields, forced_update, *more
        )


def claim(rows: models.QuerySet[M], limit: int) -> list[M]:
    """Lock the first `limit` of these rows that no other worker holds.

    Call inside a transaction: the locks last until it ends. Rows that others
    hold are passed over, so that workers never wait for each other.
    """
    return list(rows.select_for_update(of=("self",), skip_locked=True)[:limit])


def fetch_all(
    sql: str,
    params: Sequence[Any] | Mapping[str, Any] = (),
    *,
    using: str = DEFAULT_DB_ALIAS,
) -> list[tuple[Any, ...]]:
    """Run one statement on that database and return its rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql, params)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def execute(sql: str, params: Sequence[Any] | dict[str, Any] = ()) -> int:
    """Run one statement and return how many rows it touched."""
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return int(cursor.rowcount)


#: Tables grow: a plan for a few rows must not stay until they are analysed.
PLANNED_ANEW_AFTER = 100


class Prepared:
    """A statement of the hot path, which a connection parses and plans now and then.

    `types` are its parameters and what they are in SQL; it names them as usual.
    """

    def __init__(self, name: str, sql: str, **types: str) -> None:
        self.sql = sql
        self.types = types
        self._name = name
        numbers = {key: f"${number}" for number, key in enumerate(types, 1)}
        self._prepare = f"PREPARE {name} ({', '.join(types.values())}) AS " + (
            sql % numbers
        )

    def fetch_all(self, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run it and return its rows."""
        # A transaction, or whoever counts statements, needs to know of each.
        if (
            not settings.DATABASE_PREPARES
            or connection.in_atomic_block
            or connection.queries_logged
        ):
            return fetch_all(self.sql, params)
        connection.ensure_connection()
        line = connection.connection
        uses: dict[str, int] = vars(line).setdefault("prepared_uses", {})
        if (used := uses.get(self._name, 0)) % PLANNED_ANEW_AFTER == 0:
            execute(f"DEALLOCATE {self._name};" * bool(used) + self._prepare)
        uses[self._name] = used + 1
        # Past the cursors, whose care for any statement costs as much as this one.
        values = [_as_text(params[name]) for name in self.types]
        with connection.wrap_database_errors:
            result = line.pgconn.exec_prepared(self._name.encode(), values)
            if line.pgconn.status != ConnStatus.OK:
                raise OperationalError("The connection to the database was lost.")
            if result.status != ExecStatus.TUPLES_OK:
                raise error_from_result(result)
            loaded = Transformer(line)
            loaded.set_pgresult(result)
            rows: list[tuple[Any, ...]] = loaded.load_rows(0, result.ntuples, tuple)
            return rows


def _as_text(value: object) -> bytes:
    return (value.isoformat() if isinstance(value, datetime) else str(value)).encode()


#: A statement was ended: by its time limit, or from outside.
QUERY_CANCELED = "57014"


def sqlstate(error: Error) -> str:
    """PostgreSQL's five letters for what went wrong; empty where it said nothing."""
    return getattr(error.__cause__, "sqlstate", None) or ""


def batches(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    """Cut a stream into lists of at most `size` items."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

"""What every customer-owned table and every table-queue has in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, Error, connection, connections, models

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

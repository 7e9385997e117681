"""Going through what is too long for one page: every page costs what the first costs.

A page is found by its place (the time and id where the last one ended), never by
counting rows to skip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

from django.db import OperationalError, connection, models, transaction
from django.db.models import Max, Min
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan

from smartcomm.core.db import QUERY_CANCELED, sqlstate
from smartcomm.core.errors import Invalid

M = TypeVar("M", bound=models.Model)
T = TypeVar("T")

#: Rows are counted one by one up to here.
EXACT_UP_TO = 10_000
#: Counting is given up after so long; a number in a heading is not worth more.
COUNTING_MS = 500

_BIGGEST_ID = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some of the items, and the cursor for those after them (empty at the end)."""

    items: list[T]
    next: str = ""


@dataclass(frozen=True, order=True)
class Place:
    """Where an item stands on a time line that is read backwards.

    `stream` keeps apart ids of different tables; at the same moment the higher
    stream is the newer one.
    """

    at: datetime
    stream: int
    id: int

    def cursor(self) -> str:
        """The place as text for an address; `read_cursor` is its way back."""
        return f"{(self.at - _EPOCH) // _MICROSECOND}.{self.stream}.{self.id}"


def read_cursor(text: str) -> Place:
    """The place that a cursor stands for, or Invalid."""
    try:
        at, stream, pk = (int(part) for part in text.split("."))
        if not 0 <= pk <= _BIGGEST_ID:
            raise ValueError
        return Place(_EPOCH + at * _MICROSECOND, stream, pk)
    except (ValueError, OverflowError) as error:
        raise Invalid(
            "This cursor is not one of ours. Start again without it.", field="cursor"
        ) from error


class HasPlace(Protocol):
    @property
    def place(self) -> Place: ...


P = TypeVar("P", bound=HasPlace)

#: Answers with the newest items older than (a time, an id), newest first.
Stream = Callable[[tuple[datetime, int] | None, int], Sequence[P]]


def merge(streams: Mapping[int, Stream[P]], *, before: str, limit: int) -> Page[P]:
    """One page of several streams, newest first, each asked for no more than a page."""
    place = read_cursor(before) if before else None
    found: list[P] = []
    for number, stream in streams.items():
        bound = None
        if place is not None:
            # What stands at the very moment of the cursor has been shown if its
            # stream is the higher one, and is still to come if it is the lower.
            last = place.id if number == place.stream else 0
            bound = (place.at, _BIGGEST_ID if number < place.stream else last)
        found.extend(stream(bound, limit + 1))
    found.sort(key=lambda item: item.place, reverse=True)
    items = found[:limit]
    return Page(items, items[-1].place.cursor() if len(found) > limit else "")


def newest_below(
    rows: models.QuerySet[M], time: str, bound: tuple[datetime, int] | None, limit: int
) -> models.QuerySet[M]:
    """The first rows older than `bound` by (time, id), newest first.

    One row comparison, which an index on the two columns answers by itself.
    """
    if bound is not None:
        rows = rows.filter(TupleLessThan(Tuple(time, "id"), bound))
    return rows.order_by(f"-{time}", "-id")[:limit]


def first_id_since(model: type[models.Model], time: str, moment: datetime) -> int:
    """The id from which the rows of a journal are as late as `moment`.

    For tables that are only ever appended to, with `time` the time of appending: the
    ids are searched by halving, some twenty look-ups by primary key at any size, and
    no index on the time is needed. Without such rows: one past the last id.
    """
    rows = model._default_manager.order_by("pk").values_list("pk", time)
    ends = model._default_manager.aggregate(low=Min("pk"), high=Max("pk"))
    if ends["high"] is None:
        return 1
    low, high = ends["low"], ends["high"] + 1
    while low < high:
        middle = (low + high) // 2
        row = rows.filter(pk__gte=middle).first()
        if row is None or row[1] >= moment:
            high = middle
        else:
            low = row[0] + 1
    return int(low)


@dataclass(frozen=True)
class Count:
    """How many rows, as far as it was worth finding out."""

    number: int
    exact: bool = True
    at_least: bool = False

    def __str__(self) -> str:
        if self.at_least:
            return f"more than {self.number:,}" if self.number else "many"
        return f"{self.number:,}" if self.exact else f"about {self.number:,}"


# The planner's own estimate, brought up to date with the table's present size.
ESTIMATE = """
    SELECT CASE WHEN relpages > 0 AND reltuples >= 0
           THEN reltuples / relpages
                * (pg_relation_size(oid) / current_setting('block_size')::int)
           END
      FROM pg_class WHERE oid = %s::regclass
"""


def estimate(model: type[models.Model]) -> int | None:
    """About how many rows the table has; None if nobody has looked at it yet."""
    with connection.cursor() as cursor:
        cursor.execute(ESTIMATE, [connection.ops.quote_name(model._meta.db_table)])
        row = cursor.fetchone()
    return None if row is None or row[0] is None else round(row[0])


def count(rows: models.QuerySet[Any], *, up_to: int = EXACT_UP_TO) -> Count:
    """Count, but no further than `up_to` and for no longer than half a second.

    A whole table is estimated when it is bigger than that.
    """
    if not rows.query.where and not rows.query.combinator:
        estimated = estimate(rows.model)
        if estimated is not None and estimated > up_to:
            return Count(estimated, exact=False)
    try:
        number = _count_for_a_while(rows, up_to + 1)
    except OperationalError as error:
        if sqlstate(error) != QUERY_CANCELED:
            raise
        return Count(0, exact=False, at_least=True)
    if number > up_to:
        return Count(up_to, exact=False, at_least=True)
    return Count(number)


@transaction.atomic
def _count_for_a_while(rows: models.QuerySet[Any], limit: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        before = cursor.fetchone()[0]
        cursor.execute(f"SET LOCAL statement_timeout = {COUNTING_MS:d}")
        number: int = rows.order_by()[:limit].count()
        # An error needs no restoring: it ends the savepoint, and this with it.
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [before])
    return number

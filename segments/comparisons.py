"""One comparison → a condition in SQL that is true or false, never NULL.

What is compared is an Operand: a column of the customer, or a place in a JSON
document (a customer's declared attribute, a field of an event's context).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from psycopg.types.json import Jsonb

from segments import moments
from segments.moments import back, start_of
from segments.operators import OPERATORS, Family, ValueType
from segments.rules import FIELD_PATH, is_number, read_instant
from segments.sql import Sql, join, sql

#: Up to so many values of `in` are looked for one by one, each by the GIN index.
INDEXED_VALUES = 20

# Exponents of three digits at most: beyond what PostgreSQL can hold, reading the text
# as a number would fail the whole query instead of being false for one event.
JSON_NUMBER = r"^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?$"
LONGEST_NUMBER = 40
#: Nobody is older; beyond, an age compares as this one does.
OLDEST = 10_000


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the customer; `is_day` when it holds a day, not a time."""

    name: str
    type: ValueType
    is_day: bool = False


@dataclass(frozen=True, slots=True)
class Derived:
    """A number of whole years, of the day in a column up to today."""

    name: str
    day: Column
    type: ValueType = ValueType.NUMBER


#: What is worked out from a column: as old as the last birthday that was kept.
DERIVED = {
    derived.name: derived
    for derived in [
        Derived("age", Column("birth_date", ValueType.DATE, is_day=True)),
    ]
}


@dataclass(frozen=True, slots=True)
class JsonPlace:
    """A place in a JSON column; `declared` is the type it is known to have, or ""."""

    document: str
    path: tuple[str, ...]
    declared: str = ""

    def __post_init__(self) -> None:
        if not all(FIELD_PATH.match(code) for code in self.path):
            raise AssertionError(f"not field codes: {self.path!r}")

    @property
    def value(self) -> Sql:
        """The JSON there, or NULL."""
        return sql(f"{self.document} #> {{}}::text[]", list(self.path))

    @property
    def text(self) -> Sql:
        """A scalar there as text, or NULL."""
        return sql(f"{self.document} #>> {{}}::text[]", list(self.path))

    @property
    def kind(self) -> Sql:
        """The JSON type there: string, number, ..."""
        return sql("jsonb_typeof({})", self.value)


Operand = Column | Derived | JsonPlace


def compare(operand: Operand, op: str, value: Any, *, now: datetime) -> Sql:
    """The condition that the operand compares so with the value.

    A value that cannot be compared so (a text with `>`) makes the condition false.
    """
    operator = OPERATORS[op]
    if operator.negates:
        return sql("NOT {}", compare(operand, operator.negates, value, now=now))
    if isinstance(operand, Derived):
        return _never_null(_years(operand.day, op, value, now=now))
    match operator.family:
        case Family.EQUAL:
            return _equal(operand, value if isinstance(value, tuple) else (value,))
        case Family.SET:
            return _is_set(operand)
        case Family.TEXT:
            return _text(operand, op, value)
        case Family.LIST:
            return _list(operand, op, value)
        case Family.ORDER:
            return _never_null(_order(operand, op, value))
        case Family.ANNIVERSARY:
            return _never_null(_anniversary(operand, value, now=now))
        case Family.AGE:
            return _never_null(_days_from_now(instant_of(operand), op, value, now=now))
    raise AssertionError(f"comparison without SQL: {op}")


def compare_instant(moment: Sql, op: str, value: Any) -> Sql:
    """Compare a timestamp. A day in the rule is a whole day of the project's zone."""
    ends = [
        read_instant(end) if isinstance(end, str) else None
        for end in (value if isinstance(value, tuple) else (value,))
    ]
    first, last = ends[0], ends[-1]
    if first is None or last is None:
        return Sql("FALSE")
    match op:
        case "before" | "<":
            return sql("{} < {}", moment, start_of(first))
        case ">=":
            return sql("{} >= {}", moment, start_of(first))
        case "after" | ">":
            return sql("NOT ({})", not_after(moment, first))
        case "<=":
            return not_after(moment, first)
        case "on" | "between" | "=":
            return sql(
                "({} >= {} AND {})", moment, start_of(first), not_after(moment, last)
            )
    raise AssertionError(f"comparison of times without SQL: {op}")


def days_since(moment: Sql, op: str, value: Any, *, now: datetime) -> Sql:
    """Compare the whole 24-hour days since a timestamp; ahead of now is day 0."""

    def at_least(days: int) -> Sql:
        if days == 0:
            return sql("{} IS NOT NULL", moment)
        return sql("{} <= {}", moment, back(now, days, "days"))

    def at_most(days: int) -> Sql:
        return sql("{} > {}", moment, back(now, days + 1, "days"))

    match op:
        case ">=":
            return at_least(value)
        case "<=":
            return at_most(value)
    low, high = value if op == "between" else (value, value)
    return sql("({} AND {})", at_least(low), at_most(high))


def _days_from_now(moment: Sql, op: str, value: int, *, now: datetime) -> Sql:
    """Compare the whole 24-hour days that lie between now and a timestamp, on the side
    that the operator names: what is ahead is no days ago, and the other way round."""
    word, _, how = op.rpartition(" ")
    if word == "days ago":
        return sql(
            "{} <= {} AND {}", moment, now, days_since(moment, how, value, now=now)
        )
    if how == ">=":
        return sql("{} >= {}", moment, moments.forward(now, value, "days"))
    end = moments.forward(now, value + 1, "days")
    return sql("({} >= {} AND {} < {})", moment, now, moment, end)


def number(subject: Sql, op: str, value: Any) -> Sql:
    """Compare a number with a number, or with a pair of them for `between`."""
    if op == "between":
        low, high = value
        return sql("{} BETWEEN {} AND {}", subject, _decimal(low), _decimal(high))
    return sql(f"{{}} {op} {{}}", subject, _decimal(value))


def not_after(subject: Sql, moment: date | datetime) -> Sql:
    """Up to the moment, or to the end of the day, included."""
    if isinstance(moment, datetime):
        return sql("{} <= {}", subject, moment)
    if moment == date.max:  # No day comes after it. NULL stays NULL.
        return sql("{} < 'infinity'", subject)
    return sql("{} < {}", subject, start_of(moment + timedelta(days=1)))


def _equal(operand: Operand, values: tuple[Any, ...]) -> Sql:
    if isinstance(operand, JsonPlace):
        return _json_equal(operand, values)
    if operand.type is ValueType.STRING:
        # An empty column is an attribute that is not set, and equals nothing.
        texts = [text for value in values if (text := _as_text(value))]
        return sql(f"{operand.name} = ANY({{}}::text[])", texts)
    moment = instant_of(operand)
    return _never_null(_any(compare_instant(moment, "=", value) for value in values))


def _json_equal(place: JsonPlace, values: tuple[Any, ...]) -> Sql:
    """Equal by value, whatever the JSON type: 10 and "10". See `_spellings`."""
    spellings = [spelling for value in values for spelling in _spellings(value)]
    if len(values) > INDEXED_VALUES:
        found = [Jsonb(spelling) for spelling in spellings]
        return _never_null(sql("{} = ANY({}::jsonb[])", place.value, found))
    return _any(
        sql(f"{place.document} @> {{}}", Jsonb(_nested(place.path, spelling)))
        for spelling in spellings
    )


def _spellings(value: Any) -> list[Any]:
    """The JSON values equal to this one: 10 → 10, "10"; "10" → "10", 10.

    jsonb compares numbers by value, so 10 finds 10.0 as well. A boolean equals only
    a boolean; a text such as "007" is no JSON number, and equals only itself.
    """
    if isinstance(value, bool):
        return [value]
    if is_number(value):
        texts = {str(value), str(_decimal(value))}
        if value == int(value):
            texts.add(str(int(value)))
        return [value, *sorted(texts)]
    if isinstance(value, str):
        as_number = _json_number(value)
        return [value] if as_number is None else [value, as_number]
    return []


def _is_set(operand: Operand) -> Sql:
    if isinstance(operand, JsonPlace):
        return _never_null(sql("{} <> 'null'", operand.kind))
    if operand.type is ValueType.STRING:
        return Sql(f"{operand.name} <> ''")
    return Sql(f"{operand.name} IS NOT NULL")


def _years(day: Column, op: str, value: Any, *, now: datetime) -> Sql:
    """Compare the whole years from a day to today. A day ahead of today has none."""
    today = moments.today(now)
    born = Sql(day.name)
    is_there = sql("{} <= {}", born, today)
    if OPERATORS[op].family is Family.SET:
        return is_there

    def at_least(years: int) -> Sql:
        latest = moments.latest_birth(today, years)
        return Sql("FALSE") if latest is None else sql("{} <= {}", born, latest)

    def between(low: float, high: float) -> Sql:
        first = max(0, math.ceil(low))
        last = min(OLDEST, math.floor(high))
        if first > last:
            return Sql("FALSE")
        return sql("({} AND NOT {})", at_least(first), at_least(last + 1))

    if OPERATORS[op].family is Family.EQUAL:
        values = value if isinstance(value, tuple) else (value,)
        numbers = [n for one in values for n in _spellings(one) if is_number(n)]
        return _any(between(n, n) for n in numbers)
    ends = value if isinstance(value, tuple) else (value,)
    if not all(is_number(end) for end in ends):
        return Sql("FALSE")
    low, high = ends[0], ends[-1]
    match op:
        case ">":
            return between(math.floor(low) + 1, OLDEST)
        case ">=":
            return between(low, OLDEST)
        case "<":
            return between(0, math.ceil(high) - 1)
        case "<=":
            return between(0, high)
        case "between":
            return between(low, high)
    return Sql("FALSE")


def _anniversary(operand: Operand, days: int, *, now: datetime) -> Sql:
    """A year or more after the day there, its anniversary is today or in the next days.

    The 29th of February is kept on the 28th where a year has none.
    """
    today = moments.today(now)
    day = _day_of(operand)
    latest = moments.latest_birth(today + timedelta(days=days), 1)
    a_year_on = sql("{} <= {}", day, latest)
    if days >= 365:  # Every anniversary falls within that.
        return a_year_on
    of_year = sql("EXTRACT(MONTH FROM {}) * 100 + EXTRACT(DAY FROM {})", day, day)
    kept = moments.kept_days(today, days)
    return sql("{} AND {} = ANY({}::int[])", a_year_on, of_year, kept)


def _day_of(operand: Operand) -> Sql:
    """The day there, in the project's zone, or NULL."""
    if isinstance(operand, Column) and operand.is_day:
        return Sql(operand.name)
    return sql("({} AT TIME ZONE {})::date", instant_of(operand), settings.TIME_ZONE)


def _list(operand: Operand, op: str, value: Any) -> Sql:
    """Items compare as values do with `=`. What is no list includes nothing."""
    if not isinstance(operand, JsonPlace):
        return Sql("FALSE")
    values = value if isinstance(value, tuple) else (value,)
    if not values:  # Taken from an event whose list is empty.
        return Sql("FALSE")
    if op == "includes all of":
        return sql("({})", join(" AND ", [_includes(operand, one) for one in values]))
    if len(values) <= INDEXED_VALUES:
        return _any(_includes(operand, one) for one in values)
    spellings = [Jsonb(spelling) for one in values for spelling in _spellings(one)]
    return sql(
        "EXISTS (SELECT FROM jsonb_array_elements("
        "CASE WHEN {} = 'array' THEN {} END) AS item WHERE item = ANY({}::jsonb[]))",
        operand.kind,
        operand.value,
        spellings,
    )


def _includes(place: JsonPlace, value: Any) -> Sql:
    return _any(
        sql(f"{place.document} @> {{}}", Jsonb(_nested(place.path, [spelling])))
        for spelling in _spellings(value)
    )


def _text(operand: Operand, op: str, value: Any) -> Sql:
    if not isinstance(value, str) or not value:
        return Sql("FALSE")
    literal = value.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    pattern = f"%{literal}%" if op == "contains" else f"{literal}%"
    if isinstance(operand, JsonPlace):
        return _never_null(
            # In this order, since most texts are others.
            sql("{} ILIKE {} AND {} = 'string'", operand.text, pattern, operand.kind)
        )
    # Upper-cased on both sides, as the search indexes of the table are.
    return sql(f"UPPER({operand.name}) LIKE UPPER({{}})", pattern)


def _order(operand: Operand, op: str, value: Any) -> Sql:
    ends = value if isinstance(value, tuple) else (value,)
    if all(is_number(end) for end in ends):
        if not isinstance(operand, JsonPlace) or op not in (
            ">",
            ">=",
            "<",
            "<=",
            "between",
        ):
            return Sql("FALSE")
        return number(_number_of(operand), op, value)
    if isinstance(operand, Column) and operand.is_day:
        days = [read_instant(end) for end in ends if isinstance(end, str)]
        if len(days) == len(ends) and all(type(day) is date for day in days):
            return _day(Sql(operand.name), op, days[0], days[-1])
    return compare_instant(instant_of(operand), op, value)


def _day(day: Sql, op: str, first: Any, last: Any) -> Sql:
    """Compare a column of days with days: no zone is needed for that."""
    if op in ("on", "between"):
        return sql("{} BETWEEN {} AND {}", day, first, last)
    sign = {"before": "<", "after": ">"}.get(op, op)
    return sql(f"{{}} {sign} {{}}", day, first)


def _number_of(place: JsonPlace) -> Sql:
    """A JSON number; for a place declared a number a numeric string as well."""
    as_number = sql("WHEN {} = 'number' THEN ({})::numeric", place.kind, place.text)
    if place.declared == ValueType.NUMBER:
        as_number = sql(
            "{} WHEN {} = 'string' AND {} ~ {} THEN ({})::numeric",
            as_number,
            place.kind,
            place.text,
            JSON_NUMBER,
            place.text,
        )
    return sql("CASE {} END", as_number)


def instant_of(operand: Operand) -> Sql:
    """The moment there, or NULL. A day is its beginning in the project's zone."""
    if isinstance(operand, JsonPlace):
        return sql(
            "CASE WHEN {} = 'string' THEN smartcomm_instant({}, {}) END",
            operand.kind,
            operand.text,
            settings.TIME_ZONE,
        )
    if isinstance(operand, Derived):
        return Sql("NULL::timestamptz")
    if operand.is_day:
        return sql(f"({operand.name}::timestamp AT TIME ZONE {{}})", settings.TIME_ZONE)
    return Sql(operand.name)


def same_key(place: JsonPlace) -> Sql:
    """A value's key: equal for values that are equal, NULL for what equals nothing.

    A number has the key of its shortest spelling, so that 10, 10.0 and "10" are equal;
    a boolean has its own; null, lists and objects have none.
    """
    return sql(
        "CASE {} WHEN 'number' THEN to_jsonb(trim_scale(({})::numeric)::text) "
        "WHEN 'string' THEN {} WHEN 'boolean' THEN {} END",
        place.kind,
        place.text,
        place.value,
        place.value,
    )


def _never_null(condition: Sql) -> Sql:
    """Only where NULL can come up: the planner finds no index behind COALESCE."""
    return sql("COALESCE({}, FALSE)", condition)


def _any(conditions: Iterable[Sql]) -> Sql:
    found = list(conditions)
    return sql("({})", join(" OR ", found)) if found else Sql("FALSE")


def _nested(path: tuple[str, ...], value: Any) -> Any:
    for code in reversed(path):
        value = {code: value}
    return value


def _as_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    return str(_decimal(value)) if is_number(value) else None


def _decimal(value: Any) -> Any:
    """A number as PostgreSQL's numeric: 49.9 stays 49.9."""
    return Decimal(repr(value)) if isinstance(value, float) else value


def _json_number(text: str) -> int | float | None:
    """The number that a text spells as JSON does, or None."""
    if len(text) > LONGEST_NUMBER or not re.match(JSON_NUMBER, text):
        return None
    found = int(text) if text.lstrip("-").isdigit() else float(text)
    return found if math.isfinite(found) else None

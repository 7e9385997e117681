"""One comparison → a condition in SQL that is true or false, never NULL.

What is compared is an Operand: a column of the customer, or a place in a JSON
document (a customer's declared attribute, a field of an event's context).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from psycopg.types.json import Jsonb

from segments.operators import OPERATORS, Family, ValueType
from segments.rules import FIELD_PATH, is_number, read_instant
from segments.sql import Sql, join, sql

#: Up to so many values of `in` are looked for one by one, each by the GIN index.
INDEXED_VALUES = 20

# Exponents of three digits at most: beyond what PostgreSQL can hold, reading the text
# as a number would fail the whole query instead of being false for one event.
JSON_NUMBER = r"^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?$"
LONGEST_NUMBER = 40
EARLIEST = datetime(1, 1, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the customer; `is_day` when it holds a day, not a time."""

    name: str
    type: ValueType
    is_day: bool = False


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


Operand = Column | JsonPlace


def compare(operand: Operand, op: str, value: Any, *, now: datetime) -> Sql:
    """The condition that the operand compares so with the value.

    A value that cannot be compared so (a text with `>`) makes the condition false.
    """
    operator = OPERATORS[op]
    if operator.negates:
        return sql("NOT {}", compare(operand, operator.negates, value, now=now))
    match operator.family:
        case Family.EQUAL:
            return _equal(operand, value if isinstance(value, tuple) else (value,))
        case Family.SET:
            return _is_set(operand)
        case Family.TEXT:
            return _text(operand, op, value)
        case Family.ORDER:
            return _never_null(_order(operand, op, value))
    moment = _instant_of(operand)
    days = days_since(moment, op.removeprefix("days ago "), value, now=now)
    # What lies ahead is no days ago.
    return _never_null(sql("{} <= {} AND {}", moment, now, days))


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


def number(subject: Sql, op: str, value: Any) -> Sql:
    """Compare a number with a number, or with a pair of them for `between`."""
    if op == "between":
        low, high = value
        return sql("{} BETWEEN {} AND {}", subject, _decimal(low), _decimal(high))
    return sql(f"{{}} {op} {{}}", subject, _decimal(value))


def start_of(moment: date | datetime) -> datetime:
    """The moment itself, or the beginning of the day in the project's zone."""
    if isinstance(moment, datetime):
        return max(moment, EARLIEST) if moment.tzinfo else moment
    return datetime.combine(
        max(moment, EARLIEST.date()), time.min, tzinfo=ZoneInfo(settings.TIME_ZONE)
    )


def not_after(subject: Sql, moment: date | datetime) -> Sql:
    """Up to the moment, or to the end of the day, included."""
    if isinstance(moment, datetime):
        return sql("{} <= {}", subject, moment)
    if moment == date.max:
        return sql("{} IS NOT NULL", subject)
    return sql("{} < {}", subject, start_of(moment + timedelta(days=1)))


def back(now: datetime, number: int, unit: str) -> datetime:
    """So many hours, days, weeks or months before now.

    A month back is the same day of the month before, or its last day; hours, days
    and weeks are counted in seconds.
    """
    try:
        if unit == "months":
            local = now.astimezone(ZoneInfo(settings.TIME_ZONE))
            months = local.year * 12 + local.month - 1 - number
            year, month = months // 12, months % 12 + 1
            following = date(year + month // 12, month % 12 + 1, 1)
            last = (following - timedelta(days=1)).day
            return local.replace(year=year, month=month, day=min(local.day, last))
        return now - timedelta(**{unit: number})
    except (OverflowError, ValueError):
        return EARLIEST


def _equal(operand: Operand, values: tuple[Any, ...]) -> Sql:
    if isinstance(operand, JsonPlace):
        return _json_equal(operand, values)
    if operand.type is ValueType.STRING:
        # An empty column is an attribute that is not set, and equals nothing.
        texts = [text for value in values if (text := _as_text(value))]
        return sql(f"{operand.name} = ANY({{}}::text[])", texts)
    moment = _instant_of(operand)
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


def _text(operand: Operand, op: str, value: Any) -> Sql:
    if not isinstance(value, str) or not value:
        return Sql("FALSE")
    literal = value.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    pattern = f"%{literal}%" if op == "contains" else f"{literal}%"
    if isinstance(operand, JsonPlace):
        return _never_null(
            sql("{} = 'string' AND {} ILIKE {}", operand.kind, operand.text, pattern)
        )
    # Upper-cased on both sides, as the search indexes of the table are.
    return sql(f"UPPER({operand.name}) LIKE UPPER({{}})", pattern)


def _order(operand: Operand, op: str, value: Any) -> Sql:
    ends = value if isinstance(value, tuple) else (value,)
    if all(is_number(end) for end in ends):
        if isinstance(operand, Column) or op not in (">", ">=", "<", "<=", "between"):
            return Sql("FALSE")
        return number(_number_of(operand), op, value)
    return compare_instant(_instant_of(operand), op, value)


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


def _instant_of(operand: Operand) -> Sql:
    if isinstance(operand, JsonPlace):
        return sql(
            "CASE WHEN {} = 'string' THEN smartcomm_instant({}, {}) END",
            operand.kind,
            operand.text,
            settings.TIME_ZONE,
        )
    if operand.is_day:
        return sql(f"({operand.name}::timestamp AT TIME ZONE {{}})", settings.TIME_ZONE)
    return Sql(operand.name)


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

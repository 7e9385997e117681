"""Who is in a segment: page by page, or all of them into a file."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Max

from customers.models import Attribute, Customer
from segments import rules
from segments.compile import IdRange, compile_rule
from segments.dictionary import Dictionary
from segments.preview import EXACT_MS, read_only
from smartcomm.core.db import fetch_all
from smartcomm.core.paging import Page

#: A page looks among this many ids first, then among ever more.
FIRST_RANGE = 20_000
ROWS_AT_ONCE = 2_000
COLUMNS = {
    "external_id": "ID",
    "first_name": "First name",
    "last_name": "Last name",
    "email": "E-mail",
    "phone": "Phone",
    "birth_date": "Birth date",
    "gender": "Gender",
    "city": "City",
    "country": "Country",
    "language": "Language",
    "time_zone": "Time zone",
    "registered_at": "Registered",
}
# What a spreadsheet would take for a formula; a phone number is none.
_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d ()./-]*\Z)")


def page(
    rule: rules.Rule, *, now: datetime, before: int | None = None, limit: int = 50
) -> Page[Customer]:
    """Members with an id below `before`, those known last first.

    Looks at as few customers as will do, so that a page of a big segment costs
    little wherever it is. `next` of the page is the `before` of the following one.
    """
    known = Dictionary.of(rule)
    upto = before - 1 if before is not None else _highest_id()
    size = FIRST_RANGE
    ids: list[int] = []
    with read_only(EXACT_MS):
        while upto > 0 and len(ids) <= limit:
            restrict = IdRange(max(0, upto - size), upto)
            query = compile_rule(rule, now=now, restrict=restrict, dictionary=known)
            rows = fetch_all(
                f"SELECT customer_id FROM ({query.sql}) AS members "  # noqa: S608
                "ORDER BY customer_id DESC LIMIT %s",
                [*query.params, limit + 1 - len(ids)],
            )
            ids += [row[0] for row in rows]
            upto, size = upto - size, size * 4
    found = Customer.objects.in_bulk(ids[:limit])
    members = [found[pk] for pk in ids[:limit] if pk in found]
    return Page(members, str(ids[limit - 1]) if len(ids) > limit else "")


def export(rule: rules.Rule, *, now: datetime) -> Iterator[str]:
    """The members as lines of CSV, as of one moment, with flat memory.

    A name that does not exist is refused before the first line. Read it to its end:
    a cursor of the database is open meanwhile.
    """
    declared = list(Attribute.objects.all())
    query = compile_rule(rule, now=now)
    columns = ", ".join(f"c.{name}" for name in COLUMNS)
    statement = (
        f"SELECT {columns}, c.attributes FROM ({query.sql}) AS members "  # noqa: S608
        "JOIN customers_customer AS c ON c.id = members.customer_id ORDER BY c.id"
    )
    return _lines(statement, query.params, declared)


def _lines(
    statement: str, params: tuple[Any, ...], declared: list[Attribute]
) -> Iterator[str]:
    # The mark that makes spreadsheets read what follows as Unicode.
    yield "\ufeff" + _line([*COLUMNS.values(), *(str(one) for one in declared)])
    with transaction.atomic(), connection.chunked_cursor() as cursor:
        cursor.execute(statement, params)
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            yield "".join(_line(_cells(row, declared)) for row in rows)


def _cells(row: tuple[Any, ...], declared: list[Attribute]) -> list[str]:
    *columns, attributes = row
    if isinstance(attributes, str):
        attributes = json.loads(attributes)
    return [
        *(_text(value) for value in columns),
        *(_text(attributes.get(one.code)) for one in declared),
    ]


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return f"'{text}" if _FORMULA.match(text) else text


class _Echo:
    def write(self, text: str) -> str:
        return text


_writer = csv.writer(_Echo())


def _line(cells: list[str]) -> str:
    return str(_writer.writerow(cells))


def _highest_id() -> int:
    return Customer.objects.aggregate(last=Max("pk"))["last"] or 0

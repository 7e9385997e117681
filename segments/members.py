"""Who is in a segment: page by page, or all of them into a file."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Max
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan

from customers import search
from customers.models import Attribute, Channel, Customer
from segments import rules
from segments.compile import IdRange, compile_rule
from segments.dictionary import Dictionary
from segments.models import Membership, Segment
from segments.preview import EXACT_MS
from segments.reading import read_only
from segments.sql import Sql, join, sql
from smartcomm.core.db import fetch_all
from smartcomm.core.paging import Page, Place, read_cursor

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
#: A search among those whom only the rule knows looks at so many customers.
MOST_FOUND = 1_000
SINCE = "since"
CONSENT = "consent."
ATTRIBUTE = "attributes."

# What a spreadsheet would take for a formula; a phone number is none.
_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d ()./-]*\Z)")


@dataclass(frozen=True, slots=True)
class Member:
    """A customer in a segment; `since` is not known where only the rule was asked."""

    customer: Customer
    since: datetime | None = None


def are_kept(segment: Segment) -> bool:
    """Whether members stand in the table: all lists, and what was counted once."""
    return segment.is_static or segment.members_of > 0


def kept_page(
    segment: Segment,
    *,
    text: str = "",
    newest_first: bool = True,
    before: str = "",
    limit: int = 50,
) -> Page[Member]:
    """Members as they are kept: who came last first, or by when they became known.

    `text` finds by ID, name, e-mail or phone as everywhere. Page 500 costs what page 1
    costs. Raises Invalid for a cursor that is not one of ours.
    """
    rows = Membership.objects.filter(segment=segment).select_related("customer")
    if text.strip():
        rows = rows.filter(customer__in=search.find(Customer.objects.all(), text))
    bound = read_cursor(before) if before else None
    if newest_first:
        if bound:
            rows = rows.filter(
                TupleLessThan(Tuple("since", "customer_id"), (bound.at, bound.id))
            )
        rows = rows.order_by("-since", "-customer_id")
    else:
        if bound:
            rows = rows.filter(customer_id__lt=bound.id)
        rows = rows.order_by("-customer_id")
    found = list(rows[: limit + 1])
    following = ""
    if len(found) > limit:
        last = found[limit - 1]
        following = Place(last.since, 0, last.customer_id).cursor()
    return Page([Member(row.customer, row.since) for row in found[:limit]], following)


def listed(
    segment: Segment, *, before: int | None = None, limit: int = 50
) -> Page[Customer]:
    """The customers of a list, those known last first; as `page` is of a rule."""
    rows = Membership.objects.filter(segment=segment).select_related("customer")
    if before is not None:
        rows = rows.filter(customer_id__lt=before)
    found = [row.customer for row in rows.order_by("-customer_id")[: limit + 1]]
    following = str(found[limit - 1].pk) if len(found) > limit else ""
    return Page(found[:limit], following)


def asked_page(
    rule: rules.Rule, *, now: datetime, text: str = "", before: str = ""
) -> Page[Member]:
    """Members as the rule itself says now, for a segment that was never counted.

    A search looks at the first thousand customers it finds. Raises as `page` does.
    """
    if text.strip():
        found = search.find(Customer.objects.all(), text).order_by("-pk")[:MOST_FOUND]
        customers = {customer.pk: customer for customer in found}
        query = compile_rule(rule, now=now, restrict=list(customers))
        with read_only(EXACT_MS):
            inside = {row[0] for row in fetch_all(query.sql, query.params)}
        return Page([Member(one) for pk, one in customers.items() if pk in inside])
    some = page(rule, now=now, before=read_cursor(before).id if before else None)
    following = ""
    if some.next:
        following = Place(now, 0, int(some.next)).cursor()
    return Page([Member(customer) for customer in some.items], following)


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


@dataclass(frozen=True, slots=True)
class Columns:
    """What a file of members may tell of each: code → heading."""

    basic: dict[str, str]
    declared: dict[str, str]
    membership: dict[str, str]
    consents: dict[str, str]

    @property
    def all(self) -> dict[str, str]:
        return {**self.basic, **self.declared, **self.membership, **self.consents}

    @property
    def usual(self) -> list[str]:
        """What is told unless something else was chosen."""
        return [*self.basic, *self.declared, *self.membership]


def columns() -> Columns:
    return Columns(
        COLUMNS,
        {f"{ATTRIBUTE}{one.code}": str(one) for one in Attribute.objects.all()},
        {SINCE: "In the segment since"},
        {f"{CONSENT}{c.value}": f"Consent to {c.label}" for c in Channel},
    )


def export(
    segment: Segment, *, now: datetime, chosen: Sequence[str] | None = None
) -> Iterator[str]:
    """The members as lines of CSV, as of one moment, with flat memory: as they are
    kept, or of the rule itself when they were never counted.

    `chosen` are codes of `columns()`; what is none is left out. A name in the rule that
    does not exist is refused before the first line. Read it to its end: a cursor of the
    database is open meanwhile.
    """
    offered = columns()
    codes = [code for code in (chosen or offered.usual) if code in offered.all]
    codes = codes or offered.usual
    if are_kept(segment):
        source = (
            "SELECT customer_id, since FROM segments_membership WHERE segment_id = %s"
        )
        params: tuple[Any, ...] = (segment.pk,)
    else:
        query = compile_rule(rules.parse(segment.rule), now=now)
        source = f"SELECT customer_id, NULL AS since FROM ({query.sql}) AS asked"  # noqa: S608
        params = query.params
    cells = join(", ", map(_cell, codes))
    statement = (
        f"SELECT {cells.text} "  # noqa: S608
        f"FROM ({source}) AS members "
        "JOIN customers_customer AS c ON c.id = members.customer_id ORDER BY c.id"
    )
    heading = [offered.all[code] for code in codes]
    return _lines(statement, (*cells.params, *params), codes, heading)


def _cell(code: str) -> Sql:
    if code == SINCE:
        return sql("members.since")
    if code.startswith(CONSENT):
        return sql(
            "(SELECT is_granted FROM customers_consent AS k WHERE k.customer_id = c.id "
            "AND k.channel = {} AND k.category_id IS NULL)",
            code.removeprefix(CONSENT),
        )
    if code.startswith(ATTRIBUTE):
        return sql("c.attributes -> {}::text", code.removeprefix(ATTRIBUTE))
    return sql(f"c.{code}")


def _lines(
    statement: str, params: tuple[Any, ...], codes: list[str], heading: list[str]
) -> Iterator[str]:
    # The mark that makes spreadsheets read what follows as Unicode.
    yield "\ufeff" + _line(_text(title) for title in heading)
    with transaction.atomic(), connection.chunked_cursor() as cursor:
        cursor.execute(statement, params)
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            yield "".join(_line(_cells(row, codes)) for row in rows)


def _cells(row: tuple[Any, ...], codes: list[str]) -> Iterator[str]:
    for code, value in zip(codes, row, strict=True):
        # A value of JSON arrives as its text.
        is_json = code.startswith(ATTRIBUTE) and isinstance(value, str)
        yield _text(json.loads(value) if is_json else value)


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case list():
            value = ", ".join(_text(one) for one in value)
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return f"'{text}" if _FORMULA.match(text) else text


class _Echo:
    def write(self, text: str) -> str:
        return text


_writer = csv.writer(_Echo())


def _line(cells: Iterable[str]) -> str:
    return str(_writer.writerow(cells))


def csv_line(values: Iterable[Any]) -> str:
    """A line of CSV that no spreadsheet takes for formulas."""
    return _line(_text(value) for value in values)


def _highest_id() -> int:
    return Customer.objects.aggregate(last=Max("pk"))["last"] or 0

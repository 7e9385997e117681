"""Lists of customers: segments that hold who was put in, whatever may change of them.

What is sent for a list is a stream of lines. They go into a temporary table, stand for
customers there, and change the list in a few statements of one transaction: a million
lines cost no more memory than a hundred.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Any

from django.db import OperationalError, connection, transaction
from django.utils import timezone

from customers.contacts import normalise_email, normalise_phone
from customers.merging import current_ids
from customers.models import Customer
from segments import rules, saving
from segments.compile import compile_rule
from segments.models import ListChange, ListMiss, Segment
from segments.reading import TooDear, too_long
from segments.upkeep.applying import Moved, announce
from smartcomm.core.clock import database_now
from smartcomm.core.db import QUERY_CANCELED, execute, fetch_all, sqlstate
from smartcomm.core.errors import Conflict, Invalid
from smartcomm.core.templatetags.look import moment

How, By = ListChange.How, ListChange.By

MAX_LINES = 1_000_000
#: What one call of the API may put in or take out.
MAX_IDS = 10_000
MAX_VALUE = 255
#: So many changes of a list are kept, and lines that stand for nobody so long.
KEPT_CHANGES = 100
KEPT_MISSES = timedelta(days=30)
#: Freezing asks the whole rule, and somebody waits.
FREEZE_MS = 60_000
#: Columns that are taken unless another one is named, the best first.
USUAL_COLUMNS = {
    By.ID: ("id", "external_id", "customer_id", "customer", "client_id"),
    By.EMAIL: ("email", "e-mail", "mail"),
    By.PHONE: ("phone", "telephone", "mobile", "msisdn"),
}
DELIMITERS = ",;\t|"
#: A heading has letters and no digit: C-1001 and anna@example.com are none.
_HEADING = re.compile(r"[^\W\d][^\d@]*\Z")

LINES = """
    CREATE TEMPORARY TABLE list_lines (line integer, value text, key text)
        ON COMMIT DROP
"""
FOUND_BY_ID = """
    CREATE TEMPORARY TABLE list_found ON COMMIT DROP AS
    SELECT line, value, coalesce(customer.id, former.customer_id) AS customer_id,
           (coalesce(customer.id, former.customer_id) IS NOT NULL)::int AS owners
      FROM list_lines
      LEFT JOIN customers_customer AS customer ON customer.external_id = key
      LEFT JOIN customers_formerid AS former ON former.external_id = key
"""
# Several customers may have one contact: then it stands for none of them.
FOUND_BY_CONTACT = """
    CREATE TEMPORARY TABLE list_found ON COMMIT DROP AS
    SELECT line, value, CASE WHEN owners = 1 THEN owner END AS customer_id,
           coalesce(owners, 0)::int AS owners
      FROM list_lines
      LEFT JOIN (
          SELECT {column} AS contact, min(id) AS owner, count(*) AS owners
            FROM customers_customer
           WHERE {column} <> '' AND {column} IN (SELECT key FROM list_lines)
           GROUP BY 1
      ) AS known ON contact = key
"""
COUNT_FOUND = """
    SELECT count(*), count(customer_id), count(*) FILTER (WHERE owners = 0),
           count(*) FILTER (WHERE owners > 1)
      FROM list_found
"""
KEEP_MISSES = """
    INSERT INTO segments_listmiss (change_id, line, value, reason)
    SELECT %s, line, value, CASE WHEN owners = 0 THEN 'unknown' ELSE 'ambiguous' END
      FROM list_found WHERE customer_id IS NULL
"""

# The database itself notes who came and went, for rules that ask for the list.
ADD = """
    WITH moved AS (
        INSERT INTO segments_membership (customer_id, segment_id, since)
        SELECT id, %(segment)s, %(now)s FROM customers_customer WHERE id IN ({found})
            ON CONFLICT DO NOTHING
        RETURNING customer_id
    )
    SELECT count(*), array_agg(customer_id) FILTER (WHERE %(told)s) FROM moved
"""
REMOVE = """
    WITH moved AS (
        DELETE FROM segments_membership
         WHERE segment_id = %(segment)s AND customer_id IN ({found})
        RETURNING customer_id
    )
    SELECT count(*), array_agg(customer_id) FILTER (WHERE %(told)s) FROM moved
"""
REMOVE_OTHERS = """
    WITH moved AS (
        DELETE FROM segments_membership AS member
         WHERE segment_id = %(segment)s AND NOT EXISTS (
             SELECT 1 FROM list_found
              WHERE list_found.customer_id = member.customer_id)
        RETURNING customer_id
    )
    SELECT count(*), array_agg(customer_id) FILTER (WHERE %(told)s) FROM moved
"""
FROM_LINES = "SELECT customer_id FROM list_found"
FROM_IDS = "SELECT unnest(%(ids)s::bigint[])"

PUT_IN = """
    INSERT INTO segments_membership (customer_id, segment_id, since)
    SELECT customer_id, %s, %s FROM ({query}) AS members
"""
DAY = """
    INSERT INTO segments_dailycount (segment_id, day, count) VALUES (%s, %s, %s)
        ON CONFLICT (segment_id, day) DO UPDATE SET count = excluded.count
"""


@dataclass(frozen=True, slots=True)
class Line:
    """What stands on a line of what was sent."""

    number: int
    value: str


@dataclass(frozen=True, slots=True)
class Edited:
    """What a call of the API did to a list."""

    added: int
    removed: int
    unknown: list[str]
    count: int


# Reading


def read_text(text: str) -> Iterator[Line]:
    """What was pasted: values on lines, or with commas or semicolons between them."""
    for number, row in enumerate(text.splitlines(), 1):
        values = [one.strip() for one in re.split(r"[,;\t]", row)]
        for value in values:
            if value:
                yield Line(number, value)


def read_file(file: IO[bytes], *, by: str, column: str = "") -> Iterator[Line]:
    """One column of a CSV or text file: that with this number or heading, or the usual
    one. Raises Invalid for what is no text, and for a column that is not there."""
    text = io.TextIOWrapper(file, encoding=_encoding(file), newline="")
    try:
        yield from _rows(text, by=by, column=column.strip())
    except UnicodeDecodeError as error:
        raise Invalid(
            "This file is no text that can be read. Save it as CSV with UTF-8.",
            field="file",
        ) from error
    except csv.Error as error:
        raise Invalid(f"This file cannot be read as CSV: {error}.", field="file") from (
            error
        )
    finally:
        text.detach()


def _rows(text: IO[str], *, by: str, column: str) -> Iterator[Line]:
    first = text.readline(64 * 1024)
    text.seek(0)
    delimiter = max(DELIMITERS, key=first.count)
    rows = csv.reader(text, delimiter=delimiter)
    place: int | None = None
    for row in rows:
        if place is None:
            heading = [cell.strip().lstrip("\ufeff") for cell in row]
            place, is_named = _place(heading, by=by, column=column)
            if is_named:
                continue  # The heading itself is nobody.
        value = row[place].strip().lstrip("\ufeff") if place < len(row) else ""
        if value:
            yield Line(rows.line_num, value)


def _place(heading: Sequence[str], *, by: str, column: str) -> tuple[int, bool]:
    """(which column, whether the first line names it)."""
    names = [name.casefold() for name in heading]
    if column and column.casefold() in names:
        return names.index(column.casefold()), True
    if column.isascii() and column.isdigit() and 1 <= int(column) <= len(heading):
        return int(column) - 1, False
    if column:
        raise Invalid(
            f"The file has no column “{column}”. Its first line has "
            + ", ".join(f"“{name[:40]}”" for name in heading[:10])
            + ".",
            field="column",
        )
    for usual in USUAL_COLUMNS[By(by)]:
        for place, name in enumerate(names):
            if name.replace(" ", "_") == usual:
                return place, True
    return 0, False


def _encoding(file: IO[bytes]) -> str:
    start = file.read(64 * 1024)
    file.seek(0)
    if b"\x00" in start[:4] and not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Invalid(
            "This is no text: save the sheet as CSV, then choose that.", field="file"
        )
    if start.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x1f\x8b")):
        raise Invalid(
            "This is a spreadsheet or an archive. Save it as CSV, then choose that.",
            field="file",
        )
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        # The end may be in the middle of a letter.
        start[:-4].decode("utf-8") if len(start) == 64 * 1024 else start.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"  # As older programs of Windows write.
    return "utf-8"


# Changing


@transaction.atomic
def change(
    segment: Segment,
    lines: Iterable[Line],
    *,
    how: str,
    by: str = By.ID,
    origin: str = "",
    author: str = "",
    now: datetime | None = None,
) -> ListChange:
    """Put customers in, take them out, or have exactly these in the list.

    A line that stands for nobody, or for several, is kept with its reason. To replace
    all by nobody is not done: it would be a mistake. Raises Invalid for too many lines.
    """
    now = now or database_now()
    segment = _lock(segment)
    _load(lines, by=by)
    total, found, unknown, ambiguous = fetch_all(COUNT_FOUND)[0]
    added = removed = 0
    if how == How.REMOVE:
        removed = _move(REMOVE, FROM_LINES, segment, now=now)
    elif found:
        if how == How.REPLACE:
            removed = _move(REMOVE_OTHERS, FROM_LINES, segment, now=now)
        added = _move(ADD, FROM_LINES, segment, now=now)
    made = ListChange.objects.create(
        segment=segment,
        how=how,
        by=by,
        origin=origin[:255],
        author=author[:150],
        at=now,
        lines=total,
        found=found,
        unknown=unknown,
        ambiguous=ambiguous,
        added=added,
        removed=removed,
    )
    execute(KEEP_MISSES, [made.pk])
    _forget_old(segment, now=now)
    recount(segment, now=now)
    execute("DROP TABLE list_lines, list_found")
    return made


def external_id(text: str) -> str:
    """The ID of the one customer whom this ID, e-mail or phone means; what is
    nobody's stays as it is. Raises Conflict where several have it."""
    if Customer.objects.filter(external_id=text).exists() or current_ids([text]):
        return text
    contact = (
        {"email": normalise_email(text).value}
        if "@" in text
        else {"phone": normalise_phone(text).value}
    )
    found = list(
        Customer.objects.filter(**contact).values_list("external_id", flat=True)[:2]
    )
    if len(found) > 1:
        raise Conflict(f"Several customers have “{text}”. Name one by ID.")
    return found[0] if found else text


@transaction.atomic
def edit(
    segment: Segment,
    *,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    author: str = "",
    origin: str = "",
    now: datetime | None = None,
) -> Edited:
    """Put customers in and take them out by their IDs, former ones included.

    Unknown ones are told, and hinder none of the others. Raises Invalid for an ID that
    is to be put in and taken out at once.
    """
    now = now or database_now()
    segment = _lock(segment)
    if both := set(add) & set(remove):
        raise Invalid(
            f"“{min(both)}” is to be added and removed at once. Name it once.",
            field="remove",
        )
    known = _known([*add, *remove])
    moved = {}
    for statement, ids in ((REMOVE, remove), (ADD, add)):
        found = sorted({known[one] for one in ids if one in known})
        moved[statement] = (
            _move(statement, FROM_IDS, segment, now=now, ids=found) if found else 0
        )
    unknown = list(dict.fromkeys(one for one in [*add, *remove] if one not in known))
    how = How.BOTH if add and remove else How.REMOVE if remove else How.ADD
    ListChange.objects.create(
        segment=segment,
        how=how,
        origin=origin[:255],
        author=author[:150],
        at=now,
        lines=len(add) + len(remove),
        found=len(add) + len(remove) - len(unknown),
        unknown=len(unknown),
        added=moved[ADD],
        removed=moved[REMOVE],
    )
    _forget_old(segment, now=now)
    count = recount(segment, now=now)
    return Edited(moved[ADD], moved[REMOVE], unknown, count)


def freeze(
    segment: Segment,
    *,
    name: str,
    author: str,
    user_id: int | None = None,
    now: datetime | None = None,
) -> Segment:
    """A new list of those whom the segment's rule finds at this moment.

    Raises Conflict for a name that is taken, TooDear for a rule that takes too long.
    """
    now = now or database_now()
    query = compile_rule(rules.parse(segment.rule), now=now)
    with transaction.atomic():
        frozen = saving.create(
            saving.Wanted(name, f"Who was in “{segment}” on {moment(now)}."),
            author=author,
            kind=Segment.Kind.STATIC,
            user_id=user_id,
            now=now,
        )
        found = _within_limit(
            PUT_IN.replace("{query}", query.sql), [frozen.pk, now, *query.params]
        )
        ListChange.objects.create(
            segment=frozen,
            how=How.FREEZE,
            origin=segment.name,
            author=author[:150],
            at=now,
            lines=found,
            found=found,
            added=found,
        )
        frozen.count = recount(frozen, now=now)
    return frozen


def frozen_name(segment: Segment, *, now: datetime) -> str:
    """A name for what freezing the segment makes that nothing has yet."""
    day = moment(timezone.localdate(now))
    number = 1
    while True:
        end = f", {day}" if number == 1 else f", {day} ({number})"
        found = segment.name[: 150 - len(end)] + end
        if not Segment.objects.filter(name=found).exists():
            return found
        number += 1


def recount(segment: Segment, *, now: datetime | None = None) -> int:
    """Count the list, and keep the number. Merging and erasing change it as well."""
    now = now or database_now()
    count = int(segment.memberships.count())
    Segment.objects.filter(pk=segment.pk).update(
        count=count,
        counted_at=now,
        tried_at=now,
        status=Segment.Status.FRESH,
        error="",
    )
    execute(DAY, [segment.pk, timezone.localdate(now), count])
    return count


def _lock(segment: Segment) -> Segment:
    stored = saving.lock_row(segment)
    if not stored.is_static:
        raise Conflict(
            f"The customers of “{stored}” follow from its rule. Change the rule, or "
            "freeze the segment as a list and change that.",
            code="not_a_list",
        )
    if stored.is_archived:
        raise Conflict(f"The list “{stored}” is archived. Restore it first.")
    return stored


def _load(lines: Iterable[Line], *, by: str) -> None:
    """What was sent, as rows with the customers they stand for."""
    execute("DROP TABLE IF EXISTS list_lines, list_found")
    execute(LINES)
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY list_lines FROM STDIN") as copy,
    ):
        for row in _keyed(lines, by=by):
            copy.write_row(row)
    execute("ANALYZE list_lines")
    execute(
        FOUND_BY_ID
        if by == By.ID
        else FOUND_BY_CONTACT.replace("{column}", By(by).value)
    )
    execute("ANALYZE list_found")
    # The first line may be a heading.
    first = fetch_all(
        "SELECT line, value FROM list_found WHERE line = 1 AND owners = 0"
    )
    others = fetch_all("SELECT 1 FROM list_found WHERE line > 1 LIMIT 1")
    if len(first) == 1 and others and _HEADING.match(first[0][1]):
        execute("DELETE FROM list_found WHERE line = 1")


def _keyed(lines: Iterable[Line], *, by: str) -> Iterator[tuple[int, str, str]]:
    for total, line in enumerate(lines, 1):
        if total > MAX_LINES:
            raise Invalid(
                f"More than {MAX_LINES:,} lines are too many. Send them in parts: "
                "replace with the first, then add the others.",
                field="file",
                code="too_many_items",
            )
        value = line.value.replace("\x00", "\ufffd")
        match by:
            case By.EMAIL:
                key = normalise_email(value).value
            case By.PHONE:
                key = normalise_phone(value).value
            case _:
                key = value
        yield line.number, value[:MAX_VALUE], key


def _known(external_ids: Sequence[str]) -> dict[str, int]:
    """ID → primary key of who has it, or had it before being merged."""
    # The database cannot even be asked for the others, which nobody has.
    external_ids = [one for one in external_ids if not rules.UNSTORABLE.search(one)]
    known = dict(
        Customer.objects.filter(external_id__in=external_ids).values_list(
            "external_id", "pk"
        )
    )
    if left := [one for one in external_ids if one not in known]:
        known |= {one: found[0] for one, found in current_ids(left).items()}
    return known


def _move(
    statement: str, found: str, segment: Segment, *, now: datetime, **more: Any
) -> int:
    params = {
        "segment": segment.pk,
        "now": now,
        "told": segment.is_watched,
        **more,
    }
    count, ids = fetch_all(statement.replace("{found}", found), params)[0]
    if ids:
        moved = Moved(come=ids) if statement is ADD else Moved(gone=ids)
        announce(segment, moved, now=now)
    return int(count)


def _within_limit(statement: str, params: Sequence[Any]) -> int:
    try:
        with transaction.atomic():
            fetch_all(
                "SELECT set_config('statement_timeout', %s, true)", [str(FREEZE_MS)]
            )
            done = execute(statement, params)
            fetch_all("SELECT set_config('statement_timeout', '0', true)")
            return done
    except OperationalError as error:
        if sqlstate(error) != QUERY_CANCELED:
            raise
        raise TooDear(too_long(FREEZE_MS, "Asking for the customers")) from error


def _forget_old(segment: Segment, *, now: datetime) -> None:
    newest = segment.list_changes.order_by("-pk").values_list("pk", flat=True)
    if oldest := list(newest[KEPT_CHANGES : KEPT_CHANGES + 1]):
        segment.list_changes.filter(pk__lte=oldest[0]).delete()
    ListMiss.objects.filter(change__at__lt=now - KEPT_MISSES).delete()

"""`record_events`: the only door by which events enter.

Never lost: an answer of "accepted" means committed, and what is refused is kept
whole as a RejectedEvent. Never doubled: an id counts once per source and customer,
by a unique constraint, for ever.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from django.db import transaction
from django.utils import timezone

from customers.contacts import normalise_email, normalise_phone
from customers.models import Customer
from events import schema
from events.formats import TRANSLATORS
from events.models import (
    EventType,
    Format,
    Kind,
    PendingSystemEvent,
    RejectedEvent,
    Source,
)
from events.signals import events_recorded
from events.wire import MAX_ID, MAX_NAME, UNSTORABLE, Item, Refusal, read_item
from smartcomm.core.db import execute, fetch_all

ACCEPTED = "accepted"
DUPLICATE = "duplicate"
REJECTED = "rejected"


@dataclass(slots=True)
class Result:
    """What became of one item, in the order in which they were sent."""

    index: int
    id: str
    status: str
    code: str = ""
    field: str = ""
    message: str = ""
    #: How an event that was accepted is not as its type declares.
    warnings: Sequence[schema.FieldWarning] = ()


@dataclass(slots=True)
class Recorded:
    """What became of a batch; the three numbers add up to its size."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    results: list[Result] = field(default_factory=list)


@dataclass(slots=True)
class _Row:
    """An item on its way into the table."""

    index: int
    item: Item
    type: schema.KnownType
    warnings: Sequence[schema.FieldWarning] = ()
    customer_id: int = 0


def record_events(
    items: Sequence[object],
    *,
    source: Source,
    kind: Kind = Kind.CUSTOMER,
    format: Format = Format.NATIVE,
    now: datetime | None = None,
    keep_rejected: bool = True,
) -> Recorded:
    """Record events as the API gets them, decoded from JSON, in one of the formats.

    New event types and fields are learnt first, in a transaction of their own.
    Then customers, events, the rows of the queue and the rejected events are
    written in one: all of them, or none and an exception. Eight queries at most for a
    batch of any size. `keep_rejected=False` leaves rejected items to the caller.
    """
    now = now or timezone.now()
    rejections: dict[int, Refusal] = {}
    read = _read(items, rejections, kind=kind, format=format, now=now)
    rows = _check_types(read, rejections, kind=kind, source=source, now=now)
    with transaction.atomic():
        if kind == Kind.CUSTOMER:
            rows = _resolve_customers(rows, rejections, source=source, now=now)
            recorded = _insert_events(rows, source=source, now=now)
        else:
            recorded = _insert_system_events(rows, source=source, now=now)
        if keep_rejected and rejections:
            _keep(items, rejections, source=source, kind=kind, format=format)
    return _answer(items, rows, rejections, recorded)


def _read(
    items: Sequence[object],
    rejections: dict[int, Refusal],
    *,
    kind: Kind,
    format: Format,
    now: datetime,
) -> list[tuple[int, Item]]:
    translate = TRANSLATORS[format]
    read = []
    for index, data in enumerate(items):
        try:
            read.append((index, read_item(translate(data), kind=kind, now=now)))
        except Refusal as refusal:
            rejections[index] = refusal
    return read


def _check_types(
    read: list[tuple[int, Item]],
    rejections: dict[int, Refusal],
    *,
    kind: Kind,
    source: Source,
    now: datetime,
) -> list[_Row]:
    types = schema.register_types((item.name for _, item in read), kind, now=now)
    notes = schema.Notes(source=source, now=now)
    rows = []
    for index, item in read:
        known = types[item.name]
        try:
            schema.check_kind(item, known, kind)
            warnings = notes.check(known, item)
        except Refusal as refusal:
            rejections[index] = refusal
        else:
            rows.append(_Row(index, item, known, warnings))
    notes.write()
    return rows


def _resolve_customers(
    rows: list[_Row], rejections: dict[int, Refusal], *, source: Source, now: datetime
) -> list[_Row]:
    """Find each row's customer, under a lock that keeps them from being erased."""
    contacts = _find_by_contact(rows)
    wanted: dict[str, dict[str, str]] = {}
    named: list[tuple[_Row, str]] = []
    for row in rows:
        by, value = row.item.customer or ("", "")
        try:
            external_id, stub = (
                (value, {}) if by == "external_id" else _by_contact(by, value, contacts)
            )
        except Refusal as refusal:
            rejections[row.index] = refusal
            continue
        named.append((row, external_id))
        wanted.setdefault(external_id, stub)
    known = _lock(wanted)
    missing = sorted(wanted.keys() - known.keys())
    if missing and source.unknown_customers == Source.UnknownCustomers.CREATE:
        stubs = [
            Customer(external_id=one, is_stub=True, **wanted[one]) for one in missing
        ]
        Customer.objects.bulk_create(stubs, ignore_conflicts=True)
        known |= _lock(missing)
    found = []
    for row, external_id in named:
        if external_id in known:
            row.customer_id = known[external_id]
            found.append(row)
        else:
            rejections[row.index] = Refusal(
                "customer_unknown",
                f"There is no customer “{external_id}”, and this source may not create "
                "any. Create the customer, then replay.",
                field="customer",
            )
    return found


def _lock(external_ids: Iterable[str]) -> dict[str, int]:
    # In the order of the ids, so that two batches never wait for each other.
    rows = fetch_all(
        "SELECT external_id, id FROM customers_customer WHERE external_id = ANY(%s) "
        "ORDER BY id FOR KEY SHARE",
        [list(external_ids)],
    )
    return dict(rows)


_Contacts = dict[tuple[str, str], list[str]]


def _find_by_contact(rows: Iterable[_Row]) -> _Contacts:
    """("email" | "phone", value as sent) → external ids of those who have it."""
    found: _Contacts = {}
    for by, normalise in (("email", normalise_email), ("phone", normalise_phone)):
        sent = {
            row.item.customer[1]
            for row in rows
            if row.item.customer and row.item.customer[0] == by
        }
        if not sent:
            continue
        contacts = {value: normalise(value) for value in sent}
        owners: dict[str, list[str]] = {}
        values = {contact.value for contact in contacts.values() if contact.is_valid}
        for value, external_id in Customer.objects.filter(
            **{f"{by}__in": values}
        ).values_list(by, "external_id"):
            owners.setdefault(value, []).append(external_id)
        for value, contact in contacts.items():
            if contact.is_valid:
                found[by, value] = owners.get(contact.value, [])
    return found


def _by_contact(by: str, value: str, contacts: _Contacts) -> tuple[str, dict[str, Any]]:
    """The external id of the one customer with this contact, or of a stub to make."""
    owners = contacts.get((by, value))
    if owners is None:
        raise Refusal(
            "customer_invalid", f"“{value}” is no valid {by}.", field=f"customer.{by}"
        )
    if len(owners) > 1:
        raise Refusal(
            "customer_ambiguous",
            f"Several customers have this {by}. Send the external id instead.",
            field=f"customer.{by}",
        )
    if owners:
        return owners[0], {}
    normalised = (normalise_email if by == "email" else normalise_phone)(value).value
    return f"{by}:{normalised}", {by: normalised, f"{by}_is_valid": True}


# One parameter for a whole batch: the fastest of the forms that were measured. Sorted,
# so that two batches with the same ids never wait for each other.
INSERT_EVENTS = """
    INSERT INTO events_event (customer_id, type_id, source_id, external_id, occurred_at,
                              received_at, context, is_backfill)
    SELECT customer_id, type_id, %s, external_id, occurred_at, %s, context, is_backfill
      FROM jsonb_to_recordset(%s::jsonb) AS sent (
               customer_id bigint, type_id bigint, external_id text,
               occurred_at timestamptz, context jsonb, is_backfill boolean)
     ORDER BY customer_id, external_id
        ON CONFLICT DO NOTHING
 RETURNING id, customer_id, external_id, type_id, is_backfill
"""

# Whether a campaign waits for the type is read here, as late as can be.
INSERT_PENDING = """
    INSERT INTO events_pendingevent (event_id, customer_id, type_id)
    SELECT new.event_id, new.customer_id, new.type_id
      FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[])
               AS new (event_id, customer_id, type_id)
      JOIN events_eventtype AS type ON type.id = new.type_id AND type.is_awaited
"""


def _insert_events(
    rows: list[_Row], *, source: Source, now: datetime
) -> set[tuple[int, str]]:
    """Insert what is new. Returns (customer's id, external id) of what was."""
    if not rows:
        return set()
    sent = [
        {
            "customer_id": row.customer_id,
            "type_id": row.type.pk,
            "external_id": row.item.id,
            "occurred_at": row.item.occurred_at,
            "context": row.item.context,
            "is_backfill": row.item.backfill,
        }
        for row in _first_of_each(rows)
    ]
    new = fetch_all(INSERT_EVENTS, [source.pk, now, msgspec.json.encode(sent).decode()])
    live = [row for row in new if not row[4]]
    if live:
        ids, customers, _, types, _ = zip(*live, strict=True)
        if execute(INSERT_PENDING, [list(ids), list(customers), list(types)]):
            transaction.on_commit(_tell, robust=True)
    return {(customer_id, external_id) for _, customer_id, external_id, _, _ in new}


def _first_of_each(rows: list[_Row]) -> Iterable[_Row]:
    """Of the same id twice in a batch the first: the database would take either."""
    first: dict[tuple[int, str], _Row] = {}
    for row in rows:
        first.setdefault((row.customer_id, row.item.id), row)
    return first.values()


INSERT_SYSTEM_EVENTS = """
    INSERT INTO events_systemevent (type_id, source_id, external_id, occurred_at,
                                    received_at, context, is_backfill)
    SELECT type_id, %s, external_id, occurred_at, %s, context, is_backfill
      FROM jsonb_to_recordset(%s::jsonb) AS sent (
               type_id bigint, external_id text, occurred_at timestamptz,
               context jsonb, is_backfill boolean)
     ORDER BY external_id
        ON CONFLICT DO NOTHING
 RETURNING id, external_id, type_id, is_backfill
"""


def _insert_system_events(
    rows: list[_Row], *, source: Source, now: datetime
) -> set[tuple[int, str]]:
    if not rows:
        return set()
    sent = [
        {
            "type_id": row.type.pk,
            "external_id": row.item.id,
            "occurred_at": row.item.occurred_at,
            "context": row.item.context,
            "is_backfill": row.item.backfill,
        }
        for row in _first_of_each(rows)
    ]
    new = fetch_all(
        INSERT_SYSTEM_EVENTS, [source.pk, now, msgspec.json.encode(sent).decode()]
    )
    awaited = EventType.objects.filter(
        pk__in={row[2] for row in new}, is_awaited=True
    ).values_list("pk", flat=True)
    live = [row[0] for row in new if not row[3] and row[2] in set(awaited)]
    if live:
        PendingSystemEvent.objects.bulk_create(
            [PendingSystemEvent(system_event_id=pk) for pk in live]
        )
        transaction.on_commit(_tell, robust=True)
    return {(0, external_id) for _, external_id, _, _ in new}


def _tell() -> None:
    events_recorded.send(sender=None)


def _keep(
    items: Sequence[object],
    rejections: dict[int, Refusal],
    *,
    source: Source,
    kind: Kind,
    format: Format,
) -> None:
    RejectedEvent.objects.bulk_create(
        [
            RejectedEvent(
                source=source,
                kind=kind,
                format=format,
                name=_sent_text(items[index], "name", MAX_NAME),
                external_id=_sent_text(items[index], "id", MAX_ID),
                # ASCII: a character that no text can hold stays as its escape.
                payload=json.dumps(items[index]),
                code=refusal.code,
                field=refusal.field[:255],
                message=refusal.message,
            )
            for index, refusal in sorted(rejections.items())
        ]
    )


def _answer(
    items: Sequence[object],
    rows: list[_Row],
    rejections: dict[int, Refusal],
    recorded: set[tuple[int, str]],
) -> Recorded:
    answer = Recorded()
    by_index = {row.index: row for row in rows}
    for index in range(len(items)):
        if refusal := rejections.get(index):
            answer.rejected += 1
            answer.results.append(
                Result(
                    index,
                    _sent_text(items[index], "id", MAX_ID),
                    REJECTED,
                    refusal.code,
                    refusal.field,
                    refusal.message,
                )
            )
            continue
        row = by_index[index]
        key = (row.customer_id, row.item.id)
        # The same id twice in a batch: the first one counts.
        status = ACCEPTED if key in recorded else DUPLICATE
        recorded.discard(key)
        if status == ACCEPTED:
            answer.accepted += 1
        else:
            answer.duplicates += 1
        result = Result(index, row.item.id, status)
        if row.warnings and status == ACCEPTED:
            result.warnings = row.warnings
        answer.results.append(result)
    return answer


def _sent_text(item: object, key: str, most: int) -> str:
    """A text of an item that was refused, as far as it can be told and stored."""
    sent = item.get(key) if isinstance(item, dict) else None
    return UNSTORABLE.sub("\ufffd", sent)[:most] if isinstance(sent, str) else ""

"""`record_events`: the only door by which events enter.

Never lost: an answer of "accepted" means committed, and what is refused is kept
whole as a RejectedEvent. Never doubled: an id counts once per source and customer,
by a unique constraint, for ever.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from django.db import connection, transaction

from customers import sharing
from customers.contacts import normalise_email, normalise_phone
from customers.merging import current_ids
from customers.models import Customer
from events import mappings, schema
from events.formats import TRANSLATORS, labels
from events.models import (
    EventType,
    Format,
    Kind,
    PendingSystemEvent,
    RejectedEvent,
    Source,
)
from events.signals import events_recorded
from events.store import MOST_SHARED, Key, Sent, Unshared, insert, run_here, shared
from events.wire import (
    MAX_CUSTOMER_ID,
    MAX_ID,
    MAX_NAME,
    UNSTORABLE,
    Item,
    Refusal,
    read_item,
)
from smartcomm.core.clock import database_now
from smartcomm.core.db import fetch_all
from smartcomm.core.errors import Conflict
from smartcomm.core.strict_json import Unfit

NORMALISE = {"email": normalise_email, "phone": normalise_phone}

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
    #: The external id of the customer whose event was recorded.
    customer: str = ""


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
    #: What the customer is named by, and what a stub would be made with.
    by: str = "external_id"
    customer: str = ""
    stub: dict[str, Any] = field(default_factory=dict)


def record_events(
    items: Sequence[object],
    *,
    source: Source,
    kind: Kind = Kind.CUSTOMER,
    format: Format = Format.NATIVE,
    now: datetime | None = None,
    keep_rejected: bool = True,
    together: bool = False,
) -> Recorded:
    """Record events as the API gets them, decoded from JSON, in one of the formats.

    New event types and fields are learnt first, in a transaction of their own. Then
    customers, events, the rows of the queue and the rejected events are written in
    one: all of them, or none and an exception. One statement for a batch of any size
    that brings nothing new. `keep_rejected=False` leaves rejected items to the caller;
    `together=True` lets a few events share the commit of others that come at the same
    moment: for callers with nothing of their own to commit.
    """
    now = now or database_now()
    rejections: dict[int, Refusal] = {}
    read = _read(items, rejections, source=source, kind=kind, format=format, now=now)
    rows = _check_types(read, rejections, kind=kind, source=source, now=now)
    if kind == Kind.CUSTOMER:
        rows = _name_customers(rows, rejections)
    keep = keep_rejected and bool(rejections)
    recorded = None
    if kind == Kind.CUSTOMER and not keep:
        recorded = _insert_known(rows, source=source, now=now, together=together)
    if recorded is None:
        with transaction.atomic():
            if kind == Kind.CUSTOMER:
                rows = _settle_customers(rows, rejections, source=source)
                recorded = _insert_events(rows, source=source, now=now)
                keep = keep_rejected and bool(rejections)
            else:
                recorded = _insert_system_events(rows, source=source, now=now)
            if keep:
                keep_refused(items, rejections, source=source, kind=kind, format=format)
    return _answer(items, rows, rejections, recorded, source, format)


def _read(
    items: Sequence[object],
    rejections: dict[int, Refusal],
    *,
    source: Source,
    kind: Kind,
    format: Format,
    now: datetime,
) -> list[tuple[int, Item]]:
    translate = mappings.renaming(TRANSLATORS[format], source_id=source.pk)
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
            by, customer = item.customer or ("", "")
            rows.append(_Row(index, item, known, warnings, by, customer))
    notes.write()
    return rows


def _name_customers(rows: list[_Row], rejections: dict[int, Refusal]) -> list[_Row]:
    """Name each row's customer by the external id. A query for a kind of contact."""
    if all(row.by == "external_id" for row in rows):
        return rows
    contacts = _find_by_contact(rows)
    named = []
    strangers = []
    for row in rows:
        if row.by != "external_id":
            try:
                owner = _owner(row.by, row.customer, contacts)
            except Refusal as refusal:
                rejections[row.index] = refusal
                continue
            if owner:
                row.customer = owner
            else:
                strangers.append(row)
        named.append(row)
    if strangers:
        _name_stubs(strangers)
    return named


def _name_stubs(rows: Iterable[_Row]) -> None:
    """Give those whose contact nobody has the ID of the stub that will have it."""
    contacts = {
        (row.by, row.customer): NORMALISE[row.by](row.customer).value for row in rows
    }
    ids: dict[tuple[str, str], str] = {}
    for number in itertools.count(1):
        left = {(by, value) for (by, _), value in contacts.items()} - ids.keys()
        if not left:
            break
        tried = {key: _stub_id(*key, number) for key in left}
        # Who goes by such an ID has another contact by now, or was merged away.
        meant = {one: key for key, one in tried.items()}
        taken = set(current_ids(meant))
        for customer in Customer.objects.filter(external_id__in=meant):
            by, value = meant[customer.external_id]
            if getattr(customer, by) != value:
                taken.add(customer.external_id)
        ids |= {key: one for key, one in tried.items() if one not in taken}
    for row in rows:
        value = contacts[row.by, row.customer]
        row.stub = {row.by: value, f"{row.by}_is_valid": True}
        row.customer = ids[row.by, value]


def _stub_id(by: str, value: str, number: int) -> str:
    """email:anna@example.com; longer ones are cut and told apart by their hash."""
    made = f"{by}:{value}" if number == 1 else f"{by}:{value}~{number}"
    if len(made) <= MAX_CUSTOMER_ID:
        return made
    digest = hashlib.sha256(made.encode()).hexdigest()[:16]
    return f"{made[: MAX_CUSTOMER_ID - 17]}~{digest}"


def _settle_customers(
    rows: list[_Row], rejections: dict[int, Refusal], *, source: Source
) -> list[_Row]:
    """See that each row's customer exists, and is locked so as not to be erased.

    Whoever was merged into another goes by the other's ID; whoever is not known is
    created, or the event refused, as the source's policy has it.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for row in rows:
        # Named by ID as well as by contact, a stub has the contact all the same.
        wanted[row.customer] = row.stub or wanted.get(row.customer, {})
    known = _lock(wanted)
    missing = wanted.keys() - known
    if not missing:
        return rows
    former = _current(missing)
    strangers = sorted(missing - former.keys())
    if strangers and source.unknown_customers == Source.UnknownCustomers.CREATE:
        stubs = [
            Customer(external_id=one, is_stub=True, **wanted[one]) for one in strangers
        ]
        Customer.objects.bulk_create(stubs, ignore_conflicts=True)
        # Merged away since we looked: now that the ID is ours, nobody can any more.
        if late := _current(strangers):
            Customer.objects.filter(external_id__in=late, is_stub=True).delete()
            former |= late
        strangers = []
    _lock([*former.values(), *missing])
    settled = []
    refused = set(strangers)
    for row in rows:
        if row.customer in refused:
            rejections[row.index] = Refusal(
                "customer_unknown",
                f"There is no customer “{row.customer}”, and this source may not "
                "create any. Create the customer, then replay.",
                field="customer",
            )
        else:
            row.customer = former.get(row.customer, row.customer)
            settled.append(row)
    return settled


def _current(external_ids: Iterable[str]) -> dict[str, str]:
    """Former ID → the ID of the customer who was kept."""
    return {old: kept for old, (_, kept) in current_ids(external_ids).items()}


def _lock(external_ids: Iterable[str]) -> set[str]:
    # In the order of the ids, so that two batches never wait for each other.
    rows = fetch_all(
        "SELECT external_id FROM customers_customer WHERE external_id = ANY(%s) "
        "ORDER BY id FOR KEY SHARE",
        [list(external_ids)],
    )
    return {external_id for (external_id,) in rows}


_Contacts = dict[tuple[str, str], list[str]]


def _find_by_contact(rows: Iterable[_Row]) -> _Contacts:
    """("email" | "phone", value as sent) → external ids of those who have it."""
    found: _Contacts = {}
    for by, normalise in NORMALISE.items():
        sent = {row.customer for row in rows if row.by == by}
        if not sent:
            continue
        contacts = {value: normalise(value) for value in sent}
        owners = sharing.owners_of(
            (by, contact.value) for contact in contacts.values() if contact.is_valid
        )
        for value, contact in contacts.items():
            if contact.is_valid:
                found[by, value] = owners[by, contact.value]
    return found


def _owner(by: str, value: str, contacts: _Contacts) -> str:
    """The external id of the one customer with this contact; empty if there is none."""
    owners = contacts.get((by, value))
    if owners is None:
        raise Refusal(
            "customer_invalid", f"“{value}” is no valid {by}.", field=f"customer.{by}"
        )
    if len(owners) > 1:
        raise Refusal(
            "customer_ambiguous",
            f"Several customers have this {by}: {sharing.named(owners)}. Send the "
            "external id instead, or merge them.",
            field=f"customer.{by}",
        )
    return owners[0] if owners else ""


def _insert_known(
    rows: list[_Row], *, source: Source, now: datetime, together: bool
) -> set[Key] | None:
    """Insert what is new; None, and nothing inserted, if a customer is not known."""
    if not rows:
        return set()
    batch = {_key(row, source): row for row in reversed(rows)}
    sent = [_sent(key, row, now) for key, row in batch.items()]
    if together and len(sent) <= MOST_SHARED and not connection.in_atomic_block:
        with suppress(Unshared):
            return shared.record(sent)
    recorded = insert(sent, run_here)
    if recorded is not None and recorded.has_queued:
        transaction.on_commit(_tell, robust=True)
    return None if recorded is None else recorded.keys


def _insert_events(rows: list[_Row], *, source: Source, now: datetime) -> set[Key]:
    recorded = _insert_known(rows, source=source, now=now, together=False)
    if recorded is None:
        raise Conflict(
            "A customer was erased at this very moment. Send the events again."
        )
    return recorded


def _key(row: _Row, source: Source) -> Key:
    return row.customer, source.pk, row.item.id


def _sent(key: Key, row: _Row, now: datetime) -> Sent:
    item = row.item
    return Sent(
        customer=key[0],
        type_id=row.type.pk,
        source_id=key[1],
        external_id=key[2],
        occurred_at=item.occurred_at,
        received_at=now,
        context=item.context,
        is_backfill=item.backfill,
    )


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
) -> set[Key]:
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
        for row in {row.item.id: row for row in reversed(rows)}.values()
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
    return {("", source.pk, external_id) for _, external_id, _, _ in new}


def _tell() -> None:
    events_recorded.send(sender=None)


def keep_refused(
    items: Sequence[object],
    rejections: dict[int, Refusal],
    *,
    source: Source,
    kind: Kind,
    format: Format,
) -> None:
    """Keep items that were refused, whole, with the reason. By their index."""
    RejectedEvent.objects.bulk_create(
        [
            RejectedEvent(
                source=source,
                kind=kind,
                format=format,
                name=_sent_text(labels(items[index], format), "name", MAX_NAME),
                external_id=_sent_text(labels(items[index], format), "id", MAX_ID),
                payload=item_as_text(items[index]),
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
    recorded: set[Key],
    source: Source,
    format: Format,
) -> Recorded:
    answer = Recorded()
    by_index = {row.index: row for row in rows}
    for index in range(len(items)):
        if refusal := rejections.get(index):
            answer.rejected += 1
            answer.results.append(
                Result(
                    index,
                    _sent_text(labels(items[index], format), "id", MAX_ID),
                    REJECTED,
                    refusal.code,
                    refusal.field,
                    refusal.message,
                )
            )
            continue
        row = by_index[index]
        key = _key(row, source)
        # The same id twice in a batch: the first one counts.
        status = ACCEPTED if key in recorded else DUPLICATE
        recorded.discard(key)
        if status == ACCEPTED:
            answer.accepted += 1
        else:
            answer.duplicates += 1
        result = Result(index, row.item.id, status, customer=row.customer)
        if row.warnings and status == ACCEPTED:
            result.warnings = row.warnings
        answer.results.append(result)
    return answer


def item_as_text(item: object) -> str:
    """An item as a rejected event keeps it: JSON that any text column holds."""
    if isinstance(item, Unfit):
        return item.text.replace("\x00", "\\u0000")
    # ASCII: a character that no text can hold stays as its escape.
    return json.dumps(item)


def _sent_text(item: object, key: str, most: int) -> str:
    """A text of an item that was refused, as far as it can be told and stored."""
    if isinstance(item, Unfit):
        item = item.loosely()
    sent = item.get(key) if isinstance(item, dict) else None
    return UNSTORABLE.sub("\ufffd", sent)[:most] if isinstance(sent, str) else ""

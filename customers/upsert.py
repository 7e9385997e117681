"""Create and update customers, many at once, as the master system tells them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import msgspec
from django.db import OperationalError, transaction

from customers import attributes, sharing
from customers.consent import record_answers
from customers.contacts import normalise_email, normalise_phone
from customers.devices import remember_devices
from customers.merging import current_ids
from customers.models import Customer, MailingCategory
from customers.wire import Change, read_change
from smartcomm.core.db import fetch_all, sqlstate
from smartcomm.core.errors import Conflict, Invalid, UserError

COLUMNS = {
    "external_id": "text",
    "first_name": "text",
    "last_name": "text",
    "email": "text",
    "email_is_valid": "boolean",
    "phone": "text",
    "phone_is_valid": "boolean",
    "birth_date": "date",
    "gender": "text",
    "city": "text",
    "country": "text",
    "language": "text",
    "time_zone": "text",
    "registered_at": "timestamptz",
    "attributes": "jsonb",
}
_NAMES = ", ".join(COLUMNS)
_TYPED = ", ".join(f"{name} {type}" for name, type in COLUMNS.items())

# In the order of their IDs, here and where rows are locked, so that two batches with
# the same customers wait for each other and never crosswise.
INSERT = f"""
    INSERT INTO customers_customer ({_NAMES}, is_stub, created_at, updated_at)
    SELECT {_NAMES}, false, %s, %s
      FROM jsonb_to_recordset(%s::jsonb) AS told({_TYPED})
     WHERE NOT EXISTS (SELECT FROM customers_formerid AS former
                        WHERE former.external_id = told.external_id)
     ORDER BY external_id
        ON CONFLICT (external_id) DO NOTHING
    RETURNING external_id, id
"""  # noqa: S608  (names from the table above)

UPDATE = f"""
    UPDATE customers_customer AS customer
       SET ({_NAMES}, is_stub, updated_at)
         = ROW({", ".join(f"told.{name}" for name in COLUMNS)}, false, %s)
      FROM jsonb_to_recordset(%s::jsonb) AS told(id bigint, {_TYPED})
     WHERE customer.id = told.id
    RETURNING customer.external_id, customer.id
"""  # noqa: S608  (names from the table above)

EMPTY: dict[str, Any] = {
    **dict.fromkeys(COLUMNS, ""),
    "email_is_valid": False,
    "phone_is_valid": False,
    "birth_date": None,
    "registered_at": None,
    "attributes": {},
}

DEADLOCK = "40P01"
ATTEMPTS = 3


@dataclass
class Result:
    """What became of one item. Warnings tell what was kept, but is of no use yet."""

    index: int
    external_id: str | None
    status: Literal["created", "updated", "rejected"]
    errors: list[UserError] = field(default_factory=list)
    warnings: list[UserError] = field(default_factory=list)


@dataclass(frozen=True)
class Upserted:
    """What became of all items, in their order."""

    results: list[Result]

    def count(self, status: str) -> int:
        return sum(result.status == status for result in self.results)


def upsert_customers(
    items: Sequence[object], *, origin: str, now: datetime, name_others: bool = True
) -> Upserted:
    """Create or update each customer; change only what an item names.

    Items are decoded JSON as in the API. One that is wrong is rejected and spoils
    no other. A handful of statements, however many items; one transaction. The
    same customer twice is taken in the order told, and a former ID stands for the
    customer it leads to. `origin` is who told us, for the record of consents.
    `name_others`: whether a warning may name who else has a contact.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with transaction.atomic():
                return _upsert(items, origin=origin, now=now, name_others=name_others)
        except OperationalError as error:
            deadlock = sqlstate(error) == DEADLOCK
            if not deadlock or attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _upsert(
    items: Sequence[object], *, origin: str, now: datetime, name_others: bool
) -> Upserted:
    results: list[Result] = []
    told: list[tuple[Result, Change]] = []
    for index, item in enumerate(items):
        change, errors = read_change(item, now=now)
        result = Result(index, _id_of(item), "rejected", errors)
        results.append(result)
        if change is not None:
            told.append((result, change))
    told = _with_right_attributes(told)
    told, categories = _with_known_categories(told)
    if not told:
        return Upserted(results)

    before = _lock({change.external_id for _, change in told})
    _find_merged(told, before)
    changes: dict[str, Change] = {}
    for _, change in told:
        if change.external_id in changes:
            changes[change.external_id].then(change)
        else:
            changes[change.external_id] = copy(change)
    had = dict(before)
    created, rows, pks = _write(changes, before, now=now)
    record_answers(
        {pks[id]: change.consents for id, change in changes.items()},
        categories=categories,
        origin=origin,
        now=now,
    )
    remember_devices(
        {pks[id]: change.devices for id, change in changes.items()}, now=now
    )
    owners = _look_who_shares(changes, had, rows)
    for result, change in told:
        id = change.external_id
        result.status = "created" if id in created else "updated"
        created.discard(id)  # Told again, it is there already.
        result.warnings = [
            *_merged(result, id),
            *_unusable(change, rows[id]),
            *_shared(change, rows[id], owners, name_others=name_others),
        ]
    return Upserted(results)


def _find_merged(
    told: list[tuple[Result, Change]], locked: dict[str, dict[str, Any]]
) -> None:
    """Let changes of a former ID be about the customer it leads to; lock them too."""
    missing = {change.external_id for _, change in told} - locked.keys()
    led_to = current_ids(missing) if missing else {}
    for _, change in told:
        if change.external_id in led_to:
            _, change.external_id = led_to[change.external_id]
    if more := {external_id for _, external_id in led_to.values()} - locked.keys():
        locked |= _lock(more)


def _id_of(item: object) -> str | None:
    external_id = item.get("external_id") if isinstance(item, dict) else None
    return external_id if isinstance(external_id, str) else None


def _with_right_attributes(
    told: list[tuple[Result, Change]],
) -> list[tuple[Result, Change]]:
    """Those whose attributes are of the right types; what is new is learnt."""
    if not any(change.attributes for _, change in told):
        return told
    known = attributes.known_types()
    while True:
        right = []
        learnt: dict[str, str] = {}
        for result, change in told:
            types = {
                code: known.get(code) or learnt.get(code) or attributes.type_of(value)
                for code, value in change.attributes.items()
                if value is not None
            }
            result.errors = _type_errors(change, types)
            if not result.errors:
                learnt |= {
                    code: str(type) for code, type in types.items() if code not in known
                }
                right.append((result, change))
        if not learnt:
            return right
        held = attributes.learn(learnt)
        known |= held
        if held == learnt:
            return right
        # Somebody else declared one of them first, and otherwise: look again.


def _type_errors(change: Change, types: dict[str, Any]) -> list[UserError]:
    errors: list[UserError] = []
    for code, type in types.items():
        try:
            attributes.check_value(code, change.attributes[code], type)
        except UserError as error:
            errors.append(error)
    return errors


def _with_known_categories(
    told: list[tuple[Result, Change]],
) -> tuple[list[tuple[Result, Change]], dict[str, int]]:
    """Those who name only mailing categories there are; and these, code → key."""
    if not any(answer.category for _, change in told for answer in change.consents):
        return told, {}
    known = dict(MailingCategory.objects.values_list("code", "pk"))
    right = []
    for result, change in told:
        named = dict.fromkeys(a.category for a in change.consents if a.category)
        result.errors = [
            Invalid(
                f"There is no mailing category “{code}”. Add it in the back office.",
                field=f"consents.categories.{code}",
                code="category_unknown",
            )
            for code in named
            if code not in known
        ]
        if not result.errors:
            right.append((result, change))
    return right, known


def _write(
    changes: dict[str, Change], before: dict[str, dict[str, Any]], *, now: datetime
) -> tuple[set[str], dict[str, dict[str, Any]], dict[str, int]]:
    """Write the customers: which are new, their rows, and their primary keys.

    `before` are those that were there, locked.
    """
    rows = {
        id: _applied(change, EMPTY | {"external_id": id})
        for id, change in changes.items()
        if id not in before
    }
    pks: dict[str, int] = {}
    if rows:
        pks = dict(fetch_all(INSERT, [now, now, _json(rows.values())]))
    created = set(pks)
    if raced := rows.keys() - created:
        # Made by somebody else since we looked.
        before |= _lock(raced)
    if lost := raced - before.keys():
        raise Conflict(
            f"Customer {min(lost)} was erased or merged at this very moment. Send them "
            "again."
        )
    changed = []
    for id, old in before.items():
        new = _applied(changes[id], old)
        rows[id] = new
        pks[id] = old["id"]
        if new != old or old["is_stub"]:
            changed.append(new)
    if changed:
        fetch_all(UPDATE, [now, _json(changed)])
    return created, rows, pks


def _lock(ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The rows of the customers that exist, locked until the transaction ends."""
    rows = (
        Customer.objects.filter(external_id__in=list(ids))
        .order_by("external_id")
        # Those who only refer to a customer, as ingestion does, need not wait.
        .select_for_update(no_key=True)
        .values("id", "is_stub", *COLUMNS)
    )
    return {row["external_id"]: row for row in rows}


def _applied(change: Change, old: dict[str, Any]) -> dict[str, Any]:
    new = old | change.columns
    # What we have in this very form has been checked: most of what a master system
    # repeats, and checking is the dearest part.
    if "email" in change.columns and not _is_known(new, old, "email"):
        email = normalise_email(new["email"])
        new["email"], new["email_is_valid"] = email.value, email.is_valid
    # A country that becomes known can make sense of a number that made none.
    if not _is_known(new, old, "phone"):
        phone = normalise_phone(new["phone"], country=new["country"])
        new["phone"], new["phone_is_valid"] = phone.value, phone.is_valid
    if change.attributes:
        both = old["attributes"] | change.attributes
        new["attributes"] = {c: value for c, value in both.items() if value is not None}
    return new


def _is_known(new: dict[str, Any], old: dict[str, Any], name: str) -> bool:
    return bool(old[f"{name}_is_valid"]) and new[name] == old[name]


def _json(rows: Iterable[dict[str, Any]]) -> str:
    return msgspec.json.encode(list(rows)).decode()


WORDS = {"email": "e-mail address", "phone": "phone number"}


def _merged(result: Result, external_id: str) -> list[UserError]:
    if result.external_id == external_id:
        return []
    return [
        Conflict(
            f"“{result.external_id}” was merged into “{external_id}”, who was changed.",
            field="external_id",
            code="customer_merged",
        )
    ]


def _unusable(change: Change, row: dict[str, Any]) -> list[UserError]:
    return [
        Conflict(
            f"“{row[name]}” is not a valid {words}. It is kept, and not written to.",
            field=name,
            code="contact_invalid",
        )
        for name, words in WORDS.items()
        if change.columns.get(name) and not row[f"{name}_is_valid"]
    ]


def _look_who_shares(
    changes: dict[str, Change],
    before: dict[str, dict[str, Any]],
    rows: dict[str, dict[str, Any]],
) -> dict[sharing.Contact, list[str]]:
    """The owners of the contacts that were told, and of those that were given up."""
    told, given_up = (
        {
            (kind, row[id][kind])
            for id, change in changes.items()
            for kind in sharing.KINDS
            if kind in change.columns and id in row and row[id][f"{kind}_is_valid"]
        }
        for row in (rows, before)
    )
    return sharing.look_again(told, given_up=given_up - told)


def _shared(
    change: Change,
    row: dict[str, Any],
    owners: dict[sharing.Contact, list[str]],
    *,
    name_others: bool,
) -> list[UserError]:
    warnings: list[UserError] = []
    for kind, words in WORDS.items():
        if not change.columns.get(kind):
            continue
        others = [
            one
            for one in owners.get((kind, row[kind]), [])
            if one != row["external_id"]
        ]
        if others:
            told = sharing.named(others) if name_others else "Another customer"
            verb = "have" if name_others and len(others) > 1 else "has"
            warnings.append(
                Conflict(
                    f"{told} {verb} the same {words}. If that is one person, merge "
                    "them.",
                    field=kind,
                    code="contact_shared",
                )
            )
    return warnings

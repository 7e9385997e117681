"""What a source sends → a frozen Item, or a Refusal that says what to do.

Shapes and limits are those of the product's API; nothing here reads the database.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from customers.wire import check_external_id
from events.models import Kind
from smartcomm.core.errors import Invalid
from smartcomm.core.strict_json import Unfit

MAX_ITEMS = 1_000
MAX_ID = 200
MAX_NAME = 128
MAX_CUSTOMER_ID = 128
MAX_CONTACT = 254
MAX_CONTEXT_BYTES = 32 * 1024
MAX_CONTEXT_FIELDS = 100
MAX_CONTEXT_DEPTH = 6
MAX_DIGITS = 100
_PLAIN = 2**63
#: Clocks of senders may be ahead by so much.
FUTURE = timedelta(minutes=5)

FIELD_CODE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:[0-5]\d)?\Z"
)
#: What no text in the database can hold.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

CONTACTS = ("external_id", "email", "phone")


class Refusal(Invalid):
    """An event that is refused, and kept as a rejected event."""

    def __init__(self, code: str, message: str, *, field: str = "") -> None:
        super().__init__(message, field=field, code=code)


@dataclass(frozen=True, slots=True)
class Item:
    """One event as a source sent it, checked."""

    id: str
    name: str
    #: ("external_id" | "email" | "phone", value); none for a system event.
    customer: tuple[str, str] | None
    occurred_at: datetime
    context: Mapping[str, Any]
    backfill: bool


def read_item(data: object, *, kind: Kind, now: datetime) -> Item:
    """Check one event. Raises Refusal for the first thing that is wrong with it."""
    if isinstance(data, Unfit):
        raise Refusal(data.code, data.message, field=data.field)
    if not isinstance(data, dict):
        raise Refusal("not_an_object", "An event is a JSON object.")
    known = _CUSTOMER_KEYS if kind == Kind.CUSTOMER else _SYSTEM_KEYS
    if not data.keys() <= known:
        unknown = min(key for key in data if key not in known)
        if unknown == "customer":
            raise Refusal(
                "customer_not_allowed",
                "A system event belongs to no customer. Send it without “customer”, "
                "or to /events.",
                field="customer",
            )
        raise Refusal(
            "key_unknown",
            f"“{_shown(unknown)}” is not understood; known are "
            f"{', '.join(sorted(known))}.",
            field=_shown(unknown),
        )
    return Item(
        id=_id(data.get("id")),
        name=_name(data.get("name")),
        customer=_customer(data.get("customer")) if kind == Kind.CUSTOMER else None,
        occurred_at=_occurred_at(data.get("occurred_at"), now),
        context=_context(data.get("context")),
        backfill=_backfill(data.get("backfill")),
    )


_SYSTEM_KEYS = frozenset({"id", "name", "occurred_at", "context", "backfill"})
_CUSTOMER_KEYS = _SYSTEM_KEYS | {"customer"}


def _id(value: object) -> str:
    if value is None:
        return str(uuid.uuid4())
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID:
        raise Refusal(
            "id_invalid", f"“id” is a text of 1 to {MAX_ID} characters.", field="id"
        )
    return _storable(value, "id")


def _name(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Refusal(
            "name_missing", "“name” is missing: say what happened.", field="name"
        )
    if len(value) > MAX_NAME:
        raise Refusal(
            "name_too_long",
            f"“name” has more than {MAX_NAME} characters.",
            field="name",
        )
    return _storable(value, "name")


def _customer(value: object) -> tuple[str, str]:
    by, found = "external_id", value
    place = "customer"
    if isinstance(value, dict):
        if len(value) != 1 or not value.keys() <= set(CONTACTS):
            raise Refusal(
                "customer_invalid",
                "“customer” is an external id, or an object with one of external_id, "
                "email, phone.",
                field="customer",
            )
        by, found = next(iter(value.items()))
        place = f"customer.{by}"
    if found is None or found == "":
        raise Refusal(
            "customer_missing",
            "“customer” is missing: say whose event it is.",
            field=place,
        )
    if by != "external_id" and isinstance(found, str) and len(found) <= MAX_CONTACT:
        return by, _storable(found, place)
    try:
        return by, check_external_id(found)
    except Invalid as error:
        raise Refusal(
            "customer_invalid",
            f"“{place}” is a text of 1 to {MAX_CUSTOMER_ID} characters, without "
            "control characters.",
            field=place,
        ) from error


def _occurred_at(value: object, now: datetime) -> datetime:
    if value is None:
        return now
    if not isinstance(value, str) or not RFC_3339.match(value):
        raise Refusal(
            "occurred_at_invalid",
            "“occurred_at” is a time as in RFC 3339, such as "
            "2026-11-20T10:15:00+03:00.",
            field="occurred_at",
        )
    try:
        moment = datetime.fromisoformat(value.upper().replace(" ", "T"))
        if moment.tzinfo is None:
            raise Refusal(
                "occurred_at_naive",
                "“occurred_at” has no offset. Add one, such as Z or +03:00.",
                field="occurred_at",
            )
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Refusal(
            "occurred_at_invalid",
            f"“occurred_at” is no time that exists: {_shown(value)}.",
            field="occurred_at",
        ) from error
    if moment > now + FUTURE:
        raise Refusal(
            "occurred_at_in_future",
            "“occurred_at” is more than 5 minutes in the future. Check the sender's "
            "clock.",
            field="occurred_at",
        )
    return moment


def _backfill(value: object) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise Refusal(
            "backfill_invalid", "“backfill” is true or false.", field="backfill"
        )
    return value


def _context(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refusal(
            "context_invalid",
            "“context” is an object of fields and values.",
            field="context",
        )
    if len(value) > MAX_CONTEXT_FIELDS:
        raise Refusal(
            "context_too_many_fields",
            f"“context” has more than {MAX_CONTEXT_FIELDS} fields.",
            field="context",
        )
    if not value.keys() <= _good_codes:
        _check_codes(value)
    for code, found in value.items():
        # Plain texts, nearly all there is, are checked by encoding them, below.
        kind = type(found)
        if kind is not str and kind is not bool:
            if kind is int and -_PLAIN < found < _PLAIN:
                continue
            _check_value(found, f"context.{code}", 1)
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:
        encoded = b"\\u0000"
    if b"\\u0000" in encoded:
        for code, found in value.items():
            _check_value(found, f"context.{code}", 1)
    if len(encoded) > MAX_CONTEXT_BYTES:
        raise Refusal(
            "context_too_large",
            f"“context” has more than {MAX_CONTEXT_BYTES // 1024} KiB.",
            field="context",
        )
    return value


# Field codes seen before: a sender has few, and matching each of them costs.
_good_codes: set[str] = set()
_MAX_GOOD_CODES = 10_000


def _check_codes(context: Mapping[str, Any]) -> None:
    for code in context:
        if not FIELD_CODE.match(code):
            raise Refusal(
                "field_code_invalid",
                f"“{_shown(code)}” is no field code: use letters, digits and "
                "underscores, not starting with a digit, up to 64 characters.",
                field=f"context.{_shown(code)}",
            )
    if len(_good_codes) < _MAX_GOOD_CODES:
        _good_codes.update(context)


def _check_value(value: object, place: str, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _storable(value, place)
    elif isinstance(value, int):
        if abs(value) >= 10**MAX_DIGITS:
            raise Refusal(
                "number_too_large",
                f"“{place}” has more than {MAX_DIGITS} digits. Send it as a text.",
                field=place,
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise Refusal("number_invalid", f"“{place}” is not a number.", field=place)
    elif depth >= MAX_CONTEXT_DEPTH:
        raise Refusal(
            "context_too_deep",
            f"“{place}” is nested more than {MAX_CONTEXT_DEPTH} deep.",
            field=place,
        )
    elif isinstance(value, dict):
        for key, inner in value.items():
            _storable(key, place)
            _check_value(inner, f"{place}.{key}", depth + 1)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check_value(inner, f"{place}.{i}", depth + 1)
    else:
        raise Refusal("context_invalid", f"“{place}” is no JSON value.", field=place)


def _storable(text: str, place: str) -> str:
    # Nearly every text is printable, and that is known sooner.
    if not text.isprintable() and UNSTORABLE.search(text):
        raise Refusal(
            "text_invalid",
            f"“{_shown(place)}” has a character that cannot be stored: NUL, or half "
            "a surrogate pair.",
            field=_shown(place),
        )
    return text


def _shown(text: str) -> str:
    """A sender's text, fit for an error message."""
    safe = UNSTORABLE.sub("\ufffd", text)
    return safe if len(safe) <= 80 else f"{safe[:80]}…"

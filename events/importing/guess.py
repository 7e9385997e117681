"""A plan for a file that nobody has told us anything about, from its first rows."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from events.importing.plan import (
    CUSTOMER_OBJECTS,
    EVENT_OBJECTS,
    NUMBER,
    OURS,
    RAW,
    Column,
    Kind,
    Plan,
    fields_of,
)
from events.importing.reading import Row, Rows, Shape

#: So many rows are looked at.
LOOKED_AT = 1_000

#: How others call our fields; those in front are believed first.
ALSO: Mapping[str, tuple[str, ...]] = {
    "id": ("event_id", "eventid", "message_id", "messageid"),
    "name": ("event_name", "event", "event_type"),
    "customer": (
        "customer_id",
        "external_id",
        "customer_external_id",
        "client_id",
        "user_id",
        "userid",
        "client",
        "user",
    ),
    "customer.email": ("customer_email", "email", "e_mail", "mail"),
    "customer.phone": ("customer_phone", "phone", "mobile"),
    "occurred_at": (
        "time",
        "timestamp",
        "datetime",
        "date_time",
        "event_time",
        "created_at",
        "date",
    ),
    "external_id": ("customer_id", "id", "customer", "client_id", "user_id"),
    "first_name": ("firstname", "given_name", "forename"),
    "last_name": ("lastname", "surname", "family_name"),
    "email": ("e_mail", "mail", "email_address", "e_mail_address"),
    "phone": ("mobile", "phone_number", "telephone", "tel", "cell"),
    "birth_date": ("birthday", "date_of_birth", "dob", "birthdate"),
    "gender": ("sex",),
    "city": ("town",),
    "country": ("country_code",),
    "language": ("lang", "locale"),
    "time_zone": ("timezone",),
    "registered_at": ("created_at", "registered", "registration_date", "sign_up_date"),
    "consents.email": ("email_consent", "consent_email", "email_opt_in"),
    "consents.sms": ("sms_consent", "consent_sms", "sms_opt_in"),
    "consents.push": ("push_consent", "consent_push", "push_opt_in"),
}


def read_sample(path: Path, shape: Shape) -> tuple[list[str], list[Row]]:
    """The header and the first rows. The header of NDJSON are the keys seen."""
    rows = Rows(path, shape)
    try:
        sample = list(islice(rows, LOOKED_AT))
    finally:
        rows.close()
    if shape.format == "csv":
        return rows.header, sample
    keys: dict[str, None] = {}
    for row in sample:
        if isinstance(row.value, dict):
            keys.update(dict.fromkeys(row.value))
    return [key for key in keys if key not in OURS and key != RAW], sample


def guess_plan(
    kind: Kind,
    shape: Shape,
    header: Sequence[str],
    sample: Sequence[Row],
    *,
    native: bool = True,
) -> Plan:
    """Every column somewhere, by its name; nothing is left out in silence.

    NDJSON whose rows are items as the API takes them is read as such, if `native`.
    """
    if native and shape.format == "ndjson" and set(header) <= native_keys(kind):
        return Plan(kind=kind, shape=shape)
    targets = guess_targets(kind, shape, header)
    return Plan(
        kind=kind,
        shape=shape,
        columns=tuple(
            Column(name, target, looks=looks_like(values_of(name, header, sample)))
            for name, target in targets.items()
        ),
    )


def native_keys(kind: Kind) -> set[str]:
    fields = {field for field in fields_of(kind) if "." not in field}
    objects = CUSTOMER_OBJECTS if kind == Kind.CUSTOMERS else EVENT_OBJECTS
    return fields | set(objects)


def guess_targets(kind: Kind, shape: Shape, header: Iterable[str]) -> dict[str, str]:
    """Column → field."""
    columns = [name for name in header if name not in OURS]
    plain = {name: simplified(name) for name in columns}
    targets: dict[str, str] = {}
    free = set(columns)

    def give(field: str, names: Iterable[str]) -> None:
        for called in names:
            for name in columns:
                if name in free and plain[name] == called:
                    targets[name] = field
                    free.discard(name)
                    return

    fields = dict(fields_of(kind))
    if "name" in fields:
        # Beside a column of events, “name” is that of a product or a person.
        give("name", ALSO["name"])
    for field in fields:
        if field not in targets.values():
            give(field, [field])
    taken = set(targets.values())
    for field in fields:
        if field in taken:
            continue
        whose_is_told = any(one.startswith("customer") for one in targets.values())
        if field.startswith("customer") and whose_is_told:
            continue
        give(field, ALSO.get(field, ()))
    if shape.format == "ndjson":
        for name in sorted(free & native_keys(kind)):
            targets[name] = name
            free.discard(name)
    own = "attributes" if kind == Kind.CUSTOMERS else "context"
    used = set(targets.values())
    for name in columns:
        if name in free:
            target = f"{own}.{code_of(name, nested=own == 'context')}"
            while target in used:
                target += "_2"
            used.add(target)
            targets[name] = target
    return {name: targets[name] for name in columns}


def simplified(name: str) -> str:
    """A column's name in the way in which fields are written: Order ID → order_id."""
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    text = re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_.").lower()
    return text


def code_of(name: str, *, nested: bool) -> str:
    """A field code out of a column's name: Product no → product_no.

    What is a code already stays, unless it only has the capital of a headline; and so
    does what says itself where it goes, as in context.Price.
    """
    for prefix in ("context.", "attributes.", "properties."):
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            form = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
            break
    else:
        form = r"[a-z_][A-Za-z0-9_]{0,63}"
    parts = name.split(".") if nested else [name]
    return ".".join(_one_code(part, form) for part in parts[:6] if part) or "field"


def _one_code(name: str, form: str) -> str:
    if re.fullmatch(form, name):
        return name
    code = simplified(name).replace(".", "_")[:64].strip("_") or "field"
    return f"_{code}"[:64] if code[0].isdigit() else code


def values_of(name: str, header: Sequence[str], sample: Iterable[Row]) -> list[Any]:
    """What a column has in the first rows, without what is empty."""
    found = []
    position = header.index(name)
    for row in sample:
        value: Any = None
        if row.refusal is None and isinstance(row.value, list):
            value = row.value[position]
        elif isinstance(row.value, dict):
            value = row.value.get(name)
        if value not in (None, ""):
            found.append(value)
    return found


def looks_like(values: Sequence[Any], *, decimal_comma: bool = False) -> str:
    """What all of these texts are: number, boolean, or else text.

    Of one column all or none, so that a field does not change its type with the row:
    a column of product numbers in which one has a letter is a column of texts.
    """
    texts = [value for value in values if isinstance(value, str)]
    if not texts:
        return ""
    if decimal_comma:
        texts = [text.replace(",", ".", 1) for text in texts]
    if all(NUMBER.match(text) for text in texts):
        return "number"
    if all(text.lower() in ("true", "false") for text in texts):
        return "boolean"
    return "text"

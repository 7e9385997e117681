"""Types of attributes: declared by staff, or learnt from the first value that comes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from customers.models import Attribute
from smartcomm.core.errors import Invalid

Type = Attribute.Type

CODE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
MAX_TEXT = 4_096
#: So many values in a list.
MAX_ITEMS = 200

# What the database function smartcomm_instant reads as a date, and nothing else.
_DATE = re.compile(
    r"\d{4}-\d\d-\d\d"
    r"([T ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)?)?"
)

SHOULD_BE = {
    Type.STRING: "a text",
    Type.NUMBER: "a number, without quotes",
    Type.BOOLEAN: "true or false, without quotes",
    Type.DATE: "a date: 2026-11-20, or 2026-11-20T10:15:00Z",
    Type.LIST: "a list of texts, numbers, true or false",
}


def type_of(value: object) -> Type | None:
    """The type that a first value teaches; None for what no attribute may hold."""
    match value:
        case bool():
            return Type.BOOLEAN
        case int() | float():
            return Type.NUMBER
        case str():
            return Type.DATE if is_date(value) else Type.STRING
        case list() if all(isinstance(one, str | int | float) for one in value):
            return Type.LIST
    return None


def fits(value: object, type: str) -> bool:
    """Whether a value is of a type. A date is a text as well."""
    found = type_of(value)
    return found == type or (type == Type.STRING and found == Type.DATE)


def is_date(text: str) -> bool:
    """Whether a text is a date of the calendar, with or without a time."""
    if not _DATE.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text.upper())
    except ValueError:
        return False
    return True


def check_code(code: str) -> None:
    """Refuse what cannot be a code: codes stand in rules and templates."""
    if not CODE.fullmatch(code):
        raise Invalid(
            f"“{code}” cannot be the code of an attribute. Use letters, digits and "
            "underscores, beginning with no digit, up to 64.",
            field=f"attributes.{code}",
            code="attribute_code_invalid",
        )


def check_value(code: str, value: object, type: str) -> None:
    """Refuse a value that is not of the attribute's type."""
    if not fits(value, type):
        raise Invalid(
            f"The attribute “{code}” must be {SHOULD_BE[Type(type)]}.",
            field=f"attributes.{code}",
            code="attribute_type_wrong",
        )


def known_types() -> dict[str, str]:
    """Code → type of all attributes."""
    return dict(Attribute.objects.values_list("code", "type"))


def learn(types: Mapping[str, str]) -> dict[str, str]:
    """Declare attributes seen for the first time. Returns the types that hold now.

    Somebody else may have declared one in the same moment with another type: theirs
    holds then. Sorted, so that two who learn the same do not wait for each other
    crosswise.
    """
    Attribute.objects.bulk_create(
        [Attribute(code=code, type=types[code]) for code in sorted(types)],
        ignore_conflicts=True,
    )
    return _types_of(types)


def _types_of(codes: Iterable[str]) -> dict[str, str]:
    rows = Attribute.objects.filter(code__in=list(codes))
    return dict(rows.values_list("code", "type"))

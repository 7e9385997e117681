"""Event types and their context fields: learnt from what arrives, or enforced."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.db import transaction

from events.models import EventField, EventType, Kind
from events.wire import FIELD_CODE, Item, Refusal

#: Nested fields are learnt down to this depth, and so many for a type.
LEARNT_DEPTH = 3
MAX_LEARNT = 500

DATE = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:?\d{2})?)?\Z"
)

FieldType = EventField.Type

# Type's id → codes of fields this process knows to be in the table, so that learning
# costs no query for an event that brings nothing new.
_known: dict[int, set[str]] = defaultdict(set)
_MAX_KNOWN = 200_000


def register_types(names: Iterable[str], kind: Kind) -> dict[str, EventType]:
    """The types with these names; those never seen before register themselves."""
    wanted = set(names)
    types = {t.name: t for t in EventType.objects.filter(name__in=wanted)}
    if fresh := sorted(wanted - types.keys()):
        EventType.objects.bulk_create(
            [EventType(name=name, kind=kind) for name in fresh], ignore_conflicts=True
        )
        types |= {t.name: t for t in EventType.objects.filter(name__in=fresh)}
    return types


def check_kind(item: Item, event_type: EventType, kind: Kind) -> None:
    """Raise Refusal where the name belongs to the other kind of event."""
    if event_type.kind != kind:
        other = "a system event" if kind == Kind.CUSTOMER else "an event of customers"
        door = "/system-events" if kind == Kind.CUSTOMER else "/events"
        raise Refusal(
            "kind_mismatch",
            f"“{item.name}” is {other}. Send it to {door}, or choose another name.",
            field="name",
        )


def declared_fields(types: Iterable[EventType]) -> dict[int, dict[str, str]]:
    """Type's id → field code → type of its value, for the enforced among these."""
    found: dict[int, dict[str, str]] = {
        t.pk: {} for t in types if t.mode == EventType.Mode.ENFORCED
    }
    if found:
        rows = EventField.objects.filter(type_id__in=found)
        for type_id, code, value_type in rows.values_list(
            "type_id", "code", "value_type"
        ):
            found[type_id][code] = value_type
    return found


def enforce(item: Item, fields: Mapping[str, str]) -> None:
    """Raise Refusal for a field that is not declared, or has another type."""
    for code, value in _paths(item.context):
        found = type_of(value)
        if found is None:
            continue
        declared = fields.get(code)
        if declared is None:
            raise Refusal(
                "field_unknown",
                f"“{code}” is not declared for “{item.name}”, which is enforced. "
                "Declare it under Event types, then replay.",
                field=f"context.{code}",
            )
        if found != declared and not (
            declared == FieldType.STRING and found == FieldType.DATE
        ):
            raise Refusal(
                "field_type",
                f"“{code}” of “{item.name}” is declared as "
                f"{FieldType(declared).label.lower()}, and came as "
                f"{found.label.lower()}.",
                field=f"context.{code}",
            )


def learn_fields(items: Iterable[tuple[int, Item]]) -> None:
    """Add the fields that these events, each with its type's id, bring first."""
    fresh: dict[tuple[int, str], FieldType] = {}
    for type_id, item in items:
        known = _known[type_id]
        if item.context.keys() <= known and not any(
            type(value) is dict for value in item.context.values()
        ):
            continue
        for code, value in _paths(item.context):
            if code in known or (type_id, code) in fresh:
                continue
            if (found := type_of(value)) is not None:
                fresh[type_id, code] = found
    if not fresh:
        return
    counts = dict.fromkeys((type_id for type_id, _ in fresh), 0)
    stored = set(
        EventField.objects.filter(type_id__in=counts).values_list("type_id", "code")
    )
    for type_id, _ in stored:
        counts[type_id] += 1
    rows = []
    for (type_id, code), value_type in fresh.items():
        if (type_id, code) not in stored and counts[type_id] < MAX_LEARNT:
            counts[type_id] += 1
            rows.append(EventField(type_id=type_id, code=code, value_type=value_type))
    EventField.objects.bulk_create(rows, ignore_conflicts=True)
    # Only what is committed is known.
    transaction.on_commit(lambda: _remember(stored | fresh.keys()))


def _remember(fields: set[tuple[int, str]]) -> None:
    if sum(map(len, _known.values())) > _MAX_KNOWN:
        _known.clear()
    for type_id, code in fields:
        _known[type_id].add(code)


def forget_known() -> None:
    """Look at the table again, for when fields have been removed."""
    _known.clear()


def type_of(value: Any) -> FieldType | None:
    """The type a field has by one of its values; None for null, which tells nothing."""
    match value:
        case None:
            return None
        case bool():
            return FieldType.BOOLEAN
        case int() | float():
            return FieldType.NUMBER
        case str():
            return FieldType.DATE if DATE.match(value) else FieldType.STRING
        case Mapping():
            return FieldType.OBJECT
    return FieldType.LIST


def _paths(
    context: Mapping[str, Any], prefix: str = "", depth: int = 1
) -> Iterator[tuple[str, Any]]:
    for code, value in context.items():
        if depth > 1 and not FIELD_CODE.match(code):
            continue
        yield prefix + code, value
        if isinstance(value, Mapping) and depth < LEARNT_DEPTH:
            yield from _paths(value, f"{prefix}{code}.", depth + 1)

"""What the builder offers: names, fields and values that have really arrived."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Case, IntegerField, Value, When

from customers.models import Attribute, Customer
from events.models import EventField, EventType, Kind
from segments.compile import lookup
from segments.describe import ATTRIBUTE_LABELS
from segments.dictionary import COLUMNS
from segments.models import Segment
from segments.operators import ValueType
from smartcomm.core.db import fetch_all

#: Values are offered from this many of the newest events, or customers.
NEWEST = 20_000
SAMPLE = 500

# The newest events first; a type that is rare among them is read by its own index,
# in no order, so that offering costs the same at any size of the table.
RECENT_CONTEXTS = """
    SELECT context FROM (
        SELECT type_id, context FROM events_event ORDER BY id DESC LIMIT %s
    ) AS newest WHERE type_id = %s LIMIT %s
"""
ANY_CONTEXTS = "SELECT context FROM events_event WHERE type_id = %s LIMIT %s"
SYSTEM_CONTEXTS = """
    SELECT context FROM events_systemevent WHERE type_id = %s ORDER BY id DESC LIMIT %s
"""
NEWEST_EVENT = """
    SELECT occurred_at, context FROM (
        SELECT id, type_id, occurred_at, context
        FROM events_event ORDER BY id DESC LIMIT %s
    ) AS newest WHERE type_id = %s ORDER BY id DESC LIMIT 1
"""
ANY_EVENT = "SELECT occurred_at, context FROM events_event WHERE type_id = %s LIMIT 1"
NEWEST_SYSTEM_EVENT = """
    SELECT occurred_at, context FROM events_systemevent
    WHERE type_id = %s ORDER BY occurred_at DESC, id DESC LIMIT 1
"""
#: Attributes whose values tell who somebody is are not offered.
PERSONAL = {"external_id", "first_name", "last_name", "email", "phone"}


@dataclass(frozen=True, slots=True)
class Offer:
    """One line of a list to choose from: what is filled in, and words beside it."""

    value: str
    title: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class AttributeOffer:
    code: str
    label: str
    type: ValueType
    is_declared: bool


def event_names(text: str = "", *, limit: int = 50) -> list[Offer]:
    """Customer events whose name or description has the text; best matches first."""
    types = EventType.objects.filter(kind=Kind.CUSTOMER)
    if text:
        types = (types.filter(name__icontains=text)) | (
            types.filter(description__icontains=text)
        )
        types = types.annotate(
            rank=Case(
                When(name__istartswith=text, then=Value(0)),
                When(name__icontains=text, then=Value(1)),
                default=Value(2),
                output_field=IntegerField(),
            )
        ).order_by("rank", "name")
    return [
        Offer(name, note=description)
        for name, description in types.values_list("name", "description")[:limit]
    ]


def fields(event: str, text: str = "", *, limit: int = 100) -> list[Offer]:
    """The fields of an event, each with its type and three recent values."""
    event_type = EventType.objects.filter(name=event).first()
    if event_type is None:
        return []
    rows = [
        row
        for row in EventField.objects.filter(type=event_type)
        if text.lower() in f"{row.code} {row.label}".lower()
    ][:limit]
    contexts = recent_contexts(event_type)
    offered = []
    for row in rows:
        recent = list(dict.fromkeys(_texts(contexts, row.code)))[:3]
        note = row.get_value_type_display()
        if recent:
            note += ": " + ", ".join(_short(text) for text in recent)
        offered.append(Offer(row.code, row.label, note))
    return offered


def field_values(
    event: str, field: str, text: str = "", *, limit: int = 12
) -> list[Offer]:
    """Values that the field had in recent events, the most frequent first."""
    event_type = EventType.objects.filter(name=event).first()
    if event_type is None:
        return []
    return _most(_texts(recent_contexts(event_type), field), text, limit)


def attribute_values(code: str, text: str = "", *, limit: int = 12) -> list[Offer]:
    """Values that customers known recently have there, the most frequent first."""
    if code in PERSONAL:
        return []
    newest = Customer.objects.order_by("-pk")[:5_000]
    if code in COLUMNS:
        found: Iterable[Any] = newest.values_list(code, flat=True)
    elif Attribute.objects.filter(code=code).exists():
        found = (
            facts.get(code) for facts in newest.values_list("attributes", flat=True)
        )
    else:
        return []
    texts = (as_text(value) for value in found)
    return _most((one for one in texts if one), text, limit)


def attributes() -> list[AttributeOffer]:
    """All that may be asked of a customer: what everyone has, then what is declared."""
    declared = Attribute.objects.exclude(code__in=COLUMNS)
    return [
        *(
            AttributeOffer(
                column.name, sentence(ATTRIBUTE_LABELS[column.name]), column.type, False
            )
            for column in COLUMNS.values()
        ),
        *(
            AttributeOffer(row.code, str(row), ValueType(row.type), True)
            for row in declared
        ),
    ]


def attribute_labels() -> dict[str, str]:
    """Code → label of the declared attributes that have one, for sentences."""
    return dict(Attribute.objects.exclude(label="").values_list("code", "label"))


def segment_names() -> dict[int, str]:
    return dict(Segment.objects.order_by("name").values_list("pk", "name"))


def field_types(events: Iterable[str]) -> dict[tuple[str, str], str]:
    """(event, field code) → type, for the fields of these events."""
    names = {name for name in events if name}
    if not names:
        return {}
    rows = EventField.objects.filter(type__name__in=names)
    return {
        (event, code): value_type
        for event, code, value_type in rows.values_list(
            "type__name", "code", "value_type"
        )
    }


@dataclass(frozen=True, slots=True)
class Example:
    """A real event, to try out a rule that takes values from one."""

    name: str
    occurred_at: datetime
    context: dict[str, Any]


def newest_event(name: str) -> Example | None:
    """One of the newest events of that name, or None if there is none."""
    event_type = EventType.objects.filter(name=name).first() if name else None
    if event_type is None:
        return None
    if event_type.kind == Kind.SYSTEM:
        rows = fetch_all(NEWEST_SYSTEM_EVENT, [event_type.pk])
    else:
        rows = fetch_all(NEWEST_EVENT, [NEWEST, event_type.pk]) or fetch_all(
            ANY_EVENT, [event_type.pk]
        )
    if not rows:
        return None
    occurred_at, context = rows[0]
    return Example(name, occurred_at, _decoded(context))


def recent_contexts(event_type: EventType) -> list[dict[str, Any]]:
    """Contexts of some recent events of the type."""
    if event_type.kind == Kind.SYSTEM:
        rows = fetch_all(SYSTEM_CONTEXTS, [event_type.pk, SAMPLE])
    else:
        rows = fetch_all(RECENT_CONTEXTS, [NEWEST, event_type.pk, SAMPLE])
        if len(rows) < SAMPLE // 10:
            rows += fetch_all(ANY_CONTEXTS, [event_type.pk, SAMPLE])
    return [_decoded(row[0]) for row in rows]


def as_text(value: Any) -> str:
    """A value as it is typed into the form; empty for what cannot be typed."""
    match value:
        case bool():
            return "yes" if value else "no"
        case str() | int() | float():
            return str(value)
    return value.isoformat() if hasattr(value, "isoformat") else ""


def sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _decoded(context: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(context) if isinstance(context, str) else context
    return found


def _texts(contexts: list[dict[str, Any]], path: str) -> list[str]:
    found = (as_text(lookup(context, path)) for context in contexts)
    return [text for text in found if text]


def _most(texts: Iterable[str], text: str, limit: int) -> list[Offer]:
    wanted = text.lower()
    counted = Counter(one for one in texts if wanted in one.lower())
    return [Offer(value) for value, _ in counted.most_common(limit)]


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:23]}…"

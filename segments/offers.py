"""What the builder offers: names, fields and values that have really arrived."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Case, IntegerField, Value, When

from customers.models import Attribute, Channel, Customer, MailingCategory
from events.models import EventField, EventType, Kind, Source
from segments import outside, rules
from segments.comparisons import DERIVED
from segments.compile import lookup
from segments.describe import ATTRIBUTE_LABELS
from segments.dictionary import COLUMNS
from segments.models import Segment
from segments.operators import ValueType
from segments.rules import RuleError
from smartcomm.core.db import fetch_all
from smartcomm.core.templatetags.look import number

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
#: Attributes that hold a day and never a time.
DAYS = {column.name for column in COLUMNS.values() if column.is_day}


@dataclass(frozen=True, slots=True)
class Offer:
    """One line of a list to choose from: what is filled in, and words beside it.

    `key`: what is kept, where that is a number behind a name.
    """

    value: str
    title: str = ""
    note: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class AttributeOffer:
    code: str
    label: str
    type: ValueType
    is_declared: bool


def asked(params: Mapping[str, str]) -> list[Offer]:
    """What a picker asks for; KeyError for what nothing offers."""
    text = params.get("q", "")[:200]
    match params.get("of"):
        case "event":
            return event_names(text)
        case "field":
            offered = fields(params.get("event", ""), text)
            more = params.get("more", "").split()
            return offered + [Offer(one) for one in more if text.lower() in one.lower()]
        case "value":
            return field_values(params.get("event", ""), params.get("field", ""), text)
        case "attribute_value":
            return attribute_values(params.get("attribute", ""), text)
        case "segment":
            return segments(text)
        case "campaign":
            return campaigns(text)
        case "source":
            return sources(text)
    raise KeyError(params.get("of"))


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
    texts = (as_text(one) for value in found for one in _items(value))
    return _most((one for one in texts if one), text, limit)


def attributes() -> list[AttributeOffer]:
    """All that may be asked of a customer: what everyone has, then what is declared.

    An attribute that was declared under the code of a derived one stands for itself.
    """
    declared = list(Attribute.objects.exclude(code__in=COLUMNS))
    taken = {row.code for row in declared}
    derived = [one for one in DERIVED.values() if one.name not in taken]
    return [
        *(
            AttributeOffer(name, sentence(ATTRIBUTE_LABELS[name]), type_, False)
            for name, type_ in [
                *((column.name, column.type) for column in COLUMNS.values()),
                *((one.name, one.type) for one in derived),
            ]
        ),
        *(
            AttributeOffer(row.code, str(row), ValueType(row.type), True)
            for row in declared
        ),
    ]


def attribute_labels() -> dict[str, str]:
    """Code → label of the declared attributes that have one, for sentences."""
    return dict(Attribute.objects.exclude(label="").values_list("code", "label"))


def category_names() -> dict[str, str]:
    """Code → name of the mailing categories."""
    return dict(MailingCategory.objects.order_by("name").values_list("code", "name"))


def names_in(rule: rules.Rule) -> dict[str, Any]:
    """What `describe` may be given for this rule. A query for each kind of name."""
    parts = list(rules.walk(rule))

    def has(*kinds: type) -> bool:
        return any(isinstance(part, kinds) for part in parts)

    names: dict[str, Any] = {}
    if has(rules.Attribute):
        names["attributes"] = attribute_labels()
    if has(rules.InSegment):
        names["segments"] = segment_names()
    if has(rules.Messaged):
        names["campaigns"] = outside.campaign_names()
    if has(rules.ConsentIs, rules.Reachable):
        names["categories"] = category_names()
    return names


def segment_names(ids: Collection[int] | None = None) -> dict[int, str]:
    """The names of these segments, or of all."""
    if ids is not None and not ids:
        return {}
    found = Segment.objects.order_by("name")
    if ids is not None:
        found = found.filter(pk__in=ids)
    return dict(found.values_list("pk", "name"))


def segments(text: str = "", *, limit: int = 50) -> list[Offer]:
    """Segments in use whose name has the text, with what is known of them."""
    found = Segment.objects.filter(archived_at=None, name__icontains=text)
    return [
        Offer(segment.name, note=_of_segment(segment), key=str(segment.pk))
        for segment in found.order_by("name")[:limit]
    ]


def _of_segment(segment: Segment) -> str:
    kind = "A list" if segment.is_static else "A rule"
    if segment.count is None:
        return kind
    words = "customer" if segment.count == 1 else "customers"
    return f"{kind}, {number(segment.count)} {words}"


def campaign_names(ids: Collection[int]) -> dict[int, str]:
    """The names of these campaigns."""
    try:
        return dict(outside.known().campaigns(ids)) if ids else {}
    except RuleError:
        return {}  # Nobody above keeps campaigns.


def campaigns(text: str = "", *, limit: int = 50) -> list[Offer]:
    """Campaigns whose name has the text, the newest first."""
    found = sorted(outside.campaign_names().items(), reverse=True)
    wanted = text.lower()
    return [Offer(name, key=str(pk)) for pk, name in found if wanted in name.lower()][
        :limit
    ]


def key_of(what: str, name: str) -> str:
    """The number of the segment or campaign of that name, however it is spelt."""
    found = segments(name) if what == "segment" else campaigns(name)
    keys = [one.key for one in found if one.value.lower() == name.lower()]
    return keys[0] if keys else ""


def sources(text: str = "", *, limit: int = 50) -> list[Offer]:
    """Systems that send events."""
    names = Source.objects.filter(name__icontains=text).order_by("name")
    return [Offer(name) for name in names.values_list("name", flat=True)[:limit]]


def channels() -> dict[str, str]:
    """Channels in the middle of a sentence: e-mail, SMS, push."""
    return {
        code: label if label.isupper() else label.lower()
        for code, label in Channel.choices
    }


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
    found = (
        as_text(one) for context in contexts for one in _items(lookup(context, path))
    )
    return [text for text in found if text]


def _items(value: Any) -> list[Any]:
    """What is offered of a list is what it may include."""
    return value if isinstance(value, list) else [value]


def _most(texts: Iterable[str], text: str, limit: int) -> list[Offer]:
    wanted = text.lower()
    counted = Counter(one for one in texts if wanted in one.lower())
    return [Offer(value) for value, _ in counted.most_common(limit)]


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:23]}…"

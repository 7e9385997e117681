"""How values look on the pages of the back office."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from typing import Any

from django import template
from django.utils import formats, timezone
from django.utils.dateparse import parse_datetime

from smartcomm.core.look import badge as badge_html

register = template.Library()


@register.simple_tag
def badge(text: object, tone: str = "plain", icon: str = "") -> str:
    return badge_html(text, tone, icon=icon)


@register.filter
def shape(value: object) -> str:
    """What kind of JSON value it is: object, list, boolean, number, null or text."""
    match value:
        case dict():
            return "object"
        case list() | tuple():
            return "list"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case None:
            return "null"
    return "text"


@register.filter
def pairs(value: dict[str, Any]) -> list[tuple[str, Any]]:
    """The items of an object, whatever its keys are called (`items`, for one)."""
    return list(value.items())


@register.filter
def label_of(labels: dict[str, str], path: str) -> str:
    # A template that knows no labels hands in an empty text.
    return labels.get(path, "") if labels else ""


@register.simple_tag
def join_path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


@register.filter
def plain(value: object) -> str:
    """A JSON number or text as people write it; a time in the installation's zone."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | int):
        text = f"{value:,.10g}" if isinstance(value, float) else str(value)
        return text
    if isinstance(value, str) and 19 <= len(value) <= 35 and value[10:11] == "T":
        try:
            moment = parse_datetime(value)
        except ValueError:
            moment = None
        if moment is not None and timezone.is_aware(moment):
            return f"{formats.date_format(timezone.localtime(moment), 'j M Y, H:i')}"
    return str(value)


@register.filter
def as_json(value: object) -> str:
    """JSON for people to read."""
    return json.dumps(value, indent=2, ensure_ascii=False)


@register.filter
def moment(value: datetime | date | None) -> str:
    """A time for the eye: 3 May 2026, 14:05."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return formats.date_format(timezone.localtime(value), "j M Y, H:i")
    return formats.date_format(value, "j M Y")


@register.filter
def number(value: float | None) -> str:
    """A number with its thousands apart."""
    return "–" if value is None else f"{value:,}"


@register.filter
def short(value: float | None) -> str:
    """A big number in little room: 12,400 as 12.4k."""
    if value is None:
        return "–"
    for size, unit in ((1_000_000_000, "bn"), (1_000_000, "m"), (10_000, "k")):
        if value >= size:
            divisor = 1_000 if unit == "k" else size
            return f"{value / divisor:.1f}".rstrip("0").rstrip(".") + unit
    return f"{value:,}"


@register.filter
def age(value: timedelta) -> str:
    """How long something has waited: 40 s, 12 min, 3 h, 2 days."""
    seconds = int(value.total_seconds())
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 90 * 60:
        return f"{seconds // 60} min"
    if seconds < 36 * 3600:
        return f"{seconds // 3600} h"
    return f"{seconds // 86400} days"

"""Small pieces of the pages: badges, links, and contexts as tables.

Apart from smartcomm.core.admin, because template tags use them and the admin theme
loads all template tags while it is itself being imported.
"""

from __future__ import annotations

from datetime import datetime

from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString

#: How a badge looks, by what it means. See static/site/site.css.
Tone = str


def badge(text: object, tone: Tone = "plain", *, icon: str = "") -> SafeString:
    """A small coloured label. Tones: plain, good, info, warn, bad, primary."""
    mark = (
        format_html('<span class="material-symbols-outlined">{}</span>', icon)
        if icon
        else ""
    )
    return format_html('<span class="sc-badge sc-{}">{}{}</span>', tone, mark, text)


def variables(
    context: object, *, labels: dict[str, str] | None = None, empty: str = ""
) -> SafeString:
    """A context as a table of names and values, nested ones inside."""
    html = render_to_string(
        "core/variables.html",
        {"value": context, "labels": labels or {}, "empty": empty, "path": ""},
    )
    return SafeString(html)


def quiet(text: str) -> SafeString:
    """What stands where there is nothing to show."""
    return format_html('<span class="sc-none sc-nowrap">{}</span>', text)


def to_the_second(moment: datetime | None) -> SafeString:
    """A time as journals tell it, in the installation's zone."""
    if moment is None:
        return SafeString("–")
    text = date_format(timezone.localtime(moment), "j M Y, H:i:s")
    return format_html('<span class="sc-nowrap sc-num">{}</span>', text)


def to_the_minute(moment: datetime | None) -> SafeString:
    """A time as lists tell it, on one line."""
    if moment is None:
        return SafeString("–")
    text = date_format(timezone.localtime(moment), "j M Y, H:i")
    return format_html('<span class="sc-nowrap sc-num">{}</span>', text)


def link(url: str, text: object) -> SafeString:
    return format_html('<a class="sc-link" href="{}">{}</a>', url, text)

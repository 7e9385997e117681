"""The one render function: for preview, test send and real send alike."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from html import unescape
from typing import Any, Protocol

import msgspec

from customers.models import Channel, Customer
from messaging import language
from messaging.language import TemplateError
from smartcomm.core.errors import Invalid

#: The texts of each channel, in the order in which people write them.
FIELDS: dict[str, tuple[str, ...]] = {
    Channel.EMAIL: ("subject", "html", "text"),
    Channel.SMS: ("text",),
    Channel.PUSH: ("title", "text", "link", "image"),
}
#: Of each group, at least one must be written.
REQUIRED: dict[str, tuple[tuple[str, ...], ...]] = {
    Channel.EMAIL: (("subject",), ("html", "text")),
    Channel.SMS: (("text",),),
    Channel.PUSH: (("title",), ("text",)),
}
LABELS = {
    "subject": "subject",
    "html": "HTML",
    "text": "text",
    "title": "title",
    "link": "link",
    "image": "image",
}
#: Fields in which a line break has no place.
ONE_LINE = frozenset({"subject", "title", "link", "image"})


class Written(Protocol):
    """What can be rendered: a Template, a Content, or what stands in a form."""

    @property
    def channel(self) -> str: ...

    @property
    def subject(self) -> str: ...

    @property
    def html(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def link(self) -> str: ...

    @property
    def image(self) -> str: ...


@dataclass(frozen=True)
class Draft:
    """Texts that are not saved, for previews."""

    channel: str
    subject: str = ""
    html: str = ""
    text: str = ""
    title: str = ""
    link: str = ""
    image: str = ""


@dataclass(frozen=True)
class Variable:
    """A fact about the customer that texts may use, as `client.<name>`."""

    name: str
    label: str
    value: Callable[[Customer], Any]
    #: What the source product calls it: client.properties.<alias>.
    alias: str = ""


VARIABLES: tuple[Variable, ...] = (
    Variable("firstName", "First name", lambda c: c.first_name, "first_name"),
    Variable("lastName", "Last name", lambda c: c.last_name, "last_name"),
    Variable("fullName", "Full name", lambda c: c.full_name, "full_name"),
    Variable("email", "E-mail", lambda c: c.email, "email"),
    Variable("phone", "Phone", lambda c: c.phone, "phone"),
    Variable("city", "City", lambda c: c.city, "city"),
    Variable("country", "Country", lambda c: c.country, "country"),
    Variable("language", "Language", lambda c: c.language, "language"),
    Variable("gender", "Gender", lambda c: c.gender, "gender"),
    Variable("birthDate", "Birth date", lambda c: c.birth_date, "birth_date"),
    Variable("timeZone", "Time zone", lambda c: c.time_zone, "time_zone"),
    Variable("externalId", "ID", lambda c: c.external_id, "external_id"),
    Variable("registeredAt", "Registered", lambda c: c.registered_at, "register_date"),
)
#: What the event that started the run is called, and when it occurred.
EVENT_VARIABLES = ("client.event.name", "client.event.occurredAt")


class Rendered(msgspec.Struct, frozen=True):
    """A message as the customer will see it.

    `missing` names the variables that had no value where the text needed one; their
    places are empty. Whether it may be sent so is for the content to say. For push the
    title stands in `subject`.
    """

    subject: str = ""
    body: str = ""
    html: str = ""
    link: str = ""
    image: str = ""
    missing: list[str] = msgspec.field(default_factory=list)


def render(
    content: Written,
    *,
    customer: Customer,
    context: Mapping[str, Any] | None,
    event_name: str | None,
    occurred_at: datetime | None,
    answers: Mapping[str, Any] | None = None,
) -> Rendered:
    """Put the facts about a customer and an event into a content.

    Raises TemplateError, with the field, when a text is not good Liquid or a filter
    cannot do its work.
    """
    return render_facts(
        content,
        facts(
            customer,
            context=context,
            event_name=event_name,
            occurred_at=occurred_at,
            answers=answers,
        ),
    )


def render_facts(content: Written, client: Mapping[str, Any]) -> Rendered:
    """`render` for facts that were gathered before (see `facts`)."""
    told = {"client": client}
    done: dict[str, str] = {}
    missing: list[str] = []
    for name in FIELDS[content.channel]:
        source = getattr(content, name)
        if not source:
            done[name] = ""
            continue
        try:
            text, lacked = language.parse(source, html=name == "html").render(told)
        except TemplateError as error:
            error.field = name
            raise
        done[name] = _one_line(text) if name in ONE_LINE else text.strip()
        missing += lacked
    html = done.get("html", "")
    return Rendered(
        subject=done.get("subject", "") or done.get("title", ""),
        body=done["text"] or text_of(html),
        html=html,
        link=done.get("link", ""),
        image=done.get("image", ""),
        missing=list(dict.fromkeys(missing)),
    )


def facts(
    customer: Customer,
    *,
    context: Mapping[str, Any] | None,
    event_name: str | None,
    occurred_at: datetime | None,
    answers: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything a text may say about a customer, about the event, and of what systems
    outside have answered in the run, by step."""
    client: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for variable in VARIABLES:
        client[variable.name] = properties[variable.alias] = variable.value(customer)
    client["properties"] = properties
    client["attributes"] = customer.attributes
    client["eventContext"] = context or {}
    client["answers"] = answers or {}
    client["event"] = {"name": event_name, "occurredAt": occurred_at}
    return client


def variables(text: str) -> set[str]:
    """The dotted names of the variables a text uses. Raises TemplateError."""
    return language.parse(text).variables()


def problems(channel: str, fields: Mapping[str, str]) -> list[Invalid]:
    """What is wrong with the texts of a content, whatever the customer and the event.

    Each has the `field` it is about. Queries nothing: what events really carry is for
    messaging.contract to say.
    """
    found: list[Invalid] = []
    for group in REQUIRED[channel]:
        if not any(fields.get(name, "").strip() for name in group):
            what = " or ".join(LABELS[name] for name in group)
            found.append(Invalid(f"Write the {what}.", field=group[0]))
    for name in FIELDS[channel]:
        text = fields.get(name, "")
        try:
            used = language.parse(text, html=name == "html").variables()
        except TemplateError as error:
            found.append(TemplateError(error.message, line=error.line, field=name))
            continue
        found += [
            Invalid(complaint, field=name)
            for complaint in map(unknown, sorted(used))
            if complaint
        ]
    return found


KNOWN = frozenset(
    {
        *(f"client.{variable.name}" for variable in VARIABLES),
        *(f"client.properties.{variable.alias}" for variable in VARIABLES),
        *EVENT_VARIABLES,
        "now",
        "today",
    }
)
#: Whatever stands below these is for the data to know.
OPEN = ("client.eventContext", "client.attributes", "client.answers")


def unknown(variable: str) -> str:
    """Why no text can use this variable, in a sentence; empty if one can."""
    if variable in KNOWN or any(
        variable == name or variable.startswith(f"{name}.") for name in OPEN
    ):
        return ""
    meant = f"client.{variable.removeprefix('client.')}"
    near = difflib.get_close_matches(meant, KNOWN, n=1, cutoff=0.85)
    if near:
        return f"There is no variable {variable}. Did you mean {near[0]}?"
    if not variable.startswith("client."):
        meant = f"client.eventContext.{variable}"
        return f"There is no variable {variable}. Did you mean {meant}?"
    return f"There is no variable {variable}."


# --- texts ------------------------------------------------------------------------


def _one_line(text: str) -> str:
    return " ".join(text.split())


UNSEEN = re.compile(r"(?is)<(style|script|head|title)\b.*?</\1\s*>|<!--.*?-->")
LINK = re.compile(r"""(?is)<a\b[^>]*?href\s*=\s*["']([^"']*)["'][^>]*>(.*?)</a\s*>""")
BREAK = re.compile(
    r"(?i)<br\b[^>]*>|</(?:p|div|h[1-6]|tr|li|table|ul|ol|blockquote)\s*>"
)
TAG = re.compile(r"<[^>]*>")
BLANKS = re.compile(r"[ \t\r\f\v\xa0]+")


def text_of(html: str) -> str:
    """The plain text beside an HTML e-mail that has none of its own."""
    if not html:
        return ""
    text = UNSEEN.sub("", html).replace("\n", " ")
    text = LINK.sub(_link_in_words, text)
    text = TAG.sub("", BREAK.sub("\n", text))
    lines = (BLANKS.sub(" ", line).strip() for line in unescape(text).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _link_in_words(found: re.Match[str]) -> str:
    address, words = found[1].strip(), TAG.sub("", found[2]).strip()
    if not address or address.startswith("#") or address == words:
        return words
    return f"{words} ({address})" if words else address

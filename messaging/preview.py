"""What a text will look like: for a real customer, and a real event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from customers.models import Customer
from events.models import Event, EventType, Kind, SystemEvent
from messaging import contract, render
from messaging.language import TemplateError
from messaging.render import Draft, Rendered

#: So many of the newest events are looked through for one of a type.
WINDOW = 10_000


@dataclass(frozen=True)
class Preview:
    """A rendered text, for whom, and what one should know about it."""

    channel: str
    customer: Customer | None = None
    event: Event | SystemEvent | None = None
    rendered: Rendered = field(default_factory=Rendered)
    #: Why there is nothing to show, and in which field.
    error: str = ""
    error_field: str = ""
    #: What it will miss for others: measured on real events.
    findings: list[contract.Finding] = field(default_factory=list)


def preview(
    draft: Draft,
    *,
    external_id: str = "",
    event_name: str = "",
    event: Event | SystemEvent | None = None,
) -> Preview:
    """Render with the one function that sends.

    For this customer, or for some real one. With this event; else with the customer's
    last event of that name; else with any recent one of it.
    """
    customer: Customer | None = None
    if external_id:
        customer = Customer.objects.filter(external_id=external_id).first()
        if customer is None:
            return Preview(
                draft.channel,
                error=f"There is no customer “{external_id}”.",
                error_field="customer",
            )
    if event is None and event_name:
        event = find_event(event_name, customer)
    if customer is None:
        customer = event.customer if isinstance(event, Event) else somebody()
    if customer is None:
        return Preview(draft.channel, error="There is no customer yet to show it for.")
    try:
        rendered = render.render(
            draft,
            customer=customer,
            context=event.context if event else None,
            event_name=event.type.name if event else event_name or None,
            occurred_at=event.occurred_at if event else None,
        )
        findings = contract.check(
            [getattr(draft, name) for name in render.FIELDS[draft.channel]], event_name
        )
    except TemplateError as error:
        return Preview(
            draft.channel, customer, event, error=error.message, error_field=error.field
        )
    return Preview(draft.channel, customer, event, rendered, findings=findings)


def find_event(name: str, customer: Customer | None) -> Event | SystemEvent | None:
    """A real event of this name, of the customer if they have one. Bounded."""
    event_type = EventType.objects.filter(name=name).first()
    if event_type is None:
        return None
    if event_type.kind == Kind.SYSTEM:
        of_type = SystemEvent.objects.filter(type=event_type).select_related("type")
        return of_type.order_by("-pk").first()
    events = Event.objects.filter(type_id=event_type.pk).select_related(
        "type", "customer"
    )
    if customer is not None:
        own = events.filter(customer=customer).order_by("-occurred_at").first()
        if own is not None:
            return own
    newest = Event.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    return (
        events.filter(pk__gt=newest - WINDOW).order_by("-pk").first()
        # The order of the index for rules, which begins with the type.
        or events.order_by("customer_id", "occurred_at").first()
    )


def somebody() -> Customer | None:
    """Some customer of whom something is known."""
    known = Customer.objects.filter(is_stub=False).order_by("pk").first()
    return known or Customer.objects.order_by("pk").first()


def draft_from(data: Mapping[str, str]) -> Draft:
    """The texts of a form, saved or not."""
    channel = data.get("channel", "")
    return Draft(
        channel, **{name: data.get(name, "") for name in render.FIELDS.get(channel, ())}
    )


def secured(html: str) -> str:
    """An e-mail for an <iframe srcdoc sandbox>: it may load pictures, no more."""
    policy = (
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src http: https: data:; style-src 'unsafe-inline'; font-src data:\">"
    )
    doctype, found, rest = html.partition(">")
    if found and doctype.strip().lower().startswith("<!doctype"):
        return f"{doctype}>{policy}{rest}"
    return f"<!doctype html>{policy}{html}"

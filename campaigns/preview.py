"""What a text will look like: for a real customer, and a real event that starts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from campaigns.models import Version
from customers.models import Customer
from events.models import Event, EventType, SystemEvent
from messaging import contract, render
from messaging.language import TemplateError
from messaging.models import Template

#: So many of the newest events are looked through for one of the type.
WINDOW = 10_000


@dataclass(frozen=True)
class Preview:
    """A rendered text, for whom, and what one should know about it."""

    channel: str
    customer: Customer | None = None
    event: Event | SystemEvent | None = None
    rendered: render.Rendered | None = None
    #: Why there is no text to show.
    error: str = ""
    #: What the text misses for this customer and this event.
    missing: list[str] = field(default_factory=list)
    #: What it will miss for others: measured on real events.
    findings: list[str] = field(default_factory=list)


def preview(
    channel: str,
    texts: Mapping[str, str],
    *,
    trigger: Mapping[str, Any],
    external_id: str = "",
) -> Preview:
    """Render with the one function that sends, for this customer or for some real one.

    The event is the customer's last one of the trigger's type, or any recent one.
    """
    written = Template(
        channel=channel,
        **{name: texts.get(name, "") for name in render.FIELDS[channel]},
    )
    customer: Customer | None = None
    if external_id:
        customer = Customer.objects.filter(external_id=external_id).first()
        if customer is None:
            return Preview(channel, error=f"There is no customer “{external_id}”.")
    event, customer = find_event(trigger, customer)
    if customer is None:
        return Preview(channel, error="There is no customer yet to show it for.")
    try:
        rendered = render.render(
            written,
            customer=customer,
            context=event.context if event else None,
            event_name=trigger.get("event") or None,
            occurred_at=event.occurred_at if event else None,
        )
        shown = [getattr(written, name) for name in render.FIELDS[channel]]
        findings = contract.check(shown, trigger.get("event") or "")
    except TemplateError as error:
        return Preview(channel, customer, event, error=error.message)
    return Preview(
        channel,
        customer,
        event,
        rendered,
        missing=rendered.missing,
        findings=[finding.message for finding in findings],
    )


def find_event(
    trigger: Mapping[str, Any], customer: Customer | None
) -> tuple[Event | SystemEvent | None, Customer | None]:
    """A real event of the trigger's type, and whom it is shown for."""
    event_type = EventType.objects.filter(name=trigger.get("event") or "").first()
    if event_type is None:
        return None, customer or _somebody()
    if trigger.get("kind") == Version.Trigger.SYSTEM_EVENT:
        system_events = SystemEvent.objects.filter(type=event_type)
        return system_events.order_by("-pk").first(), customer or _somebody()
    events = Event.objects.filter(type_id=event_type.pk).select_related("customer")
    if customer is not None:
        own = events.filter(customer=customer).order_by("-occurred_at").first()
        return own or _recent(events), customer
    event = _recent(events)
    return event, event.customer if event else _somebody()


def _recent(events: Any) -> Event | None:
    """One of the newest, else any: a rare type is not looked for in the whole table."""
    newest = Event.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    recent: Event | None = (
        events.filter(pk__gt=newest - WINDOW).order_by("-pk").first()
        # The order of the index for rules, which begins with the type.
        or events.order_by("customer_id", "occurred_at").first()
    )
    return recent


def _somebody() -> Customer | None:
    known = Customer.objects.filter(is_stub=False).order_by("pk").first()
    return known or Customer.objects.order_by("pk").first()

"""Journals of events, which nobody may change."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from customers.models import Customer
from events.models import (
    Event,
    EventType,
    Kind,
    SystemEvent,
)
from smartcomm.core.admin import (
    JournalAdmin,
    SinceFilter,
)
from smartcomm.core.look import (
    badge,
    link,
    quiet,
    to_the_second,
    variables,
)


class ReceivedFilter(SinceFilter):
    title = "received"
    time = "received_at"


class TypeFilter(admin.SimpleListFilter):
    """The types of this journal's kind."""

    title = "event"
    parameter_name = "type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        kind = Kind.SYSTEM if model_admin.model is SystemEvent else Kind.CUSTOMER
        types = EventType.objects.filter(kind=kind)
        return [(str(pk), name) for pk, name in types.values_list("pk", "name")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value and value.isascii() and value.isdigit():
            return queryset.filter(type_id=int(value))
        return queryset


class EventJournalAdmin(JournalAdmin):
    """What the journals of both kinds of events have in common."""

    list_select_related: ClassVar = ["type", "source"]
    list_filter: ClassVar = [TypeFilter, "source", ReceivedFilter]
    search_fields: ClassVar = ["external_id"]  # Switches the box on; see below.
    readonly_fields: ClassVar = ["what", "context_", "occurred", "received", "sender"]

    @display(description="Event")
    def what(self, event: Event | SystemEvent) -> str:
        if event.is_backfill:
            return format_html(
                '<span class="sc-nowrap">{} {}</span>',
                event.type.name,
                badge("backfill"),
            )
        return event.type.name

    @display(description="Occurred")
    def occurred(self, event: Event | SystemEvent) -> SafeString:
        return to_the_second(event.occurred_at)

    @display(description="Received")
    def received(self, event: Event | SystemEvent) -> SafeString:
        return to_the_second(event.received_at)

    @display(description="Source")
    def sender(self, event: Event | SystemEvent) -> str:
        return str(event.source)

    @display(description="Context")
    def gist(self, event: Event | SystemEvent) -> str:
        return gist(event.context)

    @display(description="Context")
    def context_(self, event: Event | SystemEvent) -> SafeString:
        labels = dict(event.type.fields.exclude(label="").values_list("code", "label"))
        return variables(event.context, labels=labels, empty="no context")


@admin.register(Event)
class EventAdmin(EventJournalAdmin):
    list_display: ClassVar = ["what", "who", "gist", "occurred", "sender"]
    list_display_links: ClassVar = ["what"]
    list_select_related: ClassVar = ["type", "source", "customer"]
    search_help_text = "The whole ID of a customer, or else of an event"
    readonly_fields: ClassVar = [*EventJournalAdmin.readonly_fields, "who"]
    fields: ClassVar = [
        "what",
        "who",
        "context_",
        "occurred",
        "received",
        "sender",
        "external_id",
    ]

    @display(description="Customer")
    def who(self, event: Event) -> SafeString:
        url = reverse("admin:customers_customer_change", args=[event.customer_id])
        return link(url, event.customer)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        customer = Customer.objects.filter(external_id=term).first()
        if customer is not None:
            return queryset.filter(customer=customer), False
        return queryset.filter(external_id=term), False


@admin.register(SystemEvent)
class SystemEventAdmin(EventJournalAdmin):
    list_display: ClassVar = ["what", "gist", "occurred", "sender"]
    list_display_links: ClassVar = ["what"]
    search_help_text = "The whole ID of a system event"
    fields: ClassVar = [
        "what",
        "context_",
        "occurred",
        "received",
        "sender",
        "external_id",
    ]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if term := search_term.strip():
            queryset = queryset.filter(external_id=term)
        return queryset, False


def gist(context: object, *, size: int = 3) -> str:
    """The first few values of a context, for a line of a list."""
    if not isinstance(context, dict) or not context:
        return quiet("–")
    shown = [
        format_html("<b>{}</b> {}", name, in_short(value))
        for name, value in list(context.items())[:size]
    ]
    more = len(context) - len(shown)
    if more > 0:
        shown.append(format_html('<span class="sc-none">+{}</span>', more))
    return format_html(
        '<span class="sc-gist">{}</span>',
        SafeString(" · ".join(str(part) for part in shown)),
    )


def in_short(value: object) -> str:
    """A value, for a line of a list."""
    match value:
        case dict():
            return "{…}"
        case list():
            return f"{len(value)} items"
        case bool():
            return "yes" if value else "no"
        case None:
            return "nothing"
    text = str(value)
    return text if len(text) <= 40 else text[:39] + "…"

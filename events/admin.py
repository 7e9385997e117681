"""Journals of events, the registry of what can happen, and who may tell us."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextInputWidget,
)

from customers.models import Customer
from events import keys, rejects
from events.models import (
    ApiKey,
    Event,
    EventField,
    EventType,
    Kind,
    RejectedEvent,
    Scope,
    Source,
    SystemEvent,
)
from smartcomm.core.admin import (
    JournalAdmin,
    ModelAdmin,
    ReadOnlyMixin,
    SinceFilter,
    TabularInline,
)
from smartcomm.core.errors import UserError
from smartcomm.core.look import (
    badge,
    link,
    quiet,
    to_the_minute,
    to_the_second,
    variables,
)

# --- journals ---------------------------------------------------------------------


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
        format_html("<b>{}</b> {}", name, _in_short(value))
        for name, value in list(context.items())[:size]
    ]
    more = len(context) - len(shown)
    if more > 0:
        shown.append(format_html('<span class="sc-none">+{}</span>', more))
    return format_html(
        '<span class="sc-gist">{}</span>',
        SafeString(" · ".join(str(part) for part in shown)),
    )


def _in_short(value: object) -> str:
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


# --- rejected events --------------------------------------------------------------


class CodeFilter(admin.SimpleListFilter):
    """Rejected events by their reason, with how many are open."""

    title = "reason"
    parameter_name = "code"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        counted = (
            RejectedEvent.objects.order_by()
            .values("code")
            .annotate(left=Count("pk", filter=Q(status=RejectedEvent.Status.OPEN)))
        )
        return [
            (row["code"], f"{in_words(row['code'])} ({row['left']:,} open)")
            for row in sorted(counted, key=lambda row: -row["left"])
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(code=self.value()) if self.value() else queryset


def in_words(code: str) -> str:
    """A code of a refusal as staff read it: field_code_invalid → Field code invalid."""
    return code.replace("_", " ").capitalize()


@admin.register(RejectedEvent)
class RejectedEventAdmin(JournalAdmin):
    list_display: ClassVar = [
        "reason",
        "message_",
        "name_",
        "source",
        "received",
        "state",
    ]
    list_display_links: ClassVar = ["reason"]
    list_select_related: ClassVar = ["source"]
    list_filter: ClassVar = ["status", CodeFilter, "source", "kind"]
    readonly_fields: ClassVar = ["reason", "payload_", "state", "received", "place"]
    fields: ClassVar = [
        ("reason", "state"),
        "message",
        "place",
        "payload_",
        ("source", "kind"),
        "received",
    ]
    actions: ClassVar = ["replay"]
    actions_detail: ClassVar = ["replay_one"]
    actions_on_top = True

    @display(description="Reason")
    def reason(self, row: RejectedEvent) -> str:
        return format_html('<span class="sc-nowrap">{}</span>', in_words(row.code))

    @display(description="In words")
    def message_(self, row: RejectedEvent) -> str:
        text = row.message if len(row.message) <= 110 else row.message[:109] + "…"
        return format_html('<span class="sc-wrap">{}</span>', text)

    @display(description="Event")
    def name_(self, row: RejectedEvent) -> str:
        data = _payload(row)
        name = data.get("name") if isinstance(data, dict) else None
        if isinstance(name, str) and name:
            return format_html('<span class="sc-nowrap">{}</span>', name[:40])
        return quiet("no name")

    @display(description="Received")
    def received(self, row: RejectedEvent) -> SafeString:
        return to_the_minute(row.received_at)

    @display(description="Place in what was sent")
    def place(self, row: RejectedEvent) -> str:
        return format_html("<code>{}</code>", row.field) if row.field else "–"

    @display(description="State")
    def state(self, row: RejectedEvent) -> SafeString:
        if row.status == RejectedEvent.Status.OPEN:
            return badge("open", "warn")
        when = timezone.localtime(row.replayed_at) if row.replayed_at else None
        return badge(f"replayed {when:%d %b}" if when else "replayed", "good")

    @display(description="What was sent")
    def payload_(self, row: RejectedEvent) -> SafeString:
        data = _payload(row)
        text = (
            row.payload
            if data is None
            else json.dumps(data, indent=2, ensure_ascii=False)
        )
        return format_html('<pre class="sc-code">{}</pre>', text)

    def has_replay_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("events.change_rejectedevent")

    @admin.action(description="Replay the chosen events", permissions=["replay"])
    def replay(self, request: HttpRequest, queryset: QuerySet[RejectedEvent]) -> None:
        self._replay(request, queryset)

    @action(
        description="Replay",
        icon="replay",
        url_path="replay",
        permissions=["replay"],
    )
    def replay_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = get_object_or_404(RejectedEvent, pk=object_id)
        page = reverse("admin:events_rejectedevent_change", args=[row.pk])
        if request.method != "POST":
            return TemplateResponse(
                request,
                "events/confirm_replay.html",
                {
                    **self.admin_site.each_context(request),
                    "title": "Replay this event?",
                    "opts": self.opts,
                    "row": row,
                    "page": page,
                },
            )
        self._replay(request, RejectedEvent.objects.filter(pk=row.pk))
        return HttpResponseRedirect(page)

    def _replay(self, request: HttpRequest, rows: QuerySet[RejectedEvent]) -> None:
        try:
            done = rejects.replay(rows)
        except UserError as error:
            self.message_user(request, error.message, messages.ERROR)
            return
        stored = done.accepted + done.duplicates
        told = [f"{done.accepted:,} recorded" if done.accepted else ""]
        told += [f"{done.duplicates:,} were recorded before" if done.duplicates else ""]
        told += [f"{done.rejected:,} still refused" if done.rejected else ""]
        sentence = ", ".join(part for part in told if part)
        self.message_user(
            request,
            f"{sentence}." if sentence else "There was nothing open to replay.",
            messages.SUCCESS if stored and not done.rejected else messages.WARNING,
        )


def _payload(row: RejectedEvent) -> Any:
    """What was sent, decoded; None if it is not even JSON."""
    try:
        return json.loads(row.payload)
    except ValueError:
        return None


# --- event types ------------------------------------------------------------------


class EventFieldForm(forms.ModelForm):
    """A field as staff may correct it: its code is what the events carry."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.fields["code"].disabled = True


class EventFieldInline(TabularInline):
    model = EventField
    form = EventFieldForm
    verbose_name = "field"
    hide_title = True
    fields: ClassVar = ["code", "label", "value_type", "seen"]
    readonly_fields: ClassVar = ["seen"]
    verbose_name_plural = "fields of its context"

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        # Once for all rows of the form.
        self.recent = recent_values(obj) if obj is not None else {}
        return super().get_formset(request, obj, **kwargs)

    @display(description="Last seen values")
    def seen(self, field: EventField) -> str:
        values = self.recent.get(field.code, [])
        if not values:
            return quiet("–")
        text = " · ".join(_in_short(value) for value in values)
        return format_html('<span class="sc-wrap">{}</span>', text)


#: So many events of a journal's end are looked through for a type's recent ones.
LOOKED_THROUGH = 5_000


def recent_values(event_type: EventType, *, per_field: int = 3) -> dict[str, list[Any]]:
    """For each field code of the type, the last few different values that came."""
    journal: type[models.Model] = (
        SystemEvent if event_type.kind == Kind.SYSTEM else Event
    )
    manager: Any = journal._default_manager
    last = manager.order_by("-pk").values("pk")[:LOOKED_THROUGH]
    rows = manager.filter(pk__in=Subquery(last), type=event_type).order_by("-pk")
    contexts = list(rows.values_list("context", flat=True)[:50])
    if not contexts:
        # Not among the last: any will do, found by the type without sorting them.
        rows = manager.filter(type=event_type).order_by()
        contexts = list(rows.values_list("context", flat=True)[:50])
    found: dict[str, list[Any]] = defaultdict(list)
    for context in contexts:
        for code, value in _leaves(context):
            if value not in found[code] and len(found[code]) < per_field:
                found[code].append(value)
    return dict(found)


def _leaves(context: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for code, value in context.items():
        found.append((prefix + code, value))
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{code}.")
    return found


@admin.register(EventType)
class EventTypeAdmin(ModelAdmin):
    list_display: ClassVar = [
        "name",
        "kind_",
        "fields_",
        "mode_",
        "state",
        "created_at",
    ]
    list_filter: ClassVar = ["kind", "mode", "is_reviewed", "is_awaited"]
    search_fields: ClassVar = ["name", "description"]
    fields: ClassVar = ["name", "kind", "description", "mode", "is_reviewed"]
    inlines: ClassVar = [EventFieldInline]
    actions: ClassVar = ["mark_reviewed"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[EventType]:
        counted = (
            EventField.objects.filter(type=OuterRef("pk"))
            .order_by()
            .values("type")
            .annotate(n=Count("pk"))
            .values("n")
        )
        rows = super().get_queryset(request)
        return rows.annotate(field_count=Subquery(counted))

    @display(
        description="Kind",
        ordering="kind",
        label={Kind.CUSTOMER: "info", Kind.SYSTEM: "primary"},
    )
    def kind_(self, event_type: EventType) -> tuple[str, str]:
        return event_type.kind, str(event_type.get_kind_display())

    @display(description="Fields", ordering="field_count")
    def fields_(self, event_type: Any) -> int:
        return event_type.field_count or 0

    @display(description="Mode", ordering="mode")
    def mode_(self, event_type: EventType) -> str:
        if event_type.mode == EventType.Mode.ENFORCED:
            return badge("enforced", "info", icon="lock")
        return "open"

    @display(description="State")
    def state(self, event_type: EventType) -> str:
        marks = []
        if not event_type.is_reviewed:
            marks.append(badge("new, not reviewed", "warn"))
        if event_type.is_awaited:
            marks.append(badge("a campaign waits for it", "good"))
        if not marks:
            return quiet("reviewed")
        return SafeString(" ".join(marks))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        # Events, rules and campaigns know the type by its name, and hold to its kind.
        return ["name", "kind"] if obj is not None else []

    def formfield_for_dbfield(
        self, db_field: Any, request: HttpRequest, **kwargs: Any
    ) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "description":
            field.widget.attrs["rows"] = 3
        return field

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"is_reviewed": True, **super().get_changeform_initial_data(request)}

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Its events cannot be deleted, and they would be left without a name.
        return False

    @admin.action(description="Mark as reviewed", permissions=["change"])
    def mark_reviewed(
        self, request: HttpRequest, queryset: QuerySet[EventType]
    ) -> None:
        chosen = list(queryset.filter(is_reviewed=False))
        EventType.objects.filter(pk__in=[row.pk for row in chosen]).update(
            is_reviewed=True
        )
        for row in chosen:
            self.log_change(request, row, "Marked as reviewed.")
        what = (
            "1 event type is" if len(chosen) == 1 else f"{len(chosen)} event types are"
        )
        self.message_user(request, f"{what} marked as reviewed.", messages.SUCCESS)


# --- sources and keys -------------------------------------------------------------


def key_state(key: ApiKey) -> SafeString:
    """Whether a key opens anything, as a badge."""
    if key.revoked_at is not None:
        return badge("revoked", "bad")
    if key.expires_at is not None and key.expires_at <= timezone.now():
        return badge("expired", "bad")
    return badge("works", "good")


class KeyForm(forms.Form):
    """What a new key shall be."""

    name = forms.CharField(
        label="What uses it",
        max_length=128,
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "Shop, production"}),
    )
    scopes = forms.MultipleChoiceField(
        label="It may",
        choices=Scope.choices,
        initial=[Scope.EVENTS, Scope.CUSTOMERS],
        widget=UnfoldAdminCheckboxSelectMultipleWidget(),
        error_messages={"required": "Choose at least one thing that the key may do."},
    )
    expires_at = forms.SplitDateTimeField(
        label="Expires",
        required=False,
        help_text="Empty: never.",
        widget=UnfoldAdminSplitDateTimeWidget(),
    )

    def clean_expires_at(self) -> Any:
        moment = self.cleaned_data["expires_at"]
        if moment is not None and moment <= timezone.now():
            raise forms.ValidationError("This time has passed. Choose a later one.")
        return moment


#: Where a session remembers that the form for a new key has been given out.
ASKED_FOR_KEY = "asked_for_key"


@admin.register(Source)
class SourceAdmin(ModelAdmin):
    list_display: ClassVar = [
        "name",
        "state",
        "keys_",
        "last_used",
        "unknown",
        "created_at",
    ]
    search_fields: ClassVar = ["name"]
    list_filter: ClassVar = ["is_active", "unknown_customers"]
    fields: ClassVar = ["name", "is_active", "unknown_customers"]
    change_form_outer_after_template = "events/source_keys.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Source]:
        working = Q(keys__revoked_at=None) & (
            Q(keys__expires_at=None) | Q(keys__expires_at__gt=timezone.now())
        )
        return (
            super()
            .get_queryset(request)
            .annotate(
                key_count=Count("keys", filter=Q(keys__isnull=False) & working),
                last_use=models.Max("keys__last_used_at"),
            )
        )

    @display(description="State", ordering="is_active")
    def state(self, source: Source) -> SafeString:
        return badge("active", "good") if source.is_active else badge("off", "bad")

    @display(description="Working keys")
    def keys_(self, source: Any) -> int:
        return int(source.key_count)

    @display(description="Last used", empty_value="never")
    def last_used(self, source: Any) -> Any:
        return source.last_use

    @display(description="Unknown customers", ordering="unknown_customers")
    def unknown(self, source: Source) -> str:
        create = source.unknown_customers == Source.UnknownCustomers.CREATE
        return "are created" if create else "are rejected"

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path(
                "<int:source_id>/new-key/",
                wrap(never_cache(self.new_key)),
                name="events_source_new_key",
            ),
            path(
                "<int:source_id>/keys/<int:key_id>/revoke/",
                wrap(self.revoke),
                name="events_source_revoke_key",
            ),
            *super().get_urls(),
        ]

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        extra: dict[str, Any] = dict(extra_context or {})
        if object_id is not None and object_id.isdigit():
            found = ApiKey.objects.filter(source_id=int(object_id))
            extra["source_keys"] = [(key, key_state(key)) for key in found]
            extra["may_make_keys"] = self.may_make_keys(request)
            extra["may_revoke"] = request.user.has_perm("events.change_apikey")
            extra["source_id"] = object_id
        return super().changeform_view(request, object_id, form_url, extra)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Its events would be left without a source. It can be switched off.
        return False

    def formfield_for_dbfield(
        self, db_field: Any, request: HttpRequest, **kwargs: Any
    ) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "is_active":
            field.label = "Active"
        return field

    def may_make_keys(self, request: HttpRequest) -> bool:
        return request.user.has_perm("events.add_apikey")

    def new_key(self, request: HttpRequest, source_id: int) -> HttpResponse:
        """Ask what the key shall be, make it, and show it this once.

        The secret is part of the answer to the POST and is kept nowhere. Sending the
        same form again, as a reload does, makes no second key.
        """
        if not self.may_make_keys(request):
            raise PermissionDenied
        source = get_object_or_404(Source, pk=source_id)
        page = reverse("admin:events_source_change", args=[source.pk])
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": source,
            "source": source,
            "page": page,
        }
        form = KeyForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            if request.session.pop(ASKED_FOR_KEY, None) != source.pk:
                self.message_user(
                    request,
                    "That key was made before and is not shown again. Make a new one "
                    "if it got lost, and revoke the old one.",
                    messages.WARNING,
                )
                return HttpResponseRedirect(page)
            key, secret = keys.create_key(
                source,
                form.cleaned_data["scopes"],
                name=form.cleaned_data["name"],
                expires_at=form.cleaned_data["expires_at"],
            )
            self.log_change(request, source, f"Made the API key {key}.")
            address = request.build_absolute_uri("/api/v1/events")
            return TemplateResponse(
                request,
                "events/key_shown.html",
                {
                    **context,
                    "title": "Your new API key",
                    "key": key,
                    "secret": secret,
                    "scope_labels": [Scope(scope).label for scope in key.scopes],
                    "example": example_call(address, secret),
                },
            )
        request.session[ASKED_FOR_KEY] = source.pk
        return TemplateResponse(
            request,
            "events/new_key.html",
            {**context, "title": f"New API key for {source}", "form": form},
        )

    def revoke(self, request: HttpRequest, source_id: int, key_id: int) -> HttpResponse:
        if not request.user.has_perm("events.change_apikey"):
            raise PermissionDenied
        key = get_object_or_404(ApiKey, pk=key_id, source_id=source_id)
        page = reverse("admin:events_source_change", args=[source_id])
        if request.method != "POST":
            return TemplateResponse(
                request,
                "events/confirm_revoke.html",
                {
                    **self.admin_site.each_context(request),
                    "title": "Revoke this key?",
                    "opts": self.opts,
                    "original": key.source,
                    "key": key,
                    "page": page,
                },
            )
        keys.revoke_key(key, now=timezone.now())
        self.log_change(request, key.source, f"Revoked the API key {key}.")
        self.message_user(
            request,
            f"The key {key} is revoked. It is refused everywhere within "
            f"{keys.TRUSTED_SECONDS:.0f} seconds.",
            messages.SUCCESS,
        )
        return HttpResponseRedirect(page)


def example_call(address: str, secret: str) -> str:
    """One event, sent with curl."""
    event = {
        "name": "Order paid",
        "customer": "C-1001",
        "context": {"name": "Bag", "price": 49.9},
    }
    return (
        f"curl {address} \\\n"
        f"  -H 'Authorization: Bearer {secret}' \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d '{json.dumps(event)}'"
    )


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyMixin, ModelAdmin):
    """All keys at a glance. They are made and revoked on the page of their source."""

    list_display: ClassVar = [
        "begins",
        "name",
        "source_",
        "scopes_",
        "state",
        "last_used_at",
        "expires_at",
    ]
    list_display_links: ClassVar = ["begins"]
    list_select_related: ClassVar = ["source"]
    list_filter: ClassVar = ["source"]
    search_fields: ClassVar = ["prefix", "name", "source__name"]
    show_add_link = False
    readonly_fields: ClassVar = ["begins", "source_", "scopes_", "state"]
    fields: ClassVar = [
        "begins",
        "name",
        "source_",
        "scopes_",
        "state",
        "created_at",
        "expires_at",
        "revoked_at",
        "last_used_at",
    ]

    @display(description="Key", ordering="prefix")
    def begins(self, key: ApiKey) -> SafeString:
        return format_html("<code>{}…</code>", key.prefix)

    @display(description="Source", ordering="source__name")
    def source_(self, key: ApiKey) -> SafeString:
        return link(
            reverse("admin:events_source_change", args=[key.source_id]), key.source
        )

    @display(description="It may")
    def scopes_(self, key: ApiKey) -> SafeString:
        return SafeString(" ".join(badge(scope) for scope in key.scopes))

    @display(description="State")
    def state(self, key: ApiKey) -> SafeString:
        return key_state(key)

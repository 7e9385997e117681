"""Who may tell us, and their keys."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from unfold.decorators import display
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminRadioSelectWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from events import keys
from events.admin.trying import TryingMixin
from events.lately import Lately, lately
from events.models import (
    ApiKey,
    Scope,
    Source,
)
from smartcomm.core.addresses import client_address, read_networks
from smartcomm.core.admin import (
    ModelAdmin,
    ReadOnlyMixin,
)
from smartcomm.core.errors import UserError
from smartcomm.core.look import (
    badge,
    link,
)

MOST_REQUESTS = 1_000_000


def key_state(state: keys.State) -> SafeString:
    """Whether a key opens anything, as a badge."""
    if not state.works:
        return badge(state.word, "bad")
    return badge(state.word, "warn" if state.is_ending else "good")


@dataclass(frozen=True)
class KeyRow:
    """A line of the table of keys."""

    key: ApiKey
    state: keys.State
    badge: SafeString
    used: str
    may_rotate: bool


class NetworksField(forms.CharField):
    """Networks, one a line or with commas between."""

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> list[str]:  # type: ignore[override]
        texts = value if isinstance(value, list) else re.split(r"[\s,;]+", value or "")
        try:
            return read_networks(text for text in texts if text)
        except UserError as error:
            raise forms.ValidationError(error.message) from error

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return (initial or []) != self.to_python(data)
        except forms.ValidationError:
            return True


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


class RotateForm(forms.Form):
    """How long the old key works beside the new one."""

    CHOICES: ClassVar = [
        ("0", "It is refused at once"),
        ("1", "1 hour"),
        ("24", "24 hours"),
        ("168", "7 days"),
    ]
    overlap = forms.TypedChoiceField(
        label="How long the old key goes on",
        choices=CHOICES,
        coerce=lambda hours: timedelta(hours=int(hours)),
        initial="24",
        widget=UnfoldAdminRadioSelectWidget(),
        help_text="Long enough to put the new key wherever the old one is in use.",
    )


#: Where a session remembers that the form for a new key has been given out.
ASKED_FOR_KEY = "asked_for_key"


@admin.register(Source)
class SourceAdmin(TryingMixin, ModelAdmin):
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
    fieldsets: ClassVar = [
        (None, {"fields": ["name", "is_active", "unknown_customers"]}),
        (
            "How much it may send, and from where",
            {"fields": ["requests_per_second", "allowed_networks"]},
        ),
    ]
    change_form_outer_before_template = "events/source_lately.html"
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
            path(
                "<int:source_id>/keys/<int:key_id>/rotate/",
                wrap(never_cache(self.rotate)),
                name="events_source_rotate_key",
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
            may_change = request.user.has_perm("events.change_apikey")
            extra["source_keys"] = self.key_rows(
                int(object_id), may_rotate=may_change and self.may_make_keys(request)
            )
            extra["may_make_keys"] = self.may_make_keys(request)
            extra["may_revoke"] = may_change
            extra["source_id"] = object_id
            if request.method == "GET":
                extra["lately"] = self.lately(request, int(object_id))
        return super().changeform_view(request, object_id, form_url, extra)

    def key_rows(self, source_id: int, *, may_rotate: bool) -> list[KeyRow]:
        now = timezone.now()
        found = ApiKey.objects.filter(source_id=source_id)
        rows = []
        for key in found.select_related("replaced_by", "replaces"):
            state = keys.state_of(key, now=now)
            used = (
                f"{keys.in_words(now - key.last_used_at)} ago"
                if key.last_used_at
                else ""
            )
            may = may_rotate and state.works and key.successor is None
            rows.append(KeyRow(key, state, key_state(state), used, may))
        return rows

    def lately(self, request: HttpRequest, source_id: int) -> Lately | None:
        """What it sent lately, for those who may view events."""
        source = Source.objects.filter(pk=source_id).first()
        if source is None or not request.user.has_perm("events.view_event"):
            return None
        return lately(source, now=timezone.now())

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Its events would be left without a source. It can be switched off.
        return False

    def formfield_for_dbfield(
        self, db_field: Any, request: HttpRequest, **kwargs: Any
    ) -> Any:
        if db_field.name == "allowed_networks":
            return NetworksField(
                label="Allowed networks",
                required=False,
                widget=UnfoldAdminTextareaWidget(
                    attrs={"rows": 3, "placeholder": "203.0.113.7\n203.0.113.0/24"}
                ),
                help_text=f"{db_field.help_text} {address_hint(request)}",
            )
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "is_active":
            field.label = "Active"
        if db_field.name == "requests_per_second":
            field.validators.append(MaxValueValidator(MOST_REQUESTS))
            usual = settings.API_REQUESTS_PER_SECOND
            field.widget.attrs["placeholder"] = f"{usual:,}" if usual else "no limit"
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
            return self.show_key(request, key, secret, context)
        request.session[ASKED_FOR_KEY] = source.pk
        return TemplateResponse(
            request,
            "events/new_key.html",
            {**context, "title": f"New API key for {source}", "form": form},
        )

    def show_key(
        self, request: HttpRequest, key: ApiKey, secret: str, context: dict[str, Any]
    ) -> HttpResponse:
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

    def rotate(self, request: HttpRequest, source_id: int, key_id: int) -> HttpResponse:
        """Ask how long the old key shall go on, make the new one, and show it once.

        Sending the form again, as a reload does, finds the key replaced, and says so.
        """
        if not (
            self.may_make_keys(request)
            and request.user.has_perm("events.change_apikey")
        ):
            raise PermissionDenied
        key = get_object_or_404(
            ApiKey.objects.select_related("source"), pk=key_id, source_id=source_id
        )
        page = reverse("admin:events_source_change", args=[source_id])
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": key.source,
            "source": key.source,
            "page": page,
        }
        form = RotateForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            try:
                new, secret = keys.rotate_key(
                    key, overlap=form.cleaned_data["overlap"], now=timezone.now()
                )
            except UserError as error:
                self.message_user(request, error.message, messages.WARNING)
                return HttpResponseRedirect(page)
            self.log_change(request, key.source, f"Rotated the API key {key}: {new}.")
            return self.show_key(request, new, secret, {**context, "old": key})
        return TemplateResponse(
            request,
            "events/rotate_key.html",
            {**context, "title": "Rotate this key", "key": key, "form": form},
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


def address_hint(request: HttpRequest) -> str:
    """Where this request came from: a proxy that was forgotten shows itself here."""
    hint = f"You come from {client_address(request.META)}, as seen from here."
    if request.META.get("HTTP_X_FORWARDED_FOR") and not settings.TRUSTED_PROXIES:
        hint += (
            " That is a proxy: have TRUSTED_PROXIES set to how many stand in front, or "
            "all callers look like it."
        )
    return hint


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
    list_select_related: ClassVar = ["source", "replaced_by"]
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
        state = keys.state_of(key, now=timezone.now())
        return format_html("{} {}", key_state(state), state.sentence)

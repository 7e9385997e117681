"""The registry of what can happen."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.db import models
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from events.admin.journals import in_short
from events.models import (
    Event,
    EventField,
    EventType,
    Kind,
    SystemEvent,
)
from smartcomm.core.admin import (
    ModelAdmin,
    TabularInline,
)
from smartcomm.core.look import (
    badge,
    quiet,
)


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
        text = " · ".join(in_short(value) for value in values)
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

"""The registry of what can happen: what types declare, and how their events differ."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import slugify
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminRadioSelectWidget

from events import declare, drift, json_schema, schema
from events.admin.journals import in_short
from events.models import (
    Drift,
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
from smartcomm.core.errors import Several, UserError
from smartcomm.core.look import (
    badge,
    quiet,
)
from smartcomm.core.strict_json import decode
from smartcomm.core.templatetags.look import moment


class EventFieldForm(forms.ModelForm):
    """A field as staff may correct it: its code is what the events carry."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.fields["code"].disabled = True

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        try:
            declare.check_code(code, field="code")
        except UserError as error:
            raise forms.ValidationError(error.message) from error
        return code

    def save(self, commit: bool = True) -> Any:
        # Only what staff changed: an event may have marked the field as seen meanwhile.
        if commit and self.instance.pk:
            self.instance.save(update_fields=self.changed_data)
            return self.instance
        return super().save(commit)


class EventFieldFormSet(forms.BaseInlineFormSet):
    """All fields of a type: what is inside an object has its object."""

    def clean(self) -> None:
        super().clean()
        kept = [
            form
            for form in self.forms
            if form.cleaned_data.get("code") and not form.cleaned_data.get("DELETE")
        ]
        types = {
            form.cleaned_data["code"]: form.cleaned_data.get("value_type")
            for form in kept
        }
        for form in kept:
            for parent in declare.parents(form.cleaned_data["code"]):
                if not form.instance.pk and types.get(parent) != EventField.Type.OBJECT:
                    form.add_error(
                        "code", f"Declare “{parent}” as an object first, or with it."
                    )


class EventFieldInline(TabularInline):
    model = EventField
    form = EventFieldForm
    formset = EventFieldFormSet
    verbose_name = "field"
    hide_title = True
    fields: ClassVar = [
        "code",
        "label",
        "value_type",
        "is_required",
        "last_seen",
        "seen",
    ]
    readonly_fields: ClassVar = ["last_seen", "seen"]
    verbose_name_plural = "fields of its context"

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        # Once for all rows of the form.
        self.recent = recent_values(obj) if obj is not None else {}
        self.event_type = obj
        return super().get_formset(request, obj, **kwargs)

    @display(description="Last seen")
    def last_seen(self, field: EventField) -> str:
        if field.last_seen_on is None:
            return quiet("not yet")
        day = _day(field.last_seen_on)
        if self.event_type is not None and drift.is_gone(field, self.event_type):
            return SafeString(f"{day} {badge('gone', 'warn')}")
        return day

    @display(description="Last seen values")
    def seen(self, field: EventField) -> str:
        values = self.recent.get(field.code, [])
        if not values:
            return quiet("–")
        text = " · ".join(in_short(value) for value in values)
        return format_html('<span class="sc-wrap">{}</span>', text)


def _day(day: date) -> SafeString:
    return format_html('<span class="sc-nowrap sc-num">{}</span>', moment(day))


#: So many events of a journal's end are looked through for a type's recent ones.
LOOKED_THROUGH = 5_000
#: So many of them are asked what a mode would do.
ASKED = 200


def recent_contexts(event_type: EventType, *, most: int) -> list[dict[str, Any]]:
    """Contexts of the type's last events, newest first."""
    journal: type[models.Model] = (
        SystemEvent if event_type.kind == Kind.SYSTEM else Event
    )
    manager: Any = journal._default_manager
    last = manager.order_by("-pk").values("pk")[:LOOKED_THROUGH]
    rows = manager.filter(pk__in=Subquery(last), type=event_type).order_by("-pk")
    contexts = list(rows.values_list("context", flat=True)[:most])
    if not contexts:
        # Not among the last: any will do, found by the type without sorting them.
        rows = manager.filter(type=event_type).order_by()
        contexts = list(rows.values_list("context", flat=True)[:most])
    return contexts


def recent_values(event_type: EventType, *, per_field: int = 3) -> dict[str, list[Any]]:
    """For each field code of the type, the last few different values that came."""
    found: dict[str, list[Any]] = defaultdict(list)
    for context in recent_contexts(event_type, most=50):
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


def what_would_happen(event_type: EventType) -> str:
    """How many of the last events differ from what is declared, in a sentence."""
    contexts = recent_contexts(event_type, most=ASKED)
    if not contexts:
        return "No such event has arrived yet."
    (known,) = schema.read_types([event_type], day=timezone.now().date())
    counted: Counter[str] = Counter()
    differing = 0
    for context in contexts:
        found = schema.outermost(schema.look_closely(known, context).differences)
        differing += bool(found)
        counted.update({in_words(one.code, one.what, one.found) for one in found})
    number = len(contexts)
    asked = "The last event" if number == 1 else f"The last {number} events"
    if not differing:
        verb = "is" if number == 1 else "are"
        return f"{asked} {verb} as declared: no mode would warn of or reject any."
    few = ", ".join(f"{words} ({n})" for words, n in counted.most_common(4))
    return (
        f"Of the last {number} events {differing} differ ({differing / number:.1%}): "
        f"{few}. Warn tells their senders; Enforced rejects such events."
    )


def in_words(code: str, what: str, found: str) -> str:
    match what:
        case Drift.What.NEW_FIELD:
            return f"“{code}” is not declared"
        case Drift.What.FIELD_MISSING:
            return f"“{code}” is missing"
    return f"“{code}” came as {str(EventField.Type(found).label).lower()}"


@dataclass(frozen=True)
class Remark:
    """A row of the drift panel: what differs, and what can be done about it."""

    #: What the form sends back: drift-7, or field-12 for what is no longer seen.
    key: str
    code: str
    label: SafeString
    words: str
    accept: str
    source: str = ""
    event_id: str = ""
    example: str = ""
    first: Any = None
    last: Any = None


def remarks(event_type: EventType) -> list[Remark]:
    """How events of the type differ from what is declared, the latest first."""
    fields = {one.code: one for one in event_type.fields.all()}
    rows = event_type.drifts.filter(reviewed_at=None).select_related("source")
    found = [
        _remark(row, event_type, fields.get(row.code))
        for row in rows.order_by("-last_seen_at", "code")
    ]
    for field in fields.values():
        if drift.is_gone(field, event_type):
            found.append(
                Remark(
                    f"field-{field.pk}",
                    field.code,
                    badge("no longer seen", "warn"),
                    "The type still arrives, and not with this field.",
                    "Remove the field",
                    first=field.created_at,
                    last=field.last_seen_on,
                )
            )
    return found


def _remark(row: Drift, event_type: EventType, field: EventField | None) -> Remark:
    came = str(row.get_found_type_display()).lower() if row.found_type else ""
    fate = {
        EventType.Mode.OPEN: "It is stored.",
        EventType.Mode.WARN: "It is stored, and the sender is warned.",
        EventType.Mode.ENFORCED: "Such events are rejected and kept.",
    }[EventType.Mode(event_type.mode)]
    match row.what:
        case Drift.What.NEW_FIELD if field is not None:
            label, accept = badge("new field", "info"), "Keep it"
            words = f"Learnt as {came}, after the type was reviewed."
        case Drift.What.NEW_FIELD:
            label, accept = badge("new field", "info"), f"Declare it as {came}"
            words = f"Not declared; it comes as {came}. {fate}"
        case Drift.What.FIELD_MISSING:
            label, accept = badge("missing", "bad"), "Make it optional"
            words = f"Required, and not there or null. {fate}"
        case _:
            declared = (
                str(field.get_value_type_display()).lower() if field else "nothing"
            )
            label, accept = badge("another type", "bad"), f"Change it to {came}"
            words = f"Declared as {declared}, and it comes as {came}. {fate}"
    journal = "systemevent" if event_type.kind == Kind.SYSTEM else "event"
    # A rejected event is in no journal.
    example = (
        ""
        if event_type.mode == EventType.Mode.ENFORCED
        else reverse(f"admin:events_{journal}_changelist", query={"q": row.event_id})
    )
    return Remark(
        f"drift-{row.pk}",
        row.code,
        label,
        words,
        accept,
        source=str(row.source or ""),
        event_id=row.event_id,
        example=example,
        first=row.first_seen_at,
        last=row.last_seen_at,
    )


class ChangesFilter(admin.SimpleListFilter):
    """Types whose events differ from what is declared, and nobody has looked."""

    title = "changes"
    parameter_name = "changes"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "To look at"), ("no", "None")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "yes":
                return queryset.filter(changes__gt=0)
            case "no":
                return queryset.filter(changes=0)
        return queryset


class SchemaForm(forms.Form):
    """A JSON Schema, pasted or in a file."""

    file = forms.FileField(label="File", required=False)
    text = forms.CharField(label="Or the schema itself", required=False, strip=False)

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        upload = data.get("file")
        if upload is not None and upload.size > json_schema.MAX_BYTES:
            raise forms.ValidationError("The file is larger than 1 MiB.")
        try:
            raw = upload.read() if upload is not None else data["text"].encode()
        except UnicodeEncodeError as error:
            raise forms.ValidationError("This is not JSON.") from error
        if not raw.strip():
            raise forms.ValidationError("Choose a file, or paste a schema.")
        data["text"] = raw.decode(errors="replace")
        try:
            data["schema"] = decode(raw)
        except UserError as error:
            raise forms.ValidationError(
                error.message.replace("The body", "This", 1)
            ) from error
        return data


@admin.register(EventType)
class EventTypeAdmin(ModelAdmin):
    list_display: ClassVar = [
        "name",
        "kind_",
        "fields_",
        "mode_",
        "changes_",
        "state",
        "last_seen",
    ]
    list_filter: ClassVar = [ChangesFilter, "kind", "mode", "is_reviewed", "is_awaited"]
    search_fields: ClassVar = ["name", "description"]
    fields: ClassVar = ["name", "kind", "description", "mode", "is_reviewed"]
    inlines: ClassVar = [EventFieldInline]
    actions: ClassVar = ["mark_reviewed"]
    actions_list: ClassVar = ["import_new"]
    actions_detail: ClassVar = ["export_schema", "import_schema"]
    change_form_outer_before_template = "events/type_changes.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[EventType]:
        counted = (
            EventField.objects.filter(type=OuterRef("pk"))
            .order_by()
            .values("type")
            .annotate(n=Count("pk"))
            .values("n")
        )
        rows = super().get_queryset(request)
        return drift.with_changes(rows).annotate(field_count=Subquery(counted))

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
        match event_type.mode:
            case EventType.Mode.ENFORCED:
                return badge("enforced", "info", icon="lock")
            case EventType.Mode.WARN:
                return badge("warn", "warn", icon="notifications")
        return "open"

    @display(description="Changes", ordering="changes")
    def changes_(self, event_type: Any) -> str:
        number = event_type.changes
        if not number:
            return quiet("–")
        return badge(f"{number:,} change{'' if number == 1 else 's'}", "warn")

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

    @display(description="Last seen", ordering="last_seen_on")
    def last_seen(self, event_type: EventType) -> str:
        if event_type.last_seen_on is None:
            return quiet("not yet")
        return _day(event_type.last_seen_on)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        # Events, rules and campaigns know the type by its name, and hold to its kind.
        return ["name", "kind"] if obj is not None else []

    def formfield_for_dbfield(
        self, db_field: Any, request: HttpRequest, **kwargs: Any
    ) -> Any:
        if db_field.name == "mode":
            kwargs["widget"] = UnfoldAdminRadioSelectWidget()
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "description":
            field.widget.attrs["rows"] = 3
        return field

    def get_form(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, **kwargs)
        if obj is not None and request.method == "GET" and "mode" in form.base_fields:
            form.base_fields["mode"].help_text = what_would_happen(obj)
        return form

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"is_reviewed": True, **super().get_changeform_initial_data(request)}

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Its events cannot be deleted, and they would be left without a name.
        return False

    # Saving

    def save_model(
        self, request: HttpRequest, obj: EventType, form: Any, change: bool
    ) -> None:
        # Only what staff changed: campaigns and events write to the row as well.
        obj.save(update_fields=form.changed_data if change else None)

    def save_related(
        self, request: HttpRequest, form: Any, formsets: Any, change: bool
    ) -> None:
        super().save_related(request, form, formsets, change)
        for formset in formsets:
            declare.tidy(
                form.instance,
                declared=[
                    *(one.code for one in formset.new_objects),
                    *(one.code for one, _ in formset.changed_objects),
                ],
                removed=[one.code for one in formset.deleted_objects],
            )

    @admin.action(description="Mark as reviewed", permissions=["change"])
    def mark_reviewed(
        self, request: HttpRequest, queryset: QuerySet[EventType]
    ) -> None:
        chosen = list(queryset.filter(is_reviewed=False))
        EventType.objects.filter(pk__in=[row.pk for row in chosen]).update(
            is_reviewed=True
        )
        schema.forget_known()
        for row in chosen:
            self.log_change(request, row, "Marked as reviewed.")
        what = (
            "1 event type is" if len(chosen) == 1 else f"{len(chosen)} event types are"
        )
        self.message_user(request, f"{what} marked as reviewed.", messages.SUCCESS)

    # Other pages

    def get_urls(self) -> list[Any]:
        return [
            path(
                "<int:type_id>/changes/",
                self.admin_site.admin_view(self.changes),
                name="events_eventtype_changes",
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
        if object_id is not None and object_id.isdigit() and request.method == "GET":
            event_type = EventType.objects.filter(pk=int(object_id)).first()
            if event_type is not None and self.has_view_permission(request):
                extra["remarks"] = remarks(event_type)
                extra["may_settle"] = self.has_change_permission(request)
                extra["gone_after"] = drift.GONE_AFTER.days
                extra["dismissed"] = event_type.drifts.exclude(reviewed_at=None).count()
        return super().changeform_view(request, object_id, form_url, extra)

    def changes(self, request: HttpRequest, type_id: int) -> HttpResponse:
        """Accept a change, dismiss one or several, or show the dismissed again."""
        event_type = get_object_or_404(EventType, pk=type_id)
        if not self.has_change_permission(request, event_type):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponse(status=405)
        done: list[str] = []
        do, keys = request.POST.get("do", ""), request.POST.getlist("key")
        for key in keys if do == "dismiss" else keys[:1]:
            try:
                done += self._settle(event_type, key, do)
            except UserError as error:
                self.message_user(request, error.message, messages.ERROR)
        if done:
            self.log_change(request, event_type, " ".join(done))
            told = done[0] if len(done) == 1 else f"{len(done)} changes are dismissed."
            self.message_user(request, told, messages.SUCCESS)
        page = reverse("admin:events_eventtype_change", args=[type_id])
        return HttpResponseRedirect(page)

    def _settle(self, event_type: EventType, key: str, do: str) -> list[str]:
        """What was done to one change; nothing if somebody was quicker."""
        if do == "restore":
            declare.restore(event_type)
            return ["All changes are shown again."]
        kind, _, number = key.partition("-")
        if do not in ("accept", "dismiss") or not re.fullmatch("[0-9]{1,18}", number):
            return []
        if kind == "field":
            field = event_type.fields.filter(pk=int(number)).first()
            if field is None:
                return []
            if do == "dismiss":
                declare.dismiss_gone(field)
                return [f"“{field.code}” may be missing."]
            declare.remove_field(field)
            return [f"“{field.code}” is no longer declared."]
        row = event_type.drifts.select_related("type").filter(pk=int(number)).first()
        if row is None:
            return []
        if do == "dismiss":
            declare.dismiss(row)
            return [f"The change of “{row.code}” is dismissed."]
        declare.accept(row)
        return [f"“{row.code}” is declared as it comes."]

    @action(
        description="Export JSON Schema",
        icon="download",
        url_path="schema",
        permissions=["view"],
    )
    def export_schema(self, request: HttpRequest, object_id: str) -> HttpResponse:
        event_type = get_object_or_404(EventType, pk=object_id)
        found = json_schema.export(event_type, event_type.fields.all())
        name = f"{slugify(event_type.name) or f'event-type-{object_id}'}.schema.json"
        return HttpResponse(
            json.dumps(found, indent=2, ensure_ascii=False) + "\n",
            content_type="application/schema+json; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    @action(
        description="Import JSON Schema",
        icon="upload",
        url_path="import",
        permissions=["change"],
    )
    def import_schema(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._import(request, get_object_or_404(EventType, pk=object_id))

    @action(
        description="Import JSON Schema",
        icon="upload",
        url_path="import",
        permissions=["add"],
    )
    def import_new(self, request: HttpRequest) -> HttpResponse:
        return self._import(request, None)

    def _import(self, request: HttpRequest, event_type: EventType | None) -> Any:
        """Show what a schema would change; with "import", change it."""
        sent = request.method == "POST"
        form = SchemaForm(request.POST or None, request.FILES or None)
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": event_type,
            "title": f"Import a schema for “{event_type}”"
            if event_type
            else "Declare an event type by a schema",
            "form": form,
            "text": request.POST.get("text", ""),
            "back": reverse("admin:events_eventtype_change", args=[event_type.pk])
            if event_type
            else reverse("admin:events_eventtype_changelist"),
        }
        if sent and form.is_valid():
            context["text"] = form.cleaned_data["text"]
            try:
                read, found = self._read(event_type, form.cleaned_data["schema"])
                if request.POST.get("do") == "import":
                    return self._imported(request, event_type, read)
                context |= {"read": read, "changes": found}
            except UserError as error:
                context["errors"] = (
                    error.errors if isinstance(error, Several) else [error]
                )
        return TemplateResponse(request, "events/import_schema.html", context)

    def _read(
        self, event_type: EventType | None, data: object
    ) -> tuple[json_schema.Read, list[declare.Change]]:
        read = json_schema.read(data, name=event_type.name if event_type else "")
        if event_type is not None:
            declare.check_kind(event_type, read.kind)
        else:
            declare.check_new(read.title)
        return read, declare.changes(event_type, read.declaration)

    def _imported(
        self,
        request: HttpRequest,
        event_type: EventType | None,
        read: json_schema.Read,
    ) -> HttpResponse:
        if event_type is None:
            event_type = declare.declare_type(
                read.title, read.kind or Kind.CUSTOMER, read.declaration
            )
            self.log_addition(request, event_type, "Declared by a JSON Schema.")
        else:
            declare.update_type(event_type, read.declaration)
            self.log_change(request, event_type, "Imported a JSON Schema.")
        self.message_user(
            request,
            f"“{event_type}” is declared as the schema says.",
            messages.SUCCESS,
        )
        return HttpResponseRedirect(
            reverse("admin:events_eventtype_change", args=[event_type.pk])
        )

"""Fields that are renamed as events arrive."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from events import mappings
from events.models import EventType, FieldMapping, RejectedEvent
from events.wire import FIELD_CODE, UNSTORABLE
from smartcomm.core.admin import ModelAdmin
from smartcomm.core.look import badge, link, quiet


class MappingForm(forms.ModelForm):
    """A mapping, checked: what it makes must be a field code."""

    class Meta:
        model = FieldMapping
        fields: ClassVar = ["source", "event_name", "sent", "code"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A space before or behind it is part of the name, and may be what is wrong.
        if "sent" in self.fields:  # Who may only view has no fields.
            self.fields["sent"].strip = False  # type: ignore[attr-defined]

    def clean_code(self) -> str:
        code = str(self.cleaned_data["code"])
        if not FIELD_CODE.match(code):
            raise ValidationError(
                f"“{code}” is no field code: use letters, digits and underscores, not "
                "starting with a digit, up to 64 characters.",
                code="field_code_invalid",
            )
        return code

    def clean_sent(self) -> str:
        sent = str(self.cleaned_data["sent"])
        if UNSTORABLE.search(sent):
            raise ValidationError("This field has a character that cannot be stored.")
        return sent

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        sent, code = data.get("sent"), data.get("code")
        if sent and code and sent.rpartition(".")[2] == code:
            raise ValidationError(
                "Both names are the same: there is nothing to rename.", code="same"
            )
        return data


@admin.register(FieldMapping)
class FieldMappingAdmin(ModelAdmin):
    form = MappingForm
    list_display: ClassVar = ["renames", "of_event", "of_source", "helps", "created_at"]
    list_display_links: ClassVar = ["renames"]
    list_select_related: ClassVar = ["source"]
    list_filter: ClassVar = ["source"]
    search_fields: ClassVar = ["sent", "code", "event_name"]
    fields: ClassVar = ["sent", "code", "event_name", "source"]
    autocomplete_fields: ClassVar = ["source"]
    change_form_before_template = "events/mapping_words.html"
    list_before_template = "events/mapping_words.html"

    def formfield_for_dbfield(
        self, db_field: Any, request: HttpRequest, **kwargs: Any
    ) -> Any:
        if db_field.name == "event_name":
            kwargs["widget"] = UnfoldAdminTextInputWidget(
                attrs={"list": "event-names", "autocomplete": "off"}
            )
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        extra = {
            **(extra_context or {}),
            # Offered while one types.
            "event_names": EventType.objects.values_list("name", flat=True)[:500],
        }
        return super().changeform_view(request, object_id, form_url, extra)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        # Counted once for all rows.
        self.open = open_by_field()
        return super().changelist_view(request, extra_context)

    @display(description="Field", ordering="sent")
    def renames(self, mapping: FieldMapping) -> SafeString:
        return format_html(
            '<span class="sc-nowrap"><code>{}</code> → <code>{}</code></span>',
            mapping.sent,
            mapping.code,
        )

    @display(description="Of", ordering="event_name")
    def of_event(self, mapping: FieldMapping) -> str:
        return mapping.event_name or quiet("any event")

    @display(description="From", ordering="source__name")
    def of_source(self, mapping: FieldMapping) -> str:
        return str(mapping.source) if mapping.source else quiet("any source")

    @display(description="Would help")
    def helps(self, mapping: FieldMapping) -> SafeString:
        number = sum(
            count
            for (source_id, name, sent), count in self.open.items()
            if sent == mapping.sent
            and mapping.source_id in (None, source_id)
            and mapping.event_name in ("", name)
        )
        if not number:
            return quiet("–")
        words = "1 rejected event" if number == 1 else f"{number:,} rejected events"
        query: dict[str, Any] = {"field": f"context.{mapping.sent}"}
        if mapping.source_id:
            query["source"] = mapping.source_id
        if mapping.event_name:
            query["name"] = mapping.event_name
        url = reverse("admin:events_rejectedevent_groups")
        return link(f"{url}?{urlencode(query)}", badge(words, "warn"))

    def save_model(
        self, request: HttpRequest, obj: FieldMapping, form: Any, change: bool
    ) -> None:
        super().save_model(request, obj, form, change)
        mappings.forget()

    def delete_model(self, request: HttpRequest, obj: FieldMapping) -> None:
        super().delete_model(request, obj)
        mappings.forget()

    def delete_queryset(
        self, request: HttpRequest, queryset: QuerySet[FieldMapping]
    ) -> None:
        super().delete_queryset(request, queryset)
        mappings.forget()


def open_by_field() -> Counter[tuple[int, str, str]]:
    """(source's id, event, field as sent) → how many open events were refused for it.

    One query over an index.
    """
    counted = (
        RejectedEvent.objects.filter(
            status=RejectedEvent.Status.OPEN,
            code__in=["field_code_invalid", "field_unknown"],
        )
        .order_by()
        .values_list("source_id", "name", "field")
        .annotate(count=Count("pk"))
    )
    found: Counter[tuple[int, str, str]] = Counter()
    for source_id, name, field, count in counted:
        found[source_id, name, field.removeprefix("context.")] += count
    return found

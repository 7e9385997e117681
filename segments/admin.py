"""Segments in the back office: the list, the builder, who is in one."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.text import slugify
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from customers.models import Customer
from segments import builder, members, offers, preview, refresh, rules, usage
from segments.describe import describe
from segments.models import Segment
from segments.rules import RuleError
from smartcomm.core import doorbell, paging
from smartcomm.core.admin import ModelAdmin
from smartcomm.core.errors import UserError
from smartcomm.core.look import badge
from smartcomm.core.templatetags.look import moment, number


class SegmentForm(forms.ModelForm):
    """A name, and a rule built by clicking."""

    rule = builder.RuleField(
        live=False, error_messages={"required": "Add at least one condition."}
    )

    class Meta:
        model = Segment
        fields = ("name", "description", "rule")
        widgets: ClassVar = {
            "name": UnfoldAdminTextInputWidget(
                attrs={"placeholder": "For example: Bag lovers in Paris"}
            ),
            "description": UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        }

    def clean_rule(self) -> Any:
        data = self.cleaned_data["rule"]
        if self.instance.pk:
            try:
                usage.refuse_circle(self.instance.pk, rules.parse(data))
            except RuleError as error:
                raise ValidationError(error.message, code="circle") from error
        return data


class StateFilter(admin.SimpleListFilter):
    title = "count"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(Segment.Status.choices)

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(status=self.value()) if self.value() else queryset


@admin.register(Segment)
class SegmentAdmin(ModelAdmin):
    form = SegmentForm
    list_display = ("named", "customers", "share", "state")
    list_display_links = ("named",)
    list_filter = (StateFilter,)
    search_fields = ("name", "description")
    ordering = ("name",)
    fields = ("name", "description", "rule")
    change_form_template = "segments/segment_form.html"
    # The template shows the rule beside its count, and not in a fieldset.
    compressed_fields = False
    warn_unsaved_form = False
    actions = ("count_selected",)

    class Media:
        css: ClassVar = {"all": ["segments/builder.css"]}

    # The list

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        # Looked up once for all rows.
        self.labels = offers.attribute_labels()
        self.names = offers.segment_names()
        self.base = paging.count(Customer.objects.all()).number
        return super().changelist_view(request, extra_context)

    @display(description="Segment", ordering="name")
    def named(self, segment: Segment) -> str:
        try:
            words = rules_in_words(segment.rule, self.labels, self.names) + "."
        except UserError as error:
            words = f"This rule is not understood: {error.message}"
        return format_html(
            '<span class="scb-list-name"><strong>{}</strong><span>{}</span></span>',
            segment.name,
            words if len(words) < 260 else f"{words[:259]}…",
        )

    @display(description="Customers", ordering="count")
    def customers(self, segment: Segment) -> str:
        if segment.count is None:
            return format_html('<span class="sc-none">{}</span>', "–")
        return format_html('<strong class="sc-num">{}</strong>', number(segment.count))

    @display(description="Of all")
    def share(self, segment: Segment) -> str:
        if segment.count is None or not self.base:
            return ""
        return builder.share_text(min(1.0, segment.count / self.base))

    @display(description="Counted")
    def state(self, segment: Segment) -> str:
        return state_badge(segment)

    @admin.action(description="Count selected segments now", permissions=["change"])
    def count_selected(self, request: HttpRequest, queryset: Any) -> None:
        for segment in queryset:
            self._count(request, segment)

    # The page

    def get_form(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        if obj is not None and not self.has_change_permission(request, obj):
            return super(ModelAdmin, self).get_form(
                request, obj, **{**kwargs, "form": forms.ModelForm}
            )
        return super().get_form(request, obj, **kwargs)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is not None and not self.has_change_permission(request, obj):
            return ("name", "description", "in_words")
        return self.fields

    @display(description="Rule")
    def in_words(self, segment: Segment) -> str:
        try:
            return rules_in_words(
                segment.rule, offers.attribute_labels(), offers.segment_names()
            )
        except UserError as error:
            return error.message

    readonly_fields = ("in_words",)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        segment = kwargs.get("obj")
        context["segment"] = segment
        if segment is not None:
            context["state"] = state_badge(segment)
            context["used_by"] = usage.users_of(segment.pk)
        response: HttpResponse = super().render_change_form(
            request, context, *args, **kwargs
        )
        return response

    def save_model(
        self, request: HttpRequest, obj: Segment, form: Any, change: bool
    ) -> None:
        if not change:
            obj.created_by_id = request.user.pk
            obj.save()
        else:
            changed = set(form.changed_data) & set(self.fields)
            if "rule" in changed:
                obj.status = Segment.Status.NEW
                changed |= {"status"}
            # Only what this form is about: a count may have been kept meanwhile.
            obj.save(update_fields=[*changed, "updated_at"])
        doorbell.ring(refresh.REFRESH)

    # Deleting

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        found, counts, needed, protected = super().get_deleted_objects(objs, request)
        for segment in objs:
            try:
                usage.refuse_if_used(segment)
            except UserError as error:
                protected = [*protected, error.message]
        return found, counts, needed, protected

    # Other pages

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("builder/", wrap(self.fragment), name="segments_builder_fragment"),
            path("preview/", wrap(self.preview), name="segments_builder_preview"),
            path("offers/", wrap(self.offers), name="segments_builder_offers"),
            path(
                "<int:pk>/members/", wrap(self.members), name="segments_segment_members"
            ),
            path("<int:pk>/export/", wrap(self.export), name="segments_segment_export"),
            path("<int:pk>/count/", wrap(self.count), name="segments_segment_count"),
            *super().get_urls(),
        ]

    def fragment(self, request: HttpRequest) -> HttpResponse:
        """A builder, changed as one of its buttons says. Writes nothing."""
        self._may_view(request)
        if request.method != "POST":
            return HttpResponse(status=405)
        try:
            return HttpResponse(builder.answer(request.POST))
        except KeyError:
            return HttpResponse("That part is not there any more.", status=409)

    def preview(self, request: HttpRequest) -> HttpResponse:
        """The sentence, the count and some of the customers of the rule in a form."""
        self._may_view(request)
        if request.method != "POST":
            return HttpResponse(status=405)
        shown = builder.live(request.POST, now=timezone.now())
        if not request.user.has_perm("customers.view_customer"):
            shown.pop("customers", None)
        return TemplateResponse(request, "segments/builder/preview.html", shown)

    def offers(self, request: HttpRequest) -> HttpResponse:
        """What a picker offers: names, fields, values that have really arrived."""
        self._may_view(request)
        asked, text = request.GET, request.GET.get("q", "")[:200]
        match asked.get("of"):
            case "event":
                found = offers.event_names(text)
            case "field":
                found = offers.fields(asked.get("event", ""), text)
            case "value":
                found = offers.field_values(
                    asked.get("event", ""), asked.get("field", ""), text
                )
            case "attribute_value":
                found = offers.attribute_values(asked.get("attribute", ""), text)
            case _:
                return HttpResponse(status=404)
        return JsonResponse(
            {
                "offers": [
                    {"value": one.value, "title": one.title, "note": one.note}
                    for one in found
                ]
            }
        )

    def members(self, request: HttpRequest, pk: int) -> HttpResponse:
        segment = self._segment(request, pk)
        before = request.GET.get("before", "")
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "segment": segment,
            "original": segment,
            "title": f"Customers in {segment.name}",
            "state": state_badge(segment),
            "before": before,
            "media": self.media,
        }
        try:
            context["words"] = preview.sentence_of(rules.parse(segment.rule))
            context["page"] = members.page(
                rules.parse(segment.rule),
                now=timezone.now(),
                before=int(before) if before.isascii() and before.isdigit() else None,
            )
        except UserError as error:
            context["error"] = error.message
        return TemplateResponse(request, "segments/members.html", context)

    def export(
        self, request: HttpRequest, pk: int
    ) -> HttpResponse | StreamingHttpResponse:
        """The members as CSV, streamed."""
        segment = self._segment(request, pk)
        try:
            lines = members.export(rules.parse(segment.rule), now=timezone.now())
        except UserError as error:
            self.message_user(request, error.message, messages.ERROR)
            return HttpResponseRedirect(self._page(segment))
        day = timezone.localdate().isoformat()
        name = f"{slugify(segment.name) or f'segment-{pk}'}-{day}.csv"
        return StreamingHttpResponse(
            lines,
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    def count(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Count the segment now, while one waits."""
        if request.method != "POST":
            return HttpResponse(status=405)
        segment = self._segment(request, pk)
        if not self.has_change_permission(request, segment):
            raise PermissionDenied
        self._count(request, segment)
        return HttpResponseRedirect(self._page(segment))

    def _count(self, request: HttpRequest, segment: Segment) -> None:
        segment = refresh.count_segment(segment)
        if segment.status == Segment.Status.FAILED:
            self.message_user(request, f"{segment}: {segment.error}", messages.ERROR)
        else:
            words = "customer" if segment.count == 1 else "customers"
            self.message_user(request, f"{segment}: {number(segment.count)} {words}.")

    def _may_view(self, request: HttpRequest) -> None:
        if not request.user.has_perm("segments.view_segment"):
            raise PermissionDenied

    def _segment(self, request: HttpRequest, pk: int) -> Segment:
        segment: Segment | None = self.get_object(request, str(pk))
        if segment is None or not self.has_view_permission(request, segment):
            raise PermissionDenied
        if not request.user.has_perm("customers.view_customer"):
            raise PermissionDenied
        return segment

    def _page(self, segment: Segment) -> str:
        return reverse("admin:segments_segment_change", args=[segment.pk])


def rules_in_words(data: Any, labels: dict[str, str], names: dict[int, str]) -> str:
    return describe(rules.parse(data), attributes=labels, segments=names)


def state_badge(segment: Segment) -> str:
    """When the number was taken; old, failed or missing is said, never hidden."""
    match segment.status:
        case Segment.Status.FAILED:
            since = (
                f" The last good count is of {moment(segment.counted_at)}."
                if segment.counted_at
                else ""
            )
            return format_html(
                '<span title="{}">{}</span>',
                f"{segment.error}{since}",
                badge("failed", "bad", icon="error"),
            )
        case Segment.Status.NEW if segment.count is None:
            return badge("not counted yet", "info")
        case Segment.Status.NEW:
            return badge("rule changed since", "warn")
    return badge(moment(segment.counted_at), "plain", icon="schedule")

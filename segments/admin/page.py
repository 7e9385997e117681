"""The page of a segment: what it says, how many are in it, who uses it."""

from __future__ import annotations

from copy import copy
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from unfold.decorators import display
from unfold.widgets import (
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from segments import builder, lists, saving, usage, versions
from segments.admin import building, explaining, look, previewing
from segments.admin.access import may_view_customers
from segments.admin.changelist import SegmentList, author_of, in_words
from segments.models import Segment
from segments.saving import Wanted
from segments.upkeep import hold_keeper, state
from segments.versions import Saved
from smartcomm.core.errors import UserError


class SegmentForm(forms.ModelForm):
    """A name, and a rule built by clicking.

    The page sends along which version it showed. When somebody saved another one since,
    nothing is saved: the form comes back as it was filled in, beside what they changed.
    """

    rule = builder.RuleField(
        live=False, error_messages={"required": "Add at least one condition."}
    )

    class Meta:
        model = Segment
        fields = ("name", "description", "rule", "is_watched")
        labels: ClassVar = {
            "is_watched": "Record events when customers enter or leave",
        }
        error_messages: ClassVar = {
            "name": {
                "unique": "There is a segment of this name already. Choose another."
            }
        }
        widgets: ClassVar = {
            "name": UnfoldAdminTextInputWidget(
                attrs={"placeholder": "For example: Bag lovers in Paris"}
            ),
            "description": UnfoldAdminTextareaWidget(
                attrs={"rows": 2, "maxlength": saving.MAX_DESCRIPTION}
            ),
            "is_watched": UnfoldBooleanSwitchWidget(),
        }

    class Media:
        js: ClassVar = ["segments/leaving.js"]

    conflict: Conflict | None = None

    def clean(self) -> Any:
        data = super().clean() or self.cleaned_data
        try:
            stored = self._stored()
        except UserError as error:
            raise ValidationError(error.message, code=error.code) from error
        self._refuse_deleted(stored)
        self._refuse_changed(stored)
        if not self.errors:
            self.wanted = self._wanted(stored)
            try:
                saving.checked(self.wanted, stored or self.instance)
            except UserError as error:
                place = error.field.partition(".")[0] if error.field else ""
                self.add_error(
                    place if place in self.fields else self._main,
                    ValidationError(error.message, code=error.code),
                )
        return data

    @property
    def _main(self) -> str:
        return "rule" if "rule" in self.fields else "name"

    def _stored(self) -> Segment | None:
        """The segment as it is, locked until it is saved; none while it is made."""
        return saving.lock(self.instance) if self.instance.pk else None

    def _wanted(self, stored: Segment | None) -> Wanted:
        data = self.cleaned_data
        # A rule nobody touched stays to the letter.
        touched = stored is None or "rule" in self.changed_data
        return Wanted(
            data["name"],
            data.get("description", ""),
            data.get("rule") if touched else stored and stored.rule,
            data.get("is_watched", False),
        )

    def _refuse_deleted(self, stored: Segment | None) -> None:
        if stored is None and "seen" in self.data:
            raise ValidationError(
                "Somebody deleted this segment while you were editing it. Nothing of "
                "yours is lost: save again to make it anew."
            )

    def _refuse_changed(self, stored: Segment | None) -> None:
        seen = self.data.get("seen", "")
        if stored is None or not seen.isdigit():
            return
        newest = versions.current_number(stored)
        if int(seen) == newest:
            return
        mine = self._wanted(stored) if not self.errors else None
        self.conflict = Conflict(stored, int(seen), newest, mine)
        # Whoever has read what the others did may save over it.
        data: Any = copy(self.data)
        data["seen"] = str(newest)
        self.data = data
        raise ValidationError(
            "Somebody else saved this segment while you were editing it. Nothing of "
            "yours is lost: compare, then save again to keep yours.",
            code="changed_meanwhile",
        )


class ListForm(SegmentForm):
    """A list has no rule: its customers are put in on a page of their own."""

    rule = None  # type: ignore[assignment]

    class Meta(SegmentForm.Meta):
        fields: Any = ("name", "description", "is_watched")


class Conflict:
    """What others saved while a form was being filled in."""

    def __init__(
        self, stored: Segment, seen: int, newest: int, mine: Wanted | None
    ) -> None:
        words = versions.Words()
        self.newest = stored.versions.filter(number=newest).first()
        now = Saved.of(stored)
        before = stored.versions.filter(number=seen).first()
        self.theirs = (
            versions.difference(Saved.of(before), now, words) if before else None
        )
        self.mine = (
            versions.difference(
                now, Saved(mine.name, mine.description, mine.rule), words
            )
            if mine
            else None
        )


class SegmentPage(SegmentList):
    form = SegmentForm
    change_form_template = "segments/segment_form.html"
    # The template shows the rule beside its count, and not in a fieldset.
    compressed_fields = False
    # leaving.js warns: it knows of what the builder's buttons change, too.
    warn_unsaved_form = False
    readonly_fields = ("in_words",)

    def get_form(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        if obj is not None and not self.has_change_permission(request, obj):
            kwargs["form"] = forms.ModelForm
            return super(SegmentList, self).get_form(request, obj, **kwargs)
        if obj is not None and obj.is_static:
            kwargs["form"] = ListForm
        return super().get_form(request, obj, **kwargs)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is not None and not self.has_change_permission(request, obj):
            return ("name", "description", "in_words")
        if obj is not None and obj.is_static:
            return ("name", "description", "is_watched")
        return ("name", "description", "rule", "is_watched")

    @display(description="Rule")
    def in_words(self, segment: Segment) -> str:
        return in_words(segment, versions.Words())

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The form, and saving it.

        What others did between the check of the form and its saving is refused while
        saving: the form, checked once more, finds it and says it beside the field.
        """
        if self._was_deleted(request, object_id):
            object_id = None
        asked = (request, object_id, form_url, extra_context)
        try:
            response: HttpResponse = super().changeform_view(*asked)
        except UserError:
            response = super().changeform_view(*asked)
        return response

    def _was_deleted(self, request: HttpRequest, object_id: str | None) -> bool:
        """Whether somebody deleted the segment whose rule is being sent: the rule is
        not lost with it, it may become a new one."""
        return (
            "rule.opt.words" in request.POST
            and object_id is not None
            and self.has_add_permission(request)
            and self.get_object(request, object_id) is None
        )

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        segment = kwargs.get("obj")
        form = context["adminform"].form
        context["conflict"] = getattr(form, "conflict", None)
        context["segment"] = segment
        if segment is not None:
            # A failed save has changed the object at hand.
            segment = Segment.objects.get(pk=segment.pk)
            context |= self.head(request, segment, tab="rule")
            context["used_by"] = usage.uses_of(segment.pk)
            context |= _counts(segment, context)
            context["seen"] = form.data.get("seen") if form.is_bound else None
            context["seen"] = context["seen"] or versions.current_number(segment)
            context["title"] = segment.name
        response: HttpResponse = super().render_change_form(
            request, context, *args, **kwargs
        )
        return response

    def head(
        self, request: HttpRequest, segment: Segment, *, tab: str
    ) -> dict[str, Any]:
        """What the head of all pages of a segment shows."""
        found = state(segment, timezone.now())
        return {
            "segment": segment,
            "original": segment,
            "opts": self.opts,
            "tab": tab,
            "state": found,
            "state_badge": look.state_badge(segment, found),
            "may_change": self.has_change_permission(request, segment),
            "may_add": self.has_add_permission(request),
            "may_see_customers": request.user.has_perm("customers.view_customer"),
        }

    def response_change(self, request: HttpRequest, obj: Segment) -> HttpResponse:
        if obj.is_archived:
            said = (
                f"“{obj}” is archived: nobody keeps its members until it is restored."
            )
            self.message_user(request, said, messages.WARNING)
        return super().response_change(request, obj)

    def save_model(
        self, request: HttpRequest, obj: Segment, form: Any, change: bool
    ) -> None:
        author = author_of(request)
        if change:
            saved = saving.change(obj, form.wanted, author=author)
        else:
            saved = saving.create(form.wanted, author=author, user_id=request.user.pk)
        obj.pk = saved.pk
        obj.refresh_from_db()

    # Deleting

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """What goes: not each of a million members."""
        if request.method == "POST" and connection.in_atomic_block:
            hold_keeper()
            usage.hold()  # Until they are deleted.
        told, protected = [], []
        for segment in objs:
            many = segment.count or 0
            told.append(f"Segment: {segment} ({many:,} members)")
            try:
                usage.refuse_if_used(segment)
            except UserError as error:
                protected.append(error.message)
        needed = set() if self.has_delete_permission(request) else {"segment"}
        return told, {self.opts.verbose_name_plural: len(told)}, needed, protected

    def delete_model(self, request: HttpRequest, obj: Segment) -> None:
        saving.delete(obj)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for segment in queryset:
            try:
                saving.delete(segment)
            except UserError as error:
                self.message_user(request, error.message, messages.ERROR)

    # Deeds

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        deeds = [
            path(
                f"<int:pk>/{deed}/",
                wrap(getattr(self, f"{deed}_deed")),
                name=f"segments_segment_{deed}",
            )
            for deed in ("count", "duplicate", "archive", "restore", "freeze")
        ]
        progress = path(
            "<int:pk>/progress/", wrap(self.progress), name="segments_segment_progress"
        )
        return [
            *building.urls(wrap),
            *previewing.urls(wrap),
            *explaining.urls(wrap, self.head),
            *deeds,
            progress,
            *super().get_urls(),
        ]

    def progress(self, request: HttpRequest, pk: int) -> HttpResponse:
        """How many are in and how well that is known, for a page that waits for it."""
        segment = self.visible(request, pk)
        context = self.head(request, segment, tab="rule")
        context |= _counts(segment, context)
        return TemplateResponse(request, "segments/progress.html", context)

    def count_deed(self, request: HttpRequest, pk: int) -> HttpResponse:
        segment = self.posted(request, pk)
        if isinstance(segment, HttpResponse):
            return segment
        may_view_customers(request)
        self.recount(request, segment)
        return HttpResponseRedirect(self.page_of(segment))

    def duplicate_deed(self, request: HttpRequest, pk: int) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        segment = self.posted(request, pk, change=False)
        if isinstance(segment, HttpResponse):
            return segment
        try:
            copy = saving.duplicate(
                segment, author=author_of(request), user_id=request.user.pk
            )
        except UserError as error:
            self.message_user(request, error.message, messages.ERROR)
            return HttpResponseRedirect(self.page_of(segment))
        self.message_user(request, f"This is a copy of “{segment}”. Give it a name.")
        self.log_addition(request, copy, f"Copied from “{segment}”.")
        return HttpResponseRedirect(self.page_of(copy))

    def archive_deed(self, request: HttpRequest, pk: int) -> HttpResponse:
        segment = self.posted(request, pk)
        if isinstance(segment, HttpResponse):
            return segment
        self.each(
            request,
            [segment],
            saving.archive,
            "Archived {}: it is kept up to date no longer, and offered nowhere.",
        )
        return HttpResponseRedirect(self.page_of(segment))

    def restore_deed(self, request: HttpRequest, pk: int) -> HttpResponse:
        segment = self.posted(request, pk)
        if isinstance(segment, HttpResponse):
            return segment
        self.each(request, [segment], saving.restore, "{} is in use again.")
        return HttpResponseRedirect(self.page_of(segment))

    def freeze_deed(self, request: HttpRequest, pk: int) -> HttpResponse:
        """A list of those whom the rule finds at this moment."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        may_view_customers(request)
        segment = self.posted(request, pk, change=False)
        if isinstance(segment, HttpResponse):
            return segment
        try:
            frozen = lists.freeze(
                segment,
                name=lists.frozen_name(segment, now=timezone.now()),
                author=author_of(request),
                user_id=request.user.pk,
            )
        except UserError as error:
            self.message_user(request, error.message, messages.ERROR)
            return HttpResponseRedirect(self.page_of(segment))
        self.message_user(
            request, f"This list holds who was in “{segment}” just now. Give it a name."
        )
        self.log_addition(request, frozen, f"Frozen from “{segment}”.")
        return HttpResponseRedirect(self.page_of(frozen))

    def posted(
        self, request: HttpRequest, pk: int, *, change: bool = True
    ) -> Segment | HttpResponse:
        """The segment that a button is about; an answer for who did not press it."""
        if request.method != "POST":
            return HttpResponse(status=405)
        segment = self.visible(request, pk)
        if change and not self.has_change_permission(request, segment):
            raise PermissionDenied
        return segment

    def with_customers(self, request: HttpRequest, pk: int) -> Segment:
        """The segment, for who may see it and its customers."""
        segment = self.visible(request, pk)
        may_view_customers(request)
        return segment

    def visible(self, request: HttpRequest, pk: int) -> Segment:
        if not self.has_view_permission(request):
            raise PermissionDenied
        segment: Segment | None = self.get_object(request, str(pk))
        if segment is None:
            raise Http404("This segment does not exist, or was deleted.")
        return segment

    def page_of(self, segment: Segment) -> str:
        return reverse("admin:segments_segment_change", args=[segment.pk])


def _counts(segment: Segment, head: dict[str, Any]) -> dict[str, Any]:
    """The counts of a segment, and whether its page asks again by itself for them."""
    days = look.days_of([segment], today=timezone.localdate())
    is_coming = head["state"].status in (Segment.Status.NEW, Segment.Status.COMPUTING)
    return {
        "chart": look.chart(days[segment.pk]),
        "is_watching": head["may_change"] and is_coming,
    }

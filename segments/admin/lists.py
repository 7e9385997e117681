"""Lists of customers: made and changed from a file, or from what is pasted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.text import slugify

from segments import lists, saving
from segments.admin.access import may_view_customers
from segments.admin.changelist import author_of
from segments.admin.versions import VersionPages
from segments.lists import By, How, Line
from segments.members import csv_line
from segments.models import ListChange, ListMiss, Segment
from smartcomm.core.errors import UserError

#: So many lines that stand for nobody are shown; a file has all.
SHOWN = 100
HOWS = [
    (How.ADD.value, "Add these to the list"),
    (How.REPLACE.value, "Replace: these and nobody else"),
    (How.REMOVE.value, "Take these off the list"),
]
BYS = [
    (By.ID.value, "Customer ID"),
    (By.EMAIL.value, "E-mail"),
    (By.PHONE.value, "Phone, with country code"),
]


class CustomersForm(forms.Form):
    """Who: what is pasted, or one column of a file."""

    pasted = forms.CharField(required=False, strip=True)
    file = forms.FileField(required=False)
    column = forms.CharField(required=False, max_length=200)
    by = forms.ChoiceField(choices=BYS, initial=By.ID)
    how = forms.ChoiceField(choices=HOWS, initial=How.ADD, required=False)

    #: A new list may begin empty.
    may_be_empty = False

    def clean(self) -> Any:
        data = super().clean() or self.cleaned_data
        if data.get("pasted") and data.get("file"):
            self.add_error("file", "Paste customers or choose a file, not both.")
        elif not (data.get("pasted") or data.get("file") or self.may_be_empty):
            self.add_error("pasted", "Paste some customers, or choose a file.")
        return data

    @property
    def is_empty(self) -> bool:
        data = self.cleaned_data
        return not (data.get("pasted") or data.get("file"))

    @property
    def origin(self) -> str:
        file = self.cleaned_data.get("file")
        return file.name if file else "pasted"

    def lines(self) -> Iterator[Line]:
        data = self.cleaned_data
        if file := data.get("file"):
            return lists.read_file(file.file, by=data["by"], column=data["column"])
        return lists.read_text(data["pasted"])


class NewListForm(CustomersForm):
    may_be_empty = True

    name = forms.CharField(max_length=150)
    description = forms.CharField(required=False, max_length=saving.MAX_DESCRIPTION)


class ListPages(VersionPages):
    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("list/add/", wrap(self.add_list), name="segments_list_add"),
            path(
                "<int:pk>/list/", wrap(self.change_list), name="segments_segment_list"
            ),
            path(
                "<int:pk>/list/<int:change>/",
                wrap(self.report),
                name="segments_list_report",
            ),
            path(
                "<int:pk>/list/<int:change>/misses/",
                wrap(self.misses),
                name="segments_list_misses",
            ),
            *super().get_urls(),
        ]

    def add_list(self, request: HttpRequest) -> HttpResponse:
        """A new list: a name, and who is on it at first."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        may_view_customers(request)
        form = NewListForm(request.POST or None, request.FILES or None)
        if request.method == "POST" and form.is_valid():
            data = form.cleaned_data
            try:
                with transaction.atomic():
                    segment = saving.create(
                        saving.Wanted(data["name"], data["description"]),
                        author=author_of(request),
                        kind=Segment.Kind.STATIC,
                        user_id=request.user.pk,
                    )
                    made = None
                    if not form.is_empty:
                        made = lists.change(
                            segment,
                            form.lines(),
                            how=How.ADD,
                            by=data["by"],
                            origin=form.origin,
                            author=author_of(request),
                        )
            except UserError as error:
                form.add_error(_place(form, error), error.message)
            else:
                self.log_addition(request, segment, "Made the list.")
                if made is None:
                    self.message_user(request, f"The list “{segment}” is made.")
                    return HttpResponseRedirect(
                        reverse("admin:segments_segment_members", args=[segment.pk])
                    )
                return self._to_report(made)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "New list of customers",
            "form": form,
            "bys": BYS,
            "most": lists.MAX_LINES,
            "media": self.media,
        }
        return TemplateResponse(request, "segments/list_add.html", context)

    def change_list(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Put customers into a list, take some out, or replace all."""
        segment = self._list(request, pk)
        if not self.has_change_permission(request, segment):
            raise PermissionDenied
        form = CustomersForm(request.POST or None, request.FILES or None)
        if request.method == "POST" and form.is_valid():
            data = form.cleaned_data
            try:
                made = lists.change(
                    segment,
                    form.lines(),
                    how=data["how"] or How.ADD,
                    by=data["by"],
                    origin=form.origin,
                    author=author_of(request),
                )
            except UserError as error:
                form.add_error(_place(form, error), error.message)
            else:
                self.log_change(
                    request,
                    segment,
                    f"{made.get_how_display()} the list: {form.origin}.",
                )
                return self._to_report(made)
        context = {
            **self.admin_site.each_context(request),
            **self.head(request, segment, tab="list"),
            "title": f"Change {segment.name}",
            "form": form,
            "hows": HOWS,
            "bys": BYS,
            "most": lists.MAX_LINES,
            "changes": segment.list_changes.all()[:20],
            "media": self.media,
        }
        return TemplateResponse(request, "segments/list_change.html", context)

    def report(self, request: HttpRequest, pk: int, change: int) -> HttpResponse:
        """What became of what was sent, with the lines that stand for nobody."""
        segment = self._list(request, pk)
        made = get_object_or_404(ListChange, pk=change, segment=segment)
        context = {
            **self.admin_site.each_context(request),
            **self.head(request, segment, tab="list"),
            "title": f"Change of {segment.name}",
            "made": made,
            "misses": made.misses.order_by("line", "pk")[:SHOWN],
            "shown": SHOWN,
            "missed": made.unknown + made.ambiguous,
            "nothing_done": made.how == How.REPLACE and not made.found,
            "media": self.media,
        }
        return TemplateResponse(request, "segments/list_report.html", context)

    def misses(
        self, request: HttpRequest, pk: int, change: int
    ) -> StreamingHttpResponse:
        """All lines that stand for nobody or for several, as CSV."""
        segment = self._list(request, pk)
        made = get_object_or_404(ListChange, pk=change, segment=segment)
        name = f"{slugify(segment.name) or 'list'}-not-found.csv"
        return StreamingHttpResponse(
            _misses(made),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    def _list(self, request: HttpRequest, pk: int) -> Segment:
        segment = self.with_customers(request, pk)
        if not segment.is_static:
            raise Http404("This segment is no list.")
        return segment

    def _to_report(self, made: ListChange) -> HttpResponse:
        return HttpResponseRedirect(
            reverse("admin:segments_list_report", args=[made.segment_id, made.pk])
        )


@admin.register(Segment)
class SegmentAdmin(ListPages):
    """Segments: the list, and for each the rule, the customers, the versions."""


def _misses(made: ListChange) -> Iterator[str]:
    yield "\ufeff" + csv_line(["Line", "Value", "Reason"])
    rows = made.misses.order_by("line", "pk").values_list("line", "value", "reason")
    for line, value, reason in rows.iterator(chunk_size=2_000):
        yield csv_line([line, value, ListMiss.Reason(reason).label])


def _place(form: forms.Form, error: UserError) -> str | None:
    return error.field if error.field in form.fields else None

"""What all pages of the back office have in common.

`ModelAdmin` for what people edit, `BigListMixin` for tables that are too long to be
counted or numbered, `JournalAdmin` for what nobody may change.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from django.contrib import admin
from django.core.paginator import Paginator
from django.db import models
from django.db.models import F
from django.http import HttpRequest, QueryDict
from django.utils import timezone
from django.utils.functional import cached_property
from unfold import admin as unfold
from unfold.views import ChangeList

from smartcomm.core import paging
from smartcomm.core.look import badge, link, variables

__all__ = [
    "BigListMixin",
    "EstimatedPaginator",
    "JournalAdmin",
    "ModelAdmin",
    "ReadOnlyMixin",
    "SinceFilter",
    "StackedInline",
    "TabularInline",
    "badge",
    "link",
    "variables",
]


class EstimatedPaginator(Paginator):
    """A paginator that does not count a big table row by row."""

    @cached_property
    def counted(self) -> paging.Count:
        rows: Any = self.object_list
        return paging.count(rows)

    @cached_property
    def count(self) -> int:
        return self.counted.number


class ModelAdmin(unfold.ModelAdmin):
    """The base of every admin of ours."""

    paginator = EstimatedPaginator
    show_full_result_count = False
    list_per_page = 50
    warn_unsaved_form = True
    compressed_fields = True

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        request.GET = storable(request.GET)  # type: ignore[assignment]
        return super().changelist_view(request, extra_context)


def storable(asked: QueryDict) -> QueryDict:
    """What an address asks for, without what no text in the database can hold.

    In its place stands a mark that nothing matches.
    """
    if not any("\x00" in value for _, values in asked.lists() for value in values):
        return asked
    found = asked.copy()
    for name, values in asked.lists():
        found.setlist(name, [value.replace("\x00", "\ufffd") for value in values])
    return found


class TabularInline(unfold.TabularInline):
    extra = 0


class StackedInline(unfold.StackedInline):
    extra = 0


class OlderNewerPaginator(EstimatedPaginator):
    template_name = "core/older_newer.html"


class OlderNewerList(ChangeList):
    """A list in the order of the primary key, paged by it: "older" and "newer".

    Page 500 costs what page 1 costs.
    """

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.older_than = _number(request.GET.get("before"))
        self.newer_than = _number(request.GET.get("after"))
        # They are no filters, and a changed filter starts at the first page again.
        parameters = request.GET.copy()
        for name in ("before", "after", "p", "o", "all"):
            parameters.pop(name, None)
        self.parameters = request.GET = parameters  # type: ignore[assignment]
        super().__init__(request, *args, **kwargs)

    def get_ordering(self, request: HttpRequest, queryset: Any) -> list[str]:
        return ["-pk"]

    def get_results(self, request: HttpRequest) -> None:
        size = self.list_per_page
        rows = self.queryset
        self.paginator = self.model_admin.get_paginator(request, rows, size)
        self.counted = self.paginator.counted
        order: Any = F("pk")
        if self.counted.exact:
            # Few rows: find them by whatever index finds them and sort. By the bare
            # key PostgreSQL may walk through the table until it has met enough.
            order = F("pk") + 0
        if self.newer_than is not None:
            rows = rows.filter(pk__gt=self.newer_than).order_by(order.asc())
            found = list(rows[: size + 1])
            more_newer, more_older = len(found) > size, True
            found = found[:size][::-1]
        else:
            if self.older_than is not None:
                rows = rows.filter(pk__lt=self.older_than)
            found = list(rows.order_by(order.desc())[: size + 1])
            more_newer, more_older = self.older_than is not None, len(found) > size
            found = found[:size]
        self.result_list = found
        self.result_count = self.full_result_count = self.counted.number
        self.can_show_all = self.multi_page = self.show_all = False
        self.show_full_result_count = self.show_admin_actions = True
        self.older = self._page(before=found[-1].pk) if found and more_older else ""
        self.newer = self._page(after=found[0].pk) if found and more_newer else ""
        self.newest = self._page() if self.newer else ""

    def _page(self, **place: int) -> str:
        parameters = self.parameters.copy()
        for name, pk in place.items():
            parameters[name] = str(pk)
        return f"?{parameters.urlencode()}"


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


class BigListMixin:
    """For lists of a million rows: estimated counts, "older" and "newer" for pages."""

    paginator = OlderNewerPaginator
    ordering: ClassVar = ["-pk"]
    sortable_by: ClassVar = ()
    show_full_result_count = False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return OlderNewerList


class ReadOnlyMixin:
    """Nobody adds, changes or deletes; who may view, views."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class JournalAdmin(ReadOnlyMixin, BigListMixin, ModelAdmin):
    """A journal: what happened, newest first, and nobody can change it."""

    show_add_link = False
    actions_on_top = False

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        # Nobody changes a row, so there is no history of changes to offer.
        extra = {**(extra_context or {}), "show_history": False}
        return super().changeform_view(request, object_id, form_url, extra)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        named = super().get_readonly_fields(request, obj)
        fields = [field.name for field in self.opts.fields]
        return [*fields, *(name for name in named if name not in fields)]


class SinceFilter(admin.SimpleListFilter):
    """Rows of the last day, week or month of a journal, found without an index.

    Subclass it and name the column that says when the row was appended.
    """

    time: ClassVar[str]
    parameter_name = "since"
    choices_in_days: ClassVar = {"1": 1, "7": 7, "30": 30, "365": 365}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("1", "Last 24 hours"),
            ("7", "Last 7 days"),
            ("30", "Last 30 days"),
            ("365", "Last 365 days"),
        ]

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any]:
        days = self.choices_in_days.get(self.value() or "")
        if days is None:
            return queryset
        moment = timezone.now() - timedelta(days=days)
        first = paging.first_id_since(queryset.model, self.time, moment)
        return queryset.filter(pk__gte=first)

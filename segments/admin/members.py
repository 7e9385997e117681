"""Who is in a segment: page by page, found by a text, or all of them in a file."""

from __future__ import annotations

from typing import Any, cast

from django.contrib import messages
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.text import slugify

from segments import lists, members, rules, versions
from segments.admin.changelist import author_of, in_words
from segments.admin.page import SegmentPage
from segments.models import ExportChoice, Segment
from smartcomm.core.errors import UserError


class MemberPages(SegmentPage):
    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path(
                "<int:pk>/members/", wrap(self.members), name="segments_segment_members"
            ),
            path("<int:pk>/export/", wrap(self.export), name="segments_segment_export"),
            *super().get_urls(),
        ]

    def members(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Who is in the segment. Of a list, one customer may be put in or taken out."""
        segment = self.with_customers(request, pk)
        if request.method == "POST":
            return self._edited(request, segment)
        text = request.GET.get("q", "").replace("\x00", "").strip()[:200]
        order = "known" if request.GET.get("order") == "known" else "newest"
        before = request.GET.get("before", "")
        is_kept = members.are_kept(segment)
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            **self.head(request, segment, tab="members"),
            "title": f"Customers in {segment.name}",
            "text": text,
            "order": order,
            "before": before,
            "is_kept": is_kept,
            "words": in_words(segment, versions.Words()),
            "columns": _offered(request),
            "media": self.media,
        }
        try:
            if is_kept:
                found = members.kept_page(
                    segment, text=text, newest_first=order == "newest", before=before
                )
            else:
                found = members.asked_page(
                    rules.parse(segment.rule),
                    now=timezone.now(),
                    text=text,
                    before=before,
                )
        except UserError as error:
            context["error"] = error.message
        else:
            asked = {"q": text, "order": order}
            asked = {name: value for name, value in asked.items() if value}
            context["first"] = f"?{urlencode(asked)}"
            context["found"] = found.items
            if found.next:
                context["next"] = f"?{urlencode({**asked, 'before': found.next})}"
        return TemplateResponse(request, "segments/members.html", context)

    def _edited(self, request: HttpRequest, segment: Segment) -> HttpResponse:
        segment_or_answer = self.posted(request, segment.pk)
        if isinstance(segment_or_answer, HttpResponse):
            return segment_or_answer
        add = request.POST.get("add", "").replace("\x00", "").strip()[:254]
        remove = request.POST.get("remove", "").replace("\x00", "").strip()[:254]
        here = reverse("admin:segments_segment_members", args=[segment.pk])
        try:
            done = lists.edit(
                segment,
                add=[lists.external_id(add)] if add else [],
                remove=[remove] if remove else [],
                author=author_of(request),
                origin="the page",
            )
        except UserError as error:
            self.message_user(request, error.message, messages.ERROR)
        else:
            if done.added:
                said = f"{add} is on the list now."
            elif done.removed:
                said = f"{remove} is off the list now."
            elif done.unknown:
                said = f"There is no customer “{add or remove}”."
            else:
                said = f"{add or remove} was {'on' if add else 'off'} the list already."
            level = messages.WARNING if done.unknown else messages.SUCCESS
            self.message_user(request, said, level)
        return HttpResponseRedirect(here)

    def export(
        self, request: HttpRequest, pk: int
    ) -> HttpResponse | StreamingHttpResponse:
        """The members as CSV, streamed. A choice of columns is remembered."""
        segment = self.with_customers(request, pk)
        if request.method == "POST":
            chosen = request.POST.getlist("column")
            known = members.columns().all
            chosen = [code for code in chosen if code in known]
            ExportChoice.objects.update_or_create(
                user=cast(Any, request.user), defaults={"columns": chosen}
            )
        try:
            lines = members.export(
                segment, now=timezone.now(), chosen=_chosen(request) or None
            )
        except UserError as error:
            self.message_user(request, error.message, messages.ERROR)
            return HttpResponseRedirect(self.page_of(segment))
        day = timezone.localdate().isoformat()
        name = f"{slugify(segment.name) or f'segment-{pk}'}-{day}.csv"
        return StreamingHttpResponse(
            lines,
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


def _chosen(request: HttpRequest) -> list[str]:
    found = ExportChoice.objects.filter(user=cast(Any, request.user)).first()
    return list(found.columns) if found else []


def _offered(request: HttpRequest) -> list[dict[str, Any]]:
    """The columns a file may have, by groups, those ticked that were chosen last."""
    offered = members.columns()
    ticked = set(_chosen(request) or offered.usual)
    groups = [
        ("Customer", offered.basic),
        ("Attributes", offered.declared),
        ("Membership", offered.membership),
        ("Consents", offered.consents),
    ]
    return [
        {
            "title": title,
            "columns": [
                {"code": code, "label": label, "ticked": code in ticked}
                for code, label in columns.items()
            ],
        }
        for title, columns in groups
        if columns
    ]

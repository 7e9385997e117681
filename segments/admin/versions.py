"""What a segment said before: its versions, and any two beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from segments import saving, versions
from segments.admin.changelist import author_of
from segments.admin.members import MemberPages
from segments.models import Segment, SegmentVersion
from segments.versions import Difference, Saved
from smartcomm.core.errors import UserError

#: The newest versions are listed; older ones a page further.
LISTED = 50


@dataclass(frozen=True, slots=True)
class Row:
    version: SegmentVersion
    #: What it changed, in a few words; of the first one, that it was the first.
    summary: str
    is_newest: bool


class VersionPages(MemberPages):
    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path(
                "<int:pk>/versions/",
                wrap(self.versions),
                name="segments_segment_versions",
            ),
            *super().get_urls(),
        ]

    def versions(self, request: HttpRequest, pk: int) -> HttpResponse:
        segment = self.visible(request, pk)
        if request.method == "POST":
            return self._restored(request, segment)
        words = versions.Words()
        newest = versions.current_number(segment)
        top = _number(request, "top") or newest
        found = list(
            segment.versions.filter(number__lte=top).order_by("-number")[: LISTED + 1]
        )
        rows = _rows(found, newest, words)
        after = _number(request, "after") or (newest or None)
        before = _number(request, "before") or (after - 1 if after else None)
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            **self.head(request, segment, tab="versions"),
            "title": f"Versions of {segment.name}",
            "rows": rows[:LISTED],
            "older": found[LISTED].number if len(found) > LISTED else None,
            "newest": newest,
            "media": self.media,
            "before": before,
            "after": after,
        }
        pair = {
            version.number: version
            for version in segment.versions.filter(number__in=[before, after])
        }
        if before in pair and after in pair and before != after:
            context["difference"] = versions.difference(
                Saved.of(pair[before]), Saved.of(pair[after]), words
            )
            context["pair"] = (pair[before], pair[after])
        return TemplateResponse(request, "segments/versions.html", context)

    def _restored(self, request: HttpRequest, segment: Segment) -> HttpResponse:
        answer = self.posted(request, segment.pk)
        if isinstance(answer, HttpResponse):
            return answer
        number = request.POST.get("restore", "")
        here = reverse("admin:segments_segment_versions", args=[segment.pk])
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            return HttpResponseRedirect(here)
        try:
            saving.restore_version(segment, int(number), author=author_of(request))
        except UserError as error:
            self.message_user(
                request, f"Version {number}: {error.message}", messages.ERROR
            )
        else:
            said = f"It says again what version {number} said."
            self.message_user(request, said)
            self.log_change(request, segment, f"Restored version {number}.")
        return HttpResponseRedirect(here)


def _rows(found: list[SegmentVersion], newest: int, words: versions.Words) -> list[Row]:
    """Each with what it changed against the one before it."""
    rows = []
    for place, version in enumerate(found):
        older = found[place + 1] if place + 1 < len(found) else None
        if older is not None:
            changed: Difference = versions.difference(
                Saved.of(older), Saved.of(version), words
            )
            summary = changed.summary or "nothing that is told in words"
        else:
            summary = "the first one"
        rows.append(Row(version, summary, version.number == newest))
    return rows


def _number(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    fits = text.isascii() and text.isdigit() and len(text) < 10
    return int(text) if fits else None

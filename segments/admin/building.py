"""What the builder asks as one builds: itself, changed, and what its pickers offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path

from segments import builder, offers
from segments.admin.access import may_view_segments


def urls(wrap: Callable[..., Any]) -> list[Any]:
    return [
        path("builder/", wrap(fragment), name="segments_builder_fragment"),
        path("offers/", wrap(offered), name="segments_builder_offers"),
    ]


def fragment(request: HttpRequest) -> HttpResponse:
    """A builder, changed as one of its buttons says. Writes nothing."""
    may_view_segments(request)
    if request.method != "POST":
        return HttpResponse(status=405)
    try:
        return HttpResponse(builder.answer(request.POST))
    except KeyError:
        return HttpResponse("That part is not there any more.", status=409)


def offered(request: HttpRequest) -> HttpResponse:
    """What a picker offers: names, fields, values that have really arrived."""
    may_view_segments(request)
    try:
        found = offers.asked(request.GET.dict())
    except KeyError:
        return HttpResponse(status=404)
    return TemplateResponse(request, "segments/builder/offers.html", {"offers": found})

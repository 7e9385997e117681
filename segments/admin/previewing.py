"""The preview beside a rule being built, and the exact count that follows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path
from django.utils import timezone

from segments import counting, panel, rules
from segments.admin.access import may_view_segments
from segments.models import Count
from smartcomm.core.errors import UserError

#: Nobody has begun to count for so long: the page says so.
PATIENCE = timedelta(seconds=2)


def urls(wrap: Callable[..., Any]) -> list[Any]:
    def place(address: str, view: Callable[..., Any], name: str) -> Any:
        return path(address, wrap(_posted(view)), name=f"segments_builder_{name}")

    return [
        place("preview/", preview, "preview"),
        place("preview/count/", begin, "count"),
        place("preview/count/<uuid:pk>/", follow, "counting"),
        place("preview/count/<uuid:pk>/cancel/", cancel, "cancel"),
    ]


def _posted(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """For those who may view segments, and by POST alone."""

    def guarded(request: HttpRequest, **where: Any) -> HttpResponse:
        may_view_segments(request)
        if request.method != "POST":
            return HttpResponse(status=405)
        return view(request, **where)

    return guarded


def preview(request: HttpRequest) -> HttpResponse:
    """The sentence, the count and some of the customers of the rule in a form."""
    shown = panel.live(request.POST, user=_user(request), now=timezone.now())
    return _answer(request, "segments/builder/preview.html", shown)


def begin(request: HttpRequest) -> HttpResponse:
    """Have a rule that was previewed counted exactly, in the background."""
    try:
        rule = rules.parse(
            json.loads(request.POST.get("scb_rule", "")), event_values=True
        )
        context = json.loads(request.POST.get("scb_context", "null"))
    except (ValueError, RecursionError, UserError):
        return HttpResponse("This is no rule.", status=400)
    if context is not None and not isinstance(context, dict):
        return HttpResponse("This is no context.", status=400)
    count = counting.ask(
        rule, asker=_asker(request), now=timezone.now(), context=context
    )
    return _state(request, count)


def follow(request: HttpRequest, pk: UUID) -> HttpResponse:
    """How far a count is; the figures when it is done."""
    count = counting.look(pk, asker=_asker(request), now=timezone.now())
    return _state(request, count)


def cancel(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The page does not wait for this count any more."""
    counting.cancel(pk, asker=_asker(request))
    return _answer(request, "segments/builder/counting.html", {"is_cancelled": True})


def _state(request: HttpRequest, count: Count | None) -> HttpResponse:
    has_failed = count is not None and count.status == Count.Status.FAILED
    if count is not None and (
        count.status == Count.Status.DONE or (has_failed and count.margin is not None)
    ):
        found = panel.counted(count)
        shown = {**panel.figures(found), "sentence": found.sentence, "order": ""}
        if has_failed:
            shown["count"] = count
        response = _answer(request, "segments/builder/figures.html", shown)
        # What was asked replaces only the line that says how far it is.
        response["HX-Retarget"] = "closest .scb-figures"
        return response
    now = timezone.now()
    shown = {
        "count": count,
        "done": int(count.progress * 100) if count is not None else 0,
    }
    if count is None or count.status == Count.Status.CANCELLED:
        shown["is_cancelled"] = True
    elif count.status == Count.Status.WAITING and now - count.asked_at >= PATIENCE:
        shown["is_late"] = True
        shown["is_busy"] = counting.is_busy(now)
    return _answer(request, "segments/builder/counting.html", shown)


def _answer(
    request: HttpRequest, template: str, shown: dict[str, Any]
) -> TemplateResponse:
    sent = request.POST
    shown.setdefault("look", sent.get("scb_look", ""))
    if "order" not in shown and "scb_rule" in sent:
        # For the next question, and to begin again after a cancel.
        names = ("scb_rule", "scb_context", "scb_asker", "scb_look")
        shown["order"] = json.dumps({name: sent.get(name, "") for name in names})
    if not request.user.has_perm("customers.view_customer"):
        shown.pop("customers", None)
        shown["is_hidden"] = True
    return TemplateResponse(request, template, shown)


def _user(request: HttpRequest) -> str:
    return str(request.user.pk)


def _asker(request: HttpRequest) -> str:
    return panel.asker(_user(request), request.POST.get("scb_asker", ""))

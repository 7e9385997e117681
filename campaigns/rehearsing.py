"""The page of rehearsals: ask for one, see how far it is, read what came of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from campaigns import panels
from campaigns.desk import Desk, page_context
from campaigns.models import Rehearsal
from campaigns.rehearsal import orders
from customers.models import Channel
from messaging.models import Message
from messaging.preview import secured
from smartcomm.core.errors import UserError

DONE = Rehearsal.Status.DONE
#: What of a result the page cannot do without.
NEEDED = frozenset({"events", "report", "messages_by_day", "samples"})
#: What is offered, in days.
SPANS = (1, 7, 30, 90)


@dataclass(frozen=True)
class Bar:
    """A day of the chart: (channel, how many, height in per cent) from below."""

    day: date
    parts: list[tuple[str, int, str]]

    @property
    def total(self) -> int:
        return sum(number for _, number, _ in self.parts)


def page(desk: Desk) -> HttpResponse:
    """All of it; with htmx only what changes while a rehearsal is under way."""
    if desk.request.method == "POST":
        return _deed(desk)
    found = desk.campaign.rehearsals.select_related("version", "asked_by")
    asked = desk.request.GET.get("rehearsal", "")
    if asked:
        order = found.filter(pk=int(asked) if asked.isdecimal() else 0).first()
        if order is None:
            raise Http404
    else:
        order = found.first()
    context = {
        "order": order,
        "earlier": [one for one in found[: orders.KEPT] if one != order],
        "spans": SPANS,
        "days": order.days if order else orders.DAYS,
        "version": desk.draft or desk.published,
        **(_shown(desk, order) if order and order.status == DONE else {}),
    }
    if desk.request.headers.get("HX-Request"):
        return TemplateResponse(
            desk.request, "campaigns/_rehearsal.html", {"desk": desk, **context}
        )
    return TemplateResponse(
        desk.request,
        "campaigns/rehearsal.html",
        page_context(desk, tab="rehearsal", **context),
    )


def of_this_drawing(desk: Desk) -> Rehearsal | None:
    """The newest finished rehearsal of the drawing exactly as it is now."""
    return desk.campaign.rehearsals.filter(
        status=DONE, result__drawing=desk.definition, result__has_keys=[*NEEDED]
    ).first()


def _deed(desk: Desk) -> HttpResponse:
    if not desk.may_edit:
        raise PermissionDenied
    here = reverse("admin:campaigns_campaign_rehearsal", args=[desk.campaign.pk])
    version = desk.draft or desk.published
    under_way = orders.under_way(desk.campaign.pk)
    try:
        if desk.request.POST.get("deed") == "stop":
            if under_way is not None:
                orders.cancel(under_way)
        elif version is not None:
            days = desk.request.POST.get("days", "")
            orders.ask(
                version,
                days=int(days) if days.isdecimal() and len(days) < 6 else 0,
                user=desk.request.user,  # type: ignore[arg-type]
            )
    except UserError as error:
        messages.error(desk.request, error.message)
    return HttpResponseRedirect(here)


def _shown(desk: Desk, order: Rehearsal) -> dict[str, Any]:
    """The result, made ready for the template: `numbers` where it was kept whole, and
    a picture where it was kept with its drawing."""
    result = order.result or {}
    if not result.keys() >= NEEDED:
        return {}
    numbers, drawn = result["report"], result.get("drawing")
    reasons = dict(Message.Reason.choices)
    return {
        "result": result,
        "numbers": numbers,
        "shown": panels.show(
            drawn, mode="reporting", figures=panels.figures_of(numbers)
        )
        if drawn
        else None,
        "bars": bars(order, result["messages_by_day"]),
        "suppressed": sorted(
            (
                (reasons.get(reason, reason or "No reason"), count)
                for reason, count in numbers["messages"]["suppressed"].items()
            ),
            key=lambda pair: -pair[1],
        ),
        "is_outdated": drawn is not None and drawn != desk.definition,
        "channels": [
            (value, label)
            for value, label in Channel.choices
            if any(one["channel"] == value for one in result["messages_by_day"])
        ],
        "samples": [
            {
                **one,
                "html": secured(one["html"]),
                "event_url": _event_url(one),
            }
            for one in result["samples"]
        ]
        if desk.request.user.has_perm("customers.view_customer")
        else None,
        "begin": order.until - timedelta(days=order.days),
    }


def _event_url(sample: dict[str, Any]) -> str:
    """The page of the event that a sample is the answer to."""
    if not sample["event_pk"]:
        return ""
    return reverse(
        f"admin:events_{sample['event_kind']}_change", args=[sample["event_pk"]]
    )


def bars(order: Rehearsal, messages_by_day: list[dict[str, Any]]) -> list[Bar]:
    """A bar for each day that was rehearsed, with the messages of each channel."""
    by_day: dict[date, dict[str, int]] = defaultdict(dict)
    for one in messages_by_day:
        by_day[date.fromisoformat(one["day"])][one["channel"]] = one["count"]
    highest = max((sum(one.values()) for one in by_day.values()), default=0)
    last = timezone.localdate(order.until)
    days = [last - timedelta(days=n) for n in range(order.days, -1, -1)]
    return [
        Bar(
            day,
            [
                (channel, number, f"{100 * number / highest:.2f}")
                for channel in Channel.values
                if (number := by_day.get(day, {}).get(channel, 0))
            ],
        )
        for day in days
    ]

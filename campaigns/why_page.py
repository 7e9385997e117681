"""“Why?” in the back office: a customer is typed, and the answer has an address."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from campaigns.actions import ACTIONS
from campaigns.actions.filter import POSITIVE
from campaigns.desk import Desk, page_context
from campaigns.models import Run
from campaigns.panels import TONES
from campaigns.way import MINUTE
from campaigns.why import Outcome, Why, WhyAnswer, WhyStop, why
from customers.models import Customer
from messaging.models import Message
from segments.admin.explaining import Shower, look_up
from segments.answers import on
from smartcomm.core.errors import UserError
from smartcomm.core.look import variables

OUTCOMES = {
    Outcome.STARTED: ("yes", "check"),
    Outcome.NOT_YET: ("open", "hourglass_top"),
    Outcome.NOT_STARTED: ("no", "close"),
}


def why_page(desk: Desk) -> HttpResponse:
    """The answer for the customer, and the event, named in the address."""
    if not desk.request.user.has_perm("customers.view_customer"):
        raise PermissionDenied
    asked, event, before = (
        desk.request.GET.get(name, "").replace("\0", "").strip()[:254]
        for name in ("customer", "event", "before")
    )
    told: dict[str, Any] = {"asked_for": asked}
    status = 200
    if asked:
        customer, several = look_up(asked)
        told |= {"customer": customer, "several": several}
        if customer is not None:
            now = timezone.now()
            try:
                answer = why(
                    customer,
                    desk.campaign,
                    event=event,
                    before=before,
                    asked_for=asked,
                    now=now,
                )
            except UserError as error:
                told["error"], status = error.message, error.status
            else:
                told |= shown(answer, customer, desk, now=now)
    return TemplateResponse(
        desk.request,
        "campaigns/why.html",
        {**page_context(desk, tab="why"), **told},
        status=status,
    )


def address(campaign_id: int, **asked: str) -> str:
    """The page's address; it can be shared."""
    page = reverse("admin:campaigns_campaign_why", args=[campaign_id])
    return f"{page}?{urlencode({name: text for name, text in asked.items() if text})}"


def shown(
    told: Why, customer: Customer, desk: Desk, *, now: datetime
) -> dict[str, Any]:
    """The answer as the template wants it, with links to what the reader may open."""
    may: Callable[[str], bool] = desk.request.user.has_perm
    answer = told.answer
    trees = Shower(customer, now, may)
    mark, icon = _mark(answer)
    event, run = answer.event, answer.run
    return {
        "why": told,
        "answer": answer,
        "mark": mark,
        "icon": icon,
        "context_table": variables(event.context) if event and event.context else "",
        "reasons": [
            (reason, trees.shown(reason.tree) if reason.tree else None)
            for reason in answer.reasons
        ],
        "stops": [_stop(stop, trees) for stop in run.stops] if run else [],
        "run_url": reverse("admin:campaigns_run_change", args=[run.id])
        if run and may("campaigns.view_run")
        else "",
        "may_view_messages": may("messaging.view_message"),
        "lines": [
            (
                line,
                *OUTCOMES[line.outcome],
                address(told.campaign, customer=told.customer, event=line.event)
                if line.event
                else "",
            )
            for line in told.others
        ],
        "older": address(told.campaign, customer=told.customer, before=told.next)
        if told.next
        else "",
        "newest": address(told.campaign, customer=told.customer),
        "is_newest": not (
            desk.request.GET.get("event") or desk.request.GET.get("before")
        ),
    }


def _mark(answer: WhyAnswer) -> tuple[str, str]:
    """Whoever got a run but no message did not get what is asked about."""
    if (run := answer.run) is None:
        return OUTCOMES[answer.outcome]
    statuses = {message.status for stop in run.stops for message in stop.messages}
    if run.status == Run.Status.FAILED or statuses & _NOT_SENT:
        return "open", "priority_high"
    return OUTCOMES[answer.outcome]


_NOT_SENT = {
    Message.Status.SUPPRESSED.value,
    Message.Status.FAILED.value,
    Message.Status.UNKNOWN.value,
}


def _stop(stop: WhyStop, trees: Shower) -> dict[str, Any]:
    action = ACTIONS.get(stop.action)
    found: dict[str, Any] = {
        "stop": stop,
        "symbol": action.symbol if action else "help",
        "tone": TONES.get(stop.way, ""),
        "took_time": stop.left_at and stop.left_at - stop.arrived_at >= MINUTE,
        "is_told": any(message.detail == stop.reason for message in stop.messages),
        "messages": [
            (
                message,
                Message.Status(message.status).label.lower(),
                Message.Reason(message.reason).label.lower() if message.reason else "",
            )
            for message in stop.messages
        ],
    }
    if stop.tree is not None and stop.left_at is not None:
        found |= {
            "tree": trees.shown(stop.tree),
            "clock": on(stop.left_at),
            "differs": (stop.tree.holds is True) is not (stop.way == POSITIVE),
        }
    return found

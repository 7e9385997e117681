"""The first page: what marketing people look at every morning."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.formats import date_format

from campaigns import imbalances
from campaigns.models import Broadcast, Campaign, Imbalance
from events import drift
from events.keys import ending_keys, in_words
from events.models import ApiKey, Event, EventType, RejectedEvent, Source
from segments.models import Segment
from segments.upkeep import stale_since
from smartcomm.core.paging import count
from smartcomm.core.templatetags.look import moment
from smartcomm.site.numbers import Day, Numbers, numbers, queues


@dataclass(frozen=True)
class Notice:
    """Something that needs attention, with the page where it is dealt with."""

    icon: str
    tone: str
    title: str
    detail: str
    url: str
    progress: int | None = None


@dataclass(frozen=True)
class Tile:
    """One number of today, with the week beside it."""

    title: str
    icon: str
    tone: str
    today: int
    week: int
    url: str
    note: str = ""


@dataclass(frozen=True)
class FirstStep:
    """A step of setting up, which the first page shows until all are done."""

    title: str
    text: str
    is_done: bool
    url: str = ""
    button: str = ""
    example: str = ""


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The context of the first page. Shows of each part what the user may view."""
    now = timezone.now()
    steps = first_steps(request)
    has_events = Event.objects.exists()
    may_report = request.user.has_perm("campaigns.view_campaign")
    context.update(
        title="Home",
        greeting=greeting(request, now),
        today=date_format(timezone.localdate(now), "l, j F Y"),
        first_steps=[] if has_events else steps,
        notices=notices(request),
    )
    if has_events and request.user.is_superuser:
        context["notices"] += [
            Notice("flag", "primary", step.title, step.text, step.url)
            for step in steps
            if not step.is_done
        ]
    if may_report and has_events:
        found = numbers(now=now)
        context.update(
            tiles=tiles(found, request.user),
            charts=charts(found.days),
            at_work=found.at_work,
            queues=queues(now=now),
            numbers_made_at=found.made_at,
        )
        context["notices"] += notices_of(found)
    return context


def greeting(request: HttpRequest, now: datetime) -> str:
    hour = timezone.localtime(now).hour
    part = (
        "morning" if 4 <= hour < 12 else "afternoon" if 12 <= hour < 18 else "evening"
    )
    name = getattr(request.user, "first_name", "") or request.user.get_username()
    return f"Good {part}, {name}"


def tiles(found: Numbers, user: User | AnonymousUser) -> list[Tile]:
    """The five numbers at the top, linked to the lists that `user` may view."""
    today = found.today

    def rows(app: str, model: str) -> str:
        return _list(f"{app}.{model}") if user.has_perm(f"{app}.view_{model}") else ""

    events, messages = rows("events", "event"), rows("messaging", "message")
    backfilled = found.week("backfilled")
    note = f"and {backfilled:,} backfilled this week" if backfilled else ""
    return [
        Tile(
            "Events received",
            "bolt",
            "info",
            today.events,
            found.week("events"),
            events,
            note,
        ),
        Tile(
            "Runs started",
            "campaign",
            "primary",
            today.runs,
            found.week("runs"),
            rows("campaigns", "run"),
        ),
        Tile("Messages sent", "send", "good", today.sent, found.week("sent"), messages),
        Tile(
            "Suppressed",
            "block",
            "warn",
            today.suppressed,
            found.week("suppressed"),
            messages,
        ),
        Tile("Failed", "error", "bad", today.failed, found.week("failed"), messages),
    ]


def charts(days: list[Day]) -> dict[str, str]:
    """Two charts of the last two weeks, as the theme's chart script takes them."""
    labels = [date_format(day.date, "j M") for day in days]
    bar = {"borderRadius": 3, "maxBarThickness": 22, "borderSkipped": "start"}

    def series(label: str, name: str, color: str) -> dict[str, Any]:
        values = [getattr(day, name) for day in days]
        return {
            "label": label,
            "data": values,
            "backgroundColor": f"var({color})",
            **bar,
        }

    return {
        "events": json.dumps(
            {
                "labels": labels,
                "datasets": [series("Events", "events", "--color-blue-500")],
            }
        ),
        "messages": json.dumps(
            {
                "labels": labels,
                "datasets": [
                    series("Sent", "sent", "--color-green-500"),
                    series("Suppressed", "suppressed", "--color-orange-400"),
                    series("Failed", "failed", "--color-red-500"),
                ],
            }
        ),
        "options": json.dumps(CHART),
    }


CHART = {
    "maintainAspectRatio": False,
    "animation": False,
    "interaction": {"mode": "index", "intersect": False},
    "plugins": {"legend": {"display": False}},
    "scales": {
        "x": {
            "stacked": True,
            "grid": {"display": False},
            "border": {"display": False},
            "ticks": {"color": "#9ca3af", "maxRotation": 0, "autoSkipPadding": 12},
        },
        "y": {
            "stacked": True,
            "beginAtZero": True,
            "suggestedMax": 4,
            "border": {"display": False},
            "ticks": {"color": "#9ca3af", "precision": 0, "maxTicksLimit": 5},
        },
    },
}


# --- what needs attention ---------------------------------------------------------


def notices(request: HttpRequest) -> list[Notice]:
    """What somebody should look at, and broadcasts on their way."""
    found: list[Notice] = []
    if request.user.has_perm("campaigns.view_broadcast"):
        found += _broadcasts()
    if request.user.has_perm("campaigns.view_campaign"):
        found += _imbalances()
    if request.user.has_perm("events.view_rejectedevent"):
        left = count(RejectedEvent.objects.filter(status=RejectedEvent.Status.OPEN))
        if left.number:
            found.append(
                Notice(
                    "report",
                    "bad",
                    f"{_capital(str(left))} rejected event{_s(left.number)}",
                    "Kept whole. Fix the cause, then replay.",
                    _page("events_rejectedevent_groups"),
                )
            )
    if request.user.has_perm("events.view_source"):
        found += _ending_keys()
    if request.user.has_perm("segments.view_segment"):
        found += _segments(timezone.now())
    if request.user.has_perm("events.view_eventtype"):
        new = EventType.objects.filter(is_reviewed=False).count()
        if new:
            found.append(
                Notice(
                    "schema",
                    "warn",
                    f"{new:,} new event type{_s(new)}",
                    "Seen for the first time and not reviewed yet.",
                    _list("events.eventtype", "?is_reviewed__exact=0"),
                )
            )
        changed = drift.with_changes(EventType.objects.all()).filter(changes__gt=0)
        if n := changed.count():
            found.append(
                Notice(
                    "difference",
                    "warn",
                    f"{n:,} event type{_s(n)} changed",
                    "Events came with other fields or values than are declared.",
                    _list("events.eventtype", "?changes=yes"),
                )
            )
    return found


def notices_of(found: Numbers) -> list[Notice]:
    """What the numbers say should be looked at."""
    notices = []
    if found.failed_runs:
        n = found.failed_runs
        notices.append(
            Notice(
                "sync_problem",
                "bad",
                f"{n:,} failed run{_s(n)} in 7 days",
                "Of campaigns at work.",
                _list("campaigns.run", "?status__exact=failed"),
            )
        )
    if failed := found.week("failed"):
        notices.append(
            Notice(
                "unsubscribe",
                "bad",
                f"{failed:,} failed message{_s(failed)} in 7 days",
                "Each says why.",
                _list("messaging.message", "?status__exact=failed"),
            )
        )
    return notices


def _ending_keys() -> list[Notice]:
    now = timezone.now()
    return [
        Notice(
            "key",
            "warn",
            f"{key.source}: the key {key} expires in {in_words(key.expires_at - now)}",
            f"{key.successor} replaces it, but the old one is still used."
            if key.successor
            else "Rotate it before, and put the new one into use.",
            reverse("admin:events_source_change", args=[key.source_id]),
        )
        for key in ending_keys(now=now)[:5]
        if key.expires_at
    ]


def _imbalances() -> list[Notice]:
    """Campaigns whose numbers do not add up."""
    rows = Imbalance.objects.select_related("step__version__campaign").order_by("since")
    return [
        Notice(
            "balance",
            "bad",
            f"“{one.step.version.campaign}” does not add up at “{one.step}”",
            f"{imbalances.say(one)} Seen first {moment(one.since)}.",
            reverse(
                "admin:campaigns_campaign_report", args=[one.step.version.campaign_id]
            )
            + "#off",
        )
        for one in rows[:5]
    ]


def _segments(now: datetime) -> list[Notice]:
    """Segments whose members are not kept, and why that may be."""
    page = _list("segments.segment")
    kept = Segment.objects.filter(kind=Segment.Kind.DYNAMIC, archived_at=None)
    found = []
    if failed := kept.filter(status=Segment.Status.FAILED).count():
        found.append(
            Notice(
                "donut_small",
                "bad",
                f"{failed:,} segment{_s(failed)} cannot be counted",
                "The last good members stay. Each says why.",
                page,
            )
        )
    if (since := stale_since(now)) and kept.exists():
        found.append(
            Notice(
                "donut_small",
                "bad",
                "Segments are stale",
                f"Their members are those of {moment(since)}. Are the workers running?",
                page,
            )
        )
    return found


def _broadcasts() -> list[Notice]:
    rows = Broadcast.objects.exclude(status=Broadcast.Status.FINISHED)
    rows = rows.select_related("campaign", "version", "system_event__type")
    found = []
    for row in rows.order_by("status", "-id")[:5]:
        percent = round(100 * row.progress)
        failed = row.status == Broadcast.Status.FAILED
        done = "taken" if row.version.pace else "of customers examined"
        found.append(
            Notice(
                icon="podcasts",
                tone="bad" if failed else "primary",
                title=f"{row.campaign}: {row.system_event.type}",
                detail="The broadcast failed. " + row.reason
                if failed
                else f"{percent} % {done}, {row.entered:,} entered.",
                url=_list("campaigns.broadcast"),
                progress=None if failed else percent,
            )
        )
    return found


# --- first steps ------------------------------------------------------------------


def first_steps(request: HttpRequest) -> list[FirstStep]:
    """From an empty installation to the first campaign."""
    example = (
        f"curl {request.build_absolute_uri('/api/v1/events')} \\\n"
        "  -H 'Authorization: Bearer YOUR_KEY' \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        '  -d \'{"name": "Order paid", "customer": "C-1001", '
        '"context": {"name": "Bag", "price": 49.9}}\''
    )
    source = Source.objects.order_by("pk").first()
    return [
        FirstStep(
            "Make a source and a key",
            "A source is a system that may send us data: your shop, for one.",
            ApiKey.objects.exists(),
            reverse("admin:events_source_new_key", args=[source.pk])
            if source
            else reverse("admin:events_source_add"),
            "Make a key" if source else "Add a source",
        ),
        FirstStep(
            "Send an event",
            "Customers and event types register themselves on first sight.",
            Event.objects.exists(),
            example=example,
        ),
        FirstStep(
            "Build a segment",
            "Choose customers by what they did, and by who they are.",
            Segment.objects.exists(),
            _page("segments_segment_add"),
            "Build a segment",
        ),
        FirstStep(
            "Draw a campaign",
            "Say which event it answers, and with which message. Then publish it.",
            Campaign.objects.exclude(status=Campaign.Status.DRAFT).exists(),
            _page("campaigns_campaign_add"),
            "Draw a campaign",
        ),
    ]


def _list(model: str, query: str = "") -> str:
    address = _page(f"{model.replace('.', '_')}_changelist")
    return address + query if address else ""


def _page(name: str) -> str:
    try:
        return reverse(f"admin:{name}")
    except NoReverseMatch:
        return ""


def _s(n: int) -> str:
    return "" if n == 1 else "s"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

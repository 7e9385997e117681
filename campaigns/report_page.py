"""The page of a campaign's report: the funnel on its drawing, days, goals, files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.text import slugify

from campaigns import chance, drawing, imbalances, kept, panels, report_files
from campaigns.desk import Desk, page_context
from campaigns.models import Version
from messaging.models import Message
from smartcomm.core.clock import database_now
from smartcomm.core.templatetags.look import number

#: What is offered, in days until today.
SPANS = (7, 30, 90)
USUAL_SPAN = 30
FILES = {"steps": report_files.in_all, "days": report_files.by_day}
#: What a message of a day has become, from below: part of the bar, and what counts.
BAR = (
    ("sent", ("sent",)),
    ("pending", ("pending",)),
    ("suppressed", ("suppressed",)),
    ("failed", ("failed", "unknown")),
)


@dataclass(frozen=True)
class Equation:
    """A sum that must hold, with its parts."""

    total: str
    number: int
    parts: list[tuple[str, int]]

    @property
    def holds(self) -> bool:
        return self.number == sum(number for _, number in self.parts)


@dataclass(frozen=True)
class Day:
    """A day in the charts and in the table under them."""

    day: date
    numbers: Mapping[str, Any]
    #: In per cent of the highest day.
    height: str
    #: What messages became, from below: (part, how many, height).
    messages: list[tuple[str, int, str]]

    @property
    def has_any(self) -> bool:
        numbers = self.numbers
        moved = numbers["entered"] + numbers["finished"] + numbers["failed"]
        return bool(moved or numbers["messages"]["queued"])

    @property
    def suppressed(self) -> int:
        return sum(self.numbers["messages"]["suppressed"].values())


@dataclass(frozen=True)
class Group:
    """The customers who took one way out of a step with a goal, for the eye."""

    label: str
    numbers: Mapping[str, Any]
    rate: str
    #: Of the highest rate, in per cent.
    width: str


@dataclass(frozen=True)
class Goal:
    """What a step that parts customers has brought, in words."""

    numbers: Mapping[str, Any]
    groups: list[Group]
    #: (what is found, "good", "bad" or empty).
    sentences: list[tuple[str, str]]
    decided: str


def page(desk: Desk) -> HttpResponse:
    """The numbers of one version; with htmx only what changes, if it has changed."""
    span, now = _span(desk), database_now()
    is_poll = bool(desk.request.headers.get("HX-Request"))
    counted = kept.glance(desk.campaign, days=span, now=now)
    if counted is None:
        return _being_counted(desk, is_poll=is_poll)
    if "counting" in desk.request.GET:
        return HttpResponse(headers={"HX-Refresh": "true"})
    found = counted.answer["versions"]
    numbers = _chosen(desk, found)
    if numbers is None:
        return TemplateResponse(
            desk.request,
            "campaigns/report.html",
            page_context(desk, tab="report", versions=[]),
        )
    stamp = _stamp(numbers)
    if is_poll and desk.request.GET.get("seen") == stamp:
        return HttpResponse(status=204)
    version = next(one for one in desk.versions if one.number == numbers["version"])
    context = {
        "off": imbalances.told(desk.campaign),
        "versions": found,
        "numbers": numbers,
        "span": span,
        "spans": SPANS,
        "counted_at": counted.at,
        "is_old": now - counted.at > kept.LEAST,
        "seconds": round(counted.fresh_for.total_seconds()),
        "seen": stamp,
        "shown": panels.show(
            drawing.as_json(version),
            mode="reporting",
            figures=panels.figures_of(numbers),
        ),
        "equations": equations(numbers),
        "suppressed": _suppressed(numbers["messages"]["suppressed"]),
        "days": _days(numbers["days"]),
        "goals": [_goal(goal, version) for goal in numbers["goals"]],
    }
    if is_poll:
        return TemplateResponse(
            desk.request, "campaigns/_report.html", {"desk": desk, **context}
        )
    return TemplateResponse(
        desk.request,
        "campaigns/report.html",
        page_context(desk, tab="report", **context),
    )


def _being_counted(desk: Desk, *, is_poll: bool) -> HttpResponse:
    """A page that asks again until the numbers are there."""
    if is_poll:
        return HttpResponse(status=204)
    return TemplateResponse(
        desk.request,
        "campaigns/report.html",
        page_context(
            desk,
            tab="report",
            asks_again=f"{desk.request.get_full_path()}"
            f"{'&' if desk.request.GET else '?'}counting",
        ),
    )


def file(desk: Desk, what: str) -> StreamingHttpResponse:
    """The numbers of all versions as CSV."""
    if what not in FILES:
        raise Http404
    span = _span(desk) if what == "days" else 0
    counted = kept.reported(desk.campaign, days=span, now=database_now())
    name = slugify(desk.campaign.name)[:80] or "campaign"
    day = timezone.localdate(counted.at).isoformat()
    return StreamingHttpResponse(
        FILES[what](counted.answer),
        content_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}-{what}-{day}.csv"'
        },
    )


def equations(numbers: dict[str, Any]) -> list[Equation]:
    """The two sums of a version's report."""
    messages = numbers["messages"]
    return [
        Equation(
            "entered",
            numbers["entered"],
            [(word, numbers[word]) for word in ("finished", "waiting", "failed")],
        )
        if not (numbers["moved_in"] or numbers["moved_out"])
        else Equation(
            "entered or moved in",
            numbers["entered"] + numbers["moved_in"],
            [
                (word.replace("_", " "), numbers[word])
                for word in ("finished", "waiting", "failed", "moved_out")
            ],
        ),
        Equation(
            "queued",
            messages["queued"],
            [
                ("sent", messages["sent"]),
                ("failed", messages["failed"]),
                ("suppressed", sum(messages["suppressed"].values())),
                ("pending", messages["pending"]),
                ("unknown", messages["unknown"]),
            ],
        ),
    ]


def _span(desk: Desk) -> int:
    asked = desk.request.GET.get("days", "")
    if not asked:
        return USUAL_SPAN
    found = next((span for span in SPANS if str(span) == asked), None)
    if found is None:
        raise Http404
    return found


def _chosen(desk: Desk, found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The version that is asked for, or the newest; None where there is none."""
    asked = desk.request.GET.get("version", "")
    if not asked:
        return found[0] if found else None
    for numbers in found:
        if str(numbers["version"]) == asked:
            return numbers
    raise Http404


def _stamp(numbers: dict[str, Any]) -> str:
    text = json.dumps(numbers, cls=DjangoJSONEncoder)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _suppressed(by_reason: Mapping[str, int]) -> list[tuple[str, int]]:
    """Why messages were not sent, in words, the most frequent first."""
    reasons = dict(Message.Reason.choices)
    said = [
        (reasons.get(reason, reason or "No reason"), count)
        for reason, count in by_reason.items()
    ]
    return sorted(said, key=lambda pair: -pair[1])


def _days(days: Sequence[Mapping[str, Any]]) -> list[Day]:
    most_entered = max(day["entered"] for day in days) or 1
    most_queued = max(day["messages"]["queued"] for day in days) or 1
    shown = []
    for day in days:
        counts = day["messages"] | {
            "suppressed": sum(day["messages"]["suppressed"].values())
        }
        parts = [(part, sum(counts[one] for one in of)) for part, of in BAR]
        shown.append(
            Day(
                day["day"],
                day,
                f"{100 * day['entered'] / most_entered:.2f}",
                [
                    (part, count, f"{100 * count / most_queued:.2f}")
                    for part, count in parts
                    if count
                ],
            )
        )
    return shown


def _goal(goal: Mapping[str, Any], version: Version) -> Goal:
    step = next(one for one in version.steps.all() if one.key == goal["step"])
    labels = {
        group["way"]: panels.way_label(step.action, group["way"])
        for group in goal["groups"]
    }
    highest = max((group["rate"] or 0 for group in goal["groups"]), default=0) or 1
    customers = sum(group["customers"] for group in goal["groups"])
    decided = sum(group["decided"] for group in goal["groups"])
    return Goal(
        goal,
        [
            Group(
                labels[group["way"]],
                group,
                "–" if group["rate"] is None else percent(group["rate"]),
                f"{100 * (group['rate'] or 0) / highest:.2f}",
            )
            for group in goal["groups"]
        ],
        [_sentence(one, goal, labels) for one in goal["compared"]],
        panels.share(decided, customers),
    )


def _sentence(
    one: Mapping[str, Any], goal: Mapping[str, Any], labels: Mapping[str, str]
) -> tuple[str, str]:
    """What a comparison means, for somebody who knows no statistics."""
    label, other = labels[one["way"]], labels[one["with"]]
    if one["verdict"] == chance.TOO_EARLY:
        return (
            f"“{label}” against “{other}”: too early. In one of the groups nobody's "
            f"{goal['days']} days are over yet.",
            "",
        )
    points = f"{abs(one['difference']) * 100:.1f}"
    more = "more" if one["difference"] >= 0 else "fewer"
    said = (
        f"“{label}” against “{other}”: {points} of a hundred customers {more} "
        f"(between {_signed(one['low'])} and {_signed(one['high'])})"
    )
    if one["uplift"]:
        said += f", which is {abs(one['uplift']) * 100:.0f} % {more}"
    if one["verdict"] == chance.MAY_BE_CHANCE:
        return f"{said}. This may be chance.", ""
    of = next(group for group in goal["groups"] if group["way"] == one["way"])
    extra = number(round(abs(one["difference"]) * of["decided"]))
    return (
        f"{said}. This is hardly chance: about {extra} {more} than if all had been "
        f"“{other}”.",
        "good" if one["difference"] > 0 else "bad",
    )


def percent(rate: float) -> str:
    return f"{rate * 100:.1f} %"


def _signed(rate: float) -> str:
    return f"{rate * 100:+.1f}".replace("-", "−")

"""How segments look in the back office: their state, their counts over the days."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from segments.models import DailyCount, Segment
from segments.upkeep import State
from smartcomm.core.look import badge
from smartcomm.core.templatetags.look import moment, number, short

DAYS = 30
TONES = {
    Segment.Status.FRESH: ("good", "check_circle"),
    Segment.Status.COMPUTING: ("info", "progress_activity"),
    Segment.Status.STALE: ("warn", "history"),
    Segment.Status.FAILED: ("bad", "error"),
    Segment.Status.NEW: ("info", "schedule"),
}


def few_words(segment: Segment, state: State) -> str:
    """The state in so few words that they fit a badge."""
    match state.status:
        case _ if segment.is_archived:
            return "archived"
        case _ if segment.is_static:
            return "by hand"
        case Segment.Status.COMPUTING:
            return f"counting {state.percent or 0} %"
        case Segment.Status.STALE:
            return f"stale since {moment(state.since)}" if state.since else "stale"
        case Segment.Status.FAILED:
            return "failed"
        case Segment.Status.NEW:
            return "not counted yet"
    return "fresh"


def state_badge(segment: Segment, state: State) -> SafeString:
    """Old, failed or missing is said, never hidden; the title says why."""
    tone, icon = TONES.get(Segment.Status(state.status), ("plain", ""))
    if segment.is_archived:
        tone, icon = "plain", "inventory_2"
    elif segment.is_static:
        tone, icon = "plain", "edit_note"
    return format_html(
        '<span title="{}">{}</span>',
        state.words,
        badge(few_words(segment, state), tone, icon=icon),
    )


# Counts over the days


@dataclass(frozen=True, slots=True)
class Day:
    day: date
    #: None where nobody counted.
    count: int | None


def days_of(segments: Sequence[Segment], *, today: date) -> dict[int, list[Day]]:
    """The counts of the last 30 days, of many segments. One query.

    A list keeps its count until somebody changes it; of a rule, a day on which nobody
    counted stays empty.
    """
    first = today - timedelta(days=DAYS - 1)
    found: dict[int, dict[date, int]] = {segment.pk: {} for segment in segments}
    rows = DailyCount.objects.filter(segment__in=found, day__lte=today)
    lists = [segment.pk for segment in segments if segment.is_static]
    rows = rows.filter(day__gte=first) | rows.filter(segment__in=lists)
    for pk, day, count in rows.order_by("day").values_list(
        "segment_id", "day", "count"
    ):
        found[pk][day] = count
    return {
        segment.pk: _filled(found[segment.pk], first, carry=segment.is_static)
        for segment in segments
    }


def _filled(counts: Mapping[date, int], first: date, *, carry: bool) -> list[Day]:
    last: int | None = None
    if carry:
        before = [day for day in counts if day < first]
        last = counts[max(before)] if before else None
    days = []
    for day in (first + timedelta(days=place) for place in range(DAYS)):
        count = counts.get(day, last if carry else None)
        last = count
        days.append(Day(day, count))
    return days


def spark(days: Sequence[Day]) -> SafeString:
    """A line no higher than a word; a dot, where it begins. Nothing, where no day is
    known."""
    known = [day.count for day in days if day.count is not None]
    if not known:
        return SafeString("")
    low, high = min(known), max(known)
    paths = _paths(days, width=96, height=24, low=low, high=high, edge=2)
    return format_html(
        '<svg class="sd-spark{}" viewBox="0 0 96 24" width="96" height="24" role="img" '
        'aria-label="{}">{}</svg>',
        "" if len(known) > 1 else " sd-dot",
        f"{number(known[0])} to {number(known[-1])} customers in {DAYS} days"
        if len(known) > 1
        else f"{number(known[0])} on the one day counted so far",
        format_html_join("", '<path d="{}"/>', ((path,) for path in paths)),
    )


def chart(days: Sequence[Day]) -> SafeString:
    """The counts of 30 days with their scale; each day tells its number when pointed
    at. Words, where one day is known; nothing, where none is."""
    known = [day for day in days if day.count is not None]
    if len(known) == 1:
        return format_html(
            '<p class="scb-detail">The line begins with the second day of counting; '
            "the first is {}.</p>",
            moment(known[0].day),
        )
    if not known:
        return SafeString("")
    counts = [day.count or 0 for day in known]
    low, high = min(counts), max(counts)
    # A small change of a big number is not to look like a big one.
    room = max(1, (high - low) * 0.15, high * 0.02)
    bottom, top = max(0.0, low - room), high + room
    width, height = 280, 96
    paths = _paths(days, width=width, height=height, low=bottom, high=top)
    step = width / (len(days) - 1)
    spots = [
        (
            f"{max(0.0, place * step - step / 2):.1f}",
            f"{step:.1f}",
            f"{place * step:.1f}",
            f"{_y(day.count, height, bottom, top, 0):.1f}",
            f"{moment(day.day)}: {number(day.count)}",
        )
        for place, day in enumerate(days)
        if day.count is not None
    ]
    return format_html(
        '<figure class="sd-chart"><svg viewBox="0 0 {w} {h}" role="img" '
        'aria-label="{label}" preserveAspectRatio="none">'
        '<line class="sd-axis" x1="0" x2="{w}" y1="{h}" y2="{h}"/>{lines}{spots}</svg>'
        "<figcaption><span>{first}</span><span>{range}</span><span>{last}</span>"
        "</figcaption></figure>",
        w=width,
        h=height,
        label=f"From {number(counts[0])} to {number(counts[-1])} customers between "
        f"{moment(known[0].day)} and {moment(known[-1].day)}",
        lines=format_html_join(
            "",
            '<path class="sd-area" d="{}"/><path class="sd-line" d="{}"/>',
            ((f"{path}V{height}H{path[1:].split(',')[0]}Z", path) for path in paths),
        ),
        spots=format_html_join(
            "",
            '<g class="sd-day"><rect x="{}" y="0" width="{}" height="100%"/>'
            '<circle cx="{}" cy="{}" r="3"/><title>{}</title></g>',
            spots,
        ),
        first=_day(days[0].day),
        last=_day(days[-1].day),
        range=f"{short(low)} to {short(high)}" if low != high else number(low),
    )


def _paths(
    days: Iterable[Day],
    *,
    width: int,
    height: int,
    low: float,
    high: float,
    edge: int = 0,
) -> list[str]:
    """The line, in parts where days are missing."""
    days = list(days)
    step = (width - 2 * edge) / (len(days) - 1)
    paths: list[list[str]] = [[]]
    for place, day in enumerate(days):
        if day.count is None:
            paths.append([])
            continue
        y = _y(day.count, height, low, high, edge)
        paths[-1].append(f"{edge + place * step:.1f},{y:.1f}")
    drawn = [path if len(path) > 1 else path * 2 for path in paths if path]
    return ["M" + "L".join(path) for path in drawn]


def _y(count: int | None, height: int, low: float, high: float, edge: int) -> float:
    if high == low:
        return height / 2
    part = ((count or 0) - low) / (high - low)
    return height - edge - part * (height - 2 * edge)


def _day(day: date) -> str:
    return f"{day:%-d %b}"

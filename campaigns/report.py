"""The numbers of a campaign, for every version and step. They always add up.

entered + moved_in = finished + waiting + failed + moved_out, and
queued = sent + failed + suppressed + pending + unknown; for each step
in = out + waiting + failed + ended + moved_out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from django.db.models import Count, Value

from campaigns.days import Days, Told, by_day
from campaigns.measuring import goals_of
from campaigns.models import Campaign, MovedRun, Passage, Run, Version
from messaging.models import Message

#: What a row stands for: runs, runs that left a step, runs that were moved to another.
RUN, LEFT, MOVED = "run", "left", "moved"
#: What only a provider can tell, in the order in which it happens.
TOLD_BY_PROVIDERS = (
    Message.Status.DELIVERED,
    Message.Status.OPENED,
    Message.Status.CLICKED,
)


def report(campaign: Campaign, *, days: Days | None = None) -> dict[str, Any]:
    """The report as in the API, counted anew: one entry for each version that was
    published, with each of these days.

    Five queries, eight with days. Each equation is over rows of one query, so it holds
    at any moment: a run counts as entered in the version it entered by, and stands in
    that of its step.
    """
    versions = list(
        Version.objects.filter(campaign=campaign)
        .exclude(status=Version.Status.DRAFT)
        .prefetch_related("steps")
        .order_by("-number")
    )
    runs = (
        Run.objects.filter(version__in=versions)
        .order_by()
        .values_list("version_id", "step_id", "status")
        .annotate(count=Count("*"), what=Value(RUN))
    )
    passages = (
        Passage.objects.filter(step__version__in=versions)
        .order_by()
        .values_list("step_id", "step_id", "way")
        .annotate(count=Count("*"), what=Value(LEFT))
    )
    moved = (
        MovedRun.objects.filter(move__campaign=campaign)
        .order_by()
        .values_list("from_step_id", "to_step_id")
        .annotate(way=Value(""), count=Count("*"), what=Value(MOVED))
    )
    messages = (
        Message.objects.filter(campaign_id=campaign.pk, is_test=False)
        .values_list("version_id", "status", "reason")
        .annotate(count=Count("*"))
        .order_by()
    )
    found = _compose(
        versions, list(runs.union(passages, moved, all=True)), list(messages)
    )
    goals = goals_of(versions)
    told = by_day(campaign.pk, versions, days) if days is not None else {}
    for version, numbers in zip(versions, found, strict=True):
        numbers["goals"] = goals[version.pk]
        if days is not None:
            numbers["days"] = list(_days(version, days, told[version.pk]))
    _hide_untold(found)
    return {"campaign": campaign.pk, "name": campaign.name, "versions": found}


def _compose(
    versions: list[Version],
    rows: list[tuple[int, int, str, int, str]],
    messages: list[tuple[int, str, str, int]],
) -> list[dict[str, Any]]:
    entered: dict[int, int] = defaultdict(int)
    standing: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    out: dict[int, dict[str, int]] = defaultdict(dict)
    for of, step_id, word, count, what in rows:
        if what == MOVED:
            standing[of]["moved_out"] += count
            standing[step_id]["moved_in"] += count
        elif what == LEFT:
            out[step_id][word] = count
        else:
            entered[of] += count
            standing[step_id][word] += count
    found = []
    for version in versions:
        counts: dict[str, int] = defaultdict(int)
        for step in version.steps.all():
            for word, count in standing[step.pk].items():
                counts[word] += count
        found.append(
            {
                "version": version.number,
                "status": version.status,
                "published_at": version.published_at,
                "entered": entered[version.pk],
                "moved_in": counts["moved_in"],
                "finished": counts[Run.Status.FINISHED],
                "waiting": counts[Run.Status.WAITING],
                "failed": counts[Run.Status.FAILED],
                "moved_out": counts["moved_out"],
                "steps": list(_steps(version, entered[version.pk], standing, out)),
                "messages": message_counts(
                    [
                        (status, reason, count)
                        for version_id, status, reason, count in messages
                        if version_id == version.pk
                    ]
                ),
            }
        )
    return found


def _steps(
    version: Version,
    entered: int,
    standing: Mapping[int, Mapping[str, int]],
    out: Mapping[int, dict[str, int]],
) -> Iterator[dict[str, Any]]:
    """One entry for each step of a version."""
    steps = list(version.steps.all())
    came: dict[str | None, int] = defaultdict(int, {version.start: entered})
    for step in steps:
        for way, count in out[step.pk].items():
            came[step.next.get(way)] += count
    for step in steps:
        stand, left = standing[step.pk], out[step.pk]
        # Who is over there without having left: archived, left out or merged.
        ended = stand[Run.Status.FINISHED] - sum(
            count for way, count in left.items() if step.next.get(way) is None
        )
        yield {
            "key": step.key,
            "action": step.action,
            "in": came[step.key] + stand["moved_in"],
            "moved_in": stand["moved_in"],
            "out": {**dict.fromkeys(step.next, 0), **left},
            "waiting": stand[Run.Status.WAITING],
            "failed": stand[Run.Status.FAILED],
            "ended": ended,
            "moved_out": stand["moved_out"],
        }


def _days(version: Version, days: Days, told: Told) -> Iterator[dict[str, Any]]:
    """One entry for each day."""
    steps = list(version.steps.all())
    for place, day in enumerate(days):
        came: dict[str | None, int] = defaultdict(int)
        came[version.start] = told.entered[place]
        for step in steps:
            for way, count in told.left[step.key][place].items():
                came[step.next.get(way)] += count
        yield {
            "day": day,
            "entered": told.entered[place],
            "finished": told.finished[place],
            "failed": told.failed[place],
            "waiting": told.waiting[place],
            "steps": [
                {
                    "key": step.key,
                    "in": came[step.key],
                    "out": dict.fromkeys(step.next, 0) | told.left[step.key][place],
                }
                for step in steps
            ],
            "messages": message_counts(told.messages[place]),
        }


def message_counts(rows: list[tuple[str, str, int]]) -> dict[str, Any]:
    """Numbers of messages by (status, reason) → the numbers of a report.

    `sent` counts all that went out; `delivered`, `opened` and `clicked` are of those.
    """
    status = Message.Status
    counts: dict[str, Any] = dict.fromkeys(
        ("queued", "sent", "delivered", "opened", "clicked", "failed"), 0
    )
    counts |= {"suppressed": {}, "pending": 0, "unknown": 0}
    for state, reason, count in rows:
        counts["queued"] += count
        if state in Message.WENT_OUT:
            counts["sent"] += count
        elif state == status.SUPPRESSED:
            counts["suppressed"][reason] = counts["suppressed"].get(reason, 0) + count
        elif state in (status.QUEUED, status.SENDING):
            counts["pending"] += count
        else:
            counts[state] += count
    for i, state in enumerate(TOLD_BY_PROVIDERS):
        counts[state.value] = sum(
            count for found, _, count in rows if found in TOLD_BY_PROVIDERS[i:]
        )
    return counts


def _hide_untold(versions: list[dict[str, Any]]) -> None:
    """Where no provider has told of any such message, nobody knows that there is none:
    None, and not 0."""
    for state in TOLD_BY_PROVIDERS:
        if not any(numbers["messages"][state] for numbers in versions):
            for numbers in versions:
                for counts in (numbers, *numbers.get("days", ())):
                    counts["messages"][state.value] = None

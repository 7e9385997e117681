"""The numbers of a campaign, for every version and step. They always add up.

entered + moved_in = finished + waiting + failed + moved_out, and
queued = sent + failed + suppressed + pending + unknown.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from django.db.models import Count, Value

from campaigns.models import Campaign, MovedRun, Passage, Run, Version
from messaging.models import Message

#: Where a row stands for runs that were moved from a step to a step.
MOVED = "moved"


def report(campaign: Campaign) -> dict[str, Any]:
    """The report as in the API: one entry for each version that was published.

    Five queries. Each equation is over rows of one query, so it holds at any moment: a
    run counts as entered in the version it entered by, and stands in that of its step.
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
        .annotate(count=Count("pk"))
    )
    moved = (
        MovedRun.objects.filter(move__campaign=campaign)
        .order_by()
        .values_list("from_step_id", "to_step_id")
        .annotate(status=Value(MOVED), count=Count("pk"))
    )
    passages = (
        Passage.objects.filter(step__version__in=versions)
        .values_list("step_id", "way")
        .annotate(count=Count("pk"))
        .order_by()
    )
    messages = (
        Message.objects.filter(campaign_id=campaign.pk, is_test=False)
        .values_list("version_id", "status", "reason")
        .annotate(count=Count("pk"))
        .order_by()
    )
    return _compose(
        campaign,
        versions,
        list(runs.union(moved, all=True)),
        list(passages),
        list(messages),
    )


def _compose(
    campaign: Campaign,
    versions: list[Version],
    runs: list[tuple[int, int, str, int]],
    passages: list[tuple[int, str, int]],
    messages: list[tuple[int, str, str, int]],
) -> dict[str, Any]:
    entered: dict[int, int] = defaultdict(int)
    standing: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for of, step_id, status, count in runs:
        if status == MOVED:
            standing[of]["moved_out"] += count
            standing[step_id]["moved_in"] += count
        else:
            entered[of] += count
            standing[step_id][status] += count
    out: dict[int, dict[str, int]] = defaultdict(dict)
    for step_id, way, count in passages:
        out[step_id][way] = count
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
                "steps": [
                    {
                        "key": step.key,
                        "action": step.action,
                        "in": sum(out[step.pk].values())
                        + standing[step.pk][Run.Status.WAITING]
                        + standing[step.pk][Run.Status.FAILED]
                        + standing[step.pk]["moved_out"],
                        "moved_in": standing[step.pk]["moved_in"],
                        "out": dict.fromkeys(step.next, 0) | out[step.pk],
                        "waiting": standing[step.pk][Run.Status.WAITING],
                        "failed": standing[step.pk][Run.Status.FAILED],
                        "moved_out": standing[step.pk]["moved_out"],
                    }
                    for step in version.steps.all()
                ],
                "messages": message_counts(
                    [
                        (status, reason, count)
                        for version_id, status, reason, count in messages
                        if version_id == version.pk
                    ]
                ),
            }
        )
    return {"campaign": campaign.pk, "name": campaign.name, "versions": found}


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
    reached = (status.CLICKED, status.OPENED, status.DELIVERED)
    for i, state in enumerate(reached):
        counts[state.value] = sum(
            count for found, _, count in rows if found in reached[: i + 1]
        )
    return counts

"""Who reached the goal of a step that parts customers, group by group.

A customer counts once at a step, by the first time they left it, with the way they took
then; what they did counts for so many days from that moment. Who still has days to go
is not decided yet, and in no rate: else the group that entered later would look worse.

One statement for each step, in the background: it looks for the goal of every customer
who was at the step, by the index of events on type, customer and time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import structlog

from campaigns.actions import ACTIONS
from campaigns.actions.goal import goal_where, say_goal
from campaigns.actions.split import CONTROL
from campaigns.chance import Proportion, compare
from campaigns.models import Campaign, Measurement, Run, Step, Version
from events.models import EventType
from segments import reading
from segments.compile import context_meets
from segments.reading import Stopped, TooDear
from segments.sql import Sql, sql
from smartcomm.core.clock import database_now
from smartcomm.core.db import fetch_all

logger = structlog.get_logger(__name__)

#: A step is measured again after so long, and after so many times what it took.
EVERY = timedelta(minutes=10)
TIMES = 50
#: When nothing can change any more but by events that come late, or when it failed.
SELDOM = timedelta(days=1)
#: A measurement takes no longer; its worker counts as dead after twice that.
LIMIT = timedelta(minutes=5)

# The event that started the run is no goal, and neither is what was before the split.
MEASURE = """
    WITH first AS MATERIALIZED (
        SELECT DISTINCT ON (customer_id) customer_id, run_id, way, left_at
          FROM campaigns_passage
         WHERE step_id = {} AND way = ANY({}::text[])
         ORDER BY customer_id, left_at, run_id
    ), judged AS (
        SELECT first.way, first.left_at + {} <= {} AS is_decided,
               EXISTS (
                   SELECT FROM events_event AS goal
                    WHERE goal.type_id = {} AND goal.customer_id = first.customer_id
                      AND goal.occurred_at >= first.left_at
                      AND goal.occurred_at < first.left_at + {}
                      AND goal.id IS DISTINCT FROM run.event_id
                      AND {}
               ) AS has_reached
          FROM first
          JOIN campaigns_run AS run
            ON run.id = first.run_id AND run.customer_id = first.customer_id {}
    )
    SELECT way, count(*), count(*) FILTER (WHERE is_decided),
           count(*) FILTER (WHERE is_decided AND has_reached),
           count(*) FILTER (WHERE has_reached)
      FROM judged GROUP BY way
"""
# What started each run, for goals that ask for a field of it.
STARTED_BY = """
          LEFT JOIN events_event AS own
            ON own.id = run.event_id AND own.customer_id = run.customer_id
          LEFT JOIN events_systemevent AS shared ON shared.id = run.system_event_id
          CROSS JOIN LATERAL
               (SELECT coalesce(own.context, shared.context) AS context) AS started_by
"""


def measure_next(*, now: datetime | None = None) -> int:
    """Measure the step that has been due for longest. Returns how many were due."""
    now = now or database_now()
    _enrol(now)
    due = (
        Measurement.objects.filter(due_at__lte=now)
        .select_related("step__version__campaign")
        .order_by("due_at", "pk")
        .first()
    )
    if due is None:
        return 0
    # Only one worker is at a step; if it dies, another one is at it later.
    if Measurement.objects.filter(pk=due.pk, due_at=due.due_at).update(
        due_at=now + 2 * LIMIT
    ):
        _measure_and_keep(due, now=now)
    return 1


def measure(step: Step, *, now: datetime) -> list[dict[str, Any]]:
    """The groups of a step with a goal, in the order of its ways. Two queries more than
    fields of the event need; raises TooDear."""
    goal = step.config["goal"]
    ways = ACTIONS[step.action].ways(step.config)
    event_type = EventType.objects.filter(name=goal["event"]).first()
    where = goal_where(goal)
    span = timedelta(days=goal["days"])
    query = sql(
        MEASURE,
        step.pk,
        list(ways),
        span,
        now,
        event_type.pk if event_type else 0,
        span,
        context_meets(
            where,
            event_type_id=event_type.pk if event_type else 0,
            now=now,
            document="goal.context",
            started_by="started_by.context",
        ),
        Sql(STARTED_BY if ACTIONS[step.action].event_codes(step.config) else ""),
    )
    source = reading.source()
    with reading.read_only(int(LIMIT.total_seconds() * 1000), using=source):
        rows = fetch_all(query.text, query.params, using=source)
    found = {way: counts for way, *counts in rows}
    return [
        dict(
            zip(
                ("way", "customers", "decided", "reached", "reached_so_far"),
                (way, *found.get(way, (0, 0, 0, 0))),
                strict=True,
            )
        )
        for way in ways
    ]


def goals_of(versions: Sequence[Version]) -> dict[int, list[dict[str, Any]]]:
    """What is known of the goals of each version, as in the report. One query; the
    steps are loaded."""
    steps = {
        step.pk: step
        for version in versions
        for step in version.steps.all()
        if step.config.get("goal")
    }
    kept = {one.step_id: one for one in Measurement.objects.filter(step__in=steps)}
    found: dict[int, list[dict[str, Any]]] = {version.pk: [] for version in versions}
    for step in steps.values():
        found[step.version_id].append(_told(step, kept.get(step.pk)))
    return found


def _enrol(now: datetime) -> None:
    """A row for each step with a goal that has none yet."""
    new = Step.objects.filter(config__has_key="goal", measurement__isnull=True).exclude(
        version__status=Version.Status.DRAFT
    )
    Measurement.objects.bulk_create(
        [Measurement(step=step, due_at=now) for step in new], ignore_conflicts=True
    )


def _measure_and_keep(due: Measurement, *, now: datetime) -> None:
    began = time.monotonic()
    try:
        due.groups = measure(due.step, now=now)
        due.problem = ""
    except (TooDear, Stopped):
        logger.warning("campaign.goal_not_measured", step=due.step_id)
        due.problem = (
            f"Measuring took longer than {LIMIT.seconds // 60} minutes, and was "
            "stopped. It is tried again tomorrow."
        )
        due.due_at = now + SELDOM
    else:
        took = time.monotonic() - began
        due.measured_at, due.took_ms = now, round(took * 1000)
        due.due_at = now + (
            SELDOM if _is_over(due) else max(EVERY, timedelta(seconds=took * TIMES))
        )
    due.save()


def _is_over(one: Measurement) -> bool:
    """Nobody comes to the step any more, and everybody's days are over."""
    version = one.step.version
    is_at_work = (
        version.status == Version.Status.PUBLISHED
        and version.campaign.status != Campaign.Status.ARCHIVED
    )
    return (
        not is_at_work
        and all(group["decided"] == group["customers"] for group in one.groups)
        and not Run.objects.filter(version=version, status=Run.Status.WAITING).exists()
    )


def _told(step: Step, kept: Measurement | None) -> dict[str, Any]:
    goal = step.config["goal"]
    groups = kept.groups if kept else []
    by_way: Mapping[str, Proportion] = {
        group["way"]: Proportion(group["reached"], group["decided"]) for group in groups
    }
    # Who is held back is what the others are compared with; else the first share is.
    base = CONTROL if CONTROL in by_way else next(iter(by_way), "")
    others = [way for way in by_way if way != base]
    return {
        "step": step.key,
        "goal": say_goal(goal),
        "days": goal["days"],
        "measured_at": kept.measured_at if kept else None,
        "problem": kept.problem if kept else "",
        "groups": [{**group, "rate": by_way[group["way"]].rate} for group in groups],
        "compared": [
            {
                "way": way,
                "with": base,
                **asdict(compare(by_way[way], by_way[base], comparisons=len(others))),
            }
            for way in others
        ],
    }

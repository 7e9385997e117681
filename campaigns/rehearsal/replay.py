"""The events of some days again, in their order, by a clock that is turned.

The clock goes in ticks of equal length. At each tick the events that have occurred
since the last one come in, and the work is done until there is none: as the workers do
it every few seconds. Ticks at which nothing comes in and nothing is due are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from django.db.models import Min

from campaigns.broadcast import walk_broadcasts
from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Broadcast, Campaign, Run, Step, Version
from campaigns.planned import start_planned
from campaigns.publish import freeze_texts
from campaigns.rehearsal.stage import turn_clock
from campaigns.triggers import PLANNED, TRIGGERS
from events.models import Event, EventType, Kind, SystemEvent
from messaging.channels import Outcome, Outgoing, Provider, Result, provider_class
from messaging.models import Message
from messaging.send import send_messages
from smartcomm.core.db import execute, fetch_all

#: The finest tick. With longer spans ticks are longer, so that there are not more of
#: them than this.
FINEST = timedelta(minutes=1)
MOST_TICKS = 6_000

# Taken once: by time, which no index of the events is in the order of.
SCRIPT = """
    CREATE TEMPORARY TABLE rehearsal_event AS
    SELECT occurred_at, id, customer_id, type_id
      FROM {events} WHERE type_id = ANY(%s) AND occurred_at > %s AND occurred_at <= %s
"""
FEED = """
    INSERT INTO events_pendingevent (event_id, customer_id, type_id)
    SELECT id, customer_id, type_id FROM rehearsal_event
     WHERE occurred_at > %s AND occurred_at <= %s ORDER BY occurred_at, id
"""
FEED_SYSTEM = """
    INSERT INTO events_pendingsystemevent (system_event_id)
    SELECT id FROM events_systemevent
     WHERE type_id = %s AND occurred_at > %s AND occurred_at <= %s
     ORDER BY occurred_at, id
"""


class Pretended(Provider):
    """Takes every message, and sends none."""

    name: ClassVar[str] = "rehearsal"

    def hand_over(self, messages: Sequence[Outgoing]) -> list[Outcome]:
        return [Outcome(Result.ACCEPTED) for _ in messages]


def _pretended(channel: str) -> type[Provider]:
    return Pretended


class Stopped(Exception):
    """Nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was replayed."""

    events: int
    ticks: int
    tick: timedelta


def tick_for(span: timedelta) -> timedelta:
    """How often the clock stops in such a span, in whole minutes."""
    minutes = math.ceil(span / MOST_TICKS / FINEST)
    return max(1, minutes) * FINEST


def publish_on_stage(version: Version, *, at: datetime) -> Version:
    """As publishing does, but for what is not to be written: the draft is at work.

    Returns the version as it stands on the stage.
    """
    freeze_texts(version)
    for step in version.steps.filter(action="wait_for_event"):
        step.event_type = EventType.objects.filter(name=step.config["event"]).first()
        step.save(update_fields=["event_type"])
    event_type = EventType.objects.filter(name=version.event_name).first()
    next_at = None
    if planned := PLANNED.get(version.trigger_kind):
        # Declares the type, if need be: all that is written beside the stage.
        event_type = planned.prepare(version)
        next_at = planned.plan(version.trigger_config).after(at)
    Version.objects.filter(pk=version.pk).update(
        status=Version.Status.PUBLISHED,
        published_at=at,
        event_type=event_type,
        next_at=next_at,
    )
    Campaign.objects.filter(pk=version.campaign_id).update(
        status=Campaign.Status.PUBLISHED
    )
    return Version.objects.get(pk=version.pk)


def replay(
    version: Version,
    *,
    begin: datetime,
    end: datetime,
    tell: Callable[[float], None],
) -> Replayed:
    """Replay what occurred after `begin` and up to `end`. Call on the stage.

    `tell` is told how far it is, from 0 to 1, and may raise Stopped.
    """
    tick = tick_for(end - begin)
    events = _count(version, begin, end)
    now, ticks = begin, 0
    while (due := _next(version, now, end)) is not None:
        before, now = now, min(end, begin + math.ceil((due - begin) / tick) * tick)
        turn_clock(now)
        _feed(version, before, now)
        work_until_quiet(now)
        ticks += 1
        tell((now - begin) / (end - begin))
        if now >= end:
            break
    turn_clock(end)
    if version.trigger_kind in PLANNED:
        events = Broadcast.objects.count()
    return Replayed(events, ticks, tick)


def work_until_quiet(now: datetime, *, is_rehearsal: bool = True) -> None:
    """What all workers do, until there is nothing left to do at this time."""
    ways_out = _pretended if is_rehearsal else provider_class
    while (
        start_planned(now=now)
        + dispatch_system_events(now=now)
        + walk_broadcasts(now=now)
        + dispatch_events(now=now)
        + settle_runs(now=now)
        + advance_runs(now=now, is_rehearsal=is_rehearsal)
        + send_messages(now=now, ways_out=ways_out)
    ):
        pass


def write_script(version: Version, *, begin: datetime, end: datetime) -> None:
    """Take the events that matter, in the order in which they come in."""
    waited_for = Step.objects.filter(version=version, event_type__isnull=False)
    types = set(waited_for.values_list("event_type", flat=True))
    if _on(version) == Kind.CUSTOMER and version.event_type_id:
        types.add(version.event_type_id)
    turn_clock(end)
    execute(
        SCRIPT.format(events=Event._meta.db_table),
        [sorted(types), begin, end],
    )
    execute("CREATE INDEX ON rehearsal_event (occurred_at)")
    execute("ANALYZE rehearsal_event")


def _on(version: Version) -> Kind:
    return TRIGGERS[version.trigger_kind].on


def _count(version: Version, begin: datetime, end: datetime) -> int:
    if version.trigger_kind == Version.Trigger.SYSTEM_EVENT:
        turn_clock(end)
        return SystemEvent.objects.filter(
            type=version.event_type, occurred_at__gt=begin, occurred_at__lte=end
        ).count()
    [(found,)] = fetch_all(
        "SELECT count(*) FROM rehearsal_event WHERE type_id = %s",
        [version.event_type_id],
    )
    return int(found)


def _feed(version: Version, after: datetime, upto: datetime) -> None:
    execute(FEED, [after, upto])
    if version.trigger_kind == Version.Trigger.SYSTEM_EVENT:
        execute(FEED_SYSTEM, [version.event_type_id, after, upto])


def _next(version: Version, now: datetime, end: datetime) -> datetime | None:
    """When there is something to do after `now`; None: not before the end."""
    [(event,)] = fetch_all(
        "SELECT min(occurred_at) FROM rehearsal_event WHERE occurred_at > %s", [now]
    )
    found: list[datetime | None] = [
        event,
        Run.objects.filter(status=Run.Status.WAITING).aggregate(at=Min("due_at"))["at"],
        Message.objects.filter(status=Message.Status.QUEUED).aggregate(
            at=Min("due_at")
        )["at"],
        Broadcast.objects.filter(status=Broadcast.Status.RUNNING).aggregate(
            at=Min("due_at")
        )["at"],
        Version.objects.aggregate(at=Min("next_at"))["at"],
    ]
    if version.trigger_kind == Version.Trigger.SYSTEM_EVENT:
        turn_clock(end)
        found.append(
            SystemEvent.objects.filter(
                type=version.event_type, occurred_at__gt=now
            ).aggregate(at=Min("occurred_at"))["at"]
        )
    due = min((one for one in found if one is not None), default=None)
    if due is None or due > end:
        return None
    # What is due already waits for the next tick.
    return max(due, now + timedelta(microseconds=1))

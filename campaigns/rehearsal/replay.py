"""The events of some days again, in their order, by a clock that is turned.

Where there are few enough, the clock stops at every moment at which one occurs or
something is due: what happens then is what would have happened, to the second. With
more, time is cut into ticks of equal length. What occurs or is due within a tick comes
in together, at the time of the last of it; what is alone in its tick happens at its
very second. Either way the work is done at each stop until there is none, as the
workers do it all the time; where nothing occurs and nothing is due, there is no stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import ClassVar

from django.db.models import Min

from campaigns.broadcast import walk_broadcasts
from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Broadcast, Campaign, Step, Version
from campaigns.planned import start_planned
from campaigns.publish import declare, freeze_texts
from campaigns.rehearsal.stage import tidy_stage, turn_clock
from campaigns.triggers import PLANNED, TRIGGERS
from events.models import Event, EventType, Kind, SystemEvent
from messaging.channels import Outcome, Outgoing, Provider, Result, provider_class
from messaging.send import send_messages
from smartcomm.core.db import execute, fetch_all

#: Up to so many events each moment is a stop, until there have been too many: a
#: million runs may wait until a million times.
EXACT_EVENTS = 20_000
MOST_STOPS = 60_000
#: The finest tick. With longer spans ticks are longer, so that there are not more of
#: them than this.
FINEST = timedelta(minutes=1)
MOST_TICKS = 6_000
#: So much at once, of which nobody else waits for any.
AT_ONCE = 5_000
#: After so many ticks what was deleted meanwhile is removed.
TIDY_EVERY = 500

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


LAST = """
    SELECT greatest(
        (SELECT max(occurred_at) FROM rehearsal_event WHERE occurred_at <= %(limit)s),
        (SELECT max(occurred_at) FROM events_systemevent
          WHERE type_id = %(system)s AND occurred_at <= %(limit)s),
        (SELECT max(due_at) FROM campaigns_run
          WHERE status = 'waiting' AND due_at <= %(limit)s),
        (SELECT max(next_at) FROM campaigns_version
          WHERE status = 'published' AND next_at <= %(limit)s),
        (SELECT max(due_at) FROM messaging_message
          WHERE status = 'queued' AND due_at <= %(limit)s))
"""
# One line for each of the parts of `work_until_quiet`, in their order.
WORK = """
    SELECT EXISTS (SELECT FROM campaigns_version
                    WHERE status = 'published' AND next_at <= %(now)s),
           EXISTS (SELECT FROM events_pendingsystemevent
                    WHERE due_at IS NULL OR due_at <= %(now)s),
           EXISTS (SELECT FROM campaigns_broadcast
                    WHERE status = 'running' AND due_at <= %(now)s),
           EXISTS (SELECT FROM events_pendingevent
                    WHERE due_at IS NULL OR due_at <= %(now)s),
           EXISTS (SELECT FROM messaging_message
                    WHERE NOT is_settled AND run_id IS NOT NULL
                      AND NOT (status IN ('queued', 'sending'))),
           EXISTS (SELECT FROM campaigns_run
                    WHERE status = 'waiting' AND due_at <= %(now)s),
           EXISTS (SELECT FROM messaging_message
                    WHERE status = 'queued' AND due_at <= %(now)s)
"""
#: What leads to work of another part in the same round, by number.
LEADS_TO = {0: 2, 1: 2, 2: 5, 3: 5, 4: 5, 5: 6}
DUE = """
    SELECT least((SELECT min(due_at) FROM campaigns_run
                   WHERE status = 'waiting' AND due_at > %(after)s),
                 (SELECT min(due_at) FROM messaging_message
                   WHERE status = 'queued' AND due_at > %(after)s),
                 (SELECT min(due_at) FROM campaigns_broadcast
                   WHERE status = 'running' AND due_at > %(after)s),
                 (SELECT min(due_at) FROM events_pendingevent
                   WHERE due_at > %(after)s),
                 (SELECT min(due_at) FROM events_pendingsystemevent
                   WHERE due_at > %(after)s),
                 (SELECT min(next_at) FROM campaigns_version
                   WHERE status = 'published' AND next_at > %(after)s))
"""
NEXT = f"""
    SELECT least((SELECT min(occurred_at) FROM rehearsal_event
                   WHERE occurred_at > %(after)s),
                 ({DUE}))
"""  # noqa: S608


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
    #: None where the clock stopped at each moment.
    tick: timedelta | None


def tick_for(span: timedelta) -> timedelta:
    """How often the clock stops in such a span with many events, in whole minutes."""
    minutes = math.ceil(span / MOST_TICKS / FINEST)
    return max(1, minutes) * FINEST


def publish_on_stage(version: Version, *, at: datetime) -> Version:
    """As publishing does, but for what is not to be written: the draft is at work.

    Returns the version as it stands on the stage.
    """
    freeze_texts(version)
    declare(version)
    event_type = EventType.objects.filter(name=version.event_name).first()
    next_at = None
    if planned := PLANNED.get(version.trigger_kind):
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
    events = _count(version, begin, end)
    is_exact = _count_all(version, events) <= EXACT_EVENTS
    tick = None if is_exact else tick_for(end - begin)
    now, ticks = begin, 0
    while (due := _next(version, now, end)) is not None:
        if tick is None and ticks >= MOST_STOPS:
            tick = tick_for(end - begin)
        before, now = now, due
        if tick is not None:
            limit = min(end, begin + math.ceil((due - begin) / tick) * tick)
            # At a portion's very time, so that a long tick does not slow the pace down.
            portion = _next_portion(before)
            limit = limit if portion is None else min(limit, portion)
            now = _last(version, due, limit)
        turn_clock(now)
        _feed(version, before, now)
        # In long ones as well somebody may want it to stop.
        work_until_quiet(now, between=partial(tell, (before - begin) / (end - begin)))
        ticks += 1
        if ticks % TIDY_EVERY == 0:
            tidy_stage()
        tell((now - begin) / (end - begin))
        if now >= end:
            break
    turn_clock(end)
    if version.trigger_kind in PLANNED:
        events = Broadcast.objects.count()
    return Replayed(events, ticks, tick)


def _last(version: Version, due: datetime, limit: datetime) -> datetime:
    """When the last of what is due from `due` up to `limit` is due."""
    is_system = version.trigger_kind == Version.Trigger.SYSTEM_EVENT
    turn_clock(limit)
    [(last,)] = fetch_all(
        LAST, {"limit": limit, "system": version.event_type_id if is_system else None}
    )
    return max(due, last) if last else due


def work_until_quiet(
    now: datetime,
    *,
    is_rehearsal: bool = True,
    between: Callable[[], None] = lambda: None,
) -> None:
    """What all workers do, until there is nothing left to do at this time.

    At most ticks there is little: a query tells who has something to do. `between` is
    called before each round, and may raise.
    """
    ways_out = _pretended if is_rehearsal else provider_class
    more = {"limit": AT_ONCE} if is_rehearsal else {}
    parts: list[Callable[[], int]] = [
        lambda: start_planned(now=now),
        lambda: dispatch_system_events(now=now),
        lambda: walk_broadcasts(now=now),
        lambda: dispatch_events(now=now, **more),
        lambda: settle_runs(now=now, **more),
        lambda: advance_runs(now=now, is_rehearsal=is_rehearsal, **more),
        lambda: send_messages(now=now, ways_out=ways_out),
    ]
    done = 1
    while done:
        between()
        [told] = fetch_all(WORK, {"now": now})
        has_work, done = list(told), 0
        for number, part in enumerate(parts):
            if has_work[number] and (some := part()):
                done += some
                if following := LEADS_TO.get(number):
                    has_work[following] = True


def next_due() -> datetime | None:
    """When something is due that has not been done yet; maybe long ago."""
    [(due,)] = fetch_all(DUE, {"after": "-infinity"})
    found: datetime | None = due
    return found


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


def _count_all(version: Version, events: int) -> int:
    """How many come in: the events that start runs, and those that runs wait for."""
    [(own,)] = fetch_all("SELECT count(*) FROM rehearsal_event")
    is_system = version.trigger_kind == Version.Trigger.SYSTEM_EVENT
    return int(own) + (events if is_system else 0)


def _feed(version: Version, after: datetime, upto: datetime) -> None:
    execute(FEED, [after, upto])
    if version.trigger_kind == Version.Trigger.SYSTEM_EVENT:
        execute(FEED_SYSTEM, [version.event_type_id, after, upto])


def _next_portion(now: datetime) -> datetime | None:
    """When a broadcast takes its next portion after `now`."""
    waiting = Broadcast.objects.filter(status=Broadcast.Status.RUNNING, due_at__gt=now)
    found: datetime | None = waiting.aggregate(at=Min("due_at"))["at"]
    return found


def _next(version: Version, now: datetime, end: datetime) -> datetime | None:
    """When there is something to do after `now`; None: not before the end."""
    [(soonest,)] = fetch_all(NEXT, {"after": now})
    found: list[datetime | None] = [soonest]
    if version.trigger_kind == Version.Trigger.SYSTEM_EVENT:
        turn_clock(end)
        found.append(
            SystemEvent.objects.filter(
                type=version.event_type, occurred_at__gt=now
            ).aggregate(at=Min("occurred_at"))["at"]
        )
    due = min((one for one in found if one is not None), default=None)
    return None if due is None or due > end else due

"""Campaigns that would start each other again and again, for ever.

A step that records an event, or changes a list, may start campaigns; so may their
steps. A circle of them never ends, unless one lets customers enter once, or not again
within some days. Being put on a list starts something only for who is not on it yet:
such a circle is endless where it takes customers off the list as well.

What a rule makes of attributes and events that campaigns change is not looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from campaigns.graph import Problem
from campaigns.models import Campaign, Step, Version
from segments.upkeep.meanings import ENTERED, LEFT

#: The name of an event, and of which segment it tells; None: of any, or of none.
Cause = tuple[str, int | None]

#: Actions that change lists, and what customers do by that.
LISTS = {"add_to_list": ENTERED, "remove_from_list": LEFT}
OPPOSITE = {ENTERED: LEFT, LEFT: ENTERED}
STARTED = {
    Version.Trigger.SEGMENT_ENTERED: ENTERED,
    Version.Trigger.SEGMENT_LEFT: LEFT,
}


@dataclass(frozen=True, slots=True, eq=False)
class _Campaign:
    name: str
    started_by: Cause
    #: Step's key → what it brings about.
    causes: dict[str, Cause]

    def starting(self, other: _Campaign, group: Sequence[_Campaign]) -> str | None:
        """The first step of this one that starts the other, time and again."""
        for key, cause in self.causes.items():
            if _matches(cause, other.started_by) and _comes_again(cause, group):
                return key
        return None


def problems(version: Version) -> Iterator[Problem]:
    """That a draft would start itself again for ever, also by way of others. Costs two
    queries, where any of its steps can start something."""
    mine = _campaign(version, list(version.steps.all()))
    if mine is None or not mine.causes:
        return
    group = [mine, *_others(version)]
    while True:
        closer = [
            one
            for one in _reachable(mine, group)
            if _path(one, mine, group) is not None
        ]
        if not closer:
            return
        if len(closer) == len(group):
            break
        group = closer
    way = _path(mine, mine, group) or []
    first = way[0] if way else mine
    key = mine.starting(first, group) or ""
    names = ", ".join(f"“{one.name}”" for one in way if one is not mine)
    by = f", by way of {names}" if names else ""
    if mine.causes[key][0] in OPPOSITE:
        does, instead = "changes a list, which starts this campaign again", "list"
    else:
        does, instead = "records an event that starts this campaign again", "event"
    verb = "Use" if instead == "list" else "Record"
    yield Problem(
        "error",
        key,
        f"“{key}” {does}{by}: it would never end. {verb} another {instead}, or let "
        "customers enter once.",
    )


def _others(version: Version) -> list[_Campaign]:
    """The other campaigns that are at work."""
    others = (
        Version.objects.filter(
            status=Version.Status.PUBLISHED,
            trigger_kind__in=[Version.Trigger.EVENT, *STARTED],
            entry_rule=Version.Entry.EVERY_EVENT,
        )
        .exclude(campaign=version.campaign_id)
        .exclude(campaign__status=Campaign.Status.ARCHIVED)
        .select_related("campaign")
        .prefetch_related("steps")
        .order_by("pk")
    )
    found = (_campaign(one, list(one.steps.all())) for one in others)
    return [one for one in found if one is not None]


def _campaign(version: Version, steps: Sequence[Step]) -> _Campaign | None:
    """None for one that starts nothing again and again."""
    if version.entry_rule != Version.Entry.EVERY_EVENT:
        return None
    started_by: Cause
    if version.trigger_kind == Version.Trigger.EVENT:
        started_by = version.event_name, None
    elif version.trigger_kind in STARTED:
        kind = Version.Trigger(version.trigger_kind)
        started_by = STARTED[kind], version.trigger_config["segment"]
    else:
        return None  # By the clock, or by a system event, which no step records.
    causes: dict[str, Cause] = {}
    for step in steps:
        if step.action in LISTS:
            causes[step.key] = LISTS[step.action], step.config["segment"]
        elif step.action == "record_event":
            causes[step.key] = step.config["event"], None
    return _Campaign(version.campaign.name, started_by, causes)


def _matches(cause: Cause, started_by: Cause) -> bool:
    same = cause[0] == started_by[0]
    return same and (None in (cause[1], started_by[1]) or cause[1] == started_by[1])


def _comes_again(cause: Cause, group: Sequence[_Campaign]) -> bool:
    """Whether it can happen again to the same customer, by what the group does."""
    opposite, segment = OPPOSITE.get(cause[0]), cause[1]
    if opposite is None or segment is None:
        return True
    return any((opposite, segment) in one.causes.values() for one in group)


def _reachable(begin: _Campaign, group: Sequence[_Campaign]) -> list[_Campaign]:
    """Those of the group that it starts, directly or not, in their order."""
    seen: set[_Campaign] = set()
    ahead = [begin]
    while ahead:
        one = ahead.pop()
        new = [to for to in group if to not in seen and one.starting(to, group)]
        seen.update(new)
        ahead += new
    return [one for one in group if one in seen]


def _path(
    begin: _Campaign, end: _Campaign, group: Sequence[_Campaign]
) -> list[_Campaign] | None:
    """The shortest way: whom it starts, whom that one starts, ..., up to `end`."""
    ahead: list[tuple[_Campaign, list[_Campaign]]] = [(begin, [])]
    seen: set[_Campaign] = set()
    for one, way in ahead:
        for to in group:
            if to not in seen and one.starting(to, group):
                if to is end:
                    return [*way, to]
                seen.add(to)
                ahead.append((to, [*way, to]))
    return None

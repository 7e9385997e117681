"""Who uses a segment: what must not be deleted or archived, and no circles.

Apps above have users of their own (campaigns, by their filters), of which this one
knows nothing; they `introduce` a function that names them when they start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from django.urls import reverse

from segments import rules
from segments.dictionary import Dictionary, SavedRule
from segments.models import Segment
from segments.rules import RuleConflict, RuleError
from smartcomm.core.db import execute
from smartcomm.core.errors import Conflict

#: So many users are named in a refusal.
NAMED = 5
# Any number that no other user of advisory locks in this database has.
_HELD = 7_301_115


@dataclass(frozen=True, slots=True)
class Use:
    """Something whose rule asks for membership of a segment."""

    #: “segment” or “campaign”.
    kind: str
    name: str
    #: Its page in the back office.
    url: str
    #: It works now: a segment that is not archived, a campaign that is published.
    is_live: bool
    #: It answers the events by which a watched segment tells who comes and goes.
    needs_events: bool = False

    def __str__(self) -> str:
        return f"the {self.kind} “{self.name}”"


#: A segment's id → those who use it, of all segments at once.
Users = Callable[[], Mapping[int, list[Use]]]

_above: list[Users] = []


def hold() -> None:
    """Have nobody else change what rules ask of segments until this transaction ends.

    Two who each look for users and circles before the other has written would both be
    let through. Call before a row of a segment is locked, so that those who wait for
    each other do so in one order.
    """
    execute("SELECT pg_advisory_xact_lock(%s)", [_HELD])


def introduce(users: Users) -> None:
    """Say who else may use a segment."""
    _above.append(users)


def all_uses() -> dict[int, list[Use]]:
    """A segment's id → who uses it, by name. Reads all rules, with a query an app."""
    found: dict[int, list[Use]] = defaultdict(list)
    for users in (_segments, *_above):
        for pk, uses in users().items():
            found[pk] += uses
    return dict(found)


def uses_of(pk: int) -> list[Use]:
    """Who uses this segment. Costs what `all_uses` costs."""
    return all_uses().get(pk, [])


def segments_in(data: object) -> set[int]:
    """The ids of the segments that a stored rule speaks of."""
    try:
        parts = list(rules.walk(rules.parse(data, event_values=True)))
    except RuleError:
        return set()
    return {part.segment for part in parts if isinstance(part, rules.InSegment)}


def refuse_if_used(segment: Segment) -> None:
    """Raise Conflict if another segment, or anything above, needs this one."""
    if uses := uses_of(segment.pk):
        raise Conflict(
            f"The segment “{segment}” is used by {_named(uses)}. Change that first, "
            "then delete this one.",
            code="segment_used",
        )


def refuse_if_at_work(segment: Segment) -> None:
    """Raise Conflict if something that works now needs this segment."""
    if uses := [use for use in uses_of(segment.pk) if use.is_live]:
        raise Conflict(
            f"The segment “{segment}” is used by {_named(uses)}. Change or archive "
            "that first, then archive this one.",
            code="segment_used",
        )


def refuse_if_awaited(segment: Segment) -> None:
    """Raise Conflict if something that works now answers who comes and goes."""
    if uses := [one for one in uses_of(segment.pk) if one.is_live and one.needs_events]:
        raise Conflict(
            f"Who enters and leaves “{segment}” starts {_named(uses)}. Change or "
            "archive that first, then have it record no more events.",
            code="segment_used",
        )


def refuse_circle(pk: int, rule: rules.Rule) -> None:
    """Raise RuleConflict, with the way round, if the rule leads back to its segment."""
    saved = Dictionary.of(rule).segments
    if pk not in saved:
        return
    path = _way_to(pk, rule, saved, set())
    names = [saved[pk].name, *(saved[step].name for step in path)]
    raise RuleConflict(
        "Segments would speak of each other in a circle: " + " → ".join(names) + "."
    )


def _way_to(
    pk: int, rule: rules.Rule, saved: Mapping[int, SavedRule], seen: set[int]
) -> list[int]:
    """The segments by which a rule leads to one, that one last; empty: it does not."""
    for part in rules.walk(rule):
        if not isinstance(part, rules.InSegment) or part.segment in seen:
            continue
        if part.segment == pk:
            return [pk]
        seen.add(part.segment)
        inner = saved[part.segment].rule
        if inner is not None and (way := _way_to(pk, inner, saved, seen)):
            return [part.segment, *way]
    return []


def refuse_archived(rule: rules.Rule) -> None:
    """Raise RuleConflict if the rule asks for a segment that is archived."""
    asked = {
        part.segment: part.at
        for part in rules.walk(rule)
        if isinstance(part, rules.InSegment)
    }
    if not asked:
        return
    archived = Segment.objects.filter(pk__in=asked, archived_at__isnull=False)
    for segment in archived.order_by("name"):
        at = asked[segment.pk]
        raise RuleConflict(
            f"The segment “{segment}” is archived. Restore it first, or choose another "
            "one.",
            field=f"{at}.segment" if at else "segment",
        )


def _segments() -> dict[int, list[Use]]:
    found: dict[int, list[Use]] = defaultdict(list)
    rows = Segment.objects.exclude(rule=None).order_by("name")
    for pk, name, rule, archived_at in rows.values_list(
        "pk", "name", "rule", "archived_at"
    ):
        url = reverse("admin:segments_segment_change", args=[pk])
        for used in segments_in(rule) - {pk}:
            found[used].append(Use("segment", name, url, archived_at is None))
    return found


def _named(uses: Iterable[Use]) -> str:
    words = [str(use) for use in uses]
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return ", ".join(words[:NAMED]) + more

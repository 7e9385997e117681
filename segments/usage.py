"""Who uses a segment: what must not be deleted, and no circles.

Apps above have users of their own (campaigns, by their filters), of which this one
knows nothing; they `introduce` a function that names them when they start.
"""

from __future__ import annotations

from collections.abc import Callable

from segments import rules
from segments.dictionary import Dictionary
from segments.models import Segment
from segments.rules import RuleConflict, RuleError
from smartcomm.core.errors import Conflict

#: A segment's id → those who use it, in words: “the campaign “Back in stock””.
Users = Callable[[int], list[str]]

_above: list[Users] = []


def introduce(users: Users) -> None:
    """Say who else may use a segment."""
    _above.append(users)


def users_of(pk: int) -> list[Segment]:
    """The segments whose rule asks for membership of this one. Reads all rules."""
    return [
        segment
        for segment in Segment.objects.exclude(pk=pk)
        if pk in segments_in(segment.rule)
    ]


def segments_in(data: object) -> set[int]:
    """The ids of the segments that a stored rule speaks of."""
    try:
        parts = list(rules.walk(rules.parse(data, event_values=True)))
    except RuleError:
        return set()
    return {part.segment for part in parts if isinstance(part, rules.InSegment)}


def refuse_if_used(segment: Segment) -> None:
    """Raise Conflict if another segment, or anything above, needs this one."""
    users = [f"the segment “{user}”" for user in users_of(segment.pk)]
    users += [name for named in _above for name in named(segment.pk)]
    if users:
        names = ", ".join(users[:5])
        more = f" and {len(users) - 5} more" if len(users) > 5 else ""
        raise Conflict(
            f"The segment “{segment}” is used by {names}{more}. Change that first, "
            "then delete this one.",
            code="segment_used",
        )


def refuse_circle(pk: int, rule: rules.Rule) -> None:
    """Raise RuleConflict if the rule leads back to the segment it is for."""
    for known, saved in Dictionary.of(rule).segments.items():
        if known == pk:
            raise RuleConflict(
                f"This rule asks for “{saved.name}”, which is or uses the very segment "
                "you are editing: a circle."
            )

"""Which segments speak of which: what must not be deleted, and no circles."""

from __future__ import annotations

from segments import rules
from segments.dictionary import Dictionary
from segments.models import Segment
from segments.rules import RuleConflict, RuleError
from smartcomm.core.errors import Conflict


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
        parts = rules.walk(rules.parse(data))
    except RuleError:
        return set()
    return {part.segment for part in parts if isinstance(part, rules.InSegment)}


def refuse_if_used(segment: Segment) -> None:
    """Raise Conflict if another segment needs this one."""
    users = users_of(segment.pk)
    if users:
        names = ", ".join(f"“{user}”" for user in users[:5])
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

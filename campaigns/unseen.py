"""Fields that are asked for, and that no event of the type has had, or can have."""

from __future__ import annotations

from collections.abc import Iterator

from campaigns.graph import Problem
from events.models import EventField, EventType


def unseen(
    codes: set[str], event_type: EventType | None, *, who: str, step: str = ""
) -> Iterator[Problem]:
    """Fields that no event of the type has had, or can have. `who` asks for them."""
    if event_type is None or not codes:
        return
    seen = set(
        EventField.objects.filter(
            type=event_type, code__in=codes | {outermost(code) for code in codes}
        ).values_list("code", flat=True)
    )
    is_enforced = event_type.mode == EventType.Mode.ENFORCED
    for code in sorted(codes - seen):
        if is_enforced and outermost(code) not in seen:
            yield Problem(
                "error",
                step,
                f"{who} asks for “{code}”, which no “{event_type.name}” can carry: the "
                "event is enforced, and declares no such field. Declare it, or choose "
                "another field.",
            )
        else:
            yield Problem(
                "warning",
                step,
                f"{who} asks for “{code}”, which no “{event_type.name}” has had yet.",
            )


def outermost(code: str) -> str:
    """The field of a path: address, of address.city."""
    return code.partition(".")[0]

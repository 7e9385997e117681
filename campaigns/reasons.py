"""Why an event starts nothing, in sentences: for a dry run and for “why?”.

What is decided is decided elsewhere (dispatch, entry); here stand the words for it, and
each condition of a trigger asked by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.utils.formats import date_format
from django.utils.timezone import localtime

from campaigns.models import Version
from campaigns.triggers import TRIGGERS
from events.models import Kind
from events.sandbox import ConditionTried
from segments import rules
from segments.compile import events_matching, lookup
from segments.describe import describe_where
from segments.operators import OPERATORS, Family

BACKFILL = "It was sent as history (a backfill), which is kept and starts nothing."


def conditions(
    version: Version,
    contexts: Mapping[int, Mapping[str, Any]],
    *,
    moments: Mapping[int, datetime],
) -> dict[int, list[ConditionTried]]:
    """The trigger's conditions, each asked as dispatch asks all of them.

    For events of the trigger's type: event's id → context, and → when it is looked at.
    One query for each condition, however many events; where one of them asks how long
    ago something was, one for each event as well.
    """
    where = rules.parse_where(version.where)
    found: dict[int, list[ConditionTried]] = {event_id: [] for event_id in contexts}
    for now, event_ids in _by_clock(where, moments):
        for line in where:
            fitting = events_matching(
                (line,),
                event_ids,
                event_type_id=version.event_type_id or 0,
                system=TRIGGERS[version.trigger_kind].on == Kind.SYSTEM,
                now=now,
            )
            for event_id in event_ids:
                found[event_id].append(
                    ConditionTried(
                        sentence=describe_where((line,)),
                        fits=event_id in fitting,
                        value=lookup(contexts[event_id], line.field),
                    )
                )
    return found


def _by_clock(
    where: Sequence[rules.FieldIs], moments: Mapping[int, datetime]
) -> Iterator[tuple[datetime, list[int]]]:
    """Events that may be asked about together."""
    if any(OPERATORS[line.op].family in _BY_CLOCK for line in where):
        for event_id, moment in moments.items():
            yield moment, [event_id]
    elif moments:
        yield max(moments.values()), list(moments)


_BY_CLOCK = (Family.AGE, Family.ANNIVERSARY)


def unmet(tried: Sequence[ConditionTried]) -> list[str]:
    """What the campaign asks and the event does not say."""
    return [
        f"The campaign asks that {one.sentence}; {seen(one.value)}."
        for one in tried
        if not one.fits
    ]


def seen(value: Any) -> str:
    """What an event has in a field."""
    match value:
        case None:
            return "the event has no such field"
        case bool():
            return f"the event says {'yes' if value else 'no'}"
        case int() | float():
            return f"the event says {value}"
        case str():
            return f"the event says “{value if len(value) <= 80 else value[:80] + '…'}”"
    return "the event has several values there"


def too_old(version: Version, before: str) -> str:
    """`before` is what it occurred so long before: “ago”, “before it came in”."""
    hours = f"{version.max_age_hours:,} hour{'s' * (version.max_age_hours != 1)}"
    return f"It occurred more than {hours} {before}, which is too old."


def turned_away(version: Version, entered_at: datetime | None) -> str:
    """That the entry rule lets the customer in no more; None: it is not known since
    when."""
    when = f" on {day(entered_at)}" if entered_at else ""
    if version.entry_rule == Version.Entry.INTERVAL:
        return (
            f"The customer entered{when}, and may not enter again within "
            f"{version.entry_days} days."
        )
    return f"The customer entered{when}, and may enter once only."


def day(moment: datetime) -> str:
    return date_format(localtime(moment), "j F Y")

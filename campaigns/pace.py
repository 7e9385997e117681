"""How quickly a broadcast goes: so many customers a period, in which order, until when.

A pace is a part of the drawing, for triggers that go through the whole base. Its words
are here, and the order they mean; `campaigns.portions` keeps to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from campaigns.actions.filter import NEGATIVE, read_rule
from campaigns.graph import Problem
from campaigns.models import Step, Version
from segments import rules
from segments.compile import without_negation
from smartcomm.core.errors import Invalid, Several, UserError

MAX_LIMIT = 1_000_000
MAX_STOP_AFTER = 1_000_000_000
#: Period → how long it is, and “so many of them …”.
PERIODS = {
    "minute": (timedelta(minutes=1), "a minute"),
    "hour": (timedelta(hours=1), "an hour"),
    "day": (timedelta(days=1), "a day"),
}
LONGEST_INTEREST, LATEST_INTEREST = "longest_interest", "latest_interest"
OLDEST_CUSTOMER, NEWEST_CUSTOMER = "oldest_customer", "newest_customer"
#: Order → its words.
ORDERS = {
    LONGEST_INTEREST: "longest interest first",
    LATEST_INTEREST: "latest interest first",
    OLDEST_CUSTOMER: "oldest customer first",
    NEWEST_CUSTOMER: "newest customer first",
}
#: The orders that need an event in the leading filter.
BY_INTEREST = (LONGEST_INTEREST, LATEST_INTEREST)


@dataclass(frozen=True, slots=True)
class Pace:
    limit: int
    per: str
    first: str = OLDEST_CUSTOMER
    stop_after: int | None = None

    @classmethod
    def of(cls, version: Version) -> Pace | None:
        return cls(**version.pace) if version.pace else None

    @property
    def period(self) -> timedelta:
        return PERIODS[self.per][0]

    @property
    def quota(self) -> str:
        """“500 an hour”."""
        return f"{self.limit:,} {PERIODS[self.per][1]}"

    def __str__(self) -> str:
        """“500 an hour, longest interest first, stop after 5,000”."""
        words = [self.quota, ORDERS[self.first]]
        if self.stop_after:
            words.append(f"stop after {self.stop_after:,}")
        return ", ".join(words)

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


def read(data: object) -> Pace:
    """The pace that JSON means. Raises Several, each with its place."""
    if not isinstance(data, Mapping):
        raise Several([Invalid("“pace” is an object with “limit” and “per”.")])
    errors: list[UserError] = []

    def wrong(message: str, field: str) -> None:
        errors.append(Invalid(message, field=field))

    known = ("limit", "per", "first", "stop_after")
    for key in data:
        if key not in known:
            wrong(
                f"“{key}” is not understood here; known are {', '.join(known)}.",
                str(key),
            )
    limit, per = data.get("limit"), data.get("per")
    first, stop_after = data.get("first", OLDEST_CUSTOMER), data.get("stop_after")
    if type(limit) is not int or not 0 < limit <= MAX_LIMIT:
        wrong(f"“limit” is a whole number from 1 to {MAX_LIMIT:,}.", "limit")
    if not isinstance(per, str) or per not in PERIODS:
        wrong(f"“per” is one of {', '.join(PERIODS)}.", "per")
    if not isinstance(first, str) or first not in ORDERS:
        wrong(f"“first” is one of {', '.join(ORDERS)}.", "first")
    if stop_after is not None and (
        type(stop_after) is not int or not 0 < stop_after <= MAX_STOP_AFTER
    ):
        wrong(
            f"“stop_after” is a whole number from 1 to {MAX_STOP_AFTER:,}.",
            "stop_after",
        )
    if errors:
        raise Several(errors)
    return Pace(limit=limit, per=per, first=first, stop_after=stop_after)  # type: ignore[arg-type]


def interests(rule: rules.Rule) -> list[rules.Happened]:
    """The conditions whose events show how long somebody has been interested.

    Those that ask for a field of the event that started it ("viewed that very
    product"); where none does, all that ask for an event. What must not have happened
    shows nothing, and saved segments are not looked into.
    """
    found = list(_wanted(rule))
    return [one for one in found if rules.event_values(one)] or found


def _wanted(rule: rules.Rule) -> Iterator[rules.Happened]:
    positive, core = without_negation(rule)
    if not positive:
        return
    match core:
        case rules.All(parts) | rules.AnyOf(parts):
            for part in parts:
                yield from _wanted(part)
        case rules.Happened():
            yield core


def leading_filter(version: Version) -> Step | None:
    """The first step, if it is a filter: it chooses who is started at all."""
    return version.steps.filter(key=version.start, action="filter_customers").first()


def problems(version: Version) -> Iterator[Problem]:
    """What is wrong with the pace of a drawing, and what should be known of it."""
    pace = Pace.of(version)
    if pace is None:
        return
    leading = leading_filter(version)
    if leading is not None and leading.next.get(NEGATIVE):
        yield Problem(
            "warning",
            "pace",
            f"“{leading.key}” chooses whom the portions take. Who does not match is "
            "not started, so nobody takes its way “No”.",
        )
    if pace.first not in BY_INTEREST:
        return
    if leading is None:
        yield Problem(
            "error",
            "pace",
            f"“{ORDERS[pace.first].capitalize()}” goes by an event in a filter, and "
            "the first step is none. Begin with a filter, or choose another order.",
        )
        return
    try:
        found = interests(read_rule(leading.config))
    except UserError:
        return  # Told of the step.
    events = list(dict.fromkeys(f"“{one.event}”" for one in found))
    if not events:
        yield Problem(
            "error",
            "pace",
            f"“{ORDERS[pace.first].capitalize()}” goes by an event, and the filter "
            f"“{leading.key}” asks for none itself that must have happened. Add such a "
            "condition, or choose another order.",
        )
    elif len(events) > 1:
        which = "first" if pace.first == LONGEST_INTEREST else "last"
        yield Problem(
            "warning",
            "pace",
            f"Interest is counted by {' and '.join(events)}: by whichever of them was "
            f"{which}.",
        )

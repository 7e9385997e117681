"""Which segments a customer is in, as the members are kept; of those that were never
counted, asked of their rules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from customers.models import Customer
from segments import compile as compiling
from segments import rules
from segments.models import Membership as Member
from segments.models import Segment
from segments.upkeep import State, state, with_state
from smartcomm.core.errors import UserError

#: A profile asks this many segments; each costs a few look-ups by the customer's id.
MOST = 200


@dataclass(frozen=True)
class Inside:
    """A segment that the customer is in."""

    segment: Segment
    #: Since when; None where the rule was asked just now.
    since: datetime | None
    state: State

    def __str__(self) -> str:
        return str(self.segment)

    @property
    def pk(self) -> int:
        return self.segment.pk

    @property
    def is_doubtful(self) -> bool:
        """Whether this may be out of date."""
        return self.state.status in ("stale", "failed", "computing")


@dataclass(frozen=True)
class Membership:
    """The segments that the customer is in, and those that could not be asked."""

    segments: list[Inside]
    broken: list[tuple[Segment, str]]
    asked: int
    total: int


def of(customer: Customer, *, now: datetime) -> Membership:
    """The segments that the customer is in, by name.

    Two queries where all are counted. Where not, each rule is asked about this one
    customer, with the same compiled query as everywhere.
    """
    since = dict(
        Member.objects.filter(customer=customer).values_list("segment_id", "since")
    )
    inside: list[Inside] = []
    broken: list[tuple[Segment, str]] = []
    asked = unasked = total = 0
    rows = Segment.objects.filter(archived_at=None).order_by("name")
    for segment in with_state(rows):
        total += 1
        if segment.is_static or segment.members_of:
            if segment.pk in since:
                told = state(segment, now)
                inside.append(Inside(segment, since[segment.pk], told))
            continue
        if asked == MOST:
            unasked += 1
            continue
        asked += 1
        try:
            rule = rules.parse(segment.rule)
            query = compiling.compile_rule(rule, now=now, restrict=[customer.pk])
        except UserError as error:
            broken.append((segment, error.message))
            continue
        if compiling.customers_matching(query):
            inside.append(Inside(segment, None, state(segment, now)))
    return Membership(inside, broken, total - unasked, total)

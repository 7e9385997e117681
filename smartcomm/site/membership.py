"""Which segments a customer is in, asked of the rules themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from customers.models import Customer
from segments import compile as compiling
from segments import rules
from segments.models import Segment
from smartcomm.core.errors import UserError

#: A profile asks this many segments; each costs a few look-ups by the customer's id.
MOST = 200


@dataclass(frozen=True)
class Membership:
    """The segments that the customer is in, and those that could not be asked."""

    segments: list[Segment]
    broken: list[tuple[Segment, str]]
    asked: int
    total: int


def of(customer: Customer, *, now: datetime) -> Membership:
    """Ask each saved segment's rule about this one customer.

    The same compiled query as the list of members, restricted to the customer, so
    that the two cannot disagree.
    """
    inside: list[Segment] = []
    broken: list[tuple[Segment, str]] = []
    total = Segment.objects.count()
    asked = Segment.objects.order_by("name")[:MOST]
    for segment in asked:
        try:
            rule = rules.parse(segment.rule)
            query = compiling.compile_rule(rule, now=now, restrict=[customer.pk])
        except UserError as error:
            broken.append((segment, error.message))
            continue
        if compiling.customers_matching(query):
            inside.append(segment)
    return Membership(inside, broken, len(asked), total)

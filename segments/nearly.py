"""Which segments a customer misses by a single condition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import BooleanField, Func

from segments import rules
from segments.dictionary import Dictionary
from segments.explain import Node, explain, one_view, sieve
from segments.models import Segment
from smartcomm.core.errors import UserError

#: So many segments are asked, the first by name.
MOST = 60
#: So many of those missed are shown.
SHOWN = 10
#: The builder writes a rule of one condition as “all” of it, too.
HAS_SEVERAL = Func(
    "rule",
    template="jsonb_path_exists(%(expressions)s, '$.all[1]')",
    output_field=BooleanField(),
)


@dataclass(frozen=True, slots=True)
class Miss:
    """A segment, the one condition that keeps the customer out, and how many hold."""

    segment: Segment
    missing: Node
    held: int

    @property
    def reason(self) -> Node:
        """The node that tells what is so, and what would have to change."""
        return _leaf(self.missing)


@dataclass(frozen=True, slots=True)
class Nearly:
    found: list[Miss]
    #: How many segments were asked, and how many there are that could be.
    asked: int
    total: int
    #: How many were missed by one condition, shown or not.
    missed: int


@dataclass(frozen=True, slots=True)
class _Asked:
    segment: Segment
    parts: tuple[rules.Rule, ...]
    dictionary: Dictionary


def nearly(customer_id: int, *, now: datetime) -> Nearly:
    """The segments that want all of several conditions, of which all but one hold.

    Asks each of those conditions of this one customer, as `explain` does. Costs a
    statement for fifty conditions, and a handful of queries for what is found.
    """
    segments = Segment.objects.filter(
        HAS_SEVERAL, kind=Segment.Kind.DYNAMIC, archived_at=None
    )
    total = segments.count()
    asked = _read(segments.order_by("name", "pk")[:MOST])
    with one_view():
        found = []
        for one, holds in zip(asked, _answers(asked, customer_id, now), strict=True):
            if holds.count(False) == 1:
                found.append((one, one.parts[holds.index(False)]))
        missing = found[:SHOWN]
        if not missing:
            return Nearly([], len(asked), total, 0)
        # One tree for all of them costs what one of them would.
        tree = explain(
            rules.All(tuple(part for _, part in missing)), customer_id, now=now
        )
    misses = [
        Miss(one.segment, node, len(one.parts) - 1)
        for (one, _), node in zip(missing, tree.parts, strict=True)
    ]
    return Nearly(misses, len(asked), total, len(found))


def _leaf(node: Node) -> Node:
    """“Never paid” has its reason below it."""
    return _leaf(node.parts[0]) if node.kind == "not" else node


def _read(segments: Iterable[Segment]) -> list[_Asked]:
    """Those whose rule is understood, and has several conditions.

    One dictionary serves all, unless a name somewhere does not exist.
    """
    read: list[tuple[Segment, tuple[rules.Rule, ...]]] = []
    for segment in segments:
        try:
            rule = rules.parse(segment.rule)
        except UserError:
            continue
        if isinstance(rule, rules.All) and len(rule.parts) > 1:
            read.append((segment, rule.parts))
    try:
        every = tuple(part for _, parts in read for part in parts)
        shared = Dictionary.of(rules.All(every))
    except UserError:
        pass
    else:
        return [_Asked(segment, parts, shared) for segment, parts in read]
    found = []
    for segment, parts in read:
        try:
            found.append(_Asked(segment, parts, Dictionary.of(rules.All(parts))))
        except UserError:
            continue
    return found


def _answers(
    asked: Sequence[_Asked], customer_id: int, now: datetime
) -> list[list[bool]]:
    if not asked:
        return []
    known = Dictionary()
    for one in {id(one.dictionary): one.dictionary for one in asked}.values():
        known.learn_from(one)
    every = [part for one in asked for part in one.parts]
    answers = iter(sieve(every, customer_id, now=now, dictionary=known))
    return [[next(answers) for _ in one.parts] for one in asked]

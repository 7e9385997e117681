"""Why a customer is in a segment or not: the rule as a tree of yes and no.

Each yes and no is the compiled query of that very part of the rule, restricted to the
customer. Nothing is decided here a second time; what was counted, and the events that
it was, are read beside it, with the compiler's own conditions and in the same view of
the database. See docs/segment-explain.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Any

import msgspec
from django.db import connection, transaction

from customers.models import Customer
from segments import answers, offers, rules
from segments.answers import Answer
from segments.compile import MissingField, bind, compile_rule
from segments.describe import ATTRIBUTE_LABELS, describe
from segments.dictionary import Dictionary
from segments.evidence import Findings, Happening, find
from segments.models import Segment
from segments.reading import read_only
from segments.rules import RuleConflict, RuleError
from segments.sql import Sql, join, sql
from smartcomm.core.db import fetch_all

Meta = msgspec.Meta

LIMIT_MS = 5_000
#: So many parts of a rule are asked with one statement.
AT_ONCE = 50

# A merge by customer compares every event of the one customer with every other, a
# hundred times as slow as by hash of customer and fields; compiling to machine code
# takes longer than such a statement. Only for this transaction.
PLAN_FOR_ONE = """
    SELECT set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true)
"""


class Node(msgspec.Struct, frozen=True):
    """A part of a rule: whether it holds for the customer, and why."""

    kind: Annotated[
        str,
        Meta(
            description="`all`, `any`, `not`, `attribute`, `event`, `message`, "
            "`consent`, `reachable` or `segment`."
        ),
    ]
    at: Annotated[
        str, Meta(description="Its place in the rule it stands in: `all.1.not`.")
    ]
    words: str
    holds: Annotated[
        bool | None, Meta(description="null: it could not be asked; see `problem`.")
    ]
    wanted: Annotated[
        bool, Meta(description="Whether it should hold; false below a `not`.")
    ]
    blocks: Annotated[
        bool, Meta(description="It is one of those that keep the customer out.")
    ]
    fact: Annotated[str, Meta(description="What is so: “2 times, 3 wanted”.")] = ""
    change: Annotated[
        str, Meta(description="What would have to change, of what blocks.")
    ] = ""
    problem: str = ""
    value: Annotated[Any, Meta(description="What the attribute holds.")] = None
    count: Annotated[
        int | None, Meta(description="How many events or messages were chosen.")
    ] = None
    first: datetime | None = None
    last: datetime | None = None
    events: Annotated[
        tuple[Happening, ...],
        Meta(
            description="Those that were chosen; a few, the newest first, or the "
            "oldest where the first is asked about."
        ),
    ] = ()
    more: Annotated[int, Meta(description="How many more were chosen.")] = 0
    left_out: Annotated[
        tuple[Happening, ...],
        Meta(
            description="Those that meet all but what is asked of events beside "
            "them; a few, the newest first."
        ),
    ] = ()
    left_out_count: int = 0
    fields: Annotated[
        tuple[str, ...], Meta(description="The fields that the condition looks at.")
    ] = ()
    since: Annotated[
        Happening | None, Meta(description="The event that begins the period.")
    ] = None
    segment: Annotated[int | None, Meta(description="The id of the segment.")] = None
    member_since: datetime | None = None
    parts: tuple[Node, ...] = ()


def explain(
    rule: rules.Rule,
    customer_id: int,
    *,
    now: datetime,
    context: Mapping[str, Any] | None = None,
) -> Node:
    """The rule as a tree, asked of one customer at the time `now`.

    `context` gives `$field_code` its values, as it does for `compile_rule`. What
    cannot be asked, such as a name that does not exist, is told in its place
    (`problem`); what contains it is neither true nor false, and the rule matches
    nobody. Costs a handful of queries, however large the rule is.
    """
    with one_view():
        customer = Customer.objects.get(pk=customer_id)
        return _Explainer(customer, now, context or {}).tree(rule)


def rule_of(segment: Segment) -> rules.Rule:
    """What to explain: the segment's rule, or that one is on its list."""
    if segment.is_static:
        return rules.InSegment(segment.pk)
    return rules.parse(segment.rule)


def sieve(
    asked: Sequence[rules.Rule],
    customer_id: int,
    *,
    now: datetime,
    dictionary: Dictionary,
) -> list[bool]:
    """Whether each of these rules holds for the customer. The names must be known."""
    found: list[bool] = []
    for start in range(0, len(asked), AT_ONCE):
        queries = []
        for rule in asked[start : start + AT_ONCE]:
            query = compile_rule(
                rule, now=now, restrict=[customer_id], dictionary=dictionary
            )
            # Not EXISTS, which makes the planner hurry to a first row by slow joins.
            found_one = sql(
                "(SELECT count(*) > 0 FROM ({}) AS found)",
                Sql(query.sql, query.params),
            )
            queries.append(found_one)
        statement = sql("SELECT {}", join(", ", queries))
        found += fetch_all(statement.text, statement.params)[0]
    return found


@contextmanager
def one_view(limit_ms: int = LIMIT_MS) -> Iterator[None]:
    """All that is read sees the database as it was at one moment, and writes nothing.

    Inside another transaction it is as that one says.
    """
    outermost = not connection.in_atomic_block
    with transaction.atomic():
        if outermost:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        with read_only(limit_ms):
            fetch_all(PLAN_FOR_ONE)
            yield


@dataclass
class _Part:
    """A part of the rule on its way to be a node."""

    rule: rules.Rule
    at: str
    wanted: bool
    #: With the event's values in their places; None if it cannot be asked.
    bound: rules.Rule | None = None
    parts: list[_Part] = field(default_factory=list)
    problem: str = ""
    holds: bool | None = None
    #: A segment whose rule stands in the tree already.
    is_repeated: bool = False
    found: Findings = field(default_factory=Findings)


@dataclass
class _Explainer:
    customer: Customer
    now: datetime
    context: Mapping[str, Any]
    dictionary: Dictionary = field(default_factory=Dictionary)
    #: Whether every name in the rule is known; if not, they are looked up one by one.
    all_known: bool = False
    segments: dict[int, Segment] = field(default_factory=dict)
    #: Segments whose rule stands in the tree already, or is being put there.
    unfolded: set[int] = field(default_factory=set)
    labels: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)

    def tree(self, rule: rules.Rule) -> Node:
        try:
            self.dictionary = Dictionary.of(rule)
            self.all_known = True
            self.segments = Segment.objects.in_bulk(list(self.dictionary.segments))
        except RuleError:
            pass
        root = self._plan(rule, at="", wanted=True)
        parts = list(_walk(root))
        self._ask(parts)
        self._look(parts)
        self.labels = {**ATTRIBUTE_LABELS, **offers.attribute_labels()}
        self.names = {pk: segment.name for pk, segment in self.segments.items()}
        return self._node(root, is_to_blame=True)

    # Planning: what to ask

    def _plan(self, rule: rules.Rule, *, at: str, wanted: bool) -> _Part:
        part = _Part(rule, at, wanted)
        match rule:
            case rules.All(inside) | rules.AnyOf(inside):
                word = "all" if isinstance(rule, rules.All) else "any"
                part.parts = [
                    self._plan(one, at=_join(at, f"{word}.{i}"), wanted=wanted)
                    for i, one in enumerate(inside)
                ]
                bound = [one.bound for one in part.parts if one.bound is not None]
                if len(bound) == len(inside):
                    part.bound = replace(rule, parts=tuple(bound))
            case rules.Not(one):
                inner = self._plan(one, at=_join(at, "not"), wanted=not wanted)
                part.parts = [inner]
                if inner.bound is not None:
                    part.bound = rules.Not(inner.bound)
            case _:
                self._plan_leaf(part)
        return part

    def _plan_leaf(self, part: _Part) -> None:
        try:
            bound = bind(part.rule, self.context)
            if not self.all_known:
                self.dictionary.learn_from(Dictionary.of(bound))
            part.bound = bound
        except MissingField as missing:
            part.problem = _missing(missing.codes)
        except RuleConflict as error:
            part.problem = error.message
            return  # It would never end.
        except RuleError as error:
            part.problem = error.message
        if isinstance(part.rule, rules.InSegment):
            self._unfold(part, part.rule.segment)

    def _unfold(self, part: _Part, pk: int) -> None:
        """Let the tree go on with the rule of a segment, the first time it comes."""
        if pk not in self.segments:
            row = Segment.objects.filter(pk=pk).first()
            if row is None:
                return
            self.segments[pk] = row
        segment = self.segments[pk]
        if pk in self.unfolded:
            part.is_repeated = True
        if part.is_repeated or segment.is_static:
            return
        self.unfolded.add(pk)
        try:
            rule = rules.parse(segment.rule)
        except RuleError:
            return  # The leaf has the problem already.
        part.parts = [self._plan(rule, at="", wanted=part.wanted)]

    # Asking

    def _ask(self, parts: list[_Part]) -> None:
        asked = [(part, part.bound) for part in parts if part.bound is not None]
        found = sieve(
            [bound for _, bound in asked],
            self.customer.pk,
            now=self.now,
            dictionary=self.dictionary,
        )
        for (part, _), holds in zip(asked, found, strict=True):
            part.holds = holds

    def _look(self, parts: list[_Part]) -> None:
        """Find the values and events of every leaf that could be asked."""
        leaves = [
            (part, part.bound)
            for part in parts
            if _is_leaf(part.rule) and part.bound is not None
        ]
        findings = find(
            [
                (bound, answers.most(bound, wanted=part.wanted))
                for part, bound in leaves
            ],
            self.customer,
            segments=self.segments,
            now=self.now,
            dictionary=self.dictionary,
        )
        for (part, _), found in zip(leaves, findings, strict=True):
            part.found = found

    # Telling

    def _node(self, part: _Part, *, is_to_blame: bool) -> Node:
        """`is_to_blame`: what contains this part keeps the customer out."""
        blocks = is_to_blame and part.holds is not part.wanted
        parts = tuple(self._node(one, is_to_blame=blocks) for one in part.parts)
        found, tally = part.found, part.found.tally
        told = self._told(part, parts)
        return Node(
            kind=_kind(part.rule),
            at=part.at,
            words=self._words(part.rule),
            holds=part.holds,
            wanted=part.wanted,
            blocks=blocks,
            fact=told.fact,
            change=told.change if blocks else "",
            problem=part.problem,
            value=found.value,
            count=tally.count if tally else None,
            first=tally.first if tally else None,
            last=tally.last if tally else None,
            events=found.events,
            more=tally.count - len(found.events) if tally else 0,
            left_out=found.left_out,
            left_out_count=tally.left_out_count if tally else 0,
            fields=_fields(part.rule),
            since=found.since,
            segment=part.rule.segment
            if isinstance(part.rule, rules.InSegment)
            else None,
            member_since=found.member_since,
            parts=parts,
        )

    def _words(self, rule: rules.Rule) -> str:
        match rule:
            case rules.All():
                return "All of these"
            case rules.AnyOf():
                return "At least one of these"
            case rules.Not(rules.AnyOf()):
                return "None of these"
            case rules.Not(rules.All()):
                return "Not all of these"
        return describe(
            rule,
            attributes=self.labels,
            segments=self.names,
            campaigns=self.dictionary.campaigns,
            categories={
                code: category.name
                for code, category in self.dictionary.categories.items()
            },
        )

    def _told(self, part: _Part, parts: tuple[Node, ...]) -> Answer:
        if part.bound is None:
            return Answer()
        if not _is_leaf(part.rule):
            return _group(part, parts)
        told = answers.answer(
            part.bound,
            part.found,
            label=self._label(part.rule),
            wanted=part.wanted,
            holds=part.holds,
            now=self.now,
        )
        if part.is_repeated:
            told = replace(told, fact=f"{told.fact}, as explained above")
        return told

    def _label(self, rule: rules.Rule) -> str:
        """What is called so in the answer: an attribute, or a mailing category."""
        match rule:
            case rules.Attribute(name):
                return self.labels.get(name, name)
            case rules.ConsentIs(category=code) if code in self.dictionary.categories:
                return self.dictionary.categories[code].name
        return ""


def _walk(part: _Part) -> Iterator[_Part]:
    yield part
    for one in part.parts:
        yield from _walk(one)


def _group(part: _Part, parts: tuple[Node, ...]) -> Answer:
    hold = sum(one.holds is True for one in parts)
    match part.rule:
        case rules.Not():
            return Answer()
        case rules.AnyOf() if part.wanted:
            change = "One of them is enough." if len(parts) > 1 else ""
        case rules.All() if not part.wanted:
            change = "It is enough that one of them no longer holds."
        case _:
            change = ""
    return Answer(f"{hold} of {len(parts)} hold" + ("s" if hold == 1 else ""), change)


def _is_leaf(rule: rules.Rule) -> bool:
    return not isinstance(rule, rules.All | rules.AnyOf | rules.Not)


def _kind(rule: rules.Rule) -> str:
    return KINDS[type(rule)]


KINDS: dict[type[rules.Rule], str] = {
    rules.All: "all",
    rules.AnyOf: "any",
    rules.Not: "not",
    rules.Attribute: "attribute",
    rules.Happened: "event",
    rules.Messaged: "message",
    rules.ConsentIs: "consent",
    rules.Reachable: "reachable",
    rules.InSegment: "segment",
}


def _fields(rule: rules.Rule) -> tuple[str, ...]:
    """What a condition looks at in the context of events."""
    if not isinstance(rule, rules.Happened):
        return ()
    codes = [line.field for line in rule.where]
    for other in rule.beside:
        codes += [*other.same, *(line.field for line in other.where)]
    return tuple(dict.fromkeys(codes))


def _missing(codes: set[str]) -> str:
    names = ", ".join(f"“{code}”" for code in sorted(codes))
    return (
        f"It compares with {names} of the event that started a campaign, and there is "
        "no such value here."
    )


def _join(at: str, place: str) -> str:
    return f"{at}.{place}" if at else place

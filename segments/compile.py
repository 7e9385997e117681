"""A rule → the set of customers who meet it, as one SQL query.

Every leaf is a query of customer ids; `all` is INTERSECT, `any` UNION, and `not`
EXCEPT from what surrounds it (from all customers only where nothing does). Sets
have no NULL, and no subplan that is scanned once per customer: the measured forms
are in docs/decisions/0003-set-algebra.md. Values are always parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from segments import rules
from segments.comparisons import (
    back,
    compare,
    compare_instant,
    days_since,
    not_after,
    number,
    start_of,
)
from segments.dictionary import Dictionary
from segments.operators import OPERATORS, Takes
from segments.rules import EventValue, read_instant
from segments.sql import Sql, join, sql
from smartcomm.core.db import fetch_all


@dataclass(frozen=True, slots=True)
class Compiled:
    """A query with one column, `customer_id`, each customer once."""

    sql: str
    params: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class IdRange:
    """Only customers with `after < id <= upto`."""

    after: int
    upto: int


#: Which customers are asked about: all, these ids, or a range of ids.
Restrict = Sequence[int] | IdRange | None


class MissingField(Exception):
    """A rule asks for `$field_code`, and the event has no such field."""

    def __init__(self, codes: set[str]) -> None:
        self.codes = codes
        super().__init__(", ".join(sorted(codes)))


def compile_rule(
    rule: rules.Rule,
    *,
    now: datetime,
    restrict: Restrict = None,
    context: Mapping[str, Any] | None = None,
    dictionary: Dictionary | None = None,
) -> Compiled:
    """The query for the customers who meet the rule at the time `now`.

    `context` gives `$field_code` its values. Raises RuleError for a name that does
    not exist, MissingField where the context lacks a field that the rule asks for.
    Costs a query for each kind of name in the rule, unless a `dictionary` is given.
    """
    if context is not None:
        rule = bind(rule, context)
    known = dictionary or Dictionary.of(rule)
    query = _Compiler(dictionary=known, now=now, restrict=restrict).distinct(rule)
    return Compiled(query.text, query.params)


def bind(rule: rules.Rule, context: Mapping[str, Any]) -> rules.Rule:
    """Put the event's values in the places of `$field_code`.

    Raises MissingField naming every field that the event lacks. A value that
    compares with nothing, such as an object, is left to match nobody.
    """
    missing = {
        code for code in rules.event_values(rule) if lookup(context, code) is None
    }
    if missing:
        raise MissingField(missing)
    return _bound(rule, context)


def lookup(context: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, or None."""
    found: Any = context
    for code in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(code)
    return found


def customers_matching(query: Compiled) -> set[int]:
    """Run the query. Only for a restricted one: the ids come into memory."""
    return {row[0] for row in fetch_all(query.sql, query.params)}


def events_matching(
    where: tuple[rules.FieldIs, ...],
    event_ids: Sequence[int],
    *,
    event_type_id: int,
    system: bool,
    now: datetime,
) -> set[int]:
    """Which of these events have a context that meets all conditions."""
    if not where:
        return set(event_ids)
    compiler = _Compiler(dictionary=Dictionary.of_fields(event_type_id), now=now)
    query = sql(
        "SELECT id FROM {} WHERE id = ANY({}::bigint[]) AND {}",
        Sql("events_systemevent" if system else "events_event"),
        list(event_ids),
        join(" AND ", compiler.where(where, event_type_id)),
    )
    return {row[0] for row in fetch_all(query.text, query.params)}


def event_fits(
    condition: rules.Happened, event_id: int, *, now: datetime, dictionary: Dictionary
) -> bool:
    """Whether an event is among those that a condition chooses, before it counts them.

    By name, period and context; the dictionary is that of a rule with the condition.
    """
    compiler = _Compiler(dictionary=dictionary, now=now)
    query = sql(
        "SELECT FROM events_event WHERE id = {} AND {}",
        event_id,
        join(" AND ", compiler.chosen(condition)),
    )
    return bool(fetch_all(query.text, query.params))


@dataclass(frozen=True, slots=True)
class _Query:
    sql: Sql
    #: Each customer comes once.
    distinct: bool = True


@dataclass
class _Compiler:
    dictionary: Dictionary
    now: datetime
    restrict: Restrict = None

    def distinct(self, rule: rules.Rule) -> Sql:
        query = self.query(rule)
        if query.distinct:
            return query.sql
        return sql("SELECT DISTINCT customer_id FROM ({}) AS members", query.sql)

    def query(self, rule: rules.Rule) -> _Query:
        positive, core = without_negation(rule)
        if not positive:
            return self._all((rule,))
        match core:
            case rules.All(parts):
                return self._all(parts)
            case rules.AnyOf(()):
                return self._customers([Sql("FALSE")])
            case rules.AnyOf(parts):
                return self._combine("UNION", [self.query(part) for part in parts])
            case rules.Attribute():
                return self._customers([self._attribute(core)])
            case rules.Happened():
                return self._happened(core)
            case rules.InSegment(segment):
                return self.query(self.dictionary.segments[segment].rule)
        raise AssertionError(f"rule without a query: {rule!r}")

    def _all(self, parts: Sequence[rules.Rule]) -> _Query:
        """Attributes are read in one pass over customers; the rest are sets of ids."""
        conditions: list[Sql] = []
        wanted: list[_Query] = []
        unwanted: list[_Query] = []
        for part in parts:
            positive, core = without_negation(part)
            if isinstance(core, rules.Attribute):
                condition = self._attribute(core)
                conditions.append(condition if positive else sql("NOT {}", condition))
            else:
                (wanted if positive else unwanted).append(self.query(core))
        if conditions or not wanted:
            wanted.append(self._customers(conditions))
        found = self._combine("INTERSECT", wanted)
        return self._combine("EXCEPT", [found, *unwanted])

    def _combine(self, word: str, queries: Sequence[_Query]) -> _Query:
        if len(queries) == 1:
            return queries[0]
        return _Query(join(f" {word} ", [sql("({})", query.sql) for query in queries]))

    def _customers(self, conditions: Sequence[Sql]) -> _Query:
        """Customers who meet all conditions on their attributes; none: everyone."""
        limits = [*conditions, *self._restricted("id")]
        query = Sql("SELECT id AS customer_id FROM customers_customer")
        return _Query(
            sql("{} WHERE {}", query, join(" AND ", limits)) if limits else query
        )

    def _restricted(self, column: str) -> list[Sql]:
        match self.restrict:
            case None:
                return []
            case IdRange(after, upto):
                return [sql(f"{column} > {{}} AND {column} <= {{}}", after, upto)]
            case ids:
                return [sql(f"{column} = ANY({{}}::bigint[])", list(ids))]

    def _attribute(self, rule: rules.Attribute) -> Sql:
        operand = self.dictionary.operand(rule)
        return compare(operand, rule.op, rule.value, now=self.now)

    def _happened(self, rule: rules.Happened) -> _Query:
        query = sql(
            "SELECT customer_id FROM events_event WHERE {}",
            join(" AND ", self.chosen(rule)),
        )
        last = Sql("MAX(occurred_at)")
        match rule.question:
            case rules.Count(">=", 1):
                return _Query(query, distinct=False)
            case rules.Count(op, value):
                having = number(Sql("COUNT(*)"), op, value)
            case rules.DaysSinceLast(op, value):
                having = days_since(last, op, value, now=self.now)
            case rules.LastDate(op, value):
                having = compare_instant(last, op, value)
        return _Query(sql("{} GROUP BY customer_id HAVING {}", query, having))

    def chosen(self, rule: rules.Happened) -> list[Sql]:
        """What must hold of an event for the rule to look at it."""
        type_id = self.dictionary.types[rule.event].pk
        return [
            sql("type_id = {}", type_id),
            *self._restricted("customer_id"),
            *self._period(rule.period),
            *self.where(rule.where, type_id),
        ]

    def _period(self, period: rules.Last | rules.Span | None) -> list[Sql]:
        occurred = Sql("occurred_at")
        match period:
            case rules.Last(count, unit):
                return [sql("{} >= {}", occurred, back(self.now, count, unit))]
            case rules.Span(start, end):
                first, last = (
                    read_instant(day) if day else None for day in (start, end)
                )
                found = []
                if first:
                    found.append(sql("{} >= {}", occurred, start_of(first)))
                if last:
                    found.append(not_after(occurred, last))
                return found
        return []

    def where(self, where: Sequence[rules.FieldIs], event_type_id: int) -> list[Sql]:
        """Conditions that must all hold on the same event."""
        return [
            compare(
                self.dictionary.place(event_type_id, line.field),
                line.op,
                line.value,
                now=self.now,
            )
            for line in where
        ]


def without_negation(rule: rules.Rule) -> tuple[bool, rules.Rule]:
    """(True, what must hold) or (False, what must not): `not` is taken off.

    "At most n times" and "never" are true of customers without any event, so they
    are compiled as the opposite of "at least n + 1 times".
    """
    positive = True
    while isinstance(rule, rules.Not):
        positive, rule = not positive, rule.part
    if isinstance(rule, rules.Happened):
        match rule.question:
            case rules.Count(">=", 0):
                return not positive, rules.AnyOf(())
            case rules.Count("<=", int(high)) | rules.Count("between", (0, int(high))):
                return not positive, _at_least(high + 1, rule)
            case rules.Count("=", 0):
                return not positive, _at_least(1, rule)
    return positive, rule


def _at_least(times: int, rule: rules.Happened) -> rules.Happened:
    return replace(rule, question=rules.Count(">=", times))


def _bound(rule: rules.Rule, context: Mapping[str, Any]) -> rules.Rule:
    match rule:
        case rules.All(parts):
            return rules.All(tuple(_bound(part, context) for part in parts))
        case rules.AnyOf(parts):
            return rules.AnyOf(tuple(_bound(part, context) for part in parts))
        case rules.Not(part):
            return rules.Not(_bound(part, context))
        case rules.Attribute():
            return replace(rule, value=_value(rule.value, context, rule.op))
        case rules.Happened(where=where, question=question):
            if isinstance(question, rules.LastDate):
                found = _value(question.value, context, question.op)
                question = replace(question, value=found)
            lines = tuple(
                replace(line, value=_value(line.value, context, line.op))
                for line in where
            )
            return replace(rule, where=lines, question=question)
    return rule


def _value(value: Any, context: Mapping[str, Any], op: str) -> Any:
    if isinstance(value, tuple):
        return tuple(
            lookup(context, one.path) if isinstance(one, EventValue) else one
            for one in value
        )
    if isinstance(value, EventValue):
        found = lookup(context, value.path)
        # Only where a list is asked for: as one value it compares with nothing.
        is_list = isinstance(found, list) and OPERATORS[op].takes is Takes.LIST
        return tuple(found) if is_list else found
    return value

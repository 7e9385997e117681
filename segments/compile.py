"""A rule → the set of customers who meet it, as one SQL query.

Every leaf is a query of customer ids; `all` is INTERSECT, `any` UNION, and `not`
EXCEPT from what surrounds it (from all customers only where nothing does). Sets
have no NULL, and no subplan that is scanned once per customer: the measured forms
are in docs/decisions/0003-set-algebra.md. Values are always parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeGuard

from segments import moments, outside, rules
from segments.comparisons import (
    JsonPlace,
    compare,
    compare_instant,
    days_since,
    not_after,
    number,
    same_key,
)
from segments.dictionary import Choice, Dictionary
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


def bind_where(
    where: tuple[rules.FieldIs, ...], context: Mapping[str, Any]
) -> tuple[rules.FieldIs, ...]:
    """As `bind`, for conditions on an event; the context has all that they ask for."""
    return _lines(where, context)


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
    query = sql(
        "SELECT id FROM {} WHERE id = ANY({}::bigint[]) AND {}",
        Sql("events_systemevent" if system else "events_event"),
        list(event_ids),
        context_meets(where, event_type_id=event_type_id, now=now),
    )
    return {row[0] for row in fetch_all(query.text, query.params)}


def context_meets(
    where: tuple[rules.FieldIs, ...],
    *,
    event_type_id: int,
    now: datetime,
    document: str = "context",
    started_by: str = "",
) -> Sql:
    """The condition that an event's context meets all of these, for a query that has
    it under the name `document`.

    With `started_by`, the context of another event in the same row, a line with “=” or
    “!=” may ask for a `$field_code` of that one: many events, each with its own.
    """
    compiler = _Compiler(dictionary=Dictionary.of_fields(event_type_id), now=now)
    fixed = [line for line in where if not isinstance(line.value, EventValue)]
    conditions = compiler.where(fixed, event_type_id, document)
    for line in where:
        if isinstance(line.value, EventValue):
            other = JsonPlace(started_by, tuple(line.value.path.split(".")))
            place = compiler.dictionary.place(event_type_id, line.field, document)
            is_same = sql("{} = {}", same_key(place), same_key(other))
            # What has no such field to compare with meets neither.
            conditions += [
                sql("{} IS NOT NULL", same_key(other)),
                sql(
                    "COALESCE({}, FALSE)" if line.op == "=" else "{} IS NOT TRUE",
                    sql("({})", is_same),
                ),
            ]
    return join(" AND ", conditions or [Sql("TRUE")])


def event_fits(
    condition: rules.Happened, event_id: int, *, now: datetime, dictionary: Dictionary
) -> bool:
    """Whether an event is among those that a condition chooses, before it counts them.

    By all but the question; the dictionary is that of a rule with the condition.
    """
    found = fetch_all("SELECT customer_id FROM events_event WHERE id = %s", [event_id])
    query = chosen_events(
        condition, now=now, dictionary=dictionary, restrict=[row[0] for row in found]
    )
    rows = fetch_all(
        f"SELECT FROM ({query.sql}) AS chosen WHERE id = %s",
        [*query.params, event_id],
    )
    return bool(rows)


def chosen_events(
    condition: rules.Happened,
    *,
    now: datetime,
    dictionary: Dictionary,
    restrict: Restrict = None,
) -> Compiled:
    """The events that a condition chooses, before it asks anything about them.

    Columns: id, customer_id, moment. The dictionary is that of a rule with the
    condition.
    """
    compiler = _Compiler(dictionary=dictionary, now=now, restrict=restrict)
    query = sql(
        "SELECT id, customer_id, occurred_at AS moment FROM ({}) AS chosen",
        compiler.chosen(condition, Sql("chosen.*")),
    )
    return Compiled(query.text, query.params)


def chosen_messages(
    condition: rules.Messaged, *, now: datetime, restrict: Restrict = None
) -> Compiled:
    """The messages that a condition chooses; as `chosen_events`."""
    compiler = _Compiler(dictionary=Dictionary(), now=now, restrict=restrict)
    query = compiler.messages(condition)
    return Compiled(query.text, query.params)


def others_beside(
    condition: rules.Happened,
    other: rules.Beside,
    event_ids: Sequence[int],
    *,
    dictionary: Dictionary,
    now: datetime,
    restrict: Restrict = None,
) -> Compiled:
    """For each of these events the newest other one that it has beside it.

    Columns: the id of the event, and that of the other.
    """
    compiler = _Compiler(dictionary=dictionary, now=now, restrict=restrict)
    query = sql(
        "SELECT DISTINCT ON (chosen.id) chosen.id, other.id "
        "FROM events_event AS chosen JOIN events_event AS other ON {} "
        "WHERE chosen.id = ANY({}::bigint[]) "
        "ORDER BY chosen.id, other.occurred_at DESC, other.id DESC",
        join(" AND ", compiler.pairing(condition, other)),
        list(event_ids),
    )
    return Compiled(query.text, query.params)


@dataclass(frozen=True, slots=True)
class _Query:
    sql: Sql
    #: Each customer comes once.
    distinct: bool = True


NOBODY = rules.AnyOf(())
#: What `ConsentIs` of any answer asks for; "unanswered" is its opposite.
ANSWERED = "answered"
#: What is looked up in a list by its index.
LIST_LOOKUPS = ("includes", "includes any of", "includes all of")
FROM_CUSTOMERS = Sql("SELECT id AS customer_id FROM customers_customer")
#: For each channel what it needs, and the address as suppressions spell it.
ADDRESSES = {
    "email": ("email", "lower(customers_customer.email)"),
    "sms": ("phone", "customers_customer.phone"),
    "push": ("token", "device.address"),
}


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
        if (condition := self._condition(rule)) is not None:
            return self._customers([condition])
        positive, core = without_negation(rule)
        if not positive:
            return self._all((rule,))
        match core:
            case rules.All(parts):
                return self._all(parts)
            case rules.Reachable():
                return self._all((core,))
            case rules.AnyOf(parts):
                return self._any(parts)
            case rules.Happened():
                return self._happened(core)
            case rules.Messaged():
                return self._messaged(core)
            case rules.ConsentIs(channel, answer, category):
                return self._consent(channel, category, answer)
            case rules.InSegment(segment):
                saved = self.dictionary.segments[segment].rule
                return self._listed(segment) if saved is None else self.query(saved)
        raise AssertionError(f"rule without a query: {rule!r}")

    def _all(self, parts: Sequence[rules.Rule]) -> _Query:
        """Attributes are read in one pass over customers; the rest are sets of ids."""
        conditions: list[rules.Rule] = []
        reached: list[rules.Reachable] = []
        wanted: list[rules.Rule] = []
        unwanted: list[rules.Rule] = []
        for part in self._flat(parts):
            positive, core = without_negation(part)
            if self._condition(part) is not None:
                conditions.append(part)
            elif positive and isinstance(core, rules.Reachable):
                reached.append(core)
                for consent in self._consents_for(core):
                    positive, core = without_negation(consent)
                    (wanted if positive else unwanted).append(core)
            else:
                (wanted if positive else unwanted).append(core)
        sets, unwanted = self._sets(wanted, unwanted)
        sets += [_Query(self._on_device()) for one in reached if one.channel == "push"]
        found = self._who_of(
            sets, conditions, [one for one in reached if one.channel != "push"]
        )
        return self._combine("EXCEPT", [found, *map(self.query, unwanted)])

    def _sets(
        self, wanted: Sequence[rules.Rule], unwanted: Sequence[rules.Rule]
    ) -> tuple[list[_Query], list[rules.Rule]]:
        """A set of customers for all that is wanted, and what is still unwanted."""
        sets = []
        for first, *more in self._alike(wanted):
            if not isinstance(first, rules.Happened):
                sets.append(self.query(first))
                continue
            later = [one for one in unwanted if _asks_since(one, first)]
            if later and not more and self._reaches_to_now(first):
                sets.append(self._not_followed(first, later))
                unwanted = [one for one in unwanted if one not in later]
            else:
                sets.append(self._happened(first, _floor(first, wanted), more))
        return sets, list(unwanted)

    def _alike(self, parts: Sequence[rules.Rule]) -> list[list[rules.Rule]]:
        """What must all hold, with questions about the same events together, so that
        these are read once; but for questions that need not read all of them."""
        groups: list[list[rules.Rule]] = []
        for part in parts:
            for group in groups:
                is_alike = _chooses_as(part, group[0])
                if is_alike and all(map(self._reads_all, [part, *group])):
                    group.append(part)
                    break
            else:
                groups.append([part])
        return groups

    def _reads_all(self, rule: rules.Rule) -> bool:
        if not isinstance(rule, rules.Happened) or rule.question == rules.Count(
            ">=", 1
        ):
            return False
        moment = Sql("")
        return self._within(rule, moment, asked=True) == self._within(
            rule, moment, asked=False
        )

    def _who_of(
        self,
        sets: Sequence[_Query],
        conditions: Sequence[rules.Rule],
        reached: Sequence[rules.Reachable],
    ) -> _Query:
        """Who is in all sets and meets all conditions on their attributes.

        A join, so that customers are looked up one by one where the sets are small. The
        planner is shown one condition, and takes the others for a toss of a coin:
        multiplying its guesses, it would come to expect a single customer, and walk
        through the set again for each of those who turn up.
        """
        first = sorted(conditions, key=lambda one: not self._has_index(one))
        limits = [one for part in first if (one := self._condition(part))]
        limits += [_has_address(one.channel) for one in reached]
        free = [self._is_free(one.channel) for one in reached]
        if not sets:
            return self._customers([*limits, *free])
        found = self._combine("INTERSECT", sets)
        if not limits:
            return found
        shown, *rest = limits
        hidden = [sql("COALESCE({}, FALSE)", join(" AND ", rest))] if rest else []
        among = Sql("id IN (SELECT customer_id FROM found)")
        query = self._customers([shown, *hidden, *free, among]).sql
        # Materialised, or each parallel worker would find the set anew.
        return _Query(sql("WITH found AS MATERIALIZED ({}) {}", found.sql, query))

    def _has_index(self, rule: rules.Rule) -> bool:
        if not isinstance(rule, rules.Attribute):
            return False
        if rule.attribute == "external_id":
            return rule.op in ("=", "in")
        is_json = isinstance(self.dictionary.operand(rule), JsonPlace)
        return is_json and rule.op in ("=", "in", *LIST_LOOKUPS)

    def _any(self, parts: Sequence[rules.Rule]) -> _Query:
        conditions = [(part, self._condition(part)) for part in parts]
        found = [condition for _, condition in conditions if condition is not None]
        queries = [self.query(part) for part, known in conditions if known is None]
        if found or not queries:
            queries.append(self._customers([_either(found)]))
        return self._combine("UNION", queries)

    def _flat(self, parts: Sequence[rules.Rule]) -> Iterator[rules.Rule]:
        """What must all hold, without groups that say no more than this one does."""
        for part in parts:
            positive, core = without_negation(part)
            if isinstance(core, rules.InSegment):
                saved = self.dictionary.segments[core.segment].rule
                if saved is not None:
                    yield from self._flat([saved if positive else rules.Not(saved)])
                    continue
            match core:
                case rules.All(inner) if positive:
                    yield from self._flat(inner)
                case rules.AnyOf(inner) if inner and not positive:
                    yield from self._flat([rules.Not(one) for one in inner])
                case _:
                    yield core if positive else rules.Not(core)

    def _condition(self, rule: rules.Rule) -> Sql | None:
        """The rule as a condition on a row of customers, if it asks for attributes
        only. Like every comparison, it is never NULL."""
        match rule:
            case rules.Attribute(op=op, value=value):
                operand = self.dictionary.operand(rule)
                return compare(operand, op, value, now=self.now)
            case rules.Not(part):
                condition = self._condition(part)
                return None if condition is None else sql("NOT {}", condition)
            case rules.All(parts) | rules.AnyOf(parts):
                found = []
                for part in parts:
                    condition = self._condition(part)
                    if condition is None:
                        return None
                    found.append(condition)
                if isinstance(rule, rules.AnyOf):
                    return _either(found)
                return sql("({})", join(" AND ", found))
            case rules.InSegment(segment):
                saved = self.dictionary.segments[segment].rule
                return None if saved is None else self._condition(saved)
        return None

    def _combine(self, word: str, queries: Sequence[_Query]) -> _Query:
        if len(queries) == 1:
            return queries[0]
        return _Query(join(f" {word} ", [sql("({})", query.sql) for query in queries]))

    def _customers(self, conditions: Sequence[Sql]) -> _Query:
        """Customers who meet all conditions on their attributes; none: everyone."""
        limits = [*conditions, *self._restricted("id")]
        if not limits:
            return _Query(FROM_CUSTOMERS)
        return _Query(sql("{} WHERE {}", FROM_CUSTOMERS, join(" AND ", limits)))

    def _restricted(self, column: str) -> list[Sql]:
        """Goes into every query there is, so that a few customers cost little."""
        match self.restrict:
            case None:
                return []
            case IdRange(after, upto):
                return [sql(f"{column} > {{}} AND {column} <= {{}}", after, upto)]
            case ids:
                return [sql(f"{column} = ANY({{}}::bigint[])", list(ids))]

    def _listed(self, segment: int) -> _Query:
        return _Query(
            sql(
                "SELECT customer_id FROM segments_membership WHERE {}",
                join(
                    " AND ",
                    [
                        sql("segment_id = {}", segment),
                        *self._restricted("customer_id"),
                    ],
                ),
            )
        )

    # Events

    def _happened(
        self,
        rule: rules.Happened,
        floor: rules.Happened | None = None,
        more: Sequence[rules.Rule] = (),
    ) -> _Query:
        """`floor`: only customers with such an event matter; see `_floor`. `more` asks
        other questions about the same events; see `_alike`."""
        if not more and self._is_looked_for_by_index(rule):
            return self._unpaired(rule)
        query = self.chosen(rule, Sql("chosen.customer_id"), asked=True, floor=floor)
        questions = [
            one.question for one in (rule, *more) if isinstance(one, rules.Happened)
        ]
        return self._asked(query, questions, Sql("chosen.occurred_at"))

    def _is_looked_for_by_index(self, rule: rules.Happened) -> bool:
        """Has any event without one other beside it, and is chosen by no more than the
        index of events knows; for a few customers there is nothing to gain."""
        return (
            (self.restrict is None or isinstance(self.restrict, IdRange))
            and rule.question == rules.Count(">=", 1)
            and not rule.where
            and not rule.source
            and not isinstance(rule.period, rules.Since)
            and len(rule.beside) == 1
            and not rule.beside[0].is_there
            and rule.beside[0].event != rule.event
        )

    def _unpaired(self, rule: rules.Happened) -> _Query:
        """Everyone with such an event, but for those with the other event too and a
        pair for each of theirs.

        Most customers have only one of the two, which the index alone tells: the
        fields that make a pair are read for the rest of them.
        """
        (other,) = rule.beside
        everyone = self.chosen(replace(rule, beside=()), Sql("chosen.customer_id"))
        others = sql(
            "SELECT other.customer_id FROM events_event AS other WHERE {}",
            join(
                " AND ",
                [*self._chosen(other, "other"), *self._others_within(rule, other)],
            ),
        )
        met = Sql("chosen.customer_id IN (SELECT customer_id FROM met)")
        left = self.chosen(rule, Sql("chosen.customer_id"), only=met)
        return _Query(
            sql(
                "WITH met AS MATERIALIZED (({}) INTERSECT ({})) "
                "({}) EXCEPT ((SELECT customer_id FROM met) EXCEPT ({}))",
                everyone,
                others,
                everyone,
                left,
            )
        )

    def _others_within(
        self, rule: rules.Happened, other: rules.Beside, *, asked: bool = False
    ) -> list[Sql]:
        """Limits to the moment of the other: what is after an event that is not too
        early is not too early either."""
        early, late = self._within(rule, Sql("other.occurred_at"), asked=asked)
        return {"before": late, "after": early}.get(other.order, [])

    def _reaches_to_now(self, rule: rules.Happened) -> bool:
        """The last event there is, if any, is one that the rule chooses."""
        return not self._within(rule, Sql(""), asked=False)[1]

    def _not_followed(
        self, rule: rules.Happened, later: Sequence[rules.Happened]
    ) -> _Query:
        """Who has such an event, and none of the others since the last: both in one
        pass over the events, the commonest question there is."""
        early, _ = self._within(rule, Sql("begun.occurred_at"), asked=False)
        last = Sql("MAX(begun.occurred_at) AS moment")
        none = []
        for one in later:
            limits = [
                Sql("chosen.customer_id = since.customer_id"),
                Sql("chosen.occurred_at > since.moment"),
                *self._chosen(one, "chosen"),
                # What is after one that is not too early is not too early either.
                *self._within(rule, Sql("chosen.occurred_at"), asked=False)[0],
            ]
            none.append(
                sql(
                    "NOT EXISTS (SELECT FROM events_event AS chosen WHERE {})",
                    join(" AND ", limits),
                )
            )
        return _Query(
            sql(
                "SELECT customer_id FROM ({}) AS since WHERE {}",
                self._extremes(rule, "begun", last, within=early),
                join(" AND ", none),
            )
        )

    def _asked(
        self, query: Sql, questions: Sequence[rules.Question], moment: Sql
    ) -> _Query:
        """Ask questions about what a query chooses of each customer.

        The query has seen to one end of them already: see `_within`.
        """
        having: list[Sql] = []
        for question in questions:
            match question:
                case rules.Count(">=", 1):
                    pass
                case rules.Count(op, value):
                    having.append(number(Sql("COUNT(*)"), op, value))
                case rules.LastDate() | rules.DaysSinceLast():
                    having += self._bounds(question, sql("MAX({})", moment))[1]
                case rules.FirstDate() | rules.DaysSinceFirst():
                    having += self._bounds(question, sql("MIN({})", moment))[0]
        if not having:
            return _Query(query, distinct=False)
        return _Query(sql("{} GROUP BY 1 HAVING {}", query, join(" AND ", having)))

    def _bounds(
        self, question: rules.Question, moment: Sql
    ) -> tuple[list[Sql], list[Sql]]:
        """(not too early, not too late): what the question wants of a moment."""
        match question:
            case rules.Count():
                return [], []
            case rules.LastDate(op, value) | rules.FirstDate(op, value):
                low, high = value if isinstance(value, tuple) else (value, value)
                early, late = {
                    "before": (None, "<"),
                    "after": (">", None),
                    "on": (">=", "<="),
                    "between": (">=", "<="),
                }[op]
                return (
                    [compare_instant(moment, early, low)] if early else [],
                    [compare_instant(moment, late, high)] if late else [],
                )
            case rules.DaysSinceLast(op, days) | rules.DaysSinceFirst(op, days):
                least, most = days if isinstance(days, tuple) else (days, days)
                # More days since are an earlier moment.
                return (
                    [days_since(moment, "<=", most, now=self.now)]
                    if op != ">="
                    else [],
                    [days_since(moment, ">=", least, now=self.now)]
                    if op != "<="
                    else [],
                )

    def _within(
        self, rule: rules.Happened, moment: Sql, *, asked: bool
    ) -> tuple[list[Sql], list[Sql]]:
        """(not too early, not too late): by the period, and by the question if asked.

        The last event is not before X if any is not, so that who asks for the last
        need not look at what is before X; and the first likewise.
        """
        early, late = self._period(rule.period, moment)
        if asked:
            not_before, not_after = self._bounds(rule.question, moment)
            if isinstance(rule.question, rules.LastDate | rules.DaysSinceLast):
                early = [*early, *not_before]
            if isinstance(rule.question, rules.FirstDate | rules.DaysSinceFirst):
                late = [*late, *not_after]
        return early, late

    def chosen(
        self,
        rule: rules.Happened,
        columns: Sql,
        *,
        asked: bool = False,
        floor: rules.Happened | None = None,
        only: Sql | None = None,
    ) -> Sql:
        """SELECT these columns of the events that the rule looks at.

        If `asked`, those are left out that the answer does not depend on. `only` is one
        more condition on them.
        """
        tables = Sql("events_event AS chosen")
        conditions = [*self._chosen(rule, "chosen"), *([only] if only else [])]
        for bounds in self._within(rule, Sql("chosen.occurred_at"), asked=asked):
            conditions += bounds
        if isinstance(rule.period, rules.Since):
            begun: list[Sql] = []
            if floor:
                begun, _ = self._within(floor, Sql("begun.occurred_at"), asked=True)
                conditions += self._within(
                    floor, Sql("chosen.occurred_at"), asked=True
                )[0]
            tables = sql(
                "{} JOIN ({}) AS since ON since.customer_id = chosen.customer_id "
                "AND chosen.occurred_at > since.moment",
                tables,
                self._extremes(
                    rule.period,
                    "begun",
                    Sql("MAX(begun.occurred_at) AS moment"),
                    within=begun,
                ),
            )
        if not rule.beside:
            return sql(
                "SELECT {} FROM {} WHERE {}", columns, tables, join(" AND ", conditions)
            )
        keys = [
            sql(f"{{}} AS key_{number}_{i}", key)
            for number, other in enumerate(rule.beside)
            for i, key in enumerate(self._keys(rule.event, other.same, "chosen"))
        ]
        picked = [Sql("chosen.id, chosen.customer_id, chosen.occurred_at"), *keys]
        return sql(
            "WITH picked AS MATERIALIZED (SELECT {} FROM {} WHERE {}) "
            "SELECT {} FROM picked AS chosen WHERE {}",
            join(", ", picked),
            tables,
            join(" AND ", conditions),
            columns,
            join(
                " AND ",
                [
                    self._beside(rule, number, other, asked=asked)
                    for number, other in enumerate(rule.beside)
                ],
            ),
        )

    def _chosen(self, choice: Choice, alias: str) -> list[Sql]:
        """What must hold of an event by its name, its source and its context."""
        event_type = self.dictionary.types[choice.event]
        sources = [self.dictionary.sources[name] for name in choice.source]
        return [
            self._of_type(f"{alias}.type_id", event_type.pk),
            *self._restricted(f"{alias}.customer_id"),
            *([sql(f"{alias}.source_id = ANY({{}})", sources)] if sources else []),
            *self.where(choice.where, event_type.pk, f"{alias}.context"),
        ]

    def _of_type(self, column: str, pk: int) -> Sql:
        """Asked about some customers the planner is not told which type it is. Of one
        that has just come into use, or that mainly these customers have, it would
        expect a single event, and walk through all others for each that turns up."""
        if self.restrict is None:
            return sql(f"{column} = {{}}", pk)
        return sql(f"{column} = (SELECT {{}}::bigint)", pk)

    def _extremes(
        self,
        choice: Choice,
        alias: str,
        what: Sql,
        keys: Sequence[Sql] = (),
        within: Sequence[Sql] = (),
    ) -> Sql:
        """`what` of the events so chosen, for each customer and each key."""
        grouped = [
            Sql(f"{alias}.customer_id"),
            *(sql(f"{{}} AS key_{i}", key) for i, key in enumerate(keys)),
        ]
        return sql(
            f"SELECT {{}} FROM events_event AS {alias} WHERE {{}} GROUP BY {{}}",  # noqa: S608
            join(", ", [*grouped, what]),
            join(" AND ", [*self._chosen(choice, alias), *within]),
            Sql(", ".join(str(i + 1) for i in range(len(grouped)))),
        )

    def _beside(
        self, rule: rules.Happened, number: int, other: rules.Beside, *, asked: bool
    ) -> Sql:
        """Whether the event that was picked has another beside it.

        One row stands for all others of a customer that are alike in the fields: with
        the first of them before the picked one, or with none. So the two are joined by
        hash, and a customer with very many events costs no more than these. Others are
        looked for only where anything was picked.
        """
        what, test = {
            "before": ("MIN(other.occurred_at) AS moment", "<"),
            "after": ("MAX(other.occurred_at) AS moment", ">"),
            "any": ("MIN(other.id) AS a, MAX(other.id) AS z", ""),
        }[other.order]
        found = self._extremes(
            other,
            "other",
            Sql(what),
            self._keys(other.event, other.same, "other"),
            [
                *self._others_within(rule, other, asked=asked),
                Sql("other.customer_id IN (SELECT customer_id FROM picked)"),
            ],
        )
        matches = [
            Sql("beside.customer_id = chosen.customer_id"),
            *(
                Sql(f"beside.key_{i} = chosen.key_{number}_{i}")
                for i in range(len(other.same))
            ),
        ]
        if test:
            matches.append(Sql(f"beside.moment {test} chosen.occurred_at"))
        elif other.event == rule.event:
            # There is another one than itself.
            matches.append(Sql("(beside.a <> chosen.id OR beside.z <> chosen.id)"))
        query = sql(
            "SELECT FROM ({}) AS beside WHERE {}", found, join(" AND ", matches)
        )
        return sql("EXISTS ({})" if other.is_there else "NOT EXISTS ({})", query)

    def pairing(self, rule: rules.Happened, other: rules.Beside) -> list[Sql]:
        """What makes one event the other of a chosen one, row by row."""
        ours = self._keys(rule.event, other.same, "chosen")
        theirs = self._keys(other.event, other.same, "other")
        order = {
            "any": "other.id <> chosen.id",
            "before": "other.occurred_at < chosen.occurred_at",
            "after": "other.occurred_at > chosen.occurred_at",
        }[other.order]
        return [
            *self._chosen(other, "other"),
            *self._restricted("chosen.customer_id"),
            Sql("other.customer_id = chosen.customer_id"),
            *(sql("{} = {}", *pair) for pair in zip(theirs, ours, strict=True)),
            Sql(order),
        ]

    def _keys(self, event: str, fields: Sequence[str], alias: str) -> list[Sql]:
        type_id = self.dictionary.types[event].pk
        return [
            same_key(self.dictionary.place(type_id, field, f"{alias}.context"))
            for field in fields
        ]

    def _period(
        self, period: rules.Period | None, moment: Sql
    ) -> tuple[list[Sql], list[Sql]]:
        """(not too early, not too late)."""
        match period:
            case rules.Last(count, unit):
                begin = moments.back(self.now, count, unit)
                return [sql("{} >= {}", moment, begin)], []
            case rules.Span(start, end):
                first, last = (
                    read_instant(day) if day else None for day in (start, end)
                )
                return (
                    [sql("{} >= {}", moment, moments.start_of(first))] if first else [],
                    [not_after(moment, last)] if last else [],
                )
            case rules.Calendar(which, unit):
                begin, end_ = moments.calendar(which, unit, self.now)
                return [sql("{} >= {}", moment, begin)], [sql("{} < {}", moment, end_)]
        return [], []

    def where(
        self,
        where: Sequence[rules.FieldIs],
        event_type_id: int,
        document: str = "context",
    ) -> list[Sql]:
        """Conditions that must all hold on the same event."""
        return [
            compare(
                self.dictionary.place(event_type_id, line.field, document),
                line.op,
                line.value,
                now=self.now,
            )
            for line in where
        ]

    # Messages, consent, reach

    def _messaged(self, rule: rules.Messaged) -> _Query:
        query = sql("SELECT customer_id FROM ({}) AS chosen", self.messages(rule))
        early, late = self._bounds(rule.question, Sql("moment"))
        is_last = isinstance(rule.question, rules.LastDate | rules.DaysSinceLast)
        if bounds := early if is_last else late:
            query = sql("{} WHERE {}", query, join(" AND ", bounds))
        return self._asked(query, [rule.question], Sql("moment"))

    def messages(self, rule: rules.Messaged) -> Sql:
        table = outside.known(rule.at)
        moment = Sql(table.moments[rule.stage])
        conditions = [
            Sql(table.message_counts),
            sql("{} IS NOT NULL", moment),
            *self._restricted("customer_id"),
            *(one for bounds in self._period(rule.period, moment) for one in bounds),
        ]
        if rule.campaign is not None:
            conditions.append(sql("campaign_id = {}", rule.campaign))
        if rule.channel:
            conditions.append(sql("channel = {}", rule.channel))
        return sql(
            "SELECT id, customer_id, {} AS moment FROM {} WHERE {}",
            moment,
            Sql(table.messages),
            join(" AND ", conditions),
        )

    def _consent(self, channel: str, category: str, answer: str) -> _Query:
        conditions = [sql("channel = {}", channel), *self._restricted("customer_id")]
        if category:
            pk = self.dictionary.categories[category].pk
            conditions.append(sql("category_id = {}", pk))
        else:
            conditions.append(Sql("category_id IS NULL"))
        if answer != ANSWERED:
            conditions.append(
                Sql("is_granted" if answer == "yes" else "NOT is_granted")
            )
        return _Query(
            sql(
                "SELECT customer_id FROM customers_consent WHERE {}",
                join(" AND ", conditions),
            )
        )

    def _consents_for(self, rule: rules.Reachable) -> Iterator[rules.Rule]:
        """What must hold, besides the address: a yes, or no answer where that counts
        as one, for the channel and for the category on it."""
        assumed = [("", self.dictionary.defaults[rule.channel])]
        if rule.category:
            category = self.dictionary.categories[rule.category]
            assumed.append((rule.category, rule.channel in category.default_channels))
        for code, default in assumed:
            if default:
                yield rules.Not(rules.ConsentIs(rule.channel, "no", code))
            else:
                yield rules.ConsentIs(rule.channel, "yes", code)

    def _on_device(self) -> Sql:
        """Who has a device for push: that heard of last counts."""
        return sql(
            "SELECT customer_id FROM ("
            "SELECT DISTINCT ON (customer_id) customer_id, token AS address "
            "FROM customers_device WHERE {} "
            "ORDER BY customer_id, updated_at DESC, id DESC"
            ") AS device WHERE address <> '' AND {}",
            join(" AND ", [Sql("is_valid"), *self._restricted("customer_id")]),
            self._is_free("push"),
        )

    def _is_free(self, channel: str) -> Sql:
        """Nothing is suppressed that the customer is reached by."""
        _, address = ADDRESSES[channel]
        matches = [sql("held.channel = {}", channel), Sql(f"held.address = {address}")]
        if self.restrict is not None and not isinstance(self.restrict, IdRange):
            # For a few it is looked up in the index; for many, hashing is dear.
            matches.append(Sql(f"md5(held.address) = md5({address})"))
        return sql(
            "NOT EXISTS (SELECT FROM {} AS held WHERE {})",
            Sql(outside.known().suppressions),
            join(" AND ", matches),
        )


def _has_address(channel: str) -> Sql:
    column, _ = ADDRESSES[channel]
    return Sql(f"({column} <> '' AND {column}_is_valid)")


def _chooses_as(one: rules.Rule, other: rules.Rule) -> bool:
    """Both ask about the same events."""
    return (
        isinstance(one, rules.Happened)
        and isinstance(other, rules.Happened)
        and replace(one, question=other.question) == other
    )


def _asks_since(other: rules.Rule, first: rules.Happened) -> TypeGuard[rules.Happened]:
    """The other asks whether there is any event since the last that `first` chooses."""
    any_at_all = rules.Count(">=", 1)
    return (
        isinstance(other, rules.Happened)
        and isinstance(other.period, rules.Since)
        and (other.question, other.beside) == (any_at_all, ())
        and (first.question, first.beside) == (any_at_all, ())
        and not isinstance(first.period, rules.Since)
        and (other.period.event, other.period.where, set(other.period.source))
        == (first.event, first.where, set(first.source))
    )


def _floor(rule: rules.Happened, wanted: Sequence[rules.Rule]) -> rules.Happened | None:
    """For "since event Y": what else is asked of the customer's events Y.

    Who must have viewed within 30 days has a last view within 30 days, so that for "not
    paid since the last view" there is nothing to look at that is older.
    """
    since = rule.period
    if not isinstance(since, rules.Since):
        return None
    for other in wanted:
        if (
            isinstance(other, rules.Happened)
            and other.event == since.event
            and all(line in other.where for line in since.where)
            and (not since.source or set(other.source or ("",)) <= set(since.source))
            and not isinstance(other.period, rules.Since | None)
        ):
            return other
    return None


def _either(conditions: Sequence[Sql]) -> Sql:
    return sql("({})", join(" OR ", conditions)) if conditions else Sql("FALSE")


def without_negation(rule: rules.Rule) -> tuple[bool, rules.Rule]:
    """(True, what must hold) or (False, what must not): `not` is taken off.

    "At most n times" and "never" are true of customers without any event, so they
    are compiled as the opposite of "at least n + 1 times"; "never answered" likewise.
    """
    positive = True
    while isinstance(rule, rules.Not):
        positive, rule = not positive, rule.part
    if isinstance(rule, rules.ConsentIs) and rule.answer == "unanswered":
        return not positive, replace(rule, answer=ANSWERED)
    if isinstance(rule, rules.Happened | rules.Messaged):
        match rule.question:
            case rules.Count(">=", 0):
                return not positive, NOBODY
            case rules.Count("<=", int(high)) | rules.Count("between", (0, int(high))):
                return not positive, _at_least(high + 1, rule)
            case rules.Count("=", 0):
                return not positive, _at_least(1, rule)
    return positive, rule


def _at_least(
    times: int, rule: rules.Happened | rules.Messaged
) -> rules.Happened | rules.Messaged:
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
        case rules.Happened(
            where=where, period=period, question=question, beside=beside
        ):
            if isinstance(period, rules.Since):
                period = replace(period, where=_lines(period.where, context))
            return replace(
                rule,
                where=_lines(where, context),
                period=period,
                question=_question(question, context),
                beside=tuple(
                    replace(other, where=_lines(other.where, context))
                    for other in beside
                ),
            )
        case rules.Messaged(question=question):
            return replace(rule, question=_question(question, context))
    return rule


def _lines(
    lines: tuple[rules.FieldIs, ...], context: Mapping[str, Any]
) -> tuple[rules.FieldIs, ...]:
    return tuple(
        replace(line, value=_value(line.value, context, line.op)) for line in lines
    )


def _question(question: rules.Question, context: Mapping[str, Any]) -> rules.Question:
    if isinstance(question, rules.LastDate | rules.FirstDate):
        found = _value(question.value, context, question.op)
        return replace(question, value=found)
    return question


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

"""What a rule looks at: whose change, and which passing of time, may change its answer.

Upkeep asks it to re-evaluate no more customers than it must; what it does not name
never changes an answer. It may name more than does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from segments import moments, outside, rules
from segments.comparisons import Column, Derived, JsonPlace, Operand, instant_of
from segments.dictionary import Dictionary, choices_in
from segments.operators import OPERATORS, Family
from segments.sql import Sql, sql

#: Which columns say how a customer is reached on a channel, and what else does.
REACH = {
    "email": ("email", "email_is_valid"),
    "sms": ("phone", "phone_is_valid"),
    "push": ("device",),
}


@dataclass(frozen=True, slots=True)
class EventEdge:
    """So long after an event of the type, the answer for its customer may change."""

    type_id: int
    number: int
    unit: str

    def due(self, moment: datetime) -> datetime:
        """The answer may be another after this time, strictly."""
        return moments.forward(moment, self.number, self.unit)

    def query(self, after: datetime, upto: datetime) -> Sql:
        """(customer_id, moment) of all whose edge is due after the one and up to the
        other, and perhaps of some just outside. One range of an index."""
        return sql(
            "SELECT customer_id, occurred_at AS moment FROM events_event "
            "WHERE type_id = {} AND occurred_at >= {} AND occurred_at <= {}",
            self.type_id,
            moments.back(after, self.number, self.unit),
            moments.back(upto, self.number, self.unit),
        )


@dataclass(frozen=True, slots=True)
class MessageEdge:
    """So long after a message came so far, the answer for its customer may change."""

    stage: str
    number: int
    unit: str

    def due(self, moment: datetime) -> datetime:
        return moments.forward(moment, self.number, self.unit)

    def query(self, after: datetime, upto: datetime) -> Sql:
        """As of EventEdge."""
        table = outside.known()
        column = table.moments[self.stage]
        return sql(
            f"SELECT customer_id, {column} AS moment FROM {table.messages} "  # noqa: S608
            f"WHERE {table.message_counts} AND {column} >= {{}} AND {column} <= {{}}",
            moments.back(after, self.number, self.unit),
            moments.back(upto, self.number, self.unit),
        )


@dataclass(frozen=True, slots=True)
class AttributeEdge:
    """So many days after the date of an attribute (before it, where they are negative),
    the answer for its customer may change."""

    #: As in `Looks.customer`: "registered_at", "attributes.joined".
    name: str
    days: int
    operand: Operand = field(compare=False)

    def due(self, moment: datetime) -> datetime:
        return _days_on(moment, self.days)

    def query(self, after: datetime, upto: datetime) -> Sql:
        """As of EventEdge, but it reads all customers who have the attribute."""
        moment = instant_of(self.operand)
        return sql(
            "SELECT customer_id, moment FROM ("
            "SELECT id AS customer_id, {} AS moment FROM customers_customer "
            "WHERE {}) AS dated WHERE moment >= {} AND moment <= {}",
            moment,
            Sql(f"{self.operand.name} IS NOT NULL")
            if isinstance(self.operand, Column)
            else sql("attributes ? {}", self.name.removeprefix("attributes.")),
            _days_on(after, -self.days),
            _days_on(upto, -self.days),
        )


@dataclass(frozen=True, slots=True)
class ContextEdge:
    """So many days after a date in the context of an event (before it, where they are
    negative), the answer for its customer may change."""

    type_id: int
    code: str
    days: int
    place: JsonPlace = field(compare=False)

    def due(self, moment: datetime) -> datetime:
        return _days_on(moment, self.days)

    def query(self, after: datetime, upto: datetime) -> Sql:
        """As of EventEdge, but it reads the context of every event of the type."""
        return sql(
            "SELECT customer_id, moment FROM ("
            "SELECT customer_id, {} AS moment FROM events_event WHERE type_id = {}"
            ") AS dated WHERE moment >= {} AND moment <= {}",
            instant_of(self.place),
            self.type_id,
            _days_on(after, -self.days),
            _days_on(upto, -self.days),
        )


Edge = EventEdge | MessageEdge | AttributeEdge | ContextEdge


@dataclass(frozen=True, slots=True)
class Looks:
    """All that may change a rule's answer, for one customer or for everybody."""

    #: Ids of event types: a new event may change the answer for its customer.
    events: frozenset[int] = frozenset()
    #: Things of a customer, named as in `models.Change.what`.
    customer: frozenset[str] = frozenset()
    #: What changes for a customer by the clock, counted from a date of their own.
    edges: frozenset[Edge] = frozenset()
    #: Units of the calendar: as one begins, the answer may change for everybody.
    turns: frozenset[str] = frozenset()
    #: Channels whose settings and mailing categories decide for everybody.
    reach: frozenset[str] = frozenset()

    def next_turn(self, now: datetime) -> datetime | None:
        """When the answer may next change for everybody, strictly after now."""
        return min((moments.next_turn(unit, now) for unit in self.turns), default=None)


def looks_of(rule: rules.Rule, dictionary: Dictionary) -> Looks:
    """What the rule looks at, the rules of the segments it speaks of included.

    A period from a day to a day is no matter of time: which events are in it never
    changes, even while it lies ahead.
    """
    looker = _Looker(dictionary)
    looker.look(rule)
    return Looks(
        frozenset(looker.events),
        frozenset(looker.customer),
        frozenset(looker.edges),
        frozenset(looker.turns),
        frozenset(looker.reach),
    )


@dataclass
class _Looker:
    dictionary: Dictionary
    events: set[int] = field(default_factory=set)
    customer: set[str] = field(default_factory=set)
    edges: set[Edge] = field(default_factory=set)
    turns: set[str] = field(default_factory=set)
    reach: set[str] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)

    def look(self, rule: rules.Rule) -> None:
        for part in rules.walk(rule):
            match part:
                case rules.Attribute():
                    self._attribute(part)
                case rules.Happened():
                    self._happened(part)
                case rules.Messaged():
                    self.customer.add("message")
                    for number, unit in self._times(part.period, part.question):
                        self.edges.add(MessageEdge(part.stage, number, unit))
                case rules.ConsentIs():
                    self.customer.add("consent")
                case rules.Reachable(channel):
                    self.customer |= {*REACH[channel], "consent", "suppression"}
                    self.reach.add(channel)
                case rules.InSegment(segment):
                    self._segment(segment)

    def _segment(self, pk: int) -> None:
        if pk in self.seen:
            return
        self.seen.add(pk)
        rule = self.dictionary.segments[pk].rule
        if rule is None:
            self.customer.add(f"segment.{pk}")
        else:
            self.look(rule)

    def _happened(self, rule: rules.Happened) -> None:
        for choice in choices_in(rule):
            type_id = self.dictionary.types[choice.event].pk
            self.events.add(type_id)
            for line in choice.where:
                place = self.dictionary.place(type_id, line.field, "context")
                for days in self._days(line):
                    self.edges.add(ContextEdge(type_id, line.field, days, place))
        own = self.dictionary.types[rule.event].pk
        for number, unit in self._times(rule.period, rule.question):
            self.edges.add(EventEdge(own, number, unit))

    def _times(
        self, period: rules.Period | None, question: rules.Question
    ) -> set[tuple[int, str]]:
        times: set[tuple[int, str]] = set()
        match period:
            case rules.Last(number, unit):
                times.add((number, unit))
            case rules.Calendar(_, unit):
                self.turns.add(unit)
        if isinstance(question, rules.DaysSinceLast | rules.DaysSinceFirst):
            times |= {(days, "days") for days in _turning_days(question)}
        return times

    def _attribute(self, rule: rules.Attribute) -> None:
        operand = self.dictionary.operand(rule)
        match operand:
            case Derived(day=day):
                name = day.name
                self.turns.add("day")
            case Column(name):
                pass
            case JsonPlace():
                name = f"attributes.{rule.attribute}"
        self.customer.add(name)
        for days in self._days(rule):
            self.edges.add(AttributeEdge(name, days, operand))

    def _days(self, comparison: rules.Attribute | rules.FieldIs) -> set[int]:
        """So many days after the date compared, it may compare otherwise."""
        family = OPERATORS[comparison.op].family
        if family is Family.ANNIVERSARY:
            self.turns.add("day")
        days = comparison.value
        if family is not Family.AGE or not isinstance(days, int):
            return set()
        return {
            "days ago >=": {days},
            # From the date itself on, and until that many days are over.
            "days ago <=": {0, days + 1},
            "days ahead >=": {-days},
            "days ahead <=": {-days - 1, 0},
        }[comparison.op]


def _turning_days(question: rules.DaysSinceLast | rules.DaysSinceFirst) -> set[int]:
    """After so many days since an event, the answer may be another."""
    match question.op, question.value:
        case ">=", int(days):
            turning = {days}
        case "<=", int(days):
            turning = {days + 1}
        case "=", int(days):
            turning = {days, days + 1}
        case _, (low, high):
            turning = {low, high + 1}
        case _:
            raise AssertionError(f"question without days: {question!r}")
    return turning - {0}


def _days_on(moment: datetime, days: int) -> datetime:
    if days < 0:
        return moments.back(moment, -days, "days")
    return moments.forward(moment, days, "days")

"""Rules, a second time: one customer at a time, in plain Python, as simply as can be.

Lives in the tests only. The compiler must agree with it; where they differ, one of
the two has misread the language.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from segments import rules

NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?\Z")


@dataclass
class Happening:
    name: str
    at: datetime
    context: dict[str, Any]


@dataclass
class Person:
    columns: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    events: list[Happening] = field(default_factory=list)


@dataclass
class World:
    now: datetime
    zone: str
    #: Declared types of attributes, and of (event, field).
    types: dict[Any, str]

    def holds(self, rule: rules.Rule, person: Person) -> bool:
        match rule:
            case rules.All(parts):
                return all(self.holds(part, person) for part in parts)
            case rules.AnyOf(parts):
                return any(self.holds(part, person) for part in parts)
            case rules.Not(part):
                return not self.holds(part, person)
            case rules.Attribute(name, op, value):
                if name in person.columns:
                    found = person.columns[name]
                    return self.compare(
                        None if found == "" else found, op, value, "column"
                    )
                return self.compare(
                    person.attributes.get(name), op, value, self.types[name]
                )
            case rules.Happened():
                return self.happened(rule, person)
        raise AssertionError(rule)

    def happened(self, rule: rules.Happened, person: Person) -> bool:
        chosen = [
            event
            for event in person.events
            if event.name == rule.event
            and self.in_period(event.at, rule.period)
            and all(
                self.compare(
                    self.at_path(event.context, line.field),
                    line.op,
                    line.value,
                    self.types.get((rule.event, line.field), ""),
                )
                for line in rule.where
            )
        ]
        match rule.question:
            case rules.Count(op, value):
                return in_numbers(len(chosen), op, value)
            case rules.DaysSinceLast(op, value):
                if not chosen:
                    return False
                days = (self.now - max(event.at for event in chosen)) // timedelta(
                    days=1
                )
                return in_numbers(max(days, 0), op, value)
            case rules.LastDate(op, value):
                if not chosen:
                    return False
                return self.in_dates(max(event.at for event in chosen), op, value)
        raise AssertionError(rule)

    def in_period(self, at: datetime, period: Any) -> bool:
        match period:
            case None:
                return True
            case rules.Last(number, "months"):
                local = self.now.astimezone(ZoneInfo(self.zone))
                year, month = local.year, local.month - number
                while month < 1:
                    year, month = year - 1, month + 12
                day = local.day
                while True:
                    try:
                        return at >= local.replace(year=year, month=month, day=day)
                    except ValueError:
                        day -= 1
            case rules.Last(number, unit):
                return at >= self.now - timedelta(**{unit: number})
            case rules.Span(start, end):
                return (start is None or self.in_dates(at, ">=", start)) and (
                    end is None or self.in_dates(at, "<=", end)
                )
        raise AssertionError(period)

    def at_path(self, context: Any, path: str) -> Any:
        for code in path.split("."):
            if not isinstance(context, dict):
                return None
            context = context.get(code)
        return context

    def compare(self, found: Any, op: str, value: Any, type_: str) -> bool:
        match op:
            case "!=":
                return not self.compare(found, "=", value, type_)
            case "not in":
                return not self.compare(found, "in", value, type_)
            case "is set":
                return found is not None
            case "is not set":
                return found is None
            case "=":
                return self.equal(found, value)
            case "in":
                return any(self.equal(found, one) for one in value)
            case "contains":
                return isinstance(found, str) and value.lower() in found.lower()
            case "starts with":
                return isinstance(found, str) and found.lower().startswith(
                    value.lower()
                )
            case "days ago >=" | "days ago <=":
                moment = self.moment(found)
                if moment is None or moment > self.now:
                    return False
                days = (self.now - moment) // timedelta(days=1)
                return in_numbers(days, op.removeprefix("days ago "), value)
        ends = value if isinstance(value, tuple) else (value,)
        if all(isinstance(end, int | float) for end in ends):
            if type_ == "number" and isinstance(found, str) and NUMBER.match(found):
                found = float(found)
            if isinstance(found, bool) or not isinstance(found, int | float):
                return False
            return {
                ">": lambda: found > ends[0],
                ">=": lambda: found >= ends[0],
                "<": lambda: found < ends[0],
                "<=": lambda: found <= ends[0],
                "between": lambda: ends[0] <= found <= ends[-1],
            }[op]()
        moment = self.moment(found)
        return moment is not None and self.in_dates(moment, op, value)

    def equal(self, found: Any, value: Any) -> bool:
        if isinstance(found, date):
            moment = self.moment(found)
            assert moment is not None
            if not isinstance(value, str) or rules.read_instant(value) is None:
                return False
            return self.in_dates(moment, "on", value)
        if found is None or isinstance(found, list | dict):
            return False
        if isinstance(found, bool) or isinstance(value, bool):
            return found is value
        if isinstance(found, str) == isinstance(value, str):
            return bool(found == value)
        text, number = (found, value) if isinstance(found, str) else (value, found)
        if text is found:
            # A stored text equals a number that is spelt like it.
            return text in {str(number), repr(number)} or (
                number == int(number) and text == str(int(number))
            )
        return bool(NUMBER.match(text)) and float(text) == number

    def moment(self, found: Any) -> datetime | None:
        if isinstance(found, datetime):
            return found
        if isinstance(found, str):
            read = rules.read_instant(found)
            if read is None:
                return None
            found = read
        if isinstance(found, datetime):
            return found
        if isinstance(found, date):
            return datetime.combine(found, time.min, tzinfo=ZoneInfo(self.zone))
        return None

    def in_dates(self, moment: datetime, op: str, value: Any) -> bool:
        ends = [
            rules.read_instant(end)
            for end in (value if isinstance(value, tuple) else (value,))
        ]
        if None in ends:
            return False

        def first(end: Any) -> datetime:
            if isinstance(end, datetime):
                return end
            return datetime.combine(end, time.min, tzinfo=ZoneInfo(self.zone))

        def upto(end: Any) -> bool:
            if isinstance(end, datetime):
                return moment <= end
            return moment < first(end + timedelta(days=1))

        match op:
            case "before" | "<":
                return moment < first(ends[0])
            case "after" | ">":
                return not upto(ends[0])
            case ">=":
                return moment >= first(ends[0])
            case "<=":
                return upto(ends[0])
            case "on" | "between":
                return moment >= first(ends[0]) and upto(ends[-1])
        raise AssertionError(op)


def in_numbers(number: int, op: str, value: Any) -> bool:
    if op == "between":
        return bool(value[0] <= number <= value[1])
    return bool(
        {">=": number >= value, "<=": number <= value, "=": number == value}[op]
    )


__all__ = ["UTC", "Happening", "Person", "World"]

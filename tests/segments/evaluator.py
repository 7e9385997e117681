"""Rules, a second time: one customer at a time, in plain Python, as simply as can be.

Lives in the tests only. The compiler must agree with it; where they differ, one of
the two has misread the language. It shares no code with the compiler.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from segments import rules

NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?\Z")
DAY = timedelta(days=1)


@dataclass
class Happening:
    name: str
    at: datetime
    context: dict[str, Any]
    source: str = "shop"


@dataclass
class Letter:
    """A message: when it came how far."""

    campaign: int | None
    channel: str
    is_test: bool = False
    stages: dict[str, datetime | None] = field(default_factory=dict)


@dataclass
class Phone:
    """A device for push; those heard of last come last."""

    token: str
    is_valid: bool = True


@dataclass
class Person:
    columns: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    events: list[Happening] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    #: (channel, category's code or "") → the answer.
    consents: dict[tuple[str, str], bool] = field(default_factory=dict)
    devices: list[Phone] = field(default_factory=list)
    #: The static segments they are listed in.
    lists: set[int] = field(default_factory=set)


@dataclass
class World:
    now: datetime
    zone: str
    #: Declared types of attributes, and of (event, field).
    types: dict[Any, str]
    #: The context of the event that gives `$field_code` its values.
    context: dict[str, Any] = field(default_factory=dict)
    #: Dynamic segments.
    segments: dict[int, rules.Rule] = field(default_factory=dict)
    suppressed: set[tuple[str, str]] = field(default_factory=set)
    #: Channel, or (channel, category) → what no answer counts as.
    defaults: dict[Any, bool] = field(default_factory=dict)

    def holds(self, rule: rules.Rule, person: Person) -> bool:
        match rule:
            case rules.All(parts):
                return all(self.holds(part, person) for part in parts)
            case rules.AnyOf(parts):
                return any(self.holds(part, person) for part in parts)
            case rules.Not(part):
                return not self.holds(part, person)
            case rules.Attribute("age", op, value):
                return self.compare(self.age(person), op, value, "number")
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
            case rules.Messaged():
                return self.messaged(rule, person)
            case rules.ConsentIs(channel, answer, category):
                given = person.consents.get((channel, category))
                return {"yes": True, "no": False, "unanswered": None}[answer] is given
            case rules.Reachable(channel, category):
                return self.reachable(channel, category, person)
            case rules.InSegment(segment) if segment in self.segments:
                return self.holds(self.segments[segment], person)
            case rules.InSegment(segment):
                return segment in person.lists
        raise AssertionError(rule)

    # Events and messages

    def happened(self, rule: rules.Happened, person: Person) -> bool:
        return self.asked(
            rule.question, [event.at for event in self.chosen(rule, person)]
        )

    def chosen(self, rule: rules.Happened, person: Person) -> list[Happening]:
        events = [event for event in person.events if self.fits(event, rule)]
        if isinstance(rule.period, rules.Since):
            since = [e.at for e in person.events if self.fits(e, rule.period)]
            events = [e for e in events if since and e.at > max(since)]
        else:
            events = [e for e in events if self.in_period(e.at, rule.period)]
        for beside in rule.beside:
            events = [
                event
                for event in events
                if any(
                    self.stands_beside(other, event, beside) for other in person.events
                )
                == beside.is_there
            ]
        return events

    def fits(self, event: Happening, choice: Any) -> bool:
        """By name, source and context."""
        return (
            event.name == choice.event
            and (not choice.source or event.source in choice.source)
            and all(
                self.compare(
                    at_path(event.context, line.field),
                    line.op,
                    line.value,
                    self.types.get((choice.event, line.field), ""),
                )
                for line in choice.where
            )
        )

    def stands_beside(
        self, other: Happening, event: Happening, beside: rules.Beside
    ) -> bool:
        return (
            other is not event
            and self.fits(other, beside)
            and all(
                alike(at_path(other.context, code), at_path(event.context, code))
                for code in beside.same
            )
            and {
                "any": True,
                "before": other.at < event.at,
                "after": other.at > event.at,
            }[beside.order]
        )

    def messaged(self, rule: rules.Messaged, person: Person) -> bool:
        found = []
        for letter in person.letters:
            at = letter.stages.get(rule.stage)
            if (
                at is not None
                and not letter.is_test
                and rule.campaign in (None, letter.campaign)
                and rule.channel in ("", letter.channel)
                and self.in_period(at, rule.period)
            ):
                found.append(at)
        return self.asked(rule.question, found)

    def asked(self, question: rules.Question, found: list[datetime]) -> bool:
        match question:
            case rules.Count(op, value):
                return in_numbers(len(found), op, value)
            case rules.DaysSinceLast(op, value) | rules.DaysSinceFirst(op, value):
                if not found:
                    return False
                pick = max if isinstance(question, rules.DaysSinceLast) else min
                return in_numbers(max((self.now - pick(found)) // DAY, 0), op, value)
            case rules.LastDate(op, value):
                return bool(found) and self.in_dates(max(found), op, value)
            case rules.FirstDate(op, value):
                return bool(found) and self.in_dates(min(found), op, value)
        raise AssertionError(question)

    def reachable(self, channel: str, category: str, person: Person) -> bool:
        if channel == "push":
            valid = [device.token for device in person.devices if device.is_valid]
            address = valid[-1] if valid else ""
        else:
            name = {"email": "email", "sms": "phone"}[channel]
            address = person.columns[name]
            if not person.columns[f"{name}_is_valid"]:
                address = ""
        key = address.lower() if channel == "email" else address
        if not address or (channel, key) in self.suppressed:
            return False
        asked = [("", self.defaults[channel])]
        if category:
            asked.append((category, self.defaults[channel, category]))
        return all(person.consents.get((channel, code), no) for code, no in asked)

    # Time

    def local(self, at: datetime) -> datetime:
        return at.astimezone(ZoneInfo(self.zone))

    def midnight(self, day: date) -> datetime:
        # In UTC: Python compares times of one zone by what the clocks show.
        start = datetime.combine(day, time.min, tzinfo=ZoneInfo(self.zone))
        return start.astimezone(UTC)

    def in_period(self, at: datetime, period: Any) -> bool:
        match period:
            case None:
                return True
            case rules.Last(number, "months"):
                return at >= self.months_ago(number)
            case rules.Last(number, unit):
                return at >= self.now - timedelta(**{unit: number})
            case rules.Span(start, end):
                return (start is None or self.in_dates(at, ">=", start)) and (
                    end is None or self.in_dates(at, "<=", end)
                )
            case rules.Calendar(which, unit):
                today = self.local(self.now).date()
                if which == "this":
                    wanted = self.unit(today, unit)
                else:
                    # Some day of the unit before: the first of this one, less a day.
                    day = today
                    while self.unit(day, unit) == self.unit(today, unit):
                        day -= DAY
                    wanted = self.unit(day, unit)
                return self.unit(self.local(at).date(), unit) == wanted
        raise AssertionError(period)

    def unit(self, day: date, unit: str) -> tuple[int, ...]:
        return {
            "day": (day.year, day.month, day.day),
            "week": tuple(day.isocalendar())[:2],
            "month": (day.year, day.month),
            "quarter": (day.year, (day.month + 2) // 3),
            "year": (day.year,),
        }[unit]

    def months_ago(self, number: int) -> datetime:
        at = self.now
        # The second pass of a repeated hour counts as its end.
        while self.local(at).fold:
            at = at.replace(second=0, microsecond=0) + timedelta(minutes=1)
        wall = self.local(at).replace(tzinfo=None)
        year, month = wall.year, wall.month - number
        while month < 1:
            year, month = year - 1, month + 12
        try:
            wall = wall.replace(year=year, month=month)
        except ValueError:
            following = (year, month + 1) if month < 12 else (year + 1, 1)
            wall = datetime(*following, 1)  # noqa: DTZ001
        # A time that the clocks skip is the one that they skip to.
        while True:
            found = wall.replace(tzinfo=ZoneInfo(self.zone)).astimezone(UTC)
            if self.local(found).replace(tzinfo=None) == wall:
                return found
            wall = wall.replace(second=0, microsecond=0) + timedelta(minutes=1)

    def birthday(self, born: date, year: int) -> date:
        try:
            return born.replace(year=year)
        except ValueError:
            return date(year, 2, 28)

    def age(self, person: Person) -> int | None:
        born, today = person.columns["birth_date"], self.local(self.now).date()
        if born is None or born > today:
            return None
        had_it = self.birthday(born, today.year) <= today
        return int(today.year - born.year - (0 if had_it else 1))

    # Comparisons

    def given(self, value: Any, *, is_list: bool) -> Any:
        """The value with what the event gives in the place of `$field_code`."""
        if isinstance(value, rules.EventValue):
            found = at_path(self.context, value.path)
            if not is_list:
                return found
            return found if isinstance(found, list) else [found]
        if isinstance(value, tuple):
            return tuple(self.given(one, is_list=False) for one in value)
        return value

    def compare(self, found: Any, op: str, value: Any, type_: str) -> bool:
        match op:
            case "!=":
                return not self.compare(found, "=", value, type_)
            case "not in":
                return not self.compare(found, "in", value, type_)
            case "includes none of":
                return not self.compare(found, "includes any of", value, type_)
            case "is set":
                return found is not None
            case "is not set":
                return found is None
        wants_list = op in ("in", "includes any of", "includes all of")
        value = self.given(value, is_list=wants_list)
        match op:
            case "=":
                return self.equal(found, value)
            case "in":
                return any(self.equal(found, one) for one in value)
            case "includes":
                return self.includes(found, value)
            case "includes any of":
                return any(self.includes(found, one) for one in value)
            case "includes all of":
                return bool(value) and all(self.includes(found, one) for one in value)
            case "contains" | "starts with":
                if not isinstance(found, str) or not isinstance(value, str):
                    return False
                text, part = found.lower(), value.lower()
                return part in text if op == "contains" else text.startswith(part)
            case "anniversary within":
                moment = self.moment(found)
                if moment is None:
                    return False
                day, today = self.local(moment).date(), self.local(self.now).date()
                return any(
                    ahead.year > day.year and ahead == self.birthday(day, ahead.year)
                    for ahead in (today + DAY * n for n in range(value + 1))
                )
            case "days ago >=" | "days ago <=":
                moment = self.moment(found)
                if moment is None or moment > self.now:
                    return False
                return in_numbers((self.now - moment) // DAY, op[-2:], value)
            case "days ahead >=" | "days ahead <=":
                moment = self.moment(found)
                if moment is None or moment < self.now:
                    return False
                return in_numbers((moment - self.now) // DAY, op[-2:], value)
        ends = value if isinstance(value, tuple) else (value,)
        if all(type(end) in (int, float) for end in ends):
            if type_ == "number" and isinstance(found, str) and NUMBER.match(found):
                found = float(found)
            if isinstance(found, bool) or not isinstance(found, int | float):
                return False
            if op not in (">", ">=", "<", "<=", "between"):
                return False
            return {
                ">": found > ends[0],
                ">=": found >= ends[0],
                "<": found < ends[0],
                "<=": found <= ends[0],
                "between": ends[0] <= found <= ends[-1],
            }[op]
        moment = self.moment(found)
        return moment is not None and self.in_dates(moment, op, value)

    def includes(self, found: Any, value: Any) -> bool:
        return isinstance(found, list) and any(self.equal(one, value) for one in found)

    def equal(self, found: Any, value: Any) -> bool:
        if isinstance(found, date):
            moment = self.moment(found)
            assert moment is not None
            return self.in_dates(moment, "on", value)
        if isinstance(found, list | dict) or isinstance(value, list | dict):
            return False
        if found is None or value is None:
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
        if isinstance(found, str):
            try:
                found = (
                    date.fromisoformat(found)
                    if len(found) == 10
                    else datetime.fromisoformat(found)
                )
            except ValueError:
                return None
        if isinstance(found, datetime):
            if found.tzinfo:
                return found.astimezone(UTC)
            # Without an offset it is the project's time: of an hour that occurs twice
            # the second, and what is skipped as if the clocks had not been changed.
            here = found.replace(tzinfo=ZoneInfo(self.zone))
            one, other = here.astimezone(UTC), here.replace(fold=1).astimezone(UTC)
            return max(one, other)
        return self.midnight(found) if isinstance(found, date) else None

    def in_dates(self, moment: datetime, op: str, value: Any) -> bool:
        value = self.given(value, is_list=False)
        ends = []
        for end in value if isinstance(value, tuple) else (value,):
            read = rules.read_instant(end) if isinstance(end, str) else None
            if read is None:
                return False
            ends.append(read)
        if len(ends) != (2 if op == "between" else 1):
            return False

        def first(end: Any) -> datetime:
            return end if isinstance(end, datetime) else self.midnight(end)

        def upto(end: Any) -> bool:
            if isinstance(end, datetime):
                return moment <= end
            return moment < first(end + DAY)

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


def at_path(context: Any, path: str) -> Any:
    for code in path.split("."):
        if not isinstance(context, dict):
            return None
        context = context.get(code)
    return context


def alike(one: Any, other: Any) -> bool:
    """Whether two fields of events carry the same."""

    def plain(value: Any) -> Any:
        if isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            text = format(Decimal(str(value)), "f")
            return text.rstrip("0").rstrip(".") if "." in text else text
        return value if isinstance(value, str) else None

    one, other = plain(one), plain(other)
    return one is not None and type(one) is type(other) and one == other


def in_numbers(number: int, op: str, value: Any) -> bool:
    if op == "between":
        return bool(value[0] <= number <= value[1])
    return bool(
        {">=": number >= value, "<=": number <= value, "=": number == value}[op]
    )


__all__ = ["Happening", "Letter", "Person", "Phone", "World"]

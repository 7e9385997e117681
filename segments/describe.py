"""A rule in plain words, as a marketer would say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.formats import date_format

from segments import rules
from segments.operators import DATE_QUESTIONS, OPERATORS, Takes
from segments.rules import EventValue, read_instant

ATTRIBUTE_LABELS = {
    "external_id": "ID",
    "first_name": "first name",
    "last_name": "last name",
    "email": "e-mail",
    "phone": "phone",
    "birth_date": "birth date",
    "gender": "gender",
    "city": "city",
    "country": "country",
    "language": "language",
    "time_zone": "time zone",
    "registered_at": "registration",
    "created_at": "known since",
}
#: Longer lists are cut, with the number of what is left out.
SHOWN_VALUES = 5


def describe(
    rule: rules.Rule,
    *,
    attributes: Mapping[str, str] | None = None,
    segments: Mapping[int, str] | None = None,
) -> str:
    """One sentence. Labels of attributes and names of segments may be given."""
    sentence = _Describer(attributes or {}, segments or {}).rule(rule)
    return sentence[:1].upper() + sentence[1:]


def describe_where(where: tuple[rules.FieldIs, ...]) -> str:
    """Conditions on a context: “name is “Bag” and price is more than 10”."""
    return " and ".join(
        f"{line.field} {_comparison(line.op, line.value)}" for line in where
    )


class _Describer:
    def __init__(
        self, attributes: Mapping[str, str], segments: Mapping[int, str]
    ) -> None:
        self.attributes = {**ATTRIBUTE_LABELS, **attributes}
        self.segments = segments

    def rule(self, rule: rules.Rule, *, nested: bool = False) -> str:
        match rule:
            case rules.All(parts) | rules.AnyOf(parts):
                word = ", and " if isinstance(rule, rules.All) else ", or "
                text = word.join(self.rule(part, nested=True) for part in parts)
                return f"({text})" if nested and len(parts) > 1 else text
            case rules.Not(rules.InSegment() as part):
                return f"not {self.rule(part)}"
            case rules.Not(rules.Happened(question=rules.Count(">=", 1)) as part):
                return f"never {self._happened(part, bare=True)}"
            case rules.Not(part):
                return f"not ({self.rule(part)})"
            case rules.Attribute(name, op, value):
                label = self.attributes.get(name, name)
                return f"{label} {_comparison(op, value)}"
            case rules.InSegment(segment):
                return f"in the segment “{self.segments.get(segment, segment)}”"
            case rules.Happened():
                return self._happened(rule)
        raise AssertionError(f"rule without words: {rule!r}")

    def _happened(self, rule: rules.Happened, *, bare: bool = False) -> str:
        chosen = f"“{rule.event}”"
        if rule.where:
            chosen += f" with {describe_where(rule.where)}"
        match rule.period:
            case rules.Last(1, unit):
                chosen += f" in the last {unit.removesuffix('s')}"
            case rules.Last(number, unit):
                chosen += f" in the last {number} {unit}"
            case rules.Span(start, end):
                chosen += f" from {_day(start)}" if start else ""
                chosen += f" until {_day(end)}" if end else ""
        if bare:
            return chosen
        match rule.question:
            case rules.Count("between", (low, high)):
                return f"{chosen} between {low} and {high} times"
            case rules.Count("=" | "<=", 0):
                return f"never {chosen}"
            case rules.Count(">=", 1):
                return f"{chosen} at least once"
            case rules.Count(op, value):
                words = {">=": "at least", "<=": "at most", "=": "exactly"}[op]
                return f"{chosen} {words} {value} {'time' if value == 1 else 'times'}"
            case rules.LastDate("between", (first, last)):
                return f"the last {chosen} was between {_day(first)} and {_day(last)}"
            case rules.LastDate(op, str() | EventValue() as value):
                return f"the last {chosen} was {DATE_QUESTIONS[op]} {_day(value)}"
            case rules.DaysSinceLast("between", (low, high)):
                return f"the last {chosen} was between {low} and {high} days ago"
            case rules.DaysSinceLast(op, value):
                words = {">=": "at least", "<=": "at most", "=": "exactly"}[op]
                days = "day" if value == 1 else "days"
                return f"the last {chosen} was {words} {value} {days} ago"
        raise AssertionError(f"question without words: {rule.question!r}")


def _comparison(op: str, value: Any) -> str:
    operator = OPERATORS[op]
    match operator.takes:
        case Takes.NOTHING:
            return operator.words
        case Takes.PAIR:
            low, high = value
            return f"{operator.words} {_value(low)} and {_value(high)}"
        case Takes.DAYS:
            return f"{operator.words.removesuffix(' (days ago)')} {value} days ago"
        case Takes.LIST if isinstance(value, tuple):
            shown = ", ".join(_value(one) for one in value[:SHOWN_VALUES])
            left = len(value) - SHOWN_VALUES
            return f"{operator.words} {shown}" + (
                f" and {left} more" if left > 0 else ""
            )
        case Takes.TIME | Takes.DAY:
            return f"{operator.words} {_day(value)}"
    return f"{operator.words} {_value(value)}"


def _value(value: Any) -> str:
    match value:
        case True:
            return "yes"
        case False:
            return "no"
        case EventValue(path):
            return f"the event's {path}"
        case str() if read_instant(value) is not None:
            return _day(value)
        case str():
            return f"“{value}”"
    return str(value)


def _day(value: str | EventValue | None) -> str:
    if not isinstance(value, str):
        return _value(value)
    moment = read_instant(value)
    if moment is None:
        return f"“{value}”"
    if len(value) > 10:
        return value
    return date_format(moment, "j F Y")

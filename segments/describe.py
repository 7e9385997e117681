"""A rule in plain words, as a marketer would say it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.utils import timezone
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
    "age": "age",
    "gender": "gender",
    "city": "city",
    "country": "country",
    "language": "language",
    "time_zone": "time zone",
    "registered_at": "registration",
    "created_at": "known since",
}
CHANNELS = {"email": "e-mail", "sms": "SMS", "push": "push"}
LETTERS = {
    "": "a message",
    "email": "an e-mail",
    "sms": "an SMS",
    "push": "a push message",
}
#: With a place for “never”, “last” or “first”.
STAGES = {
    "sent": "was {}sent",
    "delivered": "{}received",
    "opened": "{}opened",
    "clicked": "{}clicked in",
}
#: Where another event stands: with it, and without.
BESIDE = {
    ("before", True): "preceded by",
    ("after", True): "followed by",
    ("any", True): "along with",
    ("before", False): "not preceded by",
    ("after", False): "not followed by",
    ("any", False): "without any",
}
#: Longer lists are cut, with the number of what is left out.
SHOWN_VALUES = 5


def describe(
    rule: rules.Rule,
    *,
    attributes: Mapping[str, str] | None = None,
    segments: Mapping[int, str] | None = None,
    campaigns: Mapping[int, str] | None = None,
    categories: Mapping[str, str] | None = None,
) -> str:
    """One sentence. Labels of attributes, names of segments and campaigns by id, and
    names of mailing categories by code may be given: see `offers.names_in`."""
    describer = _Describer(
        attributes or {}, segments or {}, campaigns or {}, categories or {}
    )
    sentence = describer.rule(rule)
    return sentence[:1].upper() + sentence[1:]


def describe_where(where: tuple[rules.FieldIs, ...]) -> str:
    """Conditions on a context: “name is “Bag” and price is more than 10”."""
    return " and ".join(
        f"{line.field} {_comparison(line.op, line.value)}" for line in where
    )


class _Describer:
    def __init__(
        self,
        attributes: Mapping[str, str],
        segments: Mapping[int, str],
        campaigns: Mapping[int, str],
        categories: Mapping[str, str],
    ) -> None:
        self.attributes = {**ATTRIBUTE_LABELS, **attributes}
        self.segments = segments
        self.campaigns = campaigns
        self.categories = categories

    def rule(self, rule: rules.Rule, *, nested: bool = False) -> str:
        match rule:
            case rules.All(parts) | rules.AnyOf(parts):
                word = ", and " if isinstance(rule, rules.All) else ", or "
                text = word.join(self.rule(part, nested=True) for part in parts)
                return f"({text})" if nested and len(parts) > 1 else text
            case rules.Not(part):
                return self._not(part)
            case rules.Attribute():
                return self._attribute(rule)
            case rules.InSegment(segment):
                return f"in the segment “{self.segments.get(segment, segment)}”"
            case rules.Happened():
                return self._happened(rule)
            case rules.Messaged():
                return self._messaged(rule)
            case rules.ConsentIs(_, answer):
                said = {"yes": "said yes to", "no": "said no to"}
                return f"{said.get(answer, 'never answered about')} {self._kind(rule)}"
            case rules.Reachable():
                return f"can be reached by {self._kind(rule)}"
        raise AssertionError(f"rule without words: {rule!r}")

    def _not(self, rule: rules.Rule) -> str:
        match rule:
            case rules.InSegment():
                return f"not {self.rule(rule)}"
            case rules.Happened(question=rules.Count(">=", 1)):
                return f"never {self._chosen(rule)}"
            case rules.Messaged(question=rules.Count(">=", 1)):
                return self._message(rule, "never ")
            case rules.ConsentIs(_, "unanswered"):
                return f"answered about {self._kind(rule)}"
            case rules.ConsentIs(_, answer):
                return f"did not say {answer} to {self._kind(rule)}"
            case rules.Reachable():
                return f"cannot be reached by {self._kind(rule)}"
        return f"not ({self.rule(rule)})"

    def _attribute(self, rule: rules.Attribute) -> str:
        label = self.attributes.get(rule.attribute, rule.attribute)
        if rule.op != "anniversary within":
            return f"{label} {_comparison(rule.op, rule.value)}"
        if rule.attribute == "birth_date":
            return f"birthday is {_ahead(rule.value)}"
        return f"the anniversary of {label} is {_ahead(rule.value)}"

    def _kind(self, rule: rules.ConsentIs | rules.Reachable) -> str:
        """A channel, or a mailing category on it."""
        channel = CHANNELS[rule.channel]
        if not rule.category:
            return channel
        category = f"“{self.categories.get(rule.category, rule.category)}”"
        if isinstance(rule, rules.Reachable):
            return f"{channel} with {category}"
        return f"{category} by {channel}"

    # Events

    def _happened(self, rule: rules.Happened) -> str:
        chosen = self._chosen(rule)
        # The count is not that of the other event.
        comma = "," if rule.beside else ""
        return _asked(
            rule.question,
            never=f"never {chosen}",
            plain=f"{chosen}{comma}",
            last=f"the last {chosen}{comma} was",
            first=f"the first {chosen}{comma} was",
        )

    def _chosen(self, rule: rules.Happened) -> str:
        chosen = _event(rule)
        if isinstance(rule.period, rules.Since):
            chosen += f" since the last {_event(rule.period)}"
        else:
            chosen += _period(rule.period)
        for other in rule.beside:
            chosen += f", {BESIDE[other.order, other.is_there]} {_event(other)}"
        return chosen

    # Messages

    def _messaged(self, rule: rules.Messaged) -> str:
        return _asked(
            rule.question,
            never=self._message(rule, "never "),
            plain=self._message(rule, ""),
            last=self._message(rule, "last "),
            first=self._message(rule, "first "),
        )

    def _message(self, rule: rules.Messaged, how: str) -> str:
        text = f"{STAGES[rule.stage].format(how)} {LETTERS[rule.channel]}"
        if rule.campaign is not None:
            name = self.campaigns.get(rule.campaign, rule.campaign)
            text += f" of the campaign “{name}”"
        return text + _period(rule.period)


def _asked(
    question: rules.Question, *, never: str, plain: str, last: str, first: str
) -> str:
    """What is asked, of what was chosen as each question tells of it."""
    match question:
        case rules.Count("=" | "<=", 0):
            return never
        case rules.Count(op, value):
            return f"{plain} {_times(op, value)}"
        case rules.LastDate(op, value):
            return f"{last} {_when(op, value)}"
        case rules.FirstDate(op, value):
            return f"{first} {_when(op, value)}"
        case rules.DaysSinceLast(op, days):
            return f"{last} {_days_ago(op, days)}"
        case rules.DaysSinceFirst(op, days):
            return f"{first} {_days_ago(op, days)}"
    raise AssertionError(f"question without words: {question!r}")


def _event(choice: rules.Happened | rules.Since | rules.Beside) -> str:
    """An event by its name, source and context: “Paid” with the same product_id."""
    text = f"“{choice.event}”"
    if choice.source:
        text += " from " + " or ".join(f"“{name}”" for name in choice.source)
    held = []
    if isinstance(choice, rules.Beside) and choice.same:
        held.append(f"the same {' and '.join(choice.same)}")
    if choice.where:
        held.append(describe_where(choice.where))
    return f"{text} with {' and '.join(held)}" if held else text


def _period(period: rules.Period | None) -> str:
    match period:
        case rules.Last(1, unit):
            return f" in the last {unit.removesuffix('s')}"
        case rules.Last(number, unit):
            return f" in the last {number} {unit}"
        case rules.Span(start, end):
            return (f" from {_day(start)}" if start else "") + (
                f" until {_day(end)}" if end else ""
            )
        case rules.Calendar("this", "day"):
            return " today"
        case rules.Calendar("previous", "day"):
            return " yesterday"
        case rules.Calendar("this", unit):
            return f" this {unit}"
        case rules.Calendar(_, unit):
            return f" in the previous {unit}"
    return ""


def _times(op: str, value: int | tuple[int, int]) -> str:
    if isinstance(value, tuple):
        return f"between {value[0]} and {value[1]} times"
    if (op, value) == (">=", 1):
        return "at least once"
    words = {">=": "at least", "<=": "at most", "=": "exactly"}[op]
    return f"{words} {value} {'time' if value == 1 else 'times'}"


def _when(op: str, value: rules.DateValue) -> str:
    if isinstance(value, tuple):
        return f"between {_day(value[0])} and {_day(value[1])}"
    return f"{DATE_QUESTIONS[op]} {_day(value)}"


def _days_ago(op: str, value: int | tuple[int, int]) -> str:
    if isinstance(value, tuple):
        return f"between {value[0]} and {value[1]} days ago"
    words = {">=": "at least", "<=": "at most", "=": "exactly"}[op]
    return f"{words} {_days(value)} ago"


def _days(number: int) -> str:
    return f"{number} {'day' if number == 1 else 'days'}"


def _ahead(days: Any) -> str:
    return "today" if days == 0 else f"within the next {_days(days)}"


def _comparison(op: str, value: Any) -> str:
    operator = OPERATORS[op]
    match operator.takes:
        case Takes.NOTHING:
            return operator.words
        case Takes.PAIR:
            low, high = value
            return f"{operator.words} {_value(low)} and {_value(high)}"
        case Takes.DAYS if op == "anniversary within":
            return f"has its anniversary {_ahead(value)}"
        case Takes.DAYS:
            # “was at least (days ago)” → “was at least 3 days ago”
            words, _, where = operator.words.partition(" (days ")
            return f"{words} {_days(value)} {where.removesuffix(')')}"
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
    if isinstance(moment, datetime):
        shown = date_format(timezone.localtime(moment), "j F Y, H:i:s")
        return shown.removesuffix(":00")
    return date_format(moment, "j F Y")

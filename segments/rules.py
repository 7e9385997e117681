"""The language of segments: frozen values, and the one way to make them.

The JSON is that of the product's API. `parse` understands all of a rule or
refuses it; nothing is skipped, since a rule with a condition dropped matches more
customers than its author meant. Names (of events, attributes, segments) are looked
up by `compile`, which refuses those that do not exist.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as _attribute
from datetime import date, datetime
from typing import Any

from segments.moments import EARLIEST, LATEST, start_of, today
from segments.operators import (
    DATE_QUESTIONS,
    NUMBER_QUESTIONS,
    OPERATORS,
    Takes,
)
from smartcomm.core.errors import Invalid

MAX_DEPTH = 20
MAX_CONDITIONS = 200
MAX_LIST = 10_000
MAX_NUMBER = 1_000_000
#: A hundred years: what goes further back is meant as "ever".
MAX_PERIOD = {"hours": 876_000, "days": 36_500, "weeks": 5_200, "months": 1_200}
CALENDAR_UNITS = ("day", "week", "month", "quarter", "year")
CHANNELS = ("email", "sms", "push")
CONSENT_ANSWERS = ("yes", "no", "unanswered")
#: How far a message has come: one that was opened had been sent.
MESSAGE_STAGES = ("sent", "delivered", "opened", "clicked")
ORDERS = ("any", "before", "after")
MAX_SAME = 5
MAX_NAME = 128
MAX_TEXT = 4_096
#: No context is nested deeper.
MAX_PATH = 10
#: So much of a word that is not understood is told back.
MAX_TOLD = 80

FIELD_CODE = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
FIELD_PATH = re.compile(rf"{FIELD_CODE}(\.{FIELD_CODE}){{0,{MAX_PATH - 1}}}\Z")
#: What a text in the database cannot hold: NUL, and half a surrogate pair.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}\Z")


class RuleError(Invalid):
    """A rule that is not understood. `field` is the dotted path of the bad place."""

    code = "rule_invalid"


class RuleConflict(RuleError):
    """A rule whose parts do not fit together, such as segments in a circle."""

    code = "rule_conflict"


@dataclass(frozen=True, slots=True)
class EventValue:
    """`$field_code`: the value that the event which started the run has there."""

    path: str

    def __str__(self) -> str:
        return f"${self.path}"


Scalar = str | int | float | bool
#: What stands beside an operator: a scalar, a tuple of them, or nothing.
Value = Scalar | EventValue | tuple[Scalar | EventValue, ...] | None


@dataclass(frozen=True, slots=True)
class All:
    parts: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Rule


@dataclass(frozen=True, slots=True)
class Attribute:
    """The customer's attribute compares so with the value."""

    attribute: str
    op: str
    value: Value = None
    at: str = _attribute(default="", compare=False)


@dataclass(frozen=True, slots=True)
class FieldIs:
    """A field of the event's context compares so with the value."""

    field: str
    op: str
    value: Value = None
    at: str = _attribute(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Last:
    """The last `number` hours, days, weeks or months, rolling, to the second."""

    number: int
    unit: str


@dataclass(frozen=True, slots=True)
class Span:
    """From and to a day or a time, both included; either may be open."""

    start: str | None
    end: str | None


@dataclass(frozen=True, slots=True)
class Calendar:
    """A unit of the project's calendar: this one up to now, or the whole one before."""

    which: str
    unit: str


@dataclass(frozen=True, slots=True)
class Since:
    """After the last event so chosen, of the same customer. None such: no period at
    all, so that no event is in it."""

    event: str
    where: tuple[FieldIs, ...] = ()
    source: tuple[str, ...] = ()
    at: str = _attribute(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Count:
    """How many of the chosen events there are."""

    op: str
    value: int | tuple[int, int]


DateValue = str | EventValue | tuple[str | EventValue, str | EventValue]


@dataclass(frozen=True, slots=True)
class LastDate:
    """When the last of the chosen events was. No event: false."""

    op: str
    value: DateValue


@dataclass(frozen=True, slots=True)
class FirstDate:
    """When the first of the chosen events was. No event: false."""

    op: str
    value: DateValue


@dataclass(frozen=True, slots=True)
class DaysSinceLast:
    """Whole 24-hour days since the last of the chosen events. No event: false."""

    op: str
    value: int | tuple[int, int]


@dataclass(frozen=True, slots=True)
class DaysSinceFirst:
    """Whole 24-hour days since the first of the chosen events. No event: false."""

    op: str
    value: int | tuple[int, int]


Period = Last | Span | Calendar | Since
Question = Count | LastDate | FirstDate | DaysSinceLast | DaysSinceFirst


@dataclass(frozen=True, slots=True)
class Beside:
    """Another event of the same customer, which a chosen event must have or lack.

    `same` are fields that both must carry with equal values: the very product that was
    viewed was paid. `order`: when the other was, seen from the chosen one; two events
    at the same instant are neither before nor after each other. Never the chosen event
    itself.
    """

    event: str
    is_there: bool
    same: tuple[str, ...] = ()
    order: str = "any"
    where: tuple[FieldIs, ...] = ()
    source: tuple[str, ...] = ()
    at: str = _attribute(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Happened:
    """Choose events by name, source, period, context and other events beside them,
    then ask one thing about them. `source`: names; none means any."""

    event: str
    where: tuple[FieldIs, ...] = ()
    period: Period | None = None
    question: Question = Count(">=", 1)
    source: tuple[str, ...] = ()
    beside: tuple[Beside, ...] = ()
    at: str = _attribute(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Messaged:
    """Choose messages to the customer by how far they came, campaign, channel and
    period, then ask one thing about them. The period is that of the stage: when it was
    opened. Test sends do not count."""

    stage: str
    campaign: int | None = None
    channel: str = ""
    period: Last | Span | Calendar | None = None
    question: Question = Count(">=", 1)
    at: str = _attribute(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ConsentIs:
    """What the customer answered: may we write to you on this channel, or in this
    category on it?"""

    channel: str
    answer: str
    category: str = ""
    at: str = _attribute(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Reachable:
    """A message on this channel would be sent now: there is a valid address that is
    not suppressed, and consent, as messaging/eligibility.py decides."""

    channel: str
    category: str = ""
    at: str = _attribute(default="", compare=False)


@dataclass(frozen=True, slots=True)
class InSegment:
    segment: int
    at: str = _attribute(default="", compare=False)


Leaf = Attribute | Happened | Messaged | ConsentIs | Reachable | InSegment
Rule = All | AnyOf | Not | Leaf


def parse(data: object, *, event_values: bool = False) -> Rule:
    """Turn a rule's JSON into a rule, or raise RuleError.

    `event_values` allows `$field_code` in the place of a value; it makes sense only
    where an event starts things, that is in campaigns.
    """
    return _Parser(event_values=event_values).rule(data, at="", depth=0)


def parse_where(data: object, *, event_values: bool = False) -> tuple[FieldIs, ...]:
    """Turn a list of conditions on an event's context into values."""
    return _Parser(event_values=event_values).where(data, at="")


def to_json(rule: Rule) -> dict[str, Any]:
    """The JSON of a rule: `parse(to_json(rule)) == rule`."""
    match rule:
        case All(parts):
            return {"all": [to_json(part) for part in parts]}
        case AnyOf(parts):
            return {"any": [to_json(part) for part in parts]}
        case Not(part):
            return {"not": to_json(part)}
        case Attribute(name, op, value):
            return {"attribute": name, "op": op, **_value_json(op, value)}
        case InSegment(segment):
            return {"segment": segment}
        case ConsentIs(channel, answer, category):
            return {
                "consent": channel,
                **({"category": category} if category else {}),
                "is": answer,
            }
        case Reachable(channel, category):
            return {
                "reachable": channel,
                **({"category": category} if category else {}),
            }
        case Messaged(stage, campaign, channel, period, question):
            return {
                "message": stage,
                **({} if campaign is None else {"campaign": campaign}),
                **({"channel": channel} if channel else {}),
                **_period_json(period),
                **_question_json(question),
            }
        case Happened(event, where, period, question, source, beside):
            return {
                **_chosen_json(event, where, source),
                **_period_json(period),
                **{
                    "with" if other.is_there else "without": {
                        **_chosen_json(other.event, other.where, other.source),
                        **({"same": list(other.same)} if other.same else {}),
                        **({} if other.order == "any" else {"order": other.order}),
                    }
                    for other in beside
                },
                **_question_json(question),
            }
    raise AssertionError(f"rule without JSON: {rule!r}")


def _chosen_json(
    event: str, where: tuple[FieldIs, ...], source: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "event": event,
        **({"where": where_json(where)} if where else {}),
        **(
            {"source": source[0] if len(source) == 1 else list(source)}
            if source
            else {}
        ),
    }


def _period_json(period: Period | None) -> dict[str, Any]:
    match period:
        case Last(number, unit):
            data: dict[str, Any] = {"last": number, "unit": unit}
        case Span(start, end):
            ends = {"from": start, "to": end}
            data = {key: day for key, day in ends.items() if day}
        case Calendar(which, unit):
            data = {which: unit}
        case Since(event, where, source):
            data = {"since": _chosen_json(event, where, source)}
        case None:
            return {}
    return {"period": data}


def _question_json(question: Question) -> dict[str, Any]:
    if question == Count(">=", 1):
        return {}  # What is asked where nothing else is.
    word = next(word for word, kind in QUESTIONS.items() if type(question) is kind)
    return {word: {"op": question.op, "value": _plain(question.value)}}


def where_json(where: tuple[FieldIs, ...]) -> list[dict[str, Any]]:
    """The JSON of conditions on a context."""
    return [
        {"field": line.field, "op": line.op, **_value_json(line.op, line.value)}
        for line in where
    ]


def walk(rule: Rule) -> Iterator[Rule]:
    """The rule and every rule in it."""
    yield rule
    match rule:
        case All(parts) | AnyOf(parts):
            for part in parts:
                yield from walk(part)
        case Not(part):
            yield from walk(part)


def comparisons(rule: Rule) -> Iterator[Attribute | FieldIs | LastDate | FirstDate]:
    """Everything in the rule that compares with a value that an event may give."""
    for part in walk(rule):
        match part:
            case Attribute():
                yield part
            case Happened(where=where, period=period, question=question, beside=beside):
                yield from where
                if isinstance(period, Since):
                    yield from period.where
                for other in beside:
                    yield from other.where
                if isinstance(question, LastDate | FirstDate):
                    yield question
            case Messaged(question=LastDate() | FirstDate() as question):
                yield question


def event_values(rule: Rule | tuple[FieldIs, ...]) -> set[str]:
    """The field codes that the rule takes from the event: `{"product_id"}`."""
    return {
        one.path
        for condition in (rule if isinstance(rule, tuple) else comparisons(rule))
        for one in (
            condition.value
            if isinstance(condition.value, tuple)
            else (condition.value,)
        )
        if isinstance(one, EventValue)
    }


def read_instant(text: str) -> datetime | date | None:
    """A day (YYYY-MM-DD), or a time with its offset (RFC 3339); None if neither."""
    try:
        if DAY.match(text):
            return date.fromisoformat(text)
        if len(text) >= 16 and text[10] in "Tt ":
            instant = datetime.fromisoformat(text.replace("z", "Z"))
            # Beyond these, another zone has no words for the moment.
            return min(max(instant, EARLIEST), LATEST) if instant.tzinfo else None
    except (ValueError, OverflowError):
        pass
    return None


def is_number(value: object) -> bool:
    """A JSON number; a boolean is none, although Python says so."""
    return type(value) in (int, float)


def is_reversed(low: Scalar, high: Scalar) -> bool:
    """Whether nothing lies from the one to the other: the high end comes first.

    Of two numbers, or two dates; a day is a whole day of the project's zone.
    """
    if isinstance(low, int | float) and isinstance(high, int | float):
        return low > high
    first, last = read_instant(str(low)), read_instant(str(high))
    if first is None or last is None:
        raise AssertionError(f"no dates: {low!r}, {high!r}")
    if isinstance(last, datetime):
        return start_of(first) > last
    return (today(first) if isinstance(first, datetime) else first) > last


@dataclass
class _Parser:
    event_values: bool
    conditions: int = 0

    def rule(self, data: object, *, at: str, depth: int) -> Rule:
        if depth > MAX_DEPTH:
            raise RuleError(
                f"Groups nest more than {MAX_DEPTH} deep. Save a part of the rule "
                "as a segment and use that.",
                field=at,
            )
        if not isinstance(data, Mapping):
            raise RuleError(
                "A condition is an object such as "
                '{"attribute": "city", "op": "=", "value": "Paris"}.',
                field=at,
            )
        words = [word for word in _WORDS if word in data]
        if len(words) != 1:
            raise RuleError(
                "A condition needs exactly one of "
                + ", ".join(f"“{word}”" for word in _WORDS)
                + (f"; this one has {_told(data)}." if data else "."),
                field=at,
            )
        word = words[0]
        if word in ("all", "any"):
            self._only(data, {word}, at)
            parts = data[word]
            if not isinstance(parts, list) or not parts:
                raise RuleError(
                    f"“{word}” takes a list of one condition or more.",
                    field=_join(at, word),
                )
            built = tuple(
                self.rule(part, at=_join(at, f"{word}.{i}"), depth=depth + 1)
                for i, part in enumerate(parts)
            )
            return All(built) if word == "all" else AnyOf(built)
        if word == "not":
            self._only(data, {"not"}, at)
            return Not(self.rule(data["not"], at=_join(at, "not"), depth=depth + 1))
        self._count_condition(at)
        if word == "attribute":
            name, op, value = self._comparison(data, "attribute", at)
            return Attribute(
                self._nameable(name, _join(at, "attribute")), op, value, at=at
            )
        if word == "consent":
            self._only(data, {"consent", "category", "is"}, at)
            return ConsentIs(
                self._one_of(data, "consent", CHANNELS, at),
                self._one_of(data, "is", CONSENT_ANSWERS, at),
                self._name(data, "category", at),
                at=at,
            )
        if word == "reachable":
            self._only(data, {"reachable", "category"}, at)
            return Reachable(
                self._one_of(data, "reachable", CHANNELS, at),
                self._name(data, "category", at),
                at=at,
            )
        if word == "message":
            return self._messaged(data, at)
        if word == "segment":
            self._only(data, {"segment"}, at)
            segment = data["segment"]
            if type(segment) is not int or not 0 < segment < 2**63:
                raise RuleError(
                    "“segment” takes the id of a segment, a number.",
                    field=_join(at, "segment"),
                )
            return InSegment(segment, at=at)
        return self._happened(data, at)

    def where(self, data: object, *, at: str) -> tuple[FieldIs, ...]:
        if not isinstance(data, list):
            raise RuleError(
                "“where” takes a list of conditions on the context.", field=at
            )
        lines = []
        for i, entry in enumerate(data):
            place = _join(at, str(i))
            if not isinstance(entry, Mapping):
                raise RuleError(
                    "A condition on the context is an object such as "
                    '{"field": "name", "op": "=", "value": "Bag"}.',
                    field=place,
                )
            self._count_condition(place)
            name, op, value = self._comparison(entry, "field", place)
            if not FIELD_PATH.match(name):
                raise RuleError(
                    f"{_told([name])} is no field code: letters, digits and "
                    f"underscores, with dots for what is nested, {MAX_PATH} deep at "
                    "most.",
                    field=_join(place, "field"),
                )
            lines.append(FieldIs(name, op, value, at=place))
        return tuple(lines)

    def _happened(self, data: Mapping[str, Any], at: str) -> Happened:
        known = {"event", "where", "source", "period", "with", "without"}
        self._only(data, known | QUESTIONS.keys(), at)
        event, where, source = self._chosen(data, at)
        return Happened(
            event,
            where,
            self._period(data["period"], _join(at, "period"))
            if "period" in data
            else None,
            self._question(data, at),
            source,
            tuple(
                self._beside(data[word], _join(at, word), is_there=word == "with")
                for word in ("with", "without")
                if word in data
            ),
            at=at,
        )

    def _messaged(self, data: Mapping[str, Any], at: str) -> Messaged:
        known = {"message", "campaign", "channel", "period"}
        self._only(data, known | QUESTIONS.keys(), at)
        campaign = data.get("campaign")
        if "campaign" in data and not (type(campaign) is int and 0 < campaign < 2**63):
            raise RuleError(
                "“campaign” takes the id of a campaign, a number.",
                field=_join(at, "campaign"),
            )
        period = None
        if "period" in data:
            found = self._period(data["period"], _join(at, "period"))
            if isinstance(found, Since):
                raise RuleError(
                    "“since” chooses a period for events, not for messages.",
                    field=_join(at, "period"),
                )
            period = found
        return Messaged(
            self._one_of(data, "message", MESSAGE_STAGES, at),
            campaign,
            self._one_of(data, "channel", CHANNELS, at) if "channel" in data else "",
            period,
            self._question(data, at),
            at=at,
        )

    def _chosen(
        self, data: Mapping[str, Any], at: str
    ) -> tuple[str, tuple[FieldIs, ...], tuple[str, ...]]:
        """Name, context and source: by what events are chosen anywhere."""
        event = data.get("event")
        if not isinstance(event, str) or not event:
            raise RuleError(
                "“event” takes the name of an event.", field=_join(at, "event")
            )
        self._nameable(event, _join(at, "event"))
        where = (
            self.where(data["where"], at=_join(at, "where")) if "where" in data else ()
        )
        source: tuple[str, ...] = ()
        if "source" in data:
            sent = data["source"]
            names = [sent] if isinstance(sent, str) else sent
            if (
                not isinstance(names, list)
                or not 0 < len(names) <= MAX_CONDITIONS
                or not all(isinstance(name, str) and name for name in names)
            ):
                raise RuleError(
                    "“source” takes the name of a source, or a list of them.",
                    field=_join(at, "source"),
                )
            source = tuple(
                dict.fromkeys(
                    self._nameable(name, _join(at, "source")) for name in names
                )
            )
        return event, where, source

    def _beside(self, data: object, at: str, *, is_there: bool) -> Beside:
        if not isinstance(data, Mapping):
            raise RuleError(
                "Another event is an object such as "
                '{"event": "Order paid", "same": ["product_id"]}.',
                field=at,
            )
        self._only(data, {"event", "where", "source", "same", "order"}, at)
        self._count_condition(at)
        event, where, source = self._chosen(data, at)
        same = data.get("same", [])
        if isinstance(same, str):
            same = [same]
        if (
            not isinstance(same, list)
            or len(same) > MAX_SAME
            or not all(
                isinstance(code, str) and FIELD_PATH.match(code) for code in same
            )
        ):
            raise RuleError(
                f"“same” takes a list of up to {MAX_SAME} field codes that both events "
                "must carry with equal values.",
                field=_join(at, "same"),
            )
        order = self._one_of(data, "order", ORDERS, at) if "order" in data else "any"
        return Beside(
            event, is_there, tuple(dict.fromkeys(same)), order, where, source, at=at
        )

    def _question(self, data: Mapping[str, Any], at: str) -> Question:
        questions = [word for word in QUESTIONS if word in data]
        if not questions:
            return Count(">=", 1)
        if len(questions) > 1:
            raise RuleError(
                "A condition asks one thing; this one asks "
                f"{_quoted(questions)}. Make two conditions of it.",
                field=at,
            )
        word = questions[0]
        place, asked = _join(at, word), data[word]
        if not isinstance(asked, Mapping) or set(asked) != {"op", "value"}:
            raise RuleError(
                f"“{word}” takes an object with “op” and “value”.", field=place
            )
        kind = QUESTIONS[word]
        if issubclass(kind, LastDate | FirstDate):
            return kind(*self._date_question(asked["op"], asked["value"], place))
        return kind(*self._number_question(asked["op"], asked["value"], place))

    def _one_of(
        self, data: Mapping[str, Any], word: str, known: tuple[str, ...], at: str
    ) -> str:
        found = data.get(word)
        if not isinstance(found, str) or found not in known:
            raise RuleError(
                f"“{word}” is one of {_quoted(known)}.", field=_join(at, word)
            )
        return found

    def _name(self, data: Mapping[str, Any], word: str, at: str) -> str:
        if word not in data:
            return ""
        found = data[word]
        if not isinstance(found, str) or not found:
            raise RuleError(f"“{word}” takes a code.", field=_join(at, word))
        return self._nameable(found, _join(at, word))

    def _nameable(self, name: str, at: str) -> str:
        """The same, refused here if nothing in the database can have the name."""
        if len(name) > MAX_NAME or UNSTORABLE.search(name):
            raise RuleError(
                f"Nothing has a name like that: a name is a text of up to {MAX_NAME} "
                "characters, without NUL.",
                field=at,
            )
        return name

    def _period(self, data: object, at: str) -> Period:
        if isinstance(data, Mapping) and set(data) == {"last", "unit"}:
            number, unit = data["last"], data["unit"]
            if not isinstance(unit, str) or unit not in MAX_PERIOD:
                raise RuleError(
                    f"The unit of a period is one of {_quoted(MAX_PERIOD)}.",
                    field=_join(at, "unit"),
                )
            if type(number) is not int or not 0 < number <= MAX_PERIOD[unit]:
                raise RuleError(
                    f"“last” takes a whole number from 1 to {MAX_PERIOD[unit]}.",
                    field=_join(at, "last"),
                )
            return Last(number, unit)
        if isinstance(data, Mapping) and len(data) == 1:
            word = str(next(iter(data)))
            if word in ("this", "previous"):
                return Calendar(word, self._one_of(data, word, CALENDAR_UNITS, at))
            if word == "since":
                place, chosen = _join(at, word), data[word]
                if not isinstance(chosen, Mapping):
                    raise RuleError(
                        '“since” takes an object such as {"event": "Product viewed"}.',
                        field=place,
                    )
                self._only(chosen, {"event", "where", "source"}, place)
                self._count_condition(place)
                return Since(*self._chosen(chosen, place), at=place)
        if isinstance(data, Mapping) and data and set(data) <= {"from", "to"}:
            for word, text in data.items():
                if not isinstance(text, str) or read_instant(text) is None:
                    raise RuleError(
                        f"“{word}” takes a date such as 2026-10-01, or a time with "
                        "its offset.",
                        field=_join(at, word),
                    )
            if len(data) == 2 and is_reversed(data["from"], data["to"]):
                raise RuleError("“to” is before “from”.", field=_join(at, "to"))
            return Span(data.get("from"), data.get("to"))
        raise RuleError(
            'A period is {"last": 30, "unit": "days"}, {"from": ..., "to": ...} with '
            'either or both, {"this": "month"}, {"previous": "month"}, or '
            '{"since": {"event": ...}}.',
            field=at,
        )

    def _number_question(
        self, op: object, value: object, at: str
    ) -> tuple[str, int | tuple[int, int]]:
        if not isinstance(op, str) or op not in NUMBER_QUESTIONS:
            raise RuleError(
                f"“op” here is one of {_quoted(NUMBER_QUESTIONS)}.",
                field=_join(at, "op"),
            )
        numbers = value if op == "between" else [value]
        if (
            not isinstance(numbers, list)
            or len(numbers) != (2 if op == "between" else 1)
            or not all(type(n) is int and 0 <= n <= MAX_NUMBER for n in numbers)
        ):
            wanted = (
                "[low, high], whole numbers" if op == "between" else "a whole number"
            )
            raise RuleError(
                f"“value” here is {wanted} from 0 to {MAX_NUMBER}.",
                field=_join(at, "value"),
            )
        if op == "between":
            low, high = numbers
            if low > high:
                raise RuleError("The low end comes first.", field=_join(at, "value"))
            return "between", (low, high)
        return str(op), numbers[0]

    def _date_question(self, op: object, value: object, at: str) -> tuple[str, Any]:
        if not isinstance(op, str) or op not in DATE_QUESTIONS:
            raise RuleError(
                f"“op” here is one of {_quoted(DATE_QUESTIONS)}.", field=_join(at, "op")
            )
        # The same words mean the same for the date of an attribute.
        return str(op), self._value(str(op), value, _join(at, "value"), dates=True)

    def _comparison(
        self, data: Mapping[str, Any], subject: str, at: str
    ) -> tuple[str, str, Value]:
        name = data.get(subject)
        if not isinstance(name, str) or not name:
            raise RuleError(f"“{subject}” takes a name.", field=_join(at, subject))
        op = data.get("op")
        if not isinstance(op, str) or op not in OPERATORS:
            raise RuleError(
                f"“op” is one of {_quoted(OPERATORS)}.", field=_join(at, "op")
            )
        if OPERATORS[op].takes is Takes.NOTHING:
            self._only(data, {subject, "op"}, at)
            return name, op, None
        self._only(data, {subject, "op", "value"}, at)
        if "value" not in data:
            raise RuleError(f"“{op}” needs a “value”.", field=_join(at, "value"))
        return name, op, self._value(op, data["value"], _join(at, "value"))

    def _value(self, op: str, value: object, at: str, *, dates: bool = False) -> Value:
        takes = OPERATORS[op].takes
        if takes is Takes.LIST:
            if isinstance(value, str) and value.startswith("$"):
                one = self._scalar(value, at)
                if isinstance(one, EventValue):
                    return one
            if not isinstance(value, list) or not 0 < len(value) <= MAX_LIST:
                raise RuleError(
                    f"“{op}” takes a list of 1 to {MAX_LIST} values.", field=at
                )
            return tuple(
                self._scalar(item, _join(at, str(i))) for i, item in enumerate(value)
            )
        if takes is Takes.PAIR:
            if not isinstance(value, list) or len(value) != 2:
                raise RuleError(f"“{op}” takes [low, high].", field=at)
            low, high = (
                self._ordered(item, op, _join(at, str(i)), dates=dates)
                for i, item in enumerate(value)
            )
            if not isinstance(low, EventValue) and not isinstance(high, EventValue):
                if is_number(low) != is_number(high):
                    raise RuleError(f"“{op}” takes two numbers or two dates.", field=at)
                if is_reversed(low, high):
                    raise RuleError("The low end comes first.", field=at)
            return low, high
        if takes is Takes.ONE:
            return self._scalar(value, at)
        if takes is Takes.ORDERED:
            return self._ordered(value, op, at, dates=dates)
        if takes is Takes.DAYS:
            if type(value) is not int or not 0 <= value <= MAX_NUMBER:
                raise RuleError(
                    f"“{op}” takes a whole number of days from 0 to {MAX_NUMBER}.",
                    field=at,
                )
            return value
        if takes is Takes.TEXT:
            text = self._scalar(value, at)
            if not isinstance(text, str | EventValue) or text == "":
                raise RuleError(
                    f"“{op}” takes a text of one character or more.", field=at
                )
            return text
        day = self._ordered(value, op, at, dates=True)
        if takes is Takes.DAY and isinstance(day, str) and not DAY.match(day):
            raise RuleError(f"“{op}” takes a date such as 2026-10-01.", field=at)
        return day

    def _ordered(
        self, value: object, op: str, at: str, *, dates: bool
    ) -> Scalar | EventValue:
        scalar = self._scalar(value, at)
        if isinstance(scalar, EventValue):
            return scalar
        if isinstance(scalar, str) and read_instant(scalar) is not None:
            return scalar
        if is_number(scalar) and not dates:
            return scalar
        wanted = "a date such as 2026-10-01, or a time with its offset"
        if not dates:
            wanted = f"a number, {wanted}"
        raise RuleError(f"“{op}” takes {wanted}.", field=at)

    def _scalar(self, value: object, at: str) -> Scalar | EventValue:
        if isinstance(value, str):
            if UNSTORABLE.search(value):
                raise RuleError(
                    "A text here has a character that no text can hold.", field=at
                )
            if len(value) > MAX_TEXT:
                raise RuleError(
                    f"A text here has at most {MAX_TEXT} characters.", field=at
                )
            if not value.startswith("$"):
                return value
            if value.startswith("$$"):
                return value[1:]
            if not FIELD_PATH.match(value[1:]):
                raise RuleError(
                    f"{_told([value])} is no field code. A “$” that is meant literally "
                    "is written “$$”.",
                    field=at,
                )
            if not self.event_values:
                raise RuleError(
                    f"“{value}” stands for a value of the event that started a "
                    "campaign, and here is none. A “$” that is meant literally is "
                    "written “$$”.",
                    field=at,
                )
            return EventValue(value[1:])
        if (
            type(value) is bool
            or type(value) is int
            or (type(value) is float and math.isfinite(value))
        ):
            # As the database gives it back, also a float is a row of digits.
            if abs(value) >= 10**100:
                raise RuleError("A number here is too large.", field=at)
            return value
        raise RuleError(
            "A value is a text, a number, true or false. For a missing value use "
            "“is not set”.",
            field=at,
        )

    def _count_condition(self, at: str) -> None:
        self.conditions += 1
        if self.conditions > MAX_CONDITIONS:
            raise RuleError(
                f"A rule has at most {MAX_CONDITIONS} conditions. Save a part of it as "
                "a segment and use that.",
                field=at,
            )

    def _only(self, data: Mapping[str, Any], known: set[str], at: str) -> None:
        unknown = next((str(key) for key in data if key not in known), None)
        if unknown is not None:
            raise RuleError(
                f"{_told([unknown])} is not understood here; known are "
                f"{_quoted(sorted(known))}.",
                field=_join(at, _short(unknown)),
            )


_WORDS = (
    "all",
    "any",
    "not",
    "attribute",
    "event",
    "message",
    "consent",
    "reachable",
    "segment",
)
QUESTIONS: dict[str, type[Question]] = {
    "count": Count,
    "last": LastDate,
    "first": FirstDate,
    "days_since_last": DaysSinceLast,
    "days_since_first": DaysSinceFirst,
}


def _join(at: str, place: str) -> str:
    return f"{at}.{place}" if at else place


def _quoted(words: Any) -> str:
    return ", ".join(f"“{word}”" for word in words)


def _told(words: Any) -> str:
    """Words of the sender's, as many and as much of each as a sentence can bear."""
    found = [_short(str(word)) for word in words]
    return _quoted(found[:5]) + (", …" if len(found) > 5 else "")


def _short(word: str) -> str:
    return word if len(word) <= MAX_TOLD else f"{word[: MAX_TOLD - 1]}…"


def _value_json(op: str, value: Value) -> dict[str, Any]:
    return {} if OPERATORS[op].takes is Takes.NOTHING else {"value": _plain(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, EventValue):
        return str(value)
    if isinstance(value, str) and value.startswith("$"):
        return f"${value}"
    return value

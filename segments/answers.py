"""What explaining says about one condition: what is so, and what would have to change.

Words only: whether the condition holds is known already, from the compiled query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.formats import date_format

from customers.models import Channel
from segments import rules
from segments.describe import _comparison as comparison
from segments.evidence import Findings, Tally
from segments.moments import calendar, forward, start_of, today
from segments.operators import DATE_QUESTIONS, OPERATORS
from segments.rules import read_instant

#: From low to high, both included; None for no end.
Range = tuple[int, int | None]

SHOWN_VALUES = 5
LONGEST = 120


@dataclass(frozen=True, slots=True)
class Answer:
    fact: str = ""
    change: str = ""


def answer(
    rule: rules.Rule,
    found: Findings,
    *,
    label: str,
    wanted: bool,
    holds: bool | None,
    now: datetime,
) -> Answer:
    """The words for a leaf. `label` is what an attribute or a mailing category is
    called."""
    match rule:
        case rules.Attribute():
            fact = _attribute_fact(label, rule, found.value, now)
            change = _attribute_change(label, rule, found.value, wanted, now)
        case rules.Happened() | rules.Messaged():
            tally = found.tally or Tally()
            fact = _counted_fact(rule, tally, found, wanted=wanted, now=now)
            change = _counted_change(rule, tally, found, wanted=wanted, now=now)
        case rules.ConsentIs():
            fact = _consent_fact(_mailing(rule, label), found)
            change = _consent_change(rule.answer, _mailing(rule, label), wanted)
        case rules.Reachable():
            fact, change = found.sentence, found.change
            if not wanted:
                change = "Only who cannot be reached is wanted here."
        case rules.InSegment():
            fact, change = _segment(found, wanted, bool(holds))
        case _:
            return Answer()
    blocks = holds is not None and holds is not wanted
    return Answer(_capital(fact), change if blocks else "")


# Numbers


def ranges(op: str, value: Any, *, wanted: bool) -> list[Range]:
    """Which numbers will do; the others, if the condition is not wanted to hold."""
    low: int
    high: int | None
    match op:
        case ">=":
            low, high = value, None
        case "<=":
            low, high = 0, value
        case "between":
            low, high = value
        case _:
            low, high = value, value
    if wanted:
        return [(low, high)]
    found: list[Range] = [(0, low - 1)] if low > 0 else []
    if high is not None:
        found.append((high + 1, None))
    return found


def most(rule: rules.Rule, *, wanted: bool) -> int | None:
    """How many events may be left for so few to be right; None if it is not so."""
    match rule:
        case (
            rules.Happened(question=rules.Count(op, value))
            | rules.Messaged(question=rules.Count(op, value))
        ):
            ends = [high for _, high in ranges(op, value, wanted=wanted)]
            return max((high for high in ends if high is not None), default=None)
    return None


def in_words(found: Sequence[Range]) -> str:
    """“at least 3”, “0 to 2 or at least 5”."""
    return " or ".join(_range(low, high) for low, high in found)


def _range(low: int, high: int | None) -> str:
    if high is None:
        return f"at least {low}"
    if low == high:
        return f"exactly {low}" if low else "none"
    return f"at most {high}" if low == 0 else f"{low} to {high}"


def times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count:,} times")


def ago(moment: datetime, now: datetime) -> str:
    """How long ago, in words: whole 24-hour days, as rules count them."""
    passed = now - moment
    if passed < timedelta(0):
        return "ahead"
    days = passed // timedelta(days=1)
    if days:
        return "1 day ago" if days == 1 else f"{days:,} days ago"
    hours = passed // timedelta(hours=1)
    if hours:
        return "1 hour ago" if hours == 1 else f"{hours} hours ago"
    return "just now" if passed < timedelta(minutes=1) else "less than an hour ago"


def on(moment: datetime | date) -> str:
    """A time for the eye, in the project's zone."""
    if isinstance(moment, datetime):
        return date_format(timezone.localtime(moment), "j M Y, H:i")
    return date_format(moment, "j M Y")


# Attributes


def shown(value: Any) -> str:
    """A value as people write it: “Rome”, 49.9, yes, 3 May 2026."""
    match value:
        case bool():
            return "yes" if value else "no"
        case datetime() | date():
            return on(value)
        case str() if (moment := read_instant(value)) is not None:
            return on(moment)
        case str():
            return f"“{value if len(value) <= LONGEST else value[: LONGEST - 1] + '…'}”"
        case float():
            return f"{value:,.10g}"
        case int():
            return str(value)
        case list() | tuple():
            some = ", ".join(shown(one) for one in value[:SHOWN_VALUES])
            left = len(value) - SHOWN_VALUES
            return (f"{some} and {left} more" if left > 0 else some) or "an empty list"
        case dict():
            return "an object"
    return str(value)


def _attribute_fact(
    label: str, rule: rules.Attribute, value: Any, now: datetime
) -> str:
    if value is None or value == "":
        return f"{label} is not set"
    fact = f"{label} is {shown(value)}"
    if " ago " in rule.op or " ahead " in rule.op:
        moment = _moment(value)
        if moment is not None:
            days = abs(moment - now) // timedelta(days=1)
            side = "ago" if moment <= now else "ahead"
            fact += f", {days:,} {'day' if days == 1 else 'days'} {side}"
    return fact


def _moment(value: Any) -> datetime | None:
    if isinstance(value, str):
        value = read_instant(value)
    return start_of(value) if isinstance(value, date) else None


def _attribute_change(
    label: str, rule: rules.Attribute, value: Any, wanted: bool, now: datetime
) -> str:
    op = rule.op
    moment = _moment(value)
    if op == "days ago >=" and wanted and moment is not None:
        turns = forward(moment, int(rule.value), "days")  # type: ignore[arg-type]
        return f"By itself on {on(turns)}."
    if op == "days ago <=" and not wanted and moment is not None and moment <= now:
        turns = forward(moment, int(rule.value) + 1, "days")  # type: ignore[arg-type]
        return f"By itself on {on(turns)}."
    if not wanted and OPERATORS[op].negates:
        op, wanted = OPERATORS[op].negates, True
    verb = _verb(comparison(op, rule.value))
    return f"{_capital(label)} must {'' if wanted else 'not '}{verb}."


def _verb(words: str) -> str:
    """What stands behind “must”: “is at least 3” → “be at least 3”."""
    if words.startswith("is not "):
        return f"not be {words.removeprefix('is not ')}"
    first, _, rest = words.partition(" ")
    plain = {"is": "be", "was": "have been", "has": "have"}.get(
        first, first.removesuffix("s")
    )
    return f"{plain} {rest}" if rest else plain


# Events and messages


def _counted_fact(
    rule: rules.Happened | rules.Messaged,
    tally: Tally,
    found: Findings,
    *,
    wanted: bool,
    now: datetime,
) -> str:
    question = rule.question
    told = []
    match question:
        case rules.Count(op, value):
            count = times(tally.count)
            will_do = ranges(op, value, wanted=wanted)
            if will_do and not _in(tally.count, will_do) and will_do != [(1, None)]:
                count += f", {in_words(will_do)} wanted"
            told.append(count)
            if tally.last:
                told.append(f"the last {ago(tally.last, now)}")
        case rules.DaysSinceLast() | rules.LastDate():
            told.append(_which("last", tally.last, now))
        case rules.DaysSinceFirst() | rules.FirstDate():
            told.append(_which("first", tally.first, now))
    if isinstance(rule, rules.Happened):
        told += _left_out(rule, tally)
        if isinstance(rule.period, rules.Since) and found.since is None:
            told.append(f"there was no “{rule.period.event}” to begin the period")
        elif not tally.count and not tally.eligible and tally.ever_last:
            told.append(
                f"{tally.ever:,} of that name, the last {ago(tally.ever_last, now)}"
            )
    return "; ".join(told)


def _left_out(rule: rules.Happened, tally: Tally) -> list[str]:
    """Of the events that would count, those that do not for what is beside them."""
    left_out = tally.left_out_count
    if not left_out:
        return []
    reasons = [
        f"{'without' if other.is_there else 'with'} “{other.event}”{_same(other)}"
        for other in rule.beside
    ]
    more = "more " if tally.count else ""
    return [f"{left_out:,} {more}left out: {' or '.join(reasons)}"]


def _same(other: rules.Beside) -> str:
    order = {"before": " before it", "after": " after it"}.get(other.order, "")
    same = f" of the same {' and '.join(other.same)}" if other.same else ""
    return f"{order}{same}"


def _which(which: str, moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    return f"the {which} was {ago(moment, now)}, {on(moment)}"


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one speaks of what is counted: “1 more such event must come”."""

    noun: str = "such event"
    must: str = "come"

    def some(self, count: int, *, more: bool) -> str:
        return f"{count:,} {'more ' if more else ''}{self.noun}{'s' * (count != 1)}"


MESSAGES = {
    "sent": _Kind("such message", "be sent"),
    "delivered": _Kind("such message", "be delivered"),
    "opened": _Kind("such message", "be opened"),
    "clicked": _Kind("such message", "be clicked in"),
}


def _counted_change(
    rule: rules.Happened | rules.Messaged,
    tally: Tally,
    found: Findings,
    *,
    wanted: bool,
    now: datetime,
) -> str:
    kind = MESSAGES[rule.stage] if isinstance(rule, rules.Messaged) else _Kind()
    if (
        isinstance(rule, rules.Happened)
        and isinstance(rule.period, rules.Since)
        and found.since is None
        and wanted
    ):
        return f"A “{rule.period.event}” must come, and begin the period."
    match rule.question:
        case rules.Count(op, value):
            will_do = ranges(op, value, wanted=wanted)
            return _count_change(rule, tally, will_do, kind, now)
        case rules.DaysSinceLast(op, value):
            will_do = ranges(op, value, wanted=wanted)
            return _days_change("last", tally.last, will_do, kind, now)
        case rules.DaysSinceFirst(op, value):
            will_do = ranges(op, value, wanted=wanted)
            return _days_change("first", tally.first, will_do, kind, now)
        case rules.LastDate(op, value) | rules.FirstDate(op, value):
            which = "last" if isinstance(rule.question, rules.LastDate) else "first"
            must = "must be" if wanted else "must not be"
            return f"The {which} one {must} {_date_words(op, value)}."


def _date_words(op: str, value: Any) -> str:
    if op == "between":
        low, high = (shown(one) for one in value)
        return f"between {low} and {high}"
    return f"{DATE_QUESTIONS[op]} {shown(value)}"


def _count_change(
    rule: rules.Happened | rules.Messaged,
    tally: Tally,
    will_do: list[Range],
    kind: _Kind,
    now: datetime,
) -> str:
    count = tally.count
    above = [low for low, _ in will_do if low > count]
    below = [high for _, high in will_do if high is not None and high < count]
    told = []
    if below:
        told.append(_fewer(rule, tally, kind, now))
    if above:
        some = kind.some(min(above) - count, more=count > 0)
        if _is_over(rule.period, now):
            told.append(f"{some} would have to be reported late: the period is over.")
        else:
            told.append(f"{some} must {kind.must}.")
    return " Or: ".join(told) or "This can never be so."


def _fewer(
    rule: rules.Happened | rules.Messaged,
    tally: Tally,
    kind: _Kind,
    now: datetime,
) -> str:
    match rule.period:
        case rules.Last(number, unit) if tally.leaving is not None:
            turns = forward(tally.leaving, number, unit)
            unless = f"unless another {kind.noun} comes"
            return f"By itself after {on(turns)}, {unless} until then."
        case rules.Calendar(_, unit):
            return f"By itself when the next {unit} begins, {on(_turn(unit, now))}."
        case rules.Since(event):
            return f"Another “{event}” must come, and begin the period anew."
    return "Not any more: what has happened stays."


def _turn(unit: str, now: datetime) -> datetime:
    return calendar("this", unit, now)[1]


def _is_over(period: rules.Period | None, now: datetime) -> bool:
    match period:
        case rules.Calendar("previous"):
            return True
        case rules.Span(_, str(end)):
            moment = read_instant(end)
            if isinstance(moment, datetime):
                return moment < now
            return moment is not None and moment < today(now)
    return False


def _days_change(
    which: str,
    moment: datetime | None,
    will_do: list[Range],
    kind: _Kind,
    now: datetime,
) -> str:
    if moment is None:
        return f"1 {kind.noun} must {kind.must}."
    days = max((now - moment) // timedelta(days=1), 0)
    above = [low for low, _ in will_do if low > days]
    below = [high for _, high in will_do if high is not None and high < days]
    told = []
    if above:
        turns = forward(moment, min(above), "days")
        unless = f", unless another {kind.noun} comes" if which == "last" else ""
        told.append(f"By itself on {on(turns)}{unless}.")
    if below:
        told.append(
            f"Another {kind.noun} must {kind.must}."
            if which == "last"
            else "Not any more: the first one stays the first."
        )
    return " Or: ".join(told) or "This can never be so."


def _in(number: int, found: Sequence[Range]) -> bool:
    return any(
        low <= number and (high is None or number <= high) for low, high in found
    )


# Consents and segments


def _consent_fact(what: str, found: Findings) -> str:
    if found.consent is None:
        return f"never answered about {what}"
    word = "yes" if found.consent.is_granted else "no"
    origin = f" ({found.consent.origin})" if found.consent.origin else ""
    return f"said {word} to {what}, {on(found.consent.changed_at)}{origin}"


def _mailing(rule: rules.ConsentIs, category: str) -> str:
    channel = Channel(rule.channel).word
    return f"“{category}” by {channel}" if rule.category else channel


def _consent_change(answer: str, what: str, wanted: bool) -> str:
    match answer, wanted:
        case "yes", True:
            return f"The customer must say yes to {what}."
        case "no", True:
            return f"The customer must say no to {what}."
        case "unanswered", True:
            return "The answer must be forgotten."
        case "yes", False:
            return f"The customer must not say yes to {what}."
        case "no", False:
            return f"The customer must not say no to {what}."
    return f"The customer must answer about {what}."


def _segment(found: Findings, wanted: bool, holds: bool) -> tuple[str, str]:
    fact = "in it" if holds else "not in it"
    if not found.is_list:
        return fact, ""
    if holds and found.member_since:
        fact = f"on the list since {on(found.member_since)}"
    elif not holds:
        fact = "not on the list"
    change = "put on" if wanted else "taken off"
    return fact, f"The customer must be {change} the list."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

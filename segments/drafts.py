"""A rule as it stands in a form: possibly unfinished, never losing what was typed.

A Draft is read from the fields of a form (`read`) or made from a rule (`of_rule`), is
changed by the buttons of the builder (`edit`), and is turned into a rule's JSON
(`write`), with a Problem beside every field that is not finished. What is not
finished is never a rule: there is no half of one.

The names of the fields are paths: `rule.kind` is the group at the top, `rule.1.0.event`
the event of the first condition in its second part, `rule.1.0.where.0.field` the field
of that condition's first line, `rule.1.0.since.event` the other event that its period
begins with.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings

from segments import rules
from segments.operators import OPERATORS, Takes
from segments.rules import DAY, EventValue, read_instant

GROUPS = ("all", "any", "none", "not all")
CONDITIONS = ("attribute", "event", "message", "consent", "segment")
#: Other events that an event condition speaks of, each a draft of its own within it.
BESIDE = ("with", "without")
INNER = ("since", *BESIDE)
#: How the text in a value's field is meant.
TEXT, NUMBER, YES_NO, DATE, TIME, EVENT, EMPTY = (
    "text",
    "number",
    "yesno",
    "date",
    "time",
    "event",
    "empty",
)
MEANINGS = {
    TEXT: "Text",
    NUMBER: "Number",
    YES_NO: "Yes or no",
    DATE: "Date",
    TIME: "Date and time",
    EVENT: "The event's value",
    EMPTY: "Empty text",
}
#: What a question of the form is about → its word in the JSON. The form's field for
#: the question holds this and the operator: "count >=", "date before".
ABOUT = {
    "count": "count",
    "date": "last",
    "first": "first",
    "days": "days_since_last",
    "firstdays": "days_since_first",
}
DATES = ("date", "first")
#: Lists longer than this are shown as lines of one field.
CHIPS = 50

_WHOLE = re.compile(r"\d{1,12}\Z")
_INTEGER = re.compile(r"[+-]?\d{1,101}\Z")
_LOCAL = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?\Z")
_SEPARATORS = re.compile(r"[,;\n\t]")


@dataclass
class Draft:
    """A group, a condition, or a line on an event's context, as the form has it."""

    kind: str
    values: dict[str, list[str]] = field(default_factory=dict)
    parts: list[Draft] = field(default_factory=list)
    where: list[Draft] = field(default_factory=list)
    inner: dict[str, Draft] = field(default_factory=dict)

    def get(self, name: str, default: str = "") -> str:
        found = self.values.get(name)
        return found[-1] if found else default

    def set(self, **values: str) -> None:
        self.values.update({name: [text] for name, text in values.items()})

    @property
    def is_group(self) -> bool:
        return self.kind in GROUPS

    @property
    def is_empty(self) -> bool:
        """Nothing has been asked yet."""
        return self.is_group and not self.parts


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at a field of the form. Unfinished: nothing was typed yet."""

    name: str
    message: str
    is_unfinished: bool = False


@dataclass
class Written:
    """What a draft says: JSON for the parser, or problems."""

    data: Any = None
    problems: list[Problem] = field(default_factory=list)
    #: Path in the JSON → name of the field or part in the form.
    places: dict[str, str] = field(default_factory=dict)

    def name_of(self, path: str) -> str:
        """The field of the form that a path in the JSON speaks of, or its condition."""
        while path not in self.places and path:
            path = path.rpartition(".")[0]
        return self.places.get(path, "")


def new(kind: str) -> Draft:
    """An empty condition or group."""
    draft = Draft(kind)
    if kind in ("attribute", "field"):
        draft.set(op="=")
    if kind in ("event", "message"):
        draft.set(ask="count >=", period="any", unit="days")
        draft.values["count.low"] = ["1"]
    if kind == "message":
        draft.set(stage="sent")
    if kind == "consent":
        draft.set(answer="reachable", channel=rules.CHANNELS[0])
    return draft


# From the form


def read(data: Mapping[str, Any], prefix: str) -> Draft:
    """The draft in the fields of a form whose names begin with the prefix."""
    tree: dict[str, Any] = {}
    for name in data:
        if not name.startswith(f"{prefix}."):
            continue
        place, steps = tree, name[len(prefix) + 1 :].split(".")
        while steps and (_is_number(steps[0]) or steps[0] in ("where", *INNER)):
            place = place.setdefault(steps.pop(0), {})
        if steps:
            place[f"={'.'.join(steps)}"] = _texts(data, name)
    return _branch(tree, "all", depth=0)


def _texts(data: Mapping[str, Any], name: str) -> list[str]:
    found = data.getlist(name) if hasattr(data, "getlist") else data[name]
    found = found if isinstance(found, list) else [found]
    # A browser sends every line end as two characters.
    return [str(text).replace("\r\n", "\n") for text in found]


def _branch(tree: dict[str, Any], kind: str, *, depth: int) -> Draft:
    values = {key[1:]: texts for key, texts in tree.items() if key.startswith("=")}
    found = values.pop("kind", [kind])[-1]
    draft = Draft(
        found if found in (*GROUPS, *CONDITIONS, "unreadable") else kind, values
    )
    if depth <= rules.MAX_DEPTH + 2:
        draft.parts = [
            _branch(tree[key], "attribute", depth=depth + 1) for key in _numbered(tree)
        ]
    lines = tree.get("where", {})
    for key in _numbered(lines):
        line = _branch(lines[key], "field", depth=rules.MAX_DEPTH + 3)
        line.kind = "field"
        draft.where.append(line)
    if draft.kind == "event":
        for word in INNER:
            if word in tree:
                other = _branch(tree[word], word, depth=rules.MAX_DEPTH + 3)
                other.kind = word
                draft.inner[word] = other
    return draft


def _is_number(step: str) -> bool:
    return step.isascii() and step.isdigit() and len(step) <= 5


def _numbered(tree: dict[str, Any]) -> list[str]:
    return sorted((key for key in tree if _is_number(key)), key=int)


# From a rule


def of_rule(rule: rules.Rule) -> Draft:
    """The draft that says the same as the rule; a group at the top."""
    draft = _of(rule)
    return draft if draft.is_group else Draft("all", parts=[draft])


def of_where(where: tuple[rules.FieldIs, ...]) -> Draft:
    """The draft of a list of lines on a context."""
    return Draft("all", where=[_of_comparison("field", line) for line in where])


def unreadable(data: Any, message: str) -> Draft:
    """Stands for a stored rule that is not understood, so that it is not lost."""
    draft = Draft("unreadable")
    draft.set(error=message)
    return draft


def _of(rule: rules.Rule) -> Draft:
    match rule:
        case rules.All(parts):
            return Draft("all", parts=[_of(part) for part in parts])
        case rules.AnyOf(parts):
            return Draft("any", parts=[_of(part) for part in parts])
        case rules.Not(part):
            return _opposite(_of(part))
        case rules.Attribute():
            return _of_comparison("attribute", rule)
        case rules.InSegment(segment):
            return Draft("segment", {"segment": [str(segment)]})
        case rules.Happened():
            return _of_event(rule)
        case rules.Messaged():
            return _of_message(rule)
        case rules.ConsentIs(channel, answer, category):
            return _of_consent(answer, channel, category)
        case rules.Reachable(channel, category):
            return _of_consent("reachable", channel, category)
    raise AssertionError(f"rule without a draft: {rule!r}")


OPPOSITES = {
    "all": "not all",
    "not all": "all",
    "any": "none",
    "none": "any",
    "reachable": "unreachable",
    "unreachable": "reachable",
}


def _opposite(draft: Draft) -> Draft:
    if draft.is_group:
        draft.kind = OPPOSITES[draft.kind]
    elif draft.kind == "consent" and draft.get("answer") in OPPOSITES:
        draft.set(answer=OPPOSITES[draft.get("answer")])
    elif draft.get("negated"):
        del draft.values["negated"]
    else:
        draft.set(negated="on")
    return draft


def _of_event(rule: rules.Happened) -> Draft:
    draft = _of_chosen(new("event"), rule)
    _of_period(draft, rule.period)
    _of_question(draft, rule.question)
    for other in rule.beside:
        word = "with" if other.is_there else "without"
        inner = _of_chosen(new(word), other)
        inner.set(order=other.order)
        inner.values["same"] = [f"{TEXT}:{code}" for code in other.same]
        draft.inner[word] = inner
    return draft


def _of_chosen(
    draft: Draft, chosen: rules.Happened | rules.Since | rules.Beside
) -> Draft:
    draft.set(event=_one_line(chosen.event))
    draft.where = [_of_comparison("field", line) for line in chosen.where]
    if chosen.source:
        draft.values["source"] = [f"{TEXT}:{_one_line(name)}" for name in chosen.source]
    return draft


def _of_message(rule: rules.Messaged) -> Draft:
    draft = new("message")
    draft.set(stage=rule.stage, channel=rule.channel)
    if rule.campaign is not None:
        draft.set(campaign=str(rule.campaign))
    _of_period(draft, rule.period)
    _of_question(draft, rule.question)
    return draft


def _of_consent(answer: str, channel: str, category: str) -> Draft:
    draft = new("consent")
    draft.set(answer=answer, channel=channel, category=_one_line(category))
    return draft


def _of_period(draft: Draft, period: rules.Period | None) -> None:
    match period:
        case rules.Last(number, unit):
            draft.set(period="last", last=str(number), unit=unit)
        case rules.Span(start, end):
            ends = {"from": start or "", "to": end or ""}
            is_days = all(is_day(text) for text in ends.values())
            draft.set(period="span" if is_days else "times")
            draft.values |= {end: [to_local(text)] for end, text in ends.items()}
        case rules.Calendar(which, unit):
            draft.set(period=which, calendar=unit)
        case rules.Since():
            draft.set(period="since")
            draft.inner["since"] = _of_chosen(new("since"), period)


def _of_question(draft: Draft, question: rules.Question) -> None:
    if question == rules.Count("=", 0):
        draft.set(ask="never")
        return
    word = next(
        word for word, kind in rules.QUESTIONS.items() if type(question) is kind
    )
    about = next(about for about, key in ABOUT.items() if key == word)
    draft.set(ask=f"{about} {question.op}")
    value = question.value
    for end, one in zip(
        ("low", "high"), value if isinstance(value, tuple) else (value,), strict=False
    ):
        meaning, text = _shown_date(one) if about in DATES else _shown(one)
        draft.values[f"{about}.{end}"] = [text]
        if about in DATES:
            draft.values[f"{about}.{end}.as"] = [meaning]


def _of_comparison(kind: str, rule: rules.Attribute | rules.FieldIs) -> Draft:
    subject = rule.attribute if isinstance(rule, rules.Attribute) else rule.field
    draft = Draft(kind, {kind: [_one_line(subject)], "op": [rule.op]})
    takes = OPERATORS[rule.op].takes
    if takes is Takes.NOTHING:
        return draft
    if takes is Takes.LIST and isinstance(rule.value, tuple):
        items = [_shown(one) for one in rule.value]
        meanings = {meaning for meaning, _ in items}
        if len(items) > CHIPS and len(meanings) == 1 and not meanings & {EVENT, EMPTY}:
            lines = [text for _, text in items]
            if all(
                text and text == text.strip() and "\n" not in text for text in lines
            ):
                draft.values["list.lines"] = ["\n".join(lines)]
                draft.values["list.as"] = [*meanings]
                return draft
        draft.values["list"] = [f"{meaning}:{text}" for meaning, text in items]
        return draft
    if takes is Takes.LIST:
        # The whole list comes from the event.
        draft.values |= {"list.as": [EVENT], "list.new": [_shown(rule.value)[1]]}
        return draft
    ends = rule.value if isinstance(rule.value, tuple) else (rule.value,)
    for end, one in zip(("low", "high"), ends, strict=False):
        is_date = takes in (Takes.ORDERED, Takes.PAIR, Takes.TIME, Takes.DAY)
        meaning, text = _shown_date(one) if is_date else _shown(one)
        draft.values[end] = [text]
        draft.values[f"{end}.as"] = [meaning]
    return draft


def _one_line(name: str) -> str:
    if "\n" in name or "\r" in name:
        raise rules.RuleError("A name in this rule has a line end. Choose another one.")
    return name


def _shown(value: Any) -> tuple[str, str]:
    """How a value is meant, and the text that stands for it."""
    match value:
        case bool():
            return YES_NO, "yes" if value else "no"
        case int() | float():
            return NUMBER, repr(value)
        case EventValue(path):
            return EVENT, path
        case "":
            return EMPTY, ""
        case str() if "\r" in value:
            raise rules.RuleError(
                "A text in this rule has a line end that a form cannot hold. Change "
                "the rule where it was made."
            )
    return TEXT, str(value)


def _shown_date(value: Any) -> tuple[str, str]:
    meaning, text = _shown(value)
    if meaning == TEXT:
        return (DATE, text) if is_day(text) else (TIME, to_local(text))
    return meaning, text


def to_local(text: str) -> str:
    """A time as an input for date and time holds it, in the project's zone.

    What such an input cannot hold stays as it is: another zone's offset, or the hour
    that the end of summer time repeats.
    """
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None or is_day(text):
            return text
        local = instant.astimezone(ZoneInfo(settings.TIME_ZONE)).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return text
    shown = local.isoformat().removesuffix(":00")
    return shown if is_local(shown) and to_instant(shown) == text else text


def to_instant(local: str) -> str:
    """The time in an input for date and time, with its offset in the project's zone."""
    moment = datetime.fromisoformat(local)
    try:
        zoned = moment.replace(tzinfo=ZoneInfo(settings.TIME_ZONE), fold=0)
        return zoned.isoformat()
    except OverflowError:
        return f"{moment.isoformat()}+00:00"


def is_local(text: str) -> bool:
    """The text fits a field for a date and time."""
    if not _LOCAL.match(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


# To JSON


def write(draft: Draft, prefix: str) -> Written:
    """The JSON of a rule, with problems beside the fields that are not finished."""
    writer = _Writer(Written())
    if draft.kind == "unreadable":
        writer.problem(prefix, "This rule cannot be changed here. Start over.")
    else:
        writer.written.data = writer.rule(draft, prefix, "")
    return writer.written


def write_where(draft: Draft, prefix: str) -> Written:
    """The JSON of a list of lines on a context."""
    writer = _Writer(Written())
    writer.written.data = writer.where(draft, prefix, "")
    return writer.written


@dataclass
class _Writer:
    written: Written

    def problem(self, name: str, message: str, *, unfinished: bool = False) -> None:
        self.written.problems.append(Problem(name, message, unfinished))

    def place(self, path: str, name: str) -> None:
        self.written.places[path] = name

    def rule(self, draft: Draft, name: str, at: str) -> Any:
        self.place(at, name)
        if draft.is_group:
            return self.group(draft, name, at)
        negated = bool(draft.get("negated"))
        if draft.kind == "consent" and draft.get("answer") == "unreachable":
            negated = not negated
        place = _join(at, "not") if negated else at
        self.place(place, name)
        match draft.kind:
            case "attribute":
                data = self.comparison(draft, name, place)
            case "segment":
                data = self.segment(draft, name, place)
            case "consent":
                data = self.consent(draft, name, place)
            case "message":
                data = self.message(draft, name, place)
            case _:
                data = self.event(draft, name, place)
        return {"not": data} if negated else data

    def group(self, draft: Draft, name: str, at: str) -> Any:
        if not draft.parts:
            self.problem(name, "Add a condition here.", unfinished=True)
        word, negated = {
            "all": ("all", False),
            "any": ("any", False),
            "none": ("any", True),
            "not all": ("all", True),
        }[draft.kind]
        place = _join(at, "not") if negated else at
        self.place(place, name)
        data = {
            word: [
                self.rule(part, f"{name}.{i}", _join(place, f"{word}.{i}"))
                for i, part in enumerate(draft.parts)
            ]
        }
        return {"not": data} if negated else data

    def segment(self, draft: Draft, name: str, at: str) -> Any:
        self.place(_join(at, "segment"), f"{name}.segment")
        text = draft.get("segment")
        if not _WHOLE.match(text):
            self.problem(
                f"{name}.segment",
                "Choose one of the segments offered."
                if draft.get("segment.text")
                else "Choose a segment.",
                unfinished=True,
            )
            return {"segment": 0}
        return {"segment": int(text)}

    def consent(self, draft: Draft, name: str, at: str) -> dict[str, Any]:
        answer, category = draft.get("answer"), draft.get("category")
        is_reach = answer in ("reachable", "unreachable")
        word = "reachable" if is_reach else "consent"
        self.place(_join(at, word), f"{name}.channel")
        self.place(_join(at, "is"), f"{name}.answer")
        self.place(_join(at, "category"), f"{name}.category")
        return {
            word: draft.get("channel"),
            **({"category": category} if category else {}),
            **({} if is_reach else {"is": answer}),
        }

    def message(self, draft: Draft, name: str, at: str) -> dict[str, Any]:
        self.place(_join(at, "message"), f"{name}.stage")
        data: dict[str, Any] = {"message": draft.get("stage")}
        self.place(_join(at, "campaign"), f"{name}.campaign")
        campaign = draft.get("campaign")
        if _WHOLE.match(campaign):
            data["campaign"] = int(campaign)
        elif campaign or draft.get("campaign.text"):
            self.problem(
                f"{name}.campaign",
                "Choose one of the campaigns offered, or empty the field for any.",
                unfinished=True,
            )
        if channel := draft.get("channel"):
            self.place(_join(at, "channel"), f"{name}.channel")
            data["channel"] = channel
        if period := self.period(draft, name, _join(at, "period")):
            data["period"] = period
        return data | self.question(draft, name, at)

    def event(self, draft: Draft, name: str, at: str) -> dict[str, Any]:
        data = self.chosen(draft, name, at)
        if period := self.period(draft, name, _join(at, "period")):
            data["period"] = period
        for word in BESIDE:
            if other := draft.inner.get(word):
                data[word] = self.beside(other, f"{name}.{word}", _join(at, word))
        return data | self.question(draft, name, at)

    def chosen(self, draft: Draft, name: str, at: str) -> dict[str, Any]:
        self.place(at, name)
        self.place(_join(at, "event"), f"{name}.event")
        data: dict[str, Any] = {"event": draft.get("event")}
        if not data["event"]:
            self.problem(f"{name}.event", "Choose an event.", unfinished=True)
        if draft.where:
            data["where"] = self.where(draft, name, _join(at, "where"))
        if "source" in draft.values or "source.new" in draft.values:
            self.place(_join(at, "source"), f"{name}.source.new")
            sources = listed(draft, "source")
            data["source"] = sources[0] if len(sources) == 1 else sources
            if not sources:
                self.problem(f"{name}.source.new", "Choose a source.", unfinished=True)
        return data

    def beside(self, draft: Draft, name: str, at: str) -> dict[str, Any]:
        data = self.chosen(draft, name, at)
        self.place(_join(at, "same"), f"{name}.same.new")
        self.place(_join(at, "order"), f"{name}.order")
        if same := listed(draft, "same"):
            data["same"] = same
        if (order := draft.get("order", "any")) != "any":
            data["order"] = order
        return data

    def question(self, draft: Draft, name: str, at: str) -> dict[str, Any]:
        ask = draft.get("ask", "count >=")
        if ask == "never":
            return {"count": {"op": "=", "value": 0}}
        about, _, op = ask.partition(" ")
        if about not in ABOUT:
            self.problem(f"{name}.ask", "Choose what to ask.", unfinished=True)
            return {}
        key = ABOUT[about]
        self.place(_join(at, f"{key}.op"), f"{name}.ask")
        value = self.ends(
            draft,
            name,
            _join(at, f"{key}.value"),
            about=f"{about}.",
            pair=op == "between",
            meant="" if about in DATES else "whole",
        )
        return {key: {"op": op, "value": value}}

    def period(self, draft: Draft, name: str, at: str) -> dict[str, Any] | None:
        self.place(at, f"{name}.period")
        match draft.get("period", "any"):
            case "last":
                self.place(_join(at, "last"), f"{name}.last")
                self.place(_join(at, "unit"), f"{name}.unit")
                number = self.whole(draft.get("last"), f"{name}.last")
                return {"last": number, "unit": draft.get("unit", "days")}
            case "this" | "previous" as which:
                self.place(_join(at, which), f"{name}.calendar")
                return {which: draft.get("calendar", "month")}
            case "since":
                since = draft.inner.get("since", Draft("since"))
                return {
                    "since": self.chosen(since, f"{name}.since", _join(at, "since"))
                }
            case "span" | "times":
                found = {}
                for end in ("from", "to"):
                    self.place(_join(at, end), f"{name}.{end}")
                    if text := draft.get(end):
                        found[end] = self.date(text, f"{name}.{end}")
                if not found:
                    self.problem(
                        f"{name}.from", "Give at least one date.", unfinished=True
                    )
                return found
        return None

    def where(self, draft: Draft, name: str, at: str) -> list[Any]:
        return [
            self.comparison(line, f"{name}.where.{i}", _join(at, str(i)))
            for i, line in enumerate(draft.where)
        ]

    def comparison(self, draft: Draft, name: str, at: str) -> dict[str, Any]:
        kind = draft.kind
        subject, op = draft.get(kind), draft.get("op")
        self.place(at, name)
        self.place(_join(at, kind), f"{name}.{kind}")
        self.place(_join(at, "op"), f"{name}.op")
        data: dict[str, Any] = {kind: subject, "op": op}
        if not subject:
            what = "an attribute" if kind == "attribute" else "a field"
            self.problem(f"{name}.{kind}", f"Choose {what}.", unfinished=True)
        operator = OPERATORS.get(op)
        if operator is None:
            self.problem(f"{name}.op", "Choose a comparison.", unfinished=True)
            return data
        place = _join(at, "value")
        if operator.takes is Takes.NOTHING:
            return data
        if operator.takes is Takes.LIST:
            data["value"] = self.values(draft, name, place)
        else:
            data["value"] = self.ends(
                draft,
                name,
                place,
                pair=operator.takes is Takes.PAIR,
                meant="whole" if operator.takes is Takes.DAYS else "",
            )
        return data

    def ends(
        self,
        draft: Draft,
        name: str,
        at: str,
        *,
        pair: bool,
        meant: str,
        about: str = "",
    ) -> Any:
        self.place(at, f"{name}.{about}low")
        found = []
        for i, end in enumerate(("low", "high") if pair else ("low",)):
            place = f"{name}.{about}{end}"
            if pair:
                self.place(_join(at, str(i)), place)
            text = draft.get(f"{about}{end}")
            default = DATE if about.rstrip(".") in DATES else TEXT
            meaning = meant or draft.get(f"{about}{end}.as", default)
            found.append(self.value(meaning, text, place))
        return found if pair else found[0]

    def values(self, draft: Draft, name: str, at: str) -> Any:
        self.place(at, f"{name}.list")
        meaning = draft.get("list.as", TEXT)
        if meaning == EVENT:
            self.place(at, f"{name}.list.new")
            return self.value(EVENT, draft.get("list.new"), f"{name}.list.new")
        found: list[Any] = []
        for item in draft.values.get("list", []):
            one, _, text = item.partition(":")
            self.place(_join(at, str(len(found))), f"{name}.list")
            found.append(self.value(one, text, f"{name}.list"))
        for text in loose(draft):
            self.place(_join(at, str(len(found))), f"{name}.list.new")
            found.append(self.value(meaning, text, f"{name}.list.new"))
        if not found:
            self.problem(
                f"{name}.list.new", "Give at least one value.", unfinished=True
            )
        return found

    def value(self, meaning: str, text: str, name: str) -> Any:
        if meaning == EMPTY:
            return ""
        if text == "":
            self.problem(name, _MISSING.get(meaning, "Give a value."), unfinished=True)
            return None
        match meaning:
            case "whole":
                return self.whole(text, name)
            case "number":
                return self.number(text, name)
            case "yesno" if text in ("yes", "no"):
                return text == "yes"
            case "yesno":
                self.problem(name, "Choose yes or no.")
                return None
            case "event":
                return f"${text}"
            case "date" | "time":
                text = self.date(text, name)
        return f"${text}" if text.startswith("$") else text

    def whole(self, text: str, name: str) -> int | None:
        if not text.strip():
            self.problem(name, _MISSING["whole"], unfinished=True)
        elif not _WHOLE.match(text.strip()):
            self.problem(name, "Write a whole number, such as 3.")
        else:
            return int(text)
        return None

    def number(self, text: str, name: str) -> int | float | None:
        text = text.strip()
        try:
            if _INTEGER.match(text):
                return int(text)
            found = float(text)
            # float() takes more than numbers as people write them.
            if math.isfinite(found) and "_" not in text:
                return found
        except ValueError:
            pass
        self.problem(name, "Write a number, such as 49.90.")
        return None

    def date(self, text: str, name: str) -> str:
        if is_local(text):
            return to_instant(text)
        if read_instant(text) is None:
            self.problem(
                name,
                "Write a date such as 2026-10-01, or a time with its offset such as "
                "2026-10-01T09:00:00+03:00.",
            )
        return text


_MISSING = {
    "whole": "Give a number.",
    NUMBER: "Give a number.",
    DATE: "Give a date.",
    TIME: "Give a date and a time.",
    YES_NO: "Choose yes or no.",
    EVENT: "Choose a field of the event.",
}


def loose(draft: Draft) -> list[str]:
    """Values of a list that were typed or pasted, not yet set apart from each other."""
    pasted = draft.get("list.lines")
    lines = [line.strip() for line in pasted.split("\n")]
    return [line for line in lines if line] + split(draft.get("list.new"))


def listed(draft: Draft, key: str) -> list[str]:
    """The texts of a list of names: those set apart, then what was typed last."""
    items = [item.partition(":")[2] for item in draft.values.get(key, [])]
    return [*items, *split(draft.get(f"{key}.new"))]


def split(text: str) -> list[str]:
    """Several values in one text: parted by commas, semicolons, tabs or line ends.

    A text in double quotes is one value, whatever is in it.
    """
    text = text.strip()
    if len(text) > 2 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
        return [text[1:-1]]
    return [part.strip() for part in _SEPARATORS.split(text) if part.strip()]


# Changes


def at(root: Draft, path: str) -> Draft:
    """The part at a path such as `1.0`, `1.0.where.2` or `1.0.since`; KeyError if there
    is none."""
    draft = root
    steps = path.split(".") if path else []
    while steps:
        step = steps.pop(0)
        if step in INNER:
            draft = draft.inner[step]
            continue
        rows = draft.parts
        if step == "where":
            rows, step = draft.where, steps.pop(0) if steps else ""
        if not _is_number(step) or int(step) >= len(rows):
            raise KeyError(path)
        draft = rows[int(step)]
    return draft


def edit(root: Draft, deed: str, path: str, *, what: str = "") -> str:
    """Change the draft as a button of the builder says. Returns the path to look at.

    Raises KeyError for a deed or a path that does not exist.
    """
    if deed == "add":
        return _add(root, path, what)
    if deed == "restart":
        root.kind, root.values, root.parts, root.where = "all", {}, [], []
        return ""
    if deed == "move":
        return _move(root, path, what)
    if deed == "negate":
        draft = at(root, path)
        if draft.is_group or draft.kind not in CONDITIONS:
            raise KeyError(path)
        _opposite(draft)
        return path
    if deed == "remove" and what == "source":
        values = at(root, path).values
        del values["source.new"]
        values.pop("source", None)
        return path
    if deed == "remove" and path.rpartition(".")[2] in INNER:
        above, _, word = path.rpartition(".")
        del at(root, above).inner[word]
        return above
    if deed not in ("remove", "duplicate", "up", "down", "group", "ungroup"):
        raise KeyError(deed)
    draft = at(root, path)
    above, _, last = path.rpartition(".")
    if not _is_number(last):
        raise KeyError(path)
    index = int(last)
    if above == "where" or above.endswith(".where"):
        parent = at(root, above.removesuffix("where").removesuffix("."))
        rows, is_line = parent.where, True
    else:
        parent = at(root, above)
        rows, is_line = parent.parts, False
    match deed:
        case "remove":
            rows.pop(index)
            if rows:
                return _join(above, str(min(index, len(rows) - 1)))
            return above.removesuffix("where").removesuffix(".") if is_line else above
        case "duplicate":
            rows.insert(index + 1, copy.deepcopy(draft))
            return _join(above, str(index + 1))
        case "group" if not is_line:
            rows[index] = Draft("any", parts=[draft])
            return path
        case "ungroup" if draft.is_group:
            rows[index : index + 1] = draft.parts
            return _join(above, str(index)) if draft.parts else above
        case "up" | "down":
            if is_line:
                to = index + (-1 if deed == "up" else 1)
                if 0 <= to < len(rows):
                    rows.insert(to, rows.pop(index))
                    return _join(above, str(to))
                return path
            _walk(root, path, deed)
            return path_of(root, draft)
    raise KeyError(deed)


def _add(root: Draft, path: str, what: str) -> str:
    draft = at(root, path)
    has_lines = draft.kind in ("event", *INNER) or (draft.is_group and not draft.parts)
    if what == "where" and has_lines:
        draft.where.append(new("field"))
        return _join(path, f"where.{len(draft.where) - 1}")
    if what == "source" and draft.kind in ("event", *INNER):
        draft.values.setdefault("source.new", [""])
        return _join(path, "source")
    if what in BESIDE and draft.kind == "event":
        draft.inner.setdefault(what, new(what))
        return _join(path, what)
    if not draft.is_group or what not in (*CONDITIONS, "group"):
        raise KeyError(what)
    draft.parts.append(Draft("any") if what == "group" else new(what))
    return _join(path, str(len(draft.parts) - 1))


def _move(root: Draft, path: str, to: str) -> str:
    """Put a part where it was dropped: `1:0` is the first place of the group `1`."""
    above, _, last = path.rpartition(".")
    target, _, place = to.partition(":")
    draft, group = at(root, path), at(root, target)
    is_within = target == path or target.startswith(f"{path}.")
    if not (_is_number(last) and _is_number(place) and group.is_group) or is_within:
        raise KeyError(to)
    rows = at(root, above).parts
    del rows[int(last)]
    group.parts.insert(int(place), draft)
    return path_of(root, draft)


def _walk(root: Draft, path: str, way: str) -> None:
    """Move a part one place up or down as the eye sees it, into and out of groups."""
    above, _, last = path.rpartition(".")
    index, rows = int(last), at(root, above).parts
    to = index + (-1 if way == "up" else 1)
    if 0 <= to < len(rows):
        draft = rows.pop(index)
        neighbour = rows[to if way == "up" else index]
        if neighbour.is_group and not draft.is_group:
            neighbour.parts.insert(len(neighbour.parts) if way == "up" else 0, draft)
        else:
            rows.insert(to, draft)
    elif above:
        draft = rows.pop(index)
        outer, _, place = above.rpartition(".")
        at(root, outer).parts.insert(int(place) + (way == "down"), draft)


def path_of(root: Draft, wanted: Draft) -> str:
    """Where a part stands."""
    for path, draft in walk(root):
        if draft is wanted:
            return path
    raise KeyError("not in this draft")


def walk(draft: Draft, path: str = "") -> Iterator[tuple[str, Draft]]:
    """Every group and condition with its path, from the top down."""
    yield path, draft
    for i, part in enumerate(draft.parts):
        yield from walk(part, _join(path, str(i)))


def is_day(text: str) -> bool:
    """The text fits a field for dates; an empty one does."""
    return not text or bool(DAY.match(text))


def _join(path: str, step: str) -> str:
    return f"{path}.{step}" if path else step

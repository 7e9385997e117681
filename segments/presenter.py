"""A draft → what the templates show: controls with names, choices and problems."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from django.utils.functional import cached_property

from segments import drafts, offers, rules
from segments.drafts import DATE, EMPTY, EVENT, NUMBER, TEXT, YES_NO, Draft, Problem
from segments.operators import DATE_QUESTIONS, NUMBER_QUESTIONS, OPERATORS, Takes

GROUP_WORDS = {
    "all": "all of",
    "any": "any of",
    "none": "none of",
    "not all": "not all of",
}
BETWEEN_WORDS = {"all": "and", "any": "or", "none": "or", "not all": "and"}
KIND_WORDS = {"attribute": "Attribute", "event": "Event", "segment": "Segment"}
PERIODS = [
    ("any", "at any time"),
    ("last", "in the last"),
    ("span", "between dates"),
]
MEANING_OF = {"string": TEXT, "number": NUMBER, "boolean": YES_NO, "date": DATE}
ASKED = [
    (
        "How many times",
        [
            *((f"count {op}", words) for op, words in NUMBER_QUESTIONS.items()),
            ("never", "never"),
        ],
    ),
    (
        "When the last one was",
        [(f"date {op}", f"last {words}") for op, words in DATE_QUESTIONS.items()],
    ),
    (
        "Days since the last one",
        [
            (f"days {op}", f"last {words} (days ago)")
            for op, words in NUMBER_QUESTIONS.items()
        ],
    ),
]

_NODE = re.compile(r"((?:\d+|where)(?:\.(?:\d+|where))*)\.")


@dataclass
class Choice:
    value: str
    label: str
    chosen: bool = False


@dataclass
class Control:
    """One input of the form."""

    name: str
    label: str
    value: str = ""
    input: str = "text"
    choices: list[Any] = field(default_factory=list)
    placeholder: str = ""
    #: What the picker offers: parameters of the address of the offers.
    offers: dict[str, str] = field(default_factory=dict)
    meanings: list[Choice] = field(default_factory=list)
    meaning: str = ""
    chips: list[dict[str, str]] = field(default_factory=list)
    lines: str = ""
    kept: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def id(self) -> str:
        return "id_" + re.sub(r"[^A-Za-z0-9_-]", "_", self.name)

    @property
    def key(self) -> str:
        """What the names of its companions begin with: how the value is meant, ..."""
        return self.name.removesuffix(".new")

    @property
    def offers_query(self) -> str:
        return urlencode(self.offers)

    @property
    def is_one_meaning(self) -> bool:
        return len(self.meanings) == 1


@dataclass
class Presenter:
    """Shows one draft. Costs a query a kind of name, however long the draft is."""

    prefix: str
    allow_event_values: bool = False
    event_name: str = ""
    problems: Iterable[Problem] = ()
    is_where: bool = False
    types: dict[tuple[str, str], str] = field(default_factory=dict)
    #: Problems whose place has not been shown yet.
    left: dict[str, list[Problem]] = field(default_factory=dict)

    def present(self, draft: Draft) -> dict[str, Any]:
        """The tree for the template."""
        self.left = {}
        for problem in self.problems:
            self.left.setdefault(problem.name, []).append(problem)
        self.types = offers.field_types(_events(draft, self.event_name))
        if self.is_where:
            shown: dict[str, Any] = {
                "where": self._where(draft, self.prefix, self.event_name),
                "name": self.prefix,
                "path": "",
            }
        elif draft.kind == "unreadable":
            shown = {"error": draft.get("error"), "name": self.prefix}
        else:
            shown = self._node(draft, "")
            shown["has_conditions"] = bool(draft.parts)
        shown["is_root"] = True
        # What nothing of the form is named after is said at the top.
        shown["problems"] = self._problems(self.prefix) + [
            problem for left in self.left.values() for problem in left
        ]
        return shown

    def settle(self, draft: Draft, path: str) -> None:
        """After a change of the field or the comparison: read the values as it fits.

        `path` is the name of what was changed, without the prefix.
        """
        found = _NODE.match(path)
        try:
            node = drafts.at(draft, found.group(1) if found else "")
        except KeyError:
            return
        self.types = offers.field_types(_events(draft, self.event_name))
        if node.kind not in ("attribute", "field"):
            return
        event = self.event_name
        if node.kind == "field" and not self.is_where and found:
            event = drafts.at(draft, found.group(1).rpartition(".where.")[0]).get(
                "event"
            )
        meanings = self._meanings(node, self._type(node, event))
        for end in ("low", "high", "list"):
            if node.get(f"{end}.as") != EVENT:
                node.values[f"{end}.as"] = [meanings[0]]
        if items := node.values.get("list"):
            node.values["list"] = [_retyped(item, meanings[0]) for item in items]

    def _node(self, draft: Draft, path: str) -> dict[str, Any]:
        name = f"{self.prefix}.{path}" if path else self.prefix
        if draft.is_group:
            return self._group(draft, name, path)
        shown = {
            "attribute": self._attribute,
            "segment": self._segment,
            "event": self._event,
        }[draft.kind](draft, name)
        shown |= {
            "kind": draft.kind,
            "kind_words": KIND_WORDS[draft.kind],
            "name": name,
            "path": path,
            "negated": bool(draft.get("negated")),
            "problems": self._problems(name),
        }
        seen = {"kind", "negated", *_names(shown, name)}
        shown["kept"] = [
            (f"{name}.{key}", text)
            for key, texts in draft.values.items()
            if key not in seen
            for text in texts
        ]
        return shown

    def _group(self, draft: Draft, name: str, path: str) -> dict[str, Any]:
        words = {
            kind: text
            for kind, text in GROUP_WORDS.items()
            if kind != "not all" or draft.kind == kind
        }
        return {
            "is_group": True,
            "name": name,
            "path": path,
            "kind": Control(
                f"{name}.kind",
                "How many of these must hold",
                draft.kind,
                choices=_choices(words.items(), draft.kind),
            ),
            "between": BETWEEN_WORDS[draft.kind],
            "parts": [
                self._node(part, f"{path}.{i}" if path else str(i))
                for i, part in enumerate(draft.parts)
            ],
            "problems": self._problems(name) if path else [],
        }

    # Conditions

    def _attribute(self, draft: Draft, name: str) -> dict[str, Any]:
        code = draft.get("attribute")
        groups = []
        for words, is_declared in (("Customer", False), ("Own attributes", True)):
            group = [
                (one.code, one.label)
                for one in self._attributes
                if one.is_declared == is_declared
            ]
            if group:
                groups.append((words, _choices(group, code)))
        if code and all(one.code != code for one in self._attributes):
            groups.append(("Not there any more", _choices([(code, code)], code)))
        return {
            "attribute": self._control(
                f"{name}.attribute", "Attribute", code, choices=groups
            ),
            **self._comparison(draft, name, self._type(draft, "")),
        }

    def _segment(self, draft: Draft, name: str) -> dict[str, Any]:
        chosen = draft.get("segment")
        rows = [(str(pk), text) for pk, text in self._segments.items()]
        if chosen and chosen not in dict(rows):
            rows.append((chosen, f"Segment {chosen}, not there any more"))
        return {
            "segment": self._control(
                f"{name}.segment", "Segment", chosen, choices=_choices(rows, chosen)
            )
        }

    def _event(self, draft: Draft, name: str) -> dict[str, Any]:
        event = draft.get("event")
        ask = draft.get("ask", "count >=")
        about, _, op = ask.partition(" ")
        shown: dict[str, Any] = {
            "event": self._control(
                f"{name}.event",
                "Event",
                event,
                offers={"of": "event"},
                placeholder="Search an event",
            ),
            "ask": self._control(
                f"{name}.ask",
                "What to ask",
                ask,
                choices=[(words, _choices(rows, ask)) for words, rows in ASKED],
            ),
            "about": about,
            "where": self._where(draft, name, event),
            "period": self._control(
                f"{name}.period",
                "Period",
                draft.get("period", "any"),
                choices=_choices(PERIODS, draft.get("period", "any")),
            ),
        }
        if about in ("count", "days"):
            shown["ends"] = [
                self._control(
                    f"{name}.{about}.{end}",
                    words,
                    draft.get(f"{about}.{end}"),
                    input="whole",
                )
                for end, words in _ends(op)
            ]
        elif about == "date":
            shown["ends"] = [
                self._value(draft, name, f"date.{end}", words, [DATE], {})
                for end, words in _ends(op)
            ]
        match draft.get("period", "any"):
            case "last":
                unit = draft.get("unit", "days")
                shown["last"] = self._control(
                    f"{name}.last", "How many", draft.get("last"), input="whole"
                )
                shown["unit"] = self._control(
                    f"{name}.unit",
                    "Unit",
                    unit,
                    choices=_choices([(u, u) for u in rules.MAX_PERIOD], unit),
                )
            case "span":
                shown["span"] = [
                    self._control(
                        f"{name}.{end}",
                        words,
                        draft.get(end),
                        input="date" if drafts.is_day(draft.get(end)) else "text",
                    )
                    for end, words in (("from", "From"), ("to", "To"))
                ]
        return shown

    def _where(self, draft: Draft, name: str, event: str) -> list[dict[str, Any]]:
        lines = []
        for i, line in enumerate(draft.where):
            place = f"{name}.where.{i}"
            code = line.get("field")
            type_ = self._type(line, event)
            shown = {
                "path": place[len(self.prefix) + 1 :],
                "name": place,
                "field": self._control(
                    f"{place}.field",
                    "Field",
                    code,
                    offers={"of": "field", "event": event},
                    placeholder="Search a field",
                ),
                "unseen": bool(code and event and not type_),
                **self._comparison(line, place, type_, event=event),
                "problems": self._problems(place),
            }
            seen = _names(shown, place)
            shown["kept"] = [
                (f"{place}.{key}", text)
                for key, texts in line.values.items()
                if key not in {*seen, "kind"}
                for text in texts
            ]
            lines.append(shown)
        return lines

    # Comparisons and values

    def _comparison(
        self, draft: Draft, name: str, type_: str, *, event: str = ""
    ) -> dict[str, Any]:
        op = draft.get("op", "=")
        shown: dict[str, Any] = {
            "op": self._control(
                f"{name}.op",
                "Comparison",
                op,
                choices=_choices(_operators(type_, op), op),
            )
        }
        operator = OPERATORS.get(op)
        if operator is None or operator.takes is Takes.NOTHING:
            return shown
        subject = draft.get(draft.kind)
        offered = (
            {"of": "attribute_value", "attribute": subject}
            if draft.kind == "attribute"
            else {"of": "value", "event": event, "field": subject}
        )
        if not subject:
            offered = {}
        if operator.takes is Takes.DAYS:
            shown["inputs"] = [
                self._control(f"{name}.low", "Days", draft.get("low"), input="whole")
            ]
            shown["after"] = "days ago"
            return shown
        meanings = self._meanings(draft, type_)
        if operator.takes is Takes.LIST:
            shown["inputs"] = [self._list(draft, name, meanings, offered)]
        else:
            shown["inputs"] = [
                self._value(draft, name, end, words, meanings, offered)
                for end, words in _ends(op)
            ]
        return shown

    def _meanings(self, draft: Draft, type_: str) -> list[str]:
        """How a value may be meant; the first is what fits best."""
        match (
            OPERATORS[draft.get("op")].takes if draft.get("op") in OPERATORS else None
        ):
            case Takes.TEXT:
                return [TEXT]
            case Takes.TIME | Takes.DAY:
                return [DATE]
            case Takes.ORDERED | Takes.PAIR:
                known = MEANING_OF.get(type_)
                return [known] if known in (NUMBER, DATE) else [NUMBER, DATE]
        known = MEANING_OF.get(type_)
        return [known] if known else [TEXT, NUMBER, YES_NO]

    def _value(
        self,
        draft: Draft,
        name: str,
        end: str,
        label: str,
        meanings: list[str],
        offered: dict[str, str],
    ) -> Control:
        text = draft.get(end)
        meaning = draft.get(f"{end}.as", meanings[0])
        if not text and meaning not in (*meanings, EVENT, EMPTY):
            meaning = meanings[0]
        meaning = _as_fits(meaning, text, meanings)
        control = self._control(f"{name}.{end}", label, text)
        control.meaning = meaning
        control.meanings = self._choose_meaning(meanings, meaning)
        match meaning:
            case "yesno":
                control.input = "yesno"
                control.choices = _choices([("yes", "yes"), ("no", "no")], text)
            case "date":
                control.input = "date" if drafts.is_day(text) else "text"
            case "event":
                control.offers = {"of": "field", "event": self.event_name}
                control.placeholder = "Search a field of the event"
            case "empty":
                control.input = "empty"
            case "number":
                control.input, control.offers = "number", offered
            case _:
                control.offers = offered
                if "\n" in text:
                    control.input = "lines"
        return control

    def _list(
        self, draft: Draft, name: str, meanings: list[str], offered: dict[str, str]
    ) -> Control:
        meaning = draft.get("list.as", meanings[0])
        if meaning not in (*meanings, EVENT) and not draft.values.get("list.lines"):
            meaning = meanings[0]
        control = self._control(f"{name}.list.new", "Values", draft.get("list.new"))
        control.problems += self._problems(f"{name}.list")
        control.input, control.meaning = "list", meaning
        control.meanings = self._choose_meaning(meanings, meaning)
        if meaning == EVENT:
            control.input = "text"
            control.offers = {"of": "field", "event": self.event_name}
            control.placeholder = "Search a field of the event"
            # Kept out of sight, in case one changes one's mind.
            control.kept = draft.values.get("list", [])
            return control
        control.offers = offered
        control.lines = draft.get("list.lines")
        items = draft.values.get("list", [])
        for text in drafts.split(control.value):
            # What was typed and sent without Enter becomes a value of its own.
            items = [*items, f"{meaning}:{text}"]
        control.value = ""
        if len(items) + control.lines.count("\n") > drafts.CHIPS and _uniform(
            items, meaning
        ):
            lines = [control.lines, *(item.partition(":")[2] for item in items)]
            control.lines, items = "\n".join(line for line in lines if line), []
        control.chips = [_chip(item, meaning) for item in items]
        return control

    def _choose_meaning(self, meanings: list[str], meaning: str) -> list[Choice]:
        offered = [*meanings]
        if self.allow_event_values:
            offered.append(EVENT)
        if meaning not in offered:
            offered.append(meaning)
        return _choices(
            [(one, drafts.MEANINGS.get(one, one)) for one in offered], meaning
        )

    def _control(self, name: str, label: str, value: str, **more: Any) -> Control:
        return Control(name, label, value, problems=self._problems(name), **more)

    def _problems(self, name: str) -> list[Problem]:
        return self.left.pop(name, [])

    def _type(self, draft: Draft, event: str) -> str:
        if draft.kind == "field":
            return self.types.get((event, draft.get("field")), "")
        code = draft.get("attribute")
        return next((one.type for one in self._attributes if one.code == code), "")

    @cached_property
    def _attributes(self) -> list[offers.AttributeOffer]:
        return offers.attributes()

    @cached_property
    def _segments(self) -> dict[int, str]:
        return offers.segment_names()


def _events(draft: Draft, event_name: str) -> set[str]:
    return {event_name} | {
        part.get("event") for _, part in drafts.walk(draft) if part.kind == "event"
    }


def _operators(type_: str, chosen: str) -> list[tuple[str, str]]:
    """Comparisons that fit the type; those for an unknown one are all."""
    rows = [
        (code, operator.words.replace(" (days ago)", ""))
        for code, operator in OPERATORS.items()
        if not type_
        or type_ in operator.types
        or operator.takes is Takes.NOTHING
        or code == chosen
    ]
    if chosen not in OPERATORS and chosen:
        rows.append((chosen, chosen))
    return rows


def _ends(op: str) -> list[tuple[str, str]]:
    if op == "between":
        return [("low", "From"), ("high", "To")]
    return [("low", "Value")]


def _choices(rows: Iterable[tuple[str, str]], chosen: str) -> list[Choice]:
    return [Choice(value, label, value == chosen) for value, label in rows]


def _names(shown: dict[str, Any], name: str) -> set[str]:
    """The keys of a draft's values that some control of it carries."""
    controls = [
        control
        for found in shown.values()
        for control in (found if isinstance(found, list) else [found])
        if isinstance(control, Control)
    ]
    keys = set()
    for control in controls:
        key = control.name[len(name) + 1 :]
        keys.add(key)
        if key == "list.new":
            keys |= {"list", "list.as", "list.lines", "list.new"}
        elif control.meanings:
            keys.add(f"{key}.as")
    return keys


def _chip(item: str, expected: str) -> dict[str, str]:
    meaning, _, text = item.partition(":")
    note = ""
    if meaning != expected and {meaning, expected} != {TEXT, DATE}:
        note = {
            NUMBER: "number",
            TEXT: "text",
            YES_NO: "yes or no",
            EVENT: "the event's",
            EMPTY: "empty text",
        }.get(meaning, "")
    return {"item": item, "text": text, "note": note}


def _as_fits(meaning: str, text: str, meanings: list[str]) -> str:
    """A date is a text to JSON: shown as whichever fits, if it can be."""
    if meaning == TEXT and meanings == [DATE] and rules.read_instant(text):
        return DATE
    return TEXT if meaning == DATE and DATE not in meanings else meaning


def _uniform(items: list[str], meaning: str) -> bool:
    return all(
        item.startswith(f"{meaning}:")
        and "\n" not in item
        and item.partition(":")[2].strip() == item.partition(":")[2] != ""
        for item in items
    )


def _retyped(item: str, meaning: str) -> str:
    """The same text, read as it now fits, if it can be."""
    old, _, text = item.partition(":")
    if old in (EVENT, EMPTY) or old == meaning:
        return item
    if meaning == NUMBER and not re.fullmatch(r"[+-]?\d{1,30}(\.\d{1,30})?", text):
        return item
    if meaning == YES_NO and text not in ("yes", "no"):
        return item
    return f"{meaning}:{text}"

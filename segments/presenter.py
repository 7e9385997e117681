"""A draft → what the templates show: controls with names, choices and problems."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from django.utils.functional import cached_property

from segments import drafts, offers, rules
from segments.drafts import (
    DATE,
    DATES,
    EMPTY,
    EVENT,
    NUMBER,
    TEXT,
    TIME,
    YES_NO,
    Draft,
    Problem,
)
from segments.operators import DATE_QUESTIONS, NUMBER_QUESTIONS, OPERATORS, Takes

GROUP_WORDS = {
    "all": "all of",
    "any": "any of",
    "none": "none of",
    "not all": "not all of",
}
BETWEEN_WORDS = {"all": "and", "any": "or", "none": "or", "not all": "and"}
KIND_WORDS = {
    "attribute": ("Attribute", "person"),
    "event": ("Event", "bolt"),
    "message": ("Message", "mail"),
    "consent": ("Consent", "verified_user"),
    "segment": ("Segment", "groups"),
}
PERIODS = [
    ("any", "at any time"),
    ("last", "in the last"),
    ("this", "this"),
    ("previous", "the previous"),
    ("span", "between dates"),
    ("times", "between times"),
    ("since", "since another event"),
]
STAGES = {
    "sent": "was sent",
    "delivered": "received",
    "opened": "opened",
    "clicked": "clicked in",
}
ANSWERS = [
    ("reachable", "can be reached"),
    ("unreachable", "cannot be reached"),
    ("yes", "said yes to"),
    ("no", "said no to"),
    ("unanswered", "did not answer about"),
]
ORDERS = [("any", "at any time"), ("before", "before it"), ("after", "after it")]
#: What stands before another event: in the line, and for who does not see the line.
INNER_WORDS = {
    "since": ("the last", "Event that the period begins with"),
    "with": ("with", "Another event that there must be"),
    "without": ("without", "Another event that must not be there"),
}
MEANING_OF = {"string": TEXT, "number": NUMBER, "boolean": YES_NO, "date": DATE}
ASKED = [
    (
        "How many times",
        [
            *((f"count {op}", words) for op, words in NUMBER_QUESTIONS.items()),
            ("never", "never"),
        ],
    ),
    *(
        (
            f"When the {which} one was",
            [
                (f"{about} {op}", f"{which} one {words}")
                for op, words in DATE_QUESTIONS.items()
            ],
        )
        for which, about in (("last", "date"), ("first", "first"))
    ),
    *(
        (
            f"Days since the {which} one",
            [
                (f"{about} {op}", f"{which} one {words} … days ago")
                for op, words in NUMBER_QUESTIONS.items()
            ],
        )
        for which, about in (("last", "days"), ("first", "firstdays"))
    ),
]
#: So many fields of an event are named where a detail can be added.
HINTED = 3

_STEP = r"(?:\d+|where|since|with|without)"
_NODE = re.compile(rf"({_STEP}(?:\.{_STEP})*)\.")
#: "was at least (days ago)": what stands behind the value.
_AFTER = re.compile(r" \((days.*)\)$")


@dataclass
class Choice:
    value: str
    label: str
    chosen: bool = False


@dataclass
class Control:
    """One input of the form, or several that are one value."""

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
    #: For what has a number and a name: the name, as it was typed or is known.
    shown: str = ""
    #: It takes only what is offered, so what is offered is meant.
    is_strict: bool = False
    has_focus: bool = False

    @property
    def id(self) -> str:
        return "id_" + re.sub(r"[^A-Za-z0-9_-]", "_", self.name)

    @property
    def key(self) -> str:
        """What the names of its companions begin with: how the value is meant, ..."""
        return self.name.removesuffix(".new")

    @property
    def type(self) -> str:
        """The type of the HTML input."""
        if self.input == "list" and self.meaning == DATE:
            return "date"
        return self.input if self.input in ("date", "datetime-local") else "text"

    @property
    def typed_name(self) -> str:
        return f"{self.name}.text" if self.input == "picked" else self.name

    @property
    def text(self) -> str:
        return self.shown if self.input == "picked" else self.value

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
    #: The event whose values may be used, where it is another one.
    values_of: str = ""
    #: Paths that values may come from besides that event's fields.
    more_values: Sequence[str] = ()
    problems: Iterable[Problem] = ()
    is_where: bool = False
    #: Path of the part that was just changed: its first input gets the focus.
    focus: str | None = None
    #: Whether its handle gets the focus instead: nothing is asked there.
    on_handle: bool = False
    types: dict[tuple[str, str], str] = field(default_factory=dict)
    #: Problems whose place has not been shown yet.
    left: dict[str, list[Problem]] = field(default_factory=dict)

    def present(self, draft: Draft) -> dict[str, Any]:
        """The tree for the template."""
        self.left = {}
        for problem in self.problems:
            self.left.setdefault(problem.name, []).append(problem)
        self._learn(draft)
        if self.is_where:
            shown: dict[str, Any] = {
                "where": self._where(draft, self.prefix, self.event_name),
                "name": self.prefix,
                "path": "",
                "has_focus": self.focus == "",
            }
        elif draft.kind == "unreadable":
            shown = {"error": draft.get("error"), "name": self.prefix}
        else:
            shown = self._node(draft, "")
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
        place = found.group(1) if found else ""
        try:
            node = drafts.at(draft, place)
        except KeyError:
            return
        changed = path.removeprefix(f"{place}.")
        self._learn(draft)
        if node.kind in ("attribute", "field"):
            event = self.event_name
            if node.kind == "field" and place.rpartition(".where.")[0]:
                event = drafts.at(draft, place.rpartition(".where.")[0]).get("event")
            self._settle_comparison(node, self._type(node, event))
        for what in ("segment", "campaign"):
            # Typed to the end, instead of chosen.
            text = node.get(f"{what}.text").strip()
            if text and not node.get(what):
                node.set(**{what: offers.key_of(what, text)})
        if changed == "period":
            _settle_period(draft, node)
        if changed.endswith(".as"):
            end = changed.removesuffix(".as")
            node.values[end] = [_redated(node.get(end), node.get(changed))]

    def _settle_comparison(self, node: Draft, type_: str) -> None:
        fitting = [code for code, _ in _operators(type_, "")]
        if node.get("op") not in fitting:
            node.set(op=fitting[0])
        meanings = self._meanings(node, type_)
        for end in ("low", "high", "list"):
            if node.get(f"{end}.as") not in (*meanings, EVENT):
                node.values[f"{end}.as"] = [meanings[0]]
                if end != "list":
                    node.values[end] = [_redated(node.get(end), meanings[0])]
        if items := node.values.get("list"):
            node.values["list"] = [_retyped(item, meanings[0]) for item in items]
        # What was given for one value is the first of several, and back.
        takes_list = OPERATORS[node.get("op")].takes is Takes.LIST
        first, low = node.get("list"), node.get("low")
        if takes_list and low and not first and node.get("low.as") != EVENT:
            node.values["list"] = [f"{node.get('low.as')}:{low}"]
        elif not takes_list and not low and first:
            node.set(low=node.values["list"][0].partition(":")[2])

    def _learn(self, draft: Draft) -> None:
        """Look up what the draft speaks of. A query a kind of name."""
        parts = [part for _, part in drafts.walk(draft)]
        self.types = offers.field_types(
            {self.event_name} | {event for part in parts for event in _events(part)}
        )
        self.segments = offers.segment_names(_ids(parts, "segment"))
        self.campaigns = offers.campaign_names(_ids(parts, "campaign"))

    def _node(self, draft: Draft, path: str) -> dict[str, Any]:
        name = f"{self.prefix}.{path}" if path else self.prefix
        if draft.is_group:
            return self._group(draft, name, path)
        shown = {
            "attribute": self._attribute,
            "segment": self._segment,
            "event": self._event,
            "message": self._message,
            "consent": self._consent,
        }[draft.kind](draft, name)
        words, symbol = KIND_WORDS[draft.kind]
        shown |= {
            "kind": draft.kind,
            "kind_words": words,
            "symbol": symbol,
            "name": name,
            "path": path,
            "negated": bool(draft.get("negated")),
            "problems": self._problems(name),
        }
        shown["kept"] = _kept(draft, name, shown, "kind", "negated")
        self._look(shown)
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
            "has_focus": path == self.focus,
            "add_has_focus": path == self.focus and not draft.parts,
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
        isnt = "on" if draft.get("negated") else ""
        return {
            "isnt": self._control(
                f"{name}.negated",
                "In or not in",
                isnt,
                choices=_choices([("", "is in"), ("on", "is not in")], isnt),
            ),
            "segment": self._picked(draft, name, "segment", self.segments),
        }

    def _consent(self, draft: Draft, name: str) -> dict[str, Any]:
        answer, channel = draft.get("answer"), draft.get("channel")
        category = draft.get("category")
        categories = [("", "any mailing"), *self._categories.items()]
        if category and category not in self._categories:
            categories.append((category, f"{category}, not there any more"))
        return {
            "answer": self._control(
                f"{name}.answer",
                "What is asked",
                answer,
                choices=_choices(ANSWERS, answer),
            ),
            "channel": self._control(
                f"{name}.channel",
                "Channel",
                channel,
                choices=_choices(offers.channels().items(), channel),
            ),
            "category": self._control(
                f"{name}.category",
                "Mailing category",
                category,
                choices=_choices(categories, category),
            ),
            "by": "by" if "reach" in answer else "",
        }

    def _message(self, draft: Draft, name: str) -> dict[str, Any]:
        stage, channel = draft.get("stage"), draft.get("channel")
        campaign = self._picked(draft, name, "campaign", self.campaigns)
        campaign.placeholder = "any campaign"
        return {
            "stage": self._control(
                f"{name}.stage",
                "How far the message came",
                stage,
                choices=_choices(STAGES.items(), stage),
            ),
            "campaign": campaign,
            "channel": self._control(
                f"{name}.channel",
                "Channel",
                channel,
                choices=_choices(
                    [("", "on any channel")]
                    + [(code, f"by {to}") for code, to in offers.channels().items()],
                    channel,
                ),
            ),
            **self._question(draft, name),
            **self._period(draft, name),
        }

    def _picked(
        self, draft: Draft, name: str, what: str, names: dict[int, str]
    ) -> Control:
        """What is chosen by its name and kept by its number."""
        chosen = draft.get(what)
        text = draft.get(f"{what}.text")
        if chosen:
            gone = f"{what.capitalize()} {chosen}, not there any more"
            text = names.get(int(chosen) if chosen.isdigit() else 0, gone)
        return self._control(
            f"{name}.{what}",
            what.capitalize(),
            chosen,
            input="picked",
            shown=text,
            is_strict=True,
            offers={"of": what},
            placeholder=f"Search a {what}",
        )

    def _event(self, draft: Draft, name: str) -> dict[str, Any]:
        others = [
            self._inner(draft.inner[word], name, word)
            for word in drafts.BESIDE
            if word in draft.inner
        ]
        shown = {
            **self._chosen(draft, name),
            **self._question(draft, name),
            **self._period(draft, name),
            "others": others,
        }
        if draft.get("period") == "since":
            since = draft.inner.get("since", Draft("since"))
            shown["since"] = self._inner(since, name, "since")
        shown["more"] = [
            (what, words, symbol)
            for what, words, symbol in (
                ("source", "Only from some sources", "input"),
                ("with", "Together with another event", "link"),
                ("without", "Without another event", "link_off"),
            )
            if what not in draft.inner and not (what == "source" and shown["source"])
        ]
        return shown

    def _inner(self, draft: Draft, name: str, word: str) -> dict[str, Any]:
        """Another event, that the period begins with or that must (not) be there."""
        place = f"{name}.{word}"
        lead, legend = INNER_WORDS[word]
        shown: dict[str, Any] = {
            "lead": lead,
            "legend": legend,
            "name": place,
            "path": place[len(self.prefix) + 1 :],
            **self._chosen(draft, place),
            "problems": self._problems(place),
        }
        if word in drafts.BESIDE:
            order = draft.get("order", "any")
            shown["order"] = self._control(
                f"{place}.order", "When", order, choices=_choices(ORDERS, order)
            )
            shown["same"] = self._name_list(
                draft,
                place,
                "same",
                "Fields that both events share",
                {"of": "field", "event": draft.get("event")},
                "Search a field",
            )
        shown["more"] = (
            [] if shown["source"] else [("source", "Only from some sources", "input")]
        )
        shown["kept"] = _kept(draft, place, shown)
        self._look(shown)
        return shown

    def _chosen(self, draft: Draft, name: str) -> dict[str, Any]:
        """By what events are chosen: name, details, sources."""
        event = draft.get("event")
        source = None
        if "source" in draft.values or "source.new" in draft.values:
            source = self._name_list(
                draft, name, "source", "Sources", {"of": "source"}, "Search a source"
            )
            if self.focus == f"{name}.source"[len(self.prefix) + 1 :]:
                source.has_focus = True
        return {
            "event": self._control(
                f"{name}.event",
                "Event",
                event,
                offers={"of": "event"},
                placeholder="Search an event",
                is_strict=True,
            ),
            "where": self._where(draft, name, event),
            "hint": self._hint(event),
            "source": source,
        }

    def _hint(self, event: str) -> str:
        """Some of the fields that the event is known to carry."""
        codes = [code for at, code in self.types if at == event]
        named = ", ".join(codes[:HINTED])
        return f"{named}, …" if len(codes) > HINTED else named

    def _name_list(
        self,
        draft: Draft,
        name: str,
        key: str,
        label: str,
        offered: dict[str, str],
        placeholder: str,
    ) -> Control:
        """A list of names, set apart from each other."""
        typed = f"{name}.{key}.new"
        control = self._control(
            typed,
            label,
            input="list",
            offers=offered,
            placeholder=placeholder,
            is_strict=True,
        )
        control.chips = [
            _chip(f"{TEXT}:{text}", TEXT) for text in drafts.listed(draft, key)
        ]
        return control

    def _question(self, draft: Draft, name: str) -> dict[str, Any]:
        ask = draft.get("ask", "count >=")
        about, _, op = ask.partition(" ")
        shown: dict[str, Any] = {
            "ask": self._control(
                f"{name}.ask",
                "What to ask",
                ask,
                choices=[(words, _choices(rows, ask)) for words, rows in ASKED],
            ),
            "unit_words": {"count": "times", "never": ""}.get(
                about, "" if about in DATES else "days ago"
            ),
        }
        if about in DATES:
            meanings = [DATE] if op == "on" else [DATE, TIME]
            shown["ends"] = [
                self._value(draft, name, f"{about}.{end}", words, meanings, {})
                for end, words in _ends(op)
            ]
        elif about in drafts.ABOUT:
            shown["ends"] = [
                self._control(
                    f"{name}.{about}.{end}",
                    words,
                    draft.get(f"{about}.{end}"),
                    input="whole",
                )
                for end, words in _ends(op)
            ]
        return shown

    def _period(self, draft: Draft, name: str) -> dict[str, Any]:
        period = draft.get("period", "any")
        offered = [
            (code, words)
            for code, words in PERIODS
            if draft.kind == "event" or code != "since"
        ]
        shown: dict[str, Any] = {
            "period": self._control(
                f"{name}.period", "Period", period, choices=_choices(offered, period)
            )
        }
        match period:
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
            case "this" | "previous":
                unit = draft.get("calendar", "month")
                shown["unit"] = self._control(
                    f"{name}.calendar",
                    "Unit",
                    unit,
                    choices=_choices([(u, u) for u in rules.CALENDAR_UNITS], unit),
                )
            case "span" | "times":
                shown["span"] = [
                    self._control(
                        f"{name}.{end}",
                        words,
                        draft.get(end),
                        input=_date_input(
                            draft.get(end), TIME if period == "times" else DATE
                        ),
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
                    is_strict=True,
                ),
                "unseen": bool(code and event and not type_),
                **self._comparison(line, place, type_, event=event),
                "problems": self._problems(place),
            }
            shown["kept"] = _kept(line, place, shown, "kind")
            self._look(shown)
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
            after = _AFTER.search(operator.words)
            shown["after"] = after.group(1) if after else ""
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
            case Takes.DAYS:
                return ["whole"]
            case Takes.DAY:
                return [DATE]
            case Takes.TIME:
                return self._dates(draft)
            case Takes.ORDERED | Takes.PAIR if type_ not in ("number", "date"):
                return [NUMBER, DATE, TIME]
            case Takes.LIST if type_ == "date":
                return [DATE]
        known = MEANING_OF.get(type_)
        if known == DATE:
            return self._dates(draft)
        return [known] if known else [TEXT, NUMBER, YES_NO]

    def _dates(self, draft: Draft) -> list[str]:
        is_day = draft.get("attribute") in offers.DAYS
        return [DATE] if is_day else [DATE, TIME]

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
        if meaning == TIME:
            text = drafts.to_local(text)
        control = self._control(f"{name}.{end}", label, text)
        control.meaning = meaning
        control.meanings = self._choose_meaning(meanings, meaning)
        match meaning:
            case "yesno":
                control.input = "yesno"
                control.choices = _choices([("yes", "yes"), ("no", "no")], text)
            case "date" | "time":
                control.input = _date_input(text, meaning)
            case "event":
                control.offers = self._event_values
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
            control.offers = self._event_values
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

    @property
    def _event_values(self) -> dict[str, str]:
        asked = {"of": "field", "event": self.values_of or self.event_name}
        return (
            {**asked, "more": " ".join(self.more_values)} if self.more_values else asked
        )

    def _choose_meaning(self, meanings: list[str], meaning: str) -> list[Choice]:
        offered = [*meanings]
        if self.allow_event_values:
            offered.append(EVENT)
        if meaning not in offered:
            offered.append(meaning)
        return _choices(
            [(one, drafts.MEANINGS.get(one, one)) for one in offered], meaning
        )

    def _look(self, shown: dict[str, Any]) -> None:
        """Give the focus to the part that was changed: its handle, or its first input
        that is not filled in."""
        if shown["path"] != self.focus:
            return
        controls = [
            control
            for found in shown.values()
            for control in (found if isinstance(found, list) else [found])
            if isinstance(control, Control)
        ]
        if self.on_handle or not controls:
            shown["has_focus"] = True
        else:
            empty = [c for c in controls if not (c.value or c.choices or c.shown)]
            (empty or controls)[0].has_focus = True

    def _control(self, name: str, label: str, value: str = "", **more: Any) -> Control:
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
    def _categories(self) -> dict[str, str]:
        return offers.category_names()


def _events(part: Draft) -> set[str]:
    """The events that a part speaks of."""
    if part.kind != "event":
        return set()
    return {one.get("event") for one in (part, *part.inner.values())}


def _ids(parts: list[Draft], what: str) -> set[int]:
    texts = {part.get(what) for part in parts if part.kind in ("segment", "message")}
    return {int(text) for text in texts if text.isascii() and text.isdigit()}


def _settle_period(root: Draft, node: Draft) -> None:
    period = node.get("period")
    since = node.inner.get("since", drafts.new("since"))
    if period == "since" and not since.get("event"):
        # Most often it is the event that was spoken of just before.
        events = [part for _, part in drafts.walk(root) if part.kind == "event"]
        place = next(i for i, part in enumerate(events) if part is node)
        others = [*reversed(events[:place]), *events[place + 1 :]]
        known = next((part for part in others if part.get("event")), None)
        node.inner["since"] = since
        if known is not None:
            since.set(event=known.get("event"))
            since.where = copy.deepcopy(known.where)
    if period in ("span", "times"):
        meaning = TIME if period == "times" else DATE
        for end in ("from", "to"):
            node.values[end] = [_redated(node.get(end), meaning)]


def _redated(text: str, meaning: str) -> str:
    """A day as a time, or a time as its day."""
    if meaning == TIME and text and drafts.is_day(text):
        return f"{text}T00:00"
    if meaning == DATE and drafts.is_local(text):
        return text[:10]
    return text


def _date_input(text: str, meaning: str) -> str:
    if not text:
        return "datetime-local" if meaning == TIME else "date"
    if drafts.is_day(text):
        return "date"
    return "datetime-local" if drafts.is_local(text) else "text"


def _kept(
    draft: Draft, name: str, shown: dict[str, Any], *seen: str
) -> list[tuple[str, str]]:
    """What the draft has and nothing shows, so that it is not lost."""
    shown_keys = {*seen, *_names(shown, name)}
    rows = [
        (f"{name}.{key}", text)
        for key, texts in draft.values.items()
        if key not in shown_keys
        for text in texts
    ]
    if "since" in draft.inner and "since" not in shown:
        rows += _all_of(draft.inner["since"], f"{name}.since")
    return rows


def _all_of(draft: Draft, name: str) -> list[tuple[str, str]]:
    rows = [(f"{name}.{key}", t) for key, texts in draft.values.items() for t in texts]
    for i, line in enumerate(draft.where):
        rows += _all_of(line, f"{name}.where.{i}")
    return rows


def _operators(type_: str, chosen: str) -> list[tuple[str, str]]:
    """Comparisons that fit the type; those for an unknown one are all."""
    rows = [
        (code, _AFTER.sub(r" … \1", operator.words))
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
        if key.endswith(".new"):
            stem = key.removesuffix(".new")
            keys |= {stem, f"{stem}.as", f"{stem}.lines"}
        elif control.input == "picked":
            keys.add(f"{key}.text")
        elif control.meanings:
            keys.add(f"{key}.as")
    return keys


def _chip(item: str, expected: str) -> dict[str, str]:
    meaning, _, text = item.partition(":")
    note = ""
    if meaning != expected and expected != DATE:
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
    if meaning == TEXT and meanings[0] == DATE and rules.read_instant(text):
        return DATE if drafts.is_day(text) else TIME
    return TEXT if meaning in (DATE, TIME) and DATE not in meanings else meaning


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

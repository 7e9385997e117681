"""A rule as a form: every rule can be shown, and comes back the same."""

from __future__ import annotations

from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segments import drafts, rules
from segments.builder import Options, render
from segments.operators import OPERATORS, Takes
from tests.segments.language import in_order

pytestmark = pytest.mark.django_db

EVENT_VALUES = Options(allow_event_values=True, live=False)


@pytest.fixture(autouse=True)
def _zone_with_summer_time(request):
    request.getfixturevalue("settings").TIME_ZONE = "Europe/Berlin"


class Inputs(HTMLParser):
    """What a browser would send of a form: names and values, in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.sent: list[tuple[str, str]] = []
        self.area = self.select = None
        self.text = ""
        self.is_template = False

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "template":
            self.is_template = True
        if self.is_template:
            return
        name = attrs.get("name")
        if tag == "input" and name:
            if attrs.get("type") == "checkbox":
                if "checked" in attrs:
                    self.sent.append((name, attrs.get("value", "on")))
            else:
                self.sent.append((name, _one_line(attrs)))
        elif tag == "select":
            self.select, self.first = name, None
        elif tag == "option":
            self.first = attrs["value"] if self.first is None else self.first
            if "selected" in attrs:
                self.sent.append((self.select, attrs["value"]))
                self.select = None
        elif tag == "textarea":
            self.area, self.text = name, ""

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        if self.area:
            self.text += data

    def handle_endtag(self, tag):
        if tag == "template":
            self.is_template = False
        if tag == "textarea":
            # The first line end after the tag is no part of the value.
            text = self.text.removeprefix("\n")
            self.sent.append((self.area, text.replace("\n", "\r\n")))
            self.area = None
        elif tag == "select" and self.select and self.first is not None:
            self.sent.append((self.select, self.first))
            self.select = None


def _one_line(attrs):
    text = attrs.get("value") or ""
    if attrs.get("type") == "hidden":
        return text.replace("\n", "\r\n")
    if attrs.get("type") == "date":
        return text if rules.DAY.match(text) else ""
    if attrs.get("type") == "datetime-local":
        return text if drafts.is_local(text) else ""
    return text.replace("\n", "")


def sent_by(html: str) -> dict[str, list[str]]:
    parser = Inputs()
    parser.feed(html)
    data: dict[str, list[str]] = {}
    for name, text in parser.sent:
        data.setdefault(name, []).append(text)
    return data


texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=12)
codes = st.from_regex(r"[a-z_][a-z0-9_]{0,6}(\.[a-z]{1,4})?", fullmatch=True)
names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]),
    min_size=1,
    max_size=12,
)
days = st.dates().map(str)
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]).map(ZoneInfo)
times = st.datetimes(timezones=zones)
instants = (
    days
    | times.map(lambda time: time.isoformat())
    | times.map(lambda time: time.replace(microsecond=0, second=0).isoformat())
    | st.sampled_from(["2026-10-01T09:00:00Z", "2026-10-01 09:00+03:00"])
)
from_event = codes.map(rules.EventValue)
numbers = st.integers(-(10**20), 10**20) | st.floats(-1e99, 1e99) | st.integers(-5, 5)
two_instants = st.tuples(instants, instants).map(in_order)
scalars = texts | numbers | st.booleans() | from_event | days


def _values(op):
    match OPERATORS[op].takes:
        case Takes.NOTHING:
            return st.none()
        case Takes.ONE:
            return scalars
        case Takes.LIST:
            lists = st.lists(scalars, min_size=1, max_size=5)
            long = st.lists(texts, min_size=51, max_size=60)
            return lists.map(tuple) | long.map(tuple) | from_event
        case Takes.ORDERED:
            return numbers | instants | from_event
        case Takes.PAIR:
            return (
                st.tuples(numbers, numbers).map(in_order)
                | two_instants
                | st.tuples(from_event, numbers)
            )
        case Takes.TEXT:
            return texts.filter(bool) | from_event
        case Takes.TIME:
            return instants | from_event
        case Takes.DAY:
            return days | from_event
        case Takes.DAYS:
            return st.integers(0, 1_000_000)


def _comparisons(make, subjects):
    return st.sampled_from(list(OPERATORS)).flatmap(
        lambda op: st.builds(make, subjects, st.just(op), _values(op))
    )


counts = st.integers(0, 1_000_000)
pairs = st.tuples(counts, counts).map(lambda ends: tuple(sorted(ends)))
amounts = (st.sampled_from([">=", "<=", "="]), counts), (st.just("between"), pairs)
dates = (
    (st.sampled_from(["before", "after"]), instants | from_event),
    (st.just("on"), days | from_event),
    (st.just("between"), two_instants),
)
questions = st.one_of(
    *(
        st.builds(kind, *how)
        for kind in (rules.Count, rules.DaysSinceLast, rules.DaysSinceFirst)
        for how in amounts
    ),
    *(
        st.builds(kind, *how)
        for kind in (rules.LastDate, rules.FirstDate)
        for how in dates
    ),
)
lines = st.lists(_comparisons(rules.FieldIs, codes), max_size=3).map(tuple)
sources = st.lists(names, max_size=3, unique=True).map(tuple)
sinces = st.builds(rules.Since, names, lines, sources)
plain_periods = st.one_of(
    st.none(),
    st.builds(
        rules.Last, st.integers(1, 1200), st.sampled_from(list(rules.MAX_PERIOD))
    ),
    two_instants.map(lambda ends: rules.Span(*ends)),
    st.builds(rules.Span, instants, st.none()),
    st.builds(rules.Span, st.none(), instants),
    st.builds(
        rules.Calendar,
        st.sampled_from(["this", "previous"]),
        st.sampled_from(rules.CALENDAR_UNITS),
    ),
)


def _besides(is_there):
    other = st.builds(
        rules.Beside,
        names,
        st.just(is_there),
        st.lists(codes, max_size=3, unique=True).map(tuple),
        st.sampled_from(rules.ORDERS),
        lines,
        sources,
    )
    return st.just(()) | other.map(lambda one: (one,))


besides = st.tuples(_besides(True), _besides(False)).map(lambda two: two[0] + two[1])
channels = st.sampled_from(rules.CHANNELS)
categories = st.just("") | names
numbered = st.integers(1, 10**11)
conditions = st.one_of(
    _comparisons(rules.Attribute, names),
    st.builds(rules.InSegment, numbered),
    st.builds(
        rules.Happened,
        names,
        lines,
        plain_periods | sinces,
        questions,
        sources,
        besides,
    ),
    st.builds(
        rules.Messaged,
        st.sampled_from(rules.MESSAGE_STAGES),
        st.none() | numbered,
        st.just("") | channels,
        plain_periods,
        questions,
    ),
    st.builds(
        rules.ConsentIs, channels, st.sampled_from(rules.CONSENT_ANSWERS), categories
    ),
    st.builds(rules.Reachable, channels, categories),
)
trees = st.recursive(
    conditions,
    lambda inner: (
        st.builds(rules.All, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(rules.AnyOf, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(rules.Not, inner)
    ),
    max_leaves=6,
)


def normal(rule, *, top=True):
    """Two `not` in a row are none, and a condition alone is a group of one."""
    match rule:
        case rules.Not(rules.Not(part)):
            return normal(part, top=top)
        case rules.Not(part):
            found = rules.Not(normal(part, top=False))
        case rules.All(parts):
            return rules.All(tuple(normal(part, top=False) for part in parts))
        case rules.AnyOf(parts):
            return rules.AnyOf(tuple(normal(part, top=False) for part in parts))
        case _:
            found = rule
    grouped = isinstance(found, rules.Not) and isinstance(
        found.part, rules.All | rules.AnyOf
    )
    return rules.All((found,)) if top and not grouped else found


@settings(max_examples=200, deadline=None)
@given(trees)
def test_a_rule_shown_in_the_builder_and_sent_back_is_the_same_rule(rule):
    html = render(drafts.of_rule(rule), "steps-2-rule", EVENT_VALUES)

    draft = drafts.read(sent_by(html), "steps-2-rule")
    written = drafts.write(draft, "steps-2-rule")

    assert written.problems == []
    assert rules.parse(written.data, event_values=True) == normal(rule)

"""The compiler and a second, simple reading of the language agree."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from customers.models import Attribute, Customer
from events import schema
from events.ingest import record_events
from events.models import EventField
from segments import rules
from segments.compile import IdRange, compile_rule, customers_matching
from segments.dictionary import COLUMNS
from segments.operators import OPERATORS, Takes, ValueType
from tests import make
from tests.segments.evaluator import Happening, Person, World

NOW = datetime(2026, 3, 30, 12, tzinfo=UTC)  # Berlin changed its clocks the day before.
ZONE = "Europe/Berlin"
CITIES = ["Paris", "Berlin", "pa%ris", "P_ris", ""]
EVENTS = ["Viewed", "Paid"]
FIELDS = ["name", "price", "gift", "day", "address.city", "lines"]
TEXTS = [
    "Bag",
    "bag",
    "10",
    "10.5",
    "a%b",
    "axb",
    "2026-03-29",
    "2026-03-29T01:30:00+01:00",
    "",
]
VALUES = [
    *TEXTS,
    10,
    10.5,
    0,
    -3,
    True,
    False,
    None,
    [10],
    {"city": "Paris"},
    "2026-13-40",
]
DATES = [
    "2026-03-28",
    "2026-03-29",
    "2026-03-30",
    "2026-03-01T10:00:00+02:00",
    "2025-12-31",
]

# What a rule may say.

scalars = st.sampled_from([v for v in VALUES if isinstance(v, str | int | float)])
dates = st.sampled_from(DATES)
numbers = st.sampled_from([-3, 0, 10, 10.5, 11])


def values(takes: Takes):
    pair = st.tuples(numbers, numbers) | st.tuples(dates, dates)
    return {
        Takes.NOTHING: st.none(),
        Takes.ONE: scalars,
        Takes.LIST: st.lists(scalars, min_size=1, max_size=30).map(tuple),
        Takes.TEXT: st.sampled_from(["a", "A%", "_", "\\", "bag", "10"]),
        Takes.ORDERED: numbers | dates,
        Takes.PAIR: pair,
        Takes.TIME: dates,
        Takes.DAY: st.sampled_from(DATES[:3]),
        Takes.DAYS: st.integers(0, 40),
    }[takes]


def comparison(ops):
    return st.sampled_from(sorted(ops)).flatmap(
        lambda op: st.tuples(st.just(op), values(OPERATORS[op].takes))
    )


def fitting(type_: ValueType):
    return comparison(code for code, op in OPERATORS.items() if type_ in op.types)


ATTRIBUTES = {
    "tier": ValueType.STRING,
    "points": ValueType.NUMBER,
    "vip": ValueType.BOOLEAN,
    "joined": ValueType.DATE,
}
COLUMN_TYPES = {
    name: COLUMNS[name].type
    for name in ("city", "birth_date", "registered_at", "email")
}
attributes = st.sampled_from([*ATTRIBUTES.items(), *COLUMN_TYPES.items()]).flatmap(
    lambda pair: fitting(pair[1]).map(lambda c: rules.Attribute(pair[0], *c))
)
lines = st.sampled_from(FIELDS).flatmap(
    lambda field: comparison(OPERATORS).map(lambda c: rules.FieldIs(field, *c))
)
counts = st.one_of(
    st.tuples(st.sampled_from([">=", "<=", "="]), st.integers(0, 4)),
    st.tuples(st.just("between"), st.tuples(st.integers(0, 2), st.integers(2, 4))),
)
days = st.one_of(
    st.tuples(st.sampled_from([">=", "<=", "="]), st.integers(0, 40)),
    st.tuples(st.just("between"), st.tuples(st.integers(0, 9), st.integers(9, 60))),
)
last_dates = st.one_of(
    st.tuples(st.sampled_from(["before", "after"]), dates),
    st.tuples(st.just("on"), st.sampled_from(DATES[:3])),
    st.tuples(st.just("between"), st.tuples(dates, dates)),
)
questions = (
    counts.map(lambda c: rules.Count(*c))
    | days.map(lambda c: rules.DaysSinceLast(*c))
    | last_dates.map(lambda c: rules.LastDate(*c))
)
periods = (
    st.none()
    | st.builds(
        rules.Last,
        st.integers(1, 40),
        st.sampled_from(["hours", "days", "weeks", "months"]),
    )
    | st.builds(rules.Span, dates, dates)
    | st.builds(rules.Span, dates, st.none())
    | st.builds(rules.Span, st.none(), dates)
)
happened = st.builds(
    rules.Happened,
    st.sampled_from(EVENTS),
    st.lists(lines, max_size=2).map(tuple),
    periods,
    questions,
)
every_rule = st.recursive(
    attributes | happened,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda p: rules.All(tuple(p))),
        st.lists(inner, min_size=1, max_size=3).map(lambda p: rules.AnyOf(tuple(p))),
        inner.map(rules.Not),
    ),
    max_leaves=6,
)

# Whom it may be about.


def people(count: int) -> dict[int, Person]:
    """Random customers with random histories, in the database and in memory."""
    dice = random.Random(7)
    for code, type_ in ATTRIBUTES.items():
        Attribute.objects.create(code=code, type=type_.value)
    found: dict[int, Person] = {}
    items = []
    for i in range(count):
        held: dict[str, Any] = {
            code: dice.choice(VALUES[:-3]) for code in ATTRIBUTES if dice.random() < 0.7
        }
        columns = {
            "city": dice.choice(CITIES),
            "email": dice.choice(["", f"c{i}@example.com"]),
            "birth_date": dice.choice(
                [None, (NOW - timedelta(days=dice.randrange(60))).date()]
            ),
            "registered_at": dice.choice(
                [None, NOW - timedelta(hours=dice.randrange(-48, 900))]
            ),
        }
        customer = Customer.objects.create(
            external_id=f"C-{i}", attributes=held, **columns
        )
        found[customer.pk] = Person(columns, held)
        for _ in range(dice.randrange(7)):
            context: dict[str, Any] = {}
            for field in FIELDS:
                if dice.random() < 0.6 and "." not in field:
                    context[field] = dice.choice(VALUES)
            if dice.random() < 0.5:
                context["address"] = {"city": dice.choice(VALUES)}
            at = NOW - timedelta(minutes=dice.randrange(-5, 60 * 24 * 60))
            if dice.random() < 0.1:
                at = NOW - timedelta(days=dice.randrange(40))
            name = dice.choice(EVENTS)
            found[customer.pk].events.append(Happening(name, at, context))
            items.append(
                {
                    "name": name,
                    "customer": customer.external_id,
                    "occurred_at": at.isoformat(),
                    "context": context,
                }
            )
    assert record_events(items, source=make.source(), now=NOW).rejected == 0
    return found


@pytest.mark.django_db
def test_compiler_and_evaluator_agree_on_every_customer(settings_zone):
    schema.forget_known()
    for name in EVENTS:
        event_type = make.event_type(name)
        # One field declared a number, and the same field of the other type not.
        if name == "Paid":
            EventField.objects.create(
                type=event_type, code="price", value_type="number"
            )
            EventField.objects.create(type=event_type, code="name", value_type="number")
        else:
            EventField.objects.create(
                type=event_type, code="price", value_type="string"
            )
    everyone = people(60)
    types: dict = {code: type_.value for code, type_ in ATTRIBUTES.items()}
    types |= {
        (name, code): value_type
        for name, code, value_type in EventField.objects.values_list(
            "type__name", "code", "value_type"
        )
    }
    world = World(NOW, ZONE, types)

    @settings(
        max_examples=1500,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(every_rule)
    def agree(rule):
        expected = {pk for pk, person in everyone.items() if world.holds(rule, person)}
        assert customers_matching(compile_rule(rule, now=NOW)) == expected
        some = sorted(everyone)[::3]
        restricted = compile_rule(rule, now=NOW, restrict=some)
        assert customers_matching(restricted) == expected & set(some)
        part = IdRange(some[2], some[9])
        ranged = compile_rule(rule, now=NOW, restrict=part)
        assert customers_matching(ranged) == {
            pk for pk in expected if part.after < pk <= part.upto
        }
        # What is written can be read again, and means the same.
        assert rules.parse(rules.to_json(rule)) == rule

    agree()


@pytest.fixture
def settings_zone(settings):
    settings.TIME_ZONE = ZONE

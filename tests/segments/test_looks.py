"""Whatever changes the answer of a rule is named by what the rule looks at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from customers.models import Attribute, Consent, Customer, Device
from messaging.models import Message, Suppression
from segments import rules
from segments.compile import bind, compile_rule, customers_matching
from segments.dictionary import Dictionary
from segments.looks import AttributeEdge, ContextEdge, EventEdge, MessageEdge, looks_of
from segments.models import Membership, Segment
from smartcomm.core.db import fetch_all
from tests import make
from tests.segments.language import (
    ATTRIBUTES,
    CHANNELS,
    CONTEXT,
    EVENTS,
    NOWS,
    ZONE,
    Everyone,
)

pytestmark = pytest.mark.django_db
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SETTINGS = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(autouse=True)
def berlin(settings):
    settings.TIME_ZONE = ZONE


def looks(data):
    rule = rules.parse(data)
    return looks_of(rule, Dictionary.of(rule))


@pytest.mark.parametrize("now", [NOWS[1], NOWS[3], NOWS[5], NOWS[7]], ids=str)
def test_who_comes_or_goes_as_time_passes_has_an_edge_then_or_all_have_a_turn(now):
    everyone = Everyone(now, seed=300 + NOWS.index(now))
    changed = 0

    @SETTINGS
    @given(
        everyone.rules.leaves | everyone.rules.everything,
        st.randoms(use_true_random=False),
    )
    def hold(rule, dice):
        nonlocal changed
        rule = bind(rule, CONTEXT)
        everyone.vary(rules.Happened("Paid", period=rules.Last(3, "days")))
        known = Dictionary.of(rule)
        found = looks_of(rule, known)

        def members(at):
            return customers_matching(compile_rule(rule, now=at, dictionary=known))

        before = members(now)
        for unit in (HOUR / 4, HOUR, DAY, DAY * 30, DAY * 400):
            then = now + unit * dice.random()
            crossed = before ^ members(then)
            turn = found.next_turn(now)
            if not crossed or (turn is not None and turn <= then):
                continue
            due = set()
            for edge in found.edges:
                query = edge.query(now, then)
                for pk, moment in fetch_all(query.text, query.params):
                    if now <= edge.due(moment) <= then:
                        due.add(pk)
            assert crossed <= due
            changed += 1

    # By chance all who came or went did so at a turn.
    for _ in range(5):
        hold()
        if changed:
            break
    assert changed


def change(everyone: Everyone, kind: str, pk: int, dice) -> set[str]:
    """Change something of a customer; say what, as `Change.what` does."""
    now = everyone.now
    customer = Customer.objects.get(pk=pk)
    match kind:
        case "event":
            name = dice.choice(EVENTS)
            at = everyone.calendar.instant(dice)
            context = everyone._context()
            event = make.event(customer, name, at=at, now=now, **context)
            return {str(event.type_id)}
        case "city" | "birth_date" | "registered_at" | "email" | "phone":
            value = {
                "city": lambda: dice.choice(["Paris", "Berlin", ""]),
                "birth_date": lambda: dice.choice(everyone.calendar.births()),
                "registered_at": lambda: everyone.calendar.instant(dice),
                "email": lambda: dice.choice(["", f"new{pk}@example.com"]),
                "phone": lambda: dice.choice(["", f"+49152{pk:08d}"]),
            }[kind]()
            Customer.objects.filter(pk=pk).update(**{kind: value})
            return {kind}
        case "email_is_valid" | "phone_is_valid":
            Customer.objects.filter(pk=pk).update(**{kind: dice.random() < 0.5})
            return {kind}
        case "attribute":
            code = dice.choice(sorted(ATTRIBUTES))
            value = dice.choice(["Bag", 10, True, ["Bag", 10], now.isoformat()])
            attributes = {**customer.attributes, code: value}
            Customer.objects.filter(pk=pk).update(attributes=attributes)
            return {f"attributes.{code}"}
        case "consent":
            category = dice.choice([None, *everyone.categories.values()])
            place = {"channel": dice.choice(CHANNELS), "category": category}
            Consent.objects.filter(customer=customer, **place).delete()
            if dice.random() < 0.7:
                answer = dice.random() < 0.5
                Consent.objects.create(
                    customer=customer, is_granted=answer, changed_at=now, **place
                )
        case "device":
            Device.objects.filter(customer=customer).delete()
            if dice.random() < 0.6:
                Device.objects.create(
                    customer=customer, platform="ios", token=f"new{pk}"
                )
        case "suppression":
            Suppression.objects.filter(address=customer.email.lower()).delete()
            if customer.email and dice.random() < 0.5:
                Suppression.objects.create(
                    channel="email", address=customer.email, reason="bounced"
                )
        case "message":
            Message.objects.filter(customer=customer).delete()
            everyone._letter(customer, everyone.people[pk])
        case "list":
            segment = dice.choice(everyone.lists)
            listed = Membership.objects.filter(customer=customer, segment_id=segment)
            if not listed.delete()[0]:
                Membership.objects.create(
                    customer=customer, segment_id=segment, since=now
                )
            return {f"segment.{segment}"}
    return {kind}


CHANGES = [
    *["event", "event", "event", "city", "birth_date", "registered_at", "email"],
    *["phone", "email_is_valid", "phone_is_valid", "attribute", "attribute"],
    *["consent", "device", "suppression", "message", "list"],
]


def test_whatever_of_a_customer_changes_the_answer_is_named():
    now = NOWS[0]
    everyone = Everyone(now, seed=400)
    changed = 0

    @settings(SETTINGS, max_examples=250)
    @given(
        everyone.rules.leaves | everyone.rules.everything,
        st.randoms(use_true_random=False),
    )
    def hold(rule, dice):
        nonlocal changed
        rule = bind(rule, CONTEXT)
        everyone.vary(rules.ConsentIs("email", "yes"))
        known = Dictionary.of(rule)
        found = looks_of(rule, known)
        looked = found.customer | set(map(str, found.events))
        for kind in dice.sample(CHANGES, 6):
            pk = dice.choice(sorted(everyone.people))
            query = compile_rule(rule, now=now, dictionary=known, restrict=[pk])
            with transaction.atomic():
                before = customers_matching(query)
                names = change(everyone, kind, pk, dice)
                after = customers_matching(query)
                transaction.set_rollback(True)
            if before != after:
                changed += 1
                assert names & looked, (kind, names)

    hold()
    assert changed > 5


def test_every_event_that_a_rule_speaks_of_is_looked_at():
    for name in "ABCDE":
        make.event_type(name)
    inner = Segment.objects.create(name="Inner", rule={"event": "E"})
    found = looks(
        {
            "all": [
                {
                    "event": "A",
                    "period": {"since": {"event": "B"}},
                    "with": {"event": "C"},
                    "without": {"event": "D"},
                },
                {"not": {"segment": inner.pk}},
            ]
        }
    )

    assert found.events == {make.event_type(name).pk for name in "ABCDE"}
    assert not found.customer
    assert not found.edges


def test_what_is_looked_at_of_a_customer():
    listed = Segment.objects.create(name="Guests", kind="static")
    Attribute.objects.create(code="tier", type="string")

    def names(data):
        return looks(data).customer

    assert names({"attribute": "tier", "op": "is set"}) == {"attributes.tier"}
    assert names({"attribute": "city", "op": "is set"}) == {"city"}
    assert names({"attribute": "age", "op": "is set"}) == {"birth_date"}
    assert names({"segment": listed.pk}) == {f"segment.{listed.pk}"}
    assert names({"message": "sent"}) == {"message"}
    assert names({"consent": "sms", "is": "no"}) == {"consent"}
    both = {"consent", "suppression"}
    assert names({"reachable": "email"}) == {"email", "email_is_valid", *both}
    assert names({"reachable": "sms"}) == {"phone", "phone_is_valid", *both}
    assert names({"reachable": "push"}) == {"device", *both}
    assert looks({"reachable": "push"}).reach == {"push"}


def test_what_changes_by_the_clock_alone():
    type_id = make.event_type("A").pk
    Attribute.objects.create(code="expires", type="date")

    def edges(data):
        return looks(data).edges

    def days(*numbers):
        return {EventEdge(type_id, number, "days") for number in numbers}

    month = {"last": 2, "unit": "months"}
    assert edges({"event": "A", "period": month}) == {EventEdge(type_id, 2, "months")}
    for op, value, expected in [
        (">=", 3, days(3)),
        ("<=", 3, days(4)),
        ("=", 3, days(3, 4)),
        ("between", [3, 9], days(3, 10)),
        (">=", 0, set()),
        ("=", 0, days(1)),
    ]:
        for word in ("days_since_last", "days_since_first"):
            assert edges({"event": "A", word: {"op": op, "value": value}}) == expected
    assert edges({"message": "opened", "period": month}) == {
        MessageEdge("opened", 2, "months")
    }

    def dated(op, value):
        found = edges({"attribute": "expires", "op": op, "value": value})
        assert all(isinstance(e, AttributeEdge) for e in found)
        assert {e.name for e in found} == {"attributes.expires"}
        return {e.days for e in found}

    assert dated("days ago >=", 3) == {3}
    assert dated("days ago <=", 3) == {0, 4}
    assert dated("days ahead >=", 3) == {-3}
    assert dated("days ahead <=", 3) == {-4, 0}
    line = {"field": "travels", "op": "days ahead <=", "value": 3}
    found = edges({"event": "A", "where": [line]})
    assert {(e.code, e.days) for e in found if isinstance(e, ContextEdge)} == {
        ("travels", -4),
        ("travels", 0),
    }


def test_a_fixed_period_changes_nothing_by_the_clock():
    make.event_type("A")
    found = looks({"event": "A", "period": {"from": "2026-10-01", "to": "2999-01-01"}})

    assert not found.edges
    assert found.next_turn(datetime(2026, 3, 29, tzinfo=UTC)) is None


def test_a_turn_is_when_the_calendar_s_unit_begins():
    make.event_type("A")
    now = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)

    def turn(data):
        found = looks(data).next_turn(now)
        return found and found.isoformat()

    # Berlin's clocks are changed that very night.
    assert (
        turn({"event": "A", "period": {"this": "day"}}) == "2026-03-29T22:00:00+00:00"
    )
    assert turn({"event": "A", "period": {"previous": "month"}}) == (
        "2026-03-31T22:00:00+00:00"
    )
    assert turn({"attribute": "age", "op": ">=", "value": 18}) == (
        "2026-03-29T22:00:00+00:00"
    )
    birthday = {"attribute": "birth_date", "op": "anniversary within", "value": 7}
    assert turn(birthday) == "2026-03-29T22:00:00+00:00"
    assert turn({"not": birthday}) == turn(birthday)

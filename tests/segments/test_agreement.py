"""The compiler and a second, simple reading of the language agree."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings

from customers.models import Channel
from messaging import eligibility
from messaging.models import Content
from messaging.recipients import Claimed, Recipients
from segments import rules
from segments.compile import IdRange, compile_rule, customers_matching
from tests.segments.language import CATEGORIES, CONTEXT, NOWS, ZONE, Everyone

#: Cases for each of the times; more are tried by hand with AGREEMENT_CASES=2000.
CASES = int(os.environ.get("AGREEMENT_CASES", "150"))
SETTINGS = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(autouse=True)
def berlin(settings):
    settings.TIME_ZONE = ZONE


@pytest.mark.django_db
@pytest.mark.parametrize("now", NOWS, ids=str)
def test_compiler_and_evaluator_agree_on_every_customer(now):
    everyone = Everyone(now, seed=NOWS.index(now))
    some = sorted(everyone.people)[::3]
    part = IdRange(some[2], some[9])

    @SETTINGS
    @given(everyone.rules.everything, everyone.rules.leaves)
    def agree(rule, within):
        # What is written can be read again, and means the same.
        assert rules.parse(rules.to_json(rule), event_values=True) == rule
        if any(isinstance(p, rules.InSegment) for p in rules.walk(within)) or (
            rules.event_values(within)
        ):
            within = rules.Attribute("city", "=", "Berlin")
        everyone.vary(within)
        expected = everyone.meet(rule)

        def found(**how):
            query = compile_rule(rule, now=now, context=CONTEXT, **how)
            return customers_matching(query)

        assert found() == expected
        assert found(restrict=some) == expected & set(some)
        assert found(restrict=part) == {
            pk for pk in expected if part.after < pk <= part.upto
        }

    agree()


@pytest.mark.django_db
@pytest.mark.parametrize("now", NOWS, ids=str)
def test_every_period_and_every_age_is_read_alike(now):
    """What chance seldom puts together: each of them alone, for every customer."""
    everyone = Everyone(now, seed=100 + NOWS.index(now), count=120)
    asked: list[rules.Rule] = [
        rules.Happened("Viewed", period=period)
        for period in (
            *(
                rules.Last(number, unit)
                for number in (1, 2, 12)
                for unit in ("hours", "days", "weeks", "months")
            ),
            *(
                rules.Calendar(which, unit)
                for which in ("this", "previous")
                for unit in rules.CALENDAR_UNITS
            ),
        )
    ]
    for name in ("birth_date", "registered_at", "joined"):
        asked += [
            rules.Attribute(name, op, number)
            for op in (
                "days ago >=",
                "days ago <=",
                "days ahead >=",
                "days ahead <=",
                "anniversary within",
            )
            for number in (0, 1, 2, 364, 365)
        ]
    asked += [
        rules.Attribute("age", op, number)
        for op in ("=", ">=", "<=", ">", "<")
        for number in (0, 1, 17, 17.5, 18)
    ]
    told = set()
    for rule in asked:
        expected = everyone.meet(rule)
        assert customers_matching(compile_rule(rule, now=now)) == expected, rule
        told |= {frozenset(expected)}
    assert len(told) > len(asked) / 3


@pytest.mark.django_db
def test_every_way_to_stand_beside_another_event_is_read_alike():
    everyone = Everyone(NOWS[0], seed=200, count=150)
    for same in ((), ("product",), ("name",), ("product", "address.city")):
        for order in rules.ORDERS:
            for other in ("Viewed", "Paid"):
                for is_there in (True, False):
                    beside = rules.Beside(other, is_there, same, order)
                    rule = rules.Happened("Viewed", beside=(beside,))
                    expected = everyone.meet(rule)
                    found = customers_matching(compile_rule(rule, now=NOWS[0]))
                    assert found == expected, beside


@pytest.mark.django_db
def test_since_an_event_that_is_asked_for_as_well_is_read_alike():
    """What else a rule asks of the event since which it counts narrows what is read."""
    now = NOWS[3]
    everyone = Everyone(now, seed=500, count=150)
    day = everyone.calendar.days[-3].isoformat()
    line = rules.FieldIs("product", "=", 10)
    viewed = [
        rules.Happened("Viewed", period=period, question=question, where=where)
        for period in (
            rules.Last(3, "days"),
            rules.Last(1, "months"),
            rules.Calendar("previous", "month"),
            rules.Span(None, day),
        )
        for question in (
            rules.Count(">=", 1),
            rules.LastDate("after", day),
            rules.DaysSinceLast("<=", 7),
            rules.DaysSinceFirst("between", (2, 40)),
        )
        for where in ((), (line,))
    ]
    since = [
        rules.Happened(name, period=rules.Since(begun, where, source))
        for name, begun in (("Paid", "Viewed"), ("Viewed", "Paid"), ("Paid", "Paid"))
        for where, source in (((), ()), ((line,), ()), ((), ("shop",)))
    ]
    told = set()
    for one in viewed:
        for other in since:
            for rule in (
                rules.All((one, other)),
                rules.All((rules.Not(other), one)),
            ):
                expected = everyone.meet(rule)
                found = customers_matching(compile_rule(rule, now=now))
                assert found == expected, rule
                told |= {frozenset(expected)}
    assert len(told) > 30


@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(6))
def test_who_is_reachable_is_who_would_be_sent_a_message(seed):
    now = NOWS[0]
    everyone = Everyone(now, seed=seed)
    reached = 0
    for channel in Channel.values:
        for code in ("", *CATEGORIES):
            content = Content.objects.create(
                channel=channel, category=everyone.categories.get(code)
            )
            claimed = [
                Claimed(
                    id=pk,
                    customer_id=pk,
                    channel=channel,
                    content_id=content.pk,
                    event_id=None,
                    system_event_id=None,
                    run_id=None,
                    is_test=False,
                    address="",
                    attempts=0,
                    expires_at=now + timedelta(days=1),
                )
                for pk in everyone.people
            ]
            recipients = Recipients(claimed)
            sent = {
                row.customer_id
                for row in claimed
                if eligibility.refusal(recipients.situation(row), now=now) is None
            }
            rule = rules.Reachable(channel, code)
            assert customers_matching(compile_rule(rule, now=now)) == sent
            assert everyone.meet(rule) == sent
            reached += len(sent)
    assert 0 < reached < 9 * len(everyone.people)

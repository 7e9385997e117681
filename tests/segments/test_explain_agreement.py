"""Explaining agrees with who is in: over random rules and customers, part by part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segments import rules
from segments.compile import compile_rule, customers_matching
from segments.explain import Node, explain
from tests import make
from tests.segments.evaluator import Person
from tests.segments.language import CONTEXT, NOWS, ZONE, Calendar, Everyone

#: Cases for each of the times; more are tried by hand with AGREEMENT_CASES=1000.
CASES = int(os.environ.get("AGREEMENT_CASES", "60"))
SETTINGS = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(autouse=True)
def berlin(settings):
    settings.TIME_ZONE = ZONE


def walk(node: Node) -> Iterator[Node]:
    yield node
    for part in node.parts:
        yield from walk(part)


def parts_of(rule: rules.Rule, node: Node) -> Iterator[tuple[rules.Rule, Node]]:
    """Each part of the rule with its node; not those of segments in it."""
    yield rule, node
    match rule:
        case rules.All(inside) | rules.AnyOf(inside):
            for one, part in zip(inside, node.parts, strict=True):
                yield from parts_of(one, part)
        case rules.Not(inside):
            yield from parts_of(inside, node.parts[0])


def follows(node: Node) -> bool | None:
    """What a group must be, going by its parts; None where it has none."""
    held = [part.holds for part in node.parts]
    match node.kind:
        case "all":
            return all(held)
        case "any":
            return any(held)
        case "not":
            return not held[0]
        case "segment" if held:
            return bool(held[0])
    return None


def fits(number: int, op: str, value: Any) -> bool:
    match op:
        case ">=":
            return number >= value
        case "<=":
            return number <= value
        case "=":
            return number == value
    low, high = value
    return low <= number <= high


def agrees(rule: rules.Rule, node: Node, person: Person, everyone: Everyone) -> None:
    """What is shown of a leaf, read by itself, gives the verdict."""
    now, world = everyone.now, everyone.world
    match rule:
        case rules.Attribute("age", op, value):
            assert node.holds == world.compare(node.value, op, value, "number")
        case rules.Attribute(name):
            held = {**person.attributes, **person.columns}
            assert node.value == held.get(name)
        case rules.Happened() | rules.Messaged():
            assert node.count is not None
            assert node.more == node.count - len(node.events)
            moments = [event.occurred_at for event in node.events]
            newest, oldest = node.last, node.first
            if isinstance(rule.question, rules.FirstDate | rules.DaysSinceFirst):
                moments.reverse()
                # The oldest are shown, and the first of all last.
                if node.events:
                    assert moments[-1] == oldest
            elif node.events:
                assert moments[0] == newest
            assert moments == sorted(moments, reverse=True)
            assert (node.count == 0) == (node.last is None) == (not node.events)
            if node.events and not node.more:
                assert (moments[0], moments[-1]) == (newest, oldest)
            assert node.holds == asked(rule.question, node, now, world)
            if isinstance(rule, rules.Happened):
                beside_agrees(rule, node)
        case rules.ConsentIs(channel, answer, category):
            given = person.consents.get((channel, category))
            word = {None: "unanswered", True: "yes", False: "no"}[given]
            assert node.holds == (word == answer)
            told = {"unanswered": "Never answered", "yes": "Said yes", "no": "Said no"}
            assert node.fact.startswith(told[word])
        case rules.Reachable():
            assert node.holds == (node.fact == "Can be reached.")
        case rules.InSegment(segment):
            assert node.segment == segment
            if segment in everyone.lists:
                assert node.holds == (node.member_since is not None)


def asked(question: rules.Question, node: Node, now: datetime, world) -> bool:
    def days(moment: datetime | None) -> int | None:
        if moment is None:
            return None
        return max((now - moment) // timedelta(days=1), 0)

    match question:
        case rules.Count():
            return fits(node.count or 0, question.op, question.value)
        case rules.DaysSinceLast() | rules.DaysSinceFirst():
            which = (
                node.last if isinstance(question, rules.DaysSinceLast) else node.first
            )
            since = days(which)
            return since is not None and fits(since, question.op, question.value)
        case rules.LastDate(op, value) | rules.FirstDate(op, value):
            which = node.last if isinstance(question, rules.LastDate) else node.first
            return which is not None and world.in_dates(which, op, value)
    raise AssertionError(question)


def beside_agrees(rule: rules.Happened, node: Node) -> None:
    there = sum(other.is_there for other in rule.beside)
    for event in node.events:
        # One for each that must be there, none of those that must not.
        assert len(event.others) == there
        assert all(other.pk != event.pk for other in event.others)
    if len(rule.beside) == 1:
        for event in node.left_out:
            assert len(event.others) == 1 - there
    if not rule.beside:
        assert not node.left_out
    if isinstance(rule.period, rules.Since):
        if node.since is None:
            assert node.count == 0
        else:
            assert node.since.name == rule.period.event
            assert all(e.occurred_at > node.since.occurred_at for e in node.events)


@pytest.mark.django_db
@pytest.mark.parametrize("now", NOWS[:4], ids=str)
def test_the_tree_says_who_is_in_and_each_part_says_why(now):
    everyone = Everyone(now, seed=NOWS.index(now))
    everyone_else = sorted(everyone.people)

    @SETTINGS
    @given(everyone.rules.everything, everyone.rules.leaves, st.data())
    def agree(rule, within, data):
        if any(isinstance(p, rules.InSegment) for p in rules.walk(within)) or (
            rules.event_values(within)
        ):
            within = rules.Attribute("city", "=", "Berlin")
        everyone.vary(within)
        members = customers_matching(compile_rule(rule, now=now, context=CONTEXT))
        assert members == everyone.meet(rule)
        # One who is in and one who is not, where there are.
        outside = set(everyone_else) - members
        for group in (members, outside):
            if not group:
                continue
            pk = data.draw(st.sampled_from(sorted(group)))
            tree = explain(rule, pk, now=now, context=CONTEXT)

            assert tree.holds == (pk in members)
            for node in walk(tree):
                expected = follows(node)
                assert expected is None or node.holds == expected
                assert node.words
                assert not node.problem
                assert not node.blocks or node.holds is not node.wanted
                if node.blocks and node.parts:
                    assert any(part.blocks for part in node.parts)
                if not node.blocks:
                    assert not node.change
                elif not node.parts and node.segment is None:
                    assert node.change
            assert tree.blocks == (pk in outside)
            for part, node in parts_of(rule, tree):
                agrees(part, node, everyone.people[pk], everyone)

    agree()


@pytest.mark.django_db
@pytest.mark.parametrize("now", NOWS, ids=str)
def test_the_age_that_is_shown_is_the_one_that_is_compared(now):
    for born in Calendar(now).births():
        customer = make.customer(birth_date=born)
        rule = rules.Attribute("age", ">=", 0)
        shown = explain(rule, customer.pk, now=now).value
        same = (
            rules.Attribute("age", "is not set")
            if shown is None
            else rules.Attribute("age", "=", shown)
        )
        assert explain(same, customer.pk, now=now).holds, (born, shown)

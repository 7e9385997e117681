"""Whether a difference may be chance."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from campaigns.chance import (
    HARDLY_CHANCE,
    MAY_BE_CHANCE,
    TOO_EARLY,
    Proportion,
    compare,
)

# Table II of the paper, method 10: what its author published.
PUBLISHED = [
    ((56, 70), (48, 80), 0.0524, 0.3339),
    ((9, 10), (3, 10), 0.1705, 0.8090),
    ((6, 7), (2, 7), 0.0582, 0.8062),
    ((5, 56), (0, 29), -0.0381, 0.1926),
    ((0, 10), (0, 20), -0.1611, 0.2775),
    ((0, 10), (0, 10), -0.2775, 0.2775),
    ((10, 10), (0, 20), 0.6791, 1.0),
    ((10, 10), (0, 10), 0.6075, 1.0),
]


@pytest.mark.parametrize(("group", "base", "low", "high"), PUBLISHED)
def test_the_interval_is_the_published_one(group, base, low, high):
    found = compare(Proportion(*group), Proportion(*base))
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_what_cannot_be_told_apart_may_be_chance():
    assert compare(Proportion(6, 100), Proportion(4, 100)).verdict == MAY_BE_CHANCE
    clear = compare(Proportion(600, 10_000), Proportion(400, 10_000))
    assert clear.verdict == HARDLY_CHANCE
    assert clear.uplift == pytest.approx(0.5)


def test_more_comparisons_must_be_surer():
    group, base = Proportion(125, 1_000), Proportion(96, 1_000)
    assert compare(group, base).verdict == HARDLY_CHANCE
    assert compare(group, base, comparisons=5).verdict == MAY_BE_CHANCE


def test_nothing_is_said_of_an_empty_group():
    for group, base in ((0, 10), (10, 0)):
        found = compare(Proportion(0, group), Proportion(0, base))
        assert (found.verdict, found.difference, found.uplift) == (
            TOO_EARLY,
            None,
            None,
        )


def test_an_uplift_over_nothing_is_none():
    assert compare(Proportion(5, 10), Proportion(0, 10)).uplift is None


@example(1, 238, 0.0, 1.0)
@given(*[st.integers(1, 5_000)] * 2, *[st.floats(0, 1)] * 2)
def test_the_interval_holds_the_difference_and_stays_possible(of, base_of, rate, base):
    group = Proportion(round(of * rate), of)
    other = Proportion(round(base_of * base), base_of)
    found = compare(group, other)
    assert -1 <= found.low <= found.difference + 1e-12
    assert found.difference - 1e-12 <= found.high <= 1
    turned = compare(other, group)
    assert turned.low == pytest.approx(-found.high)
    assert turned.verdict == found.verdict

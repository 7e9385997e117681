"""Customers taken at random: each as likely as any other, whatever gaps there are."""

from __future__ import annotations

import random
import statistics
from datetime import UTC, datetime

import pytest

from customers.models import Customer
from segments import estimate as estimates
from segments import rules
from segments.estimate import Draw, estimate

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PARIS = rules.parse({"attribute": "city", "op": "=", "value": "Paris"})


def customers_with(ids) -> set[int]:
    """Customers with just these ids; every fourth is of Paris."""
    Customer.objects.bulk_create(
        Customer(pk=pk, external_id=f"C-{pk}", city="Rome" if n % 4 else "Paris")
        for n, pk in enumerate(ids)
    )
    return set(ids)


def test_nobody_is_drawn_where_nobody_is():
    assert Draw().more(10) == []
    assert estimate(PARIS, now=NOW).count == 0


def test_every_customer_is_as_likely_and_nobody_is_drawn_twice():
    # One in ten ids is gone.
    there = customers_with([pk for pk in range(1000, 1400) if pk % 10 != 3])
    times = dict.fromkeys(there, 0)
    random.seed(3)

    for _ in range(400):
        draw = Draw()
        ids = draw.more(40) + draw.more(40)
        assert len(ids) == len(set(ids))
        for pk in ids:
            times[pk] += 1

    mean = statistics.mean(times.values())
    assert mean == pytest.approx(400 * 80 / 360, rel=0.03)
    # Five standard deviations.
    assert all(abs(number - mean) < 42 for number in times.values())


def test_all_are_drawn_in_the_end_and_then_nobody_is():
    there = customers_with(range(500, 560))
    draw = Draw()

    first = draw.more(50)
    rest = draw.more(50)

    assert set(first) | set(rest) == there
    assert draw.more(50) == []
    assert draw.estimate(15) == (15, 0)


def test_where_most_ids_are_gone_places_of_rows_are_drawn_as_fairly():
    there = customers_with(range(37, 37 * 1601, 37))
    random.seed(4)
    draw = Draw()
    assert isinstance(draw.places, estimates.Rows)

    ids = draw.more(200)
    found = [estimate(PARIS, now=NOW) for _ in range(30)]

    assert 100 < len(ids) == len(set(ids))
    assert set(ids) <= there
    assert sum(abs(one.count - 400) <= one.margin for one in found) >= 26
    assert statistics.mean(one.base for one in found) == pytest.approx(1600, rel=0.1)

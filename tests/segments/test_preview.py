from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from django.db.utils import InternalError

from customers.models import Customer
from segments import preview as previews
from segments import rules
from segments.models import Segment
from segments.preview import TooDear, preview
from tests import make

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PARIS = rules.parse({"attribute": "city", "op": "=", "value": "Paris"})


def test_a_preview_counts_says_and_shows_who_meets_the_rule():
    make.customer("C-1", city="Paris")
    make.customer("C-2", city="Paris")
    make.customer("C-3", city="Rome")

    found = preview(PARIS, exact=True, now=NOW)

    assert (found.count, found.exact, found.margin, found.base) == (2, True, 0, 3)
    assert found.sample == ["C-2", "C-1"]
    assert found.sentence == "City is “Paris”"
    assert found.took_ms >= 0


def test_the_sample_is_cut_to_twenty_customers_known_last():
    Customer.objects.bulk_create(
        Customer(external_id=f"C-{i:02}", city="Paris") for i in range(25)
    )

    found = preview(PARIS, exact=True, now=NOW)

    assert found.count == 25
    assert found.sample == [f"C-{i:02}" for i in range(24, 4, -1)]


def test_with_few_customers_even_an_estimate_is_exact():
    make.customer(city="Paris")

    found = preview(PARIS, exact=False, now=NOW)

    assert (found.count, found.exact, found.margin) == (1, True, 0)


def test_a_preview_of_nobody_and_of_an_empty_base():
    assert preview(PARIS, exact=False, now=NOW).count == 0
    assert preview(PARIS, exact=False, now=NOW).share == 0


def test_an_estimate_asks_a_random_sample_and_tells_its_margin(monkeypatch):
    monkeypatch.setattr(previews, "COUNT_UP_TO", 100)
    monkeypatch.setattr(previews, "SAMPLE", 500)
    Customer.objects.bulk_create(
        Customer(external_id=f"C-{i}", city="Paris" if i % 4 == 0 else "Rome")
        for i in range(2000)
    )
    # Gaps, as deletions leave them.
    Customer.objects.filter(external_id__endswith="3").delete()
    true_count = Customer.objects.filter(city="Paris").count()
    random.seed(7)

    found = [preview(PARIS, exact=False, now=NOW) for _ in range(60)]

    assert {one.exact for one in found} == {False}
    assert {one.base for one in found} == {1800}
    assert len({one.count for one in found}) > 10
    right = [abs(one.count - true_count) <= one.margin for one in found]
    assert sum(right) >= 53, "95 % of 60 are 57; 53 or fewer happen once in 40,000"
    assert all(0 < one.margin < 100 for one in found)
    assert all(len(one.sample) == 20 for one in found)


def test_the_sample_is_fair_where_most_ids_are_gone(monkeypatch):
    Customer.objects.bulk_create(Customer(external_id=f"C-{i}") for i in range(3000))
    kept = list(Customer.objects.order_by("pk").values_list("pk", flat=True))[::50]
    Customer.objects.exclude(pk__in=kept).delete()
    # What no index is told: ids are so sparse that picking them at random is no use.
    monkeypatch.setattr(previews, "ROUNDS", 1)

    ids = previews.random_ids(20)

    assert len(set(ids)) == 20
    assert set(ids) <= set(kept)


def test_the_margin_stays_honest_when_nobody_of_the_sample_is_found():
    count, margin = previews.estimate(0, 10_000, 1_000_000)

    assert count == 0
    assert 300 < margin < 450

    assert previews.estimate(10_000, 10_000, 10_000) == (10_000, 0)
    assert previews.estimate(0, 0, 50) == (0, 50)


def test_what_takes_too_long_is_stopped_and_says_so(monkeypatch):
    monkeypatch.setattr(
        previews, "COUNT_AND_SHOW", "SELECT 0, ARRAY[pg_sleep(5)::text] -- {query} %s"
    )

    with pytest.raises(TooDear, match=r"longer than 0\.05 seconds"):
        preview(PARIS, exact=True, now=NOW, limit_ms=50)

    # The connection is as before.
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)
    make.customer()


def test_a_preview_can_write_nothing_and_leaves_its_surroundings_as_they_were():
    with (
        pytest.raises(InternalError, match="read-only transaction"),
        transaction.atomic(),
        previews.read_only(1000),
    ):
        make.customer()

    with previews.read_only(1000):
        assert Customer.objects.count() == 0
    make.customer()
    assert Customer.objects.count() == 1


def test_a_rule_that_takes_values_from_an_event_is_tried_with_its_context():
    anna = make.customer("C-anna")
    make.event(anna, "Product viewed", at=NOW - timedelta(days=1), product_id=77)
    rule = rules.parse(
        {
            "event": "Product viewed",
            "where": [{"field": "product_id", "op": "=", "value": "$product_id"}],
        },
        event_values=True,
    )

    assert preview(rule, exact=True, now=NOW, context={"product_id": 77}).count == 1
    assert preview(rule, exact=True, now=NOW, context={"product_id": 78}).count == 0


def test_a_sentence_names_attributes_and_segments_as_people_do():
    from customers.models import Attribute

    Attribute.objects.create(code="tier", label="Loyalty tier")
    gold = Segment.objects.create(name="Gold", rule=rules.to_json(PARIS))
    rule = rules.parse(
        {
            "all": [
                {"attribute": "tier", "op": "=", "value": "gold"},
                {"segment": gold.pk},
            ]
        }
    )

    assert previews.sentence_of(rule) == (
        "Loyalty tier is “gold”, and in the segment “Gold”"
    )

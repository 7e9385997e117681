from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from django.db.utils import InternalError

from customers.models import Customer
from segments import preview as previews
from segments import reading, rules
from segments.models import Segment
from segments.preview import preview
from segments.reading import TooDear
from smartcomm.core.db import fetch_all
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


def test_what_takes_too_long_is_stopped_and_says_so(monkeypatch):
    monkeypatch.setattr(
        previews,
        "tally",
        lambda *a, **k: fetch_all("SELECT pg_sleep(5)", using="default"),
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
        reading.read_only(1000),
    ):
        make.customer()

    with reading.read_only(1000):
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

from __future__ import annotations

import csv
import io
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from customers.models import Attribute, Customer
from segments import members, rules
from segments.models import Segment
from segments.rules import RuleConflict, RuleError
from segments.usage import refuse_circle, refuse_if_used
from smartcomm.core.db import execute
from smartcomm.core.errors import Conflict
from tests import make

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PARIS = rules.parse({"attribute": "city", "op": "=", "value": "Paris"})


def test_the_pages_of_a_segment_are_its_members_each_once(monkeypatch):
    Customer.objects.bulk_create(
        Customer(external_id=f"C-{i}", city="Paris" if i % 3 == 0 else "Rome")
        for i in range(100)
    )
    # Many ranges of ids, to go through their borders.
    monkeypatch.setattr(members, "FIRST_RANGE", 2)

    seen: list[str] = []
    before = None
    pages = 0
    while True:
        page = members.page(PARIS, now=NOW, before=before, limit=7)
        seen += [customer.external_id for customer in page.items]
        pages += 1
        if not page.next:
            break
        before = int(page.next)

    assert seen == [f"C-{i}" for i in range(99, -1, -3)]
    assert pages == 5


def test_a_page_costs_the_same_number_of_queries_for_few_and_for_many(
    django_assert_num_queries, monkeypatch
):
    monkeypatch.setattr(members, "FIRST_RANGE", 10**12)
    for number in (3, 300):
        Customer.objects.bulk_create(
            Customer(external_id=f"{number}-{i}", city="Paris") for i in range(number)
        )
        # The last id; a savepoint, its settings and its end; one range; the customers.
        with django_assert_num_queries(7):
            members.page(PARIS, now=NOW)


def pages_of(segment: Segment, **asked: Any) -> list[str]:
    seen: list[str] = []
    before = ""
    while True:
        page = members.kept_page(segment, before=before, limit=3, **asked)
        seen += [member.customer.external_id for member in page.items]
        if not page.next:
            return seen
        before = page.next


def test_kept_members_are_told_by_when_they_came_each_once():
    customers = [make.customer(f"C-{i}") for i in range(10)]
    segment = make.segment("Parisians", rules.to_json(PARIS))
    for place, customer in enumerate(customers):
        # Two at each time, so that the time alone is no place.
        since = NOW - timedelta(hours=place // 2)
        make.kept(segment, customer, since=since)
    make.kept(make.segment("Others"), make.customer("elsewhere"))

    newest_first = pages_of(segment)

    expected = ["C-1", "C-0", "C-3", "C-2", "C-5", "C-4", "C-7", "C-6", "C-9", "C-8"]
    assert newest_first == expected
    assert pages_of(segment, newest_first=False) == [f"C-{i}" for i in range(9, -1, -1)]


def test_kept_members_are_found_by_what_one_remembers_of_them():
    segment = make.segment("Parisians", rules.to_json(PARIS))
    anna = make.customer("C-1", first_name="Anna", email="anna@example.com")
    make.kept(segment, anna, make.customer("C-2", first_name="Ben"))
    make.customer("C-3", first_name="Anna")

    assert pages_of(segment, text="anna") == ["C-1"]
    assert pages_of(segment, text="C-2") == ["C-2"]
    assert pages_of(segment, text="anna@example.com") == ["C-1"]
    assert pages_of(segment, text="nobody") == []


def test_a_page_of_kept_members_costs_the_same_wherever_it_is(
    django_assert_num_queries,
):
    segment = make.segment("Parisians", rules.to_json(PARIS))
    for number in (2, 200):
        Customer.objects.bulk_create(
            Customer(external_id=f"{number}-{i}") for i in range(number)
        )
        found = Customer.objects.filter(external_id__startswith=f"{number}-")
        make.kept(segment, *found)
        with django_assert_num_queries(1):
            members.kept_page(segment)


def test_who_was_never_counted_is_searched_by_the_rule_itself():
    make.customer("C-1", first_name="Anna", city="Paris")
    make.customer("C-2", first_name="Anna", city="Rome")

    page = members.asked_page(PARIS, now=NOW, text="anna")

    assert [one.customer.external_id for one in page.items] == ["C-1"]
    assert page.items[0].since is None


def test_a_file_tells_the_members_as_they_are_kept():
    anna, ben = make.customer("C-1"), make.customer("C-2", city="Paris")
    segment = make.segment("Parisians", rules.to_json(PARIS))
    # The clock has not been looked at since: what is kept is told, and not mixed.
    make.kept(segment, anna, since=NOW)

    text = "".join(members.export(segment, now=NOW, chosen=["external_id", "since"]))

    assert text.splitlines() == [
        "\ufeffID,In the segment since",
        "C-1,2026-11-20T12:00:00+00:00",
    ]
    assert ben.external_id not in text


def test_a_file_tells_consents_and_lists():
    Attribute.objects.create(code="tags", type="list")
    anna = make.customer("C-1", attributes={"tags": ["a", "b"]})
    make.consent(anna, "email")
    make.consent(anna, "sms", yes=False)
    segment = make.kept(make.segment("Guests"), anna)

    chosen = ["attributes.tags", "consent.email", "consent.sms", "consent.push"]
    text = "".join(members.export(segment, now=NOW, chosen=chosen))

    assert text.splitlines()[1] == '"a, b",yes,no,'


def test_a_file_of_many_takes_no_more_memory_than_one_of_few():
    segment = make.segment("Guests")
    peaks = []
    for number in (4_000, 40_000):
        Customer.objects.bulk_create(
            Customer(external_id=f"{number}-{i}", first_name="Anna" * 10)
            for i in range(number)
        )
        execute(
            "INSERT INTO segments_membership (customer_id, segment_id, since) "
            "SELECT id, %s, now() FROM customers_customer ON CONFLICT DO NOTHING",
            [segment.pk],
        )
        connection.queries_log.clear()
        tracemalloc.start()
        lines = sum(part.count("\n") for part in members.export(segment, now=NOW))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert lines == 44_001
    assert peaks[1] < peaks[0] * 1.5


def test_a_file_has_every_member_with_declared_attributes():
    Attribute.objects.create(code="tier", label="Loyalty tier")
    Attribute.objects.create(code="vip", type="boolean")
    make.customer("C-1", city="Paris", attributes={"tier": "gold", "vip": True})
    make.customer("C-2", city="Paris", first_name="Zoë, “the” one")
    make.customer("C-3", city="Rome")

    segment = make.segment("Parisians", rules.to_json(PARIS))
    text = "".join(members.export(segment, now=NOW))

    assert text.startswith("\ufeffID,First name,")
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert [row["ID"] for row in rows] == ["C-1", "C-2"]
    assert (rows[0]["Loyalty tier"], rows[0]["vip"]) == ("gold", "yes")
    assert (rows[1]["Loyalty tier"], rows[1]["First name"]) == ("", "Zoë, “the” one")


@pytest.mark.parametrize(
    ("stored", "written"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("@sum", "'@sum"),
        ("+cmd|x", "'+cmd|x"),
        ("-2+3+cmd", "'-2+3+cmd"),
        ("+49 151 123", "+49 151 123"),
        ("-5", "-5"),
        ("Anna", "Anna"),
    ],
)
def test_a_file_holds_no_formulas(stored, written):
    assert members._text(stored) == written


def test_a_file_of_a_rule_with_an_unknown_name_is_refused_before_its_first_line():
    segment = Segment.objects.create(name="Broken", rule={"event": "Unheard of"})

    with pytest.raises(RuleError):
        members.export(segment, now=NOW)


def test_a_segment_that_another_one_uses_is_not_deleted():
    paris = Segment.objects.create(name="Paris", rule=rules.to_json(PARIS))
    Segment.objects.create(name="Loyal", rule={"not": {"segment": paris.pk}})

    with pytest.raises(Conflict, match="“Paris” is used by the segment “Loyal”"):
        refuse_if_used(paris)

    refuse_if_used(Segment.objects.get(name="Loyal"))


def test_segments_do_not_speak_of_each_other_in_a_circle():
    paris = Segment.objects.create(name="Paris", rule=rules.to_json(PARIS))
    loyal = Segment.objects.create(name="Loyal", rule={"segment": paris.pk})

    best = Segment.objects.create(name="Best", rule={"segment": loyal.pk})
    round_all = {"any": [rules.to_json(PARIS), {"segment": best.pk}]}

    with pytest.raises(RuleConflict, match="circle: Paris → Best → Loyal → Paris"):
        refuse_circle(paris.pk, rules.parse(round_all))
    with pytest.raises(RuleConflict, match="circle: Paris → Paris"):
        refuse_circle(paris.pk, rules.parse({"segment": paris.pk}))

    refuse_circle(loyal.pk, rules.parse({"segment": paris.pk}))

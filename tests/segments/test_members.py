from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest

from customers.models import Attribute, Customer
from segments import members, rules
from segments.models import Segment
from segments.rules import RuleConflict, RuleError
from segments.usage import refuse_circle, refuse_if_used
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
        with django_assert_num_queries(8):
            members.page(PARIS, now=NOW)


def test_a_file_has_every_member_with_declared_attributes():
    Attribute.objects.create(code="tier", label="Loyalty tier")
    Attribute.objects.create(code="vip", type="boolean")
    make.customer("C-1", city="Paris", attributes={"tier": "gold", "vip": True})
    make.customer("C-2", city="Paris", first_name="Zoë, “the” one")
    make.customer("C-3", city="Rome")

    text = "".join(members.export(PARIS, now=NOW))

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
    with pytest.raises(RuleError):
        members.export(rules.parse({"event": "Unheard of"}), now=NOW)


def test_a_segment_that_another_one_uses_is_not_deleted():
    paris = Segment.objects.create(name="Paris", rule=rules.to_json(PARIS))
    Segment.objects.create(name="Loyal", rule={"not": {"segment": paris.pk}})

    with pytest.raises(Conflict, match="“Paris” is used by the segment “Loyal”"):
        refuse_if_used(paris)

    refuse_if_used(Segment.objects.get(name="Loyal"))


def test_segments_do_not_speak_of_each_other_in_a_circle():
    paris = Segment.objects.create(name="Paris", rule=rules.to_json(PARIS))
    loyal = Segment.objects.create(name="Loyal", rule={"segment": paris.pk})

    with pytest.raises(RuleConflict, match="a circle"):
        refuse_circle(paris.pk, rules.parse({"segment": loyal.pk}))
    with pytest.raises(RuleConflict, match="a circle"):
        refuse_circle(paris.pk, rules.parse({"segment": paris.pk}))

    refuse_circle(loyal.pk, rules.parse({"segment": paris.pk}))

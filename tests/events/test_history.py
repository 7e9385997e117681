"""The time line: what is on it, how it is searched, and what its last page costs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from customers.models import Customer
from events.history import Item, known_since, names_of, timeline
from events.models import Event, Kind
from smartcomm.core.errors import Invalid
from tests import make

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def anna() -> Customer:
    """Known since a year before NOON."""
    return make.customer("anna", registered_at=NOON - 365 * DAY)


def names(customer: Customer, **asked: Any) -> list[str]:
    return [item.name for item in timeline(customer, **asked).items]


def everything(customer: Customer, *, limit: int, **asked: Any) -> list[Item]:
    """All pages, one after the other."""
    found: list[Item] = []
    before = ""
    while True:
        page = timeline(customer, before=before, limit=limit, **asked)
        found += page.items
        before = page.next
        if not before:
            return found


# what is on it


def test_own_events_and_system_events_stand_on_one_line_newest_first(anna):
    make.event(anna, "Order paid", at=NOON - 3 * DAY)
    make.system_event("Product in stock", at=NOON - 2 * DAY)
    make.event(anna, "Call received", at=NOON - DAY)
    make.event(make.customer("ben"), "Call received", at=NOON)

    found = timeline(anna).items

    assert [(item.name, item.kind) for item in found] == [
        ("Call received", Kind.CUSTOMER),
        ("Product in stock", Kind.SYSTEM),
        ("Order paid", Kind.CUSTOMER),
    ]


def test_an_item_tells_what_the_sender_said_and_when_we_got_it(anna):
    event = make.event(
        anna, "Order paid", id="order-1", at=NOON, now=NOON + DAY, total=5
    )

    (item,) = timeline(anna).items

    assert (item.id, item.pk, item.source) == ("order-1", event.pk, "shop")
    assert (item.occurred_at, item.received_at) == (NOON, NOON + DAY)
    assert item.context == {"total": 5}


def test_a_system_event_recorded_after_a_customer_was_told_to_us_is_theirs():
    anna = make.customer("anna")
    make.system_event("Product in stock")

    assert names(anna) == ["Product in stock"]


def test_a_system_event_from_before_the_customer_was_known_is_not_theirs(anna):
    make.system_event("Product in stock", at=NOON - 366 * DAY)
    make.system_event("Product in stock", at=NOON - 364 * DAY)

    assert len(names(anna)) == 1


def test_a_backfilled_event_older_than_the_registration_moves_the_beginning(anna):
    make.system_event("Product in stock", at=NOON - 400 * DAY)
    make.event(anna, "Order paid", at=NOON - 500 * DAY, backfill=True)

    assert known_since(anna) == NOON - 500 * DAY
    assert names(anna) == ["Product in stock", "Order paid"]


def test_a_customer_without_anything_has_an_empty_line(anna):
    page = timeline(anna)

    assert (page.items, page.next) == ([], "")


# filters


def test_filtered_by_name_it_shows_that_event_only(anna):
    make.event(anna, "Order paid", at=NOON)
    make.event(anna, "order paid", at=NOON)
    make.system_event("Product in stock", at=NOON)

    assert names(anna, name="Order paid") == ["Order paid"]
    assert names(anna, name="Product in stock") == ["Product in stock"]
    assert names(anna, name="Never heard of") == []


def test_a_period_includes_its_beginning_and_not_its_end(anna):
    for hours in (0, 1, 2):
        make.event(anna, f"at {hours}", at=NOON + timedelta(hours=hours))

    found = names(anna, since=NOON, until=NOON + timedelta(hours=2))

    assert found == ["at 1", "at 0"]


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("order", True),
        ("ORDER PAID", True),
        ("leather bag", True),
        ("LEATHER", True),
        ("riga", True),
        ("77", True),
        ("100%", True),
        ("a_b", True),
        ('said "yes"', True),
        ("two\nlines", True),
        ("c:\\new", True),
        ("grün", True),
        # % and _ stand for themselves.
        ("l%r", False),
        ("a.b", False),
        ("l_ather", False),
        # Field codes are not values: every event of the type has them.
        ("product_id", False),
        ("shop", False),
        ("hat", False),
    ],
)
def test_a_text_is_looked_for_in_the_name_and_the_values(anna, text, is_found):
    make.event(
        anna,
        "Order paid",
        product="Leather bag",
        product_id=77,
        shop={"city": "Riga", "tags": ["grün", 'He said "yes"']},
        notes=["100% cotton", "a_b", "two\nlines", "c:\\new"],
        nothing=None,
    )
    make.event(anna, "Call received")

    assert names(anna, text=text) == (["Order paid"] if is_found else [])


def test_filters_add_up(anna):
    make.event(anna, "Order paid", at=NOON, product="Bag")
    make.event(anna, "Order paid", at=NOON, product="Hat")
    make.event(anna, "Call received", at=NOON, product="Bag")
    make.event(anna, "Order paid", at=NOON - DAY, product="Bag")

    found = timeline(anna, name="Order paid", text="bag", since=NOON).items

    assert [item.context["product"] for item in found] == ["Bag"]


def test_the_names_offered_are_those_on_the_line(anna):
    make.event(anna, "Order paid")
    make.event(make.customer("ben"), "Call received")
    make.system_event("Product in stock", at=NOON)
    make.system_event("Long ago", at=NOON - 1000 * DAY)

    assert names_of(anna) == ["Order paid", "Product in stock"]


# pages


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
def test_paging_shows_everything_once_though_much_happened_at_one_moment(anna, limit):
    for moment in (NOON, NOON, NOON, NOON - DAY):
        make.event(anna, "Order paid", at=moment)
        make.system_event("Product in stock", at=moment)

    found = everything(anna, limit=limit)

    assert len({(item.kind, item.pk) for item in found}) == len(found) == 8
    assert [item.place for item in found] == sorted(
        (item.place for item in found), reverse=True
    )


def test_what_arrives_while_somebody_reads_on_moves_nothing(anna):
    for hours in range(4):
        make.event(anna, f"at {hours}", at=NOON + timedelta(hours=hours))
    first = timeline(anna, limit=2)

    make.event(anna, "new", at=NOON + DAY)
    second = timeline(anna, limit=2, before=first.next)

    assert [item.name for item in second.items] == ["at 1", "at 0"]
    assert second.next == ""


@pytest.mark.parametrize(
    "cursor", ["x", "1.2", "1.2.x", "1.2.-3", "9" * 30 + ".1.1", "1.1." + "9" * 30]
)
def test_a_cursor_that_is_not_ours_is_refused(anna, cursor):
    with pytest.raises(Invalid, match="cursor"):
        timeline(anna, before=cursor)


def test_a_page_costs_as_many_queries_for_three_events_as_for_sixty(anna):
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            timeline(anna, limit=50)
        return len(captured)

    fill(anna, 3)
    few = queries()
    fill(anna, 60)

    assert queries() == few


@pytest.mark.parametrize("size", [200, 4_000])
def test_the_last_page_reads_no_more_rows_than_the_first(anna, size):
    fill(anna, size)
    top = timeline(anna, limit=20)
    oldest = Event.objects.filter(customer=anna).order_by("occurred_at", "id")[20]
    near_the_end = f"{round(oldest.occurred_at.timestamp() * 1_000_000)}.2.{oldest.pk}"

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE events_event")
    for before in ("", top.next, near_the_end):
        with CaptureQueriesContext(connection) as captured:
            assert len(timeline(anna, before=before, limit=20).items) >= 20
        (sql,) = [
            q["sql"]
            for q in captured
            if "LIMIT 21" in q["sql"] and '"events_event"' in q["sql"]
        ]
        # One more than the page, to know whether there are more; and, by one of the
        # plans there are, the other two of the moment at which the page begins.
        assert rows_read(sql) <= 21 + 2


def fill(customer: Customer, size: int) -> None:
    """Many events of one customer, some of them at the same moment."""
    event_type, source = make.event_type("Order paid"), make.source()
    start = Event.objects.count()
    Event.objects.bulk_create(
        Event(
            customer=customer,
            type=event_type,
            source=source,
            external_id=f"many-{start + n}",
            occurred_at=NOON - timedelta(minutes=n // 3),
            received_at=NOON,
            context={"n": n},
        )
        for n in range(size)
    )


def rows_read(sql: str) -> int:
    """How many rows of events PostgreSQL looked at to answer."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + sql)
        answer = cursor.fetchone()[0]
    plan = answer if isinstance(answer, list) else json.loads(answer)

    def walk(node: dict[str, Any]) -> int:
        inner = sum(walk(child) for child in node.get("Plans", []))
        if node.get("Relation Name") != "events_event":
            return inner
        skipped = node.get("Rows Removed by Filter", 0)
        return inner + int((node["Actual Rows"] + skipped) * node["Actual Loops"])

    return walk(plan[0]["Plan"])

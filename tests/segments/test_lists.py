"""Lists of customers: put in and taken out by file, by hand, by the API's operation."""

from __future__ import annotations

import io
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.urls import reverse

from customers.models import Customer, FormerId
from events.models import Event
from segments import lists, rules, saving
from segments.compile import compile_rule, customers_matching
from segments.lists import By, How, Line
from segments.models import Change, DailyCount, ListChange, ListMiss, Segment
from segments.upkeep import keeper
from smartcomm.core.errors import Conflict, Invalid
from tests import make
from tests.segments.test_admin import colleague, page_of

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def staff(client: Client) -> Client:
    user = get_user_model().objects.create_superuser("anna", "a@example.com", "x")
    client.force_login(user)
    return client


def ids_in(segment: Segment) -> list[str]:
    rows = segment.memberships.order_by("customer_id")
    return list(rows.values_list("customer__external_id", flat=True))


def put(segment: Segment, *values: str, how: str = How.ADD, **more: Any) -> ListChange:
    lines = (Line(number, value) for number, value in enumerate(values, 1))
    return lists.change(segment, lines, how=how, author="anna", **more)


def customers(*external_ids: str) -> None:
    for external_id in external_ids:
        make.customer(external_id)


def test_customers_are_added_replaced_and_taken_off():
    customers("C-1", "C-2", "C-3", "C-4")
    guests = make.segment("Guests")

    first = put(guests, "C-1", "C-2", "C-2")
    assert (first.lines, first.found, first.added) == (3, 3, 2)
    assert ids_in(guests) == ["C-1", "C-2"]

    second = put(guests, "C-2", "C-3", how=How.REPLACE)
    assert (second.added, second.removed) == (1, 1)
    assert ids_in(guests) == ["C-2", "C-3"]

    third = put(guests, "C-3", "C-4", how=How.REMOVE)
    assert (third.added, third.removed) == (0, 1)
    assert ids_in(guests) == ["C-2"]
    guests.refresh_from_db()
    assert (guests.count, guests.status) == (1, "fresh")


def test_who_stays_keeps_since_when_they_are_on_the_list():
    customers("C-1", "C-2")
    guests = make.segment("Guests")
    put(guests, "C-1", now=NOW)

    put(guests, "C-1", "C-2", how=How.REPLACE, now=NOW + timedelta(days=1))

    since = dict(guests.memberships.values_list("customer__external_id", "since"))
    assert since == {"C-1": NOW, "C-2": NOW + timedelta(days=1)}


def test_lines_that_stand_for_nobody_are_told_with_their_place():
    customers("C-1")
    guests = make.segment("Guests")

    made = put(guests, "C-1", "C-404", "", "c-1")

    assert (made.found, made.unknown) == (1, 3) or (made.found, made.unknown) == (1, 2)
    missed = list(made.misses.order_by("line").values_list("line", "value", "reason"))
    assert (2, "C-404", "unknown") in missed
    assert (4, "c-1", "unknown") in missed


def test_a_former_id_stands_for_the_customer_who_was_kept():
    anna = make.customer("C-1")
    FormerId.objects.create(external_id="C-0", customer=anna, merged_at=NOW)
    guests = make.segment("Guests")

    made = put(guests, "C-0")

    assert (made.found, ids_in(guests)) == (1, ["C-1"])
    assert lists.edit(guests, remove=["C-0"]).removed == 1


def test_contacts_are_matched_as_we_keep_them_and_shared_ones_stand_for_nobody():
    make.customer("C-1", email="anna@example.com", phone="+4915112345678")
    for number in (2, 3):
        make.customer(f"C-{number}", email="family@example.com")
    guests = make.segment("Guests")

    by_email = put(
        guests, " Anna@Example.com", "family@example.com", "no@where.org", by=By.EMAIL
    )
    by_phone = put(guests, "0049 151 12345678", "0151 1", by=By.PHONE, how=How.REMOVE)

    assert (by_email.found, by_email.ambiguous, by_email.unknown) == (1, 1, 1)
    assert by_email.misses.get(reason="ambiguous").value == "family@example.com"
    assert (by_phone.removed, by_phone.unknown) == (1, 1)


def test_a_list_is_not_replaced_by_nobody():
    customers("C-1")
    guests = make.segment("Guests")
    put(guests, "C-1")

    made = put(guests, "x-1", "x-2", how=How.REPLACE)

    assert (made.found, made.removed) == (0, 0)
    assert ids_in(guests) == ["C-1"]


def test_a_heading_on_the_first_line_is_no_customer_who_is_missing():
    customers("C-1")
    guests = make.segment("Guests")

    assert put(guests, "Customer", "C-1").unknown == 0
    assert put(guests, "C-404", "C-1").unknown == 1


def test_more_lines_than_are_taken_change_nothing(monkeypatch):
    customers("C-1", "C-2")
    guests = make.segment("Guests")
    monkeypatch.setattr(lists, "MAX_LINES", 1)

    with pytest.raises(Invalid, match="More than 1 lines"):
        put(guests, "C-1", "C-2")

    assert ids_in(guests) == []
    assert not ListChange.objects.exists()


def test_a_segment_with_a_rule_and_an_archived_list_take_nobody():
    rule = {"attribute": "city", "op": "=", "value": "Paris"}
    paris, old = make.segment("Paris", rule), saving.archive(make.segment("Old"))

    for segment, words in ((paris, "follow from its rule"), (old, "is archived")):
        with pytest.raises(Conflict, match=words):
            put(segment, "C-1")
        with pytest.raises(Conflict, match=words):
            lists.edit(segment, add=["C-1"])


def test_rules_that_ask_for_a_list_find_who_is_on_it_and_are_told_of_changes():
    customers("C-1", "C-2", "C-3")
    guests = make.segment("Guests")
    rule = rules.parse({"not": {"segment": guests.pk}})
    others = make.segment("Not guests", rules.to_json(rule))
    keeper.keep_all()
    Change.objects.all().delete()

    put(guests, "C-1", "C-2")
    lists.edit(guests, add=["C-2", "C-3"], remove=["C-1"])

    told = [
        Customer.objects.get(pk=change.customer_id).external_id
        for change in Change.objects.filter(what=[f"segment.{guests.pk}"])
    ]
    assert sorted(told) == ["C-1", "C-1", "C-2", "C-3"]
    outside = customers_matching(compile_rule(rule, now=NOW))
    assert {c.external_id for c in Customer.objects.filter(pk__in=outside)} == {"C-1"}
    keeper.keep_all()
    assert ids_in(others) == ["C-1"]


def test_a_list_that_no_rule_asks_for_tells_nobody_of_its_changes():
    customers("C-1")
    Change.objects.all().delete()

    put(make.segment("Guests"), "C-1")

    assert not Change.objects.exists()


def test_the_count_of_each_day_is_kept():
    customers("C-1", "C-2")
    guests = make.segment("Guests")

    put(guests, "C-1", now=NOW)
    put(guests, "C-2", now=NOW + timedelta(hours=1))

    counted = DailyCount.objects.filter(segment=guests).values_list("day", "count")
    assert list(counted) == [(NOW.date(), 2)]


def test_only_the_newest_changes_and_misses_are_kept(monkeypatch):
    monkeypatch.setattr(lists, "KEPT_CHANGES", 3)
    guests = make.segment("Guests")
    old = put(guests, "x-0", now=NOW - timedelta(days=31))
    assert old.misses.count() == 1

    put(guests, "x-1", now=NOW)
    assert not ListMiss.objects.filter(change=old).exists()
    for number in range(3):
        put(guests, f"y-{number}", now=NOW)

    assert guests.list_changes.count() == 3


def test_an_id_cannot_be_added_and_removed_at_once():
    customers("C-1")

    with pytest.raises(Invalid, match="“C-1” is to be added and removed at once"):
        lists.edit(make.segment("Guests"), add=["C-1"], remove=["C-1"])


def test_freezing_makes_a_list_of_who_meets_the_rule_at_this_moment():
    make.customer("C-1", city="Paris")
    make.customer("C-2", city="Rome")
    rule = {"attribute": "city", "op": "=", "value": "Paris"}
    paris = make.segment("Paris", rule)

    frozen = lists.freeze(paris, name="Paris, now", author="anna", now=NOW)
    make.customer("C-3", city="Paris")

    assert (frozen.kind, frozen.count, ids_in(frozen)) == ("static", 1, ["C-1"])
    assert frozen.list_changes.get().origin == "Paris"


def test_a_copy_of_a_list_has_the_same_customers():
    customers("C-1", "C-2")
    guests = make.segment("Guests")
    put(guests, "C-1", "C-2")

    copy = saving.duplicate(guests, author="anna")
    lists.edit(copy, remove=["C-1"])

    assert (ids_in(copy), copy.kind) == (["C-2"], "static")
    assert ids_in(guests) == ["C-1", "C-2"]


def test_many_lines_take_no_more_memory_than_few():
    Customer.objects.bulk_create(
        Customer(external_id=f"C-{number}") for number in range(1_000)
    )
    guests = make.segment("Guests")
    peaks = []
    for number in (5_000, 50_000):
        connection.queries_log.clear()
        tracemalloc.start()
        lists.change(
            guests, (Line(i, f"C-{i}") for i in range(number)), how=How.REPLACE
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert guests.memberships.count() == 1_000
    assert peaks[1] < peaks[0] * 1.5


# Reading


def read(text: str | bytes, **more: Any) -> list[tuple[int, str]]:
    data = text.encode() if isinstance(text, str) else text
    more.setdefault("by", By.ID)
    found = lists.read_file(io.BytesIO(data), **more)
    return [(line.number, line.value) for line in found]


def test_what_is_pasted_may_stand_on_lines_or_between_commas():
    found = [line.value for line in lists.read_text("C-1\r\n\n C-2 , C-3;C-4\tC-5\n")]

    assert found == ["C-1", "C-2", "C-3", "C-4", "C-5"]


@pytest.mark.parametrize(
    ("text", "asked", "found"),
    [
        ("C-1\nC-2\n", {}, [(1, "C-1"), (2, "C-2")]),
        ("C-1;Anna\nC-2;Ben", {}, [(1, "C-1"), (2, "C-2")]),
        ("name,ID\nAnna,C-1\n", {}, [(2, "C-1")]),
        ("name,E-mail\nAnna,a@b.com", {"by": By.EMAIL}, [(2, "a@b.com")]),
        ("name\tcode\nAnna\tC-1", {"column": "Code"}, [(2, "C-1")]),
        ("Anna,C-1", {"column": "2"}, [(1, "C-1")]),
        ('"a, b","C-1"\n"x\ny",C-2', {"column": "2"}, [(1, "C-1"), (3, "C-2")]),
        ("\ufeffid\nC-1", {}, [(2, "C-1")]),
        ("id\r\nC-1\r\n\r\n", {}, [(2, "C-1")]),
        ("a,b\nC-1\n", {"column": "2"}, [(1, "b")]),
        ("", {}, []),
    ],
)
def test_one_column_of_a_file_is_read(text, asked, found):
    assert read(text, **asked) == found


def test_files_of_other_programs_are_read_as_they_write():
    assert read("id\nMüller".encode("utf-16")) == [(2, "Müller")]
    assert read("id\nMüller".encode("cp1252")) == [(2, "Müller")]


@pytest.mark.parametrize(
    ("data", "asked", "words"),
    [
        (b"PK\x03\x04rest", {}, "a spreadsheet or an archive"),
        (b"\x00\x01\x02", {}, "no text"),
        (b"a,b\n1,2", {"column": "city"}, "no column “city”"),
        (b"a,b\n1,2", {"column": "7"}, "no column “7”"),
        (b"id\n" + b"x" * 70_000 + b"\xff\xfe\x81", {}, "cannot be read|no text"),
    ],
)
def test_what_is_no_such_file_is_said_to_be_none(data, asked, words):
    with pytest.raises(Invalid, match=words):
        read(data, **asked)


# The pages


def test_a_list_is_made_from_what_is_pasted_and_reports_who_is_missing(staff):
    customers("C-1", "C-2")

    answer = staff.post(
        reverse("admin:segments_list_add"),
        {"name": "Guests", "pasted": "C-1\nC-2\nC-404", "by": "id"},
        follow=True,
    )

    guests = Segment.objects.get(name="Guests")
    html = answer.content.decode()
    assert ids_in(guests) == ["C-1", "C-2"]
    assert (guests.kind, guests.created_by.username) == ("static", "anna")
    assert "C-404" in html
    made = guests.list_changes.get()
    misses = staff.get(reverse("admin:segments_list_misses", args=[guests.pk, made.pk]))
    lines = b"".join(misses.streaming_content).decode().splitlines()
    assert lines == ["\ufeffLine,Value,Reason", "3,C-404,Nobody has it"]


def test_a_list_is_made_empty_and_filled_from_a_file(staff):
    make.customer("C-1", email="anna@example.com")
    staff.post(reverse("admin:segments_list_add"), {"name": "Guests", "by": "id"})
    guests = Segment.objects.get(name="Guests")
    file = SimpleUploadedFile("fair.csv", b"name;e-mail\nAnna;anna@example.com\n")

    answer = staff.post(
        page_of("list", guests), {"how": "replace", "by": "email", "file": file}
    )

    made = guests.list_changes.get()
    report = reverse("admin:segments_list_report", args=[guests.pk, made.pk])
    assert answer["Location"] == report
    assert (made.origin, made.how, made.by) == ("fair.csv", "replace", "email")
    assert ids_in(guests) == ["C-1"]
    assert "fair.csv" in staff.get(page_of("list", guests)).content.decode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"name": "", "pasted": "C-1"}, "This field is required"),
        ({"name": "Taken", "pasted": "C-1"}, "There is a segment “Taken” already"),
        ({"name": "x", "by": "shoe size"}, "Select a valid choice"),
    ],
)
def test_a_list_that_cannot_be_made_says_why_and_keeps_what_was_typed(
    staff, data, words
):
    make.segment("Taken")

    answer = staff.post(reverse("admin:segments_list_add"), {"by": "id", **data})

    assert words in answer.content.decode()
    assert data.get("pasted", "") in answer.content.decode()
    assert Segment.objects.count() == 1


def test_a_bad_file_is_told_beside_it_and_nothing_changes(staff):
    guests = make.segment("Guests")
    file = SimpleUploadedFile("fair.xlsx", b"PK\x03\x04...")

    answer = staff.post(page_of("list", guests), {"by": "id", "file": file})

    assert "Save it as CSV" in answer.content.decode()
    assert not guests.list_changes.exists()
    nothing = staff.post(page_of("list", guests), {"by": "id"})
    assert "Paste some customers" in nothing.content.decode()


def test_one_customer_is_put_on_and_taken_off_the_list_on_its_page(staff):
    make.customer("C-1", email="anna@example.com")
    guests = make.segment("Guests")
    url = page_of("members", guests)

    put_on = staff.post(url, {"add": "anna@example.com"}, follow=True)
    again = staff.post(url, {"add": "C-1"}, follow=True)
    assert ids_in(guests) == ["C-1"]
    taken = staff.post(url, {"remove": "C-1"}, follow=True)
    nobody = staff.post(url, {"add": "C-404"}, follow=True)

    assert "is on the list now" in put_on.content.decode()
    assert "was on the list already" in again.content.decode()
    assert "C-1 is off the list now" in taken.content.decode()
    assert "There is no customer “C-404”" in nobody.content.decode()
    assert ids_in(guests) == []


def test_the_page_of_a_list_has_a_name_and_no_rule(staff):
    guests = make.segment("Guests")
    url = page_of("change", guests)

    html = staff.get(url).content.decode()
    answer = staff.post(url, {"name": "Visitors", "description": "", "seen": "1"})

    assert "data-builder" not in html
    assert answer.status_code == 302
    guests.refresh_from_db()
    assert (guests.name, guests.rule, guests.kind) == ("Visitors", None, "static")


def test_a_segment_is_frozen_by_a_button(staff):
    make.customer("C-1", city="Paris")
    paris = make.segment("Paris", {"attribute": "city", "op": "=", "value": "Paris"})

    for _ in range(2):
        answer = staff.post(page_of("freeze", paris))

    frozen = Segment.objects.filter(kind="static").order_by("pk")
    assert answer["Location"] == page_of("change", frozen[1])
    assert frozen[1].name == f"{frozen[0].name} (2)"
    assert ids_in(frozen[0]) == ["C-1"]


def test_who_may_only_view_changes_no_list():
    customers("C-1")
    guests = make.segment("Guests")
    reader = colleague("view_segment", "view_customer")

    assert reader.get(page_of("members", guests)).status_code == 200
    assert reader.post(page_of("members", guests), {"add": "C-1"}).status_code == 403
    for url in (page_of("list", guests), reverse("admin:segments_list_add")):
        assert reader.get(url).status_code == 403
        assert reader.post(url, {"pasted": "C-1", "by": "id"}).status_code == 403
    for deed in ("count", "freeze", "duplicate", "archive", "restore"):
        assert reader.post(page_of(deed, guests)).status_code == 403
    assert ids_in(guests) == []


def test_a_segment_with_a_rule_has_no_page_of_a_list(staff):
    paris = make.segment("Paris", {"attribute": "city", "op": "=", "value": "Paris"})

    assert staff.get(page_of("list", paris)).status_code == 404


def told(name: str) -> list[str]:
    return sorted(
        Event.objects.filter(type__name=name).values_list(
            "customer__external_id", flat=True
        )
    )


def test_a_watched_list_tells_who_comes_and_who_goes():
    customers("C-1", "C-2", "C-3")
    guests = make.segment("Guests")
    put(guests, "C-1")
    assert told("segment.entered") == []

    saving.change(guests, saving.Wanted("Guests", is_watched=True), author="anna")
    put(guests, "C-1", "C-2")
    put(guests, "C-3", how=How.REPLACE)
    lists.edit(guests, add=["C-1"], remove=["C-3"])

    assert told("segment.entered") == ["C-1", "C-2", "C-3"]
    assert told("segment.left") == ["C-1", "C-2", "C-3"]
    event = Event.objects.filter(type__name="segment.entered").first()
    assert event is not None
    assert event.context == {"segment": guests.pk, "name": "Guests"}


def test_the_name_of_a_watched_list_changes_and_it_stays_watched(staff: Client):
    guests = make.segment("Guests", is_watched=True)
    url = reverse("admin:segments_segment_change", args=[guests.pk])
    staff.post(url, {"name": "Invited", "description": "", "is_watched": "on"})
    guests.refresh_from_db()
    assert (guests.name, guests.is_watched) == ("Invited", True)

"""Lists, members and versions under real fingers."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from playwright.sync_api import Page, expect

from segments.models import Segment
from tests import make

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PARIS = {"all": [{"attribute": "city", "op": "=", "value": "Paris"}]}


@pytest.fixture
def staff(page: Page) -> Page:
    get_user_model().objects.create_superuser("anna", "anna@example.com", "secret")
    page.goto("/admin/login/?next=/admin/segments/segment/")
    page.get_by_label("Username").fill("anna")
    page.get_by_label("Password").fill("secret")
    page.get_by_role("button", name="Log in").click()
    return page


def test_a_list_is_made_from_a_column_that_is_clicked(staff: Page, tmp_path: Path):
    make.customer("C-1", first_name="Anna")
    file = tmp_path / "fair.csv"
    file.write_text('Name;Our number\n"Berg; Anna";C-1\nNobody;X-9\n')

    staff.get_by_role("link", name="New list").click()
    staff.get_by_label("Name", exact=True).fill("Guests")
    staff.set_input_files("#list-file", file)
    staff.get_by_text("Our number").click()
    staff.get_by_role("button", name="Make the list").click()

    expect(staff.get_by_role("cell", name="X-9")).to_be_visible()
    staff.get_by_role("link", name="Customers of the list").click()
    expect(staff.get_by_role("link", name="Anna", exact=True)).to_be_visible()

    staff.get_by_role("button", name="Take Anna off the list").click()
    expect(staff.get_by_text("Nobody is on this list yet.")).to_be_visible()
    assert not Segment.objects.get(name="Guests").memberships.exists()


def test_what_is_pasted_may_be_longer_than_a_form_takes(staff: Page):
    make.customer("C-1")
    staff.get_by_role("link", name="New list").click()
    staff.get_by_label("Name", exact=True).fill("Guests")
    many = ",".join(f"C-{number}" for number in range(300_000))
    staff.get_by_label("Paste customers").evaluate(
        "(area, text) => { area.value = text; }", many
    )

    staff.get_by_role("button", name="Make the list").click()

    expect(staff.get_by_text("The first 100 of 299,999.")).to_be_visible(timeout=60_000)
    assert Segment.objects.get(name="Guests").count == 1


def test_the_columns_of_a_file_are_asked_for_and_remembered(
    staff: Page, tmp_path: Path
):
    anna = make.customer("C-1", city="Paris")
    segment = make.kept(make.segment("Parisians", PARIS), anna)
    staff.goto(f"/admin/segments/segment/{segment.pk}/members/")

    for _ in range(2):
        staff.get_by_role("button", name="Export…").click()
        for box in staff.locator("#export-columns input[name=column]").all():
            box.set_checked(box.input_value() in ("external_id", "city"))
        with staff.expect_download() as download:
            staff.get_by_role("button", name="Download 1 row").click()
        path = tmp_path / "members.csv"
        download.value.save_as(path)
        assert path.read_text("utf-8-sig").splitlines() == ["ID,City", "C-1,Paris"]
        staff.reload()
    staff.get_by_role("button", name="Export…").click()
    assert staff.locator("#export-columns input:checked").count() == 2


def test_the_box_that_explains_works_within_the_form_of_the_segment(staff: Page):
    make.customer("C-1", first_name="Anna", city="Paris")
    segment = make.segment("Parisians", PARIS)
    staff.goto(f"/admin/segments/segment/{segment.pk}/change/")

    staff.get_by_label("Customer", exact=True).fill("C-1")
    staff.get_by_label("Customer", exact=True).press("Enter")

    expect(staff.locator("#explain-answer")).to_contain_text("is in")
    assert "/change/" in staff.url
    assert segment.versions.count() == 1


def test_two_who_save_at_once_both_keep_what_they_typed(staff: Page):
    segment = make.segment("Parisians", PARIS)
    other = staff.context.new_page()
    for page in (staff, other):
        page.goto(f"/admin/segments/segment/{segment.pk}/change/")
    staff.get_by_label("Description").fill("The first")
    other.get_by_label("Description").fill("The second")

    staff.get_by_role("button", name="Save and continue editing").click()
    expect(staff.get_by_text("was changed successfully")).to_be_visible()
    other.get_by_role("button", name="Save and continue editing").click()

    told = other.get_by_label("What somebody else changed")
    expect(told).to_contain_text("Saved meanwhile by anna")
    expect(told).to_contain_text("The first")
    expect(other.get_by_label("Description")).to_have_value("The second")
    other.get_by_role("button", name="Save and continue editing").click()
    expect(other.get_by_text("was changed successfully")).to_be_visible()

    other.get_by_role("link", name="Versions").click()
    staff.goto(other.url)
    staff.get_by_label("From version 1").check()
    staff.get_by_label("To version 2").check()
    staff.get_by_role("button", name="Compare the two chosen").click()
    expect(staff.locator(".sd-diff")).to_contain_text("The first")
    row = staff.get_by_role("row", name="Version 2")
    row.get_by_role("button", name="Restore").click()
    expect(staff.get_by_text("what version 2 said")).to_be_visible()
    segment.refresh_from_db()
    assert segment.description == "The first"

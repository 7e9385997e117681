"""A day in the life: a hyphen in a field code, from the 422 to the customer's history.

docs/rejected-events.md tells the same with curl.
"""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from playwright.sync_api import APIResponse, Page, expect

from events.keys import create_key
from events.models import Event, FieldMapping, RejectedEvent, Scope
from tests import make

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def staff(page: Page) -> Page:
    """A marketer, logged in. An error of a script fails the test."""
    get_user_model().objects.create_superuser("demo", password="demo")
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto("/admin/")
    page.get_by_label("Username").fill("demo")
    page.get_by_label("Password").fill("demo")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("link", name="Home")).to_be_visible()
    return page


def send(page: Page, key: str, number: int) -> APIResponse:
    """As the shop does, through the running server."""
    return page.request.post(
        "/api/v1/events",
        data={
            "id": f"order-{number}-paid",
            "name": "Order paid",
            "customer": "C-1001",
            "context": {"name": "Bag", "price-eur": 49.9},
        },
        headers={"Authorization": f"Bearer {key}"},
    )


def test_a_hyphen_in_a_field_code_is_mended_and_nothing_was_lost(staff: Page):
    anna = make.customer("C-1001", first_name="Anna", last_name="Berg")
    _, key = create_key(make.source("Shop"), [Scope.EVENTS])

    # The shop is told what is wrong, and where.
    for number in (8812, 8813):
        answer = send(staff, key, number)
        assert answer.status == 422
        (result,) = answer.json()["results"]
        assert result["code"] == "field_code_invalid"
        assert result["field"] == "context.price-eur"
        assert "“price-eur” is no field code" in result["message"]
    assert not Event.objects.exists()

    # Somebody sees it on the first page, and goes there.
    staff.goto("/admin/")
    staff.get_by_text("2 rejected events").click()
    expect(staff.get_by_text("2 events in 1 group")).to_be_visible()
    group = staff.get_by_role("article")
    expect(group).to_contain_text("price-eur")
    expect(group).to_contain_text("Order paid")
    group.get_by_text("The latest of them, as it was sent").click()
    expect(group.get_by_text('"id": "order-8813-paid"')).to_be_visible()

    # A name that is no better is refused.
    group.get_by_role("link", name="Rename the field…").click()
    code = staff.get_by_label("New field code")
    expect(code).to_have_value("price_eur")
    code.fill("price-euro")
    staff.get_by_role("button", name="Rename and replay").click()
    expect(staff.get_by_text("“price-euro” is no field code")).to_be_visible()
    assert not FieldMapping.objects.exists()

    # The right one makes a mapping and replays.
    staff.get_by_label("New field code").fill("price_eur")
    staff.get_by_role("button", name="Rename and replay").click()
    expect(staff.get_by_text("2 recorded.")).to_be_visible()
    expect(staff.get_by_text("all that was sent has been recorded")).to_be_visible()
    assert set(RejectedEvent.objects.values_list("status", flat=True)) == {"replayed"}

    # From the rejected event to the event, and to the customer's history.
    staff.get_by_role("link", name="One by one").click()
    staff.goto("/admin/events/rejectedevent/?status__exact=replayed")
    staff.get_by_role("link", name="Field code invalid").first.click()
    staff.get_by_role("link", name="Anna Berg").click()
    staff.wait_for_url(f"**/customers/customer/{anna.pk}/change/")
    line = staff.locator(".sc-line-event").first
    expect(line).to_contain_text("Order paid")
    line.locator("summary").click()
    expect(line).to_contain_text("price_eur")
    expect(line).to_contain_text("49.9")

    # The next order needs nobody.
    assert send(staff, key, 8814).status == 202
    assert Event.objects.count() == 3
    # And what the shop sends again by itself changes nothing.
    assert send(staff, key, 8812).json()["duplicates"] == 1
    assert Event.objects.count() == 3

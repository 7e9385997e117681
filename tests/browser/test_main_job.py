"""The main job: a marketer clicks, a master system calls the API."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone
from playwright.sync_api import APIResponse, Page, expect

from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs, settle_runs
from events.keys import create_key
from events.models import Scope
from messaging.send import send_messages
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


def post_event(page: Page, item: dict) -> APIResponse:
    """As a master system does, through the running server."""
    _, key = create_key(make.source("call centre"), [Scope.EVENTS])
    return page.request.post(
        "/api/v1/events", data=item, headers={"Authorization": f"Bearer {key}"}
    )


def work() -> None:
    """What the workers do, until there is nothing left."""
    while dispatch_events() + settle_runs() + advance_runs() + send_messages():
        pass


def test_from_a_segment_and_a_campaign_to_the_message(staff: Page):
    anna = make.reachable("C-1001", first_name="Anna", city="Paris")
    bert = make.reachable("C-1002", first_name="Bert", city="Berlin")
    for customer in (anna, bert):
        make.event(
            customer,
            "Product viewed",
            at=timezone.now() - timedelta(days=1),
            name="Bag",
        )
    make.event(anna, "Call received", topic="praise", agent="Eve")

    # A segment: those in Paris who viewed something.
    staff.goto("/admin/segments/segment/add/")
    staff.get_by_label("Name*").fill("Parisians who look around")
    add = staff.locator(".scb-add")
    add.get_by_role("button", name="Event").click()
    viewed = staff.locator('[data-node="0"]')
    viewed.get_by_role("combobox", name="Event", exact=True).fill("view")
    viewed.get_by_role("option", name="Product viewed").click()
    add.get_by_role("button", name="Attribute").click()
    city = staff.locator('[data-node="1"]')
    city.get_by_label("Attribute").select_option("City")
    city.get_by_label("Value", exact=True).fill("Paris")
    expect(staff.locator(".scb-count")).to_contain_text("1 customer")
    staff.get_by_role("button", name="Save", exact=True).click()
    expect(staff.get_by_text("was added successfully")).to_be_visible()

    # A campaign: whoever of them calls about returns gets an SMS.
    staff.goto("/admin/campaigns/campaign/add/")
    staff.get_by_label("Name").fill("Thanks for calling")
    staff.get_by_label("Event", exact=True).fill("Call received")
    staff.get_by_role("button", name="Go on to the drawing").click()
    panel = staff.locator("#cp-panel")
    panel.get_by_role("button", name="Send SMS").click()
    panel.get_by_label("Text").fill(
        "{{ client.eventContext.agent }} thanks you, {{ client.firstName }}"
    )
    panel.get_by_role("button", name="Add this step").click()
    expect(staff.get_by_text("Step “sms” is added.")).to_be_visible()
    staff.get_by_title("Put a step in here").click()
    panel.get_by_role("button", name="Filter customers").click()
    panel.get_by_role("button", name="Segment", exact=True).click()
    panel.get_by_role("combobox", name="Segment", exact=True).fill("look around")
    panel.get_by_role("option", name="Parisians who look around").click()
    panel.get_by_role("button", name="Add this step").click()
    expect(staff.get_by_text("Step “filter” is added.")).to_be_visible()
    staff.get_by_role("link", name="Publish…").click()
    staff.get_by_role("button", name="Publish version 1").click()
    expect(staff.get_by_text("Version 1 is published.")).to_be_visible()

    # Both call.
    for customer in (anna, bert):
        answer = post_event(
            staff,
            {
                "id": f"call-{customer.external_id}",
                "name": "Call received",
                "customer": customer.external_id,
                "context": {"topic": "returns", "agent": "Eve"},
            },
        )
        assert answer.status == 202
        assert answer.json()["accepted"] == 1
    work()

    # The marketer sees one message, to the one it was meant for.
    staff.goto("/admin/messaging/message/")
    rows = staff.locator("#result_list tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("Anna")
    expect(rows).to_contain_text("Sent")
    expect(rows).to_contain_text("Thanks for calling")
    rows.get_by_role("link").first.click()
    expect(staff.get_by_text("Eve thanks you, Anna").first).to_be_visible()

    # And on the customer's page, why.
    staff.goto(f"/admin/customers/customer/{anna.pk}/change/")
    expect(staff.get_by_text("Eve thanks you, Anna").first).to_be_visible()
    run = staff.get_by_text("Thanks for calling").locator("visible=true")
    expect(run.first).to_be_visible()
    expect(staff.get_by_text("Parisians who look around").first).to_be_visible()

"""The editor by clicking, in a browser."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Dialog, Page, expect

from campaigns import drawing
from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs
from campaigns.models import Campaign, Run, Version
from campaigns.publish import pause
from customers.models import Attribute
from events.models import Kind
from tests import make

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def staff(page: Page) -> Page:
    """Somebody who may do everything, logged in; errors of scripts fail the test."""
    User.objects.create_superuser("demo", password="demo")
    page.goto("/admin/login/")
    page.get_by_label("Username").fill("demo")
    page.get_by_label("Password").fill("demo")
    page.get_by_label("Password").press("Enter")
    page.wait_for_url("**/admin/")
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    return page


def drawn(campaign: Campaign) -> dict[str, object]:
    version = campaign.versions.exclude(status=Version.Status.SUPERSEDED).first()
    assert version is not None
    definition = drawing.as_json(version)
    return {step["key"]: step["next"] for step in definition["steps"]}


def test_a_campaign_is_drawn_from_nothing(staff):
    Attribute.objects.create(code="tier", label="Tier")
    make.event_type("Product in stock", kind=Kind.SYSTEM)
    make.customer(first_name="Anna", city="Paris")
    make.system_event("Product in stock", product="Grapes")

    staff.goto("/admin/campaigns/campaign/add/")
    staff.get_by_label("Name").fill("Back in stock")
    staff.get_by_label("System event X occurred").check()
    event = staff.get_by_label("Event", exact=True)
    expect(event).to_have_attribute("list", "cp-events-system_event")
    event.fill("Product in stock")
    staff.get_by_role("button", name="Go on to the drawing").click()

    panel = staff.locator("#cp-panel")
    panel.get_by_role("button", name="Send SMS").click()
    # A click puts a variable where one writes.
    panel.get_by_label("Text").fill("Here again: ")
    panel.get_by_role("button", name="product", exact=True).click()
    text = panel.get_by_label("Text")
    expect(text).to_have_value("Here again: {{ client.eventContext.product }}")
    expect(panel.locator(".sm-bubble")).to_have_text("Here again: Grapes")
    panel.get_by_role("button", name="Add this step").click()

    expect(staff.get_by_text("Step “sms” is added.")).to_be_visible()
    campaign = Campaign.objects.get()
    assert drawn(campaign) == {"sms": {"sent": None}}

    # A filter between the trigger and the SMS.
    staff.get_by_title("Put a step in here").click()
    panel.get_by_role("button", name="Filter customers").click()
    panel.get_by_role("button", name="Attribute", exact=True).click()
    panel.locator("[name='rule.0.attribute']").select_option("city")
    value = panel.get_by_label("Value", exact=True)
    value.fill("Paris")
    value.press("Tab")
    panel.get_by_role("button", name="Add this step").click()

    expect(staff.get_by_text("Step “filter” is added.")).to_be_visible()
    assert drawn(campaign) == {
        "filter": {"positive": "sms", "negative": None},
        "sms": {"sent": None},
    }

    staff.get_by_role("link", name="Publish…").click()
    staff.get_by_role("button", name="Publish version 1").click()
    expect(staff.get_by_text("Version 1 is published.")).to_be_visible()
    campaign.refresh_from_db()
    assert campaign.status == Campaign.Status.PUBLISHED


def test_what_is_not_saved_is_not_left_without_a_question(staff):
    campaign = make.campaign(make.sms("Hello"))
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.dismiss()

    staff.on("dialog", stay)
    staff.goto(f"/admin/campaigns/campaign/{campaign.pk}/change/")
    staff.get_by_role("link", name="Send SMS").click()
    text = staff.get_by_label("Text")
    text.fill("Half of it")
    expect(staff.get_by_text("Not saved yet")).to_be_visible()

    staff.get_by_role("link", name="Event occurred").click()
    staff.keyboard.press("Escape")

    assert len(asked) == 2
    expect(text).to_have_value("Half of it")

    # Saved, nothing is asked any more.
    staff.get_by_role("button", name="Save").click()
    expect(staff.get_by_text("Step “sms” is saved.")).to_be_visible()
    expect(staff.get_by_role("link", name="Publish…")).to_be_visible()
    staff.get_by_role("link", name="Event occurred").click()
    expect(staff.get_by_label("Event", exact=True)).to_have_value("Order paid")
    assert len(asked) == 2


def test_a_click_in_the_rule_of_a_filter_is_a_change_that_is_not_saved(staff):
    campaign = make.campaign(
        make.step(
            "who",
            "filter_customers",
            {"rule": {"all": [{"attribute": "city", "op": "is set"}]}},
            positive=None,
            negative=None,
        )
    )
    staff.goto(f"/admin/campaigns/campaign/{campaign.pk}/change/")
    staff.get_by_role("link", name="Filter customers").click()
    mark = staff.get_by_text("Not saved yet")
    expect(staff.locator(".scb-condition")).to_be_visible()
    expect(mark).to_be_hidden()

    staff.get_by_role("button", name="Remove this condition").click()

    expect(mark).to_be_visible()


def test_a_removed_step_comes_back_by_one_click(staff):
    campaign = make.draft(
        make.step("sms", "send_sms", {"text": "Hello"}, sent="wait"),
        make.step("wait", "wait", {"for": 1, "unit": "days"}, done=None),
    )
    before = drawn(campaign)
    staff.goto(f"/admin/campaigns/campaign/{campaign.pk}/change/")

    staff.get_by_role("link", name="Send SMS").click()
    staff.get_by_role("button", name="Remove…").click()
    staff.get_by_label("They go on with “wait”").check()
    staff.get_by_role("button", name="Remove", exact=True).click()
    expect(staff.get_by_role("link", name="Send SMS")).to_have_count(0)
    assert drawn(campaign) == {"wait": {"done": None}}

    staff.get_by_role("button", name="Undo").click()
    expect(staff.get_by_role("link", name="Send SMS")).to_be_visible()
    assert drawn(campaign) == before


def test_whoever_is_logged_out_loses_nothing(staff):
    campaign = make.draft()
    staff.goto(
        f"/admin/campaigns/campaign/{campaign.pk}/change/?open=add&action=send_sms"
    )
    panel = staff.locator("#cp-panel")
    panel.get_by_label("Text").fill("Long and precious")
    staff.context.clear_cookies(name="sessionid")

    panel.get_by_role("button", name="Add this step").click()

    expect(panel.get_by_text("You are logged out.")).to_be_visible()
    expect(panel.get_by_label("Text")).to_have_value("Long and precious")

    other = staff.context.new_page()
    other.goto("/admin/login/")
    other.get_by_label("Username").fill("demo")
    other.get_by_label("Password").fill("demo")
    other.get_by_label("Password").press("Enter")
    other.wait_for_url("**/admin/")
    panel.get_by_role("button", name="Add this step").click()

    expect(staff.get_by_text("Step “sms_2” is added.")).to_be_visible()
    assert drawn(campaign) == {"sms_2": {"sent": "sms"}, "sms": {"sent": None}}


def test_what_helps_with_a_field_is_told_to_who_does_not_see_it(staff):
    campaign = make.draft()
    staff.goto(f"/admin/campaigns/campaign/{campaign.pk}/change/?open=add&action=wait")
    expect(staff.locator("#cp-panel")).to_be_visible()

    described = staff.evaluate(
        """[...document.querySelectorAll("#cp-panel [aria-describedby]")].flatMap(
            (one) => one.getAttribute("aria-describedby").split(/\\s+/))"""
    )

    assert described
    assert (
        staff.evaluate(
            "(ids) => ids.filter((id) => !document.getElementById(id))", described
        )
        == []
    )


def test_the_focus_stays_where_one_works(staff):
    campaign = make.draft(make.sms("Hello"))
    page = f"/admin/campaigns/campaign/{campaign.pk}"
    staff.goto(f"{page}/change/")
    panel = staff.locator("#cp-panel")
    box = staff.locator(".cp-box[data-step=sms]")
    box.focus()
    box.press("Enter")
    expect(panel.get_by_role("heading", name="Send SMS")).to_be_focused()

    panel.get_by_label("Text").fill("")
    panel.get_by_label("Text").press("Tab")
    panel.get_by_role("button", name="Save").press("Enter")
    expect(panel.get_by_label("Text")).to_be_focused()

    panel.get_by_label("Text").fill("Hello again")
    panel.get_by_role("button", name="Save").press("Enter")
    expect(staff.locator(".cp-box[data-step=sms]")).to_be_focused()


def test_the_chosen_tab_is_seen_on_a_phone(staff):
    campaign = make.draft()
    staff.set_viewport_size({"width": 390, "height": 800})
    staff.goto(f"/admin/campaigns/campaign/{campaign.pk}/versions/")
    expect(staff.get_by_role("link", name="Versions", exact=True)).to_be_in_viewport()


def test_who_writes_how_old_is_too_old_has_chosen_to_leave_it_out(staff):
    campaign = make.campaign(
        make.step("rest", "wait", {"for": 1, "unit": "days"}, done=None)
    )
    make.event(make.customer(), "Order paid")
    dispatch_events()
    advance_runs()
    pause(campaign)
    Run.objects.update(due_at=timezone.now() - timedelta(hours=30))
    staff.goto(f"/admin/campaigns/campaign/{campaign.pk}/state/resume/")

    staff.get_by_role("spinbutton", name="Hours").fill("12")
    staff.locator(".cp-card").get_by_role("button", name="Resume").click()

    expect(staff.get_by_text("is at work again")).to_be_visible()
    assert Run.objects.get().reason.startswith("Left out when")

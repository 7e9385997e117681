"""Writing a template by clicking, with the preview beside it."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from messaging.models import Message, Template
from tests import make

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def staff(page: Page) -> Page:
    User.objects.create_superuser("anna", "anna@example.org", "secret")
    page.goto("/admin/login/?next=/admin/messaging/template/add/")
    page.fill("[name=username]", "anna")
    page.fill("[name=password]", "secret")
    page.click("button[type=submit]")
    return page


def test_a_template_is_written_previewed_tried_and_saved(staff):
    anna = make.reachable("C-1", first_name="Anna")
    make.event(anna, "Order paid", item="Bag <new>")
    page = staff
    page.get_by_role("link", name="SMS").click()

    page.select_option("[name=event_name]", "Order paid")
    text = page.locator("[name=text]")
    text.fill("Dear ")
    page.get_by_role("button", name="firstName").click()
    text.press_sequentially(", your ")
    page.locator("[data-variable='client.eventContext.item']").click()
    expect(text).to_have_value(
        "Dear {{ client.firstName }}, your {{ client.eventContext.item }}"
    )
    expect(page.locator(".sm-bubble")).to_have_text("Dear Anna, your Bag <new>")

    text.press_sequentially(" {{ client.eventContext.nope }}")
    expect(page.locator(".sm-wrong")).to_contain_text("client.eventContext.nope")
    expect(page.locator(".sm-finding")).to_contain_text("`nope` is missing")
    text.fill("Dear {{ client.firstName }}")
    expect(page.locator(".sm-bubble")).to_have_text("Dear Anna")

    page.fill("[name=address]", "+4915112345678")
    page.get_by_role("button", name="Send a test").click()
    expect(page.locator("#sm-tested")).to_contain_text("On its way to +4915112345678")
    assert Message.objects.get().is_test
    assert not Template.objects.exists()

    page.fill("[name=name]", "Thanks")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#result_list")).to_contain_text("Thanks")
    assert Template.objects.get().text == "Dear {{ client.firstName }}"


def test_an_email_is_shown_in_a_box_of_its_own_and_as_plain_text(staff):
    make.reachable("C-1", first_name="Anna")
    page = staff
    page.get_by_role("link", name="E-mail").click()
    page.fill("[name=subject]", "Hello {{ client.firstName }}")
    page.fill(
        "[name=html]",
        "<h1>Dear {{ client.firstName }}</h1>"
        "<script>document.querySelector('h1').textContent = 'Gotcha'</script>",
    )
    expect(page.locator(".sm-mail-subject")).to_have_text("Hello Anna")
    frame = page.frame_locator(".sm-mail iframe")
    expect(frame.locator("h1")).to_have_text("Dear Anna")
    page.get_by_text("Plain text").click()
    expect(page.locator(".sm-tab-text")).to_have_text("Dear Anna")

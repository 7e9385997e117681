import pytest
from django.contrib.auth import get_user_model
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_an_administrator_logs_in(page: Page):
    get_user_model().objects.create_superuser("anna", "anna@example.com", "secret")

    page.goto("/admin/")
    page.get_by_label("Username").fill("anna")
    page.get_by_label("Password").fill("secret")
    page.get_by_role("button", name="Log in").click()

    expect(page.get_by_role("link", name="Home")).to_be_visible()

"""“Is somebody in? Why?” under real fingers."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth import get_user_model
from django.urls import reverse
from playwright.sync_api import Page, expect

from customers.models import Customer
from events.models import Event
from segments.models import Segment
from tests import make

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PARIS = {"attribute": "city", "op": "=", "value": "Paris"}


@pytest.fixture
def anna(page: Page) -> Customer:
    get_user_model().objects.create_superuser("anna", "anna@example.com", "secret")
    anna = make.customer("C-1001", first_name="Anna", last_name="Berg", city="Rome")
    make.customer("C-1002", first_name="Anna", last_name="Zorn", city="Paris")
    make.event(anna, "Paid", amount=10)
    page.goto("/admin/login/?next=/admin/")
    page.get_by_label("Username").fill("anna")
    page.get_by_label("Password").fill("secret")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("link", name="Segments").first).to_be_visible()
    return anna


@pytest.fixture
def segment(anna: Customer) -> Segment:
    return Segment.objects.create(
        name="Buyers in Paris", rule={"all": [PARIS, {"event": "Paid"}]}
    )


def test_the_answer_comes_beside_a_rule_that_is_not_saved_yet(
    page: Page, segment: Segment
):
    page.goto(reverse("admin:segments_segment_change", args=[segment.pk]))
    page.get_by_label("Name*").fill("Another name")
    box = page.locator("#explain")

    box.get_by_label("Customer").fill("C-1001")
    box.get_by_label("Customer").press("Enter")

    expect(box.get_by_text("is not in")).to_be_visible()
    expect(box.get_by_text("City must be “Paris”.")).to_be_visible()
    expect(page.get_by_label("Name*")).to_have_value("Another name")
    segment.refresh_from_db()
    assert segment.name == "Buyers in Paris"


def test_one_of_several_customers_is_chosen_by_a_click(page: Page, segment: Segment):
    page.goto(reverse("admin:segments_segment_explain", args=[segment.pk]))
    box = page.locator("#explain")

    box.get_by_label("Customer").fill("Anna")
    box.get_by_role("button", name="Explain").click()
    box.get_by_role("link", name="Anna Zorn").click()

    expect(box.get_by_text("Anna Zorn C-1002 is not in")).to_be_visible()


def test_an_event_leads_to_its_page(page: Page, segment: Segment):
    url = reverse("admin:segments_segment_explain", args=[segment.pk])
    page.goto(f"{url}?customer=C-1001")

    page.locator(".scx-events summary").click()
    page.locator(".scx-events a").first.click()

    paid = Event.objects.get(type__name="Paid")
    expect(page).to_have_url(re.compile(rf"/admin/events/event/{paid.pk}/change/$"))


def test_the_profile_shows_what_one_nearly_is_in_and_leads_to_why(
    page: Page, segment: Segment, anna: Customer
):
    page.goto(reverse("admin:customers_customer_change", args=[anna.pk]))

    expect(page.get_by_role("heading", name="Nearly in")).to_be_visible()
    expect(page.get_by_text("City must be “Paris”.")).to_be_visible()
    page.get_by_role("link", name="Why not in Buyers in Paris?").click()

    expect(page.get_by_text("Anna Berg C-1001 is not in")).to_be_visible()

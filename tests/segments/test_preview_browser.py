"""The count beside the rule, as one sees it: estimate, progress, cancel, exact."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone
from playwright.sync_api import Page, expect

from segments import counting
from segments import preview as previews
from segments.models import Count, Segment
from tests import make

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PARIS = {"attribute": "city", "op": "=", "value": "Paris"}


@pytest.fixture
def beside(page: Page, monkeypatch: pytest.MonkeyPatch) -> Page:
    """The page of a segment, with customers enough that they are estimated first."""
    monkeypatch.setattr(previews, "COUNT_UP_TO", 3)
    make.reachable("C-anna", first_name="Anna", city="Paris")
    for number in range(5):
        make.customer(f"C-{number}", city="Rome")
    segment = Segment.objects.create(name="Parisians", rule=PARIS)
    get_user_model().objects.create_superuser("anna", "anna@example.com", "secret")
    address = f"/admin/segments/segment/{segment.pk}/change/"
    page.goto(f"/admin/login/?next={address}")
    page.get_by_label("Username").fill("anna")
    page.get_by_label("Password").fill("secret")
    page.get_by_role("button", name="Log in").click()
    return page


def test_the_estimate_becomes_the_exact_count_by_itself(beside: Page):
    figures = beside.locator(".scb-figures")
    expect(figures).to_contain_text("Estimated from customers taken at random.")
    expect(figures.get_by_role("progressbar")).to_be_visible()

    taken = counting.take(now=timezone.now())
    assert taken is not None
    Count.objects.filter(pk=taken.pk).update(progress=0.5, found=1)
    expect(figures).to_contain_text("50 % of the customers asked, 1 found.")
    counting.run(taken, limit_ms=5_000)

    expect(figures).to_contain_text("Counted exactly.")
    expect(figures).to_contain_text("17 % of 6 customers")
    expect(figures.get_by_role("progressbar")).to_have_count(0)
    expect(figures.locator(".scb-reach")).to_contain_text(re.compile(r"By e-mail\s*1"))
    expect(figures.get_by_role("link", name=re.compile("Anna"))).to_be_visible()
    expect(figures.locator(".scb-sentence")).to_have_text("City is “Paris”.")


def test_cancel_is_at_once_and_can_be_thought_better_of(beside: Page):
    figures = beside.locator(".scb-figures")
    figures.get_by_role("button", name="Cancel").click()

    expect(figures).to_contain_text("was cancelled; the estimate stays.")
    assert Count.objects.get().status == "cancelled"
    figures.get_by_role("button", name="Count exactly").click()
    expect(figures.get_by_role("progressbar")).to_be_visible()
    counting.work()
    expect(figures).to_contain_text("Counted exactly.")


def test_typing_on_cancels_the_count_of_what_was_typed_before(beside: Page):
    figures = beside.locator(".scb-figures")
    expect(figures.get_by_role("progressbar")).to_be_visible()
    first = Count.objects.get()

    beside.get_by_label("Value", exact=True).fill("Rome")

    expect(figures.locator(".scb-sentence")).to_have_text("City is “Rome”.")
    first.refresh_from_db()
    assert first.status == "cancelled"
    expect(figures.get_by_role("progressbar")).to_be_visible()
    assert Count.objects.filter(status="waiting").count() == 1

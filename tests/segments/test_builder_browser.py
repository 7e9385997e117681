"""The builder under real fingers: picking, typing, moving, undoing, saving."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone
from playwright.sync_api import Locator, Page, expect

from segments.models import Segment
from tests import make

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def builder(page: Page) -> Page:
    """The page of a new segment, with some customers and their events."""
    get_user_model().objects.create_superuser("anna", "anna@example.com", "secret")
    now = timezone.now()
    anna = make.customer("C-anna", first_name="Anna", city="Paris")
    bert = make.customer("C-bert", first_name="Bert", city="Berlin")
    rome = make.customer("C-rome", first_name="Romano", city="Rome")
    for customer in (anna, bert, rome):
        for day in range(3):
            make.event(
                customer, "Product viewed", at=now - timedelta(days=day), name="Bag"
            )
    make.event(bert, "Order paid", at=now - timedelta(hours=1), amount=10)

    page.goto("/admin/login/?next=/admin/segments/segment/add/")
    page.get_by_label("Username").fill("anna")
    page.get_by_label("Password").fill("secret")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("No conditions yet.")).to_be_visible()
    return page


def condition(page: Page, number: int) -> Locator:
    return page.locator(f'[data-node="{number}"]')


def pick(place: Locator, label: str, typed: str, offer: str) -> None:
    place.get_by_role("combobox", name=label, exact=True).fill(typed)
    place.get_by_role("option", name=offer).click()


def test_a_marketer_builds_the_headline_segment_by_clicking(builder: Page):
    builder.get_by_label("Name*").fill("Bag lovers")
    add = builder.locator(".scb-add")

    add.get_by_role("button", name="Event").click()
    bags = condition(builder, 0)
    pick(bags, "Event", "view", "Product viewed")
    bags.get_by_label("Value").fill("3")
    bags.get_by_label("Period").select_option("in the last")
    bags.get_by_label("How many", exact=True).fill("30")
    bags.get_by_role("button", name="Add a condition on its context").click()
    line = bags.locator(".scb-line")
    pick(line, "Field", "na", "name")
    pick(line, "Value", "", "Bag")

    add.get_by_role("button", name="Event").click()
    paid = condition(builder, 1)
    pick(paid, "Event", "paid", "Order paid")
    paid.get_by_label("What to ask").select_option("never")
    paid.get_by_label("Period").select_option("in the last")
    paid.get_by_label("How many", exact=True).fill("30")

    add.get_by_role("button", name="Attribute").click()
    city = condition(builder, 2)
    city.get_by_label("Attribute").select_option("City")
    city.get_by_label("Comparison").select_option("is one of")
    pick(city, "Values", "Par", "Paris")
    city.get_by_label("Values").fill("Berlin")
    city.get_by_label("Values").press("Enter")

    aside = builder.get_by_role("complementary", name="Who meets the rule")
    expect(aside.locator(".scb-count")).to_contain_text("1 customer")
    expect(aside.get_by_role("link", name="Anna")).to_be_visible()
    expect(aside).to_contain_text("city is one of “Paris”, “Berlin”.")
    builder.get_by_role("button", name="Save", exact=True).click()

    expect(builder.get_by_text("was added successfully")).to_be_visible()
    segment = Segment.objects.get()
    assert segment.name == "Bag lovers"
    assert segment.rule == {
        "all": [
            {
                "event": "Product viewed",
                "where": [{"field": "name", "op": "=", "value": "Bag"}],
                "period": {"last": 30, "unit": "days"},
                "count": {"op": ">=", "value": 3},
            },
            {
                "event": "Order paid",
                "period": {"last": 30, "unit": "days"},
                "count": {"op": "=", "value": 0},
            },
            {"attribute": "city", "op": "in", "value": ["Paris", "Berlin"]},
        ]
    }


def test_it_works_by_keyboard_alone(builder: Page):
    builder.get_by_label("Name*").fill("Payers")
    builder.locator(".scb-add").get_by_role("button", name="Event").focus()
    builder.keyboard.press("Enter")
    event = condition(builder, 0).get_by_role("combobox", name="Event", exact=True)
    expect(event).to_be_focused()
    builder.keyboard.type("order")
    expect(builder.get_by_role("listbox").get_by_role("option")).to_have_text(
        ["Order paid"]
    )
    builder.keyboard.press("ArrowDown")
    builder.keyboard.press("Enter")
    expect(event).to_have_value("Order paid")

    expect(builder.locator(".scb-count")).to_contain_text("1 customer")
    assert Segment.objects.count() == 0, "Enter chooses, and does not send the form"


def test_values_are_chosen_and_typed_one_after_the_other_without_waiting(
    builder: Page,
):
    builder.locator(".scb-add").get_by_role("button", name="Attribute").click()
    city = condition(builder, 0)
    city.get_by_label("Attribute").select_option("City")
    city.get_by_label("Comparison").select_option("is one of")
    values = city.get_by_label("Values")
    values.fill("Par")
    expect(builder.get_by_role("listbox").get_by_role("option")).to_have_text(["Paris"])
    builder.keyboard.press("ArrowDown")
    builder.keyboard.press("Enter")
    builder.keyboard.type("Berlin")
    builder.keyboard.press("Enter")
    builder.keyboard.type("Rome,")

    expect(city.locator(".scb-chip")).to_have_text(["Paris×", "Berlin×", "Rome×"])
    builder.keyboard.press("Backspace")
    expect(city.locator(".scb-chip")).to_have_count(2)
    expect(builder.locator(".scb-count")).to_contain_text("2 customers")


def test_what_was_removed_comes_back_with_undo(builder: Page):
    builder.locator(".scb-add").get_by_role("button", name="Attribute").click()
    city = condition(builder, 0)
    city.get_by_label("Attribute").select_option("City")
    city.get_by_label("Value", exact=True).fill("Paris")
    city.get_by_role("button", name="Remove this condition").click()
    expect(city).to_have_count(0)
    expect(builder.get_by_role("status").first).to_have_text(
        "Removed. Undo brings it back."
    )

    builder.get_by_role("button", name="Undo").click()

    expect(city.get_by_label("Value", exact=True)).to_have_value("Paris")


def test_what_is_not_finished_is_marked_and_nobody_is_counted(builder: Page):
    builder.locator(".scb-add").get_by_role("button", name="Attribute").click()
    city = condition(builder, 0)

    expect(city.get_by_text("Choose an attribute.")).to_be_visible()
    expect(builder.get_by_text("Nobody is counted until then.")).to_be_visible()

    city.get_by_label("Attribute").select_option("City")
    city.get_by_label("Value", exact=True).fill("Rome")

    expect(city.get_by_text("Choose an attribute.")).to_have_count(0)
    expect(builder.locator(".scb-count")).to_contain_text("1 customer")

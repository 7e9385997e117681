"""The builder under real fingers: picking, typing, moving, undoing, saving."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone
from playwright.sync_api import Dialog, Locator, Page, Route, expect

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
                customer,
                "Product viewed",
                at=now - timedelta(days=day, hours=1),
                name="Bag",
            )
    make.event(bert, "Order paid", at=now - timedelta(minutes=1), amount=10)

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
    settle(place.page)


def settle(page: Page) -> None:
    """The server has answered to the last change."""
    expect(page.locator(".scb.htmx-request")).to_have_count(0)


def add(page: Page, what: str, *, to: str = ".scb-root > .scb-add") -> None:
    page.locator(to).get_by_role("button", name=what, exact=True).click()


def saved(page: Page) -> Any:
    """The rule of the only segment, once the page says that it is saved."""
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("was added successfully")).to_be_visible()
    return Segment.objects.get().rule


def test_a_marketer_builds_the_headline_segment_by_clicking(builder: Page):
    builder.get_by_label("Name*").fill("Bag lovers")

    add(builder, "Event")
    bags = condition(builder, 0)
    pick(bags, "Event", "view", "Product viewed")
    bags.get_by_label("Value").fill("3")
    bags.get_by_label("Period").select_option("in the last")
    bags.get_by_label("How many", exact=True).fill("30")
    bags.get_by_role("button", name="Add a detail").click()
    line = bags.locator(".scb-line")
    pick(line, "Field", "na", "name")
    pick(line, "Value", "", "Bag")

    add(builder, "Event")
    paid = condition(builder, 1)
    pick(paid, "Event", "paid", "Order paid")
    paid.get_by_label("What to ask").select_option("never")
    # Since what was spoken of just before, which is offered so.
    paid.get_by_label("Period").select_option("since another event")
    since = paid.get_by_role("group", name="Event that the period begins with")
    expect(since.get_by_role("combobox", name="Event")).to_have_value("Product viewed")
    expect(since.get_by_role("combobox", name="Value")).to_have_value("Bag")

    add(builder, "Attribute")
    city = condition(builder, 2)
    city.get_by_label("Attribute").select_option("City")
    city.get_by_label("Comparison").select_option("is one of")
    pick(city, "Values", "Par", "Paris")
    city.get_by_role("combobox", name="Values").fill("Berlin")
    city.get_by_role("combobox", name="Values").press("Enter")

    aside = builder.get_by_role("complementary", name="Who meets the rule")
    expect(aside.locator(".scb-count")).to_contain_text("1 customer")
    expect(aside.get_by_role("link", name="Anna")).to_be_visible()
    bag = [{"field": "name", "op": "=", "value": "Bag"}]
    assert saved(builder) == {
        "all": [
            {
                "event": "Product viewed",
                "where": bag,
                "period": {"last": 30, "unit": "days"},
                "count": {"op": ">=", "value": 3},
            },
            {
                "event": "Order paid",
                "period": {"since": {"event": "Product viewed", "where": bag}},
                "count": {"op": "=", "value": 0},
            },
            {"attribute": "city", "op": "in", "value": ["Paris", "Berlin"]},
        ]
    }


def test_every_kind_of_condition_is_built_by_clicking(builder: Page):
    other = Segment.objects.create(name="Lookers", kind="static")
    campaign = make.campaign(make.sms("Hello"))
    campaign.name = "Spring sale"
    campaign.save()
    builder.get_by_label("Name*").fill("All kinds")

    add(builder, "Message")
    message = condition(builder, 0)
    message.get_by_label("How far the message came").select_option("opened")
    pick(message, "Campaign", "spring", "Spring sale")
    message.get_by_label("Channel").select_option("by SMS")
    message.get_by_label("What to ask").select_option("last one at least … days ago")
    settle(builder)
    message.get_by_label("Value").fill("7")
    message.get_by_label("Period").select_option("the previous")
    message.get_by_label("Unit").select_option("quarter")

    add(builder, "Consent")
    consent = condition(builder, 1)
    consent.get_by_label("What is asked").select_option("cannot be reached")
    settle(builder)
    consent.get_by_label("Channel").select_option("push")

    add(builder, "Segment")
    pick(condition(builder, 2), "Segment", "look", "Lookers")
    condition(builder, 2).get_by_label("In or not in").select_option("is not in")

    add(builder, "Event")
    viewed = condition(builder, 3)
    pick(viewed, "Event", "view", "Product viewed")
    viewed.locator("summary", has_text="More").last.click()
    viewed.get_by_role("button", name="Only from some sources").click()
    pick(viewed, "Sources", "", "shop")
    viewed.locator("summary", has_text="More").last.click()
    viewed.get_by_role("button", name="Without another event").click()
    paid = viewed.get_by_role("group", name="Another event that must not be there")
    pick(paid, "Event", "paid", "Order paid")
    pick(paid, "Fields that both events share", "", "amount")
    paid.get_by_label("When").select_option("after it")

    made = saved_beside(builder, other)
    assert made == {
        "all": [
            {
                "message": "opened",
                "campaign": campaign.pk,
                "channel": "sms",
                "period": {"previous": "quarter"},
                "days_since_last": {"op": ">=", "value": 7},
            },
            {"not": {"reachable": "push"}},
            {"not": {"segment": other.pk}},
            {
                "event": "Product viewed",
                "source": "shop",
                "without": {
                    "event": "Order paid",
                    "same": ["amount"],
                    "order": "after",
                },
            },
        ]
    }


def saved_beside(page: Page, other: Segment) -> Any:
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("was added successfully")).to_be_visible()
    return Segment.objects.exclude(pk=other.pk).get().rule


def two_cities(page: Page) -> None:
    """Two conditions, on Paris and on Rome, and an empty group below them."""
    for number, city in enumerate(("Paris", "Rome")):
        add(page, "Attribute")
        place = condition(page, number)
        place.get_by_label("Attribute").select_option("City")
        place.get_by_role("combobox", name="Value", exact=True).fill(city)
    add(page, "Group")
    expect(condition(page, 2)).to_be_visible()


def value_at(page: Page, path: str) -> Locator:
    return page.locator(f'[name="rule.{path}.low"]')


PLACES = ".scb-root > .scb-drop > .scb-parts"


def drag(page: Page, path: str, onto: Locator, lands: str) -> None:
    """Drag a part by its handle onto another place, until it would land there."""
    handle = page.locator(f'[data-handle="{path}"]').bounding_box()
    assert handle
    page.mouse.move(handle["x"] + 8, handle["y"] + 15)
    page.mouse.down()
    page.mouse.move(handle["x"] + 12, handle["y"] + 22, steps=3)
    # What is dragged over makes room: one follows it.
    for i in range(100):
        if i and page.locator(f"{lands}.sortable-ghost").count():
            break
        place = onto.bounding_box()
        assert place
        page.mouse.move(place["x"] + 60, place["y"] + 12 - i % 5, steps=4)
    page.mouse.up()


def test_conditions_are_dragged_into_groups_and_out_of_them(builder: Page):
    two_cities(builder)

    group = ".scb-group .scb-group .scb-parts"
    drag(builder, "0", builder.locator(group), f"{group} > *")
    expect(value_at(builder, "1.0")).to_have_value("Paris")
    expect(value_at(builder, "0")).to_have_value("Rome")

    drag(builder, "1.0", condition(builder, 0), f"{PLACES} > :first-child")
    expect(value_at(builder, "0")).to_have_value("Paris")
    expect(value_at(builder, "1")).to_have_value("Rome")

    builder.get_by_role("button", name="Undo").click()
    expect(value_at(builder, "1.0")).to_have_value("Paris")


def test_conditions_are_moved_by_the_keyboard_and_keep_the_focus(builder: Page):
    two_cities(builder)
    builder.locator('[data-handle="0"]').focus()

    builder.keyboard.press("ArrowDown")
    expect(value_at(builder, "1")).to_have_value("Paris")
    expect(builder.locator('[data-handle="1"]')).to_be_focused()
    builder.keyboard.press("ArrowDown")
    expect(value_at(builder, "1.0")).to_have_value("Paris")
    expect(builder.locator('[data-handle="1.0"]')).to_be_focused()
    expect(builder.locator(".scb-status")).to_have_text("Moved down.")

    builder.keyboard.press("Control+z")
    expect(value_at(builder, "1")).to_have_value("Paris")
    expect(builder.locator(".scb-status")).to_have_text("Undone.")


def test_changes_are_undone_and_done_again(builder: Page):
    two_cities(builder)
    undo = builder.get_by_role("button", name="Undo")
    redo = builder.get_by_role("button", name="Redo")
    value_at(builder, "1").fill("Berlin")
    value_at(builder, "1").press("Tab")

    undo.click()
    expect(value_at(builder, "1")).to_have_value("Rome")
    undo.click()
    expect(condition(builder, 2)).to_have_count(0)
    redo.click()
    expect(condition(builder, 2)).to_have_count(1)
    redo.click()
    expect(value_at(builder, "1")).to_have_value("Berlin")
    expect(redo).to_have_attribute("aria-disabled", "true")


def test_what_is_typed_while_the_server_answers_is_not_lost(builder: Page):
    two_cities(builder)
    held: list[Route] = []
    builder.route("**/segment/builder/", lambda route: held.append(route))

    condition(builder, 0).get_by_label("Comparison").select_option("contains")
    value_at(builder, "1").fill("Berl")
    builder.wait_for_function("() => document.querySelector('.scb.htmx-request')")
    held[0].continue_()
    builder.unroute("**/segment/builder/")

    expect(condition(builder, 0).get_by_label("Comparison")).to_have_value("contains")
    settle(builder)
    expect(value_at(builder, "1")).to_have_value("Berl")
    expect(value_at(builder, "1")).to_be_focused()
    builder.keyboard.type("in")
    expect(value_at(builder, "1")).to_have_value("Berlin")


def test_two_clicks_in_a_row_are_one(builder: Page):
    builder.locator(".scb-root > .scb-add").get_by_role(
        "button", name="Attribute"
    ).dblclick()

    expect(condition(builder, 0)).to_be_visible()
    settle(builder)
    expect(condition(builder, 1)).to_have_count(0)


def test_a_request_that_fails_is_said_and_changes_nothing(builder: Page):
    two_cities(builder)
    builder.route("**/segment/builder/", lambda route: route.abort())

    builder.get_by_role("button", name="Remove this group").click()

    expect(builder.locator(".scb-status")).to_contain_text("This did not work.")
    expect(condition(builder, 2)).to_have_count(1)
    expect(value_at(builder, "1")).to_have_value("Rome")


def test_who_was_logged_out_is_told_and_goes_on_after_logging_in_elsewhere(
    builder: Page,
):
    two_cities(builder)
    builder.get_by_role("button", name="Remove this group").click()
    expect(condition(builder, 2)).to_have_count(0)
    builder.get_by_label("Name*").fill("Two cities")
    settle(builder)
    builder.context.clear_cookies(name="sessionid")

    add(builder, "Event")

    expect(builder.locator(".scb-status")).to_contain_text("You are logged out.")
    expect(value_at(builder, "1")).to_have_value("Rome")
    log_in_elsewhere(builder)
    assert len(saved(builder)["all"]) == 2


def log_in_elsewhere(page: Page) -> None:
    other = page.context.new_page()
    other.goto("/admin/login/?next=/admin/segments/segment/")
    other.get_by_label("Username").fill("anna")
    other.get_by_label("Password").fill("secret")
    other.get_by_role("button", name="Log in").click()
    expect(other.get_by_role("link", name="Segments").first).to_be_visible()
    page.bring_to_front()
    page.evaluate("window.dispatchEvent(new Event('focus'))")


def test_saving_loses_nothing_where_one_is_logged_out_or_cut_off(builder: Page):
    two_cities(builder)
    builder.get_by_role("button", name="Remove this group").click()
    expect(condition(builder, 2)).to_have_count(0)
    builder.get_by_label("Name*").fill("Two cities")
    settle(builder)
    save = builder.get_by_role("button", name="Save", exact=True)

    builder.context.set_offline(True)
    save.click()
    expect(builder.get_by_role("alert")).to_contain_text("there is no connection")
    builder.context.set_offline(False)

    builder.context.clear_cookies(name="sessionid")
    save.click()
    expect(builder.get_by_role("alert")).to_contain_text("you are logged out")
    expect(value_at(builder, "1")).to_have_value("Rome")

    log_in_elsewhere(builder)
    save.click()
    expect(builder.get_by_text("was added successfully")).to_be_visible()
    assert Segment.objects.get().name == "Two cities"


def test_leaving_a_rule_that_is_not_saved_is_asked_about(builder: Page):
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    builder.on("dialog", stay)
    add(builder, "Attribute")
    expect(condition(builder, 0)).to_be_visible()
    with builder.expect_event("dialog"):
        builder.get_by_role("link", name="Home").first.click(no_wait_after=True)

    assert asked == ["beforeunload"]
    expect(condition(builder, 0)).to_be_visible()
    # What was undone is nothing to lose.
    builder.get_by_role("button", name="Undo").click()
    expect(condition(builder, 0)).to_have_count(0)
    builder.get_by_role("link", name="Home").first.click()
    expect(builder).to_have_url(re.compile("/admin/$"))
    assert asked == ["beforeunload"]


def test_no_two_comparisons_are_called_the_same(builder: Page):
    add(builder, "Attribute")
    place = condition(builder, 0)
    place.get_by_label("Attribute").select_option("Birth date")
    settle(builder)

    offered = place.get_by_label("Comparison").locator("option").all_inner_texts()

    assert "is on" in offered
    assert len(set(offered)) == len(offered)


def test_a_long_name_does_not_widen_a_narrow_page(builder: Page):
    builder.set_viewport_size({"width": 390, "height": 844})
    builder.get_by_label("Name*").fill("Verylongname" * 9)
    add(builder, "Attribute")
    condition(builder, 0).get_by_label("Attribute").select_option("City")
    value_at(builder, "0").fill("Paris")
    builder.get_by_role("button", name="Save and continue editing").click()

    expect(builder.get_by_text("was added successfully")).to_be_visible()
    assert builder.evaluate("document.documentElement.scrollWidth") <= 390


def test_everything_survives_a_save_that_is_refused(builder: Page):
    two_cities(builder)
    builder.get_by_label("Name*").fill("Two cities")

    builder.get_by_role("button", name="Save", exact=True).click()

    expect(builder.get_by_text("The rule is not finished.")).to_be_visible()
    expect(condition(builder, 2)).to_contain_text("Add a condition here.")
    expect(value_at(builder, "1")).to_have_value("Rome")
    builder.get_by_role("button", name="Remove this group").click()
    expect(condition(builder, 2)).to_have_count(0)
    assert saved(builder)["all"][1]["value"] == "Rome"


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
    add(builder, "Attribute")
    city = condition(builder, 0)
    city.get_by_label("Attribute").select_option("City")
    city.get_by_label("Comparison").select_option("is one of")
    values = city.get_by_role("combobox", name="Values")
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


def test_a_value_may_have_commas_and_quotes_and_a_pasted_line_is_one_value(
    builder: Page,
):
    builder.context.grant_permissions(["clipboard-read", "clipboard-write"])
    add(builder, "Attribute")
    city = condition(builder, 0)
    city.get_by_label("Attribute").select_option("City")
    city.get_by_label("Comparison").select_option("is one of")
    city.get_by_role("combobox", name="Values").click()
    builder.keyboard.type('"5"", black","Bag, red",17" wheel,')
    builder.evaluate("navigator.clipboard.writeText('Paris, Texas\\nRome,\\n')")
    builder.keyboard.press("Control+v")
    expect(city.locator(".scb-chip")).to_have_count(5)

    builder.get_by_label("Name*").fill("Odd")

    assert saved(builder)["all"][0]["value"] == [
        '5", black',
        "Bag, red",
        '17" wheel',
        "Paris, Texas",
        "Rome",
    ]


def test_what_was_removed_comes_back_with_undo(builder: Page):
    add(builder, "Attribute")
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
    add(builder, "Attribute")
    city = condition(builder, 0)

    expect(city.get_by_text("Choose an attribute.")).to_be_visible()
    expect(builder.get_by_text("Nobody is counted until then.")).to_be_visible()

    city.get_by_label("Attribute").select_option("City")
    city.get_by_label("Value", exact=True).fill("Rome")

    expect(city.get_by_text("Choose an attribute.")).to_have_count(0)
    expect(builder.locator(".scb-count")).to_contain_text("1 customer")

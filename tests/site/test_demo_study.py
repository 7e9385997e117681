"""What the study becomes, without a database."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import phonenumbers
import pytest

from smartcomm.site.demo import journey, people, words
from smartcomm.site.demo.journey import Calendar
from smartcomm.site.demo.study import LAST_DAY, Study

UTC = ZoneInfo("UTC")
SUNDAY = date(2026, 11, 22)


@pytest.fixture(scope="module")
def study() -> Study:
    """Six households, some with demographics and some without."""
    return Study(frozenset({1, 2, 3, 900, 1029, 2489}))


@pytest.fixture(scope="module")
def events(study) -> list[dict[str, Any]]:
    """All of theirs, moved to end on a Sunday."""
    return list(journey.events(study, Calendar(SUNDAY, UTC)))


@pytest.mark.parametrize("later", range(14))
def test_weekdays_stay_and_the_last_day_is_the_one_asked_for(later):
    last_day = SUNDAY + timedelta(days=later)

    calendar = Calendar(last_day, UTC)

    assert calendar.day(LAST_DAY).weekday() == LAST_DAY.weekday()
    assert timedelta(0) <= calendar.day(LAST_DAY) - last_day < timedelta(days=7)
    assert calendar.keeps(last_day)
    assert not calendar.keeps(last_day + timedelta(days=1))
    assert calendar.day(calendar.study_days[1]) == last_day


def test_a_clock_at_the_store_shows_the_same_time_here():
    calendar = Calendar(SUNDAY, ZoneInfo("Europe/Berlin"))

    # Half past six in the evening in Ohio, in summer and in winter.
    summer = calendar.moment(datetime(2017, 7, 2, 22, 30))  # noqa: DTZ001
    winter = calendar.moment(datetime(2017, 1, 1, 23, 30))  # noqa: DTZ001

    assert summer.isoformat() == "2026-05-24T18:30:00+02:00"
    assert winter.isoformat() == "2025-11-23T18:30:00+01:00"


def test_the_same_events_come_every_time(study, events):
    again = list(journey.events(Study(study.households), Calendar(SUNDAY, UTC)))

    assert again == events
    assert len(events) > 1000


def test_no_two_events_of_a_customer_share_an_id(events):
    assert len({(event["customer"], event["id"]) for event in events}) == len(events)


def test_ids_do_not_depend_on_when_it_is_loaded(study, events):
    later = journey.events(study, Calendar(date(2027, 5, 2), UTC))

    assert {event["id"] for event in later} == {event["id"] for event in events}


def test_the_days_after_the_last_one_and_before_the_first_are_left_out(study):
    last_day, first_day = date(2026, 11, 24), date(2026, 9, 1)

    events = list(journey.events(study, Calendar(last_day, UTC, first_day)))

    days = {event["occurred_at"][:10] for event in events}
    assert min(days) >= "2026-09-01"
    assert max(days) <= "2026-11-24"
    assert len(events) > 100


def test_a_receipt_adds_up_to_its_lines(events):
    orders = {
        event["context"]["order_id"]: event["context"]
        for event in events
        if event["name"] == "Order paid"
    }
    amounts: dict[int, list[float]] = {}
    for event in events:
        if event["name"] == "Product purchased":
            context = event["context"]
            amounts.setdefault(context["order_id"], []).append(context["amount"])

    assert amounts.keys() == orders.keys()
    for order_id, order in orders.items():
        assert order["amount"] == pytest.approx(sum(amounts[order_id]))
        assert order["items"] == len(amounts[order_id])


def test_a_coupon_is_redeemed_with_the_last_receipt_of_its_day(events):
    visits = {
        (event["customer"], event["occurred_at"])
        for event in events
        if event["name"] == "Order paid"
    }

    redeemed = [event for event in events if event["name"] == "Coupon redeemed"]

    assert redeemed
    for event in redeemed:
        if "order_id" in event["context"]:
            assert (event["customer"], event["occurred_at"]) in visits
        else:
            assert event["occurred_at"].endswith("T12:00:00+00:00")


def test_the_count_foretells_receipts_and_lines(study):
    calendar = Calendar(date(2026, 11, 24), UTC, date(2026, 9, 1))

    events = list(journey.events(study, calendar))

    names = [event["name"] for event in events]
    expected = names.count("Order paid") + names.count("Product purchased")
    assert study.count(*calendar.study_days) == expected


def test_a_household_is_the_same_person_every_time(study):
    first = [people.customer(one, last_day=SUNDAY) for one in study.people]
    again = [
        people.customer(one, last_day=SUNDAY)
        for one in Study(frozenset({1029, 1, 2489})).people
    ]

    known = {person["external_id"]: person for person in first}
    assert again == [known[person["external_id"]] for person in again]


@pytest.fixture(scope="module")
def everyone() -> list[dict]:
    return [people.customer(one, last_day=SUNDAY) for one in Study().people]


def test_nobody_real_can_be_reached(everyone):
    for person in everyone:
        email = person.get("email", "")
        assert not email or email.partition("@")[2] in {
            "example.com",
            "example.org",
            "example",
        }


def test_some_cannot_be_reached_and_some_never_answered(everyone):
    def share(lacking):
        return sum(map(lacking, everyone)) / len(everyone)

    def has_bad_phone(person):
        phone = person.get("phone")
        return bool(phone) and not phonenumbers.is_valid_number(
            phonenumbers.parse(phone)
        )

    assert len(everyone) == 2469
    assert 0.04 < share(lambda person: "email" not in person) < 0.12
    assert 0.01 < share(lambda person: person.get("email", "").endswith("e")) < 0.04
    assert 0.01 < share(has_bad_phone) < 0.06
    assert 0.05 < share(lambda person: person["consents"].get("email") is False) < 0.2
    assert 0.05 < share(lambda person: "email" not in person["consents"]) < 0.2
    assert 0.2 < share(lambda person: "devices" in person) < 0.5


def test_a_contact_belongs_to_one_customer(everyone):
    for contact in ("email", "phone"):
        values = [
            person[contact]
            for person in everyone
            if len(person.get(contact, "")) > len("+1212555")
        ]
        assert len(set(values)) == len(values)


def test_age_and_age_group_agree(everyone):
    for person in everyone:
        if "birth_date" in person:
            days = (SUNDAY - date.fromisoformat(person["birth_date"])).days
            low, high = people.AGES[person["attributes"]["age_group"]]
            assert low <= days / 365.25 < high + 1


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("FLUID MILK WHITE ONLY", "Milk"),
        ("FRZN BAGGED VEGETABLES - PLAIN", "Frozen bagged vegetables, plain"),
        ("APPLES GALA (BULK&BAG)", "Apples gala"),
        ("MUFFIN & CORN BREAD MIX", "Muffin and corn bread mix"),
        ("SPAGHETTI DRY", "Spaghetti dry"),
        ("", ""),
    ],
)
def test_a_label_of_the_shelf_becomes_words(label, text):
    assert words.in_words(label) == text


def test_a_vague_type_is_named_with_its_category():
    assert words.product("LEAN", "BEEF") == "Beef, lean"
    assert words.product("", "COFFEE") == "Coffee"

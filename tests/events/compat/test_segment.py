"""What Segment's messages become: read from the messages, without a database."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from customers.wire import read_change
from events.compat import segment
from events.compat.segment import Alias, field_code, read_person
from events.models import Kind
from events.wire import FIELD_CODE, Refusal, read_item

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def whole(message: dict, type: str = "track", **body) -> dict:
    """A message as the door makes it whole."""
    if type == "batch":
        sent = {"batch": [message], **body}
        return segment.messages_of(sent, type=None, received_at=NOW)[0]
    return segment.messages_of(message | body, type=type, received_at=NOW)[0]


def track(**message) -> dict:
    return whole({"event": "Order paid", "userId": "C-1", "messageId": "m-1"} | message)


def refusal(message: object, reader=segment.translate) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        reader(message)
    return caught.value.code, caught.value.field


# Names of properties


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("price", "price"),
        ("orderId", "orderId"),
        ("Product Name", "Product_Name"),
        ("order-id", "order_id"),
        ("product.sku", "product_sku"),
        ("$revenue", "_revenue"),
        ("price (EUR)", "price__EUR_"),
        ("3d", "_3d"),
    ],
)
def test_a_name_becomes_a_field_code_one_character_for_one(name, code):
    assert field_code(name) == code


@pytest.mark.parametrize("name", ["", "цена", "Größe", "$", "-", "a" * 65, "a\nb"])
def test_a_name_that_nobody_would_know_again_stays_to_be_refused_by_itself(name):
    assert field_code(name) == name
    assert not FIELD_CODE.match(name)


@given(st.text(max_size=80))
def test_a_field_code_is_either_good_or_the_name_itself(name):
    code = field_code(name)

    assert FIELD_CODE.match(code) or code == name
    assert field_code(code) == code


def test_two_names_with_one_field_code_are_refused_rather_than_one_lost():
    message = track(properties={"order id": 1, "order-id": 2})

    assert refusal(message) == ("field_code_collision", "context.order-id")


def test_a_name_in_another_script_is_refused_under_its_own_name():
    message = track(properties={"цена": 10})

    with pytest.raises(Refusal) as caught:
        read_item(segment.translate(message), kind=Kind.CUSTOMER, now=NOW)

    assert (caught.value.code, caught.value.field) == (
        "field_code_invalid",
        "context.цена",
    )


def test_names_within_objects_and_lists_stay_as_they_are():
    products = [{"product id": 1}]

    told = segment.translate(track(properties={"Cart-Id": 7, "products": products}))

    assert told["context"] == {"Cart_Id": 7, "products": products}


# Events


def test_a_track_is_an_event_of_its_user():
    told = segment.translate(
        track(timestamp="2026-11-20T10:00:00Z", properties={"price": 49.9})
    )

    assert told == {
        "id": "m-1",
        "name": "Order paid",
        "customer": "C-1",
        "occurred_at": "2026-11-20T10:00:00+00:00",
        "context": {"price": 49.9},
    }


@pytest.mark.parametrize(
    ("type", "name"), [("page", "Page viewed"), ("screen", "Screen viewed")]
)
def test_pages_and_screens_are_events_with_name_and_category(type, name):
    message = {
        "userId": "C-1",
        "name": "Sale",
        "category": "Shop",
        "properties": {"url": "https://shop.example/sale"},
    }

    told = segment.translate(whole(message, type))

    assert told["name"] == name
    assert told["context"] == {
        "url": "https://shop.example/sale",
        "name": "Sale",
        "category": "Shop",
    }


def test_of_what_surrounds_an_event_only_its_campaign_is_kept():
    about = {
        "ip": "203.0.113.7",
        "userAgent": "Mozilla",
        "library": {"name": "analytics.js"},
        "traits": {"email": "anna@example.com"},
        "campaign": {"name": "Winter", "source": "newsletter"},
    }

    told = segment.translate(track(context=about, properties={"price": 1}))

    assert told["context"] == {"price": 1, "campaign": about["campaign"]}


def test_reading_a_message_changes_nothing_of_it():
    message = whole(
        {"userId": "C-1", "name": "Sale", "properties": {"a b": 1}, "context": {}},
        "page",
    )
    before = copy.deepcopy(message)

    assert segment.translate(message) == segment.translate(message)
    assert message == before


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (7, ("not_an_object", "")),
        ({"type": "video"}, ("type_unknown", "type")),
        ({}, ("type_unknown", "type")),
        ({"type": "identify", "userId": "C"}, ("not_an_event", "type")),
        ({"type": "track", "event": "A"}, ("customer_missing", "userId")),
        (
            {"type": "track", "userId": {"email": "a@b.c"}},
            ("customer_invalid", "userId"),
        ),
        ({"type": "track", "userId": "undefined"}, ("customer_invalid", "userId")),
        ({"type": "page", "anonymousId": "NULL"}, ("customer_invalid", "anonymousId")),
        (
            {"type": "track", "userId": "C", "timestamp": "yesterday"},
            ("occurred_at_invalid", "timestamp"),
        ),
        (
            {"type": "track", "userId": "C", "timestamp": 1700000000},
            ("occurred_at_invalid", "timestamp"),
        ),
    ],
)
def test_a_message_that_tells_of_no_event_is_refused_for_a_reason(message, told):
    assert refusal(message) == told


# Whose


@pytest.mark.parametrize(
    ("ids", "customer"),
    [
        ({"userId": "C-1"}, "C-1"),
        ({"userId": 1001}, "1001"),
        ({"userId": "C-1", "anonymousId": "a-1"}, "C-1"),
        ({"anonymousId": "a-1"}, "anon:a-1"),
        ({"userId": None, "anonymousId": "a-1"}, "anon:a-1"),
        ({"userId": "", "anonymousId": "a-1"}, "anon:a-1"),
    ],
)
def test_a_user_comes_before_an_anonymous_id(ids, customer):
    assert segment.translate({"type": "track", **ids})["customer"] == customer


# When


@pytest.mark.parametrize(
    ("times", "occurred_at"),
    [
        # The clock of the client is right.
        (("2026-11-20T10:00:00Z", "2026-11-20T12:00:00Z"), "2026-11-20T10:00:00"),
        # An hour ahead: it was two hours before sending all the same.
        (("2026-11-20T11:00:00Z", "2026-11-20T13:00:00Z"), "2026-11-20T10:00:00"),
        # A year behind.
        (("2025-11-20T10:00:00Z", "2025-11-20T12:00:00Z"), "2026-11-20T10:00:00"),
        # Other offsets.
        (("2026-11-20T13:00:00+03:00", "2026-11-20T12:00:00Z"), "2026-11-20T10:00:00"),
        # Neither tells its offset: what is between them is right.
        (("2026-11-20T03:00:00", "2026-11-20T05:00:00"), "2026-11-20T10:00:00"),
        # One tells none: UTC.
        (("2026-11-20T10:00:00", "2026-11-20T12:00:00Z"), "2026-11-20T10:00:00"),
        # Never sent: as told.
        (("2026-11-20T10:00:00Z", None), "2026-11-20T10:00:00"),
        (("2026-11-20T10:00:00Z", "soon"), "2026-11-20T10:00:00"),
        # In the future: when it came.
        (("2026-11-20T15:00:00Z", None), "2026-11-20T12:00:00"),
        (("2026-11-20T13:00:00Z", "2026-11-20T12:30:00Z"), "2026-11-20T12:00:00"),
        # Not told: when it came.
        ((None, "2026-11-20T13:00:00Z"), "2026-11-20T12:00:00"),
    ],
)
def test_a_time_is_corrected_by_when_the_client_thinks_it_sent_it(times, occurred_at):
    timestamp, sent_at = times

    told = segment.translate(track(timestamp=timestamp, sentAt=sent_at))

    assert told["occurred_at"] == f"{occurred_at}+00:00"


def test_the_time_of_sending_stands_once_for_a_whole_batch():
    message = {"type": "track", "userId": "C-1", "timestamp": "2026-11-20T11:00:00Z"}

    told = segment.translate(whole(message, "batch", sentAt="2026-11-20T13:00:00Z"))

    assert told["occurred_at"] == "2026-11-20T10:00:00+00:00"


def test_what_a_server_of_segment_has_corrected_is_not_corrected_again():
    message = track(
        timestamp="2026-11-20T10:00:00Z",
        originalTimestamp="2026-11-20T11:00:00Z",
        sentAt="2026-11-20T13:00:00Z",
    )

    assert segment.translate(message)["occurred_at"] == "2026-11-20T10:00:00+00:00"


@given(
    ago=st.timedeltas(min_value=timedelta(), max_value=timedelta(days=10_000)),
    error=st.timedeltas(timedelta(days=-5_000), timedelta(days=5_000)),
)
def test_a_wrong_clock_never_moves_an_event(ago, error):
    sent = NOW + error
    message = track(timestamp=(sent - ago).isoformat(), sentAt=sent.isoformat())

    assert segment.moment_of(message) == NOW - ago


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_time_is_read_or_refused(timestamp, sent_at):
    try:
        moment = segment.moment_of(track(timestamp=timestamp, sentAt=sent_at))
    except Refusal as refused:
        told = refused.code
    else:
        told = "in the future" if moment > NOW else "good"

    assert told in ("good", "occurred_at_invalid")


@pytest.mark.parametrize(
    "times", [("0001-01-01T00:00:00+14:00", None), ("9999-12-31", "0001-01-01")]
)
def test_a_time_out_of_all_reckoning_is_refused(times):
    message = track(timestamp=times[0], sentAt=times[1])

    assert refusal(message) == ("occurred_at_invalid", "timestamp")


# Made whole


def test_a_message_gets_an_id_once_and_keeps_its_own():
    assert whole({"userId": "C-1"})["messageId"]
    assert whole({"messageId": "m-7"})["messageId"] == "m-7"


def test_a_key_is_no_part_of_a_message():
    assert "writeKey" not in whole({"userId": "C-1", "writeKey": "sck_secret"})
    assert "writeKey" not in whole({"writeKey": "sck_1"}, "batch", writeKey="sck_2")


def test_a_receipt_is_ours_to_tell():
    assert whole({"receivedAt": "1999-01-01T00:00:00Z"})["receivedAt"] == (
        NOW.isoformat()
    )


def test_what_a_batch_says_of_all_is_said_of_each_that_says_nothing_else():
    message = {"context": {"locale": "de"}}

    told = whole(message, "batch", context={"locale": "en", "ip": "203.0.113.7"})

    assert told["context"] == {"locale": "de", "ip": "203.0.113.7"}


# Who they are


def identify(traits: dict, **more) -> segment.Person:
    person = read_person(whole({"userId": "C-1", "traits": traits} | more, "identify"))
    assert isinstance(person, segment.Person)
    return person


def change(person: segment.Person) -> dict:
    return {fact.place: fact.value for fact in person.facts}


@pytest.mark.parametrize(
    ("traits", "told"),
    [
        ({"email": "anna@example.com"}, {"email": "anna@example.com"}),
        ({"phone": "+4915112345678"}, {"phone": "+4915112345678"}),
        (
            {"firstName": "Anna", "lastName": "Berg"},
            {"first_name": "Anna", "last_name": "Berg"},
        ),
        ({"first name": "Anna"}, {"first_name": "Anna"}),
        (
            {"name": "Anna Maria Berg"},
            {"first_name": "Anna", "last_name": "Maria Berg"},
        ),
        ({"name": "Anna"}, {"first_name": "Anna"}),
        (
            {"name": "Anna Berg", "firstName": "Anne"},
            {"last_name": "Berg", "first_name": "Anne"},
        ),
        ({"birthday": "1990-05-01T00:00:00.000Z"}, {"birth_date": "1990-05-01"}),
        ({"birthday": "1990-05-01"}, {"birth_date": "1990-05-01"}),
        ({"gender": "F"}, {"gender": "female"}),
        ({"gender": "Male"}, {"gender": "male"}),
        (
            {"address": {"city": "Berlin", "country": "DE", "postal code": "10115"}},
            {
                "city": "Berlin",
                "country": "DE",
                "attributes.address_postal_code": "10115",
            },
        ),
        (
            {"address": {"country": "Germany"}},
            {"attributes.country_name": "Germany"},
        ),
        (
            {"createdAt": "2024-01-02T10:00:00.000Z"},
            {"registered_at": "2024-01-02T10:00:00+00:00"},
        ),
        ({"createdAt": 1704189600}, {"registered_at": "2024-01-02T10:00:00+00:00"}),
        ({"createdAt": 1704189600000}, {"registered_at": "2024-01-02T10:00:00+00:00"}),
        ({"timezone": "Europe/Berlin"}, {"time_zone": "Europe/Berlin"}),
        ({"locale": "de-DE"}, {"language": "de-DE"}),
        (
            {"plan": "gold", "age": 36},
            {"attributes.plan": "gold", "attributes.age": 36},
        ),
        ({"Loyalty Level": 3}, {"attributes.Loyalty_Level": 3}),
        (
            {"company": {"name": "Initech", "id": 7}},
            {"attributes.company_name": "Initech", "attributes.company_id": 7},
        ),
        ({"email": None}, {"email": None}),
    ],
)
def test_traits_are_what_we_know_of_customers(traits, told):
    person = identify(traits)

    assert change(person) == told
    assert not person.refused


def test_every_trait_goes_to_a_place_that_there_is():
    names = [*segment.TRAITS, "email", "phone", "gender", "city", "country"]
    for name in names:
        [fact] = identify({name: None}).facts
        _, errors = read_change({"external_id": "C", fact.column: None}, now=NOW)
        assert not errors, name


def test_traits_in_the_context_count_where_no_others_do():
    person = identify(
        {"plan": "gold"}, context={"traits": {"plan": "silver", "age": 36}}
    )

    assert change(person) == {"attributes.plan": "gold", "attributes.age": 36}


def test_a_second_trait_for_the_same_place_is_refused_by_itself():
    person = identify({"loyalty-level": 3, "loyalty level": 4, "plan": "gold"})

    assert change(person) == {
        "attributes.loyalty_level": 3,
        "attributes.plan": "gold",
    }
    [(fact, refused)] = person.refused
    assert (fact.trait, refused.code) == (
        "traits.loyalty level",
        "field_code_collision",
    )


def test_a_mobile_device_is_an_address_for_push():
    about = {"device": {"type": "iOS", "token": "ff15bc0c"}}

    assert identify({}, context=about).devices == [
        {"platform": "ios", "token": "ff15bc0c"}
    ]


@pytest.mark.parametrize(
    "device", [None, "ios", {}, {"type": "tv", "token": "x"}, {"type": "ios"}]
)
def test_other_devices_are_not(device):
    assert identify({}, context={"device": device}).devices == []


def test_a_group_is_attributes_of_its_customer():
    person = read_person(
        whole(
            {
                "userId": "C-1",
                "groupId": "g-7",
                "traits": {"name": "Initech", "plan": "gold", "email": "x@y.example"},
            },
            "group",
        )
    )

    assert isinstance(person, segment.Person)
    assert change(person) == {
        "attributes.group_id": "g-7",
        "attributes.group_name": "Initech",
        "attributes.group_plan": "gold",
        "attributes.group_email": "x@y.example",
    }


def test_an_alias_names_the_id_from_before_known_or_anonymous():
    message = whole({"userId": "C-1", "previousId": "a-1"}, "alias")

    assert read_person(message) == Alias("C-1", ("a-1", "anon:a-1"))


@pytest.mark.parametrize(
    ("type", "message", "told"),
    [
        ("identify", {}, ("customer_missing", "userId")),
        ("identify", {"userId": "C", "traits": [1]}, ("traits_invalid", "traits")),
        ("group", {"userId": "C"}, ("group_missing", "groupId")),
        ("alias", {"previousId": "a"}, ("customer_missing", "userId")),
        ("alias", {"userId": "C"}, ("customer_missing", "previousId")),
        (
            "alias",
            {"userId": "C", "previousId": "undefined"},
            ("customer_invalid", "previousId"),
        ),
    ],
)
def test_what_names_nobody_is_refused(type, message, told):
    assert refusal(whole(message, type), read_person) == told


def test_of_a_message_only_the_traits_left_to_be_fixed_are_kept():
    message = whole(
        {
            "userId": "C-1",
            "traits": {"plan": "gold", "tags": [1], "address": {"city": 7, "zip": "1"}},
            "context": {"traits": {"age": 1}, "locale": "de"},
        },
        "identify",
    )
    facts = {fact.trait: fact for fact in read_person(message).facts}

    rest = segment.only(message, [facts["traits.tags"], facts["traits.address.city"]])

    assert rest["traits"] == {"tags": [1], "address": {"city": 7}}
    assert rest["context"] == {"locale": "de"}
    assert rest["userId"] == "C-1"

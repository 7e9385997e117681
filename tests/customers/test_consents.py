"""What customers answered, when and where: the newest answer holds, all are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from customers.consent import Held, counts
from customers.models import Consent, ConsentChange, Customer, Device, MailingCategory
from customers.upsert import upsert_customers
from customers.wire import Answer
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MONDAY, TUESDAY = "2026-11-16T10:00:00Z", "2026-11-17T10:00:00+03:00"


def tell(consents, now=NOW, **more):
    [result] = upsert_customers(
        [{"external_id": "C-1", "consents": consents, **more}], origin="shop", now=now
    ).results
    return result


def told(consents) -> dict[str, str]:
    """What is refused, by place."""
    return {error.field: error.code for error in tell(consents).errors}


def yes(at: str | None = None, origin: str | None = None) -> dict[str, object]:
    return _answer(True, at, origin)


def no(at: str | None = None, origin: str | None = None) -> dict[str, object]:
    return _answer(False, at, origin)


def _answer(granted, at, origin):
    answer = {"granted": granted, "at": at, "origin": origin}
    return {name: value for name, value in answer.items() if value is not None}


def held() -> tuple[bool, str, str]:
    consent = Consent.objects.get()
    at = consent.changed_at.astimezone(UTC).strftime("%a %H:%M")
    return consent.is_granted, at, consent.origin


def test_an_answer_is_kept_with_its_time_and_origin():
    tell({"email": yes(TUESDAY, "web form")})

    assert held() == (True, "Tue 07:00", "web form")


def test_without_time_and_origin_it_is_the_answer_of_now_from_the_source():
    tell({"email": {"granted": True}})

    assert held() == (True, "Fri 12:00", "shop")


def test_an_older_answer_never_overwrites_a_newer_one():
    tell({"email": no(TUESDAY)})
    tell({"email": yes(MONDAY)})

    assert held()[:2] == (False, "Tue 07:00")
    # But it was an answer.
    assert ConsentChange.objects.count() == 2


def test_the_order_in_a_batch_does_not_matter_where_times_are_told():
    items = [
        {"external_id": "C-1", "consents": {"email": answer}}
        for answer in (no(TUESDAY), yes(MONDAY))
    ]
    upsert_customers(items, origin="shop", now=NOW)

    assert held()[:2] == (False, "Tue 07:00")
    assert ConsentChange.objects.count() == 2


def test_of_two_answers_of_the_same_time_the_no_holds():
    tell({"email": yes(MONDAY), "sms": no(MONDAY)})
    tell({"email": no(MONDAY), "sms": yes(MONDAY)})

    assert set(Consent.objects.values_list("is_granted", flat=True)) == {False}


def test_the_same_answer_given_again_later_is_newer():
    tell({"email": yes(MONDAY, "web form")})
    tell({"email": yes(TUESDAY, "call centre")})

    assert held() == (True, "Tue 07:00", "call centre")


def test_a_plain_answer_that_is_the_same_keeps_the_time_of_the_first():
    tell({"email": yes(MONDAY, "web form")})
    tell({"email": True})

    assert held() == (True, "Mon 10:00", "web form")
    assert ConsentChange.objects.count() == 1


def test_a_clock_that_is_ahead_makes_no_answer_that_cannot_be_taken_back():
    ahead = (NOW + timedelta(minutes=4)).isoformat()
    tell({"email": yes(ahead)})
    tell({"email": no(NOW.isoformat())})

    assert held()[0] is False


def test_all_answers_there_were_are_kept_once():
    for answer in (yes(MONDAY), no(TUESDAY), no(TUESDAY), yes(MONDAY), None, None):
        tell({"email": answer})

    assert not Consent.objects.exists()
    kept = ConsentChange.objects.order_by("changed_at")
    assert list(kept.values_list("is_granted", flat=True)) == [True, False, None]


def test_mailing_categories_are_answered_by_their_code_for_each_channel():
    news = MailingCategory.objects.create(code="news", name="News")
    tell({"email": True, "categories": {"news": {"email": False, "sms": yes(MONDAY)}}})

    assert set(Consent.objects.values_list("channel", "category", "is_granted")) == {
        ("email", None, True),
        ("email", news.pk, False),
        ("sms", news.pk, True),
    }
    tell({"categories": {"news": {"email": None}}})
    assert not Consent.objects.filter(channel="email", category=news).exists()
    assert Consent.objects.filter(channel="email", category=None).exists()


def test_a_category_that_nobody_added_is_refused():
    assert told({"categories": {"nwes": {"email": True}}}) == {
        "consents.categories.nwes": "category_unknown"
    }
    assert not Customer.objects.exists()


@pytest.mark.parametrize(
    ("consents", "field", "code"),
    [
        ({"fax": True}, "consents.fax", "key_unknown"),
        ({"email": "yes"}, "consents.email", "type_wrong"),
        ({"email": []}, "consents.email", "type_wrong"),
        ({"email": {}}, "consents.email.granted", "type_wrong"),
        ({"email": {"granted": None}}, "consents.email.granted", "type_wrong"),
        ({"email": {"granted": 1}}, "consents.email.granted", "type_wrong"),
        (
            {"email": {"granted": True, "when": MONDAY}},
            "consents.email.when",
            "key_unknown",
        ),
        ({"email": yes("2026-11-16T10:00")}, "consents.email.at", "value_invalid"),
        ({"email": yes("2026-11-16T24:00Z")}, "consents.email.at", "value_invalid"),
        ({"email": yes("2027-01-01T00:00Z")}, "consents.email.at", "value_invalid"),
        ({"email": yes("0000-01-01T00:00Z")}, "consents.email.at", "value_invalid"),
        ({"email": yes(MONDAY, "x" * 151)}, "consents.email.origin", "too_long"),
        ({"email": yes(MONDAY, "a\x00b")}, "consents.email.origin", "value_invalid"),
        ({"categories": True}, "consents.categories", "type_wrong"),
        ({"categories": {"news": True}}, "consents.categories.news", "type_wrong"),
        (
            {"categories": {"news": {"fax": True}}},
            "consents.categories.news.fax",
            "key_unknown",
        ),
        (None, "consents", "type_wrong"),
        ([], "consents", "type_wrong"),
    ],
)
def test_an_answer_that_is_not_understood_is_refused(consents, field, code):
    MailingCategory.objects.create(code="news", name="News")

    assert told(consents) == {field: code}
    assert not Customer.objects.exists()


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=8
    ).flatmap(lambda answers: st.tuples(st.just(answers), st.permutations(answers)))
)
def test_whatever_the_order_the_same_answer_holds_in_the_end(orders):
    def end(answers) -> Held | None:
        held = None
        for day, granted in answers:
            at = NOW + timedelta(days=day)
            if counts(Answer("email", granted, at=at), held):
                held = Held(granted, at)
        return held

    assert end(orders[0]) == end(orders[1])


# over HTTP


def test_a_customer_shows_the_answers_plainly_and_with_time_and_origin_on_request():
    MailingCategory.objects.create(code="news", name="News")
    api = Api()
    plain = {
        "email": True,
        "sms": None,
        "push": None,
        "categories": {"news": {"sms": False}},
    }
    api.put(
        "/customers/C-1",
        {
            "consents": {
                "email": yes(MONDAY, "web form"),
                "categories": {"news": {"sms": no(TUESDAY, "call centre")}},
            }
        },
    )

    shown = api.get("/customers/C-1").json()
    more = api.get("/customers/C-1?include=consent_details,consent_history").json()

    assert shown["consents"] == more["consents"] == plain
    assert "consent_details" not in shown
    assert more["consent_details"] == [
        {
            "channel": "email",
            "category": None,
            "granted": True,
            "at": "2026-11-16T10:00:00Z",
            "origin": "web form",
        },
        {
            "channel": "sms",
            "category": "news",
            "granted": False,
            "at": "2026-11-17T07:00:00Z",
            "origin": "call centre",
        },
    ]
    assert [step["granted"] for step in more["consent_history"]] == [False, True]
    # What is shown may be sent back, and changes nothing.
    assert api.put("/customers/C-1", more).json() == shown
    assert ConsentChange.objects.count() == 2


def test_what_cannot_be_included_is_refused():
    make.customer("C-1")

    problem(Api().get("/customers/C-1?include=all"), 400, "parameter_invalid")
    problem(Api().get("/customers/C-1?includes=x"), 400, "parameter_invalid")


# devices


def test_a_device_is_taken_away():
    tell({}, devices=[{"platform": "ios", "token": t} for t in ("t-1", "t-2")])
    tell({}, devices=[{"token": "t-1", "remove": True}])

    assert Device.objects.get().token == "t-2"


def test_a_device_of_somebody_else_is_not_taken_away():
    make.customer("C-2").devices.create(platform="ios", token="t-1")

    assert not tell({}, devices=[{"token": "t-1", "remove": True}]).errors

    assert Device.objects.get().customer.external_id == "C-2"


def test_a_token_moves_to_whoever_is_told_to_have_it_last():
    make.customer("C-2").devices.create(platform="ios", token="t-1")
    tell({}, devices=[{"platform": "ios", "token": "t-1", "remove": False}])

    assert Device.objects.get().customer.external_id == "C-1"


def test_of_many_devices_those_told_last_stay():
    for number in range(6):
        tell(
            {},
            now=NOW + timedelta(hours=number),
            devices=[{"platform": "web", "token": f"{number}-{n}"} for n in range(10)],
        )

    tokens = set(Device.objects.values_list("token", flat=True))
    assert len(tokens) == 50
    assert not any(token.startswith("0-") for token in tokens)


@pytest.mark.parametrize(
    ("device", "field"),
    [
        ({"token": "t"}, "devices.0.platform"),
        ({"token": "t", "remove": "yes"}, "devices.0.remove"),
        ({"token": "t", "remove": True, "platform": "mac"}, "devices.0.platform"),
        ({"remove": True}, "devices.0.token"),
    ],
)
def test_a_device_that_is_not_understood_is_refused(device, field):
    [error] = tell({}, devices=[device]).errors

    assert error.field == field

"""Segment's calls at the door: who may, what is answered, what is stored."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from customers.models import Customer, Device, FormerId
from events.compat.segment import EVENTS, PEOPLE
from events.keys import create_key
from events.models import Event, Format, Kind, RejectedEvent, Scope, Source
from events.replays import replay
from smartcomm.core.errors import Conflict
from smartcomm.core.ratelimit import client as valkey
from tests import make

pytestmark = pytest.mark.django_db

WRITE = (Scope.EVENTS, Scope.CUSTOMERS)


class Segment:
    """A client of Segment's, pointed at us."""

    def __init__(self, *scopes: str, **source: Any) -> None:
        self.source = make.source(**source)
        _, self.key = create_key(self.source, scopes or WRITE)
        self.client = Client(enforce_csrf_checks=True, raise_request_exception=False)

    def post(
        self,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        type: str = "application/json",
        **headers: str,
    ) -> Any:
        basic = base64.b64encode(f"{self.key}:".encode()).decode()
        headers = {"Authorization": f"Basic {basic}"} | headers
        headers = {name: value for name, value in headers.items() if value}
        data = raw if raw is not None else json.dumps(body).encode()
        return self.client.generic(
            "POST", f"/v1/{path}", data, content_type=type, headers=headers
        )

    def batch(self, *messages: Any, **more: Any) -> dict[str, Any]:
        response = self.post("batch", {"batch": list(messages), **more})
        assert response.status_code == 200, response.content
        told: dict[str, Any] = response.json()
        assert told["success"] is True
        return told


@pytest.fixture
def segment() -> Segment:
    return Segment()


def track(event: str = "Order paid", user: str = "C-1", **more: Any) -> dict[str, Any]:
    return {"type": "track", "event": event, "userId": user, **more}


def identify(user: str = "C-1", **more: Any) -> dict[str, Any]:
    return {"type": "identify", "userId": user, **more}


def names(external_id: str) -> list[str]:
    rows = Event.objects.filter(customer__external_id=external_id).order_by("pk")
    return list(rows.values_list("type__name", flat=True))


# Each call


def test_a_track_is_answered_as_segment_answers_and_stored(segment):
    response = segment.post(
        "track",
        {
            "event": "Order paid",
            "userId": "C-1",
            "messageId": "m-1",
            "properties": {"Product Name": "Bag", "price": 49.9},
        },
    )

    assert response.status_code == 200
    assert response.json() == {
        "success": True,
        "accepted": 1,
        "duplicates": 0,
        "rejected": 0,
        "refused": [],
    }
    event = Event.objects.get()
    assert event.external_id == "m-1"
    assert event.customer.external_id == "C-1"
    assert event.context == {"Product_Name": "Bag", "price": 49.9}
    assert event.source == segment.source


@pytest.mark.parametrize("path", ["page", "p", "screen", "s"])
def test_pages_and_screens_are_stored(segment, path):
    segment.post(path, {"userId": "C-1", "name": "Sale"})

    word = "Page" if path[0] == "p" else "Screen"
    assert names("C-1") == [f"{word} viewed"]


@pytest.mark.parametrize("path", ["identify", "i"])
def test_an_identify_tells_who_they_are_and_is_no_event(segment, path):
    segment.post(
        path, {"userId": "C-1", "traits": {"email": "A@Example.com", "age": 36}}
    )

    anna = Customer.objects.get()
    assert (anna.external_id, anna.email, anna.email_is_valid) == (
        "C-1",
        "a@example.com",
        True,
    )
    assert anna.attributes == {"age": 36}
    assert not anna.is_stub
    assert not Event.objects.exists()


def test_a_mobile_library_tells_the_device(segment):
    about = {"device": {"type": "android", "token": "t-1"}}

    segment.batch(identify(context=about))

    device = Device.objects.get()
    assert (device.customer.external_id, device.platform, device.token) == (
        "C-1",
        "android",
        "t-1",
    )


def test_a_group_is_attributes(segment):
    segment.post("group", {"userId": "C-1", "groupId": 7, "traits": {"plan": "gold"}})

    assert Customer.objects.get().attributes == {"group_id": "7", "group_plan": "gold"}


@pytest.mark.parametrize("path", ["batch", "b", "import"])
def test_a_batch_is_taken_by_all_its_names(segment, path):
    response = segment.post(path, {"batch": [track(), track()]})

    assert response.json()["accepted"] == 2


def test_the_type_in_the_address_counts(segment):
    segment.post("track", {"type": "identify", "event": "Order paid", "userId": "C-1"})

    assert names("C-1") == ["Order paid"]


# Twice


def test_a_message_counts_once_however_often_it_is_sent(segment):
    message = track(messageId="m-1")

    first, second = segment.batch(message), segment.batch(message, message)

    assert (first["accepted"], first["duplicates"]) == (1, 0)
    assert (second["accepted"], second["duplicates"]) == (0, 2)
    assert Event.objects.count() == 1


def test_messages_without_an_id_are_all_told_apart(segment):
    assert segment.batch(track(), track())["accepted"] == 2


# Order


def test_who_a_customer_is_counts_before_what_they_did_in_the_same_batch():
    segment = Segment(unknown_customers=Source.UnknownCustomers.REJECT)

    told = segment.batch(identify(traits={"plan": "gold"}), track())

    assert (told["accepted"], told["rejected"]) == (2, 0)
    assert names("C-1") == ["Order paid"]


def test_an_event_before_its_customer_in_the_same_batch_is_not_refused():
    segment = Segment(unknown_customers=Source.UnknownCustomers.REJECT)

    assert segment.batch(track(), identify())["rejected"] == 0


def test_of_two_tellings_the_later_counts(segment):
    segment.batch(
        identify(traits={"plan": "gold", "age": 36}),
        identify(traits={"plan": "silver"}),
    )

    assert Customer.objects.get().attributes == {"plan": "silver", "age": 36}


def test_results_tell_the_place_in_the_batch(segment):
    told = segment.batch(
        track(messageId="m-0"),
        identify(traits={"birthday": "soon"}, messageId="m-1"),
        track(messageId="m-2", user="null"),
        7,
        {"type": "video", "messageId": "m-4"},
    )

    assert (told["accepted"], told["rejected"]) == (2, 3)
    assert [
        (one["index"], one["messageId"], one["code"], one["field"])
        for one in told["refused"]
    ] == [
        (1, "m-1", "value_invalid", "traits.birthday"),
        (2, "m-2", "customer_invalid", "userId"),
        (3, "", "not_an_object", ""),
        (4, "m-4", "type_unknown", "type"),
    ]


# What is refused is kept


def test_a_refused_event_is_kept_as_it_came_with_a_name_to_find_it_by(segment):
    segment.batch(
        track(properties={"цена": 1}, messageId="m-1"),
        sentAt="2026-11-20T10:00:00Z",
        writeKey=segment.key,
    )

    kept = RejectedEvent.objects.get()
    assert (kept.format, kept.kind, kept.name, kept.external_id, kept.code) == (
        Format.SEGMENT,
        Kind.CUSTOMER,
        "Order paid",
        "m-1",
        "field_code_invalid",
    )
    payload = json.loads(kept.payload)
    assert payload["properties"] == {"цена": 1}
    assert payload["sentAt"] == "2026-11-20T10:00:00Z"
    assert segment.key not in kept.payload


def test_an_item_that_cannot_be_held_spoils_no_other_and_its_key_is_not_kept(segment):
    raw = (
        '{"batch": [{"type": "track", "event": "A", "userId": "C-1"}, '
        '{"type": "track", "event": "B", "event": "C", "userId": "C-1", '
        f'"writeKey": "{segment.key}"}}]}}'
    ).encode()

    told = segment.post("batch", raw=raw).json()

    assert (told["accepted"], told["rejected"]) == (1, 1)
    kept = RejectedEvent.objects.get()
    assert kept.code == "key_duplicate"
    assert '"event": "C"' in kept.payload
    assert segment.key not in kept.payload


def test_a_wrong_trait_spoils_no_other_and_alone_is_kept(segment):
    told = segment.batch(
        identify(
            traits={
                "email": "anna@example.com",
                "birthday": "1990-02-30",
                "plan": "gold",
                "tags": [["a"], "b"],
            },
            messageId="m-1",
        )
    )

    assert (told["accepted"], told["rejected"]) == (1, 0)
    anna = Customer.objects.get()
    assert (anna.email, anna.attributes) == ("anna@example.com", {"plan": "gold"})
    kept = RejectedEvent.objects.get()
    assert (kept.name, kept.external_id, kept.field) == (
        "identify",
        "m-1",
        "traits.birthday",
    )
    assert "traits.tags" in kept.message
    assert json.loads(kept.payload)["traits"] == {
        "birthday": "1990-02-30",
        "tags": [["a"], "b"],
    }


def test_an_attribute_of_another_type_is_kept_and_the_rest_is_told(segment):
    segment.batch(identify(traits={"level": 3}))

    told = segment.batch(
        identify(traits={"level": "three", "plan": "gold"}),
        identify("C-2", traits={"level": 4}),
    )

    assert told["refused"][0]["code"] == "attribute_type_wrong"
    assert Customer.objects.get(external_id="C-1").attributes == {
        "level": 3,
        "plan": "gold",
    }
    assert Customer.objects.get(external_id="C-2").attributes == {"level": 4}


def test_what_is_told_later_counts_also_after_something_that_was_wrong(segment):
    segment.batch(identify(traits={"level": 3}))

    segment.batch(
        identify(traits={"level": "three", "plan": "gold"}),
        identify(traits={"plan": "silver"}),
    )

    assert Customer.objects.get().attributes == {"level": 3, "plan": "silver"}


def test_two_who_teach_an_attribute_differently_in_one_batch(segment):
    told = segment.batch(
        identify(traits={"level": 3}), identify("C-2", traits={"level": "x", "a": 1})
    )

    assert [one["index"] for one in told["refused"]] == [1]
    assert Customer.objects.get(external_id="C-2").attributes == {"a": 1}


def test_replaying_what_is_left_of_an_identify_tells_nothing_but_that(segment):
    segment.batch(identify(traits={"plan": "gold", "tags": [["a"]]}))
    segment.batch(identify(traits={"plan": "silver"}))
    kept = RejectedEvent.objects.get()
    repaired = json.loads(kept.payload)
    repaired["traits"]["tags"] = "a"

    kept.payload = json.dumps(repaired)
    kept.save()

    assert replay(RejectedEvent.objects.all()).accepted == 1
    assert Customer.objects.get().attributes == {"plan": "silver", "tags": "a"}


def test_replaying_in_vain_leaves_it_refused(segment):
    segment.batch(identify(traits={"tags": [["a"]]}))
    kept = RejectedEvent.objects.get()

    replay(RejectedEvent.objects.all())

    kept.refresh_from_db()
    assert (kept.status, kept.code) == (RejectedEvent.Status.OPEN, "type_wrong")


def test_a_rejected_alias_is_replayed_once_its_customer_is_there():
    segment = Segment(unknown_customers=Source.UnknownCustomers.REJECT)
    segment.batch({"type": "alias", "previousId": "old", "userId": "C-1"})
    make.customer("old")
    make.customer("C-1")

    done = replay(RejectedEvent.objects.all())

    assert (done.accepted, done.rejected) == (1, 0)
    assert Customer.objects.get().external_id == "C-1"
    assert RejectedEvent.objects.get().status == RejectedEvent.Status.REPLAYED


def test_what_a_key_might_not_tell_is_told_by_replaying_it():
    segment = Segment(Scope.EVENTS)
    segment.batch(identify(traits={"email": "anna@example.com"}))

    replay(RejectedEvent.objects.all())

    assert Customer.objects.get().email == "anna@example.com"


def test_replaying_a_refused_message_stores_it_at_its_own_time(segment):
    segment.source.unknown_customers = Source.UnknownCustomers.REJECT
    segment.source.save()
    _, segment.key = create_key(segment.source, WRITE)
    at = timezone.now() - timedelta(days=3)
    segment.batch(
        track(timestamp=at.isoformat(), messageId="m-1"),
        sentAt=timezone.now().isoformat(),
    )
    kept = RejectedEvent.objects.get()
    assert kept.code == "customer_unknown"
    make.customer("C-1")

    with time_machine.travel(timezone.now() + timedelta(days=1)):
        assert replay(RejectedEvent.objects.all()).accepted == 1
    event = Event.objects.get()
    assert event.external_id == "m-1"
    assert abs(event.occurred_at - at) < timedelta(seconds=5)


# Before they said who they are


def test_an_unknown_visitor_is_a_stub_by_their_anonymous_id(segment):
    segment.post("page", {"anonymousId": "a-1", "name": "Sale"})

    visitor = Customer.objects.get()
    assert (visitor.external_id, visitor.is_stub) == ("anon:a-1", True)


def test_who_says_who_they_are_keeps_their_history(segment):
    segment.post("page", {"anonymousId": "a-1"})
    segment.post("identify", {"anonymousId": "a-1", "traits": {"plan": "gold"}})

    segment.batch(identify(anonymousId="a-1", traits={"age": 36}), track())

    anna = Customer.objects.get()
    assert anna.external_id == "C-1"
    assert anna.attributes == {"plan": "gold", "age": 36}
    assert sorted(names("C-1")) == ["Order paid", "Page viewed"]


def test_all_of_a_visit_may_come_in_one_batch(segment):
    told = segment.batch(
        {"type": "page", "anonymousId": "a-1"},
        identify(anonymousId="a-1"),
        track(anonymousId="a-1"),
    )

    assert told["accepted"] == 3
    assert Customer.objects.get().external_id == "C-1"
    assert sorted(names("C-1")) == ["Order paid", "Page viewed"]


def test_what_comes_late_for_the_anonymous_id_is_the_customers(segment):
    segment.post("page", {"anonymousId": "a-1"})
    segment.batch(identify(anonymousId="a-1"))

    segment.post("track", {"anonymousId": "a-1", "event": "Order paid"})

    assert sorted(names("C-1")) == ["Order paid", "Page viewed"]


def test_two_people_at_one_browser_stay_two(segment):
    segment.post("page", {"anonymousId": "a-1"})
    segment.batch(identify("C-1", anonymousId="a-1"))

    segment.batch(identify("C-2", anonymousId="a-1"), track(user="C-2"))

    assert names("C-1") == ["Page viewed"]
    assert names("C-2") == ["Order paid"]


def test_an_alias_joins_two_ids_and_both_are_valid_afterwards(segment):
    segment.batch(track(user="old"), track(user="C-1"))

    segment.post("alias", {"previousId": "old", "userId": "C-1"})
    segment.batch(track("Order sent", user="old"))

    assert Customer.objects.get().external_id == "C-1"
    assert names("C-1") == ["Order paid", "Order paid", "Order sent"]
    assert FormerId.objects.get().external_id == "old"


def test_an_alias_takes_an_anonymous_id_without_its_mark(segment):
    segment.post("page", {"anonymousId": "a-1"})

    segment.post("alias", {"previousId": "a-1", "userId": "C-1"})

    assert names("C-1") == ["Page viewed"]


def test_an_alias_holds_for_what_comes_after_it(segment):
    segment.post("alias", {"previousId": "old", "userId": "C-1"})

    segment.batch(track(user="old"))

    assert names("C-1") == ["Order paid"]


def test_an_alias_joins_whom_the_same_batch_has_told_of_before_it():
    segment = Segment(unknown_customers=Source.UnknownCustomers.REJECT)

    told = segment.batch(
        identify("old", traits={"plan": "gold"}),
        identify("C-1", traits={"age": 36}),
        {"type": "alias", "previousId": "old", "userId": "C-1"},
    )

    assert told["accepted"] == 3
    assert Customer.objects.get().attributes == {"plan": "gold", "age": 36}


def test_an_alias_may_be_sent_again(segment):
    for _ in range(2):
        response = segment.post("alias", {"previousId": "old", "userId": "C-1"})
        assert response.json()["accepted"] == 1

    assert FormerId.objects.count() == 1


def test_an_alias_of_an_id_with_itself_says_nothing(segment):
    told = segment.batch({"type": "alias", "previousId": "C-1", "userId": "C-1"})

    assert told["accepted"] == 1
    assert not FormerId.objects.exists()


def test_an_alias_does_not_take_an_id_from_somebody_else(segment):
    segment.batch({"type": "alias", "previousId": "old", "userId": "C-1"})

    told = segment.batch({"type": "alias", "previousId": "old", "userId": "C-2"})

    assert told["rejected"] == 1
    assert told["refused"][0]["code"] == "merged_elsewhere"
    assert RejectedEvent.objects.get().name == "alias"


def test_a_source_that_may_not_create_customers_does_not_by_alias_either():
    segment = Segment(unknown_customers=Source.UnknownCustomers.REJECT)

    told = segment.batch({"type": "alias", "previousId": "old", "userId": "C-1"})

    assert told["refused"][0]["code"] == "customer_unknown"
    assert not Customer.objects.exists()


def test_nobody_becomes_one_with_all_who_have_no_id(segment):
    told = segment.batch(
        track(user="undefined"),
        {"type": "alias", "previousId": "null", "userId": "C-1"},
        identify("C-1", anonymousId="undefined"),
    )

    assert [one["code"] for one in told["refused"]] == ["customer_invalid"] * 3
    assert RejectedEvent.objects.count() == 3


# Who may


@pytest.mark.parametrize("scheme", ["basic", "bearer", "body", "batch"])
def test_a_key_is_shown_in_any_of_the_ways(segment, scheme):
    body: dict[str, Any] = {"batch": [track()]} if scheme == "batch" else track()
    headers = {"Authorization": ""}
    if scheme in ("body", "batch"):
        body["writeKey"] = segment.key
    elif scheme == "bearer":
        headers = {"Authorization": f"Bearer {segment.key}"}
    else:
        headers = {}

    path = "batch" if scheme == "batch" else "track"
    response = segment.post(path, body, **headers)

    assert response.status_code == 200
    assert response.json()["accepted"] == 1


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ("", "key_missing"),
        ("Basic c2NrX3dyb25nOg==", "key_refused"),
        ("Basic !", "key_refused"),
        ("Basic Og==", "key_missing"),
        ("Bearer sck_wrong", "key_refused"),
    ],
)
def test_without_a_good_key_nothing_is_taken(segment, authorization, code):
    response = segment.post("track", track(), Authorization=authorization)

    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    told = response.json()
    assert (told["success"], told["code"]) == (False, code)
    assert told["message"].endswith(".")
    assert not Event.objects.exists()
    assert not RejectedEvent.objects.exists()


def test_a_key_that_may_only_read_is_refused():
    response = Segment(Scope.READ).post("track", track())

    assert response.status_code == 403
    assert response.json()["code"] == "scope_missing"


def test_a_key_for_events_alone_tells_nothing_of_customers_but_it_is_kept():
    segment = Segment(Scope.EVENTS)

    told = segment.batch(
        track(), identify(traits={"email": "thief@example.com"}), track("Order sent")
    )

    assert (told["accepted"], told["rejected"]) == (2, 1)
    assert told["refused"][0]["code"] == "scope_missing"
    assert Customer.objects.get().email == ""
    assert RejectedEvent.objects.get().name == "identify"


def test_what_is_no_message_is_kept_as_it_came_whatever_the_key_may():
    Segment(Scope.CUSTOMERS).batch(7)

    assert RejectedEvent.objects.get().payload == "7"


def test_a_key_for_customers_alone_tells_of_no_events_but_they_are_kept():
    segment = Segment(Scope.CUSTOMERS)

    told = segment.batch(track(), identify())

    assert (told["accepted"], told["rejected"]) == (1, 1)
    assert not Event.objects.exists()
    assert RejectedEvent.objects.get().code == "scope_missing"


# Bodies


@pytest.mark.parametrize("type", ["text/plain;charset=UTF-8", "application/json", ""])
def test_browsers_send_json_as_text(segment, type):
    response = segment.post("t", track(), type=type)

    assert response.json()["accepted"] == 1


def test_a_body_may_be_compressed(segment):
    raw = gzip.compress(json.dumps({"batch": [track()]}).encode())

    response = segment.post("batch", raw=raw, **{"Content-Encoding": "gzip"})

    assert response.json()["accepted"] == 1


@pytest.mark.parametrize(
    ("path", "raw", "type", "code"),
    [
        ("track", b"", "application/json", "not_json"),
        ("track", b"{", "application/json", "not_json"),
        ("track", b"[]", "application/json", "not_an_object"),
        ("batch", b"{}", "application/json", "not_a_list"),
        ("batch", b'{"batch": {}}', "application/json", "not_a_list"),
        ("batch", b"x" * (5 * 2**20 + 1), "application/json", "too_large"),
        (
            "batch",
            b'{"batch":[%s1]}' % (b"1," * 10_000),
            "text/plain",
            "too_many_items",
        ),
        ("track", b"<a/>", "application/xml", "not_json"),
    ],
)
def test_what_cannot_be_read_is_400_in_segments_shape(segment, path, raw, type, code):
    response = segment.post(path, raw=raw, type=type)

    assert response.status_code == 400
    assert response["Content-Type"] == "application/json"
    told = response.json()
    assert (told["success"], told["code"]) == (False, code)
    assert told["message"].endswith(".")


def test_more_than_our_own_calls_take_is_taken(segment):
    told = segment.batch(*[track(messageId=f"m-{i}") for i in range(1_500)])

    assert told["accepted"] == 1_500


def test_over_the_limit_a_client_is_told_when_to_come_again(segment, settings):
    settings.API_REQUESTS_PER_SECOND = 1
    valkey().flushdb()

    answers = [segment.post("track", track()) for _ in range(4)]

    refused = [one for one in answers if one.status_code == 429]
    assert refused
    assert int(refused[0]["Retry-After"]) >= 1
    assert refused[0].json()["code"] == "too_many_requests"
    assert Event.objects.count() == 4 - len(refused)


def test_a_fault_of_ours_is_500_so_that_it_is_sent_again(segment, monkeypatch):
    def fail(*args: object, **more: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("events.compat.api.record_messages", fail)

    response = segment.post("track", track())

    assert response.status_code == 500
    assert response.json()["success"] is False


# Browsers


def test_a_browser_may_ask_from_any_site_without_a_key():
    response = Client().options(
        "/v1/t",
        headers={
            "Origin": "https://shop.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )

    assert response.status_code == 204
    assert response["Access-Control-Allow-Origin"] == "*"
    assert "POST" in response["Access-Control-Allow-Methods"]
    assert "Content-Type" in response["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in response


def test_a_browser_may_read_every_answer(segment):
    for response in (
        segment.post("t", track()),
        segment.post("t", raw=b"{"),
        segment.post("t", track(), Authorization=""),
        segment.post("nothing", {}),
    ):
        assert response["Access-Control-Allow-Origin"] == "*", response.status_code


def test_our_own_api_does_not_answer_to_other_sites():
    response = Client().get("/api/v1/schema", headers={"Origin": "https://x.example"})

    assert "Access-Control-Allow-Origin" not in response


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_other_methods_are_refused(segment, method):
    response = getattr(segment.client, method)(
        "/v1/track", headers={"Authorization": f"Bearer {segment.key}"}
    )

    assert response.status_code == 405
    assert response.json()["success"] is False


def test_another_address_is_told_to_be_none():
    response = Client().post("/v1/nothing")

    assert response.status_code == 404
    assert "/v1/batch" in response.json()["message"]


# At size


def test_the_number_of_queries_does_not_grow(segment, django_assert_max_num_queries):
    def messages(size: int, at: str) -> list[dict[str, Any]]:
        people = [
            identify(f"{at}-{i}", anonymousId=f"{at}-a-{i}", traits={"plan": "gold"})
            for i in range(size)
        ]
        return people + [track(user=f"{at}-{i}") for i in range(size)]

    segment.batch(*messages(1, "warm"))
    with django_assert_max_num_queries(100) as few:
        segment.batch(*messages(2, "few"))
    with django_assert_max_num_queries(len(few.captured_queries)):
        segment.batch(*messages(60, "many"))


def test_whoever_met_an_erasure_is_asked_to_send_again(segment, monkeypatch):
    def erased(*args: object, **more: object) -> None:
        raise Conflict("A customer was erased at this very moment.")

    monkeypatch.setattr("events.compat.api.record_messages", erased)

    response = segment.post("track", track())

    assert response.status_code == 503
    assert response["Retry-After"] == "1"


# Whatever comes

TEXTS = ["", "\x00", "\ud83d", "null", "a b", "цена", "C-1", "x" * 300]
TIMES = ["2026-11-20T24:00:00Z", "0000-01-01", 1e300, 10**400]
OBJECTS = [{}, {"a\x00": 1}, {"\ud83d": [1]}, {"a b": 1, "a-b": 2}, {"type": "ios"}]
TRAITS = ["email", "name", "address", "createdAt", "birthday", "\ud83d", "\x00"]
NAMES = [
    *("userId", "anonymousId", "previousId", "groupId", "messageId", "event", "name"),
    *("traits", "properties", "context", "timestamp", "sentAt", "originalTimestamp"),
]
odd = st.sampled_from([*TEXTS, *TIMES, *OBJECTS, 0, -1, True, None, [], [[]]])
called = st.sampled_from(TRAITS) | st.text(max_size=5)
inner = odd | st.dictionaries(st.text(max_size=3), odd, max_size=2)
some = odd | st.dictionaries(called, inner, max_size=4)
messages = odd | st.fixed_dictionaries(
    {"type": st.sampled_from([*PEOPLE, *EVENTS]) | odd},
    optional=dict.fromkeys(NAMES, some),
)


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(messages, max_size=5), some)
def test_nothing_that_can_be_sent_is_a_fault_or_lost(segment, sent, at):
    before = RejectedEvent.objects.count()

    raw = json.dumps({"batch": sent, "sentAt": at, "context": at}).encode()
    response = segment.post("batch", raw=raw)

    assert response.status_code == 200, response.content
    told = response.json()
    assert told["accepted"] + told["duplicates"] + told["rejected"] == len(sent)
    assert RejectedEvent.objects.count() - before == len(told["refused"])

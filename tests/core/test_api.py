"""What every address of the API has in common: bodies, refusals, lists, limits."""

from __future__ import annotations

import gzip
import io
import json
import logging
import resource
import socket
import time
from typing import Any

import msgspec
import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from customers import api as customers_api
from customers.models import Customer
from events import api as events_api
from events.models import Event, RejectedEvent
from events.replays import replay
from segments.models import Segment
from smartcomm.core import ratelimit
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

EVENT = {"id": "1", "name": "Order paid", "customer": "C-1"}


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"  ",
        b"{not json",
        b'{"name": NaN}',
        b'{"name": Infinity}',
        b'{"name": "\xff"}',
        b'\xef\xbb\xbf{"name": "x"}',
        b'{"name": "x",}',
        b"{'name': 'x'}",
        b'{"name": "x"} {}',
        b"[" * 100_000,
        b'{"name": "\\ud800", "n": NaN}',
        b'{"name": "\\ud800"',
        b'{"name": "\\ud800\xff"}',
        b'{"\\ud800": ' + b"[" * 100_000,
    ],
)
def test_what_is_not_json_is_refused_and_nothing_is_stored(api, raw):
    problem(api.post("/events", raw=raw), 400, "not_json")

    assert not Event.objects.exists()
    assert not RejectedEvent.objects.exists()


@pytest.mark.parametrize("half", [b"\\ud83d", b"\\uDE00", b"\\ud83d \\ude00"])
def test_a_cut_emoji_spoils_its_own_event_and_no_other(api, half):
    """Senders cut texts to a length, and JSON.stringify writes what is left."""
    cut = b'{"id": "1", "name": "%s", "customer": "C-1"}' % half
    whole = b'{"id": "2", "name": "\\ud83d\\ude00", "customer": "C-1"}'

    response = api.post("/events", raw=b'{"events": [%s, %s]}' % (cut, whole))

    assert response.status_code == 202
    assert [one["status"] for one in response.json()["results"]] == [
        "rejected",
        "accepted",
    ]
    assert response.json()["results"][0]["code"] == "text_invalid"
    assert json.loads(RejectedEvent.objects.get().payload) == json.loads(cut)
    assert Event.objects.get().type.name == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/events", b'{"events": [], "\\ud83d": 1}'),
        ("/events", b'{"\\ud83d": 1}'),
        ("/events", b'{"id": "\\ud83d"}'),
        ("/events", b'{"name": "A", "customer": {"\\ud83d": "x"}}'),
        ("/events", b'{"name": "A", "customer": {"email": "\\ud83d"}}'),
        ("/events", b'{"name": "A", "customer": "x", "context": {"\\ud83d": 1}}'),
        ("/events", b'{"name": "A", "customer": "x", "context": {"a": "\\ud83d"}}'),
        ("/events", b'{"name": "A", "customer": "x", "context": {"a": ["\\ud83d"]}}'),
        ("/events", b'{"name": "A", "customer": "x", "occurred_at": "\\ud83d"}'),
    ],
)
def test_a_cut_emoji_is_refused_wherever_it_stands(api, path, raw):
    assert api.post(path, raw=raw).status_code == 422
    assert not Event.objects.exists()


@pytest.mark.parametrize(
    "cut",
    [
        b'{"external_id": "\\ud83d"}',
        b'{"external_id": "C-1", "\\ud83d": 1}',
        *(
            b'{"external_id": "C-1", "%s": "\\ud83d"}' % name
            for name in (b"first_name", b"email", b"phone", b"gender", b"country")
        ),
        *(
            b'{"external_id": "C-1", "%s": "\\ud83d"}' % name
            for name in (b"birth_date", b"registered_at", b"language", b"time_zone")
        ),
        b'{"external_id": "C-1", "attributes": {"\\ud83d": 1}}',
        b'{"external_id": "C-1", "attributes": {"a": "\\ud83d"}}',
        b'{"external_id": "C-1", "consents": {"\\ud83d": true}}',
        b'{"external_id": "C-1", "devices": [{"platform": "ios", "token": "\\ud83d"}]}',
        b'{"external_id": "C-1", "devices": [{"\\ud83d": "ios", "token": "x"}]}',
        b'{"external_id": "C-1", "devices": [{"platform": "\\ud83d", "token": "x"}]}',
    ],
)
def test_a_cut_emoji_spoils_its_own_customer_and_no_other(api, cut):
    whole = b'{"external_id": "C-2", "first_name": "\\ud83d\\ude00"}'

    response = api.post("/customers", raw=b'{"customers": [%s, %s]}' % (cut, whole))

    assert response.status_code == 202
    told = [one["status"] for one in response.json()["results"]]
    assert told == ["rejected", "created"]
    assert Customer.objects.get().first_name == "\N{GRINNING FACE}"


@pytest.mark.parametrize("body", [[], [EVENT], "text", 5, None, True])
def test_json_that_is_no_object_is_refused(api, body):
    told = problem(
        api.post("/events", raw=msgspec.json.encode(body)), 422, "not_an_object"
    )

    assert "events" in told["detail"]
    assert not RejectedEvent.objects.exists()


@pytest.mark.parametrize(
    "type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"]
)
def test_another_content_type_is_refused_with_the_right_one_named(api, type):
    told = problem(
        api.post("/events", raw=b'{"name": "x"}', type=type), 415, "not_json"
    )

    assert "application/json" in told["detail"]


# Odd items: JSON, but nothing that could be held


@pytest.mark.parametrize(
    ("odd", "code"),
    [
        (b'{"id": "1", "id": "2"}', "key_duplicate"),
        (b'{"id": "1", "context": {"a": 1, "b": {"c": 1, "c": 1}}}', "key_duplicate"),
        (b'{"id": "1", "context": {"a" : 1, "b": "\\":", "b": 2}}', "key_duplicate"),
        (b'{"id": "1", "context": {"a": 1e999}}', "number_too_large"),
        (b'{"id": "1", "context": {"a": -1e999}}', "number_too_large"),
        (b'{"id": "1", "context": {"a": ' + b"9" * 5_000 + b"}}", "number_too_large"),
    ],
)
def test_an_odd_event_spoils_no_other_and_is_kept_to_the_letter(api, odd, code):
    whole = b'{"id": "w", "name": "A", "customer": "C-1"}'

    response = api.post("/events", raw=b'{ "events" : [ %s , %s ] }' % (odd, whole))

    assert response.status_code == 202
    first, second = response.json()["results"]
    assert (first["status"], first["code"]) == ("rejected", code)
    assert second["status"] == "accepted"
    assert RejectedEvent.objects.get().payload.encode() == odd

    alone = api.post("/events", raw=odd)

    assert alone.status_code == 422
    assert alone.json()["results"][0]["code"] == code
    assert RejectedEvent.objects.count() == 2
    assert Event.objects.count() == 1


def test_an_odd_event_that_is_replayed_stays_odd(api):
    """Reading it less strictly would keep the last of two values without a word."""
    api.post("/events", raw=b'{"name": "A", "customer": "x", "customer": "y"}')

    assert replay(RejectedEvent.objects.all()).rejected == 1
    assert not Event.objects.exists()


def test_an_odd_customer_spoils_no_other(api):
    odd = b'{"external_id": "C-1", "city": "Riga", "city": "Bonn"}'
    whole = b'{"external_id": "C-2"}'

    response = api.post("/customers", raw=b'{"customers": [%s, %s]}' % (odd, whole))

    told = response.json()["results"]
    assert [one["status"] for one in told] == ["rejected", "created"]
    assert told[0]["errors"][0]["code"] == "key_duplicate"
    assert Customer.objects.get().external_id == "C-2"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"events": [], "events": []}',
        b'{"events": [], "x": 1, "events": 5}',
    ],
)
def test_items_told_twice_are_refused_whole(api, raw):
    problem(api.post("/events", raw=raw), 422, "key_duplicate")


def test_a_key_told_twice_is_refused_everywhere(api):
    problem(
        api.post("/segments", raw=b'{"name": "a", "name": "b"}'), 422, "key_duplicate"
    )


# Compressed bodies


def packed(body: bytes, **headers: str) -> dict:
    return {"raw": gzip.compress(body), "Content-Encoding": "gzip", **headers}


def test_a_body_may_come_compressed(api):
    response = api.post("/events", **packed(json.dumps(EVENT).encode()))

    assert response.status_code == 202
    assert Event.objects.count() == 1


def test_a_body_in_several_members_is_one_body(api):
    text = json.dumps(EVENT).encode()
    raw = gzip.compress(text[:10]) + gzip.compress(text[10:])

    assert api.post("/events", raw=raw, **{"Content-Encoding": "GZIP"}).json()[
        "accepted"
    ]


@pytest.mark.parametrize(
    "raw",
    [b"\x1f\x8b", b"{}", gzip.compress(b"{}")[:-1], gzip.compress(b"{}") + b"rest"],
)
def test_what_is_not_gzip_is_told_so(api, raw):
    problem(
        api.post("/events", raw=raw, **{"Content-Encoding": "gzip"}),
        400,
        "encoding_invalid",
    )


def test_a_body_in_thousands_of_parts_is_refused_at_once(api):
    raw = gzip.compress(b"") * 100_000

    response = api.post("/events", raw=raw, **{"Content-Encoding": "gzip"})

    assert "parts" in problem(response, 400, "encoding_invalid")["detail"]


def test_an_empty_compressed_body_is_not_json(api):
    response = api.post("/events", raw=b"", **{"Content-Encoding": "gzip"})

    problem(response, 400, "not_json")


def test_a_bomb_is_refused_before_it_goes_off(api):
    """A thousand times its size: unpacked whole it would take half a gigabyte."""
    bomb = gzip.compress(b" " * 500_000_000, compresslevel=1)
    assert len(bomb) < 4_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    response = api.post("/events", raw=bomb, **{"Content-Encoding": "gzip"})

    problem(response, 413, "too_large")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 1024  # KiB


def test_another_encoding_is_refused_and_not_taken_for_bad_json(api):
    response = api.post("/events", raw=b"x", **{"Content-Encoding": "br"})

    assert "gzip" in problem(response, 415, "not_json")["detail"]


def test_a_body_that_is_too_large_is_refused_unread(api, monkeypatch):
    monkeypatch.setattr(
        "smartcomm.core.bodies.decode", lambda body: pytest.fail("It was read.")
    )

    told = problem(
        api.post("/events", raw=b" " * (5 * 1024 * 1024 + 1)), 413, "too_large"
    )

    assert "5 MiB" in told["detail"]


def test_a_body_of_just_the_largest_size_is_taken(api):
    body = msgspec.json.encode(EVENT).ljust(5 * 1024 * 1024)

    assert api.post("/events", raw=body).status_code == 202


def test_a_body_without_a_told_length_is_read_all_the_same(api):
    """HTTP/1.1 chunks and HTTP/2: the server knows where the body ends."""
    response = post_in_chunks(api, msgspec.json.encode(EVENT))

    assert response.status_code == 202
    assert Event.objects.count() == 1


def test_a_body_without_a_told_length_is_not_read_beyond_the_limit(api):
    response = post_in_chunks(api, b" " * (5 * 1024 * 1024 + 100))

    problem(response, 413, "too_large")


@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_refusal_takes_what_is_still_being_sent(api, key):
    """Else the connection is cut while the caller sends, and the answer is lost."""
    sent = io.BytesIO(b" " * (5 * 1024 * 1024 + 1))

    response = api.client.generic(
        "POST",
        "/api/v1/events",
        content_type="application/json",
        headers={"Authorization": f"Bearer {key or api.key}"},
        **{"CONTENT_LENGTH": len(sent.getvalue()), "wsgi.input": sent},
    )

    problem(response, 401 if key else 413, "key_refused" if key else "too_large")
    assert sent.read() == b""


def post_in_chunks(api: Api, body: bytes):
    environ: dict[str, Any] = {
        "CONTENT_LENGTH": "",
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
    }
    return api.client.generic(
        "POST",
        "/api/v1/events",
        content_type="application/json",
        headers={"Authorization": f"Bearer {api.key}"},
        **environ,
    )


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "*/*", "nonsense"])
def test_the_answer_is_json_whatever_is_accepted(api, accept):
    response = api.get("/segments", Accept=accept)

    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response["Cache-Control"] == "no-store"


def test_an_address_that_does_not_exist_is_a_problem_whatever_the_method(api):
    for method in ("GET", "POST", "PUT", "DELETE"):
        for path in ("/nonsense", "/events/", "/campaigns/None/publish", "/segments/x"):
            response = api.call(method, path, {})
            assert response.status_code == 404, path
            problem(response, 404, "not_found")


def test_a_page_outside_the_api_is_missed_as_a_page(client):
    response = client.get("/nonsense")

    assert response.status_code == 404
    assert response["Content-Type"].startswith("text/html")


def test_a_method_that_an_address_lacks_is_refused_with_those_it_has(api):
    for method in ("DELETE", "PATCH", "OPTIONS"):
        response = api.call(method, "/events")
        problem(response, 405, "method_not_allowed")
        assert "POST" in response["Allow"]


def test_a_fault_of_ours_tells_no_secrets_and_is_logged(api, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(events_api, "record_events", fail)
    api.client.raise_request_exception = False

    with caplog.at_level(logging.ERROR):
        response = api.post("/events", EVENT)

    told = problem(response, 500, "internal")
    assert "swordfish" not in str(told)
    assert "swordfish" in caplog.text


def test_with_the_database_away_the_sender_is_told_to_try_again(api, monkeypatch):
    def fail(*args, **kwargs):
        raise OperationalError("connection refused at 10.0.0.7")

    monkeypatch.setattr(customers_api, "upsert_customers", fail)

    response = api.put("/customers/C-1", {"city": "Riga"})

    told = problem(response, 503, "unavailable")
    assert response["Retry-After"] == "2"
    assert "10.0.0.7" not in str(told)


# Lists


def segments(count: int) -> list[Segment]:
    return [
        Segment.objects.create(
            name=f"Segment {number}",
            rule={"attribute": "city", "op": "=", "value": "Paris"},
        )
        for number in range(count)
    ]


def test_a_list_is_told_page_by_page_without_gap_or_repeat(api):
    made = segments(5)
    pks = [segment.pk for segment in made]

    seen, pages, path = [], 0, "/segments?limit=2"
    while path:
        answer = api.get(path).json()
        seen += [row["id"] for row in answer["results"]]
        pages += 1
        path = answer["next"]
        if pages == 1:
            # Neither shifts nor repeats what comes after.
            made[0].delete()

    assert seen == pks
    assert pages == 3


def test_the_last_page_has_no_next_even_when_it_is_full(api):
    segments(4)

    first = api.get("/segments?limit=2").json()
    second = api.get(first["next"]).json()

    assert len(second["results"]) == 2
    assert second["next"] is None


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=ten",
        "limit=-1",
        "limit=",
        "limit=²",
        "cursor=nonsense",
        "cursor=-5",
        "cursor=99999999999999999999999999",
    ],
)
def test_a_parameter_that_is_not_understood_is_refused_by_name(api, query):
    told = problem(api.get(f"/segments?{query}"), 400, "parameter_invalid")

    assert told["errors"][0]["field"] == query.split("=")[0]


def test_a_misspelt_parameter_is_refused_and_not_ignored(api):
    told = problem(api.get("/messages?chanel=sms"), 400, "parameter_invalid")

    assert "chanel" in told["detail"]
    assert "“channel”" in told["detail"]


@pytest.mark.parametrize("path", ["/segments", "/event-types"])
def test_a_longer_list_costs_no_more_queries(api, path):
    segments(1)
    make.event(make.customer(), "Event 0", price=1)
    api.get(path)
    with CaptureQueriesContext(connection) as few:
        assert len(api.get(path).json()["results"]) == 1

    for number in range(1, 6):
        make.event(make.customer(), f"Event {number}", price=number)
    Segment.objects.all().delete()
    segments(6)
    with CaptureQueriesContext(connection) as many:
        assert len(api.get(path).json()["results"]) == 6

    assert len(many) == len(few)


# Without Valkey


def test_while_valkey_is_away_nobody_is_refused_or_kept_waiting(
    api, settings, monkeypatch
):
    settings.API_REQUESTS_PER_SECOND = 1
    settings.REDIS_URL = "redis://127.0.0.1:1/0"  # Nobody listens there.
    monkeypatch.setattr(ratelimit, "client", ratelimit.client.__wrapped__)
    monkeypatch.setattr(ratelimit, "_asked_again_at", 0.0)
    api.get("/segments")
    asked = []
    monkeypatch.setattr(ratelimit, "client", lambda: asked.append(1))

    began = time.monotonic()
    answers = [api.post("/events", EVENT | {"id": str(n)}) for n in range(5)]

    assert {answer.status_code for answer in answers} == {202}
    assert time.monotonic() - began < 5
    assert not asked


def test_a_valkey_that_does_not_answer_is_given_up_at_once(settings, monkeypatch):
    monkeypatch.setattr(ratelimit, "client", ratelimit.client.__wrapped__)
    monkeypatch.setattr(ratelimit, "_asked_again_at", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.REDIS_URL = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"

        began = time.monotonic()

        assert ratelimit.count("source:1", limit=1, now=1_800_000_000.0) is None
        assert time.monotonic() - began < 2


def test_the_limit_stands_in_the_settings():
    assert settings.API_REQUESTS_PER_SECOND > 0


# Around the API


def test_the_front_door_leads_to_the_back_office(client):
    response = client.get("/")

    assert response.status_code == 302
    assert response["Location"] == "/admin/"


def test_the_docs_open_without_a_key_and_load_nothing_from_outside(client):
    page = client.get("/api/v1/docs")

    assert page.status_code == 200
    text = page.content.decode()
    assert "swagger-ui" in text
    assert "//cdn" not in text
    assert 'src="http' not in text
    assert 'href="http' not in text


def test_customers_without_a_body_are_not_a_customer(api):
    problem(api.post("/customers", raw=b""), 400, "not_json")

    assert not Customer.objects.exists()

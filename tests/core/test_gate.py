"""Who is let in: over HTTP, with what the answers tell of the limits."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from events import keys
from events.models import Event, Source
from segments.models import Segment
from smartcomm.core import gate, ratelimit
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

EVENT = {"id": "1", "name": "Order paid", "customer": "C-1"}
NOON = 1_800_000_000.0
TOLD = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit-Policy")


class Clock:
    """Valkey's clock, stopped."""

    def __init__(self) -> None:
        self.now = NOON


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Iterator[Clock]:
    clock = Clock()
    count = ratelimit.count
    monkeypatch.setattr(
        ratelimit, "count", lambda who, limit: count(who, limit=limit, now=clock.now)
    )
    monkeypatch.setattr(ratelimit, "_asked_again_at", 0.0)
    ratelimit._held.clear()
    ratelimit.client().flushdb()
    gate._over.clear()
    keys._trusted.clear()
    yield clock
    ratelimit._held.clear()
    ratelimit.client().flushdb()
    gate._over.clear()


@pytest.fixture
def api() -> Api:
    return Api()


def limited(limit: int | None, *scopes: str) -> Api:
    api = Api(*scopes)
    Source.objects.update(requests_per_second=limit)
    return api


def told(response: Any) -> tuple[str, ...]:
    return tuple(response.get(name) for name in TOLD)


# The limit of a source


def test_a_source_without_a_limit_of_its_own_has_the_installations(settings, api):
    settings.API_REQUESTS_PER_SECOND = 50

    assert told(api.get("/segments")) == ("50", "49", "1", "50;w=1")


def test_a_source_may_have_a_limit_of_its_own(settings):
    settings.API_REQUESTS_PER_SECOND = 50

    assert told(limited(7).get("/segments")) == ("7", "6", "1", "7;w=1")


@pytest.mark.parametrize(("own", "usual"), [(0, 50), (None, 0)])
def test_nought_is_no_limit(settings, own, usual):
    settings.API_REQUESTS_PER_SECOND = usual

    response = limited(own).get("/segments")

    assert response.status_code == 200
    assert told(response) == (None,) * 4


def test_what_is_over_the_limit_is_refused_and_told_when_to_come_again(clock):
    api = limited(2)

    answers = [api.post("/events", EVENT | {"id": str(n)}) for n in range(3)]
    other = Api(source="another").post("/events", EVENT | {"id": "x"})

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    problem(answers[2], 429, "too_many_requests")
    assert answers[2]["Retry-After"] == "1"
    assert [answer["RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
    assert other.status_code == 202
    assert Event.objects.count() == 3

    clock.now += 1
    assert api.post("/events", EVENT | {"id": "2"}).status_code == 202


@pytest.mark.parametrize(
    ("status", "call"),
    [
        (200, lambda api: api.get("/segments")),
        (202, lambda api: api.post("/events", EVENT)),
        (400, lambda api: api.post("/events", raw=b"{")),
        (400, lambda api: api.get("/segments?nonsense=1")),
        (404, lambda api: api.get("/segments/999")),
        (404, lambda api: api.get("/no-such-address")),
        (404, lambda api: api.post("/segments/1/no/such", EVENT)),
        (405, lambda api: api.delete("/events")),
        (413, lambda api: api.post("/events", {"events": [{}] * 1_001})),
        (413, lambda api: api.post("/events", raw=b" " * (5 * 1024 * 1024 + 1))),
        (415, lambda api: api.post("/events", raw=b"{}", type="text/plain")),
        (422, lambda api: api.post("/events", {"name": ""})),
        (422, lambda api: api.post("/events", {"events": 1})),
    ],
)
def test_every_answer_to_a_known_caller_tells_the_limit(status, call):
    response = call(limited(50))

    assert response.status_code == status
    assert told(response) == ("50", "49", "1", "50;w=1")


def test_a_missing_scope_is_told_with_the_limit_and_counts():
    api = limited(3, "read")

    answers = [api.post("/events", EVENT) for _ in range(4)]

    problem(answers[0], 403, "scope_missing")
    assert told(answers[0]) == ("3", "2", "1", "3;w=1")
    problem(answers[3], 429, "too_many_requests")


def test_a_name_that_is_taken_is_told_with_the_limit():
    api = limited(50)
    Segment.objects.create(name="All", rule={})
    rule = {"attribute": "city", "op": "=", "value": "Riga"}

    response = api.post("/segments", {"name": "All", "rule": rule})

    problem(response, 409, "name_taken")
    assert told(response)[0] == "50"
    assert "Retry-After" not in response


def test_a_database_that_is_away_is_told_with_the_limit(monkeypatch):
    api = limited(50)
    monkeypatch.setattr(
        "events.api.record_events", functools.partial(_raise, OperationalError("gone"))
    )

    response = api.post("/events", EVENT)

    problem(response, 503, "unavailable")
    assert told(response)[0] == "50"
    assert response["Retry-After"] == "2"


def _raise(error: Exception, *args: Any, **kwargs: Any) -> None:
    raise error


def test_a_changed_limit_holds_within_seconds(monkeypatch):
    seconds = 1000.0
    monkeypatch.setattr(keys.time, "monotonic", lambda: seconds)
    api = limited(50)
    assert api.get("/segments")["RateLimit-Limit"] == "50"

    Source.objects.update(requests_per_second=60)
    seconds += keys.TRUSTED_SECONDS + 0.1

    assert api.get("/segments")["RateLimit-Limit"] == "60"


# Without a key that works


@pytest.mark.parametrize(
    ("header", "code"), [("", "key_missing"), ("Bearer wrong", "key_refused")]
)
def test_who_shows_no_key_that_works_is_limited_by_address(settings, header, code):
    settings.API_FAILURES_PER_SECOND = 3
    stranger = Api(key="")

    answers = [stranger.get("/segments", Authorization=header) for _ in range(5)]

    for number, answer in enumerate(answers[:3]):
        problem(answer, 401, code)
        assert told(answer) == ("3", str(2 - number), "1", "3;w=1")
    for answer in answers[3:]:
        assert "127.0.0.1" in problem(answer, 429, "too_many_failures")["detail"]
        assert answer["Retry-After"] == "1"
        assert told(answer) == ("3", "0", "1", "3;w=1")


def test_addresses_do_not_share_that_limit(settings, clock):
    settings.API_FAILURES_PER_SECOND = 1
    stranger = Api(key="")

    def status(address: str) -> int:
        stranger.client.defaults["REMOTE_ADDR"] = address
        return stranger.get("/segments").status_code

    assert [status("203.0.113.1"), status("203.0.113.1")] == [401, 429]
    assert status("203.0.113.2") == 401
    assert [status("2001:db8::1"), status("2001:db8::2")] == [401, 429]
    clock.now += 1
    assert status("203.0.113.1") == 401


def test_guessing_costs_the_database_nothing_and_locks_out_nobody_who_is_known(
    settings, api
):
    settings.API_FAILURES_PER_SECOND = 2
    api.get("/segments")
    stranger = Api(key="")
    for number in range(3):
        stranger.get("/segments", Authorization=f"Bearer {number}")

    with CaptureQueriesContext(connection) as queries:
        guess = stranger.get("/segments", Authorization="Bearer 4")

    problem(guess, 429, "too_many_failures")
    assert not len(queries)
    assert api.get("/segments").status_code == 200


def test_a_right_key_among_many_wrong_ones_is_not_found_by_guessing(settings):
    settings.API_FAILURES_PER_SECOND = 2
    right = Api()
    stranger = Api(key="")
    for number in range(3):
        stranger.get("/segments", Authorization=f"Bearer {number}")

    problem(right.get("/segments"), 429, "too_many_failures")


def test_requests_with_a_key_that_works_are_no_failures(settings, api):
    settings.API_FAILURES_PER_SECOND = 1

    statuses = {api.get("/segments").status_code for _ in range(5)}

    assert statuses == {200}
    assert Api(key="").get("/segments").status_code == 401


def test_an_address_that_does_not_exist_says_so_without_a_key_and_refuses_a_wrong_one():
    told_ = problem(Api(key="").get("/nothing"), 404, "not_found")
    assert "/api/v1/docs" in told_["detail"]

    problem(Api(key="wrong").get("/nothing"), 401, "key_refused")


def test_while_valkey_is_away_nobody_is_refused(settings, monkeypatch, api):
    settings.API_REQUESTS_PER_SECOND = settings.API_FAILURES_PER_SECOND = 1
    monkeypatch.setattr(ratelimit, "count", lambda who, limit: None)

    assert [api.get("/segments").status_code for _ in range(3)] == [200] * 3
    statuses = [Api(key="").get("/segments").status_code for _ in range(3)]
    assert statuses == [401] * 3


# Where a source may call from


def from_address(api: Api, address: str, **headers: str) -> Any:
    api.client.defaults["REMOTE_ADDR"] = address
    return api.post("/events", EVENT, **headers)


def test_a_source_is_let_in_from_its_networks_alone():
    make.source("shop", allowed_networks=["203.0.113.0/24", "2001:db8::/32"])
    api = Api()

    refused = from_address(api, "198.51.100.4")

    detail = problem(refused, 403, "address_not_allowed")["detail"]
    assert "198.51.100.4" in detail
    assert "shop" in detail
    assert not Event.objects.exists()
    for address in ("203.0.113.9", "::ffff:203.0.113.9", "2001:db8::5"):
        assert from_address(api, address).status_code == 202


def test_a_stolen_key_does_not_use_up_the_limit_of_its_owner():
    make.source("shop", allowed_networks=["203.0.113.7"], requests_per_second=2)
    api = Api()

    for _ in range(5):
        problem(from_address(api, "198.51.100.4"), 403, "address_not_allowed")

    assert from_address(api, "203.0.113.7")["RateLimit-Remaining"] == "1"


def test_a_wrong_address_counts_as_a_failure_of_that_address(settings):
    settings.API_FAILURES_PER_SECOND = 1
    make.source("shop", allowed_networks=["203.0.113.7"])
    api = Api()

    assert told(from_address(api, "198.51.100.4")) == ("1", "0", "1", "1;w=1")
    problem(from_address(api, "198.51.100.4"), 429, "too_many_failures")


def test_a_forged_header_opens_nothing(settings):
    make.source("shop", allowed_networks=["203.0.113.7"])
    forged = {"X-Forwarded-For": "203.0.113.7"}

    problem(from_address(Api(), "198.51.100.4", **forged), 403, "address_not_allowed")
    settings.TRUSTED_PROXIES = 1
    assert from_address(Api(), "198.51.100.4", **forged).status_code == 202
    appended = {"X-Forwarded-For": "203.0.113.7, 192.0.2.66"}
    problem(from_address(Api(), "198.51.100.4", **appended), 403, "address_not_allowed")


def test_networks_that_change_hold_within_seconds(monkeypatch):
    seconds = 1000.0
    monkeypatch.setattr(keys.time, "monotonic", lambda: seconds)
    api = Api()
    assert from_address(api, "198.51.100.4").status_code == 202

    source = Source.objects.get()
    source.allowed_networks = ["203.0.113.7"]
    source.save()
    seconds += keys.TRUSTED_SECONDS + 0.1

    problem(from_address(api, "198.51.100.4"), 403, "address_not_allowed")


def test_a_source_is_saved_with_its_networks_in_one_way_of_writing():
    source = make.source("shop", allowed_networks=["203.0.113.9/24", " 10.1.2.3/32"])

    assert Source.objects.get().allowed_networks == ["203.0.113.0/24", "10.1.2.3"]
    source.allowed_networks = ["everywhere"]
    with pytest.raises(gate.UserError):
        source.save()


def test_a_network_that_nobody_can_read_lets_nobody_in():
    api = Api()
    Source.objects.update(allowed_networks=["nonsense"])

    problem(from_address(api, "127.0.0.1"), 403, "address_not_allowed")


# The schema


def test_the_schema_tells_the_headers_of_every_answer(client):
    schema = json.loads(
        client.get("/api/v1/schema", headers={"Accept": "application/json"}).content
    )

    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                where = f"{method} {path} {status}"
                assert set(TOLD) <= set(answer["headers"]), where
                waits = status in ("409", "429", "503")
                assert ("Retry-After" in answer["headers"]) == waits, where

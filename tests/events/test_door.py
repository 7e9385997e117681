"""The short way in answers as the long one does, whatever comes."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.db import DatabaseError

from customers.models import Customer
from events import schema
from events.door import Door
from events.ingest import record_events
from events.keys import create_key
from events.models import Event, RejectedEvent, Scope, SystemEvent
from events.store import shared
from tests import make

pytestmark = pytest.mark.django_db(transaction=True)

EVENT = {"id": "1", "name": "Order paid", "customer": "C-1", "context": {"amount": 5}}


class Long(WSGIHandler):
    """Django, counting what is left to it."""

    asked = 0

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.asked += 1
        return super().__call__(environ, start_response)


@pytest.fixture(scope="module")
def long_way() -> Long:
    return Long()


@pytest.fixture
def door(long_way: Long) -> Iterator[Door]:
    schema.forget_known()
    long_way.asked = 0
    yield Door(long_way)
    shared.close()


def post(
    application: Callable[..., Any],
    body: bytes | object,
    *,
    path: str = "/api/v1/events",
    **environ: str,
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and decoded body of an answer."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    told: list[Any] = []
    parts = application(
        {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(raw)),
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.input": io.BytesIO(raw),
            "wsgi.errors": io.StringIO(),
            "wsgi.url_scheme": "http",
            **environ,
        },
        lambda status, headers: told.append((status, headers)),
    )
    content = b"".join(parts)
    getattr(parts, "close", lambda: None)()
    [(status, headers)] = told
    assert headers.count(("Content-Length", str(len(content)))) == 1
    is_json = "json" in dict(headers)["Content-Type"]
    told_body = json.loads(content) if is_json else content.decode()
    return int(status.split()[0]), dict(headers), told_body


def bearer(*scopes: str) -> dict[str, str]:
    _, secret = create_key(make.source(), scopes or (Scope.EVENTS,))
    return {"HTTP_AUTHORIZATION": f"Bearer {secret}"}


REQUESTS: dict[str, tuple[Any, dict[str, str]]] = {
    "one event": (EVENT, {}),
    "without an id": ({k: v for k, v in EVENT.items() if k != "id"}, {}),
    "a batch": ({"events": [EVENT, EVENT, EVENT | {"id": "2"}]}, {}),
    "an empty batch": ({"events": []}, {}),
    "a bad one among good ones": ({"events": [EVENT, {"name": ""}, 5]}, {}),
    "nothing but bad ones": ({"events": [{"name": "A", "customer": ""}]}, {}),
    "an odd one": (b'{"id": "1", "id": "2"}', {}),
    "half an emoji": (b'{"id": "\\ud83d", "name": "A"}', {}),
    "not JSON": (b"{", {}),
    "nothing": (b"", {}),
    "a list": ([EVENT], {}),
    "too many": ({"events": [EVENT] * 1001}, {}),
    "too large": (b" " * (5 * 1024 * 1024 + 1), {}),
    "another type": (EVENT, {"CONTENT_TYPE": "text/plain"}),
    "a type with its charset": (EVENT, {"CONTENT_TYPE": "application/json; charset=x"}),
    "compressed": (
        gzip.compress(json.dumps(EVENT).encode()),
        {"HTTP_CONTENT_ENCODING": "gzip"},
    ),
    "with an idempotency key": (EVENT, {"HTTP_IDEMPOTENCY_KEY": "k"}),
    "no key": (EVENT, {"HTTP_AUTHORIZATION": ""}),
    "an unknown key": (EVENT, {"HTTP_AUTHORIZATION": "Bearer x"}),
    "another scheme": (EVENT, {"HTTP_AUTHORIZATION": "Basic eDp5"}),
    "another method": (EVENT, {"REQUEST_METHOD": "PUT"}),
    "by contact": (EVENT | {"customer": {"email": "a@example.com"}}, {}),
    "a system event": (
        {"id": "1", "name": "Shop opened"},
        {"path": "/api/v1/system-events"},
    ),
    "the wrong door": (EVENT, {"path": "/api/v1/system-events"}),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_both_ways_answer_the_same_and_store_the_same(door, long_way, what):
    body, more = REQUESTS[what]
    short = post(door, body, **(bearer() | more))
    stored = snapshot()
    empty()
    long = post(long_way, body, **(bearer() | more))

    def comparable(told):
        status, headers, content = told
        content = json.loads(json.dumps(content))
        for result in content.get("results", []):
            if len(result["id"]) == 36:
                result["id"] = "made"
        return (
            status,
            {
                k: v
                for k, v in headers.items()
                if not k.startswith(("RateLimit", "Cont"))
            }
            | {"Content-Type": headers["Content-Type"]},
            {name for name in headers if name.startswith("RateLimit")},
            content,
        )

    assert comparable(short) == comparable(long)
    assert snapshot() == stored


def snapshot() -> list[Any]:
    return [
        sorted(Event.objects.values_list("type__name", "customer__external_id")),
        sorted(SystemEvent.objects.values_list("type__name", "external_id")),
        sorted(RejectedEvent.objects.values_list("code", "payload", "name")),
        sorted(Customer.objects.values_list("external_id", "is_stub")),
    ]


def empty() -> None:
    from django.core.management import call_command

    call_command("flush", verbosity=0, interactive=False)
    schema.forget_known()


def test_a_plain_event_takes_the_short_way(door, long_way):
    make.customer("C-1")

    assert post(door, EVENT, **bearer())[0] == 202
    assert long_way.asked == 0


@pytest.mark.parametrize(
    "path", ["/api/v1/customers", "/api/v1/events/", "/admin/login/", "/healthz"]
)
def test_every_other_address_is_left_to_django(door, long_way, path):
    assert post(door, EVENT, path=path, **bearer())[0] in (403, 404, 302, 200)
    assert long_way.asked == 1


def test_a_revoked_or_narrow_key_does_not_open_it(door):
    assert post(door, EVENT, **bearer(Scope.READ))[0] == 403
    assert not Event.objects.exists()


def test_over_the_limit_is_refused_with_the_time_to_wait(door, settings):
    settings.API_REQUESTS_PER_SECOND = 1
    key = bearer()

    told = [post(door, EVENT, **key) for _ in range(3)]

    assert 429 in [status for status, _, _ in told]
    status, headers, _ = told[-1]
    assert (status, "Retry-After" in headers) == (429, True)


def test_a_source_is_not_let_in_from_elsewhere_by_the_short_way(door, long_way):
    make.source(allowed_networks=["203.0.113.0/24"])
    key = bearer()

    status, _, told = post(door, EVENT, **key)

    assert (status, told["code"]) == (403, "address_not_allowed")
    assert not Event.objects.exists()
    long_way.asked = 0
    assert post(door, EVENT, REMOTE_ADDR="203.0.113.7", **key)[0] == 202
    assert long_way.asked == 0


def test_a_request_counts_once_whichever_way_it_takes(door, settings):
    settings.API_REQUESTS_PER_SECOND = 100
    key = bearer()

    told = [post(door, body, **key) for body in (EVENT, b"{", EVENT | {"id": "2"})]

    left = [int(headers["RateLimit-Remaining"]) for _, headers, _ in told]
    assert [status for status, _, _ in told] == [202, 400, 202]
    # Some may have been filled in again meanwhile.
    assert min(left) >= 97


def test_a_database_that_is_away_is_told_as_such(door, monkeypatch):
    from django.db import OperationalError

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr("events.door.record_events", fail)

    status, headers, told = post(door, EVENT, **bearer())

    assert (status, told["code"], headers["Retry-After"]) == (503, "unavailable", "2")
    assert headers["Content-Type"] == "application/problem+json"


def test_a_group_that_fails_goes_on_alone(door, monkeypatch):
    make.customer("C-1")

    def fail(*args: Any) -> None:
        raise DatabaseError("the group's fault")

    monkeypatch.setattr(shared, "_run", fail)

    assert post(door, EVENT, **bearer())[2]["accepted"] == 1
    assert Event.objects.count() == 1


def test_events_in_a_transaction_of_the_caller_stay_in_it():
    """They would be committed by the group, and the caller could not take them back."""
    from django.db import transaction

    make.customer("C-1")
    with transaction.atomic():
        record_events([EVENT], source=make.source(), together=True)
        transaction.set_rollback(True)

    assert not Event.objects.exists()

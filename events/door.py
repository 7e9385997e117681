"""The short way in for events: what nearly every request is, without the framework.

A request for one event spends most of its time in middlewares, routing and views that
have nothing to do for it. So `POST /api/v1/events` is answered here when it is as plain
as can be: JSON, a key that works, within its limits. Everything else, whatever is
refused included, goes on to Django, which answers it as if this were not here: the
checks are the same functions, and a test holds both ways against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from io import BytesIO
from typing import Any

from django.conf import settings
from django.db import close_old_connections
from django.http import HttpResponse
from django.utils import timezone

from events.api import answer_to
from events.authentication import read_key
from events.ingest import record_events
from events.keys import KeyRefused
from events.models import ApiKey, Kind, Scope
from smartcomm.core import gate
from smartcomm.core.bodies import MAX_BODY_BYTES, items_of
from smartcomm.core.errors import UserError
from smartcomm.core.problems import problem_details
from smartcomm.core.ratelimit import Rate

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

KINDS = {
    "/api/v1/events": Kind.CUSTOMER,
    "/api/v1/system-events": Kind.SYSTEM,
}

#: As Django's middlewares put them on every answer.
HEADERS = [
    ("Content-Type", "application/json"),
    ("Cache-Control", "no-store"),
    ("Allow", "POST, OPTIONS"),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
]


class Door:
    """A WSGI application in front of another."""

    def __init__(self, application: Application) -> None:
        self.application = application

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        kind = KINDS.get(environ["PATH_INFO"])
        if kind is None or not _is_plain(environ):
            return self.application(environ, start_response)
        try:
            return self._record(environ, start_response, kind)
        finally:
            close_old_connections()

    def _record(
        self, environ: Environ, start_response: StartResponse, kind: Kind
    ) -> Iterable[bytes]:
        key = _key(environ)
        if key is None:
            return self.application(environ, start_response)
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        try:
            items = items_of(body, "events")
        except UserError:
            items = None
        admitted, rate = (False, None) if items is None else _admit(key, environ)
        if items is None or not admitted:
            environ["wsgi.input"] = BytesIO(body)
            return self.application(environ, start_response)
        try:
            recorded = record_events(items, source=key.source, kind=kind, together=True)
        except Exception as error:
            return _refuse(problem_details(error, {}), start_response, rate)
        status, answer = answer_to(recorded)
        return _respond(status, answer, start_response, rate)


def _is_plain(environ: Environ) -> bool:
    """Whether there is nothing about it that needs the framework to be understood."""
    return (
        environ["REQUEST_METHOD"] == "POST"
        and not environ.get("QUERY_STRING")
        and environ.get("CONTENT_TYPE", "") == "application/json"
        and environ.get("CONTENT_LENGTH", "").isdigit()
        and int(environ["CONTENT_LENGTH"]) <= MAX_BODY_BYTES
        and "HTTP_CONTENT_ENCODING" not in environ
        and "HTTP_IDEMPOTENCY_KEY" not in environ
        and not settings.SECURE_SSL_REDIRECT
    )


def _key(environ: Environ) -> ApiKey | None:
    """The key, if it works and may send events."""
    scheme, _, secret = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    try:
        key = read_key(secret.strip(), environ, now=timezone.now())
    except (KeyRefused, gate.TooManyFailures):
        return None
    return key if Scope.EVENTS in key.scopes else None


def _admit(key: ApiKey, environ: Environ) -> tuple[bool, Rate | None]:
    """Whether its source may send this now, and from there."""
    try:
        return True, gate.admit(key.source, environ)
    except UserError:
        return False, None


def _respond(
    status: int,
    body: bytes,
    start_response: StartResponse,
    rate: Rate | None,
) -> Iterable[bytes]:
    headers = [*HEADERS, ("Content-Length", str(len(body)))]
    if rate is not None:
        headers += rate.headers().items()
    start_response(f"{status} {HTTPStatus(status).phrase}", headers)
    return [body]


def _refuse(
    response: HttpResponse, start_response: StartResponse, rate: Rate | None
) -> Iterable[bytes]:
    headers = [*response.items(), *HEADERS[1:]]
    headers += [("Content-Length", str(len(response.content)))]
    if rate is not None:
        headers += rate.headers().items()
    start_response(f"{response.status_code} {response.reason_phrase}", headers)
    return [response.content]

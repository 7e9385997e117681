"""Refusals as problem details (RFC 9457). docs/api-errors.md explains the codes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.core.signals import got_request_exception
from django.db import DataError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.views import defaults
from psycopg_pool import PoolTimeout
from rest_framework import exceptions
from rest_framework.views import set_rollback

from smartcomm.core.bodies import TooLarge
from smartcomm.core.errors import Several, UserError

logger = structlog.get_logger(__name__)


class FieldProblem(msgspec.Struct):
    """What is wrong with one place of what was sent."""

    field: str
    code: str
    message: str


class Problem(msgspec.Struct, omit_defaults=True):
    """Why a request was refused (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] = []


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
    extensions: Mapping[str, object] | None = None,
) -> HttpResponse:
    """A refusal as application/problem+json."""
    body = Problem(
        type=f"urn:smartcomm:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        errors=list(errors),
    )
    return HttpResponse(
        msgspec.json.encode({**msgspec.to_builtins(body), **(extensions or {})}),
        status=status,
        content_type="application/problem+json",
        headers=dict(headers or {}),
    )


def problem_details(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """Turn whatever a view raised into a problem that its caller can act on."""
    set_rollback()
    match error:
        case Several():
            return problem(
                error.status,
                error.code,
                error.message,
                errors=[_field_problem(part) for part in error.errors],
            )
        case UserError():
            return problem(
                error.status,
                error.code,
                error.message,
                errors=[_field_problem(error)] if error.field else [],
                headers=_retry_after(error.retry_after),
                extensions=error.extensions,
            )
        case exceptions.ValidationError():
            return _invalid_parameters(error)
        case exceptions.APIException():
            return _refused_by_framework(error)
        case Http404():
            return problem(404, "not_found", "There is nothing at this address.")
        case PermissionDenied():
            return problem(403, "forbidden", "This is not allowed.")
        case RequestDataTooBig():
            return problem(413, TooLarge.code, "Too much was sent at once.")
        case DataError():
            logger.warning("api.unstorable", exc_info=True)
            return problem(
                422,
                "unstorable",
                "Something in it cannot be stored: a NUL character, or a number that "
                "is too large. Nothing was stored.",
            )
        case OperationalError() | InterfaceError() | PoolTimeout():
            logger.exception("api.database_away")
            return problem(
                503,
                "unavailable",
                "The database does not answer. Send the request again in a moment; "
                "events that carry an id count once.",
                headers=_retry_after(2),
            )
    request = context.get("request")
    logger.exception("api.failed", path=getattr(request, "path", ""))
    # For error trackers, and so that a test sees the error itself.
    got_request_exception.send(sender=None, request=getattr(request, "_request", None))
    return problem(500, "internal", "Something went wrong on our side. It is logged.")


def _retry_after(wait: float | None) -> dict[str, str]:
    """Where waiting helps: for how many whole seconds."""
    return {} if wait is None else {"Retry-After": str(max(math.ceil(wait), 1))}


def _field_problem(error: UserError) -> FieldProblem:
    return FieldProblem(field=error.field, code=error.code, message=error.message)


#: Our code, and our sentence where the framework's does not say what to do.
FRAMEWORK: Mapping[type[exceptions.APIException], tuple[str, str]] = {
    exceptions.ParseError: ("not_json", ""),
    exceptions.NotAuthenticated: (
        "key_missing",
        "Show a key: Authorization: Bearer <key>.",
    ),
    exceptions.AuthenticationFailed: ("key_refused", ""),
    exceptions.PermissionDenied: ("scope_missing", ""),
    exceptions.NotFound: ("not_found", "There is nothing at this address."),
    exceptions.MethodNotAllowed: ("method_not_allowed", ""),
    exceptions.UnsupportedMediaType: (
        "not_json",
        "Send JSON, with Content-Type: application/json, plain or with "
        "Content-Encoding: gzip.",
    ),
}


def _refused_by_framework(error: exceptions.APIException) -> HttpResponse:
    code, sentence = FRAMEWORK.get(type(error), ("refused", ""))
    headers = _retry_after(getattr(error, "wait", None))
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    return problem(
        error.status_code, code, sentence or str(error.detail), headers=headers
    )


def _invalid_parameters(error: exceptions.ValidationError) -> HttpResponse:
    detail = error.detail if isinstance(error.detail, dict) else {"": error.detail}
    errors = [
        FieldProblem(field=str(field), code="parameter_invalid", message=str(message))
        for field, messages in detail.items()
        for message in messages
    ]
    return problem(
        400,
        "parameter_invalid",
        " ".join(f"{one.field}: {one.message}" for one in errors),
        errors=errors,
    )


# Refusals outside any view: an address that does not exist, a fault in a middleware.


NO_SUCH_ADDRESS = "There is no such address. See /api/v1/docs for those there are."


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith("/api/"):
        return problem(404, "not_found", NO_SUCH_ADDRESS)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    if request.path.startswith("/api/"):
        return problem(
            500, "internal", "Something went wrong on our side. It is logged."
        )
    return defaults.server_error(request)

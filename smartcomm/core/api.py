"""What every address of the API has in common: JSON, refusals, scopes, lists.

Answers are msgspec structs, one class for what goes out and for what the OpenAPI
schema says (see openapi.py). Refusals are problem details (RFC 9457), each with a
code; docs/api-errors.md explains the codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, TypeVar

import msgspec
import structlog
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.core.signals import got_request_exception
from django.db import InterfaceError, OperationalError, models
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.cache import patch_cache_control
from django.views import defaults
from psycopg_pool import PoolTimeout
from rest_framework import exceptions
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.permissions import BasePermission
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView, set_rollback

from smartcomm.core import ratelimit
from smartcomm.core.errors import Invalid, Several, UserError

logger = structlog.get_logger(__name__)

M = TypeVar("M", bound=models.Model)
S = TypeVar("S", bound=msgspec.Struct)

#: What one request may send.
MAX_BODY_BYTES = 5 * 1024 * 1024
MAX_ITEMS = 1_000

#: How many of a list are told at once, unless the caller says.
PAGE_SIZE = 50
MAX_PAGE_SIZE = 500


class NotJson(UserError):
    """The body cannot be read at all."""

    code = "not_json"
    status = 400


class TooLarge(UserError):
    """More was sent in one request than we take."""

    code = "too_large"
    status = 413


class BadParameter(UserError):
    """A parameter of the address is not understood."""

    code = "parameter_invalid"
    status = 400


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
        msgspec.json.encode(body),
        status=status,
        content_type="application/problem+json",
        headers=dict(headers or {}),
    )


# Reading ------------------------------------------------------------------------


def decode(body: bytes) -> Any:
    """Read JSON as the standard has it: UTF-8, no NaN, no comments."""
    if not body.strip():
        raise NotJson("The body is empty. Send a JSON object.")
    try:
        return msgspec.json.decode(body)
    except RecursionError as error:
        raise NotJson("The body is nested too deeply.") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise NotJson(f"The body is not JSON: {str(error).rstrip('.')}.") from error


class MsgspecParser(BaseParser):
    """JSON by msgspec. Our own views read with `read_json`, which also minds the size."""

    media_type = "application/json"

    def parse(
        self,
        stream: Any,
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        return decode(stream.read(MAX_BODY_BYTES))


def read_json(request: Request) -> Any:
    """The body of a request as Python values; refused unread when it is too large."""
    headers = request.headers
    if request.content_type and not request.negotiator.select_parser(
        request, request.parsers
    ):
        raise exceptions.UnsupportedMediaType(request.content_type)
    if headers.get("Content-Encoding", "identity") != "identity":
        raise exceptions.UnsupportedMediaType(
            headers["Content-Encoding"],
            detail="Send the body as it is, without Content-Encoding.",
        )
    if headers.get("Content-Length"):
        if int(headers["Content-Length"]) > MAX_BODY_BYTES:
            raise _too_large()
        return decode(request._request.read())
    if request.META.get("wsgi.input_terminated"):
        # No length was told (chunks, HTTP/2), so Django sees no body; the server does.
        body = request.META["wsgi.input"].read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        return decode(body)
    return decode(b"")


def read_object(request: Request) -> dict[str, Any]:
    """The body of a request, which must be a JSON object."""
    body = read_json(request)
    if not isinstance(body, dict):
        raise Invalid("Send a JSON object, in braces.", code="not_an_object")
    return body


def read_items(request: Request, name: str) -> list[Any]:
    """The one item, or the items of `{name: [...]}`, that a request carries."""
    body = read_json(request)
    if not isinstance(body, dict):
        raise Invalid(
            f'Send one JSON object, or {{"{name}": [...]}}.', code="not_an_object"
        )
    if name not in body:
        return [body]
    items = body[name]
    if not isinstance(items, list):
        raise Invalid(f"“{name}” must be a list.", field=name, code="not_a_list")
    if len(body) > 1:
        other = next(key for key in body if key != name)
        raise Invalid(
            f"“{other}” is not understood beside “{name}”.",
            field=other,
            code="key_unknown",
        )
    if len(items) > MAX_ITEMS:
        raise TooLarge(
            f"{len(items):,} items are too many. Send at most {MAX_ITEMS:,} at once.",
            field=name,
            code="too_many_items",
        )
    return items


def read_struct(request: Request, shape: type[S]) -> S:
    """The body of a request as a struct; the first thing that does not fit is refused."""
    try:
        return msgspec.convert(read_object(request), shape)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise Invalid(
            message.replace("`", "“", 1).replace("`", "”", 1).rstrip(".") + ".",
            field=path.strip(".`").replace("[", ".").replace("]", ""),
        ) from error


def _too_large() -> TooLarge:
    return TooLarge(
        f"The body is larger than {MAX_BODY_BYTES // 1024**2} MiB. Send less at once."
    )


# Answering ----------------------------------------------------------------------


class MsgspecRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        return b"" if data is None else msgspec.json.encode(data)


class AlwaysJson(DefaultContentNegotiation):
    """Whatever a caller says it accepts, it gets JSON: there is nothing else."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: Any = None
    ) -> Any:
        return renderers[0], renderers[0].media_type


class HasScope(BasePermission):
    """The key's scopes contain the one that the view asks for with this method."""

    def has_permission(self, request: Request, view: Any) -> bool:
        method = "GET" if request.method == "HEAD" else str(request.method)
        if request.auth is None:
            return False
        if method == "OPTIONS" or not hasattr(view, method.lower()):
            return True  # Goes on to 405.
        needed = view.scopes[method]
        self.message = f"The key lacks the scope “{needed}”."
        return needed in request.auth.scopes


class ApiView(APIView):
    """One address of the API.

    `scopes` tells which scope each method asks for, `parameters` what may stand
    behind the question mark of a GET: a misspelt filter is refused, since ignoring
    it would answer another question.
    """

    parser_classes = [MsgspecParser]
    renderer_classes = [MsgspecRenderer]
    content_negotiation_class = AlwaysJson
    permission_classes = [HasScope]
    throttle_classes = [ratelimit.PerSource]
    metadata_class = None

    scopes: ClassVar[Mapping[str, str]] = {}
    parameters: ClassVar[frozenset[str]] = frozenset()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if request.method == "GET":
            for name in request.query_params:
                if name not in self.parameters:
                    raise BadParameter(_unknown(name, self.parameters), field=name)

    def finalize_response(
        self, request: Any, response: Any, *args: Any, **kwargs: Any
    ) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        rate = getattr(request, "rate", None)
        if rate is not None:
            response.headers.update(rate.headers())
        patch_cache_control(response, no_store=True)
        return response


def _unknown(name: str, known: Iterable[str]) -> str:
    words = ", ".join(f"“{word}”" for word in sorted(known))
    told = f"Known are {words}." if words else "There are none here."
    return f"The parameter “{name}” is not known. {told}"


# Lists --------------------------------------------------------------------------

LIST_PARAMETERS = frozenset({"limit", "cursor"})


def page_size(request: Request) -> int:
    """How many of a list the caller wants at once."""
    return _number(request, "limit", low=1, high=MAX_PAGE_SIZE) or PAGE_SIZE


def page(
    request: Request,
    rows: models.QuerySet[M],
    shape: Callable[[M], Any],
    *,
    newest_first: bool = False,
) -> dict[str, Any]:
    """One page of a list in the order of its primary key, and where the next one is.

    Found by key, so that page 500 costs what page 1 costs.
    """
    limit = page_size(request)
    after = _number(request, "cursor", low=0, high=2**63 - 1)
    if after is not None:
        rows = rows.filter(**{"pk__lt" if newest_first else "pk__gt": after})
    found = list(rows.order_by("-pk" if newest_first else "pk")[: limit + 1])
    more = len(found) > limit
    found = found[:limit]
    return {
        "results": [shape(row) for row in found],
        "next": next_page(request, str(found[-1].pk) if more else ""),
    }


def next_page(request: Request, cursor: str) -> str | None:
    """The address of the page that begins behind `cursor`; None without one."""
    if not cursor:
        return None
    query = request.query_params.copy()
    query["cursor"] = cursor
    return request.build_absolute_uri(f"{request.path}?{query.urlencode()}")


def _number(request: Request, name: str, *, low: int, high: int) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and low <= int(text[:20]) <= high):
        raise BadParameter(
            "This cursor is not one of ours. Start again without it."
            if name == "cursor"
            else f"“{name}” must be a whole number from {low} to {high}.",
            field=name,
        )
    return int(text)


# Refusing -----------------------------------------------------------------------


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
            return problem(413, "too_large", _too_large().message)
        case OperationalError() | InterfaceError() | PoolTimeout():
            logger.exception("api.database_away")
            return problem(
                503,
                "unavailable",
                "The database does not answer. Send the request again in a moment: "
                "what was stored already is not stored twice.",
                headers={"Retry-After": "2"},
            )
    request = context.get("request")
    logger.exception("api.failed", path=getattr(request, "path", ""))
    # For error trackers, and so that a test sees the error itself.
    got_request_exception.send(sender=None, request=getattr(request, "_request", None))
    return problem(500, "internal", "Something went wrong on our side. It is logged.")


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
    exceptions.UnsupportedMediaType: ("not_json", ""),
    exceptions.Throttled: (
        "too_many_requests",
        "There are too many requests. Nothing of this one was stored: send it again "
        "after the time that Retry-After tells, in seconds.",
    ),
}


def _refused_by_framework(error: exceptions.APIException) -> HttpResponse:
    code, sentence = FRAMEWORK.get(type(error), ("refused", ""))
    headers = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(math.ceil(wait))
    if isinstance(error, exceptions.UnsupportedMediaType):
        if "Content-Encoding" not in str(error.detail):
            sentence = "Send JSON, with Content-Type: application/json."
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


def no_such_address(request: HttpRequest, path: str = "") -> HttpResponse:
    """The answer of the API to an address it does not have."""
    return problem(
        404, "not_found", "There is no such address. See /api/v1/docs for those there are."
    )


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith("/api/"):
        return no_such_address(request)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    if request.path.startswith("/api/"):
        return problem(
            500, "internal", "Something went wrong on our side. It is logged."
        )
    return defaults.server_error(request)


def created(data: Any, *, at: str) -> Response:
    """201, with the address of what was made."""
    return Response(data, status=201, headers={"Location": at})

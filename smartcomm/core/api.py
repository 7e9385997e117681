"""What every address of the API has in common: scopes, limits, lists.

Answers are msgspec structs, one class for what goes out and for what the OpenAPI
schema says (openapi.py). What comes in is read by bodies.py, and refusals are told
by problems.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from django.db import models
from django.utils.cache import patch_cache_control
from rest_framework.exceptions import APIException, NotAuthenticated
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from smartcomm.core import gate
from smartcomm.core.bodies import MsgspecParser, MsgspecRenderer, drop_rest
from smartcomm.core.errors import NotFound, UserError
from smartcomm.core.problems import NO_SUCH_ADDRESS
from smartcomm.core.ratelimit import Rate
from smartcomm.core.scopes import HasScope, caller_of

M = TypeVar("M", bound=models.Model)

Instant = Annotated[datetime, msgspec.Meta(tz=True)]

#: How many of a list are told at once, unless the caller says.
PAGE_SIZE = 50
MAX_PAGE_SIZE = 500


class BadParameter(UserError):
    """A parameter of the address is not understood."""

    code = "parameter_invalid"
    status = 400


class AlwaysJson(DefaultContentNegotiation):
    """Whatever a caller says it accepts, it gets JSON: there is nothing else."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: Any = None
    ) -> Any:
        return renderers[0], renderers[0].media_type


class ApiView(APIView):
    """One address of the API.

    `scopes` tells which scope each method asks for, `parameters` what may stand
    behind the question mark: a misspelt one is refused, since ignoring it would
    answer another question.
    """

    parser_classes = [MsgspecParser]
    renderer_classes = [MsgspecRenderer]
    content_negotiation_class = AlwaysJson
    permission_classes = [HasScope]
    metadata_class = None

    scopes: ClassVar[Mapping[str, str]] = {}
    parameters: ClassVar[frozenset[str]] = frozenset()

    #: Answers who shows no key as well. A wrong key is refused even here.
    is_open: ClassVar[bool] = False

    #: How often the caller may call, told in the headers of whatever it is answered.
    rate: Rate | None = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        for name in request.query_params:
            if name not in self.parameters:
                raise BadParameter(_unknown(name, self.parameters), field=name)

    def perform_authentication(self, request: Request) -> None:
        """Who calls, and whether it may call now: before anything else is looked at.

        So that whatever is answered, also that a scope is missing, counts and tells
        the limit.
        """
        try:
            self._let_in(request)
        except (gate.TooMany, gate.TooManyFailures) as error:
            self.rate = error.rate
            raise

    def _let_in(self, request: Request) -> None:
        try:
            super().perform_authentication(request)
            if request.auth is not None:
                self.rate = gate.admit(caller_of(request).source, request.META)
            elif not self.is_open:
                raise NotAuthenticated
        except (APIException, gate.AddressNotAllowed):
            self.rate = gate.turn_away(request.META)
            raise

    def finalize_response(
        self, request: Any, response: Any, *args: Any, **kwargs: Any
    ) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        if response.status_code >= 400:
            drop_rest(request)
        if self.rate is not None:
            for name, value in self.rate.headers().items():
                response[name] = value
        patch_cache_control(response, no_store=True)
        return response


def _unknown(name: str, known: Iterable[str]) -> str:
    words = ", ".join(f"“{word}”" for word in sorted(known))
    told = f"Known are {words}." if words else "There are none here."
    return f"The parameter “{name}” is not known. {told}"


class NoSuchAddress(ApiView):
    """What the API answers at an address that it does not have."""

    is_open = True
    permission_classes = []

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.perform_authentication(request)
        raise NotFound(NO_SUCH_ADDRESS)


LIST_PARAMETERS = frozenset({"limit", "cursor"})


def page_size(request: Request) -> int:
    """How many of a list the caller wants at once."""
    return _number(request, "limit", low=1, high=MAX_PAGE_SIZE) or PAGE_SIZE


def read_text(request: Request, name: str) -> str:
    """A parameter as text; empty when it is not told."""
    text: str = request.query_params.get(name, "")
    if "\x00" in text:
        raise BadParameter(f"“{name}” has a NUL character.", field=name)
    return text


def read_flag(request: Request, name: str) -> bool:
    """A parameter that is true or false; false when it is not told."""
    match request.query_params.getlist(name):
        case [] | ["false"]:
            return False
        case ["true"]:
            return True
    raise BadParameter(f"“{name}” must be true or false, told once.", field=name)


def read_time(request: Request, name: str) -> datetime | None:
    """A parameter as a time; None when it is not told."""
    # A plus sign that was not encoded arrives as a space.
    text = read_text(request, name).strip().replace(" ", "+")
    if name not in request.query_params:
        return None
    try:
        return msgspec.convert(text, Instant).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadParameter(
            f"“{name}” must be a time with its offset: 2026-11-20T10:15:00Z.",
            field=name,
        ) from error


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
    found, following = page_of(request, rows, newest_first=newest_first)
    return {"results": [shape(row) for row in found], "next": following}


def page_of(
    request: Request, rows: models.QuerySet[M], *, newest_first: bool = False
) -> tuple[list[M], str | None]:
    """The rows of one page, and the address of the next."""
    limit = page_size(request)
    after = read_cursor(request)
    if after is not None:
        rows = rows.filter(**{"pk__lt" if newest_first else "pk__gt": after})
    found = list(rows.order_by("-pk" if newest_first else "pk")[: limit + 1])
    more = len(found) > limit
    found = found[:limit]
    return found, next_page(request, str(found[-1].pk) if more else "")


def read_cursor(request: Request) -> int | None:
    """The primary key behind which the page begins; None for the first page."""
    return _number(request, "cursor", low=0, high=2**63 - 1)


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


def created(data: Any, *, at: str) -> Response:
    """201, with the address of what was made."""
    return Response(data, status=201, headers={"Location": at})

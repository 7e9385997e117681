"""Bodies of requests and answers: JSON, read strictly and within limits."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from rest_framework import exceptions
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from smartcomm.core.errors import Invalid, UserError

S = TypeVar("S", bound=msgspec.Struct)

_TYPE = re.compile(r"application/json\s*(;|\Z)", re.IGNORECASE)

#: What one request may send.
MAX_BODY_BYTES = 5 * 1024 * 1024
MAX_ITEMS = 1_000
#: Of a body that is refused, so much is taken before the answer.
MAX_DROPPED_BYTES = 64 * 1024 * 1024


class NotJson(UserError):
    """The body cannot be read at all."""

    code = "not_json"
    status = 400


class TooLarge(UserError):
    """More was sent in one request than we take."""

    code = "too_large"
    status = 413


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


def decode_with_halves(body: bytes) -> Any:
    """As `decode`, but halves of surrogate pairs ("\\ud83d") are let through.

    Senders cut texts to a length, in the middle of an emoji. That is JSON, and whoever
    asks for it so says himself of which item it is the fault.
    """
    try:
        return decode(body)
    except NotJson:
        if not _HALF.search(body):
            raise
        try:
            return json.loads(
                body.decode(), parse_constant=_no_number, parse_float=_finite
            )
        except (ValueError, RecursionError):
            pass  # There is more that is wrong with it, and that is told.
        raise


#: Halves of surrogate pairs, and whole ones as well: it only spares most bodies more.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


class MsgspecParser(BaseParser):
    """JSON by msgspec. Our views read with `read_json`, which also minds the size."""

    media_type = "application/json"

    def parse(
        self,
        stream: Any,
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        return decode(stream.read(MAX_BODY_BYTES))


def read_json(request: Request, *, decode: Callable[[bytes], Any] = decode) -> Any:
    """The body of a request as Python values; refused unread when it is too large."""
    headers = request.headers
    if request.content_type and not _TYPE.match(request.content_type):
        raise exceptions.UnsupportedMediaType(request.content_type)
    if headers.get("Content-Encoding", "identity") != "identity":
        raise exceptions.UnsupportedMediaType(headers["Content-Encoding"])
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


def drop_rest(request: Request) -> None:
    """Take what is still being sent of a body, within reason, and forget it.

    For a refusal that read nothing: if the connection is closed while the caller is
    sending, most callers see a broken pipe and never the answer.
    """
    left = MAX_DROPPED_BYTES
    with suppress(OSError):
        while left > 0 and (piece := request._request.read(min(left, 64 * 1024))):
            left -= len(piece)


def read_object(request: Request) -> dict[str, Any]:
    """The body of a request, which must be a JSON object."""
    body = read_json(request)
    if not isinstance(body, dict):
        raise Invalid("Send a JSON object, in braces.", code="not_an_object")
    return body


def read_items(
    request: Request, name: str, *, decode: Callable[[bytes], Any] = decode
) -> list[Any]:
    """The one item, or the items of `{name: [...]}`, that a request carries."""
    body = read_json(request, decode=decode)
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
        other = other.encode(errors="replace").decode()
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
    """The body of a request as a struct; what does not fit is refused."""
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
        if data is None:
            return b""
        try:
            return msgspec.json.encode(data)
        except UnicodeEncodeError:
            # Half a surrogate pair that is told back goes out as the escape it came as.
            return json.dumps(msgspec.to_builtins(data)).encode()

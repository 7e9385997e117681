"""Bodies of requests and answers: JSON, read strictly and within limits."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from rest_framework import exceptions
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from smartcomm.core.errors import Invalid, UserError
from smartcomm.core.strict_json import Unfit, decode, decode_items

S = TypeVar("S", bound=msgspec.Struct)

_TYPE = re.compile(r"application/json\s*(;|\Z)", re.IGNORECASE)

#: What one request may send, before and after it is unpacked.
MAX_BODY_BYTES = 5 * 1024 * 1024
MAX_ITEMS = 1_000
#: A gzip is in one part, or in a few: each of them costs a copy of the rest.
MAX_MEMBERS = 100
#: Of a body that is refused, so much is taken before the answer.
MAX_DROPPED_BYTES = 64 * 1024 * 1024


class TooLarge(UserError):
    """More was sent in one request than we take."""

    code = "too_large"
    status = 413


class BadEncoding(UserError):
    """The body says it is compressed, and is not."""

    code = "encoding_invalid"
    status = 400


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


def read_body(request: Request, *, types: re.Pattern[str] = _TYPE) -> bytes:
    """The body of a request, unpacked; refused unread when it is too large."""
    headers = request.headers
    if request.content_type and not types.match(request.content_type):
        raise exceptions.UnsupportedMediaType(request.content_type)
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    # An old name of the same thing (RFC 9110, 8.4.1.3).
    encoding = "gzip" if encoding == "x-gzip" else encoding
    if encoding not in ("identity", "gzip"):
        raise exceptions.UnsupportedMediaType(encoding)
    body = b""
    if headers.get("Content-Length"):
        if int(headers["Content-Length"]) > MAX_BODY_BYTES:
            raise too_large()
        body = request._request.read()
    elif request.META.get("wsgi.input_terminated"):
        # No length was told (chunks, HTTP/2), so Django sees no body; the server does.
        body = request.META["wsgi.input"].read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            raise too_large()
    return unzip(body) if encoding == "gzip" else body


def unzip(packed: bytes, *, most: int = MAX_BODY_BYTES) -> bytes:
    """Unpack gzip, and stop at `most` bytes: a bomb is refused before it goes off."""
    unpacked = bytearray()
    for _ in range(MAX_MEMBERS):
        if not packed:
            return bytes(unpacked)
        member = zlib.decompressobj(wbits=31)
        try:
            unpacked += member.decompress(packed, most + 1 - len(unpacked))
        except zlib.error as error:
            raise BadEncoding(
                "The body is not gzip, as its Content-Encoding says."
            ) from error
        if len(unpacked) > most:
            raise too_large()
        if not member.eof:
            raise BadEncoding("The body ends in the middle of its gzip.")
        packed = member.unused_data
    raise BadEncoding(f"The gzip of the body has more than {MAX_MEMBERS} parts.")


def read_json(request: Request) -> Any:
    """The body of a request as Python values."""
    return decode(read_body(request))


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


def read_items(request: Request, name: str) -> list[Any]:
    """The one item, or the items of `{name: [...]}`, that a request carries.

    An item that cannot be held is an `Unfit`, and spoils no other.
    """
    return items_of(read_body(request), name)


def items_of(body: bytes, name: str) -> list[Any]:
    """`read_items`, of a body that has been read."""
    told = decode_items(body, name)
    if not isinstance(told, dict | Unfit):
        raise Invalid(
            f'Send one JSON object, or {{"{name}": [...]}}.', code="not_an_object"
        )
    if isinstance(told, Unfit) or name not in told:
        return [told]
    items = told[name]
    if not isinstance(items, list):
        raise Invalid(f"“{name}” must be a list.", field=name, code="not_a_list")
    if len(told) > 1:
        other = next(key for key in told if key != name)
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
            re.sub("`([^`]*)`", r"“\1”", message).rstrip(".") + ".",
            field=path.strip(".`").replace("[", ".").replace("]", ""),
        ) from error


def too_large() -> TooLarge:
    """The refusal of a body over the limit."""
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
        return encode(data)


def encode(data: Any) -> bytes:
    """An answer as JSON."""
    try:
        return msgspec.json.encode(data)
    except UnicodeEncodeError:
        # Half a surrogate pair that is told back goes out as the escape it came as.
        return json.dumps(msgspec.to_builtins(data)).encode()

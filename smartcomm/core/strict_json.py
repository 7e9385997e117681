"""JSON as it is sent to us: read strictly, and one odd item apart from the others.

msgspec reads a body in a fraction of the time of anything else, but keeps the last of
two equal keys without a word, and refuses a whole body for one number or half an emoji.
So what it reads is checked for repeated keys, at the cost of counting them, and what it
refuses is read again, item by item, by Python.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from smartcomm.core.errors import Invalid, UserError


class NotJson(UserError):
    """The body cannot be read at all."""

    code = "not_json"
    status = 400


@dataclass(frozen=True, slots=True)
class Unfit:
    """An item that is JSON, but nothing that could be stored; `text` is all of it."""

    text: str
    code: str
    message: str
    field: str = ""

    def loosely(self) -> Any:
        """What it says, the last of equal keys, and numbers as texts: to be shown."""
        return _scanner.decode(self.text)


def decode(body: bytes) -> Any:
    """Read JSON as the standard has it: UTF-8, no NaN, no comments; no key twice."""
    value = _decode(body)
    if _may_repeat_a_key(body, value):
        try:
            json.loads(body, object_pairs_hook=_once)
        except _Repeated as repeated:
            raise Invalid(
                repeated.message, field=repeated.key, code="key_duplicate"
            ) from repeated
    return value


def decode_items(body: bytes, name: str) -> Any:
    """As `decode`, for one item or `{name: [...]}`: an odd item is its own fault only.

    In its place stands an `Unfit`. Half a surrogate pair, left when a sender cuts a
    text in the middle of an emoji, is let through: whoever stores texts refuses it.
    """
    try:
        value = _decode(body)
    except NotJson as error:
        return _read_apart(body, name, error)
    return _read_apart(body, name) if _may_repeat_a_key(body, value) else value


def decode_item(text: str) -> Any:
    """One item, or an `Unfit`. Raises NotJson."""
    try:
        try:
            return json.loads(
                text,
                object_pairs_hook=_once,
                parse_float=_finite,
                parse_int=_whole,
                parse_constant=_refuse_constant,
            )
        except _Repeated as repeated:
            _scanner.decode(text)  # Unfit, but JSON: nothing worse comes after it.
            return Unfit(text, "key_duplicate", repeated.message, repeated.key)
        except _OutOfRange:
            _scanner.decode(text)
            return Unfit(
                text,
                "number_too_large",
                "A number in it is too large. Send it as a text.",
            )
    except (ValueError, RecursionError) as error:
        raise NotJson(f"It is not JSON: {str(error).rstrip('.')}.") from error


def _decode(body: bytes) -> Any:
    if not body.strip():
        raise NotJson("The body is empty. Send a JSON object.")
    try:
        return msgspec.json.decode(body)
    except RecursionError as error:
        raise NotJson("The body is nested too deeply.") from error
    except (msgspec.MsgspecError, ValueError) as error:
        # Here a path is of no help: it names neither keys nor indexes.
        what = str(error).partition(" - at `")[0].rstrip(".")
        raise NotJson(f"The body is not JSON: {what}.") from error


# A key ends with a quote and a colon. Texts may hold both as well, so there are at
# least as many of them as keys: where there are just as many, and no space stands
# between the two anywhere, no key was dropped.
_SPACED = (b" :", b"\n:", b"\r:", b"\t:")


def _may_repeat_a_key(body: bytes, value: Any) -> bool:
    return body.count(b'":') != _count_keys(value) or any(s in body for s in _SPACED)


def _count_keys(value: Any) -> int:
    count = 0
    if type(value) is dict:
        count = len(value)
        value = value.values()
    elif type(value) is not list:
        return 0
    for one in value:
        if type(one) is dict or type(one) is list:
            count += _count_keys(one)
    return count


class _Repeated(ValueError):
    def __init__(self, key: str) -> None:
        self.key = key.encode(errors="replace").decode()[:80]
        self.message = f"“{self.key}” is told twice. Send it once."


class _OutOfRange(ValueError):
    """A number that cannot be held."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Repeated(key)
            seen.add(key)
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _OutOfRange
    return number


#: Python refuses to read more digits than these.
_MOST_DIGITS = 4_000


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise _OutOfRange
    return int(text)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


# Only finds where values end.
_scanner = json.JSONDecoder(
    parse_float=str, parse_int=str, parse_constant=_refuse_constant
)


def _read_apart(body: bytes, name: str, error: NotJson | None = None) -> Any:
    """The items of a body, each by itself; raises `error` if that is no use either."""
    try:
        text = body.decode()
        envelope = _members(text, name)
        if envelope is None:
            return decode_item(text)
        return {
            key: [decode_item(one) for one in value]
            if isinstance(value, list)
            else decode_item(value)
            for key, value in envelope.items()
        }
    except (ValueError, RecursionError, NotJson) as second:
        raise error or NotJson("The body is not JSON.") from second


def _members(text: str, name: str) -> dict[str, str | list[str]] | None:
    """The members of an object that has `name`, as they were sent; a list's in parts.

    None where there is no such member, or another value than an object.
    """
    if (at := _skip(text, 0)) == len(text) or text[at] != "{":
        return None
    found: dict[str, str | list[str]] = {}

    def read_member(at: int) -> int:
        key, at = _scanner.raw_decode(text, at)
        at = _skip(text, _expect(text, _skip(text, at), ":"))
        if key in found and name in (key, *found):
            raise Invalid(
                _Repeated(key).message, field=_Repeated(key).key, code="key_duplicate"
            )
        if key == name and text[at : at + 1] == "[":
            parts: list[str] = []

            def read_part(at: int) -> int:
                _, end = _scanner.raw_decode(text, at)
                parts.append(text[at:end])
                return end

            end = _read_all(text, at + 1, "]", read_part)
            found[key] = parts
        else:
            _, end = _scanner.raw_decode(text, at)
            found[key] = text[at:end]
        return end

    end = _read_all(text, at + 1, "}", read_member)
    if _skip(text, end) != len(text):
        _fail(end)
    return found if name in found else None


def _read_all(text: str, at: int, close: str, read: Callable[[int], int]) -> int:
    """Read values with commas between them up to `close`; returns where it ends."""
    at = _skip(text, at)
    if text[at : at + 1] == close:
        return at + 1
    while True:
        at = _skip(text, read(at))
        if text[at : at + 1] == close:
            return at + 1
        at = _skip(text, _expect(text, at, ","))


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _expect(text: str, at: int, mark: str) -> int:
    return at + 1 if text[at : at + 1] == mark else _fail(at)


def _fail(at: int) -> NoReturn:
    raise ValueError(f"not JSON at character {at}")

"""CloudEvents 1.0 → an event of ours. Pure; docs/cloudevents.md tells integrators.

An event is kept in the JSON format of the specification, whichever way it came: one
that came in headers and a body is put together by `from_binary`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from events.models import Kind
from events.wire import MAX_ID, Refusal
from smartcomm.core.strict_json import NotJson, Unfit, decode_item

REQUIRED = ("id", "source", "type")

_JSON = re.compile(r"\s*[\w.+-]+/([\w.-]+\+)?json\s*(;|\Z)", re.IGNORECASE)


def kind_of(event: object) -> Kind:
    """A customer's event, if it names one or says so; otherwise a system event."""
    if not isinstance(event, dict):
        return Kind.CUSTOMER
    kind = event.get("kind")
    if isinstance(kind, str) and kind in Kind.values:
        return Kind(kind)
    return Kind.CUSTOMER if _customer(event) is not None else Kind.SYSTEM


def _customer(event: Mapping[str, Any]) -> object:
    for name in ("customer", "subject"):
        if event.get(name) not in (None, ""):
            return event[name]
    return None


def labels(event: Mapping[str, Any]) -> dict[str, Any]:
    """What an event that was refused is listed under."""
    id = event.get("id")
    if isinstance(id, str) and isinstance(event.get("source"), str):
        id = id_of(event["source"], id)
    return {"name": event.get("type"), "id": id}


def translate(data: object) -> object:
    """A CloudEvent in its JSON format → an event of ours. Raises Refusal."""
    if isinstance(data, Unfit):
        return data
    if not isinstance(data, dict):
        raise Refusal("not_an_object", "A CloudEvent is a JSON object.")
    for name in ("specversion", *REQUIRED):
        if data.get(name) in (None, ""):
            raise Refusal(
                "attribute_missing",
                f"“{name}” is missing: every CloudEvent has it.",
                field=name,
            )
        if not isinstance(data[name], str):
            raise Refusal("attribute_invalid", f"“{name}” is a text.", field=name)
    if data["specversion"] != "1.0":
        raise Refusal(
            "specversion_unsupported",
            "“specversion” is 1.0: no other is understood.",
            field="specversion",
        )
    if data.get("kind") is not None and data["kind"] not in Kind.values:
        raise Refusal(
            "attribute_invalid", "“kind” is customer or system.", field="kind"
        )
    native = {
        "id": id_of(data["source"], data["id"]),
        "name": data["type"],
        "occurred_at": data.get("time"),
        "context": _data(data),
        "backfill": _backfill(data.get("backfill")),
    }
    if kind_of(data) == Kind.CUSTOMER:
        native["customer"] = _named(_customer(data))
    return native


def id_of(source: str, id: str) -> str:
    """One text for the two that make a CloudEvent unique; no other two make it.

    `<source>#<id>`, the source without any # of its own; a digest where that is
    longer than an id may be.
    """
    whole = f"{source.replace('%', '%25').replace('#', '%23')}#{id}"
    if len(whole) <= MAX_ID:
        return whole
    digest = hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()
    return f"sha256:{digest}"


def _named(customer: object) -> object:
    if customer is not None and not isinstance(customer, str):
        raise Refusal(
            "customer_invalid",
            "“customer” and “subject” are a text: the external id of the customer.",
            field="customer",
        )
    return customer


def _backfill(value: object) -> object:
    """Headers hold texts only."""
    return (
        {"true": True, "false": False}.get(value, value)
        if isinstance(value, str)
        else value
    )


def _data(event: Mapping[str, Any]) -> object:
    type = event.get("datacontenttype")
    data, encoded = event.get("data"), event.get("data_base64")
    if data is None and encoded is None:
        return None
    if type is not None and (not isinstance(type, str) or not _JSON.match(type)):
        raise Refusal(
            "data_unsupported",
            "The data is not JSON: “datacontenttype” must be application/json.",
            field="datacontenttype",
        )
    if encoded is not None:
        if data is not None:
            raise Refusal(
                "data_invalid",
                "“data” and “data_base64” exclude each other: send one.",
                field="data_base64",
            )
        data = _decoded(encoded)
    if not isinstance(data, dict):
        raise Refusal(
            "data_invalid",
            "“data” is an object of fields and values.",
            field="data",
        )
    return data


def _decoded(encoded: object) -> object:
    try:
        told = decode_item(base64.b64decode(str(encoded), validate=True).decode())
    except (binascii.Error, ValueError, NotJson) as error:
        raise Refusal(
            "data_not_json", "The data cannot be read as JSON.", field="data"
        ) from error
    if isinstance(told, Unfit):
        raise Refusal(told.code, told.message, field="data")
    return told


# From HTTP


def from_binary(meta: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    """The event of a request in binary mode: attributes as headers, data as body.

    A body that cannot be read is kept in base64, as the specification writes such
    data.
    """
    event: dict[str, Any] = {
        key[len(PREFIX) :].lower(): _header(value)
        for key, value in meta.items()
        if key.startswith(PREFIX)
    }
    type = str(meta.get("CONTENT_TYPE") or "")
    if type:
        event["datacontenttype"] = type
    if body:
        event |= _kept(body, is_json=not type or bool(_JSON.match(type)))
    return event


def _kept(body: bytes, *, is_json: bool) -> dict[str, Any]:
    try:
        data = decode_item(body.decode()) if is_json else None
    except (UnicodeDecodeError, NotJson):
        data = None
    # Also a JSON null: nothing could be told from it, and it is refused as it came.
    if data is None or isinstance(data, Unfit):
        return {"data_base64": base64.b64encode(body).decode()}
    return {"data": data}


PREFIX = "HTTP_CE_"
_QUOTED = re.compile(r'"(.*)"', re.DOTALL)


def _header(value: str) -> str:
    """A header's value: perhaps in quotes, and percent-encoded UTF-8.

    Bytes that are no UTF-8 become halves of surrogate pairs, which are refused
    further on.
    """
    if quoted := _QUOTED.fullmatch(value.strip()):
        value = re.sub(r"\\(.)", r"\1", quoted[1])
    # A server hands over bytes beyond ASCII as Latin-1.
    return unquote_to_bytes(value.encode("latin-1", "replace")).decode(
        errors="surrogateescape"
    )

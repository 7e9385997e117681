"""One message of a queue → the events in it, or what to keep of it and why.

Reads what `POST /events` reads; nothing here knows a broker or the database.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from events.models import Format, Kind
from events.wire import MAX_ID, UNSTORABLE, Refusal
from smartcomm.core.bodies import MAX_BODY_BYTES, too_large
from smartcomm.core.errors import UserError
from smartcomm.core.rabbitmq import UNREADABLE_PROPERTIES
from smartcomm.core.strict_json import Unfit, decode_items

#: The header by which a message says which kind of events it brings.
KIND_HEADER = "kind"
#: More than this is not kept of a message; RabbitMQ takes up to 512 MiB.
MAX_KEPT_BYTES = 64 * 1024 * 1024
#: A message's time before this is a clock that was never set.
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)

# Clients name the character set here as well. JSON is UTF-8, whatever they say.
_PLAIN = {"", "identity", "binary", "8bit", "utf-8", "utf8", "us-ascii", "ascii"}
# Those with slashes are kombu's, in a header `compression`; its gzip is zlib in truth.
_PACKED = {"gzip", "x-gzip", "deflate", "zlib", "application/x-gzip"}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message as the broker delivered it."""

    body: bytes
    message_id: str = ""
    encoding: str = ""
    compression: str = ""
    #: Seconds since 1970, told by the sender or by the broker.
    timestamp: int | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """What was in a message: events as the API gets them, decoded from JSON."""

    kind: Kind
    items: list[object]


class Unreadable(Exception):
    """No events can be found in a message. It is kept as one rejected event."""

    def __init__(
        self, refusal: UserError, *, kind: Kind, payload: str, format: Format
    ) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.kind = kind
        self.payload = payload
        self.format = format


def open_envelope(envelope: Envelope, *, kind: Kind = Kind.CUSTOMER) -> Opened:
    """The events in a message, of this kind unless it names the other.

    An event without an id gets one from the message's: a message that is delivered
    twice brings the same ids twice. An event without a time gets the message's.
    """
    try:
        kind = _kind(envelope, kind)
        body = _unpack(envelope)
        found = decode_items(body, "events")
    except UserError as refusal:
        # Of these, a name told twice beside the events is JSON all the same.
        is_json = refusal.code == "key_duplicate"
        raise Unreadable(
            refusal,
            kind=kind,
            payload=body.decode() if is_json else as_text(envelope),
            format=Format.NATIVE if is_json else Format.UNREADABLE,
        ) from refusal
    try:
        items = _items(found)
    except Refusal as refusal:
        raise Unreadable(
            refusal, kind=kind, payload=body.decode(), format=Format.NATIVE
        ) from refusal
    return Opened(kind, _with_ids_and_times(items, envelope))


def as_text(envelope: Envelope) -> str:
    """A body that cannot be read, as the JSON text of a rejected event."""
    body = envelope.body[:MAX_KEPT_BYTES]
    if _is_packed(envelope):
        return json.dumps(f"base64:{base64.b64encode(body).decode()}")
    return json.dumps(body.decode(errors="backslashreplace"))


def id_by(envelope: Envelope, place: int = 0, *, of: int = 1) -> str:
    """What an event is called by its message; empty if the message has no id."""
    if not envelope.message_id:
        return ""
    suffix = "" if of == 1 else f":{place}"
    message_id = envelope.message_id
    if len(message_id) + len(suffix) > MAX_ID:
        message_id = hashlib.sha256(message_id.encode(errors="replace")).hexdigest()
    return message_id + suffix


def _kind(envelope: Envelope, default: Kind) -> Kind:
    named = envelope.headers.get(KIND_HEADER)
    if named is None:
        return default
    if named in Kind.values:
        return Kind(named)
    raise Refusal(
        "kind_invalid",
        f"The header “{KIND_HEADER}” says {_shown(named)}. It is “customer” or "
        "“system”.",
    )


def _is_packed(envelope: Envelope) -> bool:
    return bool({envelope.encoding, envelope.compression} & _PACKED)


def _unpack(envelope: Envelope) -> bytes:
    if envelope.encoding == UNREADABLE_PROPERTIES:
        raise Refusal(
            "properties_invalid",
            "The properties or headers of the message cannot be read: a text that is "
            "not UTF-8, or a time that does not exist.",
        )
    if len(envelope.body) > MAX_BODY_BYTES:
        raise too_large()
    for name in (envelope.encoding, envelope.compression):
        if name not in _PLAIN | _PACKED:
            raise Refusal(
                "encoding_unknown",
                f"The encoding {_shown(name)} is not known. Send UTF-8, as it is or "
                "with gzip.",
            )
    return _inflate(envelope.body) if _is_packed(envelope) else envelope.body


def _inflate(packed: bytes) -> bytes:
    """Unpack gzip or zlib; no more of it than we take, whatever it says it holds."""
    unpacker = zlib.decompressobj(wbits=47)
    try:
        body = unpacker.decompress(packed, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise _broken() from error
    if len(body) > MAX_BODY_BYTES:
        raise too_large()
    if not unpacker.eof or unpacker.unused_data:
        raise _broken()
    return body


def _broken() -> Refusal:
    return Refusal("encoding_broken", "The body is not what its encoding says: gzip.")


def _items(found: object) -> list[object]:
    if isinstance(found, Unfit):
        return [found]
    if not isinstance(found, dict):
        raise Refusal(
            "not_an_object", 'Send one event as a JSON object, or {"events": [...]}.'
        )
    if "events" not in found:
        return [found]
    items = found["events"]
    if not isinstance(items, list):
        raise Refusal("not_a_list", "“events” must be a list.", field="events")
    if len(found) > 1:
        other = _clean(next(key for key in found if key != "events"))
        raise Refusal(
            "key_unknown", f"“{other}” is not understood beside “events”.", field=other
        )
    return items


def _with_ids_and_times(items: list[object], envelope: Envelope) -> list[object]:
    sent_at = _sent_at(envelope)
    if not envelope.message_id and not sent_at:
        return items
    completed = []
    for place, item in enumerate(items):
        if isinstance(item, dict):
            if envelope.message_id and item.get("id") is None:
                item = item | {"id": id_by(envelope, place, of=len(items))}
            if sent_at and item.get("occurred_at") is None:
                item = item | {"occurred_at": sent_at}
        completed.append(item)
    return completed


def _sent_at(envelope: Envelope) -> str:
    """When the message was sent, if it says so, as far as that is a time."""
    try:
        moment = datetime.fromtimestamp(envelope.timestamp or 0, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return moment.isoformat() if moment > EARLIEST else ""


def _clean(text: str) -> str:
    safe = UNSTORABLE.sub("\ufffd", text)
    return safe if len(safe) <= 80 else f"{safe[:80]}…"


def _shown(value: object) -> str:
    return f"“{_clean(value)}”" if isinstance(value, str) else type(value).__name__

"""A line to RabbitMQ, for those who read a queue and must outlive what comes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import amqp
from amqp.method_framing import frame_handler
from amqp.serialization import decode_properties_basic
from kombu import Connection
from kombu.exceptions import KombuError

#: How long the broker may be silent before it is taken for dead: twice this.
HEARTBEAT_SECONDS = 20
CONNECT_SECONDS = 5

#: What is raised when the broker is away, goes away, or refuses.
ERRORS = (amqp.AMQPError, OSError, KombuError)

#: The content encoding of a message whose properties cannot be read.
UNREADABLE_PROPERTIES = "unreadable"


@contextmanager
def connect(url: str) -> Iterator[amqp.Connection]:
    """A line to the first of these hosts that answers: amqp://a//;amqp://b//.

    It is the client's own, since kombu's would quietly make a new one when it is cut,
    on which nothing is consumed.
    """
    line = _establish(url)
    try:
        yield line
    finally:
        with suppress(Exception):
            line.close()


def open_queue(line: amqp.Connection, name: str) -> amqp.Channel:
    """A channel for a queue, made if it is missing.

    One that is there may be of any type: it is only looked at. Bodies come as they
    were sent.
    """
    channel = line.channel()
    try:
        channel.queue_declare(name, passive=True)
    except amqp.NotFound:
        channel = line.channel()
        channel.queue_declare(name, durable=True, auto_delete=False)
    channel.auto_decode = False
    return channel


def _establish(url: str) -> amqp.Connection:
    broker = Connection(
        url,
        connect_timeout=CONNECT_SECONDS,
        heartbeat=HEARTBEAT_SECONDS,
        # The host's certificate is checked, against what the system trusts.
        ssl={"server_hostname": None} if url.startswith("amqps:") else False,
        transport_options={
            "client_properties": {"connection_name": "smartcomm"},
            "frame_handler": _tolerant_frame_handler,
        },
    )
    last_host = max(len(broker.alt), 1)
    for host in range(1, last_host + 1):
        try:
            line: amqp.Connection = broker.transport.establish_connection()
            return line
        except ERRORS:
            if host == last_host:
                raise
            broker.maybe_switch_next()
    raise AssertionError("There is always a host.")


def _tolerant_frame_handler(
    line: amqp.Connection, callback: Callable[..., Any]
) -> Callable[[tuple[int, int, bytes]], bool]:
    """As the library's, but properties it cannot read do not end the line.

    A message with such would otherwise be delivered, and end the line, for ever.
    """
    handle = frame_handler(line, callback)

    def handle_frame(frame: tuple[int, int, bytes]) -> bool:
        frame_type, channel, content = frame
        if frame_type == _CONTENT_HEADER:
            try:
                decode_properties_basic(content, _BEFORE_PROPERTIES)
            except Exception:
                content = content[:_BEFORE_PROPERTIES] + _MARKED
        return bool(handle((frame_type, channel, content)))

    return handle_frame


_CONTENT_HEADER = 2
#: Class, weight and size of the body.
_BEFORE_PROPERTIES = 12
# Properties that have a content encoding and nothing else.
_MARKED = struct.pack(
    f">HB{len(UNREADABLE_PROPERTIES)}s",
    0x4000,
    len(UNREADABLE_PROPERTIES),
    UNREADABLE_PROPERTIES.encode(),
)

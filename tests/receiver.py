"""A real HTTP server that answers calls as a test wants it, and notes them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Call:
    """What the receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """What it answers. `seconds`: how long it takes to."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0
    #: Sends a byte at a time, each after so long.
    drips: float = 0
    #: Cuts the line after so many bytes of the body.
    cut_at: int | None = None
    #: Sends this, to the letter, instead of all else.
    raw: bytes = b""


class Receiver(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Handler)
        self.calls: list[Call] = []
        #: The next replies, in their order; after them always `reply`.
        self.script: list[Reply] = []
        self.reply: Reply | Callable[[Call], Reply] = Reply()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"{self.server_address[0]!s}:{self.server_address[1]}"

    def url(self, path: str = "/hook") -> str:
        return f"http://{self.host}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever calls may hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        server = self.server
        length = int(self.headers.get("Content-Length") or 0)
        call = Call(
            self.path,
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(length),
        )
        with server.lock:
            server.calls.append(call)
            reply = server.script.pop(0) if server.script else server.reply
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            if callable(reply):
                reply = reply(call)
            time.sleep(reply.seconds)
            self._answer(reply)
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self, reply: Reply) -> None:
        if reply.raw:
            self.wfile.write(reply.raw)
            return
        self.send_response(reply.status)
        for name, value in {
            "Content-Length": str(len(reply.body)),
            **reply.headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if reply.drips:
            for byte in reply.body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(reply.drips)
        else:
            self.wfile.write(reply.body[: reply.cut_at])

    def log_message(self, *args: Any) -> None:
        """Tests are quiet."""


@contextmanager
def receiving(host: str = "127.0.0.1") -> Iterator[Receiver]:
    """A receiver that listens for as long as the block lasts."""
    with Receiver(host) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()

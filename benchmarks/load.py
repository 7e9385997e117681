"""The load of benchmarks: HTTP requests over many connections, from one process.

As cheap as Python can be, so that what is measured is the server: the requests are
made beforehand, one thread waits for all connections, and of an answer no more is read
than its status and its length.
"""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe


@dataclass
class Measured:
    """What a load met: how long all of it took, and each request, in seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def percentile(self, percent: float) -> float:
        ranked = sorted(self.latencies)
        return ranked[min(int(len(ranked) * percent / 100), len(ranked) - 1)]


class Connection:
    """One connection to the server, which always waits for one answer."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = bytearray()
        self.asked_at = 0.0

    def ask(self, request: bytes) -> None:
        self.asked_at = time.perf_counter()
        self.socket.sendall(request)

    def is_answered(self) -> bool:
        """Take what has come. Raises RuntimeError for anything but 202."""
        piece = self.socket.recv(262_144)
        if not piece:
            raise RuntimeError("The server closed the connection.")
        self.answer += piece
        head, found, body = bytes(self.answer).partition(b"\r\n\r\n")
        if not found:
            return False
        if b" 202 " not in head[:16]:
            raise RuntimeError(bytes(self.answer).decode(errors="replace"))
        low = head.lower()
        start = low.index(b"content-length:") + 15
        length = int(low[start:].split(b"\r\n", 1)[0])
        if len(body) < length:
            return False
        self.answer.clear()
        return True


def send(port: int, requests: Sequence[bytes], connections: int) -> Measured:
    """Send all requests, each once, always one on each connection."""
    measured = Measured()
    left = iter(requests)
    with selectors.DefaultSelector() as selector:
        opened = [Connection(port) for _ in range(connections)]
        for one in opened:
            selector.register(one.socket, selectors.EVENT_READ, one)
        started = time.perf_counter()
        waiting = 0
        for one in opened:
            if (request := next(left, None)) is not None:
                one.ask(request)
                waiting += 1
        while waiting:
            for key, _ in selector.select():
                one = key.data
                if not one.is_answered():
                    continue
                measured.latencies.append(time.perf_counter() - one.asked_at)
                if (request := next(left, None)) is not None:
                    one.ask(request)
                else:
                    waiting -= 1
        measured.seconds = time.perf_counter() - started
        for one in opened:
            one.socket.close()
    return measured


def send_from_elsewhere(
    make_requests: Callable[[], Sequence[bytes]], port: int, connections: int
) -> Measured:
    """`send`, from a process of its own."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(
        target=_send_and_tell, args=(there, make_requests, port, connections)
    )
    process.start()
    there.close()
    try:
        told = here.recv()
    except EOFError:
        told = RuntimeError("The load died; see above.")
    process.join()
    if isinstance(told, Exception):
        raise told
    assert isinstance(told, Measured)
    return told


def _send_and_tell(
    pipe: Pipe,
    make_requests: Callable[[], Sequence[bytes]],
    port: int,
    connections: int,
) -> None:
    try:
        pipe.send(send(port, make_requests(), connections))
    except Exception as error:
        pipe.send(error)
        raise

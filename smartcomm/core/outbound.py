"""Calls to addresses that people have typed: never into the own network.

A name is looked up once. What it led to is checked, and that very address is connected
to, so a name that answers otherwise the next time gains nothing. Redirects are not
followed, and no proxy is asked. Hosts that an operator has named may be anywhere, and
may do without HTTPS.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlsplit

from smartcomm.core.addresses import Address
from smartcomm.core.errors import Invalid

CONNECT_SECONDS = 5.0
#: From the look-up of the name to the last byte of the answer.
SECONDS = 15.0
MAX_ANSWER = 64 * 1024
MAX_URL = 2_000
DROPPED = "The line dropped in the middle of the answer."
PORTS = {"http": 80, "https": 443}

#: What a request target is made of; http.client lets no more through either.
_URL = re.compile(r"[!-~]+\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?\Z|\[[0-9a-f:.]+\]\Z")

#: Not for the public, though what Python knows of addresses lets some of it through:
#: translated and tunnelled IPv4, and places where clouds tell machines their secrets.
_CLOSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10",
        "168.63.129.16/32",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "::/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2002::/16",
        "fec0::/10",
    )
)


class AddressRefused(Invalid):
    """An address that must not be called."""


class NoAnswer(Exception):
    """The other side could not be reached, or did not answer: worth another try."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Target:
    """An address, taken apart."""

    scheme: str
    host: str
    port: int
    #: What follows the host, with the question mark.
    path: str

    @property
    def receiver(self) -> str:
        """Whom one calls there, without anything that may be secret."""
        return f"{self.shown_host}:{self.port}"

    @property
    def shown_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Names of headers are in small letters."""

    status: int
    phrase: str
    headers: Mapping[str, str]
    body: bytes
    #: There was more of it than is read.
    is_cut: bool


def read_target(url: str, *, internal: Collection[str] = ()) -> Target:
    """An address as it was typed, if it may be called as far as can be seen without
    looking its name up. Raises AddressRefused with a sentence.

    `internal`: hosts, or host:port, that may be in the own network.
    """
    target = take_apart(url)
    if not is_internal(target, internal):
        if target.scheme != "https":
            raise AddressRefused(
                f"“{target.host}” is called by https only. Whoever runs this "
                "installation can allow it: WEBHOOK_INTERNAL_HOSTS."
            )
        if (literal := _literal(target.host)) is not None:
            _refuse_closed(literal, target.host)
    return target


def take_apart(url: str) -> Target:
    """The parts of an address. Raises AddressRefused for what is none."""
    if len(url) > MAX_URL or not _URL.match(url):
        raise AddressRefused(
            f"An address has at most {MAX_URL:,} characters, no blanks, and nothing "
            "but ASCII: write other characters as %C3%A4, or a host as xn--…"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressRefused("This is no address. Write https://host/path.") from error
    host = (parts.hostname or "").removesuffix(".")
    shown = f"[{host}]" if ":" in host else host
    if parts.scheme not in PORTS or not _HOST.match(shown) or port == 0:
        raise AddressRefused("This is no address. Write https://host/path.")
    if "@" in parts.netloc:
        raise AddressRefused("An address with a user or a password is not called.")
    if parts.fragment:
        raise AddressRefused("What follows # is never sent. Leave it out.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or PORTS[parts.scheme], path)


def is_internal(target: Target, internal: Collection[str]) -> bool:
    """Whether an operator has named this host."""
    names = {target.host, target.shown_host, target.receiver}
    return not names.isdisjoint(internal)


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    internal: Collection[str] = (),
    seconds: float = SECONDS,
    connect_seconds: float = CONNECT_SECONDS,
) -> Answer:
    """Send `body` there, and read the answer, whatever its status.

    Raises AddressRefused, or NoAnswer. Reads no more than MAX_ANSWER.
    """
    end = time.monotonic() + seconds
    target = read_target(url, internal=internal)
    addresses = _resolve(target)
    if not is_internal(target, internal):
        for address in addresses:
            _refuse_closed(address, target.host)
    connection = _Connection(
        target, addresses, connect_by=time.monotonic() + connect_seconds, end=end
    )
    try:
        connection.request("POST", target.path, body, dict(headers))
        response = connection.getresponse()
        read = response.read(MAX_ANSWER + 1)
        if response.length and len(read) <= MAX_ANSWER:
            # Asked for a number of bytes, http.client does not mind fewer.
            raise NoAnswer(DROPPED)
        return Answer(
            response.status,
            _printable(response.reason),
            {name.lower(): value for name, value in response.getheaders()},
            read[:MAX_ANSWER],
            len(read) > MAX_ANSWER,
        )
    except NoAnswer:
        raise
    except TimeoutError as error:
        raise NoAnswer(f"There was no answer within {seconds:g} seconds.") from error
    except ssl.SSLCertVerificationError as error:
        raise NoAnswer(
            f"The certificate of {target.host} cannot be trusted: "
            f"{error.verify_message}."
        ) from error
    except http.client.IncompleteRead as error:
        raise NoAnswer(DROPPED) from error
    # ValueError: for sizes that are none, http.client has no error of its own.
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(f"{target.receiver} did not answer: {_said(error)}.") from error
    finally:
        connection.hang_up()


# --- where a name leads -----------------------------------------------------------


def _resolve(target: Target) -> list[Address]:
    """All addresses of a host, each once. The only look-up of a call."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NoAnswer(
            f"The name {target.host} leads nowhere: {_said(error)}."
        ) from error
    return list(
        dict.fromkeys(
            ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found
        )
    )


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _refuse_closed(address: Address, host: str) -> None:
    if is_closed(address):
        name = "" if str(address) == host else f"“{host}” leads to {address}. "
        raise AddressRefused(
            f"{name}{address} is not on the open internet, so it is not called. "
            "Whoever runs this installation can allow the host: "
            "WEBHOOK_INTERNAL_HOSTS."
        )


def is_closed(address: Address) -> bool:
    """Whether it is anything but one machine on the open internet."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return (
        not address.is_global
        or address.is_multicast
        or address.is_reserved
        or address.is_link_local
        or any(address in network for network in _CLOSED)
    )


# --- the line ---------------------------------------------------------------------


class _Connection(http.client.HTTPConnection):
    """To addresses that were checked, with one time limit over everything."""

    def __init__(
        self,
        target: Target,
        addresses: list[Address],
        *,
        connect_by: float,
        end: float,
    ) -> None:
        # Decides whether the header `Host` tells the port.
        self.default_port = PORTS[target.scheme]
        super().__init__(target.host, target.port)
        self.target = target
        self.addresses = addresses
        self.connect_by = connect_by
        self.end = end
        self.line: socket.socket | None = None

    def connect(self) -> None:
        line = self._reach()
        try:
            if self.target.scheme == "https":
                line.settimeout(_left(min(self.connect_by, self.end)))
                line = _trust().wrap_socket(line, server_hostname=self.target.host)
        except BaseException:
            line.close()
            raise
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.line = line
        # http.client uses no more of a socket than _Line has.
        self.sock = cast(Any, _Line(line, self.end))

    def hang_up(self) -> None:
        self.close()
        if self.line is not None:
            self.line.close()

    def _reach(self) -> socket.socket:
        """The first of the addresses that lets us in."""
        said = "it has no address"
        for number, address in enumerate(self.addresses):
            try:
                left = _left(min(self.connect_by, self.end))
                # A dead address must leave time for the next.
                left /= len(self.addresses) - number
                return socket.create_connection(
                    (str(address), self.target.port), timeout=left
                )
            except TimeoutError:
                said = "connecting takes too long"
            except OSError as error:
                said = _said(error)
        raise NoAnswer(f"{self.target.receiver} cannot be reached: {said}.")


class _Line:
    """A socket on which nothing, however slowly it drips, goes on past `end`."""

    def __init__(self, line: socket.socket, end: float) -> None:
        self.line = line
        self.end = end

    def sendall(self, data: Any) -> None:
        self.line.settimeout(_left(self.end))
        self.line.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self))

    def close(self) -> None:
        """http.client closes before it reads the answer; see `hang_up`."""


class _Incoming(io.RawIOBase):
    def __init__(self, line: _Line) -> None:
        self.from_ = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.from_.line.settimeout(_left(self.from_.end))
        return self.from_.line.recv_into(buffer)


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@lru_cache(maxsize=1)
def _trust() -> ssl.SSLContext:
    """The certificates of this machine; SSL_CERT_FILE names others."""
    return ssl.create_default_context()


def _said(error: BaseException) -> str:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _printable(str(said))[:200].rstrip(".")


def _printable(text: str) -> str:
    """On one line, and without what has no place in a text, such as NUL."""
    return " ".join(_CONTROL.sub(" ", text).split())

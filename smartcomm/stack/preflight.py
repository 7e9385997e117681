"""What must be true before anything is started, each refusal in one sentence."""

import errno
import os
import socket
import time
from urllib.parse import urlsplit

import psycopg
import redis

from smartcomm.embedded import database_url, redis_url
from smartcomm.stack.environment import Environment, StartError

OLDEST_POSTGRES = 15
# How long the port of a run that was just killed may take to be free.
PORT_PATIENCE_SECONDS = 2.0


def check_port(environment: Environment) -> None:
    """Refuse a port that cannot be listened on."""
    deadline = time.monotonic() + PORT_PATIENCE_SECONDS
    while reason := _why_port_is_closed(environment):
        if reason != errno.EADDRINUSE or time.monotonic() > deadline:
            raise StartError(_port_sentence(environment, reason))
        time.sleep(0.1)


def check_database() -> None:
    """Refuse a database that does not answer, or is too old."""
    url = database_url()
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            version = connection.info.server_version // 10_000
    except (psycopg.Error, UnicodeError) as error:
        raise StartError(
            f"The database{_place(url)} cannot be reached: {_first_line(error)}"
        ) from error
    if version < OLDEST_POSTGRES:
        raise StartError(
            f"The database{_place(url)} is PostgreSQL {version}; "
            f"{OLDEST_POSTGRES} is the oldest that works."
        )


def check_redis() -> None:
    """Refuse a Valkey or Redis that does not answer."""
    url = redis_url()
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=5) as connection:
            connection.ping()
    except (redis.RedisError, ValueError) as error:
        raise StartError(
            f"Valkey{_place(url)} cannot be reached: {_first_line(error)}"
        ) from error


def _why_port_is_closed(environment: Environment) -> int:
    """The error number that listening answers; 0 means that the port is open."""
    try:
        addresses = socket.getaddrinfo(
            environment.host, environment.port, type=socket.SOCK_STREAM
        )
        family, kind, protocol, _, address = addresses[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0


def _port_sentence(environment: Environment, reason: int) -> str:
    if reason == errno.EADDRINUSE:
        return (
            f"Port {environment.port} is in use. "
            "Set PORT to another, or stop what listens there."
        )
    return (
        f"{environment.host}:{environment.port} cannot be listened on "
        f"({os.strerror(reason)}). Set HOST and PORT to an address of this machine."
    )


def _place(url: str) -> str:
    """Where an address points, without its password."""
    host = urlsplit(url).hostname
    return f" at {host}" if host else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]

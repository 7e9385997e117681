"""An installation for benchmarks: new servers, an empty database, a web server."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from smartcomm.embedded import Services

PROJECT = Path(__file__).resolve().parents[1]
PYTHON = [sys.executable, "-W", "ignore"]


@contextmanager
def installation() -> Iterator[str]:
    """New servers with an empty, migrated database; the key to post with."""
    with tempfile.TemporaryDirectory() as data:
        Path(data).chmod(0o711)
        os.environ["SMARTCOMM_DATA"] = f"{data}/installation"
        os.environ["DJANGO_SETTINGS_MODULE"] = "smartcomm.settings"
        os.environ["PYTHONWARNINGS"] = "ignore"
        with Services():
            manage("migrate", "--verbosity", "0")
            key = manage(
                "create_api_key", "--source", "benchmark", "--scope", "events:write"
            )
            yield key.strip()


def manage(*arguments: str) -> str:
    command = [*PYTHON, str(PROJECT / "manage.py"), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def running(command: str, port: int) -> Iterator[int]:
    """The server, for as long as it is measured; its process id."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        command.split(), cwd=PROJECT, env={**os.environ, "PATH": path}
    )
    try:
        while b" 200 " not in ask_health(port):
            if process.poll() is not None:
                raise RuntimeError(f"The server ended: {command}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def ask_health(port: int) -> bytes:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
        server.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return server.recv(100)
    return b""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def family(pid: int) -> list[int]:
    """A process and those it started, and so on."""
    found = [pid]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        found += family(int(child))
    return found


def processor_seconds(pid: int) -> float:
    """What a process and its children have used."""
    total = 0
    for one in family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """What a process and its children hold of memory that is theirs alone."""
    return sum(own_mib(one) for one in family(pid))


def own_mib(pid: int) -> float:
    """What one process holds of memory that is its alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = [
        int(line.split()[1])
        for line in lines
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    ]
    return sum(private) / 1024


class Whole:
    """All of `make run` in a directory of its own: web server, workers, beat."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.port = free_port()
        self.home = data / "installation"
        self.log = data / "log"
        self.pid = 0
        self.key = ""
        os.environ |= {
            "SMARTCOMM_DATA": str(self.home),
            "DJANGO_SETTINGS_MODULE": "smartcomm.settings",
            "PORT": str(self.port),
            "DEMO": "none",
            "LOG_LEVEL": "ERROR",
            "PYTHONWARNINGS": "ignore",
            **environment,
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        """Started, with a key to post with; stopped at the end."""
        with self.log.open("wb") as log:
            stack = subprocess.Popen(
                [*PYTHON, "-m", "smartcomm.stack"],
                cwd=PROJECT,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            try:
                if stack.stdout is None or not any(
                    line.startswith(b"Ready") for line in stack.stdout
                ):
                    raise RuntimeError(f"It did not start: {self.log.read_text()}")
                threading.Thread(target=stack.stdout.read, daemon=True).start()
                self.pid = stack.pid
                self.key = manage(
                    *("create_api_key", "--source", "load"),
                    *("--scope", "events:write,customers:write"),
                ).strip()
                yield
            finally:
                stack.terminate()
                stack.wait(timeout=60)

    def post(self, path: str, body: Any) -> Any:
        """Send it until it is taken, as a master system does."""
        while True:
            with suppress(OSError, http.client.HTTPException, ValueError):
                line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                line.request(
                    "POST",
                    f"/api/v1/{path}",
                    json.dumps(body),
                    {
                        "Authorization": f"Bearer {self.key}",
                        "Content-Type": "application/json",
                    },
                )
                answer = line.getresponse()
                told = answer.read()
                line.close()
                if answer.status < 300:
                    return json.loads(told)
                if answer.status < 500 and answer.status != 429:
                    raise RuntimeError(f"{answer.status}: {told[:300]!r}")
            time.sleep(0.3)

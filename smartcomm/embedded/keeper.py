"""Keeps one server running for as long as anyone uses it.

Each server has a keeper, a small process beside those that use the server. Users hold
a share of the lock "users". The keeper tries to take that lock alone, gets it when the
last user is gone, however it went, and then stops the server. So commands, tests and
`make run` can come and go in any order, by Ctrl-C or kill -9, and the server is there
for all of them and for no longer.

If the keeper itself is killed, the kernel ends the server with it, and the next user
starts another keeper, which clears up.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from smartcomm.embedded import processes
from smartcomm.embedded.account import server_account
from smartcomm.embedded.errors import EmbeddedError
from smartcomm.embedded.locks import FileLock
from smartcomm.embedded.places import data_directory
from smartcomm.embedded.postgres import Postgres
from smartcomm.embedded.servers import Server, environment
from smartcomm.embedded.valkey import Valkey

# What a keeper answers to who started it, each with the rest of the line as its text.
READY, WAITING, FAILED = "ready", "waiting", "failed"

GLANCE_SECONDS = 0.05
# Recovery after a crash can take minutes; nobody should wonder in silence.
SILENCE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 30.0


def logs() -> Path:
    """What servers print and keepers report. Replaced when a server starts."""
    return data_directory() / "logs"


def lock_path(name: str, kind: str) -> Path:
    """The lock of this kind (starting, keeper or users) of the server `name`."""
    return data_directory() / "locks" / f"{name}.{kind}"


def keep(name: str, *, durable: bool) -> int:
    """Run the server until nobody uses it. The whole life of a keeper's process."""
    if os.fork():
        # Who started the keeper may end before it, so it must not be their child.
        os._exit(0)
    with FileLock(lock_path(name, "keeper")) as alive:
        alive.take()
        try:
            keeper = Keeper(name, durable=durable)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, keeper.ask_to_stop)
            keeper.start()
        except (EmbeddedError, OSError) as error:
            answer(FAILED, str(error))
            return 1
        answer(READY)
        keeper.watch()
        return 0


def answer(word: str, text: str = "") -> None:
    """Tell who started this keeper, if they are still there to hear it."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), f"{word} {text}\n".encode())


class Keeper:
    def __init__(self, name: str, *, durable: bool) -> None:
        self._server: Server = (
            Postgres(durable=durable) if name == "postgres" else Valkey()
        )
        self._users = FileLock(lock_path(name, "users"))
        self._account = server_account()
        self._asked_to_stop = False
        self._process: subprocess.Popen[bytes]
        self._output = logs() / f"{name}.log"

    def ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_stop = True

    def start(self) -> None:
        """Start the server and wait until it answers, or tell why it will not."""
        server = self._server
        processes.end_leftovers(server.home, server.last_signal)
        server.prepare(self._account)
        with self._output.open("wb") as output:
            self._process = processes.spawn(
                server.command(),
                directory=server.home,
                output=output,
                last_signal=server.last_signal,
                environment=environment(),
                account=self._account,
            )
        self._wait_until_ready()

    def watch(self) -> None:
        """Restart the server when it dies; stop it when the last user is gone."""
        while not self._asked_to_stop and not self._users.try_take():
            time.sleep(GLANCE_SECONDS)
            if self._process.poll() is not None:
                self._restart()
        processes.stop(self._process, self._server.stop_signals)

    def _wait_until_ready(self) -> None:
        told = time.monotonic()
        while not self._server.is_ready(self._process.pid):
            if self._process.poll() is not None:
                # PostgreSQL's logger may still be writing down why.
                processes.have_ended(self._server.home, patience=1)
                output = self._output.read_text(errors="replace")
                reason = self._server.complaint(output)
                raise EmbeddedError(f"{self._server.title} did not start: {reason}")
            if time.monotonic() - told > SILENCE_SECONDS:
                answer(WAITING, f"{self._server.title} recovers from an unclean stop.")
                told = time.monotonic()
            time.sleep(0.01)

    def _restart(self) -> None:
        pause = 0.1
        while not self._asked_to_stop:
            log(f"{self._server.title} ended by itself and is started again.")
            try:
                self.start()
                return
            except (EmbeddedError, OSError) as error:
                log(str(error))
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def log(sentence: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(stamp, sentence, file=sys.stderr, flush=True)  # noqa: T201

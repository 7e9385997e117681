"""What a process does that needs the servers: hold them while it works."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Self

from smartcomm.embedded.errors import EmbeddedError
from smartcomm.embedded.keeper import FAILED, GLANCE_SECONDS, READY, lock_path, logs
from smartcomm.embedded.locks import FileLock, is_held
from smartcomm.embedded.places import PROJECT, data_directory, prepare_data_directory


class Services:
    """The embedded servers that this installation needs, held from start to stop.

    Those that DATABASE_URL and REDIS_URL replace are left out. `durable=False` is for
    data that may be lost with the power.
    """

    def __init__(self, *, durable: bool = True) -> None:
        variables = {"postgres": "DATABASE_URL", "valkey": "REDIS_URL"}
        self._names = [
            name for name in variables if not os.environ.get(variables[name])
        ]
        self._durable = durable
        self._shares: dict[str, FileLock] = {}

    def start(self) -> None:
        """Have the servers up. Takes half a second if they are not, else nothing."""
        if not self._names:
            return
        prepare_data_directory()
        for name in self._names:
            share = FileLock(lock_path(name, "users"))
            share.share()
            self._shares[name] = share
        try:
            self.ensure()
        except BaseException:
            self.stop()
            raise

    def ensure(self) -> None:
        """Start again what is no longer kept. Cheap when all is well."""
        with ExitStack() as held:
            starting = [
                held.enter_context(_start_keeper(name, durable=self._durable))
                for name in self._names
                if _is_missing(name, held)
            ]
            for answers in starting:
                _wait_until_ready(answers)

    def stop(self) -> None:
        """Let go. The last user waits until the servers are gone."""
        last = [name for name, share in self._shares.items() if share.try_take()]
        for share in self._shares.values():
            share.close()
        self._shares.clear()
        for name in last:
            _wait_until_gone(name)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _is_missing(name: str, held: ExitStack) -> bool:
    """Whether nobody keeps this server. Nobody else may start it while that is held."""
    starting = held.enter_context(FileLock(lock_path(name, "starting")))
    starting.take()
    return not is_held(lock_path(name, "keeper"))


def _start_keeper(name: str, *, durable: bool) -> IO[str]:
    """Start a keeper, and return what it answers."""
    logs().mkdir(exist_ok=True)
    command = [sys.executable, "-m", "smartcomm.embedded", "keep", name]
    answers, its_output = os.pipe()
    with (logs() / "keeper.log").open("a") as log:
        subprocess.run(
            command if durable else [*command, "--not-durable"],
            cwd=PROJECT,
            env={**os.environ, "SMARTCOMM_DATA": str(data_directory())},
            stdin=subprocess.DEVNULL,
            stdout=its_output,
            stderr=log,
            # Ctrl-C is not for it, as others may use the server.
            start_new_session=True,
            # The keeper itself goes on; what ends at once is who let it go.
            check=True,
        )
    os.close(its_output)
    return os.fdopen(answers)


def _wait_until_ready(answers: IO[str]) -> None:
    for line in answers:
        word, _, text = line.strip().partition(" ")
        if word == READY:
            return
        if word == FAILED:
            # Read to the end, which is the keeper's: it holds its lock until then.
            answers.read()
            raise EmbeddedError(text)
        print(text, file=sys.stderr)  # noqa: T201
    raise EmbeddedError(
        f"A server could not be started. {logs() / 'keeper.log'} tells more."
    )


def _wait_until_gone(name: str) -> None:
    """Wait for the keeper to stop the server, unless somebody else came to use it."""
    # Long enough for the keeper to have noticed, on the busiest machine.
    patience = time.monotonic() + 1
    while is_held(lock_path(name, "keeper")):
        time.sleep(GLANCE_SECONDS)
        with FileLock(lock_path(name, "users")) as users:
            if users.try_share() and time.monotonic() > patience:
                return

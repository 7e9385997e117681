"""Starts programs, starts them again when they die, and ends them in order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from smartcomm.embedded import processes
from smartcomm.embedded.places import PROJECT
from smartcomm.stack.environment import StartError
from smartcomm.stack.programs import Program

# Time to finish the row at hand. What is cut short is a row too, and goes on later.
STOP_SECONDS = 8.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
# A program that lived this long has recovered: its next death is a first one again.
STEADY_SECONDS = 60.0


def say(sentence: str) -> None:
    """Tell the person at the terminal. Standard output is kept for "Ready"."""
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201


class Stopped(Exception):
    """Somebody asked us to stop, before or after everything was started."""


class StopRequest:
    """Turns Ctrl-C, SIGTERM and a closed terminal into `Stopped`, once.

    What comes later is only counted, so that it cannot disturb the stopping.
    """

    def __init__(self) -> None:
        self.times = 0
        self.is_stopping = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.times += 1
        if not self.is_stopping:
            self.is_stopping = True
            raise Stopped


class Child:
    """One program: its process, its deaths, and when to try again."""

    def __init__(self, program: Program, environment: Mapping[str, str]) -> None:
        self.name = program.name
        self.deaths = 0
        self._program = program
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._next_try_at = 0.0

    def start(self) -> None:
        self._started_at = time.monotonic()
        self._process = processes.spawn(
            self._program.arguments,
            directory=PROJECT,
            output=sys.stderr.buffer,
            environment=self._environment,
        )

    def look_after(self) -> None:
        """Notice that it died; start it again once its pause is over."""
        if self._process is not None and self._process.poll() is not None:
            self._note_death(self._process.returncode)
        if self._process is None and time.monotonic() >= self._next_try_at:
            self.start()

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _note_death(self, code: int) -> None:
        now = time.monotonic()
        if now - self._started_at > STEADY_SECONDS:
            self.deaths = 0
        pause = min(FIRST_PAUSE_SECONDS * 2**self.deaths, LONGEST_PAUSE_SECONDS)
        self.deaths += 1
        self._process = None
        self._next_try_at = now + pause
        say(f"{self.name} {_end_in_words(code)}; it is started again in {pause:g} s.")


class Supervisor:
    """All programs together."""

    def __init__(
        self, programs: Sequence[Program], environment: Mapping[str, str]
    ) -> None:
        self._children = [Child(program, environment) for program in programs]

    def start(self) -> None:
        for child in self._children:
            child.start()

    def look_after(self) -> None:
        for child in self._children:
            child.look_after()

    def refuse_repeated_deaths(self, most: int) -> None:
        """Raise StartError if a program died more often than that."""
        for child in self._children:
            if child.deaths > most:
                raise StartError(f"{child.name} cannot be started; see above why.")

    def stop(self, request: StopRequest) -> None:
        """End all, politely for some seconds. A second request ends the patience."""
        request.is_stopping = True
        times, deadline = request.times, time.monotonic() + STOP_SECONDS
        for child in self._children:
            child.signal(signal.SIGTERM)
        while self._running() and time.monotonic() < deadline:
            if request.times > times:
                break
            time.sleep(0.02)
        for child in self._children:
            child.signal(signal.SIGKILL)
        while self._running():
            time.sleep(0.02)

    def _running(self) -> bool:
        return any(child.is_running() for child in self._children)


def program_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What the programs see: our environment, with the installed programs in reach."""
    programs = os.path.dirname(sys.executable)
    path = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    return {
        # Warnings speak to developers, who see them as errors in the tests.
        "PYTHONWARNINGS": "ignore",
        # Empty is as good as unset, for every setting.
        **{name: value for name, value in os.environ.items() if value},
        **variables,
        "DJANGO_SETTINGS_MODULE": "smartcomm.settings",
        "PATH": path,
    }


def _end_in_words(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    return f"was ended by {signal.Signals(-code).name}"

"""What the keeper has to know about a server in order to run it."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from smartcomm.embedded.account import Account

# How to end a server: signals in turn, with the seconds to wait after each.
Signals = Sequence[tuple[signal.Signals, float]]


class Server(Protocol):
    @property
    def title(self) -> str:
        """Its name, for sentences."""

    @property
    def home(self) -> Path:
        """Its working directory, which no other server shares."""

    @property
    def stop_signals(self) -> Signals:
        """What ends it in good order."""

    @property
    def last_signal(self) -> signal.Signals:
        """What ends it at once, in a way from which the next start recovers."""

    def prepare(self, account: Account | None) -> None:
        """Make ready what it needs to start. Nothing of it runs at this time."""

    def command(self) -> list[str]:
        """Its program and arguments."""

    def is_ready(self, pid: int) -> bool:
        """Whether the process answers."""

    def complaint(self, output: str) -> str:
        """Why it did not start, given what it printed."""


def environment() -> dict[str, str]:
    """What a server sees of ours: nothing that could change how it behaves."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}

"""How far a long load has come, told on a terminal or in a log."""

from __future__ import annotations

import time
from typing import TextIO

BAR = 30


class Progress:
    """A bar that moves in place on a terminal; elsewhere a line every few seconds."""

    def __init__(self, out: TextIO, *, every: float = 5.0) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._every = 0.1 if self._is_terminal else every
        self._what = ""
        self._total = 0
        self._done = 0
        self._began = self._told = 0.0

    def say(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()

    def start(self, what: str, *, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._began = self._told = time.monotonic()
        self._tell()

    def advance(self, number: int) -> None:
        self._done += number
        if time.monotonic() - self._told >= self._every:
            self._tell()

    def finish(self) -> None:
        self._total = self._done
        self._tell()
        if self._is_terminal:
            self._out.write("\n")
            self._out.flush()

    def _tell(self) -> None:
        self._told = time.monotonic()
        share = min(1.0, self._done / self._total) if self._total else 1.0
        bar = "#" * round(share * BAR)
        seconds = self._told - self._began
        rate = f"  {self._done / seconds:,.0f}/s" if seconds >= 1 else ""
        line = f"{self._what} [{bar:.<{BAR}}] {share:4.0%}  {self._done:,}{rate}"
        self._out.write(f"\r{line:<79}" if self._is_terminal else f"{line}\n")
        self._out.flush()

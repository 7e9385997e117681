"""The threads of this process that send: how many, and what they have in doubt.

More threads pay where providers keep them waiting. Where they do not, one thread that
starts larger groups is quicker than several that start small ones: a group costs a wait
for the disk and two statements, however small it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Of the time for a group, what a provider takes where another thread is of help.
WORTH_HELPING = 0.5


class Crew:
    """Those at work share `most` messages that are in doubt, should the process die."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._members = 0
        self._at_work = 0
        self._in_doubt = 0
        self._is_called = False
        self._at_provider = 0.0

    def join(self) -> bool:
        """Whether another thread is of help. If not, those at work look once more
        before they leave."""
        with self._changed:
            if self._members and self._at_provider < WORTH_HELPING:
                self._is_called = True
                return False
            self._members += 1
            return True

    def is_called(self) -> bool:
        """Whether somebody wanted to join since this was asked last."""
        with self._changed:
            called, self._is_called = self._is_called, False
            return called

    def leave(self) -> bool:
        """Leave. Returns whether somebody must look for what came in the meantime."""
        with self._changed:
            self._members -= 1
            called, self._is_called = self._is_called, False
            return called

    @contextmanager
    def working(self) -> Iterator[None]:
        """For as long as a batch is sent."""
        with self._changed:
            self._at_work += 1
        try:
            yield
        finally:
            with self._changed:
                self._at_work -= 1
                self._changed.notify_all()

    @contextmanager
    def group(self, wanted: int) -> Iterator[int]:
        """How many messages may be started now; in doubt until the end."""
        with self._changed:
            while (size := min(wanted, self._share())) + self._in_doubt > self._most:
                self._changed.wait()
            self._in_doubt += size
        try:
            yield size
        finally:
            with self._changed:
                self._in_doubt -= size
                self._changed.notify_all()

    def tell(self, *, at_provider: float, in_all: float) -> None:
        """How long a group took."""
        with self._changed:
            self._at_provider = at_provider / in_all if in_all else 0.0

    def _share(self) -> int:
        return max(1, self._most // max(1, self._at_work))

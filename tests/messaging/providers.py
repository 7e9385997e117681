"""Providers for tests: one that does what it is told, one that only keeps a list."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from django.db import connection

from messaging.channels import Outcome, Outgoing, Provider

SCRIPTED = "tests.messaging.providers.Scripted"
FILE = "tests.messaging.providers.File"


class Scripted(Provider):
    """Takes what it is given, unless `answers` says otherwise for an address."""

    name: ClassVar[str] = "scripted"
    #: Address → what to do instead of accepting: raise it, or call it.
    answers: ClassVar[dict[str, Exception | Callable[[], object]]] = {}
    taken: ClassVar[list[Outgoing]] = []
    #: How many at a time, and whether a transaction was open just then.
    groups: ClassVar[list[int]] = []
    in_transaction: ClassVar[list[bool]] = []

    @classmethod
    def reset(cls) -> None:
        for kept in (cls.answers, cls.taken, cls.groups, cls.in_transaction):
            kept.clear()

    def hand_over(self, messages: Sequence[Outgoing]) -> list[Outcome]:
        self.groups.append(len(messages))
        self.in_transaction.append(connection.in_atomic_block)
        return super().hand_over(messages)

    def send(self, message: Outgoing) -> str:
        answer = self.answers.get(message.address)
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            answer()
        self.taken.append(message)
        return f"their-{message.id}"


class File(Provider):
    """Appends the id of every message to a file, as something that cannot be undone.

    Dies in the middle of a group when told so: after DIE_AFTER messages.
    """

    name: ClassVar[str] = "file"
    count: ClassVar[int] = 0

    def send(self, message: Outgoing) -> str:
        with Path(os.environ["SENT_TO"]).open("a") as file:
            file.write(f"{message.id}\n")
        type(self).count += 1
        if self.count == int(os.environ.get("DIE_AFTER", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        return ""

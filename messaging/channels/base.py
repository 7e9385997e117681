"""What every way out has in common.

To add a provider for a channel: write one class here beside the others, derived from
`Provider`; name it in the setting MESSAGE_PROVIDERS; test it against a real server that
accepts, refuses, is away and drops the line (tests/messaging/test_email.py shows how).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

import msgspec
import structlog

from smartcomm.core import stopping

logger = structlog.get_logger(__name__)


class Outgoing(msgspec.Struct, frozen=True):
    """A message as a provider gets it: rendered, checked, and with its address."""

    id: int
    attempt: int
    channel: str
    address: str
    subject: str
    body: str
    html: str
    link: str
    image: str

    @property
    def key(self) -> str:
        """The same for every attempt: for providers that recognise a repetition."""
        return f"message-{self.id}"


class Result(StrEnum):
    ACCEPTED = "accepted"
    #: Not taken, and never will be: the address, or the text, is wrong.
    REFUSED = "refused"
    #: Not taken this time.
    LATER = "later"
    #: Not handed over at all: the provider does not answer, or does not let us in.
    AWAY = "away"
    #: Handed over, perhaps: the line dropped before the answer.
    IN_DOUBT = "in_doubt"


class Outcome(msgspec.Struct, frozen=True):
    """How one attempt to hand over one message ended."""

    result: Result
    provider_id: str = ""
    error: str = ""


STOPPED = Outcome(Result.LATER, error="The worker was stopped before its turn came.")


class ProviderError(Exception):
    """The provider did not take the message. `permanent`: trying again cannot help."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.message = message
        self.permanent = permanent


class ProviderAway(ProviderError):
    """The provider cannot be reached at all; nothing was handed over."""

    def __init__(self, message: str) -> None:
        super().__init__(message, permanent=False)


class InDoubt(ProviderError):
    """It is not known whether the provider took the message. It is not tried again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, permanent=True)


class Provider:
    """One way out. Made anew for each group, so it may keep a connection."""

    #: Stored with every message and delivery.
    name: ClassVar[str]

    def hand_over(self, messages: Sequence[Outgoing]) -> list[Outcome]:
        """Hand over a group, and tell the outcome of each in the same order.

        Never raises. Called with no transaction open; may take its time.
        """
        outcomes: list[Outcome] = []
        away: ProviderAway | None = None
        try:
            for message in messages:
                if stopping.is_stopping():
                    outcomes.append(STOPPED)
                    continue
                if away is None:
                    try:
                        provider_id = self.send(message)
                    except ProviderAway as error:
                        away = error
                    except Exception as error:
                        outcomes.append(self._failed(message, error))
                        continue
                    else:
                        outcomes.append(Outcome(Result.ACCEPTED, provider_id))
                        continue
                outcomes.append(Outcome(Result.AWAY, error=away.message))
        finally:
            self.close()
        return outcomes

    def send(self, message: Outgoing) -> str:
        """Hand over one message; returns the provider's id for it, or "".

        Raises ProviderError, ProviderAway or InDoubt. Anything else that is raised
        counts as doubt, because nobody thought about it.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what was opened for this group. Must not raise."""

    def _failed(self, message: Outgoing, error: Exception) -> Outcome:
        if isinstance(error, InDoubt):
            return Outcome(Result.IN_DOUBT, error=error.message)
        if isinstance(error, ProviderError):
            result = Result.REFUSED if error.permanent else Result.LATER
            return Outcome(result, error=error.message)
        logger.exception("provider.broken", provider=self.name, message_id=message.id)
        return Outcome(
            Result.IN_DOUBT, error=f"Our own mistake: {type(error).__name__}: {error}"
        )

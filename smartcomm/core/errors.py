"""Refusals that a person or a master system can act on."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar


class UserError(Exception):
    """A refusal that a person can read and act on.

    The message is shown as it is, in the API and in the admin: a whole sentence
    that says what to do. Anything only a developer can act on must be raised as
    another exception. `field` names the offending place in what was sent, as a
    dotted path (`context.price-eur`, `steps.2.next.positive`), or is empty.
    `retry_after` tells after how many seconds the same is worth another try, where
    waiting helps. `extensions` are more members of the answer, for programs.
    """

    code: ClassVar[str] = "refused"
    status: ClassVar[int] = 409
    retry_after: float | None = None
    extensions: Mapping[str, object] = MappingProxyType({})

    def __init__(self, message: str, *, field: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        if code:
            self.code = code  # type: ignore[misc]


class Invalid(UserError):
    """What was sent cannot be understood, or breaks a rule."""

    code = "invalid"
    status = 422


class NotFound(UserError):
    """What was named does not exist."""

    code = "not_found"
    status = 404


class Conflict(UserError):
    """What was asked does not fit the state things are in."""

    code = "conflict"
    status = 409


class Several(Invalid):
    """More than one thing is wrong; all of them are told at once."""

    code = "invalid"

    def __init__(self, errors: list[UserError]) -> None:
        super().__init__(
            " ".join(error.message for error in errors), field=errors[0].field
        )
        self.errors = errors

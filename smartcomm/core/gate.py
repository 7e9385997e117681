"""Who is let in: from an allowed address, within the limit, not guessing at keys.

`admit` is for a caller whose key is known, `turn_away` for one whose is not. Every
answer of the API carries the Rate that one of them gave.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from django.conf import settings

from smartcomm.core import ratelimit
from smartcomm.core.addresses import client_address, is_within, neighbourhood
from smartcomm.core.errors import UserError
from smartcomm.core.ratelimit import Rate

#: Addresses that are known to be over it, at most; more, and all start anew.
MAX_ADDRESSES = 10_000


class Source(ratelimit.Limited, Protocol):
    """A source, as far as the gate looks at it."""

    @property
    def allowed_networks(self) -> Sequence[str]: ...


class AddressNotAllowed(UserError):
    """The source may not call from there."""

    code = "address_not_allowed"
    status = 403


class TooMany(UserError):
    """The source makes more requests than it may."""

    code = "too_many_requests"
    status = 429

    def __init__(self, rate: Rate) -> None:
        super().__init__(
            "There are too many requests. Nothing of this one was stored: send it "
            "again after the time that Retry-After tells, in seconds."
        )
        self.rate = rate
        self.retry_after = rate.wait


class TooManyFailures(UserError):
    """Somebody guesses at keys, or has a wrong one and does not give up."""

    code = "too_many_failures"
    status = 429

    def __init__(self, address: str, rate: Rate) -> None:
        super().__init__(
            f"From {address} there are too many requests without a key that works. "
            "Correct the key, and send this again after the time that Retry-After "
            "tells, in seconds."
        )
        self.rate = rate
        self.retry_after = rate.wait


def admit(source: Source, meta: Mapping[str, Any]) -> Rate | None:
    """Let a request of a source in, and count it. None: it has no limit.

    Raises AddressNotAllowed, which does not count against the source: whoever stole
    its key must not use up its limit from elsewhere. Raises TooMany.
    """
    if source.allowed_networks:
        address = client_address(meta)
        if not is_within(address, source.allowed_networks):
            raise AddressNotAllowed(
                f"The source “{source}” may not send from {address or 'nowhere'}. Send "
                "from an address that is allowed, or have this one allowed on the "
                "source's page."
            )
    rate = ratelimit.of_source(source)
    if rate is not None and rate.is_exceeded:
        raise TooMany(rate)
    return rate


def turn_away(meta: Mapping[str, Any]) -> Rate | None:
    """Count a request that could not be let in. Raises TooManyFailures."""
    limit: int = settings.API_FAILURES_PER_SECOND
    if not limit:
        return None
    address = client_address(meta)
    client = neighbourhood(address)
    rate = ratelimit.count(f"address:{client}", limit=limit)
    if rate is not None and rate.is_exceeded:
        if len(_over) >= MAX_ADDRESSES:
            _over.clear()
        _over[client] = time.monotonic() + rate.wait
        raise TooManyFailures(address, rate)
    return rate


def is_over(meta: Mapping[str, Any]) -> bool:
    """Whether this address has failed too often just now: its keys are not looked up.

    Those that this process knows to work are let in all the same: many callers may
    share an address.
    """
    if not _over:
        return False
    client = neighbourhood(client_address(meta))
    until = _over.get(client)
    if until is None:
        return False
    if time.monotonic() < until:
        return True
    _over.pop(client, None)
    return False


_over: dict[str, float] = {}

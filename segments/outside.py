"""What rules may ask that only apps above know: messages, suppressed addresses, and
the names of campaigns.

Segments know nothing of those apps. One above `introduce`s the tables and functions
when it starts; until then a rule that asks for them is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from segments.rules import RuleError


@dataclass(frozen=True, slots=True)
class Outside:
    """Names of tables and columns go into queries as they are: they are the code's own,
    never anybody's input."""

    #: A table with customer_id, campaign_id and channel.
    messages: str
    #: Which of its rows count, as SQL on them: no test sends.
    message_counts: str
    #: How far a message came → the column that says when, NULL for not so far.
    moments: Mapping[str, str]
    #: A table with channel and address; an index on channel and md5(address).
    suppressions: str
    #: Channel → whether customers who never answered are written to. One query.
    defaults: Callable[[], Mapping[str, bool]]
    #: The names of those campaigns of these ids that exist; None for all. One query.
    campaigns: Callable[[Collection[int] | None], Mapping[int, str]]


_outside: list[Outside] = []


def introduce(outside: Outside) -> None:
    """Say where messages, suppressions and campaigns are found."""
    _outside[:] = [outside]


def known(at: str = "") -> Outside:
    """What was introduced. Raises RuleError, at this place, if nothing was."""
    if not _outside:
        raise RuleError("This installation keeps no messages.", field=at)
    return _outside[0]


def campaign_names() -> dict[int, str]:
    """The names of all campaigns by id."""
    return dict(_outside[0].campaigns(None)) if _outside else {}

"""How many of the customers found may be written to, by channel."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from segments import rules
from segments.compile import Compiled, Restrict, compile_rule
from segments.rules import RuleError

LABELS = {"email": "e-mail", "sms": "SMS", "push": "push"}


def queries(*, now: datetime, restrict: Restrict) -> dict[str, Compiled]:
    """Channel → the query for those to whom a message would be sent on it now.

    None for an installation without messages.
    """
    try:
        return {
            channel: compile_rule(rules.Reachable(channel), now=now, restrict=restrict)
            for channel in rules.CHANNELS
        }
    except RuleError:
        return {}


def in_words(reach: Mapping[str, int]) -> list[tuple[str, int]]:
    """(what a channel is called, how many), in the order of the channels."""
    return [(LABELS[one], reach[one]) for one in rules.CHANNELS if one in reach]

"""The names of those who ask for messages.

This app keeps a campaign's number and knows nothing more of campaigns. Whoever is above
it and does know gives `Askers` to `introduce` when it starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Asker:
    """A campaign, as the pages of messages show it."""

    name: str
    url: str


class Askers(Protocol):
    def named(self, ids: Iterable[int]) -> Mapping[int, Asker]:
        """Names and pages of these campaigns, in one query; unknown ones left out."""

    def recent(self, limit: int) -> Mapping[int, Asker]:
        """The campaigns that people are likely to look for, newest first."""


class Nobody:
    """Stands in until somebody is introduced: campaigns are numbers then."""

    def named(self, ids: Iterable[int]) -> Mapping[int, Asker]:
        return {}

    def recent(self, limit: int) -> Mapping[int, Asker]:
        return {}


_askers: Askers = Nobody()


def introduce(askers: Askers) -> None:
    """Say who knows the names of campaigns."""
    global _askers
    _askers = askers


def named(ids: Iterable[int | None]) -> Mapping[int, Asker]:
    known = {pk for pk in ids if pk is not None}
    return _askers.named(known) if known else {}


def recent(limit: int) -> Mapping[int, Asker]:
    return _askers.recent(limit)

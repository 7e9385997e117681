"""Ways out: one file each, chosen per channel by the setting MESSAGE_PROVIDERS."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from django.conf import settings
from django.utils.module_loading import import_string

from messaging.channels.base import (
    InDoubt,
    Outcome,
    Outgoing,
    Provider,
    ProviderAway,
    ProviderError,
    Result,
)

__all__ = [
    "InDoubt",
    "Outcome",
    "Outgoing",
    "Provider",
    "ProviderAway",
    "ProviderError",
    "Result",
    "provider_class",
]

OUTBOX = "messaging.channels.outbox.Outbox"


def provider_class(channel: str) -> type[Provider]:
    """The way out of a channel: what the settings name, or the local outbox."""
    return _imported(settings.MESSAGE_PROVIDERS.get(channel, OUTBOX))


@lru_cache
def _imported(path: str) -> type[Provider]:
    return cast(type[Provider], import_string(path))

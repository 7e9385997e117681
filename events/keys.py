"""API keys: secrets that sources show. Only their hashes are kept."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import Q

from events.models import ApiKey, Scope, Source
from smartcomm.core.errors import Invalid, UserError

#: So that a key is recognised as one of ours where it should not be, as in a log.
MARK = "sck_"
SHOWN = 12

#: For so long a web process trusts what it last read of a key. A key that was
#: revoked is refused everywhere after this time at the latest.
TRUSTED_SECONDS = 5.0
TRUSTED_KEYS = 1_000

#: The last use of a key is written down at most this often.
USE_NOTED_EVERY = timedelta(minutes=1)


class KeyRefused(UserError):
    """The key opens nothing."""

    code = "key_refused"
    status = 401


def create_key(
    source: Source,
    scopes: Iterable[str],
    *,
    name: str = "",
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Make a key for a source; the second value is the secret, shown this once."""
    chosen = set(scopes)
    if not chosen or not chosen <= set(Scope.values):
        raise Invalid(
            f"Choose from the scopes {', '.join(Scope.values)}.", field="scopes"
        )
    secret = MARK + secrets.token_urlsafe(32)
    key = ApiKey.objects.create(
        source=source,
        name=name,
        prefix=secret[:SHOWN],
        hash=hash_of(secret),
        scopes=[scope for scope in Scope.values if scope in chosen],
        expires_at=expires_at,
    )
    return key, secret


def revoke_key(key: ApiKey, *, now: datetime) -> None:
    """Refuse the key from now on. It stays listed: its uses can be explained."""
    if key.revoked_at is None:
        key.revoked_at = now
        key.save(update_fields=["revoked_at"])
    _trusted.pop(key.hash, None)


def check_key(secret: str, *, now: datetime) -> ApiKey:
    """The key with this secret and its source, or KeyRefused.

    One indexed query, and none for a key seen within the last seconds.
    """
    digest = hash_of(secret)
    read_at, key = _trusted.get(digest, (0.0, None))
    if key is None or time.monotonic() - read_at > TRUSTED_SECONDS:
        key = _read(digest)
        _note_use(key, now)
        if len(_trusted) >= TRUSTED_KEYS:
            _trusted.clear()
        _trusted[digest] = (time.monotonic(), key)
    if key.revoked_at is not None:
        raise KeyRefused("This key was revoked. Ask for a new one.")
    if key.expires_at is not None and key.expires_at <= now:
        raise KeyRefused("This key has expired. Ask for a new one.")
    if not key.source.is_active:
        raise KeyRefused(
            f"The source “{key.source}” is switched off, and its keys with it."
        )
    return key


def hash_of(secret: str) -> str:
    """What is kept of a secret. It is random and long, so a fast hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


_trusted: dict[str, tuple[float, ApiKey]] = {}


def _read(digest: str) -> ApiKey:
    try:
        return ApiKey.objects.select_related("source").get(hash=digest)
    except ApiKey.DoesNotExist:
        _trusted.pop(digest, None)
        raise KeyRefused(
            "This key is not known. Check that it was copied whole."
        ) from None


def _note_use(key: ApiKey, now: datetime) -> None:
    before = now - USE_NOTED_EVERY
    if key.last_used_at is None or key.last_used_at < before:
        unnoted = Q(last_used_at=None) | Q(last_used_at__lt=before)
        ApiKey.objects.filter(unnoted, pk=key.pk).update(last_used_at=now)
        key.last_used_at = now

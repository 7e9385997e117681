"""API keys: secrets that sources show. Only their hashes are kept."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import models, transaction
from django.db.models import Q, QuerySet

from events.models import ApiKey, Scope, Source
from smartcomm.core.errors import Conflict, Invalid, NotFound, UserError

#: So that a key is recognised as one of ours where it should not be, as in a log.
MARK = "sck_"
SHOWN = 12

#: For so long a web process trusts what it last read of a key. A key that was
#: revoked is refused everywhere after this time at the latest.
TRUSTED_SECONDS = 5.0
TRUSTED_KEYS = 1_000

#: The last use of a key is written down at most this often.
USE_NOTED_EVERY = timedelta(minutes=1)

#: A key that ends within this time is told of before it does.
ENDS_SOON = timedelta(days=7)
#: For so long at most an old key works beside the one that replaces it.
LONGEST_OVERLAP = timedelta(days=90)


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
    replaces: ApiKey | None = None,
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
        replaces=replaces,
    )
    return key, secret


def revoke_key(key: ApiKey, *, now: datetime) -> None:
    """Refuse the key from now on. It stays listed: its uses can be explained."""
    if key.revoked_at is None:
        key.revoked_at = now
        key.save(update_fields=["revoked_at"])
    _trusted.pop(key.hash, None)


def rotate_key(key: ApiKey, *, overlap: timedelta, now: datetime) -> tuple[ApiKey, str]:
    """Make a key to replace this one; the second value is its secret, shown this once.

    It has the same name and scopes, and as long a life as the old one was given. The
    old one works until `overlap` is over, so that its users can change at leisure.
    A key is replaced once: two people who rotate it at the same time make one key.
    """
    if not timedelta() <= overlap <= LONGEST_OVERLAP:
        raise Invalid(
            f"Two keys may overlap for up to {LONGEST_OVERLAP.days} days.",
            field="overlap",
        )
    with transaction.atomic():
        old = ApiKey.objects.select_for_update(of=("self",)).get(pk=key.pk)
        _refuse_to_rotate(old, now)
        life = old.expires_at and old.expires_at - old.created_at
        new, secret = create_key(
            old.source,
            old.scopes,
            name=old.name,
            expires_at=now + life if life else None,
            replaces=old,
        )
        ends = now + overlap
        old.expires_at = min(ends, old.expires_at or ends)
        old.save(update_fields=["expires_at"])
    key.expires_at = old.expires_at
    _trusted.pop(old.hash, None)
    return new, secret


def _refuse_to_rotate(key: ApiKey, now: datetime) -> None:
    if (successor := key.successor) is not None:
        raise Conflict(
            f"{key} was rotated before: {successor} replaces it. Rotate that one, or "
            "make a new key.",
            code="key_rotated",
        )
    if key.revoked_at is not None or key.has_expired(now):
        raise Conflict(
            f"{key} does not work any more. Make a new key.", code="key_ended"
        )


def find_key(prefix: str) -> ApiKey:
    """The key that begins so, as lists show it. Raises NotFound or Invalid."""
    begins = prefix.strip().rstrip("…")[:SHOWN]
    rows = ApiKey.objects.select_related("source", "replaced_by")
    found = list(rows.filter(prefix__startswith=begins)[:2]) if begins else []
    if not found:
        raise NotFound(
            f"No key begins with “{begins}”. `manage.py list_api_keys` shows those "
            "there are."
        )
    if len(found) > 1:
        raise Invalid(f"Several keys begin with “{begins}”. Write all {SHOWN} letters.")
    return found[0]


@dataclass(frozen=True)
class State:
    """Whether a key opens anything, in a word and in a sentence.

    `still_used` is when a key was last used after another one had come to replace it.
    """

    word: str
    sentence: str = ""
    works: bool = False
    is_ending: bool = False
    still_used: datetime | None = None


def state_of(key: ApiKey, *, now: datetime) -> State:
    """What there is to know of a key. No query if `replaced_by` was selected."""
    successor = key.successor
    because = f" because {successor} replaces it" if successor else ""
    used = key.last_used_at
    # A use is noted once a minute, so one of the minute of the rotation tells nothing.
    late = None
    if successor and used and used > successor.created_at + USE_NOTED_EVERY:
        late = used
    if key.revoked_at is not None:
        return State("revoked", still_used=late)
    if key.expires_at is None:
        return State("works", works=True)
    if key.has_expired(now):
        return State(
            "expired", f"Expired{because}." if because else "", still_used=late
        )
    left = key.expires_at - now
    return State(
        "works",
        f"Expires in {in_words(left)}{because}.",
        works=True,
        is_ending=left <= ENDS_SOON,
        still_used=late,
    )


def in_words(span: timedelta) -> str:
    """A span of time: 40 seconds, 5 minutes, 3 hours, 12 days."""
    seconds = max(round(span.total_seconds()), 0)
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        # Two days and up as days, less as hours, and so on down.
        if seconds >= 2 * size or size == 1:
            number = round(seconds / size)
            return f"{number} {unit}{'' if number == 1 else 's'}"
    raise AssertionError("A second is the last unit.")


def ending_keys(*, now: datetime) -> QuerySet[ApiKey]:
    """Keys that end soon and are missed when they do: of sources that are switched on.

    One that is replaced by another is only told of while it is still used.
    """
    rows = ApiKey.objects.filter(
        Q(replaced_by=None)
        | Q(last_used_at__gt=models.F("replaced_by__created_at") + USE_NOTED_EVERY),
        source__is_active=True,
        revoked_at=None,
        expires_at__gt=now,
        expires_at__lte=now + ENDS_SOON,
    )
    return rows.select_related("source", "replaced_by").order_by("expires_at")


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
    if key.has_expired(now):
        raise KeyRefused(
            "This key has expired: another one replaces it. Use that one."
            if key.successor
            else "This key has expired. Ask for a new one."
        )
    if not key.source.is_active:
        raise KeyRefused(
            f"The source “{key.source}” is switched off, and its keys with it."
        )
    return key


def is_trusted(secret: str) -> bool:
    """Whether this process has seen this key work lately."""
    return hash_of(secret) in _trusted


def hash_of(secret: str) -> str:
    """What is kept of a secret. It is random and long, so a fast hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


_trusted: dict[str, tuple[float, ApiKey]] = {}


def _read(digest: str) -> ApiKey:
    try:
        return ApiKey.objects.select_related("source", "replaced_by").get(hash=digest)
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

"""`Idempotency-Key`: a request that is sent again gets the answer it got before.

For senders whose events have no ids. The key, what was recorded and the answer are
committed as one, so there is nothing in between: a request that dies leaves its key
unused. While one is at work, a lock that ends with its transaction tells the others.

After draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from events.models import IdempotentRequest, Source
from smartcomm.core.db import fetch_all
from smartcomm.core.errors import UserError

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replay"
MAX_KEY = 255
#: A key is remembered for so long.
REMEMBERED = timedelta(days=30)

_KEY = re.compile(rf"[\x20-\x7e]{{1,{MAX_KEY}}}\Z")

PARAMETER = OpenApiParameter(
    HEADER,
    {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[ -~]+$"},
    location=OpenApiParameter.HEADER,
    description="For senders whose events have no ids: a text of your own for this "
    "request. Sent again with the same key and body within 30 days, it records "
    "nothing, and the answer is the one of the first time, with "
    "`Idempotency-Replay: true`. While the first is at work the answer is 409.",
)


class BadKey(UserError):
    code = "idempotency_key_invalid"
    status = 400


class KeyReused(UserError):
    code = "idempotency_key_reused"
    status = 422


class InProgress(UserError):
    """The same request is at work at this moment."""

    code = "in_progress"
    status = 409
    retry_after = 1


Answer = tuple[int, bytes]


def key_of(request: Request) -> str:
    """The key that a request carries; empty without one."""
    key = request.headers.get(HEADER)
    if key is None:
        return ""
    if not _KEY.match(key):
        raise BadKey(
            f"“{HEADER}” is a text of 1 to {MAX_KEY} characters of ASCII.",
            field=HEADER,
        )
    return key


def fingerprint(address: str, body: bytes) -> str:
    """What tells two requests apart."""
    return hashlib.sha256(f"POST {address}\n".encode() + body).hexdigest()


@transaction.atomic
def answer_once(
    key: str,
    fingerprint: str,
    respond: Callable[[], Answer],
    *,
    source: Source,
) -> tuple[Answer, bool]:
    """The answer to a request, and whether it is the one of an earlier time.

    Calls `respond` at most once for a key and source, and commits what it does
    together with the answer. Raises InProgress, and KeyReused for another request.
    """
    digest = hashlib.blake2b(f"{source.pk} {key}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, signed=True)
    [(is_free,)] = fetch_all("SELECT pg_try_advisory_xact_lock(%s)", [number])
    if not is_free:
        raise InProgress(
            "The same request is being answered at this moment. Send it again after "
            "the time that Retry-After tells, in seconds.",
            field=HEADER,
        )
    before = IdempotentRequest.objects.filter(source=source, key=key).first()
    if before is not None:
        if before.fingerprint != fingerprint:
            raise KeyReused(
                "This key was used before, with another request. Take a new key for "
                "each request.",
                field=HEADER,
            )
        return (before.status, bytes(before.answer)), True
    status, answer = respond()
    IdempotentRequest.objects.create(
        source=source,
        key=key,
        fingerprint=fingerprint,
        status=status,
        answer=answer,
        created_at=timezone.now(),
    )
    return (status, answer), False


def forget_old_keys(*, now: datetime, limit: int = 10_000) -> int:
    """Forget keys that are older than `REMEMBERED`; returns how many."""
    old = IdempotentRequest.objects.filter(created_at__lt=now - REMEMBERED)
    pks = old.order_by("created_at").values_list("pk", flat=True)[:limit]
    deleted, _ = IdempotentRequest.objects.filter(pk__in=list(pks)).delete()
    return deleted

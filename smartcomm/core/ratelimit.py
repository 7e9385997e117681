"""How many requests a source may make: what is over is refused, never dropped.

One counter a source and second, in Valkey: one round trip a request, the same for
all web processes. While Valkey is away everyone is let through, and it is not asked
again for some seconds: a limit that nobody can check must not stop events.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import redis
import structlog
from django.conf import settings

logger = structlog.get_logger(__name__)

#: How long Valkey is waited for, and left alone once it did not answer.
PATIENCE_SECONDS = 0.2
LEFT_ALONE_SECONDS = 5.0


@dataclass(frozen=True)
class Rate:
    """Where a source stands within the current second."""

    limit: int
    used: int
    reset: float

    @property
    def is_exceeded(self) -> bool:
        return self.used > self.limit

    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(max(self.limit - self.used, 0)),
            "RateLimit-Reset": "1",
            "RateLimit-Policy": f"{self.limit};w=1",
        }


_asked_again_at = 0.0


def count(who: str, *, limit: int, now: float) -> Rate | None:
    """Count one request of `who`; None if it could not be counted."""
    global _asked_again_at
    if time.monotonic() < _asked_again_at:
        return None
    second = int(now)
    key = f"rate:{who}:{second}"
    try:
        with client().pipeline(transaction=False) as pipeline:
            pipeline.incr(key)
            pipeline.expire(key, 2)
            used, _ = pipeline.execute()
    except redis.RedisError:
        _asked_again_at = time.monotonic() + LEFT_ALONE_SECONDS
        logger.warning("ratelimit.valkey_away")
        return None
    return Rate(limit=limit, used=int(used), reset=second + 1 - now)


def of_source(source: Any, *, now: float) -> Rate | None:
    """Count a request of a source; None where there is no limit, or no counting."""
    limit: int = settings.API_REQUESTS_PER_SECOND
    if not limit:
        return None
    return count(f"source:{source.pk}", limit=limit, now=now)


@cache
def client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=PATIENCE_SECONDS,
        socket_connect_timeout=PATIENCE_SECONDS,
    )

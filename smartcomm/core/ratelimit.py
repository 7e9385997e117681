"""How many requests a source may make: what is over is refused, never dropped.

For each source there is a bucket in Valkey that holds as many requests as the source
may make in a second, and is filled again evenly. So a source may send its whole second
at once, and after that as it is filled; over all processes and machines, in any span of
t seconds however it is cut, no more than limit * (1 + t) requests are let through. (A
counter for each second of the clock lets twice the limit through in one moment, around
the stroke.)

A process that is busy does not ask Valkey for each request: it takes a handful
and hands them out itself. A handful is

- no more than the process has just used in so short a time as it may be held, and not
  worth it below a few: a quiet source is asked for one by one, and counted exactly;
- no more than a twentieth of the limit, nor than half of what is left for others;
- worthless after a twentieth of a second. The bucket reckons with the latest moment at
  which it may be used, which keeps the bound above strict.

What it costs: what a process holds and does not use is lost. So a source may be
refused a little early: by less than a twentieth of its limit for each process that
serves it just then, and by one more twentieth in a burst after silence. A limit below
160 is never held ahead of requests, and exact.

While Valkey is away everyone is let through, and it is not asked again for some
seconds: a limit that nobody can check must not stop events.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Protocol

import redis
import structlog
from django.conf import settings

logger = structlog.get_logger(__name__)

#: How long Valkey is waited for, and left alone once it did not answer.
PATIENCE_SECONDS = 0.2
LEFT_ALONE_SECONDS = 5.0

#: A handful is at most this part of a limit, and held for this part of a second.
SHARE = 20
HELD_SECONDS = 1 / SHARE
#: Fewer than that are not held: they are asked for one by one.
FEWEST_HELD = 8

#: Who was refused is refused at least so long without asking Valkey; what is filled in
#: meanwhile is there afterwards. So one who floods us costs next to nothing.
REFUSED_SECONDS = 0.01

#: Sources and addresses that are kept at once: more than that, and all start anew.
MAX_HELD = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """Where a caller stands: how many requests more it may make now.

    `reset` tells when it may make the whole limit again; `wait` when one more, if
    this one was refused.
    """

    limit: int
    remaining: int
    reset: float
    wait: float = 0.0

    @property
    def is_exceeded(self) -> bool:
        return self.wait > 0

    def headers(self) -> dict[str, str]:
        limit, policy = _told(self.limit)
        return {
            "RateLimit-Limit": limit,
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(math.ceil(self.reset)),
            "RateLimit-Policy": policy,
        }


@lru_cache(maxsize=256)
def _told(limit: int) -> tuple[str, str]:
    return str(limit), f"{limit};w=1"


class Limited(Protocol):
    """A source: None for the installation's limit, 0 for none."""

    pk: Any
    requests_per_second: int | None


def of_source(source: Limited) -> Rate | None:
    """Count one request of a source; None if it has no limit, or none can be checked.

    Some microseconds for a busy source, and a round trip to Valkey for a quiet one.
    """
    limit = source.requests_per_second
    if limit is None:
        limit = settings.API_REQUESTS_PER_SECOND
    return count(f"source:{source.pk}", limit=limit) if limit else None


_asked_again_at = 0.0


class _Held:
    """What this process holds of a limit."""

    __slots__ = (
        "began_at",
        "left",
        "limit",
        "lock",
        "ready_at",
        "taken_at",
        "tokens",
        "used",
        "used_before",
    )

    def __init__(self, limit: int) -> None:
        self.lock = threading.Lock()
        self.limit = limit
        self.tokens = 0
        self.taken_at = -math.inf
        # How many were used in the twentieth of a second that is on, and in the last.
        self.began_at = -math.inf
        self.used = self.used_before = 0
        self.left = limit  # In the bucket, when it was asked last.
        self.ready_at = -math.inf  # Until then the bucket is known to be empty.

    def wanted(self, now: float) -> int:
        """How many to take, by how many were used just before."""
        age = now - self.began_at
        if age >= HELD_SECONDS:
            self.used_before = self.used if age < 2 * HELD_SECONDS else 0
            self.used, self.began_at = 0, now
        many = min(max(self.used, self.used_before), self.limit // SHARE)
        return many if many >= FEWEST_HELD else 1


_held: dict[str, _Held] = {}


def count(who: str, *, limit: int, now: float | None = None) -> Rate | None:
    """Count one request of `who`; None if it could not be counted.

    `now` is Valkey's own clock unless told: one clock for all machines.
    """
    held = _held.get(who)
    if held is None or held.limit != limit:
        if len(_held) >= MAX_HELD:
            _held.clear()
        held = _held[who] = _Held(limit)
    # Kept while Valkey is asked: who waits for it finds what was brought.
    with held.lock:
        moment = time.monotonic() if now is None else now
        if held.tokens and moment - held.taken_at < HELD_SECONDS:
            held.tokens -= 1
            held.used += 1
        elif moment < held.ready_at:
            return Rate(limit, 0, 1.0, held.ready_at - moment)
        else:
            wait = _take(who, held, moment, now)
            if wait is None:
                return None
            if wait:
                return Rate(limit, 0, 1.0, wait)
        remaining = held.left + held.tokens
    return Rate(limit, remaining, 1 - remaining / limit)


def _take(who: str, held: _Held, moment: float, now: float | None) -> float | None:
    """Take a handful from the bucket and use one of it: how long to wait, or None."""
    global _asked_again_at
    if time.monotonic() < _asked_again_at:
        return None
    wanted = held.wanted(moment)
    try:
        given, left, wait = _script(client())(
            keys=[f"rate:{who}"],
            args=[held.limit, wanted, "" if now is None else int(now * 1_000_000)],
        )
    except Exception:
        # Whatever its client raises, as of a socket that was closed under it: no event
        # is refused because nobody can count it.
        _asked_again_at = time.monotonic() + LEFT_ALONE_SECONDS
        logger.warning("ratelimit.valkey_away")
        return None
    held.left = int(left)
    if not given:
        held.tokens = 0
        seconds = max(int(wait) / 1_000_000, REFUSED_SECONDS)
        held.ready_at = moment + seconds
        return seconds
    held.tokens = int(given) - 1
    held.used += 1
    # Counted from before Valkey was asked, so that it ends here before it does there.
    held.taken_at = moment
    return 0.0


# The bucket is kept as how much of it is used, and when that was so. One who takes
# several may use them for a twentieth of a second: they count as if the bucket had not
# been fuller than at its end, so that what is filled in meanwhile is not given twice.
TAKE = f"""
local limit, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = tonumber(ARGV[3])
if not now then
    local clock = redis.call('TIME')
    now = clock[1] * 1000000 + clock[2]
end
local used = 0
local kept = redis.call('GET', KEYS[1])
if kept then
    local before, at = string.match(kept, '(%S+) (%S+)')
    -- A clock that was set back fills nothing, and goes on from there.
    used = math.max(0, before - math.max(0, now - at) * limit / 1000000)
end
local given, wait = 0, 0
local base = math.max(used, limit / {SHARE})
local many = math.min(wanted, math.floor((limit - base) / 2))
if many > 1 then
    given, used = many, base + many
elseif used + 1 <= limit + 0.000001 then
    given, used = 1, used + 1
else
    wait = math.max(1, math.ceil((used + 1 - limit) * 1000000 / limit))
end
redis.call('SET', KEYS[1], string.format('%.9f %.0f', used, now), 'PX', 2000)
return {{given, math.floor(limit - used + 0.000001), wait}}
"""


@cache
def _script(valkey: redis.Redis) -> Any:
    return valkey.register_script(TAKE)


@cache
def client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=PATIENCE_SECONDS,
        socket_connect_timeout=PATIENCE_SECONDS,
    )

"""Many callers at once, in threads and in processes: never more than the limit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest
from django.conf import settings

from smartcomm.core import ratelimit
from tests.races.together import at_once

pytestmark = pytest.mark.race

NOON = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _fresh():
    ratelimit._asked_again_at = 0.0
    ratelimit._held.clear()
    ratelimit.client().flushdb()
    yield
    ratelimit._held.clear()
    ratelimit.client().flushdb()


@pytest.mark.django_db
@pytest.mark.parametrize("limit", [5, 100, 1_000])
def test_threads_that_share_a_handful_hand_out_no_request_twice(limit):
    def call(_: int) -> int:
        rates = [ratelimit.count("a", limit=limit, now=NOON) for _ in range(limit)]
        return sum(rate is not None and not rate.is_exceeded for rate in rates)

    through = sum(at_once(8, call))

    assert through <= limit
    # Early by what a handful may cost, and no more.
    assert through >= limit * (0.9 if limit >= 160 else 1)


#: A process of its own: calls as fast as it can for a while, and tells when it was let
#: through, by the one clock that all processes of a machine share.
CALLER = """
import sys, time
from smartcomm.core import ratelimit
limit, seconds = int(sys.argv[1]), float(sys.argv[2])
ratelimit.count("warm", limit=limit)
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + seconds
while (now := time.monotonic()) < end:
    rate = ratelimit.count("a", limit=limit)
    if rate is None:
        sys.exit("Valkey was away.")
    if not rate.is_exceeded:
        print(now, time.monotonic())
"""


@dataclass(frozen=True)
class Passed:
    """A request that was let through, and between which moments."""

    asked_at: float
    told_at: float


def flood(processes: int, *, limit: int, seconds: float) -> list[Passed]:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CALLER, str(limit), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=settings.BASE_DIR,
        )
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    passed = []
    for process in started:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        passed += [Passed(*map(float, line.split())) for line in out.splitlines()]
    return sorted(passed, key=lambda one: one.told_at)


@pytest.mark.parametrize("limit", [50, 2_000])
def test_eight_processes_together_are_never_let_through_more_often(limit):
    passed = flood(8, limit=limit, seconds=2.0)

    # Every span of time that begins and ends with a request.
    step = max(1, len(passed) // 100)
    for first in range(0, len(passed), step):
        for last in range(first, len(passed), step):
            span = passed[last].told_at - passed[first].asked_at
            assert last - first + 1 <= limit * (1 + span) + 1
    # And the limit is used, not only kept.
    whole = passed[-1].told_at - passed[0].asked_at
    assert len(passed) >= limit * (1 + whole) * 0.5


def test_the_flood_would_go_through_without_a_limit():
    """So the processes above are fast enough to break the limit, if it could be."""
    passed = flood(8, limit=10_000_000, seconds=1.0)

    assert len(passed) > 2_000 * (1 + 2.0)

"""The storm in its short form; `make chaos` runs it in full."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.chaos.storm import Doubt, Kill, doubts, faketime


@pytest.mark.chaos
@pytest.mark.slow
def test_nothing_is_lost_and_nothing_doubled_in_a_storm() -> None:
    if faketime() is None:
        reason = "No libfaketime is installed; on Debian: apt install faketime."
        # CI says that there must be one: a test that never runs protects nothing.
        pytest.fail(reason) if os.environ.get("REQUIRE_FAKETIME") else pytest.skip(
            reason
        )
    short = ["--events", "2000", "--seconds", "20"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.storm", *short],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "all is well" in done.stdout


NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def kill(target: str, second: float, senders: int = 2) -> Kill:
    return Kill(NOON.timestamp() + second, target, 1, senders)


def sending(pk: int, second: float) -> tuple[int, datetime]:
    return pk, NOON + timedelta(seconds=second)


def test_doubt_is_laid_to_the_first_deadly_kill_since():
    early, late = kill("messages@", 2), kill("postgres", 9)
    found, unexplained = doubts(
        [sending(1, 1), sending(2, 1.5), sending(3, 8), sending(4, 10)],
        [kill("messages@", 0.5), early, kill("valkey", 5), kill("flush", 8.5), late],
    )
    assert found == [Doubt(early, [1, 2]), Doubt(late, [3])]
    assert unexplained == [4]


def test_a_kill_may_leave_a_group_for_each_sender_and_no_more():
    numbers = list(range(41))
    assert not Doubt(kill("messages@", 1), numbers[:40]).is_too_many
    assert Doubt(kill("messages@", 1), numbers).is_too_many


def test_a_clock_a_little_ahead_lays_no_doubt_to_the_next_kill():
    """What the killed one marked just before, by its clock just after."""
    early, late = kill("messages@", 2, senders=1), kill("all workers", 9, senders=0)
    assert doubts([sending(1, 2.05)], [early, late]) == ([Doubt(early, [1])], [])
    # The one after is asked first.
    late = kill("postgres", 9, senders=1)
    assert doubts([sending(1, 2.05)], [early, late]) == ([Doubt(late, [1])], [])
    # And where neither can have left them, there are too many.
    nobody = kill("all workers", 9, senders=0)
    [found], _ = doubts([sending(1, 2.5)], [early, nobody])
    assert found == Doubt(nobody, [1])
    assert found.is_too_many

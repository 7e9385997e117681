"""The storm in its short form; `make chaos` runs it in full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.chaos
@pytest.mark.slow
def test_nothing_is_lost_and_nothing_doubled_in_a_storm() -> None:
    short = ["--events", "2000", "--seconds", "20"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.storm", *short],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "all is well" in done.stdout

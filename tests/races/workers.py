"""Processes of their own, on the database of the test, that may be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from django.db import connection

BEGIN = """
import os
import django
from django.conf import settings

settings.DATABASES["default"]["NAME"] = os.environ["TEST_DATABASE"]
{before}
django.setup()
"""


def start(script: str, *, before: str = "", **environ: str) -> subprocess.Popen[bytes]:
    """Begin one with this script, which prints “ready”; see `wait_until_ready`.

    `before` is done before Django is set up.
    """
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN.format(before=before) + script],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "smartcomm.test_settings",
            "TEST_DATABASE": str(connection.settings_dict["NAME"]),
            **environ,
        },
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"


def go(process: subprocess.Popen[bytes]) -> None:
    """Let one go on that waits for a line."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()

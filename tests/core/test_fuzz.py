"""Good and bad data for every call, over HTTP, as the schema tells them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from django.conf import settings as ours
from pytest_django.live_server_helper import LiveServer

from tests.client import Api


@pytest.mark.django_db(transaction=True)
def test_whatever_is_sent_is_answered_as_the_schema_says(
    live_server: LiveServer, settings
):
    """A few hundred cases of what `bin/fuzz-api` sends by the ten thousand."""
    settings.API_REQUESTS_PER_SECOND = 0
    fuzz = [
        sys.executable,
        str(ours.BASE_DIR / "bin" / "fuzz-api"),
        live_server.url,
        Api(source="fuzz").key,
        "--short",
        "--cases=400",
    ]

    ran = subprocess.run(fuzz, capture_output=True, text=True, timeout=300, check=False)

    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr

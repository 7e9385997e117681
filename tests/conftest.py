"""What all tests share: the servers they run on, and a browser for those that click."""

import os
import shutil
from collections.abc import Iterator

import hypothesis
import psycopg
import pytest
from django.conf import settings
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper
from playwright.sync_api import Browser, Page, sync_playwright
from psycopg.sql import SQL, Identifier
from pytest_django.live_server_helper import LiveServer

from events import schema
from smartcomm.embedded import Services, data_directory, database_url
from smartcomm.embedded.keeper import lock_path
from smartcomm.embedded.locks import FileLock

# Property tests look elsewhere on every run of a developer's, and at the same cases on
# every run of CI: what landed stays green.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session", autouse=True)
def services() -> Iterator[None]:
    """PostgreSQL and Valkey, in data of the tests' own."""
    with Services(durable=False), FileLock(lock_path("tests", "run")) as alone:
        if not alone.try_take():
            pytest.exit(
                f"Another test run uses {data_directory()}. "
                "Wait for it, or set SMARTCOMM_DATA to another directory."
            )
        if not os.environ.get("DATABASE_URL"):
            drop_outdated_databases()
        # WhiteNoise misses it otherwise, though tests do not collect static files.
        settings.STATIC_ROOT.mkdir(exist_ok=True)
        yield
        connections.close_all()
        database = connections["default"]
        assert isinstance(database, DatabaseWrapper)
        database.close_pool()


def drop_outdated_databases() -> None:
    """Drop the databases of migrations that have changed since."""
    current = settings.DATABASES["default"]["TEST"]["NAME"]
    with psycopg.connect(database_url(), autocommit=True) as server:
        for (name,) in server.execute("SELECT datname FROM pg_database").fetchall():
            if name.startswith("test_smartcomm_") and name != current:
                server.execute(SQL("DROP DATABASE {}").format(Identifier(name)))


@pytest.fixture(autouse=True)
def _nothing_known_of_event_types() -> None:
    """What a process knows of event types is committed; a test's types are gone."""
    schema.forget_known()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        reason = "No Chromium is installed; on Debian: apt install chromium."
        # CI says that there must be one: a test that never runs protects nothing.
        pytest.fail(reason) if os.environ.get("REQUIRE_BROWSER") else pytest.skip(
            reason
        )
    # Playwright keeps an event loop in this thread, which Django takes for async code.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable, args=CHROMIUM_OPTIONS
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, live_server: LiveServer) -> Iterator[Page]:
    """A fresh window on the running site. Addresses may be given as paths."""
    context = browser.new_context(
        base_url=live_server.url, viewport={"width": 1400, "height": 1000}
    )
    context.set_default_timeout(10_000)
    yield context.new_page()
    context.close()

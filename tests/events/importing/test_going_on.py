"""Whatever stops an import, it goes on behind the last row that counts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError
from django.db import connection
from django.utils import timezone

from customers.models import Customer
from events import tasks
from events.importing import desk, run
from events.models import Event, Import
from tests import make
from tests.events.importing.files import (
    an_event,
    csv_file,
    import_events,
    last_import,
    ndjson_file,
    numbers,
    packed,
)


@pytest.fixture(autouse=True)
def _own_directory(settings, tmp_path):
    settings.DATA_DIR = tmp_path / "data"


class Killed(BaseException):
    pass


def mixed(path: Path, count: int) -> Path:
    """Of ten rows one is blank, one is rejected, and one is a duplicate."""
    rows: list[Any] = []
    for n in range(count):
        if n % 10 == 3:
            rows.append("")
        elif n % 10 == 5:
            rows.append(an_event(n, customer=""))
        elif n % 10 == 7:
            rows.append(an_event(n - 1))
        else:
            rows.append(an_event(n))
    return ndjson_file(path, rows)


def same_customer(path: Path, count: int) -> Path:
    """A duplicate needs its customer: the row before has another one."""
    text = mixed(path, count).read_text()
    path.write_text(re.sub(r'"C-\d+"', '"C-1"', text))
    return path


# What a batch and its place have to do with each other


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("after_write", [False, True])
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_batch_that_is_cut_off_leaves_nothing_and_is_done_again(
    tmp_path, monkeypatch, after_write, is_packed
):
    monkeypatch.setattr(run, "BATCH", 100)
    path = same_customer(tmp_path / "f", 1000)
    path = packed(path, members=3) if is_packed else path
    write = run._Worker._write
    calls = 0

    def dies(self, batch, *, now):
        nonlocal calls
        calls += 1
        if calls == 4:
            if after_write:
                write(self, batch, now=now)
            raise Killed
        return write(self, batch, now=now)

    monkeypatch.setattr(run._Worker, "_write", dies)
    with pytest.raises(Killed):
        import_events(path)
    monkeypatch.setattr(run._Worker, "_write", write)
    one = last_import()
    assert numbers(one) == (300, 234, 33, 33)
    assert Event.objects.count() == one.imported
    size = run.errors_path(one).stat().st_size
    assert size > one.errors_bytes if after_write else size == one.errors_bytes

    # Its process lives, so nobody else may touch it until the lease is over.
    with pytest.raises(CommandError, match="being imported right now"):
        import_events(path)
    Import.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
    import_events(path)

    one = last_import()
    assert Import.objects.count() == 1
    assert numbers(one) == (900, 700, 100, 100)
    assert one.blank == 100
    assert Event.objects.count() == 700
    rejected = run.errors_path(one).read_text().splitlines()
    assert len(rejected) == len(set(rejected)) == 100
    assert [int(re.findall(r'"_line": (\d+)', x)[0]) for x in rejected] == list(
        range(6, 1001, 10)
    )


@pytest.mark.django_db
def test_an_import_that_was_taken_away_writes_nothing_more(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "BATCH", 10)
    path = ndjson_file(tmp_path / "f", [an_event(n) for n in range(50)])
    seen = []

    def told(now_at: Import) -> None:
        seen.append(now_at.rows)
        if now_at.rows == 20:
            desk.cancel(now_at)

    plan = desk.make_plan("events", desk.Sample(path, desk.look_at(path)))
    one = desk.find_or_make(path, plan, source=make.source(), digest="x")
    run.work_on(desk.take_now(one, now=timezone.now()), told=told)

    one.refresh_from_db()
    assert seen == [10, 20]
    assert (one.status, one.rows) == ("cancelled", 20)
    assert Event.objects.count() == 20


@pytest.mark.django_db
def test_a_file_that_changed_since_is_not_read_on(tmp_path, monkeypatch):
    one = waiting(tmp_path, 30)
    Path(one.path).write_text("other\n")

    tasks.run_imports()

    one.refresh_from_db()
    assert one.status == "failed"
    assert "has changed" in one.error
    assert not Event.objects.exists()


@pytest.mark.django_db
def test_a_file_that_is_gone_is_told_and_can_be_gone_on_with(tmp_path):
    one = waiting(tmp_path, 30)
    content = Path(one.path).read_bytes()
    Path(one.path).unlink()
    tasks.run_imports()
    one.refresh_from_db()
    assert one.status == "failed"
    assert "is gone" in one.error

    Path(one.path).write_bytes(content)
    desk.go_on(one)
    tasks.run_imports()

    one.refresh_from_db()
    assert (one.status, one.imported, one.error) == ("finished", 30, "")


@pytest.mark.django_db
def test_what_nobody_thought_of_stops_the_import_and_not_the_worker(
    tmp_path, monkeypatch
):
    first, second = waiting(tmp_path, 5), waiting(tmp_path, 7)
    record = run.record_events

    def fails(items, **more):
        if len(items) == 5:
            raise ZeroDivisionError
        return record(items, **more)

    monkeypatch.setattr(run, "record_events", fails)
    tasks.run_imports()

    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, first.rows) == ("failed", 0)
    assert "in its log" in first.error
    assert (second.status, second.rows) == ("finished", 7)


# Workers


def waiting(tmp_path: Path, count: int) -> Import:
    """An uploaded file that has been started."""
    path = ndjson_file(tmp_path / "upload", [an_event(n) for n in range(count)])
    one = desk.take_in(
        path,
        kind="events",
        source=make.source(f"source {count}"),
        name="events.ndjson",
        size=path.stat().st_size,
    )
    desk.start(one)
    return one


@pytest.mark.django_db
def test_an_import_that_a_dead_worker_left_is_taken_up_when_its_lease_is_over(tmp_path):
    one = waiting(tmp_path, 30)
    now = timezone.now()
    assert run.claim_next(now=now) == one
    assert run.claim_next(now=now) is None

    later = run.claim_next(now=now + run.LEASE + timedelta(seconds=1))

    assert later == one
    run.work_on(later)
    one.refresh_from_db()
    assert (one.status, one.imported) == ("finished", 30)


@pytest.mark.django_db
def test_a_worker_that_ends_puts_its_import_back(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "BATCH", 10)
    one = waiting(tmp_path, 30)
    held = run.claim_next(now=timezone.now())
    assert held is not None
    turns = iter([False, True])
    run.work_on(held, stop=lambda: next(turns))
    run.let_go(held)
    one.refresh_from_db()
    assert (one.status, one.rows, one.claim) == ("queued", 10, None)

    tasks.run_imports()

    one.refresh_from_db()
    assert (one.status, one.rows) == ("finished", 30)


@pytest.mark.django_db
def test_a_long_import_lets_a_short_one_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "BATCH", 10)
    monkeypatch.setattr(tasks, "IMPORT_SECONDS", 0)
    order = []
    write = run._Worker.write

    def noted(self, batch):
        order.append(self._held.pk)
        return write(self, batch)

    monkeypatch.setattr(run._Worker, "write", noted)
    # A turn is at least one batch.
    monkeypatch.setattr(
        tasks, "_turn_of", lambda seconds: iter([False, True, True]).__next__
    )
    long, short = waiting(tmp_path, 30), waiting(tmp_path, 5)

    tasks.run_imports()

    assert order == [long.pk, short.pk, long.pk, long.pk]


@pytest.mark.django_db
def test_workers_leave_alone_what_a_command_began(tmp_path, monkeypatch):
    path = ndjson_file(tmp_path / "f", [an_event(1)])
    plan = desk.make_plan("events", desk.Sample(path, desk.look_at(path)))
    one = desk.find_or_make(path, plan, source=make.source(), digest="x")
    desk.take_now(one, now=timezone.now())

    assert run.claim_next(now=timezone.now() + timedelta(days=1)) is None


# Real processes

COMMAND = """
import os, sys
import django
from django.conf import settings

settings.DATABASES["default"]["NAME"] = os.environ["TEST_DATABASE"]
settings.DATA_DIR = os.environ["TEST_DATA"]
django.setup()
from django.core.management import call_command

call_command(*sys.argv[1:])
# Since the program began; what os.wait4 tells includes the parent, before it did.
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def command(path: Path, data: Path, *, source: str = "shop") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            COMMAND,
            "import_events",
            str(path),
            f"--source={source}",
        ],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "smartcomm.test_settings",
            "TEST_DATABASE": connection.settings_dict["NAME"],
            "TEST_DATA": str(data),
        },
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.race
@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("form", ["plain", "packed"])
def test_a_command_that_is_killed_again_and_again_loses_and_doubles_nothing(
    tmp_path, settings, form
):
    path = same_customer(tmp_path / "f", 30_000)
    path = packed(path, members=2) if form == "packed" else path
    reached = [0]
    for _ in range(3):
        process = command(path, settings.DATA_DIR)
        while process.poll() is None:
            one = Import.objects.first()
            if one is not None and one.rows > reached[-1] + 2000:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        one = last_import()
        # What the row says is what is in the database.
        assert Event.objects.count() == one.imported
        assert one.status == "running"
        assert numbers(one)[0] > reached[-1]
        reached.append(one.rows)

    # The last one goes on at once: it sees that the dead one is dead.
    process = command(path, settings.DATA_DIR)
    out, error = process.communicate(timeout=120)

    assert process.returncode == 0, error.decode()
    assert b"27,000 rows read = 21,000 imported + 3,000 duplicates + 3,000 rej" in out
    assert b"Going on behind line" in error
    one = Import.objects.get()
    assert numbers(one) == (27_000, 21_000, 3_000, 3_000)
    assert Event.objects.count() == 21_000
    assert Customer.objects.count() == 1
    rejected = run.errors_path(one).read_bytes().splitlines()
    assert len(rejected) == len(set(rejected)) == 3_000


@pytest.mark.race
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_two_commands_on_the_same_file_share_nothing_and_double_nothing(
    tmp_path, settings
):
    path = ndjson_file(tmp_path / "f", [an_event(n) for n in range(20_000)])

    processes = [command(path, settings.DATA_DIR) for _ in range(2)]
    codes = sorted(p.communicate(timeout=120) and p.returncode for p in processes)

    # Either the second was refused while the first was at it; or they made an import
    # each, in the same moment, and every event is in once.
    assert codes in ([0, 0], [0, 1])
    assert Event.objects.count() == 20_000
    assert sum(one.imported for one in Import.objects.all()) == 20_000


@pytest.mark.race
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_ten_times_as_many_rows_take_no_more_memory(tmp_path, settings):
    def peak(count: int) -> int:
        text = "\n".join(
            f"{count}-{n},Viewed,C-{n % 100},{'x' * 200},{n}" for n in range(count)
        )
        path = csv_file(tmp_path / f"{count}", "id,event,customer,note,n", text)
        process = command(packed(path), settings.DATA_DIR, source=f"s{count}")
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
        found = re.search(rb"VmHWM:\s+(\d+) kB", out)
        assert found is not None
        return int(found[1])

    few, many = peak(8_000), peak(80_000)

    assert last_import().imported == 80_000
    # In KiB: to keep the rows alone would take 20 MiB more.
    assert many < few + 6 * 1024, (few, many)

"""With real servers: who starts them, who keeps them, and who ends them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psycopg
import pytest
import redis

from smartcomm.embedded import EmbeddedError, Services, database_url, redis_url
from smartcomm.embedded.postgres import memory_settings
from tests.embedded.processes import kill, processes_of, wait_until_gone

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A data directory as a first start leaves it."""
    directory = tmp_path_factory.mktemp("template") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMARTCOMM_DATA", str(directory))
        with Services(durable=False):
            pass
    return directory


@pytest.fixture
def data(monkeypatch, tmp_path, template):
    """A data directory of the test's own, with nothing left at work in it."""
    directory = tmp_path / "data"
    subprocess.run(["cp", "--archive", template, directory], check=True)
    monkeypatch.setenv("SMARTCOMM_DATA", str(directory))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    yield directory
    wait_until_gone(directory)


def ask(question="SELECT 1"):
    with psycopg.connect(database_url()) as connection:
        cursor = connection.execute(question)
        return cursor.fetchone()[0] if cursor.description else None


def wait_for_answers():
    """Until both servers answer again, or time is up."""
    deadline = time.monotonic() + 10
    while True:
        try:
            ask()
            with redis.Redis.from_url(redis_url()) as valkey:
                valkey.ping()
            return
        except (psycopg.OperationalError, redis.ConnectionError):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_both_answer_while_they_are_held_and_are_gone_afterwards(data):
    with Services(durable=False):
        with redis.Redis.from_url(redis_url()) as valkey:
            assert valkey.ping()
        assert ask("SHOW server_encoding") == "UTF8"
        assert ask("SELECT 'ÄRGER' ILIKE 'ärger'")
        assert ask("SHOW listen_addresses") == ""

    wait_until_gone(data, seconds=1)


def test_run_is_durable_and_the_tests_are_not(data):
    with Services():
        assert [ask("SHOW fsync"), ask("SHOW synchronous_commit")] == ["on", "on"]
    with Services(durable=False):
        assert ask("SHOW fsync") == "off"


def test_what_one_user_wrote_the_next_one_reads(data):
    with Services(durable=False):
        ask("CREATE TABLE kept AS SELECT 7 AS number")
    with Services(durable=False):
        assert ask("SELECT number FROM kept") == 7


def test_the_last_user_ends_them_not_the_first(data):
    first, second = Services(durable=False), Services(durable=False)
    first.start()
    second.start()

    first.stop()
    assert ask() == 1

    second.stop()
    wait_until_gone(data, seconds=1)


def test_they_end_when_their_user_is_killed(data):
    program = """if True:
        from smartcomm.embedded import Services
        with Services(durable=False):
            print("up", flush=True)
            input()
    """
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"up\n"
        assert ask() == 1
        user.kill()

    wait_until_gone(data)


def test_a_killed_keeper_takes_its_server_along_and_the_next_start_recovers(data):
    with Services(durable=False) as services:
        ask("CREATE TABLE kept AS SELECT 7 AS number")
        ask("CHECKPOINT")

        kill(data, "keep postgres")
        kill(data, "keep valkey")
        services.ensure()

        assert ask("SELECT number FROM kept") == 7


def test_everything_killed_at_once_recovers(data):
    with Services(durable=False) as services:
        ask("CREATE TABLE kept AS SELECT 7 AS number")
        ask("CHECKPOINT")

        for pid in processes_of(data):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until_gone(data)
        services.ensure()

        assert ask("SELECT number FROM kept") == 7


@pytest.mark.parametrize("server", ["bin/postgres", "valkey-server"])
def test_a_server_that_dies_is_started_again(data, server):
    with Services(durable=False):
        died = kill(data, server)

        wait_for_answers()
        assert died not in processes_of(data)


def test_a_process_id_that_now_is_another_process_does_not_stop_the_start(data):
    stale = data / "postgres" / "postmaster.pid"
    stale.write_text(f"{os.getppid()}\n{data}/postgres\n1\n5432\n/tmp\n\n1 1\nready\n")

    with Services(durable=False):
        assert ask() == 1


def test_data_of_another_version_is_refused_in_a_sentence(data):
    (data / "postgres" / "PG_VERSION").write_text("15\n")

    with pytest.raises(EmbeddedError, match=r"of PostgreSQL 15, and 18\.\d+ is instal"):
        Services(durable=False).start()

    wait_until_gone(data)


def test_why_a_server_does_not_start_is_told(data):
    (data / "postgres" / "pg_hba.conf").write_text("nonsense\n")

    with pytest.raises(EmbeddedError, match=r"PostgreSQL did not start: .*pg_hba"):
        Services(durable=False).start()

    wait_until_gone(data)


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root has to change its user.")
def test_root_s_closed_home_is_opened_for_the_servers_alone(data):
    data.parent.chmod(0o700)

    with Services(durable=False):
        assert can_pass("smartcomm-db", data.parent)
        assert not can_pass("nobody", data.parent)
        assert ask() == 1


def can_pass(user, directory):
    command = ["/bin/sh", "-c", f"cd {directory}"]
    answer = subprocess.run(command, user=user, check=False, capture_output=True)
    return answer.returncode == 0


@pytest.mark.parametrize(
    ("mib", "buffers", "work"),
    [(512, "128MB", "4MB"), (4096, "1024MB", "16MB"), (262_144, "8192MB", "64MB")],
)
def test_memory_is_shared_out(mib, buffers, work):
    settings = memory_settings(mib)

    assert (settings["shared_buffers"], settings["work_mem"]) == (buffers, work)

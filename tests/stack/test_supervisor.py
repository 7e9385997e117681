"""With small programs in place of ours: shells that sleep, fail or do not listen."""

import os
import signal
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from django.conf import settings

from smartcomm.stack import supervisor as module
from smartcomm.stack.environment import StartError, read_environment
from smartcomm.stack.programs import Program, programs_of, read_procfile
from smartcomm.stack.supervisor import Supervisor, program_environment

pytestmark = pytest.mark.chaos


@pytest.fixture
def request_to_stop():
    return SimpleNamespace(times=0, is_stopping=False)


@pytest.fixture
def run(request_to_stop, tmp_path, monkeypatch):
    """Starts programs given as shell commands, which note their process ids."""
    monkeypatch.setattr(module, "STOP_SECONDS", 0.5)
    running: list[Supervisor] = []

    def start(**commands):
        programs = [Program(name, command) for name, command in commands.items()]
        running.append(Supervisor(programs, {**os.environ, "NOTES": str(tmp_path)}))
        running[-1].start()
        return running[-1]

    yield start
    for supervisor in running:
        supervisor.stop(request_to_stop)


def noted(tmp_path, count):
    """The process ids that programs noted, once there are so many."""
    deadline = time.monotonic() + 10
    while len(list(tmp_path.iterdir())) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return sorted(int(path.name) for path in tmp_path.iterdir())


def is_alive(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


SLEEP = "sh -c 'touch $NOTES/$$; exec sleep 60'"
DEAF = "sh -c 'trap \"\" TERM; touch $NOTES/$$; sleep 60 & wait; sleep 60'"


def test_stopping_ends_all(run, tmp_path, request_to_stop):
    supervisor = run(one=SLEEP, two=SLEEP)
    pids = noted(tmp_path, 2)

    supervisor.stop(request_to_stop)

    assert not any(is_alive(pid) for pid in pids)


def test_what_does_not_listen_is_killed(run, tmp_path, request_to_stop):
    supervisor = run(deaf=DEAF)
    (pid,) = noted(tmp_path, 1)

    supervisor.stop(request_to_stop)

    assert not is_alive(pid)


def test_a_second_request_ends_the_patience(
    run, tmp_path, request_to_stop, monkeypatch
):
    monkeypatch.setattr(module, "STOP_SECONDS", 60)
    supervisor = run(deaf=DEAF)
    noted(tmp_path, 1)
    signal.signal(signal.SIGALRM, lambda *_: setattr(request_to_stop, "times", 2))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    started = time.monotonic()

    supervisor.stop(request_to_stop)

    assert time.monotonic() - started < 5


def test_what_dies_is_started_again_and_the_rest_goes_on(
    run, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
    supervisor = run(fragile=SLEEP, steady=SLEEP)
    first, second = noted(tmp_path, 2)
    os.kill(first, signal.SIGKILL)

    deadline = time.monotonic() + 10
    while len(list(tmp_path.iterdir())) < 3:
        assert time.monotonic() < deadline
        supervisor.look_after()
        time.sleep(0.01)

    assert is_alive(second)
    assert "was ended by SIGKILL; it is started again in" in capfd.readouterr().err


def test_the_pauses_grow_and_a_program_that_never_lives_is_given_up(
    run, monkeypatch, capfd
):
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
    supervisor = run(broken="sh -c 'exit 3'")

    def look_after_for_a_while():
        for _ in range(1000):
            supervisor.look_after()
            supervisor.refuse_repeated_deaths(2)
            time.sleep(0.01)

    with pytest.raises(StartError, match=r"^broken cannot be started"):
        look_after_for_a_while()

    told = [line.split()[-2] for line in capfd.readouterr().err.splitlines()]
    assert told == ["0.01", "0.02", "0.04"]


def test_our_programs_find_what_is_installed_beside_python():
    path = program_environment({"PORT": "1"})["PATH"]

    assert os.path.exists(os.path.join(path.split(os.pathsep)[0], "granian"))


def test_every_queue_has_a_worker_of_its_own():
    workers = [program for program in read_procfile() if program.is_worker]
    served = [worker.command.split("--queues ")[1].split()[0] for worker in workers]

    routed = {route["queue"] for route in settings.CELERY_TASK_ROUTES.values()}
    assert sorted(served) == sorted(routed)


def test_a_queue_is_read_only_where_there_is_one():
    def names(variables: dict[str, str]) -> set[str]:
        return {program.name for program in programs_of(read_environment(variables))}

    assert names({"AMQP_URL": "amqp://broker//"}) - names({"AMQP_URL": ""}) == {
        "consumer"
    }
    assert "consumer" not in names({})

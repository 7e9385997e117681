"""`make run` as a whole: real servers, web server, workers and beat."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.embedded.processes import processes_of, wait_until_gone

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("stack") / "data"


@pytest.fixture(scope="module")
def port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def start(data, port, tmp_path):
    """Starts the stack as the leader of a process group, as a terminal would."""
    started: list[subprocess.Popen[str]] = []
    messages = (tmp_path / "messages").open("w+")

    def start_one(**variables):
        environment = {
            "SMARTCOMM_DATA": str(data),
            "PORT": str(port),
            "DEMO": "none",
            "WEB_WORKERS": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "smartcomm.stack"],
            env={**os.environ, **environment, **variables},
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            start_new_session=True,
        )
        process.messages = lambda: (tmp_path / "messages").read_text()
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()
    messages.close()
    wait_until_gone(data)


def refusal(process):
    """What a start said that was refused: one sentence, and nothing started."""
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("", 1)
    (sentence,) = process.messages().splitlines()
    return sentence


def test_it_gets_ready_refuses_a_second_of_itself_and_stops_without_a_trace(
    start, data, port
):
    process = start()
    assert process.stdout.readline() == f"Ready: http://127.0.0.1:{port}/admin/\n"
    assert "manage.py createsuperuser" in process.messages()

    healthy = urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz")
    with healthy:
        assert healthy.read() == b'{"database": "ok", "valkey": "ok"}'
    admin = urllib.request.urlopen(f"http://127.0.0.1:{port}/admin/login/")
    with admin:
        assert b"Log in" in admin.read()

    second = start()
    out, _ = second.communicate(timeout=30)
    assert (out, second.returncode) == ("", 1)
    assert f"Another `make run` uses {data}." in second.messages()

    asked_at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert time.monotonic() - asked_at < 15
    wait_until_gone(data, seconds=1)


def test_killed_with_its_group_it_leaves_nothing_and_starts_again(start, data, port):
    process = start()
    assert process.stdout.readline().startswith("Ready: ")
    assert len(processes_of(data)) > 8

    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = start()

    assert again.stdout.readline().startswith("Ready: ")
    again.send_signal(signal.SIGINT)
    assert again.wait(timeout=30) == 0
    wait_until_gone(data, seconds=1)


def test_a_port_in_use_is_refused(start, port):
    with socket.create_server(("127.0.0.1", port)):
        assert refusal(start()).startswith(f"Port {port} is in use.")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PORT": "eighty"}, "PORT must be a number"),
        ({"SMARTCOMM_DATA": "/dev/null/data"}, "The data directory /dev/null/data can"),
        ({"DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "The database at 127.0.0.1"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(start, variables, words):
    assert refusal(start(**variables)).startswith(words)

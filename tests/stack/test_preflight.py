import socket
from types import SimpleNamespace

import psycopg
import pytest

from smartcomm.stack import preflight
from smartcomm.stack.environment import StartError, read_environment


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr(preflight, "PORT_PATIENCE_SECONDS", 0)


def test_a_port_in_use_is_refused_and_a_free_one_is_not():
    with socket.create_server(("127.0.0.1", 0)) as other:
        environment = read_environment({"PORT": str(other.getsockname()[1])})

        with pytest.raises(StartError, match=r"^Port \d+ is in use\. Set PORT"):
            preflight.check_port(environment)

    preflight.check_port(environment)


def test_an_address_of_another_machine_is_refused():
    environment = read_environment({"HOST": "192.0.2.1", "PORT": "8000"})

    with pytest.raises(StartError, match=r"^192\.0\.2\.1:8000 cannot be listened on"):
        preflight.check_port(environment)


def test_a_database_that_does_not_answer_is_refused_without_its_password(monkeypatch):
    url = "postgresql://me:geheim@127.0.0.1:1/x"
    monkeypatch.setenv("DATABASE_URL", url)

    with pytest.raises(StartError, match=r"at 127\.0\.0\.1 cannot be reached") as error:
        preflight.check_database()

    assert "geheim" not in str(error.value)


def test_a_database_that_is_too_old_is_refused(monkeypatch):
    class OldServer:
        info = SimpleNamespace(server_version=140_011)

        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

    monkeypatch.setattr(psycopg, "connect", lambda *args, **options: OldServer())

    with pytest.raises(StartError, match=r"is PostgreSQL 14; 15 is the oldest"):
        preflight.check_database()


def test_a_valkey_that_does_not_answer_is_refused(monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")

    with pytest.raises(StartError, match=r"^Valkey at 127\.0\.0\.1 cannot be reached"):
        preflight.check_redis()


def test_the_servers_of_the_tests_are_good_enough():
    preflight.check_database()
    preflight.check_redis()

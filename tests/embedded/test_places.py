import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smartcomm.embedded import (
    EmbeddedError,
    broker_url,
    data_directory,
    database_url,
    prepare_data_directory,
    redis_url,
    secret_key,
)
from smartcomm.embedded.places import valkey_socket


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SMARTCOMM_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)


def test_addresses_given_by_the_environment_win(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://db.example.com/x")
    monkeypatch.setenv("REDIS_URL", "redis://cache.example.com")

    assert database_url() == "postgresql://db.example.com/x"
    assert redis_url() == broker_url() == "redis://cache.example.com"


def test_asking_for_addresses_makes_nothing():
    assert database_url().startswith("postgresql://smartcomm@%2F")
    assert redis_url().startswith("unix:///")
    assert broker_url().startswith("redis+socket:///")
    assert not data_directory().exists()


def test_a_directory_with_a_long_path_still_has_sockets_that_work(monkeypatch):
    monkeypatch.setenv("SMARTCOMM_DATA", f"/tmp/{'long/' * 40}")
    path = valkey_socket()
    path.parent.mkdir(mode=0o700, exist_ok=True)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))

    path.unlink()
    path.parent.rmdir()


def test_the_secret_is_made_once_and_is_for_our_eyes_only():
    with ThreadPoolExecutor() as threads:
        secrets = {task.result() for task in [threads.submit(secret_key)] * 20}

    assert secrets == {secret_key()}
    assert len(secret_key()) >= 50
    assert stat.S_IMODE((data_directory() / "secret_key").stat().st_mode) == 0o600


def test_a_directory_that_cannot_be_written_is_refused_in_a_sentence(
    monkeypatch, tmp_path
):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("SMARTCOMM_DATA", str(file / "data"))

    with pytest.raises(EmbeddedError, match=r"cannot be written .* Set SMARTCOMM_DATA"):
        prepare_data_directory()


def test_a_relative_directory_is_of_where_we_are(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMARTCOMM_DATA", "here")

    assert data_directory() == Path(tmp_path / "here").resolve()

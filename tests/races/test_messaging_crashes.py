"""Senders that are killed, and a database that goes away, at the worst moment."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psycopg
import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from messaging import queue, send
from messaging.models import Delivery, Message
from tests import make
from tests.messaging.providers import FILE, SCRIPTED, Scripted
from tests.races.workers import go, start, wait_until_ready

pytestmark = [
    pytest.mark.race,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
]

SENDER = """
from messaging.send import send_messages

print("ready", flush=True)
input()
while send_messages(limit=100):
    pass
"""


@pytest.fixture
def sent_to(tmp_path) -> Path:
    path = tmp_path / "sent"
    path.touch()
    return path


def sender(sent_to: Path, *, die_after: int = 0) -> subprocess.Popen[bytes]:
    """A sender in a process of its own, whose provider writes to a file."""
    process = start(
        SENDER,
        before=f'settings.MESSAGE_PROVIDERS = {{"sms": "{FILE}"}}',
        SENT_TO=str(sent_to),
        DIE_AFTER=str(die_after),
    )
    wait_until_ready(process)
    return process


def run(*senders: subprocess.Popen[bytes]) -> list[int]:
    """Let them go at the same moment, and wait for all of them."""
    for process in senders:
        go(process)
    for process in senders:
        process.communicate(timeout=60)
    return [process.returncode for process in senders]


def went_out(sent_to: Path) -> list[int]:
    return [int(line) for line in sent_to.read_text().split()]


def messages(count: int) -> set[int]:
    anna, content = make.reachable(), make.content()
    now = timezone.now()
    requests = [
        queue.Request(anna.pk, run, 1, 1, "s", content.pk, "sms")
        for run in range(1, count + 1)
    ]
    queue.queue_messages(requests, now=now)
    return set(Message.objects.values_list("pk", flat=True))


def statuses() -> dict[str, int]:
    found = Message.objects.values_list("status", flat=True)
    return {status: list(found).count(status) for status in set(found)}


def test_a_killed_sender_leaves_one_group_in_doubt_and_the_rest_goes_out_once(
    sent_to, settings, monkeypatch
):
    ids = messages(100)
    # In the second group of twenty: seven of it are handed over.
    assert run(sender(sent_to, die_after=27)) == [-signal.SIGKILL]
    assert len(went_out(sent_to)) == 27
    assert statuses() == {"sent": 20, "sending": 20, "queued": 60}

    # As long as the lease runs, nobody touches what the dead one had claimed.
    settings.MESSAGE_PROVIDERS = {"sms": FILE}
    monkeypatch.setenv("SENT_TO", str(sent_to))
    now = timezone.now()
    assert send.send_messages(now=now) == 0
    while send.send_messages(now=now + 2 * send.LEASE):
        pass
    assert send.close_interrupted(now=now + 2 * send.INTERRUPTED_AFTER) == 20

    assert statuses() == {"sent": 80, "unknown": 20}
    out = went_out(sent_to)
    assert len(out) == len(set(out)) == 87
    in_doubt = set(
        Message.objects.filter(status="unknown").values_list("pk", flat=True)
    )
    assert ids - set(out) < in_doubt
    assert Delivery.objects.filter(outcome="unknown").count() == 20
    assert not Delivery.objects.filter(outcome="started").exists()


def test_senders_killed_again_and_again_double_nothing(sent_to):
    messages(300)
    for die_after in (1, 33, 59):
        assert run(sender(sent_to, die_after=die_after)) == [-signal.SIGKILL]
        # The leases of the dead end by and by.
        Message.objects.filter(lease__isnull=False).update(leased_until=timezone.now())
    assert run(sender(sent_to)) == [0]

    out = went_out(sent_to)
    assert len(out) == len(set(out))
    assert statuses() == {"sent": 240, "sending": 60}
    assert len(out) == 240 + 1 + 13 + 19


def test_two_senders_of_which_one_is_killed(sent_to):
    messages(400)
    doomed, healthy = sender(sent_to, die_after=10), sender(sent_to)
    assert run(doomed, healthy) == [-signal.SIGKILL, 0]
    Message.objects.filter(lease__isnull=False).update(leased_until=timezone.now())
    assert run(sender(sent_to)) == [0]
    out = went_out(sent_to)
    assert len(out) == len(set(out)) == 380 + 10
    assert statuses() == {"sent": 380, "sending": 20}


@pytest.fixture
def scripted(settings):
    settings.MESSAGE_PROVIDERS = {"sms": SCRIPTED}
    Scripted.reset()
    send.forget_away()
    return Scripted


def cut_the_line() -> None:
    """End our connection to the database from another one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [pid] = cursor.fetchone()
    keys = connection.get_connection_params()
    address = {
        key: keys[key] for key in ("host", "port", "user", "password") if key in keys
    }
    with psycopg.connect(dbname="postgres", autocommit=True, **address) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [pid])


def test_a_lost_connection_between_hand_over_and_record_sends_nothing_again(
    scripted, monkeypatch
):
    monkeypatch.setattr(send, "RECORD_PAUSES", (0.01, 0.05, 0.1))
    anna = make.reachable(phone="+4915112345678")
    scripted.answers["+4915112345678"] = cut_the_line
    message = make.message(anna)

    assert send.send_messages() == 1

    message.refresh_from_db()
    assert (message.status, message.attempts) == ("sent", 1)
    assert len(scripted.taken) == 1
    assert scripted.in_transaction == [False]


def test_a_database_that_stays_away_leaves_doubt_and_doubles_nothing(
    scripted, monkeypatch
):
    monkeypatch.setattr(send, "RECORD_PAUSES", (0.01,))

    def away(*args: object, **kwargs: object) -> bool:
        raise OperationalError("the server is gone")

    message = make.message(make.reachable())
    with monkeypatch.context() as broken:
        broken.setattr(send, "_record", away)
        with pytest.raises(OperationalError):
            send.send_messages()

    now = timezone.now() + 2 * send.INTERRUPTED_AFTER
    assert send.send_messages(now=now) == 0
    assert send.close_interrupted(now=now) == 1
    message.refresh_from_db()
    assert message.status == "unknown"
    assert len(scripted.taken) == 1

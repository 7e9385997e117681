"""The wake-ups."""

from datetime import timedelta

import pytest
from django.utils import timezone

from messaging import send, tasks
from messaging.models import Message
from messaging.queue import SEND_TASK
from smartcomm.core import doorbell, stopping
from tests import make

pytestmark = pytest.mark.django_db


def in_twos(monkeypatch):
    defaults = {**send.send_messages.__kwdefaults__, "limit": 2}
    monkeypatch.setattr(send.send_messages, "__kwdefaults__", defaults)


def test_a_wake_up_sends_everything_that_is_due(provider, monkeypatch):
    in_twos(monkeypatch)
    anna = make.reachable()
    for _ in range(5):
        make.message(anna)
    tasks.send_messages()
    assert len(provider.taken) == 5


def test_a_long_queue_is_left_to_the_next_wake_up(provider, monkeypatch):
    rung = []
    monkeypatch.setattr(doorbell, "ring", rung.append)
    monkeypatch.setattr(tasks, "SECONDS_AT_MOST", -1)
    anna = make.reachable()
    for _ in range(3):
        make.message(anna)
    in_twos(monkeypatch)
    tasks.send_messages()
    assert len(provider.taken) == 2
    assert rung == [SEND_TASK]


def test_a_worker_that_is_stopped_takes_no_further_batch(provider, monkeypatch):
    monkeypatch.setattr(stopping, "is_stopping", lambda: len(provider.taken) == 2)
    in_twos(monkeypatch)
    anna = make.reachable()
    for _ in range(5):
        make.message(anna)
    tasks.send_messages()
    assert Message.objects.filter(status="queued", lease=None).count() == 3


def test_who_is_at_work_looks_once_more_for_whoever_was_sent_away(provider):
    anna, rung = make.reachable(), []
    make.message(anna)
    real = send.send_messages

    def send_and_ring():
        sent = real()
        if not sent and not rung:
            rung.append(True)
            make.message(anna)
            tasks.send_messages()
            assert len(provider.taken) == 1
        return sent

    send.crew.tell(at_provider=0, in_all=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(send, "send_messages", send_and_ring)
        tasks.send_messages()

    assert len(provider.taken) == 2


def test_a_fault_leaves_the_crew_as_it_was(provider, monkeypatch):
    def fault(**kwargs):
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(send, "send_messages", fault)
        with pytest.raises(RuntimeError):
            tasks.send_messages()
    make.message(make.reachable())
    tasks.send_messages()
    assert len(provider.taken) == 1


def test_the_clock_closes_what_dead_workers_left():
    message = make.message(make.reachable())
    long_ago = timezone.now() - timedelta(hours=1)
    Message.objects.update(status="sending", sending_since=long_ago)
    tasks.close_interrupted()
    message.refresh_from_db()
    assert message.status == "unknown"

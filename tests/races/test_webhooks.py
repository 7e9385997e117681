"""Senders of calls that race, and that are killed in the middle of a call."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import Counter

import pytest
from django.db import connection, transaction
from django.utils import timezone

from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs, settle_calls
from campaigns.models import Passage, Run, WebhookCall
from campaigns.webhooks import send
from tests import make
from tests.races.together import at_once
from tests.races.workers import go, start, wait_until_ready
from tests.receiver import Reply, receiving

pytestmark = [
    pytest.mark.race,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
]

#: Its calls go to this machine.
HERE = 'settings.WEBHOOK_INTERNAL_HOSTS = ["127.0.0.1"]'
SENDER = """
from campaigns.webhooks.send import send_calls

print("ready", flush=True)
input()
send_calls()
"""


@pytest.fixture
def receiver(settings):
    send.forget_away()
    with receiving() as found:
        settings.WEBHOOK_INTERNAL_HOSTS = ["127.0.0.1"]
        yield found


def sender() -> subprocess.Popen[bytes]:
    """A sender in a process of its own, which has begun."""
    process = start(SENDER, before=HERE)
    wait_until_ready(process)
    go(process)
    return process


def end(process: subprocess.Popen[bytes], *, kill: bool = False) -> int:
    if kill:
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return process.returncode


def queued(receiver, number):
    step = make.step(
        "call", "call_webhook", {"url": receiver.url()}, done=None, failed=None
    )
    make.campaign(step)
    for _ in range(number):
        make.event(make.customer(), "Order paid")
    while dispatch_events() + advance_runs():
        pass
    assert WebhookCall.objects.filter(status="queued").count() == number


def got(receiver) -> Counter[str]:
    return Counter(call.headers["webhook-id"] for call in receiver.calls)


def until(holds) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_senders_make_every_call_once_and_count_together(receiver):
    receiver.reply = Reply(seconds=0.02)
    queued(receiver, 60)
    senders = [sender(), sender()]
    assert [end(one) for one in senders] == [0, 0]
    assert set(got(receiver).values()) == {1}
    assert len(got(receiver)) == 60
    assert WebhookCall.objects.filter(status="done", attempts=1).count() == 60
    # Both together gave the receiver no more than it may get.
    assert receiver.most_at_once <= 4


def test_senders_that_claim_at_the_same_moment_count_together(receiver):
    queued(receiver, 60)
    by_the_other = []

    def claim() -> None:
        by_the_other.extend(send._claim(16))
        connection.close()

    other = threading.Thread(target=claim)
    with transaction.atomic():
        claimed = send._claim(16)
        other.start()
        other.join(timeout=1)
    other.join(timeout=10)
    assert (len(claimed), by_the_other) == (4, [])


@pytest.mark.chaos
def test_a_killed_sender_loses_nothing_and_what_it_was_at_comes_with_the_same_id(
    receiver,
):
    receiver.script = [Reply() for _ in range(6)]
    receiver.reply = Reply(seconds=2)
    queued(receiver, 20)
    doomed = sender()
    # Six were answered, four are being answered.
    until(lambda: len(receiver.calls) == 10)
    until(lambda: WebhookCall.objects.filter(status="done").count() == 6)
    assert end(doomed, kill=True) == -signal.SIGKILL
    assert WebhookCall.objects.filter(status="sending").count() == 4

    # As long as the lease runs nobody makes these again, and the receiver has no room
    # for others: they may still be under way.
    assert send.send_calls() == 0

    receiver.reply = Reply()
    WebhookCall.objects.filter(status="sending").update(due_at=timezone.now())
    send.send_calls()

    assert WebhookCall.objects.filter(status="done").count() == 20
    assert sorted(got(receiver).values()) == [1] * 16 + [2] * 4
    twice = [one for one, times in got(receiver).items() if times == 2]
    for webhook_id in twice:
        bodies = {
            call.body
            for call in receiver.calls
            if call.headers["webhook-id"] == webhook_id
        }
        assert len(bodies) == 1
    while settle_calls():
        pass
    assert Run.objects.filter(status="finished").count() == 20
    assert Passage.objects.filter(way="done").count() == 20


@pytest.mark.chaos
def test_senders_killed_again_and_again_lose_nothing(receiver):
    receiver.reply = Reply(seconds=0.03)
    queued(receiver, 80)
    for _ in range(4):
        doomed = sender()
        before = len(receiver.calls)
        until(lambda before=before: len(receiver.calls) >= before + 5)
        end(doomed, kill=True)
        WebhookCall.objects.filter(status="sending").update(due_at=timezone.now())
    assert end(sender()) == 0
    assert WebhookCall.objects.filter(status="done").count() == 80
    assert len(got(receiver)) == 80
    # At most four calls for each death come twice.
    assert sum(got(receiver).values()) <= 80 + 4 * 4


def test_runs_are_told_once_by_two_engines(receiver):
    queued(receiver, 30)
    send.send_calls()
    at_once(2, lambda number: [settle_calls(limit=7) for _ in range(6)])
    assert Passage.objects.filter(way="done").count() == 30
    assert not WebhookCall.objects.filter(is_settled=False).exists()

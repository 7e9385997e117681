"""Senders against each other, and against the clock.

Each race has a twin in which the guard is taken away, to show that the race is real and
that the test would see it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import ClassVar
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from messaging import queue, send
from messaging.channels import Outcome, Outgoing, Provider, Result
from messaging.models import Delivery, Message
from smartcomm.core.db import Prepared
from tests import make

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]

# Reads without taking: what two workers would do who trust in luck.
CLAIM_WITHOUT_TAKING = """
    SELECT id, customer_id, channel, content_id, event_id, system_event_id, run_id,
           is_test, address, attempts, expires_at
      FROM messaging_message
     WHERE status = 'queued' AND due_at <= %(now)s
     ORDER BY due_at, id
     LIMIT %(limit)s
"""
START_WITHOUT_ASKING = Prepared(
    "start_without_asking",
    send.START.sql.replace("AND message.lease = %(lease)s", ""),
    **send.START.types,
)


class Counting(Provider):
    name: ClassVar[str] = "counting"
    taken: ClassVar[Counter[int]] = Counter()

    def send(self, message: Outgoing) -> str:
        self.taken[message.id] += 1
        return ""


@pytest.fixture(autouse=True)
def counting(settings):
    settings.MESSAGE_PROVIDERS = {"sms": f"{__name__}.Counting"}
    Counting.taken.clear()
    return Counting.taken


def messages(count: int) -> list[int]:
    anna, content = make.reachable(), make.content()
    requests = [
        queue.Request(
            customer_id=anna.pk,
            run_id=number,
            campaign_id=1,
            version_id=1,
            step="s",
            content_id=content.pk,
            channel="sms",
        )
        for number in range(1, count + 1)
    ]
    queue.queue_messages(requests, now=timezone.now())
    return list(Message.objects.values_list("pk", flat=True))


def at_once(*works: Callable[[], object]) -> list[object]:
    """Run these in threads of their own; their answers, or what they raised."""
    answers: list[object] = [None] * len(works)

    def run(place: int, work: Callable[[], object]) -> None:
        try:
            answers[place] = work()
        except Exception as error:
            answers[place] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return answers


def meeting(work: Callable[..., object], parties: int = 2) -> Callable[..., object]:
    """The same work, but everybody waits for the others before going on after it."""
    barrier = threading.Barrier(parties, timeout=20)

    def met(*args: object, **kwargs: object) -> object:
        answer = work(*args, **kwargs)
        barrier.wait()
        return answer

    return met


def send_everything() -> None:
    while send.send_messages(limit=50):
        pass


def test_four_senders_hand_every_message_over_once(counting):
    ids = messages(400)
    at_once(*[send_everything] * 4)
    assert counting == Counter(ids)
    assert Message.objects.filter(status="sent", attempts=1).count() == 400
    assert Delivery.objects.filter(outcome="accepted").count() == 400


def test_two_senders_that_meet_after_claiming_share_the_messages(monkeypatch, counting):
    ids = messages(60)
    monkeypatch.setattr(send, "_claim", meeting(send._claim))
    answers = at_once(*[lambda: send.send_messages(limit=30)] * 2)
    assert answers == [30, 30]
    assert counting == Counter(ids)


def test_twin_without_the_claim_two_senders_hand_everything_over_twice(
    monkeypatch, counting
):
    ids = messages(30)
    monkeypatch.setattr(send, "CLAIM", CLAIM_WITHOUT_TAKING)
    monkeypatch.setattr(send, "START", START_WITHOUT_ASKING)
    monkeypatch.setattr(send, "_prepare", meeting(send._prepare))
    at_once(*[lambda: send.send_messages(limit=30)] * 2)
    assert counting == Counter(ids * 2)


def test_the_mark_alone_would_keep_two_senders_apart(monkeypatch, counting):
    """Even had both claimed the same messages, one of them only would start each."""
    ids = messages(30)
    with monkeypatch.context() as patch:
        # Leases that are over before they begin: each takes what the other has.
        patch.setattr(send, "LEASE", -send.LEASE)
        patch.setattr(send, "_claim", meeting(send._claim))
        at_once(*[lambda: send.send_messages(limit=30)] * 2)
    send_everything()
    assert counting == Counter(ids)


def test_a_sender_does_not_wait_for_one_that_is_just_claiming(counting):
    ids = messages(40)
    with transaction.atomic():
        held = send._claim(uuid4(), 20, now=timezone.now())
        [others] = at_once(lambda: send._claim(uuid4(), 40, now=timezone.now()))
    assert len(held) == 20
    assert {row.id for row in held} | {row.id for row in others} == set(ids)
    assert len(others) == 20


def test_twin_without_skip_locked_it_would_wait(monkeypatch):
    messages(40)
    monkeypatch.setattr(send, "CLAIM", send.CLAIM.replace("SKIP LOCKED", ""))

    def impatient() -> object:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '1s'")
        try:
            return send._claim(uuid4(), 40, now=timezone.now())
        finally:
            with connection.cursor() as cursor:
                cursor.execute("RESET statement_timeout")

    with transaction.atomic():
        send._claim(uuid4(), 20, now=timezone.now())
        [answer] = at_once(impatient)
    assert "statement timeout" in str(answer)


def test_the_same_requests_at_once_become_one_message_each():
    anna, content = make.reachable(), make.content()
    requests = [
        queue.Request(anna.pk, run, 1, 1, "s", content.pk, "sms")
        for run in range(1, 201)
    ]
    now = timezone.now()
    answers = at_once(*[lambda: queue.queue_messages(requests, now=now)] * 4)
    assert sum(answers) == 200
    assert Message.objects.count() == 200


def test_two_takers_are_never_told_of_the_same_message():
    ids = messages(100)
    send_everything()

    def take() -> list[int]:
        with transaction.atomic():
            taken = queue.take_settled(50)
            barrier.wait()
            return [settled.message_id for settled in taken]

    barrier = threading.Barrier(2, timeout=20)
    first, second = at_once(take, take)
    assert sorted(first + second) == sorted(ids)
    assert queue.take_settled(50) == []


def test_pausing_stops_what_is_claimed_but_not_yet_going_out(monkeypatch, counting):
    messages(60)
    prepared, paused = threading.Event(), threading.Event()
    prepare = send._prepare

    def prepare_and_wait(*args: object, **kwargs: object) -> object:
        answer = prepare(*args, **kwargs)
        prepared.set()
        paused.wait(20)
        return answer

    def pause() -> None:
        prepared.wait(20)
        queue.hold(1)
        paused.set()

    monkeypatch.setattr(send, "_prepare", prepare_and_wait)
    at_once(send.send_messages, pause)
    assert counting == Counter()
    assert Message.objects.filter(status="queued", lease=None).count() == 60


@pytest.mark.parametrize("attempt", range(5))
def test_an_answer_that_comes_while_the_message_is_closed_as_unknown_wins(attempt):
    """Slow worker and clock at the same time, in either order."""
    [pk] = messages(1)
    lease, now = uuid4(), timezone.now()
    batch = send._claim(lease, 1, now=now)
    _, letters = send._prepare(batch, now=now)
    [started] = send._start(
        letters, lease, "counting", now=now - 2 * send.INTERRUPTED_AFTER
    )
    record = send._record_of(started, batch[0], Outcome(Result.ACCEPTED), now=now)
    answers = at_once(lambda: send._record([record], now=now), send.close_interrupted)
    assert answers[0] is True
    assert Message.objects.get(pk=pk).status == "sent"
    assert Delivery.objects.get().outcome == "accepted"

"""Asking for messages, and being told how they ended."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from messaging import queue
from messaging.models import ChannelSettings, Content, Hold, Message
from messaging.render import Draft
from messaging.send import send_messages
from smartcomm.core.errors import Invalid
from tests import make

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def request(customer, content, *, run_id=1, step="send"):
    return queue.Request(
        customer_id=customer.pk,
        run_id=run_id,
        campaign_id=7,
        version_id=70,
        step=step,
        content_id=content.pk,
        channel=content.channel,
        event_id=None,
        system_event_id=None,
    )


def test_a_step_of_a_run_asks_once_for_its_message():
    anna, content = make.customer(), make.content()
    first = request(anna, content)
    assert queue.queue_messages([first, first], now=NOW) == 1
    assert queue.queue_messages([first], now=NOW) == 0
    others = [replace(first, step="later"), replace(first, run_id=2)]
    assert queue.queue_messages([first, *others], now=NOW) == 2
    assert Message.objects.count() == 3


def test_a_message_is_due_at_once_and_expires_after_the_time_to_live_of_its_channel():
    ChannelSettings.objects.create(channel="sms", ttl_hours=2)
    anna = make.customer()
    sms = make.message(anna, make.content("sms"), now=NOW)
    push = make.message(anna, make.content("push"), now=NOW)
    assert (sms.due_at, sms.created_at) == (NOW, NOW)
    assert sms.expires_at == NOW + timedelta(hours=2)
    assert push.expires_at == NOW + timedelta(hours=72)
    assert (sms.status, sms.campaign_id, sms.is_test) == ("queued", 1, False)


@pytest.mark.parametrize("count", [1, 300])
def test_queueing_many_takes_as_many_queries_as_queueing_one(count):
    anna, content = make.customer(), make.content()
    requests = [request(anna, content, run_id=n) for n in range(1, count + 1)]
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert queue.queue_messages(requests, now=NOW) == count
    assert len(queries) == 2


def test_the_bell_rings_once_the_messages_are_committed_and_only_then(
    monkeypatch, django_capture_on_commit_callbacks
):
    rung = []
    monkeypatch.setattr(queue, "ring", rung.append)
    anna, content = make.customer(), make.content()
    queue.queue_messages([request(anna, content)], now=NOW)
    assert rung == [queue.SEND_TASK]
    queue.queue_messages([request(anna, content)], now=NOW)
    assert rung == [queue.SEND_TASK]


def test_how_a_message_ended_is_told_once():
    anna = make.reachable(phone="+4915111111111")
    sent = make.message(anna, run_id=11)
    nobody = make.customer()
    suppressed = make.message(nobody, run_id=12)
    waiting = make.message(anna, run_id=13, campaign_id=99)
    queue.hold(99)
    assert queue.take_settled(10) == []
    send_messages()

    told = queue.take_settled(10)

    assert [(s.message_id, s.run_id, s.status, s.reason) for s in told] == [
        (sent.pk, 11, "sent", ""),
        (suppressed.pk, 12, "suppressed", "no_address"),
    ]
    assert told[1].detail == "The customer has no phone number."
    assert queue.take_settled(10) == []
    assert not Message.objects.get(pk=waiting.pk).is_settled


def test_what_was_taken_is_told_again_if_the_taker_fails():
    make.message(make.reachable(), run_id=11)
    send_messages()
    with transaction.atomic():
        assert len(queue.take_settled(10)) == 1
        transaction.set_rollback(True)
    assert len(queue.take_settled(10)) == 1


def test_taking_is_limited():
    for number in range(1, 4):
        make.message(make.customer(), run_id=number)
    send_messages()
    assert [len(queue.take_settled(2)) for _ in range(3)] == [2, 1, 0]


def test_a_held_campaign_waits_and_a_released_one_goes_on(provider):
    anna = make.reachable(phone="+4915111111111")
    held = make.message(anna, campaign_id=7)
    free = make.message(anna, campaign_id=8)
    without = make.message(anna, campaign_id=None)
    queue.hold(7)
    queue.hold(7)
    while send_messages():
        pass
    assert {m.id for m in provider.taken} == {free.pk, without.pk}

    queue.release(7)
    assert not Hold.objects.exists()
    while send_messages():
        pass
    assert [m.id for m in provider.taken][-1] == held.pk


def test_a_failed_message_can_be_queued_again_and_no_other(provider):
    anna = make.reachable()
    failed, sent, unknown = (make.message(anna) for _ in range(3))
    Message.objects.filter(pk=failed.pk).update(status="failed", attempts=7)
    Message.objects.filter(pk=sent.pk).update(status="sent")
    Message.objects.filter(pk=unknown.pk).update(status="unknown")
    later = NOW + timedelta(days=300)
    ids = [failed.pk, sent.pk, unknown.pk]
    assert queue.queue_again(ids, now=later) == 1
    failed.refresh_from_db()
    assert (failed.status, failed.due_at) == ("queued", later)
    assert failed.expires_at == later + timedelta(hours=72)
    send_messages(now=later)
    assert [m.id for m in provider.taken] == [failed.pk]


class TestTestSend:
    def test_goes_to_the_address_of_a_colleague_whatever_the_customer_answered(
        self, provider
    ):
        anna = make.customer(email="anna@example.com", first_name="Anna")
        make.consent(anna, "email", yes=False)
        event = make.event(anna, "Order paid", item="Bag")
        draft = Draft(
            "email",
            subject="{{ client.eventContext.item }}",
            text="Dear {{ client.firstName }}",
        )
        message = queue.send_test(
            draft, customer=anna, event=event, address=" me@EXAMPLE.org", now=NOW
        )
        send_messages(now=NOW)
        message.refresh_from_db()
        assert (message.status, message.is_test, message.run_id) == ("sent", True, None)
        assert [(m.address, m.subject, m.body) for m in provider.taken] == [
            ("me@example.org", "Bag", "Dear Anna")
        ]
        assert queue.take_settled(10) == []

    def test_without_an_address_asks_the_customer_like_any_message(self, provider):
        anna = make.customer(phone="+4915112345678")
        message = queue.send_test(Draft("sms", text="Hi"), customer=anna, now=NOW)
        send_messages(now=NOW)
        message.refresh_from_db()
        assert (message.status, message.reason) == ("suppressed", "no_consent")
        assert provider.taken == []

    def test_with_a_system_event(self, provider):
        anna = make.reachable()
        event = make.system_event("Product in stock", item="Bag")
        queue.send_test(
            Draft("sms", text="{{ client.eventContext.item }}"),
            customer=anna,
            event=event,
            now=NOW,
        )
        send_messages(now=NOW)
        assert [m.body for m in provider.taken] == ["Bag"]

    @pytest.mark.parametrize(
        ("draft", "address", "words"),
        [
            (
                Draft("email", subject="s", text="t"),
                "nobody",
                "no valid e-mail address",
            ),
            (Draft("sms", text="t"), "12", "no valid phone number"),
            (Draft("sms", text="{{"), "", "Line 1"),
            (Draft("email", text="t"), "", "Write the subject"),
        ],
    )
    def test_is_refused_with_a_reason(self, draft, address, words):
        with pytest.raises(Invalid, match=words):
            queue.send_test(draft, customer=make.customer(), address=address, now=NOW)
        assert not Message.objects.exists()

    def test_of_a_frozen_content_makes_no_second_one(self):
        content = make.content()
        queue.send_test(content, customer=make.customer(), now=NOW)
        assert Content.objects.count() == 1

"""Calls to systems outside: what they say, when they are tried again, what comes back.

Receivers are real HTTP servers.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from campaigns.actions import ACTIONS
from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs, settle_calls, settle_runs
from campaigns.models import Passage, Run, WebhookCall
from campaigns.publish import archive, check, pause, publish, resume
from campaigns.webhooks import answers, queue, retry, send, signing
from customers.merging import merge
from messaging.models import Message
from messaging.send import send_messages
from smartcomm.core import outbound
from smartcomm.core.errors import Invalid, Several
from tests import make
from tests.receiver import Reply, receiving

pytestmark = pytest.mark.django_db


@pytest.fixture
def receiver(settings):
    send.forget_away()
    with receiving() as found:
        settings.WEBHOOK_INTERNAL_HOSTS = ["127.0.0.1"]
        yield found


def call_step(receiver, *, key="stock", next_=(None, None), **config):
    config.setdefault("url", receiver.url())
    done, failed = next_
    return make.step(key, "call_webhook", config, done=done, failed=failed)


def started(receiver, *more, customer=None, context=None, **config):
    """A campaign that calls the receiver, and one run that has come to the call."""
    next_ = (more[0]["key"], None) if more else (None, None)
    campaign = make.campaign(call_step(receiver, next_=next_, **config), *more)
    make.event(customer or make.customer(), "Order paid", **(context or {}))
    go()
    return campaign


def go():
    while dispatch_events() + settle_runs() + settle_calls() + advance_runs():
        pass


def again(call):
    """The time of its next try comes."""
    send.forget_away()
    WebhookCall.objects.filter(pk=call.pk).update(due_at=timezone.now())
    assert send.send_calls() == 1
    call.refresh_from_db()


def ways():
    return list(Passage.objects.order_by("pk").values_list("step__key", "way"))


# What is called, and how it goes on


def test_the_run_waits_until_it_is_answered_and_goes_on(receiver):
    anna = make.customer(
        "anna", first_name="Anna", email="anna@example.com", language="de"
    )
    campaign = started(
        receiver,
        customer=anna,
        context={"product_id": 77, "shop": {"city": "Paris"}},
        body={"product": "$product_id", "city": "$shop.city", "kind": "gift"},
    )
    run = Run.objects.get()
    assert (run.status, run.due_at, receiver.calls) == ("waiting", None, [])

    assert send.send_calls() == 1
    go()
    run.refresh_from_db()
    assert (run.status, ways()) == ("finished", [("stock", "done")])

    [call] = receiver.calls
    told = call.json
    row = WebhookCall.objects.get()
    assert told["id"] == call.headers["webhook-id"] == str(row.webhook_id)
    assert (told["type"], told["test"]) == ("campaign.step", False)
    assert told["campaign"] == {"id": campaign.pk, "name": campaign.name, "version": 1}
    assert (told["step"], told["run"]) == ("stock", run.pk)
    assert told["customer"]["external_id"] == "anna"
    assert told["customer"]["email"] == "anna@example.com"
    assert told["customer"]["phone"] is None
    assert told["event"]["name"] == "Order paid"
    assert told["event"]["context"] == {"product_id": 77, "shop": {"city": "Paris"}}
    assert datetime.fromisoformat(told["event"]["occurred_at"])
    assert told["body"] == {"product": 77, "city": "Paris", "kind": "gift"}
    assert call.headers["content-type"] == "application/json"
    assert (row.status, row.http_status, row.attempts) == ("done", 200, 1)
    assert row.tries[0]["status"] == 200


def test_without_the_profile_only_the_id_is_told(receiver):
    anna = make.customer("anna", email="anna@example.com")
    started(receiver, customer=anna, profile=False)
    send.send_calls()
    assert receiver.calls[0].json["customer"] == {"external_id": "anna"}
    assert b"anna@example.com" not in receiver.calls[0].body


def test_a_field_that_the_event_lacks_fails_without_a_call(receiver):
    started(receiver, body={"product": "$product_id"})
    passage = Passage.objects.get()
    assert (passage.way, passage.reason) == (
        "failed",
        "The event has no “product_id”.",
    )
    assert send.send_calls() == 0


def test_a_step_is_called_once_whatever_happens(receiver):
    started(receiver)
    run = Run.objects.get()
    Run.objects.update(due_at=timezone.now())
    advance_runs()
    assert WebhookCall.objects.get().run_id == run.pk
    assert send.send_calls() == 1
    assert send.send_calls() == 0


def test_a_hundred_runs_cost_as_many_queries_as_one(receiver):
    make.campaign(call_step(receiver, body={"n": "$n"}))

    def queries(number):
        for n in range(number):
            make.event(make.customer(), "Order paid", n=n)
        dispatch_events()
        with CaptureQueriesContext(connection) as asked:
            assert advance_runs() == number
        return len(asked)

    assert queries(2) == queries(100)


# Answers that are none


def test_a_refusal_is_final_and_says_why(receiver):
    receiver.reply = Reply(422, b'{"error": "no such product"}')
    started(receiver)
    send.send_calls()
    go()
    call, passage = WebhookCall.objects.get(), Passage.objects.get()
    assert (call.status, call.attempts, call.http_status) == ("failed", 1, 422)
    assert passage.way == "failed"
    assert passage.reason == (
        'It answered 422 Unprocessable Entity: {"error": "no such product"}'
    )
    assert call.answer == {"error": "no such product"}
    assert Run.objects.get().status == "finished"


def test_a_redirect_is_not_followed(receiver):
    with receiving() as other:
        receiver.reply = Reply(302, headers={"Location": other.url()})
        started(receiver)
        send.send_calls()
        assert other.calls == []
    call = WebhookCall.objects.get()
    assert (call.status, call.attempts) == ("failed", 1)
    assert "Redirects are not followed" in call.reason


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_fault_of_theirs_is_tried_again_with_the_same_id(receiver, status):
    receiver.script = [Reply(status), Reply(status), Reply(200, b'{"left": 3}')]
    started(receiver)
    assert send.send_calls() == 1
    call = WebhookCall.objects.get()
    assert (call.status, call.attempts) == ("queued", 1)
    assert call.reason.startswith(f"It answered {status}")
    assert timedelta(seconds=5) < call.due_at - timezone.now() < timedelta(seconds=11)
    go()
    assert ways() == []

    again(call)
    again(call)
    go()
    assert (call.status, call.attempts, call.answer) == ("done", 3, {"left": 3})
    assert ways() == [("stock", "done")]
    assert [one["status"] for one in call.tries] == [status, status, 200]
    assert len({one.headers["webhook-id"] for one in receiver.calls}) == 1
    assert len({one.body for one in receiver.calls}) == 1


def test_who_asks_to_be_left_alone_is_left_alone(receiver):
    receiver.script = [Reply(429, headers={"Retry-After": "900"})]
    started(receiver)
    make.event(make.customer(), "Order paid")
    go()
    send.send_calls()
    go()
    call = WebhookCall.objects.exclude(tries=[]).earliest("pk")
    if call.status == "queued":
        assert call.due_at - timezone.now() > timedelta(minutes=14)
    # Nobody else is sent there meanwhile.
    make.event(make.customer(), "Order paid")
    go()
    before = len(receiver.calls)
    assert send.send_calls() == 0
    assert len(receiver.calls) == before


def test_a_receiver_that_is_away_is_tried_again_and_given_up_in_the_end(
    receiver, settings
):
    settings.WEBHOOK_INTERNAL_HOSTS = ["127.0.0.1"]
    started(receiver, url="http://127.0.0.1:1/", give_up_hours=1)
    send.send_calls()
    call = WebhookCall.objects.get()
    assert call.status == "queued"
    assert call.reason == "127.0.0.1:1 cannot be reached: Connection refused."

    WebhookCall.objects.update(
        expires_at=timezone.now() + timedelta(seconds=5), attempts=4
    )
    again(call)
    go()
    assert call.status == "failed"
    assert Passage.objects.get().reason == (
        "Given up after 5 tries. 127.0.0.1:1 cannot be reached: Connection refused."
    )


def test_what_expired_while_nobody_looked_is_not_called(receiver):
    started(receiver)
    WebhookCall.objects.update(expires_at=timezone.now())
    send.send_calls()
    go()
    call = WebhookCall.objects.get()
    assert (call.status, call.attempts, receiver.calls) == ("failed", 0, [])
    assert call.reason == "Its time was over before it could be made."
    assert ways() == [("stock", "failed")]


def test_a_timeout_is_tried_again(receiver, monkeypatch):
    monkeypatch.setattr(outbound.post, "__kwdefaults__", _quick())
    receiver.script = [Reply(seconds=1), Reply()]
    started(receiver)
    send.send_calls()
    call = WebhookCall.objects.get()
    assert (call.status, call.reason) == (
        "queued",
        "There was no answer within 0.3 seconds.",
    )
    again(call)
    assert call.status == "done"


def _quick():
    return {**outbound.post.__kwdefaults__, "seconds": 0.3}


def test_an_address_in_the_own_network_is_never_called(receiver, settings):
    """It was allowed when it was published, and is not any more."""
    started(receiver)
    settings.WEBHOOK_INTERNAL_HOSTS = []
    send.send_calls()
    call = WebhookCall.objects.get()
    assert (call.status, call.attempts, receiver.calls) == ("failed", 1, [])
    assert "https only" in call.reason


def test_a_name_that_leads_into_the_own_network_is_never_called(receiver, settings):
    settings.WEBHOOK_INTERNAL_HOSTS = []
    port = receiver.server_address[1]
    started(receiver, url=f"https://localhost:{port}/")
    send.send_calls()
    call = WebhookCall.objects.get()
    assert (call.status, receiver.calls) == ("failed", [])
    assert "“localhost” leads to" in call.reason


def test_a_fault_of_ours_is_told_and_tried_again(receiver, settings):
    settings.WEBHOOK_SECRET = "whsec_short"
    started(receiver)
    send.send_calls()
    call = WebhookCall.objects.get()
    assert (call.status, receiver.calls) == ("queued", [])
    assert call.reason == "Internal error: ImproperlyConfigured; see the log."


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"HTTP/1.1 500 Sorry\x00!\r\n\r\n", "It answered 500 Sorry !."),
        (
            b"HTTP/1.1 503 \r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n\r\n",
            "503.",
        ),
        (b"Sorry\x00!\r\n", "did not answer: Sorry !."),
        (_CHUNKED + b"-5\r\n{}\r\n", "length must be non-negative or -1."),
        (_CHUNKED + b"five\r\n{}\r\n", "in the middle of the answer."),
    ],
)
def test_an_odd_answer_is_recorded_and_spoils_no_other(receiver, raw, reason):
    receiver.reply = lambda call: (
        Reply(raw=raw) if call.json["body"]["odd"] else Reply()
    )
    started(receiver, context={"odd": True}, body={"odd": "$odd"})
    make.event(make.customer(), "Order paid", odd=False)
    go()

    assert send.send_calls() == 2

    odd, good = WebhookCall.objects.order_by("pk")
    assert odd.status in ("queued", "failed")
    assert odd.reason.endswith(reason)
    assert good.status == "done"


# What is kept of an answer


@pytest.mark.parametrize(
    ("body", "kept", "reason"),
    [
        (b'{"left": 3}', {"left": 3}, ""),
        (b"[1, 2]", [1, 2], ""),
        (b"", None, ""),
        (b"null", None, "The answer is no JSON that can be kept."),
        (b"OK", None, "The answer is no JSON that can be kept."),
        (b'{"a": NaN}', None, "The answer is no JSON that can be kept."),
        (b'{"a": 1, "a": 2}', None, "The answer is no JSON that can be kept."),
        (b"[" * 40 + b"]" * 40, None, "The answer is no JSON that can be kept."),
        (b"[" * 9000 + b"]" * 9000, None, "The answer is no JSON that can be kept."),
        (b'{"a\\u0000": "b\\u0000c"}', {"a": "bc"}, ""),
        (b'{"a": "\\ud800"}', None, "The answer is no JSON that can be kept."),
        (b'"' + b"x" * 70_000 + b'"', None, "longer than 64 KiB and was not kept."),
    ],
)
def test_of_an_answer_is_kept_what_can_be_and_it_counts_all_the_same(
    receiver, body, kept, reason
):
    receiver.reply = Reply(body=body)
    started(receiver)
    send.send_calls()
    go()
    call = WebhookCall.objects.get()
    assert (call.status, call.answer) == ("done", kept)
    assert call.reason.endswith(reason)
    assert ways() == [("stock", "done")]


@pytest.mark.parametrize("text", ["1e400", str(10**30), "1" * 5_000, "-0.0", "1.5"])
def test_numbers_of_any_size_stop_nobody(receiver, text):
    receiver.reply = Reply(body=b'{"n": ' + text.encode() + b"}")
    started(receiver)
    send.send_calls()
    assert WebhookCall.objects.get().status == "done"


# What is done with an answer


def less_than_five():
    return make.step(
        "few",
        "filter_customers",
        {
            "rule": {
                "event": "Product viewed",
                "where": [{"field": "seen", "op": "<", "value": "$answers.stock.left"}],
            }
        },
        positive=None,
        negative=None,
    )


@pytest.mark.parametrize(("left", "way"), [(5, "positive"), (1, "negative")])
def test_a_filter_asks_for_an_answer(receiver, left, way):
    receiver.reply = Reply(body=json.dumps({"left": left}).encode())
    anna = make.customer()
    make.event(anna, "Product viewed", seen=3)
    started(receiver, less_than_five(), customer=anna)
    send.send_calls()
    go()
    assert ways() == [("stock", "done"), ("few", way)]


def test_an_answer_without_the_field_is_said(receiver):
    make.event(make.customer(), "Product viewed", seen=3)
    started(receiver, less_than_five())
    send.send_calls()
    go()
    last = Passage.objects.get(step__key="few")
    assert (last.way, last.reason) == (
        "negative",
        "The answer of “stock” has no “left”, so the filter matches nobody.",
    )


def test_a_wait_and_an_attribute_take_answers(receiver):
    receiver.reply = Reply(body=b'{"at": "2020-01-01", "city": "Riga"}')
    anna = make.customer()
    started(
        receiver,
        make.step("wait", "wait", {"until": "$answers.stock.at"}, done="set"),
        make.step(
            "set",
            "set_attribute",
            {"attribute": "city", "value": "$answers.stock.city"},
            done=None,
            failed=None,
        ),
        customer=anna,
    )
    send.send_calls()
    go()
    anna.refresh_from_db()
    assert (anna.city, ways()[-1]) == ("Riga", ("set", "done"))


def test_a_text_says_an_answer(receiver):
    receiver.reply = Reply(body=b'{"left": 3, "shops": [{"city": "Riga"}]}')
    text = (
        "{{ client.answers.stock.left }} left in "
        "{% for shop in client.answers.stock.shops %}{{ shop.city }}{% endfor %}"
    )
    started(receiver, make.sms(text), customer=make.reachable())
    send.send_calls()
    go()
    while send_messages():
        pass
    message = Message.objects.get()
    assert (message.status, message.body) == ("sent", "3 left in Riga")


def test_a_text_without_its_answer_is_not_sent(receiver):
    started(
        receiver, make.sms("{{ client.answers.stock.left }}"), customer=make.reachable()
    )
    send.send_calls()
    go()
    while send_messages():
        pass
    assert Message.objects.get().reason == "missing_variable"


def test_each_run_has_its_own_answers(receiver):
    receiver.reply = lambda call: Reply(
        body=json.dumps({"who": call.json["customer"]["external_id"]}).encode()
    )
    make.campaign(
        call_step(receiver, next_=("sms", None)),
        make.sms("{{ client.answers.stock.who }}"),
    )
    for name in ("anna", "ben"):
        make.event(make.reachable(name), "Order paid")
    go()
    send.send_calls()
    go()
    while send_messages():
        pass
    assert {m.customer.external_id: m.body for m in Message.objects.all()} == {
        "anna": "anna",
        "ben": "ben",
    }


def test_a_second_call_tells_what_the_first_answered(receiver):
    receiver.script = [Reply(body=b'{"price": 5}')]
    started(
        receiver,
        call_step(receiver, key="order", body={"price": "$answers.stock.price"}),
        context={"product_id": 77},
    )
    send.send_calls()
    go()
    send.send_calls()
    told = receiver.calls[1].json
    assert told["body"] == {"price": 5}
    assert told["answers"] == {"stock": {"price": 5}}
    assert told["event"]["context"] == {"product_id": 77}


# Publishing


def errors_of(*steps):
    with pytest.raises(Several) as refused:
        publish(make.draft(*steps))
    return " ".join(error.message for error in refused.value.errors)


def test_an_answer_must_come_from_a_call_before(receiver):
    asks = make.sms("{{ client.answers.stock.left }}")
    assert "“stock”, which calls no webhook" in errors_of(asks)
    before = {**asks, "next": {"sent": "stock"}}
    assert "which does not come before it" in errors_of(before, call_step(receiver))
    itself = call_step(receiver, body={"left": "$answers.stock.left"})
    assert "which does not come before it" in errors_of(itself)


def test_answers_are_no_fields_that_an_event_should_have(receiver):
    make.event(make.customer(), "Order paid", price=5)
    draft = make.draft(
        call_step(receiver, next_=("few", None)),
        {**less_than_five(), "next": {"positive": "sms", "negative": None}},
        make.sms("{{ client.answers.stock.left }} of {{ client.eventContext.price }}"),
    )
    make.event_type("Product viewed")
    findings = check(draft.versions.get())
    assert findings.errors == []
    assert [one for one in findings.warnings if "answers" in one] == []


def test_a_field_named_answers_is_warned_of(receiver):
    make.event(make.customer(), "Order paid", answers=5)
    findings = check(make.draft(call_step(receiver)).versions.get())
    assert any("has a field “answers” itself" in one for one in findings.warnings)


@pytest.mark.parametrize(("key", "is_told"), [("my-stock", True), ("stock", False)])
def test_a_name_that_no_path_can_have_is_warned_of(receiver, key, is_told):
    findings = check(make.draft(call_step(receiver, key=key)).versions.get())
    assert any("cannot be asked for" in one for one in findings.warnings) == is_told


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({}, "url"),
        ({"url": "http://example.com/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "url"),
        ({"url": "https://example.com/", "body": ["a"]}, "body"),
        ({"url": "https://example.com/", "body": {"a-b": 1}}, "body"),
        ({"url": "https://example.com/", "body": {"a": "$a-b"}}, "body.a"),
        ({"url": "https://example.com/", "give_up_hours": 0}, "give_up_hours"),
        ({"url": "https://example.com/", "give_up_hours": 999}, "give_up_hours"),
        ({"url": "https://example.com/", "profile": "yes"}, "profile"),
        ({"url": "https://example.com/", "method": "GET"}, "method"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_place(config, field):
    with pytest.raises(Invalid) as refused:
        ACTIONS["call_webhook"].clean(config)
    assert refused.value.field == field


# Pausing, archiving, merging, erasing


def test_pausing_holds_calls_and_resuming_makes_them(receiver):
    campaign = started(receiver)
    pause(campaign)
    assert send.send_calls() == 0
    resume(campaign)
    assert send.send_calls() == 1
    assert len(receiver.calls) == 1


def test_archiving_cancels_calls(receiver):
    campaign = started(receiver)
    archive(campaign)
    assert send.send_calls() == 0
    call = WebhookCall.objects.get()
    assert (call.status, call.is_settled) == ("cancelled", True)
    assert call.reason == "The campaign was archived."
    assert settle_calls() == 0


def test_a_call_under_way_while_archiving_is_not_tried_again(receiver):
    campaign = started(receiver)

    def archived(call):
        archive_in_the_middle.append(1)
        return Reply(500)

    archive_in_the_middle: list[int] = []
    receiver.reply = archived
    WebhookCall.objects.update(status="sending", lease="0" * 32, due_at=timezone.now())
    archive(campaign)
    call = WebhookCall.objects.get()
    assert call.status == "sending"
    assert call.expires_at <= timezone.now()
    send.send_calls()
    call.refresh_from_db()
    assert (call.status, receiver.calls) == ("failed", [])


def test_merging_moves_calls_and_their_answers(receiver):
    receiver.reply = Reply(body=b'{"left": 3}')
    anna, old = make.reachable("anna"), make.reachable("old")
    started(receiver, make.sms("{{ client.answers.stock.left }}"), customer=old)
    merge("anna", "old", by="test", now=timezone.now())
    assert WebhookCall.objects.get().customer_id == anna.pk
    send.send_calls()
    go()
    while send_messages():
        pass
    assert Message.objects.get().body == "3"


def test_a_twin_s_call_is_cancelled_when_two_are_merged(receiver):
    make.campaign(call_step(receiver), on="Product in stock", system=True)
    from campaigns.broadcast import walk_broadcasts
    from campaigns.dispatch import dispatch_system_events

    make.customer("anna")
    make.customer("old")
    make.system_event("Product in stock")
    dispatch_system_events()
    while walk_broadcasts():
        pass
    go()
    assert WebhookCall.objects.count() == 2
    merge("anna", "old", by="test", now=timezone.now())
    assert sorted(WebhookCall.objects.values_list("status", flat=True)) == [
        "cancelled",
        "queued",
    ]


def test_erasing_a_customer_deletes_their_calls(receiver):
    anna = make.customer()
    started(receiver, customer=anna)
    campaign_call = WebhookCall.objects.get()
    anna.delete()
    assert not WebhookCall.objects.filter(pk=campaign_call.pk).exists()


# By hand


def test_an_operator_tries_a_failed_call_once_more(receiver):
    receiver.script = [Reply(404), Reply(200, b'{"left": 3}')]
    started(receiver)
    send.send_calls()
    go()
    call = WebhookCall.objects.get()
    assert queue.retry_calls([call.pk], now=timezone.now()) == 1
    assert send.send_calls() == 1
    call.refresh_from_db()
    assert (call.status, call.answer) == ("done", {"left": 3})
    assert settle_calls() == 0
    assert ways() == [("stock", "failed")]


def test_an_operator_cancels_and_the_run_goes_on_as_failed(receiver):
    receiver.reply = Reply(500)
    started(receiver)
    send.send_calls()
    call = WebhookCall.objects.get()
    now = timezone.now()
    assert queue.cancel_calls([call.pk], reason="Cancelled by anna.", now=now) == 1
    assert queue.cancel_calls([call.pk], reason="Again.", now=now) == 0
    go()
    passage = Passage.objects.get()
    assert (passage.way, passage.reason) == ("failed", "Cancelled by anna.")
    assert send.send_calls() == 0


# Receivers beside each other


def test_a_slow_receiver_holds_up_no_quick_one(receiver, settings):
    settings.WEBHOOK_CALLS_AT_ONCE = 8
    receiver.reply = Reply(seconds=1)
    with receiving() as quick:
        make.campaign(call_step(receiver), on="Slow")
        make.campaign(call_step(quick), on="Quick")
        for _ in range(12):
            make.event(make.customer(), "Slow")
        for _ in range(40):
            make.event(make.customer(), "Quick")
        go()
        answered: list[float] = []
        begun = time.monotonic()
        quick.reply = lambda call: answered.append(time.monotonic()) or Reply()
        assert send.send_calls() == 52
        assert len(answered) == 40
        # The slow one takes three seconds, four at a time.
        assert max(answered) - begun < 1.5
        assert time.monotonic() - begun > 2.9
    assert receiver.most_at_once == 4


def test_a_receiver_that_fails_again_and_again_is_left_alone_for_a_while(receiver):
    make.campaign(call_step(receiver, url="http://127.0.0.1:1/"))
    for _ in range(20):
        make.event(make.customer(), "Order paid")
    go()
    made = send.send_calls()
    assert 3 <= made < 12
    untouched = WebhookCall.objects.filter(attempts=0).count()
    assert untouched == 20 - made


def test_a_call_whose_sender_died_is_made_again_when_its_lease_is_over(receiver):
    started(receiver)
    [claimed] = send._claim(5)
    assert send.send_calls() == 0
    WebhookCall.objects.update(due_at=timezone.now())
    assert send.send_calls() == 1
    # The one that was thought dead comes back: it changes nothing any more.
    send._record([send.Tried(claimed, timezone.now(), 1, 500, error="late")])
    call = WebhookCall.objects.get()
    assert (call.status, call.attempts, call.reason) == ("done", 2, "")


# Signatures


def test_the_signature_is_the_one_of_the_specification(settings):
    """The example that implementations of Standard Webhooks are tested with."""
    settings.WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = signing.sign(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        now=datetime.fromtimestamp(1614265330, tz=UTC),
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_two_secrets_sign_both(settings):
    one, two = signing.secrets()[0], "whsec_" + "A" * 32
    settings.WEBHOOK_SECRET = f"{two}, {one}"
    signed = signing.sign("x", b"{}", now=timezone.now())["webhook-signature"]
    assert len(signed.split(" ")) == 2
    settings.WEBHOOK_SECRET = two
    assert signing.sign("x", b"{}", now=timezone.now())["webhook-signature"] in signed


def test_the_secret_follows_from_the_installation_s_own(settings):
    settings.WEBHOOK_SECRET = ""
    settings.SECRET_KEY = "one"
    first = signing.secrets()
    settings.SECRET_KEY = "two"
    assert signing.secrets() != first
    assert "two" not in signing.secrets()[0]


def test_a_secret_that_is_none_is_not_shown(settings):
    settings.WEBHOOK_SECRET = "whsec_" + "hunter2!" * 4
    with pytest.raises(ImproperlyConfigured) as refused:
        signing.sign("x", b"", now=timezone.now())
    assert "hunter" not in str(refused.value)


# Pauses


NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("attempts", "retry_after", "pause"),
    [
        (1, None, timedelta(seconds=10)),
        (2, None, timedelta(seconds=30)),
        (8, None, timedelta(hours=4)),
        (9, None, timedelta(hours=4)),
        (1, timedelta(minutes=5), timedelta(minutes=5)),
        (5, timedelta(minutes=5), timedelta(minutes=30)),
        (1, timedelta(days=2), None),
    ],
)
def test_pauses_grow(attempts, retry_after, pause):
    moment = retry.next_try(
        attempts,
        now=NOW,
        expires_at=NOW + timedelta(days=1),
        retry_after=retry_after,
    )
    assert moment == (None if pause is None else NOW + pause)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("120", 120),
        (" 0 ", 0),
        ("9" * 40, 864_000_000),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 864_000_000),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", None),
        ("Tue, 01 Dec 2026 00:01:00 GMT", 60),
        ("Mon, 30 Nov 2026 00:01:00 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text, seconds):
    found = retry.read_retry_after(text, now=NOW)
    assert found == (None if seconds is None else timedelta(seconds=seconds))


def test_answers_are_asked_for_only_where_something_is_called(receiver):
    make.campaign(make.step("rest", "wait", {"for": 1, "unit": "hours"}, done=None))
    make.event(make.customer(), "Order paid")
    dispatch_events()
    with CaptureQueriesContext(connection) as asked:
        advance_runs()
    assert not [one for one in asked if "webhookcall" in one["sql"]]
    assert answers.of_runs({}) == {}

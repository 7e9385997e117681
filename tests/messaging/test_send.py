"""From the queue to the provider, and what is kept about it."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from customers.models import Consent, Device, MailingCategory
from messaging import send
from messaging.channels import InDoubt, Outcome, ProviderAway, ProviderError, Result
from messaging.models import (
    ChannelSettings,
    Delivery,
    Message,
    Suppression,
)
from messaging.send import close_interrupted, send_messages
from messaging.signals import messages_settled
from smartcomm.core import stopping
from tests import make

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def sent(message):
    """The message as it is kept after one round of sending."""
    send_messages(now=NOW)
    message.refresh_from_db()
    return message


def deliveries(message):
    found = Delivery.objects.filter(message=message).order_by("pk")
    return [(one.attempt, one.outcome, one.error) for one in found]


def test_a_message_is_rendered_handed_over_and_kept(provider):
    anna = make.reachable(email="anna@example.com", first_name="Anna")
    event = make.event(anna, "Order paid", item="Bag <new>")
    content = make.content(
        "email",
        subject="{{ client.eventContext.item }}",
        html="<p>{{ client.eventContext.item }}</p>",
        text="Dear {{ client.firstName }}, {{ client.event.name }}",
    )
    message = sent(make.message(anna, content, event=event, now=NOW))

    assert (message.status, message.reason, message.detail) == ("sent", "", "")
    assert (message.address, message.attempts) == ("anna@example.com", 1)
    assert (message.sent_at, message.lease) == (NOW, None)
    assert (message.provider, message.provider_id) == (
        "scripted",
        f"their-{message.pk}",
    )
    assert (message.subject, message.html) == ("Bag <new>", "<p>Bag &lt;new&gt;</p>")
    assert message.body == "Dear Anna, Order paid"
    assert deliveries(message) == [(1, "accepted", "")]
    [handed] = provider.taken
    assert (handed.address, handed.subject) == ("anna@example.com", "Bag <new>")
    assert (handed.body, handed.html) == (message.body, message.html)
    assert send_messages(now=NOW) == 0


def test_push_goes_to_the_device_heard_of_last(provider):
    anna = make.customer()
    make.consent(anna, "push")
    for token, is_valid in [("old", True), ("new", True), ("gone", False)]:
        Device.objects.create(
            customer=anna, platform="android", token=token, is_valid=is_valid
        )
    content = make.content(
        "push", title="T", text="t", link="https://a", image="https://b"
    )
    message = sent(make.message(anna, content, now=NOW))
    assert (message.status, message.address) == ("sent", "new")
    assert (message.subject, message.link, message.image) == (
        "T",
        "https://a",
        "https://b",
    )


def test_what_is_not_due_waits(provider):
    message = make.message(make.reachable(), now=NOW + MINUTE)
    assert send_messages(now=NOW) == 0
    assert send_messages(now=NOW + MINUTE) == 1
    assert [m.id for m in provider.taken] == [message.pk]


@pytest.mark.parametrize(
    ("arrange", "reason"),
    [
        (lambda anna: None, ""),
        (lambda anna: anna.consents.all().delete(), "no_consent"),
        (lambda anna: anna.consents.update(is_granted=False), "no_consent"),
        (lambda anna: type(anna).objects.update(phone=""), "no_address"),
        (
            lambda anna: type(anna).objects.update(phone_is_valid=False),
            "invalid_address",
        ),
        (
            lambda anna: Suppression.objects.create(channel="sms", address=anna.phone),
            "suppressed_address",
        ),
        (
            lambda anna: Suppression.objects.create(
                channel="email", address=anna.phone
            ),
            "",
        ),
        (lambda anna: Message.objects.update(expires_at=NOW - MINUTE), "expired"),
        (lambda anna: anna.delete(), "no_address"),
    ],
)
def test_whether_it_may_be_sent_is_asked_when_it_is_sent(provider, arrange, reason):
    anna = make.reachable()
    message = make.message(anna, now=NOW)
    arrange(anna)
    sent(message)
    assert message.reason == reason
    assert message.status == ("suppressed" if reason else "sent")
    assert len(provider.taken) == (0 if reason else 1)
    assert Delivery.objects.count() == (0 if reason else 1)
    assert bool(message.detail) == bool(reason)


def test_a_suppressed_email_address_is_known_in_any_case(provider):
    Suppression.objects.create(channel="email", address="ANNA@Example.com")
    anna = make.reachable(email="Anna@example.com")
    message = sent(make.message(anna, make.content("email"), now=NOW))
    assert (message.status, message.reason) == ("suppressed", "suppressed_address")


def test_who_never_answered_is_written_to_only_where_the_installation_says_so():
    anna = make.customer(phone="+4915112345678", email="anna@example.com")
    ChannelSettings.objects.create(channel="sms", default_consent=True)
    sms = make.message(anna, make.content("sms"), now=NOW)
    email = make.message(anna, make.content("email"), now=NOW)
    sent(sms), sent(email)
    email.refresh_from_db()
    assert (sms.status, email.status) == ("sent", "suppressed")
    assert email.detail == "The customer never said yes to e-mail."


def test_a_mailing_category_asks_for_its_own_answer():
    news = MailingCategory.objects.create(code="news", name="News", default_sms=False)
    content = make.content("sms", category=news)
    yes, no, silent = (make.reachable() for _ in range(3))
    for customer, answer in [(yes, True), (no, False)]:
        Consent.objects.create(
            customer=customer,
            channel="sms",
            category=news,
            is_granted=answer,
            changed_at=NOW,
        )
    messages = [make.message(who, content, now=NOW) for who in (yes, no, silent)]
    send_messages(now=NOW)
    statuses = [Message.objects.get(pk=one.pk).status for one in messages]
    assert statuses == ["sent", "suppressed", "suppressed"]


@pytest.mark.parametrize(
    ("missing", "status", "reason", "bodies"),
    [
        ("skip", "suppressed", "missing_variable", []),
        ("fail", "failed", "missing_variable", []),
        ("send", "sent", "", ["It is  again"]),
    ],
)
def test_a_missing_variable_does_what_the_content_says(
    provider, missing, status, reason, bodies
):
    content = make.content(
        text="It is {{ client.eventContext.item }} again", missing=missing
    )
    message = sent(make.message(make.reachable(), content, now=NOW))
    assert (message.status, message.reason) == (status, reason)
    if reason:
        assert message.detail == "There is no value for client.eventContext.item."
    assert [m.body for m in provider.taken] == bodies


def test_a_text_that_cannot_be_rendered_fails_and_harms_no_other(provider):
    broken = make.content(text="{{ client.firstName | money }}")
    # It got past the check somehow; the queue must go on all the same.
    worse = make.content(text="{% if %}")
    anna = make.reachable(first_name="Anna")
    messages = [
        make.message(anna, one, now=NOW) for one in (broken, worse, make.content())
    ]
    send_messages(now=NOW)
    kept = [Message.objects.get(pk=one.pk) for one in messages]
    assert [one.status for one in kept] == ["failed", "failed", "sent"]
    assert kept[0].detail == "In the text: Line 1: “Anna” is not an amount."
    assert len(provider.taken) == 1


def test_a_refused_message_fails_and_is_not_tried_again(provider):
    anna = make.reachable(phone="+4915112345678")
    provider.answers["+4915112345678"] = ProviderError(
        "No such number.", permanent=True
    )
    message = sent(make.message(anna, now=NOW))
    assert (message.status, message.detail) == ("failed", "No such number.")
    assert deliveries(message) == [(1, "failed", "No such number.")]
    assert send_messages(now=NOW + timedelta(days=30)) == 0


def test_a_message_not_taken_is_tried_again_with_growing_pauses_and_sent_once(provider):
    anna = make.reachable(phone="+4915112345678")
    provider.answers["+4915112345678"] = ProviderError("Busy.", permanent=False)
    message = sent(make.message(anna, now=NOW))
    assert (message.status, message.due_at) == ("queued", NOW + MINUTE)
    assert (message.detail, message.sent_at) == ("Busy.", None)
    assert send_messages(now=NOW + MINUTE / 2) == 0
    assert send_messages(now=NOW + MINUTE) == 1
    message.refresh_from_db()
    assert (message.status, message.due_at) == ("queued", NOW + 6 * MINUTE)

    provider.answers.clear()
    assert send_messages(now=NOW + 6 * MINUTE) == 1
    message.refresh_from_db()
    assert (message.status, message.attempts, message.detail) == ("sent", 3, "")
    assert deliveries(message) == [
        (1, "retry", "Busy."),
        (2, "retry", "Busy."),
        (3, "accepted", ""),
    ]
    assert len(provider.taken) == 1
    assert send_messages(now=NOW + timedelta(days=2)) == 0


def test_a_message_that_is_never_taken_fails_in_the_end(provider):
    anna = make.reachable(phone="+4915112345678")
    provider.answers["+4915112345678"] = ProviderError("Busy.", permanent=False)
    message = make.message(anna, now=NOW)
    moment = NOW
    for _ in range(20):
        send_messages(now=moment)
        message.refresh_from_db()
        moment = message.due_at
    assert (message.status, message.attempts, message.detail) == ("failed", 7, "Busy.")


@pytest.mark.parametrize("error", [InDoubt("The line dropped."), RuntimeError("bug")])
def test_a_message_that_may_have_arrived_is_not_sent_again(provider, error):
    anna = make.reachable(phone="+4915112345678")
    provider.answers["+4915112345678"] = error
    message = sent(make.message(anna, now=NOW))
    assert message.status == "unknown"
    assert deliveries(message)[0][:2] == (1, "unknown")
    provider.answers.clear()
    assert send_messages(now=NOW + timedelta(days=1)) == 0
    assert provider.taken == []


def test_a_provider_that_is_away_keeps_its_messages_and_holds_up_no_other_channel(
    provider,
):
    anna = make.reachable(phone="+4915112345678", email="anna@example.com")
    provider.answers["+4915112345678"] = ProviderAway("Nobody answers.")
    texts = [make.message(anna, now=NOW) for _ in range(45)]
    email = make.message(anna, make.content("email"), now=NOW)
    while send_messages(now=NOW):
        pass
    email.refresh_from_db()
    assert email.status == "sent"
    # One group found out; the others were spared the wait and lost no attempt.
    tried = Message.objects.filter(channel="sms", attempts=1)
    assert (tried.count(), tried.filter(due_at=NOW + MINUTE).count()) == (20, 20)
    untouched = Message.objects.filter(channel="sms", attempts=0, lease=None)
    assert untouched.count() == 25

    provider.answers.clear()
    send.forget_away()
    while send_messages(now=NOW + MINUTE):
        pass
    assert Message.objects.filter(status="sent").count() == len(texts) + 1
    assert len(provider.taken) == len(texts) + 1


def test_a_worker_that_is_stopped_ends_after_the_message_at_hand(provider, monkeypatch):
    anna = make.reachable()
    for _ in range(45):
        make.message(anna, now=NOW)
    monkeypatch.setattr(stopping, "is_stopping", lambda: len(provider.taken) == 7)
    assert send_messages(now=NOW) == 45
    assert len(provider.taken) == 7
    tally = Counter(Message.objects.values_list("status", "attempts", "lease"))
    assert tally == {
        ("sent", 1, None): 7,
        ("queued", 1, None): 13,
        ("queued", 0, None): 25,
    }


def test_messages_are_handed_over_in_groups_of_twenty(provider):
    anna = make.reachable()
    for _ in range(45):
        make.message(anna, now=NOW)
    assert send_messages(now=NOW) == 45
    assert provider.groups == [20, 20, 5]


def test_a_batch_takes_no_more_than_its_limit_oldest_first(provider):
    anna = make.reachable()
    late = make.message(anna, now=NOW)
    early = make.message(anna, now=NOW - MINUTE)
    assert send_messages(limit=1, now=NOW) == 1
    assert [m.id for m in provider.taken] == [early.pk]
    assert send_messages(limit=1, now=NOW) == 1
    assert [m.id for m in provider.taken] == [early.pk, late.pk]


def test_a_big_mailing_does_not_keep_the_others_waiting(provider):
    anna = make.reachable()
    for _ in range(60):
        make.message(anna, campaign_id=1, now=NOW - MINUTE)
    later = make.message(anna, campaign_id=2, now=NOW)
    other = make.message(anna, make.content("email"), campaign_id=1, now=NOW)
    single = make.message(anna, campaign_id=None, now=NOW)
    send_messages(limit=30, now=NOW)
    assert {later.pk, other.pk, single.pk} <= {m.id for m in provider.taken}


def test_every_campaign_has_its_turn_however_small_the_batch(provider):
    anna = make.reachable()
    for _ in range(10):
        make.message(anna, campaign_id=1, now=NOW - MINUTE)
    others = [make.message(anna, campaign_id=number, now=NOW) for number in (2, 3)]
    assert send_messages(limit=4, now=NOW) == 4
    assert {other.pk for other in others} < {m.id for m in provider.taken}


def test_a_lane_is_found_by_its_index_and_not_by_reading_the_queue():
    # A table this small would be read whole: what counts is that the index can serve.
    send.execute("SET LOCAL enable_seqscan = off")
    send.execute("SET LOCAL enable_bitmapscan = off")
    plan = send.fetch_all(
        "EXPLAIN " + send.CLAIM,
        {
            "now": NOW,
            "until": NOW,
            "lease": uuid4(),
            "limit": 10,
            "share": 20,
            "channels": ["sms"],
        },
    )
    text = "\n".join(line for (line,) in plan)
    assert "Seq Scan on messaging_message" not in text
    assert "COALESCE(campaign_id" in text
    assert re.search(r"Index (Only )?Scan using message_queue\b", text)


def test_a_lease_that_ended_returns_the_message_to_the_queue(provider):
    message = make.message(make.reachable(), now=NOW)
    [claimed] = send._claim(uuid4(), 10, now=NOW)
    assert send_messages(now=NOW + send.LEASE / 2) == 0
    assert send_messages(now=NOW + send.LEASE + MINUTE) == 1
    assert [m.id for m in provider.taken] == [message.pk] == [claimed.id]


def test_a_slow_worker_whose_lease_another_has_taken_sends_nothing(provider):
    message = make.message(make.reachable(), now=NOW)
    slow = uuid4()
    batch = send._claim(slow, 10, now=NOW)
    _, letters = send._prepare(batch, now=NOW)
    other = uuid4()
    send._claim(other, 10, now=NOW + send.LEASE + MINUTE)

    send._hand_over(letters, slow, clock=lambda: NOW)

    assert provider.taken == []
    message.refresh_from_db()
    assert (message.status, message.lease) == ("queued", other)


def test_a_campaign_paused_between_claim_and_hand_over_waits(provider):
    message = make.message(make.reachable(), campaign_id=7, now=NOW)
    lease = uuid4()
    batch = send._claim(lease, 10, now=NOW)
    _, letters = send._prepare(batch, now=NOW)
    send.execute(
        "INSERT INTO messaging_hold (campaign_id, created_at) VALUES (7, now())"
    )

    send._hand_over(letters, lease, clock=lambda: NOW)
    send._let_go(batch, lease)

    assert provider.taken == []
    message.refresh_from_db()
    assert (message.status, message.lease) == ("queued", None)


def test_a_message_held_beyond_its_time_to_live_is_suppressed_when_released(provider):
    message = make.message(make.reachable(), campaign_id=7, now=NOW)
    send.execute(
        "INSERT INTO messaging_hold (campaign_id, created_at) VALUES (7, now())"
    )
    later = NOW + timedelta(hours=73)
    assert send_messages(now=later) == 0
    send.execute("DELETE FROM messaging_hold")
    assert send_messages(now=later) == 1
    message.refresh_from_db()
    assert (message.status, message.reason) == ("suppressed", "expired")
    assert provider.taken == []


def interrupted(message, *, since):
    """As a worker leaves it that dies in the middle of a hand-over."""
    lease = uuid4()
    batch = send._claim(lease, 10, now=since)
    _, letters = send._prepare(batch, now=since)
    [started] = send._start(letters, lease, "scripted", now=since)
    return started, batch[0]


def test_what_a_dead_worker_was_handing_over_ends_as_unknown():
    message = make.message(make.reachable(), now=NOW, run_id=5)
    interrupted(message, since=NOW)
    assert close_interrupted(now=NOW + 9 * MINUTE) == 0
    assert send_messages(now=NOW + 60 * MINUTE) == 0
    assert close_interrupted(now=NOW + 11 * MINUTE) == 1
    message.refresh_from_db()
    assert (message.status, message.detail) == ("unknown", send.MAY_HAVE_ARRIVED)
    assert deliveries(message) == [(1, "unknown", send.MAY_HAVE_ARRIVED)]
    assert send_messages(now=NOW + 60 * MINUTE) == 0
    assert close_interrupted(now=NOW + 60 * MINUTE) == 0


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (Outcome(Result.ACCEPTED, "late"), "sent"),
        (Outcome(Result.REFUSED, error="No."), "failed"),
        (Outcome(Result.LATER, error="Busy."), "failed"),
    ],
)
def test_the_late_answer_of_a_slow_worker_counts_and_sends_nothing_again(
    result, status
):
    message = make.message(make.reachable(), now=NOW)
    started, row = interrupted(message, since=NOW)
    close_interrupted(now=NOW + 11 * MINUTE)
    late = NOW + 12 * MINUTE
    send._record([send._record_of(started, row, result, now=late)], now=late)
    message.refresh_from_db()
    assert (message.status, message.provider_id) == (status, result.provider_id)
    assert send_messages(now=late + timedelta(days=1)) == 0


def test_an_outcome_is_recorded_once():
    message = make.message(make.reachable(), now=NOW)
    started, row = interrupted(message, since=NOW)
    fine = send._record_of(started, row, Outcome(Result.ACCEPTED), now=NOW)
    wrong = send._record_of(started, row, Outcome(Result.REFUSED, error="No."), now=NOW)
    send._record([fine], now=NOW)
    send._record([wrong], now=NOW + MINUTE)
    message.refresh_from_db()
    assert (message.status, message.sent_at) == ("sent", NOW)
    assert deliveries(message) == [(1, "accepted", "")]


def test_the_answer_to_one_attempt_does_not_end_the_next():
    message = make.message(make.reachable(), now=NOW)
    started, row = interrupted(message, since=NOW)
    busy = send._record_of(started, row, Outcome(Result.LATER), now=NOW)
    send._record([busy], now=NOW)
    interrupted(message, since=NOW + MINUTE)
    # The connection broke while the first answer was recorded, so it comes again.
    send._record([busy], now=NOW + 2 * MINUTE)
    message.refresh_from_db()
    assert (message.status, message.attempts) == ("sending", 2)


def test_only_what_is_queued_can_be_leased():
    message = make.message(make.reachable(), now=NOW)
    sent(message)
    with (
        pytest.raises(IntegrityError, match="message_leased_is_queued"),
        transaction.atomic(),
    ):
        Message.objects.filter(pk=message.pk).update(lease=uuid4())


def test_whoever_waits_is_told_after_commit(django_capture_on_commit_callbacks):
    told = []

    def hear(**kwargs):
        told.append(Message.objects.values_list("status", flat=True).get())

    messages_settled.connect(hear)
    try:
        make.message(make.reachable(), run_id=1, now=NOW)
        with django_capture_on_commit_callbacks(execute=True):
            send_messages(now=NOW)
            assert told == []
        assert told == ["sent"]
    finally:
        messages_settled.disconnect(hear)


def test_a_retry_tells_nobody(provider, django_capture_on_commit_callbacks):
    anna = make.reachable(phone="+4915112345678")
    provider.answers["+4915112345678"] = ProviderError("Busy.", permanent=False)
    make.message(anna, run_id=1, now=NOW)
    with django_capture_on_commit_callbacks() as callbacks:
        send_messages(now=NOW)
    assert callbacks == []


def test_the_local_outbox_counts_as_sent(settings):
    settings.MESSAGE_PROVIDERS = {}
    message = sent(make.message(make.reachable(), now=NOW))
    assert (message.status, message.provider, message.body) == (
        "sent",
        "outbox",
        "Hello",
    )


def _queries_of_sending(count):
    events = []
    for _ in range(count):
        anna = make.reachable()
        events.append(make.event(anna, "Order paid", item="Bag"))
        make.message(anna, make.content("email"), event=events[-1], now=NOW)
        make.message(anna, make.content("push"), now=NOW)
    with CaptureQueriesContext(connection) as queries:
        assert send_messages(now=NOW) == 2 * count
    return len(queries)


def test_a_batch_takes_as_many_queries_as_a_single_message():
    few, many = _queries_of_sending(1), _queries_of_sending(10)
    assert few == many


def test_a_group_is_found_by_key_however_long_the_queue():
    letters = '[{"id": 1}, {"id": 2}]'
    plan = send.fetch_all(
        "EXPLAIN " + send.START.sql,
        {"now": NOW, "lease": uuid4(), "provider": "p", "letters": letters},
    )
    assert "message_queue" not in str(plan)


def test_finding_settled_messages_reads_only_those():
    plan = send.fetch_all(
        "EXPLAIN SELECT id FROM messaging_message WHERE NOT is_settled "
        "AND run_id IS NOT NULL AND NOT (status IN ('queued', 'sending')) "
        "ORDER BY id LIMIT 10"
    )
    assert "message_unsettled" in str(plan)


def test_starting_waits_for_the_disk_and_recording_does_not():
    # What left the house must be known after a power cut. A record lost then means one
    # group in doubt.
    now, lease = timezone.now(), uuid4()
    message = make.message(make.reachable(), now=now)
    Message.objects.update(lease=lease, leased_until=now + MINUTE)
    waits = []

    def note_of(prepared, params):
        with transaction.atomic():
            send.execute("SET LOCAL synchronous_commit = 'on'")
            rows = prepared.fetch_all(params)
            waits.append(send.fetch_all("SHOW synchronous_commit")[0][0])
            return rows

    letter = {"id": message.pk, "address": "1", "subject": "", "body": "", "html": ""}
    letters = send.as_json([letter | {"link": "", "image": ""}])
    asked = {"now": now, "lease": lease, "provider": "p", "letters": letters}
    ((_, delivery, _),) = note_of(send.START, asked)
    outcome = send.Record(message.pk, delivery, "sent", "accepted", "", "", None)
    note_of(send.RECORD, {"now": now, "records": send.as_json([outcome])})

    assert waits == ["on", "off"]
    message.refresh_from_db()
    assert message.status == "sent"


def test_what_was_started_is_not_let_go_again():
    for _ in range(2):
        make.message(make.reachable(), now=NOW)
    with CaptureQueriesContext(connection) as queries:
        assert send_messages(now=NOW) == 2
    assert not [query for query in queries if "SET lease = NULL" in query["sql"]]

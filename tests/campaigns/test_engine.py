"""From an event to the end of a run, step by step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from campaigns import dispatch, publish
from campaigns.actions import ACTIONS
from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Campaign, Entry, Passage, Run, Step, TurnedAway
from events.models import PendingEvent
from messaging.models import Message
from messaging.send import send_messages
from tests import make

pytestmark = pytest.mark.django_db


def work(now=None):
    """What the workers do, until there is nothing left to do."""
    while sum(
        (
            dispatch_events(now=now),
            settle_runs(now=now),
            advance_runs(now=now),
            send_messages(now=now),
        )
    ):
        pass


def ways(run):
    return list(
        Passage.objects.filter(run=run).order_by("pk").values_list("step__key", "way")
    )


# Dispatch


def test_an_event_starts_a_run_for_its_customer():
    campaign = make.campaign(on="Order paid")
    anna = make.customer()
    event = make.event(anna, "Order paid")

    assert dispatch_events() == 1

    run = Run.objects.get()
    assert (run.customer, run.campaign, run.event) == (anna, campaign, event)
    assert (run.step.key, run.status) == ("sms", "waiting")
    assert not PendingEvent.objects.exists()


def test_events_that_nobody_waits_for_start_nothing():
    make.campaign(on="Order paid")
    anna = make.customer()
    make.event(anna, "Product viewed")
    make.event(anna, "Order paid", backfill=True)

    assert dispatch_events() == 0
    assert not Run.objects.exists()


def test_the_trigger_s_conditions_are_asked_of_the_event():
    make.campaign(
        on="Call received", where=[{"field": "topic", "op": "=", "value": "returns"}]
    )
    anna = make.customer()
    make.event(anna, "Call received", topic="praise")
    returns = make.event(anna, "Call received", topic="returns")

    dispatch_events()

    assert Run.objects.get().event == returns
    assert not PendingEvent.objects.exists()


def test_an_event_that_is_too_old_starts_nothing():
    make.campaign(on="Order paid", max_age_hours=2)
    anna, now = make.customer(), timezone.now()
    make.event(anna, "Order paid", at=now - timedelta(hours=3))
    fresh = make.event(anna, "Order paid", at=now - timedelta(hours=1))

    dispatch_events(now=now)

    assert Run.objects.get().event == fresh


def test_an_event_from_before_the_campaign_was_published_starts_nothing():
    first = make.campaign(on="Order paid")
    make.event(make.customer(), "Order paid")
    make.campaign(on="Order paid")

    dispatch_events()

    assert Run.objects.get().campaign == first


def test_every_campaign_that_waits_gets_its_run():
    for _ in range(3):
        make.campaign(on="Order paid")
    make.event(make.customer(), "Order paid")

    dispatch_events()

    assert Run.objects.count() == 3


def test_the_same_event_never_starts_a_campaign_twice():
    make.campaign(on="Order paid")
    event = make.event(make.customer(), "Order paid")
    dispatch_events()

    # As if a crash had brought the row back.
    PendingEvent.objects.create(
        event=event, customer_id=event.customer_id, type_id=event.type_id
    )
    dispatch_events()

    assert Run.objects.count() == 1


def test_two_events_of_a_customer_are_two_runs():
    make.campaign(on="Order paid")
    anna = make.customer()
    make.event(anna, "Order paid")
    make.event(anna, "Order paid")

    dispatch_events()

    assert Run.objects.filter(customer=anna).count() == 2


def test_once_means_once_also_within_a_batch():
    make.campaign(on="Order paid", entry={"rule": "once"})
    anna = make.customer()
    first = make.event(anna, "Order paid")
    make.event(anna, "Order paid")
    dispatch_events()
    make.event(anna, "Order paid")
    dispatch_events()

    assert Run.objects.get().event == first


def test_whom_the_entry_rule_turns_away_is_written_down_with_the_event():
    campaign = make.campaign(on="Order paid", entry={"rule": "once"})
    anna, ben = make.customer(), make.customer()
    make.event(anna, "Order paid")
    same_batch = make.event(anna, "Order paid")
    make.event(ben, "Order paid")
    dispatch_events()
    later = make.event(anna, "Order paid")
    dispatch_events()

    entered_at = Entry.objects.get(customer=anna).entered_at
    assert list(
        TurnedAway.objects.order_by("pk").values_list(
            "customer", "campaign", "event", "entered_at"
        )
    ) == [
        (anna.pk, campaign.pk, same_batch.pk, entered_at),
        (anna.pk, campaign.pk, later.pk, entered_at),
    ]
    # As if a crash had brought the row back.
    for event in (same_batch, later):
        PendingEvent.objects.create(
            event=event, customer_id=anna.pk, type_id=event.type_id
        )
    dispatch_events()
    assert TurnedAway.objects.count() == 2


def test_not_again_within_some_days_counts_from_entry():
    make.campaign(on="Order paid", entry={"rule": "interval", "days": 7})
    anna, now = make.customer(), timezone.now()

    def enter(after):
        make.event(anna, "Order paid", at=now + after, now=now + after)
        dispatch_events(now=now + after)
        return Run.objects.count()

    assert enter(timedelta()) == 1
    assert enter(timedelta(days=6, hours=23)) == 1
    assert enter(timedelta(days=7)) == 2
    assert Entry.objects.get().entered_at == now + timedelta(days=7)


def test_dispatching_costs_the_same_queries_for_one_event_and_for_many():
    make.campaign(on="Order paid", where=[{"field": "a", "op": "=", "value": 1}])

    def cost(count):
        for _ in range(count):
            make.event(make.customer(), "Order paid", a=1)
        with CaptureQueriesContext(connection) as queries:
            assert dispatch_events() == count
        return len(queries)

    assert cost(1) == cost(30)


def test_a_campaign_that_cannot_be_asked_holds_up_no_other(monkeypatch):
    broken, fine = make.campaign(on="Order paid"), make.campaign(on="Order paid")
    make.event(make.customer(), "Order paid")
    now, ask = timezone.now(), dispatch.matching

    def fault(version, ids, **how):
        if version.campaign_id == broken.pk:
            raise RuntimeError("broken")
        return ask(version, ids, **how)

    monkeypatch.setattr(dispatch, "matching", fault)
    assert dispatch_events(now=now) == 1

    assert Run.objects.get().campaign == fine
    # The event is not lost for the other one: it is looked at again later.
    assert PendingEvent.objects.get().attempts == 1
    assert dispatch_events(now=now) == 0
    monkeypatch.setattr(dispatch, "matching", ask)
    assert dispatch_events(now=now + timedelta(minutes=2)) == 1
    assert set(Run.objects.values_list("campaign", flat=True)) == {broken.pk, fine.pk}
    assert Run.objects.count() == 2
    assert not PendingEvent.objects.exists()


# Steps


def test_a_message_is_sent_and_the_run_is_over():
    make.campaign(make.sms("Thank you, {{ client.firstName }}"))
    anna = make.reachable(first_name="Anna")
    make.event(anna, "Order paid")

    work()

    message = Message.objects.get()
    assert (message.status, message.body) == ("sent", "Thank you, Anna")
    run = Run.objects.get()
    assert (run.status, ways(run)) == ("finished", [("sms", "sent")])


def test_who_gets_no_message_does_not_go_on_and_the_run_says_why():
    make.campaign(
        make.step("sms", "send_sms", {"text": "Hello"}, sent="push"),
        make.step("push", "send_push", {"title": "Hello", "text": "Hello"}, sent=None),
    )
    make.event(make.customer(phone="+4915112345678"), "Order paid")

    work()

    assert Message.objects.get().reason == "no_consent"
    run = Run.objects.get()
    assert run.status == "finished"
    assert run.reason == "The customer never said yes to SMS."
    assert ways(run) == [("sms", "not_sent")]


def test_a_filter_parts_customers_by_the_event_s_value():
    make.campaign(
        make.step(
            "city",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "$address.city"}},
            positive="sms",
            negative=None,
        ),
        make.sms(),
    )
    anna, bert = make.reachable(city="Paris"), make.reachable(city="Paris")
    make.event(anna, "Order paid", address={"city": "Paris"})
    make.event(bert, "Order paid", address={"city": "Riga"})

    work()

    assert Message.objects.get().customer == anna
    assert ways(Run.objects.get(customer=bert)) == [("city", "negative")]


def test_a_field_the_event_lacks_sends_everyone_the_negative_way_and_says_why():
    make.campaign(
        make.step(
            "city",
            "filter_customers",
            {"rule": {"not": {"attribute": "city", "op": "=", "value": "$city"}}},
            positive="sms",
            negative=None,
        ),
        make.sms(),
    )
    make.event(make.reachable(), "Order paid")

    work()

    assert not Message.objects.exists()
    assert Run.objects.get().reason == (
        "The event has no “city”, so the filter matches nobody."
    )


def test_a_filter_sees_the_event_that_started_the_run():
    make.event_type("Call received")
    make.campaign(
        make.step(
            "third",
            "filter_customers",
            {"rule": {"event": "Call received", "count": {"op": ">=", "value": 3}}},
            positive="sms",
            negative=None,
        ),
        make.sms(),
        on="Call received",
    )
    anna = make.reachable()
    for _ in range(3):
        make.event(anna, "Call received")
        work()

    assert Message.objects.count() == 1


def test_refresh_filter_asks_the_earlier_filter_again_with_the_same_event():
    anna, now = make.reachable(city="Paris"), timezone.now()
    make.campaign(
        make.step(
            "city",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "$city"}},
            positive="wait",
            negative=None,
        ),
        make.step("wait", "wait", {"for": 2, "unit": "days"}, done="again"),
        make.step(
            "again", "refresh_filter", {"filter": "city"}, positive="sms", negative=None
        ),
        make.sms(),
    )
    make.event(anna, "Order paid", city="Paris")
    work(now)
    anna.city = "Riga"
    anna.save(update_fields=["city"])

    work(now + timedelta(days=1))
    assert ways(Run.objects.get()) == [("city", "positive")]
    work(now + timedelta(days=2, seconds=1))

    assert ways(Run.objects.get()) == [
        ("city", "positive"),
        ("wait", "done"),
        ("again", "negative"),
    ]
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    ("broken", "status", "reason"),
    [
        # As an older program finds it after an upgrade that was taken back.
        ({"action": "teleport"}, "waiting", "Internal error; see the log."),
        (
            {"next": {"sent": "nowhere"}},
            "failed",
            "“sent” leads to “nowhere”, and there is no such step.",
        ),
    ],
)
def test_a_step_that_makes_no_sense_holds_up_no_other_campaign(broken, status, reason):
    campaigns = [make.campaign(make.sms(), on="Order paid") for _ in range(2)]
    Step.objects.filter(version__campaign=campaigns[0]).update(**broken)
    make.event(make.reachable(), "Order paid")
    while dispatch_events() + advance_runs() + send_messages() + settle_runs():
        pass

    odd, fine = Run.objects.order_by("campaign_id")
    assert (odd.status, odd.reason) == (status, reason)
    assert fine.status == "finished"


def test_a_fault_that_has_passed_is_told_no_more(monkeypatch):
    make.campaign(make.sms())
    make.event(make.reachable(), "Order paid")
    dispatch_events()
    with monkeypatch.context() as broken:
        broken.setattr(ACTIONS["send_sms"], "execute", lambda *_, **__: 1 / 0)
        advance_runs()
    run = Run.objects.get()
    assert (run.attempts, run.reason) == (1, "Internal error; see the log.")

    advance_runs(now=timezone.now() + timedelta(hours=1))

    run.refresh_from_db()
    assert (run.status, run.attempts, run.reason) == ("waiting", 0, "")


def test_a_step_that_fails_holds_up_no_other_run(monkeypatch):
    make.campaign(make.step("wait", "wait", {"for": 1, "unit": "days"}, done=None))
    poison, fine = make.customer(), make.customer()
    for customer in (poison, fine):
        make.event(customer, "Order paid")
    dispatch_events()
    action, now = ACTIONS["wait"], timezone.now()
    execute = action.execute

    def fault(step, runs, **how):
        if any(started.run.customer_id == poison.pk for started in runs):
            raise RuntimeError("poison")
        return execute(step, runs, **how)

    monkeypatch.setattr(action, "execute", fault)
    advance_runs(now=now)

    assert Run.objects.get(customer=fine).due_at > now + timedelta(hours=23)
    failing = Run.objects.get(customer=poison)
    assert (failing.attempts, failing.status) == (1, "waiting")
    for _ in range(10):
        advance_runs(now=now + timedelta(hours=20))
        now += timedelta(minutes=1)
        Run.objects.filter(customer=poison, status="waiting").update(due_at=now)
    failing.refresh_from_db()
    assert (failing.status, failing.reason) == (
        "failed",
        "Internal error; see the log.",
    )


def test_advancing_costs_the_same_queries_for_one_run_and_for_many():
    make.campaign(
        make.step(
            "city",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "Paris"}},
            positive="sms",
            negative=None,
        ),
        make.sms(),
    )

    def cost(count):
        for _ in range(count):
            make.event(make.reachable(city="Paris"), "Order paid")
        dispatch_events()
        with CaptureQueriesContext(connection) as queries:
            assert advance_runs() == count
        return len(queries)

    assert cost(1) == cost(40)


# Versions, pause, archive


def test_a_run_finishes_on_the_version_it_started_on():
    campaign = make.campaign(
        make.step("wait", "wait", {"for": 1, "unit": "days"}, done="sms"),
        make.sms("first"),
    )
    anna, now = make.reachable(), timezone.now()
    make.event(anna, "Order paid")
    work(now)
    from campaigns import drawing

    data = drawing.as_json(campaign.versions.get())
    data["steps"][1]["config"]["text"] = "second"
    drawing.save_draft(campaign, data)
    publish.publish(campaign)
    make.event(anna, "Order paid")
    work(now + timedelta(minutes=1))

    work(now + timedelta(days=2))

    assert sorted(Message.objects.values_list("body", flat=True)) == ["first", "second"]


def test_a_paused_campaign_starts_and_sends_nothing_until_it_is_resumed():
    campaign = make.campaign(
        make.step("wait", "wait", {"for": 1, "unit": "days"}, done="sms"), make.sms()
    )
    anna, now = make.reachable(), timezone.now()
    make.event(anna, "Order paid")
    work(now)

    publish.pause(campaign)
    make.event(anna, "Order paid")
    work(now + timedelta(days=2))
    assert (Run.objects.count(), Message.objects.count()) == (1, 0)

    publish.resume(campaign)
    work(now + timedelta(days=2))
    assert Message.objects.get().status == "sent"


def test_archiving_ends_what_is_under_way():
    campaign = make.campaign(make.sms())
    make.event(make.reachable(), "Order paid")
    dispatch_events()
    advance_runs()

    publish.archive(campaign)
    work()

    assert Message.objects.get().status == "suppressed"
    run = Run.objects.get()
    assert (run.status, run.reason) == ("finished", "The campaign was archived.")


def test_a_run_that_began_in_the_moment_of_archiving_ends_too():
    campaign = make.campaign(make.sms())
    make.event(make.reachable(), "Order paid")
    # Dispatch has read the campaign as published, and commits after the archiving.
    dispatch_events()
    Campaign.objects.update(status=Campaign.Status.ARCHIVED)

    assert advance_runs() == 1

    run = Run.objects.get(campaign=campaign)
    assert (run.status, run.reason) == ("finished", "The campaign was archived.")
    assert (run.due_at, run.finished_at is None) == (None, False)
    assert not Message.objects.exists()
    assert not Passage.objects.exists()
    assert advance_runs() == 0


def test_a_run_of_a_paused_campaign_waits_beside_one_that_was_archived():
    make.campaign(make.sms())
    make.event(make.reachable(), "Order paid")
    dispatch_events()
    Campaign.objects.update(status=Campaign.Status.PAUSED)

    assert advance_runs() == 0
    assert Run.objects.get().status == "waiting"


def test_what_is_being_handed_over_while_archiving_is_not_tried_again():
    campaign = make.campaign(make.sms())
    make.event(make.reachable(), "Order paid")
    dispatch_events()
    advance_runs()
    Message.objects.update(status="sending", sending_since=timezone.now())

    publish.archive(campaign)
    # The provider said: later.
    Message.objects.update(status="queued", sending_since=None)
    send_messages(now=timezone.now() + timedelta(minutes=1))

    message = Message.objects.get()
    assert (message.status, message.reason) == ("suppressed", "expired")


NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("config", "zone", "expected"),
    [
        (
            {"for": 90, "unit": "minutes"},
            "",
            datetime(2026, 11, 20, 13, 30, tzinfo=UTC),
        ),
        ({"for": 3, "unit": "days"}, "", datetime(2026, 11, 23, 12, tzinfo=UTC)),
        ({"until": "2026-12-01"}, "", datetime(2026, 12, 1, tzinfo=UTC)),
        (
            {"until": "2026-12-01T09:00:00+01:00"},
            "",
            datetime(2026, 12, 1, 8, tzinfo=UTC),
        ),
        ({"until": "2020-01-01"}, "", datetime(2020, 1, 1, tzinfo=UTC)),
        ({"time_of_day": "13:00"}, "", datetime(2026, 11, 20, 13, tzinfo=UTC)),
        ({"time_of_day": "12:00"}, "", datetime(2026, 11, 21, 12, tzinfo=UTC)),
        (
            {"time_of_day": "13:00"},
            "Europe/Berlin",
            datetime(2026, 11, 21, 12, tzinfo=UTC),
        ),
        (
            {"time_of_day": "09:00"},
            "America/New_York",
            datetime(2026, 11, 20, 14, tzinfo=UTC),
        ),
        ({"time_of_day": "13:00"}, "No/Where", datetime(2026, 11, 20, 13, tzinfo=UTC)),
        # Before all calendars: long ago.
        ({"until": "0001-01-01", "before": 2}, "", datetime(1, 1, 2, tzinfo=UTC)),
        (
            {"until": "0001-01-01T00:00:00Z", "before": 2},
            "",
            datetime(1, 1, 2, tzinfo=UTC),
        ),
    ],
)
def test_when_a_wait_is_over(config, zone, expected):
    from campaigns.actions.wait import wake_at

    assert wake_at(config, NOON, zone=zone) == expected


@pytest.mark.parametrize(
    ("arrived_at", "expected"),
    [
        # In the night of 25 October 2026 it is 02:30 in Berlin twice, an hour apart.
        ("2026-10-25T02:10:00+02:00", "2026-10-25T02:30:00+02:00"),
        ("2026-10-25T02:10:00+01:00", "2026-10-25T02:30:00+01:00"),
        ("2026-10-25T02:40:00+01:00", "2026-10-26T02:30:00+01:00"),
        # In that of 29 March the clock skips it.
        ("2026-03-29T01:10:00+01:00", "2026-03-29T03:30:00+02:00"),
        ("2026-03-29T03:40:00+02:00", "2026-03-30T02:30:00+02:00"),
    ],
)
def test_a_time_of_day_in_the_nights_when_clocks_are_changed(arrived_at, expected):
    from campaigns.actions.wait import wake_at

    found = wake_at(
        {"time_of_day": "02:30"},
        datetime.fromisoformat(arrived_at),
        zone="Europe/Berlin",
    )

    assert found.astimezone(UTC) == datetime.fromisoformat(expected)

"""The first page: right numbers, bounded queries, first steps when it is empty."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.contrib.auth.models import Permission, User
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from campaigns.models import Broadcast, Campaign, Run
from campaigns.publish import pause
from customers.models import Customer
from events.keys import create_key, rotate_key
from events.models import ApiKey, Event, PendingEvent, RejectedEvent
from messaging.models import Message
from segments.models import Segment
from segments.upkeep import keeper
from smartcomm.core.paging import first_id_since
from smartcomm.site.numbers import (
    campaigns_at_work,
    failed_runs,
    last_days,
    numbers,
    queues,
)
from tests import make

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 14, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture(autouse=True)
def empty_cache():
    cache.clear()
    yield
    cache.clear()


def a_run(customer: Customer, campaign: Campaign, *, at: datetime, status: str) -> Run:
    version = campaign.versions.get(status="published")
    return Run.objects.create(
        customer=customer,
        campaign=campaign,
        version=version,
        step=version.steps.get(),
        event_id=Run.objects.count() + 1,
        status=status,
        started_at=at,
        arrived_at=at,
        finished_at=None if status == "waiting" else at,
    )


def a_message(customer: Customer, *, at: datetime, status: str, campaign_id: int = 1):
    message = make.message(customer, now=at, campaign_id=campaign_id)
    Message.objects.filter(pk=message.pk).update(status=status)


# numbers


def test_each_day_has_its_own_numbers():
    anna = make.customer("anna")
    for at in (NOON - 20 * DAY, NOON - DAY, NOON - 13 * HOUR, NOON - 11 * HOUR, NOON):
        make.event(anna, "Order paid", now=at)
    make.event(anna, "Order paid", now=NOON, at=NOON - 300 * DAY, backfill=True)
    for status in ("sent", "delivered", "suppressed", "failed", "queued"):
        a_message(anna, at=NOON - DAY, status=status)
    a_message(anna, at=NOON, status="clicked")

    days = last_days(now=NOON)

    assert len(days) == 14
    assert [day.events for day in days[-3:]] == [0, 2, 2]
    assert sum(day.events for day in days) == 4
    assert days[-1].backfilled == 1
    yesterday, today = days[-2:]
    assert (yesterday.sent, yesterday.suppressed, yesterday.failed) == (2, 1, 1)
    assert (today.sent, today.suppressed, today.failed) == (1, 0, 0)


def test_a_day_begins_at_midnight_of_the_projects_time_zone(settings):
    settings.TIME_ZONE = "Europe/Riga"  # UTC+3 in summer.
    anna = make.customer("anna")
    make.event(anna, "Order paid", now=NOON.replace(hour=20, minute=59) - DAY)
    make.event(anna, "Order paid", now=NOON.replace(hour=21, minute=1) - DAY)

    assert [day.events for day in last_days(now=NOON)[-2:]] == [1, 1]


def test_finished_days_are_not_counted_again_and_today_is():
    anna = make.customer("anna")
    make.event(anna, "Order paid", now=NOON - DAY)
    first = last_days(now=NOON)
    # Cannot happen; shows that yesterday is not looked at again.
    make.event(anna, "Order paid", now=NOON - DAY)
    make.event(anna, "Order paid", now=NOON)

    again = last_days(now=NOON)

    assert [day.events for day in first[-2:]] == [1, 0]
    assert [day.events for day in again[-2:]] == [1, 1]


def test_a_day_that_is_not_kept_is_counted_though_its_neighbours_are():
    anna = make.customer("anna")
    for n in (5, 4, 3, 2):
        for _ in range(n):
            make.event(anna, "Order paid", now=NOON - n * DAY)
    last_days(now=NOON)
    cache.delete(f"numbers:events_event:{(NOON - 4 * DAY).date().isoformat()}:UTC")

    counted = {(NOON.date() - day.date).days: day.events for day in last_days(now=NOON)}

    assert {n: counted[n] for n in (5, 4, 3, 2, 1)} == {5: 5, 4: 4, 3: 3, 2: 2, 1: 0}


def test_a_messages_day_may_change_until_its_time_to_live_is_over():
    anna = make.customer("anna")
    a_message(anna, at=NOON - 2 * DAY, status="queued")
    last_days(now=NOON)
    Message.objects.update(status="sent")

    assert last_days(now=NOON)[-3].sent == 1


def test_with_the_cache_away_the_numbers_are_still_right(monkeypatch):
    def away(*args: object) -> None:
        raise ConnectionError("no cache")

    make.event(make.customer("anna"), "Order paid", now=NOON)
    monkeypatch.setattr(cache, "get", away)
    monkeypatch.setattr(cache, "set", away)

    assert numbers(now=NOON).today.events == 1


@pytest.mark.parametrize("size", [0, 1, 2, 7, 40])
def test_the_first_id_of_a_day_is_found_by_halving(size):
    anna = make.customer("anna")
    for n in range(size):
        make.event(anna, "Order paid", now=NOON - (size - n) * HOUR)
    ids = list(Event.objects.order_by("pk").values_list("pk", flat=True))

    for n, pk in enumerate(ids):
        assert first_id_since(Event, "received_at", NOON - (size - n) * HOUR) == pk
    beyond = first_id_since(Event, "received_at", NOON)
    assert beyond == (ids[-1] + 1 if ids else 1)


def test_campaigns_at_work_are_those_published_or_paused_busiest_first():
    anna = make.customer("anna")
    busy, paused = make.campaign(name="Busy"), make.campaign(name="Paused")
    make.campaign(name="Quiet")
    make.draft(name="Draft")
    Campaign.objects.filter(pk=paused.pk).update(status="paused")
    a_run(anna, busy, at=NOON - 2 * DAY, status="finished")
    a_run(anna, busy, at=NOON, status="finished")
    a_message(anna, at=NOON, status="sent", campaign_id=busy.pk)
    a_message(anna, at=NOON, status="suppressed", campaign_id=busy.pk)

    rows = campaigns_at_work(now=NOON)

    assert [row.campaign.name for row in rows] == ["Busy", "Paused", "Quiet"]
    assert (rows[0].entered, rows[0].sent, rows[0].stopped) == (1, 1, 1)
    assert (rows[2].entered, rows[2].sent, rows[2].stopped) == (0, 0, 0)


def test_failed_runs_are_counted_for_the_last_days_only():
    anna, campaign = make.customer("anna"), make.campaign()
    a_run(anna, campaign, at=NOON - 30 * DAY, status="failed")
    a_run(anna, campaign, at=NOON - DAY, status="failed")
    a_run(anna, campaign, at=NOON - DAY, status="finished")

    assert failed_runs(since=NOON - 7 * DAY) == 1


def test_queues_tell_how_much_waits_and_since_when():
    anna = make.reachable("anna")
    campaign = make.campaign(on="Order paid")
    make.event(anna, "Order paid", now=NOON - HOUR)
    run = a_run(anna, campaign, at=NOON, status="waiting")
    Run.objects.filter(pk=run.pk).update(due_at=NOON - timedelta(seconds=5))
    make.message(anna, now=NOON - 5 * timedelta(minutes=1))
    later = make.message(anna, now=NOON)
    Message.objects.filter(pk=later.pk).update(due_at=NOON + HOUR)

    events, systems, runs, messages = queues(now=NOON)

    assert PendingEvent.objects.count() == 1
    assert [q.waiting.number for q in (events, systems, runs, messages)] == [1, 0, 1, 1]
    assert (events.age, events.tone) == (HOUR, "bad")
    assert (systems.oldest, systems.tone) == (None, "good")
    assert runs.tone == "good"
    assert messages.tone == "warn"


def test_what_a_paused_campaign_holds_back_is_no_queue(admin_client):
    anna, campaign = make.reachable("anna"), make.campaign(on="Order paid")
    run = a_run(anna, campaign, at=NOON, status="waiting")
    Run.objects.filter(pk=run.pk).update(due_at=NOON - 30 * HOUR)
    message = make.message(anna, now=NOON - 30 * HOUR)
    Message.objects.filter(pk=message.pk).update(campaign_id=campaign.pk)
    assert [q.tone for q in queues(now=NOON)[2:]] == ["bad", "bad"]

    pause(campaign)

    for queue in queues(now=NOON)[2:]:
        assert (queue.waiting.number, queue.held.number) == (0, 1)
        assert (queue.oldest, queue.tone) == (None, "good")
    make.event(anna, "Order paid")
    page = admin_client.get("/admin/").content.decode()
    assert page.count("nothing waits, 1 held by a pause") == 2


# the page


def test_an_empty_installation_shows_the_first_steps(admin_client):
    page = admin_client.get("/admin/").content.decode()

    for step in ("Make a source and a key", "Send an event", "Build a segment"):
        assert step in page
    assert "curl http://testserver/api/v1/events" in page
    assert "Queues" not in page


def test_once_events_come_the_steps_left_stand_among_what_needs_attention(admin_client):
    make.event(make.customer("anna"), "Order paid")
    Segment.objects.create(name="All", rule={})

    page = admin_client.get("/admin/").content.decode()

    assert "First steps" not in page
    assert "Draw a campaign" in page
    assert "Build a segment" not in page


@time_machine.travel(NOON.replace(hour=8), tick=False)
def test_the_page_greets_and_shows_the_numbers_of_today(admin_client, admin_user):
    admin_user.first_name = "Anna"
    admin_user.save()
    make.event(make.customer("anna"), "Order paid")

    page = admin_client.get("/admin/").content.decode()

    assert "Good morning, Anna" in page
    assert "Thursday, 14 May 2026" in page
    assert '<strong title="1">1</strong>' in page


def test_what_needs_attention_is_told_and_linked(admin_client):
    anna = make.customer("anna")
    make.event(anna, "Order paid")
    RejectedEvent.objects.create(
        source=make.source(), kind="customer", payload="{}", code="x", message="y"
    )
    campaign = make.campaign(on="Product in stock", system=True, name="Back in stock")
    Broadcast.objects.create(
        campaign=campaign,
        version=campaign.versions.get(status="published"),
        system_event=make.system_event("Product in stock"),
        last_id=200,
        after_id=50,
        entered=7,
        due_at=timezone.now(),
    )

    page = admin_client.get("/admin/").content.decode()

    assert "1 rejected event" in page
    assert "new event type" in page
    assert "Back in stock: Product in stock" in page
    assert "25 % of customers examined, 7 entered." in page


def test_a_key_that_expires_soon_is_told_and_linked(admin_client):
    make.event(make.customer("anna"), "Order paid")
    now = timezone.now()
    soon, _ = create_key(make.source(), ["read"], expires_at=now + timedelta(days=5))
    create_key(make.source(), ["read"], expires_at=now + timedelta(days=50))

    page = admin_client.get("/admin/").content.decode()

    assert f"shop: the key {soon} expires in 5 days" in page
    assert page.count("the key sck_") == 1
    assert f"/admin/events/source/{soon.source_id}/change/" in page
    rotate_key(soon, overlap=timedelta(hours=1), now=now)
    ApiKey.objects.filter(replaces=soon).update(expires_at=None)
    assert "the key sck_" not in admin_client.get("/admin/").content.decode()
    ApiKey.objects.filter(pk=soon.pk).update(last_used_at=now + timedelta(minutes=30))
    page = admin_client.get("/admin/").content.decode()
    assert "replaces it, but the old one is still used." in page


def test_who_may_view_nothing_sees_nothing(client):
    make.event(make.customer("anna"), "Order paid")
    create_key(make.source(), ["read"], expires_at=timezone.now() + timedelta(days=1))
    client.force_login(User.objects.create_user("eve", is_staff=True))

    page = client.get("/admin/").content.decode()

    for word in (
        "Queues",
        "sck_",
        "Runs started",
        "rejected",
        "new event type",
        "/customer/",
    ):
        assert word not in page


def test_the_numbers_link_only_to_what_one_may_view(client):
    make.event(make.customer("anna"), "Order paid")
    user = User.objects.create_user("cara", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_campaign"))
    client.force_login(user)

    page = client.get("/admin/").content.decode()

    assert "Events received" in page
    for there in ("events/event", "campaigns/run", "messaging/message"):
        assert f"/admin/{there}/" not in page


def test_the_side_bar_shows_what_one_may_view(client):
    user = User.objects.create_user("vera", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_customer"))
    client.force_login(user)

    page = client.get("/admin/").content.decode()

    assert "/admin/customers/customer/" in page
    assert "/admin/events/event/" not in page
    assert "/admin/auth/user/" not in page


def test_the_page_costs_as_many_queries_for_much_as_for_little(admin_client):
    anna = make.reachable("anna")

    def queries() -> int:
        cache.clear()
        with CaptureQueriesContext(connection) as captured:
            admin_client.get("/admin/")
        # Searching ids by halving takes a few look-ups more in a longer table.
        return len([q for q in captured if "ORDER BY" not in q["sql"][-60:]])

    def more(number: int) -> None:
        for n in range(number):
            campaign = make.campaign(name=f"campaign {number} {n}")
            make.event(anna, f"event {number} {n}")
            a_run(anna, campaign, at=timezone.now(), status="finished")
            a_message(anna, at=timezone.now(), status="sent", campaign_id=campaign.pk)

    more(2)
    queries()
    few = queries()
    more(8)

    assert queries() == few


# segments


def test_segments_that_cannot_be_kept_need_attention(admin_client):
    make.event(make.customer(), "Order paid")
    Segment.objects.create(name="Broken", rule={"event": "Never heard of"})
    Segment.objects.create(name="Paid", rule={"event": "Order paid"})
    keeper.keep_all()

    page = admin_client.get("/admin/").content.decode()
    assert "1 segment cannot be counted" in page
    assert "Segments are stale" not in page

    with time_machine.travel(timezone.now() + timedelta(minutes=2)):
        page = admin_client.get("/admin/").content.decode()
    assert "Segments are stale" in page

"""A backlog of one event type, or of one campaign, keeps no other waiting."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs
from campaigns.models import Run
from campaigns.publish import pause
from events.models import PendingEvent
from tests import make

pytestmark = pytest.mark.django_db


def started(campaign):
    return Run.objects.filter(campaign=campaign).count()


def test_a_backlog_of_events_of_one_type_is_passed_by():
    busy, quiet = make.campaign(on="Product viewed"), make.campaign(on="Order paid")
    anna = make.customer()
    for _ in range(60):
        make.event(anna, "Product viewed")
    make.event(anna, "Order paid")

    assert dispatch_events(limit=40) == 21

    assert (started(busy), started(quiet)) == (20, 1)
    while dispatch_events(limit=40):
        pass
    assert (started(busy), started(quiet)) == (60, 1)


def test_alone_a_type_gets_all_there_is_room_for():
    campaign = make.campaign(on="Product viewed")
    anna = make.customer()
    for _ in range(60):
        make.event(anna, "Product viewed")
    assert dispatch_events(limit=50) == 50
    assert dispatch_events(limit=7) == 7
    assert started(campaign) == 57


def test_events_to_be_looked_at_later_hide_none_behind_them():
    make.campaign(on="Order paid")
    anna = make.customer()
    for _ in range(30):
        make.event(anna, "Order paid")
    PendingEvent.objects.update(due_at=timezone.now() + timedelta(hours=1))
    make.event(anna, "Order paid")
    assert dispatch_events(limit=20) == 1


def test_a_backlog_of_runs_of_one_campaign_is_passed_by():
    busy, quiet = (
        make.campaign(
            make.step("rest", "wait", {"for": 1, "unit": "minutes"}, done="sms"),
            make.sms(),
            on=name,
        )
        for name in ("Product viewed", "Order paid")
    )
    anna = make.customer()
    for _ in range(60):
        make.event(anna, "Product viewed")
    make.event(anna, "Order paid")
    while dispatch_events():
        pass
    now = timezone.now()
    Run.objects.filter(campaign=busy).update(due_at=now - timedelta(hours=1))
    Run.objects.filter(campaign=quiet).update(due_at=now)

    assert advance_runs(limit=40, now=now) == 21
    assert not Run.objects.filter(campaign=quiet, due_at__lte=now).exists()

    pause(busy)
    assert advance_runs(limit=40, now=now) == 0


def test_a_claim_costs_the_same_queries_for_few_lanes_and_for_many():
    def queries(lanes):
        anna = make.customer()
        for number in range(lanes):
            make.campaign(on=f"Event {lanes} {number}")
            make.event(anna, f"Event {lanes} {number}")
        while dispatch_events():
            pass
        with CaptureQueriesContext(connection) as captured:
            advance_runs()
        return sum("campaigns_run" in one["sql"] for one in captured)

    queries(1)
    assert queries(2) == queries(8)

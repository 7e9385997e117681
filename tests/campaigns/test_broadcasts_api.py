"""Broadcasts through the API: how far they are, and stopping one."""

from __future__ import annotations

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from campaigns.broadcast import walk_broadcasts
from campaigns.broadcasts_api import EXAMPLE, BroadcastOut
from campaigns.dispatch import dispatch_system_events
from campaigns.models import Campaign, Run
from tests import make
from tests.client import Api

pytestmark = pytest.mark.django_db

PACE = {"limit": 2, "per": "hour", "first": "oldest_customer", "stop_after": 4}


@pytest.fixture
def api() -> Api:
    return Api()


def opened(*, customers=7, **more):
    """A broadcast under way, whose first chunk or portion is done."""
    campaign = make.campaign(on="Shop opened", system=True, **more)
    for _ in range(customers):
        make.customer()
    make.system_event("Shop opened")
    dispatch_system_events()
    walk_broadcasts(chunk=3)
    return campaign


def test_with_a_pace_it_tells_when_it_goes_on_and_ends(api):
    campaign = opened(pace=PACE)

    [one] = api.get(f"/campaigns/{campaign.pk}/broadcasts").json()["results"]

    assert (one["status"], one["name"]) == ("running", "Shop opened")
    assert (one["entered"], one["left"], one["progress"]) == (2, 2, 0.5)
    assert (one["portions"], one["looked_at"], one["pace"]) == (1, None, PACE)
    assert one["next_at"] == one["expected_end"] > one["began_at"]
    here = f"/campaigns/{campaign.pk}/broadcasts/{one['id']}"
    assert api.get(here).json() == one

    Campaign.objects.update(status="paused")
    paused = api.get(here).json()
    assert (paused["left"], paused["next_at"], paused["expected_end"]) == (
        2,
        None,
        None,
    )


def test_without_a_pace_it_tells_how_many_were_looked_at(api):
    campaign = opened()

    [one] = api.get(f"/campaigns/{campaign.pk}/broadcasts").json()["results"]

    assert (one["entered"], one["looked_at"]) == (3, 3)
    assert (one["pace"], one["left"], one["portions"]) == (None, None, 0)


def test_one_is_stopped_once(api):
    campaign = opened(pace=PACE)
    [one] = api.get(f"/campaigns/{campaign.pk}/broadcasts").json()["results"]
    here = f"/campaigns/{campaign.pk}/broadcasts/{one['id']}/stop"

    stopped = api.post(here)

    assert stopped.status_code == 200
    assert stopped.json()["status"] == "finished"
    assert stopped.json()["reason"] == "Stopped by shop after 2 had been taken."
    assert walk_broadcasts() == 0
    assert Run.objects.count() == 2
    again = api.post(here)
    assert again.status_code == 409
    assert "over already" in again.json()["detail"]


def test_a_broadcast_is_found_under_its_own_campaign_only(api):
    campaign, other = opened(pace=PACE), make.campaign()
    [one] = api.get(f"/campaigns/{campaign.pk}/broadcasts").json()["results"]

    assert api.get(f"/campaigns/{other.pk}/broadcasts/{one['id']}").status_code == 404
    stop = f"/campaigns/{other.pk}/broadcasts/{one['id']}/stop"
    assert api.post(stop).status_code == 404
    assert api.get("/campaigns/999/broadcasts").status_code == 404


def test_a_list_costs_as_many_queries_for_many_as_for_few(api):
    campaign = opened()

    def cost():
        with CaptureQueriesContext(connection) as queries:
            api.get(f"/campaigns/{campaign.pk}/broadcasts")
        return len(queries)

    cost()
    few = cost()
    for _ in range(5):
        make.system_event("Shop opened")
    dispatch_system_events()
    assert cost() == few


def test_the_example_has_the_shape_that_is_told():
    msgspec.convert(EXAMPLE, BroadcastOut)

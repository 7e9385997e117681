"""Planned times under rivals and kills: each starts once, whatever happens."""

from __future__ import annotations

import subprocess
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from campaigns import planned, publish
from campaigns.broadcast import walk_broadcasts
from campaigns.models import Broadcast, Campaign, Run, Version
from campaigns.planned import start_planned
from smartcomm.core.errors import Conflict
from tests import make
from tests.races.together import at_once
from tests.races.workers import go, start, wait_until_ready

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]

HOUR = timedelta(hours=1)
DAILY = {
    "kind": "schedule",
    "at": "2020-01-01T09:00",
    "repeat": {"every": 1, "unit": "day"},
}
BIRTHDAY = {"kind": "date", "attribute": "birth_date", "yearly": True, "at": "09:00"}

WORKER = """
from campaigns import portions
from campaigns.broadcast import walk_broadcasts
from campaigns.planned import start_planned

portions.MOST = 3
print("ready", flush=True)
input()
while True:
    start_planned()
    walk_broadcasts(chunk=3)
"""


def due(campaign: Campaign, *, ago: timedelta = HOUR) -> Version:
    """Its first time was an hour ago."""
    version = planned.at_work(campaign)
    assert version is not None
    version.next_at = timezone.now() - ago
    version.save(update_fields=["next_at"])
    return version


def test_workers_at_once_start_a_time_once():
    campaigns = [make.campaign(starts=DAILY) for _ in range(4)]
    for campaign in campaigns:
        due(campaign)

    at_once(4, lambda _: [start_planned() for _ in range(5)])

    for campaign in campaigns:
        assert Broadcast.objects.filter(campaign=campaign).count() == 1


@pytest.mark.parametrize("round", range(2))
def test_a_time_is_started_once_whoever_publishes_pauses_and_resumes(round):
    make.customer("C-1")
    campaign = make.campaign(starts=BIRTHDAY if round % 2 else DAILY)
    version = due(campaign)
    trigger = {**(BIRTHDAY if round % 2 else DAILY)}
    trigger["at"] = trigger["at"].replace("09:00", "09:30")

    def attempt(number: int) -> None:
        for _ in range(3):
            try:
                if number == 0:
                    make.publish_again(
                        Campaign.objects.get(pk=campaign.pk), trigger=trigger
                    )
                elif number == 1:
                    publish.pause(Campaign.objects.get(pk=campaign.pk))
                    publish.resume(Campaign.objects.get(pk=campaign.pk))
                else:
                    start_planned()
            except Conflict:
                pass

    at_once(4, attempt)
    start_planned()

    found = Broadcast.objects.filter(campaign=campaign)
    assert found.count() == 1
    assert found.get().reason == ""
    # What comes next is later than what was, and planned on one version.
    assert Version.objects.filter(campaign=campaign, status="published").count() == 1
    following = planned.at_work(campaign)
    assert following.next_at > timezone.now() > version.next_at


def test_killed_workers_lose_no_time_and_take_nobody_twice():
    for number in range(40):
        make.customer(
            f"C-{number}", birth_date=timezone.now().date().replace(year=1990)
        )
    walked = make.campaign(starts=DAILY)
    paced = make.campaign(starts=DAILY, pace={"limit": 10, "per": "hour"})
    for campaign in (walked, paced):
        due(campaign)
    workers: list[subprocess.Popen[bytes]] = []

    def started(campaign: Campaign) -> int:
        return Run.objects.filter(campaign=campaign).count()

    try:
        for _ in range(3):
            workers += [start(WORKER), start(WORKER)]
            for worker in workers[-2:]:
                wait_until_ready(worker)
                go(worker)
            time.sleep(0.05)
            for worker in workers[-2:]:
                worker.kill()
                worker.communicate()
        end = time.monotonic() + 60
        while start_planned() or walk_broadcasts(chunk=3):
            assert time.monotonic() < end
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.communicate()

    assert Broadcast.objects.count() == 2
    assert started(walked) == 40
    assert started(paced) == 10
    for broadcast in Broadcast.objects.all():
        assert broadcast.entered == started(broadcast.campaign)
        runs = Run.objects.filter(campaign=broadcast.campaign)
        assert runs.values("customer").distinct().count() == runs.count()

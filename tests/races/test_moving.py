"""Moving runs while engines work: each run is once, and moved once."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from django.utils import timezone

from campaigns import moving
from campaigns.checker import what_is_off
from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import MovedRun, Passage, Run
from messaging.models import Message
from messaging.send import send_messages
from tests import make
from tests.races.together import at_once

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]


def until_none(work):
    total = 0
    while done := work():
        total += done
    return total


def test_two_movers_and_the_engine_share_the_runs():
    """Half of the runs are due while they are being moved."""
    now = timezone.now()
    wait = make.step("pause", "wait", {"for": 1, "unit": "hours"}, done="sms")
    campaign = make.campaign(wait, make.sms("old"))
    for _ in range(60):
        make.event(make.reachable(), "Order paid")
    until_none(dispatch_events)
    until_none(advance_runs)
    half = [run.pk for run in Run.objects.all()[::2]]
    Run.objects.filter(pk__in=half).update(
        arrived_at=now - timedelta(hours=2), due_at=now
    )
    make.publish_again(campaign, steps=[wait, make.sms("new")])
    order = moving.order(campaign.versions.get(number=1), by="anna")

    def work(place):
        if place < 2:
            return until_none(lambda: moving.move_some(limit=4))
        if place < 4:
            return until_none(lambda: advance_runs(limit=5))
        return until_none(lambda: send_messages() + settle_runs(limit=5))

    at_once(5, work)
    until_none(lambda: moving.move_some() + advance_runs() + send_messages())
    until_none(settle_runs)

    order.refresh_from_db()
    assert order.status == "done"
    moved = Counter(MovedRun.objects.values_list("run_id", flat=True))
    assert set(moved.values()) <= {1}
    assert order.moved == len(moved) >= 30
    texts = dict(Message.objects.values_list("run_id", "content__text"))
    assert len(texts) == Message.objects.count() == 30
    # Who had left the step before they were moved got the old text, else the new one.
    for run in Run.objects.filter(pk__in=half).select_related("step__version"):
        [said] = Passage.objects.filter(run=run, step__key="sms").values_list(
            "step__version__number", flat=True
        )
        assert (texts[run.pk], said) in {("old", 1), ("old", 2), ("new", 2)}
    assert what_is_off(campaign) == []

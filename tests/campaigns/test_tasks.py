"""The wake-ups of campaigns."""

from __future__ import annotations

import pytest

from campaigns import dispatch, tasks
from campaigns.models import Run
from events.models import PendingEvent
from messaging.models import Message
from tests import make

pytestmark = pytest.mark.django_db


def test_a_fault_of_one_part_does_not_stop_the_others(monkeypatch):
    make.campaign(make.sms())
    make.event(make.reachable(), "Order paid")
    dispatch.dispatch_events()
    make.event(make.reachable(), "Order paid")
    asked = []

    def dispatch_events():
        asked.append(1)
        raise ValueError("An event that nobody can read.")

    monkeypatch.setattr(dispatch, "dispatch_events", dispatch_events)

    with pytest.raises(ExceptionGroup, match="dispatch_events") as found:
        tasks.tick()

    assert [str(one) for one in found.value.exceptions] == [
        "An event that nobody can read."
    ]
    assert len(asked) == 1
    # The run under way went on, and the event is still there for the next tick.
    assert Message.objects.get().run_id == Run.objects.get().pk
    assert PendingEvent.objects.count() == 1


def test_a_tick_goes_the_whole_way_from_event_to_message():
    make.campaign(make.sms())
    make.event(make.reachable(), "Order paid")

    tasks.tick()

    assert not PendingEvent.objects.exists()
    assert Message.objects.get().status == "queued"

"""Editing, publishing, moving and pausing while runs are in flight, with real workers.

Shows what it did with `pytest -s`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from campaigns import drawing, moving, publish
from campaigns.checker import what_is_off
from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Campaign, Move, MovedRun, Passage, Run
from campaigns.report import report
from campaigns.report_page import equations
from events.models import Event, PendingEvent
from messaging.models import Delivery, Message
from messaging.send import close_interrupted, send_messages
from tests import make
from tests.races.workers import start, wait_until_ready

pytestmark = [
    pytest.mark.race,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
]

ROUNDS = 3
CUSTOMERS = 20
#: What was being handed over when it was paused is handed over.
IN_HAND = timedelta(seconds=2)

WORKER = """
import time
from campaigns import moving
from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs, settle_runs
from messaging.send import send_messages

print("ready", flush=True)
while True:
    done = dispatch_events(limit=20) + advance_runs(limit=20) + send_messages(limit=40)
    done += settle_runs(limit=20) + moving.move_some(limit=7)
    time.sleep(0 if done else 0.02)
"""


def steps(number: int) -> list[dict[str, Any]]:
    """Half are written to at once; half wait, and can be moved meanwhile. Every other
    version lets those who were written to wait, too."""
    shares = [{"name": "A", "percent": 50}, {"name": "B", "percent": 50}]
    after = "pause" if number % 2 else None
    return [
        make.step("split", "ab_split", {"shares": shares}, A="now", B="pause"),
        make.step("now", "send_sms", {"text": f"now {number}"}, sent=after),
        make.step("pause", "wait", {"for": number, "unit": "minutes"}, done="late"),
        make.step("late", "send_sms", {"text": f"late {number}"}, sent=None),
    ]


class Sender:
    """Events, one after the other, for as long as it is wanted."""

    def __init__(self) -> None:
        self.customers = [make.reachable() for _ in range(CUSTOMERS)]
        self.stopped = threading.Event()
        self.thread: threading.Thread | None = None

    def _send(self) -> None:
        number = 0
        while not self.stopped.wait(0.01):
            make.event(self.customers[number % CUSTOMERS], "Order paid")
            number += 1
        connection.close()

    def __enter__(self) -> Sender:
        self.stopped.clear()
        self.thread = threading.Thread(target=self._send)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        assert self.thread is not None
        self.stopped.set()
        self.thread.join()


def until(holds, *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "It takes too long."
        time.sleep(0.02)


def looked_at() -> bool:
    return not PendingEvent.objects.exists()


def finish(now: datetime) -> None:
    """Do all there is to do by then."""
    while (
        # What a worker was killed with in its hands.
        close_interrupted(now=now)
        + dispatch_events(now=now)
        + settle_runs(now=now)
        + advance_runs(now=now)
        + send_messages(now=now)
        + moving.move_some(now=now)
    ):
        pass


def test_editing_publishing_moving_and_pausing_while_runs_are_in_flight():
    campaign = make.campaign(*steps(1))
    sender = Sender()
    # One is killed in each round, and two are left.
    workers = [start(WORKER) for _ in range(ROUNDS + 1)]
    pauses: list[tuple[datetime, datetime]] = []
    during: set[int] = set()
    killed = 0
    try:
        for process in workers:
            wait_until_ready(process)
        for number in range(2, ROUNDS + 1):
            with sender:
                time.sleep(0.4)
                for text in ("a slip", f"now {number}"):
                    draft = steps(number)
                    draft[1]["config"]["text"] = text
                    drawing.save_draft(
                        campaign,
                        {
                            **drawing.as_json(campaign.versions.all()[0]),
                            "steps": draft,
                        },
                    )
                publish.publish(Campaign.objects.get(pk=campaign.pk))
                until(lambda: not Move.objects.filter(status="running").exists())
                moving.order(campaign.versions.get(number=number - 1), by="anna")
                workers[number].kill()
                workers[number].wait()
                killed += 1
                time.sleep(0.4)
            if number % 2:
                continue
            until(looked_at)
            publish.pause(Campaign.objects.get(pk=campaign.pk))
            paused = timezone.now()
            before = set(Event.objects.values_list("pk", flat=True))
            with sender:
                time.sleep(IN_HAND.total_seconds() + 1)
            until(looked_at)
            during |= set(Event.objects.values_list("pk", flat=True)) - before
            pauses.append((paused, timezone.now()))
            publish.resume(Campaign.objects.get(pk=campaign.pk))
        until(looked_at)
        until(lambda: not Move.objects.filter(status="running").exists())
    finally:
        for process in workers:
            with process:
                process.kill()
    # The longest wait is over, and so is the lease of whoever was killed.
    later = timezone.now() + timedelta(hours=1)
    Run.objects.filter(due_at__isnull=False).update(due_at=later)
    Run.objects.filter(step__key="pause").update(
        arrived_at=later - timedelta(minutes=ROUNDS)
    )
    finish(later)
    # Some have come to their wait only now.
    finish(later + timedelta(hours=1))

    at_work = set(Event.objects.values_list("pk", flat=True)) - during
    runs = Counter(Run.objects.values_list("event_id", flat=True))
    by_step = Counter(Message.objects.values_list("run_id", "step"))
    sent = Delivery.objects.values_list("started_at", flat=True)
    in_pauses = [
        at for at in sent for began, over in pauses if began + IN_HAND < at < over
    ]
    versions = report(campaign)["versions"]
    told = [
        "",
        f"{len(at_work)} events came while it was at work, {len(during)} while it was "
        f"paused ({len(pauses)} times); {killed} workers were killed.",
        f"{sum(runs.values())} runs, {len(by_step)} messages, "
        f"{MovedRun.objects.count()} moves of runs.",
        *(
            f"version {one['version']}: {one['entered']} entered + {one['moved_in']} "
            f"moved in = {one['finished']} finished + {one['waiting']} waiting + "
            f"{one['failed']} failed + {one['moved_out']} moved out; "
            f"{one['messages']['queued']} messages"
            for one in versions[::-1]
        ),
    ]
    print("\n".join(told))  # noqa: T201  (this is what it is for)

    assert len(at_work) > 30
    assert len(during) > 10
    assert set(runs) == at_work, "An event that should start a run did, and no other."
    assert set(runs.values()) == {1}
    assert set(by_step.values()) == {1}
    assert in_pauses == []
    assert MovedRun.objects.exists()
    waiting = Run.objects.filter(status="waiting")
    assert list(waiting.values_list("pk", "step__key", "due_at", "reason")) == []
    assert set(Message.objects.values_list("status", flat=True)) <= {"sent", "unknown"}
    # Who stood at a step went on by the version they were moved to.
    for key in ("now", "late"):
        left = Passage.objects.filter(step__key=key).values_list("run_id")
        assert len(left) == len(set(left))
    assert what_is_off(campaign) == []
    assert all(each.holds for one in versions for each in equations(one))

"""Runs stay on their version, or are moved to the one at work, where they stand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from campaigns import moving
from campaigns.checker import what_is_off
from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs, settle_calls, settle_runs
from campaigns.models import Move, MovedRun, Passage, Run, WebhookCall
from campaigns.panels import figures_of
from campaigns.publish import archive, pause, resume
from campaigns.report import report
from campaigns.report_page import equations
from campaigns.why import why
from messaging.models import Message
from smartcomm.core.errors import Conflict
from tests import make

pytestmark = pytest.mark.django_db(transaction=True)  # For the checker.

NOW = timezone.now().replace(microsecond=0)
DAY = timedelta(days=1)


def wait(days: int, key: str = "pause", *, to: str | None = "sms") -> dict[str, Any]:
    return make.step(key, "wait", {"for": days, "unit": "days"}, done=to)


def go(now=None):
    while (
        dispatch_events(now=now)
        + settle_runs(now=now)
        + settle_calls(now=now)
        + advance_runs(now=now)
    ):
        pass


def enter(campaign, number: int = 1, *, on: str = "Order paid"):
    """So many customers enter, and go as far as they come."""
    campaign.versions.filter(status="published").update(published_at=NOW - 9 * DAY)
    for _ in range(number):
        make.event(make.reachable(), on, at=NOW, now=NOW)
    go(NOW)


def move(campaign, number: int = 1, *, now=NOW) -> Move:
    """All runs of this version are moved to the one at work."""
    order = moving.order(campaign.versions.get(number=number), by="anna", now=now)
    while moving.move_some(now=now):
        pass
    order.refresh_from_db()
    return order


def on_versions(campaign) -> list[tuple[int, int, str, str]]:
    """(entered by, stands on, step, status) of each run."""
    return list(
        Run.objects.filter(campaign=campaign)
        .order_by("pk")
        .values_list("version__number", "step__version__number", "step__key", "status")
    )


def adds_up(campaign) -> dict[int, dict[str, Any]]:
    """The report by version, after all its equations were asked of rows and report."""
    assert what_is_off(campaign) == []
    numbers = {one["version"]: one for one in report(campaign)["versions"]}
    for one in numbers.values():
        assert all(equation.holds for equation in equations(one)), one
        for step in one["steps"]:
            assert step["in"] >= step["moved_in"]
    return numbers


def test_a_run_moves_to_the_step_with_its_key_and_goes_on_there():
    campaign = make.campaign(wait(2), make.sms("old"))
    enter(campaign)
    make.publish_again(campaign, steps=[wait(2), make.sms("new")])

    order = move(campaign)

    assert (order.status, order.moved, order.stayed) == ("done", 1, [])
    assert on_versions(campaign) == [(1, 2, "pause", "waiting")]
    go(NOW + 2 * DAY)
    message = Message.objects.get()
    assert message.content.text == "new"
    assert message.version_id == campaign.versions.get(number=2).pk
    adds_up(campaign)


def test_without_an_order_a_run_stays_on_its_version():
    campaign = make.campaign(wait(2), make.sms("old"))
    enter(campaign)
    make.publish_again(campaign, steps=[wait(2), make.sms("new")])
    go(NOW + 2 * DAY)

    assert on_versions(campaign)[0][:2] == (1, 1)
    assert Message.objects.get().content.text == "old"


@pytest.mark.parametrize(("days", "first"), [(1, 1), (5, 5)])
def test_a_wait_is_measured_anew_from_when_the_run_came(days, first):
    campaign = make.campaign(wait(2), make.sms())
    enter(campaign)
    make.publish_again(campaign, steps=[wait(days), make.sms()])
    move(campaign, now=NOW + timedelta(hours=1))

    assert Run.objects.get().due_at == NOW + first * DAY


def test_a_wait_that_is_over_by_the_new_version_ends_at_once():
    campaign = make.campaign(wait(5), make.sms())
    enter(campaign)
    make.publish_again(campaign, steps=[wait(1), make.sms()])
    later = NOW + 2 * DAY
    move(campaign, now=later)
    go(later)

    assert Passage.objects.get().left_at == later


def test_moving_while_it_is_paused_makes_nothing_overdue():
    campaign = make.campaign(wait(2), make.sms())
    enter(campaign)
    pause(campaign)
    make.publish_again(campaign, steps=[wait(5), make.sms()])
    move(campaign)
    resume(campaign)

    assert Run.objects.get().due_at == NOW + 5 * DAY


def test_who_stays_is_foretold_and_told():
    """One whose step is gone, one whose step does something else, and those who go."""
    branch = make.step(
        "who",
        "filter_customers",
        {"rule": {"attribute": "city", "op": "=", "value": "Paris"}},
        positive="pause",
        negative="long",
    )
    campaign = make.campaign(
        branch, wait(2), wait(3, "long"), make.sms(), on="Order paid"
    )
    campaign.versions.update(published_at=NOW - 9 * DAY)
    for city in ("Paris", "Paris", "Berlin"):
        make.event(make.reachable(city=city), "Order paid", at=NOW, now=NOW)
    go(NOW)
    make.publish_again(
        campaign, steps=[{**branch, "next": {"positive": "pause"}}, wait(2), make.sms()]
    )
    old = campaign.versions.get(number=1)

    foretold = moving.forecast(old)
    assert foretold.sentence == (
        "3 runs stand at 2 steps; 2 can move; 1 stays. There is no “long” in version 2."
    )
    order = move(campaign)
    assert moving.in_words(order) == (
        "2 runs of version 1 are on version 2 now; 1 stayed. There is no “long” in "
        "version 2."
    )
    assert moving.forecast(old).can_move == 0
    numbers = adds_up(campaign)
    assert (numbers[1]["entered"], numbers[1]["moved_out"]) == (3, 2)
    assert (numbers[2]["entered"], numbers[2]["moved_in"]) == (0, 2)
    # When all is over it still adds up.
    go(NOW + 9 * DAY)
    Message.objects.update(status="sent")
    go(NOW + 9 * DAY)
    numbers = adds_up(campaign)
    assert (numbers[1]["waiting"], numbers[2]["waiting"]) == (0, 0)
    assert (numbers[1]["finished"], numbers[2]["finished"]) == (1, 2)


def test_a_step_that_does_something_else_keeps_its_runs():
    campaign = make.campaign(wait(2), make.sms())
    enter(campaign)
    make.publish_again(
        campaign,
        steps=[
            make.step(
                "pause",
                "wait_for_event",
                {"event": "X", "where": [], "for": 2, "unit": "days"},
                happened="sms",
                timed_out="sms",
            ),
            make.sms(),
        ],
    )
    order = move(campaign)

    assert order.moved == 0
    assert "“pause” does something else in version 2: Wait for an event." in (
        moving.in_words(order)
    )
    assert on_versions(campaign)[0][:2] == (1, 1)


def test_nobody_comes_to_a_step_a_second_time():
    """The step has written to them already, and would have them wait for ever."""
    sms = make.sms("one")
    campaign = make.campaign({**sms, "next": {"sent": "pause"}}, wait(2, to=None))
    enter(campaign, 2)
    Message.objects.update(status="sent", sent_at=NOW)
    go(NOW)
    assert on_versions(campaign)[0][2:] == ("pause", "waiting")
    make.publish_again(campaign, steps=[sms, wait(2)], start="pause")

    assert moving.forecast(campaign.versions.get(number=1)).sentence == (
        "2 runs stand at 1 step; 0 can move; 2 stay. Of those at “pause”, 2 have "
        "already been at a step that comes after it in version 2."
    )
    assert move(campaign).moved == 0
    go(NOW + 2 * DAY)
    assert Message.objects.count() == 2
    adds_up(campaign)


def test_who_waits_for_a_message_goes_on_by_the_new_version_once_it_is_sent():
    campaign = make.campaign(make.sms("old"))
    enter(campaign)
    sms = {**make.sms("new"), "next": {"sent": "note"}}
    note = make.step("note", "record_event", {"event": "X"}, done=None, failed=None)
    make.publish_again(campaign, steps=[sms, note])
    move(campaign)

    assert Run.objects.get().due_at is None
    assert Message.objects.get().content.text == "old"
    Message.objects.update(status="sent", sent_at=NOW)
    go(NOW)
    assert on_versions(campaign) == [(1, 2, "note", "finished")]
    assert Message.objects.count() == 1
    adds_up(campaign)


def test_who_waits_for_an_answer_goes_on_by_the_new_version_once_it_comes():
    call = make.step(
        "ask", "call_webhook", {"url": "https://erp.example.com"}, done=None
    )
    campaign = make.campaign(call)
    enter(campaign)
    make.publish_again(campaign, steps=[{**call, "next": {"done": "sms"}}, make.sms()])
    move(campaign)
    # The checker sees that it waits for a call that was made by the older version.
    assert what_is_off(campaign) == []

    WebhookCall.objects.update(status="done", answer={"left": 3})
    go(NOW)
    assert on_versions(campaign) == [(1, 2, "sms", "waiting")]
    assert WebhookCall.objects.count() == 1
    adds_up(campaign)


def test_a_run_is_moved_from_version_to_version():
    campaign = make.campaign(wait(2), make.sms("1"))
    enter(campaign)
    for number in (1, 2):
        make.publish_again(campaign, steps=[wait(2), make.sms(str(number + 1))])
        enter(campaign)
        move(campaign, number)

    assert [one[:2] for one in on_versions(campaign)] == [(1, 3), (2, 3), (3, 3)]
    numbers = adds_up(campaign)
    assert [
        (numbers[n]["entered"], numbers[n]["moved_in"], numbers[n]["moved_out"])
        for n in (1, 2, 3)
    ] == [(1, 0, 1), (1, 1, 2), (1, 2, 0)]


def test_shares_are_of_all_who_came_to_the_version():
    campaign = make.campaign(wait(1), make.sms())
    enter(campaign, 3)
    make.publish_again(campaign)
    move(campaign)
    enter(campaign)
    shown = figures_of(adds_up(campaign)[2])
    assert (shown["pause"].came_in, shown["pause"].share) == (4, "100 %")
    assert (shown[""].came_in, shown[""].whole) == (1, 4)


def test_runs_that_are_over_are_not_moved():
    campaign = make.campaign(make.step("it", "end", {}))
    enter(campaign)
    make.publish_again(campaign)

    assert moving.forecast(campaign.versions.get(number=1)).sentence == (
        "Nobody is under way on version 1."
    )
    assert move(campaign).moved == 0


def test_only_runs_of_an_older_version_are_moved():
    campaign = make.campaign()
    with pytest.raises(Conflict, match="older version"):
        moving.order(campaign.versions.get(), by="anna")


def test_one_order_at_a_time():
    campaign = make.campaign(wait(2), make.sms())
    make.publish_again(campaign)
    moving.order(campaign.versions.get(number=1), by="anna")
    with pytest.raises(Conflict, match="already"):
        moving.order(campaign.versions.get(number=1), by="ben")


def test_publishing_again_stops_it_and_says_so():
    campaign = make.campaign(wait(2), make.sms())
    enter(campaign, 3)
    make.publish_again(campaign)
    order = moving.order(campaign.versions.get(number=1), by="anna", now=NOW)
    moving.move_some(limit=2, now=NOW)
    make.publish_again(campaign)
    moving.move_some(limit=2, now=NOW)

    order.refresh_from_db()
    assert (order.status, order.moved) == ("stopped", 2)
    assert "Version 3 was published meanwhile" in moving.in_words(order)
    # The rest is moved by another order, and nobody twice.
    assert (move(campaign, 1).moved, move(campaign, 2).moved) == (1, 2)
    adds_up(campaign)


def test_archiving_stops_it():
    campaign = make.campaign(wait(2), make.sms())
    enter(campaign)
    make.publish_again(campaign)
    order = moving.order(campaign.versions.get(number=1), by="anna")
    archive(campaign)
    moving.move_some()

    order.refresh_from_db()
    assert order.status == "stopped"
    assert "archived" in order.reason


def test_a_worker_that_dies_is_followed_by_another(monkeypatch):
    campaign = make.campaign(wait(2), make.sms())
    enter(campaign, 5)
    make.publish_again(campaign)
    order = moving.order(campaign.versions.get(number=1), by="anna", now=NOW)
    assert moving.move_some(limit=2, now=NOW) == 2

    with monkeypatch.context() as patched:
        patched.setattr(moving.MovedRun.objects, "bulk_create", _die)
        with pytest.raises(RuntimeError):
            moving.move_some(limit=2, now=NOW)
    order.refresh_from_db()
    assert (order.moved, order.status) == (2, "running")
    assert MovedRun.objects.count() == 2

    while moving.move_some(limit=2, now=NOW):
        pass
    order.refresh_from_db()
    assert (order.moved, order.status) == (5, "done")
    assert MovedRun.objects.count() == 5
    adds_up(campaign)


def _die(*args: Any, **more: Any) -> None:
    raise RuntimeError("killed")


def test_the_number_of_queries_is_the_same_for_one_run_and_for_many():
    counts = []
    for number in (1, 30):
        campaign = make.campaign(wait(2), make.sms(), on=f"Event {number}")
        enter(campaign, number, on=f"Event {number}")
        make.publish_again(campaign, steps=[wait(3), make.sms()])
        moving.order(campaign.versions.get(number=1), by="anna", now=NOW)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            moving.move_some(now=NOW)
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_why_says_that_a_run_was_moved_when_and_by_whom():
    campaign = make.campaign(wait(2), make.sms())
    enter(campaign)
    make.publish_again(campaign)
    move(campaign, now=NOW + timedelta(hours=1))

    told = why(Run.objects.get().customer, campaign, now=NOW + timedelta(hours=2))
    [moved] = told.answer.run.moves
    assert (moved.step, moved.from_version, moved.to_version, moved.by) == (
        "pause",
        1,
        2,
        "anna",
    )
    assert moved.at == NOW + timedelta(hours=1)
    assert moved.sentence.startswith("Moved from version 1 to version 2 by anna, ")

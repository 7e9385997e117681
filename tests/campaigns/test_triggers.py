"""What starts campaigns beside events: segments, dates and planned times."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from campaigns import overdue, planned, publish
from campaigns.broadcast import walk_broadcasts
from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.drawing import as_json, save_draft
from campaigns.exchange import export, read
from campaigns.models import Broadcast, Campaign, Run, Version
from campaigns.planned import start_planned
from campaigns.triggers import TRIGGERS
from campaigns.why import why
from customers.models import Attribute, Customer
from events.history import timeline
from events.models import SystemEvent
from segments import lists, saving
from segments.lists import How, Line
from segments.upkeep.keeper import keep_all
from smartcomm.core.errors import Conflict, Several
from tests import make

pytestmark = pytest.mark.django_db

#: A Monday.
NOW = datetime(2026, 11, 30, 8, 0, tzinfo=UTC)
BIRTHDAY = {"kind": "date", "attribute": "birth_date", "yearly": True, "at": "09:00"}
DAILY = {
    "kind": "schedule",
    "at": "2026-11-30T09:00",
    "repeat": {"every": 1, "unit": "day"},
}
PARIS = {"attribute": "city", "op": "=", "value": "Paris"}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Clock:
    settings.TIME_ZONE = "UTC"
    found = Clock(NOW)
    monkeypatch.setattr(timezone, "now", lambda: found.now)
    return found


class Clock:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def turn(self, day: int, hour: int, minute: int = 0) -> datetime:
        """To a day of December 2026; 0 is the last of November."""
        self.now = NOW.replace(hour=hour, minute=minute) + timedelta(days=day)
        return self.now


def at_work(starts: dict[str, Any], *steps: dict[str, Any], **more: Any) -> Campaign:
    return make.campaign(*steps, starts=starts, **more)


def work() -> None:
    """What the workers do at this time."""
    while (
        start_planned()
        + dispatch_system_events()
        + dispatch_events()
        + walk_broadcasts()
    ):
        pass


def entered(campaign: Campaign) -> list[str]:
    runs = Run.objects.filter(campaign=campaign).order_by("id")
    return list(runs.values_list("customer__external_id", flat=True))


def refused(starts: dict[str, Any], *steps: dict[str, Any], **more: Any) -> str:
    with pytest.raises(Several) as caught:
        publish.publish(make.draft(*steps, starts=starts, **more))
    return " ".join(error.message for error in caught.value.errors)


# --- segments ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "wanted"), [("segment_entered", "C-2"), ("segment_left", "C-1")]
)
def test_who_enters_or_leaves_a_segment_starts_it(kind, wanted):
    make.customer("C-1", city="Paris")
    make.customer("C-2", city="Rome")
    segment = make.segment("Paris", PARIS)
    keep_all()

    campaign = at_work({"kind": kind, "segment": segment.pk})
    segment.refresh_from_db()
    assert segment.is_watched
    Customer.objects.filter(external_id="C-1").update(city="Rome")
    Customer.objects.filter(external_id="C-2").update(city="Paris")
    keep_all()
    work()

    assert entered(campaign) == [wanted]
    run = Run.objects.get()
    assert run.event is not None
    assert run.event.context == {"segment": segment.pk, "name": "Paris"}


def test_who_is_in_a_segment_when_it_is_published_starts_nothing():
    make.customer("C-1", city="Paris")
    segment = make.segment("Paris", PARIS)
    campaign = at_work({"kind": "segment_entered", "segment": segment.pk})
    keep_all()
    work()
    assert entered(campaign) == []


def test_who_is_put_on_a_list_or_taken_off_starts_it():
    for name in ("C-1", "C-2"):
        make.customer(name)
    guests = make.segment("Guests")
    lists.change(guests, [Line(1, "C-1")], how=How.ADD)
    came = at_work({"kind": "segment_entered", "segment": guests.pk})
    went = at_work({"kind": "segment_left", "segment": guests.pk})

    lists.change(guests, [Line(1, "C-2")], how=How.REPLACE)
    work()

    assert (entered(came), entered(went)) == (["C-2"], ["C-1"])


def test_other_segments_start_nothing():
    make.customer("C-1")
    guests, other = make.segment("Guests"), make.segment("Other", is_watched=True)
    campaign = at_work({"kind": "segment_entered", "segment": guests.pk})
    lists.edit(other, add=["C-1"])
    work()
    assert entered(campaign) == []


def test_a_segment_goes_on_telling_while_a_campaign_answers():
    segment = make.segment("Paris", PARIS)
    campaign = at_work({"kind": "segment_entered", "segment": segment.pk})

    with pytest.raises(Conflict, match="have it record no more events"):
        saving.change(segment, saving.Wanted("Paris", rule=PARIS), author="anna")
    with pytest.raises(Conflict, match="is used by the campaign"):
        saving.archive(segment)

    publish.archive(campaign)
    saving.change(segment, saving.Wanted("Paris", rule=PARIS), author="anna")
    saving.archive(segment)


def test_a_segment_that_would_feed_itself_is_refused():
    make.event_type("segment.entered")
    segment = make.segment("Newcomers", {"event": "segment.entered"})
    told = refused({"kind": "segment_entered", "segment": segment.pk})
    assert "“Newcomers” cannot tell who comes and goes" in told


def test_a_segment_that_is_gone_or_archived_is_refused():
    assert "is gone" in refused({"kind": "segment_left", "segment": 999})
    segment = saving.archive(make.segment("Paris", PARIS))
    assert "is archived" in refused({"kind": "segment_left", "segment": segment.pk})
    assert "is archived" in refused({**DAILY, "segment": segment.pk})


def test_a_list_that_customers_are_moved_to_and_fro_is_refused():
    guests = make.segment("Guests")
    steps = (
        make.step("off", "remove_from_list", {"segment": guests.pk}, done="on"),
        make.step("on", "add_to_list", {"segment": guests.pk}, done=None),
    )
    starts = {"kind": "segment_entered", "segment": guests.pk}
    assert "it would never end" in refused(starts, *steps)
    at_work(starts, *steps, entry={"rule": "once"})


def move(one: Any, other: Any) -> list[dict[str, Any]]:
    """Off one list and onto another."""
    return [
        make.step("off", "remove_from_list", {"segment": one.pk}, done="on"),
        make.step("on", "add_to_list", {"segment": other.pk}, done=None),
    ]


def test_lists_that_campaigns_move_customers_round_and_round_are_refused():
    first, second, third = (make.segment(name) for name in ("A", "B", "C"))
    entered_first = {"kind": "segment_entered", "segment": first.pk}
    entered_second = {"kind": "segment_entered", "segment": second.pk}
    at_work(entered_first, *move(first, second), name="There")
    at_work(entered_second, *move(second, third), name="Elsewhere")

    told = refused(entered_second, *move(second, first), name="Back")

    assert told == (
        "“on” changes a list, which starts this campaign again, by way of “There”: it "
        "would never end. Use another list, or let customers enter once."
    )
    # Who is on both lists already is put on neither again.
    onto = make.step("on", "add_to_list", {"segment": first.pk}, done=None)
    at_work(entered_second, onto)
    at_work(entered_second, *move(second, first), entry={"rule": "once"})


def test_a_circle_may_lead_over_lists_and_events():
    guests = make.segment("Guests")
    told = make.step("told", "record_event", {"event": "Moved"}, done=None)
    at_work({"kind": "segment_left", "segment": guests.pk}, told, name="Teller")
    steps = [
        make.step("on", "add_to_list", {"segment": guests.pk}, done="off"),
        make.step("off", "remove_from_list", {"segment": guests.pk}, done=None),
    ]
    starts = {"kind": "event", "event": "Moved", "where": []}
    assert "by way of “Teller”: it would never end" in refused(starts, *steps)
    # Whoever is archived starts nothing.
    publish.archive(Campaign.objects.get(name="Teller"))
    at_work(starts, *steps)


# --- dates ------------------------------------------------------------------------


def born(name: str, day: str, **more: Any) -> Customer:
    return make.reachable(name, birth_date=date.fromisoformat(day), **more)


def test_birthdays_start_it_on_the_day(clock):
    born("C-1", "1990-12-01")
    born("C-2", "1985-12-02")
    born("C-3", "1985-12-01")
    make.customer("C-4")
    campaign = at_work(BIRTHDAY)

    clock.turn(1, 8, 59)
    work()
    assert entered(campaign) == []
    clock.turn(1, 9)
    work()
    work()
    assert entered(campaign) == ["C-1", "C-3"]
    clock.turn(2, 9)
    work()
    assert entered(campaign) == ["C-1", "C-3", "C-2"]

    event = SystemEvent.objects.order_by("occurred_at")[1]
    assert event.type.name == "date.reached"
    assert event.occurred_at == clock.turn(1, 9)
    assert event.context == {
        "date": "2026-12-01",
        "planned_at": "2026-12-01T09:00+00:00",
        "attribute": "birth_date",
        "days": 0,
    }


@pytest.mark.parametrize(("days", "reached"), [(-3, "1990-12-04"), (7, "1990-11-24")])
def test_days_before_and_after(clock, days, reached):
    born("C-1", reached)
    born("C-2", "1990-12-01")
    campaign = at_work({**BIRTHDAY, "days": days})
    clock.turn(1, 9)
    work()
    assert entered(campaign) == ["C-1"]


@pytest.mark.parametrize("year", [2027, 2028])
def test_29_february_is_kept_on_the_28th_where_there_is_none(clock, year):
    born("C-1", "1992-02-29")
    clock.now = datetime(year, 2, 27, 12, tzinfo=UTC)
    campaign = at_work(BIRTHDAY)
    times = []
    for day in range(28, 32):
        clock.now = datetime(year, 2, 28, 9, tzinfo=UTC) + timedelta(days=day - 28)
        work()
        times.append(len(entered(campaign)))
    assert times == ([1, 1, 1, 1] if year == 2027 else [0, 1, 1, 1])


def test_a_date_of_ones_own_is_reached_once(clock):
    Attribute.objects.create(code="ends_on", type="date", label="Contract ends")
    make.customer("C-1", attributes={"ends_on": "2026-12-15"})
    make.customer("C-2", attributes={"ends_on": "2025-12-15"})
    make.customer("C-3", attributes={"ends_on": "2026-12-15T23:30:00+00:00"})
    campaign = at_work(
        {"kind": "date", "attribute": "ends_on", "days": -14, "at": "09:00"}
    )
    clock.turn(1, 9)
    work()
    assert entered(campaign) == ["C-1", "C-3"]


def test_only_who_is_in_the_segment(clock):
    born("C-1", "1990-12-01", city="Paris")
    born("C-2", "1990-12-01", city="Rome")
    segment = make.segment("Paris", PARIS)
    campaign = at_work({**BIRTHDAY, "segment": segment.pk})
    clock.turn(1, 9)
    work()
    assert entered(campaign) == ["C-1"]


def test_a_leading_filter_parts_those_whose_date_is_reached_and_nobody_else(clock):
    born("C-1", "1990-12-01", city="Paris")
    born("C-2", "1990-12-01", city="Rome")
    born("C-3", "1990-12-02", city="Paris")
    born("C-4", "1990-12-02", city="Rome")
    campaign = at_work(
        BIRTHDAY,
        make.step(
            "who", "filter_customers", {"rule": PARIS}, positive="a", negative="b"
        ),
        make.step("a", "send_sms", {"text": "Paris"}, sent=None),
        make.step("b", "send_sms", {"text": "Elsewhere"}, sent=None),
    )
    clock.turn(1, 9)
    work()
    runs = Run.objects.filter(campaign=campaign).order_by("customer__external_id")
    assert list(runs.values_list("customer__external_id", "step__key")) == [
        ("C-1", "a"),
        ("C-2", "b"),
    ]


def test_a_broadcast_that_is_late_goes_by_the_day_it_was_planned_for(clock):
    born("C-1", "1990-12-01")
    born("C-2", "1990-12-02")
    campaign = at_work(BIRTHDAY)
    clock.turn(1, 9)
    start_planned()
    clock.turn(2, 8)
    while walk_broadcasts():
        pass
    assert entered(campaign) == ["C-1"]


def test_a_date_that_nobody_has_is_refused():
    Attribute.objects.create(code="tier", type="string")
    for code in ("tier", "no_such"):
        assert "is no date" in refused({**BIRTHDAY, "attribute": code})


# --- planned times ----------------------------------------------------------------


def test_once_for_everybody(clock):
    make.customer("C-1")
    make.customer("C-2")
    campaign = at_work({"kind": "schedule", "at": "2026-12-24T18:00"})
    clock.turn(24, 17, 59)
    work()
    assert entered(campaign) == []
    clock.turn(24, 18)
    work()
    assert entered(campaign) == ["C-1", "C-2"]
    clock.turn(25, 18)
    work()
    assert Run.objects.count() == 2
    assert planned.at_work(campaign).next_at is None


def test_again_and_again_for_a_segment(clock):
    make.customer("C-1", city="Paris")
    make.customer("C-2", city="Rome")
    segment = make.segment("Paris", PARIS)
    campaign = at_work({**DAILY, "segment": segment.pk, "until": "2026-12-01"})
    for day in range(4):
        clock.turn(day, 9)
        work()
    assert entered(campaign) == ["C-1", "C-1"]


def test_a_time_is_started_once_however_often_it_is_looked_at(clock):
    make.customer("C-1")
    campaign = at_work(DAILY)
    clock.turn(0, 9)
    start_planned()
    Version.objects.filter(campaign=campaign).update(next_at=clock.now)
    start_planned()
    work()
    assert SystemEvent.objects.count() == Broadcast.objects.count() == 1
    assert entered(campaign) == ["C-1"]
    assert planned.at_work(campaign).next_at == clock.turn(1, 9)


def test_events_of_the_same_name_start_nothing_planned(clock):
    make.customer("C-1")
    campaign = at_work(DAILY)
    make.system_event("schedule.reached", date="2026-11-30")
    work()
    assert entered(campaign) == []


def test_the_event_can_be_spoken_of_and_nothing_that_it_never_has(clock):
    make.reachable("C-1")
    text = "Today is {{ client.eventContext.date }}"
    at_work(DAILY, make.step("sms", "send_sms", {"text": text}, sent=None))
    text = "{{ client.eventContext.product }}"
    told = refused(DAILY, make.step("sms", "send_sms", {"text": text}, sent=None))
    assert "“sms” asks for “product”, which “schedule.reached” never has" in told
    rule = {"attribute": "city", "op": "=", "value": "$city"}
    step = make.step("who", "filter_customers", {"rule": rule}, positive=None)
    assert "“who” asks for “city”" in refused(BIRTHDAY, step)
    assert "never has; it says segment, name" in refused(
        {"kind": "segment_entered", "segment": make.segment("Guests").pk}, step
    )


def test_a_schedule_that_is_over_is_refused():
    told = refused({"kind": "schedule", "at": "2026-11-29T09:00"})
    assert "All of its times are over" in told


# --- late, paused, changed --------------------------------------------------------


def test_what_is_missed_starts_late_and_what_is_older_is_left_out(clock):
    born("C-1", "1990-12-01")
    born("C-2", "1990-12-02")
    born("C-3", "1990-12-03")
    campaign = at_work({**BIRTHDAY, "max_age_hours": 30})
    clock.turn(3, 12)  # Nobody was at work since the day before the first.
    work()
    assert entered(campaign) == ["C-2", "C-3"]
    out = Broadcast.objects.filter(status="finished", examined=0).order_by("id")
    assert [one.reason for one in out] == [
        "It was planned for 30 Nov 2026, 09:00, and was left out 3 Dec 2026, 12:00, "
        "since that was more than 30 hours ago.",
        "It was planned for 1 Dec 2026, 09:00, and was left out 3 Dec 2026, 12:00, "
        "since that was more than 30 hours ago.",
    ]


def test_of_a_schedule_only_the_last_time_that_was_missed_starts(clock):
    make.customer("C-1")
    campaign = at_work({**DAILY, "max_age_hours": 100})
    clock.turn(2, 12)
    work()
    assert entered(campaign) == ["C-1"]
    run = Run.objects.get()
    assert run.system_event is not None
    assert run.system_event.context["date"] == "2026-12-02"
    assert (
        Broadcast.objects.filter(reason__contains="the next time had come").count() == 2
    )


def test_a_pause_over_a_planned_time_starts_it_late_when_resumed(clock):
    born("C-1", "1990-12-01")
    campaign = at_work(BIRTHDAY)
    publish.pause(campaign)
    clock.turn(1, 12)
    work()
    assert entered(campaign) == []
    assert overdue.overdue(campaign, before=clock.now).times == 2
    publish.resume(campaign)
    work()
    assert entered(campaign) == ["C-1"]


def test_resuming_may_leave_out_what_was_planned_meanwhile(clock):
    born("C-1", "1990-12-01")
    campaign = at_work(BIRTHDAY)
    publish.pause(campaign)
    clock.turn(1, 12)
    publish.resume(campaign, skip_older_than=timedelta(hours=1))
    work()
    assert entered(campaign) == []
    reasons = set(Broadcast.objects.values_list("reason", flat=True))
    assert len(reasons) == 1
    assert "Left out when the campaign was resumed" in reasons.pop()
    clock.turn(2, 9)
    assert start_planned() == 1


def test_what_is_due_when_a_new_version_is_published_starts_on_the_old_one(clock):
    make.customer("C-1")
    campaign = at_work(DAILY)
    clock.turn(0, 9, 1)
    make.publish_again(campaign, trigger={**DAILY, "at": "2026-11-30T10:00"})
    work()
    assert entered(campaign) == ["C-1"]
    assert Run.objects.get().version.number == 1
    # At another time of day, and not twice on one day.
    assert planned.at_work(campaign).next_at == clock.turn(1, 10)


def test_a_schedule_that_was_not_due_yet_goes_by_the_new_version(clock):
    make.customer("C-1")
    campaign = at_work(DAILY)
    make.publish_again(campaign, trigger={**DAILY, "at": "2026-11-30T10:00"})
    assert planned.at_work(campaign).next_at == clock.turn(0, 10)


def test_what_was_missed_in_a_pause_comes_over_to_the_new_version(clock):
    make.customer("C-1")
    campaign = at_work(DAILY)
    publish.pause(campaign)
    clock.turn(0, 12)
    make.publish_again(campaign, trigger={**DAILY, "at": "2026-11-30T11:00"})
    publish.resume(campaign)
    work()
    assert entered(campaign) == ["C-1"]
    run = Run.objects.get()
    assert run.version.number == 2
    assert run.system_event is not None
    assert run.system_event.context["planned_at"] == "2026-11-30T09:00+00:00"
    assert planned.at_work(campaign).next_at == clock.turn(1, 11)


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        # Of those whose day it has been nobody gets it twice…
        ({}, {"at": "15:00"}, {1: ["30"], 2: ["01"], 3: ["02"]}),
        ({"days": -1}, {"days": 0}, {1: ["01"], 2: [], 3: ["02"]}),
        # …and nobody is left out whose day had not come.
        ({}, {"days": -1}, {1: ["30", "01"], 2: ["02"], 3: ["03"]}),
    ],
)
def test_another_offset_or_time_doubles_and_loses_no_birthday(
    clock, before, after, wanted
):
    for day in ("11-29", "11-30", "12-01", "12-02", "12-03", "12-04"):
        born(day[-2:], f"1990-{day}")
    campaign = at_work({**BIRTHDAY, **before})
    clock.turn(0, 9)
    work()
    clock.turn(0, 12)
    make.publish_again(campaign, trigger={**BIRTHDAY, **after})
    work()
    found = {1: entered(campaign)}
    for day in (1, 2):
        clock.turn(day, 23)
        seen = len(entered(campaign))
        work()
        found[day + 1] = entered(campaign)[seen:]
    assert found == wanted


def test_another_kind_of_trigger_leaves_out_what_was_missed_in_a_pause(clock):
    make.customer("C-1")
    campaign = at_work(DAILY)
    publish.pause(campaign)
    clock.turn(0, 12)
    make.publish_again(campaign, trigger={"kind": "event", "event": "Order paid"})
    publish.resume(campaign)
    work()
    assert entered(campaign) == []
    assert "which starts otherwise" in Broadcast.objects.get().reason


def test_one_campaign_that_fails_stops_no_other(clock, monkeypatch):
    make.customer("C-1")
    broken, sound = at_work(DAILY), at_work(DAILY)
    version = planned.at_work(broken)
    version.trigger_config = {**version.trigger_config, "at": "nonsense"}
    version.save()
    clock.turn(0, 9)
    work()
    assert (entered(broken), entered(sound)) == ([], ["C-1"])


def test_an_archived_campaign_starts_no_more(clock):
    make.customer("C-1")
    campaign = at_work(DAILY)
    publish.archive(campaign)
    clock.turn(0, 9)
    work()
    assert entered(campaign) == []


# --- why --------------------------------------------------------------------------


def told(campaign: Campaign, name: str, clock: Clock) -> Any:
    customer = Customer.objects.get(external_id=name)
    return why(customer, campaign, now=clock.now).answer


def test_why_tells_which_part_a_customer_did_not_meet(clock):
    make.customer("C-0")
    born("C-1", "1990-12-01", city="Paris")
    born("C-2", "1990-12-02", city="Paris")
    born("C-3", "1990-12-01", city="Rome")
    born("C-4", "1990-12-01", city="Paris", first_name="Ann")
    segment = make.segment("Paris", PARIS)
    ann = {"attribute": "first_name", "op": "=", "value": "Ann"}
    campaign = at_work(
        {**BIRTHDAY, "segment": segment.pk},
        make.step("who", "filter_customers", {"rule": ann}, positive="sms"),
        make.sms(),
    )
    answer = told(campaign, "C-1", clock)
    assert "the first is 30 Nov 2026, 09:00" in answer.sentence
    clock.turn(1, 9)
    work()

    assert told(campaign, "C-4", clock).outcome == "started"
    found = {
        name: told(campaign, name, clock).reasons[0] for name in ("C-1", "C-2", "C-3")
    }
    assert {name: str(one.because) for name, one in found.items()} == {
        "C-1": "filter_negative",
        "C-2": "date_not_reached",
        "C-3": "not_in_segment",
    }
    assert "was not reached" in told(campaign, "C-2", clock).sentence
    assert found["C-2"].sentence == (
        "The birth date was not reached: it was for 1 December."
    )
    assert all(one.tree is not None and not one.tree.holds for one in found.values())


def test_why_tells_what_was_left_out(clock):
    born("C-1", "1990-12-01")
    campaign = at_work({**BIRTHDAY, "max_age_hours": 1})
    clock.turn(1, 12)
    work()
    answer = told(campaign, "C-1", clock)
    assert str(answer.reasons[0].because) == "planned_time_left_out"
    assert "It was planned for 1 Dec 2026, 09:00" in answer.sentence


def test_why_knows_no_times_of_other_campaigns(clock):
    make.customer("C-1")
    at_work(DAILY)
    other = at_work({**DAILY, "at": "2026-12-02T09:00"})
    clock.turn(0, 9)
    work()
    assert "has come yet" in told(other, "C-1", clock).sentence


def test_a_profile_is_not_flooded_with_planned_times(clock):
    anna = make.customer("C-1")
    at_work(DAILY)
    make.system_event("Product in stock")
    clock.turn(0, 9)
    work()
    names = [item.name for item in timeline(anna).items]
    assert names == ["Product in stock"]
    asked = timeline(anna, name="schedule.reached").items
    assert [item.name for item in asked] == ["schedule.reached"]


# --- as JSON ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "starts"),
    [
        ("trigger.segment", {"kind": "segment_entered"}),
        ("trigger.segment", {"kind": "segment_left", "segment": "5"}),
        ("trigger.event", {"kind": "segment_left", "segment": 5, "event": "X"}),
        ("trigger.attribute", {"kind": "date", "at": "09:00"}),
        ("trigger.days", {**BIRTHDAY, "days": 1.5}),
        ("trigger.yearly", {**BIRTHDAY, "yearly": 1}),
        ("trigger.at", {**BIRTHDAY, "at": "9"}),
        ("trigger.at", {**BIRTHDAY, "at": "09:00:30"}),
        ("trigger.at", {**BIRTHDAY, "at": "09"}),
        ("trigger.at", {**BIRTHDAY, "at": "09:00+01:00"}),
        ("trigger.at", {**DAILY, "at": "2026-12-24"}),
        ("trigger.at", {**DAILY, "at": "2026-W52-4T09:00"}),
        ("trigger.at", {**DAILY, "at": "2026-12-24T09:00Z"}),
        ("trigger.until", {**DAILY, "until": "20261224"}),
        (
            "trigger.repeat.weekdays",
            {**DAILY, "repeat": {"unit": "week", "weekdays": 0}},
        ),
        ("trigger.where", {**BIRTHDAY, "where": []}),
        ("trigger.at", {"kind": "schedule"}),
        ("trigger.at", {"kind": "schedule", "at": "2026-12-24T09:00Z"}),
        ("trigger.repeat", {**DAILY, "repeat": "daily"}),
        ("trigger.repeat.unit", {**DAILY, "repeat": {"unit": "year"}}),
        ("trigger.repeat.every", {**DAILY, "repeat": {"unit": "day", "every": 0}}),
        (
            "trigger.repeat.weekdays",
            {**DAILY, "repeat": {"unit": "day", "weekdays": ["mon"]}},
        ),
        ("trigger.until", {**DAILY, "until": "soon"}),
        ("trigger.until", {**DAILY, "repeat": None, "until": "2026-12-24"}),
        ("trigger.max_age_hours", {**DAILY, "max_age_hours": 0}),
    ],
)
def test_what_is_not_understood_is_told_in_its_place(field, starts):
    with pytest.raises(Several) as caught:
        make.draft(starts=starts)
    assert field in {error.field for error in caught.value.errors}


@pytest.mark.parametrize(
    "starts",
    [
        {"kind": "segment_entered", "segment": 5},
        {"kind": "segment_left", "segment": 5, "max_age_hours": 3},
        BIRTHDAY,
        {**BIRTHDAY, "days": -3, "segment": 5},
        DAILY,
        {
            "kind": "schedule",
            "at": "2026-11-30T09:00",
            "repeat": {"unit": "week", "weekdays": ["sun", "mon"]},
            "until": "2027-01-31",
        },
    ],
)
def test_a_drawing_is_read_as_it_was_written(starts):
    campaign = make.draft(starts=starts)
    drawn = as_json(campaign.versions.get())
    assert {**drawn["trigger"], **starts, "repeat": 0} == {
        **drawn["trigger"],
        "repeat": 0,
    }
    save_draft(campaign, drawn)
    assert as_json(campaign.versions.get()) == drawn


def test_a_file_names_the_segment_of_the_trigger():
    segment = make.segment("Paris", PARIS)
    campaign = make.draft(starts={**DAILY, "segment": segment.pk})
    file = export(campaign)
    assert file["segments"] == {str(segment.pk): "Paris"}
    file["segments"] = {"77": "Paris"}
    file["trigger"] = {**file["trigger"], "segment": 77}
    made = read(file, name="Elsewhere")
    assert made.versions.get().trigger_config["segment"] == segment.pk


def test_there_is_a_trigger_for_each_word():
    assert list(TRIGGERS) == Version.Trigger.values

"""Planned times: any plan, in any zone, from any moment."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from campaigns.triggers.calendar import Plan, at_time

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Sao_Paulo",  # Its days began at 1 in the summer.
    "Pacific/Apia",  # Had no 30 December 2011.
    "Australia/Lord_Howe",  # Half an hour.
    "Africa/Casablanca",  # Four changes a year.
]
days = st.dates(date(2010, 1, 1), date(2030, 12, 31))
times = st.times().map(lambda at: at.replace(second=0, microsecond=0))
moments = st.integers(0, 20 * 366 * 24 * 60).map(
    lambda minutes: datetime(2010, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    unit = draw(st.sampled_from(["", "day", "week", "month"]))
    first = draw(days)
    weekdays = draw(st.sets(st.integers(0, 6))) if unit == "week" else ()
    return Plan(
        first,
        draw(times),
        draw(st.integers(1, 5)) if unit else 0,
        unit,
        tuple(sorted(weekdays)),
        draw(st.none() | st.just(first + timedelta(days=draw(st.integers(0, 400))))),
    )


@given(plans(), moments, st.sampled_from(ZONES))
def test_times_go_up_and_each_is_on_a_day_of_its_own(plan, moment, zone):
    with override_settings(TIME_ZONE=zone):
        found = plan.next_times(moment, 12)

    assert all(moment < one for one in found[:1])
    assert all(one < following for one, following in pairwise(found))
    local = [one.astimezone(ZoneInfo(zone)).date() for one in found]
    assert len(set(local)) == len(local)
    assert all(plan.first <= day <= (plan.until or day) for day in local)


@given(plans(), moments, st.sampled_from(ZONES), st.data())
def test_the_next_time_is_the_same_from_anywhere_before_it(plan, moment, zone, data):
    with override_settings(TIME_ZONE=zone):
        following = plan.after(moment)
        if following is None:
            return
        seconds = int((following - moment).total_seconds())
        between = moment + timedelta(
            seconds=data.draw(st.integers(0, max(0, seconds - 1)))
        )
        assert plan.after(between) == following
        assert (plan.after(following) or following + timedelta(1)) > following


@given(plans(), st.sampled_from(ZONES))
def test_it_leaves_no_planned_day_out(plan, zone):
    """Held against asking every single day."""
    with override_settings(TIME_ZONE=zone):
        begin = plan.first
        wanted = [
            moment
            for n in range(120)
            if _is_planned(plan, day := begin + timedelta(days=n))
            and (moment := at_time(day, plan.at))
        ]
        start = datetime.combine(begin, time(), UTC) - timedelta(days=2)
        found = plan.next_times(start, len(wanted))
    assert found == wanted


def _is_planned(plan: Plan, day: date) -> bool:
    if plan.until and day > plan.until:
        return False
    if not plan.every:
        return day == plan.first
    if plan.unit == "day":
        return (day - plan.first).days % plan.every == 0
    if plan.unit == "week":
        monday = plan.first - timedelta(days=plan.first.weekday())
        weeks = (day - monday).days // 7
        weekdays = plan.weekdays or (plan.first.weekday(),)
        return weeks % plan.every == 0 and day.weekday() in weekdays
    months = (day.year - plan.first.year) * 12 + day.month - plan.first.month
    is_last = (day + timedelta(days=1)).day == 1
    fits = day.day == plan.first.day or (is_last and day.day < plan.first.day)
    return months % plan.every == 0 and fits


@pytest.mark.parametrize(
    ("zone", "plan", "after", "wanted"),
    [
        # The clocks skip 2:30: when they are changed.
        (
            "Europe/Berlin",
            Plan(date(2027, 3, 28), time(2, 30)),
            "2027-03-01T00:00Z",
            ["2027-03-28T03:00+02:00"],
        ),
        # They show it twice: the first time, and not again.
        (
            "Europe/Berlin",
            Plan(date(2026, 10, 24), time(2, 30), 1, "day", (), date(2026, 10, 26)),
            "2026-10-01T00:00Z",
            [
                "2026-10-24T02:30+02:00",
                "2026-10-25T02:30+02:00",
                "2026-10-26T02:30+01:00",
            ],
        ),
        # The day begins at 1.
        (
            "America/Sao_Paulo",
            Plan(date(2017, 10, 15), time(0, 15)),
            "2017-10-01T00:00Z",
            ["2017-10-15T01:00-02:00"],
        ),
        # There was no such day.
        (
            "Pacific/Apia",
            Plan(date(2011, 12, 29), time(9), 1, "day", (), date(2011, 12, 31)),
            "2011-12-01T00:00Z",
            ["2011-12-29T09:00-10:00", "2011-12-31T09:00+14:00"],
        ),
        # The end of shorter months.
        (
            "UTC",
            Plan(date(2027, 1, 31), time(9), 1, "month"),
            "2027-01-31T09:00Z",
            ["2027-02-28T09:00+00:00", "2027-03-31T09:00+00:00"],
        ),
        # Every other week, on two days of it, from the middle of the first.
        (
            "UTC",
            Plan(date(2026, 12, 2), time(9), 2, "week", (0, 3)),
            "2026-12-01T00:00Z",
            [
                "2026-12-03T09:00+00:00",
                "2026-12-14T09:00+00:00",
                "2026-12-17T09:00+00:00",
            ],
        ),
    ],
)
def test_days_that_are_odd(zone, plan, after, wanted):
    with override_settings(TIME_ZONE=zone):
        found = plan.next_times(datetime.fromisoformat(after), len(wanted))
    local = [one.astimezone(ZoneInfo(zone)).isoformat("T", "minutes") for one in found]
    assert local == wanted


def test_a_plan_that_is_over_has_no_next_time():
    plan = Plan(date(2026, 12, 1), time(9), 1, "day", (), date(2026, 12, 2))
    assert plan.after(datetime(2026, 12, 3, tzinfo=UTC)) is None

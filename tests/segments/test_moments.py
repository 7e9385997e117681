"""Times of the calendar, in a zone whose clocks are changed."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segments import moments

BERLIN = ZoneInfo("Europe/Berlin")
#: Around the days on which clocks change, and ends of months.
TRICKY = [
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 4, 29, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 11, 25, 1, tzinfo=UTC),
    datetime(2026, 2, 28, 23, tzinfo=UTC),
    datetime(2028, 2, 29, 12, tzinfo=UTC),
    datetime(2026, 5, 31, 12, tzinfo=UTC),
    datetime(2026, 12, 31, 23, tzinfo=UTC),
]
times = st.sampled_from(TRICKY).flatmap(
    lambda at: st.one_of(
        st.integers(-4 * 3600, 4 * 3600).map(lambda s: at + timedelta(seconds=s)),
        st.integers(-40 * 24, 40 * 24).map(lambda h: at + timedelta(hours=h)),
    )
)
units = st.sampled_from(["hours", "days", "weeks", "months"])
ZONES = ["Europe/Berlin", "UTC", "America/Havana", "Australia/Lord_Howe", "Asia/Beirut"]


def berlin(*parts: int, fold: int = 0) -> datetime:
    return datetime(*parts, tzinfo=BERLIN, fold=fold).astimezone(UTC)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("now", "number", "expected"),
    [
        (berlin(2026, 3, 15, 10, 30), 1, berlin(2026, 2, 15, 10, 30)),
        (berlin(2026, 1, 15), 13, berlin(2024, 12, 15)),
        # No 29, 30 or 31 February: its end.
        (berlin(2026, 3, 28, 23, 59), 1, berlin(2026, 2, 28, 23, 59)),
        (berlin(2026, 3, 29, 12), 1, berlin(2026, 3, 1)),
        (berlin(2026, 3, 31, 12), 1, berlin(2026, 3, 1)),
        (berlin(2028, 3, 29, 12), 1, berlin(2028, 2, 29, 12)),
        (berlin(2027, 1, 31, 12), 2, berlin(2026, 12, 1)),
        # There was no 2:30 on 29 March: the clocks went from 2:00 to 3:00.
        (berlin(2026, 4, 29, 2, 30), 1, berlin(2026, 3, 29, 3)),
        # 2:30 on 25 October, twice. The second is not earlier than 2:59 was.
        (berlin(2026, 10, 25, 2, 30), 1, berlin(2026, 9, 25, 2, 30)),
        (berlin(2026, 10, 25, 2, 30, fold=1), 1, berlin(2026, 9, 25, 3)),
        (berlin(2026, 11, 25, 2, 30), 1, berlin(2026, 10, 25, 2, 30)),
    ],
)
def test_a_month_back_is_the_same_day_and_time_or_the_month_s_end(
    now, number, expected, settings
):
    settings.TIME_ZONE = "Europe/Berlin"
    assert moments.back(now, number, "months") == expected


@pytest.mark.parametrize("zone", ZONES)
def test_going_back_from_later_never_ends_up_earlier(zone, settings):
    settings.TIME_ZONE = zone

    @given(times, st.integers(0, 7200), st.integers(1, 30), units)
    def hold(early, later, number, unit):
        late = early + timedelta(seconds=later)
        assert moments.back(early, number, unit) <= moments.back(late, number, unit)

    hold()


@pytest.mark.parametrize("zone", ZONES)
def test_nothing_leaves_a_period_before_it_is_due_nor_long_after(zone, settings):
    settings.TIME_ZONE = zone

    @given(times, times, st.integers(1, 30), units)
    def hold(moment, now, number, unit):
        now += timedelta(days=30 * number if unit == "months" else 0)
        due = moments.forward(moment, number, unit)
        if now != due:  # The last moment of all, or the first without.
            is_in = moments.back(now, number, unit) <= moment
            assert is_in == (now < due)

    hold()


@pytest.mark.parametrize(
    ("which", "unit", "first", "end"),
    [
        ("this", "day", (2026, 3, 29), (2026, 3, 30)),
        ("previous", "day", (2026, 3, 28), (2026, 3, 29)),
        ("this", "week", (2026, 3, 23), (2026, 3, 30)),
        ("previous", "week", (2026, 3, 16), (2026, 3, 23)),
        ("this", "month", (2026, 3, 1), (2026, 4, 1)),
        ("previous", "month", (2026, 2, 1), (2026, 3, 1)),
        ("this", "quarter", (2026, 1, 1), (2026, 4, 1)),
        ("previous", "quarter", (2025, 10, 1), (2026, 1, 1)),
        ("this", "year", (2026, 1, 1), (2027, 1, 1)),
        ("previous", "year", (2025, 1, 1), (2026, 1, 1)),
    ],
)
def test_units_of_the_calendar_are_the_project_s_days(
    which, unit, first, end, settings
):
    settings.TIME_ZONE = "Europe/Berlin"
    now = berlin(2026, 3, 29, 0, 30)  # Still the 28th in UTC.

    assert moments.calendar(which, unit, now) == (berlin(*first), berlin(*end))


def test_what_goes_back_further_than_time_is_ever():
    now = datetime(2026, 3, 29, tzinfo=UTC)

    assert moments.back(now, 10**9, "days") == moments.EARLIEST
    assert moments.back(now, 10**6, "months") == moments.EARLIEST
    assert moments.forward(now, 10**9, "days") == moments.LATEST
    assert moments.forward(now, 10**6, "months") == moments.LATEST


@pytest.mark.parametrize(
    ("day", "years", "latest"),
    [
        (date(2026, 5, 10), 18, date(2008, 5, 10)),
        (date(2027, 2, 28), 3, date(2024, 2, 29)),
        (date(2028, 2, 28), 4, date(2024, 2, 28)),
        (date(2028, 2, 29), 1, date(2027, 2, 28)),
        (date(2028, 2, 29), 4, date(2024, 2, 29)),
        (date(2026, 5, 10), 3_000, None),
    ],
)
def test_a_birthday_of_29_february_is_kept_on_the_28th(day, years, latest):
    assert moments.latest_birth(day, years) == latest


def test_the_days_of_the_year_that_are_kept():
    assert moments.kept_days(date(2027, 2, 27), 2) == [227, 228, 229, 301]
    assert moments.kept_days(date(2028, 2, 27), 2) == [227, 228, 229]
    assert moments.kept_days(date(2026, 12, 31), 1) == [1231, 101]

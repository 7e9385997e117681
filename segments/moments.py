"""Times of the project's calendar: where days begin, and what a month ago was."""

from __future__ import annotations

import math
from datetime import MAXYEAR, MINYEAR, UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings

EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)
MONTHS = {"month": 1, "quarter": 3, "year": 12}


def zone() -> ZoneInfo:
    """The project's time zone, whose days are meant by dates in rules."""
    return ZoneInfo(settings.TIME_ZONE)


def today(now: datetime) -> date:
    return now.astimezone(zone()).date()


def start_of(moment: date | datetime) -> datetime:
    """The moment itself, or the beginning of the day in the project's zone."""
    if isinstance(moment, datetime):
        return max(moment, EARLIEST) if moment.tzinfo else moment
    moment = max(moment, EARLIEST.date())
    return datetime.combine(moment, time.min, tzinfo=zone()).astimezone(UTC)


def back(now: datetime, number: int, unit: str) -> datetime:
    """So many hours, days, weeks or months before now.

    Hours, days and weeks are counted in seconds. A month back is the same day and time
    of the month before; where that month has no such day it is the end of that month,
    so that going back from later never ends up earlier.
    """
    try:
        if unit == "months":
            return _months_on(now, -number)
        return max(now - timedelta(**{unit: number}), EARLIEST)
    except OverflowError:
        return EARLIEST


def forward(moment: datetime, number: int, unit: str) -> datetime:
    """When the moment leaves the last so many hours, days, weeks or months: before then
    `back(now, ...) <= moment`, after it no more."""
    try:
        if unit == "months":
            return _months_on(moment, number)
        return min(moment + timedelta(**{unit: number}), LATEST)
    except OverflowError:
        return LATEST


def calendar(which: str, unit: str, now: datetime) -> tuple[datetime, datetime]:
    """The beginning of this or the previous day, week, ..., and of the one after it."""
    first = _first_day(today(now), unit)
    if which == "previous":
        return start_of(_first_day(first - timedelta(days=1), unit)), start_of(first)
    return start_of(first), start_of(_next_day(first, unit))


def next_turn(unit: str, now: datetime) -> datetime:
    """When the next day, week, month, quarter or year begins."""
    return calendar("this", unit, now)[1]


def latest_birth(day: date, years: int) -> date | None:
    """The latest day that is at least so many years before `day`; None for none.

    A 29 February is kept on the 28th where the year has none.
    """
    year = day.year - years
    if not MINYEAR <= year <= MAXYEAR:
        return None
    if (day.month, day.day) == (2, 28) and _is_leap(year) and not _is_leap(day.year):
        return date(year, 2, 29)
    if (day.month, day.day) == (2, 29) and not _is_leap(year):
        return date(year, 2, 28)
    return day.replace(year=year)


def kept_days(first: date, days: int) -> list[int]:
    """The days of the year, as 100 × month + day, whose anniversary is kept from
    `first` on for so many days more. 29 February also on a 28th that is the last."""
    found = []
    for offset in range(days + 1):
        day = first + timedelta(days=offset)
        found.append(day.month * 100 + day.day)
        if found[-1] == 228 and not _is_leap(day.year):
            found.append(229)
    return found


def _months_on(moment: datetime, months: int) -> datetime:
    local = moment.astimezone(zone())
    wall = local.replace(tzinfo=None, fold=0)
    if local.fold:
        # The second pass of an hour that occurs twice is taken for its end: the clock
        # shows less than before, and time does not go back.
        wall = _wall_after_change(local)
    index = wall.year * 12 + wall.month - 1 + months
    year, month = index // 12, index % 12 + 1
    if not MINYEAR < year < MAXYEAR:
        raise OverflowError
    try:
        return instant(wall.replace(year=year, month=month))
    except ValueError:  # No such day.
        return instant(datetime(year + month // 12, month % 12 + 1, 1))  # noqa: DTZ001


def instant(wall: datetime) -> datetime:
    """What the clocks show at that time; of a time that they skip, when they do."""
    aware = wall.replace(tzinfo=zone())
    found = aware.astimezone(UTC)
    if found.astimezone(zone()).replace(tzinfo=None, fold=0) == wall:
        return found
    return _change(aware.replace(fold=1).astimezone(UTC), found)


def _wall_after_change(local: datetime) -> datetime:
    """What the clocks showed when they were set back, for a time they show twice."""
    first = local.replace(fold=0)
    change = _change(first.astimezone(UTC), local.astimezone(UTC))
    offset = first.utcoffset() or timedelta()
    return (change + offset).replace(tzinfo=None)


def _change(early: datetime, late: datetime) -> datetime:
    """When, between the two, the clocks were changed."""
    low, high = math.floor(early.timestamp()), math.ceil(late.timestamp())
    after = datetime.fromtimestamp(high, zone()).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone()).utcoffset() == after:
            high = middle
        else:
            low = middle
    return datetime.fromtimestamp(high, UTC)


def _first_day(day: date, unit: str) -> date:
    if unit == "day":
        return day
    if unit == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(month=(day.month - 1) // MONTHS[unit] * MONTHS[unit] + 1, day=1)


def _next_day(first: date, unit: str) -> date:
    if unit in ("day", "week"):
        return first + timedelta(days=1 if unit == "day" else 7)
    index = first.month - 1 + MONTHS[unit]
    return first.replace(year=first.year + index // 12, month=index % 12 + 1)


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)

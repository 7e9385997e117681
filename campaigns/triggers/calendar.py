"""On which days something is planned, and when that is. Pure: no database, no clock.

All of it is by the installation's clock. A day that a month does not have is the last
one it has; a time that the clocks skip is the moment when they are changed, and one
that they show twice is the first of the two; a day that is skipped as a whole (when a
country goes over the date line) has no time.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, date, datetime, time, timedelta
from itertools import count

from segments.moments import instant, zone

UNITS = ("day", "week", "month")
#: Nothing is planned for later than this.
LAST = date(MAXYEAR - 10, 12, 31)


@dataclass(frozen=True, slots=True)
class Plan:
    """Days on which something is planned, at a time of day."""

    first: date
    at: time
    #: Every so many days, weeks or months; 0: on the first day only.
    every: int = 0
    unit: str = ""
    #: Of weeks: Monday is 0. None means that of the first day.
    weekdays: tuple[int, ...] = ()
    #: The last day, included.
    until: date | None = None

    def after(self, moment: datetime) -> datetime | None:
        """The first time after this moment; None: there is no more."""
        # The day before, too: what the clocks skip may come a day late.
        begin = moment.astimezone(zone()).date() - timedelta(days=1)
        for day in self.days(begin):
            planned = at_time(day, self.at)
            if planned is not None and planned > moment:
                return planned
        return None

    def next_times(self, moment: datetime, number: int) -> list[datetime]:
        """The first few times after this moment."""
        found: list[datetime] = []
        while len(found) < number and (following := self.after(moment)):
            found.append(following)
            moment = following
        return found

    def days(self, begin: date) -> Iterator[date]:
        """The planned days from `begin` on, in their order."""
        last = min(self.until or LAST, LAST)
        for day in self._all_days(max(begin, self.first)):
            if day > last:
                return
            if day >= begin and day >= self.first:
                yield day

    def _all_days(self, begin: date) -> Iterator[date]:
        """From a little before `begin` on."""
        if not self.every:
            yield self.first
            return
        since = (begin - self.first).days
        match self.unit:
            case "day":
                for number in count(since // self.every):
                    yield self.first + timedelta(days=number * self.every)
            case "week":
                monday = self.first - timedelta(days=self.first.weekday())
                weekdays = self.weekdays or (self.first.weekday(),)
                for number in count(since // 7 // self.every):
                    week = monday + timedelta(weeks=number * self.every)
                    for weekday in sorted(weekdays):
                        yield week + timedelta(days=weekday)
            case "month":
                months = (begin.year - self.first.year) * 12
                months += begin.month - self.first.month
                for number in count(months // self.every):
                    yield _month_on(self.first, number * self.every)


def at_time(day: date, at: time) -> datetime | None:
    """When the clocks of the installation show this time on this day; None where they
    skip the day."""
    moment = instant(datetime.combine(day, at))
    return moment if moment.astimezone(zone()).date() == day else None


def local_day(moment: datetime) -> date:
    """The day of the installation that a moment belongs to."""
    return moment.astimezone(zone()).date()


def _month_on(day: date, months: int) -> date:
    """The same day so many months later, or the last day of a month without it."""
    index = day.year * 12 + day.month - 1 + months
    year, month = index // 12, index % 12 + 1
    return date(year, month, min(day.day, monthrange(year, month)[1]))

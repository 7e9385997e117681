"""What a source sent lately, told at the same cost at any size of the journals.

No index leads from a source to its events: it would slow down every event to answer
a question that is asked once a day. So a short day is counted, and of a long one a
sample is taken.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count as CountRows
from django.db.models import Max, Q

from events.keys import in_words
from events.models import Event, RejectedEvent, Source, SystemEvent
from smartcomm.core.paging import Count, count, first_id_since

DAY = timedelta(days=1)

#: So many rows at the end of a journal are read one by one.
READ = 20_000
#: Of a longer day so many are drawn by lot.
DRAWN = 5_000
#: Rejected events are counted up to here.
MOST_REJECTED = 1_000


@dataclass(frozen=True)
class Sent:
    """How many events a source sent in a day, and when the last of them came.

    `at_most`: none was drawn, so there are fewer than that (at 95 %).
    """

    number: int
    is_exact: bool = True
    at_most: int = 0
    last_at: datetime | None = None

    def __str__(self) -> str:
        if self.at_most:
            return f"fewer than {self.at_most:,}"
        return f"{self.number:,}" if self.is_exact else f"about {self.number:,}"


@dataclass(frozen=True)
class Lately:
    """What a source sent in the last 24 hours, and what of it waits for somebody."""

    events: Sent
    system_events: Sent
    rejected: Count
    now: datetime

    @property
    def last_at(self) -> datetime | None:
        times = (self.events.last_at, self.system_events.last_at)
        return max((at for at in times if at), default=None)

    @property
    def ago(self) -> str:
        return f"{in_words(self.now - self.last_at)} ago" if self.last_at else ""


def lately(source: Source, *, now: datetime) -> Lately:
    """Some twenty look-ups by key and a read of `READ` rows, for each journal."""
    rejected = RejectedEvent.objects.filter(
        source=source, status=RejectedEvent.Status.OPEN
    )
    return Lately(
        events=_sent(Event, source, since=now - DAY),
        system_events=_sent(SystemEvent, source, since=now - DAY),
        rejected=count(rejected, up_to=MOST_REJECTED),
        now=now,
    )


def _sent(
    model: type[Event] | type[SystemEvent], source: Source, *, since: datetime
) -> Sent:
    last = model._default_manager.aggregate(last=Max("pk"))["last"]
    if last is None:
        return Sent(0)
    first = first_id_since(model, "received_at", since)
    rows = model._default_manager.filter(source=source)
    end = rows.filter(pk__gt=last - READ).aggregate(
        number=CountRows("pk", filter=Q(pk__gte=first)), at=Max("received_at")
    )
    span = last + 1 - first
    if span <= READ:
        return Sent(end["number"], last_at=end["at"])
    ids = random.sample(range(first, last + 1), DRAWN)
    drawn = rows.filter(pk__in=ids).aggregate(
        number=CountRows("pk"), at=Max("received_at")
    )
    last_at = end["at"] or drawn["at"]
    if not drawn["number"]:
        # The rule of three.
        at_most = max(_round(3 * span / DRAWN), end["number"])
        return Sent(end["number"], is_exact=False, at_most=at_most, last_at=last_at)
    number = max(_round(drawn["number"] * span / DRAWN), end["number"])
    return Sent(number, is_exact=False, last_at=last_at)


def _round(number: float) -> int:
    """To two figures: more would pretend to know."""
    return int(float(f"{number:.1e}"))

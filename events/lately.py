"""What a source sent lately, told at the same cost at any size of the journals.

No index leads from a source to its events: it would slow down every event to answer
a question that is asked once a day. So a short day is counted, if that takes no longer
than half a second, and of a long one a sample is taken.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count as CountRows
from django.db.models import Max

from events.keys import in_words
from events.models import Event, RejectedEvent, Source, SystemEvent
from smartcomm.core.paging import Count, count, first_id_since

DAY = timedelta(days=1)

#: Events of a day are counted one by one up to here.
COUNTED = 500_000
#: The last event is looked for among so many at the end of a journal.
READ = 20_000
#: Of a longer day so many are drawn by lot.
DRAWN = 5_000
#: From fewer hits than that no number is told, but how many there are at most.
FEW_DRAWN = 10
#: Rejected events are counted up to here.
MOST_REJECTED = 1_000


@dataclass(frozen=True)
class Sent:
    """How many events a source sent in a day, and when the last of them came.

    `at_most`: hardly any was drawn, so there are fewer than that (at 95 %).
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
    """Bounded at any size: half a second for each journal at worst."""
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
    span = last + 1 - first
    rows = model._default_manager.filter(source=source)
    last_at = rows.filter(pk__gt=last - READ).aggregate(at=Max("received_at"))["at"]
    if span <= COUNTED:
        counted = count(rows.filter(pk__gte=first), up_to=COUNTED)
        if counted.exact:
            return Sent(counted.number, last_at=last_at)
    ids = random.sample(range(first, last + 1), min(DRAWN, span))
    drawn = rows.filter(pk__in=ids).aggregate(n=CountRows("pk"), at=Max("received_at"))
    last_at = last_at or drawn["at"]
    share = span / len(ids)
    if drawn["n"] < FEW_DRAWN:
        # So many at most, with a likelihood of 95 %: for none drawn the rule of three.
        most = 3 + drawn["n"] + 2 * math.sqrt(drawn["n"])
        return Sent(0, is_exact=False, at_most=_round(most * share), last_at=last_at)
    return Sent(_round(drawn["n"] * share), is_exact=False, last_at=last_at)


def _round(number: float) -> int:
    """To two figures: more would pretend to know."""
    return int(float(f"{number:.1e}"))

"""What an answer may be about: an event, or a run whose event is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Exists, OuterRef, Q

from campaigns.models import (
    Broadcast,
    Run,
    Version,
)
from campaigns.triggers import PLANNED, TRIGGERS
from customers.models import Customer
from events.history import Item, items
from events.models import (
    Event,
    Kind,
    Source,
    SystemEvent,
)
from smartcomm.core.paging import Page, Place, Stream, merge, newest_below

#: So many events of a customer are told at once.
PER_PAGE = 20
#: The streams of a customer's occasions; at one moment the higher is the newer.
SYSTEM, OWN, RUNS = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Lone:
    """A run whose event is not there: it was erased, or told twice by two customers who
    were merged."""

    run: Run

    @property
    def place(self) -> Place:
        return Place(self.run.started_at, RUNS, self.run.pk)


def events_for(
    customer: Customer, versions: Sequence[Version], *, before: str
) -> Page[Item | Lone]:
    """The events that the campaign has ever waited for, newest first."""
    types = {
        version.event_type_id
        for version in versions
        if version.trigger_kind not in PLANNED
    }
    own = Event.objects.filter(customer=customer, type_id__in=types)
    # Planned times of other campaigns have the same type.
    planned = Broadcast.objects.filter(
        system_event=OuterRef("pk"), campaign__in={one.campaign_id for one in versions}
    )
    system = SystemEvent.objects.filter(Q(type_id__in=types) | Exists(planned))
    kinds = {TRIGGERS[version.trigger_kind].on for version in versions}
    streams: dict[int, Stream[Item | Lone]] = {}
    if Kind.CUSTOMER in kinds:
        streams[OWN] = lambda bound, limit: items(
            newest_below(own, "occurred_at", bound, limit), Kind.CUSTOMER
        )
    if Kind.SYSTEM in kinds:
        streams[SYSTEM] = lambda bound, limit: items(
            newest_below(system, "occurred_at", bound, limit), Kind.SYSTEM
        )
    if versions:
        alone = _lone_runs(customer, versions[0].campaign_id)
        streams[RUNS] = lambda bound, limit: [
            Lone(run) for run in newest_below(alone, "started_at", bound, limit)
        ]
    return merge(streams, before=before, limit=PER_PAGE)


def _lone_runs(customer: Customer, campaign_id: int) -> Any:
    own = Event.objects.filter(pk=OuterRef("event_id"), customer_id=customer.pk)
    system = SystemEvent.objects.filter(pk=OuterRef("system_event_id"))
    return (
        Run.objects.filter(customer=customer, campaign=campaign_id)
        .filter(
            Q(event=None, system_event=None)
            | (Q(event__isnull=False) & ~Exists(own))
            | (Q(system_event__isnull=False) & ~Exists(system))
        )
        .select_related("version", "step", "campaign")
    )


def with_id(customer: Customer, event: str) -> list[Item | Lone]:
    """The events with this id: one, unless several sources chose the same."""
    sources = list(Source.objects.values_list("pk", flat=True))
    named = {"source__in": sources, "external_id": event}
    own = items(Event.objects.filter(customer=customer, **named), Kind.CUSTOMER)
    system = items(SystemEvent.objects.filter(**named), Kind.SYSTEM)
    return sorted([*own, *system], key=lambda item: item.place, reverse=True)

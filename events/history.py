"""The time line of a customer: what they did, and what happened for everyone.

`timeline` is the whole of what this app knows. A page that has more to tell (messages,
runs) merges its own streams with `streams`, see smartcomm.core.paging.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Exists, F, Func, OuterRef, Q, Value
from django.db.models.sql.compiler import SQLCompiler

from customers.models import Customer
from events.models import Event, EventType, Kind, Source, SystemEvent
from smartcomm.core.paging import Page, Place, Stream, merge, newest_below

#: At the same moment a customer's own event stands above a system event.
SYSTEM_EVENTS, CUSTOMER_EVENTS = 1, 2

_apart: set[str] = set()


@dataclass(frozen=True, slots=True)
class Item:
    """An event on a time line. `id` is the one its sender chose, `pk` is ours."""

    pk: int
    id: str
    name: str
    kind: Kind
    occurred_at: datetime
    received_at: datetime
    source: str
    context: dict[str, Any]
    is_backfill: bool
    type_id: int

    @property
    def place(self) -> Place:
        own = self.kind == Kind.CUSTOMER
        return Place(
            self.occurred_at, CUSTOMER_EVENTS if own else SYSTEM_EVENTS, self.pk
        )


def timeline(
    customer: Customer,
    *,
    before: str = "",
    name: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    text: str = "",
    limit: int = 50,
) -> Page[Item]:
    """The customer's events, and the system events since they became known.

    Newest first. `before` is the `next` of the page before; `since` is included and
    `until` is not; `text` is looked for in the event's name and in the values of its
    context, without regard to case. Page 500 costs what page 1 costs.
    """
    found = streams(customer, name=name, since=since, until=until, text=text)
    return merge(found, before=before, limit=limit)


def streams(
    customer: Customer,
    *,
    name: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    text: str = "",
) -> dict[int, Stream[Item]]:
    """The same as streams to be merged, by their number."""
    own = Event.objects.filter(customer=customer)
    system = SystemEvent.objects.filter(occurred_at__gte=known_since(customer))
    if not name:
        apart = EventType.objects.filter(name__in=_apart)
        system = system.exclude(type__in=apart)
    if name:
        # Looked up first: the type's number is in the index, its name is not.
        types = EventType.objects.filter(name=name)
        type_id = types.values_list("pk", flat=True).first()
        if type_id is None:
            return {}
        own, system = own.filter(type_id=type_id), system.filter(type_id=type_id)
    return {
        CUSTOMER_EVENTS: _stream(own, Kind.CUSTOMER, since, until, text),
        SYSTEM_EVENTS: _stream(system, Kind.SYSTEM, since, until, text),
    }


def set_apart(*names: str) -> None:
    """Show system events of these names only to who asks for them by name. For apps
    above, which record many that concern few."""
    _apart.update(names)


def known_since(customer: Customer) -> datetime:
    """From when system events concern the customer.

    Whatever came first: their registration, their first event (it may have been
    backfilled), or the day they were told to us.
    """
    first = Event.objects.filter(customer=customer).order_by("occurred_at", "id")
    moments = [
        customer.created_at,
        customer.registered_at,
        first.values_list("occurred_at", flat=True).first(),
    ]
    return min(moment for moment in moments if moment is not None)


def names_of(customer: Customer) -> list[str]:
    """The names of the events that stand on the customer's time line, for a filter.

    Asked type by type: there are few, and the customer may have many events.
    """
    here = OuterRef("pk")
    own = Event.objects.filter(customer=customer, type=here)
    since = known_since(customer)
    system = SystemEvent.objects.filter(occurred_at__gte=since, type=here)
    # Two questions and not one with OR, which PostgreSQL answers by reading them all.
    names: set[str] = set()
    for kind, found in ((Kind.CUSTOMER, own), (Kind.SYSTEM, system)):
        types = EventType.objects.filter(Exists(found), kind=kind)
        names.update(types.values_list("name", flat=True))
    return sorted(names)


def _stream(
    rows: models.QuerySet[Any],
    kind: Kind,
    since: datetime | None,
    until: datetime | None,
    text: str,
) -> Stream[Item]:
    if since is not None:
        rows = rows.filter(occurred_at__gte=since)
    if until is not None:
        rows = rows.filter(occurred_at__lt=until)
    if text:
        types = EventType.objects.filter(kind=kind, name__icontains=text)
        named = list(types.values_list("pk", flat=True))
        rows = rows.annotate(values_match=_values_contain(text)).filter(
            Q(type_id__in=named) | Q(values_match=True)
        )

    def fetch(bound: tuple[datetime, int] | None, limit: int) -> Sequence[Item]:
        # No joins: with one, PostgreSQL may read and sort all of a customer's events
        # where the index would have given it the page.
        return items(newest_below(rows, "occurred_at", bound, limit), kind)

    return fetch


def items(rows: Iterable[Any], kind: Kind) -> list[Item]:
    """Rows of Event, or of SystemEvent, as `kind` says. Two queries beside theirs."""
    found = list(rows)
    types = EventType.objects.in_bulk({row.type_id for row in found})
    sources = Source.objects.in_bulk({row.source_id for row in found})
    return [
        Item(
            pk=row.pk,
            id=row.external_id,
            name=types[row.type_id].name,
            kind=kind,
            occurred_at=row.occurred_at,
            received_at=row.received_at,
            source=sources[row.source_id].name,
            context=row.context,
            is_backfill=row.is_backfill,
            type_id=row.type_id,
        )
        for row in found
    ]


# Values only: every event of a type has the same field codes. As text and not as JSON,
# so that a quotation mark or a line break is found as it was sent. Never NULL.
VALUES_CONTAIN = """
    EXISTS (
        SELECT 1
          FROM jsonb_path_query(
                   {context},
                   'strict $.** ? (@.type() != "object" && @.type() != "array")'
               ) AS found(value)
         WHERE found.value #>> '{{}}' ILIKE {pattern}
    )
"""


class _ValuesContain(Func):
    """Whether a value anywhere in a context contains a text."""

    output_field = models.BooleanField()

    def as_sql(
        self,
        compiler: SQLCompiler,
        connection: BaseDatabaseWrapper,
        function: str | None = None,
        template: str | None = None,
        arg_joiner: str | None = None,
        **extra_context: Any,
    ) -> tuple[str, tuple[str | int, ...]]:
        context, pattern = self.source_expressions
        context_sql, context_params = compiler.compile(context)
        pattern_sql, pattern_params = compiler.compile(pattern)
        sql = VALUES_CONTAIN.format(context=context_sql, pattern=pattern_sql)
        return sql, (*context_params, *pattern_params)


def _values_contain(text: str) -> _ValuesContain:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return _ValuesContain(F("context"), Value(f"%{escaped}%"))

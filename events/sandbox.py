"""What an event would be stored as, and what it would touch; nothing of it is kept.

The very thing that records events is run, in a transaction that is always rolled
back, so that what is told here is what would happen. While the event stands there, the
apps above are asked what they would make of it: they `introduce` themselves when they
start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
import structlog
from django.db import OperationalError, transaction
from django.utils import timezone

from customers.contacts import normalise_email, normalise_phone
from customers.models import Customer, FormerId
from customers.wire import check_external_id
from events.formats import TRANSLATORS
from events.ingest import ACCEPTED, DUPLICATE, REJECTED, Result, record_events
from events.models import Event, EventField, Format, Kind, Source, SystemEvent
from smartcomm.core.db import execute, fetch_all, sqlstate
from smartcomm.core.errors import Conflict, Invalid, UserError
from smartcomm.core.problems import FieldProblem

logger = structlog.get_logger(__name__)
Meta = msgspec.Meta
T = TypeVar("T")

#: So many events are tried at once.
MAX_ITEMS = 20
#: A trial never makes others wait for longer, and waits no longer for them.
LOCK_MS = 1_000
STATEMENT_MS = 2_000
SECONDS = 5.0

#: What PostgreSQL says when it gave up: waiting for a lock, too long a statement, two
#: that wait for each other.
GAVE_UP = ("55P03", "57014", "40P01")


class TooManyToTry(Invalid):
    """More events than a dry run takes."""

    code = "dry_run_too_many"


class Busy(Conflict):
    """Somebody else is storing the same thing just now."""

    code = "dry_run_busy"


# What a dry run answers. The shapes stand here, since the API tells all of them; the
# apps above fill those that are theirs.


class FieldLearnt(msgspec.Struct):
    """A field that this event brings first, with the type it would be learnt as."""

    code: str
    type: str


class StoredAs(msgspec.Struct):
    """The event as it would stand in the database."""

    id: str
    name: str
    kind: Annotated[str, Meta(extra_json_schema={"enum": ["customer", "system"]})]
    customer: Annotated[
        str | None, Meta(description="The external id; null for a system event.")
    ]
    customer_created: Annotated[
        bool, Meta(description="Whether the customer would be created for it.")
    ]
    occurred_at: datetime
    context: dict[str, Any]
    backfill: bool
    type_created: Annotated[
        bool, Meta(description="Whether the event type would register itself.")
    ]
    fields_learnt: list[FieldLearnt]


class ConditionTried(msgspec.Struct, omit_defaults=True):
    """A condition in words, and whether this very event fits it."""

    sentence: str
    fits: bool
    value: Annotated[
        Any, Meta(description="What the event has there, where one field is asked.")
    ] = None


class SegmentTouched(msgspec.Struct, omit_defaults=True):
    """A segment that speaks of such events, and what this one would change in it."""

    id: int
    name: str
    before: Annotated[bool, Meta(description="Is the customer in it now?")]
    after: Annotated[bool, Meta(description="Would they be in it with this event?")]
    conditions: list[ConditionTried]
    problem: Annotated[
        str, Meta(description="Why it could not be asked; it matches nobody then.")
    ] = ""


class StepTried(msgspec.Struct, omit_defaults=True):
    """A step that the run would come to, and the way it would leave it by."""

    step: str
    action: str
    label: Annotated[str, Meta(description="The action as people call it.")]
    does: str
    way: Annotated[str, Meta(description="Empty where the run would stay.")] = ""
    reason: str = ""


class Reach(msgspec.Struct):
    """How many customers a system event would let in, right within ± `margin`."""

    count: int
    exact: bool
    margin: int
    sample: Annotated[list[str], Meta(description="External ids of some of them.")]


class TextLacks(msgspec.Struct):
    """The variables that the text of a step would lack."""

    step: str
    variables: list[str]


class CampaignTouched(msgspec.Struct, omit_defaults=True):
    """A published campaign that waits for such events."""

    id: int
    name: str
    starts: Annotated[bool, Meta(description="Whether this event would start it.")]
    reasons: Annotated[list[str], Meta(description="Why it would not start.")]
    conditions: Annotated[
        list[ConditionTried], Meta(description="Those of the trigger.")
    ]
    path: Annotated[
        list[StepTried],
        Meta(description="How far the run would go at once, step by step."),
    ] = []
    reach: Reach | None = None
    lacks: list[TextLacks] = []


class TriedItem(msgspec.Struct, omit_defaults=True):
    """What would become of one item. A duplicate shows what is stored already."""

    index: int
    id: str
    status: Annotated[
        str, Meta(extra_json_schema={"enum": ["accepted", "duplicate", "rejected"]})
    ]
    code: str = ""
    field: str = ""
    message: str = ""
    warnings: Annotated[
        list[FieldProblem],
        Meta(description="How it differs from what its type declares."),
    ] = []
    stored: StoredAs | None = None
    segments: list[SegmentTouched] = []
    campaigns: list[CampaignTouched] = []


class Tried(msgspec.Struct):
    """What would become of a request; nothing of it was stored."""

    dry_run: Annotated[bool, Meta(extra_json_schema={"enum": [True]})]
    accepted: int
    duplicates: int
    rejected: int
    results: list[TriedItem]
    notes: Annotated[
        list[str], Meta(description="What could not be asked, in whole sentences.")
    ]


# How the apps above are asked.


@dataclass(frozen=True, slots=True)
class Coming:
    """An event before it is stored: its name, and the customers it may be about."""

    kind: Kind
    name: str
    customer_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as it stands in its table for a moment."""

    pk: int
    kind: Kind
    id: str
    name: str
    type_id: int
    customer_id: int | None
    occurred_at: datetime
    received_at: datetime
    context: dict[str, Any]
    backfill: bool


@dataclass
class Trial:
    """One dry run: its moment, how long it may still take, and what it has to say."""

    now: datetime
    ends: float = field(default_factory=lambda: time.monotonic() + SECONDS)
    notes: list[str] = field(default_factory=list)
    _known: dict[str, Any] = field(default_factory=dict)

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def left_ms(self, most: int = STATEMENT_MS) -> int:
        """How long one statement may take."""
        return max(1, min(most, round((self.ends - time.monotonic()) * 1000)))

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.ends

    def once(self, name: str, find: Callable[[], T]) -> T:
        """What `find` returns, found once for all events of the trial."""
        if name not in self._known:
            self._known[name] = find()
        found: T = self._known[name]
        return found


#: What it would touch, asked with the event in its table.
After = Callable[[Stored], list[Any]]
#: Asked while the event is still to come: it looks at how things are, and returns what
#: is to be asked afterwards.
Look = Callable[[Coming, Trial], After]

_looks: dict[str, tuple[str, Look]] = {}


def introduce(part: str, look: Look, *, named: str) -> None:
    """Say who fills “segments” or “campaigns” of an answer, and their name."""
    _looks[part] = (named, look)


def try_events(
    items: Sequence[object],
    *,
    source: Source,
    kind: Kind = Kind.CUSTOMER,
    format: Format = Format.NATIVE,
    now: datetime | None = None,
) -> Tried:
    """What `record_events` would make of these items, and what that would touch.

    Stores nothing, sends nothing, wakes nobody. At most 20 items, one after the other
    as in a batch: the second may be a duplicate of the first. Takes a few seconds at
    most; what there was no time for is told in the notes.
    """
    if len(items) > MAX_ITEMS:
        raise TooManyToTry(
            f"A dry run takes at most {MAX_ITEMS} events; these are {len(items):,}. "
            "Try some of them.",
            field="events",
        )
    trial = Trial(now or timezone.now())
    try:
        with transaction.atomic():
            _set_limits()
            results = [
                _try_one(index, data, trial, source=source, kind=kind, format=format)
                for index, data in enumerate(items)
            ]
            # Nothing is kept: nor is it if anything above has failed.
            transaction.set_rollback(True)
    except OperationalError as error:
        if sqlstate(error) not in GAVE_UP:
            raise
        raise Busy(
            "The same event, customer or event type is being stored by another "
            "request just now. Try again in a moment."
        ) from error
    counts = [one.status for one in results]
    return Tried(
        dry_run=True,
        accepted=counts.count(ACCEPTED),
        duplicates=counts.count(DUPLICATE),
        rejected=counts.count(REJECTED),
        results=results,
        notes=trial.notes,
    )


def _set_limits() -> None:
    execute(
        "SELECT set_config('lock_timeout', %s, true),"
        " set_config('statement_timeout', %s, true)",
        [str(LOCK_MS), str(STATEMENT_MS)],
    )


# What has a higher key than these is of the item that is recorded next.
MARKS = """
    SELECT (SELECT coalesce(max(id), 0) FROM events_event),
           (SELECT coalesce(max(id), 0) FROM customers_customer),
           (SELECT coalesce(max(id), 0) FROM events_eventtype),
           (SELECT coalesce(max(id), 0) FROM events_eventfield)
"""


@dataclass(frozen=True, slots=True)
class _Marks:
    event: int
    customer: int
    type: int
    field: int


def _try_one(
    index: int,
    data: object,
    trial: Trial,
    *,
    source: Source,
    kind: Kind,
    format: Format,
) -> TriedItem:
    sent = _sent(data, format)
    coming = Coming(kind, _text(sent, "name"), _customers_named(sent, kind))
    after = {
        part: _asked(named, trial, partial(look, coming, trial))
        for part, (named, look) in _looks.items()
    }
    marks = _Marks(*fetch_all(MARKS)[0])
    recorded = record_events(
        [data], source=source, kind=kind, format=format, now=trial.now
    )
    result = recorded.results[0]
    item = TriedItem(
        index, result.id, result.status, result.code, result.field, result.message
    )
    item.warnings = [
        FieldProblem(field=one.field, code=one.code, message=one.message)
        for one in result.warnings
    ]
    if result.status == REJECTED:
        return item
    row = _row(result, coming, marks, source=source)
    if row is None:
        return item
    item.stored = _stored_as(row, marks)
    if result.status == ACCEPTED:
        stored = Stored(
            row.pk,
            kind,
            row.external_id,
            row.type.name,
            row.type_id,
            row.customer_id if isinstance(row, Event) else None,
            row.occurred_at,
            row.received_at,
            row.context,
            row.is_backfill,
        )
        for part, (named, _) in _looks.items():
            ask = after[part]
            if ask is not None:
                found = _asked(named, trial, partial(ask, stored))
                setattr(item, part, found or [])
    return item


def _asked(named: str, trial: Trial, ask: Callable[[], T]) -> T | None:
    """What an app above answers; None where it could not, which the notes tell."""
    if trial.is_over:
        trial.note(f"Time ran out: not all {named} were asked. Try fewer events.")
        return None
    try:
        with transaction.atomic():
            return ask()
    except OperationalError as error:
        if sqlstate(error) not in GAVE_UP:
            raise
        trial.note(f"Time ran out: not all {named} were asked. Try fewer events.")
    except UserError as error:
        trial.note(error.message)
    except Exception:
        # Whatever it is: what the event would be stored as is known, and is told.
        logger.exception("sandbox.fault", asked=named)
        trial.note(f"The {named} could not be asked; the log tells why.")
    return None


def _row(
    result: Result, coming: Coming, marks: _Marks, *, source: Source
) -> Event | SystemEvent | None:
    """The event that was stored just now, or before if it is a duplicate."""
    if coming.kind == Kind.SYSTEM:
        return (
            SystemEvent.objects.filter(source=source, external_id=result.id)
            .select_related("type")
            .first()
        )
    rows = Event.objects.filter(source=source, external_id=result.id)
    if result.status == ACCEPTED:
        rows = rows.filter(pk__gt=marks.event)
    else:
        rows = rows.filter(customer_id__in=coming.customer_ids)
    return rows.select_related("type", "customer").order_by("-pk").first()


def _stored_as(row: Event | SystemEvent, marks: _Marks) -> StoredAs:
    own = row if isinstance(row, Event) else None
    learnt = EventField.objects.filter(type_id=row.type_id, pk__gt=marks.field)
    return StoredAs(
        id=row.external_id,
        name=row.type.name,
        kind=Kind.CUSTOMER if own else Kind.SYSTEM,
        customer=own.customer.external_id if own else None,
        customer_created=own is not None and own.customer_id > marks.customer,
        occurred_at=row.occurred_at,
        context=row.context,
        backfill=row.is_backfill,
        type_created=row.type_id > marks.type,
        fields_learnt=[FieldLearnt(one.code, one.value_type) for one in learnt],
    )


def _sent(data: object, format: Format) -> dict[str, Any]:
    """The item in our own shape, as far as it can be told; nothing is refused here."""
    try:
        found = TRANSLATORS[format](data)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(sent: dict[str, Any], key: str) -> str:
    found = sent.get(key)
    return found if isinstance(found, str) else ""


def _customers_named(sent: dict[str, Any], kind: Kind) -> tuple[int, ...]:
    """The ids of the customers that the item may be about. More than one may fit."""
    if kind != Kind.CUSTOMER:
        return ()
    by, value = "external_id", sent.get("customer")
    if isinstance(value, dict) and len(value) == 1:
        by, value = next(iter(value.items()))
    try:
        value = check_external_id(value)
    except Invalid:
        return ()
    customers = Customer.objects.order_by("pk").values_list("pk", flat=True)
    if by == "external_id":
        former = FormerId.objects.filter(external_id=value)
        kept = former.values_list("customer_id", flat=True)
        return (*customers.filter(external_id=value), *kept)
    if by in ("email", "phone"):
        normalise = normalise_email if by == "email" else normalise_phone
        contact = normalise(value)
        if contact.is_valid:
            return tuple(customers.filter(**{by: contact.value})[:2])
    return ()

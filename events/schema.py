"""Event types and their context fields: learnt from what arrives, told, or enforced.

What a type declares is read from the table once in TRUSTED_SECONDS and process. An
event whose fields came before with the same types of values costs one look into a set;
nothing is written for it. Only what is new is looked at closely.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from django.db import connection, transaction

from events import drift
from events.models import Drift, EventField, EventType, Kind, Source
from events.wire import FIELD_CODE, Item, Refusal

#: Nested fields are learnt down to this depth, and so many for a type.
LEARNT_DEPTH = 3
MAX_LEARNT = 500

#: For so long a process trusts what it last read of a type. A change by staff is
#: followed everywhere after this time at the latest.
TRUSTED_SECONDS = 5.0
_MAX_TYPES = 5_000
#: So many shapes of an object, and ways to differ of a type, are remembered.
_MAX_SHAPES = 5_000
_MAX_TOLD = 100

DATE = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:?\d{2})?)?\Z"
)

FieldType = EventField.Type
What = Drift.What


@dataclass(frozen=True, slots=True)
class Declared:
    """What is known of a field."""

    id: int
    type: str
    is_required: bool
    #: Whether the table says so: that an event carried it today.
    seen_today: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which an event is not as its type declares."""

    what: What
    #: The path of the field.
    code: str
    found: str = ""


@dataclass(frozen=True, slots=True)
class FieldWarning:
    """A difference as its sender is told, of an event that was stored."""

    code: str
    field: str
    message: str


class _Shape:
    """What one object of a context (the context, or one inside) may look like."""

    __slots__ = ("dates", "inner", "prefix", "required", "settled")

    def __init__(self, prefix: str, fields: Mapping[str, Declared]) -> None:
        self.prefix = prefix
        #: (code, type of Python) of values that tell nothing new.
        self.settled: set[tuple[str, type]] = set()
        #: Texts by these codes are dates, which only looking at them tells.
        self.dates: set[str] = set()
        self.inner: dict[str, _Shape] = {}
        self.required = frozenset(
            path[len(prefix) :]
            for path, one in fields.items()
            if one.is_required
            and path.startswith(prefix)
            and "." not in path[len(prefix) :]
        )

    def settle(self, shape: tuple[str, type]) -> None:
        if len(self.settled) < _MAX_SHAPES:
            self.settled.add(shape)


class KnownType:
    """A type as this process knows it, for some seconds."""

    def __init__(
        self, type: EventType, fields: dict[str, Declared], *, day: date
    ) -> None:
        self.pk: int = type.pk
        self.name = type.name
        self.kind = type.kind
        self.mode = type.mode
        self.is_reviewed = type.is_reviewed
        self.fields = fields
        self.day = day
        self.seen_today = type.last_seen_on is not None and type.last_seen_on >= day
        self.read_at = 0.0
        self.root = _Shape("", fields)
        #: Whether an event was looked at closely, so that there is something to see.
        self.is_met = False
        #: Whether days were to be written; whether they were, the next reading tells.
        self.has_noted = False
        #: How events differed, and the hour in which that was last told.
        self.told: dict[tuple[str, str, str], int] = {}

    def says(self) -> object:
        """All that the table said of it, to be compared."""
        return (self.pk, self.mode, self.is_reviewed, self.fields, self.seen_today)

    def declares(self) -> object:
        return (
            self.mode,
            self.is_reviewed,
            {path: (one.type, one.is_required) for path, one in self.fields.items()},
        )


_known: dict[str, KnownType] = {}


def forget_known() -> None:
    """Look at the tables again, for when staff have changed something."""
    _known.clear()


def register_types(
    names: Iterable[str], kind: Kind, *, now: datetime
) -> dict[str, KnownType]:
    """The types with these names; those never seen before register themselves.

    Two queries, and none for types read within the last seconds. In a transaction
    the tables are always asked: what it sees may never be committed, and who has
    mended a type and replays wants the rules of now.
    """
    day = now.astimezone(UTC).date()
    moment = time.monotonic()
    remembers = not connection.in_atomic_block
    found: dict[str, KnownType] = {}
    wanted = set()
    for name in set(names):
        known = _known.get(name) if remembers else None
        if (
            known is not None
            and known.day == day
            and moment - known.read_at <= TRUSTED_SECONDS
        ):
            found[name] = known
        else:
            wanted.add(name)
    if not wanted:
        return found
    for name, read in _read(wanted, kind, day).items():
        # What a transaction notes may be taken back, and is not to be remembered.
        known = _known.get(name) if remembers else None
        if known is not None and known.day == day:
            if known.says() == read.says() and not known.has_noted:
                read = known
            elif known.declares() == read.declares():
                read.told = known.told
        found[name] = read
        if remembers:
            read.read_at = moment
            if len(_known) >= _MAX_TYPES:
                _known.clear()
            _known[name] = read
    return found


def _read(names: set[str], kind: Kind, day: date) -> dict[str, KnownType]:
    types = {t.name: t for t in EventType.objects.filter(name__in=names)}
    if fresh := sorted(names - types.keys()):
        EventType.objects.bulk_create(
            [EventType(name=name, kind=kind, last_seen_on=day) for name in fresh],
            ignore_conflicts=True,
        )
        types |= {t.name: t for t in EventType.objects.filter(name__in=fresh)}
    return {known.name: known for known in read_types(types.values(), day=day)}


def read_types(types: Iterable[EventType], *, day: date) -> list[KnownType]:
    """These types with their fields, read now. One query."""
    fields: dict[int, dict[str, Declared]] = {one.pk: {} for one in types}
    rows = EventField.objects.filter(type_id__in=fields).order_by("type_id", "code")
    for type_id, code, pk, value_type, is_required, seen_on in rows.values_list(
        "type_id", "code", "pk", "value_type", "is_required", "last_seen_on"
    ):
        fields[type_id][code] = Declared(
            pk, value_type, is_required, seen_on is not None and seen_on >= day
        )
    return [KnownType(one, fields[one.pk], day=day) for one in types]


def check_kind(item: Item, known: KnownType, kind: Kind) -> None:
    """Raise Refusal where the name belongs to the other kind of event."""
    if known.kind != kind:
        other = "a system event" if kind == Kind.CUSTOMER else "an event of customers"
        door = "/system-events" if kind == Kind.CUSTOMER else "/events"
        raise Refusal(
            "kind_mismatch",
            f"“{item.name}” is {other}. Send it to {door}, or choose another name.",
            field="name",
        )


@dataclass(slots=True)
class Look:
    """What a close look at one context has found."""

    differences: list[Difference] = field(default_factory=list)
    #: Paths of declared fields that came for the first time today, as far as known.
    seen: list[str] = field(default_factory=list)


def is_settled(known: KnownType, context: Mapping[str, Any]) -> bool:
    """Whether all of it came before today, with the same types of values."""
    return known.is_met and _is_settled(known.root, context)


def _is_settled(shape: _Shape, context: Mapping[str, Any]) -> bool:
    if not context.keys() >= shape.required:
        return False
    settled = shape.settled
    if settled.issuperset(zip(context, map(type, context.values()), strict=False)):
        return True
    # Dates and objects have to be looked at, and nothing else may be among the rest.
    dates, inner = shape.dates, shape.inner
    for code, value in context.items():
        kind = type(value)
        if (code, kind) in settled:
            continue
        if kind is str:
            agrees = code in dates and DATE.match(value) is not None
        else:
            agrees = kind is dict and code in inner and _is_settled(inner[code], value)
        if not agrees:
            return False
    return True


def look_closely(known: KnownType, context: Mapping[str, Any]) -> Look:
    """How a context differs from what its type declares. Nothing is written."""
    look = Look()
    _look(known, known.root, context, look, 1)
    return look


def _look(
    known: KnownType,
    shape: _Shape,
    context: Mapping[str, Any],
    look: Look,
    depth: int,
) -> None:
    for code, value in context.items():
        kind = type(value)
        if (code, kind) in shape.settled:
            continue
        if kind is dict and (inner := shape.inner.get(code)) is not None:
            _look(known, inner, value, look, depth + 1)
        elif not (kind is str and code in shape.dates and DATE.match(value)):
            _look_at(known, shape, code, value, look, depth)
    for code in shape.required:
        if context.get(code) is None:
            look.differences.append(Difference(What.FIELD_MISSING, shape.prefix + code))


def _look_at(
    known: KnownType, shape: _Shape, code: str, value: Any, look: Look, depth: int
) -> None:
    """Look at a value whose field, type of value or both are not settled."""
    if depth > 1 and not FIELD_CODE.match(code):
        shape.settle((code, type(value)))
        return
    found = type_of(value)
    if found is None:
        if code not in shape.required:
            shape.settle((code, type(value)))
        return
    path = shape.prefix + code
    declared = known.fields.get(path)
    if declared is None:
        look.differences.append(Difference(What.NEW_FIELD, path, found))
        if found == FieldType.OBJECT and depth < LEARNT_DEPTH:
            # All of it is new; it is learnt with its object.
            _look(known, _Shape(f"{path}.", {}), value, look, depth + 1)
        return
    if not fits(found, declared.type):
        look.differences.append(Difference(What.TYPE_CHANGED, path, found))
        return
    if not declared.seen_today:
        look.seen.append(path)
    if found == FieldType.OBJECT and depth < LEARNT_DEPTH:
        inner = _Shape(f"{path}.", known.fields)
        shape.inner[code] = inner
        _look(known, inner, value, look, depth + 1)
    elif declared.type == FieldType.DATE:
        shape.dates.add(code)
    else:
        shape.settle((code, type(value)))


def fits(found: str, declared: str) -> bool:
    """Whether a value of one type may stand in a field of another."""
    return found == declared or (
        declared == FieldType.STRING and found == FieldType.DATE
    )


class Notes:
    """What the events of a batch tell of their types, to be written at its end."""

    def __init__(self, *, source: Source, now: datetime) -> None:
        self.source = source
        self.now = now
        self.learnt: dict[tuple[int, str], str] = {}
        self.types: dict[int, KnownType] = {}
        self.seen: set[int] = set()
        self.drift: dict[tuple[int, str, str, str], str] = {}

    def check(self, known: KnownType, item: Item) -> Sequence[FieldWarning]:
        """What the sender shall be told of an event that is stored.

        Raises Refusal where the type is enforced and the event is not as declared.
        """
        if is_settled(known, item.context):
            return ()
        look = look_closely(known, item.context)
        self._note(known, look, item)
        known.is_met = True
        if not look.differences or known.mode == EventType.Mode.OPEN:
            return ()
        if known.mode == EventType.Mode.ENFORCED:
            raise refusal(look.differences[0], known)
        return [warning(one, known) for one in outermost(look.differences)]

    def _note(self, known: KnownType, look: Look, item: Item) -> None:
        if not known.seen_today or look.seen:
            self.types[known.pk] = known
            self.seen.update(known.fields[path].id for path in look.seen)
        learns = known.mode == EventType.Mode.OPEN
        hour = int(self.now.timestamp()) // 3600
        for one in look.differences if learns else outermost(look.differences):
            if learns and one.what == What.NEW_FIELD:
                self._learn(known, one)
                if not known.is_reviewed:
                    continue
            key = (one.code, one.what, one.found)
            before = known.told.get(key)
            if before == hour or (before is None and len(known.told) >= _MAX_TOLD):
                continue
            known.told[key] = hour
            self.drift[known.pk, one.code, one.what, one.found] = item.id

    def _learn(self, known: KnownType, new: Difference) -> None:
        if len(known.fields) < MAX_LEARNT:
            self.learnt.setdefault((known.pk, new.code), new.found)
            self.types[known.pk] = known

    def write(self) -> None:
        """Write what is new. Nothing to do for nearly every batch.

        Fields are learnt at once. The rest are remarks, which wait for the end of a
        transaction, hold no locks in it, and spoil no event if they cannot be written.
        """
        if self.learnt:
            self._write_learnt()
        if self.types or self.drift:
            transaction.on_commit(self._write_remarks, robust=True)

    def _write_learnt(self) -> None:
        day = self.now.astimezone(UTC).date()
        room = {pk: MAX_LEARNT - len(known.fields) for pk, known in self.types.items()}
        rows = []
        # Sorted, so that two batches never wait for each other.
        for (type_id, code), value_type in sorted(self.learnt.items()):
            if room[type_id] > 0:
                room[type_id] -= 1
                rows.append(
                    EventField(
                        type_id=type_id,
                        code=code,
                        value_type=value_type,
                        last_seen_on=day,
                    )
                )
        EventField.objects.bulk_create(rows, ignore_conflicts=True)
        for row in rows:
            # What others learnt meanwhile is in the table.
            _known.pop(self.types[row.type_id].name, None)

    def _write_remarks(self) -> None:
        drift.write(self.drift, source=self.source, now=self.now)
        unseen = [pk for pk, known in self.types.items() if not known.seen_today]
        drift.mark_seen(unseen, self.seen, day=self.now.astimezone(UTC).date())
        for known in self.types.values():
            known.has_noted = True


def outermost(differences: list[Difference]) -> list[Difference]:
    """Without what is inside an object that is itself new: the object is told."""
    new = {one.code for one in differences if one.what == What.NEW_FIELD}
    return [one for one in differences if not _is_inside(one.code, new)]


def _is_inside(path: str, objects: set[str]) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:i]) in objects for i in range(1, len(parts)))


CODES = {
    What.NEW_FIELD: "field_unknown",
    What.TYPE_CHANGED: "field_type",
    What.FIELD_MISSING: "field_missing",
}


def refusal(one: Difference, known: KnownType) -> Refusal:
    """Why an event of an enforced type is refused."""
    name = known.name
    if one.what == What.NEW_FIELD:
        return Refusal(
            "field_unknown",
            f"“{one.code}” is not declared for “{name}”, which is enforced. "
            "Declare it under Event types, then replay.",
            field=f"context.{one.code}",
        )
    if one.what == What.FIELD_MISSING:
        return Refusal(
            "field_missing",
            f"“{one.code}” is required for “{name}”, and is missing. Send it, or make "
            "it optional under Event types, then replay.",
            field=f"context.{one.code}",
        )
    return Refusal(
        "field_type",
        f"“{one.code}” of “{name}” is declared as {_declared_type(one, known)}, and "
        f"came as {FieldType(one.found).label.lower()}.",
        field=f"context.{one.code}",
    )


def warning(one: Difference, known: KnownType) -> FieldWarning:
    """What the sender of an event is told that was stored all the same."""
    match one.what:
        case What.NEW_FIELD:
            message = (
                f"“{one.code}” is not declared for “{known.name}”. The event is "
                "stored; declare the field under Event types, or stop sending it."
            )
        case What.FIELD_MISSING:
            message = (
                f"“{one.code}” is required for “{known.name}”, and is missing. The "
                "event is stored without it."
            )
        case _:
            message = (
                f"“{one.code}” of “{known.name}” is declared as "
                f"{_declared_type(one, known)}, and came as "
                f"{FieldType(one.found).label.lower()}. The event is stored as it came."
            )
    return FieldWarning(CODES[one.what], f"context.{one.code}", message)


def _declared_type(one: Difference, known: KnownType) -> str:
    return str(FieldType(known.fields[one.code].type).label).lower()


def type_of(value: Any) -> FieldType | None:
    """The type a field has by one of its values; None for null, which tells nothing."""
    match value:
        case None:
            return None
        case bool():
            return FieldType.BOOLEAN
        case int() | float():
            return FieldType.NUMBER
        case str():
            return FieldType.DATE if DATE.match(value) else FieldType.STRING
        case Mapping():
            return FieldType.OBJECT
    return FieldType.LIST

"""Say what a type of events carries, before or after the first of them arrives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from events import schema
from events.models import Drift, EventField, EventType, Kind
from events.schema import LEARNT_DEPTH, MAX_LEARNT, FieldType
from events.wire import FIELD_CODE, MAX_NAME, UNSTORABLE
from smartcomm.core.errors import Conflict, Invalid

MAX_LABEL = 150


class NameTaken(Conflict):
    """There is such a type already."""

    code = "name_taken"


@dataclass(frozen=True, slots=True)
class Field:
    """A field as it is declared. What is None stays as it is."""

    code: str
    type: FieldType | None = None
    label: str | None = None
    is_required: bool | None = None


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is said of a type. What is None stays as it is, and so do other fields."""

    description: str | None = None
    mode: EventType.Mode | None = None
    is_reviewed: bool | None = None
    fields: tuple[Field, ...] = ()
    #: Fields of the type that are not named here are no longer declared.
    is_complete: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What a declaration would do to one field, for who looks first."""

    code: str
    words: str


@transaction.atomic
def declare_type(name: str, kind: Kind, declaration: Declaration) -> EventType:
    """Make a type. It counts as reviewed unless the declaration says otherwise."""
    check_name(name)
    event_type, is_new = EventType.objects.get_or_create(
        name=name, defaults={"kind": kind, "is_reviewed": True}
    )
    if not is_new:
        raise NameTaken(
            f"There is an event type “{name}” already. Change that one.", field="name"
        )
    return update_type(event_type, declaration)


def put_type(
    name: str, kind: Kind | None, declaration: Declaration
) -> tuple[EventType, bool]:
    """Make the type with this name, or change it; whether it was made.

    Without a kind a new type is one of customers.
    """
    found = EventType.objects.filter(name=name).first()
    if found is None:
        try:
            return declare_type(name, kind or Kind.CUSTOMER, declaration), True
        except NameTaken:
            # Another caller, or the first event, was quicker.
            found = EventType.objects.get(name=name)
    check_kind(found, kind)
    return update_type(found, declaration), False


def check_kind(event_type: EventType, kind: Kind | None) -> None:
    """Refuse to make a type one of the other kind: its events would be in no place."""
    if kind is not None and event_type.kind != kind:
        raise Conflict(
            f"“{event_type.name}” is a {event_type.get_kind_display().lower()}, and "
            "stays one. Choose another name.",
            field="x-kind",
            code="kind_mismatch",
        )


@transaction.atomic
def update_type(event_type: EventType, declaration: Declaration) -> EventType:
    """Change what a type declares. Other processes follow within seconds.

    Safe while events of it arrive: a field that is learnt meanwhile is corrected.
    """
    # Learning refers to the row, and is not held up by this lock.
    locked = EventType.objects.select_for_update(no_key=True).get(pk=event_type.pk)
    known = {one.code: one for one in locked.fields.all()}
    fields = _complete(declaration.fields, known)
    _check_place(fields, known)
    removed = _removed(fields, known, is_complete=declaration.is_complete)
    if len((known.keys() | fields.keys()) - removed) > MAX_LEARNT:
        raise Invalid(
            f"A type has at most {MAX_LEARNT} fields.", field="fields", code="too_many"
        )
    for name in ("description", "mode", "is_reviewed"):
        if (value := getattr(declaration, name)) is not None:
            setattr(locked, name, value)
    locked.save(update_fields=["description", "mode", "is_reviewed"])
    for one in fields.values():
        one.type = locked
    EventField.objects.bulk_create(
        [one for _, one in sorted(fields.items())],
        update_conflicts=True,
        unique_fields=["type", "code"],
        update_fields=["value_type", "label", "is_required"],
    )
    locked.fields.filter(code__in=removed).delete()
    settle(locked, declared={one.code for one in declaration.fields}, removed=removed)
    return locked


def settle(
    event_type: EventType, *, declared: Iterable[str], removed: Iterable[str] = ()
) -> None:
    """Forget how events differed from what is no longer so.

    To be called when fields of a type have been declared or removed by hand, in the
    transaction that did it. Makes this process look at the table again.
    """
    fields = event_type.fields.filter(code__in=set(declared))
    over = Q(code__in=set(removed))
    for code, value_type, is_required in fields.values_list(
        "code", "value_type", "is_required"
    ):
        fitting = [one for one in FieldType.values if schema.fits(one, value_type)]
        here = Q(what=Drift.What.NEW_FIELD) | Q(
            what=Drift.What.TYPE_CHANGED, found_type__in=fitting
        )
        if not is_required:
            here |= Q(what=Drift.What.FIELD_MISSING)
        over |= Q(code=code) & here
    Drift.objects.filter(over, type=event_type).delete()
    transaction.on_commit(schema.forget_known)


@transaction.atomic
def tidy(
    event_type: EventType, *, declared: Iterable[str], removed: Iterable[str]
) -> None:
    """After fields were changed one by one: nothing stays inside what is no object."""
    types = dict(event_type.fields.values_list("code", "value_type"))
    lost = {
        code
        for code in types
        if any(types.get(parent) != FieldType.OBJECT for parent in parents(code))
    }
    event_type.fields.filter(code__in=lost).delete()
    settle(event_type, declared=declared, removed={*removed, *lost})


def accept(row: Drift) -> None:
    """Declare a field as it came: the events are right, and the type follows."""
    is_known = row.type.fields.filter(code=row.code).exists()
    match row.what:
        case Drift.What.FIELD_MISSING:
            new = Field(row.code, is_required=False)
        case Drift.What.NEW_FIELD if is_known:
            new = Field(row.code)
        case _:
            new = Field(row.code, type=FieldType(row.found_type))
    if not is_known and row.what != Drift.What.NEW_FIELD:
        # It was removed meanwhile; then nothing differs from it.
        row.delete()
        return
    update_type(row.type, Declaration(fields=(new,)))


@transaction.atomic
def remove_field(gone: EventField) -> None:
    """Declare a field no longer, nor what is inside it."""
    fields = gone.type.fields.filter(
        Q(code=gone.code) | Q(code__startswith=f"{gone.code}.")
    )
    codes = set(fields.values_list("code", flat=True))
    fields.delete()
    settle(gone.type, declared=(), removed=codes)


def dismiss(row: Drift) -> None:
    """It is fine as it is: do not show it again."""
    Drift.objects.filter(pk=row.pk).update(reviewed_at=timezone.now())


def dismiss_gone(gone: EventField) -> None:
    """It is fine not to see this field; told again if it comes back and goes."""
    EventField.objects.filter(pk=gone.pk).update(gone_reviewed_on=gone.last_seen_on)


def restore(event_type: EventType) -> None:
    """Show again what was dismissed of a type."""
    event_type.drifts.update(reviewed_at=None)
    event_type.fields.update(gone_reviewed_on=None)


def changes(event_type: EventType | None, declaration: Declaration) -> list[Change]:
    """What a declaration would do to the fields of a type, field by field.

    Raises what declaring would raise.
    """
    known = {one.code: one for one in event_type.fields.all()} if event_type else {}
    fields = _complete(declaration.fields, known)
    _check_place(fields, known)
    removed = _removed(fields, known, is_complete=declaration.is_complete)
    found = []
    for code, one in sorted(fields.items()):
        before = known.get(code)
        now = str(one.get_value_type_display()).lower()
        if before is None:
            words = f"new: {now}, required" if one.is_required else f"new: {now}"
            found.append(Change(code, words))
            continue
        parts = []
        if before.value_type != one.value_type:
            parts.append(f"{str(before.get_value_type_display()).lower()} → {now}")
        if before.is_required != one.is_required:
            parts.append("required" if one.is_required else "no longer required")
        if before.label != one.label:
            parts.append(f"label “{one.label}”" if one.label else "no label")
        if parts:
            found.append(Change(code, ", ".join(parts)))
    return found + [Change(code, "no longer declared") for code in sorted(removed)]


def check_new(name: str) -> None:
    """Refuse a name that no new type can have."""
    check_name(name)
    if EventType.objects.filter(name=name).exists():
        raise NameTaken(
            f"There is an event type “{name}” already. Change that one.", field="name"
        )


def check_name(name: str) -> None:
    """Refuse what no event could be called."""
    if not name.strip() or len(name) > MAX_NAME or UNSTORABLE.search(name):
        raise Invalid(
            f"“name” is a text of 1 to {MAX_NAME} characters.",
            field="name",
            code="name_invalid",
        )


def check_code(path: str, *, field: str) -> None:
    """Refuse what is no field code, or path of them."""
    parts = path.split(".")
    if len(parts) > LEARNT_DEPTH:
        raise Invalid(
            f"“{path}” is too deep: fields are declared {LEARNT_DEPTH} levels deep.",
            field=field,
            code="field_code_invalid",
        )
    if not all(FIELD_CODE.match(part) for part in parts):
        raise Invalid(
            f"“{path}” is no field code: use letters, digits and underscores, not "
            "starting with a digit, up to 64 characters; dots lead into objects.",
            field=field,
            code="field_code_invalid",
        )


def _complete(
    fields: Iterable[Field], known: Mapping[str, EventField]
) -> dict[str, EventField]:
    """The fields as they shall be, and the objects they are inside of. Not saved."""
    found: dict[str, EventField] = {}
    for at, one in enumerate(fields):
        place = f"fields.{at}"
        check_code(one.code, field=f"{place}.code")
        if one.code in found:
            raise Invalid(
                f"“{one.code}” is there twice.", field=f"{place}.code", code="twice"
            )
        before = known.get(one.code)
        kind = one.type or (FieldType(before.value_type) if before else None)
        if kind is None:
            raise Invalid(
                f"Say of which type “{one.code}” is.",
                field=f"{place}.type",
                code="type_missing",
            )
        label = one.label if one.label is not None else before.label if before else ""
        if len(label) > MAX_LABEL or UNSTORABLE.search(label):
            raise Invalid(
                f"The label of “{one.code}” is a text of up to {MAX_LABEL} characters.",
                field=f"{place}.label",
                code="too_long",
            )
        required = one.is_required
        if required is None:
            required = before.is_required if before else False
        found[one.code] = EventField(
            code=one.code, value_type=kind, label=label, is_required=required
        )
    for code in list(found):
        for parent in parents(code):
            if parent not in found and parent not in known:
                found[parent] = EventField(code=parent, value_type=FieldType.OBJECT)
    return found


def _check_place(
    fields: Mapping[str, EventField], known: Mapping[str, EventField]
) -> None:
    for code in fields:
        for parent in parents(code):
            kind = (fields.get(parent) or known[parent]).value_type
            if kind != FieldType.OBJECT:
                raise Invalid(
                    f"“{code}” cannot be inside “{parent}”, which is declared as "
                    f"{str(FieldType(kind).label).lower()}. Declare “{parent}” as an "
                    "object.",
                    field="fields",
                    code="field_type",
                )


def _removed(
    fields: Mapping[str, EventField],
    known: Mapping[str, EventField],
    *,
    is_complete: bool,
) -> set[str]:
    """Fields that are not named, if all are; and what was inside what is no object."""
    closed = {
        code for code, one in fields.items() if one.value_type != FieldType.OBJECT
    }
    return {
        code
        for code in known.keys() - fields.keys()
        if is_complete or closed.intersection(parents(code))
    }


def parents(code: str) -> list[str]:
    """The paths of the objects that a field is inside of, from the outside in."""
    parts = code.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]

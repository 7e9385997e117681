"""What the words of a rule stand for: event types, attributes, segments."""

from __future__ import annotations

from dataclasses import dataclass, field

from customers.models import Attribute
from events.models import EventField, EventType, Kind
from segments import rules
from segments.comparisons import Column, JsonPlace, Operand
from segments.models import Segment
from segments.operators import OPERATORS, ValueType
from segments.rules import RuleConflict, RuleError


@dataclass(frozen=True, slots=True)
class SavedRule:
    """A segment that a rule speaks of."""

    name: str
    rule: rules.Rule


#: The attributes that every customer has, as columns of their own.
COLUMNS = {
    column.name: column
    for column in [
        Column("external_id", ValueType.STRING),
        Column("first_name", ValueType.STRING),
        Column("last_name", ValueType.STRING),
        Column("email", ValueType.STRING),
        Column("phone", ValueType.STRING),
        Column("birth_date", ValueType.DATE, is_day=True),
        Column("gender", ValueType.STRING),
        Column("city", ValueType.STRING),
        Column("country", ValueType.STRING),
        Column("language", ValueType.STRING),
        Column("time_zone", ValueType.STRING),
        Column("registered_at", ValueType.DATE),
        Column("created_at", ValueType.DATE),
    ]
}


@dataclass
class Dictionary:
    """The meaning of every name in a rule, looked up with a query a kind of name."""

    types: dict[str, EventType] = field(default_factory=dict)
    #: (event type's id, field code) → type of its value.
    fields: dict[tuple[int, str], str] = field(default_factory=dict)
    attributes: dict[str, ValueType] = field(default_factory=dict)
    segments: dict[int, SavedRule] = field(default_factory=dict)

    @classmethod
    def of(cls, rule: rules.Rule) -> Dictionary:
        """Look up the names in a rule, and in the segments it speaks of.

        Raises RuleError for a name that does not exist or an operator that does not
        fit its attribute, RuleConflict where segments speak of each other in a circle.
        """
        known = cls()
        known._learn(rule)
        known._refuse_circles()
        return known

    @classmethod
    def of_fields(cls, event_type_id: int) -> Dictionary:
        """Only the types of one event type's fields."""
        known = cls()
        for code, value_type in EventField.objects.filter(
            type_id=event_type_id
        ).values_list("code", "value_type"):
            known.fields[event_type_id, code] = value_type
        return known

    def operand(self, condition: rules.Attribute) -> Operand:
        """Where the attribute of a condition is found."""
        if column := COLUMNS.get(condition.attribute):
            return column
        declared = self.attributes[condition.attribute]
        return JsonPlace("attributes", (condition.attribute,), declared)

    def place(self, event_type_id: int, field: str) -> JsonPlace:
        """Where a field of an event's context is found."""
        declared = self.fields.get((event_type_id, field), "")
        return JsonPlace("context", tuple(field.split(".")), declared)

    def _learn(self, rule: rules.Rule) -> None:
        waiting = [rule]
        # One round for each level of segments within segments.
        while waiting:
            parts = [part for one in waiting for part in rules.walk(one)]
            self._learn_types([p for p in parts if isinstance(p, rules.Happened)])
            self._learn_attributes([p for p in parts if isinstance(p, rules.Attribute)])
            waiting = self._learn_segments(
                [p for p in parts if isinstance(p, rules.InSegment)]
            )

    def _learn_types(self, conditions: list[rules.Happened]) -> None:
        names = {condition.event for condition in conditions} - self.types.keys()
        if names:
            found = {t.name: t for t in EventType.objects.filter(name__in=names)}
            self.types.update(found)
            rows = EventField.objects.filter(type__name__in=found)
            for type_id, code, value_type in rows.values_list(
                "type_id", "code", "value_type"
            ):
                self.fields[type_id, code] = value_type
        for condition in conditions:
            event_type = self.types.get(condition.event)
            if event_type is None:
                raise RuleError(
                    f"There is no event “{condition.event}”. Choose one that has "
                    "arrived, or declare it under Event types first.",
                    field=_place(condition.at, "event"),
                )
            if event_type.kind != Kind.CUSTOMER:
                raise RuleError(
                    f"“{condition.event}” is a system event; a segment sees events of "
                    "customers only.",
                    field=_place(condition.at, "event"),
                )

    def _learn_attributes(self, conditions: list[rules.Attribute]) -> None:
        codes = (
            {c.attribute for c in conditions} - COLUMNS.keys() - self.attributes.keys()
        )
        if codes:
            for code, type_ in Attribute.objects.filter(code__in=codes).values_list(
                "code", "type"
            ):
                self.attributes[code] = ValueType(type_)
        for condition in conditions:
            if (
                condition.attribute not in COLUMNS
                and condition.attribute not in self.attributes
            ):
                raise RuleError(
                    f"There is no attribute “{condition.attribute}”. Choose one of "
                    "those offered, or declare it under Attributes first.",
                    field=_place(condition.at, "attribute"),
                )
            operand = self.operand(condition)
            holds = operand.type if isinstance(operand, Column) else operand.declared
            if holds not in OPERATORS[condition.op].types:
                raise RuleError(
                    f"“{condition.op}” does not fit the attribute "
                    f"“{condition.attribute}”, which holds a {holds}.",
                    field=_place(condition.at, "op"),
                )

    def _learn_segments(self, conditions: list[rules.InSegment]) -> list[rules.Rule]:
        ids = {condition.segment for condition in conditions} - self.segments.keys()
        found: list[rules.Rule] = []
        if ids:
            for pk, name, data in Segment.objects.filter(pk__in=ids).values_list(
                "pk", "name", "rule"
            ):
                try:
                    rule = rules.parse(data)
                except RuleError as error:
                    raise RuleError(
                        f"The segment “{name}” is broken: {error}"
                    ) from error
                self.segments[pk] = SavedRule(name, rule)
                found.append(rule)
        for condition in conditions:
            if condition.segment not in self.segments:
                raise RuleError(
                    f"There is no segment {condition.segment}. Choose another one.",
                    field=_place(condition.at, "segment"),
                )
        return found

    def _refuse_circles(self) -> None:
        done: set[int] = set()

        def visit(pk: int, path: list[int]) -> None:
            if pk in path:
                names = [self.segments[i].name for i in [*path[path.index(pk) :], pk]]
                raise RuleConflict(
                    "Segments speak of each other in a circle: "
                    + " → ".join(names)
                    + "."
                )
            if pk in done:
                return
            for part in rules.walk(self.segments[pk].rule):
                if isinstance(part, rules.InSegment):
                    visit(part.segment, [*path, pk])
            done.add(pk)

        for pk in self.segments:
            visit(pk, [])


def _place(at: str, word: str) -> str:
    return f"{at}.{word}" if at else word

"""What the words of a rule stand for: event types, attributes, segments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar

from customers.models import Attribute, MailingCategory
from events.models import EventField, EventType, Kind, Source
from segments import outside, rules
from segments.comparisons import DERIVED, Column, Derived, JsonPlace, Operand
from segments.models import Segment
from segments.operators import OPERATORS, ValueType
from segments.rules import RuleConflict, RuleError


@dataclass(frozen=True, slots=True)
class SavedRule:
    """A segment that a rule speaks of. No rule: its members are a list."""

    name: str
    rule: rules.Rule | None


@dataclass(frozen=True, slots=True)
class Category:
    """A mailing category, and the channels on which no answer counts as yes."""

    pk: int
    name: str
    default_channels: frozenset[str]


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

#: Where events are chosen by name, context and source.
Choice = rules.Happened | rules.Since | rules.Beside
P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class _Within:
    """A rule to be learnt: the one asked about, or that of a segment in it."""

    rule: rules.Rule
    segment: str = ""
    #: Where the segment is spoken of in the rule asked about.
    at: str = ""

    def refusal(self, message: str, at: str, word: str) -> RuleError:
        if self.segment:
            return RuleError(
                f"In the segment “{self.segment}”: {message}", field=self.at
            )
        return RuleError(message, field=f"{at}.{word}" if at else word)


_Found = list[tuple[P, _Within]]


@dataclass
class Dictionary:
    """The meaning of every name in a rule, looked up with a query a kind of name."""

    types: dict[str, EventType] = field(default_factory=dict)
    #: (event type's id, field code) → type of its value.
    fields: dict[tuple[int, str], str] = field(default_factory=dict)
    attributes: dict[str, ValueType] = field(default_factory=dict)
    segments: dict[int, SavedRule] = field(default_factory=dict)
    #: The ids of sources by name.
    sources: dict[str, int] = field(default_factory=dict)
    categories: dict[str, Category] = field(default_factory=dict)
    campaigns: dict[int, str] = field(default_factory=dict)
    #: Channel → whether customers who never answered are written to.
    defaults: Mapping[str, bool] = field(default_factory=dict)

    @classmethod
    def of(
        cls, rule: rules.Rule, *, to_come: frozenset[str] = frozenset()
    ) -> Dictionary:
        """Look up the names in a rule, and in the segments it speaks of.

        `to_come`: names of customers' events that are about to be declared. A
        dictionary that lacks them can say whether a rule is sound, and compile none.

        Raises RuleError for a name that does not exist or an operator that does not
        fit its attribute, RuleConflict where segments speak of each other in a circle.
        """
        known = cls()
        known._learn(rule, to_come=to_come)
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

    def learn_from(self, other: Dictionary) -> None:
        """Know what another dictionary knows as well."""
        for name in (one.name for one in fields(self)):
            setattr(self, name, {**getattr(self, name), **getattr(other, name)})

    def operand(self, condition: rules.Attribute) -> Operand:
        """Where the attribute of a condition is found."""
        return self._operand(condition.attribute)

    def place(
        self, event_type_id: int, field: str, document: str = "context"
    ) -> JsonPlace:
        """Where a field of an event's context is found."""
        declared = self.fields.get((event_type_id, field), "")
        return JsonPlace(document, tuple(field.split(".")), declared)

    def _operand(self, code: str) -> Operand:
        if column := COLUMNS.get(code):
            return column
        # An attribute of that code that was declared is what its owner means.
        if declared := self.attributes.get(code):
            return JsonPlace("attributes", (code,), declared)
        return DERIVED[code]

    def _learn(self, rule: rules.Rule, *, to_come: frozenset[str]) -> None:
        waiting = [_Within(rule)]
        # One round for each level of segments within segments.
        while waiting:
            parts = [(part, one) for one in waiting for part in rules.walk(one.rule)]
            self._learn_types(list(_choices(parts)), to_come=to_come)
            self._learn_sources(list(_choices(parts)))
            self._learn_attributes(_of_kind(parts, rules.Attribute))
            self._learn_consents(
                [
                    *_of_kind(parts, rules.ConsentIs),
                    *_of_kind(parts, rules.Reachable),
                ]
            )
            self._learn_campaigns(_of_kind(parts, rules.Messaged))
            waiting = self._learn_segments(_of_kind(parts, rules.InSegment))

    def _learn_types(self, choices: _Found[Choice], *, to_come: frozenset[str]) -> None:
        names = {choice.event for choice, _ in choices} - self.types.keys()
        if names:
            found = {t.name: t for t in EventType.objects.filter(name__in=names)}
            self.types.update(found)
            rows = EventField.objects.filter(type__name__in=found)
            for type_id, code, value_type in rows.values_list(
                "type_id", "code", "value_type"
            ):
                self.fields[type_id, code] = value_type
        for choice, within in choices:
            event_type = self.types.get(choice.event)
            if event_type is None:
                if choice.event in to_come:
                    continue
                raise within.refusal(
                    f"There is no event “{choice.event}”. Choose one that has "
                    "arrived, or declare it under Event types first.",
                    choice.at,
                    "event",
                )
            if event_type.kind != Kind.CUSTOMER:
                raise within.refusal(
                    f"“{choice.event}” is a system event; a segment sees events of "
                    "customers only.",
                    choice.at,
                    "event",
                )

    def _learn_sources(self, choices: _Found[Choice]) -> None:
        names = {n for choice, _ in choices for n in choice.source}
        if new := names - self.sources.keys():
            found = Source.objects.filter(name__in=new)
            self.sources.update(found.values_list("name", "pk"))
        for choice, within in choices:
            for name in choice.source:
                if name not in self.sources:
                    raise within.refusal(
                        f"There is no source “{name}”. Choose one of those listed "
                        "under Sources.",
                        choice.at,
                        "source",
                    )

    def _learn_attributes(self, conditions: _Found[rules.Attribute]) -> None:
        codes = {condition.attribute for condition, _ in conditions}
        if new := codes - COLUMNS.keys() - self.attributes.keys():
            rows = Attribute.objects.filter(code__in=new)
            for code, type_ in rows.values_list("code", "type"):
                self.attributes[code] = ValueType(type_)
        everything = COLUMNS.keys() | self.attributes.keys() | DERIVED.keys()
        for condition, within in conditions:
            if condition.attribute not in everything:
                raise within.refusal(
                    f"There is no attribute “{condition.attribute}”. Choose one of "
                    "those offered, or declare it under Attributes first.",
                    condition.at,
                    "attribute",
                )
            operand = self.operand(condition)
            holds = (
                operand.type
                if isinstance(operand, Column | Derived)
                else operand.declared
            )
            if holds not in OPERATORS[condition.op].types:
                raise within.refusal(
                    f"“{condition.op}” does not fit the attribute "
                    f"“{condition.attribute}”, which holds a {holds}.",
                    condition.at,
                    "op",
                )

    def _learn_consents(
        self, conditions: _Found[rules.ConsentIs | rules.Reachable]
    ) -> None:
        codes = {condition.category for condition, _ in conditions} - {""}
        if new := codes - self.categories.keys():
            for row in MailingCategory.objects.filter(code__in=new):
                self.categories[row.code] = Category(
                    row.pk,
                    row.name,
                    frozenset(
                        channel
                        for channel in rules.CHANNELS
                        if getattr(row, f"default_{channel}")
                    ),
                )
        for condition, within in conditions:
            if condition.category and condition.category not in self.categories:
                raise within.refusal(
                    f"There is no mailing category “{condition.category}”. Choose one "
                    "of those listed under Mailing categories.",
                    condition.at,
                    "category",
                )
            if isinstance(condition, rules.Reachable) and not self.defaults:
                self.defaults = outside.known(condition.at).defaults()

    def _learn_campaigns(self, conditions: _Found[rules.Messaged]) -> None:
        ids = {c.campaign for c, _ in conditions if c.campaign is not None}
        if new := ids - self.campaigns.keys():
            self.campaigns.update(outside.known(conditions[0][0].at).campaigns(new))
        for condition, within in conditions:
            if condition.campaign is not None and (
                condition.campaign not in self.campaigns
            ):
                raise within.refusal(
                    f"There is no campaign {condition.campaign}. Choose another one.",
                    condition.at,
                    "campaign",
                )

    def _learn_segments(self, conditions: _Found[rules.InSegment]) -> list[_Within]:
        ids = {condition.segment for condition, _ in conditions} - self.segments.keys()
        rows = Segment.objects.filter(pk__in=ids) if ids else Segment.objects.none()
        saved = {row.pk: row for row in rows}
        found: list[_Within] = []
        for condition, within in conditions:
            pk = condition.segment
            if pk in self.segments:
                continue
            if pk not in saved:
                raise within.refusal(
                    f"There is no segment {pk}. Choose another one.",
                    condition.at,
                    "segment",
                )
            segment = saved[pk]
            if segment.is_static:
                self.segments[pk] = SavedRule(segment.name, None)
                continue
            try:
                rule = rules.parse(segment.rule)
            except RuleError as error:
                raise within.refusal(
                    f"The segment “{segment.name}” is broken: {error}",
                    condition.at,
                    "segment",
                ) from error
            self.segments[pk] = SavedRule(segment.name, rule)
            place = f"{condition.at}.segment" if condition.at else "segment"
            found.append(_Within(rule, segment.name, within.at or place))
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
            rule = self.segments[pk].rule
            if pk in done or rule is None:
                return
            for part in rules.walk(rule):
                if isinstance(part, rules.InSegment):
                    visit(part.segment, [*path, pk])
            done.add(pk)

        for pk in self.segments:
            visit(pk, [])


def choices_in(rule: rules.Rule) -> Iterator[Choice]:
    """Every place in a rule that chooses events. Not in the segments it speaks of."""
    for part in rules.walk(rule):
        if isinstance(part, rules.Happened):
            yield part
            if isinstance(part.period, rules.Since):
                yield part.period
            yield from part.beside


def _choices(parts: _Found[rules.Rule]) -> Iterator[tuple[Choice, _Within]]:
    for part, within in parts:
        if isinstance(part, rules.Happened):
            for choice in choices_in(part):
                yield choice, within


def _of_kind(parts: Iterable[tuple[rules.Rule, _Within]], kind: type[P]) -> _Found[P]:
    return [(part, within) for part, within in parts if isinstance(part, kind)]

"""An event type as JSON Schema, and back: nothing is lost without being told."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from events import declare, json_schema, schema
from events.declare import Declaration, Field
from events.models import EventField, EventType, Kind
from events.schema import FieldType
from events.wire import Refusal
from smartcomm.core.errors import Invalid, Several, UserError
from tests import make
from tests.events.test_schema import NOON, a_type

codes = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
labels = st.text(
    st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=150
)


def _fields(depth: int) -> st.SearchStrategy[list[Field]]:
    """Fields of one object, and what is inside those that are objects themselves."""

    @st.composite
    def drawn(draw: Any) -> list[Field]:
        found = []
        for code in draw(st.lists(codes, max_size=4, unique=True)):
            kind = draw(st.sampled_from(FieldType))
            found.append(Field(code, kind, draw(labels), draw(st.booleans())))
            if kind == FieldType.OBJECT and depth < schema.LEARNT_DEPTH:
                found += [
                    Field(f"{code}.{one.code}", one.type, one.label, one.is_required)
                    for one in draw(_fields(depth + 1))
                ]
        return found

    return drawn()


declarations = st.builds(
    Declaration,
    description=labels,
    mode=st.sampled_from(EventType.Mode),
    fields=_fields(1).map(tuple),
)


def facts(event_type: EventType) -> dict[str, Any]:
    """All that a schema has to keep of a type."""
    return {
        "kind": event_type.kind,
        "description": event_type.description,
        "mode": event_type.mode,
        "fields": set(
            event_type.fields.values_list("code", "label", "value_type", "is_required")
        ),
    }


class RoundTrip(TestCase):
    @settings(max_examples=60, deadline=None)
    @given(declaration=declarations, kind=st.sampled_from(Kind))
    def test_what_is_exported_and_imported_is_the_same_type(self, declaration, kind):
        first = declare.declare_type("Order paid", kind, declaration)
        exported = json_schema.export(first, first.fields.all())
        jsonschema.Draft202012Validator.check_schema(exported)

        read = json_schema.read(exported)
        assert read.kind is not None
        second = declare.declare_type("Copy", read.kind, read.declaration)

        assert read.not_kept == ()
        assert read.title == "Order paid"
        assert facts(second) == facts(first)
        # And again upon itself: nothing is left to change.
        assert declare.changes(first, read.declaration) == []


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 5),
        st.floats(-5, 5),
        st.text("ab", max_size=3),
        st.just("2026-11-20"),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    ),
    max_leaves=4,
)
few_codes = ["a", "b", "c"]


@st.composite
def small_declarations(draw: Any) -> Declaration:
    """Few codes, so that events often have fields that are declared; no dates.

    JSON Schema leaves to the reader whether `format` is checked.
    """
    kinds = [kind for kind in FieldType if kind != FieldType.DATE]
    found = []
    for code in draw(st.lists(st.sampled_from(few_codes), unique=True)):
        kind = draw(st.sampled_from(kinds))
        found.append(Field(code, kind, "", draw(st.booleans())))
        if kind == FieldType.OBJECT:
            found += [
                Field(
                    f"{code}.{one}",
                    draw(st.sampled_from(kinds)),
                    "",
                    draw(st.booleans()),
                )
                for one in draw(st.lists(st.sampled_from(["a", "b"]), unique=True))
            ]
    return Declaration(mode=EventType.Mode.ENFORCED, fields=tuple(found))


def _without_unknown_nulls(context: Any, known: Any) -> Any:
    """Null tells nothing, so the door lets it pass by any name; a schema does not."""
    if not isinstance(context, dict):
        return context
    return {
        code: _without_unknown_nulls(value, known.get("properties", {}).get(code, {}))
        for code, value in context.items()
        if value is not None or code in known.get("properties", {})
    }


class Agreement(TestCase):
    @settings(max_examples=80, deadline=None)
    @given(
        declaration=small_declarations(),
        contexts=st.lists(
            st.dictionaries(st.sampled_from([*few_codes, "d"]), values), max_size=12
        ),
    )
    def test_the_schema_accepts_what_the_enforced_door_accepts(
        self, declaration, contexts
    ):
        event_type = declare.declare_type("Order paid", Kind.CUSTOMER, declaration)
        exported = json_schema.export(event_type, event_type.fields.all())
        validator = jsonschema.Draft202012Validator(exported)
        (known,) = schema.read_types([event_type], day=NOON.date())
        known.is_met = True

        # Twice: the second time by what the process remembers of the first.
        for sent in [*contexts, *contexts]:
            context = _without_unknown_nulls(sent, exported)
            differs = not schema.is_settled(known, context) and bool(
                schema.look_closely(known, context).differences
            )
            assert validator.is_valid(context) is not differs, (exported, context)


pytestmark = pytest.mark.django_db


def refused(data: object) -> list[tuple[str, str]]:
    with pytest.raises(UserError) as caught:
        json_schema.read(data)
    error = caught.value
    errors = error.errors if isinstance(error, Several) else [error]
    assert all(one.message.endswith(".") for one in errors)
    return [(one.code, one.field) for one in errors]


def an_object(**properties: object) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("data", "code", "field"),
    [
        ([], "not_an_object", ""),
        ({"type": "array"}, "schema_invalid", "type"),
        ({"$schema": "https://example.com/other"}, "schema_invalid", "$schema"),
        ({"$schema": ["x"]}, "schema_invalid", "$schema"),
        ({"properties": []}, "schema_invalid", "properties"),
        ({"required": "a"}, "schema_invalid", "required"),
        ({"required": ["a"]}, "schema_invalid", "required"),
        ({"oneOf": [an_object()]}, "schema_invalid", "oneOf"),
        ({"patternProperties": {}}, "schema_invalid", "patternProperties"),
        ({"additionalProperties": "no"}, "schema_invalid", "additionalProperties"),
        ({"x-mode": "strict"}, "schema_invalid", "x-mode"),
        ({"x-mode": {}, "x-kind": 5}, "schema_invalid", "x-kind"),
        (
            {"x-mode": "warn", "additionalProperties": False},
            "schema_invalid",
            "x-mode",
        ),
        ({"title": 5}, "schema_invalid", "title"),
        ({"description": "a\x00b"}, "schema_invalid", "description"),
        (
            an_object(**{"price-eur": {"type": "number"}}),
            "field_code_invalid",
            "properties.price-eur",
        ),
        (an_object(a={}), "schema_invalid", "properties.a.type"),
        (an_object(a=True), "schema_invalid", "properties.a"),
        (an_object(a={"enum": ["x"]}), "schema_invalid", "properties.a.type"),
        (
            an_object(a={"type": ["string", "number"]}),
            "schema_invalid",
            "properties.a.type",
        ),
        (
            an_object(a={"oneOf": [{"type": "string"}, {"type": "number"}]}),
            "schema_invalid",
            "properties.a.type",
        ),
        (
            an_object(a={"$ref": "https://example.com/x"}),
            "schema_invalid",
            "properties.a.$ref",
        ),
        (
            an_object(a={"$ref": "#/$defs/A"})
            | {"$defs": {"A": {"$ref": "#/$defs/A"}}},
            "schema_invalid",
            "properties.a.$ref",
        ),
        (
            an_object(a={"type": "object", "properties": {"b": {}}}),
            "schema_invalid",
            "properties.a.properties.b.type",
        ),
    ],
)
def test_what_would_lose_a_field_or_its_type_is_refused_by_place(data, code, field):
    assert (code, field) in refused(data)


def test_all_that_is_wrong_is_told_at_once():
    found = refused(an_object(a={}, b={"type": "file"}) | {"allOf": []})

    assert {field for _, field in found} == {
        "allOf",
        "properties.a.type",
        "properties.b.type",
    }


def test_what_is_not_kept_is_told_by_name():
    read = json_schema.read(
        {
            "$id": "https://example.com/order",
            "title": "Another name",
            "type": "object",
            "properties": {
                "sum": {"type": "integer", "minimum": 0, "x-unit": "EUR"},
                "code": {"type": ["string", "null"], "pattern": "^[A-Z]+$"},
                "lines": {"type": ["array", "null"], "items": {"type": "string"}},
                "day": {"type": ["string", "null"], "format": "date"},
                "mail": {"type": ["string", "null"], "format": "email"},
                "shop": {"type": ["object", "null"], "additionalProperties": False},
                "paid": {"type": ["boolean", "null"]},
            },
            "required": ["sum", "paid"],
            "minProperties": 1,
        },
        name="Order paid",
    )

    assert {one.field for one in read.not_kept} == {
        "$id",
        "title",
        "minProperties",
        "properties.sum.type",
        "properties.sum.minimum",
        "properties.sum.x-unit",
        "properties.code.pattern",
        "properties.lines.items",
        "properties.day.format",
        "properties.mail.format",
        "properties.shop.additionalProperties",
        "properties.paid.type",
    }
    assert [(one.code, one.type) for one in read.declaration.fields] == [
        ("sum", "number"),
        ("code", "string"),
        ("lines", "list"),
        ("day", "date"),
        ("mail", "string"),
        ("shop", "object"),
        ("paid", "boolean"),
    ]
    assert read.declaration.mode is None


def test_fields_that_may_be_null_after_the_import_are_named():
    read = json_schema.read(an_object(price={"type": "number"}))

    (told,) = read.not_kept
    assert told.field == "properties"
    assert "“price”" in told.message


def test_a_schema_as_pydantic_writes_it_is_understood():
    """Optional fields as anyOf with null, and models as references."""
    read = json_schema.read(
        {
            "$defs": {
                "Address": {
                    "title": "Address",
                    "type": "object",
                    "properties": {"city": {"title": "City", "type": "string"}},
                    "required": ["city"],
                }
            },
            "title": "Order",
            "type": "object",
            "properties": {
                "address": {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}]},
                "at": {
                    "anyOf": [
                        {"type": "string", "format": "date-time"},
                        {"type": "null"},
                    ],
                    "default": None,
                    "title": "At",
                },
            },
            "required": [],
        }
    )

    assert [
        (one.code, one.type, one.label, one.is_required)
        for one in read.declaration.fields
    ] == [
        ("address", "object", "Address", False),
        ("address.city", "string", "City", True),
        ("at", "date", "At", False),
    ]
    assert {one.field for one in read.not_kept} == {
        "properties.at.format",
        "properties.at.default",
    }


def test_a_schema_that_refers_to_itself_ends():
    read = json_schema.read(
        an_object(a={"$ref": "#/$defs/A"})
        | {
            "$defs": {
                "A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}
            }
        }
    )

    assert [one.code for one in read.declaration.fields] == ["a", "a.a", "a.a.a"]
    assert "properties.a.properties.a.properties.a.properties" in {
        one.field for one in read.not_kept
    }


def test_references_that_multiply_end_at_the_most_a_type_can_have():
    wide = {f"f{i}": {"$ref": "#/$defs/W"} for i in range(100)}
    data = {"properties": wide, "$defs": {"W": {"type": "object", "properties": wide}}}

    assert ("schema_invalid", "properties") in refused(data)


def test_a_closed_schema_removes_what_it_does_not_name_and_an_open_one_does_not():
    order = a_type()

    declare.update_type(
        order, json_schema.read(an_object(a={"type": "string"})).declaration
    )
    assert order.fields.count() == 6

    closed = an_object(a={"type": "string"}) | {"additionalProperties": False}
    declare.update_type(order, json_schema.read(closed).declaration)
    assert list(order.fields.values_list("code", flat=True)) == ["a"]
    order.refresh_from_db()
    assert order.mode == EventType.Mode.ENFORCED


# Declaring


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([Field("price-eur", FieldType.NUMBER)], "field_code_invalid"),
        ([Field("a.b.c.d", FieldType.NUMBER)], "field_code_invalid"),
        ([Field("a..b", FieldType.NUMBER)], "field_code_invalid"),
        ([Field("new")], "type_missing"),
        ([Field("amount.cents", FieldType.NUMBER)], "field_type"),
        ([Field("a", FieldType.STRING), Field("a", FieldType.DATE)], "twice"),
        ([Field("a", FieldType.STRING, "x" * 151)], "too_long"),
    ],
)
def test_what_cannot_be_declared_is_refused_and_changes_nothing(fields, code):
    order = a_type()
    before = facts(order)

    with pytest.raises(Invalid) as caught:
        declare.update_type(order, Declaration(fields=tuple(fields)))

    assert caught.value.code == code
    order.refresh_from_db()
    assert facts(order) == before


def test_a_type_has_no_more_fields_than_can_be_learnt(monkeypatch):
    monkeypatch.setattr(declare, "MAX_LEARNT", 6)
    order = a_type()
    new = tuple(Field(code, FieldType.STRING) for code in "ab")

    with pytest.raises(Invalid, match="at most 6 fields"):
        declare.update_type(order, Declaration(fields=new))

    assert order.fields.count() == 5


def test_an_inner_field_brings_its_object_and_goes_with_it():
    order = make.event_type("Order paid")

    declare.update_type(order, Declaration(fields=(Field("a.b", FieldType.STRING),)))
    assert dict(order.fields.values_list("code", "value_type")) == {
        "a": "object",
        "a.b": "string",
    }
    declare.update_type(order, Declaration(fields=(Field("a", FieldType.STRING),)))
    assert dict(EventField.objects.values_list("code", "value_type")) == {"a": "string"}


def test_a_refusal_names_the_field_as_a_sender_knows_it():
    order = a_type(EventType.Mode.ENFORCED)
    (known,) = schema.read_types([order], day=NOON.date())
    (one,) = schema.look_closely(
        known, {"amount": 1, "address": {"city": 5}}
    ).differences

    refusal = schema.refusal(one, known)

    assert isinstance(refusal, Refusal)
    assert refusal.message == (
        "“address.city” of “Order paid” is declared as text, and came as number."
    )

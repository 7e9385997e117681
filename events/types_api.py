"""The registry of what can happen, through the API: read, declared, as JSON Schema."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

import msgspec
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from events import drift, json_schema
from events.declare import (
    Declaration,
    Field,
    check_kind,
    check_name,
    declare_type,
    put_type,
    update_type,
)
from events.models import EventField, EventType, Kind, Scope
from smartcomm.core.api import (
    LIST_PARAMETERS,
    ApiView,
    BadParameter,
    created,
    page,
    read_text,
)
from smartcomm.core.bodies import read_object, read_struct
from smartcomm.core.errors import Invalid, NotFound
from smartcomm.core.openapi import LIST, TEXT, operation

Meta = msgspec.Meta
UNSET = msgspec.UNSET

FieldKind = Literal["string", "number", "boolean", "date", "object", "list"]
Mode = Annotated[
    Literal["open", "warn", "enforced"],
    Meta(
        description="`open` learns what is new; `warn` stores everything and warns of "
        "what is not as declared; `enforced` rejects that, and keeps it."
    ),
]


class EventFieldIn(msgspec.Struct, forbid_unknown_fields=True):
    """A field to declare. What is left out stays as it is."""

    code: Annotated[str, Meta(description="The field code, or a path: `address.city`.")]
    type: FieldKind | msgspec.UnsetType = UNSET
    label: Annotated[str, Meta(max_length=150)] | msgspec.UnsetType = UNSET
    required: bool | msgspec.UnsetType = UNSET


class EventTypeIn(msgspec.Struct, forbid_unknown_fields=True):
    """A type to declare, before its first event or after."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    kind: Literal["customer", "system"] = "customer"
    description: str = ""
    mode: Mode = "open"
    reviewed: bool = True
    fields: Annotated[list[EventFieldIn], Meta(max_length=500)] = []


class EventTypeChange(msgspec.Struct, forbid_unknown_fields=True):
    """What shall change of a type. What is left out stays as it is."""

    description: str | msgspec.UnsetType = UNSET
    mode: Mode | msgspec.UnsetType = UNSET
    reviewed: bool | msgspec.UnsetType = UNSET
    fields: Annotated[list[EventFieldIn], Meta(max_length=500)] = []


class EventFieldOut(msgspec.Struct):
    """A variable in the context of a type's events."""

    code: str
    label: str
    type: Annotated[
        str,
        Meta(
            extra_json_schema={
                "enum": ["string", "number", "boolean", "date", "object", "list"]
            }
        ),
    ]
    required: bool
    last_seen: Annotated[
        date | None, Meta(description="The day, in UTC, an event last carried it.")
    ]


class EventTypeOut(msgspec.Struct):
    """What can happen."""

    id: int
    name: str
    kind: Annotated[str, Meta(extra_json_schema={"enum": ["customer", "system"]})]
    description: str
    mode: Annotated[
        str,
        Meta(
            description="Whether what is not as declared is learnt, told or rejected.",
            extra_json_schema={"enum": ["open", "warn", "enforced"]},
        ),
    ]
    reviewed: Annotated[
        bool, Meta(description="False for a type that registered itself.")
    ]
    awaited: Annotated[
        bool, Meta(description="Whether a published campaign waits for it.")
    ]
    first_seen: datetime
    last_seen: Annotated[
        date | None, Meta(description="The day, in UTC, its last event arrived.")
    ]
    changes: Annotated[
        int,
        Meta(
            description="In how many ways its events differ from what is declared, "
            "that nobody has looked at: new fields, other types of values, fields that "
            "are missing or no longer seen."
        ),
    ]
    fields: list[EventFieldOut]


class EventTypesPage(msgspec.Struct):
    results: list[EventTypeOut]
    next: str | None


class EventTypeSchema(msgspec.Struct, omit_defaults=True):
    """The context of a type's events as JSON Schema, draft 2020-12."""

    properties: Annotated[
        dict[str, dict[str, Any]], Meta(description="The fields by their codes.")
    ] = {}
    type: Literal["object"] = "object"
    title: Annotated[str, Meta(description="The name of the type.")] = ""
    description: str = ""
    required: list[str] = []
    additionalProperties: Annotated[
        bool | msgspec.UnsetType,
        Meta(description="False for an enforced type, and only then."),
    ] = UNSET
    draft: Annotated[
        str | msgspec.UnsetType, Meta(description=f"`{json_schema.DRAFT}`.")
    ] = msgspec.field(default=UNSET, name="$schema")
    kind: Annotated[
        Literal["customer", "system"] | msgspec.UnsetType,
        Meta(description="The kind of event; JSON Schema has no word for it."),
    ] = msgspec.field(default=UNSET, name="x-kind")
    mode: Mode | msgspec.UnsetType = msgspec.field(default=UNSET, name="x-mode")


class NotKeptOut(msgspec.Struct):
    """A word of a schema that is not kept, and what that means."""

    field: str
    message: str


class ImportedSchema(msgspec.Struct):
    """The type as it is now, and what of the schema is not kept."""

    event_type: EventTypeOut
    not_kept: list[NotKeptOut]


EVENT_TYPE = {
    "id": 7,
    "name": "Order paid",
    "kind": "customer",
    "description": "",
    "mode": "warn",
    "reviewed": True,
    "awaited": False,
    "first_seen": "2026-10-01T08:00:00Z",
    "last_seen": "2026-11-20",
    "changes": 1,
    "fields": [
        {
            "code": "price",
            "label": "Price",
            "type": "number",
            "required": True,
            "last_seen": "2026-11-20",
        }
    ],
}
SCHEMA = {
    "$schema": json_schema.DRAFT,
    "title": "Order paid",
    "type": "object",
    "x-kind": "customer",
    "x-mode": "enforced",
    "properties": {
        "price": {"type": "number", "title": "Price"},
        "coupon": {"type": ["string", "null"]},
    },
    "required": ["price"],
    "additionalProperties": False,
}
IMPORTED = {
    "event_type": EVENT_TYPE,
    "not_kept": [
        {
            "field": "properties.coupon.pattern",
            "message": "“pattern” of “coupon” is not kept: any text is let through.",
        }
    ],
}
HOW_SCHEMA = (
    "Fields, labels (`title`), types and `required` become what the schema says; "
    "`additionalProperties: false` enforces the type and removes the fields that the "
    "schema does not name, otherwise they stay. `x-mode` says `warn`. What cannot be "
    "kept, such as `pattern`, is told in `not_kept`; a schema that would lose a field "
    "or its type, as with `oneOf`, is refused and changes nothing."
)
NAME = OpenApiParameter(
    "name",
    {"type": "string", "minLength": 1, "maxLength": 128, "pattern": r"^[^\x00]*\S"},
    required=True,
    description="The name of the type, percent-encoded.",
)


class EventTypes(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.MANAGE}
    parameters = LIST_PARAMETERS | {"name"}

    @operation(
        name="listEventTypes",
        tag="Events",
        summary="List the event types",
        description="What can happen, in the order in which it was first seen, with "
        "the fields that were learnt from events or declared by staff.",
        parameters=[
            *LIST,
            OpenApiParameter("name", TEXT, description="Only the type with this name."),
        ],
        answers={200: EventTypesPage},
        example={"results": [EVENT_TYPE], "next": None},
        problems=(400,),
    )
    def get(self, request: Request) -> Response:
        types = _types()
        if name := read_text(request, "name"):
            types = types.filter(name=name)
        return Response(page(request, types, _type_out))

    @operation(
        name="createEventType",
        tag="Events",
        summary="Declare an event type",
        description="A type may be declared before its first event, so that segments "
        "and campaigns can speak of it. 409 when there is one with this name.",
        body=EventTypeIn,
        body_example={
            "name": "Order paid",
            "mode": "warn",
            "fields": [{"code": "price", "type": "number", "required": True}],
        },
        answers={201: EventTypeOut},
        example=EVENT_TYPE,
        problems=(409,),
    )
    def post(self, request: Request) -> Response:
        sent = read_struct(request, EventTypeIn)
        made = declare_type(
            sent.name,
            Kind(sent.kind),
            Declaration(
                description=sent.description,
                mode=EventType.Mode(sent.mode),
                is_reviewed=sent.reviewed,
                fields=_fields(sent.fields),
            ),
        )
        return created(_told(made.pk), at=f"{request.build_absolute_uri()}/{made.pk}")


class OneEventType(ApiView):
    scopes = {"GET": Scope.READ, "PUT": Scope.MANAGE}

    @operation(
        name="readEventType",
        tag="Events",
        summary="Read an event type",
        description="The type with its fields. `GET /event-types?name=` finds its id.",
        answers={200: EventTypeOut},
        example=EVENT_TYPE,
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        return Response(_told(pk))

    @operation(
        name="changeEventType",
        tag="Events",
        summary="Change an event type",
        description="Only what is named changes; fields are added or corrected, never "
        "removed. Every process follows within 5 seconds.",
        body=EventTypeChange,
        body_example={
            "mode": "enforced",
            "fields": [{"code": "price", "label": "Sum"}],
        },
        answers={200: EventTypeOut},
        example=EVENT_TYPE,
        problems=(404,),
    )
    def put(self, request: Request, pk: int) -> Response:
        sent = read_struct(request, EventTypeChange)
        update_type(
            _find(pk),
            Declaration(
                description=_said(sent.description),
                mode=EventType.Mode(sent.mode) if sent.mode is not UNSET else None,
                is_reviewed=_said(sent.reviewed),
                fields=_fields(sent.fields),
            ),
        )
        return Response(_told(pk))


class TypeSchema(ApiView):
    scopes = {"GET": Scope.READ, "PUT": Scope.MANAGE}

    @operation(
        name="readEventTypeSchema",
        tag="Events",
        summary="Read the schema of an event type",
        description="What the context of its events may hold, as JSON Schema.",
        answers={200: EventTypeSchema},
        example=SCHEMA,
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        return Response(_exported(_find(pk)))

    @operation(
        name="replaceEventTypeSchema",
        tag="Events",
        summary="Declare an event type by a schema",
        description=HOW_SCHEMA,
        body=EventTypeSchema,
        body_example=SCHEMA,
        answers={200: ImportedSchema},
        example=IMPORTED,
        problems=(404, 409),
    )
    def put(self, request: Request, pk: int) -> Response:
        event_type = _find(pk)
        read = json_schema.read(read_object(request), name=event_type.name)
        check_kind(event_type, read.kind)
        update_type(event_type, read.declaration)
        return Response(_imported(pk, read))


class NamedTypeSchema(ApiView):
    """As TypeSchema, for who knows the name: it may hold slashes, so it is no path."""

    scopes = {"GET": Scope.READ, "PUT": Scope.MANAGE}
    parameters = frozenset({"name"})

    @operation(
        name="readSchemaByName",
        tag="Events",
        summary="Read the schema of the event type with a name",
        description="What the context of its events may hold, as JSON Schema.",
        parameters=[NAME],
        answers={200: EventTypeSchema},
        example=SCHEMA,
        problems=(400, 404),
    )
    def get(self, request: Request) -> Response:
        name = self.name_in(request)
        event_type = EventType.objects.filter(name=name).first()
        if event_type is None:
            raise NotFound(f"There is no event type “{name}”.")
        return Response(_exported(event_type))

    @operation(
        name="replaceSchemaByName",
        tag="Events",
        summary="Declare the event type with a name by a schema",
        description="Makes the type if there is none: safe to repeat, as on every "
        "deployment. " + HOW_SCHEMA,
        parameters=[NAME],
        body=EventTypeSchema,
        body_example=SCHEMA,
        answers={200: ImportedSchema, 201: ImportedSchema},
        example=IMPORTED,
        problems=(409,),
    )
    def put(self, request: Request) -> Response:
        name = self.name_in(request)
        read = json_schema.read(read_object(request), name=name)
        event_type, is_new = put_type(name, read.kind, read.declaration)
        told = _imported(event_type.pk, read)
        if is_new:
            here = request.build_absolute_uri("/api/v1/event-types")
            return created(told, at=f"{here}/{event_type.pk}")
        return Response(told)

    def name_in(self, request: Request) -> str:
        for word in request.query_params:
            if word not in self.parameters:
                raise BadParameter(
                    f"The parameter “{word}” is not known. Known is “name”.", field=word
                )
        name = read_text(request, "name")
        try:
            check_name(name)
        except Invalid as error:
            raise BadParameter(error.message, field="name") from error
        return name


def _types() -> Any:
    return drift.with_changes(EventType.objects.prefetch_related("fields"))


def _find(pk: int) -> EventType:
    event_type = EventType.objects.filter(pk=pk).first()
    if event_type is None:
        raise NotFound(f"There is no event type {pk}.")
    return event_type


def _told(pk: int) -> EventTypeOut:
    event_type = _types().filter(pk=pk).first()
    if event_type is None:
        raise NotFound(f"There is no event type {pk}.")
    return _type_out(event_type)


def _type_out(event_type: Any) -> EventTypeOut:
    return EventTypeOut(
        id=event_type.pk,
        name=event_type.name,
        kind=event_type.kind,
        description=event_type.description,
        mode=event_type.mode,
        reviewed=event_type.is_reviewed,
        awaited=event_type.is_awaited,
        first_seen=event_type.created_at,
        last_seen=event_type.last_seen_on,
        changes=event_type.changes,
        fields=[
            EventFieldOut(
                field.code,
                field.label,
                field.value_type,
                field.is_required,
                field.last_seen_on,
            )
            for field in event_type.fields.all()
        ],
    )


def _exported(event_type: EventType) -> dict[str, Any]:
    return json_schema.export(event_type, event_type.fields.all())


def _imported(pk: int, read: json_schema.Read) -> ImportedSchema:
    return ImportedSchema(
        _told(pk), [NotKeptOut(one.field, one.message) for one in read.not_kept]
    )


def _fields(sent: list[EventFieldIn]) -> tuple[Field, ...]:
    return tuple(
        Field(
            one.code,
            EventField.Type(one.type) if one.type is not UNSET else None,
            _said(one.label),
            _said(one.required),
        )
        for one in sent
    )


def _said(value: Any) -> Any:
    return None if value is UNSET else value

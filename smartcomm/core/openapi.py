"""The OpenAPI schema, written from the same structs that the answers are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.utils import (
    Direction,
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    PolymorphicProxySerializer,
    extend_schema,
)

from smartcomm.core.api import MAX_PAGE_SIZE, PAGE_SIZE
from smartcomm.core.problems import Problem

REF = "#/components/schemas/{name}"

PROBLEMS = {
    400: "The body is not JSON, or a parameter of the address is not understood.",
    401: "No key was shown, or it is unknown, expired or revoked.",
    403: "The key lacks the scope that this call asks for, or may not come from there.",
    404: "It does not exist.",
    409: "It does not fit the state things are in; the detail says why.",
    413: "More was sent at once than is taken: 5 MiB, or 1,000 items.",
    415: "The body is not application/json.",
    422: "What was sent breaks a rule; the errors name the places.",
    429: "Too many requests. Retry-After tells when to send it again.",
    503: "The database does not answer. Send the request again.",
}

#: Any call may meet these.
EVERYWHERE = (401, 403, 429, 503)

#: Told in every answer to whoever shows a key; Retry-After where waiting helps.
HEADERS = [
    OpenApiParameter(
        name,
        {"type": type, **({"minimum": 0} if type == "integer" else {})},
        OpenApiParameter.HEADER,
        description=description,
        response=told_in,
    )
    for name, type, told_in, description in (
        ("RateLimit-Limit", "integer", True, "How many requests in a second."),
        ("RateLimit-Remaining", "integer", True, "How many more just now."),
        ("RateLimit-Reset", "integer", True, "Seconds until it is all of them."),
        ("RateLimit-Policy", "string", True, "The limit and its window: `2000;w=1`."),
        ("Retry-After", "integer", [409, 429, 503], "Seconds to wait for another try."),
    )
]

#: A text among the parameters of an address.
TEXT = {"type": "string", "pattern": "^[^\\x00]*$"}

LIST = [
    OpenApiParameter(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE},
        description=f"How many to tell at once; {PAGE_SIZE} unless said.",
    ),
    OpenApiParameter(
        "cursor",
        {"type": "string", "pattern": "^[0-9]{1,18}$"},
        description="Where to go on; taken from `next` of the page before.",
    ),
]


class StructSchema(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """A msgspec struct stands for itself in the schema."""

    target_class = "msgspec.Struct"
    match_subclasses = True

    def get_name(self, auto_schema: AutoSchema, direction: Direction) -> str:
        return str(self.target.__name__)

    def get_identity(self, auto_schema: AutoSchema, direction: Direction) -> str:
        return self.get_name(auto_schema, direction)

    def map_serializer(
        self, auto_schema: AutoSchema, direction: Direction
    ) -> dict[str, Any]:
        name = self.target.__name__
        _, schemas = msgspec.json.schema_components([self.target], ref_template=REF)
        for other, schema in schemas.items():
            if other != name:
                auto_schema.registry.register_on_missing(
                    ResolvedComponent(  # type: ignore[no-untyped-call]
                        name=other,
                        type=ResolvedComponent.SCHEMA,
                        object=other,
                        schema=schema,
                    )
                )
        return dict(schemas[name])


def operation(
    *,
    name: str,
    tag: str,
    summary: str,
    description: str,
    answers: Mapping[int, Any],
    body: Any = None,
    body_example: Any = None,
    example: Any = None,
    more_examples: Mapping[int, Any] | None = None,
    parameters: Sequence[OpenApiParameter] = (),
    problems: Sequence[int] = (),
) -> Callable[[Any], Any]:
    """Describe one call: what it takes, what it answers, and how it refuses.

    `body` is a struct, or a tuple of those it may be. `answers` maps statuses to
    structs, or to None for an answer without a body; `example` is the body of the
    first of them and of others of its shape, `more_examples` are the rest.
    """
    first = next(iter(answers))
    examples = []
    if body_example is not None:
        examples.append(OpenApiExample("Request", body_example, request_only=True))
    told = {
        status: example
        for status, shape in answers.items()
        if example is not None and shape is answers[first] and status < 300
    }
    examples += [
        OpenApiExample("Answer", body, response_only=True, status_codes=[str(status)])
        for status, body in {**told, **(more_examples or {})}.items()
    ]
    responses: dict[Any, Any] = {
        status: OpenApiResponse(shape, description=WORDS[status])
        for status, shape in answers.items()
    }
    refusals = {*EVERYWHERE, *problems} | ({400, 413, 415, 422} if body else set())
    for status in sorted(refusals):
        responses[status, "application/problem+json"] = OpenApiResponse(
            Problem, description=PROBLEMS[status]
        )
    return extend_schema(
        operation_id=name,
        tags=[tag],
        summary=summary,
        description=description,
        request={"application/json": _body(body)} if body else None,
        responses=responses,
        examples=examples,
        parameters=[*parameters, *HEADERS],
    )


def require_bodies(result: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Say that a call which takes a body does not do without."""
    for methods in result["paths"].values():
        for told in methods.values():
            if "requestBody" in told:
                told["requestBody"]["required"] = True
    return result


def _body(body: Any) -> Any:
    """A struct, or one of several."""
    if not isinstance(body, tuple):
        return body
    return PolymorphicProxySerializer(
        component_name="Or".join(shape.__name__ for shape in body),
        serializers=list(body),
        resource_type_field_name=None,
    )


WORDS = {
    200: "Done.",
    201: "Made.",
    202: "Stored: what is told as accepted is committed to the database.",
    204: "Gone.",
    422: "Every item was rejected; the results say why.",
}

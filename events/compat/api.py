"""The doors for those who speak another language: Segment, CloudEvents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import (
    OpenApiExample,
    PolymorphicProxySerializer,
    extend_schema,
)
from rest_framework import exceptions
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response

from events.api import EventsAnswer, answer_to
from events.compat import cloudevents, segment
from events.compat.authentication import WriteKeyAuthentication, body_of
from events.compat.recording import record_cloudevents, record_messages
from events.ingest import Recorded, Result
from events.models import Scope
from smartcomm.core.api import ApiView
from smartcomm.core.bodies import MAX_ITEMS, TooLarge, read_body
from smartcomm.core.clock import database_now
from smartcomm.core.errors import Invalid, UserError
from smartcomm.core.openapi import operation
from smartcomm.core.problems import Problem, problem_details
from smartcomm.core.scopes import caller_of
from smartcomm.core.strict_json import NotJson, Unfit, decode_item, decode_items

Meta = msgspec.Meta

# Segment

#: A client drops what is refused, so a batch is only refused where it is absurd.
MAX_MESSAGES = 10_000

#: What a browser may do from any site. Keys are shown in plain sight there, and no
#: cookie counts here, so an origin proves nothing and is not asked for.
CORS = {"Access-Control-Allow-Origin": "*"}
PREFLIGHT = {
    **CORS,
    "Access-Control-Allow-Methods": "POST, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Content-Encoding, "
    "X-Retry-Count",
    "Access-Control-Max-Age": "86400",
}


class SegmentProblem(msgspec.Struct):
    """A refusal in the shape that Segment's clients read."""

    success: bool
    code: str
    message: str


class RefusedMessage(msgspec.Struct):
    """A message, or a trait of one, that was refused and kept."""

    index: int
    messageId: str
    code: str
    field: str
    message: str


class SegmentAnswer(msgspec.Struct):
    success: bool
    accepted: int
    duplicates: int
    rejected: int
    refused: list[RefusedMessage]


class MayWrite(BasePermission):
    """The key may write something; which messages, is asked of each of them."""

    message = (
        f"The key lacks the scopes “{Scope.EVENTS}” and “{Scope.CUSTOMERS}”: it needs "
        "one of them."
    )

    def has_permission(self, request: Request, view: Any) -> bool:
        if request.auth is None:
            return False
        return bool({Scope.EVENTS, Scope.CUSTOMERS} & set(caller_of(request).scopes))


class SegmentMessages(ApiView):
    """`/v1/<type>` and `/v1/batch`, as Segment's clients call them.

    Whatever can be kept is kept and answered with 200: a client drops what it gets
    a 4xx for.
    """

    schema = None
    authentication_classes = [WriteKeyAuthentication]
    permission_classes = [MayWrite]
    scopes = {"POST": Scope.EVENTS}

    #: The type of the one message; none for a batch.
    type: ClassVar[str | None] = None

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if request.method == "OPTIONS":
            return HttpResponse(status=204, headers=PREFLIGHT)
        return super().dispatch(request, *args, **kwargs)

    def post(self, request: Request) -> Response:
        now = database_now()
        body = body_of(request)
        _check_shape(body, batch=self.type is None)
        caller = caller_of(request)
        recorded = record_messages(
            segment.messages_of(body, type=self.type, received_at=now),
            source=caller.source,
            scopes=caller.scopes,
            now=now,
        )
        return Response(_segment_answer(recorded))

    def get_exception_handler(self) -> Any:
        return segment_problem

    def finalize_response(
        self, request: Any, response: Any, *args: Any, **kwargs: Any
    ) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        for name, value in CORS.items():
            response[name] = value
        return response


class NoSegmentAddress(SegmentMessages):
    """An address of Segment's that there is not."""

    permission_classes = []
    authentication_classes = []

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise exceptions.NotFound


def _check_shape(body: object, *, batch: bool) -> None:
    if not batch and isinstance(body, dict | Unfit):
        return
    if not isinstance(body, dict):
        raise Invalid("Send one JSON object.", code="not_an_object")
    messages = body.get("batch")
    if not isinstance(messages, list):
        raise Invalid("“batch” must be a list.", field="batch", code="not_a_list")
    if len(messages) > MAX_MESSAGES:
        raise TooLarge(
            f"{len(messages):,} messages are too many. Send at most {MAX_MESSAGES:,} "
            "at once.",
            field="batch",
            code="too_many_items",
        )


def _segment_answer(recorded: Recorded) -> SegmentAnswer:
    return SegmentAnswer(
        success=True,
        accepted=recorded.accepted,
        duplicates=recorded.duplicates,
        rejected=recorded.rejected,
        refused=[_refused(one) for one in recorded.results if one.code],
    )


def _refused(one: Result) -> RefusedMessage:
    return RefusedMessage(one.index, one.id, one.code, one.field, one.message)


def segment_problem(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """A refusal as Segment's clients know it: 400 for whatever cannot be read."""
    response = problem_details(error, context)
    told = msgspec.json.decode(response.content, type=Problem)
    message = SENTENCES.get(told.code, told.detail)
    response.content = msgspec.json.encode(SegmentProblem(False, told.code, message))
    response["Content-Type"] = "application/json"
    if told.status in (413, 415, 422):
        response.status_code = 400
    elif told.status == 409:
        # A customer was erased or merged meanwhile: to be sent again, not dropped.
        response.status_code, response["Retry-After"] = 503, "1"
    return response


#: Where Segment's clients do something else than ours.
SENTENCES = {
    "key_missing": "Show a key: as the user name of Basic authentication, or as "
    "“writeKey” in the body.",
    "not_found": "There is no such address. There are /v1/batch, /v1/track, "
    "/v1/identify, /v1/page, /v1/screen, /v1/group and /v1/alias.",
}


# CloudEvents


class NotACloudEvent(UserError):
    """Neither the content type nor the headers are those of a CloudEvent."""

    code = "not_a_cloudevent"
    status = 415


class CloudEventIn(msgspec.Struct, omit_defaults=True):
    """An event in the JSON format of CloudEvents 1.0."""

    specversion: Annotated[str, Meta(extra_json_schema={"enum": ["1.0"]})]
    id: Annotated[
        str, Meta(min_length=1, description="With `source`, counts once, for ever.")
    ]
    source: Annotated[
        str, Meta(min_length=1, description="Where it happened, as a URI reference.")
    ]
    type: Annotated[
        str, Meta(min_length=1, max_length=128, description="What happened: our name.")
    ]
    subject: Annotated[
        str | msgspec.UnsetType | None,
        Meta(description="The external id of the customer, unless `customer` tells."),
    ] = msgspec.UNSET
    time: Annotated[
        str | msgspec.UnsetType | None,
        Meta(
            description="RFC 3339 with an offset; the time of receipt unless told.",
            extra_json_schema={"format": "date-time"},
        ),
    ] = msgspec.UNSET
    datacontenttype: Annotated[
        str | msgspec.UnsetType | None,
        Meta(
            description="A type of JSON.",
            extra_json_schema={
                "pattern": r"^[A-Za-z0-9.+-]+/([A-Za-z0-9.-]+\+)?json(;.*)?$"
            },
        ),
    ] = msgspec.UNSET
    data: Annotated[
        dict[str, Any] | None,
        Meta(
            description="The context of the event, by field code.",
            extra_json_schema={
                "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,63}$"},
                "maxProperties": 100,
            },
        ),
    ] = {}
    customer: Annotated[
        str | msgspec.UnsetType | None,
        Meta(description="Extension: the external id, when `subject` is another."),
    ] = msgspec.UNSET
    kind: Annotated[
        str | msgspec.UnsetType | None,
        Meta(
            description="Extension: `system` for an event of nobody's in spite of a "
            "subject. Unless told, what names a customer is that customer's event.",
            extra_json_schema={"enum": ["customer", "system", None]},
        ),
    ] = msgspec.UNSET
    backfill: Annotated[
        bool | None,
        Meta(description="Extension: store and count it, but trigger nothing."),
    ] = False


CLOUDEVENT = {
    "specversion": "1.0",
    "id": "order-8812-paid",
    "source": "/shop/orders",
    "type": "Order paid",
    "subject": "C-1001",
    "time": "2026-11-20T10:15:00+03:00",
    "datacontenttype": "application/json",
    "data": {"name": "Bag", "product_id": 77, "price": 49.9},
}
CLOUDEVENTS_ANSWER = {
    "accepted": 1,
    "duplicates": 0,
    "rejected": 0,
    "results": [
        {"index": 0, "id": "/shop/orders#order-8812-paid", "status": "accepted"}
    ],
}
#: The type of the content tells the mode, and is looked at here.
ANYTHING = re.compile("")
ONE_MODE = "application/cloudevents+json"
BATCH_MODE = "application/cloudevents-batch+json"


class CloudEvents(ApiView):
    scopes = {"POST": Scope.EVENTS}

    @extend_schema(
        request={
            ONE_MODE: CloudEventIn,
            BATCH_MODE: PolymorphicProxySerializer(
                component_name="CloudEvents",
                serializers=[CloudEventIn],  # type: ignore[list-item]
                resource_type_field_name=None,
                many=True,
            ),
        },
        examples=[
            OpenApiExample(
                "Structured", CLOUDEVENT, request_only=True, media_type=ONE_MODE
            ),
            OpenApiExample(
                "Batch", [CLOUDEVENT], request_only=True, media_type=BATCH_MODE
            ),
        ],
    )
    @operation(
        name="recordCloudEvents",
        tag="Events",
        summary="Record CloudEvents",
        description="Takes CloudEvents 1.0 over HTTP: one in structured mode "
        f"(`{ONE_MODE}`), up to 1,000 in batch mode (`{BATCH_MODE}`), or one in binary "
        "mode (attributes in `ce-` headers, `data` as the body). `type` becomes the "
        "name, `subject` (or the extension `customer`) the customer, `data` the "
        "context; without a customer it is a system event. `source` and `id` together "
        "count once, for ever. The answers are those of `POST /events`.",
        body=CloudEventIn,
        answers={202: EventsAnswer, 422: EventsAnswer},
        example=CLOUDEVENTS_ANSWER,
    )
    def post(self, request: Request) -> HttpResponse:
        now = database_now()
        recorded = record_cloudevents(
            _cloudevents(request), source=caller_of(request).source, now=now
        )
        status, answer = answer_to(recorded)
        return HttpResponse(answer, status=status, content_type="application/json")


def _cloudevents(request: Request) -> list[Any]:
    """The events of a request, in the JSON format, whichever way they came."""
    type = (request.content_type or "").partition(";")[0].strip().lower()
    if type == BATCH_MODE:
        events = _array(read_body(request, types=ANYTHING))
        if len(events) > MAX_ITEMS:
            raise TooLarge(
                f"{len(events):,} events are too many. Send at most {MAX_ITEMS:,} at "
                "once.",
                code="too_many_items",
            )
        return events
    if type == ONE_MODE:
        return [_one(read_body(request, types=ANYTHING))]
    binary = "HTTP_CE_SPECVERSION" in request.META
    if not binary or type.startswith("application/cloudevents"):
        raise NotACloudEvent(
            f"This is no CloudEvent that we can read. Send {ONE_MODE}, {BATCH_MODE}, "
            "or the attributes as ce- headers, with ce-specversion."
        )
    body = read_body(request, types=ANYTHING)
    return [cloudevents.from_binary(request.META, body)]


def _one(body: bytes) -> Any:
    try:
        return decode_item(body.decode())
    except UnicodeDecodeError as error:
        raise NotJson("The body is not UTF-8.") from error


def _array(body: bytes) -> list[Any]:
    """The items of an array; one that cannot be held spoils no other."""
    if not body.strip():
        raise NotJson("The body is empty. Send a JSON array.")
    told = decode_items(b'{"batch":%s}' % body, "batch")
    if not isinstance(told, dict) or told.keys() != {"batch"}:
        raise NotJson("The body is more than one JSON array.")
    if not isinstance(told["batch"], list):
        raise Invalid("A batch is a JSON array of CloudEvents.", code="not_a_list")
    return told["batch"]

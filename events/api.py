"""The API's door for events, and the history of a customer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from customers.api import find_customer
from events import idempotency
from events.history import Item, timeline
from events.idempotency import REPLAYED, fingerprint, key_of
from events.ingest import Recorded, record_events
from events.models import Kind, Scope
from events.sandbox import Tried, try_events
from smartcomm.core.api import (
    LIST_PARAMETERS,
    ApiView,
    BadParameter,
    next_page,
    page_size,
    read_flag,
    read_text,
    read_time,
)
from smartcomm.core.bodies import encode, items_of, read_body
from smartcomm.core.errors import Invalid
from smartcomm.core.openapi import LIST, TEXT, operation
from smartcomm.core.problems import FieldProblem
from smartcomm.core.scopes import caller_of

Meta = msgspec.Meta


class CustomerByContact(msgspec.Struct, omit_defaults=True):
    """A customer, named by exactly one of these."""

    external_id: str | msgspec.UnsetType = msgspec.UNSET
    email: str | msgspec.UnsetType = msgspec.UNSET
    phone: str | msgspec.UnsetType = msgspec.UNSET


class SystemEventIn(msgspec.Struct, omit_defaults=True):
    """Something that happened for everyone. Null is as good as not told."""

    name: Annotated[str, Meta(max_length=128, description="What happened.")]
    id: Annotated[
        str | msgspec.UnsetType | None,
        Meta(
            description="Chosen by you; counts once, for ever. Without it one is made, "
            "and sending the event again doubles it."
        ),
    ] = msgspec.UNSET
    occurred_at: Annotated[
        str | msgspec.UnsetType | None,
        Meta(
            description="RFC 3339 with an offset; the time of receipt unless told. "
            "Not more than 5 minutes in the future.",
            extra_json_schema={"format": "date-time"},
        ),
    ] = msgspec.UNSET
    context: Annotated[
        dict[str, Any] | None,
        Meta(
            description="The variables of the event by field code: letters, digits "
            "and underscores. At most 100 fields and 32 KiB."
        ),
    ] = {}
    backfill: Annotated[
        bool | None, Meta(description="Store and count it, but trigger nothing.")
    ] = False


class EventIn(SystemEventIn, kw_only=True, omit_defaults=True):
    """Something that happened to one customer. Null is as good as not told."""

    customer: Annotated[
        str | CustomerByContact,
        Meta(description="The external id, or an object naming one of three."),
    ]


class EventsIn(msgspec.Struct):
    events: Annotated[list[EventIn], Meta(max_length=1_000)]


class SystemEventsIn(msgspec.Struct):
    events: Annotated[list[SystemEventIn], Meta(max_length=1_000)]


class EventResult(msgspec.Struct, omit_defaults=True):
    """What became of one item. A rejected one tells why, and is kept with it."""

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
        Meta(description="How it differs from what its type declares. It is stored."),
    ] = []


class EventsAnswer(msgspec.Struct):
    accepted: int
    duplicates: int
    rejected: int
    results: list[EventResult]


EVENT = {
    "id": "order-8812-paid",
    "name": "Order paid",
    "customer": "C-1001",
    "occurred_at": "2026-11-20T10:15:00+03:00",
    "context": {"name": "Bag", "product_id": 77, "price": 49.9},
}
ANSWER = {
    "accepted": 1,
    "duplicates": 0,
    "rejected": 1,
    "results": [
        {"index": 0, "id": "order-8812-paid", "status": "accepted"},
        {
            "index": 1,
            "id": "order-8813-paid",
            "status": "rejected",
            "code": "field_code_invalid",
            "field": "context.price-eur",
            "message": "“price-eur” is no field code: use letters and digits.",
        },
    ],
}
TRIED = {
    "dry_run": True,
    "accepted": 1,
    "duplicates": 0,
    "rejected": 0,
    "results": [
        {
            "index": 0,
            "id": "order-8812-paid",
            "status": "accepted",
            "stored": {
                "id": "order-8812-paid",
                "name": "Order paid",
                "kind": "customer",
                "customer": "C-1001",
                "customer_created": False,
                "occurred_at": "2026-11-20T07:15:00Z",
                "context": {"name": "Bag", "product_id": 77, "price": 49.9},
                "backfill": False,
                "type_created": False,
                "fields_learnt": [{"code": "product_id", "type": "number"}],
            },
            "segments": [
                {
                    "id": 12,
                    "name": "Buyers",
                    "before": False,
                    "after": True,
                    "conditions": [
                        {"sentence": "“Order paid” at least once", "fits": True}
                    ],
                }
            ],
            "campaigns": [
                {
                    "id": 3,
                    "name": "Thank you for a large order",
                    "starts": False,
                    "reasons": [
                        "The campaign asks that price is more than 50; the event says "
                        "49.9."
                    ],
                    "conditions": [
                        {
                            "sentence": "price is more than 50",
                            "fits": False,
                            "value": 49.9,
                        }
                    ],
                }
            ],
        }
    ],
    "notes": [],
}
TRIED_SYSTEM = {
    "dry_run": True,
    "accepted": 1,
    "duplicates": 0,
    "rejected": 0,
    "results": [
        {
            "index": 0,
            "id": "stock-77-2026-11-20",
            "status": "accepted",
            "stored": {
                "id": "stock-77-2026-11-20",
                "name": "Product in stock",
                "kind": "system",
                "customer": None,
                "customer_created": False,
                "occurred_at": "2026-11-20T07:15:00Z",
                "context": {"product_id": 77, "name": "Bag"},
                "backfill": False,
                "type_created": False,
                "fields_learnt": [],
            },
            "campaigns": [
                {
                    "id": 4,
                    "name": "Back in stock",
                    "starts": True,
                    "reasons": [],
                    "conditions": [],
                    "path": [
                        {
                            "step": "viewers",
                            "action": "filter_customers",
                            "label": "Filter customers",
                            "does": "“Product viewed” with product_id is the event's "
                            "product_id at least once",
                            "way": "positive",
                        },
                        {
                            "step": "mail",
                            "action": "send_email",
                            "label": "Send e-mail",
                            "does": "{{ client.eventContext.name }} is back",
                        },
                    ],
                    "reach": {
                        "count": 417,
                        "exact": True,
                        "margin": 0,
                        "sample": ["C-1001", "C-1007"],
                    },
                }
            ],
        }
    ],
    "notes": [],
}
DRY_RUN = OpenApiParameter(
    "dry_run",
    {"type": "boolean"},
    description="Try it: nothing is stored, nothing is sent. The answer is 200 "
    "(422 if every item would be rejected), and "
    "tells for each item what it would be stored as, which segments speak of it, and "
    "which published campaigns it would start, or why not. At most 20 events.",
)
HOW = (
    'Takes one event, or up to 1,000 as `{"events": [...]}`. The answer tells for '
    "each what became of it, and 202 means that what it calls accepted is committed "
    "to the database. An event sent again with the same id is told as a duplicate and "
    "changes nothing, so repeating a request is always safe. A bad item spoils no "
    "other: it is kept with its reason, and can be replayed from the admin. When every "
    "item was rejected, the status is 422 and the body is the same."
)


class _Record(ApiView):
    """The hot path: nothing here but reading, recording, answering."""

    scopes = {"POST": Scope.EVENTS}
    parameters = frozenset({"dry_run"})
    kind: Kind

    def record(self, request: Request) -> HttpResponse:
        if read_flag(request, "dry_run"):
            return self.try_out(request)
        body = read_body(request)
        source = caller_of(request).source

        def respond() -> tuple[int, bytes]:
            items = items_of(body, "events")
            recorded = record_events(items, source=source, kind=self.kind)
            return answer_to(recorded)

        (status, answer), replayed = (
            idempotency.answer_once(
                key, fingerprint(request.path, body), respond, source=source
            )
            if (key := key_of(request))
            else (respond(), False)
        )
        response = HttpResponse(answer, status=status, content_type="application/json")
        if replayed:
            response[REPLAYED] = "true"
        return response

    def try_out(self, request: Request) -> HttpResponse:
        """A dry run is no deed: an Idempotency-Key is left for the real one."""
        key_of(request)
        items = items_of(read_body(request), "events")
        tried = try_events(items, source=caller_of(request).source, kind=self.kind)
        all_rejected = tried.rejected and tried.rejected == len(tried.results)
        return HttpResponse(
            encode(tried),
            status=422 if all_rejected else 200,
            content_type="application/json",
        )


class RecordEvents(_Record):
    kind = Kind.CUSTOMER

    @operation(
        name="recordEvents",
        tag="Events",
        summary="Record events of customers",
        description=HOW,
        body=(EventIn, EventsIn),
        body_example=EVENT,
        parameters=[DRY_RUN, idempotency.PARAMETER],
        answers={202: EventsAnswer, 200: Tried, 422: EventsAnswer},
        example=ANSWER,
        more_examples={200: TRIED},
        problems=(409,),
    )
    def post(self, request: Request) -> HttpResponse:
        return self.record(request)


class RecordSystemEvents(_Record):
    kind = Kind.SYSTEM

    @operation(
        name="recordSystemEvents",
        tag="Events",
        summary="Record system events",
        description="For what happened for everyone and belongs to no customer. " + HOW,
        body=(SystemEventIn, SystemEventsIn),
        body_example={
            "id": "stock-77-2026-11-20",
            "name": "Product in stock",
            "context": {"product_id": 77, "name": "Bag"},
        },
        parameters=[DRY_RUN, idempotency.PARAMETER],
        answers={202: EventsAnswer, 200: Tried, 422: EventsAnswer},
        example=ANSWER,
        more_examples={200: TRIED_SYSTEM},
        problems=(409,),
    )
    def post(self, request: Request) -> HttpResponse:
        return self.record(request)


def answer_to(recorded: Recorded) -> tuple[int, bytes]:
    """The status and the body that tell what became of a batch."""
    all_rejected = recorded.rejected and not (recorded.accepted or recorded.duplicates)
    answer = EventsAnswer(
        recorded.accepted,
        recorded.duplicates,
        recorded.rejected,
        [
            EventResult(
                one.index,
                one.id,
                one.status,
                one.code,
                one.field,
                one.message,
                [
                    FieldProblem(field=told.field, code=told.code, message=told.message)
                    for told in one.warnings
                ],
            )
            for one in recorded.results
        ],
    )
    return 422 if all_rejected else 202, encode(answer)


class HistoryItem(msgspec.Struct):
    """An event on a customer's time line."""

    id: str
    name: str
    kind: Annotated[str, Meta(extra_json_schema={"enum": ["customer", "system"]})]
    occurred_at: datetime
    received_at: datetime
    source: str
    context: dict[str, Any]
    backfill: bool


class HistoryPage(msgspec.Struct):
    results: list[HistoryItem]
    next: str | None


class History(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = LIST_PARAMETERS | {"name", "since", "until", "text"}

    @operation(
        name="listCustomerEvents",
        tag="Customers",
        summary="Read a customer's history",
        description="Their own events, and the system events since they became known, "
        "newest first. Every page costs the same.",
        parameters=[
            LIST[0],
            OpenApiParameter(
                "cursor",
                {
                    "type": "string",
                    "pattern": r"^(-?[0-9]{1,16}\.[01]\.[0-9]{1,18})?$",
                },
                description="Where to go on; taken from `next` of the page before.",
            ),
            OpenApiParameter("name", TEXT, description="Only events of this name."),
            OpenApiParameter(
                "since",
                {"type": "string", "format": "date-time"},
                description="Only events at this time or later.",
            ),
            OpenApiParameter(
                "until",
                {"type": "string", "format": "date-time"},
                description="Only events before this time.",
            ),
            OpenApiParameter(
                "text",
                TEXT,
                description="Only events with this text in name or context.",
            ),
        ],
        answers={200: HistoryPage},
        example={
            "results": [
                {
                    "id": "order-8812-paid",
                    "name": "Order paid",
                    "kind": "customer",
                    "occurred_at": "2026-11-20T07:15:00Z",
                    "received_at": "2026-11-20T07:15:01Z",
                    "source": "Shop",
                    "context": {"name": "Bag", "product_id": 77, "price": 49.9},
                    "backfill": False,
                }
            ],
            "next": None,
        },
        problems=(400, 404),
    )
    def get(self, request: Request, external_id: str) -> Response:
        try:
            found = timeline(
                find_customer(external_id),
                before=read_text(request, "cursor"),
                name=read_text(request, "name"),
                since=read_time(request, "since"),
                until=read_time(request, "until"),
                text=read_text(request, "text"),
                limit=page_size(request),
            )
        except Invalid as error:
            raise BadParameter(error.message, field=error.field) from error
        return Response(
            {
                "results": [_history_item(item) for item in found.items],
                "next": next_page(request, found.next),
            }
        )


def _history_item(item: Item) -> HistoryItem:
    return HistoryItem(
        id=item.id,
        name=item.name,
        kind=item.kind,
        occurred_at=item.occurred_at,
        received_at=item.received_at,
        source=item.source,
        context=item.context,
        backfill=item.is_backfill,
    )

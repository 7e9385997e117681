"""The API of rejected events: what is left to be mended, and replaying it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

import msgspec
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from events.models import Format, Kind, RejectedEvent, Replay, Scope, Source
from events.rejects import Which
from events.replays import begin_replay
from smartcomm.core.api import (
    LIST_PARAMETERS,
    ApiView,
    BadParameter,
    page,
    read_text,
)
from smartcomm.core.bodies import MAX_ITEMS, read_struct
from smartcomm.core.errors import Invalid, NotFound
from smartcomm.core.openapi import LIST, TEXT, operation
from smartcomm.core.scopes import caller_of

Meta = msgspec.Meta

MAX_ID = 2**63 - 1

#: A caller is answered after so many seconds at the latest, done or not.
PATIENCE_SECONDS = 10.0


class RejectedEventOut(msgspec.Struct):
    """An event that was refused, kept whole."""

    id: Annotated[int, Meta(description="Ours, for replaying it.")]
    status: Annotated[
        str, Meta(extra_json_schema={"enum": list(RejectedEvent.Status.values)})
    ]
    code: Annotated[str, Meta(description="The reason, for programs.")]
    field: Annotated[str, Meta(description="The place in what was sent; may be empty.")]
    message: Annotated[str, Meta(description="The reason, for people.")]
    source: str
    kind: Annotated[str, Meta(extra_json_schema={"enum": list(Kind.values)})]
    format: Annotated[str, Meta(extra_json_schema={"enum": list(Format.values)})]
    name: Annotated[str, Meta(description="Of the event, if it could be told.")]
    event_id: Annotated[str, Meta(description="As it was sent; may be empty.")]
    received_at: datetime
    replayed_at: datetime | None
    sent: Annotated[Any, Meta(description="What was sent, whole.")]


class RejectedEventsPage(msgspec.Struct):
    results: list[RejectedEventOut]
    next: str | None


class RejectedFilter(msgspec.Struct, forbid_unknown_fields=True):
    """Open rejected events: those that fit all that is told. Empty: all of them."""

    code: str | msgspec.UnsetType = msgspec.UNSET
    field: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    source: Annotated[
        str | msgspec.UnsetType, Meta(description="The name of a source.")
    ] = msgspec.UNSET


class ReplayIn(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Which to replay: by `ids` or by `filter`, exactly one of them."""

    ids: (
        Annotated[
            list[Annotated[int, Meta(ge=1, le=MAX_ID)]],
            Meta(min_length=1, max_length=MAX_ITEMS),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    filter: RejectedFilter | msgspec.UnsetType = msgspec.UNSET
    backfill: Annotated[
        bool, Meta(description="Store and count them, but trigger nothing.")
    ] = False


class ReplayOut(msgspec.Struct):
    """A replay and what it has come to. What is counted is committed."""

    id: int
    status: Annotated[str, Meta(extra_json_schema={"enum": list(Replay.Status.values)})]
    total: Annotated[int, Meta(description="Open when it was asked for.")]
    accepted: int
    duplicates: Annotated[int, Meta(description="Were recorded before.")]
    rejected: Annotated[int, Meta(description="Still refused; they stay open.")]


REJECTED = {
    "id": 17,
    "status": "open",
    "code": "field_code_invalid",
    "field": "context.price-eur",
    "message": "“price-eur” is no field code: use letters, digits and underscores, "
    "not starting with a digit, up to 64 characters.",
    "source": "Shop",
    "kind": "customer",
    "format": "native",
    "name": "Order paid",
    "event_id": "order-8812-paid",
    "received_at": "2026-11-20T07:15:01Z",
    "replayed_at": None,
    "sent": {
        "id": "order-8812-paid",
        "name": "Order paid",
        "customer": "C-1001",
        "context": {"price-eur": 49.9},
    },
}
REPLAYED = {
    "id": 3,
    "status": "done",
    "total": 42,
    "accepted": 40,
    "duplicates": 1,
    "rejected": 1,
}
FILTERS = [
    OpenApiParameter(
        "status",
        enum=RejectedEvent.Status.values,
        description="Only those of this status; open ones unless told.",
    ),
    OpenApiParameter("code", TEXT, description="Only those with this reason."),
    OpenApiParameter("name", TEXT, description="Only events of this name."),
    OpenApiParameter(
        "source", TEXT, description="Only those from the source of this name."
    ),
]


class RejectedEvents(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = LIST_PARAMETERS | {"status", "code", "name", "source"}

    @operation(
        name="listRejectedEvents",
        tag="Events",
        summary="List rejected events",
        description="What was refused, newest first, each with its reason and whole "
        "as it was sent. Once the cause is mended, replay them.",
        parameters=[*LIST, *FILTERS],
        answers={200: RejectedEventsPage},
        example={"results": [REJECTED], "next": None},
        problems=(400, 404),
    )
    def get(self, request: Request) -> Response:
        status = request.query_params.get("status", RejectedEvent.Status.OPEN)
        if status not in RejectedEvent.Status.values:
            raise BadParameter(
                f"“status” is one of {', '.join(RejectedEvent.Status.values)}.",
                field="status",
            )
        which = Which(
            code=read_text(request, "code") or None,
            name=read_text(request, "name") or None,
            source=_source(read_text(request, "source")),
        )
        rows = which.rows(status).select_related("source")
        return Response(page(request, rows, rejected_out, newest_first=True))


class ReplayRejected(ApiView):
    scopes = {"POST": Scope.MANAGE}

    @operation(
        name="replayRejectedEvents",
        tag="Events",
        summary="Replay rejected events",
        description="Sends open rejected events through the door again, by their ids "
        "or by a filter, and tells what became of them. What is still refused stays "
        "open, with the reason of today. An event is recorded once, however often it "
        "is replayed. With 202 there are too many to wait for: the rest is replayed "
        "in the background, and `GET /rejected-events/replays/{id}` tells how far it "
        "got.",
        body=ReplayIn,
        body_example={"filter": {"code": "field_code_invalid", "name": "Order paid"}},
        answers={200: ReplayOut, 202: ReplayOut},
        example=REPLAYED,
    )
    def post(self, request: Request) -> Response:
        asked = read_struct(request, ReplayIn)
        done = begin_replay(
            _which(asked),
            by=str(caller_of(request).source)[:150],
            now=timezone.now(),
            as_backfill=asked.backfill,
            patience=PATIENCE_SECONDS,
        )
        under_way = done.status == Replay.Status.WAITING
        return Response(replay_out(done), status=202 if under_way else 200)


class OneReplay(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        name="readReplay",
        tag="Events",
        summary="Read how far a replay got",
        description="Its status and counts: they add up to `total` once it is done, "
        "less what another replay took meanwhile.",
        answers={200: ReplayOut},
        example=REPLAYED,
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        found = Replay.objects.filter(pk=pk).first() if pk <= MAX_ID else None
        if found is None:
            raise NotFound(f"There is no replay {pk}.")
        return Response(replay_out(found))


def _which(asked: ReplayIn) -> Which:
    ids, narrowed = asked.ids, asked.filter
    if isinstance(ids, list) and isinstance(narrowed, msgspec.UnsetType):
        return Which(ids=tuple(sorted(set(ids))))
    if isinstance(ids, list) or isinstance(narrowed, msgspec.UnsetType):
        raise Invalid(
            "Tell which to replay: “ids” or “filter”, one of them. An empty filter is "
            "for all.",
            field="filter",
        )
    told = {
        name: value
        for name in ("code", "field", "name", "source")
        if isinstance(value := getattr(narrowed, name), str)
    }
    for name, value in told.items():
        if "\x00" in value:
            raise Invalid(f"“{name}” has a NUL character.", field=f"filter.{name}")
    try:
        source = _source(told.pop("source", ""))
    except NotFound as error:
        raise Invalid(error.message, field="filter.source") from error
    return Which(
        code=told.get("code"),
        field=told.get("field"),
        name=told.get("name"),
        source=source,
    )


def _source(name: str) -> int | None:
    """The id of the source of this name; None if none is asked for."""
    if not name:
        return None
    found = Source.objects.filter(name=name).values_list("pk", flat=True).first()
    if found is None:
        raise NotFound(f"There is no source “{name[:128]}”.", field="source")
    return found


def rejected_out(row: RejectedEvent) -> RejectedEventOut:
    try:
        sent = json.loads(row.payload)
    except ValueError:
        sent = row.payload
    return RejectedEventOut(
        id=row.pk,
        status=row.status,
        code=row.code,
        field=row.field,
        message=row.message,
        source=row.source.name,
        kind=row.kind,
        format=row.format,
        name=row.name,
        event_id=row.external_id,
        received_at=row.received_at,
        replayed_at=row.replayed_at,
        sent=sent,
    )


def replay_out(row: Replay) -> ReplayOut:
    return ReplayOut(
        id=row.pk,
        status=row.status,
        total=row.total,
        accepted=row.accepted,
        duplicates=row.duplicates,
        rejected=row.rejected,
    )

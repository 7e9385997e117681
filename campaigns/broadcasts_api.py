"""Broadcasts through the API: how far they are, and stopping one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from django.db.models import QuerySet
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from campaigns import portions
from campaigns.api import PaceShape, find_campaign
from campaigns.broadcast import stop
from campaigns.models import Broadcast
from events.models import Scope
from smartcomm.core.api import LIST_PARAMETERS, ApiView, page
from smartcomm.core.clock import database_now
from smartcomm.core.errors import Conflict, NotFound
from smartcomm.core.openapi import LIST, operation
from smartcomm.core.scopes import caller_of

Meta = msgspec.Meta


class BroadcastOut(msgspec.Struct, kw_only=True):
    """One system event's way through the customer base."""

    id: int
    campaign: int
    version: int
    event: Annotated[str, Meta(description="The id of the system event.")]
    name: Annotated[str, Meta(description="The name of the system event.")]
    status: Annotated[str, Meta(extra_json_schema={"enum": Broadcast.Status.values})]
    reason: Annotated[str, Meta(description="Why it ended, or what went wrong.")]
    progress: Annotated[float, Meta(description="From 0 to 1.")]
    entered: Annotated[int, Meta(description="How many it has started.")]
    looked_at: Annotated[
        int | None, Meta(description="null with a pace: all are asked each time.")
    ]
    began_at: datetime
    finished_at: datetime | None
    pace: PaceShape | None
    portions: Annotated[int, Meta(description="Periods of the pace that have begun.")]
    left: Annotated[
        int | None,
        Meta(
            description="With a pace: how many more it will take, as they matched at "
            "the last portion; null when it is over."
        ),
    ]
    next_at: Annotated[
        datetime | None,
        Meta(description="When it takes the next portion; null while paused."),
    ]
    expected_end: Annotated[
        datetime | None, Meta(description="When those who are left are taken.")
    ]


class BroadcastsPage(msgspec.Struct):
    results: list[BroadcastOut]
    next: str | None


EXAMPLE = {
    "id": 12,
    "campaign": 3,
    "version": 1,
    "event": "stock-77",
    "name": "Product in stock",
    "status": "running",
    "reason": "",
    "progress": 0.4,
    "entered": 1000,
    "looked_at": None,
    "began_at": "2026-11-20T07:00:01Z",
    "finished_at": None,
    "pace": {
        "limit": 500,
        "per": "hour",
        "first": "longest_interest",
        "stop_after": 2500,
    },
    "portions": 2,
    "left": 1500,
    "next_at": "2026-11-20T09:00:01Z",
    "expected_end": "2026-11-20T11:00:01Z",
}


class Broadcasts(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = LIST_PARAMETERS

    @operation(
        name="listBroadcasts",
        tag="Campaigns",
        summary="List a campaign's broadcasts",
        description="How its system events went, or are going, through the customer "
        "base; the newest first.",
        parameters=LIST,
        answers={200: BroadcastsPage},
        example={"results": [EXAMPLE], "next": None},
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        found = _of(find_campaign(pk).pk)
        return Response(page(request, found, broadcast_out, newest_first=True))


class OneBroadcast(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        name="readBroadcast",
        tag="Campaigns",
        summary="Read a broadcast",
        description="How far it is; with a pace, when it goes on and how long it "
        "still takes.",
        answers={200: BroadcastOut},
        example=EXAMPLE,
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int, number: int) -> Response:
        return Response(broadcast_out(_find(pk, number)))


class StopBroadcast(ApiView):
    scopes = {"POST": Scope.MANAGE}

    @operation(
        name="stopBroadcast",
        tag="Campaigns",
        summary="Stop a broadcast",
        description="Nobody else enters. Who has entered goes on. One that is over "
        "cannot be stopped.",
        answers={200: BroadcastOut},
        example={
            **EXAMPLE,
            "status": "finished",
            "reason": "Stopped by shop after 1,000 had been taken.",
            "progress": 1.0,
            "finished_at": "2026-11-20T08:12:00Z",
            "left": None,
            "next_at": None,
            "expected_end": None,
        },
        problems=(404, 409),
    )
    def post(self, request: Request, pk: int, number: int) -> Response:
        found = _find(pk, number)
        if not stop(found, by=str(caller_of(request).source), now=database_now()):
            raise Conflict("The broadcast is over already, so it cannot be stopped.")
        return Response(broadcast_out(_find(pk, number)))


def broadcast_out(broadcast: Broadcast) -> BroadcastOut:
    shown: dict[str, Any] = {
        "looked_at": broadcast.examined,
        "pace": None,
        "left": None,
        "next_at": None,
        "expected_end": None,
    }
    if progress := portions.progress(broadcast, now=timezone.now()):
        shown = {
            "looked_at": None,
            "pace": PaceShape(**progress.pace.as_json()),
            "left": progress.left,
            "next_at": progress.next_at,
            "expected_end": progress.ends_at,
        }
    return BroadcastOut(
        id=broadcast.pk,
        campaign=broadcast.campaign_id,
        version=broadcast.version.number,
        event=broadcast.system_event.external_id,
        name=broadcast.system_event.type.name,
        status=broadcast.status,
        reason=broadcast.reason,
        progress=round(broadcast.progress, 4),
        entered=broadcast.entered,
        began_at=broadcast.created_at,
        finished_at=broadcast.finished_at,
        portions=broadcast.portions,
        **shown,
    )


def _of(campaign_id: int) -> QuerySet[Broadcast]:
    return Broadcast.objects.filter(campaign=campaign_id).select_related(
        "campaign", "version", "system_event__type"
    )


def _find(campaign_id: int, pk: int) -> Broadcast:
    broadcast = _of(find_campaign(campaign_id).pk).filter(pk=pk).first()
    if broadcast is None:
        raise NotFound(f"This campaign has no broadcast {pk}.")
    return broadcast

"""Rehearsals through the API: ask for one, see how far it is, read what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from rest_framework.request import Request
from rest_framework.response import Response

from campaigns.api import find_campaign
from campaigns.models import Rehearsal, Version
from campaigns.rehearsal import orders
from events.models import Scope
from smartcomm.core.api import ApiView
from smartcomm.core.bodies import read_struct
from smartcomm.core.errors import Conflict, NotFound
from smartcomm.core.openapi import operation

Meta = msgspec.Meta


class RehearsalIn(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Which days are rehearsed: the last ones."""

    days: Annotated[int, Meta(ge=1, le=orders.MOST_DAYS)] = orders.DAYS


class RehearsalOut(msgspec.Struct, kw_only=True):
    """A rehearsal: how far it is, and what came of it once it is done."""

    id: int
    version: int
    days: int
    until: datetime
    status: Annotated[str, Meta(extra_json_schema={"enum": Rehearsal.Status.values})]
    progress: Annotated[float, Meta(description="From 0 to 1.")]
    result: Annotated[
        dict[str, Any] | None,
        Meta(
            description="The report as it would be, runs and messages by day, who was "
            "turned away, variables that were missing, ten of the messages, and the "
            "drawing that was rehearsed."
        ),
    ]
    error: str


EXAMPLE = {
    "id": 7,
    "version": 2,
    "days": 30,
    "until": "2026-11-20T07:15:00Z",
    "status": "running",
    "progress": 0.4,
    "result": None,
    "error": "",
}


class Rehearsals(ApiView):
    scopes = {"POST": Scope.MANAGE}

    @operation(
        name="rehearseCampaign",
        tag="Campaigns",
        summary="Rehearse a campaign",
        description="Replays the events of the last days against the draft, or the "
        "version at work if there is none. Nobody is written to, nothing is changed. "
        "Answers at once; read the rehearsal until its status is done.",
        body=RehearsalIn,
        body_example={"days": 30},
        answers={202: RehearsalOut},
        example={**EXAMPLE, "status": "waiting", "progress": 0.0},
        problems=(400, 404, 409, 413, 415, 422),
    )
    def post(self, request: Request, pk: int) -> Response:
        campaign = find_campaign(pk)
        days = read_struct(request, RehearsalIn).days
        # The draft, or what is at work.
        version: Version | None = next(iter(campaign.versions.all()), None)
        if version is None:
            raise Conflict("There is nothing to rehearse: draw the campaign first.")
        return Response(rehearsal_out(orders.ask(version, days=days)), status=202)


class OneRehearsal(ApiView):
    scopes = {"GET": Scope.READ, "DELETE": Scope.MANAGE}

    @operation(
        name="readRehearsal",
        tag="Campaigns",
        summary="Read a rehearsal",
        description="How far it is, and what came of it once it is done.",
        answers={200: RehearsalOut},
        example=EXAMPLE,
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        return Response(rehearsal_out(_find(pk)))

    @operation(
        name="stopRehearsal",
        tag="Campaigns",
        summary="Stop a rehearsal",
        description="Stops it where it is. One that is over stays as it is.",
        answers={200: RehearsalOut},
        example={**EXAMPLE, "status": "cancelled"},
        problems=(404,),
    )
    def delete(self, request: Request, pk: int) -> Response:
        order = _find(pk)
        orders.cancel(order)
        return Response(rehearsal_out(order))


def rehearsal_out(order: Rehearsal) -> RehearsalOut:
    return RehearsalOut(
        id=order.pk,
        version=order.version.number,
        days=order.days,
        until=order.until,
        status=order.status,
        progress=order.progress,
        result=order.result,
        error=order.error,
    )


def _find(pk: int) -> Rehearsal:
    order = Rehearsal.objects.filter(pk=pk).select_related("version").first()
    if order is None:
        raise NotFound(f"There is no rehearsal {pk}; the {orders.KEPT} last are kept.")
    return order

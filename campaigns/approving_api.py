"""Asking for publishing through the API, where a second person publishes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from rest_framework.request import Request
from rest_framework.response import Response

from campaigns import approving, publish
from campaigns.api import actor, find_campaign
from campaigns.models import PublishRequest
from events.models import Scope
from smartcomm.core.api import LIST_PARAMETERS, ApiView, page
from smartcomm.core.bodies import read_struct
from smartcomm.core.openapi import LIST, operation

Meta = msgspec.Meta


class DecisionIn(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What a second person says to a request."""

    approve: bool
    word: Annotated[
        str,
        Meta(max_length=approving.MOST_WORDS, description="Needed to decline."),
    ] = ""


class PublishRequestOut(msgspec.Struct, kw_only=True):
    """That a draft be published, and what a second person said to it."""

    campaign: int
    version: int
    status: Annotated[
        str, Meta(extra_json_schema={"enum": PublishRequest.Status.values})
    ]
    asked_by: str
    asked_at: datetime
    decided_by: str
    decided_at: datetime | None
    word: str


class PublishRequestsPage(msgspec.Struct):
    results: list[PublishRequestOut]
    next: str | None


EXAMPLE = {
    "campaign": 3,
    "version": 2,
    "status": "open",
    "asked_by": "anna",
    "asked_at": "2026-11-20T07:00:00Z",
    "decided_by": "",
    "decided_at": None,
    "word": "",
}
DECIDED = {
    **EXAMPLE,
    "status": "declined",
    "decided_by": "a key of ERP",
    "decided_at": "2026-11-20T07:10:00Z",
    "word": "Not before Monday.",
}


class PublishRequests(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.MANAGE}
    parameters = LIST_PARAMETERS

    @operation(
        name="listPublishRequests",
        tag="Campaigns",
        summary="List who asked for publishing, and what was said",
        description="Every request for a draft of this campaign, the newest first. One "
        "is open at most.",
        parameters=LIST,
        answers={200: PublishRequestsPage},
        example={"results": [EXAMPLE], "next": None},
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        rows = PublishRequest.objects.filter(campaign=find_campaign(pk))
        return Response(page(request, rows, request_out, newest_first=True))

    @operation(
        name="askForPublishing",
        tag="Campaigns",
        summary="Ask somebody else to publish the draft",
        description="Where the installation wants a second person (see "
        "PUBLISHING_NEEDS_TWO). A draft that is changed afterwards makes the request "
        "void. Refused with everything that stands in the way of publishing.",
        answers={201: PublishRequestOut},
        example=EXAMPLE,
        problems=(404, 409, 422),
    )
    def post(self, request: Request, pk: int) -> Response:
        made = publish.ask(find_campaign(pk), by=actor(request))
        return Response(request_out(made), status=201)


class PublishDecision(ApiView):
    scopes = {"POST": Scope.MANAGE}

    @operation(
        name="decidePublishing",
        tag="Campaigns",
        summary="Approve or decline what somebody asked to publish",
        description="Approving publishes the draft as it was when it was asked for; "
        "only a key of another source than those that asked and drew may. Declining "
        "needs a word.",
        body=DecisionIn,
        body_example={"approve": False, "word": "Not before Monday."},
        answers={200: PublishRequestOut},
        example=DECIDED,
        problems=(400, 404, 409, 413, 415, 422),
    )
    def post(self, request: Request, pk: int) -> Response:
        campaign, told = find_campaign(pk), read_struct(request, DecisionIn)
        if told.approve:
            publish.approve(campaign, by=actor(request), word=told.word)
        else:
            approving.decline(campaign, by=actor(request), word=told.word)
        return Response(request_out(campaign.publish_requests.all()[0]))


def request_out(one: PublishRequest) -> PublishRequestOut:
    return PublishRequestOut(
        campaign=one.campaign_id,
        version=one.version,
        status=one.status,
        asked_by=one.asked_by,
        asked_at=one.asked_at,
        decided_by=one.decided_by,
        decided_at=one.decided_at,
        word=one.word,
    )

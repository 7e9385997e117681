"""Versions of a campaign through the API: which there are, what changed, and moving
runs from an older one to the one at work."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from campaigns import moving
from campaigns.api import actor, find_campaign
from campaigns.changes import What, changes
from campaigns.drawing import as_json
from campaigns.models import Campaign, Move, Version
from events.models import Scope
from smartcomm.core.api import LIST_PARAMETERS, ApiView, BadParameter, page, read_text
from smartcomm.core.errors import NotFound
from smartcomm.core.openapi import LIST, operation

Meta = msgspec.Meta


class CampaignVersion(msgspec.Struct, kw_only=True):
    """A version of a campaign, without its drawing."""

    version: int
    status: Annotated[str, Meta(extra_json_schema={"enum": Version.Status.values})]
    created_at: datetime
    published_at: datetime | None
    published_by: Annotated[
        str | None,
        Meta(description="The name of the user; null: through the API, or not yet."),
    ]


class CampaignVersionsPage(msgspec.Struct):
    results: list[CampaignVersion]
    next: str | None


class CampaignChange(msgspec.Struct, kw_only=True):
    """One thing that is not as it was."""

    what: Annotated[str, Meta(extra_json_schema={"enum": list(What)})]
    step: Annotated[str, Meta(description="The key of its step, or empty.")]
    sentence: str
    before: Annotated[str, Meta(description="What it said, where there are words.")]
    after: str


class CampaignDiff(msgspec.Struct, kw_only=True, rename={"from_": "from"}):
    """What changes from one version to another, in words."""

    campaign: int
    from_: int
    to: int
    changes: list[CampaignChange]


class StandingRuns(msgspec.Struct, kw_only=True):
    """The runs that stand at a step of the older version."""

    step: str
    runs: int
    can_move: int
    why: Annotated[str, Meta(description="Why the others stay; or empty.")]


class MoveForecast(msgspec.Struct, kw_only=True):
    """What moving the runs of a version would do now."""

    campaign: int
    from_version: int
    to_version: int
    runs: int
    can_move: int
    stay: int
    steps: list[StandingRuns]
    sentence: str


class MoveOut(msgspec.Struct, kw_only=True):
    """An order to move the runs of a version, and how far it is."""

    id: int
    campaign: int
    from_version: int
    to_version: int
    status: Annotated[str, Meta(extra_json_schema={"enum": Move.Status.values})]
    moved: int
    stayed: Annotated[
        list[StandingRuns], Meta(description="Who is left, once it is done.")
    ]
    sentence: str
    by: str
    asked_at: datetime
    finished_at: datetime | None


VERSION = {
    "version": 2,
    "status": "published",
    "created_at": "2026-11-18T09:00:00Z",
    "published_at": "2026-11-20T07:00:00Z",
    "published_by": "anna",
}
DIFF = {
    "campaign": 3,
    "from": 1,
    "to": 2,
    "changes": [
        {
            "what": "text",
            "step": "mail",
            "sentence": "“mail”: the text “Subject” changes.",
            "before": "{{ client.eventContext.name }} is back",
            "after": "Your {{ client.eventContext.name }} is back",
        },
        {
            "what": "way",
            "step": "viewers",
            "sentence": "“viewers”, way “No”: leads to “note”, no longer to the end.",
            "before": "",
            "after": "",
        },
    ],
}

STANDING = [
    {"step": "pause", "runs": 1190, "can_move": 1190, "why": ""},
    {
        "step": "note",
        "runs": 14,
        "can_move": 0,
        "why": "There is no “note” in version 3.",
    },
]
FORECAST = {
    "campaign": 3,
    "from_version": 1,
    "to_version": 3,
    "runs": 1204,
    "can_move": 1190,
    "stay": 14,
    "steps": STANDING,
    "sentence": "1,204 runs stand at 2 steps; 1,190 can move; 14 stay. There is no "
    "“note” in version 3.",
}
MOVE = {
    "id": 5,
    "campaign": 3,
    "from_version": 1,
    "to_version": 3,
    "status": "done",
    "moved": 1190,
    "stayed": [STANDING[1]],
    "sentence": "1,190 runs of version 1 are on version 3 now; 14 stayed. There is no "
    "“note” in version 3.",
    "by": "a key of ERP",
    "asked_at": "2026-11-20T07:20:00Z",
    "finished_at": "2026-11-20T07:20:02Z",
}


class CampaignVersions(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = LIST_PARAMETERS

    @operation(
        name="listCampaignVersions",
        tag="Campaigns",
        summary="List the versions of a campaign",
        description="All versions, the newest first: the draft, what is at work, and "
        "what was at work before.",
        parameters=LIST,
        answers={200: CampaignVersionsPage},
        example={"results": [VERSION], "next": None},
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        rows = Version.objects.filter(campaign=find_campaign(pk))
        rows = rows.select_related("published_by")
        return Response(page(request, rows, version_out, newest_first=True))


class CampaignVersionDiff(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = frozenset({"to"})

    @operation(
        name="readCampaignDiff",
        tag="Campaigns",
        summary="Read what changes between two versions",
        description="Trigger, entry rule, steps that came, went or changed by their "
        "keys, settings and texts as they were and are, and ways that lead elsewhere. "
        "Without `to`, against the draft, or what is at work if there is none.",
        parameters=[
            OpenApiParameter(
                "to",
                {"type": "string", "pattern": "^[0-9]{0,9}$"},
                description="The number of the other version.",
            )
        ],
        answers={200: CampaignDiff},
        example=DIFF,
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int, number: int) -> Response:
        campaign = find_campaign(pk)
        asked = read_text(request, "to")
        if asked and not (asked.isascii() and asked.isdecimal() and len(asked) < 10):
            raise BadParameter("“to” is the number of a version.", field="to")
        before = find_version(campaign, number)
        # The draft, or what is at work: find_campaign has them, the newest first.
        after = find_version(
            campaign, int(asked) if asked else campaign.versions.all()[0].number
        )
        found = changes(as_json(before), as_json(after))
        return Response(
            CampaignDiff(
                campaign=campaign.pk,
                from_=before.number,
                to=after.number,
                changes=msgspec.convert(
                    found, list[CampaignChange], from_attributes=True
                ),
            )
        )


class MoveRuns(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.MANAGE}

    @operation(
        name="foretellMove",
        tag="Campaigns",
        summary="See what moving the runs of a version would do",
        description="How many runs stand at which step of an older version, how many "
        "of them can be moved to the version at work, and why the others stay. "
        "Nothing is changed.",
        answers={200: MoveForecast},
        example=FORECAST,
        problems=(400, 404, 409),
    )
    def get(self, request: Request, pk: int, number: int) -> Response:
        found = moving.forecast(find_version(find_campaign(pk), number))
        return Response(
            MoveForecast(
                campaign=pk,
                from_version=found.from_version.number,
                to_version=found.to_version.number,
                runs=found.runs,
                can_move=found.can_move,
                stay=found.stay,
                steps=msgspec.convert(
                    found.steps, list[StandingRuns], from_attributes=True
                ),
                sentence=found.sentence,
            )
        )

    @operation(
        name="moveRuns",
        tag="Campaigns",
        summary="Move the runs of a version",
        description="Takes the runs under way on an older version over to the one at "
        "work, each to the step with the same key and action. A message or a call that "
        "they wait for stays what it is; a wait is measured anew from when they came. "
        "The others finish where they are. Answers at once; read the move until its "
        "status is done.",
        answers={202: MoveOut},
        example={**MOVE, "status": "running", "moved": 0, "stayed": []},
        problems=(404, 409),
    )
    def post(self, request: Request, pk: int, number: int) -> Response:
        version = find_version(find_campaign(pk), number)
        return Response(move_out(moving.order(version, by=actor(request))), status=202)


class OneMove(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        name="readMove",
        tag="Campaigns",
        summary="Read how far moving runs is",
        description="How many have been moved, and who stayed once it is done.",
        answers={200: MoveOut},
        example=MOVE,
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        moves = Move.objects.select_related("from_version", "to_version")
        move = moves.filter(pk=pk).first()
        if move is None:
            raise NotFound(f"There is no move {pk}.")
        return Response(move_out(move))


def move_out(move: Move) -> MoveOut:
    return MoveOut(
        id=move.pk,
        campaign=move.campaign_id,
        from_version=move.from_version.number,
        to_version=move.to_version.number,
        status=move.status,
        moved=move.moved,
        stayed=msgspec.convert(move.stayed, list[StandingRuns]),
        sentence=moving.in_words(move),
        by=move.by,
        asked_at=move.asked_at,
        finished_at=move.finished_at,
    )


def find_version(campaign: Campaign, number: int) -> Version:
    found = Version.objects.filter(campaign=campaign, number=number).first()
    if found is None:
        raise NotFound(f"The campaign “{campaign}” has no version {number}.")
    return found


def version_out(version: Version) -> CampaignVersion:
    by = version.published_by
    return CampaignVersion(
        version=version.number,
        status=version.status,
        created_at=version.created_at,
        published_at=version.published_at,
        published_by=by.get_username() if by else None,
    )

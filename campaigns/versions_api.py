"""Versions of a campaign through the API: which there are, and what changed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from campaigns.api import find_campaign
from campaigns.changes import What, changes
from campaigns.drawing import as_json
from campaigns.models import Campaign, Version
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
                changes=[
                    CampaignChange(
                        what=one.what,
                        step=one.step,
                        sentence=one.sentence,
                        before=one.before,
                        after=one.after,
                    )
                    for one in found
                ],
            )
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

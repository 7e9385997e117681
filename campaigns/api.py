"""Campaigns through the API: drawings as JSON, and what became of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

import msgspec
from django.db import IntegrityError, transaction
from django.db.models import Prefetch, QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from campaigns import exchange, pace
from campaigns.drawing import as_json, save_draft
from campaigns.models import Campaign, Version
from campaigns.publish import archive, pause, publish, resume
from campaigns.triggers.calendar import UNITS
from events.models import ApiKey, Scope
from smartcomm.core.api import (
    LIST_PARAMETERS,
    ApiView,
    created,
    page,
)
from smartcomm.core.bodies import read_object, read_struct
from smartcomm.core.errors import Conflict, Invalid, NotFound
from smartcomm.core.openapi import LIST, operation

Meta = msgspec.Meta
#: Ten years.
MOST_HOURS = 24 * 3650

#: What an answer shows beside what may be told. Sent back to us, it says nothing.
READ_ONLY = frozenset(
    {
        *("id", "status", "version", "published_version", "next_at"),
        *("created_at", "updated_at"),
    }
)


class RepeatShape(msgspec.Struct, omit_defaults=True):
    """Every so many days, weeks or months from the first time on."""

    unit: Annotated[str, Meta(extra_json_schema={"enum": list(UNITS)})]
    every: int = 1
    weekdays: Annotated[
        list[str] | msgspec.UnsetType,
        Meta(description="With weeks: `mon` … `sun`; left out: that of the first day."),
    ] = msgspec.UNSET


class TriggerShape(msgspec.Struct, omit_defaults=True):
    """What starts a run."""

    kind: Annotated[str, Meta(extra_json_schema={"enum": Version.Trigger.values})]
    event: Annotated[
        str | msgspec.UnsetType,
        Meta(description="`event`, `system_event`: the name of the event."),
    ] = msgspec.UNSET
    where: Annotated[
        list[dict[str, Any]] | msgspec.UnsetType,
        Meta(description="`event`, `system_event`: conditions on the event's context."),
    ] = msgspec.UNSET
    segment: Annotated[
        int | msgspec.UnsetType | None,
        Meta(
            description="`segment_entered`, `segment_left`: of which segment or list; "
            "`date`, `schedule`: only who is in it, null for everybody."
        ),
    ] = msgspec.UNSET
    attribute: Annotated[
        str | msgspec.UnsetType,
        Meta(description="`date`: `birth_date`, `registered_at`, or one of your own."),
    ] = msgspec.UNSET
    days: Annotated[
        int | msgspec.UnsetType,
        Meta(description="`date`: so many days after it; less than 0: before."),
    ] = msgspec.UNSET
    yearly: Annotated[
        bool | msgspec.UnsetType,
        Meta(description="`date`: on its anniversaries, as a birthday."),
    ] = msgspec.UNSET
    at: Annotated[
        str | msgspec.UnsetType,
        Meta(
            description="By the installation's clock. `date`: the time of day, "
            "`09:00`; `schedule`: the first time, `2026-12-24T09:00`."
        ),
    ] = msgspec.UNSET
    repeat: Annotated[
        RepeatShape | msgspec.UnsetType | None,
        Meta(description="`schedule`: how often; null: once."),
    ] = msgspec.UNSET
    until: Annotated[
        str | msgspec.UnsetType | None,
        Meta(description="`schedule`: the last day; null: for ever."),
    ] = msgspec.UNSET
    max_age_hours: Annotated[
        int | msgspec.UnsetType,
        Meta(
            description="Older events, and planned times missed for longer, start "
            "nothing. 72 unless said; 24 for `date` and `schedule`."
        ),
    ] = msgspec.UNSET


class EntryShape(msgspec.Struct, omit_defaults=True):
    """How often a customer may enter."""

    rule: Annotated[str, Meta(extra_json_schema={"enum": Version.Entry.values})]
    days: Annotated[
        int | msgspec.UnsetType, Meta(description="Only with the rule interval.")
    ] = msgspec.UNSET


class PaceShape(msgspec.Struct, omit_defaults=True):
    """How quickly a broadcast goes; only for triggers that go through the whole base.

    Before each portion it is asked anew who matches. It ends when nobody else does.
    """

    limit: Annotated[
        int,
        Meta(ge=1, le=pace.MAX_LIMIT, description="So many customers in a period."),
    ]
    per: Annotated[str, Meta(extra_json_schema={"enum": list(pace.PERIODS)})]
    first: Annotated[
        str,
        Meta(
            extra_json_schema={"enum": list(pace.ORDERS)},
            description="Who is taken first. Interest goes by the events that the "
            "leading filter asks for.",
        ),
    ] = pace.OLDEST_CUSTOMER
    stop_after: Annotated[
        Annotated[int, Meta(ge=1, le=pace.MAX_STOP_AFTER)] | None,
        Meta(description="It ends after so many; null: when nobody else matches."),
    ] = None


class StepShape(msgspec.Struct, omit_defaults=True):
    """A box of the drawing."""

    key: str
    action: str
    config: dict[str, Any] = {}
    next: Annotated[
        dict[str, str | None],
        Meta(description="Way out → key of the next step, or null: the run ends."),
    ] = {}


class CampaignIn(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A campaign as it is drawn."""

    name: Annotated[str, Meta(max_length=150)]
    description: str = ""
    trigger: TriggerShape
    entry: EntryShape | msgspec.UnsetType = msgspec.UNSET
    pace: Annotated[
        PaceShape | None, Meta(description="null: as quickly as it can.")
    ] = None
    start: Annotated[str | None, Meta(description="The key of the first step.")] = ""
    steps: list[StepShape] = []


class ResumeIn(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What becomes of what became due while it was paused."""

    skip_older_than_hours: Annotated[
        Annotated[int, Meta(ge=0, le=MOST_HOURS)] | None,
        Meta(description="Leave out what has been due for longer; null: nothing."),
    ] = None


class CampaignFile(CampaignIn, kw_only=True, omit_defaults=True):
    """A campaign as it is exported and imported."""

    format: Annotated[str, Meta(extra_json_schema={"enum": [exchange.FORMAT]})]
    segments: Annotated[
        dict[str, str],
        Meta(description="Number → name of the segments that the drawing speaks of."),
    ] = {}


class CampaignSummary(msgspec.Struct, kw_only=True):
    """A campaign without its drawing."""

    id: int
    name: str
    description: str
    status: Annotated[str, Meta(extra_json_schema={"enum": Campaign.Status.values})]
    version: Annotated[
        int | None, Meta(description="The version shown: the draft, if there is one.")
    ]
    published_version: Annotated[int | None, Meta(description="The version at work.")]
    next_at: Annotated[
        datetime | None,
        Meta(description="When it starts next by itself; null where events start it."),
    ]
    created_at: datetime
    updated_at: datetime


class CampaignOut(CampaignSummary, kw_only=True):
    """A campaign and its drawing: the draft, if there is one."""

    trigger: TriggerShape
    entry: EntryShape
    pace: PaceShape | None = None
    start: str
    steps: list[StepShape]


class PublishedOut(CampaignOut, kw_only=True):
    """A campaign that was just published."""

    warnings: Annotated[
        list[str], Meta(description="What should be known, though it hinders nothing.")
    ]


class CampaignsPage(msgspec.Struct):
    results: list[CampaignSummary]
    next: str | None


DRAWING = {
    "name": "Back in stock",
    "trigger": {"kind": "system_event", "event": "Product in stock"},
    "entry": {"rule": "every_event"},
    "pace": {
        "limit": 500,
        "per": "hour",
        "first": "longest_interest",
        "stop_after": 5000,
    },
    "start": "viewers",
    "steps": [
        {
            "key": "viewers",
            "action": "filter_customers",
            "config": {
                "rule": {
                    "event": "Product viewed",
                    "period": {"last": 90, "unit": "days"},
                    "where": [
                        {"field": "product_id", "op": "=", "value": "$product_id"}
                    ],
                }
            },
            "next": {"positive": "mail", "negative": None},
        },
        {
            "key": "mail",
            "action": "send_email",
            "config": {
                "subject": "{{ client.eventContext.name }} is back",
                "text": "Dear {{ client.firstName }}, it is back.",
                "html": "<p>It is back.</p>",
                "missing": "skip",
            },
            "next": {"sent": None},
        },
    ],
}
SUMMARY = {
    "id": 3,
    "name": "Back in stock",
    "description": "",
    "status": "published",
    "version": 1,
    "published_version": 1,
    "next_at": None,
    "created_at": "2026-11-19T12:00:00Z",
    "updated_at": "2026-11-20T07:15:00Z",
}
CAMPAIGN = {**SUMMARY, **DRAWING}
FILE = {"format": exchange.FORMAT, "description": "", **DRAWING, "segments": {}}


class Campaigns(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.MANAGE}
    parameters = LIST_PARAMETERS

    @operation(
        name="listCampaigns",
        tag="Campaigns",
        summary="List campaigns",
        description="All campaigns, the newest first, without their drawings.",
        parameters=LIST,
        answers={200: CampaignsPage},
        example={"results": [SUMMARY], "next": None},
        problems=(400,),
    )
    def get(self, request: Request) -> Response:
        return Response(page(request, _campaigns(), summary_out, newest_first=True))

    @operation(
        name="createCampaign",
        tag="Campaigns",
        summary="Create a campaign",
        description="Makes a draft. It is read strictly, and everything that is not "
        "understood is told at once, each with its place. Nothing starts until it is "
        "published.",
        body=CampaignIn,
        body_example=DRAWING,
        answers={201: CampaignOut},
        example={**CAMPAIGN, "status": "draft", "published_version": None},
        problems=(409,),
    )
    def post(self, request: Request) -> Response:
        campaign = _save(Campaign(), read_object(request), by=actor(request))
        return created(
            campaign_out(campaign), at=f"{request.build_absolute_uri()}/{campaign.pk}"
        )


class OneCampaign(ApiView):
    scopes = {"GET": Scope.READ, "PUT": Scope.MANAGE}

    @operation(
        name="readCampaign",
        tag="Campaigns",
        summary="Read a campaign",
        description="The campaign and its drawing: the draft if there is one, else "
        "what is at work.",
        answers={200: CampaignOut},
        example=CAMPAIGN,
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        return Response(campaign_out(find_campaign(pk)))

    @operation(
        name="replaceCampaign",
        tag="Campaigns",
        summary="Redraw a campaign",
        description="The body becomes the draft. What is published stays at work until "
        "the draft is published, and runs finish on the version they started on.",
        body=CampaignIn,
        body_example=DRAWING,
        answers={200: CampaignOut},
        example={**CAMPAIGN, "version": 2},
        problems=(404, 409),
    )
    def put(self, request: Request, pk: int) -> Response:
        campaign = _save(find_campaign(pk), read_object(request), by=actor(request))
        return Response(campaign_out(campaign))


class PublishCampaign(ApiView):
    scopes = {"POST": Scope.MANAGE}

    @operation(
        name="publishCampaign",
        tag="Campaigns",
        summary="Publish a campaign",
        description="Puts the draft to work. Refused with everything that is wrong "
        "with it; what should only be known comes as warnings.",
        answers={200: PublishedOut},
        example={**CAMPAIGN, "warnings": []},
        problems=(404, 409, 422),
    )
    def post(self, request: Request, pk: int) -> Response:
        published = publish(find_campaign(pk), by=actor(request))
        shown = msgspec.structs.asdict(campaign_out(find_campaign(pk)))
        return Response(PublishedOut(**shown, warnings=published.warnings))


class ExportCampaign(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        name="exportCampaign",
        tag="Campaigns",
        summary="Export a campaign",
        description="The drawing with name and description, and the names of the "
        "segments that it speaks of by number: for version control, or to be imported "
        "elsewhere.",
        answers={200: CampaignFile},
        example=FILE,
        problems=(400, 404, 409),
    )
    def get(self, request: Request, pk: int) -> Response:
        return Response(exchange.export(find_campaign(pk)))


class ImportCampaign(ApiView):
    scopes = {"POST": Scope.MANAGE}

    @operation(
        name="importCampaign",
        tag="Campaigns",
        summary="Import a campaign",
        description="Makes a draft of what was exported here or elsewhere. Segments "
        "are found by their names; a campaign's name that is taken is a conflict.",
        body=CampaignFile,
        body_example=FILE,
        answers={201: CampaignOut},
        example=CAMPAIGN,
        problems=(400, 409, 413, 415, 422),
    )
    def post(self, request: Request) -> Response:
        campaign = exchange.read(read_object(request), by=actor(request))
        shown = campaign_out(find_campaign(campaign.pk))
        base = request.build_absolute_uri("..")
        return created(shown, at=f"{base}campaigns/{campaign.pk}")


class _Change(ApiView):
    scopes = {"POST": Scope.MANAGE}

    def change(self, pk: int, deed: Callable[[Campaign], None]) -> Response:
        deed(find_campaign(pk))
        return Response(campaign_out(find_campaign(pk)))


class PauseCampaign(_Change):
    @operation(
        name="pauseCampaign",
        tag="Campaigns",
        summary="Pause a campaign",
        description="Stops new runs, steps and messages at once. Nothing is lost.",
        answers={200: CampaignOut},
        example={**CAMPAIGN, "status": "paused"},
        problems=(404, 409),
    )
    def post(self, request: Request, pk: int) -> Response:
        return self.change(pk, pause)


class ResumeCampaign(_Change):
    @operation(
        name="resumeCampaign",
        tag="Campaigns",
        summary="Resume a campaign",
        description="Goes on where it was paused. Events in between started nothing. "
        "What became due meanwhile goes on at once; with skip_older_than_hours, what "
        "has been due for longer is left out, and its runs end and say so.",
        body=ResumeIn,
        body_example={"skip_older_than_hours": 24},
        answers={200: CampaignOut},
        example=CAMPAIGN,
        problems=(400, 404, 409, 413, 415, 422),
    )
    def post(self, request: Request, pk: int) -> Response:
        find_campaign(pk)
        told = read_struct(request, ResumeIn) if request.body else ResumeIn()
        hours = told.skip_older_than_hours
        older = None if hours is None else timedelta(hours=hours)
        return self.change(pk, partial(resume, skip_older_than=older))


class ArchiveCampaign(_Change):
    @operation(
        name="archiveCampaign",
        tag="Campaigns",
        summary="Archive a campaign",
        description="Ends it for good: runs under way end, and messages that were not "
        "sent yet are not sent.",
        answers={200: CampaignOut},
        example={**CAMPAIGN, "status": "archived"},
        problems=(404, 409),
    )
    def post(self, request: Request, pk: int) -> Response:
        return self.change(pk, archive)


def find_campaign(pk: int) -> Campaign:
    campaign = _campaigns().filter(pk=pk).first()
    if campaign is None:
        raise NotFound(f"There is no campaign {pk}.")
    return campaign


def _campaigns() -> QuerySet[Campaign]:
    current = Version.objects.exclude(status=Version.Status.SUPERSEDED)
    return Campaign.objects.prefetch_related(Prefetch("versions", queryset=current))


def _shown(campaign: Campaign) -> Version | None:
    """The draft, or the version at work."""
    return next(iter(campaign.versions.all()), None)


def summary_out(campaign: Campaign) -> CampaignSummary:
    return CampaignSummary(**_summary(campaign))


def campaign_out(campaign: Campaign) -> CampaignOut:
    version = _shown(campaign) or Version(trigger_kind=Version.Trigger.EVENT)
    drawing = as_json(version) if version.pk else _NOTHING
    return CampaignOut(**_summary(campaign), **drawing)


_NOTHING: dict[str, Any] = {
    "trigger": {"kind": "event", "event": ""},
    "entry": {"rule": "every_event"},
    "start": "",
    "steps": [],
}


def _summary(campaign: Campaign) -> dict[str, Any]:
    shown = _shown(campaign)
    at_work = [v for v in campaign.versions.all() if v.status == v.Status.PUBLISHED]
    return {
        "id": campaign.pk,
        "name": campaign.name,
        "description": campaign.description,
        "status": campaign.status,
        "version": shown.number if shown else None,
        "published_version": at_work[0].number if at_work else None,
        "next_at": at_work[0].next_at if at_work else None,
        "created_at": campaign.created_at,
        "updated_at": campaign.updated_at,
    }


def actor(request: Request) -> str:
    """Whoever calls, for the books."""
    key: ApiKey = request.auth  # type: ignore[assignment]
    return f"a key of {key.source}"


def _save(campaign: Campaign, body: dict[str, Any], *, by: str) -> Campaign:
    drawing = {key: value for key, value in body.items() if key not in READ_ONLY}
    campaign.name = _text(drawing.pop("name", campaign.name), "name", most=150)
    if not campaign.name:
        raise Invalid("Give the campaign a name.", field="name")
    campaign.description = _text(
        drawing.pop("description", campaign.description), "description", most=10_000
    )
    try:
        with transaction.atomic():
            if campaign.pk:
                campaign.save(update_fields=["name", "description", "updated_at"])
            else:
                campaign.save()
            save_draft(campaign, drawing, by=by)
    except IntegrityError as error:
        raise Conflict(
            f"There is a campaign “{campaign.name}” already. Choose another name.",
            field="name",
            code="name_taken",
        ) from error
    return find_campaign(campaign.pk)


def _text(value: object, name: str, *, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or "\x00" in value:
        raise Invalid(f"“{name}” is a text of up to {most} characters.", field=name)
    return value.strip()

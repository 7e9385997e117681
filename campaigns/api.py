"""Campaigns through the API: drawings as JSON, and what became of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import partial
from typing import Annotated, Any

import msgspec
from django.db import IntegrityError, transaction
from django.db.models import Prefetch, QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from campaigns import exchange, kept, pace
from campaigns.chance import HARDLY_CHANCE, MAY_BE_CHANCE, TOO_EARLY
from campaigns.days import MOST_DAYS, Days
from campaigns.drawing import as_json, save_draft
from campaigns.models import Campaign, Version
from campaigns.publish import archive, pause, publish, resume
from campaigns.report import report
from campaigns.triggers.calendar import UNITS
from campaigns.why import Why, why
from customers.api import find_customer
from events.models import ApiKey, Scope
from segments import moments
from smartcomm.core.api import (
    LIST_PARAMETERS,
    ApiView,
    BadParameter,
    created,
    next_page,
    page,
    read_text,
)
from smartcomm.core.bodies import read_object, read_struct
from smartcomm.core.errors import Conflict, Invalid, NotFound
from smartcomm.core.openapi import LIST, TEXT, operation

Meta = msgspec.Meta
FIRST_DAY, LAST_DAY = date(1970, 1, 2), date(2999, 12, 30)
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


class StepReport(msgspec.Struct, rename={"in_": "in"}, forbid_unknown_fields=True):
    """How many runs came to a step, and which way they left.

    in = all of out + waiting + failed + ended + moved_out. Those moved there from
    another version are among those who came.
    """

    key: str
    action: str
    in_: int
    moved_in: int
    out: dict[str, int]
    waiting: int
    failed: int
    ended: Annotated[
        int,
        Meta(
            description="Over without having left it: the campaign was archived, they "
            "were left out when it was resumed, or the customer was merged."
        ),
    ]
    moved_out: int


class MessagesReport(msgspec.Struct, forbid_unknown_fields=True):
    """queued = sent + failed + suppressed + pending + unknown.

    Delivered, opened and clicked are of those that were sent; null where no provider
    has told of any.
    """

    queued: int
    sent: int
    delivered: int | None
    opened: int | None
    clicked: int | None
    failed: int
    suppressed: Annotated[dict[str, int], Meta(description="By reason.")]
    pending: int
    unknown: int


class GoalGroup(msgspec.Struct, forbid_unknown_fields=True):
    """The customers who took one way out of a step with a goal, each of them once."""

    way: str
    customers: int
    decided: Annotated[int, Meta(description="Whose days are over.")]
    reached: Annotated[int, Meta(description="Who reached the goal, of the decided.")]
    reached_so_far: Annotated[int, Meta(description="The same, of all customers.")]
    rate: Annotated[
        float | None, Meta(description="reached / decided; null where none is.")
    ]


class GoalComparison(
    msgspec.Struct, forbid_unknown_fields=True, rename={"with_": "with"}
):
    """A group against the one that is held back, or against the first share.

    Null where nobody of one of them is decided.
    """

    way: str
    with_: str
    difference: Annotated[
        float | None, Meta(description="Of the rates; 0.02 is two points of a hundred.")
    ]
    low: Annotated[
        float | None,
        Meta(
            description="From here to `high` lies the true difference, as sure as 95 % "
            "for all comparisons of the step together (Newcombe's interval)."
        ),
    ]
    high: float | None
    uplift: Annotated[
        float | None,
        Meta(description="The difference in parts of the other's rate; null if 0."),
    ]
    verdict: Annotated[
        str,
        Meta(
            extra_json_schema={"enum": [HARDLY_CHANCE, MAY_BE_CHANCE, TOO_EARLY]},
        ),
    ]


class GoalReport(msgspec.Struct, forbid_unknown_fields=True):
    """What a step that parts customers has brought. Counted in the background."""

    step: str
    goal: Annotated[str, Meta(description="In words.")]
    days: int
    measured_at: Annotated[datetime | None, Meta(description="Null: not measured yet.")]
    problem: Annotated[str, Meta(description="Why it could not be, the last time.")]
    groups: list[GoalGroup]
    compared: list[GoalComparison]


class StepDay(msgspec.Struct, rename={"in_": "in"}, forbid_unknown_fields=True):
    """How many came to a step on a day, and which way they left."""

    key: str
    in_: int
    out: dict[str, int]


class DayReport(msgspec.Struct, forbid_unknown_fields=True):
    """One day of a version, in the time zone of the installation.

    waiting = waiting the day before + entered - finished - failed.
    """

    day: date
    entered: int
    finished: int
    failed: int
    waiting: Annotated[int, Meta(description="Under way at the end of the day.")]
    steps: list[StepDay]
    messages: Annotated[
        MessagesReport,
        Meta(description="Those queued on this day, and what has become of them."),
    ]


class VersionReport(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """entered + moved_in = finished + waiting + failed + moved_out."""

    version: int
    status: Annotated[str, Meta(extra_json_schema={"enum": Version.Status.values})]
    published_at: datetime | None
    entered: int
    moved_in: Annotated[int, Meta(description="From other versions; see “move”.")]
    finished: int
    waiting: int
    failed: int
    moved_out: Annotated[int, Meta(description="To later versions.")]
    steps: list[StepReport]
    messages: MessagesReport
    goals: Annotated[
        list[GoalReport], Meta(description="Of steps that part customers by chance.")
    ]
    days: Annotated[
        list[DayReport] | msgspec.UnsetType, Meta(description="Only with by=day.")
    ] = msgspec.UNSET


class ReportOut(msgspec.Struct, forbid_unknown_fields=True):
    """The numbers of a campaign; they always add up."""

    campaign: int
    name: str
    counted_at: Annotated[
        datetime,
        Meta(description="Earlier than now where there is very much to count."),
    ]
    versions: list[VersionReport]


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
REPORT = {
    "campaign": 3,
    "name": "Back in stock",
    "counted_at": "2026-11-21T09:30:00Z",
    "versions": [
        {
            "version": 1,
            "status": "published",
            "published_at": "2026-11-20T07:15:00Z",
            "entered": 5,
            "moved_in": 0,
            "finished": 4,
            "waiting": 1,
            "failed": 0,
            "moved_out": 0,
            "steps": [
                {
                    "key": "viewers",
                    "action": "filter_customers",
                    "in": 5,
                    "moved_in": 0,
                    "out": {"positive": 4, "negative": 1},
                    "waiting": 0,
                    "failed": 0,
                    "ended": 0,
                    "moved_out": 0,
                },
                {
                    "key": "mail",
                    "action": "send_email",
                    "in": 4,
                    "moved_in": 0,
                    "out": {"sent": 2, "not_sent": 1},
                    "waiting": 1,
                    "failed": 0,
                    "ended": 0,
                    "moved_out": 0,
                },
            ],
            "messages": {
                "queued": 4,
                "sent": 2,
                "delivered": None,
                "opened": None,
                "clicked": None,
                "failed": 0,
                "suppressed": {"no_consent": 1},
                "pending": 1,
                "unknown": 0,
            },
            "goals": [],
        }
    ],
}


WHY = {
    "customer": "C-1001",
    "campaign": 3,
    "name": "Back in stock",
    "status": "published",
    "asked_at": "2026-11-20T07:15:00Z",
    "notes": [],
    "answer": {
        "event": {
            "id": "stock-77",
            "name": "Product in stock",
            "kind": "system",
            "occurred_at": "2026-11-20T07:00:00Z",
            "received_at": "2026-11-20T07:00:01Z",
            "source": "Shop",
            "context": {"product_id": 77, "name": "Bag"},
            "backfill": False,
        },
        "outcome": "not_started",
        "sentence": "Not started. The filter it begins with did not match them when it "
        "came to them.",
        "version": 1,
        "conditions": [],
        "reasons": [
            {
                "because": "filter_negative",
                "sentence": "The filter it begins with did not match them when it came "
                "to them.",
                "stored": True,
                "tree": {
                    "kind": "event",
                    "at": "",
                    "words": "“Product viewed” with product_id is the event's "
                    "product_id in the last 90 days at least once",
                    "holds": False,
                    "wanted": True,
                    "blocks": True,
                    "fact": "Never; 1 of that name, the last 2 days ago",
                    "change": "1 such event must come.",
                    "problem": "",
                    "value": None,
                    "count": 0,
                    "first": None,
                    "last": None,
                    "events": [],
                    "more": 0,
                    "left_out": [],
                    "left_out_count": 0,
                    "fields": ["product_id"],
                    "since": None,
                    "segment": None,
                    "member_since": None,
                    "parts": [],
                },
            }
        ],
        "run": None,
    },
    "others": [
        {
            "event": "stock-12",
            "name": "Product in stock",
            "at": "2026-11-12T07:00:00Z",
            "outcome": "started",
            "sentence": "Started and finished 12 Nov 2026, 10:00, at “Send e-mail”.",
            "run": 551,
        }
    ],
    "next": None,
}


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


#: Without `from` and `to`: so many days until today.
USUAL_DAYS = 30


class CampaignReport(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = frozenset({"by", "from", "to"})

    @operation(
        name="readCampaignReport",
        tag="Campaigns",
        summary="Read a campaign's report",
        description="For every version: how many runs entered and where they are, for "
        "every step who came in and which way they left, and what became of the "
        "messages. entered + moved_in = finished + waiting + failed + moved_out; "
        "queued = sent + failed + suppressed + pending + unknown. With "
        "`by=day` each version has its days as well, in the time zone of the "
        "installation: who entered, finished and failed on that day, the ways out of "
        "each step, and the messages queued on it.",
        parameters=[
            OpenApiParameter(
                "by",
                {"type": "string", "enum": ["day"]},
                description="Add the numbers of each day.",
            ),
            OpenApiParameter(
                "from",
                {"type": "string", "format": "date"},
                description="The first day, with `by=day`. Without it, the last "
                f"{USUAL_DAYS} days up to `to`.",
            ),
            OpenApiParameter(
                "to",
                {"type": "string", "format": "date"},
                description="The last day; without it, today. At most "
                f"{MOST_DAYS} days at once.",
            ),
        ],
        answers={200: ReportOut},
        example=REPORT,
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        days, campaign = _days_asked(request, now=now), find_campaign(pk)
        if days is None or days == Days.until(now, number=USUAL_DAYS):
            counted = kept.reported(campaign, days=len(days) if days else 0, now=now)
            return Response({**counted.answer, "counted_at": counted.at})
        return Response({**report(campaign, days=days), "counted_at": now})


def _days_asked(request: Request, *, now: datetime) -> Days | None:
    by = read_text(request, "by")
    if by not in ("", "day") or ("by" in request.query_params and not by):
        raise BadParameter("“by” can only be day.", field="by")
    first, last = _day_asked(request, "from"), _day_asked(request, "to")
    if not by:
        if first or last:
            raise BadParameter("“from” and “to” go with by=day.", field="by")
        return None
    last = last or moments.today(now)
    if first is None:
        first = max(last, FIRST_DAY) - timedelta(days=USUAL_DAYS - 1)
    if not FIRST_DAY <= first <= last <= LAST_DAY:
        raise BadParameter("“from” is not after “to”, from 1970 to 2999.", field="from")
    days = Days(first, last)
    if len(days) > MOST_DAYS:
        raise BadParameter(f"Ask for {MOST_DAYS} days at most.", field="from")
    return days


def _day_asked(request: Request, name: str) -> date | None:
    text = read_text(request, name)
    if name not in request.query_params:
        return None
    try:
        return msgspec.convert(text, date)
    except msgspec.ValidationError as error:
        raise BadParameter(
            f"“{name}” is a day such as 2026-11-30.", field=name
        ) from error


class CampaignWhy(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = frozenset({"customer", "event", "cursor"})

    @operation(
        name="readCampaignWhy",
        tag="Campaigns",
        summary="Ask why a customer got something from a campaign, or nothing",
        description="The answer about one event: the run that it started, step by step "
        "with times, ways, reasons and messages, and what it waits for; or why it "
        "started none. Without `event` it is about the newest event that the campaign "
        "waits for, with a line for each of the others. What was written down is told "
        "as it is; what is not stored is recomputed of the version that was at work "
        "when the event came, and marked so, since the data may have changed.",
        parameters=[
            OpenApiParameter(
                "customer",
                {"type": "string", "minLength": 1},
                description="The external id of the customer, now or formerly.",
                required=True,
            ),
            OpenApiParameter(
                "event",
                TEXT,
                description="The id of a customer's event, or of a system event.",
            ),
            OpenApiParameter(
                "cursor",
                {
                    "type": "string",
                    "pattern": r"^(-?[0-9]{1,16}\.[123]\.[0-9]{1,18})?$",
                },
                description="Where to go on; taken from `next` of the page before.",
            ),
        ],
        answers={200: Why},
        example=WHY,
        problems=(400, 404, 422),
    )
    def get(self, request: Request, pk: int) -> Response:
        asked = read_text(request, "customer")
        if not asked:
            raise BadParameter("Name the customer: ?customer=C-1001.", field="customer")
        campaign = find_campaign(pk)
        try:
            told = why(
                find_customer(asked),
                campaign,
                event=read_text(request, "event"),
                before=read_text(request, "cursor"),
                asked_for=asked,
                now=timezone.now(),
            )
        except Invalid as error:
            raise BadParameter(error.message, field=error.field) from error
        following = next_page(request, told.next or "")
        return Response(msgspec.structs.replace(told, next=following))


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

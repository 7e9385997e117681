"""The report of a campaign through the API."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Annotated

import msgspec
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from campaigns import kept
from campaigns.api import find_campaign
from campaigns.chance import HARDLY_CHANCE, MAY_BE_CHANCE, TOO_EARLY
from campaigns.days import MOST_DAYS, Days
from campaigns.models import Version
from campaigns.report import report
from events.models import Scope
from segments import moments
from smartcomm.core.api import (
    ApiView,
    BadParameter,
    read_text,
)
from smartcomm.core.clock import database_now
from smartcomm.core.errors import Invalid
from smartcomm.core.openapi import operation

Meta = msgspec.Meta
FIRST_DAY, LAST_DAY = date(1970, 1, 2), date(2999, 12, 30)


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
        problems=(400, 404, 422),
    )
    def get(self, request: Request, pk: int) -> Response:
        now = database_now()
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
            raise Invalid("“from” and “to” go with by=day.", field="by")
        return None
    last = last or moments.today(now)
    if first is None:
        first = max(last, FIRST_DAY) - timedelta(days=USUAL_DAYS - 1)
    if not FIRST_DAY <= first <= last <= LAST_DAY:
        raise Invalid("“from” is not after “to”, from 1970 to 2999.", field="from")
    days = Days(first, last)
    if len(days) > MOST_DAYS:
        raise Invalid(f"Ask for {MOST_DAYS} days at most.", field="from")
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

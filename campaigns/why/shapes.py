"""What is told of why a customer got something from a campaign, or nothing."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from campaigns.models import (
    Campaign,
    Run,
)
from events.models import (
    Kind,
)
from events.sandbox import ConditionTried
from segments.explain import Node

Meta = msgspec.Meta


class Because(StrEnum):
    """Why nothing was started, for programs."""

    NO_EVENT = "no_event"
    REFUSED = "event_refused"
    OTHER_EVENT = "other_event"
    BACKFILL = "backfill"
    NO_CAMPAIGN = "campaign_did_not_exist"
    NOT_PUBLISHED = "not_published"
    PAUSED = "paused"
    ARCHIVED = "archived"
    TOO_OLD = "too_old"
    CONDITION = "condition_false"
    ENTRY_RULE = "entry_rule"
    FILTER = "filter_negative"
    CAME_LATER = "customer_came_later"
    NOT_REACHED = "date_not_reached"
    NOT_IN_SEGMENT = "not_in_segment"
    LEFT_OUT = "planned_time_left_out"
    BROADCAST_FAILED = "broadcast_failed"
    BROADCAST_ENDED = "broadcast_ended"
    IN_QUEUE = "in_queue"
    UNDER_WAY = "broadcast_under_way"
    UNEXPLAINED = "unexplained"


class Outcome(StrEnum):
    STARTED = "started"
    NOT_YET = "not_yet"
    NOT_STARTED = "not_started"


class WhyReason(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why nothing was started."""

    because: Because
    sentence: str
    stored: Annotated[
        bool,
        Meta(
            description="Whether this was written down when it was decided, or follows "
            "from what was. false: recomputed now; the data may have changed since."
        ),
    ]
    tree: Annotated[
        Node | None,
        Meta(description="The filter as a tree of yes and no, recomputed now."),
    ] = None


class WhyMessage(msgspec.Struct, frozen=True):
    """A message that a step led to."""

    id: int
    channel: str
    status: str
    reason: Annotated[str, Meta(description="Why it was suppressed; or empty.")]
    detail: Annotated[str, Meta(description="The same in words, or an error.")]


class WhyStop(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step of a run, as it was or is. Stored, but for `tree`."""

    step: str
    action: str
    label: Annotated[str, Meta(description="The action as people call it.")]
    does: str
    arrived_at: datetime
    left_at: datetime | None
    way: Annotated[str, Meta(description="Empty: it is still there, or ended there.")]
    way_label: str
    reason: str
    messages: tuple[WhyMessage, ...]
    tree: Annotated[
        Node | None,
        Meta(
            description="Of a filter: its rule as a tree, recomputed now by the clock "
            "of then. Where it says otherwise than `way`, data have changed since."
        ),
    ] = None


class WhyMove(msgspec.Struct, frozen=True):
    """That a run was taken over to a later version, where it stood."""

    at: datetime
    step: str
    from_version: int
    to_version: int
    by: str
    sentence: str


class WhyRun(msgspec.Struct, frozen=True):
    """A run, as it is stored."""

    id: int
    status: Annotated[str, Meta(extra_json_schema={"enum": Run.Status.values})]
    reason: str
    started_at: datetime
    finished_at: datetime | None
    waits_for: Annotated[str, Meta(description="In a sentence; empty when it is over.")]
    waits_until: datetime | None
    stops: tuple[WhyStop, ...]
    moves: Annotated[
        tuple[WhyMove, ...],
        Meta(description="When it was taken over to a later version, and by whom."),
    ] = ()


class WhyEvent(msgspec.Struct, frozen=True):
    """The event that the answer is about."""

    id: str
    name: str
    kind: Annotated[str, Meta(extra_json_schema={"enum": Kind.values})]
    occurred_at: datetime
    received_at: datetime
    source: str
    context: dict[str, Any]
    backfill: bool


class WhyLine(msgspec.Struct, frozen=True):
    """What became of one event, in one line."""

    event: Annotated[
        str, Meta(description="Its id, to be asked about; empty: it was erased.")
    ]
    name: str
    at: Annotated[datetime, Meta(description="When it occurred.")]
    outcome: Outcome
    sentence: str
    run: int | None


class WhyAnswer(msgspec.Struct, frozen=True):
    """What became of one event, in full."""

    event: WhyEvent | None
    outcome: Outcome
    sentence: str
    version: Annotated[
        int | None, Meta(description="The version that was at work at that time.")
    ]
    conditions: Annotated[
        list[ConditionTried], Meta(description="Those of the trigger, recomputed now.")
    ]
    reasons: list[WhyReason]
    run: WhyRun | None


class Why(msgspec.Struct, frozen=True):
    """Why a customer got something from a campaign, or nothing."""

    customer: str
    campaign: int
    name: str
    status: Annotated[str, Meta(extra_json_schema={"enum": Campaign.Status.values})]
    asked_at: datetime
    notes: Annotated[
        list[str], Meta(description="What else should be known: that they were merged.")
    ]
    answer: Annotated[
        WhyAnswer, Meta(description="About the event asked for, or the newest.")
    ]
    others: Annotated[
        list[WhyLine], Meta(description="The other events, the newest first.")
    ]
    next: Annotated[
        str | None, Meta(description="Where the older ones are, if there are any.")
    ]

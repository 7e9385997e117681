"""Why a customer got something from a campaign, or nothing.

A run is told as it is stored, step by step. Where there is none, what is stored is
asked first: the entry rule's book (TurnedAway), the queue, how far a broadcast got,
what state the campaign was in. The rest is asked again of the version that was at work
when the event came, and marked so, since what it looks at may have changed.

A page of events costs a constant number of queries, however many the customer has; each
condition of a trigger and each filter of the one run that is told in full adds some.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Protocol

import msgspec
from django.db.models import Exists, Max, OuterRef, Q

from campaigns import portions, reasons
from campaigns.actions import ACTIONS
from campaigns.actions.filter import NEGATIVE, read_rule
from campaigns.dispatch import is_too_old
from campaigns.engine import ARCHIVED
from campaigns.models import (
    Broadcast,
    Campaign,
    Entry,
    Run,
    StateChange,
    Step,
    TurnedAway,
    Version,
)
from campaigns.triggers import PLANNED, TRIGGERS
from campaigns.way import Stop, moves, say_moved, stops, waits_for
from customers.models import Customer, FormerId
from events.history import Item, items
from events.models import (
    Event,
    Kind,
    PendingEvent,
    PendingSystemEvent,
    RejectedEvent,
    Source,
    SystemEvent,
)
from events.sandbox import ConditionTried
from messaging.models import Message
from segments.answers import on
from segments.compile import lookup
from segments.explain import Node, explain
from segments.rules import event_values
from smartcomm.core.errors import UserError
from smartcomm.core.paging import Page, Place, Stream, merge, newest_below

Meta = msgspec.Meta

NOT_MATCHED = "The filter it begins with did not match them when it came to them."
NOT_MEANT = "They were not among those it was for when it came to them."
CHANGED = "It would match them now: what it looks at has changed since."

#: So many events of a customer are told at once.
PER_PAGE = 20
#: So many of a customer's latest events, and so many campaigns, are looked at for the
#: lines of the profile.
LATELY = 50
MOST_CAMPAIGNS = 30
#: A campaign that was paused so soon may not have looked at the event by then.
SOON = timedelta(minutes=10)


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


def why(
    customer: Customer,
    campaign: Campaign,
    *,
    event: str = "",
    before: str = "",
    asked_for: str = "",
    now: datetime,
) -> Why:
    """The answer about an event (its id), or about the newest and a line for others.

    `before` is the `next` of the page before; `asked_for` the id by which the customer
    was named, which may be a former one.
    """
    history = _History.of([campaign])
    page = (
        Page(_with_id(customer, event))
        if event
        else _events(customer, history.versions[campaign.pk], before=before)
    )
    known = _Known.about(customer, history, page.items, now=now)
    if page.items:
        answer = _in_full(known, campaign, page.items[0])
    else:
        answer = _nothing_came(known, campaign, event=event, is_older=bool(before))
    return Why(
        customer=customer.external_id,
        campaign=campaign.pk,
        name=campaign.name,
        status=campaign.status,
        asked_at=now,
        notes=_notes(customer, asked_for),
        answer=answer,
        others=[_line(known, campaign, one) for one in page.items[1:]],
        next=page.next or None,
    )


def _notes(customer: Customer, asked_for: str) -> list[str]:
    merged = FormerId.objects.filter(customer=customer, external_id=asked_for).first()
    if merged is None:
        return []
    return [
        f"“{asked_for}” was merged into “{customer.external_id}” on "
        f"{on(merged.merged_at)}; events and runs of both are told here."
    ]


# --- what it may be about ---------------------------------------------------------

#: The streams of a customer's occasions; at one moment the higher is the newer.
SYSTEM, OWN, RUNS = 1, 2, 3


class Occasion(Protocol):
    """An event, or a run without one."""

    @property
    def place(self) -> Place: ...


@dataclass(frozen=True, slots=True)
class Lone:
    """A run whose event is not there: it was erased, or told twice by two customers who
    were merged."""

    run: Run

    @property
    def place(self) -> Place:
        return Place(self.run.started_at, RUNS, self.run.pk)


def _events(
    customer: Customer, versions: Sequence[Version], *, before: str
) -> Page[Item | Lone]:
    """The events that the campaign has ever waited for, newest first."""
    types = {
        version.event_type_id
        for version in versions
        if version.trigger_kind not in PLANNED
    }
    own = Event.objects.filter(customer=customer, type_id__in=types)
    # Planned times of other campaigns have the same type.
    planned = Broadcast.objects.filter(
        system_event=OuterRef("pk"), campaign__in={one.campaign_id for one in versions}
    )
    system = SystemEvent.objects.filter(Q(type_id__in=types) | Exists(planned))
    kinds = {TRIGGERS[version.trigger_kind].on for version in versions}
    streams: dict[int, Stream[Item | Lone]] = {}
    if Kind.CUSTOMER in kinds:
        streams[OWN] = lambda bound, limit: items(
            newest_below(own, "occurred_at", bound, limit), Kind.CUSTOMER
        )
    if Kind.SYSTEM in kinds:
        streams[SYSTEM] = lambda bound, limit: items(
            newest_below(system, "occurred_at", bound, limit), Kind.SYSTEM
        )
    if versions:
        alone = _lone_runs(customer, versions[0].campaign_id)
        streams[RUNS] = lambda bound, limit: [
            Lone(run) for run in newest_below(alone, "started_at", bound, limit)
        ]
    return merge(streams, before=before, limit=PER_PAGE)


def _lone_runs(customer: Customer, campaign_id: int) -> Any:
    own = Event.objects.filter(pk=OuterRef("event_id"), customer_id=customer.pk)
    system = SystemEvent.objects.filter(pk=OuterRef("system_event_id"))
    return (
        Run.objects.filter(customer=customer, campaign=campaign_id)
        .filter(
            Q(event=None, system_event=None)
            | (Q(event__isnull=False) & ~Exists(own))
            | (Q(system_event__isnull=False) & ~Exists(system))
        )
        .select_related("version", "step", "campaign")
    )


def _with_id(customer: Customer, event: str) -> list[Item | Lone]:
    """The events with this id: one, unless several sources chose the same."""
    sources = list(Source.objects.values_list("pk", flat=True))
    named = {"source__in": sources, "external_id": event}
    own = items(Event.objects.filter(customer=customer, **named), Kind.CUSTOMER)
    system = items(SystemEvent.objects.filter(**named), Kind.SYSTEM)
    return sorted([*own, *system], key=lambda item: item.place, reverse=True)


# --- what is stored ---------------------------------------------------------------


@dataclass(frozen=True)
class _History:
    """What campaigns were when. Versions that were published, the newest first."""

    campaigns: Mapping[int, Campaign]
    versions: Mapping[int, list[Version]]
    states: Mapping[int, list[StateChange]]

    @classmethod
    def of(cls, campaigns: Iterable[Campaign]) -> _History:
        by_id = {campaign.pk: campaign for campaign in campaigns}
        versions: dict[int, list[Version]] = defaultdict(list)
        for version in (
            Version.objects.filter(campaign__in=by_id, published_at__isnull=False)
            .select_related("event_type")
            .order_by("-published_at")
        ):
            versions[version.campaign_id].append(version)
        states: dict[int, list[StateChange]] = defaultdict(list)
        for change in StateChange.objects.filter(campaign__in=by_id):
            states[change.campaign_id].append(change)
        return cls(by_id, versions, states)

    def version_at(self, campaign: Campaign, moment: datetime) -> Version | None:
        """The version that was at work then."""
        for version in self.versions[campaign.pk]:
            if version.published_at and version.published_at <= moment:
                return version
        return None

    def first_published(self, campaign: Campaign) -> datetime | None:
        versions = self.versions[campaign.pk]
        return versions[-1].published_at if versions else None

    def state_at(
        self, campaign: Campaign, moment: datetime
    ) -> tuple[StateChange | None, StateChange | None]:
        """(the state that it was in then, the one that came after it)."""
        was, later = None, None
        for change in self.states[campaign.pk]:
            if change.at > moment:
                later = change
                break
            was = change
        return was, later


Key = tuple[int, Kind, int]


@dataclass(frozen=True)
class _Verdict:
    """What became of an event in a campaign."""

    outcome: Outcome
    version: Version | None = None
    run: Run | None = None
    reasons: tuple[WhyReason, ...] = ()


@dataclass
class _Known:
    """All that is stored about some events of one customer in some campaigns."""

    customer: Customer
    history: _History
    now: datetime
    runs: dict[Key, Run] = field(default_factory=dict)
    turned_away: dict[Key, TurnedAway] = field(default_factory=dict)
    broadcasts: dict[Key, Broadcast] = field(default_factory=dict)
    queued: dict[tuple[Kind, int], PendingEvent | PendingSystemEvent] = field(
        default_factory=dict
    )
    first_steps: dict[int, Step] = field(default_factory=dict)
    #: Version and event → the trigger's conditions.
    conditions: dict[tuple[int, int], list[ConditionTried]] = field(
        default_factory=dict
    )

    @classmethod
    def about(
        cls,
        customer: Customer,
        history: _History,
        occasions: Iterable[Item | Lone],
        *,
        now: datetime,
    ) -> _Known:
        known = cls(customer, history, now)
        found = [one for one in occasions if isinstance(one, Item)]
        if found:
            known._read(found)
            known._ask(found)
        return known

    def _read(self, found: Sequence[Item]) -> None:
        own = [item.pk for item in found if item.kind == Kind.CUSTOMER]
        system = [item.pk for item in found if item.kind == Kind.SYSTEM]
        theirs = {"customer": self.customer, "campaign__in": self.history.campaigns}
        of_these = Q(event__in=own) | Q(system_event__in=system)
        for run in Run.objects.filter(of_these, **theirs).select_related(
            "version", "step", "campaign"
        ):
            self.runs[_key(run)] = run
        for away in TurnedAway.objects.filter(of_these, **theirs).select_related(
            "version"
        ):
            self.turned_away[_key(away)] = away
        for pending in PendingEvent.objects.filter(
            customer=self.customer, event__in=own
        ):
            self.queued[Kind.CUSTOMER, pending.event_id] = pending
        for waiting in PendingSystemEvent.objects.filter(system_event__in=system):
            self.queued[Kind.SYSTEM, waiting.system_event_id] = waiting
        for broadcast in Broadcast.objects.filter(
            campaign__in=self.history.campaigns, system_event__in=system
        ).select_related("version", "campaign"):
            key = (broadcast.campaign_id, Kind.SYSTEM, broadcast.system_event_id)
            self.broadcasts[key] = broadcast
        starts = {
            broadcast.version_id: broadcast.version.start
            for broadcast in self.broadcasts.values()
        }
        for step in Step.objects.filter(
            version__in=starts, key__in=set(starts.values())
        ):
            if starts[step.version_id] == step.key:
                self.first_steps[step.version_id] = step

    def _ask(self, found: Sequence[Item]) -> None:
        """Ask the triggers' conditions, of all events of a version at once."""
        asked: dict[int, list[Item]] = defaultdict(list)
        versions = {}
        for campaign in self.history.campaigns.values():
            for item in found:
                version = self._version(campaign, item)
                if version is not None and version.event_type_id == item.type_id:
                    versions[version.pk] = version
                    asked[version.pk].append(item)
        for pk, some in asked.items():
            told = reasons.conditions(
                versions[pk],
                {item.pk: item.context for item in some},
                moments={item.pk: self._moment(item) for item in some},
            )
            for event_id, tried in told.items():
                self.conditions[pk, event_id] = tried

    def _version(self, campaign: Campaign, item: Item) -> Version | None:
        key = (campaign.pk, item.kind, item.pk)
        for stored in (self.runs, self.turned_away, self.broadcasts):
            if key in stored:
                version: Version = stored[key].version
                return version
        return self.history.version_at(campaign, self._moment(item))

    def _moment(self, item: Item) -> datetime:
        """When the campaign looked at the event, or would: seconds after it came."""
        is_queued = (item.kind, item.pk) in self.queued
        return self.now if is_queued else item.received_at

    # Judging

    def verdict(self, campaign: Campaign, one: Item | Lone) -> _Verdict:
        if isinstance(one, Lone):
            return _Verdict(Outcome.STARTED, one.run.version, one.run)
        key = (campaign.pk, one.kind, one.pk)
        if run := self.runs.get(key):
            return _Verdict(Outcome.STARTED, run.version, run)
        if away := self.turned_away.get(key):
            told = reasons.turned_away(away.version, away.entered_at)
            return _not_started(away.version, [_stored(Because.ENTRY_RULE, told)])
        if broadcast := self.broadcasts.get(key):
            return self._passed_by(broadcast, one)
        version = self._version(campaign, one)
        found = [*self._of_campaign(campaign, one), *self._of_trigger(version, one)]
        if found:
            return _not_started(version, found)
        if pending := self.queued.get((one.kind, one.pk)):
            queued = _stored(Because.IN_QUEUE, _in_queue(pending))
            return _Verdict(Outcome.NOT_YET, version, reasons=(queued,))
        return _not_started(version, [self._unexplained(campaign, one)])

    def _of_campaign(self, campaign: Campaign, item: Item) -> Iterator[WhyReason]:
        """What kept the campaign as a whole from answering."""
        if item.is_backfill:
            yield _stored(Because.BACKFILL, reasons.BACKFILL)
        came = f"the event came in {on(item.received_at)}"
        first = self.history.first_published(campaign)
        if item.received_at < campaign.created_at:
            yield _stored(
                Because.NO_CAMPAIGN,
                f"The campaign did not exist yet: it was made "
                f"{on(campaign.created_at)}, and {came}.",
            )
        elif first is None:
            yield _stored(
                Because.NOT_PUBLISHED, "The campaign has never been published."
            )
        elif item.received_at < first:
            yield _stored(
                Because.NOT_PUBLISHED,
                f"The campaign was not at work yet: it was published {on(first)}, and "
                f"{came}.",
            )
        else:
            yield from self._of_state(campaign, self._moment(item))

    def _of_state(self, campaign: Campaign, moment: datetime) -> Iterator[WhyReason]:
        was, later = self.history.state_at(campaign, moment)
        if was is None or was.status not in _STOPPED:
            return
        because, word = _STOPPED[was.status]
        when = (
            f"has been {word} since {on(was.at)}"
            if later is None
            else f"was {word} from {on(was.at)} until {on(later.at)}"
        )
        told = f"The campaign {when}; what comes in meanwhile starts nothing."
        yield _stored(because, told)

    def _of_trigger(self, version: Version | None, item: Item) -> Iterator[WhyReason]:
        """What the trigger of the version at work then has against the event."""
        if version is None:
            return
        if version.event_type_id != item.type_id:
            yield _stored(
                Because.OTHER_EVENT,
                f"Version {version.number}, which was at work then, waits for "
                f"“{version.event_name}”, and this is “{item.name}”.",
            )
            return
        if version.trigger_kind in PLANNED:
            yield _stored(
                Because.OTHER_EVENT, "This time was planned for another campaign."
            )
            return
        moment = self._moment(item)
        if is_too_old(version, item.occurred_at, now=moment):
            yield _stored(
                Because.TOO_OLD, reasons.too_old(version, "before it came in")
            )
        for told in reasons.unmet(self.conditions.get((version.pk, item.pk), ())):
            yield WhyReason(Because.CONDITION, told, stored=False)

    def _unexplained(self, campaign: Campaign, item: Item) -> WhyReason:
        _, later = self.history.state_at(campaign, item.received_at)
        if (
            later is not None
            and later.status in _STOPPED
            and later.at - item.received_at <= SOON
        ):
            because, word = _STOPPED[later.status]
            return WhyReason(
                because,
                f"The campaign was {word} {on(later.at)}, right after the event came "
                "in; it seems that it had not looked at it by then.",
                stored=False,
            )
        return WhyReason(
            Because.UNEXPLAINED,
            "Nothing that is stored says why. By all that is known now it should have "
            "started; what it looks at may have changed since.",
            stored=False,
        )

    def _passed_by(self, broadcast: Broadcast, item: Item) -> _Verdict:
        """Why a broadcast has started nothing for the customer."""
        version, customer = broadcast.version, self.customer

        def no(because: Because, told: str, *, stored: bool = True) -> _Verdict:
            return _not_started(version, [WhyReason(because, told, stored=stored)])

        if customer.pk > broadcast.last_id:
            return no(
                Because.CAME_LATER,
                f"They came into the base {on(customer.created_at)}, after the "
                "campaign had begun to go through it "
                f"({on(broadcast.created_at)}).",
            )
        if (
            version.trigger_kind in PLANNED
            and broadcast.status == Broadcast.Status.FINISHED
            and broadcast.reason not in ("", ARCHIVED)
            and not broadcast.examined
            and not broadcast.portions
        ):
            return no(Because.LEFT_OUT, broadcast.reason)
        if broadcast.reason and self._lacks_a_field(version, item):
            return no(Because.FILTER, broadcast.reason)
        if version.pace:
            return self._not_taken(broadcast)
        if customer.pk > broadcast.after_id:
            if broadcast.reason == ARCHIVED:
                return no(
                    Because.ARCHIVED,
                    "The campaign was archived before it had come to them.",
                )
            if broadcast.status == Broadcast.Status.FINISHED:
                return no(
                    Because.BROADCAST_ENDED,
                    "Going through the customer base ended before it had come to "
                    f"them. {broadcast.reason}",
                )
            if broadcast.status == Broadcast.Status.FAILED:
                return no(
                    Because.BROADCAST_FAILED,
                    "Going through the customer base failed before it had come to "
                    f"them: {broadcast.reason}",
                )
            told = _stored(Because.UNDER_WAY, _under_way(broadcast))
            return _Verdict(Outcome.NOT_YET, version, reasons=(told,))
        first = self.first_steps.get(version.pk)
        if version.trigger_kind in PLANNED:
            return no(Because.FILTER, NOT_MEANT)
        if first is not None and is_leading_filter(first):
            return no(
                Because.FILTER,
                NOT_MATCHED,
            )
        return _not_started(version, [self._unexplained(broadcast.campaign, item)])

    def _lacks_a_field(self, version: Version, item: Item) -> bool:
        """Whether the event has not all that the leading filter asks for."""
        first = self.first_steps.get(version.pk)
        if first is None or first.action != "filter_customers":
            return False
        asked = event_values(read_rule(first.config))
        return any(lookup(item.context, code) is None for code in asked)

    def _not_taken(self, broadcast: Broadcast) -> _Verdict:
        """Why no portion of a broadcast with a pace has taken the customer."""
        version = broadcast.version
        if broadcast.status == Broadcast.Status.RUNNING:
            told = _stored(Because.UNDER_WAY, _by_portions(broadcast, now=self.now))
            return _Verdict(Outcome.NOT_YET, version, reasons=(told,))
        before = "before a portion had taken them"
        if broadcast.status == Broadcast.Status.FAILED:
            because = Because.BROADCAST_FAILED
            told_why = f"The broadcast failed {before}: {broadcast.reason}"
        elif broadcast.reason == portions.NOBODY_LEFT:
            because = Because.FILTER
            told_why = (
                "They were not among those it was for when a portion was taken, up to "
                "the last one."
                if version.trigger_kind in PLANNED
                else "The filter it begins with did not match them when a portion was "
                "taken, up to the last one."
            )
        elif broadcast.reason == ARCHIVED:
            because = Because.ARCHIVED
            told_why = f"The campaign was archived {before}."
        else:
            because = Because.BROADCAST_ENDED
            told_why = f"The broadcast ended {before}. {broadcast.reason}"
        return _not_started(version, [_stored(because, told_why)])


_STOPPED = {
    Campaign.Status.PAUSED.value: (Because.PAUSED, "paused"),
    Campaign.Status.ARCHIVED.value: (Because.ARCHIVED, "archived"),
}


def is_leading_filter(first: Step) -> bool:
    """Those it does not match get no run: see broadcast."""
    return first.action == "filter_customers" and not first.next.get(NEGATIVE)


def _key(row: Run | TurnedAway) -> Key:
    if row.event_id is not None:
        return row.campaign_id, Kind.CUSTOMER, row.event_id
    return row.campaign_id, Kind.SYSTEM, row.system_event_id or 0


def _stored(because: Because, told: str) -> WhyReason:
    return WhyReason(because, told, stored=True)


def _not_started(version: Version | None, found: Sequence[WhyReason]) -> _Verdict:
    return _Verdict(Outcome.NOT_STARTED, version, reasons=tuple(found))


def _in_queue(pending: PendingEvent | PendingSystemEvent) -> str:
    told = "The event is in the queue: campaigns have not looked at it yet"
    if pending.attempts and pending.due_at:
        times = f"{pending.attempts} time{'s' * (pending.attempts != 1)}"
        return (
            f"{told}. A campaign could not be asked about it {times}; it is tried "
            f"again {on(pending.due_at)}."
        )
    return f"{told}."


def _under_way(broadcast: Broadcast) -> str:
    told = (
        "It is going through the customer base, and has not come to them yet: "
        f"{int(broadcast.progress * 100)} % so far."
    )
    if broadcast.campaign.status == Campaign.Status.PAUSED:
        return f"{told} The campaign is paused, so it goes no further."
    return f"{told} {broadcast.reason}".strip()


def _by_portions(broadcast: Broadcast, *, now: datetime) -> str:
    progress = portions.progress(broadcast, now=now)
    if progress is None:
        return ""
    told = (
        f"It takes {progress.pace}; {broadcast.entered:,} so far, and not them yet. "
        "Each portion takes those who match by then."
    )
    if progress.next_at is None:
        return f"{told} The campaign is paused, so there is no next one."
    told = f"{told} The next one is due {on(progress.next_at)}."
    if progress.left and progress.ends_at and progress.ends_at > progress.next_at:
        told += (
            f" At this pace the last of the {progress.left:,} who matched at the last "
            f"one {'are' if progress.left > 1 else 'is'} taken {on(progress.ends_at)}."
        )
    return f"{told} {broadcast.reason}".strip()


# --- telling ----------------------------------------------------------------------


def _line(known: _Known, campaign: Campaign, one: Item | Lone) -> WhyLine:
    verdict = known.verdict(campaign, one)
    return WhyLine(
        event=one.id if isinstance(one, Item) else "",
        name=one.name if isinstance(one, Item) else "",
        at=one.place.at,
        outcome=verdict.outcome,
        sentence=_in_short(verdict, now=known.now),
        run=verdict.run.pk if verdict.run else None,
    )


def _in_short(verdict: _Verdict, *, now: datetime) -> str:
    run = verdict.run
    if run is None:
        word = "Not yet" if verdict.outcome == Outcome.NOT_YET else "Not started"
        return f"{word}. {verdict.reasons[0].sentence}"
    began = f"Started {on(run.started_at)}"
    if wait := waits_for(run, now=now):
        return f"{began}, and is at {_called(run.step)}. {wait.sentence}"
    word = "failed" if run.status == Run.Status.FAILED else "finished"
    ended = on(run.finished_at) if run.finished_at else ""
    if ended == on(run.started_at):
        began = f"Started and {word} {ended}"
    else:
        began = f"{began}, and {word} {ended}"
    return f"{began}, at {_called(run.step)}. {run.reason}".strip()


def _called(step: Step) -> str:
    action = ACTIONS.get(step.action)
    return f"“{action.label if action else step.key}”"


def _in_full(known: _Known, campaign: Campaign, one: Item | Lone) -> WhyAnswer:
    verdict = known.verdict(campaign, one)
    version, event = verdict.version, one if isinstance(one, Item) else None
    found = list(verdict.reasons)
    if event is not None and found and _asks_the_filter(known, campaign, event, found):
        found[0] = _with_tree(known, campaign, event, found[0])
        verdict = replace(verdict, reasons=tuple(found))
    return WhyAnswer(
        event=_event_out(event) if event else None,
        outcome=verdict.outcome,
        sentence=_in_short(verdict, now=known.now),
        version=version.number if version else None,
        conditions=known.conditions.get((version.pk, event.pk), [])
        if version and event
        else [],
        reasons=found,
        run=_run_out(known, verdict.run, event) if verdict.run else None,
    )


def _event_out(item: Item) -> WhyEvent:
    return WhyEvent(
        id=item.id,
        name=item.name,
        kind=item.kind,
        occurred_at=item.occurred_at,
        received_at=item.received_at,
        source=item.source,
        context=item.context,
        backfill=item.is_backfill,
    )


def _asks_the_filter(
    known: _Known, campaign: Campaign, item: Item, found: Sequence[WhyReason]
) -> bool:
    """Whether a tree tells more: portions take those who match by then."""
    if found[0].because == Because.FILTER:
        return True
    broadcast = known.broadcasts.get((campaign.pk, item.kind, item.pk))
    if broadcast is None or not broadcast.version.pace:
        return False
    asks = broadcast.version.trigger_kind in PLANNED or _first_filter(known, broadcast)
    return bool(asks) and (found[0].because, True) in _MATCHES


def _first_filter(known: _Known, broadcast: Broadcast) -> Step | None:
    first = known.first_steps.get(broadcast.version_id)
    is_filter = first is not None and first.action == "filter_customers"
    return first if is_filter else None


def _with_tree(
    known: _Known, campaign: Campaign, item: Item, reason: WhyReason
) -> WhyReason:
    """The same with the tree of what they did not meet, or of the filter, by the clock
    of when the broadcast ended."""
    broadcast = known.broadcasts[campaign.pk, item.kind, item.pk]
    version, first, tree = broadcast.version, _first_filter(known, broadcast), None
    if version.trigger_kind in PLANNED:
        not_meant = _not_meant(known, broadcast, item)
        if not_meant is not None and reason.because == Because.FILTER:
            return not_meant
        tree = not_meant.tree if not_meant else None
        if reason.because == Because.FILTER:
            chooses = first and (version.pace or is_leading_filter(first))
            told = NOT_MATCHED if chooses else f"{NOT_MEANT} {CHANGED}"
            reason = msgspec.structs.replace(reason, sentence=told)
            if not chooses:
                return reason
    tree = tree or _tree(
        first,
        known.customer,
        item.context,
        at=broadcast.finished_at or known.now,
    )
    told = reason.sentence
    if tree is not None:
        told += _MATCHES[reason.because, bool(tree.holds)]
    if reason.because == Because.UNDER_WAY:
        told += _kept_out(known.customer, broadcast, now=known.now)
    return msgspec.structs.replace(reason, sentence=told, tree=tree)


def _kept_out(customer: Customer, broadcast: Broadcast, *, now: datetime) -> str:
    """That the entry rule would not let them in by a portion now; or nothing."""
    entry = Entry.objects.filter(
        customer=customer, campaign=broadcast.campaign_id
    ).first()
    version = broadcast.version
    if entry is None or version.entry_rule == Version.Entry.EVERY_EVENT:
        return ""
    days = timedelta(days=version.entry_days or 0)
    if version.entry_rule == Version.Entry.INTERVAL and entry.entered_at <= now - days:
        return ""
    return f" {reasons.turned_away(version, entry.entered_at)}"


_MATCHES = {
    (Because.FILTER, True): f" {CHANGED}",
    (Because.FILTER, False): "",
    (Because.UNDER_WAY, True): " They match now.",
    (Because.UNDER_WAY, False): " They do not match now.",
    (Because.BROADCAST_ENDED, True): " They matched then.",
    (Because.BROADCAST_ENDED, False): " They did not match then.",
}


def _not_meant(known: _Known, broadcast: Broadcast, item: Item) -> WhyReason | None:
    """Which of the rules the customer does not meet whom a planned time is for."""
    version = broadcast.version
    at = broadcast.finished_at or known.now
    for part in PLANNED[version.trigger_kind].audience(
        version.trigger_config, item.context
    ):
        try:
            tree = explain(part.rule, known.customer.pk, now=part.clock or at)
        except UserError:
            continue  # It takes too long.
        if not tree.holds:
            told = f"{part.unless[:1].upper()}{part.unless[1:]}."
            return WhyReason(Because(part.because), told, stored=False, tree=tree)
    return None


def _tree(
    step: Step | None, customer: Customer, context: Mapping[str, Any], *, at: datetime
) -> Node | None:
    if step is None:
        return None
    try:
        return explain(read_rule(step.config), customer.pk, now=at, context=context)
    except UserError:
        return None  # It takes too long, or cannot be read any more.


def _run_out(known: _Known, run: Run, item: Item | None) -> WhyRun:
    wait = waits_for(run, now=known.now)
    way = stops(run)
    rules = _filters(way)
    return WhyRun(
        id=run.pk,
        status=run.status,
        reason=run.reason,
        started_at=run.started_at,
        finished_at=run.finished_at,
        waits_for=wait.sentence if wait else "",
        waits_until=wait.until if wait else None,
        stops=tuple(
            _stop_out(
                stop,
                _tree(
                    rules.get(stop.step.pk),
                    known.customer,
                    item.context,
                    at=stop.left_at,
                )
                if item is not None and stop.left_at is not None
                else None,
            )
            for stop in way
        ),
        moves=tuple(
            WhyMove(
                at=one.at,
                step=one.to_step.key,
                from_version=one.from_step.version.number,
                to_version=one.to_step.version.number,
                by=one.move.by,
                sentence=say_moved(one),
            )
            for one in moves(run)
        ),
    )


def _filters(way: Sequence[Stop]) -> dict[int, Step]:
    """Step of the way → the filter that it asks, itself or again."""
    found = {
        stop.step.pk: stop.step
        for stop in way
        if stop.step.action == "filter_customers"
    }
    again = {
        stop.step.pk: stop.step.config["filter"]
        for stop in way
        if stop.step.action == "refresh_filter"
    }
    if again:
        versions = {stop.step.pk: stop.step.version_id for stop in way}
        by_key = {
            (step.version_id, step.key): step
            for step in Step.objects.filter(
                version__in=versions.values(), key__in=again.values()
            )
        }
        found |= {
            pk: asked
            for pk, key in again.items()
            if (asked := by_key.get((versions[pk], key)))
        }
    return found


def _stop_out(stop: Stop, tree: Node | None) -> WhyStop:
    return WhyStop(
        step=stop.step.key,
        action=stop.step.action,
        label=stop.label,
        does=stop.sentence,
        arrived_at=stop.arrived_at,
        left_at=stop.left_at,
        way=stop.taken,
        way_label=stop.way,
        reason=stop.reason,
        messages=tuple(_message_out(message) for message in stop.messages),
        tree=tree,
    )


def _message_out(message: Message) -> WhyMessage:
    return WhyMessage(
        id=message.pk,
        channel=message.channel,
        status=message.status,
        reason=message.reason,
        detail=message.detail,
    )


# --- nothing to tell of -----------------------------------------------------------


def _nothing_came(
    known: _Known, campaign: Campaign, *, event: str, is_older: bool
) -> WhyAnswer:
    """Why nothing was started where there is no event that could have."""
    history = known.history
    version = next(iter(history.versions[campaign.pk]), None)
    found: list[WhyReason] = []
    if event:
        found = _refused(event) or [
            _stored(
                Because.NO_EVENT,
                f"No event of theirs with the ID “{event}” has come in, and no system "
                "event.",
            )
        ]
    elif version is None:
        found = [
            _stored(Because.NOT_PUBLISHED, "The campaign has never been published.")
        ]
    elif is_older:
        found = [_stored(Because.NO_EVENT, "There is nothing older.")]
    else:
        found = [_stored(Because.NO_EVENT, _no_event(version))]
        found += known._of_state(campaign, known.now)
    return WhyAnswer(
        event=None,
        outcome=Outcome.NOT_STARTED,
        sentence=f"Not started. {found[0].sentence}",
        version=version.number if version else None,
        conditions=[],
        reasons=found,
        run=None,
    )


def _no_event(version: Version) -> str:
    if version.trigger_kind in PLANNED:
        if version.next_at is None:
            return "No time that it was planned for has come, and none comes any more."
        return (
            "No time that it is planned for has come yet; the first is "
            f"{on(version.next_at)}."
        )
    is_system = TRIGGERS[version.trigger_kind].on == Kind.SYSTEM
    told = (
        f"No “{version.event_name}” has come in"
        if is_system
        else f"No “{version.event_name}” of theirs has come in"
    )
    if is_system or version.event_type is None:
        return f"{told}."
    if not Event.objects.filter(type=version.event_type).exists():
        return f"{told}, nor of anybody else."
    last = version.event_type.last_seen_on
    when = f" on {on(last)}" if last else ""
    return f"{told}; the last one of anybody came{when}."


def _refused(event: str) -> list[WhyReason]:
    sources = list(Source.objects.values_list("pk", flat=True))
    rejected = (
        RejectedEvent.objects.filter(source__in=sources, external_id=event)
        .exclude(status=RejectedEvent.Status.REPLAYED)
        .select_related("source")
        .order_by("-pk")
        .first()
    )
    if rejected is None:
        return []
    return [
        _stored(
            Because.REFUSED,
            f"An event with the ID “{event}” came from {rejected.source} "
            f"{on(rejected.received_at)}, and was refused: {rejected.message}",
        )
    ]


# --- lines for a profile ----------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A campaign and what became of the customer's latest event in it."""

    campaign: Campaign
    line: WhyLine


def lately(customer: Customer, *, now: datetime) -> list[Line]:
    """A line for each campaign that waits for one of the customer's latest events, or
    that they had a run in. The newest first; a constant number of queries, and one for
    each condition of those campaigns' triggers."""
    latest = _latest(customer)
    last_runs = dict(
        Run.objects.filter(customer=customer)
        .values_list("campaign_id")
        .annotate(last=Max("pk"))
        .order_by("-last")[:MOST_CAMPAIGNS]
    )
    waiting = Campaign.objects.filter(
        Q(pk__in=last_runs)
        | Exists(
            Version.objects.filter(
                campaign=OuterRef("pk"),
                event_type__in=latest,
                status=Version.Status.PUBLISHED,
            ).exclude(trigger_kind__in=PLANNED)
        )
        & ~Q(status=Campaign.Status.ARCHIVED)
    ).order_by("-pk")[:MOST_CAMPAIGNS]
    history = _History.of(waiting)
    known = _Known.about(customer, history, latest.values(), now=now)
    runs = Run.objects.filter(customer=customer, pk__in=last_runs.values())
    last = {
        run.campaign_id: run
        for run in runs.select_related(
            "version", "step", "campaign", "event__type", "system_event__type"
        )
    }
    found = [
        Line(campaign, line)
        for campaign in history.campaigns.values()
        if (line := _latest_line(known, campaign, latest, last.get(campaign.pk)))
    ]
    return sorted(found, key=lambda one: one.line.at, reverse=True)


def _latest(customer: Customer) -> dict[int, Item]:
    """Type → the customer's latest event of it, or the latest system event, among the
    last few."""
    own = Event.objects.filter(customer=customer)
    system = SystemEvent.objects.filter(occurred_at__gte=customer.created_at)
    found: dict[int, Item] = {}
    for rows, kind in ((own, Kind.CUSTOMER), (system, Kind.SYSTEM)):
        for item in items(newest_below(rows, "occurred_at", None, LATELY), kind):
            found.setdefault(item.type_id, item)
    return found


def _latest_line(
    known: _Known, campaign: Campaign, latest: Mapping[int, Item], run: Run | None
) -> WhyLine | None:
    types = {
        version.event_type_id
        for version in known.history.versions[campaign.pk]
        if version.trigger_kind not in PLANNED
    }
    events = [item for pk, item in latest.items() if pk in types]
    item = max(events, key=lambda one: one.place, default=None)
    if run is not None and (item is None or run.started_at > item.received_at):
        by = run.event or run.system_event
        verdict = _Verdict(Outcome.STARTED, run.version, run)
        return WhyLine(
            event=by.external_id if by else "",
            name=by.type.name if by else "",
            at=run.started_at,
            outcome=verdict.outcome,
            sentence=_in_short(verdict, now=known.now),
            run=run.pk,
        )
    return _line(known, campaign, item) if item else None

"""What became of an event in a campaign, from what is stored.

The rest is asked again of the version that was at work when the event came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import Q

from campaigns import portions, reasons
from campaigns.actions.filter import NEGATIVE, read_rule
from campaigns.dispatch import is_too_old
from campaigns.engine import ARCHIVED
from campaigns.models import (
    Broadcast,
    Campaign,
    Run,
    StateChange,
    Step,
    TurnedAway,
    Version,
)
from campaigns.triggers import PLANNED
from campaigns.why.occasions import Lone
from campaigns.why.shapes import (
    Because,
    Outcome,
    WhyReason,
)
from customers.models import Customer
from events.history import Item
from events.models import (
    Kind,
    PendingEvent,
    PendingSystemEvent,
)
from events.sandbox import ConditionTried
from segments.answers import on
from segments.compile import lookup
from segments.rules import event_values

NOT_MATCHED = "The filter it begins with did not match them when it came to them."
NOT_MEANT = "They were not among those it was for when it came to them."
#: A campaign that was paused so soon may not have looked at the event by then.
SOON = timedelta(minutes=10)


@dataclass(frozen=True)
class History:
    """What campaigns were when. Versions that were published, the newest first."""

    campaigns: Mapping[int, Campaign]
    versions: Mapping[int, list[Version]]
    states: Mapping[int, list[StateChange]]

    @classmethod
    def of(cls, campaigns: Iterable[Campaign]) -> History:
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
class Verdict:
    """What became of an event in a campaign."""

    outcome: Outcome
    version: Version | None = None
    run: Run | None = None
    reasons: tuple[WhyReason, ...] = ()


@dataclass
class Known:
    """All that is stored about some events of one customer in some campaigns."""

    customer: Customer
    history: History
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
        history: History,
        occasions: Iterable[Item | Lone],
        *,
        now: datetime,
    ) -> Known:
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

    def verdict(self, campaign: Campaign, one: Item | Lone) -> Verdict:
        if isinstance(one, Lone):
            return Verdict(Outcome.STARTED, one.run.version, one.run)
        key = (campaign.pk, one.kind, one.pk)
        if run := self.runs.get(key):
            return Verdict(Outcome.STARTED, run.version, run)
        if away := self.turned_away.get(key):
            told = reasons.turned_away(away.version, away.entered_at)
            return not_started(away.version, [stored_reason(Because.ENTRY_RULE, told)])
        if broadcast := self.broadcasts.get(key):
            return self._passed_by(broadcast, one)
        version = self._version(campaign, one)
        found = [*self._of_campaign(campaign, one), *self._of_trigger(version, one)]
        if found:
            return not_started(version, found)
        if pending := self.queued.get((one.kind, one.pk)):
            queued = stored_reason(Because.IN_QUEUE, _in_queue(pending))
            return Verdict(Outcome.NOT_YET, version, reasons=(queued,))
        return not_started(version, [self._unexplained(campaign, one)])

    def _of_campaign(self, campaign: Campaign, item: Item) -> Iterator[WhyReason]:
        """What kept the campaign as a whole from answering."""
        if item.is_backfill:
            yield stored_reason(Because.BACKFILL, reasons.BACKFILL)
        came = f"the event came in {on(item.received_at)}"
        first = self.history.first_published(campaign)
        if item.received_at < campaign.created_at:
            yield stored_reason(
                Because.NO_CAMPAIGN,
                f"The campaign did not exist yet: it was made "
                f"{on(campaign.created_at)}, and {came}.",
            )
        elif first is None:
            yield stored_reason(
                Because.NOT_PUBLISHED, "The campaign has never been published."
            )
        elif item.received_at < first:
            yield stored_reason(
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
        yield stored_reason(because, told)

    def _of_trigger(self, version: Version | None, item: Item) -> Iterator[WhyReason]:
        """What the trigger of the version at work then has against the event."""
        if version is None:
            return
        if version.event_type_id != item.type_id:
            yield stored_reason(
                Because.OTHER_EVENT,
                f"Version {version.number}, which was at work then, waits for "
                f"“{version.event_name}”, and this is “{item.name}”.",
            )
            return
        if version.trigger_kind in PLANNED:
            yield stored_reason(
                Because.OTHER_EVENT, "This time was planned for another campaign."
            )
            return
        moment = self._moment(item)
        if is_too_old(version, item.occurred_at, now=moment):
            yield stored_reason(
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

    def _passed_by(self, broadcast: Broadcast, item: Item) -> Verdict:
        """Why a broadcast has started nothing for the customer."""
        version, customer = broadcast.version, self.customer

        def no(because: Because, told: str, *, stored: bool = True) -> Verdict:
            return not_started(version, [WhyReason(because, told, stored=stored)])

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
            told = stored_reason(Because.UNDER_WAY, _under_way(broadcast))
            return Verdict(Outcome.NOT_YET, version, reasons=(told,))
        first = self.first_steps.get(version.pk)
        if version.trigger_kind in PLANNED:
            return no(Because.FILTER, NOT_MEANT)
        if first is not None and is_leading_filter(first):
            return no(
                Because.FILTER,
                NOT_MATCHED,
            )
        return not_started(version, [self._unexplained(broadcast.campaign, item)])

    def _lacks_a_field(self, version: Version, item: Item) -> bool:
        """Whether the event has not all that the leading filter asks for."""
        first = self.first_steps.get(version.pk)
        if first is None or first.action != "filter_customers":
            return False
        asked = event_values(read_rule(first.config))
        return any(lookup(item.context, code) is None for code in asked)

    def _not_taken(self, broadcast: Broadcast) -> Verdict:
        """Why no portion of a broadcast with a pace has taken the customer."""
        version = broadcast.version
        if broadcast.status == Broadcast.Status.RUNNING:
            told = stored_reason(
                Because.UNDER_WAY, _by_portions(broadcast, now=self.now)
            )
            return Verdict(Outcome.NOT_YET, version, reasons=(told,))
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
        return not_started(version, [stored_reason(because, told_why)])


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


def stored_reason(because: Because, told: str) -> WhyReason:
    return WhyReason(because, told, stored=True)


def not_started(version: Version | None, found: Sequence[WhyReason]) -> Verdict:
    return Verdict(Outcome.NOT_STARTED, version, reasons=tuple(found))


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

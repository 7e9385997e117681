"""A verdict in words: in a line, or in full with its trees and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from campaigns import reasons
from campaigns.actions import ACTIONS
from campaigns.actions.filter import read_rule
from campaigns.models import (
    Broadcast,
    Campaign,
    Entry,
    Run,
    Step,
    Version,
)
from campaigns.triggers import PLANNED
from campaigns.way import Stop, moves, say_moved, stops, waits_for
from campaigns.why.occasions import Lone
from campaigns.why.shapes import (
    Because,
    Outcome,
    WhyAnswer,
    WhyEvent,
    WhyLine,
    WhyMessage,
    WhyMove,
    WhyReason,
    WhyRun,
    WhyStop,
)
from campaigns.why.verdicts import (
    NOT_MATCHED,
    NOT_MEANT,
    Known,
    Verdict,
    is_leading_filter,
)
from customers.models import Customer
from events.history import Item
from messaging.models import Message
from segments.answers import on
from segments.explain import Node, explain
from smartcomm.core.errors import UserError

CHANGED = "It would match them now: what it looks at has changed since."


def line_of(known: Known, campaign: Campaign, one: Item | Lone) -> WhyLine:
    verdict = known.verdict(campaign, one)
    return WhyLine(
        event=one.id if isinstance(one, Item) else "",
        name=one.name if isinstance(one, Item) else "",
        at=one.place.at,
        outcome=verdict.outcome,
        sentence=in_short(verdict, now=known.now),
        run=verdict.run.pk if verdict.run else None,
    )


def in_short(verdict: Verdict, *, now: datetime) -> str:
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


def in_full(known: Known, campaign: Campaign, one: Item | Lone) -> WhyAnswer:
    verdict = known.verdict(campaign, one)
    version, event = verdict.version, one if isinstance(one, Item) else None
    found = list(verdict.reasons)
    if event is not None and found and _asks_the_filter(known, campaign, event, found):
        found[0] = _with_tree(known, campaign, event, found[0])
        verdict = replace(verdict, reasons=tuple(found))
    return WhyAnswer(
        event=_event_out(event) if event else None,
        outcome=verdict.outcome,
        sentence=in_short(verdict, now=known.now),
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
    known: Known, campaign: Campaign, item: Item, found: Sequence[WhyReason]
) -> bool:
    """Whether a tree tells more: portions take those who match by then."""
    if found[0].because == Because.FILTER:
        return True
    broadcast = known.broadcasts.get((campaign.pk, item.kind, item.pk))
    if broadcast is None or not broadcast.version.pace:
        return False
    asks = broadcast.version.trigger_kind in PLANNED or _first_filter(known, broadcast)
    return bool(asks) and (found[0].because, True) in _MATCHES


def _first_filter(known: Known, broadcast: Broadcast) -> Step | None:
    first = known.first_steps.get(broadcast.version_id)
    is_filter = first is not None and first.action == "filter_customers"
    return first if is_filter else None


def _with_tree(
    known: Known, campaign: Campaign, item: Item, reason: WhyReason
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


def _not_meant(known: Known, broadcast: Broadcast, item: Item) -> WhyReason | None:
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


def _run_out(known: Known, run: Run, item: Item | None) -> WhyRun:
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

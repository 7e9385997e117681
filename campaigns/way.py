"""A run's way, step by step: where it was, where it is, and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from campaigns.actions import ACTIONS
from campaigns.actions.happen import NAME as WAIT_FOR_EVENT
from campaigns.actions.webhook import NAME as CALL_WEBHOOK
from campaigns.models import Campaign, MovedRun, Passage, Run, Step, WebhookCall
from campaigns.panels import TONES, say, way_label
from messaging.models import Message
from segments.answers import on

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Stop:
    """A step of a run, as it was or is."""

    step: Step
    symbol: str
    label: str
    sentence: str
    arrived_at: datetime
    left_at: datetime | None = None
    #: The way out, as the drawing names it, and as people call it.
    taken: str = ""
    way: str = ""
    tone: str = ""
    reason: str = ""
    messages: tuple[Message, ...] = ()
    call: WebhookCall | None = None

    @property
    def took_time(self) -> bool:
        """Long enough to be told."""
        return self.left_at is not None and self.left_at - self.arrived_at >= MINUTE

    @property
    def is_told_by_message(self) -> bool:
        """A message, or a call, says the same."""
        return any(message.detail == self.reason for message in self.messages) or (
            self.call is not None and self.call.reason == self.reason
        )


def stops(run: Run) -> list[Stop]:
    """A run's way, step by step, with the messages and calls it led to. Three
    queries."""
    by_step: dict[str, list[Message]] = {}
    for message in Message.objects.filter(
        customer_id=run.customer_id, run_id=run.pk
    ).order_by("pk"):
        by_step.setdefault(message.step, []).append(message)
    calls = {
        call.step.key: call
        for call in WebhookCall.objects.filter(customer=run.customer_id, run=run.pk)
        .select_related("step")
        .defer("body")
    }
    passages = list(
        Passage.objects.filter(run=run, customer_id=run.customer_id)
        .select_related("step")
        .order_by("left_at", "pk")
    )
    found = [
        Stop(
            **_words(passage.step),
            arrived_at=passage.arrived_at,
            left_at=passage.left_at,
            taken=passage.way,
            way=way_label(passage.step.action, passage.way),
            tone=TONES.get(passage.way, ""),
            reason=passage.reason,
            messages=tuple(by_step.get(passage.step.key, ())),
            call=calls.get(passage.step.key),
        )
        for passage in passages
    ]
    if run.status != Run.Status.FINISHED or run.step_id not in {
        passage.step_id for passage in passages
    }:
        found.append(
            Stop(
                **_words(run.step),
                arrived_at=run.arrived_at,
                messages=tuple(by_step.get(run.step.key, ())),
                call=calls.get(run.step.key),
            )
        )
    return found


def moves(run: Run) -> list[MovedRun]:
    """When it was taken over to later versions. One query."""
    return list(
        MovedRun.objects.filter(run=run, customer_id=run.customer_id)
        .select_related("move", "from_step__version", "to_step__version")
        .order_by("pk")
    )


def say_moved(one: MovedRun) -> str:
    """Moved from version 1 to version 3 by anna, 12 Nov 2026, 10:00."""
    before, after = one.from_step.version.number, one.to_step.version.number
    when = on(one.at)
    return f"Moved from version {before} to version {after} by {one.move.by}, {when}."


def _words(step: Step) -> dict[str, Any]:
    action = ACTIONS.get(step.action)
    return {
        "step": step,
        "symbol": action.symbol if action else "help",
        "label": action.label if action else step.action,
        "sentence": say({"action": step.action, "config": step.config}),
    }


@dataclass(frozen=True)
class Wait:
    """What a run waits for, in a sentence, and until when at the latest."""

    sentence: str
    until: datetime | None = None


def waits_for(run: Run, *, now: datetime) -> Wait | None:
    """None: it waits for nothing, since it is over. `run` has its campaign and step."""
    if run.status != Run.Status.WAITING:
        return None
    if run.campaign.status == Campaign.Status.PAUSED:
        return Wait("Nothing goes on until the campaign is resumed.", run.due_at)
    if run.due_at is None and run.step.action == CALL_WEBHOOK:
        return Wait("Waits for the answer to its call.")
    if run.due_at is None:
        return Wait("Waits until its message has been sent, or not.")
    if run.attempts:
        return Wait(
            f"It could not be taken on: {run.reason} Tried again {on(run.due_at)}.",
            run.due_at,
        )
    if run.step.action == WAIT_FOR_EVENT:
        config = run.step.config
        until = run.arrived_at + timedelta(**{config["unit"]: config["for"]})
        return Wait(f"Waits for “{config['event']}” until {on(until)}.", until)
    if run.due_at <= now:
        return Wait("It is due, and goes on in a moment.", run.due_at)
    return Wait(f"Waits until {on(run.due_at)}.", run.due_at)

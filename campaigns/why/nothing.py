"""Where there is no event and no run to tell of."""

from __future__ import annotations

from campaigns.models import (
    Campaign,
    Version,
)
from campaigns.triggers import PLANNED, TRIGGERS
from campaigns.why.shapes import (
    Because,
    Outcome,
    WhyAnswer,
    WhyReason,
)
from campaigns.why.verdicts import Known, stored_reason
from events.models import (
    Event,
    Kind,
    RejectedEvent,
    Source,
)
from segments.answers import on


def nothing_came(
    known: Known, campaign: Campaign, *, event: str, is_older: bool
) -> WhyAnswer:
    """Why nothing was started where there is no event that could have."""
    history = known.history
    version = next(iter(history.versions[campaign.pk]), None)
    found: list[WhyReason] = []
    if event:
        found = _refused(event) or [
            stored_reason(
                Because.NO_EVENT,
                f"No event of theirs with the ID “{event}” has come in, and no system "
                "event.",
            )
        ]
    elif version is None:
        found = [
            stored_reason(
                Because.NOT_PUBLISHED, "The campaign has never been published."
            )
        ]
    elif is_older:
        found = [stored_reason(Because.NO_EVENT, "There is nothing older.")]
    else:
        found = [stored_reason(Because.NO_EVENT, _no_event(version))]
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
        stored_reason(
            Because.REFUSED,
            f"An event with the ID “{event}” came from {rejected.source} "
            f"{on(rejected.received_at)}, and was refused: {rejected.message}",
        )
    ]

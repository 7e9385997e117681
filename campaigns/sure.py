"""What is asked before a click that cannot be taken back, and says what is lost.

The page with the question sends the same again with `sure`: what was told of, so that
it is asked anew where that has changed meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from django.urls import reverse

from campaigns import approving, drawing
from campaigns.changes import Change, changes, summary
from campaigns.desk import Desk
from campaigns.models import Broadcast, Version
from campaigns.portions import still_to_take
from customers.models import Customer


@dataclass(frozen=True)
class Question:
    title: str
    sentences: list[str]
    #: What the button says, and its symbol.
    deed: str
    symbol: str
    #: Where one goes who would rather not.
    keep: str
    back: str
    #: What is sent when the answer is yes.
    sent: dict[str, str]
    lost: list[Change] = field(default_factory=list)

    def is_answered(self, desk: Desk) -> bool:
        return desk.request.POST.get("sure") == self.sent["sure"]


def discard(desk: Desk) -> Question | None:
    """None where the draft is what is at work, so that nothing is lost."""
    draft, published = desk.draft, desk.published
    if draft is None or published is None:
        return None
    return _losing(
        desk,
        draft,
        title=f"Discard the draft (version {draft.number})?",
        stays=f"Version {published.number}, which is at work, stays as it is.",
        deed="Discard the draft",
        symbol="delete",
        sent={"deed": "discard", "version": str(draft.number)},
    )


def draw_again(desk: Desk, version: Version) -> Question | None:
    """None where there is no draft, or one in which nothing would be lost."""
    draft = desk.draft
    if draft is None or drawing.as_json(draft) == drawing.as_json(version):
        return None
    return _losing(
        desk,
        draft,
        title=f"Replace the draft (version {draft.number})?",
        stays=f"It is drawn as version {version.number} was.",
        deed="Replace the draft",
        symbol="history",
        sent={"deed": "draw", "version": str(version.number)},
    )


def _losing(
    desk: Desk,
    draft: Version,
    *,
    title: str,
    stays: str,
    deed: str,
    symbol: str,
    sent: dict[str, str],
) -> Question | None:
    lost = changes(
        drawing.as_json(desk.published) if desk.published else {}, desk.definition
    )
    if not lost:
        return None
    number = "1 change is" if len(lost) == 1 else f"{len(lost):,} changes are"
    by = f" Made by {', '.join(draft.authors)}." if draft.authors else ""
    sentences = [f"{number} lost: {summary(lost)}.{by}", stays]
    if approving.open_request(desk.campaign):
        sentences.append("Nobody is asked any more to publish it.")
    return Question(
        title,
        sentences,
        deed,
        symbol,
        "Keep the draft",
        reverse("admin:campaigns_campaign_versions", args=[desk.campaign.pk]),
        {**sent, "sure": desk.stamp},
        lost,
    )


def stop(desk: Desk, broadcast: Broadcast) -> Question:
    """Counts the customers who have not been looked at, which takes a moment."""
    entered = broadcast.entered
    has = "customer has" if entered == 1 else "customers have"
    return Question(
        f"Stop “{broadcast.system_event.type}”?",
        [
            f"{entered:,} {has} entered; for them it goes on.",
            _still_to_come(broadcast),
            "It cannot be taken up again: a system event goes through the customers"
            " once. To hold it for a while, pause the campaign.",
        ],
        "Stop it",
        "stop_circle",
        "Let it go on",
        reverse("admin:campaigns_campaign_runs", args=[desk.campaign.pk]),
        {"broadcast": str(broadcast.pk), "sure": "yes"},
    )


def _still_to_come(broadcast: Broadcast) -> str:
    if broadcast.version.pace:
        left = still_to_take(broadcast)
        if left is None:
            return "How many would come is not known before the first portion."
        return f"{left:,} more would still come, and get nothing then."
    unseen = Customer.objects.filter(
        pk__gt=broadcast.after_id, pk__lte=broadcast.last_id
    ).count()
    said = f"{unseen:,} have not been looked at yet"
    if not broadcast.examined:
        return f"{said}; who of them matches gets nothing then."
    more = round(unseen * broadcast.entered / broadcast.examined)
    return (
        f"{said}: about {more:,} of them would still come, if they are like those"
        " before, and get nothing then."
    )

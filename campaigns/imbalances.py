"""What the checker found, in words for the report and the home page."""

from __future__ import annotations

from dataclasses import dataclass

from campaigns.checker import forgotten
from campaigns.models import Campaign, Imbalance, Run

#: So many of the runs it concerns are named.
NAMED = 5


@dataclass(frozen=True)
class Told:
    one: Imbalance
    sentence: str
    to_do: str
    #: Some of the runs it concerns, where they can be told.
    runs: list[Run]


def told(campaign: Campaign) -> list[Told]:
    """All that is off in a campaign now. Looks for runs only where something is."""
    found = (
        Imbalance.objects.filter(step__version__campaign=campaign)
        .select_related("step__version")
        .order_by("since", "pk")
    )
    return [
        Told(one, say(one), _TO_DO[Imbalance.What(one.what)], _runs(campaign, one))
        for one in found
    ]


def say(one: Imbalance) -> str:
    """In a sentence. The step and its version are needed too."""
    place = f"“{one.step}” of version {one.step.version.number}"
    if one.what == Imbalance.What.FORGOTTEN:
        waits = "customer waits" if one.found == 1 else "customers wait"
        return (
            f"{one.found:,} {waits} at {place}, and nothing takes them on: no time is"
            " set, and no message or answer is on its way."
        )
    said = (
        f"{one.wanted:,} came to {place}, and {one.found:,} have left it, wait, failed"
        " or were ended there"
    )
    if one.found < one.wanted:
        return f"{said}: {one.wanted - one.found:,} cannot be accounted for."
    return f"{said}: {one.found - one.wanted:,} more than came."


def _runs(campaign: Campaign, one: Imbalance) -> list[Run]:
    if one.what != Imbalance.What.FORGOTTEN:
        return []
    ids = forgotten(campaign, one.step_id, most=NAMED)
    return list(Run.objects.filter(pk__in=ids).select_related("customer"))


_TO_DO = {
    Imbalance.What.STEP: (
        "Rows were lost or changed by something other than the campaign, such as a hand"
        " in the database or a restore of a part of it. Nobody is written to twice for"
        " it, and the campaign may go on. Tell whoever runs this installation, who can"
        " compare the runs and passages of this step with a backup."
    ),
    Imbalance.What.FORGOTTEN: (
        "They stay there until somebody looks; all others go on. Rows of messages or"
        " calls were lost, or runs changed, by something other than the campaign. Tell"
        " whoever runs this installation, who may find them in a backup. What the"
        " customers got so far stands on the pages of their runs."
    ),
}

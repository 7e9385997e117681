"""Why a customer got something from a campaign, or nothing.

A run is told as it is stored, step by step. Where there is none, what is stored is
asked first: the entry rule's book (TurnedAway), the queue, how far a broadcast got,
what state the campaign was in. The rest is asked again of the version that was at work
when the event came, and marked so, since what it looks at may have changed.

A page of events costs a constant number of queries, however many the customer has; each
condition of a trigger and each filter of the one run that is told in full adds some.
"""

from __future__ import annotations

from datetime import datetime

from campaigns.models import Campaign
from campaigns.why.lines import Line, lately
from campaigns.why.nothing import nothing_came
from campaigns.why.occasions import PER_PAGE, events_for, with_id
from campaigns.why.shapes import Outcome, Why, WhyAnswer, WhyReason, WhyStop
from campaigns.why.telling import in_full, line_of
from campaigns.why.verdicts import History, Known
from customers.models import Customer, FormerId
from segments.answers import on
from smartcomm.core.paging import Page

__all__ = [
    "PER_PAGE",
    "Line",
    "Outcome",
    "Why",
    "WhyAnswer",
    "WhyReason",
    "WhyStop",
    "lately",
    "why",
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
    history = History.of([campaign])
    page = (
        Page(with_id(customer, event))
        if event
        else events_for(customer, history.versions[campaign.pk], before=before)
    )
    known = Known.about(customer, history, page.items, now=now)
    if page.items:
        answer = in_full(known, campaign, page.items[0])
    else:
        answer = nothing_came(known, campaign, event=event, is_older=bool(before))
    return Why(
        customer=customer.external_id,
        campaign=campaign.pk,
        name=campaign.name,
        status=campaign.status,
        asked_at=now,
        notes=_notes(customer, asked_for),
        answer=answer,
        others=[line_of(known, campaign, one) for one in page.items[1:]],
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

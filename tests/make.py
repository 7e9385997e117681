"""Builders: the smallest valid thing; a test names only what matters to it.

Sorted by app. A builder that several tests of one file need stands in that file.
"""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

from django.db.models import F
from django.utils import timezone

from campaigns.models import Campaign
from customers.models import Consent, Customer
from events.ingest import record_events
from events.models import Event, EventType, Kind, Source, SystemEvent
from messaging import queue
from messaging.models import Content, Message
from segments import saving
from segments.models import Membership, Segment, Upkeep
from segments.saving import Wanted

_numbers = itertools.count(1)


# customers


def customer(external_id: str = "", **more: Any) -> Customer:
    """A customer who may be written to, when given an e-mail or a phone."""
    external_id = external_id or f"C-{next(_numbers)}"
    more.setdefault("email_is_valid", bool(more.get("email")))
    more.setdefault("phone_is_valid", bool(more.get("phone")))
    return Customer.objects.create(external_id=external_id, **more)


def reachable(external_id: str = "", **more: Any) -> Customer:
    """A customer with an e-mail, a phone, and a yes for both."""
    number = next(_numbers)
    more.setdefault("email", f"c{number}@example.com")
    more.setdefault("phone", f"+49151{number:08d}")
    found = customer(external_id, **more)
    for channel in ("email", "sms"):
        consent(found, channel)
    return found


def consent(customer: Customer, channel: str, *, yes: bool = True) -> Consent:
    return Consent.objects.create(
        customer=customer, channel=channel, is_granted=yes, changed_at=timezone.now()
    )


# events


def source(name: str = "shop", **more: Any) -> Source:
    return Source.objects.get_or_create(name=name, defaults=more)[0]


def event_type(name: str, kind: str = Kind.CUSTOMER, **more: Any) -> EventType:
    return EventType.objects.get_or_create(name=name, defaults={"kind": kind, **more})[
        0
    ]


def event(
    customer: Customer,
    name: str,
    /,
    *,
    id: str = "",
    at: datetime | None = None,
    now: datetime | None = None,
    backfill: bool = False,
    **context: Any,
) -> Event:
    """An event as the door records it: make.event(anna, "Order paid", amount=10)."""
    item: dict[str, Any] = {
        "id": id or f"e-{next(_numbers)}",
        "name": name,
        "customer": customer.external_id,
        "context": context,
        "backfill": backfill,
    }
    if at:
        item["occurred_at"] = at.isoformat()
    recorded = record_events([item], source=source(), now=now)
    assert recorded.accepted == 1, recorded
    return Event.objects.get(customer=customer, external_id=item["id"])


def system_event(
    name: str, /, *, at: datetime | None = None, **context: Any
) -> SystemEvent:
    item: dict[str, Any] = {
        "id": f"s-{next(_numbers)}",
        "name": name,
        "context": context,
    }
    if at:
        item["occurred_at"] = at.isoformat()
    recorded = record_events([item], source=source(), kind=Kind.SYSTEM)
    assert recorded.accepted == 1, recorded
    return SystemEvent.objects.get(external_id=item["id"])


# segments


def segment(name: str = "", rule: Any = None, **more: Any) -> Segment:
    """A segment as it is saved, with its first version: make.segment(rule=PARIS)."""
    kind = more.pop("kind", Segment.Kind.STATIC if rule is None else "dynamic")
    name = name or f"segment {next(_numbers)}"
    return saving.create(Wanted(name, rule=rule, **more), author="anna", kind=kind)


def kept(
    segment: Segment, *customers: Customer, since: datetime | None = None
) -> Segment:
    """The segment with these members, as upkeep leaves it."""
    now = timezone.now()
    Membership.objects.bulk_create(
        (
            Membership(customer=one, segment=segment, since=since or now)
            for one in customers
        ),
        ignore_conflicts=True,
    )
    Upkeep.objects.update_or_create(id=1, defaults={"kept_at": now})
    Segment.objects.filter(pk=segment.pk).update(
        members_of=F("edition"),
        status=Segment.Status.FRESH,
        count=segment.memberships.count(),
        counted_at=now,
        tried_at=now,
        recount_wanted_at=None,
    )
    segment.refresh_from_db()
    return segment


# messaging


def content(channel: str = "sms", **texts: Any) -> Content:
    """A frozen text: make.content("email", subject="Hi", text="...")."""
    if channel == "email":
        texts.setdefault("subject", "Hello")
    if channel == "push":
        texts.setdefault("title", "Hello")
    texts.setdefault("text", "Hello")
    return Content.objects.create(channel=channel, **texts)


def message(
    customer: Customer,
    content_: Content | None = None,
    *,
    event: Event | None = None,
    now: datetime | None = None,
    run_id: int | None = None,
    campaign_id: int | None = 1,
    step: str = "send",
) -> Message:
    """A queued message, as a step of a run asks for it."""
    content_ = content_ or content()
    run_id = run_id or next(_numbers)
    request = queue.Request(
        customer_id=customer.pk,
        run_id=run_id,
        campaign_id=campaign_id,
        version_id=1,
        step=step,
        content_id=content_.pk,
        channel=content_.channel,
        event_id=event.pk if event else None,
    )
    queue.queue_messages([request], now=now or timezone.now())
    return Message.objects.get(run_id=run_id, step=step)


# campaigns


def sms(text: str = "Hello", **next_: str | None) -> dict[str, Any]:
    """A step `sms`: the smallest that sends something."""
    return step("sms", "send_sms", {"text": text}, sent=None, **next_)


def step(
    key: str, action: str, config: dict[str, Any], **next_: str | None
) -> dict[str, Any]:
    """A step: make.step("who", "filter_customers", {...}, positive="sms")."""
    return {"key": key, "action": action, "config": config, "next": next_}


def draft(
    *steps: dict[str, Any],
    on: str = "Order paid",
    system: bool = False,
    name: str = "",
    entry: dict[str, Any] | None = None,
    pace: dict[str, Any] | None = None,
    starts: dict[str, Any] | None = None,
    **trigger: Any,
) -> Campaign:
    """A campaign with a draft: make.draft(make.sms(), on="Call received"), or with a
    trigger of another kind: starts={"kind": "segment_entered", "segment": 5}."""
    from campaigns import drawing

    campaign = Campaign.objects.create(name=name or f"Campaign {next(_numbers)}")
    steps = steps or (sms(),)
    drawing.save_draft(
        campaign,
        {
            "trigger": starts
            or {
                "kind": "system_event" if system else "event",
                "event": on,
                **trigger,
            },
            "entry": entry or {"rule": "every_event"},
            "pace": pace,
            "start": steps[0]["key"],
            "steps": list(steps),
        },
    )
    return campaign


def publish_again(campaign: Campaign, **changes: Any) -> Campaign:
    """A new version of a campaign, the same but for these parts of its drawing."""
    from campaigns import drawing
    from campaigns import publish as publishing

    latest = campaign.versions.order_by("-number")[0]
    drawing.save_draft(campaign, {**drawing.as_json(latest), **changes})
    publishing.publish(campaign)
    campaign.refresh_from_db()
    return campaign


def campaign(*steps: dict[str, Any], **more: Any) -> Campaign:
    """A published campaign; see `draft`."""
    from campaigns import publish as publishing

    found = draft(*steps, **more)
    publishing.publish(found)
    found.refresh_from_db()
    return found

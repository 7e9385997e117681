"""Segments and campaigns a marketer of the grocer would make, ready to look at."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from campaigns.drawing import save_draft
from campaigns.models import Campaign
from campaigns.publish import publish
from customers.models import Channel, MailingCategory
from events.models import Event, Kind, Source, SystemEvent
from messaging.models import ChannelSettings, Template
from segments import saving
from segments.models import Segment
from smartcomm.site.demo.load import record

TEXTS = Path(__file__).parent / "texts"

#: White grapes: bought by about 150 of the surveyed households within 90 days.
LIVE_PRODUCT = 866211

CATEGORIES: list[dict[str, Any]] = [
    {
        "code": "offers",
        "name": "Offers",
        "description": "Coupons, and what is new or back on the shelf.",
    },
    {
        "code": "service",
        "name": "Service",
        "description": "About an order, or about the loyalty card.",
        "is_visible": False,
    },
]

#: Hours within which a message still makes sense.
TTL_HOURS = {Channel.EMAIL: 72, Channel.SMS: 24, Channel.PUSH: 12}


def make_showcase(source: Source, *, now: datetime) -> None:
    """Make segments, templates and published campaigns, and let something happen.

    All of it or nothing. What has the name of a thing made here is left as it is.
    """
    with transaction.atomic():
        for category in CATEGORIES:
            MailingCategory.objects.get_or_create(
                code=category["code"], defaults=category
            )
        for channel, hours in TTL_HOURS.items():
            ChannelSettings.objects.get_or_create(
                channel=channel, defaults={"ttl_hours": hours}
            )
        for template in templates():
            Template.objects.get_or_create(name=template["name"], defaults=template)
        _make_segments()
        for name, (description, drawing) in campaigns().items():
            campaign, is_new = Campaign.objects.get_or_create(
                name=name, defaults={"description": description}
            )
            if is_new:
                save_draft(campaign, drawing)
                publish(campaign)
        _let_something_happen(source, now=now)


def _make_segments() -> None:
    made: dict[str, int] = {}
    for name, (description, rule) in segments().items():
        rule = _with_segments(rule, made)
        segment = Segment.objects.filter(name=name).first()
        if segment is None:
            segment = saving.create(
                saving.Wanted(name, description, rule), author="demo data"
            )
        made[name] = segment.pk


def _with_segments(rule: Any, made: dict[str, int]) -> Any:
    """The rule with names of segments replaced by their ids."""
    match rule:
        case {"segment": str(name)}:
            return {"segment": made[name]}
        case dict():
            return {key: _with_segments(value, made) for key, value in rule.items()}
        case list():
            return [_with_segments(part, made) for part in rule]
    return rule


def _let_something_happen(source: Source, *, now: datetime) -> None:
    """A few events of this very day, which start runs of the campaigns."""
    backfilled = Event.objects.filter(source=source, is_backfill=True)
    items: list[dict[str, Any]] = []
    for events, number in (
        (backfilled.filter(type__name="Order paid", context__amount__gte=50), 8),
        (backfilled.filter(type__name="Coupon redeemed"), 4),
    ):
        for event in _last_of_customers(events, number):
            items.append(
                {
                    "id": f"today-{event.external_id}",
                    "name": event.type.name,
                    "customer": event.customer.external_id,
                    "occurred_at": (now - timedelta(minutes=len(items))).isoformat(),
                    "context": event.context,
                }
            )
    if items:
        # Received now, not when the load began: what came in before a campaign was
        # published starts nothing.
        record(items, source=source)
    in_stock = SystemEvent.objects.filter(
        source=source,
        type__name="Product in stock",
        context__product_id=LIVE_PRODUCT,
        is_backfill=True,
    ).first()
    if in_stock:
        record(
            [
                {
                    "id": "today-in-stock",
                    "name": "Product in stock",
                    "occurred_at": now.isoformat(),
                    "context": in_stock.context,
                }
            ],
            source=source,
            kind=Kind.SYSTEM,
        )


def _last_of_customers(events: QuerySet[Event], number: int) -> Iterable[Event]:
    """The newest of the events, of so many different customers."""
    newest: dict[int, Event] = {}
    ordered = events.select_related("customer", "type").order_by("-occurred_at", "-pk")
    for event in ordered.iterator(chunk_size=100):
        newest.setdefault(event.customer_id, event)
        if len(newest) == number:
            break
    return newest.values()


def bought(
    field: str, value: Any, *, op: str = "=", days: int, times: int = 1
) -> dict[str, Any]:
    """A condition: bought such a product so many times in the last days."""
    return {
        "event": "Product purchased",
        "where": [{"field": field, "op": op, "value": value}],
        "period": {"last": days, "unit": "days"},
        "count": {"op": ">=", "value": times},
    }


def segments() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name → description and rule. A segment inside a rule is given by its name."""
    return {
        "Coffee lovers": (
            "Bought coffee at least three times in 90 days.",
            bought("category", "Coffee", days=90, times=3),
        ),
        "Lapsed regulars": (
            "Came at least six times in 90 days, and not for two weeks.",
            {
                "all": [
                    {
                        "event": "Order paid",
                        "period": {"last": 90, "unit": "days"},
                        "count": {"op": ">=", "value": 6},
                    },
                    {
                        "event": "Order paid",
                        "days_since_last": {"op": ">=", "value": 14},
                    },
                ]
            },
        ),
        "Coupons left in the drawer": (
            "Were sent coupons in the last 60 days, and redeemed none.",
            {
                "all": [
                    {
                        "event": "Campaign received",
                        "period": {"last": 60, "unit": "days"},
                    },
                    {
                        "not": {
                            "event": "Coupon redeemed",
                            "period": {"last": 60, "unit": "days"},
                        }
                    },
                ]
            },
        ),
        "Families who stock up": (
            "With children, gold or silver, buying for the little ones or a lot of "
            "cereal, and still with us.",
            {
                "all": [
                    {"attribute": "kids_count", "op": ">=", "value": 1},
                    {"attribute": "tier", "op": "in", "value": ["gold", "silver"]},
                    {
                        "any": [
                            bought(
                                "category",
                                ["Baby foods", "Diapers and disposables"],
                                op="in",
                                days=60,
                            ),
                            bought("category", "Cold cereal", days=60, times=4),
                        ]
                    },
                    {"not": {"segment": "Lapsed regulars"}},
                ]
            },
        ),
    }


def campaigns() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name → description and drawing."""
    return {
        "Back in stock": (
            "Tells everyone who bought a product in the last 90 days that it is there "
            "again.",
            BACK_IN_STOCK,
        ),
        "Thank you for a large order": (
            "Thanks at once, and reminds those who let their coupons lie.",
            THANK_YOU,
        ),
        "The next coupon": (
            "Rewards who uses coupons: by e-mail for gold and silver, by SMS for the "
            "others.",
            NEXT_COUPON,
        ),
    }


def templates() -> list[dict[str, Any]]:
    offers = MailingCategory.objects.filter(code="offers").first()
    return [
        {
            "name": "Back in stock",
            "channel": Channel.EMAIL,
            "subject": "Back in stock: {{ client.eventContext.product }}",
            "html": _text("back_in_stock.html"),
            "text": _text("back_in_stock.txt"),
            "category": offers,
        },
        {
            "name": "Coupons run out",
            "channel": Channel.SMS,
            "text": "{{ client.firstName | default: 'Hello' }}, your coupons run out "
            "on {{ client.eventContext.ends_on | date: '%B %-d' }}. Corner Grocery",
            "category": offers,
        },
    ]


def _text(name: str) -> str:
    return (TEXTS / name).read_text()


BACK_IN_STOCK = {
    "trigger": {"kind": "system_event", "event": "Product in stock"},
    "entry": {"rule": "every_event"},
    "start": "buyers",
    "steps": [
        {
            "key": "buyers",
            "action": "filter_customers",
            "config": {"rule": bought("product_id", "$product_id", days=90)},
            "next": {"positive": "mail", "negative": None},
        },
        {
            "key": "mail",
            "action": "send_email",
            "config": {
                "subject": "Back in stock: {{ client.eventContext.product }}",
                "html": _text("back_in_stock.html"),
                "text": _text("back_in_stock.txt"),
                "category": "offers",
                "missing": "skip",
            },
            "next": {"sent": None},
        },
    ],
}

THANK_YOU = {
    "trigger": {
        "kind": "event",
        "event": "Order paid",
        "where": [{"field": "amount", "op": ">=", "value": 50}],
    },
    "entry": {"rule": "interval", "days": 14},
    "start": "no_coupon",
    "steps": [
        {
            "key": "no_coupon",
            "action": "filter_customers",
            "config": {
                "rule": {
                    "not": {
                        "event": "Coupon redeemed",
                        "period": {"last": 14, "unit": "days"},
                    }
                }
            },
            "next": {"positive": "thanks", "negative": "thanks_push"},
        },
        {
            "key": "thanks",
            "action": "send_email",
            "config": {
                "subject": "Thank you, {{ client.firstName }}",
                "html": _text("thank_you.html"),
                "text": _text("thank_you.txt"),
                "category": "service",
                "missing": "skip",
            },
            "next": {"sent": "two_days"},
        },
        {
            "key": "two_days",
            "action": "wait",
            "config": {"for": 2, "unit": "days"},
            "next": {"done": "still_no_coupon"},
        },
        {
            "key": "still_no_coupon",
            "action": "refresh_filter",
            "config": {"filter": "no_coupon"},
            "next": {"positive": "reminder", "negative": None},
        },
        {
            "key": "reminder",
            "action": "send_sms",
            "config": {
                "text": "{{ client.firstName }}, your coupons are still waiting: "
                "https://shop.example.com/coupons",
                "category": "offers",
                "missing": "skip",
            },
            "next": {"sent": None},
        },
        {
            "key": "thanks_push",
            "action": "send_push",
            "config": {
                "title": "Thank you, {{ client.firstName }}",
                "text": "You saved {{ client.eventContext.discount | money: 'USD' }} "
                "on {{ client.eventContext.items }} things.",
                "link": "https://shop.example.com/orders/"
                "{{ client.eventContext.order_id }}",
                "category": "service",
                "missing": "skip",
            },
            "next": {"sent": None},
        },
    ],
}

NEXT_COUPON = {
    "trigger": {"kind": "event", "event": "Coupon redeemed"},
    "entry": {"rule": "interval", "days": 30},
    "start": "gold_or_silver",
    "steps": [
        {
            "key": "gold_or_silver",
            "action": "filter_customers",
            "config": {
                "rule": {
                    "attribute": "tier",
                    "op": "in",
                    "value": ["gold", "silver"],
                }
            },
            "next": {"positive": "next_coupon", "negative": "short"},
        },
        {
            "key": "next_coupon",
            "action": "send_email",
            "config": {
                "subject": "Well saved, {{ client.firstName }}: 10 % off the next time",
                "html": _text("next_coupon.html"),
                "text": _text("next_coupon.txt"),
                "category": "offers",
                "missing": "skip",
            },
            "next": {"sent": "morning"},
        },
        {
            "key": "morning",
            "action": "wait",
            "config": {"time_of_day": "09:00"},
            "next": {"done": "nudge"},
        },
        {
            "key": "nudge",
            "action": "send_push",
            "config": {
                "title": "10 % off {{ client.eventContext.department "
                "| default: 'everything' }}",
                "text": "Your new coupon is in your mailbox, {{ client.firstName }}.",
                "link": "https://shop.example.com/coupons",
                "category": "offers",
                "missing": "skip",
            },
            "next": {"sent": None},
        },
        {
            "key": "short",
            "action": "send_sms",
            "config": {
                "text": "Well saved, {{ client.firstName }}! 10 % off the next time "
                "with THANKS-{{ client.externalId }}. Corner Grocery",
                "category": "offers",
                "missing": "skip",
            },
            "next": {"sent": None},
        },
    ],
}

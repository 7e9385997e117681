"""Send the study in through the doors that every master system uses.

A load that was killed is finished by loading again: customers are created or left as
they are, every event has an id that counts once, and how the study's days were moved
is remembered by the first load.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connection
from django.utils import timezone

from customers.models import Attribute
from customers.upsert import upsert_customers
from events.ingest import Recorded, record_events
from events.models import EventField, EventType, Kind, Source, SystemEvent
from smartcomm.core.db import batches, execute
from smartcomm.site.demo import journey, people
from smartcomm.site.demo.journey import Calendar
from smartcomm.site.demo.progress import Progress
from smartcomm.site.demo.study import Study

SOURCE = "Grocery store"
BATCH = 1_000

SMALL, FULL = "small", "full"
SIZES = [SMALL, FULL]
#: `small` takes the households that were surveyed, and so many days up to the last.
SMALL_DAYS = 14 * 7

BEGUN, LOADED = "Demo data begun", "Demo data loaded"

TABLES = [
    "customers_customer",
    "customers_consent",
    "customers_device",
    "events_event",
    "events_systemevent",
]


@dataclass
class Loaded:
    """What a load brought; duplicates are what an earlier load had brought."""

    customers: int = 0
    events: int = 0
    duplicates: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        known = f" ({self.duplicates:,} more were there)" if self.duplicates else ""
        rate = (self.events + self.duplicates) / max(self.seconds, 0.001)
        return (
            f"Loaded {self.events:,} events{known} of {self.customers:,} customers "
            f"in {self.seconds:.0f} s: {rate:,.0f} events per second."
        )


def load_journey(
    *,
    size: str,
    now: datetime,
    progress: Progress,
    study: Study | None = None,
) -> Loaded:
    """Load customers and events of the study, as backfill. Commits every 1,000.

    Any part of it that is there already stays as it is. A `study` that is given is
    taken with the households it has, whatever the size.
    """
    source = demo_source()
    calendar = remember_calendar(source, size=size, now=now)
    loaded = Loaded()
    progress.say("Reading the Complete Journey study.")
    study = study or open_study(size=size)
    _declare_attributes()
    for people_batch in batches(_customers(study, calendar), BATCH):
        loaded.customers += len(people_batch)
        upsert_customers(people_batch, origin=SOURCE, now=now)
    record(
        list(journey.system_events(study, calendar)), source=source, kind=Kind.SYSTEM
    )
    began = time.monotonic()
    first_day, last_day = calendar.study_days
    progress.start("Loading events", total=study.count(first_day, last_day))
    for batch in batches(journey.events(study, calendar), BATCH):
        recorded = record(batch, source=source)
        loaded.events += recorded.accepted
        loaded.duplicates += recorded.duplicates
        progress.advance(len(batch))
    progress.finish()
    loaded.seconds = time.monotonic() - began
    _describe_events()
    _analyze()
    return loaded


def demo_source() -> Source:
    """The system that the demo data comes from. It must tell customers first."""
    source, _ = Source.objects.get_or_create(
        name=SOURCE, defaults={"unknown_customers": Source.UnknownCustomers.REJECT}
    )
    return source


def open_study(*, size: str) -> Study:
    return Study(Study().surveyed) if size == SMALL else Study()


def remember_calendar(source: Source, *, size: str, now: datetime) -> Calendar:
    """The calendar of the first load; this one's, if it is the first.

    It is kept as a system event: written once, never changed.
    """
    begun = SystemEvent.objects.filter(source=source, external_id="begun").first()
    if begun is None:
        context = {
            "last_day": str(timezone.localdate(now) - timedelta(days=1)),
            "time_zone": settings.TIME_ZONE,
        }
        item = {"id": "begun", "name": BEGUN, "context": context, "backfill": True}
        record([item], source=source, kind=Kind.SYSTEM, now=now)
        begun = SystemEvent.objects.get(source=source, external_id="begun")
    last_day = date.fromisoformat(begun.context["last_day"])
    first_day = last_day - timedelta(days=SMALL_DAYS - 1) if size == SMALL else None
    return Calendar(last_day, ZoneInfo(begun.context["time_zone"]), first_day)


def is_loaded(source: Source, *, size: str) -> bool:
    """Whether everything of this size was loaded. One row is looked up."""
    ids = ["loaded-full"] if size == FULL else ["loaded-full", "loaded-small"]
    return SystemEvent.objects.filter(source=source, external_id__in=ids).exists()


def mark_loaded(source: Source, *, size: str, loaded: Loaded) -> None:
    context = {
        "size": size,
        "customers": loaded.customers,
        "events": loaded.events + loaded.duplicates,
    }
    item = {
        "id": f"loaded-{size}",
        "name": LOADED,
        "context": context,
        "backfill": True,
    }
    record([item], source=source, kind=Kind.SYSTEM)


def record(
    items: Sequence[dict[str, Any]],
    *,
    source: Source,
    kind: Kind = Kind.CUSTOMER,
    now: datetime | None = None,
) -> Recorded:
    """Record items of which none may be refused."""
    # By customer, so that rows of one customer come to lie side by side.
    items = sorted(items, key=lambda item: item.get("customer", ""))
    recorded = record_events(items, source=source, kind=kind, now=now)
    if recorded.rejected:
        refusal = next(one for one in recorded.results if one.status == "rejected")
        raise RuntimeError(f"{refusal.id} was refused: {refusal.message}")
    return recorded


def _customers(study: Study, calendar: Calendar) -> Iterator[dict[str, Any]]:
    for household in study.people:
        yield people.customer(household, last_day=calendar.last_day)


def _declare_attributes() -> None:
    Attribute.objects.bulk_create(
        [Attribute(**attribute) for attribute in people.ATTRIBUTES],
        ignore_conflicts=True,
    )


DESCRIPTIONS = {
    "Order paid": "A receipt, with its three dearest products.",
    "Product purchased": "One line of a receipt.",
    "Coupon redeemed": "A coupon was used at the till.",
    "Campaign received": "Coupons were sent to the household by mail.",
    "Coupon campaign started": "Coupons went out to some households.",
    "Product in stock": "A product that was sold out can be bought again.",
    "Price reduced": "A product costs less from now on.",
    "Store opened": "There is a new store.",
    BEGUN: "Tells how the days of the study were moved.",
    LOADED: "Everything of this size is there.",
}

LABELS = {
    "amount": "Amount",
    "brand": "Brand",
    "campaign_id": "Campaign number",
    "campaign_type": "Type of campaign",
    "category": "Category",
    "city": "City",
    "coupon_discount": "Discount by coupons",
    "coupon_id": "Coupon number",
    "coupon_used": "Coupons were used",
    "department": "Department",
    "discount": "Discount",
    "ends_on": "Ends on",
    "items": "Number of lines",
    "old_price": "Price before",
    "order_id": "Order number",
    "price": "Price",
    "product": "Product",
    "product_id": "Product number",
    "products": "Dearest products",
    "quantity": "Quantity",
    "starts_on": "Starts on",
    "store_id": "Store number",
}


def _describe_events() -> None:
    """Say what the types and fields mean, where nobody has yet."""
    for name, description in DESCRIPTIONS.items():
        EventType.objects.filter(name=name, description="").update(
            description=description, is_reviewed=True
        )
    for code, label in LABELS.items():
        EventField.objects.filter(
            type__name__in=DESCRIPTIONS, code=code, label=""
        ).update(label=label)


def _analyze() -> None:
    """Tell the planner how large the tables have become, before anyone asks."""
    # VACUUM marks pages as seen by all, which index-only scans need; a test's
    # transaction does not allow it.
    deed = "ANALYZE" if connection.in_atomic_block else "VACUUM (ANALYZE)"
    execute(f"{deed} {', '.join(TABLES)}")

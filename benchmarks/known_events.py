#!/usr/bin/env python
"""What it costs to see that an event brings nothing new of its type.

    python benchmarks/known_events.py

No database is asked: the types are made here. A look is what every event costs once its
fields are known, in each of the modes; the others are what looking closely costs.
"""

from __future__ import annotations

import os
import sys
import timeit
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "smartcomm.settings")

import django

django.setup()

from events import schema  # noqa: E402
from events.models import EventType, Source  # noqa: E402
from events.wire import Item  # noqa: E402

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PLAIN = {"name": "Bag", "product_id": 77, "price": 49.9}
TEN = {f"field_{i}": i if i % 2 else str(i) for i in range(10)}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "3 fields, known": (PLAIN, {}),
    "10 fields, known": (TEN, {}),
    "3 fields and a date": (PLAIN | {"day": "2026-11-20"}, {}),
    "3 fields and an object of 2": (PLAIN | {"shop": {"city": "Riga", "no": 1}}, {}),
    "3 fields and one not declared (warn)": (PLAIN, {"colour": "red"}),
}


def known_type(context: dict[str, Any], mode: str) -> schema.KnownType:
    fields: dict[str, schema.Declared] = {}

    def declare(found: dict[str, Any], prefix: str) -> None:
        for code, value in found.items():
            kind = schema.type_of(value)
            assert kind is not None
            fields[prefix + code] = schema.Declared(len(fields), kind, False, True)
            if isinstance(value, dict):
                declare(value, f"{prefix}{code}.")

    declare(context, "")
    event_type = EventType(pk=1, name="Order paid", kind="customer", mode=mode)
    event_type.last_seen_on = NOW.date()
    return schema.KnownType(event_type, fields, day=NOW.date())


def main() -> None:
    print("what comes                              µs for an event")
    for words, (declared, more) in CASES.items():
        known = known_type(declared, EventType.Mode.WARN)
        notes = schema.Notes(source=Source(pk=1), now=NOW)
        item = Item(
            "1", "Order paid", ("external_id", "C"), NOW, declared | more, False
        )
        notes.check(known, item)
        number = 200_000
        best = min(
            timeit.repeat(lambda: notes.check(known, item), number=number, repeat=5)
        )
        print(f"{words:40}{best / number * 1e6:6.2f}")


if __name__ == "__main__":
    main()

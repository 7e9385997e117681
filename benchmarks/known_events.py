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
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "smartcomm.settings")

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PLAIN = {"name": "Bag", "product_id": 77, "price": 49.9}
NUMBER = 200_000
TEN = {f"field_{i}": i if i % 2 else str(i) for i in range(10)}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "3 fields, known": (PLAIN, {}),
    "10 fields, known": (TEN, {}),
    "3 fields and a date": (PLAIN | {"day": "2026-11-20"}, {}),
    "3 fields and an object of 2": (PLAIN | {"shop": {"city": "Riga", "no": 1}}, {}),
    "3 fields and one not declared (warn)": (PLAIN, {"colour": "red"}),
}


def measure(declared: dict[str, Any], more: dict[str, Any]) -> float:
    """Seconds for an event of a warning type that declares just these fields."""
    from events import schema
    from events.models import EventType, Source
    from events.wire import Item

    fields: dict[str, schema.Declared] = {}

    def declare(found: dict[str, Any], prefix: str) -> None:
        for code, value in found.items():
            kind = schema.type_of(value)
            assert kind is not None
            fields[prefix + code] = schema.Declared(len(fields), kind, False, True)
            if isinstance(value, dict):
                declare(value, f"{prefix}{code}.")

    declare(declared, "")
    event_type = EventType(
        pk=1, name="Order paid", kind="customer", mode="warn", last_seen_on=NOW.date()
    )
    known = schema.KnownType(event_type, fields, day=NOW.date())
    notes = schema.Notes(source=Source(pk=1), now=NOW)
    item = Item("1", known.name, ("external_id", "C"), NOW, declared | more, False)
    check = partial(notes.check, known, item)
    check()
    return min(timeit.repeat(check, number=NUMBER, repeat=5)) / NUMBER


def main() -> None:
    import django

    django.setup()
    print(f"{'what comes':40}µs for an event")
    for words, (declared, more) in CASES.items():
        print(f"{words:40}{measure(declared, more) * 1e6:6.2f}")


if __name__ == "__main__":
    main()

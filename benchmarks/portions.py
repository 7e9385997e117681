"""What a portion of a broadcast with a pace costs.

    .venv/bin/python -m benchmarks.portions --data DIRECTORY [--size 1m] [--explain]

On the customers and events of benchmarks.segment_data, made there unless they are there
already. For each filter and order the time of each of five portions, of 500 customers
and of 20,000, the most that one statement takes; the campaign's own rows are removed at
the end.
"""

from __future__ import annotations

import argparse
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.segment_data import SIZES, filled

PORTIONS = 5
ONE_PRODUCT = {
    "event": "Product viewed",
    "where": [{"field": "product_id", "op": "=", "value": "$product_id"}],
}
CASES: dict[str, tuple[Any, str]] = {
    "viewed that product, longest interest": (ONE_PRODUCT, "longest_interest"),
    "viewed it and did not pay for it, latest interest": (
        {"all": [ONE_PRODUCT, {"not": {**ONE_PRODUCT, "event": "Order paid"}}]},
        "latest_interest",
    ),
    "viewed anything in 90 days, longest interest": (
        {"event": "Product viewed", "period": {"last": 90, "unit": "days"}},
        "longest_interest",
    ),
    "viewed anything, longest interest": (
        {"event": "Product viewed"},
        "longest_interest",
    ),
    "everyone, oldest customer": (None, "oldest_customer"),
}
# Of the product that is viewed most.
PRODUCT = """
    SELECT context -> 'product_id' FROM events_event
     WHERE type_id = (SELECT id FROM events_eventtype WHERE name = 'Product viewed')
     GROUP BY 1 ORDER BY count(*) DESC LIMIT 1
"""


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--size", choices=SIZES, default="1m")
    arguments.add_argument("--explain", action="store_true")
    options = arguments.parse_args()
    with filled(options.data, SIZES[options.size]):
        from smartcomm.core.db import fetch_all

        [(product,)] = fetch_all(PRODUCT)
        for words, (rule, first) in CASES.items():
            for limit in (500, 20_000):
                measure(words, rule, first, limit, product, explain=options.explain)


def measure(
    words: str, rule: Any, first: str, limit: int, product: Any, *, explain: bool
) -> None:
    from django.db import connection, transaction
    from django.test.utils import CaptureQueriesContext
    from django.utils import timezone

    from campaigns.broadcast import walk_broadcasts
    from campaigns.models import Broadcast

    with transaction.atomic():
        found = broadcast(
            rule, {"limit": limit, "per": "hour", "first": first}, product
        )
        now, took = timezone.now(), []
        for number in range(PORTIONS):
            begun = time.perf_counter()
            with CaptureQueriesContext(connection) as queries:
                walk_broadcasts(now=now + number * timedelta(hours=1))
            took.append(time.perf_counter() - begun)
            if explain and not number:
                statement = max(queries, key=lambda one: float(one["time"]))["sql"]
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL work_mem = DEFAULT")
                    cursor.execute(f"EXPLAIN {statement}")
                    print("\n".join(row[0] for row in cursor.fetchall()))
        found = Broadcast.objects.get(pk=found.pk)
        seconds = ", ".join(f"{one:.2f}" for one in took)
        print(
            f"{words}, {limit:,}: {seconds} s; {found.entered:,} taken, "
            f"{found.still_match or 0:,} left. {found.reason}",
            flush=True,
        )
        transaction.set_rollback(True)


def broadcast(rule: Any, pace: dict[str, Any], product: Any) -> Any:
    from django.db.models import Max
    from django.utils import timezone

    from campaigns import drawing, publish
    from campaigns.models import Broadcast, Campaign
    from customers.models import Customer
    from events.ingest import record_events
    from events.models import Kind, Source, SystemEvent

    send = {
        "key": "sms",
        "action": "send_sms",
        "config": {"text": "It is back"},
        "next": {"sent": None},
    }
    who = {
        "key": "who",
        "action": "filter_customers",
        "config": {"rule": rule},
        "next": {"positive": "sms", "negative": None},
    }
    campaign = Campaign.objects.create(name="Portions")
    drawing.save_draft(
        campaign,
        {
            "trigger": {"kind": "system_event", "event": "Benchmark in stock"},
            "pace": pace,
            "start": "who" if rule else "sms",
            "steps": [who, send] if rule else [send],
        },
    )
    version = publish.publish(campaign).version
    source, _ = Source.objects.get_or_create(name="benchmark")
    item = {
        "id": "stock",
        "name": "Benchmark in stock",
        "context": {"product_id": product},
    }
    record_events([item], source=source, kind=Kind.SYSTEM)
    return Broadcast.objects.create(
        campaign=campaign,
        version=version,
        system_event=SystemEvent.objects.latest("pk"),
        last_id=Customer.objects.aggregate(last=Max("pk"))["last"],
        due_at=timezone.now(),
    )


if __name__ == "__main__":
    main()

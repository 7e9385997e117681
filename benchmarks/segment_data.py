"""Customers and events to ask questions of: many, skewed, and the same each time.

    .venv/bin/python -m benchmarks.segment_data --data DIRECTORY [--size 1m]

An installation of its own in the directory: 1 M customers with 10 M events ("1m", 8 GB
of disk, some four minutes on two cores), or 100 k with 1 M ("100k", 1.1 GB). What is
there already is not made again; what was stopped goes on where it was.

Rows go straight into the tables, half a million in a statement, before the tables have
indexes. Every number comes from a seed; only the day on which all ends is today's.

A few customers do very much and many do little: the most active 1 % have 16 % of the
events, one in ten has none. The 50 types follow a Zipf distribution, the busiest has
14 % of all. Who looks at a product pays that very product more often than by chance.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from benchmarks.installation import manage
from smartcomm.embedded import Services, database_url

if TYPE_CHECKING:
    from django.db.models import BaseConstraint, Index, Model

TYPES = 50
#: Types with names of their own, the busiest first; the others are “Event 7”, …
NAMES = ["Product viewed", "Page viewed", "Product searched", "Order paid"]
CALLS = ("Call received", 30)
DAYS = 730
CHUNK = 500_000
#: Kilobytes of disk for an event with its part of the customers and indexes.
KILOBYTES_AN_EVENT = 0.8


@dataclass(frozen=True)
class Size:
    name: str
    customers: int
    events: int


SIZES = {
    size.name: size
    for size in [Size("100k", 100_000, 1_000_000), Size("1m", 1_000_000, 10_000_000)]
}

CUSTOMERS = """
    INSERT INTO customers_customer
        (external_id, first_name, last_name, email, email_is_valid, phone,
         phone_is_valid, birth_date, gender, city, country, language, time_zone,
         registered_at, attributes, is_stub, created_at, updated_at)
    SELECT 'C-' || n, 'First ' || n %% 5000, 'Last ' || n %% 20000,
           CASE WHEN mail < 0.85 THEN 'c' || n || '@example.com' ELSE '' END,
           mail < 0.82,
           CASE WHEN phone < 0.6 THEN '+49151' || lpad(n::text, 8, '0') ELSE '' END,
           phone < 0.58,
           CASE WHEN born < 0.8
                THEN %(end)s::date - 6570 - (born * 25000)::int END,
           (ARRAY['female', 'male', 'other', ''])[1 + floor(random() ^ 2 * 4)::int],
           (ARRAY['Paris', 'Berlin', 'Madrid', 'Rome', 'Vienna', 'Lyon', 'Hamburg',
                  'Riga', 'Oslo', 'Prague', 'Lisbon', 'Porto', 'Turin', 'Ghent', ''])
               [1 + floor(random() ^ 1.6 * 15)::int],
           'DE', 'de', 'Europe/Berlin',
           %(end)s::timestamptz - known * interval '1000 days',
           jsonb_build_object(
               'tier', (ARRAY['bronze', 'silver', 'gold'])
                           [1 + floor(random() ^ 3 * 3)::int],
               'points', floor(random() ^ 3 * 5000))
               || CASE WHEN random() < 0.3
                       THEN jsonb_build_object('favourite_store',
                                               'S' || floor(random() * 200))
                       ELSE '{}' END,
           false,
           %(end)s::timestamptz - known * interval '1000 days', %(end)s
      FROM (SELECT n, random() AS mail, random() AS phone, random() AS born,
                   random() AS known
              FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n) AS drawn
"""

# Drawn in an inner query: above it, chance would be asked once for each channel.
CONSENTS = """
    INSERT INTO customers_consent
        (customer_id, channel, is_granted, origin, changed_at)
    SELECT id, channel, answer < yes, 'generator', created_at
      FROM (SELECT id, channel, answered, yes, created_at, random() AS chance,
                   random() AS answer
              FROM customers_customer,
                   (VALUES ('email', 0.7, 0.8), ('sms', 0.3, 0.7), ('push', 0.25, 0.9))
                       AS given (channel, answered, yes)) AS drawn
     WHERE chance < answered
"""

DEVICES = """
    INSERT INTO customers_device
        (customer_id, platform, token, is_valid, created_at, updated_at)
    SELECT id, CASE WHEN random() < 0.6 THEN 'android' ELSE 'ios' END,
           'token-' || id, random() < 0.9, created_at, created_at
      FROM customers_customer WHERE random() < 0.3
"""

SUPPRESSIONS = """
    INSERT INTO messaging_suppression (channel, address, reason, created_at)
    SELECT 'email', email, 'bounced', created_at
      FROM customers_customer WHERE email <> '' AND id % 211 = 0
    ON CONFLICT DO NOTHING
"""

# Ranks become ids by a step that shares no factor with the number of customers, so
# that busy customers do not sit side by side.
EVENTS = """
    INSERT INTO events_event
        (customer_id, type_id, source_id, external_id, occurred_at, received_at,
         context, is_backfill)
    SELECT %(first_customer)s + (rank * 7919) %% %(customers)s,
           (%(types)s::bigint[])[1 + width_bucket(kind, %(edges)s::float8[])],
           CASE WHEN random() < 0.8 THEN %(shop)s ELSE %(app)s END,
           'e' || n,
           at, at + interval '2 seconds',
           jsonb_build_object(
               'name', (ARRAY['Bag', 'Shoes', 'Travel bag', 'Hat', 'Coat', 'Scarf',
                              'Gloves', 'Belt', 'Shirt', 'Trousers', 'Socks', 'Dress'])
                           [1 + product %% 12],
               'product_id', product,
               'price', round((5 + product %% 190 + random())::numeric, 2),
               'category', 'C' || product %% 40,
               'shipping', jsonb_build_object(
                   'method', CASE WHEN random() < 0.7 THEN 'post' ELSE 'store' END,
                   'city', (ARRAY['Paris', 'Berlin', 'Madrid', 'Rome'])
                               [1 + floor(random() ^ 2 * 4)::int])),
           false
      FROM (SELECT n, rank, random() AS kind,
                   CASE WHEN random() < 0.6
                        THEN (rank * 31 + floor(random() ^ 2 * 15)::int) %% 5000
                        ELSE floor(random() ^ 2 * 5000)::int END AS product,
                   %(end)s::timestamptz - interval '1 second'
                       - power(1 - n / %(events)s::float8, 1.2)
                         * %(days)s * interval '1 day'
                       - random() ^ 8 * interval '2 days' AS at
              FROM (SELECT n, floor(random() ^ 2.5 * 0.9 * %(customers)s)::bigint
                                  AS rank
                      FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
                   ) AS ranked
           ) AS drawn
"""


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--size", choices=SIZES, default="100k")
    options = arguments.parse_args()
    with filled(options.data, SIZES[options.size]) as end:
        print(f"ends {end.isoformat()}")


@contextmanager
def filled(data: Path, size: Size) -> Iterator[datetime]:
    """Servers with the data of this size, made unless it is there; when it ends."""
    data = data.resolve() / size.name
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o711)
    os.environ["SMARTCOMM_DATA"] = str(data / "installation")
    os.environ["DJANGO_SETTINGS_MODULE"] = "smartcomm.settings"
    os.environ["PYTHONWARNINGS"] = "ignore"
    with Services():
        manage("migrate", "--verbosity", "0")
        import django

        django.setup()
        with psycopg.connect(database_url(), autocommit=True) as db:
            yield fill(db, size)


def fill(db: psycopg.Connection, size: Size) -> datetime:
    """Make what is missing. Returns the moment at which the events end."""
    [(made,)] = db.execute("SELECT count(*) FROM events_event").fetchall()
    end = _end(db)
    if made < size.events:
        _tell(
            f"{size.customers:,} customers with {size.events:,} events: takes some "
            f"{size.events * KILOBYTES_AN_EVENT / 1e6:.1f} GB of disk"
        )
        if not made:
            _without_indexes(drop=True)
            if not db.execute("SELECT FROM customers_customer LIMIT 1").fetchall():
                _fill_customers(db, size, end)
        _fill_events(db, size, end, made // CHUNK)
    if _without_indexes(drop=False):
        _tell("making indexes")
        _make_indexes()
        _tell("VACUUM (ANALYZE)")
        db.execute("VACUUM (ANALYZE)")
        db.execute("CHECKPOINT")
    return end


def _end(db: psycopg.Connection) -> datetime:
    """Midnight of the day on which the first row was made."""
    [(begun,)] = db.execute(
        "SELECT max(updated_at) FROM customers_customer WHERE external_id = 'C-0'"
    ).fetchall()
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return begun or today


def _fill_customers(db: psycopg.Connection, size: Size, end: datetime) -> None:
    with db.transaction():
        db.execute(
            "INSERT INTO customers_attribute (code, label, type, created_at) VALUES "
            "('tier', '', 'string', now()), ('points', '', 'number', now()), "
            "('favourite_store', '', 'string', now()) ON CONFLICT DO NOTHING"
        )
        db.execute(
            "INSERT INTO events_source (name, is_active, unknown_customers, "
            "allowed_networks, created_at) SELECT name, true, 'create', '{}', now() "
            "FROM unnest(ARRAY['shop', 'app']) AS name ON CONFLICT DO NOTHING"
        )
        names = [
            *NAMES,
            *(f"Event {number}" for number in range(len(NAMES) + 1, TYPES + 1)),
        ]
        names[CALLS[1] - 1] = CALLS[0]
        db.execute(
            "INSERT INTO events_eventtype (name, kind, description, mode, is_reviewed,"
            " is_awaited, created_at) SELECT name, 'customer', '', 'open', true, "
            "false, now() FROM unnest(%s::text[]) WITH ORDINALITY AS t (name, place) "
            "ORDER BY place",
            [names],
        )
        db.execute(
            "INSERT INTO events_eventfield (type_id, code, label, value_type, "
            "is_required, created_at) SELECT t.id, code, '', holds, false, now() "
            "FROM events_eventtype AS t, (VALUES ('name', 'string'), ('product_id', "
            "'number'), ('price', 'number'), ('category', 'string'), ('shipping', "
            "'object'), ('shipping.method', 'string'), ('shipping.city', 'string')) "
            "AS field (code, holds)"
        )
        db.execute("SELECT setseed(0.5)")
        for first in range(0, size.customers, CHUNK):
            last = min(first + CHUNK, size.customers) - 1
            db.execute(CUSTOMERS, {"first": first, "last": last, "end": end})
            _tell(f"{last + 1:,} customers")
        db.execute(CONSENTS)
        db.execute(DEVICES)
        db.execute(SUPPRESSIONS)


def _fill_events(db: psycopg.Connection, size: Size, end: datetime, begun: int) -> None:
    # An earlier run may have been stopped within a statement, never within a row.
    weights = [number**-0.75 for number in range(1, TYPES + 1)]
    edges = [sum(weights[:i]) / sum(weights) for i in range(1, TYPES)]
    types = db.execute("SELECT id FROM events_eventtype ORDER BY id").fetchall()
    sources: dict[str, int] = dict(
        db.execute("SELECT name, id FROM events_source").fetchall()
    )
    [(first,)] = db.execute("SELECT min(id) FROM customers_customer").fetchall()
    for chunk in range(begun, -(-size.events // CHUNK)):
        with db.transaction():
            db.execute("SELECT setseed(%s)", [chunk / 1000])
            values = {
                "first": chunk * CHUNK,
                "last": min((chunk + 1) * CHUNK, size.events) - 1,
                "first_customer": first,
                "customers": size.customers,
                "types": [row[0] for row in types[:TYPES]],
                "edges": edges,
                "shop": sources["shop"],
                "app": sources["app"],
                "events": size.events,
                "days": DAYS,
                "end": end,
            }
            # Not prepared: the plan of a statement that is run a few times.
            db.execute(EVENTS, values, prepare=False)
        _tell(f"{values['last'] + 1:,} events")


def _parts() -> list[tuple[type[Model], Index | BaseConstraint]]:
    """The indexes and unique keys that are made once the rows are there."""
    from django.db.models import UniqueConstraint

    from customers.models import Customer
    from events.models import Event

    return [
        (model, part)
        for model in (Customer, Event)
        for part in [*model._meta.indexes, *model._meta.constraints]
        if not isinstance(part, UniqueConstraint) or model is Event
    ]


def _without_indexes(*, drop: bool) -> list[str]:
    """The names of those that are missing, after dropping them if so asked."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relkind = 'i'")
        there = {row[0] for row in cursor.fetchall()}
    if drop:
        with connection.schema_editor() as editor:
            for model, part in _parts():
                if part.name in there:
                    _alter(editor, "remove", model, part)
        there = set()
    return [part.name for _, part in _parts() if part.name not in there]


def _make_indexes() -> None:
    from django.db import connection

    missing = _without_indexes(drop=False)
    for model, part in _parts():
        if part.name in missing:
            with connection.schema_editor() as editor:
                _alter(editor, "add", model, part)
            _tell(part.name)


def _alter(editor: object, verb: str, model: object, part: object) -> None:
    from django.db.models import Index

    kind = "index" if isinstance(part, Index) else "constraint"
    getattr(editor, f"{verb}_{kind}")(model, part)


_began = time.monotonic()


def _tell(text: str) -> None:
    print(f"{time.monotonic() - _began:5.0f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

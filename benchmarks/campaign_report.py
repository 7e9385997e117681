"""What the report of a campaign costs, with a million runs in it.

    .venv/bin/python -m benchmarks.campaign_report [--runs 1000000] [--events 3000000]
                                                   [--customers 200000] [--explain]

On a new installation with its own PostgreSQL. The runs are spread over 120 days and two
versions; a tenth of the customers is held back, and the goal is one of the events. Each
number is the median of five, warm. `--explain` prints how PostgreSQL goes about it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import psycopg

from benchmarks.installation import installation
from smartcomm.embedded import database_url

TIMES = 5
SPAN = 120

CUSTOMERS = """
    INSERT INTO customers_customer (external_id, city, created_at, updated_at,
        first_name, last_name, email, phone, gender, country, language, time_zone,
        attributes, email_is_valid, phone_is_valid, is_stub)
    SELECT 'C-' || n, '', now(), now(), '', '', '', '', '', '', '', '', '{{}}', false,
           false, false
      FROM generate_series(1, {customers}) AS n
"""
EVENTS = """
    INSERT INTO events_event (customer_id, type_id, source_id, external_id, occurred_at,
                              received_at, context, is_backfill)
    SELECT 1 + n * 7919 %% {customers},
           CASE n %% 3 WHEN 0 THEN {goal} WHEN 1 THEN {start} ELSE {other} END,
           {source}, 'e' || n, at, at, jsonb_build_object('cart', n %% 1000), false
      FROM (SELECT n, now() - interval '1 day' * ({span} * n / {events}::float) AS at
              FROM generate_series(1, {events}::bigint) AS n) AS made
"""
# Older ones are over; the newest thousandth waits for its message, some failed.
RUNS = """
    INSERT INTO campaigns_run (customer_id, campaign_id, version_id, event_id, step_id,
                               status, attempts, reason, started_at, arrived_at,
                               finished_at)
    SELECT customer_id, {campaign}, version, id,
           CASE id %% 10 WHEN 9 THEN who WHEN 8 THEN groups ELSE sms END,
           CASE WHEN id %% 997 = 0 THEN 'failed' WHEN id %% 499 = 0 THEN 'waiting'
                ELSE 'finished' END,
           0, '', at, at,
           CASE WHEN id %% 499 <> 0 OR id %% 997 = 0
                THEN least(now(), at + interval '1 hour' * (id %% 50)) END
      FROM (SELECT event.id, customer_id, occurred_at AS at, part.*
              FROM events_event AS event
              JOIN (VALUES ({version_1}, {who_1}, {group_1}, {sms_1}, 0),
                           ({version_2}, {who_2}, {group_2}, {sms_2}, 1))
                AS part (version, who, groups, sms, place) ON place = event.id %% 2
             WHERE type_id = {start} ORDER BY event.id LIMIT {runs}) AS started
"""
PASSAGES = """
    INSERT INTO campaigns_passage (customer_id, run_id, step_id, way, reason,
                                   arrived_at, left_at)
    SELECT customer_id, run.id, step.id,
           CASE step.key WHEN 'who' THEN CASE WHEN run.step_id = step.id
                                              THEN 'negative' ELSE 'positive' END
                         WHEN 'group' THEN CASE WHEN run.step_id = step.id
                                                THEN 'control' ELSE 'treated' END
                         ELSE CASE WHEN run.id %% 20 = 0 THEN 'not_sent' ELSE 'sent' END
            END, '', started_at, coalesce(finished_at, started_at)
      FROM campaigns_run AS run
      JOIN campaigns_step AS step ON step.version_id = run.version_id
       AND step.id <= run.step_id
     WHERE status = 'finished' OR step.id < run.step_id
     ORDER BY run.id
"""
MESSAGES = """
    INSERT INTO messaging_message (customer_id, run_id, campaign_id, version_id, step,
        content_id, channel, event_id, expires_at, due_at, created_at, status, is_test,
        reason, detail, attempts, is_settled, address, subject, body, html, link, image,
        provider, provider_id, sent_at)
    SELECT customer_id, run.id, campaign_id, run.version_id, 'sms', content_id, 'sms',
           event_id, now(), started_at, started_at,
           CASE WHEN run.status = 'waiting' THEN 'queued'
                WHEN run.id %% 20 = 0 THEN 'suppressed' ELSE 'sent' END,
           false, CASE WHEN run.id %% 20 = 0 AND run.status <> 'waiting'
                       THEN 'no_consent' ELSE '' END,
           '', 1, true, '+4915112345678', '', repeat('A text to a customer. ', 5), '',
           '', '', '', '', finished_at
      FROM campaigns_run AS run JOIN campaigns_step AS step ON step.id = run.step_id
     WHERE step.key = 'sms' ORDER BY run.id
"""


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--customers", type=int, default=200_000)
    arguments.add_argument("--runs", type=int, default=1_000_000)
    arguments.add_argument("--events", type=int, default=3_000_000)
    arguments.add_argument("--explain", action="store_true")
    options = arguments.parse_args()
    with installation():
        import django

        django.setup()
        with psycopg.connect(database_url(), autocommit=True) as db:
            campaign = fill(db, options)
            measure(campaign, explain=options.explain)


def fill(db: psycopg.Connection[Any], options: Any) -> Any:
    """A campaign of two versions, with all that happened in it."""
    from campaigns import drawing
    from campaigns.models import Campaign
    from campaigns.publish import publish
    from events.models import EventType, Kind, Source

    campaign = Campaign.objects.create(name="Million")
    goal = {"event": "Order paid", "where": [], "days": 7}
    for _ in range(2):
        drawing.save_draft(
            campaign,
            {
                "trigger": {"kind": "event", "event": "Cart left"},
                "start": "who",
                "steps": [
                    {
                        "key": "who",
                        "action": "filter_customers",
                        "config": {
                            "rule": {"attribute": "city", "op": "=", "value": "Paris"}
                        },
                        "next": {"positive": "group", "negative": None},
                    },
                    {
                        "key": "group",
                        "action": "control_group",
                        "config": {"percent": 10, "goal": goal},
                        "next": {"treated": "sms", "control": None},
                    },
                    {
                        "key": "sms",
                        "action": "send_sms",
                        "config": {"text": "Your cart is still here."},
                        "next": {"sent": None},
                    },
                ],
            },
        )
        publish(campaign)
    numbers = {
        "customers": options.customers,
        "runs": options.runs,
        "events": options.events,
        "span": SPAN,
        "campaign": campaign.pk,
        "source": Source.objects.get_or_create(name="benchmark")[0].pk,
        "goal": EventType.objects.get(name="Order paid", kind=Kind.CUSTOMER).pk,
        "start": EventType.objects.get(name="Cart left").pk,
        "other": EventType.objects.create(name="Page viewed", kind=Kind.CUSTOMER).pk,
    }
    for version in campaign.versions.all():
        numbers[f"version_{version.number}"] = version.pk
        for step in version.steps.all():
            numbers[f"{step.key}_{version.number}"] = step.pk
    for statement in (CUSTOMERS, EVENTS, RUNS, PASSAGES, MESSAGES):
        began = time.monotonic()
        db.execute(statement.format(**numbers).replace("%%", "%"))
        table = statement.split()[2]
        print(f"  {table}: {time.monotonic() - began:.0f} s", flush=True)
    db.execute("VACUUM ANALYZE")
    return campaign


def measure(campaign: Any, *, explain: bool) -> None:
    from django.utils import timezone

    from campaigns import days, measuring
    from campaigns.models import Step
    from campaigns.report import report

    now = timezone.now()
    goal = Step.objects.filter(
        action="control_group", version__campaign=campaign
    ).order_by("pk")[0]
    asked: dict[str, Callable[[], object]] = {
        "in all": lambda: report(campaign),
        **{
            f"with {number} days": lambda number=number: report(  # type: ignore[misc]
                campaign, days=days.Days.until(now, number=number)
            )
            for number in (7, 30, 90)
        },
        "goal of a step": lambda: measuring.measure(goal, now=now),
    }
    for what, ask in asked.items():
        times = []
        for _ in range(TIMES + 1):
            began = time.monotonic()
            ask()
            times.append(time.monotonic() - began)
        print(f"  {what}: {statistics.median(times[1:]) * 1000:,.0f} ms", flush=True)
    if explain:
        _explain(lambda: report(campaign, days=days.Days.until(now, number=30)))
        _explain(lambda: measuring.measure(goal, now=now))


def _explain(ask: Callable[[], object]) -> None:
    """The plan of every statement of this, as it was gone about."""
    from django.db import connection

    def explained(
        execute: Any, statement: str, params: Any, many: bool, of: Any
    ) -> Any:
        if statement.lstrip().startswith(("SELECT", "WITH")) and "set_config" not in (
            statement
        ):
            with connection.connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", params)
                print(f"\n{statement.strip()[:160]}")
                print("\n".join(f"    {line}" for (line,) in cursor.fetchall()))
        return execute(statement, params, many, of)

    with connection.execute_wrapper(explained):
        ask()


if __name__ == "__main__":
    main()

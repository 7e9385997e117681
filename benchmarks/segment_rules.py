"""The rules that are measured, each with the same question asked in SQL by hand.

Several ways to write each: the quickest of them is what the product is held against.
They are written for this data and this moment, as somebody would who has all day.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

Rule = dict[str, Any]


@dataclass(frozen=True)
class Case:
    name: str
    rule: Rule
    #: Each selects one number.
    by_hand: list[str]


@dataclass(frozen=True)
class World:
    """What rules and SQL need to know of the data."""

    end: datetime
    #: Name of an event → its type's id.
    types: dict[str, int]
    #: A saved segment: silver and gold, in Paris or Berlin.
    vip: int
    #: Another: its members paid ten times or more.
    regulars: int

    def ago(self, days: int) -> str:
        return f"'{(self.end - timedelta(days=days)).isoformat()}'::timestamptz"


VIP: Rule = {
    "all": [
        {"attribute": "tier", "op": "in", "value": ["silver", "gold"]},
        {"attribute": "city", "op": "in", "value": ["Paris", "Berlin"]},
    ]
}
REGULARS: Rule = {"event": "Order paid", "count": {"op": ">=", "value": 10}}


def last(number: int, unit: str = "days") -> Rule:
    return {"last": number, "unit": unit}


def where(field: str, op: str, value: Any = None) -> list[Rule]:
    line = {"field": field, "op": op}
    return [line if value is None else {**line, "value": value}]


def count(op: str, value: Any) -> Rule:
    return {"op": op, "value": value}


def cases(world: World) -> list[Case]:
    viewed = world.types["Product viewed"]
    page = world.types["Page viewed"]
    searched = world.types["Product searched"]
    paid = world.types["Order paid"]
    called = world.types["Call received"]
    ago = world.ago
    day = (world.end - timedelta(days=100)).date()
    later = (world.end - timedelta(days=71)).date()
    new_since = (world.end - timedelta(days=120)).date()

    def counted(query: str) -> str:
        return f"SELECT count(*) FROM ({query}) AS members"

    bags = (
        f"SELECT customer_id FROM events_event WHERE type_id = {viewed} "
        f'AND occurred_at >= {ago(30)} AND context @> \'{{"name": "Bag"}}\' '
        "GROUP BY customer_id HAVING count(*) >= 3"
    )
    return [
        Case(
            "at least three times ever, busiest type",
            {"event": "Product viewed", "count": count(">=", 3)},
            [
                counted(
                    f"SELECT customer_id FROM events_event WHERE type_id = {viewed} "
                    "GROUP BY customer_id HAVING count(*) >= 3"
                ),
                # Three in a row of the index are the same customer's.
                "SELECT count(*) FROM (SELECT customer_id, lag(customer_id, 2) OVER "
                "(ORDER BY customer_id) AS other, lag(customer_id, 3) OVER (ORDER BY "
                "customer_id) AS before FROM events_event "
                f"WHERE type_id = {viewed}) AS e WHERE customer_id = other "
                "AND customer_id IS DISTINCT FROM before",
            ],
        ),
        Case(
            "bags in 30 days, not paid, called, in Paris",
            {
                "all": [
                    {"attribute": "city", "op": "=", "value": "Paris"},
                    {
                        "event": "Product viewed",
                        "where": where("name", "=", "Bag"),
                        "period": last(30),
                        "count": count(">=", 3),
                    },
                    {"not": {"event": "Order paid", "period": last(7)}},
                    {"event": "Call received", "days_since_last": count(">=", 14)},
                    {
                        "event": "Call received",
                        "last": {"op": "before", "value": str(world.end.date())},
                    },
                    {"segment": world.vip},
                ]
            },
            [
                # From the rarest on, a look into the index for each.
                f"SELECT count(*) FROM ({bags}) AS b "
                "JOIN customers_customer AS c ON c.id = b.customer_id "
                "WHERE c.city = 'Paris' AND c.attributes ->> 'tier' "
                "IN ('silver', 'gold') AND NOT EXISTS (SELECT FROM events_event AS p "
                f"WHERE p.type_id = {paid} AND p.customer_id = c.id "
                f"AND p.occurred_at >= {ago(7)}) AND (SELECT max(occurred_at) "
                f"FROM events_event AS k WHERE k.type_id = {called} "
                f"AND k.customer_id = c.id) <= {ago(14)}",
                f"SELECT count(*) FROM ({bags}) AS b "
                "JOIN customers_customer AS c ON c.id = b.customer_id "
                "JOIN (SELECT customer_id FROM events_event WHERE type_id = "
                f"{called} GROUP BY customer_id HAVING max(occurred_at) <= "
                f"{ago(14)}) AS k USING (customer_id) "
                "LEFT JOIN (SELECT DISTINCT customer_id FROM events_event WHERE "
                f"type_id = {paid} AND occurred_at >= {ago(7)}) AS p "
                "USING (customer_id) WHERE p.customer_id IS NULL "
                "AND c.city = 'Paris' AND c.attributes ->> 'tier' "
                "IN ('silver', 'gold')",
            ],
        ),
        Case(
            "never in 30 days",
            {"not": {"event": "Order paid", "period": last(30)}},
            [
                "SELECT count(*) FROM customers_customer AS c WHERE NOT EXISTS "
                f"(SELECT FROM events_event AS e WHERE e.type_id = {paid} "
                f"AND e.customer_id = c.id AND e.occurred_at >= {ago(30)})",
                "SELECT count(*) FROM (SELECT id FROM customers_customer EXCEPT "
                f"SELECT customer_id FROM events_event WHERE type_id = {paid} "
                f"AND occurred_at >= {ago(30)}) AS members",
            ],
        ),
        Case(
            "viewed, and not paid since",
            {
                "all": [
                    {"event": "Product viewed", "period": last(90)},
                    {
                        "not": {
                            "event": "Order paid",
                            "period": {"since": {"event": "Product viewed"}},
                        }
                    },
                ]
            },
            [
                "SELECT count(*) FROM (SELECT customer_id, max(occurred_at) AS at "
                f"FROM events_event WHERE type_id = {viewed} GROUP BY customer_id "
                f"HAVING max(occurred_at) >= {ago(90)}) AS v LEFT JOIN "
                "(SELECT customer_id, max(occurred_at) AS at FROM events_event "
                f"WHERE type_id = {paid} GROUP BY customer_id) AS p "
                "USING (customer_id) WHERE p.at IS NULL OR p.at <= v.at",
                "SELECT count(*) FROM (SELECT customer_id, max(occurred_at) AS at "
                f"FROM events_event WHERE type_id = {viewed} "
                f"AND occurred_at >= {ago(90)} GROUP BY customer_id) AS v "
                "WHERE NOT EXISTS (SELECT FROM events_event AS p WHERE "
                f"p.type_id = {paid} AND p.customer_id = v.customer_id "
                "AND p.occurred_at > v.at)",
                "SELECT count(*) FROM (SELECT customer_id, max(occurred_at) AS at "
                f"FROM events_event WHERE type_id = {viewed} "
                f"AND occurred_at >= {ago(90)} GROUP BY customer_id) AS v LEFT JOIN "
                "(SELECT customer_id, max(occurred_at) AS at FROM events_event "
                f"WHERE type_id = {paid} AND occurred_at >= {ago(90)} "
                "GROUP BY customer_id) AS p "
                "USING (customer_id) WHERE p.at IS NULL OR p.at <= v.at",
            ],
        ),
        Case(
            "viewed a product, did not pay that one after",
            {
                "event": "Product viewed",
                "period": last(30),
                "without": {
                    "event": "Order paid",
                    "same": ["product_id"],
                    "order": "after",
                },
            },
            [
                "SELECT count(DISTINCT customer_id) FROM events_event AS v WHERE "
                f"type_id = {viewed} AND occurred_at >= {ago(30)} AND NOT EXISTS "
                f"(SELECT FROM events_event AS p WHERE p.type_id = {paid} "
                "AND p.customer_id = v.customer_id AND p.occurred_at > v.occurred_at "
                "AND p.context -> 'product_id' = v.context -> 'product_id')",
                "WITH paid AS MATERIALIZED (SELECT customer_id, "
                "context -> 'product_id' AS product, max(occurred_at) AS at "
                f"FROM events_event WHERE type_id = {paid} AND occurred_at >= "
                f"{ago(30)} GROUP BY 1, 2) SELECT count(DISTINCT v.customer_id) "
                "FROM events_event AS v LEFT JOIN paid AS p ON p.customer_id = "
                "v.customer_id AND p.product = v.context -> 'product_id' AND "
                f"p.at > v.occurred_at WHERE v.type_id = {viewed} AND v.occurred_at "
                f">= {ago(30)} AND p.customer_id IS NULL",
            ],
        ),
        Case(
            "a rare value",
            {"event": "Product viewed", "where": where("product_id", "=", 4321)},
            [
                "SELECT count(DISTINCT customer_id) FROM events_event WHERE "
                f"type_id = {viewed} AND context @> '{{\"product_id\": 4321}}'",
            ],
        ),
        Case(
            "a text in the context",
            {
                "event": "Order paid",
                "where": where("name", "contains", "bag"),
                "period": last(90),
                "count": count(">=", 2),
            },
            [
                counted(
                    f"SELECT customer_id FROM events_event WHERE type_id = {paid} "
                    f"AND occurred_at >= {ago(90)} AND context ->> 'name' "
                    "ILIKE '%bag%' GROUP BY customer_id HAVING count(*) >= 2"
                ),
            ],
        ),
        Case(
            "attributes and nested groups",
            {
                "any": [
                    {
                        "all": [
                            {"attribute": "city", "op": "=", "value": "Paris"},
                            {"attribute": "points", "op": ">", "value": 1000},
                            {"not": {"event": "Product searched", "period": last(30)}},
                        ]
                    },
                    {
                        "all": [
                            {
                                "attribute": "birth_date",
                                "op": "before",
                                "value": "1970-01-01",
                            },
                            {
                                "any": [
                                    {
                                        "event": "Product viewed",
                                        "where": where("price", ">", 150),
                                        "period": last(90),
                                        "count": count(">=", 3),
                                    },
                                    {"event": "Call received", "period": last(60)},
                                ]
                            },
                        ]
                    },
                ]
            },
            [
                "SELECT count(*) FROM customers_customer AS c LEFT JOIN "
                "(SELECT DISTINCT customer_id FROM events_event WHERE type_id = "
                f"{searched} AND occurred_at >= {ago(30)}) AS s "
                "ON s.customer_id = c.id LEFT JOIN (SELECT customer_id FROM "
                f"events_event WHERE type_id = {viewed} AND occurred_at >= "
                f"{ago(90)} AND (context ->> 'price')::numeric > 150 GROUP BY "
                "customer_id HAVING count(*) >= 3) AS v ON v.customer_id = c.id "
                "LEFT JOIN (SELECT DISTINCT customer_id FROM events_event WHERE "
                f"type_id = {called} AND occurred_at >= {ago(60)}) AS k "
                "ON k.customer_id = c.id WHERE (c.city = 'Paris' AND "
                "(c.attributes ->> 'points')::numeric > 1000 AND s.customer_id IS "
                "NULL) OR (c.birth_date < '1970-01-01' AND (v.customer_id IS NOT "
                "NULL OR k.customer_id IS NOT NULL))",
                "SELECT count(*) FROM (SELECT c.id FROM customers_customer AS c "
                "WHERE c.city = 'Paris' AND (c.attributes ->> 'points')::numeric > "
                "1000 AND NOT EXISTS (SELECT FROM events_event AS s WHERE s.type_id "
                f"= {searched} AND s.customer_id = c.id AND s.occurred_at >= "
                f"{ago(30)}) UNION SELECT c.id FROM customers_customer AS c WHERE "
                "c.birth_date < '1970-01-01' AND c.id IN (SELECT customer_id FROM "
                f"events_event WHERE type_id = {called} AND occurred_at >= "
                f"{ago(60)}) UNION SELECT c.id FROM customers_customer AS c JOIN "
                "(SELECT customer_id FROM "
                f"events_event WHERE type_id = {viewed} AND occurred_at >= "
                f"{ago(90)} AND (context ->> 'price')::numeric > 150 GROUP BY "
                "customer_id HAVING count(*) >= 3) AS v ON v.customer_id = c.id "
                "WHERE c.birth_date < '1970-01-01') AS members",
            ],
        ),
        Case(
            "30 to 60 days since the last",
            {"event": "Order paid", "days_since_last": count("between", [30, 60])},
            [
                counted(
                    f"SELECT customer_id FROM events_event WHERE type_id = {paid} "
                    "GROUP BY customer_id HAVING max(occurred_at) > "
                    f"{ago(61)} AND max(occurred_at) <= {ago(30)}"
                ),
                # Only what is in the days, then nothing since.
                "SELECT count(*) FROM (SELECT DISTINCT customer_id FROM events_event "
                f"WHERE type_id = {paid} AND occurred_at > {ago(61)} AND occurred_at "
                f"<= {ago(30)} EXCEPT SELECT customer_id FROM events_event WHERE "
                f"type_id = {paid} AND occurred_at > {ago(30)}) AS members",
                # Who was there at all in the time that matters.
                counted(
                    f"SELECT customer_id FROM events_event WHERE type_id = {paid} "
                    f"AND occurred_at > {ago(61)} GROUP BY customer_id HAVING "
                    f"max(occurred_at) <= {ago(30)}"
                ),
            ],
        ),
        Case(
            "a count between dates",
            {
                "event": "Page viewed",
                "period": {"from": str(day), "to": str(later)},
                "count": count("between", [2, 5]),
            },
            [
                counted(
                    f"SELECT customer_id FROM events_event WHERE type_id = {page} "
                    f"AND occurred_at >= '{day}' AND occurred_at < "
                    f"'{later + timedelta(days=1)}' GROUP BY customer_id "
                    "HAVING count(*) BETWEEN 2 AND 5"
                ),
            ],
        ),
        Case(
            "paid for the first time lately",
            {"event": "Order paid", "first": {"op": "after", "value": str(new_since)}},
            [
                counted(
                    f"SELECT customer_id FROM events_event WHERE type_id = {paid} "
                    "GROUP BY customer_id HAVING min(occurred_at) >= "
                    f"'{new_since + timedelta(days=1)}'"
                ),
                "SELECT count(*) FROM (SELECT customer_id FROM events_event WHERE "
                f"type_id = {paid} AND occurred_at >= "
                f"'{new_since + timedelta(days=1)}' EXCEPT SELECT customer_id FROM "
                f"events_event WHERE type_id = {paid} AND occurred_at < "
                f"'{new_since + timedelta(days=1)}') AS members",
            ],
        ),
        Case(
            "segment in segment, with events",
            {
                "all": [
                    {"segment": world.regulars},
                    {"not": {"segment": world.vip}},
                    {
                        "event": "Product viewed",
                        "source": "app",
                        "period": last(30),
                    },
                ]
            },
            [
                "SELECT count(*) FROM (SELECT customer_id FROM events_event WHERE "
                f"type_id = {paid} GROUP BY customer_id HAVING count(*) >= 10) AS r "
                "JOIN (SELECT DISTINCT customer_id FROM events_event WHERE type_id "
                f"= {viewed} AND occurred_at >= {ago(30)} AND source_id = (SELECT id "
                "FROM events_source WHERE name = 'app')) AS v USING (customer_id) "
                "JOIN customers_customer AS c ON c.id = customer_id WHERE NOT (c.city "
                "IN ('Paris', 'Berlin') AND c.attributes ->> 'tier' IN ('silver', "
                "'gold'))",
            ],
        ),
        Case(
            "reachable by e-mail, no answer for SMS",
            {
                "all": [
                    {"reachable": "email"},
                    {"consent": "sms", "is": "unanswered"},
                    {"event": "Order paid", "period": last(180)},
                ]
            },
            [
                "SELECT count(*) FROM customers_customer AS c JOIN customers_consent "
                "AS m ON m.customer_id = c.id AND m.channel = 'email' AND "
                "m.category_id IS NULL AND m.is_granted WHERE c.email <> '' AND "
                "c.email_is_valid AND NOT EXISTS (SELECT FROM customers_consent AS "
                "s WHERE s.customer_id = c.id AND s.channel = 'sms' AND s.category_id "
                "IS NULL) AND NOT EXISTS (SELECT FROM messaging_suppression AS x "
                "WHERE x.channel = 'email' AND x.address = c.email) AND c.id IN "
                f"(SELECT customer_id FROM events_event WHERE type_id = {paid} AND "
                f"occurred_at >= {ago(180)})",
                "SELECT count(*) FROM (SELECT id FROM customers_customer AS c WHERE "
                "c.email <> '' AND c.email_is_valid AND NOT EXISTS (SELECT FROM "
                "messaging_suppression AS x WHERE x.channel = 'email' AND x.address "
                "= c.email) INTERSECT SELECT "
                "customer_id FROM customers_consent WHERE channel = 'email' AND "
                "category_id IS NULL AND is_granted INTERSECT SELECT customer_id "
                f"FROM events_event WHERE type_id = {paid} AND occurred_at >= "
                f"{ago(180)} EXCEPT SELECT customer_id FROM customers_consent WHERE "
                "channel = 'sms' AND category_id IS NULL) AS members",
            ],
        ),
    ]


def many(world: World, number: int) -> list[Rule]:
    """Rules made by chance, the same each time, from rare to nearly all."""
    chance = random.Random(7)
    names = [
        *["Product viewed", "Page viewed", "Product searched", "Order paid"],
        *(name for name in world.types if name.startswith("Event ")),
    ]

    def leaf() -> Rule:
        match chance.randrange(5):
            case 0:
                cities = ["Paris", "Berlin", "Madrid", "Rome", "Riga", "Ghent"]
                value = chance.sample(cities, chance.randint(1, 4))
                return {"attribute": "city", "op": "in", "value": value}
            case 1:
                points = chance.choice([5, 50, 500, 2000, 4900])
                return {"attribute": "points", "op": ">=", "value": points}
            case 2:
                return {
                    "event": chance.choice(names),
                    "where": where("price", ">", chance.randint(10, 190)),
                    "period": last(chance.choice([7, 30, 90, 365])),
                }
            case 3:
                return {
                    "event": chance.choice(names),
                    "days_since_last": count("<=", chance.randint(1, 400)),
                }
        return {
            "event": chance.choice(names),
            "count": count(">=", chance.choice([1, 2, 3, 5, 10])),
            "period": last(chance.choice([1, 7, 30, 90, 700])),
        }

    def tree(depth: int) -> Rule:
        if depth == 0 or chance.random() < 0.3:
            return {"not": leaf()} if chance.random() < 0.2 else leaf()
        parts = [tree(depth - 1) for _ in range(chance.randint(1, 3))]
        return {chance.choice(["all", "any"]): parts}

    return [tree(2) for _ in range(number)]

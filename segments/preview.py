"""How many customers meet a rule, and who: at once as an estimate, then exactly.

Never writes, and never holds the database for longer than a few seconds.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import OperationalError, connection, transaction
from django.utils import timezone

from customers.models import Customer
from segments import offers, rules
from segments.compile import Compiled, compile_rule
from segments.describe import describe
from smartcomm.core import paging
from smartcomm.core.db import fetch_all
from smartcomm.core.errors import UserError

#: An estimate asks so many customers, taken at random.
SAMPLE = 10_000
#: With no more customers than these, counting them is as quick as estimating.
COUNT_UP_TO = 20_000
#: How many of the members are shown.
SHOWN = 20
EXACT_MS = 10_000
ESTIMATE_MS = 5_000
#: Up to here the number of all customers is counted; beyond, the planner knows it well.
COUNT_BASE_UP_TO = 2_000_000
#: Rounds of picking ids at random; where fewer than one id in five is still in use,
#: the rows themselves are sampled instead.
ROUNDS = 5
#: 1.96 standard deviations hold 95 % of all samples.
Z = 1.959964

COUNT_AND_SHOW = """
    WITH members AS MATERIALIZED ({query})
    SELECT (SELECT count(*) FROM members),
           ARRAY(
               SELECT external_id FROM customers_customer
               WHERE id IN (SELECT customer_id FROM members ORDER BY 1 DESC LIMIT %s)
               ORDER BY id DESC
           )
"""


class TooDear(UserError):
    """A rule cannot be counted in the time that is allowed for it."""

    code = "too_dear"
    status = 422


@dataclass(frozen=True, slots=True)
class Preview:
    """An answer: `count` is right within ± `margin` at 95 %, or exact."""

    #: How many customers meet the rule.
    count: int
    exact: bool
    margin: int
    sentence: str
    #: External ids of up to SHOWN of them; of those known last if the count is exact.
    sample: list[str]
    took_ms: int
    #: How many customers there are, exact or estimated.
    base: int

    @property
    def share(self) -> float:
        """The part of all customers, from 0 to 1."""
        return self.count / self.base if self.base else 0.0


def preview(
    rule: rules.Rule,
    *,
    exact: bool,
    now: datetime | None = None,
    context: Mapping[str, Any] | None = None,
    limit_ms: int | None = None,
) -> Preview:
    """Count a rule: all customers, or a random sample of them with a margin.

    With few customers the answer is exact either way. `context` gives `$field_code`
    its values. Raises RuleError for a name that does not exist, and TooDear when
    the database needs longer than `limit_ms`.
    """
    now = now or timezone.now()
    began = time.monotonic()
    sentence = sentence_of(rule)
    with read_only(limit_ms or (EXACT_MS if exact else ESTIMATE_MS)):
        few = _count_up_to(COUNT_UP_TO)
        exact = exact or few is not None
        if exact:
            count, sample = _count_and_show(
                compile_rule(rule, now=now, context=context)
            )
            base, margin = few if few is not None else _base(), 0
        else:
            base = _base()
            asked = random_ids(SAMPLE)
            found, sample = _count_and_show(
                compile_rule(rule, now=now, context=context, restrict=asked)
            )
            count, margin = estimate(found, len(asked), base)
    took_ms = round((time.monotonic() - began) * 1000)
    return Preview(count, exact, margin, sentence, sample, took_ms, base)


def count(rule: rules.Rule, *, now: datetime, limit_ms: int) -> int:
    """How many customers meet the rule, exactly. Raises as `preview` does."""
    query = compile_rule(rule, now=now)
    with read_only(limit_ms):
        rows = fetch_all(f"SELECT count(*) FROM ({query.sql}) AS members", query.params)  # noqa: S608
    return int(rows[0][0])


def sentence_of(rule: rules.Rule) -> str:
    """The rule in words, with labels of attributes and names of segments."""
    parts = list(rules.walk(rule))
    return describe(
        rule,
        attributes=offers.attribute_labels()
        if any(isinstance(part, rules.Attribute) for part in parts)
        else None,
        segments=offers.segment_names()
        if any(isinstance(part, rules.InSegment) for part in parts)
        else None,
    )


def estimate(found: int, asked: int, base: int) -> tuple[int, int]:
    """(count, margin) for a base of which `asked` were asked and `found` met the rule.

    The margin is that of Wilson's interval, which stays honest near 0 and 100 %.
    """
    if not asked:
        return 0, base
    part = found / asked
    center = (part + Z**2 / (2 * asked)) / (1 + Z**2 / asked)
    half = (
        Z
        / (1 + Z**2 / asked)
        * math.sqrt(part * (1 - part) / asked + Z**2 / (4 * asked**2))
    )
    low, high = max(0.0, center - half), min(1.0, center + half)
    # Who was asked is known; only the others are uncertain.
    unknown = math.sqrt(1 - asked / base) if base > asked else 0.0
    margin = max(high - part, part - low) * unknown * base
    return round(part * base), math.ceil(margin)


def random_ids(number: int) -> list[int]:
    """The ids of so many customers, each as likely as any other."""
    ends = fetch_all("SELECT min(id), max(id) FROM customers_customer")[0]
    if ends[0] is None:
        return []
    low, high = ends
    if high - low < number * 2:
        rows = fetch_all("SELECT id FROM customers_customer")
        ids = [row[0] for row in rows]
        return random.sample(ids, min(number, len(ids)))
    tried: set[int] = set()
    found: list[int] = []
    for _ in range(ROUNDS):
        picked = {random.randint(low, high) for _ in range(round(number * 1.1))} - tried  # noqa: S311
        tried |= picked
        found += [
            row[0]
            for row in fetch_all(
                "SELECT id FROM customers_customer WHERE id = ANY(%s::bigint[])",
                [list(picked)],
            )
        ]
        if len(found) >= number:
            return random.sample(found, number)
    # Too many gaps. Reading every row's page costs more, and is as fair.
    wanted = number + 5 * math.sqrt(number) + 10
    share = min(100.0, 100 * wanted / max(1, _base()))
    rows = fetch_all(
        "SELECT id FROM customers_customer TABLESAMPLE BERNOULLI (%s)", [share]
    )
    ids = [row[0] for row in rows]
    return random.sample(ids, min(number, len(ids)))


@contextmanager
def read_only(limit_ms: int) -> Iterator[None]:
    """A transaction that can write nothing, with a time limit for each statement.

    Works inside another transaction as well, and leaves that one as it was. Raises
    TooDear when a statement takes too long.
    """
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION READ ONLY")
                cursor.execute(
                    "SELECT set_config('statement_timeout', %s, true)", [str(limit_ms)]
                )
            yield
            # Within another transaction this takes both settings back.
            transaction.set_rollback(True)
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", "") != "57014":  # query_canceled
            raise
        raise TooDear(
            f"Counting takes longer than {limit_ms / 1000:g} seconds, and was stopped. "
            "Shorten the periods, or ask for rarer events."
        ) from error


def _count_and_show(query: Compiled) -> tuple[int, list[str]]:
    text = COUNT_AND_SHOW.replace("{query}", query.sql)
    row = fetch_all(text, [*query.params, SHOWN])[0]
    return int(row[0]), list(row[1])


def _count_up_to(most: int) -> int | None:
    """How many customers there are, or None if there are more than these."""
    rows = fetch_all(
        "SELECT count(*) FROM (SELECT 1 FROM customers_customer LIMIT %s) AS found",
        [most + 1],
    )
    found = int(rows[0][0])
    return found if found <= most else None


def _base() -> int:
    estimated = paging.estimate(Customer)
    if estimated is not None and estimated > COUNT_BASE_UP_TO:
        return estimated
    return int(fetch_all("SELECT count(*) FROM customers_customer")[0][0])

"""How many customers meet a rule, asked of some of them taken at random.

What it costs depends on how many are asked, and not on how many there are: each part of
the rule is looked up for those who are asked, customer by customer, in an index. They
are asked in steps, as many as fit into the time. How many the next step asks depends on
how long the ones before took, never on what they found, so that stopping early makes
the margin wider and the number no less true.

Drawn are places, not customers: an id between the lowest and the highest, or a place
for a row in a page of the table. Each place holds one customer or none, and all places
are as likely. So it needs no count of all customers, and gaps do no harm.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from django.db import DEFAULT_DB_ALIAS

from segments import rules
from segments.compile import bind, compile_rule
from segments.dictionary import Dictionary
from segments.reading import TooDear, read_only, source
from smartcomm.core.db import fetch_all

#: No more customers than these are asked.
SAMPLE = 10_000
#: So many are asked first, by a rule that looks at few kinds of events.
FIRST = 1_000
FEW_LOOKS = 4
LEAST = 20
#: The steps after the first one fit into this.
BUDGET_MS = 110
#: A first step that takes longer is taken back, and fewer are asked.
FIRST_MS = (400, 800, 3_000)
#: So many times more than all before are asked in one step.
GROWTH = 8
#: Ids are drawn where at least this part of them is in use; else places of rows.
DENSE = 0.15
PILOT = 100
#: However bloated the table is, no more places are looked at in a step.
MOST_PLACES = 200_000
#: PostgreSQL never puts more rows into a page of 8 KiB.
ROWS_OF_A_PAGE = 291
PAGE = 8192
#: 1.96 standard deviations hold 95 % of all samples, but of a count near the middle
#: only just; a little more holds it for every count.
Z = 2.06

#: A plan that looks up those who are asked, and nobody else: no reading of all events
#: of a type, nor of all events with a value, however cheap that seems to the planner.
#: What only helps long queries would cost more than it brings.
LOOK_UP: Mapping[str, str] = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """`count` customers, right within ± `margin` at 95 %."""

    count: int
    margin: int
    #: How many customers there are, about.
    base: int
    #: How many were asked.
    asked: int
    #: How many customers each of those asked stands for.
    weight: float
    #: Who was found among those asked, in random order.
    members: list[int]


class Places(Protocol):
    """Where customers are drawn from: `number` places, each with one or none."""

    @property
    def number(self) -> int: ...

    def customers_at(self, picked: Sequence[int]) -> list[int]:
        """The ids of the customers at these places, counted from 0."""


@dataclass(frozen=True, slots=True)
class Ids:
    """Every id that was given out."""

    low: int
    number: int
    using: str

    def customers_at(self, picked: Sequence[int]) -> list[int]:
        ids = [self.low + place for place in picked]
        found = fetch_all(
            "SELECT id FROM customers_customer WHERE id = ANY(%s::bigint[])",
            [ids],
            using=self.using,
        )
        return [row[0] for row in found]


@dataclass(frozen=True, slots=True)
class Rows:
    """Every place of a row in the table's pages: for where most ids are gone."""

    number: int
    using: str

    def customers_at(self, picked: Sequence[int]) -> list[int]:
        places = [divmod(place, ROWS_OF_A_PAGE) for place in picked]
        found = fetch_all(
            "SELECT id FROM customers_customer WHERE ctid = ANY(%s::tid[])",
            [[f"({page},{row + 1})" for page, row in places]],
            using=self.using,
        )
        return [row[0] for row in found]


class Draw:
    """Customers at random, each once."""

    def __init__(self, using: str = DEFAULT_DB_ALIAS) -> None:
        self.places, self.density = _places(using)
        self.tried = 0
        self._seen: set[int] = set()

    def more(self, customers: int) -> list[int]:
        """About so many more customers; none when all were drawn."""
        left = self.places.number - len(self._seen)
        wanted = min(left, MOST_PLACES, math.ceil(customers / max(self.density, 1e-4)))
        if wanted * 2 > left:
            unseen = set(range(self.places.number)) - self._seen
            picked = set(random.sample(sorted(unseen), wanted))
        else:
            picked = set()
            while len(picked) < wanted:
                picked.add(random.randrange(self.places.number))  # noqa: S311
                picked -= self._seen
        self._seen |= picked
        self.tried = len(self._seen)
        found = self.places.customers_at(sorted(picked))
        random.shuffle(found)
        return found

    def estimate(self, found: int) -> tuple[int, int]:
        """(count, margin) where so many of all that were drawn met a rule."""
        return margin_of(found, self.tried, self.places.number)


def estimate(
    rule: rules.Rule,
    *,
    now: datetime,
    context: Mapping[str, Any] | None = None,
    known: Dictionary | None = None,
    budget_ms: int = BUDGET_MS,
) -> Estimate:
    """Ask some customers, for about a tenth of a second, or as long as is said.

    Raises TooDear where even a handful takes seconds.
    """
    if context is not None:
        rule = bind(rule, context)
    known = known or Dictionary.of(rule)
    began = time.monotonic()

    def ask(draw: Draw, number: int, limit_ms: int) -> tuple[list[int], list[int]]:
        with read_only(limit_ms, using=source(), **LOOK_UP):
            asked = draw.more(number)
            query = compile_rule(rule, now=now, restrict=asked, dictionary=known)
            found = fetch_all(query.sql, query.params, using=source())
            return asked, [row[0] for row in found]

    first = _first(rule, known)
    for limit_ms in FIRST_MS:
        with read_only(limit_ms, using=source(), **LOOK_UP):
            draw = Draw(source())
        try:
            asked, members = ask(draw, first, limit_ms)
            break
        except TooDear:
            first = max(LEAST, first // GROWTH)
            began = time.monotonic()
    else:
        raise TooDear(
            f"Asking {LEAST} customers alone takes longer than "
            f"{FIRST_MS[-1] / 1000:g} seconds. Take conditions out, or shorten their "
            "periods."
        )

    number, tried = len(asked), draw.tried
    while more := _next(number, (time.monotonic() - began) * 1000, budget_ms):
        try:
            asked, found = ask(draw, more, budget_ms * 2)
        except TooDear:
            break  # The database was held up. What was found before is as true.
        if not asked:
            break
        number, tried = number + len(asked), draw.tried
        members += found

    count, margin = margin_of(len(members), tried, draw.places.number)
    weight = draw.places.number / tried if tried else 0.0
    random.shuffle(members)
    return Estimate(count, margin, round(number * weight), number, weight, members)


def margin_of(found: int, tried: int, number: int) -> tuple[int, int]:
    """(count, margin): of `number` places `tried` were looked at, `found` were hits.

    The margin is the wider side of Wilson's interval, which stays honest near 0 and
    100 %.
    """
    if not tried:
        return 0, number
    part = found / tried
    center = (part + Z**2 / (2 * tried)) / (1 + Z**2 / tried)
    half = (
        Z
        / (1 + Z**2 / tried)
        * math.sqrt(part * (1 - part) / tried + Z**2 / (4 * tried**2))
    )
    low, high = max(0.0, center - half), min(1.0, center + half)
    # What was looked at is known; only the rest is uncertain.
    unknown = math.sqrt(1 - tried / number) if number > tried else 0.0
    margin = max(high - part, part - low) * unknown * number
    return round(part * number), math.ceil(margin)


def looks(rule: rules.Rule, known: Dictionary) -> int:
    """How many times the rule looks at events or messages, saved segments included."""
    found = 0
    for part in rules.walk(rule):
        match part:
            case rules.Happened(period=period, beside=beside):
                found += 1 + isinstance(period, rules.Since) + len(beside)
            case rules.InSegment(segment):
                saved = known.segments[segment].rule
                found += looks(saved, known) if saved is not None else 0
            case rules.Messaged():
                found += 1
    return found


def _first(rule: rules.Rule, known: Dictionary) -> int:
    """How many to ask first: decided by what the rule says alone."""
    return max(LEAST, FIRST * FEW_LOOKS // max(FEW_LOOKS, looks(rule, known)))


def _next(asked: int, elapsed_ms: float, budget_ms: int) -> int:
    """How many to ask in the next step; 0 for no further step."""
    left_ms = budget_ms - elapsed_ms
    if left_ms <= 0 or not asked:
        return 0
    # Slower than thought is likelier than faster: others use the database too.
    fit = int(0.7 * left_ms * asked / max(elapsed_ms, 0.1))
    more = min(SAMPLE - asked, fit, GROWTH * asked)
    # A few more would not make the margin visibly better.
    return more if more >= asked // 4 else 0


def _places(using: str) -> tuple[Places, float]:
    """Where to draw from, and about which part of the places has a customer."""
    [(low, high)] = fetch_all(
        "SELECT min(id), max(id) FROM customers_customer", using=using
    )
    if low is None:
        return Ids(0, 0, using), 1.0
    ids = Ids(low, high - low + 1, using)
    pilot = random.sample(range(ids.number), min(PILOT, ids.number))
    density = len(ids.customers_at(pilot)) / len(pilot)
    if density >= DENSE:
        return ids, density
    pages = fetch_all(
        "SELECT pg_relation_size('customers_customer') / %s", [PAGE], using=using
    )[0][0]
    by_row = Rows(pages * ROWS_OF_A_PAGE, using)
    pilot = random.sample(range(by_row.number), min(10 * PILOT, by_row.number))
    return by_row, len(by_row.customers_at(pilot)) / len(pilot)

"""How many customers meet a rule, and who: at once as an estimate, or exactly.

Never writes. An estimate answers in the same time whatever the number of customers; the
exact count of many is made in the background, see counting.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.utils import timezone

from segments import estimate as estimating
from segments import offers, reach, rules
from segments.compile import bind
from segments.describe import describe
from segments.dictionary import Dictionary
from segments.estimate import LOOK_UP
from segments.reading import TooDear, read_only, source
from segments.tally import external_ids, tally
from smartcomm.core.db import fetch_all

#: With no more customers than these, counting them is as quick as estimating.
COUNT_UP_TO = 20_000
#: How many of the members are shown.
SHOWN = 20
#: How long somebody waits who asked for the exact number.
EXACT_MS = 10_000
#: How long a few customers are counted, when nobody asked for the exact number.
FEW_MS = 1_000
#: How long it is asked who can be reached, of so many found in a sample: each takes
#: longer than to ask by the rule, and more would not make the number visibly better.
REACH_MS = 500
REACHED = 1_500


@dataclass(frozen=True, slots=True)
class Preview:
    """An answer: `count` is right within ± `margin` at 95 %, or exact."""

    #: How many customers meet the rule.
    count: int
    exact: bool
    margin: int
    #: External ids of up to SHOWN of them; of those known last if the count is exact.
    sample: list[str]
    #: How many customers there are, exact or estimated.
    base: int
    #: Channel → how many of those who meet the rule may be written to on it.
    reach: dict[str, int] = field(default_factory=dict)
    sentence: str = ""
    took_ms: int = 0

    @property
    def share(self) -> float:
        """The part of all customers, from 0 to 1."""
        return min(1.0, self.count / self.base) if self.base else 0.0


def preview(
    rule: rules.Rule,
    *,
    exact: bool,
    now: datetime | None = None,
    context: Mapping[str, Any] | None = None,
    limit_ms: int | None = None,
    budget_ms: int = estimating.BUDGET_MS,
) -> Preview:
    """Count a rule: all customers, or some at random with a margin.

    With few customers the answer is exact either way. `context` gives `$field_code`
    its values. Raises RuleError for a name that does not exist, and TooDear when
    the database needs longer than `limit_ms`. An estimate takes about `budget_ms`.
    """
    now = now or timezone.now()
    began = time.monotonic()
    sentence = sentence_of(rule)
    if context is not None:
        rule = bind(rule, context)
    known = Dictionary.of(rule)
    is_few = has_few()
    found: Preview | None = None
    if exact or is_few:
        try:
            found = _exactly(
                rule, now, known, limit_ms or (EXACT_MS if exact else FEW_MS)
            )
        except TooDear:
            if exact:
                raise
    if found is None:
        found = _about(rule, now, known, budget_ms)
    took_ms = round((time.monotonic() - began) * 1000)
    return replace(found, sentence=sentence, took_ms=took_ms)


def sentence_of(rule: rules.Rule) -> str:
    """The rule in words, with labels of attributes and names of segments."""
    return describe(rule, **offers.names_in(rule))


def has_few() -> bool:
    """There are so few customers that counting them is as quick as estimating."""
    found = fetch_all(
        "SELECT count(*) FROM (SELECT 1 FROM customers_customer LIMIT %s) AS found",
        [COUNT_UP_TO + 1],
        using=source(),
    )
    return int(found[0][0]) <= COUNT_UP_TO


def _exactly(
    rule: rules.Rule, now: datetime, known: Dictionary, limit_ms: int
) -> Preview:
    with read_only(limit_ms, using=source()):
        found = tally(rule, now=now, known=known, restrict=None, show=SHOWN)
        sample = external_ids(found.ids)
    return Preview(found.found, True, 0, sample, found.base, found.reach)


def _about(
    rule: rules.Rule, now: datetime, known: Dictionary, budget_ms: int
) -> Preview:
    found = estimating.estimate(rule, now=now, known=known, budget_ms=budget_ms)
    with read_only(EXACT_MS, using=source(), **LOOK_UP):
        sample = external_ids(found.members[:SHOWN])
    try:
        reached = _reached(found, now)
    except TooDear:
        reached = {}  # The number itself is worth more than who can be reached.
    return Preview(found.count, False, found.margin, sample, found.base, reached)


def _reached(found: estimating.Estimate, now: datetime) -> dict[str, int]:
    reached = {}
    asked = found.members[:REACHED]
    weight = found.weight * len(found.members) / max(1, len(asked))
    with read_only(REACH_MS, using=source(), **LOOK_UP):
        for channel, query in reach.queries(now=now, restrict=asked).items():
            counted = fetch_all(
                f"SELECT count(*) FROM ({query.sql}) AS reached",  # noqa: S608
                query.params,
                using=source(),
            )
            reached[channel] = round(int(counted[0][0]) * weight)
    return reached

"""Why a rule is dear: which of its conditions costs most, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from segments import rules
from segments.compile import (
    Compiled,
    chosen_events,
    chosen_messages,
    compile_rule,
)
from segments.describe import describe
from segments.dictionary import Dictionary
from segments.estimate import LOOK_UP, Draw
from segments.reading import Stopped, TooDear, read_only, source
from smartcomm.core.db import fetch_all

#: Conditions are tried on so many customers.
ASKED = 500
#: So long for one of them, and for all.
ONE_MS = 300
ALL_MS = 2_000


@dataclass(frozen=True, slots=True)
class Cost:
    """What one condition costs among the customers who were asked."""

    leaf: rules.Leaf
    ms: float
    #: How many of what it reads among all customers, about; 0 if not known.
    reads: int
    what: str


def why(rule: rules.Rule, *, known: Dictionary, now: datetime) -> str:
    """The dearest condition in words, what it reads, and what would help.

    Tries each on a few hundred customers; takes two seconds at most.
    """
    costs = _costs(rule, known, now)
    if not costs:
        return "Shorten its periods, or ask for rarer events."
    dearest = max(costs, key=lambda cost: cost.ms)
    share = dearest.ms / (sum(cost.ms for cost in costs) or 1)
    told = []
    if dearest.reads:
        told.append(f"reads about {_about(dearest.reads)} {dearest.what}")
    if len(costs) > 1:
        told.append(f"takes {share * 100:.0f}\u00a0% of the time")
    return (
        f"What costs most: {describe(dearest.leaf)}. "
        + (f"It {' and '.join(told)}. " if told else "")
        + _advice(dearest.leaf)
    )


def time_in_words(seconds: float) -> str:
    """90 seconds, 4 minutes, 3 hours."""
    for size, word in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} seconds"


def _costs(rule: rules.Rule, known: Dictionary, now: datetime) -> list[Cost]:
    began = time.monotonic()
    found: dict[rules.Leaf, Cost] = {}
    with read_only(ONE_MS, using=source(), **LOOK_UP):
        asked = Draw(source()).more(ASKED)
    if not asked:
        return []
    for leaf in dict.fromkeys(_leaves(rule, known)):
        if (time.monotonic() - began) * 1000 > ALL_MS:
            break
        query = compile_rule(leaf, now=now, restrict=asked, dictionary=known)
        try:
            with read_only(ONE_MS, using=source(), **LOOK_UP):
                plan = _plan("ANALYZE, TIMING OFF, COSTS OFF, ", query)
            took_ms = plan["Execution Time"]
        except (TooDear, Stopped):
            # So dear that a few hundred customers are too many.
            took_ms = 2 * ONE_MS
        found[leaf] = Cost(leaf, took_ms, *_reads(leaf, known, now))
    return list(found.values())


def _leaves(rule: rules.Rule, known: Dictionary) -> Iterator[rules.Leaf]:
    """The conditions of the rule, and those of the segments that it speaks of."""
    for part in rules.walk(rule):
        match part:
            case rules.InSegment(segment):
                saved = known.segments[segment].rule
                if saved is None:
                    yield part
                else:
                    yield from _leaves(saved, known)
            case (
                rules.Attribute()
                | rules.Happened()
                | rules.Messaged()
                | rules.ConsentIs()
                | rules.Reachable()
            ):
                yield part


def _reads(leaf: rules.Leaf, known: Dictionary, now: datetime) -> tuple[int, str]:
    """(about how many, of what) the condition has to look at, among all customers.

    As the planner knows it: a few hundred customers tell little, where a few customers
    have most of the events.
    """
    match leaf:
        case rules.Happened(period=period):
            lasting = None if isinstance(period, rules.Since) else period
            bare = replace(leaf, where=(), beside=(), period=lasting)
            chosen = chosen_events(bare, now=now, dictionary=known)
            what = "events"
        case rules.Messaged():
            chosen, what = chosen_messages(leaf, now=now), "messages"
        case _:
            return 0, ""
    with read_only(ONE_MS, using=source()):
        return int(_plan("", chosen)["Plan"]["Plan Rows"]), what


def _plan(options: str, query: Compiled) -> dict[str, Any]:
    found = fetch_all(
        f"EXPLAIN ({options}FORMAT JSON) {query.sql}", query.params, using=source()
    )
    plan: dict[str, Any] = found[0][0][0]
    return plan


def _about(number: int) -> str:
    """1.4 million, 230,000: as one says a number that is not exact."""
    if number >= 1_000_000:
        millions = f"{number / 1_000_000:.1f}".removesuffix(".0")
        return f"{millions} million"
    step = 10 ** max(0, len(str(number)) - 2)
    return f"{round(number / step) * step:,}"


def _advice(leaf: rules.Leaf) -> str:
    match leaf:
        case rules.Happened(where=where) if any(
            line.op in ("contains", "starts with") for line in where
        ):
            return (
                f"Ask for whole values (“is” or “is one of” instead of "
                f"“{_searched(where)}”), or {_shorter(leaf)}."
            )
        case rules.Happened():
            return f"Ask for a rarer event, or {_shorter(leaf)}."
        case rules.Messaged():
            return "Give it a shorter period, or name the campaign."
    return "Ask for something else instead, or save the segment without it."


def _searched(where: tuple[rules.FieldIs, ...]) -> str:
    return next(line.op for line in where if line.op in ("contains", "starts with"))


def _shorter(leaf: rules.Happened) -> str:
    return "shorten its period" if leaf.period else "give it a period"

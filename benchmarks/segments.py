"""How fast segments are counted, estimated, and asked for one customer.

    .venv/bin/python -m benchmarks.segments --data DIRECTORY [--sizes 100k,1m]
                                            [--rounds 5] [--only TEXT] [--plans]
                                            [--markdown FILE]

For rules of every kind (segment_rules.py), on the data of segment_data.py, which is
made in the directory unless it is there:

exact      the product's query against the best of several written by hand, in the same
           rounds on the same connection; again with so little memory for sorting and
           hashing that a bad plan shows. Ratios are of processor time, that of parallel
           workers included, which hardly depends on what else the machine does
estimate   how long, how much longer at the larger size, and how often the exact count
           lies within the margin
one        whether one customer is in, and a hundred customers at once

Prints medians; exit code 1 when an aim is missed, or when two ways to ask the same
question differ in the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import segment_rules
from benchmarks.installation import PYTHON
from benchmarks.segment_data import SIZES, Size, filled
from benchmarks.segment_rules import Case, World

if TYPE_CHECKING:
    from datetime import datetime

EXACT_RATIO = 1.2
BUSIEST_SECONDS = 0.6
ESTIMATE_MS = 200
ESTIMATE_RATIO = 1.3
WITHIN = 0.95
#: As on a tenth and a hundredth of the machine, or with as many more customers.
MEMORIES = ["4MB", "256kB"]
#: Below so many milliseconds a ratio says more about noise than about plans.
FLOOR_MS = 2.0
ASKED = 40


@dataclass
class Exact:
    """One rule: the count, and the medians in milliseconds."""

    name: str
    count: int
    product: float
    by_hand: float
    #: Which of the forms was quickest.
    best: int
    ratio: float
    compile: float
    #: The same with little memory: (product, by hand).
    little: dict[str, tuple[float, float]] = field(default_factory=dict)


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--sizes", default="100k")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", default="", help="rules whose name has this text")
    arguments.add_argument("--parts", default="exact,estimate,one")
    arguments.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--plans", action="store_true", help="of the two slowest")
    arguments.add_argument("--markdown", type=Path, help="write the tables there too")
    options = arguments.parse_args()
    report = Report()
    estimates: dict[str, dict[str, float]] = {}
    sizes = options.sizes.split(",")
    for name in sizes:
        if len(sizes) > 1:
            estimates[name] = _measure_elsewhere(name, report)
        else:
            estimates[name] = _measure(SIZES[name], options, report)
    _compare_sizes(estimates, report)
    if options.into:
        found = [estimates, report.markdown, report.missed]
        options.into.write_text(json.dumps(found))
        return 0
    for line in report.missed:
        print(f"MISSED: {line}")
    if options.markdown:
        options.markdown.write_text("\n".join(report.markdown) + "\n")
    return 1 if report.missed else 0


def _measure_elsewhere(name: str, report: Report) -> dict[str, float]:
    """In a process of its own, since one knows only one installation."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "found.json"
        module = [*PYTHON, "-m", "benchmarks.segments", *sys.argv[1:]]
        subprocess.run([*module, "--sizes", name, "--into", str(into)], check=True)
        found, markdown, missed = json.loads(into.read_text())
    report.markdown += markdown
    report.missed += [f"{name}: {line}" for line in missed]
    estimates: dict[str, float] = found[name]
    return estimates


class Report:
    """Tables as text and as markdown, and what was missed."""

    def __init__(self) -> None:
        self.markdown: list[str] = []
        self.missed: list[str] = []

    def say(self, text: str) -> None:
        print(f"\n{text}\n", flush=True)
        self.markdown += ["", text, ""]

    def table(self, heads: list[str], rows: list[list[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        for row in [heads, *rows]:
            cells = [row[0].ljust(widths[0])]
            cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
            print("  ".join(cells), flush=True)
        marks = ["---", *["---:"] * (len(heads) - 1)]
        self.markdown += [
            "| " + " | ".join(row) + " |" for row in [heads, marks, *rows]
        ]

    def aim(self, *, holds: bool, text: str) -> None:
        if not holds:
            self.missed.append(text)


def _measure(
    size: Size, options: argparse.Namespace, report: Report
) -> dict[str, float]:
    with filled(options.data, size) as end:
        world = _world(end)
        cases = [c for c in segment_rules.cases(world) if options.only in c.name]
        cases = [case for case in cases if _is_understood(case, world)]
        parts = options.parts.split(",")
        report.say(f"{size.customers:,} customers, {size.events:,} events")
        if "exact" in parts:
            _exact(cases, world, options, report)
        if "one" in parts:
            _one(cases, world, options.rounds, report)
        if "estimate" in parts:
            return _estimate(cases, world, options.rounds, report)
        return {}


def _world(end: datetime) -> World:
    """Names and ids; the segments that rules speak of are saved if they are not."""
    from events.models import EventType
    from segments.models import Segment

    saved = {}
    for name, rule in [
        ("VIP", segment_rules.VIP),
        ("Regulars", segment_rules.REGULARS),
    ]:
        saved[name], _ = Segment.objects.update_or_create(
            name=name, defaults={"rule": rule}
        )
    return World(
        end=end,
        types=dict(EventType.objects.values_list("name", "pk")),
        vip=saved["VIP"].pk,
        regulars=saved["Regulars"].pk,
    )


def _is_understood(case: Case, world: World) -> bool:
    from segments.compile import compile_rule
    from segments.rules import parse

    try:
        compile_rule(parse(case.rule), now=world.end)
    except Exception as error:
        print(f"NOT MEASURED: {case.name}: {error!r}", file=sys.stderr)
        return False
    return True


# Exact


def _exact(
    cases: list[Case], world: World, options: argparse.Namespace, report: Report
) -> None:
    found = []
    for case in cases:
        one = _exact_one(case, world, options.rounds, report)
        for memory in MEMORIES:
            with _work_mem(memory):
                again = _exact_one(case, world, max(1, options.rounds // 2), report)
            one.little[memory] = again.product, again.by_hand
        found.append(one)
    report.table(
        [
            "rule",
            "members",
            "product ms",
            "by hand ms",
            "ratio",
            "compile ms",
            *(f"at {memory} ms (by hand)" for memory in MEMORIES),
        ],
        [
            [
                one.name,
                f"{one.count:,}",
                f"{one.product:,.0f}",
                f"{one.by_hand:,.0f} (#{one.best})",
                f"{one.ratio:.2f}",
                f"{one.compile:.1f}",
                *(f"{p:,.0f} ({h:,.0f})" for p, h in one.little.values()),
            ]
            for one in found
        ],
    )
    for one in found:
        report.aim(
            holds=one.ratio <= EXACT_RATIO,
            text=f"{one.name}: {one.ratio:.2f} times the best by hand",
        )
        if "busiest" in one.name:
            report.aim(
                holds=one.product <= BUSIEST_SECONDS * 1000,
                text=f"{one.name}: {one.product:,.0f} ms",
            )
    if options.plans:
        slow = sorted(found, key=lambda one: one.product)[-2:]
        for one in slow:
            _show_plan(next(case for case in cases if case.name == one.name), world)


def _exact_one(case: Case, world: World, rounds: int, report: Report) -> Exact:
    from segments.compile import compile_rule
    from segments.rules import parse
    from smartcomm.core.db import fetch_all

    rule = parse(case.rule)
    took, query = _timed(lambda: compile_rule(rule, now=world.end))
    ours = f"SELECT count(*) FROM ({query.sql}) AS members"
    asked: list[Callable[[], Any]] = [partial(fetch_all, ours, query.params)]
    asked += [partial(fetch_all, text.replace("%", "%%")) for text in case.by_hand]
    times, costs, answers = _interleaved(asked, rounds)
    counts = [rows[0][0] for rows in answers]
    report.aim(
        holds=len(set(counts)) == 1, text=f"{case.name}: the answers differ: {counts}"
    )
    best = min(range(1, len(asked)), key=lambda i: statistics.median(costs[i]))
    ratio = max(statistics.median(costs[0]), FLOOR_MS) / max(
        statistics.median(costs[best]), FLOOR_MS
    )
    return Exact(
        name=case.name,
        count=counts[0],
        product=statistics.median(times[0]),
        by_hand=statistics.median(times[best]),
        best=best,
        ratio=ratio,
        compile=took,
    )


def _interleaved(
    asked: list[Callable[[], Any]], rounds: int
) -> tuple[list[list[float]], list[list[float]], list[Any]]:
    """(milliseconds, milliseconds of the processor, answers), in turns.

    The first turn warms up and is not counted.
    """
    answers = [ask() for ask in asked]
    times: list[list[float]] = [[] for _ in asked]
    costs: list[list[float]] = [[] for _ in asked]
    order = list(range(len(asked)))
    processor = _Processor()
    for _ in range(rounds):
        order.reverse()
        for i in order:
            before = processor.used()
            times[i].append(_timed(asked[i])[0])
            costs[i].append(processor.used() - before)
    return times, costs, answers


class _Processor:
    """What the statements of this connection cost, in milliseconds of a processor."""

    def __init__(self) -> None:
        from smartcomm.core.db import fetch_all

        self._backend = int(fetch_all("SELECT pg_backend_pid()")[0][0])
        fields = self._fields(self._backend)
        self._server = int(fields[1])

    def used(self) -> float:
        own = int(Path(f"/proc/{self._backend}/schedstat").read_text().split()[0])
        # Workers are gone by then: the server has inherited what they used.
        fields = self._fields(self._server)
        workers = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
        return own / 1e6 + workers * 1000

    @staticmethod
    def _fields(pid: int) -> list[str]:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _timed(ask: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    answer = ask()
    return (time.perf_counter() - began) * 1000, answer


class _work_mem:
    def __init__(self, memory: str) -> None:
        self.memory = memory

    def __enter__(self) -> None:
        from smartcomm.core.db import execute

        execute("SELECT set_config('work_mem', %s, false)", [self.memory])

    def __exit__(self, *error: object) -> None:
        from smartcomm.core.db import execute

        execute("RESET work_mem")


def _show_plan(case: Case, world: World) -> None:
    from segments.compile import compile_rule
    from segments.rules import parse
    from smartcomm.core.db import fetch_all

    query = compile_rule(parse(case.rule), now=world.end)
    print(f"\n{case.name}\n{query.sql}\n{query.params}\n")
    text = f"EXPLAIN (ANALYZE, BUFFERS, SETTINGS) SELECT count(*) FROM ({query.sql}) m"
    for (line,) in fetch_all(text, query.params):
        print(line)


# One customer


def _one(cases: list[Case], world: World, rounds: int, report: Report) -> None:
    from customers.models import Customer
    from segments.compile import compile_rule, customers_matching
    from segments.dictionary import Dictionary
    from segments.rules import parse

    chance = random.Random(1)
    upto = Customer.objects.order_by("-pk").values_list("pk", flat=True)[0]
    rows = []
    for case in cases:
        rule = parse(case.rule)
        known = Dictionary.of(rule)

        def one_of(number: int, rule: Any = rule, known: Any = known) -> float:
            ids = [chance.randint(1, upto) for _ in range(number)]
            began = time.perf_counter()
            customers_matching(
                compile_rule(rule, now=world.end, restrict=ids, dictionary=known)
            )
            return (time.perf_counter() - began) * 1000

        one_of(1)
        single = sorted(one_of(1) for _ in range(ASKED * rounds // 5))
        hundred = statistics.median(one_of(100) for _ in range(rounds))
        rows.append(
            [
                case.name,
                f"{statistics.median(single):.1f}",
                f"{single[int(len(single) * 0.95)]:.1f}",
                f"{hundred:.1f}",
            ]
        )
    report.say("Whether a customer is in, asked anew:")
    report.table(["rule", "one ms", "95 % ms", "a hundred ms"], rows)


# Estimates


def _estimate(
    cases: list[Case], world: World, rounds: int, report: Report
) -> dict[str, float]:
    from segments.preview import preview
    from segments.rules import parse

    rows = []
    found = {}
    for case in cases:
        rule = parse(case.rule)
        preview(rule, exact=False, now=world.end)
        times = [
            _timed(partial(preview, rule, exact=False, now=world.end))[0]
            for _ in range(max(3, rounds))
        ]
        found[case.name] = statistics.median(times)
        rows.append([case.name, f"{found[case.name]:.0f}", f"{max(times):.0f}"])
        report.aim(
            holds=found[case.name] <= ESTIMATE_MS,
            text=f"{case.name}: an estimate takes {found[case.name]:.0f} ms",
        )
    report.say("Estimates:")
    report.table(["rule", "ms", "slowest ms"], rows)
    right, asked = _within_margin(cases, world, rounds)
    report.say(
        f"The exact count lies within the margin in {right:,} of {asked:,} estimates, "
        f"{right / asked:.1%}."
    )
    # As many more may be off as chance allows, at two standard deviations.
    allowed = WITHIN - 2 * (WITHIN * (1 - WITHIN) / asked) ** 0.5
    report.aim(
        holds=right / asked >= allowed,
        text=f"{right / asked:.1%} of estimates are right within their margin",
    )
    return found


def _within_margin(cases: list[Case], world: World, rounds: int) -> tuple[int, int]:
    from segments.compile import compile_rule
    from segments.preview import preview
    from segments.rules import parse
    from smartcomm.core.db import fetch_all

    right = asked = 0
    rules = [case.rule for case in cases] + segment_rules.many(world, 40)
    for data in rules:
        rule = parse(data)
        query = compile_rule(rule, now=world.end)
        text = f"SELECT count(*) FROM ({query.sql}) AS members"
        exact = fetch_all(text, query.params)[0][0]
        for _ in range(rounds):
            found = preview(rule, exact=False, now=world.end)
            right += abs(found.count - exact) <= found.margin
            asked += 1
    return right, asked


def _compare_sizes(estimates: dict[str, dict[str, float]], report: Report) -> None:
    if len(estimates) < 2 or not all(estimates.values()):
        return
    small, large = next(iter(estimates)), list(estimates)[-1]
    rows = []
    for name, took in estimates[large].items():
        before = estimates[small][name]
        ratio = took / before
        rows.append([name, f"{before:.0f}", f"{took:.0f}", f"{ratio:.2f}"])
    ratio = statistics.median(
        took / estimates[small][name] for name, took in estimates[large].items()
    )
    report.say(f"Estimates by size; the median ratio is {ratio:.2f}:")
    report.table(["rule", f"{small} ms", f"{large} ms", "ratio"], rows)
    report.aim(
        holds=ratio <= ESTIMATE_RATIO,
        text=f"estimates at {large} take {ratio:.2f} times those at {small}",
    )


if __name__ == "__main__":
    sys.exit(main())

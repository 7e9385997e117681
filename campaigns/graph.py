"""Is this drawing sound? Pure: nothing here knows the database.

Works on the JSON of a campaign: `start`, and `steps` with `key`, `action`,
`config` and `next`. The shape is already checked by whoever parsed it; what is
checked here is whether the boxes and arrows make sense together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

#: Ways out of a step, by the name of its action, from its configuration.
Ways = Mapping[str, Callable[[dict[str, Any]], tuple[str, ...]]]

KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a drawing, in a whole sentence.

    An error stands in the way of publishing; a warning is only told. `step` is
    the key of the step it concerns, or empty.
    """

    level: Literal["error", "warning"]
    step: str
    message: str


def problems(
    definition: dict[str, Any], *, ways: Ways, idle: Collection[str] = ()
) -> list[Problem]:
    """Everything that is wrong with this drawing, all at once, errors first.

    A branch may join another one. A way that leads nowhere on purpose (null)
    ends the run and is no problem. `idle`: the actions that only wait or part, and
    so bring nothing about by themselves.
    """
    steps: list[dict[str, Any]] = definition.get("steps") or []
    found = [
        *_about_the_start(definition, steps),
        *_about_keys(steps),
        *_about_ways(steps, ways),
        *_about_cycles(steps),
        *_about_reach(definition, steps),
        *_about_open_ways(steps, ways),
        *_about_effect(definition, steps, ways, idle),
    ]
    return sorted(found, key=lambda problem: problem.level != "error")


def arrows(steps: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The steps each step leads to, in the order of its ways, known ones only."""
    known = {step["key"] for step in steps}
    return {
        step["key"]: [key for key in (step.get("next") or {}).values() if key in known]
        for step in steps
    }


def reachable(start: str, to: Mapping[str, list[str]]) -> set[str]:
    """The steps that can be come to from `start`, which is one of them."""
    seen: set[str] = set()
    ahead = [start] if start in to else []
    while ahead:
        key = ahead.pop()
        if key not in seen:
            seen.add(key)
            ahead += to[key]
    return seen


def before(key: str, to: Mapping[str, list[str]]) -> set[str]:
    """The steps from which one can come to `key`."""
    return {one for one in to if one != key and key in reachable(one, to)}


def cycles(to: Mapping[str, list[str]]) -> Iterator[list[str]]:
    """Every way back found on one walk through the drawing, as the path it closes.

    [a, b, a] for a → b → a. Without these arrows nothing runs in a circle.
    """
    done: set[str] = set()
    for root in to:
        if root in done:
            continue
        path = [root]
        on_path = {root}
        rest = [iter(to[root])]
        while path:
            key = next(rest[-1], None)
            if key is None:
                rest.pop()
                left = path.pop()
                on_path.discard(left)
                done.add(left)
            elif key in on_path:
                yield [*path[path.index(key) :], key]
            elif key not in done:
                path.append(key)
                on_path.add(key)
                rest.append(iter(to[key]))


def _about_the_start(
    definition: dict[str, Any], steps: list[dict[str, Any]]
) -> Iterator[Problem]:
    start = definition.get("start")
    if not steps:
        yield Problem("error", "", "Nothing happens yet: add a first step.")
    elif not start:
        yield Problem("error", "", "Nothing starts: connect the trigger to a step.")
    elif start not in {step["key"] for step in steps}:
        yield Problem(
            "error",
            "",
            f"The first step is to be “{start}”, but there is no such step.",
        )


def _about_keys(steps: list[dict[str, Any]]) -> Iterator[Problem]:
    seen: set[str] = set()
    told: set[str] = set()
    for step in steps:
        key = step["key"]
        if not KEY.fullmatch(key):
            yield Problem(
                "error",
                key,
                f"“{key}” cannot be the short name of a step: use letters, digits, -"
                " and _ only, 64 at most.",
            )
        if key in seen and key not in told:
            told.add(key)
            yield Problem(
                "error",
                key,
                f"Several steps are called “{key}”: give each a short name of its own.",
            )
        seen.add(key)


def _about_ways(steps: list[dict[str, Any]], ways: Ways) -> Iterator[Problem]:
    known = {step["key"] for step in steps}
    for step in steps:
        key, action = step["key"], step["action"]
        if action not in ways:
            yield Problem(
                "error",
                key,
                f"Step “{key}” is to do “{action}”, which is not an action: choose"
                " another, or remove the step.",
            )
            has = None
        else:
            has = ways[action](step.get("config") or {})
        for way, leads_to in (step.get("next") or {}).items():
            if has is not None and way not in has:
                offered = ", ".join(f"“{one}”" for one in has) or "none"
                yield Problem(
                    "error",
                    key,
                    f"Step “{key}” has no way out called “{way}”: it has {offered}.",
                )
            if leads_to is not None and leads_to not in known:
                yield Problem(
                    "error",
                    key,
                    f"The way “{way}” of step “{key}” leads to “{leads_to}”, but there"
                    " is no such step.",
                )


def _about_cycles(steps: list[dict[str, Any]]) -> Iterator[Problem]:
    for path in cycles(arrows(steps)):
        yield Problem(
            "error",
            path[0],
            f"The steps run in a circle: {' → '.join(path)}. Let one of them lead"
            " elsewhere.",
        )


def _about_reach(
    definition: dict[str, Any], steps: list[dict[str, Any]]
) -> Iterator[Problem]:
    start = definition.get("start")
    to = arrows(steps)
    if start not in to:
        return  # Told already, and then nothing is reachable.
    reached = reachable(start, to)
    for key in to:
        if key not in reached:
            yield Problem(
                "warning",
                key,
                f"Nobody ever comes to step “{key}”: no way leads to it.",
            )


def _about_open_ways(steps: list[dict[str, Any]], ways: Ways) -> Iterator[Problem]:
    for step in steps:
        key, action = step["key"], step["action"]
        has = ways[action](step.get("config") or {}) if action in ways else ()
        for way in has:
            if way not in (step.get("next") or {}):
                yield Problem(
                    "warning",
                    key,
                    f"The way “{way}” of step “{key}” leads nowhere: whoever takes it"
                    " ends there. Connect it, or let it end on purpose (null).",
                )


def _about_effect(
    definition: dict[str, Any],
    steps: list[dict[str, Any]],
    ways: Ways,
    idle: Collection[str],
) -> Iterator[Problem]:
    """Where only waits and partings are left, told where such a branch begins.

    A step without ways out ends a run on purpose.
    """
    to = arrows(steps)
    action = {step["key"]: step["action"] for step in steps}
    ends = {
        step["key"]
        for step in steps
        if step["action"] in ways and not ways[step["action"]](step["config"])
    }
    reached = reachable(definition.get("start") or "", to)

    def is_idle(key: str) -> bool:
        return all(action[after] in idle for after in reachable(key, to))

    vain = {key for key in reached if is_idle(key)}
    inside = {after for key in vain for after in to[key]}
    for key in to:
        if key in vain - inside - ends:
            yield Problem(
                "warning",
                key,
                f"From step “{key}” on nothing ever happens: nobody is written to, and"
                " nothing is changed or recorded. Add a step, or remove these.",
            )

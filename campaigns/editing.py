"""What one can do to a drawing with one click. Pure: JSON of a campaign in, and out.

Every deed answers a new definition and leaves the given one as it was. A deed that
would let the steps run in a circle is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from copy import deepcopy
from typing import Any

from campaigns.graph import KEY, Ways, arrows, cycles, reachable
from campaigns.picture import ways_out
from smartcomm.core.errors import Conflict, Invalid, NotFound

Definition = dict[str, Any]


def stamp(definition: Definition) -> str:
    """Tells two states of a drawing apart, so that nobody overwrites another's work."""
    text = json.dumps(definition, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find(definition: Definition, key: str) -> dict[str, Any]:
    """The step of this key; NotFound if there is none."""
    for step in definition["steps"]:
        if step["key"] == key:
            return dict(step)
    raise NotFound("This step is not in the drawing any more. Reload the page.")


def new_key(definition: Definition, action: str) -> str:
    """A short name that is still free: email, email_2, email_3..."""
    taken = {step["key"] for step in definition["steps"]}
    word = action.removeprefix("send_").split("_")[0]
    if word not in taken:
        return word
    number = 2
    while f"{word}_{number}" in taken:
        number += 1
    return f"{word}_{number}"


def leads_to(definition: Definition, after: str, way: str) -> str | None:
    """Where a way leads; `after` empty: where the trigger leads."""
    if not after:
        start: str | None = definition.get("start") or None
        return start
    target: str | None = (find(definition, after).get("next") or {}).get(way)
    return target


def insert(
    definition: Definition, step: dict[str, Any], *, after: str, way: str, ways: Ways
) -> Definition:
    """Put a new step on a way. What came there comes on the new step's first way."""
    definition = deepcopy(definition)
    follower = leads_to(definition, after, way)
    out = ways_out(step, ways)
    step = {**step, "next": dict.fromkeys(out)}
    if out:
        step["next"][out[0]] = follower
    _point(definition, after, way, step["key"])
    definition["steps"].append(step)
    return _in_order(definition, ways)


def change(
    definition: Definition,
    key: str,
    *,
    config: dict[str, Any],
    new_key: str = "",
    ways: Ways,
) -> Definition:
    """Give a step another configuration, and another short name if one is given.

    Ways that the step still has lead where they led; those it lost are gone.
    """
    definition = deepcopy(definition)
    step = _own(definition, key)
    step["config"] = config
    action = ways.get(step["action"])
    if action is not None:
        led = step.get("next") or {}
        step["next"] = {way: led.get(way) for way in action(config)}
    if new_key and new_key != key:
        _rename(definition, key, new_key)
    return definition


def remove(
    definition: Definition, key: str, *, keep: str | None, ways: Ways
) -> tuple[Definition, list[str]]:
    """Take a step out; whoever came to it goes on where its way `keep` led.

    Answers the steps that nobody comes to any more and that went with it.
    `keep` None: what came after it goes too, unless another way leads there.
    """
    definition = deepcopy(definition)
    before = _reached(definition)
    step = _own(definition, key)
    follower = (step.get("next") or {}).get(keep) if keep is not None else None
    definition["steps"].remove(step)
    _redirect(definition, key, follower)
    lost = before - _reached(definition) - {key}
    if key not in before:
        lost = set()  # It was not connected, so nothing that stays hung on it.
    return drop(definition, lost, ways=ways), sorted(lost)


def stranded(before: Definition, after: Definition) -> list[str]:
    """The steps that somebody came to before, and nobody comes to any more."""
    lost = _reached(before) - _reached(after)
    return [step["key"] for step in after["steps"] if step["key"] in lost]


def drop(definition: Definition, keys: Collection[str], *, ways: Ways) -> Definition:
    """Take out steps that nobody comes to."""
    definition = deepcopy(definition)
    definition["steps"] = [
        step for step in definition["steps"] if step["key"] not in keys
    ]
    for key in keys:
        # A step that hangs loose may have led there.
        _redirect(definition, key, None)
    return _in_order(definition, ways)


def connect(
    definition: Definition, *, after: str, way: str, to: str, ways: Ways
) -> Definition:
    """Let a way lead to a step that exists, or (`to` empty) to the end."""
    definition = deepcopy(definition)
    if to:
        find(definition, to)
    _point(definition, after, way, to or None)
    _refuse_circles(definition)
    return _in_order(definition, ways)


def move(
    definition: Definition, key: str, *, after: str, way: str, ways: Ways
) -> Definition:
    """Put a step elsewhere. Its first way is joined up; its others it keeps."""
    if after == key:
        raise Conflict("A step cannot come after itself. Choose another place.")
    definition = deepcopy(definition)
    step = _own(definition, key)
    out = ways_out(step, ways)
    step["next"] = {**dict.fromkeys(out), **(step.get("next") or {})}
    main = out[0] if out else None
    _redirect(definition, key, step["next"].get(main))
    follower = leads_to(definition, after, way)
    if main is not None:
        step["next"][main] = follower
    _point(definition, after, way, key)
    _refuse_circles(definition)
    return _in_order(definition, ways)


def _own(definition: Definition, key: str) -> dict[str, Any]:
    for step in definition["steps"]:
        if step["key"] == key:
            found: dict[str, Any] = step
            return found
    raise NotFound("This step is not in the drawing any more. Reload the page.")


def _point(definition: Definition, after: str, way: str, to: str | None) -> None:
    if not after:
        definition["start"] = to
        return
    step = _own(definition, after)
    step["next"] = {**(step.get("next") or {}), way: to}


def _redirect(definition: Definition, key: str, to: str | None) -> None:
    if definition.get("start") == key:
        definition["start"] = to
    for step in definition["steps"]:
        step["next"] = {
            way: to if target == key else target
            for way, target in (step.get("next") or {}).items()
        }


def _rename(definition: Definition, key: str, name: str) -> None:
    if not KEY.fullmatch(name):
        raise Invalid(
            "Use letters, digits, - and _ only, 64 at most.",
            field="key",
        )
    if any(step["key"] == name for step in definition["steps"]):
        raise Invalid(
            f"There is a step called “{name}” already. Choose another short name.",
            field="key",
        )
    _own(definition, key)["key"] = name
    _redirect(definition, key, name)
    for step in definition["steps"]:
        if step["config"].get("filter") == key:
            step["config"]["filter"] = name


def _reached(definition: Definition) -> set[str]:
    return reachable(definition.get("start") or "", arrows(definition["steps"]))


def _refuse_circles(definition: Definition) -> None:
    for path in cycles(arrows(definition["steps"])):
        raise Conflict(
            f"Then the steps would run in a circle: {' → '.join(path)}."
            " Choose another place."
        )


def _in_order(definition: Definition, ways: Ways) -> Definition:
    """The steps in the order in which one walks the ways; the unconnected ones last."""
    steps = {step["key"]: step for step in definition["steps"]}
    # The database does not keep the order of `next`; the actions know it.
    to = {
        key: [(step.get("next") or {}).get(way) for way in ways_out(step, ways)]
        for key, step in steps.items()
    }
    order: dict[str, None] = {}
    ahead: list[str | None] = [definition.get("start")]
    while ahead:
        key = ahead.pop()
        if key is not None and key in steps and key not in order:
            order[key] = None
            ahead += reversed(to[key])
    order.update(dict.fromkeys(steps))
    definition["steps"] = [steps[key] for key in order]
    return definition

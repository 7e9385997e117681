"""What changes from one drawing to another, in words.

Pure, but for the names that actions look up to describe themselves: works on the JSON
of a campaign, and whatever is told is told of keys, so that a step that was moved in
the drawing is the same step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from campaigns.actions import ACTIONS
from campaigns.actions.send import Send
from campaigns.models import Version
from campaigns.panels import say, say_entry, say_pace, say_trigger, sentence, way_label
from segments.versions import Piece, pieces

Definition = dict[str, Any]
Step = Mapping[str, Any]


class What(StrEnum):
    TRIGGER = "trigger"
    ENTRY = "entry"
    PACE = "pace"
    START = "start"
    ADDED = "step_added"
    REMOVED = "step_removed"
    CHANGED = "step_changed"
    TEXT = "text"
    WAY = "way"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as it was. `before` and `after`: what it said and says."""

    what: What
    sentence: str
    #: The key of the step it concerns, or empty.
    step: str = ""
    before: str = ""
    after: str = ""

    @property
    def before_pieces(self) -> list[Piece]:
        return list(pieces(self.before, self.after))

    @property
    def after_pieces(self) -> list[Piece]:
        return list(pieces(self.after, self.before))


def changes(before: Definition, after: Definition) -> list[Change]:
    """All that changes, in the order of the newer drawing; what is gone comes last."""
    old, new = _steps(before), _steps(after)
    found = [
        *_of_trigger(before, after),
        *_of_entry(before, after),
        *_of_pace(before, after),
    ]
    if before.get("start") != after.get("start"):
        found.append(
            Change(
                What.START,
                f"It begins with {_named(after.get('start'))}, "
                f"no longer with {_named(before.get('start'))}.",
            )
        )
    for key, step in new.items():
        if key in old:
            found += _of_step(old[key], step)
        else:
            said = f"“{key}” is new: {_label(step)}."
            found.append(Change(What.ADDED, said, key, after=sentence(say(step))))
    for key, step in old.items():
        if key not in new:
            said = f"“{key}” is removed: {_label(step)}."
            found.append(Change(What.REMOVED, said, key, before=sentence(say(step))))
    return found


def summary(found: list[Change]) -> str:
    """A few words: “2 steps added, 1 text changed”; empty where nothing changes."""
    words = []
    for what, (one, many, verb) in _COUNTED.items():
        if number := sum(change.what == what for change in found):
            words.append(f"{number} {one if number == 1 else many} {verb}")
    return ", ".join(words)


_COUNTED = {
    What.TRIGGER: ("part of the trigger", "parts of the trigger", "changed"),
    What.ENTRY: ("entry rule", "entry rules", "changed"),
    What.PACE: ("pace", "paces", "changed"),
    What.START: ("first step", "first steps", "changed"),
    What.ADDED: ("step", "steps", "added"),
    What.REMOVED: ("step", "steps", "removed"),
    What.CHANGED: ("setting", "settings", "changed"),
    What.TEXT: ("text", "texts", "changed"),
    What.WAY: ("way", "ways", "led elsewhere"),
}
#: The part of a trigger that its sentence does not tell.
_AGE = "max_age_hours"


def _of_trigger(before: Definition, after: Definition) -> Iterator[Change]:
    old, new = dict(before.get("trigger") or {}), dict(after.get("trigger") or {})
    old_age, new_age = old.pop(_AGE, None), new.pop(_AGE, None)
    if old != new:
        said = "Something else starts it"
        if old.get("kind") != new.get("kind"):
            said += f": “{_kind(new)}”, no longer “{_kind(old)}”"
        yield Change(
            What.TRIGGER,
            f"{said}.",
            before=sentence(say_trigger(before, when=True)),
            after=sentence(say_trigger(after, when=True)),
        )
    if old_age != new_age:
        yield Change(
            What.TRIGGER,
            "The age in hours from which it is too late changes.",
            before=_text(old_age),
            after=_text(new_age),
        )


def _of_entry(before: Definition, after: Definition) -> Iterator[Change]:
    if (before.get("entry") or {}) != (after.get("entry") or {}):
        yield Change(
            What.ENTRY,
            "How often a customer may enter changes.",
            before=f"May {say_entry(before)}",
            after=f"May {say_entry(after)}",
        )


def _of_pace(before: Definition, after: Definition) -> Iterator[Change]:
    old, new = (say_pace(one) or "all at once" for one in (before, after))
    if old != new:
        yield Change(
            What.PACE,
            "How fast customers are taken in changes.",
            before=sentence(old),
            after=sentence(new),
        )


def _of_step(old: Step, new: Step) -> Iterator[Change]:
    key = new["key"]
    if old["action"] != new["action"]:
        yield Change(
            What.CHANGED,
            f"“{key}” does something else: {_label(new)}, no longer {_label(old)}.",
            key,
            sentence(say(old)),
            sentence(say(new)),
        )
    elif old["config"] != new["config"]:
        yield from _of_config(old, new)
    yield from _of_ways(old, new)


def _of_config(old: Step, new: Step) -> Iterator[Change]:
    key, action = new["key"], ACTIONS.get(new["action"])
    texts = action.texts if isinstance(action, Send) else ()
    fields = action.form.base_fields if action else {}
    was, is_ = old["config"], new["config"]
    differing = [
        name
        for name in dict.fromkeys([*texts, *was, *is_])
        if was.get(name) != is_.get(name)
    ]
    told = say(old), say(new)
    if told[0] != told[1] and not set(differing) <= set(texts):
        yield Change(
            What.CHANGED,
            f"“{key}” ({_label(new)}) changes.",
            key,
            sentence(told[0]),
            sentence(told[1]),
        )
    for name in differing:
        label = fields[name].label if name in fields else None
        label = str(label or name.replace("_", " ").capitalize())
        if name in texts:
            yield Change(
                What.TEXT,
                f"“{key}”: the text “{label}” changes.",
                key,
                _text(was.get(name)),
                _text(is_.get(name)),
            )
        elif told[0] == told[1] or texts:
            # The action's own words do not tell it.
            yield Change(
                What.CHANGED,
                f"“{key}”: “{label}” changes.",
                key,
                _text(was.get(name)),
                _text(is_.get(name)),
            )


def _of_ways(old: Step, new: Step) -> Iterator[Change]:
    before, after = old.get("next") or {}, new.get("next") or {}
    has_had, has = _ways(old), _ways(new)
    for way in dict.fromkeys([*has, *has_had]):
        was, is_ = before.get(way), after.get(way)
        if was == is_:
            continue
        label = way_label((new if way in has else old)["action"], way)
        if way not in has:
            said = f"has no way “{label}” any more, which led to {_named(was)}."
        elif way not in has_had:
            said = f"has a new way “{label}”, which leads to {_named(is_)}."
        else:
            said = f"way “{label}”: leads to {_named(is_)}, no longer to {_named(was)}."
        between = ", " if way in has and way in has_had else " "
        yield Change(What.WAY, f"“{new['key']}”{between}{said}", new["key"])


def _ways(step: Step) -> list[str]:
    """The ways out that a step has or that its drawing names."""
    action = ACTIONS.get(step["action"])
    own = action.ways(step["config"]) if action else ()
    return list(dict.fromkeys([*own, *(step.get("next") or {})]))


def _kind(trigger: Mapping[str, Any]) -> str:
    labels = dict(Version.Trigger.choices)
    return labels.get(trigger.get("kind") or "", str(trigger.get("kind")))


def _steps(definition: Definition) -> dict[str, Step]:
    return {step["key"]: step for step in definition.get("steps") or []}


def _label(step: Step) -> str:
    action = ACTIONS.get(step["action"])
    return action.label if action else str(step["action"])


def _named(key: object) -> str:
    return f"“{key}”" if key else "the end"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, indent=1)

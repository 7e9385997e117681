"""Fields that a source names otherwise than we do, renamed before they are checked.

A mapping is of one source or of all, and of one event or of all. Of several for the
same field the most specific holds: of source and event, then of the source, then of
the event, then of all. Each field is renamed once; a mapping is not applied to what
another one made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from events.models import FieldMapping
from events.wire import Refusal

#: For so long a process trusts what it last read of the mappings. One that was added
#: or removed holds everywhere after this time at the latest.
TRUSTED_SECONDS = 5.0

Translate = Callable[[object], object]
Renames = Mapping[str, str]


def renaming(translate: Translate, *, source_id: int) -> Translate:
    """`translate`, and after it the renames of this source.

    The very same function where the source has none, so that they cost it nothing;
    one small query every five seconds and process otherwise.
    """
    known = _known()
    renamer = known.get(source_id) or known.get(None)
    if renamer is None:
        return translate
    return lambda data: renamer.apply(translate(data))


def forget() -> None:
    """Read the mappings again, for when they have changed."""
    global _read_at, _generation
    _generation += 1
    _read_at = 0.0


def rename(context: dict[str, Any], renames: Renames) -> dict[str, Any]:
    """The context with its fields renamed, in their order. Raises Refusal where the
    new name is taken: nothing is ever overwritten.

    A field is found by its whole name first, so that one with a dot in it can be
    renamed; else the dots are a path into nested objects.
    """
    found = {sent: code for sent, code in renames.items() if sent in context}
    renamed = _renamed(context, found, "") if found else context
    for sent, code in renames.items():
        if sent not in found and "." in sent:
            renamed = _rename_inside(renamed, sent.split("."), code, "")
    return renamed


@dataclass
class _Renamer:
    """What one source's fields are called here."""

    of_any_event: dict[str, str] = field(default_factory=dict)
    of_event: dict[str, dict[str, str]] = field(default_factory=dict)

    def apply(self, data: object) -> object:
        """The item with its fields renamed. What was sent is left as it is."""
        if not isinstance(data, dict) or type(data.get("context")) is not dict:
            return data
        name = data.get("name")
        renames = self.of_any_event
        if isinstance(name, str):
            renames = self.of_event.get(name, renames)
        context = data["context"]
        renamed = rename(context, renames)
        return data if renamed is context else {**data, "context": renamed}


def _renamed(context: dict[str, Any], renames: Renames, prefix: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in context.items():
        code = renames.get(name, name)
        if code in result:
            # Whichever of the two stands first, it is the renamed one that is told.
            sent = next(one for one in context if renames.get(one) == code)
            raise Refusal(
                "field_mapping_conflict",
                f"“{prefix}{sent}” is renamed to “{prefix}{code}” here, and this "
                f"event has “{prefix}{code}” already. Send one of them, or change the "
                "field mapping.",
                field=f"context.{prefix}{sent}",
            )
        result[code] = value
    return result


def _rename_inside(
    context: dict[str, Any], path: list[str], code: str, prefix: str
) -> dict[str, Any]:
    """A copy of what lies on the path, with its end renamed; else the same object."""
    first, *rest = path
    if not rest:
        return _renamed(context, {first: code}, prefix) if first in context else context
    inner = context.get(first)
    if type(inner) is not dict:
        return context
    renamed = _rename_inside(inner, rest, code, f"{prefix}{first}.")
    return context if renamed is inner else {**context, first: renamed}


# What this process knows: source's id → its renames, None for any other source.
_renamers: dict[int | None, _Renamer] = {}
_read_at = 0.0
# Counted up by `forget`, so that what was read before it is not kept after it.
_generation = 0


def _known() -> dict[int | None, _Renamer]:
    global _renamers, _read_at
    now = time.monotonic()
    if _read_at and now - _read_at <= TRUSTED_SECONDS:
        return _renamers
    generation = _generation
    renamers = _read()
    if generation == _generation:
        _renamers, _read_at = renamers, now
    return renamers


def _read() -> dict[int | None, _Renamer]:
    rows = list(
        FieldMapping.objects.values_list("source_id", "event_name", "sent", "code")
    )
    return {
        source: _renamer([row for row in rows if row[0] in (None, source)])
        for source in {row[0] for row in rows}
    }


def _renamer(rows: list[tuple[int | None, str, str, str]]) -> _Renamer:
    """What these mappings, of one source and of all, come to."""

    def layer(*, own: bool, event: str) -> dict[str, str]:
        return {
            sent: code
            for source, name, sent, code in rows
            if (source is not None) == own and name == event
        }

    general = layer(own=False, event="") | layer(own=True, event="")
    return _Renamer(
        general,
        {
            name: layer(own=False, event="")
            | layer(own=False, event=name)
            | layer(own=True, event="")
            | layer(own=True, event=name)
            for name in {row[1] for row in rows} - {""}
        },
    )

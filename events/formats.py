"""What a source writes events in → the product's own shape, before it is checked.

A format is a function from one decoded item to the native item that `wire.read_item`
reads, or a Refusal. It is pure, so that a rejected event can be read again later,
from what was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from events.compat import cloudevents, segment
from events.models import Format
from events.wire import Refusal

Translate = Callable[[object], object]


def _as_it_is(data: object) -> object:
    return data


def _unreadable(data: object) -> object:
    raise Refusal("not_json", "What was sent is not JSON.")


TRANSLATORS: Mapping[Format, Translate] = {
    Format.NATIVE: _as_it_is,
    Format.SEGMENT: segment.translate,
    Format.CLOUDEVENTS: cloudevents.translate,
    Format.UNREADABLE: _unreadable,
}

#: Where a format keeps what we call `name` and `id`.
LABELS: Mapping[Format, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    Format.SEGMENT: segment.labels,
    Format.CLOUDEVENTS: cloudevents.labels,
}


def labels(data: object, format: Format) -> object:
    """The item's `name` and `id`, as far as they can be told; unchecked."""
    if format in LABELS and isinstance(data, dict):
        return LABELS[format](data)
    return data

"""What a source writes events in → the product's own shape, before it is checked.

A format is a function from one decoded item to the native item that `wire.read_item`
reads, or a Refusal. It is pure, so that a rejected event can be read again later,
from what was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from events.models import Format
from events.wire import Refusal

Translate = Callable[[object], object]


def _as_it_is(data: object) -> object:
    return data


def _unreadable(data: object) -> object:
    raise Refusal("not_json", "What was sent is not JSON.")


TRANSLATORS: Mapping[Format, Translate] = {
    Format.NATIVE: _as_it_is,
    Format.UNREADABLE: _unreadable,
}

"""A piece of SQL with its parameters, so that the two never part ways."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sql:
    text: str
    params: tuple[Any, ...] = ()


def sql(template: str, *parts: Any) -> Sql:
    """Fill each `{}`: a piece of SQL goes in whole, a value as a parameter."""
    texts = template.split("{}")
    if len(texts) != len(parts) + 1:
        raise AssertionError(
            f"{template!r} takes {len(texts) - 1} parts, got {len(parts)}"
        )
    text = texts[0]
    params: list[Any] = []
    for part, rest in zip(parts, texts[1:], strict=True):
        if isinstance(part, Sql):
            text += part.text + rest
            params += part.params
        else:
            text += f"%s{rest}"
            params.append(part)
    return Sql(text, tuple(params))


def join(word: str, pieces: Iterable[Sql]) -> Sql:
    """Pieces with a word between them."""
    pieces = list(pieces)
    return Sql(
        word.join(piece.text for piece in pieces),
        tuple(param for piece in pieces for param in piece.params),
    )

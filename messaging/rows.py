"""Rows as one parameter of a statement, for json_to_recordset."""

from __future__ import annotations

from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()


def as_json(rows: Any) -> str:
    """Dicts or dataclasses as JSON text.

    Ten times cheaper than arrays for unnest, which psycopg quotes value by value.
    """
    return _encoder.encode(rows).decode()

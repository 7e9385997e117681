"""Files to import, and the command that imports them."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.core.management import call_command

from events.models import Import


def csv_file(path: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def ndjson_file(path: Path, items: Iterable[Any]) -> Path:
    lines = [one if isinstance(one, str) else json.dumps(one) for one in items]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def packed(path: Path, *, members: int = 1) -> Path:
    """The file as gzip, in so many members, under a name that does not tell."""
    content = path.read_bytes()
    size = len(content) // members + 1
    target = path.with_name(f"packed-{path.name}")
    target.write_bytes(
        b"".join(
            gzip.compress(content[start : start + size])
            for start in range(0, len(content), size)
        )
    )
    return target


def an_event(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"e-{number}",
        "name": "Order paid",
        "customer": f"C-{number % 50}",
        "occurred_at": "2026-10-01T10:00:00Z",
        "context": {"price": number},
        **more,
    }


def import_events(path: Path, **options: Any) -> str:
    """What the command prints."""
    return _call("import_events", path, options)


def import_customers(path: Path, **options: Any) -> str:
    return _call("import_customers", path, options)


def _call(name: str, path: Path, options: dict[str, Any]) -> str:
    out = io.StringIO()
    options.setdefault("source", "shop")
    call_command(name, str(path), **options, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def last_import() -> Import:
    found = Import.objects.order_by("pk").last()
    assert found is not None
    return found


def numbers(one: Import) -> tuple[int, int, int, int]:
    """Rows read, imported, duplicates, rejected; they add up."""
    assert one.rows == one.imported + one.duplicates + one.rejected
    return one.rows, one.imported, one.duplicates, one.rejected

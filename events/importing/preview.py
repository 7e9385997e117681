"""The first rows of a file as they would be stored, and why they would not.

They really are recorded, through the same doors, and then taken back: what the preview
says is what the import will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from events.importing.plan import Plan
from events.importing.reading import Row
from events.importing.run import Recorder
from events.ingest import DUPLICATE
from events.models import Source

NEW = "new"
KNOWN = "known"
REFUSED = "refused"

ROWS = 10


@dataclass(frozen=True, slots=True)
class Shown:
    """One row, and what would become of it."""

    number: int
    #: `new`, `known` (a duplicate) or `refused`.
    status: str
    item: Any
    code: str = ""
    #: The column to look at.
    place: str = ""
    message: str = ""


def preview(
    plan: Plan,
    header: Sequence[str],
    rows: Sequence[Row],
    *,
    source: Source,
    digest: str,
    now: datetime,
) -> list[Shown]:
    """What would become of these rows. Changes nothing."""
    recorder = Recorder(plan, list(header), source=source, digest=digest)
    with transaction.atomic():
        outcome, shown = recorder.record(rows, now=now, keep_rejected=False)
        found = list(shown)
        transaction.set_rollback(True)
    refused = {
        row.number: (code, place, message)
        for row, code, place, message, _ in outcome.refused
    }
    answer = []
    for row, item, result in sorted(found, key=lambda one: one[0].number):
        if row.number in refused:
            code, place, message = refused[row.number]
            answer.append(Shown(row.number, REFUSED, item, code, place, message))
        else:
            status = KNOWN if result.status == DUPLICATE else NEW
            answer.append(Shown(row.number, status, item))
    return answer

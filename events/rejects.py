"""Events that were refused: which there are, by reason, and setting them aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, QuerySet

from events.models import Kind, RejectedEvent, Source
from smartcomm.core.errors import Invalid

Status = RejectedEvent.Status

#: So many reasons are told at once; the rest is found by narrowing them down.
MAX_GROUPS = 100
MAX_NOTE = 500


@dataclass(frozen=True, kw_only=True)
class Which:
    """Some of the rejected events: those that fit all that is named here.

    None asks nothing; an empty text asks for events where it is empty.
    """

    ids: tuple[int, ...] | None = None
    source: int | None = None
    kind: str | None = None
    code: str | None = None
    field: str | None = None
    name: str | None = None
    external_id: str | None = None

    def rows(self, status: str = Status.OPEN) -> QuerySet[RejectedEvent]:
        rows = RejectedEvent.objects.filter(status=status, **self._asked())
        return rows if self.ids is None else rows.filter(pk__in=self.ids)

    def to_json(self) -> dict[str, Any]:
        found = self._asked()
        return found if self.ids is None else {**found, "ids": list(self.ids)}

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Which:
        """What `to_json` wrote."""
        ids = data.get("ids")
        return cls(**{**data, "ids": None if ids is None else tuple(ids)})

    def _asked(self) -> dict[str, Any]:
        found = {name: value for name, value in asdict(self).items() if name != "ids"}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Group:
    """The rejected events of one source and event that have the same reason."""

    which: Which
    source: Source
    kind: Kind
    code: str
    field: str
    name: str
    count: int
    first_at: datetime
    last_at: datetime
    #: The latest of them.
    example: RejectedEvent


def groups(
    which: Which, *, status: str = Status.OPEN, limit: int = MAX_GROUPS
) -> list[Group]:
    """The biggest groups of these rejected events. Two queries.

    The first reads an index over all rejected events of the status that were not
    replayed: a third of a second for a million.
    """
    counted = list(
        which.rows(status)
        .order_by()
        .values("source_id", "kind", "code", "field", "name")
        .annotate(
            count=Count("pk"),
            first_at=Min("received_at"),
            last_at=Max("received_at"),
            example=Max("pk"),
        )
        .order_by("-count", "-example")[:limit]
    )
    examples = RejectedEvent.objects.select_related("source").in_bulk(
        [row["example"] for row in counted]
    )
    found = []
    for row in counted:
        # Replayed since they were counted.
        if (example := examples.get(row["example"])) is None:
            continue
        found.append(
            Group(
                which=replace(
                    which,
                    source=row["source_id"],
                    kind=row["kind"],
                    code=row["code"],
                    field=row["field"],
                    name=row["name"],
                ),
                source=example.source,
                kind=Kind(row["kind"]),
                code=row["code"],
                field=row["field"],
                name=row["name"],
                count=row["count"],
                first_at=row["first_at"],
                last_at=row["last_at"],
                example=example,
            )
        )
    return found


def set_aside(which: Which, *, by: str, note: str = "", now: datetime) -> int:
    """Say that these open events need no replay. They are kept. Returns how many."""
    if len(note) > MAX_NOTE:
        raise Invalid(f"A note has at most {MAX_NOTE} characters.", field="note")
    return which.rows().update(
        status=Status.SET_ASIDE, note=note, set_aside_at=now, set_aside_by=by
    )


def take_back(which: Which) -> int:
    """Open these events again that were set aside. Returns how many."""
    return which.rows(Status.SET_ASIDE).update(
        status=Status.OPEN, note="", set_aside_at=None, set_aside_by=""
    )

"""What pages and commands ask for: take a file in, start, stop, go on."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db import transaction

from events.importing import plan as plans
from events.importing.guess import (
    guess_plan,
    looks_like,
    read_sample,
    values_of,
)
from events.importing.plan import Plan
from events.importing.reading import Row, Shape, digest_of, look_at
from events.importing.run import RUN, directory, errors_path, is_held, take
from events.models import Import, Source
from smartcomm.core import doorbell
from smartcomm.core.clock import database_now
from smartcomm.core.errors import Conflict, Invalid

Status = Import.Status

#: A file up to this size is known again while its plan is made; a larger one when it
#: is imported.
DIGEST_AT_ONCE = 64 * 1024 * 1024


class Sample:
    """The beginning of a file, read once for a plan and its preview."""

    def __init__(self, path: Path, shape: Shape) -> None:
        self.shape = shape
        self.header: list[str]
        self.rows: list[Row]
        self.header, self.rows = read_sample(path, shape)

    def values(self, column: str, most: int = 3) -> list[Any]:
        """A few different values of a column, for those who choose its field."""
        found = values_of(column, self.header, self.rows)
        return list(dict.fromkeys(map(_shown, found)))[:most]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"


def make_plan(
    kind: str,
    sample: Sample,
    *,
    like: Plan | None = None,
    targets: Mapping[str, str] | None = None,
    types: Mapping[str, str] | None = None,
    constants: Mapping[str, str] | None = None,
    **options: Any,
) -> Plan:
    """A plan for a file: guessed, or as that of another, with what is told put in.

    `targets` are column → field, an empty field for a column that is left out. The
    plan is not checked yet.
    """
    guessed = guess_plan(Import.Kind(kind), sample.shape, sample.header, sample.rows)
    if targets is not None and guessed.is_native and targets:
        # Told by hand, so it is read column by column.
        guessed = guess_plan(
            Import.Kind(kind), sample.shape, sample.header, sample.rows, native=False
        )
    by_name = {column.name: column for column in guessed.columns}
    if like is not None:
        by_name |= {one.name: one for one in like.columns if one.name in by_name}
        guessed = replace(
            like, shape=sample.shape, columns=guessed.columns, kind=guessed.kind
        )
    given = plans.with_options(guessed, constants=constants, **options)
    if targets:
        if unknown := [name for name in targets if name not in by_name]:
            raise Invalid(
                f"There is no column “{unknown[0]}”. There are "
                f"{', '.join(by_name) or 'none'}.",
                field=f"columns.{unknown[0]}",
                code="plan_invalid",
            )
        chosen = {target for target in targets.values() if target}
        for name, column in by_name.items():
            if name in targets:
                by_name[name] = replace(column, target=targets[name])
            elif column.target in chosen:
                # What was only guessed makes room for what was told.
                by_name[name] = replace(column, target="")
    columns = []
    for name in (column.name for column in guessed.columns):
        column = by_name[name]
        if types and name in types:
            column = replace(column, type=types[name])
        looks = looks_like(
            values_of(name, sample.header, sample.rows),
            decimal_comma=given.decimal_comma,
        )
        columns.append(replace(column, looks=looks))
    return replace(given, columns=tuple(columns))


def take_in(
    path: Path,
    *,
    kind: str,
    source: Source,
    name: str,
    size: int,
    user: Any = None,
    corrects: Import | None = None,
) -> Import:
    """Make an import of an uploaded file, which moves to where we keep them.

    It waits for somebody to look at its plan and start it. Raises Unreadable, and
    keeps nothing, for a file that is none.
    """
    shape = look_at(path)
    sample = Sample(path, shape)
    like = plans.parse(corrects.plan) if corrects is not None else None
    plan = make_plan(kind, sample, like=like)
    directory().mkdir(parents=True, exist_ok=True)
    kept = directory() / f"{uuid.uuid4()}.upload"
    os.replace(path, kept)
    kept.chmod(0o600)
    return Import.objects.create(
        kind=kind,
        source=source,
        name=name[-255:],
        path=str(kept),
        is_upload=True,
        size=size,
        digest=digest_of(kept) if size <= DIGEST_AT_ONCE else "",
        plan=plan.to_json(),
        corrects=corrects,
        created_by=user,
    )


def find_or_make(path: Path, plan: Plan, *, source: Source, digest: str) -> Import:
    """The import of this file by a command: one that was left, or else a new one.

    Raises Conflict while somebody else is at it.
    """
    same = Import.objects.filter(
        kind=plan.kind, source=source, digest=digest, is_upload=False
    ).exclude(status=Status.FINISHED)
    for one in same.order_by("-pk"):
        if one.plan == plan.to_json():
            if one.path != str(path):
                Import.objects.filter(pk=one.pk).update(path=str(path))
            return one
    return Import.objects.create(
        kind=plan.kind,
        source=source,
        name=path.name[-255:],
        path=str(path),
        size=path.stat().st_size,
        digest=digest,
        plan=plan.to_json(),
    )


def take_now(one: Import, *, now: datetime) -> Import:
    """Take an import for this process. Raises Conflict while somebody else has it."""
    with transaction.atomic():
        locked = Import.objects.select_for_update().get(pk=one.pk)
        if is_held(locked, now=now):
            raise Conflict(
                f"This file is being imported right now, by {locked.claimed_by} "
                f"(import {locked.pk})."
            )
        return take(locked, now=now)


def set_plan(one: Import, plan: Plan) -> None:
    """Keep how a file is to be read, as long as nobody has begun. It may be wrong
    still: `start` checks it."""
    with _locked(one, [Status.UPLOADED], "It has been started already.") as row:
        row.plan = plan.to_json()
        row.save(update_fields=["plan"])
    one.plan = row.plan


def start(one: Import) -> None:
    """Let workers have it. Raises Several where the plan does not do."""
    plans.parse(one.plan)
    with _locked(one, [Status.UPLOADED], "It has been started already.") as row:
        _queue(row)


def go_on(one: Import) -> None:
    """Let workers have an import again that failed, or was stopped."""
    with _locked(
        one, [Status.FAILED, Status.CANCELLED], "It is on its way, or finished."
    ) as row:
        if not row.is_upload:
            raise Conflict(
                f"It was started by a command. Run that again: {row.path} is read on "
                "from where it stopped."
            )
        _queue(row)


def cancel(one: Import) -> None:
    """Stop an import behind the batch at hand. What is in stays in."""
    with _locked(
        one,
        [Status.UPLOADED, Status.QUEUED, Status.RUNNING],
        "It has ended already.",
    ) as row:
        row.status = Status.CANCELLED
        row.claim, row.claimed_until, row.ended_at = None, None, database_now()
        row.save()


def delete(imports: Iterable[Import]) -> None:
    """Delete imports with what is kept of them: uploads, and files of refused rows.

    What they brought stays. One that is on its way is left alone.
    """
    for one in imports:
        with transaction.atomic():
            row = Import.objects.select_for_update().filter(pk=one.pk).first()
            if row is None or row.is_going:
                continue
            files = [errors_path(row)]
            if row.is_upload:
                files.append(Path(row.path))
            row.delete()
        for file in files:
            file.unlink(missing_ok=True)


def _queue(row: Import) -> None:
    row.status, row.error, row.ended_at = Status.QUEUED, "", None
    row.claim, row.claimed_until = None, None
    row.save()
    doorbell.ring(RUN)


@contextmanager
def _locked(one: Import, states: Iterable[str], sentence: str) -> Iterator[Import]:
    """The row of an import in one of these states, locked; or a Conflict."""
    with transaction.atomic():
        row = Import.objects.select_for_update().get(pk=one.pk)
        if row.status not in states:
            raise Conflict(sentence)
        yield row

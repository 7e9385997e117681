"""An import at work: batches, each in one transaction with its place and its numbers.

Whatever is killed, wherever: the row of the import tells exactly what is in the
database, and whoever goes on begins with the row behind it.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F, Q

from customers.attributes import known_types
from customers.upsert import upsert_customers
from events.importing import plan as plans
from events.importing.plan import OURS, Mapper, Plan
from events.importing.reading import Row, Rows, Unreadable, digest_of
from events.importing.refused import RefusedRows
from events.ingest import DUPLICATE, REJECTED, record_events
from events.models import EventField, Format, Import, Kind, RejectedEvent
from events.wire import UNSTORABLE, Refusal
from smartcomm.core.clock import database_now
from smartcomm.core.db import claim, fetch_all, sqlstate
from smartcomm.core.errors import UserError

logger = structlog.get_logger(__name__)

#: The task that works.
RUN = "events.tasks.run_imports"
BATCH = 1_000
#: Who holds an import says so with every batch; after so long another may take it.
LEASE = timedelta(seconds=60)
#: So many refused events of one import are also kept as rejected events. A file that
#: does not fit at all must not bury those that systems have sent.
KEPT_REJECTED = 10_000
DEADLOCK = "40P01"
ATTEMPTS = 3

Status = Import.Status


class Lost(Exception):
    """The import was stopped, or somebody else has taken it."""


def directory() -> Path:
    """Where uploads and files of refused rows are kept."""
    return Path(settings.DATA_DIR) / "imports"


def errors_path(one: Import) -> Path:
    """The file of refused rows; there is none while `errors_bytes` is 0."""
    ending = one.plan.get("shape", {}).get("format", "csv")
    return directory() / f"{one.pk}.refused.{ending}"


# Who works on it


def claim_next(*, now: datetime) -> Import | None:
    """Take the next import that waits, or that a dead worker has left."""
    left = Q(status=Status.RUNNING, claimed_until__lt=now)
    waiting = Import.objects.filter(Q(status=Status.QUEUED) | left, is_upload=True)
    # Those that waited longest, so that a long one does not keep short ones waiting.
    turn = F("claimed_until").asc(nulls_first=True)
    with transaction.atomic():
        for one in claim(waiting.order_by(turn, "pk"), 1):
            return take(one, now=now)
    return None


def take(one: Import, *, now: datetime) -> Import:
    """Write the caller's name on an import whose row the caller has locked."""
    one.claim = uuid.uuid4()
    one.claimed_by = who_we_are()
    one.claimed_until = now + LEASE
    one.status = Status.RUNNING
    one.started_at = one.started_at or now
    one.ended_at, one.error = None, ""
    one.save()
    return one


def who_we_are() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"[:255]


def is_held(one: Import, *, now: datetime) -> bool:
    """Whether somebody who lives works on it. A dead process of this machine does not.

    A process of another machine counts as living until its lease is over.
    """
    if one.status != Status.RUNNING or one.claimed_until is None:
        return False
    host, _, number = one.claimed_by.rpartition(":")
    if host == socket.gethostname() and number.isdigit():
        with suppress(PermissionError):
            try:
                os.kill(int(number), 0)
            except ProcessLookupError:
                return False
    return one.claimed_until > now


def let_go(one: Import) -> None:
    """Put an import back, for the next worker to go on with."""
    Import.objects.filter(pk=one.pk, claim=one.claim, status=Status.RUNNING).update(
        status=Status.QUEUED, claim=None, claimed_until=database_now()
    )


# Work


def _never() -> bool:
    return False


def work_on(
    held: Import,
    *,
    stop: Callable[[], bool] = _never,
    told: Callable[[Import], None] | None = None,
) -> None:
    """Import what is left of a file that the caller has taken, or until `stop`.

    Ends with the import finished, failed with a sentence, or (stopped) still running.
    Raises only what is no fault of the file: a database that is away.
    """
    try:
        _work_on(held, stop, told)
    except Lost:
        held.refresh_from_db()
    except UserError as error:
        _fail(held, error.message)
    except FileNotFoundError:
        _fail(held, f"The file {held.path} is gone. Put it back and go on.")
    except OSError as error:
        _fail(held, f"The file cannot be read or written: {error.strerror}.")
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        held.refresh_from_db(fields=["line"])
        logger.exception("imports.failed", id=held.pk, line=held.line)
        _fail(
            held,
            f"Importing failed behind line {held.line:,}. Whoever runs this "
            "installation finds the cause in its log. What came before is in.",
        )


def _fail(held: Import, sentence: str) -> None:
    Import.objects.filter(pk=held.pk, claim=held.claim).update(
        status=Status.FAILED,
        error=sentence,
        claim=None,
        claimed_until=None,
        ended_at=database_now(),
    )
    held.refresh_from_db()


def _work_on(
    held: Import, stop: Callable[[], bool], told: Callable[[Import], None] | None
) -> None:
    plan = plans.parse(held.plan)
    path = Path(held.path)
    if path.stat().st_size != held.size:
        raise Unreadable(
            "The file has changed since it was first read. Import it as a new one: "
            "rows that are in already are told as duplicates."
        )
    if not held.digest:
        held.digest = digest_of(path)
        Import.objects.filter(pk=held.pk).update(digest=held.digest)
    rows = Rows(path, plan.shape, offset=held.offset, line=held.line)
    try:
        worker = _Worker(held, plan, rows)
        for batch in worker.batches():
            if stop():
                return
            now_at = worker.write(batch)
            if told is not None:
                told(now_at)
    finally:
        rows.close()
    done = Import.objects.filter(pk=held.pk, claim=held.claim, status=Status.RUNNING)
    if not done.update(
        status=Status.FINISHED,
        read_bytes=held.size,
        claim=None,
        claimed_until=None,
        ended_at=database_now(),
    ):
        raise Lost
    held.refresh_from_db()


@dataclass(slots=True)
class Batch:
    """Some rows, and where the file goes on behind them."""

    rows: list[Row] = field(default_factory=list)
    blank: int = 0
    offset: int = 0
    line: int = 0
    read_bytes: int = 0


@dataclass(slots=True)
class Outcome:
    """What became of a batch. `refused`: row, code, field, message, id."""

    imported: int = 0
    duplicates: int = 0
    refused: list[tuple[Row, str, str, str, str]] = field(default_factory=list)


class Recorder:
    """Rows → the database, through the doors that the API uses as well."""

    def __init__(self, plan: Plan, header: list[str], *, source: Any, digest: str):
        self.plan = plan
        self.source = source
        self.mapper = Mapper(plan, header, digest=digest)
        self._names: set[str] = set()
        self._known: dict[tuple[str, str], str] = {}

    def record(
        self, rows: Sequence[Row], *, now: datetime, keep_rejected: bool
    ) -> tuple[Outcome, list[tuple[Row, Any, Any]]]:
        """Call inside a transaction. Also returns each row with its item and result,
        for those who want to show them."""
        outcome = Outcome()
        self._learn(rows)
        sent: list[tuple[Row, Any]] = []
        unread: list[tuple[Row, Refusal]] = []
        for row in rows:
            try:
                sent.append((row, self.mapper.item_of(row, self._known)))
            except Refusal as refusal:
                unread.append((row, refusal))
                place = self.plan.column_of(refusal.field)
                id = "" if self.plan.is_of_customers else self.mapper.derived_id(row)
                outcome.refused.append((row, refusal.code, place, refusal.message, id))
        shown: list[tuple[Row, Any, Any]] = [(row, None, one) for row, one in unread]
        if sent and self.plan.is_of_customers:
            shown += self._upsert(sent, outcome, now=now)
        elif sent:
            shown += self._record(sent, outcome, now=now, keep_rejected=keep_rejected)
        if unread and keep_rejected and not self.plan.is_of_customers:
            self._keep(unread)
        outcome.refused.sort(key=lambda one: one[0].number)
        return outcome, shown

    def _learn(self, rows: Sequence[Row]) -> None:
        """Look up the types of fields, once for each name of an event."""
        if self.plan.is_native:
            return
        if self.plan.is_of_customers:
            if not self._names:
                self._names.add("")
                self._known = {("", code): type for code, type in known_types().items()}
            return
        names = {self.mapper.name_of(row)[:128] for row in rows} - self._names
        names = {name for name in names if not UNSTORABLE.search(name)}
        if not names:
            return
        fields = EventField.objects.filter(type__name__in=names)
        for name, code, type in fields.values_list("type__name", "code", "value_type"):
            self._known[name, code] = type
        self._names |= names

    def _record(
        self,
        sent: list[tuple[Row, Any]],
        outcome: Outcome,
        *,
        now: datetime,
        keep_rejected: bool,
    ) -> Iterator[tuple[Row, Any, Any]]:
        kind = (
            Kind.SYSTEM
            if self.plan.kind == Import.Kind.SYSTEM_EVENTS
            else Kind.CUSTOMER
        )
        items = [item for _, item in sent]
        recorded = record_events(
            items, source=self.source, kind=kind, now=now, keep_rejected=keep_rejected
        )
        outcome.imported = recorded.accepted
        outcome.duplicates = recorded.duplicates
        in_now = []
        for (row, _), result in zip(sent, recorded.results, strict=True):
            if result.status == REJECTED:
                place = self.plan.column_of(result.field)
                id = result.id or self.mapper.derived_id(row)
                outcome.refused.append((row, result.code, place, result.message, id))
            elif self.mapper.is_correction(row):
                in_now.append(result.id)
        if in_now:
            # They were kept when they were refused, and need nobody any more.
            RejectedEvent.objects.filter(
                status=RejectedEvent.Status.OPEN,
                source=self.source,
                kind=kind,
                external_id__in=in_now,
            ).update(status=RejectedEvent.Status.REPLAYED, replayed_at=now)
        return (
            (row, item, result)
            for (row, item), result in zip(sent, recorded.results, strict=True)
        )

    def _upsert(
        self, sent: list[tuple[Row, Any]], outcome: Outcome, *, now: datetime
    ) -> Iterator[tuple[Row, Any, Any]]:
        done = upsert_customers(
            [item for _, item in sent], origin=self.source.name, now=now
        )
        touched = [
            result.external_id for result in done.results if result.status == "updated"
        ]
        changed = (
            {one for (one,) in fetch_all(CHANGED, [touched, now, now, now])}
            if touched
            else set()
        )
        for (row, _), result in zip(sent, done.results, strict=True):
            if result.status == "rejected":
                first = result.errors[0]
                outcome.refused.append(
                    (
                        row,
                        first.code,
                        self.plan.column_of(first.field),
                        " ".join(error.message for error in result.errors),
                        "",
                    )
                )
            elif result.status == "created" or result.external_id in changed:
                outcome.imported += 1
            else:
                outcome.duplicates += 1
                result.status = DUPLICATE  # type: ignore[assignment]
        return (
            (row, item, result)
            for (row, item), result in zip(sent, done.results, strict=True)
        )

    def _keep(self, unread: list[tuple[Row, Refusal]]) -> None:
        kind = (
            Kind.SYSTEM
            if self.plan.kind == Import.Kind.SYSTEM_EVENTS
            else Kind.CUSTOMER
        )
        RejectedEvent.objects.bulk_create(
            [
                RejectedEvent(
                    source=self.source,
                    kind=kind,
                    format=Format.UNREADABLE,
                    external_id=self.mapper.derived_id(row),
                    payload=json.dumps(row.raw.decode("utf-8", "backslashreplace")),
                    code=refusal.code,
                    field=self.plan.column_of(refusal.field)[:255],
                    message=refusal.message,
                )
                for row, refusal in unread
            ]
        )


# Which of these customers something was changed of, at this very moment. What a row
# tells that was known already changes nothing, and is told as a duplicate.
CHANGED = """
    SELECT customer.external_id
      FROM customers_customer AS customer
     WHERE customer.external_id = ANY(%s)
       AND (customer.updated_at = %s
            OR EXISTS (SELECT FROM customers_consent AS consent
                        WHERE consent.customer_id = customer.id
                          AND consent.changed_at = %s)
            OR EXISTS (SELECT FROM customers_device AS device
                        WHERE device.customer_id = customer.id
                          AND device.created_at = %s))
"""


class _Worker:
    """One process's hold on one import."""

    def __init__(self, held: Import, plan: Plan, rows: Rows) -> None:
        self._held = held
        self._rows = rows
        if unknown := _unknown_columns(plan, rows):
            raise Unreadable(
                f"The column “{unknown}” is not in the plan of this import. Import the "
                "file as a new one."
            )
        self._recorder = Recorder(
            plan, rows.header, source=held.source, digest=held.digest
        )
        self._refused = RefusedRows(errors_path(held), plan.shape, rows.header)

    def batches(self) -> Iterator[Batch]:
        rows = self._rows
        blank = 0
        batch = Batch()
        for row in rows:
            batch.rows.append(row)
            if len(batch.rows) == BATCH:
                yield self._closed(batch, blank)
                blank = rows.blank
                batch = Batch()
        if batch.rows or rows.blank > blank:
            yield self._closed(batch, blank)

    def _closed(self, batch: Batch, blank: int) -> Batch:
        rows = self._rows
        batch.blank = rows.blank - blank
        batch.offset, batch.line = rows.offset, rows.line
        batch.read_bytes = rows.read_bytes
        return batch

    def write(self, batch: Batch) -> Import:
        """What the batch brings and how far the file is read: both, or neither."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with transaction.atomic():
                    return self._write(batch, now=database_now())
            except OperationalError as error:
                deadlock = sqlstate(error) == DEADLOCK
                if not deadlock or attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _write(self, batch: Batch, *, now: datetime) -> Import:
        held = self._held
        # Locked, so that nobody takes it or stops it while its batch is written.
        current = Import.objects.select_for_update().get(pk=held.pk)
        if current.claim != held.claim or current.status != Status.RUNNING:
            raise Lost
        outcome, _ = self._recorder.record(
            batch.rows, now=now, keep_rejected=current.rejected < KEPT_REJECTED
        )
        self._refused.clear()
        for row, code, place, message, id in outcome.refused:
            self._refused.add(row, code=code, field=place, message=message, id=id)
        current.rows += len(batch.rows)
        current.imported += outcome.imported
        current.duplicates += outcome.duplicates
        current.rejected += len(outcome.refused)
        current.blank += batch.blank
        current.offset, current.line = batch.offset, batch.line
        current.read_bytes = min(batch.read_bytes, current.size)
        current.errors_bytes = self._refused.write(committed=current.errors_bytes)
        current.claimed_until = now + LEASE
        current.save(
            update_fields=[
                "rows",
                "imported",
                "duplicates",
                "rejected",
                "blank",
                "offset",
                "line",
                "read_bytes",
                "errors_bytes",
                "claimed_until",
            ]
        )
        return current


def _unknown_columns(plan: Plan, rows: Rows) -> str:
    if plan.shape.format != "csv":
        return ""
    known = {column.name for column in plan.columns}
    return next(
        (one for one in rows.header if one not in known and one not in OURS), ""
    )

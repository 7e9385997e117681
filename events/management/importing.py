"""What the commands that import files have in common."""

from __future__ import annotations

import shutil
import time
from abc import abstractmethod
from argparse import ArgumentParser
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError
from django.db import OperationalError, transaction
from django.utils import timezone

from events.importing import desk, run
from events.importing import plan as plans
from events.importing.plan import TYPES, Plan
from events.importing.preview import NEW, ROWS, Shown, preview
from events.importing.reading import DELIMITERS, ENCODINGS, digest_of, look_at
from events.models import Import, Source
from smartcomm.core.errors import Several, UserError

#: How often progress is told.
EVERY = timedelta(seconds=2)

NAMED = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}


class ImportCommand(BaseCommand):
    """Reads what is asked, calls the operation, and tells how far it is."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="CSV or NDJSON, also with gzip")
        parser.add_argument(
            "--source", required=True, help="who tells us; made if it does not exist"
        )
        parser.add_argument(
            "--map",
            action="append",
            default=[],
            metavar="COLUMN=FIELD[:TYPE]",
            help="where a column goes: --map 'Order ID=context.order_id:text'. Types: "
            + ", ".join(one for one in TYPES if one),
        )
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="FIELD=VALUE",
            help="a value for rows that have none: --set 'name=Order paid'",
        )
        parser.add_argument(
            "--skip", action="append", default=[], metavar="COLUMN", help="leave it out"
        )
        parser.add_argument("--format", choices=["csv", "ndjson"], help="if not seen")
        parser.add_argument(
            "--delimiter", help=f"of CSV: {', '.join(NAMED)}, or the character itself"
        )
        parser.add_argument("--encoding", choices=list(ENCODINGS))
        parser.add_argument(
            "--time-zone", help="of times without an offset, such as Europe/Berlin"
        )
        parser.add_argument(
            "--time-format",
            help="how times are written, if not in ISO 8601: '%%d.%%m.%%Y %%H:%%M'",
        )
        parser.add_argument(
            "--decimal-comma", action="store_true", help="numbers are written 49,90"
        )
        parser.add_argument(
            "--errors", type=Path, help="copy the refused rows there at the end"
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="show what would become of the first rows, and change nothing",
        )
        parser.add_argument(
            "--rows", type=int, default=ROWS, help=f"for --dry-run; {ROWS} unless told"
        )

    def plan_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """What else the plan of this command is told."""
        return {}

    @abstractmethod
    def kind_of(self, options: dict[str, Any]) -> str: ...

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self._handle(options)
        except Several as error:
            lines = "\n".join(f"  {one.message}" for one in error.errors)
            raise CommandError(f"It cannot be imported like this:\n{lines}") from error
        except UserError as error:
            raise CommandError(error.message) from error
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}.") from error
        except OperationalError as error:
            raise CommandError(
                f"The database is away ({str(error).strip()}). Run the same command "
                "again: it goes on where it stopped."
            ) from error

    def _handle(self, options: dict[str, Any]) -> None:
        path: Path = options["file"].resolve()
        source = self._source(options["source"])
        sample, plan = self._plan(path, options)
        plans.checked(plan)
        if options["dry_run"]:
            with transaction.atomic():
                source.save()
                self._preview(path, plan, sample, source, options["rows"])
                transaction.set_rollback(True)
            return
        source.save()
        digest = digest_of(path)
        found = desk.find_or_make(path, plan, source=source, digest=digest)
        one = desk.take_now(found, now=timezone.now())
        if one.rows:
            self.stderr.write(
                f"Going on behind line {one.line:,}: {self._numbers(one)}."
            )
        self._work(one)
        one.refresh_from_db()
        if options["errors"] and one.errors_bytes:
            self._copy_refused(one, options["errors"])
        if one.status != Import.Status.FINISHED:
            raise CommandError(one.error or f"The import is {one.status}.")
        self.stdout.write(f"{self._numbers(one)}.")
        if one.rejected:
            where = options["errors"] or run.errors_path(one)
            self.stdout.write(
                f"The rejected rows are in {where}: correct them and import that file."
            )

    def _source(self, name: str) -> Source:
        name = name.strip()
        if not 0 < len(name) <= 128:
            raise CommandError("The name of a source has 1 to 128 characters.")
        return Source.objects.filter(name=name).first() or Source(name=name)

    def _plan(self, path: Path, options: dict[str, Any]) -> tuple[desk.Sample, Plan]:
        delimiter = options["delimiter"] or ""
        delimiter = NAMED.get(delimiter, delimiter)
        if delimiter and delimiter not in DELIMITERS:
            raise CommandError(f"--delimiter is one of {', '.join(NAMED)}.")
        shape = look_at(
            path,
            format=options["format"] or "",
            encoding=options["encoding"] or "",
            delimiter=delimiter,
        )
        sample = desk.Sample(path, shape)
        more = self.plan_options(options)
        targets, types = _mapping(options["map"])
        targets |= dict.fromkeys(options["skip"], "")
        constants = dict(_pair(text, "--set") for text in options["set"])
        plan = desk.make_plan(
            self.kind_of(options),
            sample,
            targets=targets,
            types=types,
            constants=constants,
            time_zone=options["time_zone"],
            time_format=options["time_format"],
            decimal_comma=options["decimal_comma"],
            **more,
        )
        return sample, plan

    def _work(self, one: Import) -> None:
        told_at, before = time.monotonic(), one.rows
        last = told_at

        def told(now_at: Import) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < EVERY.total_seconds():
                return
            last = now
            rate = (now_at.rows - before) / (now - told_at)
            self.stderr.write(
                f"{now_at.percent:3} %  {self._numbers(now_at)}  {rate:,.0f} rows/s"
            )

        try:
            run.work_on(one, told=told)
        except KeyboardInterrupt:
            run.let_go(one)
            raise CommandError(
                "Stopped. Run the same command again: it goes on where it stopped."
            ) from None

    def _numbers(self, one: Import) -> str:
        blank = f" ({one.blank:,} blank lines ignored)" if one.blank else ""
        return (
            f"{one.rows:,} rows read = {one.imported:,} imported + "
            f"{one.duplicates:,} duplicates + {one.rejected:,} rejected{blank}"
        )

    def _copy_refused(self, one: Import, target: Path) -> None:
        with run.errors_path(one).open("rb") as kept, target.open("wb") as copy:
            shutil.copyfileobj(kept, copy)
            copy.truncate(one.errors_bytes)

    def _preview(
        self, path: Path, plan: Plan, sample: desk.Sample, source: Source, most: int
    ) -> None:
        shape = plan.shape
        told = f"{shape.format.upper()}, {ENCODINGS[shape.encoding]}"
        if shape.format == "csv":
            told += f", {DELIMITERS[shape.delimiter]} between fields"
        self.stdout.write(f"{told}{', gzip' if shape.is_gzip else ''}")
        for column in plan.columns:
            kind = TYPES[column.type] if column.type else column.looks
            target = f"{column.target} ({kind})" if kind else column.target
            self.stdout.write(f"  {column.name} → {target if column.target else '–'}")
        for target, value in plan.constants.items():
            self.stdout.write(f"  every row: {target} = {value}")
        shown = preview(
            plan,
            sample.header,
            sample.rows[:most],
            source=source,
            digest=digest_of(path),
            now=timezone.now(),
        )
        for row in shown:
            self.stdout.write(_line_of(row))
        self.stdout.write("Nothing was changed.")


def _line_of(row: Shown) -> str:
    if row.message:
        return f"line {row.number}: REJECTED {row.code}: {row.message}"
    word = "new" if row.status == NEW else "duplicate"
    return f"line {row.number}: {word} {plans.in_short(row.item)}"


def _mapping(given: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """--map's → column → field, and column → type."""
    targets, types = {}, {}
    for text in given:
        name, target = _pair(text, "--map")
        target, _, type = target.partition(":")
        targets[name] = target
        if type:
            types[name] = type
    return targets, types


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = (
        text.rpartition("=") if option == "--map" else (text.partition("="))
    )
    if not equals or not name.strip() or not value.strip():
        raise CommandError(f"“{text}” is not understood: write {option} 'this=that'.")
    return name.strip(), value.strip()

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from events.management.importing import ImportCommand
from events.models import Import


class Command(ImportCommand):
    help = (
        "Import a file of events: CSV or NDJSON, also with gzip. Run again after "
        "whatever stopped it, it goes on where it was; a file that was imported before "
        "gives duplicates."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--system", action="store_true", help="they are system events"
        )
        parser.add_argument(
            "--id-column",
            help="the column with the ID of the event: short for --map 'COLUMN=id'",
        )
        parser.add_argument(
            "--triggers",
            action="store_true",
            help="let campaigns answer them. Otherwise they are backfill: stored and "
            "counted in segments, and nothing is sent",
        )

    def kind_of(self, options: dict[str, Any]) -> str:
        if options["system"]:
            return Import.Kind.SYSTEM_EVENTS
        return Import.Kind.EVENTS

    def plan_options(self, options: dict[str, Any]) -> dict[str, Any]:
        if options["id_column"]:
            options["map"].append(f"{options['id_column']}=id")
        return {"triggers": options["triggers"]}

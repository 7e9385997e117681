from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from events.management.importing import ImportCommand
from events.models import Import


class Command(ImportCommand):
    help = (
        "Import a file of customers: CSV or NDJSON, also with gzip. They are created "
        "or updated; only what a row names changes, and an empty field changes nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--date-format", help="how birth dates are written: '%%d.%%m.%%Y'"
        )

    def kind_of(self, options: dict[str, Any]) -> str:
        return Import.Kind.CUSTOMERS

    def plan_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"date_format": options["date_format"]}

"""Read campaigns from files that `export_campaigns` has written."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from campaigns.exchange import read
from smartcomm.core.errors import Several, UserError
from smartcomm.core.strict_json import decode


class Command(BaseCommand):
    help = (
        "Make a draft of each file; a file that is wrong is told, and no other spoilt."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("files", nargs="+", type=Path)

    def handle(self, *args: Any, files: list[Path], **how: Any) -> None:
        wrong = 0
        for path in files:
            try:
                campaign = read(decode(path.read_bytes()))
            except Several as several:
                errors = [error.message for error in several.errors]
            except UserError as error:
                errors = [error.message]
            except OSError as error:
                errors = [f"It cannot be read: {error.strerror}."]
            else:
                self.stdout.write(f"{path}: “{campaign}” is a draft now.")
                continue
            wrong += 1
            self.stderr.write(f"{path}: {' '.join(errors)}")
        if wrong:
            raise CommandError(f"{wrong} of {len(files)} files were not read.")

from __future__ import annotations

import re
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management import BaseCommand, CommandError
from django.utils import timezone

from events.keys import find_key, rotate_key
from smartcomm.core.errors import UserError

UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Command(BaseCommand):
    help = (
        "Make a key to replace another one, and print it: nothing else comes on "
        "standard output. The old key works until the overlap is over."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("prefix", help="how the old key begins: sck_Ab3dE6gH")
        parser.add_argument(
            "--overlap",
            default="24h",
            help="how long the old key goes on: now, 30m, 24h (the default), 7d",
        )

    def handle(self, *args: Any, prefix: str, overlap: str, **options: Any) -> None:
        now = timezone.now()
        try:
            old = find_key(prefix)
            _, secret = rotate_key(old, overlap=_span(overlap), now=now)
        except UserError as error:
            raise CommandError(error.message) from error
        ends = timezone.localtime(old.expires_at or now)
        self.stderr.write(
            f"{old} of {old.source} works until {ends:%Y-%m-%d %H:%M %Z}."
        )
        self.stdout.write(secret)


def _span(text: str) -> timedelta:
    if text == "now":
        return timedelta()
    read = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if read is None:
        raise CommandError(f"“{text}” is no overlap. Write now, 30m, 24h or 7d.")
    return timedelta(**{UNITS[read[2]]: int(read[1])})

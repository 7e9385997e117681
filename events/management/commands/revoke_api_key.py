from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management import BaseCommand, CommandError
from django.utils import timezone

from events.keys import TRUSTED_SECONDS, find_key, revoke_key
from smartcomm.core.errors import UserError


class Command(BaseCommand):
    help = "Refuse an API key from now on. It stays listed, and cannot be brought back."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("prefix", help="how the key begins: sck_Ab3dE6gH")

    def handle(self, *args: Any, prefix: str, **options: Any) -> None:
        try:
            key = find_key(prefix)
        except UserError as error:
            raise CommandError(error.message) from error
        if key.revoked_at is not None:
            self.stdout.write(f"{key} of {key.source} was revoked before.")
            return
        revoke_key(key, now=timezone.now())
        self.stdout.write(
            f"{key} of {key.source} is revoked. It is refused everywhere within "
            f"{TRUSTED_SECONDS:.0f} seconds."
        )

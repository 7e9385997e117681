from __future__ import annotations

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from events.keys import create_key
from events.models import Scope, Source
from smartcomm.core.errors import UserError


class Command(BaseCommand):
    help = (
        "Make an API key, and print it: nothing else comes on standard output. "
        "A source that does not exist is made."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--source", required=True, help="who will use the key")
        parser.add_argument(
            "--scope",
            required=True,
            action="append",
            help=f"what it may do, with commas between: {', '.join(Scope.values)}",
        )
        parser.add_argument("--name", default="", help="what the key is for")
        parser.add_argument(
            "--expires", help="when it ends: 2027-01-31, or 2027-01-31T10:00:00Z"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        scopes = [
            scope.strip() for given in options["scope"] for scope in given.split(",")
        ]
        name = options["source"].strip()
        if not 0 < len(name) <= 128:
            raise CommandError("The name of a source has 1 to 128 characters.")
        expires_at = _moment(options["expires"])
        try:
            with transaction.atomic():
                source, _ = Source.objects.get_or_create(name=name)
                _, secret = create_key(
                    source, scopes, name=options["name"], expires_at=expires_at
                )
        except UserError as error:
            raise CommandError(error.message) from error
        self.stdout.write(secret)


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None:
        raise CommandError(f"“{text}” is not a date. Write it as 2027-01-31.")
    if timezone.is_naive(moment):
        moment = timezone.make_aware(moment)
    if moment <= timezone.now():
        raise CommandError("The key would have expired already.")
    return moment

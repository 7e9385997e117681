import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management import BaseCommand
from django.utils import timezone

from smartcomm.site.demo.load import SIZES, SMALL, load_journey
from smartcomm.site.demo.progress import Progress


class Command(BaseCommand):
    help = "Load a year of a grocer's customers and their purchases, as backfill."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--size",
            choices=SIZES,
            default=SMALL,
            help="small: surveyed households, 14 weeks; full: everything",
        )

    def handle(self, *args: Any, size: str, **options: Any) -> None:
        progress = Progress(sys.stderr)
        loaded = load_journey(size=size, now=timezone.now(), progress=progress)
        progress.say(str(loaded))

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management import BaseCommand
from django.utils import timezone

from smartcomm.site.demo.demo import load_demo
from smartcomm.site.demo.load import SIZES, SMALL
from smartcomm.site.demo.progress import Progress


class Command(BaseCommand):
    help = "Load the demo data: customers, their purchases, segments and campaigns."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--size", choices=SIZES, default=SMALL)

    def handle(self, *args: Any, size: str, **options: Any) -> None:
        load_demo(size=size, now=timezone.now(), progress=Progress(sys.stderr))

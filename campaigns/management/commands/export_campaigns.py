"""Write campaigns as files, for version control or for another installation."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand
from django.utils.text import slugify

from campaigns.exchange import export
from campaigns.models import Campaign
from smartcomm.core.errors import Conflict


class Command(BaseCommand):
    help = "Write a JSON file for each campaign that is not archived."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("directory", type=Path, help="made if it is not there")
        parser.add_argument("--only", help="the name of one campaign")

    def handle(self, *args: Any, directory: Path, only: str | None, **how: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        campaigns = Campaign.objects.exclude(status=Campaign.Status.ARCHIVED)
        if only is not None:
            campaigns = campaigns.filter(name=only)
        for campaign in campaigns.order_by("pk").iterator(chunk_size=100):
            # The number keeps apart what slugs make the same.
            path = directory / f"{campaign.pk}-{slugify(campaign.name)[:80]}.json"
            try:
                told = export(campaign)
            except Conflict as error:
                self.stderr.write(error.message)
                continue
            text = json.dumps(told, ensure_ascii=False, indent=2, sort_keys=True)
            path.write_text(text + "\n", encoding="utf-8")
            self.stdout.write(f"{path}")

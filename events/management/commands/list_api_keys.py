from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management import BaseCommand, CommandError
from django.utils import timezone

from events.keys import in_words, state_of
from events.models import ApiKey, Source

HEADS = ("KEY", "SOURCE", "NAME", "SCOPES", "STATE", "LAST USED", "")


class Command(BaseCommand):
    help = (
        "List the API keys, newest first: whether they work, and when they were used."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--source", help="only the keys of this source")

    def handle(self, *args: Any, source: str | None, **options: Any) -> None:
        found = ApiKey.objects.select_related("source", "replaced_by")
        if source is not None:
            if not Source.objects.filter(name=source).exists():
                raise CommandError(f"There is no source “{source}”.")
            found = found.filter(source__name=source)
        now = timezone.now()
        lines = [HEADS]
        for key in found:
            state = state_of(key, now=now)
            used = key.last_used_at and f"{in_words(now - key.last_used_at)} ago"
            notes = [state.sentence, "Still used." if state.still_used else ""]
            lines.append(
                (
                    key.prefix,
                    key.source.name,
                    key.name or "-",
                    ",".join(key.scopes),
                    state.word if key.source.is_active else f"{state.word}, source off",
                    used or "never",
                    " ".join(note for note in notes if note),
                )
            )
        widths = [max(len(line[n]) for line in lines) for n in range(len(HEADS) - 1)]
        for line in lines:
            cells = [
                cell.ljust(width) for cell, width in zip(line, widths, strict=False)
            ]
            self.stdout.write("  ".join([*cells, line[-1]]).rstrip())

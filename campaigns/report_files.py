"""The report as a file: a number on each line, so that any spreadsheet can turn it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from segments.members import csv_line

HEADINGS = ("version", "step", "action", "what", "way", "count")
#: The mark that makes spreadsheets read what follows as Unicode.
UNICODE = "\ufeff"

Line = tuple[Any, ...]


def in_all(found: dict[str, Any]) -> Iterator[str]:
    """Lines of CSV: versions × steps × ways."""
    yield UNICODE + csv_line(HEADINGS)
    for numbers in found["versions"]:
        for line in _lines(numbers, numbers["version"], _actions(numbers)):
            yield csv_line(line)


def by_day(found: dict[str, Any]) -> Iterator[str]:
    """The same for each day; the report was made with days."""
    yield UNICODE + csv_line(("day", *HEADINGS))
    for numbers in found["versions"]:
        actions = _actions(numbers)
        for day in numbers["days"]:
            for line in _lines(day, numbers["version"], actions):
                yield csv_line((day["day"], *line))


def _actions(numbers: dict[str, Any]) -> dict[str, str]:
    return {step["key"]: step["action"] for step in numbers["steps"]}


def _lines(
    numbers: dict[str, Any], version: int, actions: dict[str, str]
) -> Iterator[Line]:
    for what in ("entered", "moved_in", "finished", "waiting", "failed", "moved_out"):
        if what in numbers:
            yield version, "", "", what.replace("_", " "), "", numbers[what]
    for step in numbers["steps"]:
        of_step = (version, step["key"], actions[step["key"]])
        for what in ("in", "moved_in", "waiting", "failed", "ended", "moved_out"):
            if what in step:
                yield *of_step, what.replace("_", " "), "", step[what]
        for way, count in step["out"].items():
            yield *of_step, "out", way, count
    for what, count in numbers["messages"].items():
        if what == "suppressed":
            for reason, number in count.items():
                yield version, "", "", "messages suppressed", reason, number
        elif count is not None:
            yield version, "", "", f"messages {what}", "", count

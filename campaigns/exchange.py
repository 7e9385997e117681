"""Campaigns as files: out of one installation, into another, or into version control.

A file is a JSON object: the drawing as in the API, with name and description, and
`segments`: what the segments are called that rules and steps speak of by number.
Numbers mean nothing elsewhere; coming in, segments are found by their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from campaigns.drawing import as_json, save_draft
from campaigns.models import Campaign, Version
from segments.models import Segment
from smartcomm.core.errors import Conflict, Invalid

FORMAT = "smartcomm.campaign/1"
DRAWING = ("trigger", "entry", "pace", "start", "steps")
KEYS = frozenset({"format", "name", "description", "segments", *DRAWING})
#: Events whose field “segment” is the number of one.
ABOUT_SEGMENTS = ("segment.entered", "segment.left")
#: What recorded events and calls say, in words that are not ours.
SAYINGS = ("context", "body")
NUMBER = re.compile(r"[0-9]{1,18}")
#: More than any drawing needs.
MAX_DEPTH = 100
MAX_NAME = 150
MAX_DESCRIPTION = 10_000


def export(campaign: Campaign) -> dict[str, Any]:
    """The campaign as a file says it: its draft, or what is at work."""
    version = (
        campaign.versions.exclude(status=Version.Status.SUPERSEDED)
        .order_by("-number")
        .first()
    )
    if version is None:
        raise Conflict(f"“{campaign}” has no drawing yet.")
    drawing = as_json(version)
    asked: set[int] = set()

    def ask(number: int) -> int:
        asked.add(number)
        return number

    _mapped(drawing, ask)
    names = dict(Segment.objects.filter(pk__in=asked).values_list("pk", "name"))
    return {
        "format": FORMAT,
        "name": campaign.name,
        "description": campaign.description,
        **drawing,
        "segments": {str(pk): names[pk] for pk in sorted(names)},
    }


def read(
    data: object, *, name: str = "", user: AbstractBaseUser | None = None, by: str = ""
) -> Campaign:
    """Make a campaign, as a draft, of what a file says; `name` instead of its own.

    Raises Invalid for what is no such file or asks for segments that are not here,
    Several for a drawing that is not understood, Conflict for a name that is taken.
    """
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise Invalid(
            f"This is no campaign. A file begins with “format”: “{FORMAT}”.",
            field="format",
        )
    if unknown := sorted(str(key) for key in data if key not in KEYS):
        raise Invalid(f"“{unknown[0]}” is not understood here.", field=unknown[0])
    name = _text(name or data.get("name"), "name", most=MAX_NAME)
    if not name:
        raise Invalid("The campaign has no name.", field="name")
    drawing = _renumbered(
        {key: data[key] for key in DRAWING if key in data},
        _numbers(data.get("segments", {})),
    )
    with transaction.atomic():
        if Campaign.objects.filter(name=name).exists():
            raise Conflict(
                f"There is a campaign “{name}” already. Choose another name.",
                field="name",
                code="name_taken",
            )
        campaign = Campaign.objects.create(
            name=name,
            description=_text(
                data.get("description", ""), "description", most=MAX_DESCRIPTION
            ),
            created_by=user,  # type: ignore[misc]
        )
        save_draft(campaign, drawing, user=user, by=by)
    return campaign


def _numbers(told: object) -> dict[int, int]:
    """Number in the file → number here, by the names of the segments."""
    if not isinstance(told, Mapping):
        raise Invalid("“segments” is an object: number → name.", field="segments")
    names: dict[int, str] = {}
    for number, name in told.items():
        if not NUMBER.fullmatch(str(number)):
            raise Invalid("“segments” is an object: number → name.", field="segments")
        names[int(str(number))] = _text(name, f"segments.{number}", most=MAX_NAME)
    here = dict(
        Segment.objects.filter(name__in=names.values()).values_list("name", "pk")
    )
    if missing := sorted(set(names.values()) - here.keys()):
        listed = ", ".join(f"“{one}”" for one in missing)
        raise Invalid(
            f"The campaign speaks of {listed}, which is not here. Make such a segment "
            "first; it is found by its name.",
            field="segments",
        )
    return {number: here[name] for number, name in names.items()}


def _renumbered(drawing: Any, numbers: Mapping[int, int]) -> Any:
    """The same with the numbers of this installation wherever a segment is named."""

    def here(number: int) -> int:
        if number not in numbers:
            raise Invalid(
                f"The campaign speaks of segment {number}, and “segments” does not "
                "say what it is called. Write it there: number → name.",
                field="segments",
            )
        return numbers[number]

    return _mapped(drawing, here)


def _mapped(value: Any, new: Callable[[int], int], depth: int = 0) -> Any:
    """A copy in which every number of a segment is another one.

    They stand under “segment” in rules and lists, and in the conditions on events that
    are about segments.
    """

    def renumbered(found: Any) -> Any:
        if isinstance(found, list):
            return [renumbered(one) for one in found]
        return new(found) if type(found) is int else found

    if depth > MAX_DEPTH:
        raise Invalid(f"The file is nested more than {MAX_DEPTH} deep.")
    match value:
        case dict():
            copy = {
                key: renumbered(one)
                if key == "segment"
                else one
                if key in SAYINGS
                else _mapped(one, new, depth + 1)
                for key, one in value.items()
            }
            if copy.get("event") in ABOUT_SEGMENTS:
                for line in (
                    copy["where"] if isinstance(copy.get("where"), list) else []
                ):
                    if isinstance(line, dict) and line.get("field") == "segment":
                        line["value"] = renumbered(line.get("value"))
            return copy
        case list():
            return [_mapped(one, new, depth + 1) for one in value]
    return value


def _text(value: object, name: str, *, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or "\x00" in value:
        raise Invalid(f"“{name}” is a text of up to {most} characters.", field=name)
    return value.strip()

"""Campaigns as files: out of one installation, into another, or into version control.

A file is a JSON object: the drawing as in the API, with name and description, and
`segments`: what the segments are called that rules and steps speak of by number.
Numbers mean nothing elsewhere; coming in, segments are found by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from campaigns.actions import ACTIONS
from campaigns.drawing import as_json, save_draft
from campaigns.models import Campaign, Version
from segments.models import Segment
from smartcomm.core.errors import Conflict, Invalid

FORMAT = "smartcomm.campaign/1"
KEYS = frozenset(
    {
        *("format", "name", "description", "segments"),
        *("trigger", "entry", "start", "steps"),
    }
)
#: Events whose field “segment” is the number of one.
ABOUT_SEGMENTS = ("segment.entered", "segment.left")
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
    asked = {
        pk
        for step in drawing["steps"]
        if step["action"] in ACTIONS
        for pk in ACTIONS[step["action"]].segments(step["config"])
    }
    asked |= _in_trigger(drawing["trigger"])
    names = dict(Segment.objects.filter(pk__in=asked).values_list("pk", "name"))
    return {
        "format": FORMAT,
        "name": campaign.name,
        "description": campaign.description,
        **drawing,
        "segments": {str(pk): names[pk] for pk in sorted(names)},
    }


def read(
    data: object, *, name: str = "", user: AbstractBaseUser | None = None
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
    drawing = {
        key: data[key] for key in ("trigger", "entry", "start", "steps") if key in data
    }
    numbers = _numbers(data.get("segments", {}))
    drawing = _renumbered(drawing, numbers)
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
        save_draft(campaign, drawing, user=user)
    return campaign


def _in_trigger(trigger: Mapping[str, Any]) -> set[int]:
    """The segments that the trigger, or an event it asks for, is about."""
    asked = {line.get("value") for line in _about_segments(trigger)}
    return {pk for pk in {*asked, trigger.get("segment")} if type(pk) is int}


def _about_segments(trigger: object) -> list[dict[str, Any]]:
    if not isinstance(trigger, Mapping) or trigger.get("event") not in ABOUT_SEGMENTS:
        return []
    where = trigger.get("where")
    return [
        line
        for line in (where if isinstance(where, list) else [])
        if isinstance(line, dict) and line.get("field") == "segment"
    ]


def _numbers(told: object) -> dict[int, int]:
    """Number in the file → number here, by the names of the segments."""
    if not isinstance(told, Mapping):
        raise Invalid("“segments” is an object: number → name.", field="segments")
    names: dict[int, str] = {}
    for number, name in told.items():
        if not str(number).isdecimal() or not isinstance(name, str):
            raise Invalid("“segments” is an object: number → name.", field="segments")
        names[int(str(number))] = name
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


def _renumbered(value: Any, numbers: Mapping[int, int]) -> Any:
    """The same with the numbers of this installation wherever a segment is named."""

    def number_of(found: object) -> object:
        return numbers.get(found, found) if type(found) is int else found

    renumbered = _mapped(deepcopy(value), number_of)
    for line in _about_segments(renumbered.get("trigger")):
        line["value"] = number_of(line.get("value"))
    return renumbered


def _mapped(value: Any, number_of: Callable[[object], object]) -> Any:
    match value:
        case dict():
            return {
                key: number_of(one) if key == "segment" else _mapped(one, number_of)
                for key, one in value.items()
            }
        case list():
            return [_mapped(one, number_of) for one in value]
    return value


def _text(value: object, name: str, *, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or "\x00" in value:
        raise Invalid(f"“{name}” is a text of up to {most} characters.", field=name)
    return value.strip()

"""A campaign as JSON ↔ the rows of a version.

The JSON is that of the product's API. It is read strictly: an unknown word is an
error with its place, and all errors are told at once. Whether the drawing is sound
as a whole is asked when it is published (graph.py, publish.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Max

from campaigns import approving, pace
from campaigns.actions import ACTIONS
from campaigns.graph import KEY
from campaigns.models import Campaign, Step, Version
from campaigns.triggers import TRIGGERS
from events.models import Kind
from smartcomm.core.errors import Conflict, Invalid, Several, UserError

MAX_STEPS = 200
MAX_ENTRY_DAYS = 3650


class DrawingInvalid(Invalid):
    """A drawing that is not understood."""

    code = "campaign_invalid"


def save_draft(
    campaign: Campaign,
    data: object,
    *,
    user: AbstractBaseUser | None = None,
    by: str = "",
) -> Version:
    """Make this the campaign's draft. What is published stays at work.

    Raises Several, a DrawingInvalid for each thing that is not understood, with the
    place of it; then nothing is changed. Who changes it is kept with the draft: the
    user, or whoever `by` names.
    """
    if campaign.status == Campaign.Status.ARCHIVED:
        raise Conflict("The campaign is archived, so it cannot be changed.")
    drawing = read(data)
    with transaction.atomic():
        Campaign.objects.select_for_update().get(pk=campaign.pk)
        version = campaign.versions.filter(status=Version.Status.DRAFT).first()
        if version is None:
            last = campaign.versions.aggregate(last=Max("number"))["last"] or 0
            version = Version(campaign=campaign, number=last + 1)
        author = user.get_username() if user else by
        if not version.pk or as_json(version) != drawing:
            approving.void(campaign, by=author, why="The draft was changed.")
            if author and author not in version.authors:
                version.authors = [*version.authors, author]
        trigger, entry = drawing["trigger"], drawing["entry"]
        version.trigger_kind = trigger["kind"]
        stored = TRIGGERS[trigger["kind"]].store(trigger)
        version.event_name, version.where = stored.event_name, stored.where
        version.max_age_hours = stored.max_age_hours
        version.trigger_config = stored.config
        version.entry_rule = entry["rule"]
        version.entry_days = entry.get("days")
        version.pace = drawing.get("pace")
        version.start = drawing["start"]
        version.save()
        version.steps.all().delete()
        Step.objects.bulk_create(
            [
                Step(
                    version=version,
                    key=step["key"],
                    action=step["action"],
                    config=step["config"],
                    next=step["next"],
                    position=position,
                )
                for position, step in enumerate(drawing["steps"])
            ]
        )
        campaign.save(update_fields=["updated_at"])
    return version


def as_json(version: Version) -> dict[str, Any]:
    """The drawing of a version: `read(as_json(version)) == as_json(version)`."""
    entry: dict[str, Any] = {"rule": version.entry_rule}
    if version.entry_rule == Version.Entry.INTERVAL:
        entry["days"] = version.entry_days
    return {
        "trigger": TRIGGERS[version.trigger_kind].told(version),
        "entry": entry,
        **({"pace": version.pace} if version.pace else {}),
        "start": version.start,
        "steps": [
            {
                "key": step.key,
                "action": step.action,
                "config": step.config,
                "next": step.next,
            }
            for step in version.steps.all()
        ],
    }


def read(data: object) -> dict[str, Any]:
    """The drawing, checked and complete. Raises Several."""
    reader = _Reader()
    drawing = reader.drawing(data)
    if reader.errors:
        raise Several(reader.errors)
    return drawing


class _Reader:
    def __init__(self) -> None:
        self.errors: list[UserError] = []

    def wrong(self, message: str, field: str) -> None:
        self.errors.append(DrawingInvalid(message, field=field))

    def drawing(self, data: object) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            self.wrong("A campaign is a JSON object.", "")
            return {}
        self.only(data, {"trigger", "entry", "pace", "start", "steps"}, "")
        steps = self.steps(data.get("steps", []))
        start = data.get("start")
        start = "" if start is None else start
        if not isinstance(start, str):
            self.wrong("“start” is the key of the first step.", "start")
        trigger = self.trigger(data.get("trigger"))
        return {
            "trigger": trigger,
            "entry": self.entry(data.get("entry", {"rule": "every_event"})),
            **self.pace(data.get("pace"), trigger.get("kind")),
            "start": start,
            "steps": steps,
        }

    def trigger(self, data: object) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            self.wrong(
                "A campaign needs a “trigger”, an object with its “kind”.",
                "trigger",
            )
            return {}
        trigger = TRIGGERS.get(str(data.get("kind")))
        if trigger is None:
            self.wrong(f"“kind” is one of {', '.join(TRIGGERS)}.", "trigger.kind")
            return {}
        try:
            return trigger.clean(data)
        except Several as several:
            for error in several.errors:
                self.wrong(error.message, _join("trigger", error.field))
        return {}

    def entry(self, data: object) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            self.wrong("“entry” is an object with “rule”.", "entry")
            return {}
        rule = data.get("rule")
        if rule not in Version.Entry:
            self.wrong(
                f"“rule” is one of {', '.join(Version.Entry.values)}.", "entry.rule"
            )
        if rule != Version.Entry.INTERVAL:
            self.only(data, {"rule"}, "entry")
            return {"rule": rule}
        self.only(data, {"rule", "days"}, "entry")
        days = data.get("days")
        if type(days) is not int or not 0 < days <= MAX_ENTRY_DAYS:
            self.wrong(
                f"“days” is a whole number from 1 to {MAX_ENTRY_DAYS}.", "entry.days"
            )
        return {"rule": rule, "days": days}

    def pace(self, data: object, kind: object) -> dict[str, Any]:
        if data is None:
            return {}
        trigger = TRIGGERS.get(str(kind))
        if trigger is not None and trigger.on != Kind.SYSTEM:
            self.wrong(
                "“pace” is for triggers that go through the whole base; this one "
                "starts a run for the customer of the event.",
                "pace",
            )
            return {}
        try:
            return {"pace": pace.read(data).as_json()}
        except Several as several:
            for error in several.errors:
                self.wrong(error.message, _join("pace", error.field))
        return {}

    def steps(self, data: object) -> list[dict[str, Any]]:
        if not isinstance(data, list) or len(data) > MAX_STEPS:
            self.wrong(f"“steps” is a list of up to {MAX_STEPS} steps.", "steps")
            return []
        steps = [self.step(step, f"steps.{i}") for i, step in enumerate(data)]
        seen: set[str] = set()
        for i, step in enumerate(steps):
            key = step.get("key")
            if not isinstance(key, str):
                continue  # Told already.
            if key in seen:
                self.wrong(f"Two steps have the key “{key}”.", f"steps.{i}.key")
            seen.add(key)
        return steps

    def step(self, data: object, at: str) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            self.wrong(
                "A step is an object with “key”, “action”, “config” and “next”.", at
            )
            return {}
        self.only(data, {"key", "action", "config", "next"}, at)
        key = data.get("key")
        if not isinstance(key, str) or not KEY.fullmatch(key):
            self.wrong(
                "“key” is a short word for the step: letters, digits, - and _, 64 at "
                "most.",
                f"{at}.key",
            )
        action = ACTIONS.get(str(data.get("action")))
        if action is None:
            self.wrong(f"“action” is one of {', '.join(ACTIONS)}.", f"{at}.action")
            return {"key": key}
        config: dict[str, Any] = {}
        try:
            config = action.clean(data.get("config", {}))
        except Several as several:
            for error in several.errors:
                self.wrong(error.message, _join(f"{at}.config", error.field))
        except UserError as error:
            self.wrong(error.message, _join(f"{at}.config", error.field))
        return {
            "key": key,
            "action": action.name,
            "config": config,
            "next": self.next(data.get("next", {}), f"{at}.next"),
        }

    def next(self, data: object, at: str) -> dict[str, str | None]:
        if not isinstance(data, Mapping):
            self.wrong("“next” is an object: way out → key of a step, or null.", at)
            return {}
        ways: dict[str, str | None] = {}
        for way, key in data.items():
            if not isinstance(way, str) or not (key is None or isinstance(key, str)):
                self.wrong(
                    "“next” is an object: way out → key of a step, or null.",
                    f"{at}.{way}",
                )
            else:
                ways[way] = key
        return ways

    def only(self, data: Mapping[Any, Any], known: set[str], at: str) -> None:
        for key in data:
            if key not in known:
                self.wrong(
                    f"“{key}” is not understood here; known are "
                    f"{', '.join(sorted(known))}.",
                    _join(at, str(key)),
                )


def _join(at: str, place: str) -> str:
    return ".".join(part for part in (at, place) if part)

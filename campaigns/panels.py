"""A drawing made ready to be shown: faces for its boxes, words, numbers.

Used by the editor, the report and the pages of runs; holds no request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from django.db.models import Count, Q

from campaigns.actions import ACTIONS
from campaigns.graph import Problem, Ways
from campaigns.models import Campaign, Run, Version
from campaigns.picture import (
    EDITING,
    READING,
    REPORTING,
    Arrow,
    Box,
    Measures,
    draw,
)
from messaging.models import Message
from segments import rules
from segments.describe import describe_where
from smartcomm.core.errors import UserError

Definition = dict[str, Any]

#: Ways that are good or bad news for who takes them; all others are neither.
TONES = {
    "positive": "good",
    "within": "good",
    "negative": "bad",
    "over": "bad",
    "not sent": "bad",
    "failed": "bad",
}

STATUS_TONES = {
    Campaign.Status.DRAFT: "plain",
    Campaign.Status.PUBLISHED: "good",
    Campaign.Status.PAUSED: "warn",
    Campaign.Status.ARCHIVED: "plain",
    Run.Status.WAITING: "info",
    Run.Status.FINISHED: "good",
    Run.Status.FAILED: "bad",
    "running": "info",
    Version.Status.SUPERSEDED: "plain",
}

ENTRY_WORDS = {
    "every_event": "enter at every event",
    "once": "enter once",
    "interval": "not enter again within {days} days",
}


def ways() -> Ways:
    """The ways out of a step, by its action, as the pure modules want them."""
    return {name: action.ways for name, action in ACTIONS.items()}


def way_label(action: str, way: str) -> str:
    """What a way out is called on the screen."""
    known = ACTIONS.get(action)
    return (known.way_labels.get(way) if known else None) or way.replace("_", " ")


def say(step: Mapping[str, Any]) -> str:
    """What a step does, in a few words; never fails, whatever its configuration."""
    action = ACTIONS.get(step["action"])
    if action is None:
        return f"“{step['action']}” is not an action."
    try:
        return action.describe(step.get("config") or {})
    except UserError as error:
        return error.message


def say_trigger(definition: Definition, *, verb: str = "") -> str:
    """“Order paid” occurs, and price is more than 50. (The verb: “occurs”.)"""
    trigger = definition.get("trigger") or {}
    if not trigger.get("event"):
        return "no event is chosen yet"
    said = f"“{trigger['event']}” {verb}".strip()
    where = trigger.get("where") or []
    if not where:
        return said
    try:
        return f"{said}, and {describe_where(rules.parse_where(where))}"
    except UserError as error:
        return f"{said}. {error.message}"


def say_entry(definition: Definition) -> str:
    """How often a customer may enter: “enter once”, after “may”."""
    entry = definition.get("entry") or {}
    words = ENTRY_WORDS.get(entry.get("rule", "every_event"), "")
    return words.format(days=entry.get("days") or "some")


def sentence(text: str) -> str:
    """With a capital first letter; the rest stays."""
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Figures:
    """The numbers of one step or of the trigger, for the report."""

    came_in: int = 0
    waiting: int = 0
    failed: int = 0
    out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Face:
    """A box as it is shown."""

    box: Box
    #: Its place in the reading order; 0 for the trigger and for marks.
    number: int = 0
    action: str = ""
    symbol: str = ""
    label: str = ""
    text: str = ""
    #: "error", "warning" or empty, and what it says.
    problem: str = ""
    problem_text: str = ""
    figures: Figures | None = None
    #: Numbers of those who left in a way that is not drawn, such as "not sent".
    left: tuple[tuple[str, int], ...] = ()
    #: Each way out in words, for those who do not see the arrows.
    leads: tuple[str, ...] = ()


@dataclass(frozen=True)
class WayFace:
    """An arrow as it is shown."""

    arrow: Arrow
    label: str
    tone: str
    is_open: bool
    number: int | None = None


@dataclass(frozen=True)
class Shown:
    """A drawing as it is shown; `mode` is reading, editing or reporting."""

    mode: str
    width: int
    height: int
    faces: list[Face]
    ways: list[WayFace]


MEASURES: dict[str, Measures] = {
    "reading": READING,
    "editing": EDITING,
    "reporting": REPORTING,
}


def show(
    definition: Definition,
    *,
    mode: str = "reading",
    problems: Iterable[Problem] = (),
    figures: Mapping[str, Figures] | None = None,
) -> Shown:
    """The picture of a drawing. `figures` are by step; the trigger's are under ""."""
    picture = draw(definition, ways=ways(), measures=MEASURES[mode])
    steps = {step["key"]: step for step in definition.get("steps") or []}
    numbers = {
        box.step: number
        for number, box in enumerate(
            (box for box in picture.boxes if box.kind == "step"), start=1
        )
    }
    by_step: dict[str, Problem] = {}
    for problem in problems:
        by_step.setdefault(problem.step, problem)

    shown_ways = []
    leads: dict[str, list[str]] = {}
    for arrow in picture.arrows:
        action = steps[arrow.source]["action"] if arrow.source else ""
        label = way_label(action, arrow.way) if arrow.source else ""
        kind, key, _ = arrow.target
        led = (steps[arrow.source].get("next") or {}) if arrow.source else {}
        goes = {
            "step": f"goes on to step {numbers.get(key)}",
            "back": f"goes back to {led.get(arrow.way)}",
        }.get(kind, "ends here")
        leads.setdefault(arrow.source, []).append(f"{label or 'Then'}: {goes}.")
        here = (figures or {}).get(arrow.source)
        shown_ways.append(
            WayFace(
                arrow,
                label,
                TONES.get(arrow.way, ""),
                is_open=kind == "end",
                number=here.out.get(arrow.way, 0) if here and arrow.source else None,
            )
        )

    faces = []
    for box in picture.boxes:
        if box.kind == "trigger":
            kind_of = (definition.get("trigger") or {}).get("kind")
            is_system = kind_of == Version.Trigger.SYSTEM_EVENT
            face = Face(
                box,
                action="trigger",
                symbol="campaign" if is_system else "bolt",
                label="System event occurred" if is_system else "Event occurred",
                text=sentence(
                    f"{say_trigger(definition)}. May {say_entry(definition)}."
                ),
            )
        elif box.kind == "step":
            step = steps[box.step]
            action = ACTIONS.get(step["action"])
            face = Face(
                box,
                number=numbers[box.step],
                action=step["action"],
                symbol=action.symbol if action else "help",
                label=action.label if action else step["action"],
                text=say(step),
            )
        else:
            led = steps[box.step].get("next") or {} if box.step else {}
            back = f"Back to {led.get(box.way)}"
            faces.append(Face(box, label=back if box.kind == "back" else "End"))
            continue
        own = by_step.get(box.step) if box.kind == "step" else None
        here = figures.get(box.step) if figures else None
        drawn = {arrow.way for arrow in picture.arrows if arrow.source == box.step}
        faces.append(
            replace(
                face,
                problem=own.level if own else "",
                problem_text=own.message if own else "",
                figures=here,
                left=tuple(
                    (way_label(face.action, way), number)
                    for way, number in (here.out if here else {}).items()
                    if way not in drawn
                ),
                leads=tuple(leads.get(box.step, ())),
            )
        )
    return Shown(mode, picture.width, picture.height, faces, shown_ways)


def figures_of(numbers: Mapping[str, Any]) -> dict[str, Figures]:
    """The numbers of one version of the report, by step."""
    figures = {
        step["key"]: Figures(
            came_in=step["in"],
            waiting=step["waiting"],
            failed=step["failed"],
            out=step["out"],
        )
        for step in numbers["steps"]
    }
    figures[""] = Figures(
        came_in=numbers["entered"],
        waiting=numbers["waiting"],
        failed=numbers["failed"],
    )
    return figures


@dataclass(frozen=True)
class Numbers:
    """What the list of campaigns shows of one."""

    entered: int = 0
    sent: int = 0


def numbers_of(campaign_ids: Iterable[int]) -> dict[int, Numbers]:
    """Entered and sent for several campaigns, in one query each for all of them."""
    ids = list(campaign_ids)
    # By version: that is what the index for reports begins with.
    entered: dict[int, int] = {}
    campaign_of = dict(
        Version.objects.filter(campaign__in=ids).values_list("pk", "campaign_id")
    )
    for version_id, count in (
        Run.objects.filter(version__in=campaign_of)
        .values_list("version_id")
        .annotate(count=Count("pk"))
        .order_by()
    ):
        campaign_id = campaign_of[version_id]
        entered[campaign_id] = entered.get(campaign_id, 0) + count
    sent = dict(
        Message.objects.filter(campaign_id__in=ids)
        .values_list("campaign_id")
        .annotate(count=Count("pk", filter=Q(status__in=Message.WENT_OUT)))
        .order_by()
    )
    return {pk: Numbers(entered.get(pk, 0), sent.get(pk, 0)) for pk in ids}


def campaign_names(campaign_ids: Iterable[int]) -> dict[int, str]:
    """Names for lists that only hold numbers, such as the journal of messages."""
    return dict(
        Campaign.objects.filter(pk__in=list(campaign_ids)).values_list("pk", "name")
    )

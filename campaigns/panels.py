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
from campaigns.pace import Pace
from campaigns.picture import (
    EDITING,
    READING,
    REPORTING,
    Arrow,
    Box,
    Measures,
    Picture,
    draw,
)
from campaigns.triggers import trigger_of
from messaging.models import Message
from smartcomm.core.errors import UserError

Definition = dict[str, Any]

#: Ways that are good or bad news for who takes them; all others are neither.
TONES = {
    "positive": "good",
    "within": "good",
    "negative": "bad",
    "over": "bad",
    "not_sent": "bad",
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


def say_trigger(definition: Mapping[str, Any], *, when: bool = False) -> str:
    """“Order paid”, and price is more than 50; `when`: “Order paid” occurs, and …"""
    trigger, told = trigger_of(definition)
    try:
        return trigger.when(told) if when else trigger.describe(told)
    except UserError as error:
        return error.message


def say_entry(definition: Mapping[str, Any]) -> str:
    """How often a customer may enter: “enter once”, after “may”."""
    entry = definition.get("entry") or {}
    words = ENTRY_WORDS.get(entry.get("rule", "every_event"), "")
    return words.format(days=entry.get("days") or "some")


def say_pace(definition: Mapping[str, Any]) -> str:
    """“500 an hour, longest interest first”; empty where there is no pace."""
    pace = definition.get("pace")
    return str(Pace(**pace)) if pace else ""


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
    #: Of all who came to the version; empty for the trigger, and where nobody did.
    share: str = ""
    #: Of the trigger: all who came to the version, moved there included.
    whole: int = 0


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
    #: Its ways out as they are shown.
    ways: tuple[WayFace, ...] = ()


@dataclass(frozen=True)
class WayFace:
    """An arrow as it is shown."""

    arrow: Arrow
    label: str
    tone: str
    is_open: bool
    number: int | None = None
    share: str = ""


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
    faces = _Faces(definition, picture, problems, figures or {})
    of_ways = [faces.of_way(arrow) for arrow in picture.arrows]
    return Shown(
        mode,
        picture.width,
        picture.height,
        [
            replace(faces.of_box(box), ways=_out_of(box, of_ways))
            for box in picture.boxes
        ],
        of_ways,
    )


def _out_of(box: Box, of_ways: list[WayFace]) -> tuple[WayFace, ...]:
    if box.kind not in ("trigger", "step"):
        return ()
    return tuple(way for way in of_ways if way.arrow.source == box.step)


class _Faces:
    """Words and numbers for the boxes and arrows of one picture."""

    def __init__(
        self,
        definition: Definition,
        picture: Picture,
        problems: Iterable[Problem],
        figures: Mapping[str, Figures],
    ) -> None:
        self.definition = definition
        self.figures = figures
        self.steps = {step["key"]: step for step in definition.get("steps") or []}
        steps = [box.step for box in picture.boxes if box.kind == "step"]
        self.numbers = {key: number for number, key in enumerate(steps, start=1)}
        self.arrows: dict[str, list[Arrow]] = {}
        for arrow in picture.arrows:
            self.arrows.setdefault(arrow.source, []).append(arrow)
        self.problems: dict[str, Problem] = {}
        for problem in problems:
            self.problems.setdefault(problem.step, problem)

    def of_box(self, box: Box) -> Face:
        if box.kind == "trigger":
            return self._trigger(box)
        if box.kind == "step":
            return self._step(box)
        if box.kind == "back":
            return Face(box, label=f"Back to {self._target(box.step, box.way)}")
        return Face(box, label="End")

    def _trigger(self, box: Box) -> Face:
        trigger, _ = trigger_of(self.definition)
        said, enter = say_trigger(self.definition), say_entry(self.definition)
        pace = say_pace(self.definition)
        pace = f"{sentence(pace)}. " if pace else ""
        return Face(
            box,
            action="trigger",
            symbol=trigger.symbol,
            label=trigger.label,
            text=f"{sentence(said)}. {pace}May {enter}.",
            figures=self.figures.get(""),
            leads=self._leads(""),
        )

    def _step(self, box: Box) -> Face:
        step = self.steps[box.step]
        action = ACTIONS.get(step["action"])
        problem = self.problems.get(box.step)
        figures = self.figures.get(box.step)
        drawn = {arrow.way for arrow in self.arrows.get(box.step, ())}
        return Face(
            box,
            number=self.numbers[box.step],
            action=step["action"],
            symbol=action.symbol if action else "help",
            label=action.label if action else step["action"],
            text=say(step),
            problem=problem.level if problem else "",
            problem_text=problem.message if problem else "",
            figures=figures,
            left=tuple(
                (way_label(step["action"], way), number)
                for way, number in (figures.out if figures else {}).items()
                if way not in drawn
            ),
            leads=self._leads(box.step),
        )

    def of_way(self, arrow: Arrow) -> WayFace:
        figures = self.figures.get(arrow.source) if arrow.source else None
        number = figures.out.get(arrow.way, 0) if figures else None
        return WayFace(
            arrow,
            self._label(arrow),
            TONES.get(arrow.way, ""),
            is_open=arrow.target[0] == "end",
            number=number,
            share=share(number or 0, self.figures[""].whole) if figures else "",
        )

    def _label(self, arrow: Arrow) -> str:
        if not arrow.source:
            return ""
        return way_label(self.steps[arrow.source]["action"], arrow.way)

    def _target(self, key: str, way: str) -> str:
        return str((self.steps[key].get("next") or {}).get(way))

    def _leads(self, key: str) -> tuple[str, ...]:
        """Where the ways of a box lead, for those who do not see the arrows."""
        said = []
        for arrow in self.arrows.get(key, ()):
            kind, target, _ = arrow.target
            if kind == "step":
                goes = f"goes on to step {self.numbers[target]}"
            elif kind == "back":
                goes = f"goes back to {self._target(arrow.source, arrow.way)}"
            else:
                goes = "ends here"
            said.append(f"{self._label(arrow) or 'Then'}: {goes}.")
        return tuple(said)


def share(part: int, whole: int) -> str:
    """So many per cent; never “0 %” or “100 %” of what is not exactly that."""
    if not whole:
        return ""
    percent = 100 * part / whole
    if 0 < percent < 1:
        return "< 1 %"
    if 99 < percent < 100:
        return "> 99 %"
    return f"{percent:.0f} %"


def figures_of(numbers: Mapping[str, Any]) -> dict[str, Figures]:
    """The numbers of one version of the report, by step."""
    # Rehearsals move nobody, and were kept before anybody could be moved.
    whole = numbers["entered"] + numbers.get("moved_in", 0)
    figures = {
        step["key"]: Figures(
            came_in=step["in"],
            waiting=step["waiting"],
            failed=step["failed"],
            out=step["out"],
            share=share(step["in"], whole),
        )
        for step in numbers["steps"]
    }
    figures[""] = Figures(
        came_in=numbers["entered"],
        waiting=numbers["waiting"],
        failed=numbers["failed"],
        whole=whole,
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

"""What stands beside the picture: one class for whatever can be clicked."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from django import forms
from django.http import Http404
from django.template.loader import render_to_string

from campaigns import editing, panels
from campaigns.actions import ACTIONS
from campaigns.actions.base import ANSWERS, ASKING
from campaigns.desk import Definition, Desk
from campaigns.forms import (
    KeyForm,
    NameForm,
    TriggerForm,
    read_config,
    step_form,
    trigger_initial,
)
from campaigns.graph import arrows, before
from campaigns.picture import ways_out
from campaigns.triggers import event_of, trigger_of
from campaigns.triggers.event import EVENT_INPUT
from campaigns.webhooks.answers import fields_seen
from customers.models import Attribute
from events.models import EventField, EventType, Kind
from messaging.models import Template
from messaging.render import FIELDS, VARIABLES
from segments.rules import FIELD_PATH
from smartcomm.core.errors import Conflict, UserError


@dataclass
class Panel:
    """What stands beside the picture: opened by GET, carried out by POST.

    Subclasses are one kind each. `data` is what was sent, and shown again as it was.
    """

    desk: Desk
    params: dict[str, str]
    data: Any = None
    wrong: list[str] = field(default_factory=list)
    #: Steps that nobody would come to any more, of which is asked what becomes of them.
    stranded: list[str] = field(default_factory=list)

    name: ClassVar[str]
    template: ClassVar[str]
    #: It is filled in, and comes back as it was when it could not be saved.
    is_form: ClassVar[bool] = True

    @property
    def step(self) -> str:
        """The step it is about, marked in the picture."""
        return self.params.get("step", "")

    @cached_property
    def answers(self) -> dict[str, list[str]]:
        """The steps before this one that ask systems outside, and what of their
        answers has been seen."""
        return {}

    @property
    def url(self) -> str:
        return self.desk.panel_url(self.name, **self.params)

    def context(self) -> dict[str, Any]:
        return {}

    def save(self) -> None:
        """Do it. Raises UserError, or Refused when the form itself says why not."""
        raise Http404

    def draw(self, definition: Definition, said: str) -> None:
        """Make this the drawing. Refused until it is told what becomes of steps that
        nobody would come to any more."""
        lost = editing.stranded(self.desk.definition, definition)
        listed = ", ".join(f"“{key}”" for key in lost)
        match self.data.get("stranded"):
            case "remove" if lost:
                definition = editing.drop(definition, lost, ways=panels.ways())
                said = f"{said} Removed: {listed}."
            case "keep" if lost:
                said = f"{said} Nobody comes to {listed} until it is connected again."
            case _ if lost:
                self.stranded = lost
                raise Conflict(f"Then nobody would come to {listed} any more.")
        self.desk.save(definition, said)

    @property
    def html(self) -> str:
        """The panel as a fragment."""
        return render_to_string(
            self.template,
            {"panel": self, "desk": self.desk, **self.context()},
            request=self.desk.request,
        )


class Refused(Exception):
    """The panel's form has errors; they are shown beside its fields."""


class NamePanel(Panel):
    name = "name"
    template = "campaigns/panels/name.html"

    @cached_property
    def form(self) -> NameForm:
        return NameForm(self.data, instance=self.desk.campaign)

    def context(self) -> dict[str, Any]:
        return {"form": self.form}

    def save(self) -> None:
        if not self.form.is_valid():
            # What was typed must not be shown as the campaign's name.
            self.desk.campaign.refresh_from_db()
            raise Refused
        self.desk.campaign.save(update_fields=["name", "description", "updated_at"])
        said = f"The campaign is called “{self.desk.campaign}”."
        self.desk.admin.log_change(self.desk.request, self.desk.campaign, said)
        self.desk.said = said


class TriggerPanel(Panel):
    name = "trigger"
    template = "campaigns/panels/trigger.html"

    @cached_property
    def form(self) -> TriggerForm:
        return TriggerForm(self.data, initial=trigger_initial(self.desk.definition))

    def context(self) -> dict[str, Any]:
        drawn = self.desk.draft or self.desk.published
        return {
            "form": self.form,
            "events_by_kind": events_by_kind(),
            "next_times": self.desk.next_times(drawn) if drawn else [],
        }

    def save(self) -> None:
        if not self.form.is_valid():
            raise Refused
        definition = self.form.definition(self.desk.definition)
        self.desk.save(definition, "The trigger is saved.")


class StepPanel(Panel):
    """An existing step."""

    name = "step"
    template = "campaigns/panels/step.html"

    @cached_property
    def drawn(self) -> dict[str, Any]:
        return editing.find(self.desk.definition, self.step)

    @cached_property
    def answers(self) -> dict[str, list[str]]:
        to = arrows(self.desk.definition["steps"])
        return _answers(self.desk, before(self.step, to))

    @cached_property
    def form(self) -> forms.Form:
        initial = {**self.drawn["config"], **_texts(self.params.get("template"))}
        return step_form(
            ACTIONS[self.drawn["action"]],
            self.desk.definition,
            key=self.step,
            answers=_answer_paths(self.answers),
            data=self.data,
            initial=initial,
        )

    @cached_property
    def key_form(self) -> KeyForm:
        return KeyForm(self.data, initial={"key": self.step}, prefix="step")

    @property
    def texts(self) -> list[tuple[str, Any]]:
        """What a message says, for those who only read: label, value."""
        return [
            (str(field.label), dict(choices).get(field.initial, field.initial))
            for field in self.form
            if field.initial
            for choices in [getattr(field.field, "choices", ())]
        ]

    def context(self) -> dict[str, Any]:
        action = ACTIONS.get(self.drawn["action"])
        if action is None:
            return {"drawn": self.drawn}
        return {
            "drawn": self.drawn,
            "sentence": panels.say(self.drawn),
            "key_form": self.key_form,
            **step_context(self, action.name, self.form),
        }

    def save(self) -> None:
        action = ACTIONS[self.drawn["action"]]
        config = read_config(action, self.form)
        if not self.key_form.is_valid() or config is None:
            raise Refused
        key = self.key_form.cleaned_data["key"]
        definition = editing.change(
            self.desk.definition,
            self.step,
            config=config,
            new_key=key,
            ways=panels.ways(),
        )
        self.draw(definition, f"Step “{key}” is saved.")


class AddPanel(Panel):
    """What shall come on a way: a new step, one that is there, or the end."""

    name = "add"

    @property
    def after(self) -> str:
        return self.params.get("after", "")

    @property
    def way(self) -> str:
        return self.params.get("way", "")

    @property
    def step(self) -> str:
        return ""

    @property
    def action(self) -> str:
        return self.params.get("action", "")

    @property
    def template(self) -> str:  # type: ignore[override]
        kind = "new" if self.action else "choose"
        return f"campaigns/panels/{kind}.html"

    @cached_property
    def answers(self) -> dict[str, list[str]]:
        to = arrows(self.desk.definition["steps"])
        return _answers(self.desk, {self.after, *before(self.after, to)})

    @cached_property
    def form(self) -> forms.Form:
        if self.action not in ACTIONS:
            raise Http404
        return step_form(
            ACTIONS[self.action],
            self.desk.definition,
            answers=_answer_paths(self.answers),
            data=self.data,
            initial=_texts(self.params.get("template")),
        )

    @property
    def place(self) -> str:
        """Where it will stand, in words."""
        return place_in_words(self.desk.definition, self.after, self.way)

    def context(self) -> dict[str, Any]:
        if self.action:
            return step_context(self, self.action, self.form)
        definition = self.desk.definition
        now = editing.leads_to(definition, self.after, self.way)
        return {
            "actions": [
                (action, self.desk.panel_url(self.name, **self.params, action=name))
                for name, action in ACTIONS.items()
                if name != "refresh_filter" or _has_filter(definition)
            ],
            "leads_to": now,
            "targets": [
                (step["key"], f"{step['key']}: {panels.say(step)}")
                for step in definition["steps"]
                if step["key"] != now and self._may_lead_to(step["key"])
            ],
        }

    def _may_lead_to(self, key: str) -> bool:
        try:
            editing.connect(
                self.desk.definition,
                after=self.after,
                way=self.way,
                to=key,
                ways=panels.ways(),
            )
        except UserError:
            return False
        return True

    def save(self) -> None:
        definition, form = self.desk.definition, self.form
        config = read_config(ACTIONS[self.action], form)
        if config is None:
            raise Refused
        key = editing.new_key(definition, self.action)
        step = {"key": key, "action": self.action, "config": config}
        definition = editing.insert(
            definition, step, after=self.after, way=self.way, ways=panels.ways()
        )
        self.draw(definition, f"Step “{key}” is added.")


class ConnectPanel(AddPanel):
    """Let a way lead to a step that is there, or to the end."""

    name = "connect"
    is_form = False

    @property
    def template(self) -> str:  # type: ignore[override]
        return "campaigns/panels/connect.html" if self.stranded else super().template

    def save(self) -> None:
        to = self.data.get("to", "")
        definition = editing.connect(
            self.desk.definition,
            after=self.after,
            way=self.way,
            to=to,
            ways=panels.ways(),
        )
        said = f"It leads to “{to}” now." if to else "It ends there now."
        self.draw(definition, f"{self.place[:1].upper()}{self.place[1:]}: {said}")


class RemovePanel(Panel):
    name = "remove"
    template = "campaigns/panels/remove.html"

    def context(self) -> dict[str, Any]:
        definition = self.desk.definition
        drawn = editing.find(definition, self.step)
        choices = []
        led = {key for key in (drawn.get("next") or {}).values() if key}
        for way in ways_out(drawn, panels.ways()):
            follower = (drawn.get("next") or {}).get(way)
            if follower is None:
                continue
            _, lost = editing.remove(
                definition, self.step, keep=way, ways=panels.ways()
            )
            choices.append(
                {
                    "way": way,
                    "label": panels.way_label(drawn["action"], way),
                    "follower": follower,
                    "lost": lost,
                }
            )
        if led:
            _, lost = editing.remove(
                definition, self.step, keep=None, ways=panels.ways()
            )
            choices.append({"way": "", "lost": lost})
        return {"drawn": drawn, "choices": choices, "sentence": panels.say(drawn)}

    def save(self) -> None:
        definition, lost = editing.remove(
            self.desk.definition,
            self.step,
            keep=self.data.get("keep") or None,
            ways=panels.ways(),
        )
        gone = ", ".join(f"“{key}”" for key in [self.step, *lost])
        word = "Steps" if lost else "Step"
        verb = "are" if lost else "is"
        self.desk.save(definition, f"{word} {gone} {verb} removed.")


class MovePanel(Panel):
    name = "move"
    template = "campaigns/panels/move.html"

    def context(self) -> dict[str, Any]:
        definition = self.desk.definition
        editing.find(definition, self.step)
        places = [("", "", "right after the trigger")]
        places += [
            (step["key"], way, place_in_words(definition, step["key"], way))
            for step in definition["steps"]
            if step["key"] != self.step
            for way in ways_out(step, panels.ways())
        ]
        return {
            "places": [
                (json.dumps([after, way]), words)
                for after, way, words in places
                if editing.leads_to(definition, after, way) != self.step
                and self._may_stand(after, way)
            ]
        }

    def _may_stand(self, after: str, way: str) -> bool:
        try:
            self._moved(after, way)
        except UserError:
            return False
        return True

    def _moved(self, after: str, way: str) -> Definition:
        return editing.move(
            self.desk.definition, self.step, after=after, way=way, ways=panels.ways()
        )

    def save(self) -> None:
        try:
            after, way = json.loads(self.data.get("to", ""))
        except ValueError as error:
            raise Conflict("Choose where the step shall stand.") from error
        self.draw(self._moved(after, way), f"Step “{self.step}” is moved.")


class UndoPanel(Panel):
    """Go back to what was drawn before the last click."""

    name = "undo"
    template = "campaigns/panels/none.html"
    is_form = False

    def save(self) -> None:
        try:
            definition = json.loads(self.data.get("definition", ""))
        except ValueError as error:
            raise Conflict("There is nothing to undo.") from error
        self.desk.save(definition, "Undone.")


PANELS: dict[str, type[Panel]] = {
    panel.name: panel
    for panel in (
        NamePanel,
        TriggerPanel,
        StepPanel,
        AddPanel,
        ConnectPanel,
        RemovePanel,
        MovePanel,
        UndoPanel,
    )
}


def open_panel(desk: Desk, what: str, *, data: Any = None) -> Panel:
    """The panel of this name, about what the address asks for."""
    if what not in PANELS:
        raise Http404
    params = {
        name: str(value)
        for name, value in desk.request.GET.items()
        if name in ("step", "after", "way", "action", "template")
    }
    return PANELS[what](desk, params, data)


def events_by_kind() -> dict[str, list[str]]:
    """The names of events that can start a campaign, by kind of trigger."""
    names: dict[str, list[str]] = {"event": [], "system_event": []}
    for name, kind in EventType.objects.values_list("name", "kind"):
        names["event" if kind == Kind.CUSTOMER else "system_event"].append(name)
    return names


def place_in_words(definition: Definition, after: str, way: str) -> str:
    """“after “mail” (Sent)”."""
    if not after:
        return "right after the trigger"
    step = editing.find(definition, after)
    return f"after “{after}”, way “{panels.way_label(step['action'], way)}”"


def step_context(panel: Panel, action: str, form: forms.Form) -> dict[str, Any]:
    """What the form of a step needs on its panel."""
    kind = ACTIONS[action]
    trigger, _ = trigger_of(panel.desk.definition)
    event = event_of(panel.desk.definition)
    channel = getattr(kind, "channel", None)
    context: dict[str, Any] = {
        "action": kind,
        "form": form,
        "event_input": EVENT_INPUT,
        "event": event,
        "form_template": [
            f"campaigns/panels/forms/{action}.html",
            "campaigns/panels/forms/plain.html",
        ],
    }
    if channel is not None:
        context |= {
            "channel": str(channel),
            "templates": Template.objects.filter(channel=channel).only("name"),
            "variables": variables(event, panel.answers, trigger.carries),
            "chosen_template": panel.params.get("template", ""),
        }
    elif kind.takes_values:
        context["variables"] = values(event, panel.answers, trigger.carries)
    if "event" in form.fields:
        context["events"] = EventType.objects.filter(kind=Kind.CUSTOMER)
    return context


def variables(
    event: str,
    answers: Mapping[str, list[str]],
    carries: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Groups of variables that a text may use, to be put in by a click. `carries`:
    the fields of an event that we record ourselves, and their labels."""
    return [
        _of_event(event, carries, lambda code: _variable(f"eventContext.{code}")),
        *_of_answers(answers, _variable),
        {
            "label": "about the customer",
            "is_text": True,
            "items": [(_variable(one.name), one.label) for one in VARIABLES]
            + [
                (_variable(f"attributes.{one.code}"), str(one))
                for one in Attribute.objects.all()
            ],
        },
    ]


def values(
    event: str,
    answers: Mapping[str, list[str]],
    carries: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Groups of `$field_code` that a value may be, to be put in by a click."""
    return [
        _of_event(event, carries, lambda code: f"${code}"),
        *_of_answers(answers, lambda code: f"${code}"),
    ]


def _of_event(
    event: str, carries: Mapping[str, str] | None, write: Callable[[str], str]
) -> dict[str, Any]:
    if carries is None:
        fields = EventField.objects.filter(type__name=event)
        carries = {
            one.code: str(one)
            for one in fields
            if one.value_type not in (EventField.Type.OBJECT, EventField.Type.LIST)
        }
    return {
        "label": f"from “{event}”" if event else "from the event",
        "items": [(write(code), label) for code, label in carries.items()],
        "empty": "No such event has been seen with a context yet.",
    }


def _of_answers(
    answers: Mapping[str, list[str]], write: Callable[[str], str]
) -> list[dict[str, Any]]:
    groups = []
    for step, paths in answers.items():
        example = write(f"{ANSWERS}.{step}.field")
        groups.append(
            {
                "label": f"from the answer of “{step}”",
                "items": [(write(f"{ANSWERS}.{step}.{path}"), path) for path in paths],
                "empty": f"It has not answered yet. Write {example} for a field of it.",
            }
        )
    return groups


def _answers(desk: Desk, steps: Collection[str]) -> dict[str, list[str]]:
    asking = [
        step["key"]
        for step in desk.definition["steps"]
        if step["key"] in steps
        and step["action"] == ASKING
        and FIELD_PATH.match(step["key"])
    ]
    return fields_seen(desk.campaign.pk, asking)


def _answer_paths(answers: Mapping[str, list[str]]) -> list[str]:
    return [
        f"{ANSWERS}.{step}.{path}" for step, paths in answers.items() for path in paths
    ]


def _variable(path: str) -> str:
    return f"{{{{ client.{path} }}}}"


def _texts(template_id: str | None) -> dict[str, Any]:
    """The texts of a saved template, to begin a step with."""
    if not template_id or not template_id.isascii() or not template_id.isdigit():
        return {}
    template = Template.objects.filter(pk=template_id).first()
    if template is None:
        return {}
    return {
        **{name: getattr(template, name) for name in FIELDS[template.channel]},
        "category": template.category.code if template.category else "",
        "missing": template.missing,
    }


def _has_filter(definition: Definition) -> bool:
    return any(step["action"] == "filter_customers" for step in definition["steps"])

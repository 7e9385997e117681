"""The forms of the campaign editor: its name, its trigger, and one step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from django import forms
from django.forms.widgets import Input
from unfold import widgets as unfold

from campaigns import declared
from campaigns.actions import ACTIONS, Action
from campaigns.actions.goal import GOAL_WHERE
from campaigns.drawing import MAX_ENTRY_DAYS
from campaigns.graph import KEY
from campaigns.models import Campaign, Version
from campaigns.pace_form import PaceForm
from campaigns.panels import say
from campaigns.triggers import TRIGGERS, Trigger, event_of
from campaigns.triggers.base import MAX_AGE_HOURS, TriggerFields
from campaigns.triggers.event import EVENT_INPUT, other_kind
from events.models import EventType, Kind
from segments.builder import RuleField, WhereField
from smartcomm.core.errors import Several, UserError

_LOOKS: list[tuple[type[forms.Widget], list[str]]] = [
    (forms.CheckboxInput, unfold.CHECKBOX_CLASSES),
    (forms.Textarea, unfold.TEXTAREA_CLASSES),
    (forms.Select, unfold.SELECT_CLASSES),
    (Input, unfold.INPUT_CLASSES),
]


class Dressed(forms.Form):
    """A form whose plain inputs look like those of the rest of the admin."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        dress(self)


def dress(form: forms.BaseForm) -> None:
    """Give the plain inputs of a form the look of the admin's."""
    for field in form.fields.values():
        widget = field.widget
        if isinstance(
            widget, forms.RadioSelect | forms.CheckboxSelectMultiple | forms.HiddenInput
        ):
            continue
        if isinstance(widget, forms.DateInput):
            widget.input_type = "date"
            widget.format = "%Y-%m-%d"
        elif isinstance(widget, forms.TimeInput):
            widget.input_type = "time"
            widget.format = "%H:%M"
        for kind, classes in _LOOKS:
            if isinstance(widget, kind):
                worn = widget.attrs.get("class", "").split()
                widget.attrs["class"] = " ".join(dict.fromkeys([*worn, *classes]))
                break


class NameForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Campaign
        fields = ("name", "description")
        widgets = {
            "description": forms.Textarea(attrs={"rows": 3}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        dress(self)


class TriggerForm(Dressed):
    """What starts the campaign, and how often a customer may enter.

    `initial` is made by `trigger_initial`; `definition` puts the answers into one.
    Beside it stand the fields of every kind of trigger; those of the kind that is
    chosen count.
    """

    kind = forms.ChoiceField(
        label="What starts it",
        choices=Version.Trigger.choices,
        widget=forms.RadioSelect,
        initial=Version.Trigger.EVENT,
    )
    entry = forms.ChoiceField(
        label="A customer may enter",
        choices=Version.Entry.choices,
        initial=Version.Entry.EVERY_EVENT,
    )
    days = forms.IntegerField(
        label="Days",
        required=False,
        min_value=1,
        max_value=MAX_ENTRY_DAYS,
        help_text="Counted from when they entered.",
    )
    max_age_hours = forms.IntegerField(
        label="Too late after (hours)",
        min_value=1,
        max_value=MAX_AGE_HOURS,
        initial=72,
        help_text="An event that comes in later, or a planned time that is missed for "
        "longer, starts nothing.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["prefix"] = "trigger"
        super().__init__(*args, **kwargs)
        shown = self.initial if self.initial.get("kind") else {}
        self.initial = {**self.initial, "days": self.initial.get("entry_days")}
        data = self.data if self.is_bound else None
        self.chosen = str(self["kind"].value() or Version.Trigger.EVENT.value)
        #: The fields of each kind; kinds with the same form share them.
        self.own: dict[str, TriggerFields] = {}
        made: dict[type[TriggerFields], TriggerFields] = {}
        for trigger in TRIGGERS.values():
            if trigger.form not in made:
                is_shown = trigger.form is TRIGGERS[shown.get("kind", "event")].form
                made[trigger.form] = trigger.form(
                    data if trigger.form is self._chosen.form else None,
                    prefix=_PREFIXES.get(trigger.name, "trigger"),
                    initial=shown if is_shown else {},
                )
                dress(made[trigger.form])
            self.own[trigger.name] = made[trigger.form]
        self.pace = PaceForm(data, initial=self.initial.get("pace"))
        dress(self.pace)

    @property
    def _chosen(self) -> Trigger:
        return TRIGGERS.get(self.chosen, TRIGGERS["event"])

    @property
    def _is_broadcasting(self) -> bool:
        return self._chosen.on == Kind.SYSTEM

    @property
    def groups(self) -> list[tuple[str, bool, TriggerFields]]:
        """For the page: the kinds that share fields, whether one of them is chosen,
        and the fields."""
        found: dict[int, tuple[list[str], TriggerFields]] = {}
        for name, own in self.own.items():
            found.setdefault(id(own), ([], own))[0].append(name)
        return [
            (" ".join(names), self._chosen.name in names, own)
            for names, own in found.values()
        ]

    @property
    def kinds(self) -> list[tuple[Trigger, Any]]:
        """Each kind with its radio button."""
        return list(zip(TRIGGERS.values(), self["kind"], strict=True))

    @property
    def media(self) -> forms.Media:
        found = super().media
        for own in self.own.values():
            found = found + own.media
        return found

    def is_valid(self) -> bool:
        # All of them, so that all errors are told at once.
        mine, theirs = super().is_valid(), self.own[self._chosen.name].is_valid()
        paced = not self._is_broadcasting or self.pace.is_valid()
        return mine and theirs and paced

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        needs_days = data.get("entry") == Version.Entry.INTERVAL
        if needs_days and not data.get("days") and "days" not in self.errors:
            self.add_error("days", "Say after how many days they may enter again.")
        own = self.own[self._chosen.name]
        if not own.is_valid() or self.errors:
            return data
        told = own.told()
        name = told.get("event")
        known = EventType.objects.filter(name=name).first() if name else None
        if known is not None and known.kind != self._chosen.on:
            own.add_error("event", other_kind(known))
            return data
        try:
            data["trigger"] = self._chosen.clean(
                {**told, "max_age_hours": data["max_age_hours"]}
            )
        except Several as several:
            for error in several.errors:
                place = error.field.partition(".")[0]
                own.add_error(place if place in own.fields else None, error.message)
        return data

    def definition(self, definition: dict[str, Any]) -> dict[str, Any]:
        """The same drawing with this trigger and this entry rule."""
        data = self.cleaned_data
        entry: dict[str, Any] = {"rule": data["entry"]}
        if data["entry"] == Version.Entry.INTERVAL:
            entry["days"] = data["days"]
        return {
            **definition,
            "trigger": data["trigger"],
            "pace": self.pace.pace if self._is_broadcasting else None,
            "entry": entry,
        }


#: Apart from the others, since names of fields are the same.
_PREFIXES = {"date": "trigger-date", "schedule": "trigger-plan"}


def trigger_initial(definition: dict[str, Any]) -> dict[str, Any]:
    """What the trigger's form shows of a drawing."""
    entry = definition.get("entry") or {}
    return {
        **(definition.get("trigger") or {}),
        "entry": entry.get("rule"),
        # By another name, since a trigger may have days as well.
        "entry_days": entry.get("days"),
        "pace": definition.get("pace"),
    }


class KeyForm(Dressed):
    """The short name of a step."""

    key = forms.RegexField(
        KEY,
        max_length=64,
        label="Short name",
        help_text="Reports and messages call the step so. Letters, digits, - and _.",
    )


def step_form(
    action: Action,
    definition: dict[str, Any],
    *,
    key: str = "",
    answers: Iterable[str] = (),
    data: Any = None,
    initial: dict[str, Any] | None = None,
) -> forms.Form:
    """The form of one step's action, at home in this drawing.

    `answers`: the paths of answers that values may come from, answers.STEP.field.
    """
    form = action.form(data, initial=initial or {})
    event_name = event_of(definition)
    to_come = declared.by_drawing(definition)
    for name, field in form.fields.items():
        if isinstance(field, RuleField):
            # Values are those of the starting event, whatever the lines are about.
            is_where = isinstance(field, WhereField)
            where = "values_from" if is_where else "event_name_from"
            field.options = replace(
                field.options,
                more_values=tuple(answers) if name != GOAL_WHERE else (),
                to_come=to_come,
                **{where: EVENT_INPUT},  # type: ignore[arg-type]
            )
            field.widget.options = field.options
            field.widget.values_of = event_name
            if not is_where:
                field.event_name = event_name
    if action.name == "refresh_filter":
        form.fields["filter"] = forms.ChoiceField(
            label="Filter to ask again",
            help_text="It is asked with the event that started the run.",
            choices=[
                (step["key"], f"{step['key']}: {say(step)}")
                for step in definition["steps"]
                if step["action"] == "filter_customers" and step["key"] != key
            ],
        )
    dress(form)
    return form


def read_config(action: Action, form: forms.Form) -> dict[str, Any] | None:
    """The configuration that a filled-in form means; None: its errors tell why not."""
    if not form.is_valid():
        return None
    try:
        return action.clean(form.cleaned_data)
    except Several as several:
        errors = several.errors
    except UserError as one:
        errors = [one]
    for error in errors:
        place = error.field.split(".")[0]
        form.add_error(place if place in form.fields else None, error.message)
    return None


def media() -> forms.Media:
    """What the forms of all panels need on the page."""
    needed = TriggerForm().media
    for action in ACTIONS.values():
        needed = needed + action.form().media
    return needed

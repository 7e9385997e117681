"""The forms of the campaign editor: its name, its trigger, and one step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from django import forms
from django.forms.widgets import Input
from unfold import widgets as unfold

from campaigns.actions import ACTIONS, Action
from campaigns.drawing import MAX_AGE_HOURS, MAX_ENTRY_DAYS
from campaigns.graph import KEY
from campaigns.models import Campaign, Version
from campaigns.panels import say
from events.models import EventType, Kind
from events.wire import MAX_NAME
from segments.builder import RuleField, WhereField
from smartcomm.core.errors import Several, UserError

#: The input that tells the rule builder which event starts the campaign.
EVENT_INPUT = "trigger-event"

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
    """

    kind = forms.ChoiceField(
        label="What starts it",
        choices=Version.Trigger.choices,
        widget=forms.RadioSelect,
        initial=Version.Trigger.EVENT,
    )
    event = forms.CharField(
        max_length=MAX_NAME,
        label="Event",
        help_text="Choose one that has been seen, or write the name of one to come.",
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "list": "cp-events", "class": "cp-event-name"}
        ),
    )
    where = WhereField(
        label="Only when its context says",
        event_name_from=EVENT_INPUT,
        help_text="All of these must hold. Without any, every such event counts.",
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
        label="Ignore events older than (hours)",
        min_value=1,
        max_value=MAX_AGE_HOURS,
        initial=72,
        help_text="An event that comes in late starts nothing after this time.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["prefix"] = "trigger"
        super().__init__(*args, **kwargs)
        # The builder reads the name from the form, once there is one.
        self.fields["where"].event_name = self.initial.get("event", "")  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        needs_days = data.get("entry") == Version.Entry.INTERVAL
        if needs_days and not data.get("days") and "days" not in self.errors:
            self.add_error("days", "Say after how many days they may enter again.")
        name, kind = (data.get("event") or "").strip(), data.get("kind")
        known = EventType.objects.filter(name=name).first()
        if known is not None and kind and known.kind != KINDS[kind]:
            self.add_error(
                "event",
                f"“{name}” is a {known.get_kind_display().lower()}. Choose the other"
                " trigger, or another event.",
            )
        data["event"] = name
        return data

    def definition(self, definition: dict[str, Any]) -> dict[str, Any]:
        """The same drawing with this trigger and this entry rule."""
        data = self.cleaned_data
        entry: dict[str, Any] = {"rule": data["entry"]}
        if data["entry"] == Version.Entry.INTERVAL:
            entry["days"] = data["days"]
        return {
            **definition,
            "trigger": {
                "kind": data["kind"],
                "event": data["event"],
                "where": data["where"] or [],
                "max_age_hours": data["max_age_hours"],
            },
            "entry": entry,
        }


KINDS = {
    Version.Trigger.EVENT.value: Kind.CUSTOMER,
    Version.Trigger.SYSTEM_EVENT.value: Kind.SYSTEM,
}


def trigger_initial(definition: dict[str, Any]) -> dict[str, Any]:
    """What the trigger's form shows of a drawing."""
    entry = definition.get("entry") or {}
    return {
        **(definition.get("trigger") or {}),
        "entry": entry.get("rule"),
        "days": entry.get("days"),
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
    data: Any = None,
    initial: dict[str, Any] | None = None,
) -> forms.Form:
    """The form of one step's action, at home in this drawing."""
    form = action.form(data, initial=initial or {})
    event_name = (definition.get("trigger") or {}).get("event") or ""
    for field in form.fields.values():
        if isinstance(field, RuleField) and not field.options.event_name_from:
            field.options = replace(field.options, event_name_from=EVENT_INPUT)
            field.widget.options = field.options
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

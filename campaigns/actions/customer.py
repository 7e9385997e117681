"""Change what is known of a customer: an attribute, or the place in a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from django import forms

from campaigns.actions.base import (
    Action,
    Config,
    ConfigInvalid,
    Go,
    Outcome,
    Started,
    only,
)
from campaigns.actions.checks import Draft, error
from campaigns.actions.values import (
    DONE,
    FAILED,
    event_codes,
    external_ids,
    read_value,
    value_for,
)
from campaigns.graph import Problem
from campaigns.models import Step
from customers.attributes import check_value, known_types
from customers.models import Attribute
from customers.upsert import upsert_customers
from segments import lists
from segments.models import Segment
from smartcomm.core.errors import UserError

#: Of what the master system tells about everyone, what a campaign may set as well.
PROFILE = ("first_name", "last_name", "city", "country", "language", "gender")


class AttributeForm(forms.Form):
    attribute = forms.CharField(label="Attribute", widget=forms.Select)
    value = forms.CharField(
        label="Value",
        required=False,
        help_text=(
            "A number or yes/no as the attribute wants it, a list with commas, or "
            "$field_code for the value in the event. Empty: the attribute is taken "
            "away."
        ),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        declared = Attribute.objects.order_by("code").values_list("code", "label")
        self.fields["attribute"].widget.choices = [
            *((code, label or code) for code, label in declared),
            *((name, name.replace("_", " ").capitalize()) for name in PROFILE),
        ]
        self.initial["value"] = _typed(self.initial.get("value"))

    def clean(self) -> Config:
        data = self.cleaned_data
        type = known_types().get(data.get("attribute", ""), Attribute.Type.STRING)
        data["value"] = _meant(data.get("value", ""), type)
        return data


class SetAttribute(Action):
    """`{"attribute": "tier", "value": "gold"}`.

    A value may be `"$field_code"`; null takes the attribute away.
    """

    name = "set_attribute"
    label = "Set attribute"
    takes_values = True
    symbol = "edit_attributes"
    hint = "Write something down about the customer."
    way_labels = {DONE: "Then", FAILED: "Not set"}
    form = AttributeForm

    def clean(self, config: Config) -> Config:
        only(config, {"attribute", "value"})
        code = config.get("attribute")
        types = known_types()
        if not isinstance(code, str) or (code not in types and code not in PROFILE):
            raise ConfigInvalid(
                "“attribute” is the code of an attribute that is declared, or one of "
                f"{', '.join(PROFILE)}.",
                field="attribute",
            )
        if "value" not in config:
            raise ConfigInvalid(
                "“value” is missing; null takes the attribute away.", field="value"
            )
        value = read_value(config["value"], field="value")
        # Whether the event's value fits is seen when there is one.
        if value is not None and not event_codes(config["value"]) and code in types:
            try:
                check_value(code, value, types[code])
            except UserError as error:
                raise ConfigInvalid(error.message, field="value") from error
        return {"attribute": code, "value": config["value"]}

    def event_codes(self, config: Config) -> set[str]:
        return event_codes(config["value"])

    def describe(self, config: Config) -> str:
        value = config["value"]
        if value is None:
            return f"take “{config['attribute']}” away"
        return f"{config['attribute']} = {value}"

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        names = external_ids(runs)
        items, told = [], []
        for started in runs:
            value, missing = value_for(step.config["value"], started.context)
            if missing:
                outcomes[started.run.pk] = Go(FAILED, missing)
                continue
            code = step.config["attribute"]
            change: dict[str, Any] = {code: value}
            if code not in PROFILE:
                change = {"attributes": change}
            items.append({"external_id": names[started.run.customer_id], **change})
            told.append(started)
        if items:
            origin = f"campaign {runs[0].run.campaign_id}"
            done = upsert_customers(items, origin=origin, now=now)
            for started, result in zip(told, done.results, strict=True):
                errors = " ".join(error.message for error in result.errors)
                outcomes[started.run.pk] = Go(FAILED, errors) if errors else Go(DONE)
        return outcomes

    def rehearse(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        type = known_types().get(step.config["attribute"])
        outcomes: dict[int, Outcome] = {}
        for started in runs:
            value, wrong = value_for(step.config["value"], started.context)
            if not wrong and type and value is not None:
                try:
                    check_value(step.config["attribute"], value, type)
                except UserError as error:
                    wrong = error.message
            outcomes[started.run.pk] = Go(FAILED, wrong) if wrong else Go(DONE)
        return outcomes


def _typed(value: Any) -> str:
    """A value as it is typed into the form."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_typed, value))
    return str(value)


def _meant(text: str, type: str) -> Any:
    """What was typed, as a value of the attribute's type; else as it is, to be told
    what is wrong with it."""
    text = text.strip()
    if not text or text.startswith("$"):
        return text or None
    match type:
        case Attribute.Type.NUMBER:
            try:
                return float(text) if "." in text else int(text)
            except ValueError:
                return text
        case Attribute.Type.BOOLEAN:
            words = {"yes": True, "true": True, "no": False, "false": False}
            return words.get(text.lower(), text)
        case Attribute.Type.LIST:
            return [one.strip() for one in text.split(",") if one.strip()]
    return text


class ListForm(forms.Form):
    segment = forms.TypedChoiceField(label="List", coerce=int)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        found = Segment.objects.filter(
            kind=Segment.Kind.STATIC, archived_at=None
        ).order_by("name")
        self.fields["segment"].choices = list(  # type: ignore[attr-defined]
            found.values_list("pk", "name")
        )


class _ChangeList(Action):
    puts_in: ClassVar[bool]
    way_labels = {DONE: "Then"}
    form = ListForm

    def clean(self, config: Config) -> Config:
        only(config, {"segment"})
        pk = config.get("segment")
        found = (
            Segment.objects.filter(pk=pk) if type(pk) is int else Segment.objects.none()
        )
        segment = found.first()
        if segment is None or segment.kind != Segment.Kind.STATIC:
            raise ConfigInvalid(
                "“segment” is the number of a list of customers. Make one first: "
                "Segments, “Add list”.",
                field="segment",
            )
        return {"segment": pk}

    def segments(self, config: Config) -> set[int]:
        return {config["segment"]}

    def check(self, step: Step, draft: Draft) -> Iterator[Problem]:
        segment = Segment.objects.filter(pk=step.config["segment"]).first()
        if segment is None or segment.archived_at is not None:
            state = "archived" if segment else "gone"
            yield error(
                step, f"The list in “{step.key}” is {state}. Choose another one."
            )
        yield from super().check(step, draft)

    def _named(self, config: Config) -> str:
        found = Segment.objects.filter(pk=config["segment"]).first()
        return f"“{found or 'a list that is gone'}”"

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        ids = list(external_ids(runs).values())
        segment = Segment.objects.get(pk=step.config["segment"])
        origin = f"campaign {runs[0].run.campaign_id}"
        if self.puts_in:
            lists.edit(segment, add=ids, origin=origin, now=now)
        else:
            lists.edit(segment, remove=ids, origin=origin, now=now)
        return self.rehearse(step, runs, now=now)

    def rehearse(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        return {started.run.pk: Go(DONE) for started in runs}


class AddToList(_ChangeList):
    """`{"segment": 12}`."""

    name = "add_to_list"
    label = "Add to a list"
    symbol = "playlist_add"
    hint = "Put the customer in a list."
    puts_in = True

    def describe(self, config: Config) -> str:
        return f"to {self._named(config)}"


class RemoveFromList(_ChangeList):
    """`{"segment": 12}`."""

    name = "remove_from_list"
    label = "Remove from a list"
    symbol = "playlist_remove"
    hint = "Take the customer out of a list."
    puts_in = False

    def describe(self, config: Config) -> str:
        return f"from {self._named(config)}"

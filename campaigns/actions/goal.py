"""What a marketer hopes for after a split: an event within so many days.

`{"event": "Order paid", "where": [{"field": "cart", "op": "=", "value": "$cart"}],
"days": 7}`. It changes nobody's way; campaigns.measuring counts who reached it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms

from campaigns.actions.base import ANSWERS, Config, ConfigInvalid
from campaigns.actions.checks import named_event, warning
from campaigns.actions.values import read_event_name
from campaigns.event_name import EventNameField
from campaigns.graph import Problem
from campaigns.models import Step
from events.models import Event, EventType, Kind
from segments import rules
from segments.builder import WhereField
from segments.describe import describe_where
from segments.rules import EventValue, RuleError

MOST_DAYS = 365
#: Set-based counting compares with a `$field_code` by these alone.
WITH_EVENT_VALUES = ("=", "!=")
#: The field of the form for what a goal's context must say. It offers no answers of
#: webhooks, since measuring knows none.
GOAL_WHERE = "goal_where"


class GoalForm(forms.Form):
    """The part of a step's form that asks for its goal."""

    goal_event = EventNameField(
        label="Goal: what you hope they do",
        required=False,
        help_text="An event of the customer. Without one, nothing is measured.",
    )
    goal_where = WhereField(
        label="Only when its context says",
        event_name_from="goal_event",
        allow_event_values=True,
        help_text="All of these must hold. Without any, every such event counts.",
    )
    goal_days = forms.IntegerField(
        label="Within so many days",
        min_value=1,
        max_value=MOST_DAYS,
        initial=7,
        required=False,
        help_text="Counted for each customer from when they leave this step.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        initial = dict(kwargs.get("initial") or {})
        for name, value in (initial.pop("goal", None) or {}).items():
            initial[f"goal_{name}"] = value
        kwargs["initial"] = initial
        super().__init__(*args, **kwargs)
        self.fields["goal_where"].event_name = self.initial.get("goal_event", "")  # type: ignore[attr-defined]

    def clean(self) -> Config:
        data = dict(self.cleaned_data)
        event = data.pop("goal_event", None) or ""
        where, days = data.pop("goal_where", None), data.pop("goal_days", None)
        if event:
            data["goal"] = {"event": event, "where": where or [], "days": days or 7}
        elif where:
            self.add_error("goal_event", "Name the event that these conditions are of.")
        self.cleaned_data = data
        return data


def clean_goal(config: Config) -> dict[str, Any]:
    """`{"goal": ...}` of a configuration, checked, or nothing. Raises Invalid, with
    the place in it."""
    goal = config.get("goal")
    if goal is None:
        return {}
    if not isinstance(goal, dict) or not goal.keys() <= {"event", "where", "days"}:
        raise ConfigInvalid(
            "“goal” is an object with “event”, “where” and “days”.", field="goal"
        )
    try:
        event = read_event_name(goal)
    except ConfigInvalid as error:
        raise ConfigInvalid(error.message, field="goal.event") from error
    try:
        where = rules.parse_where(goal.get("where") or [], event_values=True)
    except RuleError as error:
        place = f"goal.where.{error.field}" if error.field else "goal.where"
        raise RuleError(error.message, field=place) from error
    _refuse_unmeasurable(where)
    days = goal.get("days")
    if type(days) is not int or not 1 <= days <= MOST_DAYS:
        raise ConfigInvalid(
            f"“days” is a whole number from 1 to {MOST_DAYS}.", field="goal.days"
        )
    return {"goal": {"event": event, "where": rules.where_json(where), "days": days}}


def goal_where(goal: dict[str, Any]) -> tuple[rules.FieldIs, ...]:
    return rules.parse_where(goal["where"], event_values=True)


def goal_codes(config: Config) -> set[str]:
    """The fields of the starting event that the goal asks for."""
    goal = config.get("goal")
    return rules.event_values(goal_where(goal)) if goal else set()


def goal_event(config: Config) -> set[str]:
    """The event of the goal, where there is one."""
    goal = config.get("goal")
    return {goal["event"]} if goal else set()


def check_goal(step: Step) -> Iterator[Problem]:
    """What publishing says of the goal of a step that has one."""
    goal = step.config.get("goal")
    if not goal:
        return
    yield from named_event(step, goal, f"The goal of “{step.key}” is")
    declared = EventType.objects.filter(name=goal["event"], kind=Kind.CUSTOMER)
    if declared.exists() and not Event.objects.filter(type__in=declared).exists():
        yield warning(
            step,
            f"The goal of “{step.key}” is “{goal['event']}”, which is declared and has "
            "not been seen yet; check that the name is spelt as it will be sent.",
        )


def say_goal(goal: dict[str, Any]) -> str:
    """“Order paid” where cart is the event's cart, within 7 days."""
    where = goal_where(goal)
    said = f"“{goal['event']}”"
    if where:
        said = f"{said} where {describe_where(where)}"
    return f"{said}, within {goal['days']} day{'s' * (goal['days'] != 1)}"


def _refuse_unmeasurable(where: tuple[rules.FieldIs, ...]) -> None:
    for place, line in enumerate(where):
        values = line.value if isinstance(line.value, tuple) else (line.value,)
        asked = [value for value in values if isinstance(value, EventValue)]
        if not asked:
            continue
        if isinstance(line.value, tuple) or line.op not in WITH_EVENT_VALUES:
            raise ConfigInvalid(
                "In a goal, a “$field” of the starting event is compared by = or != "
                "only.",
                field=f"goal.where.{place}.op",
            )
        if asked[0].path.split(".")[0] == ANSWERS:
            raise ConfigInvalid(
                "A goal cannot ask for the answer of a webhook: it is no part of the "
                "event that started the run.",
                field=f"goal.where.{place}.value",
            )

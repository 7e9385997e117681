"""Part customers by chance: an A/B split, and a control group that is not written to.

By chance, yet always the same way for one customer at one step of a campaign: decided
by a hash, not by a dice, so that trying again and later versions change nobody's way.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, ClassVar

from django import forms
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from campaigns.actions.base import (
    Action,
    Config,
    ConfigInvalid,
    Go,
    Outcome,
    Started,
    only,
)
from campaigns.actions.checks import Draft, error, warning
from campaigns.actions.goal import (
    GoalForm,
    check_goal,
    clean_goal,
    goal_codes,
    goal_event,
    say_goal,
)
from campaigns.actions.send import SENDING
from campaigns.graph import Problem
from campaigns.models import Run, Step

AB_SPLIT, CONTROL_GROUP = "ab_split", "control_group"
LEAST_SHARES, MOST_SHARES = 2, 6
#: A way: as long as there is room for it.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ -]{0,31}")
TREATED, CONTROL = "treated", "control"
#: So fine is chance: shares are of ten thousandths, in effect.
PARTS = 10_000


def chance(run: Run, step: Step) -> float:
    """Where the customer stands at this step, from 0 up to but not including 100.

    Evenly spread, and independent between steps and campaigns.
    """
    seed = f"{run.campaign_id}:{step.key}:{run.customer_id}"
    digest = hashlib.sha256(seed.encode()).digest()
    return int.from_bytes(digest[:8]) % PARTS * 100 / PARTS


class SharesWidget(forms.Widget):
    """Rows of a name and a percentage. Its value is a list of pairs."""

    template_name = "campaigns/panels/_shares.html"

    def value_from_datadict(self, data: Any, files: Any, name: str) -> list[Any]:
        names = data.getlist(f"{name}_name")
        percents = data.getlist(f"{name}_percent")
        rows = zip(names, percents, strict=False)
        return [
            {"name": word.strip(), "percent": number.strip()}
            for word, number in rows
            if word.strip() or number.strip()
        ]

    def render(
        self, name: str, value: Any, attrs: Any = None, renderer: Any = None
    ) -> SafeString:
        rows = [*(value or [])]
        rows += [{"name": "", "percent": ""}] * (MOST_SHARES - len(rows))
        return render_to_string(self.template_name, {"name": name, "rows": rows})


class SharesField(forms.Field):
    widget = SharesWidget

    def clean(self, value: Any) -> list[dict[str, Any]]:
        rows = super().clean(value)
        return [{**row, "percent": _number(row["percent"])} for row in rows]


class AbSplitForm(GoalForm):
    shares = SharesField(
        label="Ways, and the part of customers who take each",
        initial=[{"name": "A", "percent": 50}, {"name": "B", "percent": 50}],
        help_text="Together they are 100 %. A customer always takes the same way.",
    )
    field_order = ("shares",)


class AbSplit(Action):
    """`{"shares": [{"name": "A", "percent": 50}, {"name": "B", "percent": 50}]}`, and
    if it is to be measured a `goal`: see goal.py."""

    name = AB_SPLIT
    label = "A/B split"
    is_idle = True
    symbol = "call_split"
    hint = "Send parts of the customers different ways, by chance."
    way_labels: ClassVar[Mapping[str, str]] = {}
    form = AbSplitForm

    def ways(self, config: Config) -> tuple[str, ...]:
        shares = config.get("shares") or []
        return tuple(str(share["name"]) for share in shares)

    def clean(self, config: Config) -> Config:
        only(config, {"shares", "goal"})
        shares = config.get("shares")
        if (
            not isinstance(shares, list)
            or not LEAST_SHARES <= len(shares) <= MOST_SHARES
        ):
            raise ConfigInvalid(
                f"“shares” is a list of {LEAST_SHARES} to {MOST_SHARES} objects with "
                "“name” and “percent”.",
                field="shares",
            )
        cleaned = [_clean_share(share, i) for i, share in enumerate(shares)]
        names = [share["name"] for share in cleaned]
        if doubled := next((one for one in names if names.count(one) > 1), None):
            raise ConfigInvalid(
                f"Two shares are called “{doubled}”. Give each a name of its own.",
                field="shares",
            )
        total = sum(share["percent"] for share in cleaned)
        if total != 100:
            raise ConfigInvalid(
                f"The shares are {total} % together. Make them 100 %.", field="shares"
            )
        return {"shares": cleaned, **clean_goal(config)}

    def describe(self, config: Config) -> str:
        shares = ", ".join(
            f"{share['name']} {share['percent']} %" for share in config["shares"]
        )
        return shares + _hoped(config)

    def event_codes(self, config: Config) -> set[str]:
        return goal_codes(config)

    def declares(self, config: Config) -> set[str]:
        return goal_event(config)

    def check(self, step: Step, draft: Draft) -> Iterator[Problem]:
        yield from check_goal(step)
        yield from super().check(step, draft)

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        names = self.ways(step.config)
        ends = list(accumulate(share["percent"] for share in step.config["shares"]))
        outcomes: dict[int, Outcome] = {}
        for started in runs:
            at = chance(started.run, step)
            place = next(i for i, end in enumerate(ends) if at < end)
            outcomes[started.run.pk] = Go(names[place])
        return outcomes


class ControlGroupForm(GoalForm):
    percent = forms.IntegerField(
        label="In the control group (%)",
        min_value=1,
        max_value=99,
        initial=10,
        help_text=(
            "They are not written to, and are measured: the report tells how many of "
            "each group did what you hope for."
        ),
    )
    field_order = ("percent",)


class ControlGroup(Action):
    """`{"percent": 10, "goal": {...}}`: so many take the way `control`. The goal may be
    left out: see goal.py."""

    name = CONTROL_GROUP
    label = "Control group"
    is_idle = True
    symbol = "science"
    hint = "Hold some customers back, to see what the campaign brings."
    way_labels = {TREATED: "Written to", CONTROL: "Held back"}
    form = ControlGroupForm

    def clean(self, config: Config) -> Config:
        only(config, {"percent", "goal"})
        percent = config.get("percent")
        if type(percent) is not int or not 1 <= percent <= 99:
            raise ConfigInvalid(
                "“percent” is a whole number from 1 to 99.", field="percent"
            )
        return {"percent": percent, **clean_goal(config)}

    def describe(self, config: Config) -> str:
        return f"{config['percent']} % are held back{_hoped(config)}"

    def event_codes(self, config: Config) -> set[str]:
        return goal_codes(config)

    def declares(self, config: Config) -> set[str]:
        return goal_event(config)

    def check(self, step: Step, draft: Draft) -> Iterator[Problem]:
        """Whoever is held back is not written to, whatever way they take; and a goal
        tells what it is for."""
        held_back = step.next.get(CONTROL)
        after = draft.after(held_back) if held_back else set()
        for other in draft.drawing["steps"]:
            if other["key"] in after and other["action"] in SENDING:
                yield error(
                    step,
                    f"“{step.key}” holds customers back, and the way of those leads "
                    f"to “{other['key']}”, which writes to them. Lead it elsewhere.",
                )
        yield from check_goal(step)
        if "goal" not in step.config:
            yield warning(
                step,
                f"“{step.key}” holds customers back and has no goal, so nothing will "
                "be measured. Say what you hope they do.",
            )
        yield from super().check(step, draft)

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        percent = step.config["percent"]
        return {
            started.run.pk: Go(
                CONTROL if chance(started.run, step) < percent else TREATED
            )
            for started in runs
        }


def _hoped(config: Config) -> str:
    goal = config.get("goal")
    return f"; goal: {say_goal(goal)}" if goal else ""


def _clean_share(share: object, place: int) -> dict[str, Any]:
    field = f"shares.{place}"
    if not isinstance(share, dict) or share.keys() != {"name", "percent"}:
        raise ConfigInvalid(
            "A share is an object with “name” and “percent”.", field=field
        )
    name, percent = share["name"], share["percent"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigInvalid(
            "“name” is a short word for the way: letters, digits, spaces, - and _, "
            "32 at most.",
            field=f"{field}.name",
        )
    if type(percent) is not int or not 1 <= percent <= 99:
        raise ConfigInvalid(
            "“percent” is a whole number from 1 to 99.", field=f"{field}.percent"
        )
    return {"name": name, "percent": percent}


def _number(text: object) -> object:
    """What was typed as a whole number, or as it is for `clean` to refuse."""
    try:
        return int(str(text))
    except ValueError:
        return text

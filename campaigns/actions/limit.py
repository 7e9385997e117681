"""Let so many customers on, in all or in each hour, day or week.

How many have gone on is a row for each step and period. Whoever counts locks it, so
that two workers never let one too many through; trying again counts nobody twice,
since the row and the ways are one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone

from campaigns.actions.base import (
    Action,
    Config,
    ConfigInvalid,
    Go,
    Outcome,
    Started,
    only,
)
from campaigns.models import Step, StepCount

WITHIN, OVER = "within", "over"
MAX_LIMIT = 1_000_000_000
#: What `per` may be; "" is: in all, for as long as the campaign exists.
PERIODS = {"": "in all", "hour": "an hour", "day": "a day", "week": "a week"}

#: The place of those who come in all, in a row like those of periods.
EVER = datetime(1970, 1, 1, tzinfo=timezone.get_default_timezone())


class LimitForm(forms.Form):
    limit = forms.IntegerField(
        label="So many customers go on", min_value=1, max_value=MAX_LIMIT, initial=1000
    )
    per = forms.ChoiceField(
        label="Counted",
        choices=list(PERIODS.items()),
        required=False,
        help_text="The rest takes the other way, at once.",
    )


class LimitParticipants(Action):
    """`{"limit": 5000}`, or `{"limit": 500, "per": "hour"}`."""

    name = "limit_participants"
    label = "Limit participants"
    is_idle = True
    symbol = "groups"
    hint = "Let only so many customers on."
    way_labels = {WITHIN: "Within the limit", OVER: "Over it"}
    form = LimitForm

    def clean(self, config: Config) -> Config:
        only(config, {"limit", "per"})
        limit, per = config.get("limit"), config.get("per") or ""
        if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
            raise ConfigInvalid(
                f"“limit” is a whole number from 1 to {MAX_LIMIT:,}.", field="limit"
            )
        if not isinstance(per, str) or per not in PERIODS:
            raise ConfigInvalid(
                "“per” is hour, day or week; without it, the limit is for all time.",
                field="per",
            )
        return {"limit": limit, "per": per} if per else {"limit": limit}

    def describe(self, config: Config) -> str:
        return f"{config['limit']:,} customers {PERIODS[config.get('per', '')]}"

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        first_come = sorted(runs, key=lambda one: (one.run.arrived_at, one.run.pk))
        free = _take(step, runs[0].run.campaign_id, len(runs), now=now)
        return {
            started.run.pk: Go(WITHIN if place < free else OVER)
            for place, started in enumerate(first_come)
        }


def period_of(per: str, now: datetime) -> datetime:
    """When the period began in which `now` is, by the clock of the installation."""
    if not per:
        return EVER
    local = now.astimezone(timezone.get_default_timezone())
    begun = local.replace(minute=0, second=0, microsecond=0)
    if per == "hour":
        return begun
    begun = begun.replace(hour=0)
    return begun - timedelta(days=begun.weekday()) if per == "week" else begun


def _take(step: Step, campaign: int, number: int, *, now: datetime) -> int:
    """Count so many more, as far as the limit goes. Returns how many are within it."""
    limit, per = step.config["limit"], step.config.get("per", "")
    place: dict[str, Any] = {
        "campaign_id": campaign,
        "step_key": step.key,
        "since": period_of(per, now),
    }
    StepCount.objects.get_or_create(**place)
    counted = StepCount.objects.select_for_update().get(**place)
    within: int = min(number, max(0, limit - counted.used))
    if within:
        counted.used += within
        counted.save(update_fields=["used"])
    return within

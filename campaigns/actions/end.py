"""End the run here, and say why: the report and “why?” tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar

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
from campaigns.models import Step

ENDED = "ended"
MAX_REASON = 200


class EndForm(forms.Form):
    reason = forms.CharField(
        label="Because",
        required=False,
        max_length=MAX_REASON,
        help_text="Whoever asks why a customer went no further is told so.",
    )


class End(Action):
    """`{"reason": "Bought already"}`, or `{}`."""

    name = "end"
    label = "End"
    is_idle = True
    symbol = "stop_circle"
    hint = "Stop here, and say why."
    #: No way leads on.
    way_labels: ClassVar[Mapping[str, str]] = {}
    form = EndForm

    def clean(self, config: Config) -> Config:
        only(config, {"reason"})
        reason = config.get("reason") or ""
        if not isinstance(reason, str) or len(reason) > MAX_REASON:
            raise ConfigInvalid(
                f"“reason” is a text of up to {MAX_REASON} characters.", field="reason"
            )
        return {"reason": reason} if reason else {}

    def describe(self, config: Config) -> str:
        return str(config.get("reason") or "the run is over")

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        reason = step.config.get("reason", "")
        return {started.run.pk: Go(ENDED, reason) for started in runs}

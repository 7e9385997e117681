"""The part of the trigger's form that says how quickly a broadcast goes."""

from __future__ import annotations

from typing import Any

from django import forms

from campaigns.pace import (
    MAX_LIMIT,
    MAX_STOP_AFTER,
    OLDEST_CUSTOMER,
    ORDERS,
    PERIODS,
    Pace,
)


class PaceForm(forms.Form):
    """“500 an hour, longest interest first, stop after 5,000”, or none."""

    is_paced = forms.BooleanField(
        label="Take them in portions",
        required=False,
        help_text="Before each portion the filter is asked again: who has bought "
        "meanwhile is left out, who has come to match is taken.",
    )
    limit = forms.IntegerField(
        label="Customers", required=False, min_value=1, max_value=MAX_LIMIT, initial=500
    )
    per = forms.ChoiceField(
        label="Every",
        required=False,
        choices=[(per, per) for per in PERIODS],
        initial="hour",
    )
    first = forms.ChoiceField(
        label="Who comes first",
        required=False,
        choices=[
            (order, words.removesuffix(" first").capitalize())
            for order, words in ORDERS.items()
        ],
        initial=OLDEST_CUSTOMER,
        help_text="Interest goes by the events that the first filter asks for.",
    )
    stop_after = forms.IntegerField(
        label="Stop after",
        required=False,
        min_value=1,
        max_value=MAX_STOP_AFTER,
        help_text="Empty: it goes on until nobody else matches.",
    )

    def __init__(self, data: Any, *, initial: dict[str, Any] | None) -> None:
        shown = {"is_paced": True, **initial} if initial else None
        super().__init__(data, initial=shown, prefix="pace")

    def clean(self) -> dict[str, Any]:
        told = self.cleaned_data
        if (
            told.get("is_paced")
            and not told.get("limit")
            and "limit" not in self.errors
        ):
            self.add_error("limit", "Say how many customers a portion may take.")
        return told

    @property
    def pace(self) -> dict[str, Any] | None:
        """What was chosen, as the drawing says it. Ask once it is valid."""
        told = self.cleaned_data
        if not told["is_paced"]:
            return None
        return Pace(
            limit=told["limit"],
            per=told["per"] or "hour",
            first=told["first"] or OLDEST_CUSTOMER,
            stop_after=told["stop_after"],
        ).as_json()

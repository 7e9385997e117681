"""Fields with values in a configuration: what an event or a call says.

Typed as a line each; a value may be `$field_code` of the event, as in values.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django import forms

from campaigns.actions.base import Config, ConfigInvalid, Go, Outcome, Started
from campaigns.actions.values import DONE, FAILED, event_codes, read_value, value_for
from segments.rules import FIELD_PATH

MAX_FIELDS = 50


class FieldsWidget(forms.Textarea):
    def format_value(self, value: Any) -> str:
        if isinstance(value, dict):
            return "\n".join(f"{code} = {_typed(one)}" for code, one in value.items())
        return str(value or "")


def clean_fields(config: Config, name: str) -> dict[str, Any]:
    """The fields that a configuration has under this name, checked. Raises
    ConfigInvalid, with the place."""
    fields = config.get(name) or {}
    if not isinstance(fields, dict) or len(fields) > MAX_FIELDS:
        raise ConfigInvalid(
            f"“{name}” is an object of up to {MAX_FIELDS} fields.", field=name
        )
    for code, value in fields.items():
        if not FIELD_PATH.match(code) or "." in code:
            raise ConfigInvalid(
                f"“{code}” cannot be the code of a field. Use letters, digits and "
                "underscores.",
                field=name,
            )
        read_value(value, field=f"{name}.{code}")
    return dict(fields)


def codes_of(fields: Mapping[str, Any]) -> set[str]:
    """The paths in the event's context that the fields ask for."""
    return {code for value in fields.values() for code in event_codes(value)}


def rehearse_fields(
    fields: Mapping[str, Any], runs: Sequence[Started]
) -> dict[int, Outcome]:
    """What would come of it if only a field can be missing."""
    outcomes: dict[int, Outcome] = {}
    for started in runs:
        _, missing = context_for(fields, started.context)
        outcomes[started.run.pk] = Go(FAILED, missing) if missing else Go(DONE)
    return outcomes


def read_lines(text: str) -> dict[str, Any]:
    """Fields with values, a line each: reason = won back. Raises ValidationError."""
    fields: dict[str, Any] = {}
    for line in text.splitlines():
        code, sign, value = (part.strip() for part in line.partition("="))
        if not code and not sign:
            continue
        if not sign:
            raise forms.ValidationError(
                f"“{line}” is not understood. Write a line as: field = value."
            )
        fields[code] = _meant(value)
    return fields


def context_for(
    wanted: Mapping[str, Any], context: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """(fields with their values for this event, why some have none or "")."""
    found = {}
    for code, value in wanted.items():
        found[code], missing = value_for(value, context)
        if missing:
            return {}, missing
    return found, ""


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _meant(text: str) -> Any:
    """A number, true, false, null or a list in JSON; anything else is a text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, dict) else value

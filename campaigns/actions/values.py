"""Values in a configuration that may be `$field_code` of the event, as in rules.

A `$` that is meant literally is written `$$`; see PRODUCT.md, “Campaigns”.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from campaigns.actions.base import ANSWERS, Config, ConfigInvalid, Started
from customers.models import Customer
from events.wire import MAX_NAME
from segments.compile import lookup
from segments.rules import FIELD_PATH, EventValue

#: The ways of those for whom it was done, and could not be done.
DONE, FAILED = "done", "failed"
MAX_TEXT = 4_096
MAX_ITEMS = 200


def read_value(value: object, *, field: str) -> Any:
    """A scalar, a list of scalars or null, with EventValue for each `$field_code`.

    Raises ConfigInvalid, with its place.
    """
    if isinstance(value, list):
        if len(value) > MAX_ITEMS:
            raise ConfigInvalid(f"A list has at most {MAX_ITEMS} values.", field=field)
        return [_scalar(one, field=f"{field}.{i}") for i, one in enumerate(value)]
    return None if value is None else _scalar(value, field=field)


def event_codes(value: object) -> set[str]:
    """The paths in the event's context that a value asks for."""
    values = value if isinstance(value, list) else [value]
    read = [read_value(one, field="") for one in values]
    return {one.path for one in read if isinstance(one, EventValue)}


def value_for(value: object, context: Mapping[str, Any]) -> tuple[Any, str]:
    """(the value for this event, why it has none or "")."""
    read = read_value(value, field="")
    missing = [
        code for code in sorted(event_codes(value)) if lookup(context, code) is None
    ]
    if missing:
        return None, lacking(missing)

    def known(one: Any) -> Any:
        return lookup(context, one.path) if isinstance(one, EventValue) else one

    return [known(one) for one in read] if isinstance(read, list) else known(read), ""


def lacking(codes: Sequence[str]) -> str:
    """That the event, or an answer, has no such fields, in a sentence; "" for none."""
    of_event = [code for code in codes if not code.startswith(f"{ANSWERS}.")]
    named = ", ".join(f"“{code}”" for code in of_event)
    said = [f"The event has no {named}."] if of_event else []
    for code in codes:
        if code not in of_event:
            _, step, *path = code.split(".")
            what = f"no “{'.'.join(path)}”" if path else "nothing in it"
            said.append(f"The answer of “{step}” has {what}.")
    return " ".join(said)


def read_event_name(config: Config) -> str:
    """“event” of a configuration, checked; as it is sent, blanks around it included."""
    name = config.get("event")
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME:
        raise ConfigInvalid(
            f"“event” is the name of an event, up to {MAX_NAME} characters.",
            field="event",
        )
    return name


def external_ids(runs: Sequence[Started]) -> dict[int, str]:
    """Customer's key → the ID by which the apps below know them. One query."""
    customers = {started.run.customer_id for started in runs}
    return dict(
        Customer.objects.filter(pk__in=customers).values_list("pk", "external_id")
    )


def _scalar(value: object, *, field: str) -> Any:
    if isinstance(value, str):
        if len(value) > MAX_TEXT or "\x00" in value:
            raise ConfigInvalid(
                f"A text here has at most {MAX_TEXT:,} characters, none of them NUL.",
                field=field,
            )
        if value.startswith("$$"):
            return value[1:]
        if value.startswith("$"):
            if not FIELD_PATH.match(value[1:]):
                raise ConfigInvalid(
                    f"“{value}” is no field code. A “$” that is meant literally is "
                    "written “$$”.",
                    field=field,
                )
            return EventValue(value[1:])
        return value
    if type(value) is bool or type(value) is int:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    raise ConfigInvalid(
        "A value is a text, a number, true or false, or a list of these.", field=field
    )

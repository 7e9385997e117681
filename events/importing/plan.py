"""How the columns of a file become fields: a frozen value, parsed whole or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from customers.models import Channel, Device
from customers.wire import COLUMNS as CUSTOMER_COLUMNS
from events.importing.reading import (
    DELIMITERS,
    ENCODINGS,
    Row,
    Shape,
    read_json_line,
)
from events.models import Import
from events.wire import FIELD_CODE, MAX_ID, Refusal
from smartcomm.core.errors import Invalid, Several

Kind = Import.Kind

#: What the file of refused rows adds. It is not imported; `_id` and `_line` keep the
#: identity of an event that came without an id.
OURS = ("_line", "_code", "_field", "_message", "_id")
#: A line of refused NDJSON that was no object.
RAW = "_raw"

TYPES = {
    "": "as it looks",
    "text": "text",
    "number": "number",
    "boolean": "yes or no",
}

EVENT_FIELDS = {
    "id": "ID of the event",
    "name": "Name of the event",
    "customer": "Customer's ID",
    "customer.email": "Customer's e-mail",
    "customer.phone": "Customer's phone",
    "occurred_at": "Time",
    "backfill": "Backfill",
}
CUSTOMER_FIELDS = {
    "external_id": "Customer's ID",
    "first_name": "First name",
    "last_name": "Last name",
    "email": "E-mail",
    "phone": "Phone",
    "birth_date": "Birth date",
    "gender": "Gender",
    "city": "City",
    "country": "Country",
    "language": "Language",
    "time_zone": "Time zone",
    "registered_at": "Registered",
    **{f"consents.{each.value}": f"Consent: {each.label}" for each in Channel},
    **{f"devices.{each.value}": f"Device: {each.label}" for each in Device.Platform},
}
#: Taken whole, from NDJSON.
EVENT_OBJECTS = ("context",)
CUSTOMER_OBJECTS = ("attributes", "consents", "devices")

TIMES = ("occurred_at", "registered_at")
YES = frozenset({"true", "yes", "y", "1", "on"})
NO = frozenset({"false", "no", "n", "0", "off"})

# An ID, a phone, a code with zeros in front must stay what it is: a text. So numbers
# are short, and have no zeros to lose. What is longer can be declared a number.
NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,8})(?:\.\d{1,9})?\Z", re.ASCII)
#: Where the field is known to hold numbers.
LONG_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d{1,15})?\Z", re.ASCII)
#: Where somebody said that they are numbers.
ANY_NUMBER = re.compile(
    r"[-+]?\d{1,40}(?:\.\d{1,40})?(?:[eE][-+]?\d{1,3})?\Z", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Column:
    """Where the values of a column go. No target: nowhere."""

    name: str
    target: str
    #: One of TYPES. Chosen: a value that does not fit is refused.
    type: str = ""
    #: What all values looked like that were seen at first; "" if they differ.
    looks: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the rows of a file become customers or events."""

    kind: Kind
    shape: Shape
    columns: tuple[Column, ...] = ()
    #: Field → value of every row that says nothing else.
    constants: Mapping[str, str] = field(default_factory=dict)
    #: Whether campaigns answer the events. Otherwise all of them are backfill.
    triggers: bool = False
    time_zone: str = ""
    time_format: str = ""
    date_format: str = ""
    decimal_comma: bool = False

    @property
    def is_native(self) -> bool:
        """Whether rows are items as the API takes them."""
        return not self.columns

    @property
    def is_of_customers(self) -> bool:
        return self.kind == Kind.CUSTOMERS

    def column_of(self, place: str) -> str:
        """The column to look at, for a place in an item that is wrong."""
        for column in self.columns:
            if column.target and (
                column.target == place or place.startswith(f"{column.target}.")
            ):
                return column.name
        return place

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return found


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    shape: dict[str, Any]
    columns: list[dict[str, str]] = []
    constants: dict[str, str] = {}
    triggers: bool = False
    time_zone: str = ""
    time_format: str = ""
    date_format: str = ""
    decimal_comma: bool = False


def parse(data: object) -> Plan:
    """The plan that was stored, if rows can be read by it."""
    return checked(read_draft(data))


def read_draft(data: object) -> Plan:
    """The plan that was stored; perhaps it does not do yet."""
    stored = msgspec.convert(data, _Stored)
    return Plan(
        kind=Kind(stored.kind),
        shape=msgspec.convert(stored.shape, Shape),
        columns=tuple(Column(**each) for each in stored.columns),
        constants=stored.constants,
        triggers=stored.triggers,
        time_zone=stored.time_zone,
        time_format=stored.time_format,
        date_format=stored.date_format,
        decimal_comma=stored.decimal_comma,
    )


def checked(plan: Plan) -> Plan:
    """The plan, if rows can be read by it. Raises Several with all that is wrong."""
    errors: list[Invalid] = []
    taken: dict[str, str] = {}
    for column in plan.columns:
        place = f"columns.{column.name}"
        if column.type not in TYPES:
            errors.append(_wrong(place, f"“{column.type}” is no type of a value."))
        if not column.target:
            continue
        if problem := target_problem(column.target, plan):
            errors.append(_wrong(place, problem))
        elif column.target in taken:
            errors.append(
                _wrong(
                    place,
                    f"“{taken[column.target]}” goes into {column.target} already. "
                    "Choose another field for one of them.",
                )
            )
        taken.setdefault(column.target, column.name)
    if plan.columns or plan.shape.format == "csv":
        errors += _missing(plan, taken)
    for target in plan.constants:
        if problem := target_problem(target, plan):
            errors.append(_wrong(f"constants.{target}", problem))
    if plan.shape.delimiter not in DELIMITERS:
        errors.append(
            _wrong("delimiter", "The delimiter is a comma, a semicolon, a tab or |.")
        )
    if plan.shape.encoding not in ENCODINGS:
        errors.append(
            _wrong("encoding", f"The encoding is one of {', '.join(ENCODINGS)}.")
        )
    if plan.time_format and "%z" not in plan.time_format and not plan.time_zone:
        errors.append(
            _wrong(
                "time_zone",
                "Times in this form have no offset: name the time zone they are of, "
                "such as Europe/Berlin.",
            )
        )
    if plan.time_zone and plan.time_zone not in available_timezones():
        errors.append(
            _wrong(
                "time_zone",
                f"“{plan.time_zone}” is no time zone. Name one such as Europe/Berlin.",
            )
        )
    for name in ("time_format", "date_format"):
        pattern = getattr(plan, name)
        if pattern and "%" not in pattern:
            errors.append(_wrong(name, "Write the form as in %d.%m.%Y %H:%M:%S."))
    if errors:
        raise Several(list(errors))
    return plan


def target_problem(target: str, plan: Plan) -> str:
    """Why nothing can go into this field; nothing if it can."""
    first, _, rest = target.partition(".")
    objects = CUSTOMER_OBJECTS if plan.is_of_customers else EVENT_OBJECTS
    if target in fields_of(plan.kind):
        return ""
    if target in objects and plan.shape.format == "ndjson":
        return ""
    if first == ("attributes" if plan.is_of_customers else "context") and rest:
        parts = rest.split(".") if first == "context" else [rest]
        bad = next((part for part in parts if not FIELD_CODE.match(part)), None)
        if bad is None and len(parts) <= 6:
            if first == "attributes" and rest in CUSTOMER_COLUMNS:
                return f"“{rest}” is told of every customer, and is no attribute."
            return ""
        return (
            f"“{bad}” is no field code: use letters, digits and underscores, not "
            "starting with a digit, up to 64 characters."
        )
    known = [*fields_of(plan.kind)]
    known.append("attributes.<code>" if plan.is_of_customers else "context.<code>")
    return f"“{target}” is no field. There are {', '.join(known)}."


def fields_of(kind: str) -> Mapping[str, str]:
    """Field → what it is called, without those that are named by a code."""
    if kind == Kind.CUSTOMERS:
        return CUSTOMER_FIELDS
    if kind == Kind.SYSTEM_EVENTS:
        return {
            field: label
            for field, label in EVENT_FIELDS.items()
            if not field.startswith("customer")
        }
    return EVENT_FIELDS


def _missing(plan: Plan, taken: Mapping[str, str]) -> list[Invalid]:
    has = {*taken, *plan.constants}
    if plan.is_of_customers:
        if "external_id" not in has:
            return [
                _wrong(
                    "external_id", "Say which column is the customer's ID: external_id."
                )
            ]
        return []
    errors = []
    if "name" not in has:
        errors.append(
            _wrong(
                "name",
                "Say what happened: choose the column with the name of the event, or "
                "set one name for all rows.",
            )
        )
    whose = [one for one in has if one.startswith("customer")]
    if plan.kind == Kind.EVENTS and not whose:
        errors.append(
            _wrong("customer", "Say whose events they are: choose the customer's ID.")
        )
    if len(whose) > 1:
        errors.append(
            _wrong("customer", "One column tells the customer: ID, e-mail or phone.")
        )
    return errors


def _wrong(place: str, message: str) -> Invalid:
    return Invalid(message, field=place, code="plan_invalid")


# Rows → items


#: (name of an event, code of a field) → type that is known of it.
Known = Mapping[tuple[str, str], str]


class Mapper:
    """Makes the items of the API out of rows."""

    def __init__(self, plan: Plan, header: list[str], *, digest: str) -> None:
        self.plan = plan
        self._digest = digest[:32]
        self._zone = ZoneInfo(plan.time_zone) if plan.time_zone else None
        by_name = {column.name: column for column in plan.columns}
        self._columns = [by_name.get(name) for name in header]
        self._by_name = by_name
        self._ours = {
            name: position for position, name in enumerate(header) if name in OURS
        }
        self._name_at = next(
            (
                position
                for position, column in enumerate(self._columns)
                if column and column.target == "name"
            ),
            None,
        )

    def name_of(self, row: Row) -> str:
        """The name of the event, as far as it is told: for what is known of it."""
        if row.refusal is not None or self.plan.is_of_customers:
            return ""
        if isinstance(row.value, list) and self.plan.shape.format == "csv":
            at = self._name_at
            found = row.value[at] if at is not None and at < len(row.value) else ""
        elif isinstance(row.value, dict):
            column = next(
                (one.name for one in self.plan.columns if one.target == "name"), "name"
            )
            found = row.value.get(column)
        else:
            found = ""
        if isinstance(found, str) and found:
            return found
        return self.plan.constants.get("name", "")

    def item_of(self, row: Row, known: Known) -> Any:
        """One item as the API takes it. Raises Refusal for what cannot be one."""
        if row.refusal is not None:
            raise row.refusal
        if self.plan.shape.format == "csv":
            item = self._from_fields(row.value, known)
        else:
            if isinstance(row.value, dict) and RAW in row.value:
                # The line as it was, perhaps mended since.
                row = self._mended(row)
            if not isinstance(row.value, dict):
                return row.value  # The door says what is wrong with it.
            item = self._from_object(row.value, known)
        for target, value in self.plan.constants.items():
            self._put_constant(item, target, value)
        if not self.plan.is_of_customers:
            self._finish_event(item, row)
        return item

    def derived_id(self, row: Row) -> str:
        """The id of an event that brings none: the same whenever the file is sent.

        It is made of the content of the file and the line. A refused row that comes
        again has the one it got at first.
        """
        found: object = ""
        if isinstance(row.value, dict):
            found = row.value.get("_id")
        elif isinstance(row.value, list) and (at := self._ours.get("_id")) is not None:
            found = row.value[at] if at < len(row.value) else ""
        if isinstance(found, str) and found:
            return found[:MAX_ID]
        return f"file-{self._digest}-{row.number}"

    def is_correction(self, row: Row) -> bool:
        """Whether the row was refused before, and comes again."""
        return "_id" in self._ours or (
            isinstance(row.value, dict) and "_id" in row.value
        )

    def _finish_event(self, item: dict[str, Any], row: Row) -> None:
        if item.get("id") is None:
            item["id"] = self.derived_id(row)
        if not self.plan.triggers and item.get("backfill") in (None, False):
            item["backfill"] = True

    def _from_fields(self, values: list[str], known: Known) -> dict[str, Any]:
        item: dict[str, Any] = {}
        name = ""
        if self._name_at is not None:
            name = values[self._name_at]
        name = name or self.plan.constants.get("name", "")
        for column, value in zip(self._columns, values, strict=True):
            if column is None or not column.target or value == "":
                continue
            self._put(item, column, self._typed(column, value, name, known))
        return item

    def _from_object(self, value: dict[str, Any], known: Known) -> dict[str, Any]:
        value = {key: one for key, one in value.items() if key not in OURS}
        if self.plan.is_native:
            return value
        item: dict[str, Any] = {}
        name = self.name_of(Row(0, b"", value))
        for key, sent in value.items():
            column = self._by_name.get(key)
            if column is None:
                raise Refusal(
                    "column_unknown",
                    f"“{key[:80]}” was not in the first rows, and nobody said where it "
                    f"goes. Map it, or skip it.",
                    field=key[:80],
                )
            if not column.target or sent is None:
                continue
            if isinstance(sent, str):
                sent = self._typed(column, sent, name, known, is_json=True)
            self._put(item, column, sent)
        return item

    def _mended(self, row: Row) -> Row:
        text = row.value[RAW]
        ours = {key: one for key, one in row.value.items() if key in OURS}
        if not isinstance(text, str):
            raise Refusal("not_json", f"“{RAW}” is a text: the line as it was.")
        mended = read_json_line(row.number, text.encode("utf-8", "replace"))
        if mended.refusal is not None:
            raise mended.refusal
        if isinstance(mended.value, dict):
            mended.value = {**mended.value, **ours}
        return mended

    def _put_constant(self, item: dict[str, Any], target: str, value: str) -> None:
        column = Column("", target)
        try:
            _place(item, target, self._typed(column, value, "", {}), replace=False)
        except Refusal as refusal:
            raise Refusal(refusal.code, refusal.message, field=target) from refusal

    def _put(self, item: dict[str, Any], column: Column, value: Any) -> None:
        target = column.target
        if target.startswith("customer."):
            item["customer"] = {target.partition(".")[2]: value}
        elif target.startswith("devices."):
            platform = target.partition(".")[2]
            item.setdefault("devices", []).append(
                {"platform": platform, "token": value}
            )
        else:
            _place(item, target, value, replace=True)

    def _typed(
        self,
        column: Column,
        value: str,
        name: str,
        known: Known,
        *,
        is_json: bool = False,
    ) -> Any:
        target = column.target
        if target in TIMES:
            return self._time(value, target)
        if target == "birth_date" and self.plan.date_format:
            return self._date(value)
        if target == "backfill" or target.startswith("consents."):
            return _yes_or_no(value, target)
        if not target.startswith(("context.", "attributes.")):
            return value
        if column.type:
            return self._chosen(column, value)
        if is_json:
            return value
        field = target.partition(".")[2]
        told = known.get((name, field))
        wanted = told or column.looks
        if wanted in ("number", ""):
            number = self._number(value, LONG_NUMBER if told else NUMBER)
            if number is not None:
                return number
        if wanted in ("boolean", "") and value.lower() in ("true", "false"):
            return value.lower() == "true"
        return value

    def _chosen(self, column: Column, value: str) -> Any:
        if column.type == "number":
            number = self._number(value, ANY_NUMBER)
            if number is None:
                raise Refusal(
                    "value_type",
                    f"“{column.name}” was said to be a number, and is “{value[:80]}”.",
                    field=column.target,
                )
            return number
        if column.type == "boolean":
            return _yes_or_no(value, column.target)
        return value

    def _number(self, value: str, form: re.Pattern[str]) -> int | float | None:
        text = value.replace(",", ".", 1) if self.plan.decimal_comma else value
        if not form.match(text):
            return None
        try:
            return int(text)
        except ValueError:
            number = float(text)
            return number if abs(number) < 1e300 else None

    def _time(self, value: str, target: str) -> str:
        """RFC 3339, if the plan says how to read a time that is something else."""
        plan = self.plan
        if not plan.time_format and self._zone is None:
            return value
        text = value.strip()
        try:
            if plan.time_format:
                moment = datetime.strptime(text, plan.time_format)  # noqa: DTZ007
            else:
                moment = datetime.fromisoformat(text)
        except ValueError as error:
            if not plan.time_format:
                return value  # The door says what is wrong with it.
            raise Refusal(
                f"{target}_invalid",
                f"“{text[:80]}” is no time in the form {plan.time_format}.",
                field=target,
            ) from error
        if moment.tzinfo is None and self._zone is not None:
            moment = moment.replace(tzinfo=self._zone)
        return moment.isoformat()

    def _date(self, value: str) -> str:
        try:
            found = datetime.strptime(value.strip(), self.plan.date_format)  # noqa: DTZ007
        except ValueError as error:
            raise Refusal(
                "value_type",
                f"“{value[:80]}” is no date in the form {self.plan.date_format}.",
                field="birth_date",
            ) from error
        return found.date().isoformat()


def _yes_or_no(value: str, target: str) -> bool:
    word = value.strip().lower()
    if word in YES:
        return True
    if word in NO:
        return False
    raise Refusal(
        "value_type",
        f"“{value[:80]}” is neither yes nor no: write true or false.",
        field=target,
    )


def _place(item: dict[str, Any], target: str, value: Any, *, replace: bool) -> None:
    """Put a value at a dotted place, making the objects on the way."""
    *way, last = target.split(".")
    place = item
    for step in way:
        inner = place.get(step)
        if inner is None:
            inner = place[step] = {}
        if not isinstance(inner, dict):
            raise Refusal(
                "columns_collide",
                f"“{target}” goes into “{step}”, which has a value of its own.",
                field=target,
            )
        place = inner
    if replace or place.get(last) is None:
        place[last] = value


def with_options(plan: Plan, **options: Any) -> Plan:
    """The plan with some of it told otherwise; None leaves what there is."""
    told = {name: value for name, value in options.items() if value is not None}
    return replace(plan, **told)


def in_short(item: Any) -> str:
    """An item as one line, for people."""
    text = json.dumps(item, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:299]}…"

"""What can be done about rejected events, by the code of their reason.

Every code by which the door refuses an event has a line here; tests/guards asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from events.formats import TRANSLATORS
from events.models import Format, RejectedEvent
from events.wire import FIELD_CODE, Refusal


class Deed(StrEnum):
    """What the back office offers to do, beside replaying and setting aside."""

    RENAME = "rename"
    DECLARE = "declare"
    OPEN_TYPE = "open_type"
    CREATE_CUSTOMERS = "create_customers"
    LET_CREATE = "let_create"
    FIND_CUSTOMERS = "find_customers"
    OPEN_MAPPINGS = "open_mappings"


@dataclass(frozen=True)
class Remedy:
    """A reason in a few words, what to do about it, and what we can do here."""

    title: str
    advice: str
    deeds: tuple[Deed, ...] = ()


SENDER = (
    "The sender must be corrected. What was sent is kept; once the sender has sent it "
    "again rightly, set these aside."
)
RAISED = (
    "It is beyond a limit of this product. Have the sender send less, or as several "
    "events; then set these aside."
)
FILE = (
    "It came in a file. Correct it in the file of rejected rows, which the page of the "
    "import offers, and import that: it counts as replayed here then."
)

REMEDIES: Mapping[str, Remedy] = {
    "field_code_invalid": Remedy(
        "A field code that cannot be used",
        "Give the field another name here. Events that come with the old one are "
        "renamed as they arrive, and these are replayed.",
        (Deed.RENAME,),
    ),
    "field_unknown": Remedy(
        "A field that is not declared",
        "The event type is enforced. Declare the field, or rename it if the source "
        "only calls it otherwise.",
        (Deed.DECLARE, Deed.RENAME, Deed.OPEN_TYPE),
    ),
    "field_type": Remedy(
        "Another type of value than declared",
        "Correct the type of the field, or have the sender corrected; then replay.",
        (Deed.OPEN_TYPE,),
    ),
    "field_missing": Remedy(
        "A required field is missing",
        "Take “required” off the field if events may come without it, or rename the "
        "field that carries it; then replay.",
        (Deed.OPEN_TYPE, Deed.OPEN_MAPPINGS),
    ),
    "field_mapping_conflict": Remedy(
        "A renamed field that is there already",
        "The event has both the field and what a mapping renames it to. Change the "
        "mapping, or have the sender send one of them; then replay.",
        (Deed.OPEN_MAPPINGS,),
    ),
    "customer_unknown": Remedy(
        "Customers we do not know",
        "Create these customers, with nothing but their ID until the source tells "
        "more, or let this source create customers from now on. Or have them sent "
        "first, and replay.",
        (Deed.CREATE_CUSTOMERS, Deed.LET_CREATE),
    ),
    "customer_ambiguous": Remedy(
        "A contact that several customers have",
        "Look at who they are. Once they are one customer, or only one of them has "
        "the contact, replay.",
        (Deed.FIND_CUSTOMERS,),
    ),
    "customer_missing": Remedy("No customer is named", SENDER),
    "customer_invalid": Remedy("A customer that cannot be", SENDER),
    "customer_not_allowed": Remedy("A customer in a system event", SENDER),
    "kind_mismatch": Remedy(
        "A name of the other kind of event",
        "A name is either of events of customers or of system events, by what came "
        "first. Have the sender send it to the other address, or under another name; "
        "then set these aside.",
        (Deed.OPEN_TYPE,),
    ),
    "name_missing": Remedy("No name", SENDER),
    "name_too_long": Remedy("A name that is too long", SENDER),
    "id_invalid": Remedy("An ID that cannot be", SENDER),
    "key_unknown": Remedy("A key that is not understood", SENDER),
    "key_duplicate": Remedy("A key that is told twice", SENDER),
    "not_an_object": Remedy("Not an event", SENDER),
    "not_json": Remedy("Not JSON", SENDER),
    "text_invalid": Remedy("A character that cannot be stored", SENDER),
    "backfill_invalid": Remedy("“backfill” is neither true nor false", SENDER),
    "occurred_at_invalid": Remedy("A time that cannot be read", SENDER),
    "occurred_at_naive": Remedy("A time without an offset", SENDER),
    "occurred_at_in_future": Remedy(
        "A time that is to come",
        "Replay these once the time has come, and have the sender's clock set.",
    ),
    "context_invalid": Remedy("A context that is none", SENDER),
    "context_too_many_fields": Remedy("Too many fields", RAISED),
    "context_too_large": Remedy("A context that is too large", RAISED),
    "context_too_deep": Remedy("A context that is nested too deeply", RAISED),
    "kind_invalid": Remedy("A kind of event that there is not", SENDER),
    "encoding_unknown": Remedy("An encoding that is not known", SENDER),
    "encoding_broken": Remedy("A body that is not encoded as it says", SENDER),
    "internal": Remedy(
        "A fault of ours",
        "Whoever runs this installation finds the cause in its log. Once it is mended, "
        "replay.",
    ),
    "id_missing": Remedy("No ID", SENDER),
    "not_a_list": Remedy("Not a list of events", SENDER),
    "too_large": Remedy("A message that is too large", RAISED),
    "properties_invalid": Remedy("Properties that cannot be read", SENDER),
    "not_an_event": Remedy("Not an event", SENDER),
    "type_unknown": Remedy("A type of message that is not known", SENDER),
    "traits_invalid": Remedy("Traits that cannot be", SENDER),
    "group_missing": Remedy("No group is named", SENDER),
    "scope_missing": Remedy(
        "A key that may not do this",
        "Replay these if they are to count: a replay applies them. For those to come, "
        "give the source a key with the scope that is named.",
    ),
    "field_code_collision": Remedy("Two fields that become the same", SENDER),
    "attribute_missing": Remedy("A CloudEvent without an attribute", SENDER),
    "attribute_invalid": Remedy("An attribute that cannot be", SENDER),
    "specversion_unsupported": Remedy("A version of CloudEvents but 1.0", SENDER),
    "data_invalid": Remedy("Data that cannot be read", SENDER),
    "data_not_json": Remedy("Data that is not JSON", SENDER),
    "data_unsupported": Remedy("Data of a kind that is not taken", SENDER),
    "number_invalid": Remedy("A number that is none", SENDER),
    "number_too_large": Remedy("A number that is too large", SENDER),
    "columns_wrong": Remedy("More or fewer fields than columns", FILE),
    "csv_invalid": Remedy("A quote that is wrong", FILE),
    "row_too_long": Remedy("A row that is too long", FILE),
    "value_type": Remedy("Another type of value than chosen", FILE),
    "column_unknown": Remedy("A key that nobody mapped", FILE),
    "columns_collide": Remedy("Two columns for one place", FILE),
}


def remedy(code: str) -> Remedy:
    """What can be done about a reason; of one that is not known, the least."""
    return REMEDIES.get(code) or Remedy(in_words(code), SENDER)


def in_words(code: str) -> str:
    """A code as staff read it: field_code_invalid → Field code invalid."""
    return code.replace("_", " ").capitalize()


def context_of(row: RejectedEvent) -> dict[str, Any]:
    """The context that was sent, as far as there is one."""
    try:
        data = TRANSLATORS[Format(row.format)](json.loads(row.payload))
    except (ValueError, Refusal):
        return {}
    context = data.get("context") if isinstance(data, dict) else None
    return context if isinstance(context, dict) else {}


def field_as_sent(row: RejectedEvent) -> str:
    """The field that a refusal is about, as a mapping names it.

    The refusal tells a long one shortened, so it is looked up in what was sent.
    """
    if row.code == "field_code_invalid":
        return next((c for c in context_of(row) if not FIELD_CODE.match(c)), "")
    return row.field.removeprefix("context.")


def value_at(context: Mapping[str, Any], path: str) -> Any:
    """The value at a path of field codes; None where there is none."""
    value: Any = context
    for code in path.split("."):
        value = value.get(code) if isinstance(value, dict) else None
    return value


def suggested_code(sent: str) -> str:
    """A field code close to what was sent: price-eur → price_eur. May be empty."""
    last = sent if not FIELD_CODE.match(sent.rpartition(".")[2]) else ""
    made = "".join(c if c.isascii() and c.isalnum() else "_" for c in last)[:64]
    made = made.strip("_") or ""
    return f"_{made}"[:64] if made[:1].isdigit() else made

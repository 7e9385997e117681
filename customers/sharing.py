"""Contacts that several customers have: families, and one person known twice.

Who has the same contact is asked of the indexes of `Customer`, and told whenever a
customer is told; what was found is kept as `SharedContact`, for the list that staff
read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from customers.models import Customer
from smartcomm.core.db import execute, fetch_all

#: The columns of a customer that hold a contact.
KINDS = ("email", "phone")
#: So many owners are named.
NAMED = 5

#: (kind, value), as we keep it.
Contact = tuple[str, str]

# One more than is named, and one for the customer who is asking: a contact that half
# of all customers have costs no more than any other. The words of the partial indexes.
OWNERS = """
    SELECT asked.kind, asked.value, owner.external_id
      FROM jsonb_to_recordset(%s::jsonb) AS asked (kind text, value text),
           LATERAL (
               (SELECT external_id FROM customers_customer
                 WHERE asked.kind = 'email'
                   AND email = asked.value AND email <> '' AND email_is_valid
                 LIMIT %s)
               UNION ALL
               (SELECT external_id FROM customers_customer
                 WHERE asked.kind = 'phone'
                   AND phone = asked.value AND phone <> '' AND phone_is_valid
                 LIMIT %s)
           ) AS owner
"""

KEEP = """
    INSERT INTO customers_sharedcontact (kind, value, found_at)
    SELECT kind, value, now()
      FROM jsonb_to_recordset(%s::jsonb) AS found (kind text, value text)
     ORDER BY value, kind
        ON CONFLICT (value, kind) DO NOTHING
"""
FORGET = """
    DELETE FROM customers_sharedcontact AS contact
     USING jsonb_to_recordset(%s::jsonb) AS found (kind text, value text)
     WHERE contact.value = found.value AND contact.kind = found.kind
"""


def owners_of(contacts: Iterable[Contact]) -> dict[Contact, list[str]]:
    """Contact → the external ids of those who have it, sorted; a few if it is many.

    Contacts are as we keep them; one that is not valid has no owners. One query.
    """
    asked = sorted({contact for contact in contacts if contact[1]})
    found: dict[Contact, list[str]] = {contact: [] for contact in asked}
    if asked:
        most = NAMED + 2
        for kind, value, external_id in fetch_all(OWNERS, [_json(asked), most, most]):
            found[kind, value].append(external_id)
    return {contact: sorted(owners) for contact, owners in found.items()}


def customers_with(contacts: Iterable[Contact]) -> dict[Contact, list[Customer]]:
    """The same, with the customers themselves, the first known first. Two queries."""
    owners = owners_of(contacts)
    ids = {id for found in owners.values() for id in found}
    rows = Customer.objects.filter(external_id__in=ids) if ids else []
    by_id = {customer.external_id: customer for customer in rows}
    return {
        contact: sorted((by_id[id] for id in found if id in by_id), key=lambda c: c.pk)
        for contact, found in owners.items()
    }


def named(external_ids: Sequence[str]) -> str:
    """Up to five IDs, as they stand in a sentence."""
    few = ", ".join(f"“{one}”" for one in external_ids[:NAMED])
    return few if len(external_ids) <= NAMED else f"{few} and others"


def look_again(
    told: Iterable[Contact], *, given_up: Iterable[Contact] = ()
) -> dict[Contact, list[str]]:
    """Keep which of these contacts are shared now. Returns their owners.

    `told` are those that customers have got, `given_up` those that somebody no longer
    has. One query, and up to two more where something is shared or was.
    """
    left = set(given_up)
    owners = owners_of(left.union(told))
    shared = [contact for contact, ids in owners.items() if len(ids) > 1]
    if shared:
        execute(KEEP, [_json(shared)])
    if alone := [one for one in left & owners.keys() if len(owners[one]) < 2]:
        execute(FORGET, [_json(alone)])
    return owners


def _json(contacts: Iterable[Contact]) -> str:
    return msgspec.json.encode(
        [{"kind": kind, "value": value} for kind, value in contacts]
    ).decode()

"""Finding customers by what somebody remembers of them."""

from __future__ import annotations

import re

from django.db.models import Q, QuerySet

from customers.merging import current_ids
from customers.models import Customer

#: What people type for a telephone number, however they group its digits.
_PHONE = re.compile(r"^\+?[\d\s()/.-]{3,}$")


def find(customers: QuerySet[Customer], text: str) -> QuerySet[Customer]:
    """The customers whose ID, e-mail, phone or name begins with this text, and who had
    it as their ID before they were merged.

    Two words are a first and a last name, or their beginnings, in either order. Each
    way to match is answered by an index of its own (see Customer.Meta), so it must
    stay a beginning: `contains` would read every customer.
    """
    words = text.split()
    if not words:
        return customers
    text = " ".join(words)
    matches = Q(external_id__istartswith=text) | Q(email__istartswith=text)
    matches |= Q(first_name__istartswith=text) | Q(last_name__istartswith=text)
    matches |= Q(phone__istartswith=_as_stored(text))
    # Asked first: a subquery beside the others would keep them from their indexes.
    if merged := current_ids([text]):
        matches |= Q(pk=merged[text][0])
    for cut in range(1, len(words)):
        one, other = " ".join(words[:cut]), " ".join(words[cut:])
        matches |= Q(first_name__istartswith=one, last_name__istartswith=other)
        matches |= Q(first_name__istartswith=other, last_name__istartswith=one)
    return customers.filter(matches)


def _as_stored(text: str) -> str:
    """A number as E.164 writes it: +4915112, for 0049 151 12 or 4915112 too."""
    if not _PHONE.match(text):
        return text
    digits = re.sub(r"\D", "", text)
    return "+" + digits.removeprefix("00")

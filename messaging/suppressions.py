"""Addresses that must not be written to again."""

from __future__ import annotations

from customers.contacts import normalise_email, normalise_phone
from customers.models import Channel


def key(channel: str, address: str) -> str:
    """An address as the list of suppressions keeps it.

    E-mail without regard to case: mail servers hardly ever tell Anna@ from anna@, and
    who asked to be left alone shall be.
    """
    if channel == Channel.EMAIL:
        return normalise_email(address).value.lower()
    if channel == Channel.SMS:
        return normalise_phone(address).value
    return address.strip()

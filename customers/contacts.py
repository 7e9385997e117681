"""E-mail addresses and phone numbers, written the way we keep them.

What cannot be written to is kept as it came, and marked: nothing is lost, and staff
can see what to correct.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import phonenumbers
from email_validator import EmailNotValidError, validate_email

# Digits, and what people put between them. Letters stand for an extension or for a
# word dialled on the keys: neither can be written to.
_PHONE = re.compile(r"\+?[\d\s()./\-\u2010-\u2015\u00a0]+")


@dataclass(frozen=True)
class Contact:
    """An address as we keep it, and whether it may be written to."""

    value: str
    is_valid: bool


NO_CONTACT = Contact("", is_valid=False)


def normalise_email(text: str) -> Contact:
    """The address in lower case. The mail server is not asked.

    A server might tell Anna@ from anna@; none that matters does, and people do not.
    """
    text = text.strip()
    if not text:
        return NO_CONTACT
    try:
        checked = validate_email(text, check_deliverability=False)
    except EmailNotValidError:
        return Contact(text, is_valid=False)
    return Contact(checked.normalized.lower(), is_valid=True)


def normalise_phone(text: str, *, country: str = "") -> Contact:
    """The number in E.164 (+4915112345678).

    A number written without its country code is read as one of `country` (DE).
    """
    text = text.strip()
    if not text:
        return NO_CONTACT
    written = f"+{text[2:]}" if text.startswith("00") and not country else text
    if not _PHONE.fullmatch(written):
        return Contact(text, is_valid=False)
    try:
        number = phonenumbers.parse(written, country or None)
    except phonenumbers.NumberParseException:
        return Contact(text, is_valid=False)
    if not phonenumbers.is_valid_number(number):
        return Contact(text, is_valid=False)
    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return Contact(e164, is_valid=True)

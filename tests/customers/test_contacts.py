"""Addresses are written one way, and what cannot be written to is marked."""

import pytest

from customers.contacts import normalise_email, normalise_phone


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("anna@example.com", "anna@example.com"),
        ("  Anna.Berg@EXAMPLE.com ", "anna.berg@example.com"),
        ("anna+shop@example.co.uk", "anna+shop@example.co.uk"),
        ("анна@пример.рф", "анна@пример.рф"),
    ],
)
def test_an_email_is_kept_in_lower_case(written, kept):
    contact = normalise_email(written)

    assert (contact.value, contact.is_valid) == (kept, True)


@pytest.mark.parametrize(
    "written",
    [
        "anna",
        "anna@",
        "@example.com",
        "anna@example",
        "a b@example.com",
        "x@y@z.com",
        "Anna <anna@example.com>",
        "anna@example.com, bob@example.com",
        "a@-b.com",
    ],
)
def test_what_is_no_email_is_kept_as_it_came_and_marked(written):
    contact = normalise_email(written)

    assert (contact.value, contact.is_valid) == (written, False)


@pytest.mark.parametrize(
    ("written", "country", "kept"),
    [
        ("+49 1511 2345678", "", "+4915112345678"),
        ("0049 1511 2345678", "", "+4915112345678"),
        ("0151 / 123 456 78", "DE", "+4915112345678"),
        ("0049 151 12345678", "DE", "+4915112345678"),
        ("+49 1511 2345678", "FR", "+4915112345678"),
        ("8 (912) 345-67-89", "RU", "+79123456789"),
        ("(020) 7946 0018", "GB", "+442079460018"),
    ],
)
def test_a_phone_is_kept_in_e164_read_as_one_dials_it_there(written, country, kept):
    contact = normalise_phone(written, country=country)

    assert (contact.value, contact.is_valid) == (kept, True)


@pytest.mark.parametrize(
    ("written", "country"),
    [
        ("0151 12345678", ""),
        ("12345", "DE"),
        ("+49", ""),
        ("call me", "DE"),
        ("+49 1511 2345678 ext. 5", ""),
        ("1-800-FLOWERS", "US"),
        ("+999 123456789", ""),
    ],
)
def test_what_is_no_phone_is_kept_as_it_came_and_marked(written, country):
    contact = normalise_phone(written, country=country)

    assert (contact.value, contact.is_valid) == (written, False)


@pytest.mark.parametrize("normalise", [normalise_email, normalise_phone])
def test_nothing_is_not_valid(normalise):
    assert normalise("  ").value == ""
    assert not normalise("").is_valid

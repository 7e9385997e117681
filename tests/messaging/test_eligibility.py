"""May this message be sent? One line a case."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from messaging.eligibility import Situation, refusal

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
FINE = Situation(
    channel="email",
    expires_at=NOW + timedelta(hours=1),
    address="anna@example.com",
    address_is_valid=True,
    channel_answer=True,
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"expires_at": NOW}, None),
        ({"expires_at": NOW - timedelta(seconds=1)}, "expired"),
        ({"address": ""}, "no_address"),
        ({"address": "", "address_is_valid": False}, "no_address"),
        ({"address_is_valid": False}, "invalid_address"),
        ({"address_is_suppressed": True}, "suppressed_address"),
        # The channel as a whole.
        ({"channel_answer": None}, "no_consent"),
        ({"channel_answer": None, "channel_default": True}, None),
        ({"channel_answer": False, "channel_default": True}, "no_consent"),
        # The category on it.
        ({"category": "News"}, None),
        ({"category": "News", "category_default": False}, "no_consent"),
        ({"category": "News", "category_answer": False}, "no_consent"),
        (
            {"category": "News", "category_answer": True, "category_default": False},
            None,
        ),
        (
            {"category": "News", "category_answer": True, "channel_answer": False},
            "no_consent",
        ),
        ({"category_answer": False}, None),
        # A test send to an address that a colleague typed.
        ({"is_own_address": True, "channel_answer": None}, None),
        ({"is_own_address": True, "channel_answer": False}, None),
        ({"is_own_address": True, "address_is_suppressed": True}, "suppressed_address"),
        ({"is_own_address": True, "expires_at": NOW - timedelta(1)}, "expired"),
    ],
)
def test_a_message_is_sent_or_refused_for_a_reason(change, reason):
    found = refusal(replace(FINE, **change), now=NOW)
    assert (found.reason if found else None) == reason
    assert found is None or found.detail.endswith(".")


@pytest.mark.parametrize(
    ("channel", "words"),
    [("email", "e-mail address"), ("sms", "phone number"), ("push", "device for push")],
)
def test_the_reason_says_which_address_is_meant(channel, words):
    found = refusal(replace(FINE, channel=channel, address=""), now=NOW)
    assert found.detail == f"The customer has no {words}."

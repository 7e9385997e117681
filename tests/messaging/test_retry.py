"""When a message is tried again. One line a case."""

from datetime import UTC, datetime, timedelta

import pytest

from messaging.retry import next_attempt

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("attempts", "permanent", "hours_to_live", "minutes"),
    [
        (1, False, 72, 1),
        (2, False, 72, 5),
        (3, False, 72, 30),
        (4, False, 72, 2 * 60),
        (5, False, 72, 6 * 60),
        (6, False, 72, 12 * 60),
        (7, False, 72, None),
        (1, True, 72, None),
        (4, False, 2, 2 * 60),
        (4, False, 1, None),
    ],
)
def test_pauses_grow_and_end(attempts, permanent, hours_to_live, minutes):
    moment = next_attempt(
        attempts,
        permanent=permanent,
        now=NOW,
        expires_at=NOW + timedelta(hours=hours_to_live),
    )
    assert moment == (None if minutes is None else NOW + timedelta(minutes=minutes))

"""What the races share: they commit, and the tables are emptied after each."""

import pytest

from events import schema


@pytest.fixture(autouse=True)
def types_of_this_test() -> None:
    """Know no event type of an earlier test, whose row is gone."""
    schema.forget_known()

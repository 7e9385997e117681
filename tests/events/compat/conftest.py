import pytest

from events import schema


@pytest.fixture(autouse=True)
def _nothing_known():
    """What the server knew of event types went with the rows of the last test."""
    schema.forget_known()

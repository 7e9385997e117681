from collections.abc import Iterator

import pytest

from messaging import send
from tests.messaging.providers import SCRIPTED, Scripted


@pytest.fixture(autouse=True)
def provider(settings) -> Iterator[type[Scripted]]:
    """What is handed over arrives here, whatever the channel."""
    settings.MESSAGE_PROVIDERS = dict.fromkeys(("email", "sms", "push"), SCRIPTED)
    Scripted.reset()
    send.forget_away()
    yield Scripted
    send.forget_away()

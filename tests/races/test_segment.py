"""A client that sends again while its first request is still at work."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from customers.models import Customer
from events import schema
from events.compat.recording import record_messages
from events.compat.segment import messages_of
from events.ingest import Recorded
from events.models import Event, RejectedEvent, Source
from smartcomm.core.errors import Conflict
from tests import make
from tests.races.together import at_once

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def _nothing_known():
    schema.forget_known()


def send(source: Source, batch: list[dict[str, Any]]) -> Recorded:
    """As a client does: again, where it is asked to (503)."""
    now = timezone.now()
    messages = messages_of({"batch": batch}, type=None, received_at=now)
    for _ in range(10):
        try:
            return record_messages(messages, source=source, now=now)
        except Conflict:
            continue
    raise AssertionError("Asked to send it again for ever.")


def visit(number: int) -> list[dict[str, Any]]:
    """What one visitor does, up to saying who they are."""
    ids = {"anonymousId": f"a-{number}", "userId": f"C-{number}"}
    return [
        {"type": "page", "anonymousId": f"a-{number}", "messageId": f"p-{number}"},
        {"type": "identify", **ids, "traits": {"plan": "gold"}},
        {"type": "track", "event": "Order paid", **ids, "messageId": f"t-{number}"},
        {"type": "alias", "previousId": f"old-{number}", "userId": f"C-{number}"},
    ]


def test_the_same_visit_from_many_requests_at_once_is_one_visit():
    source = make.source()

    answers = at_once(8, lambda _: send(source, visit(1)))

    assert sum(answer.rejected for answer in answers) == 0
    assert Customer.objects.get().external_id == "C-1"
    assert Event.objects.count() == 2
    assert not RejectedEvent.objects.exists()


def test_visits_in_opposite_orders_do_not_lock_each_other_up():
    source = make.source()
    batch = [message for number in range(10) for message in visit(number)]

    answers = at_once(6, lambda n: send(source, batch if n % 2 else batch[::-1]))

    assert sum(answer.rejected for answer in answers) == 0
    assert Customer.objects.count() == 10
    assert Event.objects.count() == 20

"""What a batch costs: the same few statements, however many are in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs, settle_runs
from messaging.models import Message
from messaging.send import IN_DOUBT_AT_MOST as GROUP
from messaging.send import send_messages
from tests import make

pytestmark = pytest.mark.django_db


def statements(work: Callable[[], int]) -> int:
    """How many statements a piece of work takes, without those about savepoints."""
    with CaptureQueriesContext(connection) as captured:
        assert work()
    return sum("SAVEPOINT" not in query["sql"] for query in captured.captured_queries)


def of_each_part(events: int) -> dict[str, int]:
    for _ in range(events):
        make.event(make.reachable(), "Order paid")
    parts = [dispatch_events, advance_runs, send_messages, settle_runs]
    return {part.__name__: statements(part) for part in parts}


def test_a_batch_takes_a_few_statements_however_many_events():
    make.campaign(make.sms("Thank you"), on="Order paid")
    of_each_part(1)  # What is looked up once for a process is known from here on.

    one, many = of_each_part(1), of_each_part(GROUP)

    assert one == many
    assert max(one.values()) <= 9, one
    assert Message.objects.filter(status="sent").count() == 2 + GROUP


def test_every_other_group_takes_two_statements_more():
    make.campaign(make.sms("Thank you"), on="Order paid")
    of_each_part(1)

    few, many = of_each_part(GROUP), of_each_part(3 * GROUP)

    groups_more = 2
    assert many["send_messages"] == few["send_messages"] + 2 * groups_more
    assert many | {"send_messages": 0} == few | {"send_messages": 0}

"""The report always adds up."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.report import message_counts, report
from messaging.models import Message
from messaging.send import send_messages
from tests import make

pytestmark = pytest.mark.django_db


def adds_up(version):
    sent = version["messages"]
    return version["entered"] == (
        version["finished"] + version["waiting"] + version["failed"]
    ) and sent["queued"] == (
        sent["sent"]
        + sent["failed"]
        + sum(sent["suppressed"].values())
        + sent["pending"]
        + sent["unknown"]
    )


def branching():
    return make.campaign(
        make.step(
            "paris",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "Paris"}},
            positive="sms",
            negative="wait",
        ),
        make.sms(),
        make.step("wait", "wait", {"for": 1, "unit": "days"}, done=None),
    )


def test_every_way_is_counted():
    campaign = branching()
    for city in ("Paris", "Paris", "Riga"):
        make.event(make.reachable(city=city), "Order paid")
    make.event(make.customer(city="Paris"), "Order paid")

    seen = []
    for deed in (dispatch_events, advance_runs, send_messages, settle_runs):
        deed()
        seen.append(report(campaign)["versions"][0])

    assert all(adds_up(version) for version in seen)
    last = seen[-1]
    assert (last["entered"], last["finished"], last["waiting"]) == (4, 3, 1)
    paris, sms, wait = last["steps"]
    assert (paris["in"], paris["out"]) == (4, {"positive": 3, "negative": 1})
    assert (sms["in"], sms["out"]) == (3, {"sent": 2, "not_sent": 1})
    assert (wait["in"], wait["waiting"], wait["out"]) == (1, 1, {"done": 0})
    assert last["messages"]["suppressed"] == {"no_address": 1}
    assert last["messages"]["sent"] == 2


def test_every_status_of_a_message_is_in_exactly_one_number():
    rows = [
        (status, "", 1) for status in Message.Status.values if status != "suppressed"
    ]
    rows += [("suppressed", reason, 1) for reason in Message.Reason.values]

    counts = message_counts(rows)

    assert adds_up(
        {"entered": 0, "finished": 0, "waiting": 0, "failed": 0, "messages": counts}
    )
    assert counts["queued"] == len(rows)
    assert (
        counts["sent"],
        counts["delivered"],
        counts["opened"],
        counts["clicked"],
    ) == (4, 3, 2, 1)


def test_the_report_costs_the_same_queries_for_few_runs_and_for_many():
    campaign = branching()

    def cost(count):
        for _ in range(count):
            make.event(make.reachable(city="Paris"), "Order paid")
        while dispatch_events() + advance_runs():
            pass
        with CaptureQueriesContext(connection) as queries:
            report(campaign)
        return len(queries)

    assert cost(1) == cost(20)


def test_a_draft_has_nothing_to_report():
    assert report(make.draft())["versions"] == []

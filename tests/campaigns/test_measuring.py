"""What a control group and a split have brought."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from campaigns import measuring, publish
from campaigns.actions import ACTIONS
from campaigns.actions.split import CONTROL, TREATED
from campaigns.forms import read_config, step_form
from campaigns.measuring import EVERY, measure, measure_next
from campaigns.models import Campaign, Measurement, Passage, Run, Step
from campaigns.report import report
from events.models import EventType, Kind
from segments.reading import TooDear
from smartcomm.core.errors import UserError
from tests import make
from tests.segments.test_builder_drafts import sent_by

pytestmark = pytest.mark.django_db

GOAL = {"event": "Order paid", "where": [], "days": 7}
NOW = timezone.now()


def split(goal: dict[str, Any] | None = GOAL, **more: Any) -> dict[str, Any]:
    config = {"percent": 50, **({"goal": goal} if goal else {})}
    return make.step("group", "control_group", config, treated=None, control=None)


def campaign_with(goal: dict[str, Any] | None = GOAL) -> Campaign:
    make.event_type("Order paid")
    return make.campaign(split(goal), on="Cart left")


def left(campaign: Campaign, way: str, *, days_ago: float, customer=None, **context):
    """A customer who left the step this way, so long ago, for an event of theirs."""
    step = Step.objects.get(version__campaign=campaign)
    customer = customer or make.customer()
    event = make.event(customer, "Cart left", **context)
    at = NOW - timedelta(days=days_ago)
    run = Run.objects.create(
        customer=customer,
        campaign=campaign,
        version=step.version,
        event=event,
        step=step,
        status=Run.Status.FINISHED,
        started_at=at,
        arrived_at=at,
        finished_at=at,
    )
    Passage.objects.create(
        customer=customer, run=run, step=step, way=way, arrived_at=at, left_at=at
    )
    return customer


def paid(customer, *, days_ago: float, name: str = "Order paid", **context: Any):
    return make.event(customer, name, at=NOW - timedelta(days=days_ago), **context)


def groups(campaign: Campaign) -> dict[str, tuple[int, ...]]:
    step = Step.objects.get(version__campaign=campaign)
    return {
        one["way"]: (
            one["customers"],
            one["decided"],
            one["reached"],
            one["reached_so_far"],
        )
        for one in measure(step, now=NOW)
    }


def test_each_group_is_measured():
    campaign = campaign_with()
    for way, orders in ((TREATED, 2), (CONTROL, 1)):
        for place in range(3):
            customer = left(campaign, way, days_ago=10)
            if place < orders:
                paid(customer, days_ago=9)

    assert groups(campaign) == {TREATED: (3, 3, 2, 2), CONTROL: (3, 3, 1, 1)}


def test_only_who_has_had_all_days_is_decided():
    campaign = campaign_with()
    paid(left(campaign, TREATED, days_ago=8), days_ago=3)
    paid(left(campaign, TREATED, days_ago=6), days_ago=3)
    left(campaign, TREATED, days_ago=6)

    assert groups(campaign)[TREATED] == (3, 1, 1, 2)


def test_only_what_happens_within_the_days_counts():
    campaign = campaign_with()
    customer = left(campaign, TREATED, days_ago=20)
    paid(customer, days_ago=21)
    paid(customer, days_ago=13)
    paid(customer, days_ago=12, name="Order cancelled")
    assert groups(campaign)[TREATED] == (1, 1, 0, 0)

    paid(customer, days_ago=13.001)
    assert groups(campaign)[TREATED] == (1, 1, 1, 1)


def test_a_customer_counts_once_by_the_first_time():
    campaign = campaign_with()
    customer = left(campaign, TREATED, days_ago=30)
    left(campaign, TREATED, days_ago=10, customer=customer)
    # Two customers who were merged took both ways.
    left(campaign, CONTROL, days_ago=9, customer=customer)
    paid(customer, days_ago=8)

    assert groups(campaign) == {TREATED: (1, 1, 0, 0), CONTROL: (0, 0, 0, 0)}


def test_the_event_that_started_the_run_is_no_goal():
    make.event_type("Cart left")
    campaign = campaign_with({"event": "Cart left", "where": [], "days": 7})
    customer = left(campaign, TREATED, days_ago=1)
    assert groups(campaign)[TREATED] == (1, 0, 0, 0)

    paid(customer, days_ago=0.5, name="Cart left")
    assert groups(campaign)[TREATED] == (1, 0, 0, 1)


@pytest.mark.parametrize(
    ("op", "cart", "told", "counts"),
    [
        ("=", 7, 7, True),
        ("=", 7, "7", True),
        ("=", "a", "a", True),
        ("=", "a", "A", False),
        ("=", 7, 8, False),
        ("=", 7, None, False),
        ("=", None, 7, False),
        ("!=", 7, 8, True),
        ("!=", 7, "7", False),
        ("!=", 7, None, True),
        ("!=", None, 7, False),
    ],
)
def test_the_goal_can_ask_for_what_the_starting_event_says(op, cart, told, counts):
    campaign = campaign_with(
        {
            "event": "Order paid",
            "where": [{"field": "cart", "op": op, "value": "$cart"}],
            "days": 7,
        }
    )
    customer = left(
        campaign, TREATED, days_ago=10, **({} if cart is None else {"cart": cart})
    )
    paid(customer, days_ago=9, **({} if told is None else {"cart": told}))

    assert groups(campaign)[TREATED] == (1, 1, int(counts), int(counts))


def test_fixed_conditions_hold_on_the_same_event():
    where = [
        {"field": "total", "op": ">=", "value": 50},
        {"field": "shop", "op": "=", "value": "Riga"},
    ]
    campaign = campaign_with({"event": "Order paid", "where": where, "days": 7})
    customer = left(campaign, TREATED, days_ago=10)
    paid(customer, days_ago=9, total=80, shop="Paris")
    paid(customer, days_ago=9, total=20, shop="Riga")
    assert groups(campaign)[TREATED] == (1, 1, 0, 0)

    paid(customer, days_ago=9, total=50, shop="Riga")
    assert groups(campaign)[TREATED] == (1, 1, 1, 1)


def test_an_event_that_came_late_counts_when_it_is_measured_again():
    campaign = campaign_with()
    customer = left(campaign, TREATED, days_ago=10)
    assert measure_next(now=NOW) == 1
    assert measure_next(now=NOW) == 0
    [goal] = report(campaign)["versions"][0]["goals"]
    assert goal["measured_at"] == NOW
    assert goal["groups"][0]["reached"] == 0

    paid(customer, days_ago=9)
    assert measure_next(now=NOW + EVERY) == 1
    [goal] = report(campaign)["versions"][0]["goals"]
    assert goal["groups"][0]["reached"] == 1


def test_a_dear_measurement_is_repeated_seldom(monkeypatch):
    campaign_with()
    clock = SimpleNamespace(monotonic=iter((0.0, 60.0)).__next__)
    monkeypatch.setattr(measuring, "time", clock)
    measure_next(now=NOW)
    assert Measurement.objects.get().due_at == NOW + timedelta(minutes=50)


def test_what_is_over_is_hardly_measured_any_more():
    campaign = campaign_with()
    left(campaign, TREATED, days_ago=10)
    publish.archive(campaign)
    measure_next(now=NOW)
    assert Measurement.objects.get().due_at == NOW + measuring.SELDOM


def test_what_takes_too_long_is_told_and_keeps_its_numbers(monkeypatch):
    campaign = campaign_with()
    left(campaign, TREATED, days_ago=10)
    measure_next(now=NOW)

    def never(*args: Any, **kwargs: Any) -> None:
        raise TooDear("too long")

    monkeypatch.setattr(measuring, "measure", never)
    measure_next(now=NOW + EVERY)

    [goal] = report(campaign)["versions"][0]["goals"]
    assert "longer than" in goal["problem"]
    assert goal["groups"][0]["customers"] == 1
    assert measure_next(now=NOW + EVERY) == 0


def test_groups_are_compared_with_those_held_back():
    campaign = campaign_with()
    step = Step.objects.get(version__campaign=campaign)
    Measurement.objects.create(
        step=step,
        due_at=NOW,
        measured_at=NOW,
        groups=[
            {
                "way": way,
                "customers": of,
                "decided": of,
                "reached": reached,
                "reached_so_far": reached,
            }
            for way, reached, of in ((TREATED, 560, 7_000), (CONTROL, 48, 800))
        ],
    )

    [goal] = report(campaign)["versions"][0]["goals"]

    [one] = goal["compared"]
    assert (one["way"], one["with"], one["verdict"]) == (
        TREATED,
        CONTROL,
        "hardly_chance",
    )
    assert one["difference"] == pytest.approx(0.02)
    assert one["uplift"] == pytest.approx(1 / 3)
    assert 0 < one["low"] < 0.02 < one["high"]


def test_shares_are_compared_with_the_first():
    make.event_type("Order paid")
    shares = [
        {"name": name, "percent": n} for name, n in (("A", 50), ("B", 30), ("C", 20))
    ]
    campaign = make.campaign(
        make.step(
            "tone", "ab_split", {"shares": shares, "goal": GOAL}, A=None, B=None, C=None
        ),
        on="Cart left",
    )
    left(campaign, "B", days_ago=10)
    measure_next(now=NOW)

    [goal] = report(campaign)["versions"][0]["goals"]
    assert [group["way"] for group in goal["groups"]] == ["A", "B", "C"]
    assert [(one["way"], one["with"]) for one in goal["compared"]] == [
        ("B", "A"),
        ("C", "A"),
    ]
    assert goal["compared"][0]["verdict"] == "too_early"


def test_measuring_costs_the_same_queries_for_few_customers_and_for_many():
    campaign = campaign_with()
    step = Step.objects.get(version__campaign=campaign)

    def cost(count: int) -> int:
        for _ in range(count):
            paid(left(campaign, TREATED, days_ago=10, cart=1), days_ago=9)
        with CaptureQueriesContext(connection) as queries:
            measure(step, now=NOW)
        return len(queries)

    assert cost(1) == cost(20)


# publishing, and the form


def warnings(campaign: Campaign) -> list[str]:
    found = publish.check(campaign.versions.get()).warnings
    return [one for one in found if "nothing ever happens" not in one]


def test_publishing_warns_of_a_control_group_without_a_goal():
    [said] = warnings(make.draft(split(goal=None), on="Order paid"))[1:]
    assert "nothing will be measured" in said


def test_publishing_warns_of_a_goal_that_was_never_seen():
    make.event(make.customer(), "Cart left")
    draft = make.draft(split(), on="Cart left")
    assert any(
        "“Order paid”, which has not been seen" in one for one in warnings(draft)
    )

    make.event_type("Order paid")
    assert any("declared and has not been seen" in one for one in warnings(draft))

    make.event(make.customer(), "Order paid")
    assert warnings(draft) == []


def test_publishing_declares_the_goal_and_nobody_waits_for_it():
    make.campaign(split(), on="Cart left")
    declared = EventType.objects.get(name="Order paid")
    assert (declared.kind, declared.is_awaited) == (Kind.CUSTOMER, False)


def test_a_system_event_is_no_goal():
    make.event_type("Shop opened", Kind.SYSTEM)
    draft = make.draft(split({**GOAL, "event": "Shop opened"}), on="Cart left")
    errors = publish.check(draft.versions.get()).errors
    assert any("a system event and of no customer" in one.message for one in errors)


@pytest.mark.parametrize(
    ("goal", "field"),
    [
        ("Order paid", "goal"),
        ({**GOAL, "dyas": 3}, "goal"),
        ({**GOAL, "event": ""}, "goal.event"),
        ({**GOAL, "days": 0}, "goal.days"),
        ({**GOAL, "days": True}, "goal.days"),
        ({**GOAL, "days": 366}, "goal.days"),
        ({**GOAL, "where": [{"field": "a", "op": "~", "value": 1}]}, "goal.where.0.op"),
        (
            {**GOAL, "where": [{"field": "a", "op": ">", "value": "$a"}]},
            "goal.where.0.op",
        ),
        (
            {**GOAL, "where": [{"field": "a", "op": "in", "value": ["$a"]}]},
            "goal.where.0.op",
        ),
        (
            {**GOAL, "where": [{"field": "a", "op": "=", "value": "$answers.ask.a"}]},
            "goal.where.0.value",
        ),
    ],
)
def test_a_goal_that_is_not_understood_is_refused(goal, field):
    with pytest.raises(UserError) as refused:
        ACTIONS["control_group"].clean({"percent": 10, "goal": goal})
    assert refused.value.field == field


@pytest.mark.parametrize("action", ["control_group", "ab_split"])
def test_the_form_reads_what_it_shows(action):
    goal = {
        "event": "Order paid",
        "where": [{"field": "total", "op": ">=", "value": 50}],
        "days": 14,
    }
    config = (
        {"percent": 10}
        if action == "control_group"
        else {"shares": [{"name": n, "percent": 50} for n in "AB"]}
    )
    for wanted in (config, {**config, "goal": goal}):
        form = step_form(ACTIONS[action], {"trigger": {}}, initial=wanted)
        sent = QueryDict(mutable=True)
        for name, values in sent_by(form.as_p()).items():
            sent.setlist(name, values)
        read = read_config(ACTIONS[action], step_form(ACTIONS[action], {}, data=sent))
        assert read == wanted


@pytest.mark.parametrize(
    ("action", "name", "offered"),
    [
        ("control_group", "goal_where", ()),
        ("ab_split", "goal_where", ()),
        ("wait_for_event", "where", ("answers.ask.code",)),
    ],
)
def test_a_goal_offers_no_answers_since_it_takes_none(action, name, offered):
    form = step_form(
        ACTIONS[action], {"trigger": {}}, answers=["answers.ask.code"], initial={}
    )
    assert form.fields[name].options.more_values == offered

"""Event types: what is learnt, what a sender is told, and how drift is noted."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from events import declare, drift, schema
from events.declare import Declaration, Field
from events.ingest import record_events
from events.models import (
    Drift,
    Event,
    EventField,
    EventType,
    Kind,
    RejectedEvent,
    SystemEvent,
)
from events.schema import FieldType
from tests import make
from tests.client import Api

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
TODAY = NOON.date()
Mode = EventType.Mode


def a_type(mode: str = Mode.WARN, **more: Any) -> EventType:
    """Orders declare a required number, a text, a date and an object with a text."""
    order = make.event_type("Order paid", mode=mode, **{"is_reviewed": True, **more})
    for code, value_type in [
        ("amount", "number"),
        ("shop", "string"),
        ("day", "date"),
        ("address", "object"),
        ("address.city", "string"),
    ]:
        EventField.objects.create(
            type=order, code=code, value_type=value_type, is_required=code == "amount"
        )
    return order


def pay(context: dict[str, Any], *, now: datetime = NOON, id: str = "", **how: Any):
    item = {"name": "Order paid", "customer": "C-1", "context": context}
    if id:
        item["id"] = id
    return record_events(
        [item], source=how.pop("source", make.source()), now=now, **how
    )


@pytest.fixture
def committed(django_capture_on_commit_callbacks):
    """Do something as outside of a transaction: what waits for its end is done."""

    def run(work, *arguments, **more):
        with django_capture_on_commit_callbacks(execute=True):
            return work(*arguments, **more)

    return run


def told(recorded) -> list[tuple[str, str]]:
    return [(one.code, one.field) for one in recorded.results[0].warnings]


def drifts() -> set[tuple[str, str, str]]:
    return set(Drift.objects.values_list("code", "what", "found_type"))


# What a sender is told


def test_a_warning_type_stores_what_is_not_as_declared_and_tells_its_sender():
    a_type(Mode.WARN)

    recorded = pay({"shop": 5, "coupon": "X", "address": {"zip": "1"}})

    assert recorded.accepted == 1
    assert told(recorded) == [
        ("field_type", "context.shop"),
        ("field_unknown", "context.coupon"),
        ("field_unknown", "context.address.zip"),
        ("field_missing", "context.amount"),
    ]
    assert Event.objects.get().context["coupon"] == "X"
    assert not RejectedEvent.objects.exists()
    assert not EventField.objects.filter(code="coupon").exists()


def test_the_api_answers_with_warnings_and_leaves_them_out_when_there_are_none():
    a_type(Mode.WARN)
    item = {"id": "1", "name": "Order paid", "customer": "C-1"}
    good = {**item, "id": "2", "context": {"amount": 5}}

    answer = Api().post("/events", {"events": [item, good, item]}).json()

    first, second, again = answer["results"]
    assert first["status"] == "accepted"
    assert first["warnings"] == [
        {
            "code": "field_missing",
            "field": "context.amount",
            "message": "“amount” is required for “Order paid”, and is missing. The "
            "event is stored without it.",
        }
    ]
    assert second == {"index": 1, "id": "2", "status": "accepted"}
    assert again == {"index": 2, "id": "1", "status": "duplicate"}


def test_of_a_new_object_only_the_object_is_told_not_what_is_inside():
    a_type(Mode.WARN)

    recorded = pay({"amount": 1, "gift": {"wrap": True, "card": {"text": "Hi"}}})

    assert told(recorded) == [("field_unknown", "context.gift")]


@pytest.mark.parametrize(
    ("context", "code", "field"),
    [
        ({"amount": 1, "coupon": "X"}, "field_unknown", "context.coupon"),
        ({"amount": "1"}, "field_type", "context.amount"),
        ({"amount": 1, "day": "tomorrow"}, "field_type", "context.day"),
        ({"amount": 1, "address": {"zip": 1}}, "field_unknown", "context.address.zip"),
        ({}, "field_missing", "context.amount"),
        ({"amount": None}, "field_missing", "context.amount"),
    ],
)
def test_an_enforced_type_refuses_and_keeps_what_is_not_as_declared(
    context, code, field, committed
):
    a_type(Mode.ENFORCED)

    recorded = committed(pay, context)

    result = recorded.results[0]
    assert (result.status, result.code, result.field) == ("rejected", code, field)
    assert not Event.objects.exists()
    kept = RejectedEvent.objects.get()
    assert (kept.code, kept.field) == (code, field)
    assert kept.message.endswith(".")
    # A marketer sees in the registry that such events come.
    assert Drift.objects.get().code == field.removeprefix("context.")


@pytest.mark.parametrize(
    "context",
    [
        {"amount": 1},
        {"amount": 1.5, "shop": "Riga", "day": "2026-11-20"},
        {"amount": 1, "shop": "2026-11-20", "day": "2026-11-20T10:00:00Z"},
        {"amount": 1, "shop": None, "address": None, "unheard_of": None},
        {"amount": 1, "address": {}},
        {"amount": 1, "address": {"city": "Riga", "zip-code": 1}},
    ],
)
def test_what_is_as_declared_passes_in_every_mode_and_tells_nothing(context, committed):
    a_type(Mode.ENFORCED)

    for number in range(3):
        recorded = committed(pay, context, id=str(number))
        assert (recorded.accepted, told(recorded)) == (1, [])

    assert not Drift.objects.exists()
    assert EventField.objects.count() == 5


def test_what_is_required_inside_an_object_is_asked_only_where_there_is_the_object():
    a_type(Mode.ENFORCED)
    EventField.objects.filter(code="address.city").update(is_required=True)

    assert pay({"amount": 1}).accepted == 1
    refused = pay({"amount": 1, "address": {}}).results[0]
    assert (refused.code, refused.field) == ("field_missing", "context.address.city")


def test_an_open_type_learns_in_silence():
    a_type(Mode.OPEN)

    recorded = pay({"coupon": "X", "amount": "five", "gift": {"wrap": True}})

    assert (recorded.accepted, told(recorded)) == (1, [])
    learnt = EventField.objects.filter(last_seen_on=TODAY)
    assert dict(learnt.values_list("code", "value_type")) == {
        "coupon": "string",
        "gift": "object",
        "gift.wrap": "boolean",
    }


def test_system_events_are_warned_of_and_enforced_too():
    make.event_type("Shop opened", Kind.SYSTEM, mode=Mode.WARN)

    recorded = record_events(
        [{"name": "Shop opened", "context": {"city": "Riga"}}],
        source=make.source(),
        kind=Kind.SYSTEM,
    )

    assert told(recorded) == [("field_unknown", "context.city")]
    assert SystemEvent.objects.count() == 1


def test_a_sender_who_makes_up_field_codes_fills_no_table(committed, monkeypatch):
    monkeypatch.setattr(schema, "MAX_LEARNT", 8)
    monkeypatch.setattr(drift, "MAX_KEPT", 3)
    a_type(Mode.OPEN)

    for number in range(6):
        context = {f"code_{number}_{i}": i for i in range(4)}
        assert committed(pay, context | {"amount": 1}).accepted == 1

    assert EventField.objects.count() == 8
    assert Drift.objects.count() <= 4


# Drift


def test_each_way_to_differ_is_noted_with_an_example_and_its_source(committed):
    a_type(Mode.OPEN)

    committed(pay, {"coupon": "X", "shop": 5}, id="order-1", source=make.source("till"))

    assert drifts() == {
        ("coupon", "new_field", "string"),
        ("shop", "type_changed", "number"),
        ("amount", "field_missing", ""),
    }
    row = Drift.objects.get(code="coupon")
    assert (row.event_id, row.source.name) == ("order-1", "till")
    assert (row.first_seen_at, row.last_seen_at) == (NOON, NOON)


def test_new_fields_of_a_type_nobody_has_reviewed_are_no_drift(committed):
    a_type(Mode.OPEN, is_reviewed=False)

    committed(pay, {"amount": 1, "coupon": "X"})

    assert EventField.objects.filter(code="coupon").exists()
    assert not Drift.objects.exists()


def test_drift_is_written_once_an_hour_and_tells_when_it_was_last_seen(committed):
    a_type(Mode.WARN)

    def seen(minutes: int, id: str) -> tuple[str, datetime, datetime]:
        now = NOON + timedelta(minutes=minutes)
        committed(pay, {"amount": 1, "coupon": "X"}, now=now, id=id)
        row = Drift.objects.get()
        return row.event_id, row.first_seen_at, row.last_seen_at

    assert seen(0, "a") == ("a", NOON, NOON)
    assert seen(59, "b") == ("a", NOON, NOON)
    assert seen(61, "c") == ("c", NOON, NOON + timedelta(minutes=61))


def test_the_day_a_field_and_its_type_were_last_seen_is_written_down(committed):
    order = a_type(Mode.WARN)

    committed(pay, {"amount": 1, "address": {"city": "Riga"}})
    committed(pay, {"amount": 1}, now=NOON + timedelta(days=1))
    # The late one does not put the clock back.
    committed(pay, {"amount": 1}, now=NOON)

    order.refresh_from_db()
    assert order.last_seen_on == TODAY + timedelta(days=1)
    assert dict(EventField.objects.values_list("code", "last_seen_on")) == {
        "amount": TODAY + timedelta(days=1),
        "shop": None,
        "day": None,
        "address": TODAY,
        "address.city": TODAY,
    }


def test_of_two_processes_the_later_day_stands():
    order = a_type(last_seen_on=TODAY)
    field = order.fields.get(code="amount")

    for day in (TODAY + timedelta(days=1), TODAY):
        drift.mark_seen([order.pk], [field.pk], day=day)

    for row in (order, field):
        row.refresh_from_db()
        assert row.last_seen_on == TODAY + timedelta(days=1)


def changes_of(order: EventType) -> int:
    return drift.with_changes(EventType.objects.all()).get(pk=order.pk).changes


def test_a_field_is_gone_when_its_type_arrives_long_without_it(committed):
    order = a_type(Mode.OPEN)
    committed(pay, {"amount": 1, "shop": "Riga"})

    def gone(days: int) -> list[str]:
        committed(pay, {"amount": 1}, now=NOON + timedelta(days=days))
        order.refresh_from_db()
        found = [f.code for f in order.fields.all() if drift.is_gone(f, order)]
        assert changes_of(order) == len(found)
        return found

    assert gone(14) == []
    assert gone(15) == ["shop"]
    declare.dismiss_gone(order.fields.get(code="shop"))
    assert gone(40) == []
    committed(pay, {"amount": 1, "shop": "Riga"}, now=NOON + timedelta(days=41))
    assert gone(60) == ["shop"]


def test_a_type_that_stopped_arriving_has_lost_no_fields(committed):
    order = a_type(Mode.OPEN)
    committed(pay, {"amount": 1, "shop": "Riga"}, now=NOON - timedelta(days=400))

    assert changes_of(order) == 0


@pytest.mark.parametrize(
    ("context", "code", "becomes"),
    [
        ({"amount": 1, "coupon": "X"}, "coupon", ("string", False)),
        ({"amount": "1"}, "amount", ("string", True)),
        ({}, "amount", ("number", False)),
    ],
)
def test_what_is_accepted_is_declared_and_no_longer_told(
    context, code, becomes, committed
):
    a_type(Mode.WARN)
    assert told(committed(pay, context))

    committed(declare.accept, Drift.objects.select_related("type").get())

    field = EventField.objects.get(code=code)
    assert (field.value_type, field.is_required) == becomes
    assert told(committed(pay, context)) == []
    assert not Drift.objects.exists()


def test_what_is_dismissed_stays_hidden_and_alters_nothing(committed):
    order = a_type(Mode.WARN)
    committed(pay, {"amount": 1, "coupon": "X"})

    declare.dismiss(Drift.objects.get())
    again = committed(pay, {"amount": 1, "coupon": "X"}, now=NOON + timedelta(hours=3))

    assert told(again) == [("field_unknown", "context.coupon")]
    assert changes_of(order) == 0
    assert not order.fields.filter(code="coupon").exists()


def test_a_removed_field_is_learnt_anew_with_what_is_inside_it(committed):
    order = a_type(Mode.OPEN)

    committed(declare.remove_field, order.fields.get(code="address"))
    assert not order.fields.filter(code__startswith="address").exists()
    committed(pay, {"amount": 1, "address": {"city": 5}})

    assert order.fields.get(code="address.city").value_type == "number"


# What it costs, and how soon a change is followed


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told, for what a process trusts for seconds."""

    class Clock:
        at = 1000.0

    monkeypatch.setattr(schema.time, "monotonic", lambda: Clock.at)
    return Clock


def names_asked(queries: CaptureQueriesContext) -> list[str]:
    tables = ("events_eventtype", "events_eventfield", "events_drift")
    found = []
    for query in queries:
        sql = query["sql"]
        # The queue asks whether a campaign waits for the type, as late as can be.
        if "events_pendingevent" not in sql and any(one in sql for one in tables):
            found.append(sql.split()[0])
    return found


@pytest.mark.django_db(transaction=True)
def test_known_events_ask_nothing_and_write_nothing_of_their_type(clock):
    a_type(Mode.WARN)
    context = {"amount": 1, "day": "2026-11-20", "address": {"city": "Riga"}}
    strange = context | {"coupon": "X"}
    pay(context)
    pay(strange)
    clock.at += 6
    pay(context)  # The table says now that all of it was seen today.

    with CaptureQueriesContext(connection) as queries:
        for _ in range(5):
            assert told(pay(context)) == []
            assert told(pay(strange)) == [("field_unknown", "context.coupon")]

    assert names_asked(queries) == []


@pytest.mark.django_db(transaction=True)
def test_what_another_process_changed_is_followed_after_five_seconds(clock):
    order = a_type(Mode.WARN)
    assert pay({"amount": "x"}).accepted == 1
    # As another process writes it: this one is not told.
    EventType.objects.filter(pk=order.pk).update(mode=Mode.ENFORCED)

    clock.at += 4.9
    assert pay({"amount": "x"}).accepted == 1
    clock.at += 0.2
    assert pay({"amount": "x"}).results[0].code == "field_type"

    EventField.objects.filter(code="amount").update(value_type="string")
    clock.at += 5.1
    assert pay({"amount": "x"}).accepted == 1
    EventField.objects.filter(code="amount").delete()
    clock.at += 5.1
    assert pay({"amount": "x"}).results[0].code == "field_unknown"


@pytest.mark.django_db(transaction=True)
def test_the_process_that_changed_it_follows_at_once(clock):
    order = a_type(Mode.WARN)
    assert pay({"amount": "x"}).accepted == 1

    declare.update_type(order, Declaration(mode=Mode.ENFORCED))
    assert pay({"amount": "x"}).rejected == 1
    declare.update_type(order, Declaration(fields=(Field("amount", FieldType.STRING),)))
    assert pay({"amount": "x"}).accepted == 1


@pytest.mark.django_db(transaction=True)
def test_who_mends_a_type_elsewhere_and_replays_gets_the_rules_of_now(clock):
    from events.replays import replay

    order = a_type(Mode.ENFORCED)
    # On the day of the replay, so that only the transaction makes it look again.
    refused = pay({"amount": 1, "coupon": "X"}, now=timezone.now())
    assert refused.rejected == 1
    EventField.objects.create(type=order, code="coupon", value_type="string")

    done = replay(RejectedEvent.objects.all())

    assert (done.accepted, done.rejected) == (1, 0)


@pytest.mark.django_db(transaction=True)
def test_a_new_day_is_noticed_by_a_process_that_knows_everything(clock):
    order = a_type(Mode.WARN)
    pay({"amount": 1, "shop": "Riga"})
    clock.at += 1

    pay({"amount": 1}, now=NOON + timedelta(days=1))

    assert order.fields.get(code="amount").last_seen_on == date(2026, 11, 21)
    assert order.fields.get(code="shop").last_seen_on == TODAY


@pytest.mark.django_db(transaction=True)
def test_a_remark_that_cannot_be_written_spoils_no_event(monkeypatch, clock):
    a_type(Mode.WARN)

    def broken(*arguments: object, **more: object) -> None:
        raise RuntimeError("no such table")

    monkeypatch.setattr(drift, "write", broken)

    recorded = pay({"amount": 1, "coupon": "X"})

    assert recorded.accepted == 1
    assert Event.objects.count() == 1

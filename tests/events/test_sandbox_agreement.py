"""What a dry run tells of any batch is what happens when the batch is sent."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.apps import apps
from django.db import transaction
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from campaigns.dispatch import (
    dispatch_events,
    dispatch_system_events,
)
from campaigns.engine import advance_runs
from campaigns.models import Broadcast, Passage, Run
from customers.models import Customer
from events import schema
from events.ingest import ACCEPTED, DUPLICATE, REJECTED, record_events
from events.models import Event, EventField, Kind, Source, SystemEvent
from events.sandbox import Tried, try_events
from segments import rules
from segments.compile import compile_rule, customers_matching
from segments.models import Segment
from tests import make

NOW = datetime(2026, 3, 30, 12, tzinfo=UTC)

ids = st.sampled_from(["a", "b", "c", "known", "", None, 5, "x" * 201, "n\x00l"])
names = st.sampled_from(
    [
        "Paid",
        "Paid",
        "Strict",
        "Loose",
        "Stock",
        "New",
        "Newer",
        "",
        "N" * 129,
        None,
        "\ud83d",
    ]
)
customers = st.sampled_from(
    [
        "C-1",
        "C-1",
        "C-2",
        "C-new",
        {"external_id": "C-2"},
        {"email": "anna@example.com"},
        {"email": "Two@example.com"},
        {"email": "new@example.com"},
        {"email": "no address"},
        {"phone": "+4915112345678"},
        {"email": "a", "phone": "b"},
        "",
        None,
        7,
        "c\x00",
    ]
)
times = st.sampled_from(
    [
        None,
        "2026-03-30T11:00:00Z",
        "2026-03-29T11:00:00+02:00",
        "2026-03-01T00:00:00Z",
        "2026-03-30T12:10:00Z",
        "2026-03-30T11:00:00",
        "2026-02-30T11:00:00Z",
        "yesterday",
        12,
    ]
)
values = st.sampled_from(
    [1, 60, 49.5, "60", "Bag", True, None, "2026-03-01", {"city": "Riga"}, [1, 2]]
)
contexts = st.one_of(
    st.dictionaries(
        st.sampled_from(["price", "name", "city", "extra", "price-eur"]),
        values,
        max_size=3,
    ),
    st.sampled_from([{}, [], "text", {"big": "x" * 40_000}, {"n": 10**120}]),
)


@st.composite
def good_items(draw: st.DrawFn) -> Any:
    """An event that is likely to be accepted, or a duplicate."""
    return {
        "id": draw(st.sampled_from(["a", "b", "c", "known"])),
        "name": draw(st.sampled_from(["Paid", "Paid", "New", "Strict", "Loose"])),
        "customer": draw(st.sampled_from(["C-1", "C-1", "C-2", "C-new"])),
        "context": {
            "price": draw(st.sampled_from([1, 60, 70])),
            "city": draw(st.sampled_from(["Riga", None])),
        },
    }


@st.composite
def any_items(draw: st.DrawFn) -> Any:
    """An event of which several things may be wrong."""
    if draw(st.integers(0, 20)) == 0:
        return draw(st.sampled_from([5, None, [], "text", {}]))
    item: dict[str, Any] = {"name": draw(names), "customer": draw(customers)}
    item["context"] = draw(contexts)
    if draw(st.booleans()):
        item["id"] = draw(ids)
    if draw(st.integers(0, 3)) == 0:
        item["occurred_at"] = draw(times)
    if draw(st.integers(0, 4)) == 0:
        item["backfill"] = draw(st.sampled_from([True, False, None, "yes"]))
    if draw(st.integers(0, 15)) == 0:
        item["surplus"] = 1
    return item


def _changed(pair: tuple[Any, Any, str]) -> Any:
    """A good item with one thing of another."""
    good, other, key = pair
    if not isinstance(other, dict) or key not in other:
        return good
    return {**good, key: other[key]}


items = st.one_of(
    good_items(),
    st.tuples(
        good_items(),
        any_items(),
        st.sampled_from(["name", "customer", "context", "id", "occurred_at"]),
    ).map(_changed),
    any_items(),
)
#: What random batches may miss.
SURE = [
    {"name": "Paid", "customer": {"email": "two@example.com"}},
    {"name": "Stock", "customer": "C-1"},
    {"name": "Strict", "customer": "C-1", "context": {"extra": 1}},
    {"name": "Strict", "customer": "C-1", "context": {"price": "x"}},
    {"name": "Paid", "customer": "C-1", "context": {"price-eur": 1}},
    {"name": "Paid", "customer": "C-1", "context": {"price": 60, "city": "Riga"}},
    {"id": "known", "name": "Paid", "customer": "C-1"},
    {"name": "Loose", "customer": "C-1", "context": {"extra": 1, "price": "x"}},
]
batches = st.lists(items, min_size=1, max_size=6)
often = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def a_world() -> Source:
    """Customers, types, segments and campaigns that speak of such events."""
    schema.forget_known()
    anna = make.reachable("C-1", email="anna@example.com", phone="+4915112345678")
    make.customer("C-2", email="two@example.com", city="Riga")
    make.customer("C-3", email="two@example.com")
    past = NOW - timedelta(hours=3)
    make.event(anna, "Paid", id="known", now=past, at=past, price=60)
    strict = make.event_type("Strict", mode="enforced")
    EventField.objects.create(type=strict, code="price", value_type="number")
    loose = make.event_type("Loose", mode="warn")
    EventField.objects.create(type=loose, code="price", value_type="number")
    large = [{"field": "price", "op": ">", "value": 50}]
    for name, rule in {
        "Large": {"event": "Paid", "where": large, "count": {"op": ">=", "value": 2}},
        "Never": {"not": {"event": "Paid", "period": {"last": 7, "unit": "days"}}},
        "Both": {"all": [{"event": "New"}, {"attribute": "city", "op": "is set"}]},
    }.items():
        Segment.objects.create(name=name, rule=rule)
    asked = {"attribute": "city", "op": "=", "value": "$city"}
    make.campaign(on="Paid", name="Large", where=large)
    make.campaign(on="New", name="Once", entry={"rule": "once"})
    make.campaign(
        make.step(
            "who", "filter_customers", {"rule": asked}, positive=None, negative="sms"
        ),
        make.sms(),
        on="Paid",
        name="Filter",
    )
    make.campaign(on="Stock", name="Everyone", system=True, where=large)
    return make.source()


def published_before(moment: datetime) -> None:
    """Campaigns that were at work when these events came."""
    from campaigns.models import Version

    Version.objects.update(published_at=moment)


def counts() -> dict[str, int]:
    return {m._meta.label: m._default_manager.count() for m in apps.get_models()}


def same_verdicts(told: Tried, batch: list[Any], source: Source, kind: Kind) -> None:
    """The batch, really sent: the same verdicts, and the same rows."""
    real = record_events(batch, source=source, kind=kind, now=NOW)

    assert (told.accepted, told.duplicates, told.rejected) == (
        real.accepted,
        real.duplicates,
        real.rejected,
    )
    for dry, wet, item in zip(told.results, real.results, batch, strict=True):
        assert (dry.index, dry.status, dry.code, dry.field, dry.message) == (
            wet.index,
            wet.status,
            wet.code,
            wet.field,
            wet.message,
        )
        assert [(w.field, w.code, w.message) for w in dry.warnings] == [
            (w.field, w.code, w.message) for w in wet.warnings
        ]
        if isinstance(item, dict) and item.get("id") is not None:
            assert dry.id == wet.id
        if dry.status == REJECTED:
            assert dry.stored is None
            continue
        assert dry.stored is not None
        row: Event | SystemEvent
        if kind == Kind.CUSTOMER:
            row = Event.objects.get(
                source=source,
                external_id=wet.id,
                customer__external_id=dry.stored.customer,
            )
        else:
            row = SystemEvent.objects.get(source=source, external_id=wet.id)
        assert (row.type.name, row.type.kind) == (dry.stored.name, dry.stored.kind)
        assert row.occurred_at == dry.stored.occurred_at
        assert row.context == dry.stored.context
        assert row.is_backfill == dry.stored.backfill


@pytest.mark.django_db
def test_events_of_customers_become_what_was_told():
    source = a_world()
    published_before(NOW - timedelta(days=30))
    dispatch_events(now=NOW - timedelta(hours=2))
    seen: Counter[str] = Counter()

    @often
    @example(SURE)
    @given(batches)
    def agree(batch: list[Any]) -> None:
        before = counts()
        told = try_events(batch, source=source, now=NOW)
        assert counts() == before
        assert told.notes == []
        with transaction.atomic():
            same_verdicts(told, batch, source, Kind.CUSTOMER)
            same_segments(told)
            dispatch_events(now=NOW)
            advance_runs(now=NOW)
            same_runs(told)
            transaction.set_rollback(True)
        seen.update(one.status for one in told.results)
        seen.update(one.code for one in told.results)
        seen["starts"] += any(c.starts for one in told.results for c in one.campaigns)
        seen["moves"] += any(
            s.before != s.after for one in told.results for s in one.segments
        )

    agree()
    # All of it has happened.
    for what in (ACCEPTED, DUPLICATE, "starts", "moves", "customer_ambiguous"):
        assert seen[what], seen
    for code in ("kind_mismatch", "field_unknown", "field_type", "field_code_invalid"):
        assert seen[code], seen


def same_segments(told: Tried) -> None:
    """After the whole batch a customer is where their last event was told to take
    them; each event began where the one before had left them."""
    saved = {one.pk: rules.parse(one.rule) for one in Segment.objects.all()}
    last: dict[tuple[int, str], bool] = {}
    for item in told.results:
        for one in item.segments:
            customer = item.stored.customer if item.stored else ""
            key = (one.id, customer or "")
            assert not one.problem
            assert one.before == last.get(key, one.before)
            last[key] = one.after
    for (pk, customer), inside in last.items():
        members = customers_matching(compile_rule(saved[pk], now=NOW))
        assert (Customer.objects.get(external_id=customer).pk in members) == inside


def same_runs(told: Tried) -> None:
    """The runs that were told, and no others, each by the ways that were told."""
    expected: Counter[Any] = Counter()
    for item in told.results:
        for one in item.campaigns:
            if one.starts and item.stored:
                ways = tuple((step.step, step.way) for step in one.path if step.way)
                event = _named(one.name, item.id)
                expected[one.name, item.stored.customer, event, ways] += 1
    happened: Counter[Any] = Counter()
    for run in Run.objects.select_related("campaign", "customer", "event"):
        if run.started_at < NOW:
            continue
        passed = Passage.objects.filter(run=run).order_by("pk")
        ways = tuple(passed.values_list("step__key", "way"))
        assert run.event is not None
        event = _named(run.campaign.name, run.event.external_id)
        happened[run.campaign.name, run.customer.external_id, event, ways] += 1
    assert happened == expected


def _named(campaign: str, event: str) -> str:
    """An event by its id, where that is the same whenever it is sent."""
    if campaign == "Once":
        return ""  # Of two events that may enter once, either may be the one.
    return event if event in ("a", "b", "c", "known") else "made"


@pytest.mark.django_db
def test_system_events_become_what_was_told():
    source = a_world()
    published_before(NOW - timedelta(days=30))

    @often
    @given(
        st.lists(
            items.map(
                lambda item: (
                    {k: v for k, v in item.items() if k != "customer"}
                    if isinstance(item, dict) and item.get("name") != "Newer"
                    else item
                )
            ),
            min_size=1,
            max_size=6,
        )
    )
    def agree(batch: list[Any]) -> None:
        before = counts()
        told = try_events(batch, source=source, kind=Kind.SYSTEM, now=NOW)
        assert counts() == before
        with transaction.atomic():
            same_verdicts(told, batch, source, Kind.SYSTEM)
            dispatch_system_events(now=NOW)
            starts = sum(c.starts for one in told.results for c in one.campaigns)
            assert Broadcast.objects.count() == starts
            transaction.set_rollback(True)

    agree()

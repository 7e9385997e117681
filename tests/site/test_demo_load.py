"""Loading demo data, killing it, and loading again."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import time_machine

from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.models import Broadcast, Campaign, Run
from customers.models import Attribute, Consent, Customer, Device, MailingCategory
from events.ingest import record_events
from events.models import (
    Event,
    EventField,
    EventType,
    PendingEvent,
    PendingSystemEvent,
    RejectedEvent,
    SystemEvent,
)
from messaging.models import Template
from segments.models import Segment
from segments.preview import preview
from segments.rules import parse
from smartcomm.site.demo import demo, load, showcase
from smartcomm.site.demo.progress import Progress
from smartcomm.site.demo.study import Study

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
#: Few lines each; together they have every kind of event in the last 14 weeks.
HOUSEHOLDS = frozenset({1, 13, 22})


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(HOUSEHOLDS)


@pytest.fixture
def progress() -> Progress:
    return Progress(io.StringIO())


@pytest.fixture
def load_some(study, progress) -> Callable[..., load.Loaded]:
    def load_some(*, size: str = "small", now: datetime = NOW) -> load.Loaded:
        return load.load_journey(size=size, now=now, progress=progress, study=study)

    return load_some


@pytest.fixture
def slice_of_demo(study, monkeypatch):
    """`load_demo` takes only a few households."""
    monkeypatch.setattr(load, "open_study", lambda *, size: study)


def stored() -> set[tuple[Any, ...]]:
    return set(
        Event.objects.values_list("customer__external_id", "external_id", "occurred_at")
    )


class Killed(BaseException):
    """What a process feels when it is killed."""


def kill_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    done = 0

    def record_some(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        if done == batches:
            raise Killed
        done += 1
        return record_events(*args, **kwargs)

    monkeypatch.setattr(load, "record_events", record_some)


def test_customers_and_their_purchases_come_in_as_backfill(load_some):
    loaded = load_some()

    assert Customer.objects.count() == loaded.customers == len(HOUSEHOLDS)
    assert Event.objects.count() == loaded.events > 300
    assert loaded.duplicates == 0
    assert set(Event.objects.values_list("type__name", flat=True)) == {
        "Order paid",
        "Product purchased",
        "Coupon redeemed",
        "Campaign received",
    }
    assert not Event.objects.filter(is_backfill=False).exists()
    assert not PendingEvent.objects.exists()
    assert not RejectedEvent.objects.exists()
    assert not Customer.objects.filter(is_stub=True).exists()


def test_the_last_day_is_yesterday(load_some):
    load_some()

    days = sorted(
        moment.date() for moment in Event.objects.values_list("occurred_at", flat=True)
    )
    assert days[-1] <= date(2026, 11, 23)
    assert days[-1] > date(2026, 11, 23) - timedelta(days=7)
    assert days[0] > date(2026, 11, 23) - timedelta(days=load.SMALL_DAYS)


def test_loading_twice_changes_nothing(load_some):
    first = load_some()
    before = stored()

    again = load_some()

    assert (again.events, again.duplicates) == (0, first.events)
    assert stored() == before
    assert Customer.objects.count() == len(HOUSEHOLDS)


def test_a_load_that_was_killed_is_finished_on_another_day(load_some, monkeypatch):
    monkeypatch.setattr(load, "BATCH", 50)
    with monkeypatch.context() as patch:
        kill_after(5, patch)
        with pytest.raises(Killed):
            load_some()
    half = stored()

    loaded = load_some(now=NOW + timedelta(days=3))

    assert 0 < len(half) == loaded.duplicates
    assert half < stored()
    assert loaded.events + loaded.duplicates == len(stored())
    # The calendar is that of the first load.
    begun = SystemEvent.objects.get(external_id="begun")
    assert begun.context["last_day"] == "2026-11-23"
    assert max(moment for *_, moment in stored()).date() <= date(2026, 11, 23)


def test_full_after_small_adds_what_is_missing(load_some):
    small = load_some()

    full = load_some(size="full")

    assert full.duplicates == small.events
    assert full.events > small.events
    assert Event.objects.count() == small.events + full.events


def test_attributes_are_declared_with_labels_and_types(load_some):
    load_some()

    types = dict(Attribute.objects.values_list("code", "type"))
    assert types["age_group"] == "string"
    assert types["kids_count"] == "number"
    assert types["homeowner"] == "boolean"
    assert types["card_since"] == "date"
    assert not Attribute.objects.filter(label="").exists()
    assert Consent.objects.exists()
    assert Device.objects.exists()


def test_event_types_and_fields_are_described(load_some):
    load_some()

    assert not EventType.objects.filter(description="").exists()
    unlabelled = EventField.objects.exclude(type__name__startswith="Demo data")
    assert not unlabelled.filter(label="").exists()


def test_what_staff_wrote_about_an_event_type_stays(load_some):
    load_some()
    EventType.objects.filter(name="Order paid").update(description="The till rang.")

    load_some()

    assert EventType.objects.get(name="Order paid").description == "The till rang."


def test_the_demo_is_loaded_once(slice_of_demo, progress):
    did_first = demo.load_demo(size="small", now=NOW, progress=progress)
    events = stored()
    counts = _counts()
    did_again = demo.load_demo(
        size="small", now=NOW + timedelta(days=9), progress=progress
    )

    assert (did_first, did_again) == (True, False)
    assert stored() == events
    assert _counts() == counts
    assert counts[Segment] == 4
    assert counts[Campaign] == 3


def test_nothing_to_load_costs_two_small_queries(
    slice_of_demo, progress, django_assert_num_queries
):
    demo.load_demo(size="small", now=NOW, progress=progress)

    with django_assert_num_queries(2):
        demo.load_demo(size="small", now=NOW, progress=progress)


@pytest.mark.parametrize("place", ["_let_something_happen", "record"])
def test_a_demo_killed_in_its_showcase_makes_all_of_it_the_next_time(
    slice_of_demo, progress, monkeypatch, place
):
    def killed(*args: Any, **kwargs: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(showcase, place, killed)
        with pytest.raises(Killed):
            demo.load_demo(size="small", now=NOW, progress=progress)
    assert not Campaign.objects.exists()
    assert not Segment.objects.exists()

    demo.load_demo(size="small", now=NOW, progress=progress)

    assert Campaign.objects.count() == 3
    assert Segment.objects.count() == 4


def test_a_demo_killed_just_before_its_end_is_not_doubled(
    slice_of_demo, progress, monkeypatch, clock
):
    def killed(*args: Any, **kwargs: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(demo, "mark_loaded", killed)
        with pytest.raises(Killed):
            demo.load_demo(size="small", now=NOW, progress=progress)
    counts = _counts()

    later = NOW + timedelta(hours=2)
    clock.move_to(later)
    demo.load_demo(size="small", now=later, progress=progress)

    # The mark that it is complete is a system event.
    assert _counts() == counts | {SystemEvent: counts[SystemEvent] + 1}


def test_the_campaigns_are_published_and_something_of_today_awaits_them(
    slice_of_demo, progress
):
    demo.load_demo(size="small", now=NOW, progress=progress)

    assert set(Campaign.objects.values_list("status", flat=True)) == {"published"}
    assert PendingSystemEvent.objects.count() == 1
    today = Event.objects.filter(is_backfill=False)
    assert today.exists()
    assert PendingEvent.objects.count() == today.count()
    assert not today.filter(occurred_at__gt=NOW).exists()

    dispatch_events()
    dispatch_system_events()

    assert {run.campaign.name for run in Run.objects.all()} == {
        "Thank you for a large order",
        "The next coupon",
    }
    assert Broadcast.objects.get().campaign.name == "Back in stock"


def test_every_segment_has_a_first_version_and_says_whose_it_is(
    slice_of_demo, progress
):
    demo.load_demo(size="small", now=NOW, progress=progress)

    for segment in Segment.objects.all():
        version = segment.versions.get()
        assert (version.rule, version.author) == (segment.rule, "demo data")


def test_every_segment_can_be_counted(slice_of_demo, progress):
    demo.load_demo(size="small", now=NOW, progress=progress)

    for segment in Segment.objects.all():
        assert preview(parse(segment.rule), exact=True, now=NOW).exact


def _counts() -> dict[type, int]:
    return {
        model: model.objects.count()
        for model in (
            Campaign,
            Customer,
            Event,
            MailingCategory,
            PendingEvent,
            PendingSystemEvent,
            Segment,
            SystemEvent,
            Template,
        )
    }

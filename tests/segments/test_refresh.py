from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from segments import preview, refresh
from segments.models import Segment
from smartcomm.core.errors import UserError
from tests import make

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PARIS = {"attribute": "city", "op": "=", "value": "Paris"}


def test_a_segment_keeps_its_count_and_when_it_was_taken():
    make.customer(city="Paris")
    segment = Segment.objects.create(name="Paris", rule=PARIS)

    refresh.count_segment(segment, now=NOW)

    segment.refresh_from_db()
    assert (segment.status, segment.count) == (Segment.Status.FRESH, 1)
    assert (segment.counted_at, segment.tried_at) == (NOW, NOW)
    assert segment.took_ms is not None
    assert segment.error == ""


def test_a_failure_is_kept_beside_the_last_good_count():
    make.customer(city="Paris")
    segment = Segment.objects.create(name="Paris", rule=PARIS)
    refresh.count_segment(segment, now=NOW)
    Segment.objects.filter(pk=segment.pk).update(rule={"event": "Unheard of"})
    segment.refresh_from_db()

    refresh.count_segment(segment, now=NOW + timedelta(hours=1))

    assert segment.status == Segment.Status.FAILED
    assert "There is no event “Unheard of”" in segment.error
    assert (segment.count, segment.counted_at) == (1, NOW)
    assert segment.tried_at == NOW + timedelta(hours=1)


def test_an_accident_is_a_failure_too_and_stops_no_other_segment(monkeypatch):
    make.customer(city="Paris")
    bad = Segment.objects.create(name="A bad one", rule=PARIS)
    good = Segment.objects.create(name="A good one", rule=PARIS)
    really = preview.count
    calls = iter([True, False])

    def count(rule, **more):
        if next(calls):
            raise ZeroDivisionError
        return really(rule, **more)

    monkeypatch.setattr(preview, "count", count)

    assert refresh.refresh_stale(now=NOW) == 2

    bad.refresh_from_db()
    good.refresh_from_db()
    assert bad.status == Segment.Status.FAILED
    assert bad.error.startswith("Counting failed.")
    assert (good.status, good.count) == (Segment.Status.FRESH, 1)


def test_a_rule_changed_while_it_is_counted_is_not_given_the_old_number(monkeypatch):
    segment = Segment.objects.create(name="Paris", rule=PARIS)
    rome = {**PARIS, "value": "Rome"}

    def count(rule, **more):
        Segment.objects.filter(pk=segment.pk).update(rule=rome)
        return 1_000

    monkeypatch.setattr(preview, "count", count)

    found = refresh.count_segment(segment, now=NOW)

    assert (found.rule, found.count, found.status) == (rome, None, "new")


def test_only_what_is_missing_old_or_changed_is_counted_again():
    fresh = Segment.objects.create(name="Fresh", rule=PARIS)
    old = Segment.objects.create(name="Old", rule=PARIS)
    changed = Segment.objects.create(name="Changed", rule=PARIS)
    failed = Segment.objects.create(name="Failed", rule={"event": "Unheard of"})
    assert refresh.refresh_stale(now=NOW) == 4
    assert refresh.refresh_stale(now=NOW) == 0, "a failure is not tried at once again"
    later = NOW + refresh.FRESH_FOR / 2
    Segment.objects.filter(pk=old.pk).update(tried_at=NOW - refresh.FRESH_FOR)
    Segment.objects.filter(pk=changed.pk).update(status="new", updated_at=later)

    counted = refresh.refresh_stale(now=later + timedelta(seconds=1))

    assert counted == 2
    times = dict(Segment.objects.values_list("name", "tried_at"))
    assert (times["Fresh"], times["Failed"]) == (NOW, NOW)
    assert times["Old"] == times["Changed"] == later + timedelta(seconds=1)
    assert {fresh.pk, failed.pk}.isdisjoint({old.pk, changed.pk})


def test_two_workers_share_the_segments_that_are_due():
    with time_machine.travel(NOW, tick=False):
        Segment.objects.create(name="One", rule=PARIS)
        Segment.objects.create(name="Two", rule=PARIS)

    first = refresh._take(NOW)
    second = refresh._take(NOW)

    assert first is not None
    assert second is not None
    assert {first.name, second.name} == {"One", "Two"}
    assert refresh._take(NOW) is None


def test_of_two_workers_who_saw_the_same_segment_due_one_gets_it():
    Segment.objects.create(name="One", rule=PARIS)
    seen = [Segment.objects.get(), Segment.objects.get()]

    assert [refresh._claim(segment, NOW) for segment in seen] == [True, False]


def test_a_rule_that_is_too_dear_says_so(monkeypatch):
    segment = Segment.objects.create(name="Dear", rule=PARIS)

    def count(rule, **more):
        raise preview.TooDear("Counting takes longer than 60 seconds.")

    monkeypatch.setattr(preview, "count", count)

    found = refresh.count_segment(segment, now=NOW)

    assert issubclass(preview.TooDear, UserError)
    assert (found.status, found.error) == (
        "failed",
        "Counting takes longer than 60 seconds.",
    )

"""The exact count in the background: ordered, made, stopped, shared."""

from __future__ import annotations

import threading
import time
from copy import deepcopy
from datetime import timedelta
from uuid import uuid4

import pytest
from django.conf import settings as configured
from django.db import connection, connections
from django.utils import timezone

from customers.models import Customer
from segments import counting, dearness, reading, rules
from segments import preview as previews
from segments import tally as tallies
from segments.compile import IdRange
from segments.dictionary import Dictionary
from segments.models import Count
from segments.preview import preview
from segments.reading import TooDear
from smartcomm.core.db import fetch_all
from smartcomm.core.errors import Conflict, Invalid
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

PARIS = rules.parse({"attribute": "city", "op": "=", "value": "Paris"})
ROME = rules.parse({"attribute": "city", "op": "=", "value": "Rome"})


def crowd(number: int = 30) -> None:
    """Every third is of Paris, and every second may be written to by e-mail."""
    for n in range(number):
        made = make.reachable if n % 2 else make.customer
        made(f"C-{n:03}", city="Rome" if n % 3 else "Paris")


def analyze() -> None:
    connection.cursor().execute("ANALYZE events_event")


def ask(rule: rules.Rule = PARIS, asker: str = "1:page", **more) -> Count:
    return counting.ask(rule, asker=asker, now=more.pop("now", timezone.now()), **more)


def again(count: Count) -> Count:
    count.refresh_from_db()
    return count


def small_ranges(monkeypatch) -> None:
    monkeypatch.setattr(counting, "FIRST_RANGE", 4)
    monkeypatch.setattr(counting, "LEAST_RANGE", 4)
    monkeypatch.setattr(counting, "GROWTH", 1)


# What is counted


def test_range_by_range_comes_to_what_one_question_says(monkeypatch):
    small_ranges(monkeypatch)
    crowd()
    Customer.objects.filter(external_id__in=["C-006", "C-007"]).delete()
    count = ask()

    assert counting.work() == 1

    count = again(count)
    whole = preview(PARIS, exact=True)
    assert count.status == "done"
    assert (count.found, count.base) == (9, 28)
    assert (whole.count, whole.base) == (9, 28)
    assert count.reach == whole.reach == {"email": 5, "sms": 5, "push": 0}
    assert count.sample == whole.sample
    assert count.sample[:2] == ["C-027", "C-024"], "those known last"


def test_how_far_it_is_is_true_at_every_moment(monkeypatch):
    small_ranges(monkeypatch)
    crowd()
    seen: list[tuple[float, int, int]] = []
    really = counting._go_on

    def go_on(count: Count) -> None:
        really(count)
        kept = Count.objects.get()
        seen.append((kept.progress, kept.found, kept.base))

    monkeypatch.setattr(counting, "_go_on", go_on)
    ask()

    counting.work()

    assert len(seen) == 8
    assert [base for _, _, base in seen] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert all(abs(progress - base / 30) < 0.01 for progress, _, base in seen)
    assert [found for _, found, _ in seen] == sorted(found for _, found, _ in seen)


def test_of_nobody_nobody_is_counted():
    count = ask()

    counting.work()

    assert (again(count).status, count.found, count.base) == ("done", 0, 0)


def test_a_range_that_takes_too_long_is_cut_and_the_count_goes_on(monkeypatch):
    crowd()
    asked: list[int] = []
    really = counting.tally

    def tally(rule, *, restrict, **more):
        asked.append(restrict.upto - restrict.after)
        if asked[-1] > 10:
            raise TooDear("slow")
        return really(rule, restrict=restrict, **more)

    monkeypatch.setattr(counting, "tally", tally)
    monkeypatch.setattr(counting, "LEAST_RANGE", 8)
    monkeypatch.setattr(counting, "FIRST_RANGE", 24)
    count = ask()

    counting.work()

    assert (again(count).status, count.found, count.base) == ("done", 10, 30)
    assert asked[:2] == [24, 8]


# Too dear


def test_a_rule_too_dear_says_so_and_why(monkeypatch, settings):
    settings.SEGMENT_COUNT_SECONDS = 0.2
    crowd()
    for customer in Customer.objects.all():
        for _ in range(5):
            make.event(customer, "Product viewed", name="Bag")
    analyze()
    rule = rules.parse(
        {
            "all": [
                {"attribute": "city", "op": "=", "value": "Paris"},
                {
                    "event": "Product viewed",
                    "where": [{"field": "name", "op": "contains", "value": "a"}],
                },
            ]
        }
    )

    def tally(rule, **more):
        fetch_all("SELECT pg_sleep(10)", using="default")

    monkeypatch.setattr(counting, "tally", tally)
    count = ask(rule)
    began = time.monotonic()

    counting.work()

    took = time.monotonic() - began
    assert took < 3, "it ends at its limit"
    count = again(count)
    assert (count.status, count.code) == ("failed", "too_dear")
    assert count.error.startswith(
        "Counting takes longer than 0.2 seconds, and was stopped near its beginning. "
        "What costs most: “Product viewed” with name contains “a” at least once. "
        "It reads about 150 events and takes "
    )
    assert count.error.endswith("or give it a period.")
    assert (count.found, count.base, count.sample) == (10, 30, count.sample)
    assert count.margin == 0, "so few were all asked"


def test_the_dearest_condition_is_found_in_a_saved_segment_too():
    from segments.models import Segment

    crowd(10)
    for customer in Customer.objects.all():
        for _ in range(30):
            make.event(customer, "Product viewed")
    analyze()
    saved = Segment.objects.create(name="Viewers", rule={"event": "Product viewed"})
    rule = rules.parse({"all": [rules.to_json(PARIS), {"segment": saved.pk}]})

    told = dearness.why(rule, known=Dictionary.of(rule), now=timezone.now())

    assert "“Product viewed”" in told
    assert "reads about 300 events" in told
    assert "Ask for a rarer event, or give it a period." in told


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (7, "7"),
        (42, "42"),
        (1_234, "1,200"),
        (987_654, "990,000"),
        (1_437_000, "1.4 million"),
        (12_000_000, "12 million"),
    ],
)
def test_about_how_many_is_said_as_people_say_it(number, words):
    assert dearness._about(number) == words


def test_how_long_all_would_take_is_said_where_it_can_be_known(monkeypatch):
    small_ranges(monkeypatch)
    crowd()
    really = counting.tally

    def tally(rule, *, restrict, **more):
        if len(asked) == 2:
            fetch_all("SELECT pg_sleep(10)", using="default")
        asked.append(restrict)
        return really(rule, restrict=restrict, **more)

    asked: list[IdRange] = []
    monkeypatch.setattr(counting, "tally", tally)
    count = ask()

    counting.run(counting.take(now=timezone.now()), limit_ms=300)

    assert "after 27\u00a0% of the customers; all of them would take about 1 sec" in (
        again(count).error
    )
    assert dearness.time_in_words(100) == "100 seconds"
    assert dearness.time_in_words(150) == "2 minutes"
    assert dearness.time_in_words(7500) == "2 hours"


def test_a_fault_of_ours_is_logged_and_kept_from_the_page(monkeypatch, caplog):
    def tally(rule, **more):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(counting, "tally", tally)
    crowd(1)
    count = ask()

    counting.work()

    assert (again(count).status, count.code) == ("failed", "internal")
    assert "secret" not in count.error


# Sharing


def test_the_same_rule_within_a_minute_is_one_count():
    now = timezone.now()
    first = ask(asker="1:a", now=now)

    second = ask(asker="2:b", now=now + timedelta(seconds=30))

    assert first.pk == second.pk
    assert second.askers == ["1:a", "2:b"]
    assert ask(ROME, asker="3:c", now=now).pk != first.pk


def test_a_result_is_good_for_a_minute_and_so_is_too_dear():
    now = timezone.now()
    crowd(3)
    done = ask()
    counting.work()
    Count.objects.create(
        rule=rules.to_json(ROME),
        status="failed",
        code="too_dear",
        asked_at=now,
        wanted_at=now,
        ended_at=now,
    )
    soon, later = now + timedelta(seconds=50), now + timedelta(seconds=70)

    assert ask(now=soon).pk == done.pk
    assert ask(ROME, now=soon).status == "failed"
    assert ask(now=later).status == "waiting"
    assert ask(ROME, now=later).status == "waiting"


def test_what_was_cancelled_is_counted_anew():
    count = ask()
    counting.cancel(count.pk, asker="1:page")

    assert ask().pk != count.pk


def test_whoever_asks_for_another_rule_lets_the_one_before_go():
    first = ask(PARIS, asker="1:page")
    shared = ask(ROME, asker="2:page")
    ask(ROME, asker="1:page")

    assert again(first).status == "cancelled"
    assert again(shared).askers == ["1:page", "2:page"]
    ask(PARIS, asker="1:page")
    assert again(shared).status == "waiting"
    assert again(shared).askers == ["2:page"]


def test_no_more_are_counted_at_once_than_is_set(settings):
    settings.SEGMENT_COUNTS_AT_ONCE = 2
    for n in range(3):
        rule = rules.parse({"attribute": "city", "op": "=", "value": str(n)})
        ask(rule, asker=f"{n}:page")
    now = timezone.now()

    taken = [counting.take(now=now) for _ in range(3)]

    assert [one is not None for one in taken] == [True, True, False]
    assert counting.is_busy(now)
    counting.run(taken[0], limit_ms=1000)
    third = counting.take(now=now)
    assert third is not None
    assert third.askers == ["2:page"], "the one who has waited longest"


def test_a_count_whose_worker_died_is_taken_by_another():
    count = ask()
    taken = counting.take(now=timezone.now())
    later = timezone.now() + timedelta(seconds=31)
    Count.objects.update(wanted_at=later)

    assert counting.take(now=timezone.now()) is None
    other = counting.take(now=later)

    assert other.pk == count.pk
    # The first one, if it lives after all, does not spoil it.
    counting.run(taken, limit_ms=1000)
    assert again(count).status == "running"


def test_what_nobody_waits_for_any_more_is_not_counted():
    count = ask()

    assert counting.take(now=timezone.now() + timedelta(seconds=9)) is None
    assert again(count).status == "cancelled"


def test_a_page_that_was_closed_stops_its_count(monkeypatch):
    small_ranges(monkeypatch)
    crowd(10)
    count = ask()
    taken = counting.take(now=timezone.now())
    Count.objects.update(wanted_at=timezone.now() - timedelta(seconds=9))

    counting.run(taken, limit_ms=1000)

    assert again(count).status == "cancelled"
    assert count.base == 0


def test_looking_keeps_a_count_wanted_for_whom_it_is_alone():
    count = ask(now=timezone.now() - timedelta(seconds=5))
    now = timezone.now()

    counting.look(count.pk, asker="2:other", now=now)
    assert again(count).wanted_at < now
    counting.look(count.pk, asker="1:page", now=now)
    assert again(count).wanted_at == now
    assert counting.look(uuid4(), asker="1:page", now=now) is None


def test_old_counts_are_forgotten():
    old = ask(now=timezone.now() - timedelta(hours=2))
    new = ask(ROME)

    counting.work()

    assert set(Count.objects.values_list("pk", flat=True)) == {new.pk}
    assert old.pk != new.pk


def test_a_bell_is_rung_for_a_new_count(
    monkeypatch, django_capture_on_commit_callbacks
):
    rung: list[str] = []
    monkeypatch.setattr(counting.doorbell, "_ring_now", rung.append)

    with django_capture_on_commit_callbacks(execute=True):
        count = ask()
        counting.look(count.pk, asker="1:page", now=timezone.now())

    assert rung == ["segments.tasks.count_exactly"] * 2


# A request that waits


def test_a_request_counts_itself_where_no_worker_does():
    crowd()

    count = counting.settle(PARIS, asker="request:1", limit_ms=5000)

    assert (count.status, count.found) == ("done", 10)


def test_a_request_waits_for_those_before_it_and_then_gives_up(settings):
    settings.SEGMENT_COUNTS_AT_ONCE = 1
    ask(ROME, asker="1:page")
    counting.take(now=timezone.now())

    with pytest.raises(TooDear, match=r"longer than 0\.1 seconds"):
        counting.settle(PARIS, asker="request:1", limit_ms=100)

    assert Count.objects.get(rule=rules.to_json(PARIS)).status == "cancelled"


def test_a_request_that_counts_itself_is_not_taken_for_gone(monkeypatch):
    small_ranges(monkeypatch)
    crowd()
    really = counting.run

    def run(count: Count, **more) -> None:
        # As if it had taken long enough.
        monkeypatch.setattr(counting, "WANTED_FOR", timedelta(0))
        really(count, **more)

    monkeypatch.setattr(counting, "run", run)

    count = counting.settle(PARIS, asker="request:1", limit_ms=5000)

    assert (count.status, count.found) == ("done", 10)


def slow(rule, **more):
    fetch_all("SELECT pg_sleep(10)", using="default")


def test_what_is_too_dear_for_a_request_is_no_verdict_for_others(monkeypatch):
    crowd(3)
    monkeypatch.setattr(counting, "tally", slow)

    with pytest.raises(TooDear, match=r"longer than 0\.\d+ seconds.*What costs most"):
        counting.settle(PARIS, asker="request:1", limit_ms=200)

    assert ask().status == "waiting"


def test_a_page_that_waits_for_the_same_goes_on_waiting(monkeypatch):
    crowd(3)
    monkeypatch.setattr(counting, "tally", slow)
    count = ask(asker="1:page")

    with pytest.raises(TooDear):
        counting.settle(PARIS, asker="request:1", limit_ms=200)

    assert again(count).status == "waiting"
    assert count.askers == ["1:page"]


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"status": "failed", "code": "too_dear", "error": "Too much."}, TooDear),
        ({"status": "failed", "code": "rule_invalid", "error": "Gone."}, Invalid),
        ({"status": "cancelled"}, Conflict),
    ],
)
def test_a_request_is_told_why_there_is_no_number(monkeypatch, values, refusal):
    monkeypatch.setattr(
        counting,
        "run",
        lambda count, **more: Count.objects.filter(pk=count.pk).update(
            ended_at=timezone.now(), **values
        ),
    )

    with pytest.raises(refusal) as told:
        counting.settle(PARIS, asker="request:1", limit_ms=1000)

    assert told.value.message == values.get("error", told.value.message)


# Through the API


@pytest.fixture
def api():
    return Api("read")


def test_an_exact_preview_of_many_is_counted_range_by_range(api, monkeypatch):
    monkeypatch.setattr(previews, "COUNT_UP_TO", 5)
    crowd()

    response = api.post(
        "/segments/preview", {"rule": rules.to_json(PARIS), "exact": True}
    )

    answer = response.json()
    assert response.status_code == 200
    assert (answer["count"], answer["exact"], answer["margin"]) == (10, True, 0)
    assert answer["sentence"] == "City is “Paris”"
    assert answer["reach"] == {"email": 5, "sms": 5, "push": 0}
    assert len(answer["sample"]) == 10
    assert Count.objects.get().status == "done"


def test_an_exact_preview_too_dear_tells_why_and_what_is_known(api, monkeypatch):
    monkeypatch.setattr(previews, "COUNT_UP_TO", 5)
    crowd()

    def settle(rule, **more):
        raise TooDear("Counting takes longer than 10 seconds. What costs most: this.")

    monkeypatch.setattr(counting, "settle", settle)

    response = api.post(
        "/segments/preview", {"rule": rules.to_json(PARIS), "exact": True}
    )

    told = problem(response, 422, "too_dear")
    assert "What costs most" in told["detail"]
    estimate = told["estimate"]
    assert estimate["exact"] is False
    assert estimate.keys() >= {"count", "margin", "sentence", "sample", "took_ms"}
    assert abs(estimate["count"] - 10) <= estimate["margin"]


# What the database feels


@pytest.fixture
def counting_long(transactional_db, monkeypatch):
    """A count whose statement takes half a minute, running in another thread."""
    crowd(3)

    def tally(rule, **more):
        fetch_all(
            "SELECT count(*), pg_sleep(30) FROM customers_customer", using="default"
        )

    monkeypatch.setattr(counting, "tally", tally)
    monkeypatch.setattr(counting, "MOST_RANGE_MS", 60_000)
    count = ask()

    def work() -> None:
        try:
            counting.work()
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    until = time.monotonic() + 10
    while not backends(count):
        assert time.monotonic() < until
    yield count
    counting._stop_reading(count)
    thread.join(timeout=10)
    assert not thread.is_alive()


def backends(count: Count) -> list[tuple]:
    return fetch_all(
        "SELECT pid, state FROM pg_stat_activity WHERE application_name = %s "
        "AND wait_event = 'PgSleep'",
        [f"smartcomm count {count.pk}"],
        using="default",
    )


def test_a_cancelled_count_ends_at_once_in_the_database_too(counting_long):
    began = time.monotonic()

    counting.cancel(counting_long.pk, asker="1:page")

    while backends(counting_long):
        assert time.monotonic() - began < 2
    assert again(counting_long).status == "cancelled"


def test_a_count_holds_nothing_but_the_lock_of_readers(counting_long):
    [(pid, _)] = backends(counting_long)

    locks = fetch_all(
        "SELECT DISTINCT mode FROM pg_locks WHERE pid = %s AND locktype = 'relation'",
        [pid],
        using="default",
    )
    xids = fetch_all(
        "SELECT backend_xid FROM pg_stat_activity WHERE pid = %s",
        [pid],
        using="default",
    )

    assert locks == [("AccessShareLock",)]
    assert xids == [(None,)], "it has written nothing"
    # Others write meanwhile.
    make.customer("C-new", city="Paris")


def test_a_count_can_write_nothing(monkeypatch):
    def tally(rule, **more):
        Customer.objects.update(city="Paris")

    monkeypatch.setattr(counting, "tally", tally)
    crowd(3)
    count = ask(ROME)

    counting.work()

    assert (again(count).status, count.code) == ("failed", "internal")
    assert Customer.objects.filter(city="Rome").count() == 2


@pytest.mark.django_db(transaction=True)
def test_rules_are_tried_on_the_replica_where_there_is_one(monkeypatch):
    crowd(5)
    replica = deepcopy(configured.DATABASES["default"])
    replica["NAME"] = connection.settings_dict["NAME"]
    replica["OPTIONS"].pop("pool", None)
    replica["OPTIONS"]["application_name"] = "the replica"
    monkeypatch.setitem(connections.settings, "replica", replica)
    # Opened here, as tests may open none that the settings do not name.
    connections["replica"].connect()
    used: list[str] = []
    really = tallies.fetch_all

    def fetched(sql, params=(), *, using):
        used.append(using)
        return really(sql, params, using=using)

    monkeypatch.setattr(tallies, "fetch_all", fetched)
    try:
        count = ask()
        counting.work()
        found = preview(PARIS, exact=True)
    finally:
        connections["replica"].close()

    assert reading.source() == "replica"
    assert (again(count).found, found.count) == (2, 2)
    assert set(used) == {"replica"}


def test_a_tally_of_a_range_asks_only_who_is_in_it():
    crowd(10)
    ids = list(Customer.objects.order_by("pk").values_list("pk", flat=True))

    found = tallies.tally(
        PARIS,
        now=timezone.now(),
        known=Dictionary(),
        restrict=IdRange(ids[2], ids[6]),
        show=20,
    )

    assert (found.found, found.base) == (2, 4)
    assert found.ids == [ids[6], ids[3]]

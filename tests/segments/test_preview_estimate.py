"""Estimates: how near they are, how honest their margin, and what they read."""

from __future__ import annotations

import random
import statistics
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from customers.models import Customer
from events.models import Event
from segments import estimate as estimates
from segments import preview as previews
from segments import rules
from segments.compile import compile_rule
from segments.estimate import Draw, estimate, margin_of
from segments.models import Segment
from segments.preview import preview
from segments.reading import TooDear, read_only
from smartcomm.core.db import fetch_all
from tests import make

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PARIS = rules.parse({"attribute": "city", "op": "=", "value": "Paris"})
LOOK_UP = estimates.LOOK_UP


# The margin, on paper


def coverage(part: float, asked: int, number: int, draws: int = 3000) -> float:
    """How often the margin holds, for samples where so many meet the rule."""
    true = round(part * number)
    right = 0
    for _ in range(draws):
        found = hypergeometric(true, asked, number)
        count, margin = margin_of(found, asked, number)
        right += abs(count - true) <= margin
    return right / draws


def hypergeometric(true: int, asked: int, number: int) -> int:
    """How many of those asked are among the true ones; by the normal law where it is
    good, and one by one where it is not."""
    mean = asked * true / number
    spread = (mean * (1 - true / number) * (1 - asked / number)) ** 0.5
    if min(mean, asked - mean) > 200:
        return min(asked, max(0, round(random.gauss(mean, spread))))
    left, found = true, 0
    for i in range(asked):
        if random.random() < left / (number - i):
            found += 1
            left -= 1
    return found


@pytest.mark.parametrize("asked", [100, 1000])
@pytest.mark.parametrize(
    "part", [0, 0.0005, 0.001, 0.003, 0.01, 0.05, 0.2, 0.5, 0.8, 0.99, 0.999, 1]
)
def test_the_margin_holds_for_rare_and_for_common_rules_alike(part, asked):
    random.seed(round(part * 10_000) + asked)

    held = coverage(part, asked, number=50_000)

    # Two standard deviations of 3,000 samples are 0.8 %.
    assert held >= 0.942


@given(
    number=st.integers(1, 10**9),
    asked=st.integers(0, 10_000),
    part=st.floats(0, 1),
)
def test_a_margin_is_a_number_that_makes_sense(number, asked, part):
    asked = min(asked, number)
    count, margin = margin_of(round(part * asked), asked, number)

    assert 0 <= count <= number
    assert 0 <= margin <= number + 1
    if asked == number:
        assert margin == 0


def test_the_margin_stays_honest_when_nobody_of_the_sample_is_found():
    count, margin = margin_of(0, 10_000, 1_000_000)

    assert count == 0
    assert 300 < margin < 450
    assert margin_of(10_000, 10_000, 10_000) == (10_000, 0)
    assert margin_of(0, 0, 50) == (0, 50)


def test_how_many_are_asked_next_follows_from_the_time_alone():
    quick = estimates._next(1000, 5, 110)
    slower = estimates._next(1000, 50, 110)

    assert quick == 8000, "no more than eight times as many"
    assert 250 <= slower < 1000
    assert estimates._next(1000, 105, 110) == 0, "a few more are not worth a question"
    assert estimates._next(1000, 500, 110) == 0
    assert estimates._next(9000, 10, 110) == 0
    assert estimates._next(8000, 10, 110) == 2000, "all in all 10,000"


def test_stopping_by_time_does_not_bias_though_busy_samples_take_longer(monkeypatch):
    """The worst case: time grows with what is found, and nothing else."""
    random.seed(5)
    part = 0.1
    right, counts = 0, []
    for _ in range(2000):
        found = asked = 0
        more, elapsed = 200, 0.0
        while more:
            new = sum(random.random() < part for _ in range(more))
            found, asked = found + new, asked + more
            elapsed += 0.05 * more + 1.5 * new
            more = min(estimates._next(asked, elapsed, 110), 400)
        count, margin = margin_of(found, asked, 1_000_000)
        counts.append(count)
        right += abs(count - 100_000) <= margin

    assert right / 2000 >= 0.94
    assert statistics.mean(counts) == pytest.approx(100_000, rel=0.02)


# The sample


@pytest.fixture(scope="module")
def crowd(django_db_setup, django_db_blocker):
    """60,000 customers and 150,000 events, the same for all tests here: a few customers
    have most of the events. One in ten ids is gone."""
    with django_db_blocker.unblock():
        with connection.cursor() as cursor:
            cursor.execute(CROWD)
            cursor.execute("ANALYZE customers_customer, events_event, events_eventtype")
            cursor.execute("SELECT count(DISTINCT customer_id) FROM events_event")
            assert cursor.fetchone()[0] > 20_000
        yield
        with connection.cursor() as cursor:
            cursor.execute(
                "TRUNCATE events_event, events_eventtype, events_source, "
                "customers_customer, segments_segment RESTART IDENTITY CASCADE"
            )


CROWD = """
    INSERT INTO customers_customer (external_id, first_name, last_name, email,
        email_is_valid, phone, phone_is_valid, gender, city, country, language,
        time_zone, attributes, is_stub, created_at, updated_at)
    SELECT 'C-' || n, '', '', CASE WHEN n % 2 = 0 THEN n || '@example.com' ELSE '' END,
           n % 2 = 0, '', false, '', CASE WHEN n % 4 = 0 THEN 'Paris' ELSE 'Rome' END,
           '', '', '', '{}', false, now(), now()
      FROM generate_series(1, 60000) AS n;
    DELETE FROM customers_customer WHERE id % 10 = 3;
    INSERT INTO events_source (name, is_active, unknown_customers, allowed_networks,
                               created_at)
    VALUES ('crowd', true, 'create', '{}', now());
    INSERT INTO events_eventtype (name, kind, description, mode, is_reviewed,
                                  is_awaited, created_at)
    SELECT 'Type ' || n, 'customer', '', 'open', true, false, now()
      FROM generate_series(1, 10) AS n;
    INSERT INTO events_event (external_id, occurred_at, received_at, context,
                              is_backfill, customer_id, type_id, source_id)
    SELECT n, timestamptz '2026-11-20 12:00Z' - interval '365 days' * random(), now(),
           jsonb_build_object('name', 'p' || n % 50, 'product', n % 5000), false,
           customer.id, (SELECT min(id) FROM events_eventtype) + n % 3 * (n % 4),
           (SELECT min(id) FROM events_source)
      FROM (SELECT n, 1 + floor(53999 * power(random(), 3))::int AS nth
              FROM generate_series(1, 150000) AS n) AS told
      JOIN (SELECT id, row_number() OVER (ORDER BY md5(id::text)) AS nth
              FROM customers_customer) AS customer USING (nth)
"""


def estimated(rule: dict, times: int) -> tuple[int, list[estimates.Estimate]]:
    parsed = rules.parse(rule)
    query = compile_rule(parsed, now=NOW)
    true = len(fetch_all(query.sql, query.params, using="default"))
    return true, [estimate(parsed, now=NOW, budget_ms=40) for _ in range(times)]


RULES = [
    {"attribute": "city", "op": "=", "value": "Paris"},
    {"not": {"attribute": "city", "op": "=", "value": "Paris"}},
    {"event": "Type 1"},
    {"event": "Type 1", "count": {"op": ">=", "value": 5}},
    {"event": "Type 1", "period": {"last": 7, "unit": "days"}},
    {"event": "Type 3", "where": [{"field": "product", "op": "=", "value": 6}]},
    {"event": "Type 1", "where": [{"field": "name", "op": "contains", "value": "p1"}]},
    {"event": "Type 1", "days_since_last": {"op": ">=", "value": 100}},
    {"not": {"event": "Type 1"}},
    {"event": "Type 5", "period": {"since": {"event": "Type 1"}}},
    {"reachable": "email"},
    {
        "any": [
            {"event": f"Type {n}", "count": {"op": ">=", "value": 2}}
            for n in range(1, 11)
        ]
    },
]


@pytest.mark.django_db
@pytest.mark.usefixtures("crowd")
def test_the_true_count_lies_within_the_margin_in_95_of_100_rules():
    random.seed(11)
    right = asked = 0
    for rule in RULES:
        true, found = estimated(rule, times=25)
        right += sum(abs(one.count - true) <= one.margin for one in found)
        asked += len(found)
        assert abs(statistics.median(one.base for one in found) - 54_000) < 1_500

    # 95 % of 300 are 285; fewer than 275 happen once in 500.
    assert right >= 275, f"{right} of {asked}"


@pytest.mark.django_db
@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize("rule", RULES)
def test_an_estimate_looks_customers_up_and_never_reads_a_whole_type(rule):
    """Each table is read by an index that begins with the customer, or with the type
    and then the customer, and for those who are asked alone."""
    with read_only(5000, **LOOK_UP):
        asked = Draw().more(200)
        query = compile_rule(rules.parse(rule), now=NOW, restrict=asked)
        plan = fetch_all(
            "EXPLAIN (ANALYZE, FORMAT JSON) " + query.sql, query.params, using="default"
        )[0][0][0]["Plan"]

    for node in nodes(plan):
        if table := node.get("Relation Name"):
            assert node["Node Type"] in ("Index Scan", "Index Only Scan"), node
            if table == "events_event":
                assert node["Index Name"] in ("event_rule", "event_history"), node
                if node["Index Name"] == "event_rule":
                    assert "type_id" in node["Index Cond"]
                assert "customer_id" in node["Index Cond"]
            removed = node.get("Rows Removed by Filter", 0)
            read = (node["Actual Rows"] + removed) * node["Actual Loops"]
            assert read < 15_000, "200 of 54,000 have no more"


def nodes(plan):
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


@pytest.mark.django_db
@pytest.mark.usefixtures("crowd")
def test_a_rule_that_looks_at_many_things_asks_fewer_customers_not_longer():
    leaf = {
        "event": "Type 1",
        "where": [{"field": "name", "op": "contains", "value": "p"}],
    }
    known = estimates.Dictionary.of(rules.parse(leaf))

    one = estimates._first(rules.parse(leaf), known)
    many = estimates._first(rules.parse({"any": [leaf] * 100}), known)

    assert (one, many) == (1000, 40)


@pytest.mark.django_db
def test_looks_into_saved_segments_and_other_events_are_counted_too():
    for name in ("Viewed", "Paid"):
        make.event_type(name)
    saved = Segment.objects.create(name="Saved", rule={"event": "Paid"})
    rule = rules.parse(
        {
            "all": [
                {"segment": saved.pk},
                {"event": "Viewed", "period": {"since": {"event": "Paid"}}},
                {"event": "Viewed", "without": {"event": "Paid"}},
                {"attribute": "city", "op": "=", "value": "Paris"},
            ]
        }
    )

    assert estimates.looks(rule, estimates.Dictionary.of(rule)) == 5


@pytest.mark.django_db
@pytest.mark.usefixtures("crowd")
def test_a_first_step_that_takes_too_long_is_taken_back_and_fewer_are_asked(
    monkeypatch,
):
    asked: list[int] = []
    really = estimates.compile_rule

    def slow(rule, *, restrict, **more):
        asked.append(len(restrict))
        if len(restrict) > 100:
            raise TooDear("slow")
        return really(rule, restrict=restrict, **more)

    monkeypatch.setattr(estimates, "compile_rule", slow)
    monkeypatch.setattr(estimates, "FIRST_MS", (1, 1, 3000))

    found = estimate(PARIS, now=NOW, budget_ms=0)

    assert 10 < found.asked <= 100
    assert found.margin > 2_000
    assert len(asked) <= 3


@pytest.mark.django_db
@pytest.mark.usefixtures("crowd")
def test_where_even_a_handful_takes_seconds_it_says_what_to_do(monkeypatch):
    def slow(rule, **more):
        raise TooDear("slow")

    monkeypatch.setattr(estimates, "compile_rule", slow)

    with pytest.raises(TooDear, match="Take conditions out"):
        estimate(PARIS, now=NOW)


# As a preview


@pytest.mark.django_db
@pytest.mark.usefixtures("crowd")
def test_a_preview_of_many_is_an_estimate_with_a_sample_and_reach():
    found = preview(PARIS, exact=False, now=NOW)

    assert not found.exact
    true = Customer.objects.filter(city="Paris").count()
    assert abs(found.count - true) < 3 * found.margin
    assert 0 < found.margin < 3_000
    assert len(set(found.sample)) == 20
    assert set(found.reach) == {"email", "sms", "push"}
    # Nobody ever said yes.
    assert found.reach["email"] == 0
    assert found.share == pytest.approx(true / 54_000, abs=0.06)


@pytest.mark.django_db
@pytest.mark.usefixtures("crowd")
def test_how_many_can_be_reached_is_estimated_like_the_rest():
    connection.cursor().execute(
        "INSERT INTO customers_consent (customer_id, channel, is_granted, changed_at, "
        "origin) SELECT id, 'email', true, now(), '' FROM customers_customer"
    )
    rule = rules.parse({"attribute": "external_id", "op": "is set"})

    found = preview(rule, exact=False, now=NOW)

    true = Customer.objects.filter(email_is_valid=True).count()
    assert found.reach["email"] == pytest.approx(true, rel=0.15)


@pytest.mark.django_db
@pytest.mark.usefixtures("crowd")
def test_where_reach_takes_too_long_the_number_is_told_without_it(monkeypatch):
    def slow(found, now):
        raise TooDear("slow")

    monkeypatch.setattr(previews, "_reached", slow)

    found = preview(PARIS, exact=False, now=NOW)

    assert found.count > 0
    assert found.reach == {}


@pytest.mark.django_db
@pytest.mark.usefixtures("crowd")
def test_few_customers_with_a_dear_rule_are_estimated_after_all(monkeypatch):
    monkeypatch.setattr(previews, "COUNT_UP_TO", 10**6)
    monkeypatch.setattr(previews, "FEW_MS", 1)

    found = preview(rules.parse(RULES[6]), exact=False, now=NOW)

    assert not found.exact
    assert found.margin > 0


@pytest.mark.django_db
@pytest.mark.usefixtures("crowd")
def test_an_estimate_writes_nothing_and_takes_only_the_lock_of_readers():
    with connection.cursor() as cursor:
        with read_only(5000, **LOOK_UP):
            asked = Draw().more(100)
            query = compile_rule(rules.parse(RULES[4]), now=NOW, restrict=asked)
            fetch_all(query.sql, query.params, using="default")
            cursor.execute(
                "SELECT DISTINCT mode FROM pg_locks WHERE pid = pg_backend_pid() "
                "AND locktype = 'relation' AND relation::regclass::text "
                "LIKE ANY(ARRAY['customers%', 'events%', 'event_%'])"
            )
            assert cursor.fetchall() == [("AccessShareLock",)]
        cursor.execute("SHOW transaction_read_only")
        assert cursor.fetchone() == ("off",)
        cursor.execute("SHOW enable_seqscan")
        assert cursor.fetchone() == ("on",)
    before = Event.objects.count()
    preview(PARIS, exact=False, now=NOW + timedelta(days=1))
    assert Event.objects.count() == before

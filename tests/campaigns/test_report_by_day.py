"""The report day by day: it adds up, and everywhere it says the same."""

from __future__ import annotations

import csv
import io
from collections import Counter
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest import mock

import msgspec
import pytest
import time_machine
from django.contrib.auth.models import Permission, User
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaigns import checker, kept, moving, publish
from campaigns.days import Days
from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.kept import count_next, reported
from campaigns.models import Campaign, KeptReport, Run
from campaigns.report import report
from campaigns.report_api import ReportOut
from campaigns.report_files import by_day, in_all
from customers.merging import merge
from customers.models import Customer
from messaging.models import Message
from messaging.send import send_messages
from smartcomm.core.errors import UserError
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def work() -> None:
    while sum((dispatch_events(), advance_runs(), send_messages(), settle_runs())):
        pass


def branching(**more: Any) -> Campaign:
    return make.campaign(
        make.step(
            "paris",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "Paris"}},
            positive="some",
            negative="wait",
        ),
        make.step(
            "some", "limit_participants", {"limit": 3}, within="sms", over="wait"
        ),
        make.sms(),
        make.step("wait", "wait", {"for": 30, "unit": "hours"}, done="group"),
        make.step(
            "group", "control_group", {"percent": 50}, treated=None, control=None
        ),
        on="Order paid",
        **more,
    )


def adds_up(found: dict[str, Any], days: Days) -> None:
    """All that must hold of a report whose days have seen everything."""
    in_all: Counter[str] = Counter()
    by_day: Counter[str] = Counter()
    for version in found["versions"]:
        counts = version["messages"]
        assert version["entered"] + version["moved_in"] == (
            version["finished"]
            + version["waiting"]
            + version["failed"]
            + version["moved_out"]
        )
        assert_messages(counts)
        assert [day["day"] for day in version["days"]] == list(days)
        before = 0
        for day in version["days"]:
            ended = day["finished"] + day["failed"]
            assert day["waiting"] == before + day["entered"] - ended
            before = day["waiting"]
            assert_messages(day["messages"])
            by_day.update({word: day[word] for word in ("finished", "failed")})
        by_day["waiting"] += before
        in_all.update({word: version[word] for word in ("finished", "failed")})
        in_all["waiting"] += version["waiting"]
        assert counts["queued"] == sum(
            day["messages"]["queued"] for day in version["days"]
        )
        assert version["entered"] == sum(day["entered"] for day in version["days"])
        for place, step in enumerate(version["steps"]):
            of_step = [day["steps"][place] for day in version["days"]]
            for way, count in step["out"].items():
                assert count == sum(day["out"].get(way, 0) for day in of_step)
            assert step["in"] == step["moved_in"] + sum(day["in"] for day in of_step)
            assert step["ended"] >= 0
            assert step["in"] == sum(step["out"].values()) + sum(
                step[word] for word in ("waiting", "failed", "ended", "moved_out")
            )
    # By day, a run that was moved counts with the version by which it entered.
    assert in_all == by_day


def assert_messages(counts: dict[str, Any]) -> None:
    assert counts["queued"] == (
        counts["sent"]
        + counts["failed"]
        + sum(counts["suppressed"].values())
        + counts["pending"]
        + counts["unknown"]
    )


# What may happen to a campaign, in any order.


def someone_pays(campaign: Campaign, number: int) -> None:
    who = make.reachable if number % 3 else make.customer
    make.event(who(city="Paris" if number % 2 else "Rome"), "Order paid")


def some_work(campaign: Campaign, number: int) -> None:
    (dispatch_events, advance_runs, send_messages, settle_runs)[number % 4]()


def all_work(campaign: Campaign, number: int) -> None:
    work()


def time_passes(campaign: Campaign, number: int) -> None:
    CLOCK[0].shift(timedelta(hours=number % 40))


def an_event_is_erased(campaign: Campaign, number: int) -> None:
    run = Run.objects.filter(campaign=campaign, status=Run.Status.WAITING).first()
    if run is not None:
        Run.objects.filter(pk=run.pk).update(event=None)


def a_message_goes_wrong(campaign: Campaign, number: int) -> None:
    status = ("failed", "unknown", "sending", "delivered", "clicked")[number % 5]
    one = Message.objects.filter(campaign_id=campaign.pk, status="queued").first()
    if one is not None:
        Message.objects.filter(pk=one.pk).update(status=status)


def it_is_published_again(campaign: Campaign, number: int) -> None:
    campaign.refresh_from_db()
    if campaign.status != Campaign.Status.ARCHIVED:
        make.publish_again(campaign, entry={"rule": "every_event"})


def its_state_changes(campaign: Campaign, number: int) -> None:
    deeds = (publish.pause, publish.resume, skipping, publish.archive)
    with suppress(UserError):  # It is not in a state for that.
        deeds[number % 4 if number % 5 else 3](campaign)


def its_runs_are_moved(campaign: Campaign, number: int) -> None:
    older = campaign.versions.filter(status="superseded").order_by("number")
    if older:
        with suppress(UserError):  # It is archived.
            moving.order(older[number % len(older)], by="anna")
    while number % 4 and moving.move_some(limit=number % 3 + 1):
        pass


def two_customers_are_one(campaign: Campaign, number: int) -> None:
    found = Customer.objects.order_by("pk")
    if len(found) > 1:
        kept, former = found[number % len(found)], found[(number + 1) % len(found)]
        merge(kept.external_id, former.external_id, by="anna", now=datetime.now(UTC))


def skipping(campaign: Campaign) -> None:
    publish.resume(campaign, skip_older_than=timedelta(hours=1))


DEEDS = (
    someone_pays,
    someone_pays,
    someone_pays,
    some_work,
    all_work,
    time_passes,
    an_event_is_erased,
    a_message_goes_wrong,
    it_is_published_again,
    its_state_changes,
    its_runs_are_moved,
    two_customers_are_one,
)
CLOCK: list[Any] = []


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 99)), max_size=30))
def test_whatever_happens_every_day_adds_up(history):
    with time_machine.travel(NOON, tick=False) as clock, transaction.atomic():
        CLOCK[:] = [clock]
        campaign = branching()
        for deed, number in history:
            deed(campaign, number)
            clock.shift(timedelta(seconds=1))
        now = datetime.now(UTC)
        days = Days(NOON.date(), max(now.date(), NOON.date()))
        found = report(campaign, days=days)

        adds_up(found, days)
        assert_files_agree(found)
        with mock.patch.object(checker, "SNAPSHOT", "SELECT"):
            assert checker.what_is_off(campaign) == []
        transaction.set_rollback(True)


def rows(lines: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO("".join(lines).removeprefix("\ufeff"))))


def assert_files_agree(found: dict[str, Any]) -> None:
    """Every number of the report is in the files, and nothing else is."""
    versions = {str(one["version"]): one for one in found["versions"]}
    for row in rows(in_all(found)):
        assert number_of(versions[row["version"]], row) == int(row["count"])
    for row in rows(by_day(found)):
        version = versions[row["version"]]
        [day] = [one for one in version["days"] if str(one["day"]) == row["day"]]
        assert number_of(day, row) == int(row["count"])


def number_of(numbers: dict[str, Any], row: dict[str, str]) -> int:
    what = row["what"].replace("moved ", "moved_")
    if what == "messages suppressed":
        return int(numbers["messages"]["suppressed"][row["way"]])
    if what.startswith("messages "):
        return int(numbers["messages"][what.removeprefix("messages ")])
    what = what.replace(" ", "_")
    if not row["step"]:
        return int(numbers[what])
    [step] = [one for one in numbers["steps"] if one["key"] == row["step"]]
    return int(step["out"][row["way"]] if what == "out" else step[what])


def test_a_day_is_one_of_the_installations_zone(settings):
    settings.TIME_ZONE = "America/New_York"
    with time_machine.travel(NOON, tick=False):
        campaign = make.campaign(make.sms(), on="Order paid")
    # Three in the morning in Greenwich is still the evening before over there.
    for hour in (3, 6):
        with time_machine.travel(datetime(2026, 11, 21, hour, tzinfo=UTC), tick=False):
            make.event(make.reachable(), "Order paid")
            work()
    found = report(campaign, days=Days(date(2026, 11, 20), date(2026, 11, 21)))
    days = found["versions"][0]["days"]
    assert [day["entered"] for day in days] == [1, 1]
    assert [day["messages"]["sent"] for day in days] == [1, 1]


def test_a_day_of_25_hours_holds_them_all(settings):
    settings.TIME_ZONE = "Europe/Berlin"
    days = Days(date(2026, 10, 25), date(2026, 10, 25))
    assert days.begins[1] - days.begins[0] == timedelta(hours=25)


def test_who_was_under_way_before_the_first_day_still_is():
    with time_machine.travel(NOON, tick=False) as clock:
        campaign = branching()
        make.event(make.customer(city="Rome"), "Order paid")
        work()
        clock.shift(timedelta(days=1))
        [day] = report(campaign, days=Days(date(2026, 11, 21), date(2026, 11, 21)))[
            "versions"
        ][0]["days"]
        assert (day["entered"], day["finished"], day["waiting"]) == (0, 0, 1)
        clock.shift(timedelta(days=1))
        work()
        past = report(campaign, days=Days(date(2026, 11, 20), date(2026, 11, 20)))
        assert past["versions"][0]["days"][0]["waiting"] == 1
        days = report(campaign, days=Days(date(2026, 11, 21), date(2026, 11, 22)))[
            "versions"
        ][0]["days"]
        assert [day["waiting"] for day in days] == [1, 0]
        assert [day["finished"] for day in days] == [0, 1]


def test_days_cost_the_same_queries_for_few_runs_and_for_many():
    campaign = branching()

    def cost(count: int) -> int:
        for _ in range(count):
            make.event(make.reachable(city="Paris"), "Order paid")
        work()
        with CaptureQueriesContext(connection) as queries:
            report(campaign, days=Days.until(datetime.now(UTC), number=90))
        return len(queries)

    assert cost(1) == cost(20)


def test_nobody_says_zero_of_what_no_provider_tells():
    campaign = make.campaign(make.sms(), on="Order paid")
    for _ in range(2):
        make.event(make.reachable(), "Order paid")
    work()
    days = Days.until(datetime.now(UTC), number=7)

    def told() -> list[Any]:
        version = report(campaign, days=days)["versions"][0]
        today = version["days"][-1]["messages"]
        return [
            (version["messages"][word], today[word])
            for word in ("sent", "delivered", "opened", "clicked")
        ]

    assert told() == [(2, 2), (None, None), (None, None), (None, None)]
    first = Message.objects.order_by("pk")[0]
    Message.objects.filter(pk=first.pk).update(status="opened")
    assert told() == [(2, 2), (1, 1), (1, 1), (None, None)]


# Through all doors


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def lived() -> Campaign:
    """A campaign with a history, of two versions."""
    with time_machine.travel(datetime.now(UTC) - timedelta(days=2), tick=True):
        campaign = branching(name="Thank you")
        for city in ("Paris", "Rome", "Paris"):
            make.event(make.reachable(city=city), "Order paid")
        make.event(make.customer(city="Paris"), "Order paid")
        work()
    make.publish_again(campaign, entry={"rule": "once"})
    make.event(make.reachable(city="Paris"), "Order paid")
    work()
    return campaign


def test_api_file_and_page_show_the_same_numbers(lived, api, admin_client):
    told = api.get(f"/campaigns/{lived.pk}/report?by=day").json()
    found = msgspec.convert(told, ReportOut)
    assert [len(version.days) for version in found.versions] == [30, 30]

    for version in told["versions"]:
        for day in version["days"]:
            day["day"] = date.fromisoformat(day["day"])
    adds_up(told, Days.until(datetime.now(UTC), number=30))
    for what, has_day in (("steps", False), ("days", True)):
        answer = admin_client.get(
            reverse("admin:campaigns_campaign_report_file", args=[lived.pk, what])
        )
        assert answer.streaming
        assert answer["Content-Type"].startswith("text/csv")
        lines = rows(part.decode() for part in answer)
        assert ("day" in lines[0]) == has_day
        for row in lines:
            [numbers] = [
                one for one in told["versions"] if str(one["version"]) == row["version"]
            ]
            if has_day:
                [numbers] = [
                    one for one in numbers["days"] if str(one["day"]) == row["day"]
                ]
            assert number_of(numbers, row) == int(row["count"])
    shown = admin_client.get(
        reverse("admin:campaigns_campaign_report", args=[lived.pk]), {"version": "1"}
    ).content.decode()
    first = told["versions"][1]
    assert f"{first['entered']} entered = {first['finished']} finished" in shown
    today = first["days"][-1]
    assert (
        f"{today['entered']} entered, {today['finished']} finished, "
        f"{today['failed']} failed" in shown
    )


def test_boxes_and_arrows_tell_their_share_of_who_entered(lived, admin_client):
    shown = admin_client.get(
        reverse("admin:campaigns_campaign_report", args=[lived.pk]), {"version": "1"}
    ).content.decode()
    assert "Yes: 3, 75 % of all who came to this version" in shown
    assert "No: 1, 25 % of all who came to this version" in shown


def test_the_page_follows_and_sends_nothing_where_nothing_changed(lived, admin_client):
    url = reverse("admin:campaigns_campaign_report", args=[lived.pk])
    page = admin_client.get(url)
    seen = {"version": "2", "days": "30", "seen": page.context["seen"]}
    poll = {"HTTP_HX_REQUEST": "true"}
    assert admin_client.get(url, seen, **poll).status_code == 204

    make.event(make.reachable(city="Paris"), "Order paid")
    work()
    changed = admin_client.get(url, seen, **poll)
    assert changed.status_code == 200
    assert "2 entered =" in changed.content.decode()
    assert "<html" not in changed.content.decode()


@pytest.mark.parametrize("query", [{"days": "31"}, {"days": "x"}, {"version": "9"}])
def test_the_page_refuses_what_it_does_not_know(lived, admin_client, query):
    url = reverse("admin:campaigns_campaign_report", args=[lived.pk])
    assert admin_client.get(url, query).status_code == 404


def test_files_need_the_permission_to_see_campaigns(lived):
    url = reverse("admin:campaigns_campaign_report_file", args=[lived.pk, "steps"])
    ben = User.objects.create_user("ben", is_staff=True)
    client = Client()
    client.force_login(ben)
    assert client.get(url).status_code == 403
    ben.user_permissions.add(Permission.objects.get(codename="view_campaign"))
    assert client.get(url).status_code == 200
    assert client.get(url.replace("steps", "secrets")).status_code == 404


@pytest.mark.parametrize(
    ("query", "field", "status"),
    [
        ("by=week", "by", 400),
        ("by=day&from=yesterday", "from", 400),
        # Each parameter is sound, but not beside the others.
        ("from=2026-11-01", "by", 422),
        ("by=day&from=2026-11-02&to=2026-11-01", "from", 422),
        ("by=day&from=2020-01-01&to=2026-11-01", "from", 422),
        ("by=day&to=0001-01-01", "from", 422),
        ("by=day&to=9999-12-31", "from", 422),
    ],
)
def test_the_api_refuses_days_it_cannot_tell(lived, api, query, field, status):
    answer = api.get(f"/campaigns/{lived.pk}/report?{query}")
    told = problem(answer, status, {400: "parameter_invalid", 422: "invalid"}[status])
    assert told["errors"][0]["field"] == field


def test_the_api_tells_any_days(lived, api):
    day = (datetime.now(UTC) - timedelta(days=2)).date()
    told = api.get(f"/campaigns/{lived.pk}/report?by=day&from={day}&to={day}").json()
    [first] = [one for one in told["versions"] if one["version"] == 1]
    assert [one["entered"] for one in first["days"]] == [4]
    assert "days" not in api.get(f"/campaigns/{lived.pk}/report").json()["versions"][0]


# Kept where it is dear


def test_what_is_quick_is_always_new(lived):
    now = datetime.now(UTC)
    assert reported(lived, now=now).answer["versions"][0]["entered"] == 1
    make.event(make.reachable(city="Paris"), "Order paid")
    work()
    assert reported(lived, now=now).answer["versions"][0]["entered"] == 2
    assert not KeptReport.objects.exists()


def test_what_is_dear_is_kept_and_counted_anew_behind_the_scenes(lived, monkeypatch):
    monkeypatch.setattr(kept, "DEAR", timedelta(0))
    now = datetime.now(UTC)
    new = reported(lived, days=7, now=now)
    make.event(make.reachable(city="Paris"), "Order paid")
    work()

    old = reported(lived, days=7, now=now + timedelta(seconds=1))
    # Days and times come back as they were.
    assert (old.answer, old.at) == (new.answer, now)
    assert count_next(now=now + timedelta(seconds=1)) == 0

    later = now + timedelta(hours=1)
    assert reported(lived, days=7, now=later).at == now
    assert count_next(now=later) == 1
    assert count_next(now=later) == 0
    found = reported(lived, days=7, now=later)
    assert found.at == later
    assert found.answer["versions"][0]["entered"] == 2
    adds_up(found.answer, Days.until(later, number=7))


def test_what_is_no_longer_dear_is_new_again(lived, monkeypatch):
    monkeypatch.setattr(kept, "DEAR", timedelta(0))
    now = datetime.now(UTC)
    reported(lived, now=now)
    monkeypatch.setattr(kept, "DEAR", timedelta(minutes=1))
    reported(lived, now=now + timedelta(hours=1))
    count_next(now=now + timedelta(hours=1))
    assert not KeptReport.objects.exists()


def test_nobody_waits_for_the_first_count_of_a_large_campaign(
    lived, monkeypatch, admin_client
):
    monkeypatch.setattr(kept, "LARGE", 0)
    page = reverse("admin:campaigns_campaign_report", args=[lived.pk])
    poll = {"HX-Request": "true"}

    first = admin_client.get(page)
    assert "it is being counted" in first.content.decode()
    asks = first.context["asks_again"]
    assert admin_client.get(asks, headers=poll).status_code == 204
    assert count_next() == 1
    assert admin_client.get(asks, headers=poll).headers["HX-Refresh"] == "true"
    assert admin_client.get(page).context["numbers"]["entered"] == 1
    # However quick it was: else the next look would have it counted again.
    assert KeptReport.objects.get().days == 30


def test_whoever_must_have_an_answer_waits_for_the_first_count(
    lived, monkeypatch, api, admin_client
):
    monkeypatch.setattr(kept, "LARGE", 0)
    page = reverse("admin:campaigns_campaign_report", args=[lived.pk])
    admin_client.get(page)
    answer = api.get(f"/campaigns/{lived.pk}/report?by=day").json()
    assert answer["versions"][0]["entered"] == 1
    assert admin_client.get(page).context["numbers"]["entered"] == 1

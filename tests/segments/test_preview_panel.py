"""What stands beside a rule being built, asked for as the page does."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from segments import counting, panel
from segments import preview as previews
from segments.models import Count
from tests import make
from tests.segments.test_builder import FilterForm, SegmentForm, press, sent

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PARIS = {"attribute": "city", "op": "=", "value": "Paris"}
VIEWED = {
    "event": "Product viewed",
    "where": [{"field": "product_id", "op": "=", "value": "$product_id"}],
}


def live(form, *, user="1", now=None, **more):
    asked = sent(form)
    asked.update({"prefix": "rule", **more})
    return panel.live(asked, user=user, now=now or timezone.now())


@pytest.fixture
def many(monkeypatch):
    """Customers enough that they are not counted at once."""
    monkeypatch.setattr(previews, "COUNT_UP_TO", 3)
    make.customer("C-anna", first_name="Anna", city="Paris")
    for number in range(4):
        make.customer(f"C-{number}", city="Rome")


@pytest.fixture
def staff(client: Client) -> Client:
    user = get_user_model().objects.create_superuser("anna", "a@example.com", "x")
    client.force_login(user)
    return client


class Page:
    """A page with the builder: posts its form, and does what htmx would."""

    def __init__(self, client: Client, rule: dict) -> None:
        self.client = client
        self.form = sent(SegmentForm(initial={"rule": rule}))
        self.html = ""
        self.headers: Any = {}

    def preview(self, **more: str) -> str:
        data = self.form.copy()
        data.update({"prefix": "rule", "look": "panel", **more})
        if found := re.search(r'opt.asker" value="([^"]+)"', self.html):
            data["rule.opt.asker"] = found[1]
        return self._post(reverse("admin:segments_builder_preview"), data)

    def follow(self) -> str:
        """The next thing that the fragment asks for by itself."""
        return self._post(self._ask(r"hx-trigger=\"load"), self._values())

    def press(self, label: str) -> str:
        button = re.search(
            rf'<button[^>]*hx-post="([^"]+)"[^>]*>{label}</button>', self.html
        )
        assert button, self.html
        return self._post(button[1], self._values())

    @property
    def is_asking(self) -> bool:
        return 'hx-trigger="load' in self.html

    def _ask(self, mark: str) -> str:
        found = re.search(rf'hx-post="([^"]+)" {mark}', self.html)
        assert found, self.html
        return found[1]

    def _values(self) -> dict:
        found = re.search(r'hx-vals="([^"]*)"', self.html)
        assert found, self.html
        return json.loads(html.unescape(found[1]))

    def _post(self, address: str, data) -> str:
        response = self.client.post(address, data)
        assert response.status_code == 200, response.content
        self.html = response.content.decode()
        self.headers = response.headers
        return self.html


# With few customers


def test_the_preview_of_a_finished_rule_has_sentence_count_and_customers():
    anna = make.customer("C-anna", city="Paris")
    make.customer(city="Rome")

    shown = live(SegmentForm(initial={"rule": PARIS}))

    assert shown["sentence"] == "City is “Paris”"
    assert (shown["found"].count, shown["share"]) == (1, "50\xa0%")
    assert shown["customers"] == [anna]
    assert "order" not in shown, "few are counted exactly at once"


def test_how_many_of_them_may_be_written_to_is_told_by_channel():
    make.reachable(city="Paris")
    silent = make.reachable(city="Paris")
    silent.consents.filter(channel="email").update(is_granted=False)
    make.customer(city="Paris")
    make.reachable(city="Rome")

    shown = live(SegmentForm(initial={"rule": PARIS}))

    assert shown["reached"] == [
        ("e-mail", 1, "33\xa0%"),
        ("SMS", 2, "67\xa0%"),
        ("push", 0, "0\xa0%"),
    ]


def test_an_unfinished_rule_is_not_counted():
    make.customer(city="Paris")
    data = press(sent(SegmentForm(initial={"rule": PARIS})), "add", what="event")
    data.update({"prefix": "rule"})

    shown = panel.live(data, user="1", now=NOW)

    assert "found" not in shown
    assert [problem.name for problem in shown["problems"]] == ["rule.1.event"]
    assert shown["is_unfinished"]


def test_a_rule_with_event_values_is_tried_with_a_recent_event():
    anna = make.customer("C-anna")
    make.event(anna, "Product viewed", product_id=77)
    make.system_event("Product in stock", product_id=77)
    form = FilterForm(initial={"rule": VIEWED})

    shown = live(form, trigger="Product in stock")
    none = live(form, trigger="Never seen")

    assert shown["found"].count == 1
    assert shown["used"] == [("product_id", 77)]
    assert "found" not in none
    assert none["needs"] == ["product_id"]


def test_before_anything_is_asked_the_preview_neither_counts_nor_complains():
    make.customer()

    shown = live(SegmentForm())

    assert shown["is_empty"]
    assert not {"found", "problems"} & shown.keys()


# With many


@pytest.mark.usefixtures("many")
def test_the_page_shows_an_estimate_and_then_the_exact_count(staff):
    page = Page(staff, PARIS)

    first = page.preview()
    assert ">about</span> 1</strong>" in first
    assert "Estimated from customers taken at random." in first
    assert "City is “Paris”." in first
    waiting = page.follow()
    assert "Counting exactly…" in waiting
    counting.work()
    done = page.follow()

    assert page.headers["HX-Retarget"] == "closest .scb-figures"
    assert "<strong>1</strong>" in done
    assert "Counted exactly" in done
    assert "of 5 customers" in done
    assert "Anna" in done
    assert not page.is_asking
    count = Count.objects.get()
    assert (count.status, count.progress, count.sample) == ("done", 1, ["C-anna"])


@pytest.mark.usefixtures("many")
def test_a_rule_counted_within_the_last_minute_is_shown_exactly_at_once(staff):
    page = Page(staff, PARIS)
    page.preview()
    page.follow()
    counting.work()

    again = Page(staff, PARIS).preview()

    assert "Counted exactly" in again
    Count.objects.update(ended_at=timezone.now() - timedelta(seconds=61))
    assert "Estimated" in Page(staff, PARIS).preview()


@pytest.mark.usefixtures("many")
def test_when_no_worker_answers_the_page_says_so_and_keeps_asking(staff):
    page = Page(staff, PARIS)
    page.preview()
    page.follow()

    Count.objects.update(asked_at=timezone.now() - timedelta(seconds=3))
    late = page.follow()

    assert "no worker has answered yet. The estimate stays." in late
    assert page.is_asking


@pytest.mark.usefixtures("many")
def test_a_count_that_waits_for_others_says_so(staff, settings):
    settings.SEGMENT_COUNTS_AT_ONCE = 1
    other = counting.ask(
        counting.rules.parse({"attribute": "city", "op": "=", "value": "Rome"}),
        asker="2:other",
        now=timezone.now(),
    )
    assert counting.take(now=timezone.now()).pk == other.pk
    page = Page(staff, PARIS)
    page.preview()
    page.follow()

    Count.objects.filter(status="waiting").update(
        asked_at=timezone.now() - timedelta(seconds=3)
    )

    assert "other rules are being counted first" in page.follow()


@pytest.mark.usefixtures("many")
def test_how_far_a_count_is_can_be_seen_and_it_can_be_cancelled(staff):
    page = Page(staff, PARIS)
    page.preview()
    page.follow()
    count = counting.take(now=timezone.now())
    Count.objects.update(progress=0.348, found=1234)

    assert 'value="34"' in page.follow()
    assert "34 % of the customers asked, 1,234 found" in page.html
    cancelled = page.press("Cancel")

    assert "was cancelled; the estimate stays" in cancelled
    assert not page.is_asking
    assert Count.objects.get(pk=count.pk).status == "cancelled"
    again = page.press("Count exactly")
    assert "Counting exactly…" in again
    assert Count.objects.filter(status="waiting").count() == 1


@pytest.mark.usefixtures("many")
def test_a_rule_too_dear_keeps_its_estimate_and_says_why(staff):
    page = Page(staff, PARIS)
    page.preview()
    page.follow()
    Count.objects.update(
        status="failed",
        code="too_dear",
        error="Counting takes longer than 60 seconds.",
        ended_at=timezone.now(),
    )

    told = page.follow()

    assert "Too dear to be counted exactly." in told
    assert "Counting takes longer than 60 seconds." in told
    assert "The estimate stays." in told
    assert not page.is_asking


@pytest.mark.usefixtures("many")
def test_a_rule_too_dear_is_estimated_with_more_time(staff):
    page = Page(staff, PARIS)
    page.preview()
    page.follow()
    Count.objects.update(
        status="failed",
        code="too_dear",
        error="Counting takes longer than 60 seconds.",
        found=342_759,
        margin=11_530,
        base=1_000_000,
        sample=["C-anna"],
        ended_at=timezone.now(),
    )

    told = page.follow()

    assert page.headers["HX-Retarget"] == "closest .scb-figures"
    assert ">about</span> 343,000</strong>" in told
    assert "± 12,000" in told
    assert "Counting takes longer than 60 seconds." in told
    assert "City is “Paris”." in told
    assert not page.is_asking


@pytest.mark.parametrize(
    ("number", "margin", "told"),
    [
        (342_759, 11_530, (343_000, 12_000)),
        (417, 0, (417, 0)),
        (417, 38, (417, 38)),
        (4_172, 385, (4_170, 390)),
        (0, 424, (0, 430)),
        (9_996, 999, (10_000, 1_010)),
    ],
)
def test_an_estimate_is_told_with_the_digits_that_are_known(number, margin, told):
    assert panel.about(number, margin) == told


@given(number=st.integers(0, 10**9), margin=st.integers(0, 10**8))
def test_rounding_keeps_the_margin_honest(number, margin):
    rounded, wider = panel.about(number, margin)

    assert rounded - wider <= number - margin
    assert rounded + wider >= number + margin
    assert wider <= margin * 1.2 + 1


@pytest.mark.usefixtures("many")
def test_what_is_typed_on_cancels_the_count_of_the_rule_before(staff):
    page = Page(staff, PARIS)
    page.preview()
    page.follow()
    assert Count.objects.get().status == "waiting"
    page.html = f'name="rule.opt.asker" value="{page._values()["scb_asker"]}"'

    page.preview(**{"rule.0.low": "Rome"})

    assert Count.objects.get().status == "cancelled"


@pytest.mark.usefixtures("many")
def test_two_editors_of_one_rule_share_its_count_and_do_not_disturb_each_other(staff):
    first, second = Page(staff, PARIS), Page(staff, PARIS)
    first.preview()
    second.preview()
    first.follow()
    second.follow()
    count = Count.objects.get()
    assert len(count.askers) == 2

    first.press("Cancel")
    count.refresh_from_db()
    assert count.status == "waiting"
    second.press("Cancel")
    count.refresh_from_db()
    assert count.status == "cancelled"


@pytest.mark.usefixtures("many")
def test_nobody_cancels_what_another_waits_for(staff):
    page = Page(staff, PARIS)
    page.preview()
    page.follow()
    count = Count.objects.get()

    staff.post(
        reverse("admin:segments_builder_cancel", args=[count.pk]),
        {"scb_asker": "guessed"},
    )

    count.refresh_from_db()
    assert count.status == "waiting"


@pytest.mark.usefixtures("many")
def test_a_rule_of_a_campaign_is_counted_with_the_values_it_was_tried_with():
    anna = make.customer()
    make.event(anna, "Product viewed", product_id=77)
    make.system_event("Product in stock", product_id=77, secret="x" * 1000)
    shown = live(FilterForm(initial={"rule": VIEWED}), trigger="Product in stock")

    told = json.loads(shown["order"])
    count = counting.ask(
        counting.rules.parse(json.loads(told["scb_rule"]), event_values=True),
        asker="1:x",
        now=timezone.now(),
        context=json.loads(told["scb_context"]),
    )
    counting.work()

    count.refresh_from_db()
    assert count.context == {"product_id": 77}
    assert (count.status, count.found) == ("done", 1)


@pytest.mark.parametrize("sent", ["", "{", "[]", '{"attribute": 1}', "[" * 100_000])
def test_what_is_no_rule_is_not_counted(staff, sent):
    answer = staff.post(reverse("admin:segments_builder_count"), {"scb_rule": sent})

    assert answer.status_code == 400
    assert not Count.objects.exists()


def test_a_count_that_is_gone_can_be_asked_for_again(staff):
    answer = staff.post(
        reverse("admin:segments_builder_counting", args=[uuid4()]),
        {"scb_rule": json.dumps(PARIS), "scb_context": "null", "scb_asker": "x"},
    )

    assert "Count exactly</button>" in answer.content.decode()


def test_who_may_not_view_customers_gets_numbers_and_no_names():
    from tests.segments.test_admin import colleague

    make.customer("C-anna", first_name="Anna", city="Paris")
    page = Page(colleague("view_segment"), PARIS)

    told = page.preview()

    assert "<strong>1</strong>" in told
    assert "Anna" not in told
    assert "Nobody" not in told

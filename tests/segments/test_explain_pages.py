"""“Is C-1001 in? Why?” in the back office and the API; “nearly in” on profiles."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from customers.models import Customer
from segments.models import Membership, Segment
from segments.nearly import MOST, SHOWN, nearly
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

PARIS = {"attribute": "city", "op": "=", "value": "Paris"}
PAID = {"event": "Paid"}


@pytest.fixture
def anna() -> Customer:
    return make.customer("C-1001", city="Rome", first_name="Anna", last_name="Berg")


@pytest.fixture
def segment() -> Segment:
    make.event_type("Paid")
    return a_segment({"all": [PARIS, PAID]}, name="Buyers in Paris")


def a_segment(rule: Any, *, name: str = "", **more: Any) -> Segment:
    name = name or f"Segment {Segment.objects.count()}"
    return Segment.objects.create(name=name, rule=rule, **more)


def address(segment: Segment, customer: str | None = None) -> str:
    url = reverse("admin:segments_segment_explain", args=[segment.pk])
    return url if customer is None else f"{url}?customer={customer}"


def part(client: Client, url: str) -> str:
    answer = client.get(url, headers={"HX-Request": "true"})
    assert answer.status_code == 200
    return answer.content.decode()


def colleague(*permissions: str) -> Client:
    user = get_user_model().objects.create_user("ben", password="x", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


# the box on the segment's page


def test_the_page_of_a_segment_has_the_box_and_a_new_one_has_not(admin_client, segment):
    change = reverse("admin:segments_segment_change", args=[segment.pk])
    page = admin_client.get(change).content.decode()

    assert f'hx-get="{address(segment)}"' in page
    new = admin_client.get(reverse("admin:segments_segment_add")).content.decode()
    assert "Is somebody in? Why?" not in new


def test_the_answer_is_a_part_for_htmx_and_a_page_otherwise(
    admin_client, segment, anna
):
    url = address(segment, anna.external_id)

    fragment = part(admin_client, url)
    page = admin_client.get(url).content.decode()

    assert "<html" not in fragment
    assert "<html" in page
    for shown in (fragment, page):
        assert "is not in" in shown
        assert "City is “Rome”" in shown
        assert "City must be “Paris”." in shown


def test_events_are_linked_and_more_lead_to_the_time_line(admin_client, segment, anna):
    events = [make.event(anna, "Paid", price=i) for i in range(7)]

    page = part(admin_client, address(segment, anna.external_id))

    newest = reverse("admin:events_event_change", args=[events[-1].pk])
    profile = reverse("admin:customers_customer_change", args=[anna.pk])
    assert newest in page
    assert "and 2 more" in page
    assert f"{profile}?kind=event&amp;name=Paid" in page


def test_who_may_not_open_events_gets_no_links_to_them(segment, anna):
    event = make.event(anna, "Paid")
    client = colleague("view_segment", "view_customer")

    page = part(client, address(segment, anna.external_id))

    assert reverse("admin:events_event_change", args=[event.pk]) not in page
    assert "is not in" in page


@pytest.mark.parametrize("permissions", [["view_segment"], ["view_customer"], []])
def test_who_may_not_see_segments_and_customers_is_refused(segment, anna, permissions):
    client = colleague(*permissions)

    assert client.get(address(segment, anna.external_id)).status_code == 403


@pytest.mark.parametrize(
    "text", ["C-1001", "a@example.com", "+4915112345678", "Anna Berg", "anna"]
)
def test_a_customer_is_found_by_what_is_known_of_them(admin_client, segment, text):
    make.customer(
        "C-1001",
        first_name="Anna",
        last_name="Berg",
        email="a@example.com",
        phone="+4915112345678",
    )
    make.customer("C-10010", first_name="Ben")

    answer = admin_client.get(address(segment), {"customer": text})

    assert "is not in" in answer.content.decode()
    assert answer.context["customer"].external_id == "C-1001"


def test_where_a_text_fits_several_they_are_offered(admin_client, segment, anna):
    make.customer("C-2", first_name="Anna", last_name="Zorn")

    page = part(admin_client, address(segment, "Anna"))

    assert "Which one?" in page
    assert address(segment, "C-1001") in page
    assert address(segment, "C-2") in page


@pytest.mark.parametrize("text", ["nobody", "%00", "😀", "x" * 500, "@", "'\""])
def test_nobody_is_found_and_it_is_said(admin_client, segment, text):
    page = part(admin_client, address(segment, text))

    assert "There is no customer" in page or text == "%00"


def test_without_a_customer_only_the_box_is_shown(admin_client, segment):
    page = admin_client.get(address(segment)).content.decode()

    assert "is not in" not in page
    assert 'name="customer"' in page


def test_a_rule_that_is_not_understood_is_said_to_be_so(admin_client, anna):
    broken = a_segment({"event": 5})

    page = part(admin_client, address(broken, anna.external_id))

    assert "It could not be asked." in page


def test_a_rule_with_a_name_that_is_gone_matches_nobody_and_says_where(
    admin_client, anna
):
    broken = a_segment({"all": [PARIS, {"event": "Payed"}]})

    page = part(admin_client, address(broken, anna.external_id))

    assert "matches nobody until that is mended" in page
    assert "There is no event “Payed”." in page
    assert "City is “Rome”" in page


def test_a_list_says_who_is_on_it_since_when(admin_client, anna):
    listed = a_segment(None, kind=Segment.Kind.STATIC)
    assert "is not in" in part(admin_client, address(listed, anna.external_id))

    Membership.objects.create(customer=anna, segment=listed, since=timezone.now())

    assert "is in" in part(admin_client, address(listed, anna.external_id))


def test_a_list_of_members_that_has_not_followed_yet_is_said_to_be_behind(
    admin_client, segment, anna
):
    Segment.objects.update(members_of=1)
    Membership.objects.create(customer=anna, segment=segment, since=timezone.now())

    page = part(admin_client, address(segment, anna.external_id))

    assert "still has them in" in page


def test_a_page_costs_as_many_queries_for_many_conditions_as_for_few(
    admin_client, anna
):
    make.event(anna, "Paid")

    def queries(size: int) -> int:
        one = a_segment({"all": [PARIS, PAID] * size})
        with CaptureQueriesContext(connection) as captured:
            part(admin_client, address(one, anna.external_id))
        return len(captured)

    queries(1)
    assert queries(12) == queries(1)


# the API


def test_the_api_explains(anna, segment):
    event = make.event(anna, "Paid", price=5)

    answer = Api("read").get(f"/segments/{segment.pk}/explain?customer=C-1001")

    assert answer.status_code == 200
    told = answer.json()
    assert (told["segment"], told["customer"], told["holds"]) == (
        segment.pk,
        "C-1001",
        False,
    )
    city, paid = told["tree"]["parts"]
    assert (city["holds"], city["blocks"], city["value"]) == (False, True, "Rome")
    assert (paid["holds"], paid["count"]) == (True, 1)
    assert paid["events"][0]["id"] == event.external_id
    assert paid["events"][0]["context"] == {"price": 5}


def test_the_api_agrees_with_the_list_of_customers(anna, segment):
    make.event(anna, "Paid")
    ben = make.customer("C-2", city="Paris")
    make.event(ben, "Paid")
    api = Api("read")

    members = api.get(f"/segments/{segment.pk}/customers").json()["results"]
    told = {
        name: api.get(f"/segments/{segment.pk}/explain?customer={name}").json()["holds"]
        for name in ("C-1001", "C-2")
    }

    assert [one["external_id"] for one in members] == ["C-2"]
    assert told == {"C-1001": False, "C-2": True}


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/segments/{pk}/explain", 400, "parameter_invalid"),
        ("/segments/{pk}/explain?customer=", 400, "parameter_invalid"),
        ("/segments/{pk}/explain?customer=C-1001&exact=1", 400, "parameter_invalid"),
        ("/segments/{pk}/explain?customer=nobody", 404, "not_found"),
        ("/segments/999999/explain?customer=C-1001", 404, "not_found"),
    ],
)
def test_the_api_refuses_what_it_cannot_explain(anna, segment, path, status, code):
    problem(Api("read").get(path.format(pk=segment.pk)), status, code)


# nearly in


def now_nearly(customer: Customer) -> Any:
    return nearly(customer.pk, now=timezone.now())


def test_a_segment_missed_by_one_condition_is_nearly_reached(anna, segment):
    make.event(anna, "Paid")

    found = now_nearly(anna)

    assert [miss.segment for miss in found.found] == [segment]
    assert found.found[0].reason.change == "City must be “Paris”."
    assert (found.asked, found.total, found.missed) == (1, 1, 1)


def test_a_rule_of_one_condition_is_not_counted_among_those_that_could_be_asked(
    anna, segment
):
    for number in range(MOST + 1):
        a_segment({"all": [PAID]}, name=f"A {number}")

    found = now_nearly(anna)

    assert (found.asked, found.total) == (1, 1)


def test_who_is_in_or_misses_more_than_one_is_not_nearly_in(anna, segment):
    ben = make.customer(city="Paris")
    make.event(ben, "Paid")

    assert now_nearly(ben).found == []
    assert now_nearly(anna).found == []


def test_a_group_that_fails_is_one_condition(anna):
    make.event_type("Paid")
    a_segment({"all": [{"not": PAID}, {"any": [PARIS, PAID]}]})

    miss = now_nearly(anna).found[0]

    assert miss.missing.kind == "any"
    assert [one.kind for one in miss.missing.parts] == ["attribute", "event"]


@pytest.mark.parametrize(
    "left_out",
    [
        {"rule": {"all": [PARIS]}},
        {"rule": PARIS},
        {"rule": {"any": [PARIS, PAID]}},
        {"rule": None, "kind": "static"},
        {"rule": {"all": [PARIS, PAID]}, "archived_at": timezone.now()},
    ],
)
def test_what_has_no_several_conditions_or_is_not_in_use_is_not_asked(anna, left_out):
    make.event(anna, "Paid")
    a_segment(**left_out)

    assert now_nearly(anna).found == []


def test_a_broken_segment_spoils_no_other(anna, segment):
    make.event(anna, "Paid")
    a_segment({"all": [PARIS, {"event": "Payed"}]})
    a_segment({"all": [5, PARIS]})

    found = now_nearly(anna)

    assert [miss.segment for miss in found.found] == [segment]
    assert (found.asked, found.total) == (1, 3)


def test_few_are_asked_and_shown_and_it_is_said_how_many(admin_client, anna):
    make.event(anna, "Paid")
    for i in range(MOST + 5):
        a_segment({"all": [PARIS, PAID]}, name=f"S{i:03}")

    page = part(
        admin_client, reverse("admin:customers_customer_nearly", args=[anna.pk])
    )

    assert page.count("S0") >= SHOWN
    assert f"The first {SHOWN} of {MOST} that are missed by one condition." in page
    assert f"{MOST} of {MOST + 5} segments with several conditions were asked." in page


def test_nearly_in_is_loaded_after_the_segments_of_the_profile(admin_client, anna):
    a_segment(PARIS)
    segments = reverse("admin:customers_customer_segments", args=[anna.pk])
    nearly_in = reverse("admin:customers_customer_nearly", args=[anna.pk])

    profile = admin_client.get(
        reverse("admin:customers_customer_change", args=[anna.pk])
    ).content.decode()

    assert segments in profile
    assert nearly_in not in profile
    assert nearly_in in part(admin_client, segments)


def test_who_is_in_a_segment_can_ask_why(admin_client, segment):
    ben = make.customer("C-7", city="Paris")
    make.event(ben, "Paid")

    page = part(
        admin_client, reverse("admin:customers_customer_segments", args=[ben.pk])
    )

    assert address(segment, "C-7") in page


def test_nearly_in_needs_the_right_to_see_segments(anna):
    client = colleague("view_customer")
    url = reverse("admin:customers_customer_nearly", args=[anna.pk])

    assert client.get(url).status_code == 403


def test_asking_what_one_nearly_is_in_costs_no_more_for_more_segments(anna):
    make.event(anna, "Paid")

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            now_nearly(anna)
        return len(captured)

    a_segment({"all": [PARIS, PAID]})
    few = queries()
    for _ in range(20):
        a_segment({"all": [PARIS, PAID]})
    assert queries() == few


def test_a_week_changes_by_itself_and_the_profile_says_when(admin_client, anna):
    make.event(anna, "Paid", at=timezone.now() - timedelta(days=2))
    a_segment(
        {
            "all": [
                {"attribute": "city", "op": "is set"},
                {"not": {**PAID, "period": {"last": 7, "unit": "days"}}},
            ]
        }
    )

    page = part(
        admin_client, reverse("admin:customers_customer_nearly", args=[anna.pk])
    )

    assert "By itself after" in page

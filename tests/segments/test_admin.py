from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from customers.models import Customer
from segments import refresh
from segments.models import Segment
from tests import make
from tests.segments.test_builder_drafts import sent_by

pytestmark = pytest.mark.django_db

PARIS = {"all": [{"attribute": "city", "op": "=", "value": "Paris"}]}
ADD = "admin:segments_segment_add"
LIST = "admin:segments_segment_changelist"
BUILDER = [
    "admin:segments_builder_fragment",
    "admin:segments_builder_preview",
    "admin:segments_builder_offers",
]


@pytest.fixture
def staff(client: Client) -> Client:
    user = get_user_model().objects.create_superuser("anna", "a@example.com", "x")
    client.force_login(user)
    return client


def page_of(name: str, segment: Segment) -> str:
    return reverse(f"admin:segments_segment_{name}", args=[segment.pk])


def form_at(client: Client, url: str) -> dict[str, list[str]]:
    html = client.get(url).content.decode()
    return sent_by(html.split('id="segment_form"')[1].split("</form>")[0])


def colleague(*permissions: str) -> Client:
    """Somebody of the staff with just these permissions."""
    user = get_user_model().objects.create_user("ben", password="x", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def test_a_segment_is_made_in_the_form_and_counted_soon(staff, monkeypatch):
    rung = []
    monkeypatch.setattr("smartcomm.core.doorbell.ring", rung.append)
    data = form_at(staff, reverse(ADD))
    data |= {
        "name": ["Paris"],
        "rule.0.kind": ["attribute"],
        "rule.0.attribute": ["city"],
        "rule.0.op": ["="],
        "rule.0.low": ["Paris"],
    }

    answer = staff.post(reverse(ADD), data)

    assert answer.status_code == 302
    segment = Segment.objects.get()
    assert (segment.name, segment.rule, segment.status) == ("Paris", PARIS, "new")
    assert segment.created_by.username == "anna"
    assert rung == [refresh.REFRESH]


def test_everything_survives_a_failed_save_and_errors_stand_beside_the_fields(staff):
    segment = Segment.objects.create(name="Paris", rule=PARIS)
    url = page_of("change", segment)
    data = form_at(staff, url)
    data |= {"name": [""], "rule.0.low": [""], "description": ["Who lives in Paris"]}

    answer = staff.post(url, data)

    html = answer.content.decode()
    again = sent_by(html.split('id="segment_form"')[1].split("</form>")[0])
    assert again["description"] == ["Who lives in Paris"]
    assert again["rule.0.attribute"] == ["city"]
    problems = html.split('data-problems="rule.0.low"')[1].split("</ul>")[0]
    assert "Give a value." in problems
    segment.refresh_from_db()
    assert (segment.name, segment.rule) == ("Paris", PARIS)


def test_a_changed_rule_makes_the_count_old_and_a_changed_name_does_not(staff):
    make.customer(city="Paris")
    segment = Segment.objects.create(name="Paris", rule=PARIS)
    refresh.count_segment(segment)
    url = page_of("change", segment)

    staff.post(url, form_at(staff, url) | {"name": ["In Paris"]})

    segment.refresh_from_db()
    assert (segment.name, segment.status, segment.count) == ("In Paris", "fresh", 1)

    staff.post(url, form_at(staff, url) | {"rule.0.low": ["Rome"]})

    segment.refresh_from_db()
    assert segment.status == Segment.Status.NEW
    assert "rule changed since" in staff.get(reverse(LIST)).content.decode()


def test_a_count_taken_while_one_saves_is_not_written_over(staff, monkeypatch):
    make.customer(city="Paris")
    segment = Segment.objects.create(name="Paris", rule=PARIS)
    url = page_of("change", segment)
    data = form_at(staff, url)
    # Between reading the segment and writing it.
    monkeypatch.setattr(
        "segments.usage.refuse_circle", lambda *_: refresh.count_segment(segment)
    )

    staff.post(url, data | {"description": ["Meanwhile counted"]})

    segment.refresh_from_db()
    assert (segment.description, segment.count) == ("Meanwhile counted", 1)


def test_a_segment_may_not_use_itself(staff):
    segment = Segment.objects.create(name="Paris", rule=PARIS)
    url = page_of("change", segment)
    data = form_at(staff, url)
    data |= {"rule.1.kind": ["segment"], "rule.1.segment": [str(segment.pk)]}

    answer = staff.post(url, data)

    assert answer.status_code == 200
    assert "a circle" in answer.content.decode()
    segment.refresh_from_db()
    assert segment.rule == PARIS


def test_the_list_says_each_rule_in_words_with_its_count_and_state(staff):
    make.customer(city="Paris")
    make.customer(city="Rome")
    segment = Segment.objects.create(name="In Paris", rule=PARIS)
    refresh.count_segment(segment)
    broken = Segment.objects.create(name="Broken", rule={"evnt": 1})
    refresh.count_segment(broken)
    Segment.objects.create(name="Fresh", rule=PARIS)

    html = staff.get(reverse(LIST)).content.decode()

    assert "City is “Paris”." in html
    assert "50\xa0%" in html
    assert "This rule is not understood" in html
    assert "failed" in html
    assert "not counted yet" in html


def test_the_list_costs_the_same_queries_for_few_and_for_many(
    staff, django_assert_num_queries
):
    counts = []
    for number in (2, 30):
        for i in range(number):
            Segment.objects.create(name=f"{number} {i}", rule=PARIS)
        with django_assert_num_queries(100, exact=False) as queries:
            staff.get(reverse(LIST))
        counts.append(len(queries))

    assert counts[0] == counts[1]


def test_a_used_segment_cannot_be_deleted_and_the_page_says_why(staff):
    segment = Segment.objects.create(name="Paris", rule=PARIS)
    Segment.objects.create(name="Loyal", rule={"segment": segment.pk})

    answer = staff.post(page_of("delete", segment), {"post": "yes"})

    html = answer.content.decode()
    assert "is used by the segment “Loyal”" in html
    assert Segment.objects.filter(pk=segment.pk).exists()
    staff.post(
        reverse(LIST),
        {"action": "delete_selected", "_selected_action": [segment.pk], "post": "yes"},
    )
    assert Segment.objects.filter(pk=segment.pk).exists()


def test_an_unused_segment_is_deleted(staff):
    segment = Segment.objects.create(name="Paris", rule=PARIS)

    staff.post(page_of("delete", segment), {"post": "yes"})

    assert not Segment.objects.exists()


def test_count_now_counts_and_says_how_many(staff):
    make.customer(city="Paris")
    segment = Segment.objects.create(name="Paris", rule=PARIS)

    answer = staff.post(page_of("count", segment), follow=True)

    assert "Paris: 1 customer." in answer.content.decode()
    segment.refresh_from_db()
    assert segment.count == 1
    assert staff.get(page_of("count", segment)).status_code == 405


def test_the_members_are_listed_with_links_to_their_profiles(staff):
    Customer.objects.bulk_create(
        Customer(external_id=f"C-{i}", city="Paris", first_name=f"Anna {i}")
        for i in range(60)
    )
    segment = Segment.objects.create(name="Paris", rule=PARIS)

    first = staff.get(page_of("members", segment)).content.decode()
    last = Customer.objects.get(external_id="C-10")
    second = staff.get(f"{page_of('members', segment)}?before={last.pk}")

    anna = Customer.objects.get(external_id="C-59")
    assert reverse("admin:customers_customer_change", args=[anna.pk]) in first
    assert "Anna 59" in first
    assert "Anna 9<" not in first
    assert f"?before={last.pk}" in first
    assert "Anna 9<" in second.content.decode()


def test_the_members_of_a_broken_segment_are_said_to_be_unknown(staff):
    segment = Segment.objects.create(name="Paris", rule={"event": "Unheard of"})

    members = staff.get(page_of("members", segment))
    export = staff.get(page_of("export", segment), follow=True)

    assert "There is no event “Unheard of”" in members.content.decode()
    assert "There is no event “Unheard of”" in export.content.decode()


def test_the_members_are_exported_as_a_streamed_file(staff):
    make.customer("C-1", city="Paris")
    make.customer("C-2", city="Rome")
    segment = Segment.objects.create(name="In Paris!", rule=PARIS)

    answer = staff.get(page_of("export", segment))

    assert answer.streaming
    assert 'filename="in-paris-' in answer["Content-Disposition"]
    text = b"".join(answer.streaming_content).decode()
    assert "C-1" in text
    assert "C-2" not in text


def test_the_pages_of_the_builder_answer(staff):
    anna = make.customer("C-anna", first_name="Anna", city="Paris")
    make.event(anna, "Product viewed", name="Bag", price=49.9)
    form = {"prefix": "rule", "rule.opt.words": "", "rule.kind": "all"}

    fragment = staff.post(
        reverse(BUILDER[0]), form | {"do": "add", "at": "", "what": "event"}
    )
    gone = staff.post(reverse(BUILDER[0]), form | {"do": "remove", "at": "4"})
    preview = staff.post(
        reverse(BUILDER[1]),
        form
        | {"rule.0.kind": "attribute", "rule.0.attribute": "city", "rule.0.op": "="}
        | {"rule.0.low": "Paris"},
    )

    assert 'name="rule.0.event"' in fragment.content.decode()
    assert gone.status_code == 409
    assert "City is “Paris”." in preview.content.decode()
    assert "Anna" in preview.content.decode()

    def offered(**asked):
        answer = staff.get(reverse(BUILDER[2]), asked)
        return [one["value"] for one in answer.json()["offers"]]

    assert offered(of="event", q="view") == ["Product viewed"]
    assert offered(of="event", q="nothing") == []
    assert offered(of="field", event="Product viewed") == ["name", "price"]
    assert offered(of="value", event="Product viewed", field="name") == ["Bag"]
    assert offered(of="attribute_value", attribute="city", q="pa") == ["Paris"]
    assert offered(of="attribute_value", attribute="first_name") == []
    assert staff.get(reverse(BUILDER[2]), {"of": "secrets"}).status_code == 404


def test_fields_are_offered_with_their_type_and_recent_values(staff):
    anna = make.customer()
    for name in ("Bag", "Hat", "Shoes", "Umbrella"):
        make.event(anna, "Product viewed", name=name)

    answer = staff.get(reverse(BUILDER[2]), {"of": "field", "event": "Product viewed"})

    assert answer.json()["offers"] == [
        {"value": "name", "title": "", "note": "Text: Umbrella, Shoes, Hat"}
    ]


def test_nobody_without_the_right_to_view_segments_may_use_the_builder():
    outsider = colleague("view_customer")

    for name in BUILDER:
        assert outsider.get(reverse(name)).status_code == 403
        assert outsider.post(reverse(name)).status_code == 403
        assert Client().get(reverse(name)).status_code == 302


def test_who_may_view_segments_but_not_customers_sees_numbers_and_no_names():
    make.customer("C-1", first_name="Anna", city="Paris")
    segment = Segment.objects.create(name="Paris", rule=PARIS)
    analyst = colleague("view_segment")

    data = {"prefix": "rule", "rule.kind": "all", "rule.opt.words": ""}
    data |= {"rule.0.kind": "attribute", "rule.0.attribute": "city", "rule.0.op": "="}
    preview = analyst.post(reverse(BUILDER[1]), data | {"rule.0.low": "Paris"})

    assert "<strong>1</strong>" in preview.content.decode()
    assert "Anna" not in preview.content.decode()
    assert analyst.get(page_of("members", segment)).status_code == 403
    assert analyst.get(page_of("export", segment)).status_code == 403
    assert analyst.post(page_of("count", segment)).status_code == 403


def test_who_may_only_view_a_segment_reads_its_rule_in_words():
    segment = Segment.objects.create(name="Paris", rule=PARIS)
    reader = colleague("view_segment", "view_customer")

    answer = reader.get(page_of("change", segment))

    assert answer.status_code == 200
    assert "City is “Paris”" in answer.content.decode()
    assert "data-builder" not in answer.content.decode()
    reader.post(page_of("change", segment), {"name": "Taken over"})
    segment.refresh_from_db()
    assert segment.name == "Paris"

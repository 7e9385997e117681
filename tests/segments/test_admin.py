from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django.asserts import assertContains

from customers.models import Customer
from segments import saving
from segments.builder import share_text
from segments.models import DailyCount, ExportChoice, Segment, Upkeep
from segments.upkeep import KEEP, keeper
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
    assert KEEP in rung
    version = segment.versions.get()
    assert (version.number, version.name, version.author) == (1, "Paris", "anna")
    assert version.rule == PARIS


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
    segment = make.kept(make.segment("Paris", PARIS), make.customer(city="Paris"))
    url = page_of("change", segment)

    staff.post(url, form_at(staff, url) | {"name": ["In Paris"]})

    segment.refresh_from_db()
    assert (segment.name, segment.status, segment.count) == ("In Paris", "fresh", 1)
    assert segment.members_of == segment.edition

    staff.post(url, form_at(staff, url) | {"rule.0.low": ["Rome"]})

    segment.refresh_from_db()
    assert segment.members_of != segment.edition
    assert segment.recount_wanted_at


def test_a_count_taken_while_one_saves_is_not_written_over(staff, monkeypatch):
    anna = make.customer(city="Paris")
    segment = make.segment("Paris", PARIS)
    url = page_of("change", segment)
    data = form_at(staff, url)
    # Between reading the segment and writing it.
    monkeypatch.setattr(
        "segments.saving.checked",
        lambda wanted, _: make.kept(Segment.objects.get(), anna) and wanted,
        raising=True,
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
    anna = make.customer(city="Paris")
    make.customer(city="Rome")
    make.kept(make.segment("In Paris", PARIS), anna)
    Segment.objects.create(
        name="Broken", rule={"evnt": 1}, status="failed", error="Out of memory."
    )
    make.segment("Fresh", PARIS)
    make.segment("Guests", description="Of the fair.")

    html = staff.get(reverse(LIST)).content.decode()

    assert "City is “Paris”." in html
    assert "50\xa0%" in html
    assert "This rule is not understood" in html
    assert "Out of memory." in html
    assert "counting 0 %" in html
    assert "Of the fair. A list of customers." in html


def test_the_list_says_when_nobody_keeps_the_members(staff):
    make.kept(make.segment("In Paris", PARIS))
    Upkeep.objects.update(kept_at=timezone.now() - timedelta(minutes=5))

    html = staff.get(reverse(LIST)).content.decode()

    assert "stale since" in html
    assert "In Paris" in staff.get(reverse(LIST), {"state": "stale"}).content.decode()
    assert names_in(staff, state="fresh") == []


def test_a_count_under_way_tells_how_far_it_is(staff):
    segment = make.segment("In Paris", PARIS)
    Segment.objects.filter(pk=segment.pk).update(
        recount_edition=segment.edition, recounted_upto=40, recount_end=100
    )

    assert "counting 40 %" in staff.get(reverse(LIST)).content.decode()
    assert names_in(staff, state="computing") == ["In Paris"]


def test_the_list_shows_a_line_of_the_last_days_and_where_it_breaks(staff):
    segment = make.kept(make.segment("In Paris", PARIS))
    today = timezone.localdate()
    for ago, count in ((0, 12), (1, 11), (5, 4), (6, 3), (40, 1)):
        day = today - timedelta(days=ago)
        DailyCount.objects.update_or_create(
            segment=segment, day=day, defaults={"count": count}
        )

    page = staff.get(reverse(LIST)).content.decode()
    drawn = page.split('class="sd-spark"')[1].split("</svg>")[0]

    assert 'aria-label="3 to 12 customers in 30 days"' in drawn
    assert drawn.count("<path") == 2
    chart = staff.get(page_of("change", segment)).content.decode()
    assert chart.count('class="sd-day"') == 4


def test_on_its_first_day_a_segment_shows_a_dot_and_what_will_be_there(staff):
    segment = make.kept(make.segment("In Paris", PARIS), make.customer())
    today = timezone.localdate()
    DailyCount.objects.update_or_create(
        segment=segment, day=today, defaults={"count": 1}
    )

    page = staff.get(reverse(LIST)).content.decode()

    assert 'aria-label="1 on the one day counted so far"' in page
    chart = staff.get(page_of("change", segment)).content.decode()
    assert "The line begins with the second day of counting" in chart


def test_the_page_asks_again_until_everybody_was_counted(staff):
    segment = make.segment("In Paris", PARIS)
    asking = f'hx-get="{page_of("progress", segment)}"'

    assert asking in staff.get(page_of("change", segment)).content.decode()
    assert asking in staff.get(page_of("progress", segment)).content.decode()

    make.kept(segment, make.customer())
    html = staff.get(page_of("progress", segment)).content.decode()
    assert asking not in html
    assert "fresh" in html
    assert '<strong class="sd-big sc-num">1</strong> customer</p>' in html
    assert asking not in staff.get(page_of("change", segment)).content.decode()
    assert colleague("view_customer").get(page_of("progress", segment)).status_code == (
        403
    )


def test_pages_of_a_segment_that_was_deleted_are_not_there(staff):
    segment = make.segment("In Paris", PARIS)
    saving.delete(segment)
    segment.pk = 4711

    for name in ("members", "versions", "explain", "export", "progress"):
        assert staff.get(page_of(name, segment)).status_code == 404
    assert staff.post(page_of("count", segment)).status_code == 404


def test_who_saves_an_archived_segment_is_told_that_it_is_archived(staff):
    segment = make.segment("In Paris", PARIS)
    url = page_of("change", segment)
    mine = form_at(staff, url) | {"description": ["Of Paris"]}
    saving.archive(segment)

    html = staff.post(url, mine, follow=True).content.decode()

    assert "“In Paris” is archived: nobody keeps its members" in html


def test_only_all_are_a_hundred_per_cent():
    parts = (0, 0.0004, 0.5, 0.9949, 0.999, 1)

    assert [share_text(part).replace("\xa0", " ") for part in parts] == [
        "0 %",
        "less than 0.1 %",
        "50 %",
        "99 %",
        "more than 99 %",
        "100 %",
    ]


def test_a_description_is_no_novel(staff):
    segment = make.segment("Paris", PARIS)
    url = page_of("change", segment)

    answer = staff.post(url, form_at(staff, url) | {"description": ["x" * 2_001]})

    assert "A description has at most 2,000 characters." in (answer.content.decode())
    made = {"name": "Guests", "description": "x" * 2_001, "by": "id"}
    answer = staff.post(reverse("admin:segments_list_add"), made)
    assert "at most 2000 characters" in answer.content.decode()
    # What was longer before the limit hinders nobody from changing something else.
    Segment.objects.update(description="x" * 3_000)
    answer = staff.post(url, form_at(staff, url) | {"name": ["In Paris"]})
    assert answer.status_code == 302
    segment.refresh_from_db()
    assert (segment.name, len(segment.description)) == ("In Paris", 3_000)


def names_in(staff: Client, **asked: str) -> list[str]:
    found = staff.get(reverse(LIST), asked).context["cl"].result_list
    return [segment.name for segment in found]


def test_the_list_is_narrowed_by_kind_use_archive_and_words(staff):
    paris = make.segment("Parisians", PARIS)
    make.segment("Loyal", {"segment": paris.pk}, description="Buyers of bags")
    make.segment("Guests")
    saving.archive(make.segment("Old", PARIS))

    assert names_in(staff) == ["Guests", "Loyal", "Parisians"]
    assert names_in(staff, kind="static") == ["Guests"]
    assert names_in(staff, used="yes") == ["Parisians"]
    assert names_in(staff, used="no") == ["Guests", "Loyal"]
    assert names_in(staff, archived="yes") == ["Old"]
    assert names_in(staff, archived="all") == ["Guests", "Loyal", "Old", "Parisians"]
    assert names_in(staff, q="bags") == ["Loyal"]


def test_the_list_and_the_page_say_who_uses_a_segment(staff):
    paris = make.segment("Parisians", PARIS)
    loyal = make.segment("Loyal", {"segment": paris.pk})
    asked = {"rule": {"segment": paris.pk}}
    step = {"key": "who", "action": "filter_customers", "config": asked, "next": {}}
    campaign = make.campaign(step)

    html = staff.get(reverse(LIST)).content.decode()
    page = staff.get(page_of("change", paris)).content.decode()

    assert "1 campaign, 1 segment" in html
    assert page_of("change", loyal) in page
    assert reverse("admin:campaigns_campaign_change", args=[campaign.pk]) in page


def chosen(staff: Client, deed: str, *segments: Segment, **more):
    pks = [segment.pk for segment in segments]
    data = {"action": deed, "_selected_action": pks}
    return staff.post(f"{reverse(LIST)}?archived=all", data, **more)


def test_chosen_segments_are_archived_but_those_at_work_and_restored(staff):
    paris = make.segment("Parisians", PARIS)
    loyal = make.segment("Loyal", {"segment": paris.pk})

    answer = chosen(staff, "archive_chosen", paris, follow=True)

    assert "is used by the segment “Loyal”" in answer.content.decode()
    assert names_in(staff) == ["Loyal", "Parisians"]
    chosen(staff, "archive_chosen", paris, loyal)
    assert names_in(staff) == []
    # What it asks for comes first.
    answer = chosen(staff, "restore_chosen", loyal, follow=True)
    assert "The segment “Parisians” is archived" in answer.content.decode()
    chosen(staff, "restore_chosen", paris)
    chosen(staff, "restore_chosen", loyal)
    assert names_in(staff) == ["Loyal", "Parisians"]


def test_a_copy_is_opened_and_says_the_same(staff):
    segment = make.segment("Paris", PARIS, description="In Paris", is_watched=True)

    first = staff.post(page_of("duplicate", segment))
    chosen(staff, "duplicate_chosen", segment)

    copy = Segment.objects.get(name="Copy of Paris")
    assert first["Location"] == page_of("change", copy)
    assert (copy.rule, copy.description) == (PARIS, "In Paris")
    assert not copy.is_watched
    assert copy.created_by.username == "anna"
    assert Segment.objects.filter(name="Copy of Paris (2)").exists()


def test_a_broken_segment_is_renamed_watched_no_longer_and_not_copied(staff):
    rule = {"all": [{"event": "Unheard of"}]}
    broken = Segment.objects.create(name="Broken", rule=rule, is_watched=True)

    told = staff.post(page_of("duplicate", broken), follow=True).content.decode()

    assert "There is no event “Unheard of”" in told
    assert Segment.objects.count() == 1
    # The builder itself refuses the rule; by the operation the name is mended.
    saved = saving.change(
        broken, saving.Wanted("Mended later", "", rule), author="anna"
    )
    assert (saved.name, saved.is_watched) == ("Mended later", False)


def test_one_segment_at_a_time_is_exported_from_the_list(staff):
    paris, rome = make.segment("Paris", PARIS), make.segment("Rome", PARIS)

    one = chosen(staff, "export_chosen", paris)
    two = chosen(staff, "export_chosen", paris, rome, follow=True)

    assert one["Location"] == page_of("export", paris)
    assert "each has a file" in two.content.decode()


def test_an_archived_segment_is_offered_no_longer_nor_taken(staff):
    old = saving.archive(make.segment("Old Parisians", PARIS))
    data = form_at(staff, reverse(ADD))
    data |= {"name": ["New"], "rule.0.kind": ["segment"]}

    answer = staff.post(reverse(ADD), data | {"rule.0.segment": [str(old.pk)]})

    assert "The segment “Old Parisians” is archived" in answer.content.decode()
    assert not Segment.objects.filter(name="New").exists()


def test_the_list_costs_the_same_queries_for_few_and_for_many(
    staff, django_assert_num_queries
):
    counts = []
    base = make.segment("Base", PARIS)
    for number in (2, 30):
        for i in range(number):
            rule = {"all": [{"segment": base.pk}, *PARIS["all"]]}
            one = make.kept(make.segment(f"{number} {i}", rule))
            DailyCount.objects.create(segment=one, day=timezone.localdate(), count=i)
            make.segment(f"list {number} {i}")
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


def test_recount_now_has_everybody_asked_again(staff):
    make.customer(city="Paris")
    segment = Segment.objects.create(name="Paris", rule=PARIS)
    guests = make.segment("Guests")

    answer = staff.post(page_of("count", segment), follow=True)
    of_list = staff.post(page_of("count", guests), follow=True)

    assert "Paris is being counted anew." in answer.content.decode()
    assert "Guests: 0 customers." in of_list.content.decode()
    keeper.keep_all()
    segment.refresh_from_db()
    assert segment.count == 1
    assert staff.get(page_of("count", segment)).status_code == 405


def test_the_members_are_listed_with_links_to_their_profiles(staff):
    Customer.objects.bulk_create(
        Customer(external_id=f"C-{i}", city="Paris", first_name=f"Anna {i}")
        for i in range(60)
    )
    segment = Segment.objects.create(name="Paris", rule=PARIS)

    def pages() -> tuple[str, str]:
        first = staff.get(page_of("members", segment))
        second = staff.get(page_of("members", segment) + first.context["next"])
        assert "next" not in second.context
        return first.content.decode(), second.content.decode()

    anna = Customer.objects.get(external_id="C-59")
    profile = reverse("admin:customers_customer_change", args=[anna.pk])
    for _ in range(2):
        first, second = pages()
        assert profile in first
        assert "Anna 59" in first
        assert "Anna 9<" not in first
        assert "Anna 9<" in second
        # Once by the rule itself, then as they are kept.
        make.kept(segment, *Customer.objects.all())
    assert "In since" in pages()[0]


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


def test_the_columns_of_a_file_are_chosen_and_remembered(staff):
    make.consent(make.customer("C-1", city="Paris"), "email")
    segment = make.segment("In Paris", PARIS)
    offered = staff.get(page_of("members", segment)).content.decode()

    chosen = {"column": ["external_id", "consent.email", "since", "made up"]}
    first = staff.post(page_of("export", segment), chosen)
    again = staff.get(page_of("export", segment))

    assert 'value="consent.email">' in offered
    lines = b"".join(first.streaming_content).decode().splitlines()
    assert lines == ["\ufeffID,Consent to E-mail,In the segment since", "C-1,yes,"]
    assert b"".join(again.streaming_content).decode().splitlines() == lines
    assert ExportChoice.objects.get().user.username == "anna"
    reopened = staff.get(page_of("members", segment)).content.decode()
    assert 'value="consent.email" checked>' in reopened


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
        html = staff.get(reverse(BUILDER[2]), asked).content.decode()
        return re.findall(r'data-value="([^"]*)"', html)

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

    assertContains(
        answer,
        '<li role="option" aria-selected="false" data-value="name">'
        '<span class="scb-offer">name</span>'
        "<small>Text: Umbrella, Shoes, Hat</small></li>",
        html=True,
    )


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

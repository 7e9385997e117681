"""What a segment said before: versions, what changed in words, and going back."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse

from segments import saving, versions
from segments.models import Segment
from segments.saving import Wanted
from segments.versions import Kind, Saved
from smartcomm.core.errors import Conflict
from tests import make
from tests.segments.test_admin import colleague, form_at, page_of

pytestmark = pytest.mark.django_db


def city(name: str) -> dict[str, Any]:
    return {"attribute": "city", "op": "=", "value": name}


def viewed(times: int) -> dict[str, Any]:
    return {"event": "Viewed", "count": {"op": ">=", "value": times}}


@pytest.fixture
def staff(client: Client) -> Client:
    user = get_user_model().objects.create_superuser("anna", "a@example.com", "x")
    client.force_login(user)
    return client


def changed(before: Any, after: Any) -> list[tuple[str, str, str]]:
    """(kind, before, after) of every line that is not the same."""
    found = versions.difference(
        Saved("x", "", before), Saved("x", "", after), versions.Words()
    )
    return [(line.kind.value, line.before, line.after) for line in found.changes]


def test_a_condition_that_came_went_or_changed_is_told_as_such():
    german = {"attribute": "country", "op": "=", "value": "DE"}
    before = {"all": [city("Paris"), viewed(3), german]}
    gold = {"attribute": "last_name", "op": "=", "value": "Gold"}
    after = {"all": [city("Paris"), viewed(5), gold]}

    told = changed(before, after)

    assert sorted(kind for kind, _, _ in told) == ["added", "changed", "removed"]
    by_kind = {kind: (one, other) for kind, one, other in told}
    assert "at least 3 times" in by_kind["changed"][0]
    assert "at least 5 times" in by_kind["changed"][1]
    assert "Gold" in by_kind["added"][1]
    assert by_kind["added"][0] == by_kind["removed"][1] == ""


def test_another_order_of_the_same_conditions_is_no_change_of_them():
    before = {"all": [city("Paris"), viewed(3), {"any": [city("Rome"), city("Oslo")]}]}
    after = {"all": [viewed(3), {"any": [city("Oslo"), city("Rome")]}, city("Paris")]}

    found = versions.difference(
        Saved("x", "", before), Saved("x", "", after), versions.Words()
    )

    assert found.changes == []
    assert found.is_reordered
    assert found.summary == "order of conditions"


def test_what_changes_within_a_group_is_told_there():
    before = {"all": [city("Paris"), {"any": [viewed(1), city("Rome")]}]}
    after = {"all": [city("Paris"), {"any": [viewed(2), city("Rome")]}]}

    found = versions.difference(
        Saved("x", "", before), Saved("x", "", after), versions.Words()
    )

    (line,) = found.changes
    assert (line.kind, line.depth) == (Kind.CHANGED, 2)
    marked = [piece.text for piece in line.after_pieces if piece.is_marked]
    assert "".join(marked).split() == ["2", "times"]


def test_any_instead_of_all_is_a_change_of_the_head():
    before, after = {"all": [city("Rome")]}, {"any": [city("Rome")]}

    told = changed(before, after)
    summary = versions.difference(
        Saved("x", "", before), Saved("x", "", after), versions.Words()
    ).summary

    assert told == [
        ("changed", "All of these hold:", "At least one of these holds:"),
    ]
    assert summary == "how conditions are taken together"


def test_a_whole_group_that_came_is_told_with_its_conditions():
    told = changed(
        city("Paris"), {"all": [city("Paris"), {"not": {"any": [viewed(1)]}}]}
    )

    assert [kind for kind, _, _ in told] == ["added", "added"]
    assert told[0][2] == "None of these holds:"


def test_a_rule_that_cannot_be_read_any_more_is_still_compared():
    told = changed({"evnt": 1}, city("Paris"))

    assert any("is not understood" in before for _, before, _ in told)


def test_every_change_makes_a_version_with_its_author_and_nothing_else_does():
    segment = make.segment("Paris", city("Paris"))
    same = Wanted("Paris", "", city("Paris"))

    saving.change(segment, same, author="ben")
    saving.change(segment, Wanted("Paris", "", city("Paris"), True), author="ben")
    saving.change(segment, Wanted("Rome", "", city("Rome"), True), author="ben")

    kept = list(segment.versions.values_list("number", "name", "author"))
    assert kept == [(2, "Rome", "ben"), (1, "Paris", "anna")]


def test_what_a_segment_said_before_versions_were_kept_is_not_lost():
    segment = Segment.objects.create(name="Old", rule=city("Paris"))

    saving.change(segment, Wanted("New", "", city("Rome")), author="ben")

    kept = list(segment.versions.order_by("number").values_list("name", "author"))
    assert kept == [("Old", ""), ("New", "ben")]


def test_a_version_is_restored_as_a_new_one():
    segment = make.segment("Paris", city("Paris"))
    saving.change(segment, Wanted("Rome", "Of Italy", city("Rome")), author="ben")

    saving.restore_version(segment, 1, author="anna")

    segment.refresh_from_db()
    assert (segment.name, segment.description) == ("Paris", "")
    assert segment.rule == city("Paris")
    assert versions.current_number(segment) == 3


def test_a_version_whose_name_is_taken_is_not_restored():
    segment = make.segment("Paris", city("Paris"))
    saving.change(segment, Wanted("Rome", "", city("Rome")), author="ben")
    make.segment("Paris", city("Paris"))

    with pytest.raises(Conflict, match="There is a segment “Paris” already"):
        saving.restore_version(segment, 1, author="anna")

    segment.refresh_from_db()
    assert segment.name == "Rome"


# The page


def test_the_page_lists_versions_and_compares_any_two(staff):
    segment = make.segment("Paris", city("Paris"))
    for name in ("Rome", "Oslo"):
        saving.change(segment, Wanted("Paris", "", city(name)), author="ben")
    url = page_of("versions", segment)

    page = staff.get(url)
    others = staff.get(url, {"before": "1", "after": "3"})

    html = page.content.decode()
    assert html.count("1 condition changed") == 3  # Two versions, and the comparison.
    assert "the first one" in html
    assert [one.number for one in page.context["pair"]] == [2, 3]
    assert [one.number for one in others.context["pair"]] == [1, 3]
    assert "<del>“Paris”</del>" in others.content.decode()
    assert staff.get(url, {"before": "x", "after": "99"}).status_code == 200


def test_the_page_costs_the_same_queries_for_few_and_for_many_versions(
    staff, django_assert_num_queries
):
    segment = make.segment("Paris", city("Paris"))
    counts = []
    for number in (2, 30):
        for i in range(number):
            wanted = Wanted("Paris", "", city(f"{number} {i}"))
            saving.change(segment, wanted, author="ben")
        with django_assert_num_queries(100, exact=False) as queries:
            staff.get(page_of("versions", segment))
        counts.append(len(queries))

    assert counts[0] == counts[1]


def test_a_version_is_restored_by_a_button(staff):
    segment = make.segment("Paris", city("Paris"))
    saving.change(segment, Wanted("Rome", "", city("Rome")), author="ben")

    answer = staff.post(page_of("versions", segment), {"restore": "1"}, follow=True)

    assert "what version 1 said" in answer.content.decode()
    segment.refresh_from_db()
    assert segment.name == "Paris"
    assert segment.versions.first().author == "anna"


def test_who_may_only_view_reads_versions_and_restores_none():
    segment = make.segment("Paris", city("Paris"))
    saving.change(segment, Wanted("Rome", "", city("Rome")), author="ben")
    reader = colleague("view_segment")

    page = reader.get(page_of("versions", segment))
    refused = reader.post(page_of("versions", segment), {"restore": "1"})

    assert "Version 1" in page.content.decode()
    assert 'name="restore"' not in page.content.decode()
    assert refused.status_code == 403
    assert colleague_of_none().get(page_of("versions", segment)).status_code == 403


def colleague_of_none() -> Client:
    get_user_model().objects.filter(username="ben").delete()
    return colleague("view_customer")


# Two who save at once


def test_what_somebody_saved_meanwhile_is_not_written_over_and_nothing_is_lost(staff):
    segment = make.segment("Paris", {"all": [city("Paris")]})
    url = page_of("change", segment)
    mine = form_at(staff, url) | {"description": ["Mine"], "rule.0.low": ["Oslo"]}
    theirs = Wanted("Romans", "", {"all": [city("Rome")]})
    saving.change(segment, theirs, author="ben")

    answer = staff.post(url, mine)

    html = answer.content.decode()
    assert answer.status_code == 200
    assert "Somebody else saved this segment while you were editing it" in html
    assert "Saved meanwhile by ben" in html
    assert "<del>“Paris”</del>" in html
    assert "<ins>“Rome”</ins>" in html
    segment.refresh_from_db()
    assert segment.name == "Romans"

    # Everything that was filled in is there, and is saved when it is meant.
    again = form_of(html)
    assert (again["description"], again["rule.0.low"]) == (["Mine"], ["Oslo"])
    assert staff.post(url, again).status_code == 302
    segment.refresh_from_db()
    assert (segment.name, segment.description) == ("Paris", "Mine")
    assert segment.rule == {"all": [city("Oslo")]}
    assert versions.current_number(segment) == 3
    assert segment.versions.get(number=2).name == "Romans"


def form_of(html: str) -> dict[str, list[str]]:
    from tests.segments.test_builder_drafts import sent_by

    return sent_by(html.split('id="segment_form"')[1].split("</form>")[0])


def test_a_conflict_is_told_also_where_the_form_is_not_finished(staff):
    segment = make.segment("Paris", {"all": [city("Paris")]})
    url = page_of("change", segment)
    mine = form_at(staff, url) | {"name": [""], "rule.0.low": [""]}
    saving.change(segment, Wanted("Romans", "", city("Rome")), author="ben")

    html = staff.post(url, mine).content.decode()

    assert "Saved meanwhile by ben" in html
    assert "Give a value." in html


def test_a_rule_whose_segment_somebody_deleted_is_not_lost(staff):
    segment = make.segment("Paris", {"all": [city("Paris")]})
    url = page_of("change", segment)
    mine = form_at(staff, url) | {"rule.0.low": ["Oslo"]}
    saving.delete(segment)

    html = staff.post(url, mine).content.decode()

    assert "Somebody deleted this segment while you were editing it" in html
    assert not Segment.objects.exists()
    assert staff.post(url, form_of(html)).status_code == 302
    made = Segment.objects.get()
    assert (made.name, made.rule) == ("Paris", {"all": [city("Oslo")]})
    assert made.versions.get().author == "anna"


def test_a_count_kept_meanwhile_is_no_conflict(staff):
    segment = make.segment("Paris", {"all": [city("Paris")]})
    url = page_of("change", segment)
    mine = form_at(staff, url) | {"description": ["Mine"]}
    make.kept(segment, make.customer())

    assert staff.post(url, mine).status_code == 302


def test_the_list_of_segments_leads_to_the_versions(staff):
    segment = make.segment("Paris", city("Paris"))

    html = staff.get(page_of("change", segment)).content.decode()

    assert reverse("admin:segments_segment_versions", args=[segment.pk]) in html

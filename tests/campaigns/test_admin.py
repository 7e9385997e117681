"""Campaigns, runs and broadcasts in the back office: lists, numbers, deeds, whys."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from campaigns import drawing, panels
from campaigns.broadcast import walk_broadcasts
from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Broadcast, Campaign, Run, Version
from campaigns.report import report
from campaigns.report_page import equations
from campaigns.way import stops
from messaging import askers
from messaging.askers import Asker
from messaging.models import Hold, Message
from messaging.send import send_messages
from tests import make

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root"))
    return client


def work() -> None:
    """What the workers do, until nothing is left to do now."""
    for _ in range(4):
        dispatch_events()
        dispatch_system_events()
        while walk_broadcasts():
            pass
        advance_runs()
        while send_messages():
            pass
        settle_runs()


def page(client: Client, name: str, *args: Any, **query: str) -> str:
    answer = client.get(reverse(f"admin:campaigns_{name}", args=args), query)
    assert answer.status_code == 200, answer
    return answer.content.decode()


def paris() -> Campaign:
    """Paris gets an SMS; everyone else waits a day."""
    return make.campaign(
        make.step(
            "paris",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "Paris"}},
            positive="sms",
            negative="wait",
        ),
        make.sms(),
        make.step("wait", "wait", {"for": 1, "unit": "days"}, done=None),
        on="Order paid",
    )


# the list


def test_the_list_tells_what_starts_a_campaign_and_what_it_did(staff):
    campaign = make.campaign(
        make.sms(),
        on="Order paid",
        where=[{"field": "amount", "op": ">", "value": 10}],
        name="Thanks",
    )
    make.draft(on="Call received", name="Only drawn")
    for amount in (5, 20, 30):
        make.event(make.reachable(), "Order paid", amount=amount)
    make.event(make.customer(), "Order paid", amount=40)
    work()

    shown = page(staff, "campaign_changelist")

    assert "“Order paid” occurs, and amount is more than 10" in shown
    assert "“Call received” occurs" in shown
    numbers = panels.numbers_of([campaign.pk])[campaign.pk]
    assert (numbers.entered, numbers.sent) == (3, 2)
    assert re.search(r"field-entered[^>]*>\s*3\s*<", shown) or ">3<" in shown


def test_the_list_costs_the_same_for_one_campaign_and_for_ten(staff):
    def queries() -> int:
        with CaptureQueriesContext(connection) as context:
            page(staff, "campaign_changelist")
        return len(context)

    make.campaign(on="Order paid")
    make.event(make.reachable(), "Order paid")
    work()
    queries()  # Whatever is cached is cached now.
    few = queries()
    for number in range(9):
        make.campaign(on=f"Event {number}")
    many = queries()

    assert many == few


def test_a_campaign_with_a_newer_draft_is_marked_in_the_list(staff):
    campaign = make.campaign()
    assert "New draft" not in page(staff, "campaign_changelist")

    definition = drawing.as_json(campaign.versions.get())
    drawing.save_draft(campaign, {**definition, "entry": {"rule": "once"}})

    assert "New draft" in page(staff, "campaign_changelist")


def test_only_what_never_started_anything_can_be_deleted(staff):
    drawn, published = make.draft(), make.campaign()

    for campaign, status in [(drawn, 302), (published, 403)]:
        url = reverse("admin:campaigns_campaign_delete", args=[campaign.pk])
        assert staff.post(url, {"post": "yes"}).status_code == status

    assert list(Campaign.objects.all()) == [published]


# publishing


def stamp_of(html: str) -> str:
    return re.search(r'name="stamp" value="(\w+)"', html).group(1)  # type: ignore[union-attr]


def test_publishing_says_first_what_it_will_do_then_does_it(staff):
    campaign = make.draft(make.sms(), on="Order paid", entry={"rule": "once"})
    url = reverse("admin:campaigns_campaign_publish", args=[campaign.pk])

    shown = page(staff, "campaign_publish", campaign.pk)
    assert "When “Order paid” occurs, its customer enters." in shown
    assert "A customer may enter once." in shown
    assert "It writes to customers by SMS." in shown
    # An event nobody has seen is a warning, and no obstacle.
    assert "No event “Order paid” has been seen yet." in shown
    assert campaign.versions.get().status == Version.Status.DRAFT

    answer = staff.post(url, {"stamp": stamp_of(shown)})

    assert answer.status_code == 302
    campaign.refresh_from_db()
    assert campaign.status == Campaign.Status.PUBLISHED
    version = campaign.versions.get()
    assert version.status == Version.Status.PUBLISHED
    assert version.published_by is not None


def test_what_stands_in_the_way_is_told_and_leads_to_where_it_is_put_right(staff):
    campaign = make.draft(
        make.step("again", "refresh_filter", {"filter": "gone"}, positive=None)
    )
    url = reverse("admin:campaigns_campaign_publish", args=[campaign.pk])

    shown = page(staff, "campaign_publish", campaign.pk)
    answer = staff.post(url, {"stamp": stamp_of(shown)})

    assert "asks the filter “gone” again" in shown
    assert "?open=step&amp;step=again" in shown
    assert " disabled" in shown
    assert answer.status_code == 409
    assert "asks the filter “gone” again" in answer.content.decode()
    campaign.refresh_from_db()
    assert campaign.status == Campaign.Status.DRAFT


def test_what_was_changed_meanwhile_is_looked_at_before_it_is_published(staff):
    campaign = make.draft(make.sms("Seen"))
    shown = page(staff, "campaign_publish", campaign.pk)
    definition = drawing.as_json(campaign.versions.get())
    definition["steps"][0]["config"]["text"] = "Not seen"
    drawing.save_draft(campaign, definition)

    answer = staff.post(
        reverse("admin:campaigns_campaign_publish", args=[campaign.pk]),
        {"stamp": stamp_of(shown)},
    )

    assert answer.status_code == 409
    assert "was changed since this page was opened" in answer.content.decode()
    campaign.refresh_from_db()
    assert campaign.status == Campaign.Status.DRAFT


def test_publishing_again_tells_who_finishes_on_the_old_version(staff):
    campaign = paris()
    make.event(make.reachable(city="Riga"), "Order paid")
    work()
    definition = drawing.as_json(campaign.versions.get())
    drawing.save_draft(campaign, {**definition, "entry": {"rule": "once"}})

    shown = page(staff, "campaign_publish", campaign.pk)

    assert "Version 1 takes nobody in any more. 1 who are under way" in shown


@pytest.mark.parametrize("deed", ["publish", "pause", "archive"])
def test_publishing_is_a_right_of_its_own(client, deed):
    campaign = make.campaign() if deed == "pause" else make.draft()
    user = User.objects.create_user("marketer", is_staff=True)
    rights = Permission.objects.filter(content_type__app_label="campaigns")
    user.user_permissions.set(rights.exclude(codename="publish_campaign"))
    client.force_login(user)
    args = [campaign.pk] if deed == "publish" else [campaign.pk, deed]
    name = "publish" if deed == "publish" else "state"
    url = reverse(f"admin:campaigns_campaign_{name}", args=args)
    before = campaign.status

    assert client.get(url).status_code == 403
    assert client.post(url).status_code == 403
    campaign.refresh_from_db()
    assert campaign.status == before

    user.user_permissions.set(rights)
    assert client.get(url).status_code == 200


# pause, resume, copy, archive


def test_a_campaign_is_paused_and_resumed_after_a_page_that_says_what_that_means(staff):
    campaign = make.campaign()

    shown = page(staff, "campaign_state", campaign.pk, "pause")
    assert "New runs, steps and messages stop at once." in shown
    assert not Hold.objects.exists()
    staff.post(reverse("admin:campaigns_campaign_state", args=[campaign.pk, "pause"]))
    campaign.refresh_from_db()
    assert campaign.status == Campaign.Status.PAUSED
    assert Hold.objects.filter(campaign_id=campaign.pk).exists()
    shown = page(staff, "campaign_change", campaign.pk)
    assert "nothing starts, and nothing is sent" in shown

    staff.post(reverse("admin:campaigns_campaign_state", args=[campaign.pk, "resume"]))
    campaign.refresh_from_db()
    assert campaign.status == Campaign.Status.PUBLISHED
    assert not Hold.objects.exists()


def test_what_does_not_fit_the_state_is_refused_in_a_sentence(staff):
    campaign = make.draft()

    shown = page(staff, "campaign_state", campaign.pk, "resume")
    answer = staff.post(
        reverse("admin:campaigns_campaign_state", args=[campaign.pk, "resume"]),
        follow=True,
    )

    assert "The campaign is draft, so this cannot be done now." in shown
    assert "it must be paused" in answer.content.decode()
    campaign.refresh_from_db()
    assert campaign.status == Campaign.Status.DRAFT


def test_a_copy_is_a_draft_with_the_same_drawing(staff):
    campaign = make.campaign(name="Thanks")
    url = reverse("admin:campaigns_campaign_state", args=[campaign.pk, "copy"])

    staff.post(url)
    staff.post(url)

    names = Campaign.objects.exclude(pk=campaign.pk).order_by("pk")
    assert [copy.name for copy in names] == ["Thanks (copy)", "Thanks (copy 2)"]
    assert drawing.as_json(names[0].versions.get()) == drawing.as_json(
        campaign.versions.get()
    )
    assert {copy.status for copy in names} == {Campaign.Status.DRAFT}


def test_a_copy_of_a_long_name_can_be_told_apart(staff):
    campaign = make.campaign(name="x" * 150)
    url = reverse("admin:campaigns_campaign_state", args=[campaign.pk, "copy"])

    staff.post(url)

    copy = Campaign.objects.exclude(pk=campaign.pk).get()
    assert copy.name == "x" * 143 + " (copy)"


def test_archiving_ends_a_campaign(staff):
    campaign = make.campaign()

    staff.post(reverse("admin:campaigns_campaign_state", args=[campaign.pk, "archive"]))

    campaign.refresh_from_db()
    assert campaign.status == Campaign.Status.ARCHIVED
    assert "Publish…" not in page(staff, "campaign_change", campaign.pk)


# report


def test_the_report_draws_the_numbers_on_the_picture_and_they_add_up(staff):
    campaign = paris()
    for city in ("Paris", "Paris", "Riga"):
        make.event(make.reachable(city=city), "Order paid")
    make.event(make.customer(city="Paris"), "Order paid")
    work()

    shown = page(staff, "campaign_report", campaign.pk)

    assert "4 entered = 3 finished + 1 waiting + 0 failed" in shown
    assert "3 queued = 2 sent + 0 failed + 1 suppressed" in shown
    assert "does not add up" not in shown
    assert re.search(r"Yes <b>3</b>", shown)
    assert re.search(r"No <b>1</b>", shown)
    assert "<b>1</b> waiting" in shown
    assert "<b>1</b> not sent" in shown
    # Why it was not sent.
    assert "<dt>No address</dt><dd>1</dd>" in shown or "<dt>No consent</dt>" in shown


def test_numbers_that_are_off_are_not_hidden():
    campaign = paris()
    numbers = report(campaign)["versions"][0]
    assert [equation.holds for equation in equations(numbers)] == [True, True]

    numbers["finished"] += 1
    assert [equation.holds for equation in equations(numbers)] == [False, True]


def test_every_version_has_its_own_numbers(staff):
    campaign = paris()
    make.event(make.reachable(city="Riga"), "Order paid")
    work()
    definition = drawing.as_json(campaign.versions.get())
    drawing.save_draft(campaign, {**definition, "entry": {"rule": "once"}})
    shown = page(staff, "campaign_publish", campaign.pk)
    staff.post(
        reverse("admin:campaigns_campaign_publish", args=[campaign.pk]),
        {"stamp": stamp_of(shown)},
    )

    assert "0 entered =" in page(staff, "campaign_report", campaign.pk)
    assert "1 entered =" in page(staff, "campaign_report", campaign.pk, version="1")
    url = reverse("admin:campaigns_campaign_report", args=[campaign.pk])
    assert staff.get(url, {"version": "7"}).status_code == 404


def test_a_campaign_that_was_never_published_has_no_numbers(staff):
    campaign = make.draft()

    assert "no numbers yet" in page(staff, "campaign_report", campaign.pk)
    assert "Nobody has entered yet." in page(staff, "campaign_runs", campaign.pk)


# runs


def test_one_customers_way_is_told_step_by_step(staff):
    paris()
    anna = make.customer("A-1", city="Paris", first_name="Anna")
    make.event(anna, "Order paid")
    work()
    run = Run.objects.get()

    shown = page(staff, "run_change", run.pk)

    assert "Anna in" in shown
    assert [(stop.step.key, stop.way) for stop in stops(run)] == [
        ("paris", "Yes"),
        ("sms", "not sent"),
    ]
    assert "Filter customers" in shown
    message = Message.objects.get()
    assert reverse("admin:messaging_message_change", args=[message.pk]) in shown
    # Why there was no message.
    assert message.get_reason_display().lower() in shown


def test_where_a_customer_stands_and_until_when_is_told(staff):
    paris()
    make.event(make.reachable(city="Riga"), "Order paid")
    work()
    run = Run.objects.get()

    shown = page(staff, "run_change", run.pk)

    assert [(stop.step.key, stop.way) for stop in stops(run)] == [
        ("paris", "No"),
        ("wait", ""),
    ]
    assert "Waits until" in shown


def test_runs_are_found_by_customer_status_and_campaign(staff):
    campaign, other = paris(), make.campaign(on="Call received")
    make.event(make.reachable("A-1", city="Paris"), "Order paid")
    make.event(make.reachable("B-1", city="Riga"), "Order paid")
    work()
    finished = Run.objects.get(customer__external_id="A-1")
    waiting = Run.objects.get(customer__external_id="B-1")

    def listed(**query: str) -> set[int]:
        shown = page(staff, "run_changelist", **query)
        return {int(pk) for pk in re.findall(r"/campaigns/run/(\d+)/change/", shown)}

    assert listed() == {finished.pk, waiting.pk}
    assert listed(q="A-1") == {finished.pk}
    assert listed(q="A") == set()
    assert listed(status__exact="waiting") == {waiting.pk}
    assert listed(campaign__id__exact=str(campaign.pk)) == {finished.pk, waiting.pk}
    assert listed(campaign__id__exact=str(other.pk)) == set()

    shown = page(staff, "campaign_runs", campaign.pk, status="waiting")
    assert f"/run/{waiting.pk}/" in shown
    assert f"/run/{finished.pk}/" not in shown


def test_the_runs_of_a_campaign_are_paged_by_key(staff):
    campaign = make.campaign(
        make.step("wait", "wait", {"for": 1, "unit": "days"}, done=None)
    )
    version = campaign.versions.get()
    now = timezone.now()
    Run.objects.bulk_create(
        Run(
            customer=make.customer(),
            campaign=campaign,
            version=version,
            step=version.steps.get(),
            started_at=now,
            arrived_at=now,
            due_at=now + timedelta(days=1),
        )
        for _ in range(60)
    )

    first = page(staff, "campaign_runs", campaign.pk)
    before = re.search(r"before=(\d+)", first).group(1)
    second = page(staff, "campaign_runs", campaign.pk, before=before)

    pks = [
        set(re.findall(r"/campaigns/run/(\d+)/change/", shown))
        for shown in (first, second)
    ]
    assert [len(found) for found in pks] == [50, 10]
    assert not pks[0] & pks[1]
    assert "before=" not in second


def test_lists_of_runs_cost_the_same_for_one_and_for_many(staff):
    campaign = paris()

    def queries(name: str, *args: Any) -> int:
        with CaptureQueriesContext(connection) as context:
            page(staff, name, *args)
        return len(context)

    make.event(make.reachable(city="Paris"), "Order paid")
    work()
    queries("run_changelist")
    few = queries("run_changelist"), queries("campaign_runs", campaign.pk)
    for _ in range(8):
        make.event(make.reachable(city="Riga"), "Order paid")
    work()
    many = queries("run_changelist"), queries("campaign_runs", campaign.pk)

    assert many == few


def test_a_run_is_a_journal_entry_that_nobody_changes(staff):
    paris()
    make.event(make.reachable(city="Riga"), "Order paid")
    work()
    run = Run.objects.get()

    staff.post(reverse("admin:campaigns_run_change", args=[run.pk]), {"reason": "x"})
    assert staff.get(reverse("admin:campaigns_run_add")).status_code == 403
    url = reverse("admin:campaigns_run_delete", args=[run.pk])
    assert staff.post(url, {"post": "yes"}).status_code == 403

    run.refresh_from_db()
    assert run.reason == ""


# broadcasts


def test_a_broadcast_shows_how_far_it_is_and_how_many_entered(staff):
    campaign = make.campaign(
        make.step(
            "paris",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "Paris"}},
            positive="sms",
            negative=None,
        ),
        make.sms(),
        on="Product in stock",
        system=True,
    )
    for city in ("Paris", "Riga", "Riga"):
        make.reachable(city=city)
    make.system_event("Product in stock", product_id=1)
    work()
    broadcast = Broadcast.objects.get()

    listed = page(staff, "broadcast_changelist")
    one = page(staff, "broadcast_change", broadcast.pk)
    runs = page(staff, "campaign_runs", campaign.pk)

    assert (broadcast.examined, broadcast.entered) == (3, 1)
    for shown in (listed, one):
        assert "100%" in shown
    assert "Product in stock" in runs
    assert "3 looked at" in runs
    assert staff.get(reverse("admin:campaigns_broadcast_add")).status_code == 403


# the list


@pytest.mark.parametrize("term", ["order PAID", "Order shipped", "thanks"])
def test_the_list_finds_campaigns_by_the_events_they_speak_of(staff, term):
    waits = {"event": "Order shipped", "for": 2, "unit": "days"}
    make.campaign(
        make.step("until", "wait_for_event", waits, happened=None, timed_out=None),
        on="Order paid",
        name="Thanks",
    )
    make.campaign(on="Shop opened", name="Other")

    shown = staff.get(
        reverse("admin:campaigns_campaign_changelist"), {"q": term}
    ).content.decode()

    assert "Thanks" in shown
    assert "Other" not in shown


# versions


def sent_when_sure(question):
    """What the page with the question sends when one is sure."""
    found = re.findall(r'type="hidden" name="(\w+)" value="([^"]+)"', question)
    return {name: value for name, value in found if name != "csrfmiddlewaretoken"}


@pytest.fixture
def changed():
    """A published campaign with a draft in which two things are not as they were."""
    campaign = make.campaign(make.sms("First"))
    first = drawing.as_json(campaign.versions.get())
    steps = [*first["steps"], make.step("more", "end", {})]
    drawing.save_draft(
        campaign, {**first, "entry": {"rule": "once"}, "steps": steps}, by="anna"
    )
    return campaign


def test_discarding_a_draft_says_what_is_lost_and_asks(staff, changed):
    url = reverse("admin:campaigns_campaign_versions", args=[changed.pk])
    assert "Discard this draft" in page(staff, "campaign_versions", changed.pk)

    asked = staff.post(url, {"version": "2", "deed": "discard"}).content.decode()

    assert changed.versions.count() == 2
    assert "2 changes are lost: 1 entry rule changed, 1 step added." in asked
    assert "Made by anna." in asked
    assert "“more” is new" in asked
    staff.post(url, sent_when_sure(asked))
    assert [version.number for version in changed.versions.all()] == [1]
    assert "The draft (version 2) is discarded." in page(
        staff, "campaign_versions", changed.pk
    )


def test_drawing_an_old_version_over_a_draft_says_what_is_lost_and_asks(staff, changed):
    url = reverse("admin:campaigns_campaign_versions", args=[changed.pk])
    first = drawing.as_json(changed.versions.get(number=1))
    make.publish_again(changed, entry={"rule": "every_event"})
    third = {**first, "entry": {"rule": "once"}}
    drawing.save_draft(changed, third)

    asked = staff.post(url, {"version": "1", "deed": "draw"}).content.decode()

    draft = changed.versions.get(status=Version.Status.DRAFT)
    assert drawing.as_json(draft) == third
    assert "Replace the draft (version 3)?" in asked
    assert "It is drawn as version 1 was." in asked
    staff.post(url, sent_when_sure(asked))
    draft = changed.versions.get(status=Version.Status.DRAFT)
    assert drawing.as_json(draft) == first


def test_a_draft_that_was_changed_since_the_question_is_asked_about_anew(
    staff, changed
):
    url = reverse("admin:campaigns_campaign_versions", args=[changed.pk])
    asked = staff.post(url, {"version": "2", "deed": "discard"}).content.decode()
    first = drawing.as_json(changed.versions.get(number=1))
    drawing.save_draft(changed, {**first, "steps": [make.sms("Dear")]})

    again = staff.post(url, sent_when_sure(asked)).content.decode()

    assert changed.versions.count() == 2
    assert "1 text changed" in again


def test_where_nothing_is_lost_nothing_is_asked(staff):
    campaign = make.campaign(make.sms("First"))
    first = drawing.as_json(campaign.versions.get())
    url = reverse("admin:campaigns_campaign_versions", args=[campaign.pk])
    drawing.save_draft(campaign, first)

    staff.post(url, {"version": "1", "deed": "discard"})
    assert campaign.versions.count() == 2  # What is at work is not discarded.
    staff.post(url, {"version": "2", "deed": "discard"})
    assert [version.number for version in campaign.versions.all()] == [1]
    staff.post(url, {"version": "1", "deed": "draw"})
    draft = campaign.versions.get(status=Version.Status.DRAFT)
    assert drawing.as_json(draft) == first


def test_the_pages_of_messages_know_what_campaigns_are_called():
    thanks, drawn = make.campaign(name="Thanks"), make.draft(name="Only drawn")
    page = reverse("admin:campaigns_campaign_change", args=[thanks.pk])
    asker = Asker(name="Thanks", url=page)

    assert askers.named([thanks.pk, 0, None]) == {thanks.pk: asker}
    assert askers.named([drawn.pk])[drawn.pk].name == "Only drawn"
    # Those that can have asked for messages are offered.
    assert askers.recent(5) == {thanks.pk: asker}

"""The profile of a customer: how they may be reached, segments, and one time line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from campaigns.models import Run
from customers.models import Channel, Customer, Device, MailingCategory
from messaging import suppressions
from messaging.models import ChannelSettings, Message, Suppression
from messaging.send import send_messages
from segments.models import Membership, Segment
from segments.upkeep import keeper
from smartcomm.site.reach import Reach, Takes, reach
from smartcomm.site.timeline import Asked, timeline
from tests import make

pytestmark = pytest.mark.django_db


def profile(customer: Customer) -> str:
    return reverse("admin:customers_customer_change", args=[customer.pk])


def part(customer: Customer) -> str:
    return reverse("admin:customers_customer_timeline", args=[customer.pk])


def titles(page: str) -> list[str]:
    return re.findall(r'<span class="sc-title">([^<]*)</span>', page)


def a_run(
    customer: Customer, *, name: str = "Welcome", status: str = "finished"
) -> Run:
    """A run of a published campaign, whose event is given by number only."""
    campaign = make.campaign(name=name)
    version = campaign.versions.get(status="published")
    now = timezone.now()
    return Run.objects.create(
        customer=customer,
        campaign=campaign,
        version=version,
        step=version.steps.get(),
        event_id=1,
        status=status,
        started_at=now,
        arrived_at=now,
    )


# the time line


def test_events_system_events_runs_and_messages_are_told_apart(admin_client):
    anna = make.reachable("anna", first_name="Anna")
    make.event(anna, "Order paid", total=5)
    make.system_event("Product in stock")
    a_run(anna)
    make.message(anna, make.content("email", subject="Welcome, Anna"))

    page = admin_client.get(profile(anna)).content.decode()

    for kind in ("event", "system", "run", "message"):
        assert page.count(f'class="sc-line sc-line-{kind}"') == 1
    assert set(titles(page)) >= {"Order paid", "Product in stock", "Welcome"}


def test_another_customers_messages_and_runs_are_not_shown(admin_client):
    anna, ben = make.reachable("anna"), make.reachable("ben")
    make.message(ben)
    a_run(ben)

    assert titles(admin_client.get(profile(anna)).content.decode()) == []


def test_a_message_that_was_not_sent_says_why(admin_client):
    anna = make.reachable("anna")
    message = make.message(anna)
    Message.objects.filter(pk=message.pk).update(
        status="suppressed", reason="no_consent", detail="They said no."
    )

    page = admin_client.get(profile(anna)).content.decode()

    assert "suppressed: no consent" in page
    assert "They said no." in page


def test_a_text_that_was_never_filled_in_shows_no_variables(admin_client):
    anna = make.customer("anna")
    thanks = "{% if client.city %}Thank you, {{ client.firstName }}!{% endif %}"
    make.message(anna, make.content("email", subject=thanks))
    Message.objects.update(status="suppressed", reason="no_consent")

    page = admin_client.get(profile(anna)).content.decode()

    assert "Thank you, …!" in page
    assert "firstName" not in page


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"kind": "event"}, ["Order paid", "Call received"]),
        ({"kind": "system"}, ["Product in stock"]),
        ({"kind": "run"}, ["Welcome"]),
        ({"kind": "message"}, ["Hello"]),
        ({"name": "Order paid"}, ["Order paid"]),
        ({"name": "Order paid", "kind": "system"}, []),
        ({"text": "bag"}, ["Order paid"]),
        ({"text": "welc"}, ["Welcome"]),
        ({"text": "no such text"}, []),
        ({"until": "2020-01-01"}, []),
        (
            {"since": "not a day", "kind": "nonsense", "name": "Order paid"},
            ["Order paid"],
        ),
    ],
)
def test_the_time_line_is_filtered(admin_client, asked, found):
    anna = make.reachable("anna")
    make.event(anna, "Order paid", product="Bag")
    make.event(anna, "Call received")
    make.system_event("Product in stock")
    a_run(anna)
    make.message(anna, make.content("email", subject="Hello", text="Hi"))

    page = admin_client.get(part(anna), asked).content.decode()

    assert sorted(titles(page)) == sorted(found)
    assert ("Nothing here fits these filters." in page) == (not found)


def test_the_last_day_of_a_period_is_included(admin_client):
    anna = make.customer("anna")
    make.event(anna, "Order paid")
    today = timezone.localdate().isoformat()

    page = admin_client.get(part(anna), {"since": today, "until": today})

    assert titles(page.content.decode()) == ["Order paid"]


def test_older_lines_follow_until_everything_was_shown_once(admin_client):
    anna = make.reachable("anna", registered_at=timezone.now() - timedelta(days=90))
    now = timezone.now()
    for number in range(40):
        make.event(anna, f"event {number}", at=now - timedelta(hours=number))
    for number in range(20):
        make.system_event(f"system {number}", at=now - timedelta(hours=number))
        make.message(anna, make.content(text=f"message {number}"), now=now)

    page = admin_client.get(profile(anna)).content.decode()
    seen = titles(page)
    while older := re.search(r'hx-get="([^"]*before=[^"]*)"', page):
        page = admin_client.get(older[1].replace("&amp;", "&")).content.decode()
        seen += titles(page)

    assert len(seen) == len(set(seen)) == 80
    assert "That is everything." in page


def test_a_day_is_named_once_though_a_page_ends_within_it(admin_client):
    anna = make.customer("anna")
    noon = timezone.localtime().replace(hour=12) - timedelta(days=3)
    for number in range(40):
        make.event(anna, f"event {number}", at=noon - timedelta(minutes=number))

    first = admin_client.get(profile(anna)).content.decode()
    older = re.search(r'hx-get="([^"]*before=[^"]*)"', first)
    second = admin_client.get(older[1].replace("&amp;", "&")).content.decode()

    assert (first.count("sc-day"), second.count("sc-day")) == (1, 0)


def test_a_mangled_cursor_is_refused_in_words(admin_client):
    answer = admin_client.get(part(make.customer("anna")), {"before": "x"})

    assert answer.status_code == 422
    assert "Start again" in answer.content.decode()


def test_lines_lead_only_to_pages_one_may_view(client):
    anna = make.customer("C-1001")
    make.event(anna, "Order paid")
    run = a_run(anna)
    user = User.objects.create_user("vera", is_staff=True)
    for codename in ("view_customer", "view_run"):
        user.user_permissions.add(Permission.objects.get(codename=codename))
    client.force_login(user)

    page = client.get(part(anna)).content.decode()

    assert "Order paid" in page
    assert reverse("admin:campaigns_run_change", args=[run.pk]) in page
    assert "/admin/events/event/" not in page


def test_a_test_that_staff_sent_themselves_is_not_taken_for_the_customers(admin_client):
    anna = make.customer("C-1001")
    mail = make.message(anna)
    Message.objects.filter(pk=mail.pk).update(is_test=True)

    page = admin_client.get(part(anna)).content.decode()

    assert "test, to staff" in page


def test_what_no_database_can_hold_is_left_out_of_the_filters(admin_client):
    anna = make.customer("C-1001")
    make.event(anna, "Order paid")

    for asked in ({"text": "pa\0id"}, {"name": "Order\0 paid"}):
        assert "Order paid" in titles(
            admin_client.get(part(anna), asked).content.decode()
        )


def test_what_a_source_sent_is_shown_as_text(admin_client):
    anna = make.customer("anna", first_name="<b>Anna</b>")
    make.event(anna, "<i>x</i>", note="<script>alert(1)</script>")

    page = admin_client.get(profile(anna)).content.decode()

    assert "<script>alert" not in page
    assert "<b>Anna" not in page
    assert "<i>x" not in page


def test_a_profile_costs_as_many_queries_with_three_events_as_with_thirty(admin_client):
    anna = make.reachable("anna")

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            admin_client.get(profile(anna))
        return len(captured)

    def more(number: int) -> None:
        for n in range(number):
            make.event(anna, f"event {number} {n}")
            make.system_event(f"system {number} {n}")
            make.message(anna)
            Device.objects.create(customer=anna, platform="web", token=f"{number} {n}")
            MailingCategory.objects.create(code=f"c{number}-{n}", name=f"c{number} {n}")

    more(3)
    queries()
    few = queries()
    more(9)

    assert queries() == few


def test_a_page_of_the_time_line_costs_the_same_for_few_and_many_messages():
    anna = make.reachable("anna")

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            timeline(anna, Asked(), before="", limit=20)
        return len(captured)

    make.message(anna)
    few = queries()
    for _ in range(15):
        make.message(anna)

    assert queries() == few


# how they may be reached


def ways(customer: Customer) -> dict[str, Reach]:
    return {way.channel: way for way in reach(customer, now=timezone.now())}


def test_who_said_yes_and_has_a_valid_address_can_be_reached():
    found = ways(make.reachable("anna"))

    assert found["email"].sentence == "Can be reached."
    assert (found["email"].can, found["sms"].can, found["push"].can) == (
        True,
        True,
        False,
    )


def test_the_reason_why_not_is_told():
    anna = make.customer("anna", email="anna@", email_is_valid=False, phone="+4915112")
    for channel in Channel:
        make.consent(anna, channel, yes=channel != Channel.SMS)
    Customer.objects.filter(pk=anna.pk).update(phone_is_valid=True)
    anna.refresh_from_db()

    told = {channel: way.sentence for channel, way in ways(anna).items()}

    assert told == {
        "email": "anna@ is no valid e-mail address.",
        "sms": "The customer said no to SMS.",
        "push": "The customer has no device for push.",
    }


def test_the_profile_says_of_consent_what_sending_says():
    anna = make.customer("anna", email="anna@example.com")
    message = make.message(anna, make.content("email"))

    send_messages(limit=10)

    message.refresh_from_db()
    assert message.detail == ways(anna)["email"].sentence != ""


def test_a_suppressed_address_is_not_written_to():
    anna = make.reachable("anna", email="Anna@example.com")
    key = suppressions.key("email", "Anna@example.com")
    Suppression.objects.create(channel="email", address=key, reason="x")

    found = ways(anna)

    assert found["email"].sentence == (
        "Anna@example.com is on the list of suppressed addresses."
    )
    assert found["sms"].can


def test_an_address_suppressed_on_another_channel_is_free_on_this_one():
    anna = make.reachable("anna")
    Suppression.objects.create(channel="push", address=anna.phone, reason="x")

    assert ways(anna)["sms"].can


def test_no_answer_counts_as_the_installation_decided():
    anna = make.customer("anna", email="anna@example.com")
    ChannelSettings.objects.create(channel="email", default_consent=True)

    mail = ways(anna)["email"]

    assert (mail.can, mail.answer) == (True, "never answered")


def test_one_working_device_is_enough():
    anna = make.customer("anna")
    make.consent(anna, "push")
    Device.objects.create(customer=anna, platform="ios", token="new")
    Device.objects.create(customer=anna, platform="ios", token="old", is_valid=False)

    push = ways(anna)["push"]

    assert push.can
    assert push.addresses == [("new", True), ("old", False)]


def test_a_category_is_taken_as_said_or_else_by_default():
    anna = make.reachable("anna")
    news = MailingCategory.objects.create(code="news", name="News")
    MailingCategory.objects.create(code="ads", name="Ads", default_email=False)
    anna.consents.create(
        channel="email", category=news, is_granted=False, changed_at=timezone.now()
    )

    mail, sms = ways(anna)["email"], ways(anna)["sms"]

    assert mail.categories == [
        Takes("Ads", yes=False, by_default=True),
        Takes("News", yes=False, by_default=False),
    ]
    assert [takes.yes for takes in sms.categories] == [True, True]


# segments


def test_the_segments_a_customer_is_in_are_asked_of_their_rules(admin_client):
    anna = make.customer("anna", city="Riga")
    make.event(anna, "Order paid")
    for name, rule in [
        ("From Riga", {"attribute": "city", "op": "=", "value": "Riga"}),
        ("From Berlin", {"attribute": "city", "op": "=", "value": "Berlin"}),
        ("Paid", {"event": "Order paid"}),
        ("Broken", {"event": "Never heard of"}),
    ]:
        Segment.objects.create(name=name, rule=rule)

    url = reverse("admin:customers_customer_segments", args=[anna.pk])
    page = admin_client.get(url).content.decode()

    assert "From Riga" in page
    assert "Paid" in page
    assert "From Berlin" not in page
    assert "Broken could not be asked" in page
    assert "since" not in page


def test_the_segments_of_a_profile_are_as_kept_with_since_when(
    admin_client, django_assert_max_num_queries
):
    anna = make.customer("anna", city="Riga")
    riga = {"attribute": "city", "op": "=", "value": "Riga"}
    for n in range(10):
        Segment.objects.create(name=f"From Riga {n}", rule=riga)
    listed = Segment.objects.create(name="The list", kind="static")
    since = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
    keeper.keep_all()
    Membership.objects.create(customer=anna, segment=listed, since=since)
    url = reverse("admin:customers_customer_segments", args=[anna.pk])

    with django_assert_max_num_queries(8):
        page = admin_client.get(url).content.decode()

    assert page.count(">From Riga") == 10
    assert "since 4 Mar 2026" in page
    assert "stale" not in page

    with time_machine.travel(timezone.now() + timedelta(minutes=5)):
        page = admin_client.get(url).content.decode()
    assert page.count("stale") == 10
    assert "Are the workers running?" in page


# who may see it


def test_without_the_right_to_view_customers_there_is_no_profile(client):
    anna = make.customer("anna")
    user = User.objects.create_user("eve", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_event"))
    client.force_login(user)

    segments = reverse("admin:customers_customer_segments", args=[anna.pk])
    for url in (profile(anna), part(anna), segments):
        assert client.get(url).status_code == 403


def test_who_may_not_view_segments_sees_none(client):
    anna = make.customer("anna")
    Segment.objects.create(name="All", rule={"attribute": "city", "op": "is not set"})
    user = User.objects.create_user("vera", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_customer"))
    client.force_login(user)
    url = reverse("admin:customers_customer_segments", args=[anna.pk])

    assert url not in client.get(profile(anna)).content.decode()
    assert client.get(url).status_code == 403


def test_a_customer_who_does_not_exist_leads_back_to_the_list(admin_client):
    answer = admin_client.get("/admin/customers/customer/999999/change/", follow=True)

    assert answer.status_code == 200
    assert "doesn’t exist" in answer.content.decode()


# merging


def merge_page(kept: Customer, former: Customer | None = None) -> str:
    url = reverse("admin:customers_customer_merge", args=[kept.pk])
    return f"{url}?with={former.pk}" if former else url


def with_rights(client, *names: str):
    user = User.objects.create_user("mia", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(user)
    return client


def test_two_customers_are_seen_side_by_side_and_merged(admin_client, admin_user):
    kept = make.customer("C-1", first_name="Anna", city="Berlin")
    former = make.customer("C-2", first_name="A.", language="de")
    make.event(former, "Order paid")

    page = admin_client.get(merge_page(kept, former)).content.decode()
    assert "sc-goes" in page  # “A.” will not be shown any more.
    assert "Fills the gap" in page
    assert Customer.objects.count() == 2  # Looking changes nothing.
    answer = admin_client.post(merge_page(kept), {"with": former.pk}, follow=True)

    assert Customer.objects.get().language == "de"
    text = answer.content.decode()
    assert "“C-2” is a part of “C-1” now: 1 event." in text
    assert "was also known as" in text
    assert "“C-2” became a part of this customer" in text
    assert kept.former_ids.get().merged_by == f"staff: {admin_user.username}"
    changes = admin_client.get(
        reverse("admin:customers_customer_history", args=[kept.pk])
    )
    assert "Merged “C-2” into it." in changes.content.decode()


def test_the_other_one_is_found_and_the_sound_direction_offered(admin_client):
    stub = make.customer("email:a@example.com", email="a@example.com", is_stub=True)
    known = make.customer("C-1", first_name="Anna", email="a@example.com")

    page = admin_client.get(merge_page(stub), {"q": "Anna"}).content.decode()
    assert merge_page(known, stub) in page
    page = admin_client.get(merge_page(stub)).content.decode()
    assert "They share a contact" in page
    assert merge_page(known, stub) in page
    page = admin_client.get(merge_page(stub, known)).content.decode()
    assert "The other way round?" in page
    assert merge_page(known, stub) in page


@pytest.mark.parametrize("other", ["999999", "x", "self"])
def test_without_another_customer_one_is_asked_to_find_them(admin_client, other):
    kept = make.customer("C-1")
    other = str(kept.pk) if other == "self" else other

    answer = admin_client.post(merge_page(kept), {"with": other})

    assert "Find the other one here." in answer.content.decode()
    assert Customer.objects.count() == 1


def test_who_may_only_view_is_not_offered_to_merge_and_cannot(client):
    kept, former = (make.customer(id, email="a@example.com") for id in ("C-1", "C-2"))
    viewer = with_rights(client, "view_customer", "view_sharedcontact")

    page = viewer.get(profile(kept)).content.decode()
    assert "has the same e-mail" in page
    assert "/merge/" not in page
    assert viewer.get(merge_page(kept, former)).status_code == 403
    answer = viewer.post(merge_page(kept), {"with": former.pk})
    assert answer.status_code == 403
    assert Customer.objects.count() == 2


def test_two_chosen_from_the_list_are_merged_in_the_sound_direction(admin_client):
    stub = make.customer("C-1", is_stub=True)
    known = make.customer("C-2")
    third = make.customer("C-3")
    url = reverse("admin:customers_customer_changelist")

    def choose(*chosen: Customer):
        return admin_client.post(
            url,
            {"action": "merge_two", "_selected_action": [one.pk for one in chosen]},
        )

    assert choose(stub, known).url == merge_page(known, stub)
    for chosen in ([stub], [stub, known, third]):
        assert choose(*chosen).status_code == 302
        shown = admin_client.get(url).content.decode()
        assert "Choose two customers to merge them." in shown


def test_shared_contacts_are_listed_with_the_stub_into_the_real_one(admin_client):
    from customers.models import SharedContact

    stub = make.customer("email:a@example.com", email="a@example.com", is_stub=True)
    known = make.customer("C-1", first_name="Anna", email="a@example.com")
    SharedContact.objects.create(kind="email", value="a@example.com")

    url = reverse("admin:customers_sharedcontact_changelist")
    page = admin_client.get(url).content.decode()

    assert merge_page(known, stub) in page
    assert ">Anna</a>" in page
    assert (
        admin_client.get(url, {"q": "A@example.com"})
        .content.decode()
        .count(merge_page(known, stub))
    )


def test_a_customer_is_found_by_a_former_id(admin_client):
    from customers.merging import merge

    make.customer("C-1")
    make.customer("old-7")
    merge("C-1", "old-7", by="shop", now=timezone.now())

    page = admin_client.get("/admin/customers/customer/", {"q": "old-7"})

    assert ">C-1<" in page.content.decode()


def test_a_former_id_is_not_given_to_a_new_customer(admin_client):
    from customers.merging import merge

    make.customer("C-1")
    make.customer("C-2")
    merge("C-1", "C-2", by="shop", now=timezone.now())
    data = {"external_id": "C-2"}
    for prefix in ("consents", "devices"):
        data |= {f"{prefix}-TOTAL_FORMS": "0", f"{prefix}-INITIAL_FORMS": "0"}

    page = admin_client.post("/admin/customers/customer/add/", data)

    assert "This is a former ID of “C-1”." in page.content.decode()
    assert Customer.objects.count() == 1

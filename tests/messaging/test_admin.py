"""The journal of messages, templates, suppressions and channel settings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from messaging.channels import ProviderError
from messaging.models import ChannelSettings, Message, Suppression, Template
from messaging.send import send_messages
from tests import make

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def staff(client) -> User:
    """Somebody who may do everything here."""
    user = User.objects.create_superuser("anna", "anna@example.org", "x")
    client.force_login(user)
    return user


def may(client, *permissions: str) -> User:
    """Somebody of the staff with these rights and no other, logged in."""
    user = User.objects.create_user("marie", is_staff=True)
    for permission in permissions:
        app, codename = permission.split(".")
        user.user_permissions.add(
            Permission.objects.get(content_type__app_label=app, codename=codename)
        )
    client.force_login(user)
    return user


def page(client, page_name, *args, **query):
    answer = client.get(reverse(f"admin:messaging_{page_name}", args=args), query)
    assert answer.status_code == 200
    return answer.content.decode()


def post(client, page_name, *args, **data):
    return client.post(reverse(f"admin:messaging_{page_name}", args=args), data)


# --- the journal ------------------------------------------------------------------


def test_the_journal_shows_who_what_and_why(client, staff):
    anna = make.reachable("C-77", first_name="Anna")
    make.message(anna, make.content(text="Your bag is back"), now=NOW)
    make.message(make.customer("C-78"), now=NOW)
    send_messages(now=NOW)
    shown = page(client, "message_changelist")
    assert "Your bag is back" in shown
    assert "Suppressed: no address" in shown
    assert "C-78" in shown


def test_the_journal_finds_the_messages_of_a_customer(client, staff):
    for number in (1, 2):
        who = make.reachable(f"C-{number}00", first_name=f"Name{number}")
        make.message(who, make.content(text=f"Text {number}"), now=NOW)
    send_messages(now=NOW)
    for asked in ("C-100", "c-10", "Name1"):
        shown = page(client, "message_changelist", q=asked)
        assert "Text 1" in shown, asked
        assert "Text 2" not in shown, asked


@pytest.mark.parametrize(
    ("query", "texts"),
    [
        ({"channel__exact": "email"}, {"Mail"}),
        ({"status__exact": "queued"}, {"Later"}),
        ({"campaign": "8"}, {"Sms"}),
        ({"since": "7"}, {"Mail", "Sms"}),
    ],
)
def test_the_journal_is_filtered(client, staff, query, texts):
    anna, now = make.reachable(), datetime.now(UTC)
    long_ago = now - timedelta(days=60)
    make.message(anna, make.content(text="Later"), now=long_ago)
    make.message(anna, make.content("email", text="Mail", subject="Mail"), now=now)
    make.message(anna, make.content(text="Sms"), campaign_id=8, now=now)
    send_messages(now=now)
    Message.objects.filter(created_at=long_ago).update(status="queued", body="Later")
    shown = page(client, "message_changelist", **query)
    assert {
        text for text in ("Later", "Mail", "Sms") if f">{text}</span>" in shown
    } == texts


def _queries_of_journal(client, count):
    for _ in range(count):
        campaign = make.draft()
        make.message(make.reachable(), make.content(), campaign_id=campaign.pk, now=NOW)
    with CaptureQueriesContext(connection) as queries:
        shown = page(client, "message_changelist")
    assert campaign.name in shown
    return len(queries)


def test_a_long_journal_costs_as_many_queries_as_a_short_one(client, staff):
    assert _queries_of_journal(client, 1) == _queries_of_journal(client, 10)


def test_nobody_adds_changes_or_deletes_a_message(client, staff):
    message = make.message(make.reachable(), now=NOW)
    assert client.get(reverse("admin:messaging_message_add")).status_code == 403
    url = reverse("admin:messaging_message_delete", args=[message.pk])
    assert client.post(url, {"post": "yes"}).status_code == 403
    assert Message.objects.filter(pk=message.pk).exists()


# --- one message ------------------------------------------------------------------


def test_a_message_tells_its_story(client, staff, provider):
    campaign = make.draft(name="Back in stock")
    anna = make.reachable(phone="+4915112345678", first_name="Anna")
    event = make.event(anna, "Order paid", item="Bag")
    provider.answers["+4915112345678"] = ProviderError("Busy.", permanent=False)
    message = make.message(
        anna,
        make.content(text="{{ client.eventContext.item }} is back"),
        event=event,
        campaign_id=campaign.pk,
        now=NOW,
    )
    send_messages(now=NOW)
    shown = page(client, "message_change", message.pk)
    assert "Attempt 1 by scripted: not taken, to be tried again" in shown
    assert "Busy." in shown
    assert "Bag is back" in shown
    assert "Back in stock" in shown
    assert "Order paid" in shown
    assert reverse("admin:events_event_change", args=[event.pk]) in shown


def test_a_message_that_was_not_sent_shows_how_it_would_look_and_what_it_lacks(
    client, staff
):
    content = make.content(text="It is {{ client.eventContext.item }}")
    message = make.message(make.reachable(), content, now=NOW)
    send_messages(now=NOW)
    shown = page(client, "message_change", message.pk)
    assert "Suppressed: missing variable" in shown
    assert "As it would look now" in shown
    assert "Missing: client.eventContext.item" in shown


def test_an_email_is_shown_where_it_can_do_no_harm(client, staff):
    content = make.content("email", html="<p>Hi</p><script>alert(1)</script>")
    message = make.message(make.reachable(), content, now=NOW)
    send_messages(now=NOW)
    shown = page(client, "message_change", message.pk)
    assert 'sandbox=""' in shown
    assert "&lt;script&gt;" in shown
    assert "<script>alert" not in shown
    assert "Content-Security-Policy" in shown


def test_a_message_of_a_paused_campaign_says_that_it_waits(client, staff):
    from messaging import queue

    message = make.message(make.reachable(), campaign_id=7, now=NOW)
    queue.hold(7)
    assert "The campaign is paused" in page(client, "message_change", message.pk)


def test_a_message_whose_customer_is_gone_can_still_be_looked_at(client, staff):
    anna = make.customer()
    message = make.message(anna, now=NOW)
    anna.delete()
    assert "a customer who is gone" in page(client, "message_change", message.pk)
    assert str(message.pk)
    page(client, "message_changelist")


def test_a_failed_message_is_queued_again_by_who_may(client, provider):
    message = make.message(make.reachable(), now=NOW)
    Message.objects.update(status="failed", attempts=1)
    may(client, "messaging.view_message", "customers.view_customer")
    assert "Queue again" not in page(client, "message_change", message.pk)
    assert post(client, "message_queue_again", message.pk).status_code == 403
    message.refresh_from_db()
    assert message.status == "failed"


def test_queueing_again_gives_one_more_attempt(client, staff, provider):
    message = make.message(make.reachable(), now=NOW)
    Message.objects.update(status="failed", attempts=1)
    assert "Queue again" in page(client, "message_change", message.pk)
    assert post(client, "message_queue_again", message.pk).status_code == 302
    send_messages()
    message.refresh_from_db()
    assert (message.status, message.attempts) == ("sent", 2)
    again = {"action": "queue_again", "_selected_action": [message.pk]}
    answer = client.post(
        reverse("admin:messaging_message_changelist"), again, follow=True
    )
    assert "1 left alone" in answer.content.decode()
    assert send_messages() == 0


# --- templates --------------------------------------------------------------------


def test_a_new_template_asks_for_its_channel_first(client, staff):
    assert "channel=push" in page(client, "template_add")
    form = page(client, "template_add", channel="push")
    assert 'name="title"' in form
    assert 'name="html"' not in form


def test_a_template_is_saved_and_changed(client, staff):
    data = {
        "channel": "sms",
        "name": "Thanks",
        "text": "Hi {{ client.firstName }}",
        "missing": "skip",
    }
    assert post(client, "template_add", **data).status_code == 302
    template = Template.objects.get()
    assert (template.channel, template.text) == ("sms", data["text"])
    answer = post(client, "template_change", template.pk, **{**data, "text": "Hello"})
    assert answer.status_code == 302
    template.refresh_from_db()
    assert template.text == "Hello"
    assert "Hello" in page(client, "template_changelist")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"text": "{{ client.firstName | }"}, "Line 1"),
        ({"text": "{{ client.fristName }}"}, "Did you mean client.firstName?"),
        ({"text": ""}, "Write the text."),
    ],
)
def test_what_is_wrong_with_a_text_stands_beside_it(client, staff, texts, words):
    data = {"channel": "sms", "name": "Thanks", "missing": "skip", **texts}
    answer = post(client, "template_add", **data)
    assert answer.status_code == 200
    assert words in answer.context["adminform"].form.errors["text"][0]
    assert not Template.objects.exists()


def test_saving_tells_what_real_events_lack(client, staff):
    anna = make.customer()
    make.event(anna, "Order paid", item="Bag")
    make.event(anna, "Order paid", other="x")
    answer = client.post(
        reverse("admin:messaging_template_add"),
        {
            "channel": "sms",
            "name": "Thanks",
            "missing": "skip",
            "text": "{{ client.eventContext.item }}",
            "event_name": "Order paid",
        },
        follow=True,
    )
    assert "`item` is missing in 50 % of the last 2 events." in answer.content.decode()
    assert Template.objects.count() == 1


def test_the_preview_is_what_will_be_sent(client, staff):
    anna = make.customer("C-1", first_name="Anna")
    make.event(anna, "Order paid", item="Bag <new>")
    answer = post(
        client,
        "preview",
        channel="email",
        subject="{{ client.eventContext.item }}",
        html="<p>{{ client.firstName }}</p>",
        customer="C-1",
        event_name="Order paid",
    )
    shown = answer.content.decode()
    assert "Bag &lt;new&gt;" in shown
    assert "&lt;p&gt;Anna&lt;/p&gt;" in shown
    assert "Missing here" not in shown


def test_the_preview_may_be_asked_for_one_event(client, staff):
    anna = make.customer("C-1")
    first = make.event(anna, "Order paid", item="Bag")
    make.event(anna, "Order paid", item="Hat")
    system = make.system_event("Product in stock", item="Cap")
    text = {"channel": "sms", "text": "{{ client.eventContext.item }}!"}
    assert "Bag!" in post(client, "preview", event=first.pk, **text).content.decode()
    shown = post(client, "preview", system_event=system.pk, **text).content.decode()
    assert "Cap!" in shown


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"text": "{{ client.eventContext.nope }}"},
            "Missing here: client.eventContext.nope",
        ),
        ({"text": "{{ client.firstName | money }}"}, "In the text: "),
        ({"text": "Hi", "customer": "nobody"}, "There is no customer “nobody”."),
        ({"text": "{{"}, "Line 1"),
        ({"text": ""}, "No text yet."),
    ],
)
def test_the_preview_tells_what_is_wrong(client, staff, data, words):
    make.customer("C-1", first_name="Anna")
    answer = post(client, "preview", channel="sms", **data)
    assert answer.status_code == 200
    assert words in answer.content.decode()


def test_the_preview_shows_customers_only_to_who_may_see_them(client):
    make.customer("C-1", first_name="Anna")
    may(client, "messaging.view_template", "messaging.change_template")
    answer = post(client, "preview", channel="sms", text="Hi", customer="C-1")
    assert answer.status_code == 403
    assert post(client, "test", channel="sms", text="Hi").status_code == 403


def test_an_unknown_channel_is_refused(client, staff):
    assert post(client, "preview", channel="fax", text="Hi").status_code == 422
    assert post(client, "test", channel="fax", text="Hi").status_code == 422


def test_a_test_is_sent_to_ones_own_address(client, staff, provider):
    anna = make.customer("C-1", first_name="Anna", email="anna@example.com")
    answer = post(
        client,
        "test",
        channel="email",
        subject="s",
        text="Dear {{ client.firstName }}",
        customer="C-1",
        address="me@example.org",
        missing="skip",
    )
    assert "On its way to me@example.org" in answer.content.decode()
    send_messages()
    assert [(m.address, m.body) for m in provider.taken] == [
        ("me@example.org", "Dear Anna")
    ]
    assert Message.objects.get(customer=anna).is_test


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"text": "Hi", "address": ""}, "Say where to send it."),
        ({"text": "Hi", "address": "12"}, "no valid phone number"),
        ({"text": "", "address": "+4915112345678"}, "Write the text."),
    ],
)
def test_a_test_that_cannot_be_sent_says_why(client, staff, data, words):
    make.customer("C-1")
    answer = post(client, "test", channel="sms", **data)
    assert words in answer.content.decode()
    assert not Message.objects.exists()


def test_the_variables_of_an_event_are_offered(client, staff):
    make.event(make.customer(), "Order paid", item="Bag", address={"city": "Rome"})
    shown = page(client, "variables", event_name="Order paid")
    assert 'data-variable="client.eventContext.item"' in shown
    assert 'data-variable="client.eventContext.address.city"' in shown
    assert 'data-variable="client.firstName"' in shown


# --- what the installation decided ------------------------------------------------


def test_an_address_is_suppressed_as_it_is_kept(client, staff):
    data = {"channel": "email", "address": " Anna@Example.COM ", "reason": "asked"}
    assert post(client, "suppression_add", **data).status_code == 302
    assert Suppression.objects.get().address == "anna@example.com"
    again = post(client, "suppression_add", **data)
    assert again.status_code == 200
    assert Suppression.objects.count() == 1
    assert "anna@example.com" in page(
        client, "suppression_changelist", q="ANNA@example.com"
    )
    assert "anna@example.com" not in page(client, "suppression_changelist", q="bob")


def test_every_channel_has_its_settings_from_the_beginning(client, staff):
    shown = page(client, "channelsettings_changelist")
    assert ChannelSettings.objects.count() == 3
    assert shown.count("are not written to") == 3
    answer = post(
        client, "channelsettings_change", "sms", default_consent="on", ttl_hours=5
    )
    assert answer.status_code == 302
    sms = ChannelSettings.objects.get(channel="sms")
    assert (sms.default_consent, sms.ttl_hours) == (True, 5)
    assert client.get(reverse("admin:messaging_channelsettings_add")).status_code == 403

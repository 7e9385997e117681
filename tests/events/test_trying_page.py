"""The page where people try events of a source."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from campaigns.models import Run
from events.models import Event, EventType, RejectedEvent, Source
from segments.models import Segment
from tests import make

pytestmark = pytest.mark.django_db


@pytest.fixture
def source() -> Source:
    return make.source()


def page(source: Source) -> str:
    return reverse("admin:events_source_try", args=[source.pk])


def tried(client: Client, source: Source, sent: Any, kind: str = "customer") -> str:
    text = sent if isinstance(sent, str) else json.dumps(sent)
    response = client.post(page(source), {"kind": kind, "text": text})
    assert response.status_code == 200
    return " ".join(response.content.decode().split())


def staff(*permissions: str) -> Client:
    user = User.objects.create_user("someone", is_staff=True)
    for permission in permissions:
        app, codename = permission.split(".")
        user.user_permissions.add(
            Permission.objects.get(content_type__app_label=app, codename=codename)
        )
    client = Client()
    client.force_login(user)
    return client


def test_the_page_of_a_source_has_a_button_that_leads_there(admin_client, source):
    shown = admin_client.get(
        reverse("admin:events_source_change", args=[source.pk])
    ).content.decode()

    assert "Try it" in shown
    button = reverse("admin:events_source_try_it", args=[source.pk])
    assert button in shown
    assert admin_client.get(button)["Location"] == page(source)


def test_the_editor_begins_with_the_last_event_that_a_campaign_waits_for(
    admin_client, source
):
    make.campaign(on="Order paid")
    make.event(make.customer("C-1"), "Order paid", id="real", price=5)
    make.event(make.customer("C-2"), "Call received")

    shown = admin_client.get(page(source))

    assert json.loads(shown.context["text"]) == {
        "name": "Order paid",
        "customer": "C-1",
        "context": {"price": 5},
    }


def test_without_an_event_the_editor_begins_with_an_example(admin_client, source):
    shown = admin_client.get(page(source))

    assert json.loads(shown.context["text"])["name"] == "Order paid"
    assert json.loads(shown.context["texts"]["system"])["name"] == "Product in stock"


def test_what_would_become_of_an_event_is_told_in_words(admin_client, source):
    make.reachable("C-1", first_name="Anna", last_name="Berg")
    make.event(make.customer("C-2"), "Order paid", price=1)
    Segment.objects.create(name="Buyers", rule={"event": "Order paid"})
    make.campaign(make.sms("{{ client.eventContext.city }}"), name="Thanks")

    shown = tried(
        admin_client,
        source,
        {"name": "Order paid", "customer": "C-1", "context": {"price": 5, "new": "x"}},
    )

    assert "It would be stored as <b>“Order paid”</b>" in shown
    assert "Anna Berg (C-1)" in shown
    assert "<code>new</code> (string)" in shown
    assert "<b>Anna Berg (C-1) would enter</b>" in shown
    assert "Buyers" in shown
    assert "Thanks</a> <b>would start</b>" in shown
    assert "would lack <code>eventContext.city</code>" in shown
    assert "curl" in shown
    assert "/api/v1/events?dry_run=true" in shown
    assert Event.objects.count() == 1
    assert not Run.objects.exists()


def test_a_system_event_is_told_with_the_number_of_customers(admin_client, source):
    make.customer("C-1")
    make.campaign(on="Shop opens", system=True, name="Opening")

    shown = tried(admin_client, source, {"name": "Shop opens"}, "system")

    assert "for everyone" in shown
    assert "would start for 1 customer</b>" in shown
    assert "/api/v1/system-events?dry_run=true" in shown


def test_a_refused_event_is_told_with_its_place(admin_client, source):
    shown = tried(
        admin_client,
        source,
        {"name": "Order paid", "customer": "C-1", "context": {"price-eur": 5}},
    )

    assert "It would be rejected" in shown
    assert "<code>context.price-eur</code>" in shown
    assert not RejectedEvent.objects.exists()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '{"name": "\\ud83d"}', "{" * 5000, "[" * 90_000, "x" * 300_000],
)
def test_whatever_stands_in_the_editor_is_answered_in_words(admin_client, source, text):
    shown = tried(admin_client, source, text)

    assert "It would be refused" in shown or "It would be rejected" in shown


def test_what_is_sent_is_shown_as_text(admin_client, source):
    shown = tried(
        admin_client, source, {"name": "<script>x</script>", "customer": "<b>C</b>"}
    )

    assert "<script>x" not in shown
    assert "<b>C</b>" not in shown


def test_who_may_view_sources_may_try_and_sees_no_more_than_that(source):
    make.customer("C-1", first_name="Anna", last_name="Berg")
    make.event(make.customer("C-2"), "Order paid", secret="x")
    Segment.objects.create(name="Buyers", rule={"event": "Order paid"})
    make.campaign(name="Thanks")
    client = staff("events.view_source")

    opened = client.get(page(source)).content.decode()
    shown = tried(client, source, {"name": "Order paid", "customer": "C-1"})

    assert "secret" not in opened
    assert "would be stored" in shown
    for hidden in ("Anna", "Buyers", "Thanks"):
        assert hidden not in shown


def test_who_may_not_view_sources_is_refused(source):
    client = staff("customers.view_customer")

    assert client.get(page(source)).status_code == 403
    assert client.post(page(source), {"text": "{}"}).status_code == 403
    assert not EventType.objects.exists()


@pytest.mark.browser
def test_people_switch_the_kind_and_try_without_leaving_the_page(
    page, live_server, admin_user, transactional_db
):
    shop = make.source()
    make.customer("C-1", first_name="Anna", last_name="Berg")
    page.goto("/admin/login/")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill("password")
    page.get_by_role("button", name="Log in").click()
    page.goto(reverse("admin:events_source_change", args=[shop.pk]))
    page.get_by_role("link", name="Try it").click()
    answer = page.locator("#se-answer")
    answer.get_by_text("It would be stored as “Order paid”").wait_for()

    page.locator("textarea").fill('{"name": "Call", "customer": "C-1"}')
    page.locator("textarea").press("Control+Enter")
    answer.get_by_text("Anna Berg (C-1)").wait_for()
    page.get_by_label("System event").check(force=True)
    answer.get_by_text("“Product in stock”, for everyone").wait_for()
    page.get_by_label("Customer event").check(force=True)

    answer.get_by_text("“Call”").first.wait_for()
    assert page.locator("textarea").input_value().startswith('{"name": "Call"')
    assert not Event.objects.exists()

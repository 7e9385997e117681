"""“Why?” in the back office: on the campaign's page, and on the customer's profile."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Campaign
from customers.models import Customer
from messaging.models import Message
from messaging.send import send_messages
from tests import make

pytestmark = pytest.mark.django_db


@pytest.fixture
def anna() -> Customer:
    return make.reachable("C-1001", first_name="Anna", last_name="Berg", city="Paris")


@pytest.fixture
def campaign() -> Campaign:
    return make.campaign(
        make.step(
            "paris",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "Paris"}},
            positive="sms",
            negative=None,
        ),
        make.sms(),
        on="Order paid",
        where=[{"field": "amount", "op": ">", "value": 50}],
        name="Thank you",
    )


def work() -> None:
    while sum((dispatch_events(), advance_runs(), send_messages(), settle_runs())):
        pass


def colleague(*permissions: str) -> Client:
    user = User.objects.create_user("ben", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def page(client: Client, campaign: Campaign, status: int = 200, **asked: Any) -> str:
    url = reverse("admin:campaigns_campaign_why", args=[campaign.pk])
    answer = client.get(url, asked)
    assert answer.status_code == status
    return answer.content.decode()


def test_the_page_asks_for_a_customer_and_is_a_tab_of_the_campaign(
    admin_client, campaign
):
    shown = page(admin_client, campaign)

    assert 'name="customer"' in shown
    drawing = reverse("admin:campaigns_campaign_change", args=[campaign.pk])
    tab = reverse("admin:campaigns_campaign_why", args=[campaign.pk])
    assert f'href="{tab}"' in admin_client.get(drawing).content.decode()


def test_a_run_is_shown_with_its_ways_its_message_and_the_filter(
    admin_client, campaign, anna
):
    make.event(anna, "Order paid", id="o-1", amount=70)
    work()

    shown = page(admin_client, campaign, customer="C-1001")

    message = Message.objects.get()
    for told in (
        "Anna Berg",
        "“Order paid”",
        "amount is more than 50",
        "recomputed now, by the clock of",
        "City is “Paris”",
        reverse("admin:messaging_message_change", args=[message.pk]),
    ):
        assert told in shown
    assert "It says otherwise than it did then" not in shown
    Customer.objects.update(city="Rome")
    shown = page(admin_client, campaign, customer="C-1001")
    assert "It says otherwise than it did then" in shown


def test_why_nothing_was_started_and_what_the_other_events_did(
    admin_client, campaign, anna
):
    make.event(anna, "Order paid", id="o-1", amount=70)
    make.event(anna, "Order paid", id="o-2", amount=49.9)
    work()

    shown = page(admin_client, campaign, customer="C-1001")

    assert "amount is more than 50; the event says 49.9." in shown
    assert "?customer=C-1001&amp;event=o-1" in shown
    other = page(admin_client, campaign, customer="C-1001", event="o-1")
    assert "The way" in other
    assert "All of them, newest first" in other


def test_a_run_whose_message_was_not_sent_is_marked(admin_client, campaign):
    make.customer("C-2", city="Paris")
    make.reachable("C-3", city="Paris")
    for customer in Customer.objects.all():
        make.event(customer, "Order paid", amount=70)
    work()

    assert "scx-verdict scx-open" in page(admin_client, campaign, customer="C-2")
    assert "scx-verdict scx-yes" in page(admin_client, campaign, customer="C-3")


def test_a_customer_is_found_by_name_and_by_a_former_id(admin_client, campaign, anna):
    make.customer("C-7", first_name="Anna", last_name="Bergmann")

    several = page(admin_client, campaign, customer="anna")
    assert "fits several customers" in several
    assert "?customer=C-7" in several
    assert "has come in" in page(admin_client, campaign, customer="Anna Bergmann")
    assert "There is no customer “Zoe”" in page(admin_client, campaign, customer="Zoe")


def test_an_odd_address_is_answered_in_words(admin_client, campaign, anna):
    shown = page(admin_client, campaign, 422, customer="C-1001", before="x")
    assert "This cursor is not one of ours." in shown
    page(admin_client, campaign, customer="C-1001\0", event="\0'")


def test_who_may_see_only_campaigns_or_only_customers_sees_no_answer(campaign, anna):
    page(colleague("view_campaign"), campaign, 403, customer="C-1001")
    User.objects.all().delete()
    page(colleague("view_customer"), campaign, 403, customer="C-1001")
    User.objects.all().delete()
    client = colleague("view_campaign", "view_customer")
    make.event(anna, "Order paid", amount=70)
    work()
    shown = page(client, campaign, customer="C-1001")
    assert "/admin/messaging/message/" not in shown
    assert "/admin/campaigns/run/" not in shown


def test_the_profile_has_a_line_for_each_campaign(admin_client, campaign, anna):
    make.event(anna, "Order paid", id="o-1", amount=10)
    work()
    profile = reverse("admin:customers_customer_change", args=[anna.pk])
    part = reverse("admin:customers_customer_campaigns", args=[anna.pk])
    assert f'hx-get="{part}"' in admin_client.get(profile).content.decode()

    shown = admin_client.get(part).content.decode()

    assert "Thank you" in shown
    assert "Not started. The campaign asks that amount is more than 50" in shown
    why = reverse("admin:campaigns_campaign_why", args=[campaign.pk])
    assert f"{why}?customer=C-1001&amp;event=o-1" in shown
    assert colleague("view_customer").get(part).status_code == 403


def test_the_page_costs_as_many_queries_for_many_system_events_as_for_few(
    admin_client, anna
):
    campaign = make.campaign(on="In stock", system=True)

    def cost() -> int:
        with CaptureQueriesContext(connection) as captured:
            page(admin_client, campaign, customer="C-1001")
        return len(captured)

    for _ in range(2):
        make.system_event("In stock")
    dispatch_system_events()
    cost()
    few = cost()
    for _ in range(15):
        make.system_event("In stock")
    dispatch_system_events()

    assert cost() == few

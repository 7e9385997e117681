"""Every page of the back office opens, for who may change and for who may only view."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.core.cache import cache
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from campaigns.models import Broadcast, Campaign, Run, WebhookCall
from customers.models import (
    Attribute,
    Customer,
    Device,
    MailingCategory,
    SharedContact,
)
from events.importing.plan import Column, Plan
from events.importing.reading import Shape
from events.models import (
    ApiKey,
    Event,
    EventType,
    FieldMapping,
    Import,
    RejectedEvent,
    Scope,
    Source,
    SystemEvent,
)
from messaging.models import ChannelSettings, Message, Suppression, Template
from segments.models import Segment
from smartcomm.site.navigation import PLACES
from tests import make

pytestmark = pytest.mark.django_db

numbers = itertools.count(1)


def a_customer() -> Customer:
    customer = make.reachable(first_name="Anna", attributes={"tier": "gold"})
    Device.objects.create(customer=customer, platform="web", token="t")
    return customer


def an_event_type() -> EventType:
    make.event(a_customer(), name := f"Event {next(numbers)}", price=5, shop={"a": 1})
    return EventType.objects.get(name=name)


def a_rejected_event() -> RejectedEvent:
    return RejectedEvent.objects.create(
        source=make.source(), kind="customer", payload='{"name": "x"}', code="x"
    )


def an_import() -> Import:
    number = next(numbers)
    plan = Plan(Import.Kind.EVENTS, Shape("csv"), (Column("event", "name"),))
    return Import.objects.create(
        kind=Import.Kind.EVENTS,
        source=make.source(),
        name=f"orders {number}.csv",
        path=f"/nowhere/{number}",
        size=1000,
        plan=plan.to_json(),
        status=Import.Status.RUNNING,
        rows=3,
        imported=1,
        duplicates=1,
        rejected=1,
    )


def a_source() -> Source:
    source = make.source(f"source {next(numbers)}")
    a_key(source)
    return source


def a_key(source: Source | None = None) -> ApiKey:
    return ApiKey.objects.create(
        source=source or make.source(f"source {next(numbers)}"),
        prefix="sck_x",
        hash=str(next(numbers)),
        scopes=[Scope.READ],
    )


def a_broadcast() -> Broadcast:
    campaign = make.campaign(on=f"System {next(numbers)}", system=True)
    version = campaign.versions.get(status="published")
    return Broadcast.objects.create(
        campaign=campaign,
        version=version,
        system_event=make.system_event(version.event_name),
        last_id=100,
        due_at=timezone.now(),
    )


def a_webhook_call() -> WebhookCall:
    run = a_run()
    now = timezone.now()
    return WebhookCall.objects.create(
        customer=run.customer,
        run=run,
        campaign=run.campaign,
        step=run.step,
        url="https://example.com/hook",
        receiver="example.com:443",
        body="{}",
        status=WebhookCall.Status.FAILED,
        attempts=2,
        tries=[{"at": now.isoformat(), "ms": 5, "status": 404, "error": "gone"}],
        reason="It answered 404.",
        due_at=now,
        expires_at=now,
        created_at=now,
    )


def a_channel() -> ChannelSettings:
    """There are never more than one for each channel."""
    return ChannelSettings.objects.get_or_create(channel="email")[0]


def a_run() -> Run:
    campaign = make.campaign()
    version = campaign.versions.get(status="published")
    now = timezone.now()
    return Run.objects.create(
        customer=(customer := a_customer()),
        campaign=campaign,
        version=version,
        step=version.steps.get(),
        event=make.event(customer, f"Event {next(numbers)}"),
        started_at=now,
        arrived_at=now,
        due_at=now,
    )


def a_shared_contact() -> SharedContact:
    email = f"shared{next(numbers)}@example.com"
    for _ in range(2):
        make.customer(email=email)
    return SharedContact.objects.create(kind="email", value=email)


def a_segment() -> Segment:
    rule = {"attribute": "city", "op": "=", "value": "Riga"}
    return Segment.objects.create(name=f"segment {next(numbers)}", rule=rule)


#: How to make one of each model that the back office shows.
MAKE: dict[type[Model], Callable[[], Model]] = {
    ApiKey: a_key,
    Attribute: lambda: Attribute.objects.create(code=f"code{next(numbers)}"),
    Broadcast: a_broadcast,
    Campaign: make.campaign,
    ChannelSettings: a_channel,
    Customer: a_customer,
    Event: lambda: make.event(a_customer(), f"Event {next(numbers)}", price=5),
    EventType: an_event_type,
    FieldMapping: lambda: FieldMapping.objects.create(
        sent=f"price-{next(numbers)}", code="price"
    ),
    Import: an_import,
    Group: lambda: Group.objects.create(name=f"group {next(numbers)}"),
    MailingCategory: lambda: MailingCategory.objects.create(
        code=f"code{next(numbers)}", name="News"
    ),
    Message: lambda: make.message(a_customer()),
    RejectedEvent: a_rejected_event,
    Run: a_run,
    Segment: a_segment,
    SharedContact: a_shared_contact,
    Source: a_source,
    Suppression: lambda: Suppression.objects.create(
        channel="sms", address=f"+{next(numbers)}", reason="x"
    ),
    SystemEvent: lambda: make.system_event(f"System {next(numbers)}", price=5),
    Template: lambda: Template.objects.create(
        channel="sms", name=f"template {next(numbers)}", text="Hello"
    ),
    WebhookCall: a_webhook_call,
    User: lambda: User.objects.create_user(f"user {next(numbers)}"),
}

REGISTERED = sorted(admin.site._registry, key=lambda model: model._meta.label)
every_model = pytest.mark.parametrize(
    "model", REGISTERED, ids=[model._meta.label for model in REGISTERED]
)


def address(model: type[Model], page: str, *arguments: Any) -> str:
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}"
    return reverse(name, args=arguments)


def one(model: type[Model]) -> Model:
    assert model in MAKE, (
        f"{model._meta.label} is in the back office, and MAKE in this file cannot make "
        "one. Add a line."
    )
    return MAKE[model]()


def viewer_of(*models: type[Model]) -> Client:
    """Staff who may view these models, and nothing else."""
    user = User.objects.create_user(f"viewer {next(numbers)}", is_staff=True)
    for model in models:
        user.user_permissions.add(
            Permission.objects.get(
                content_type__app_label=model._meta.app_label,
                codename=f"view_{model._meta.model_name}",
            )
        )
    client = Client()
    client.force_login(user)
    return client


@every_model
def test_the_list_opens_empty_and_with_rows(admin_client, model):
    url = address(model, "changelist")
    assert admin_client.get(url).status_code == 200
    one(model)

    answer = admin_client.get(url)

    assert answer.status_code == 200
    assert "sc-" in answer.content.decode() or "result_list" in answer.content.decode()


@every_model
def test_the_list_can_be_searched(admin_client, model):
    one(model)

    for text in ("a", "%", "two words", "'\"", "\\", "1"):
        answer = admin_client.get(address(model, "changelist"), {"q": text})
        assert answer.status_code == 200


@every_model
def test_each_filter_of_the_list_opens(admin_client, model):
    one(model)
    url = address(model, "changelist")
    changelist = admin_client.get(url).context["cl"]

    for spec in changelist.filter_specs:
        for choice in spec.choices(changelist):
            if "query_string" in choice:
                assert admin_client.get(url + choice["query_string"]).status_code == 200


@every_model
def test_the_page_of_a_row_opens(admin_client, model):
    row = one(model)

    assert admin_client.get(address(model, "change", row.pk)).status_code == 200


@every_model
def test_the_page_for_a_new_row_opens_or_is_refused(
    admin_client, model, rf, admin_user
):
    request = rf.get("/")
    request.user = admin_user
    expected = 200 if admin.site._registry[model].has_add_permission(request) else 403

    assert admin_client.get(address(model, "add")).status_code == expected


@every_model
def test_the_history_of_a_row_opens(admin_client, model):
    row = one(model)

    assert admin_client.get(address(model, "history", row.pk)).status_code == 200


@every_model
def test_who_may_only_view_sees_list_and_row_and_can_change_nothing(model):
    row = one(model)
    client = viewer_of(model)

    assert client.get(address(model, "changelist")).status_code == 200
    assert client.get(address(model, "change", row.pk)).status_code == 200
    for page, arguments in [("add", []), ("delete", [row.pk])]:
        assert client.post(address(model, page, *arguments), {}).status_code == 403
    assert model._default_manager.filter(pk=row.pk).exists()


@every_model
def test_who_may_view_something_else_sees_nothing_of_it(model):
    row = one(model)
    client = viewer_of(Group if model is not Group else User)

    assert client.get(address(model, "changelist")).status_code == 403
    # The row is refused, or the reader is sent away without being told it exists.
    assert client.get(address(model, "change", row.pk)).status_code in (302, 403)


@every_model
def test_a_list_costs_as_many_queries_for_many_rows_as_for_few(admin_client, model):
    def queries() -> int:
        cache.clear()
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.get(address(model, "changelist")).status_code == 200
        return len(captured)

    few, many = 3, 12
    for _ in range(few):
        one(model)
    queries()
    cost = queries()
    for _ in range(many - few):
        one(model)

    assert queries() == cost


@every_model
def test_every_list_is_in_the_side_bar_or_left_out_on_purpose(model):
    inside = {place.model for places in PLACES.values() for place in places}
    # Keys are shown on the pages of their sources.
    on_purpose = {"events.apikey"}

    assert model._meta.label_lower in inside | on_purpose


@pytest.mark.parametrize(
    "place",
    [place for places in PLACES.values() for place in places],
    ids=lambda place: place.model,
)
def test_every_place_in_the_side_bar_exists(place):
    try:
        reverse(place.url_name)
    except NoReverseMatch:
        pytest.fail(
            f"“{place.title}” leads nowhere: {place.model} is not registered. Correct "
            "PLACES in smartcomm/site/navigation.py."
        )
    assert Permission.objects.filter(
        codename=place.permission.split(".")[1],
        content_type__app_label=place.permission.split(".")[0],
    ).exists()

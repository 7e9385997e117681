"""Journals, rejected events, types, sources and their keys in the back office."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from events.admin.types import recent_values
from events.ingest import record_events
from events.keys import KeyRefused, check_key, create_key, hash_of
from events.models import (
    ApiKey,
    Drift,
    Event,
    EventField,
    EventType,
    RejectedEvent,
    Source,
)
from tests import make

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def rows(answer) -> int:
    return answer.content.decode().count('<tr class="data-row')


def refuse(*items: dict) -> list[RejectedEvent]:
    recorded = record_events(items, source=make.source())
    assert recorded.rejected == len(items)
    return list(RejectedEvent.objects.order_by("pk"))


# journals


@pytest.mark.parametrize("model", ["event", "systemevent", "rejectedevent"])
def test_a_journal_cannot_be_added_to_changed_or_deleted(admin_client, model):
    anna = make.customer("anna")
    made = {
        "event": lambda: make.event(anna, "Order paid"),
        "systemevent": lambda: make.system_event("Product in stock"),
        "rejectedevent": lambda: refuse({"name": "", "customer": "anna"})[0],
    }[model]()

    for page, arguments in [("add", []), ("delete", [made.pk])]:
        url = reverse(f"admin:events_{model}_{page}", args=arguments)
        assert admin_client.post(url, {"post": "yes"}).status_code == 403
    url = reverse(f"admin:events_{model}_change", args=[made.pk])
    assert admin_client.post(url, {}).status_code == 403
    assert admin_client.get(url).status_code == 200


def test_the_journal_is_searched_by_the_whole_id_of_an_event_or_a_customer(
    admin_client,
):
    anna, ben = make.customer("anna"), make.customer("ben")
    make.event(anna, "Order paid", id="order-1")
    make.event(anna, "Order paid", id="order-2")
    make.event(ben, "Order paid", id="order-1")
    url = reverse("admin:events_event_changelist")

    found = {
        q: rows(admin_client.get(url, {"q": q})) for q in ("order-1", "anna", "ord")
    }

    assert found == {"order-1": 2, "anna": 2, "ord": 0}


def test_the_journal_is_filtered_by_type_source_and_time_of_receipt(admin_client):
    anna = make.customer("anna")
    now = timezone.now()
    make.event(anna, "Order paid", now=now - timedelta(days=20))
    make.event(anna, "Call received", now=now - timedelta(days=3))
    paid = EventType.objects.get(name="Order paid")
    url = reverse("admin:events_event_changelist")

    def count(**asked: object) -> int:
        return rows(admin_client.get(url, asked))

    assert count(type=paid.pk) == 1
    assert count(type="x") == 2
    assert count(source__id__exact=make.source().pk) == 2
    assert (count(since=1), count(since=7), count(since=30)) == (0, 1, 2)


def test_an_event_shows_its_context_with_labels_and_nothing_escapes(admin_client):
    event = make.event(
        make.customer("anna"), "Order paid", product_id=77, note="<script>x</script>"
    )
    EventField.objects.filter(code="product_id").update(label="Product number")

    url = reverse("admin:events_event_change", args=[event.pk])
    page = admin_client.get(url).content.decode()

    assert "Product number" in page
    assert "&lt;script&gt;x" in page
    assert "<script>x" not in page


# rejected events


def test_a_rejected_event_tells_the_reason_and_shows_what_was_sent(admin_client):
    (row,) = refuse({"name": "Order paid", "customer": "anna", "context": {"a-b": 1}})

    url = reverse("admin:events_rejectedevent_change", args=[row.pk])
    page = admin_client.get(url).content.decode()

    assert "Field code invalid" in page
    assert "context.a-b" in page
    assert "&quot;a-b&quot;: 1" in page


def test_what_is_not_even_json_is_shown_as_it_came(admin_client):
    row = RejectedEvent.objects.create(
        source=make.source(),
        kind="customer",
        payload="{not json",
        code="x",
        message="y",
    )

    url = reverse("admin:events_rejectedevent_change", args=[row.pk])
    assert "{not json" in admin_client.get(url).content.decode()
    assert rows(admin_client.get(reverse("admin:events_rejectedevent_changelist"))) == 1


def test_rejected_events_are_replayed_from_the_list(admin_client):
    source = make.source(unknown_customers="reject")
    refuse({"name": "Order paid", "customer": "anna"}, {"name": "", "customer": "anna"})
    make.customer("anna")
    assert not Event.objects.exists()

    answer = admin_client.post(
        reverse("admin:events_rejectedevent_changelist"),
        {
            "action": "replay",
            "_selected_action": list(
                RejectedEvent.objects.values_list("pk", flat=True)
            ),
        },
        follow=True,
    ).content.decode()

    assert "1 recorded, 1 still refused." in answer
    assert Event.objects.get().source == source
    left = RejectedEvent.objects.order_by("pk").values_list("status", flat=True)
    assert list(left) == ["replayed", "open"]


def test_one_rejected_event_is_replayed_after_asking(admin_client):
    make.source(unknown_customers="reject")
    (row,) = refuse({"name": "Order paid", "customer": "anna"})
    make.customer("anna")
    url = reverse("admin:events_rejectedevent_replay_one", args=[row.pk])

    asked = admin_client.get(url)
    before = Event.objects.count()
    admin_client.post(url)

    assert "Replay this event?" in asked.content.decode()
    assert (before, Event.objects.count()) == (0, 1)


def test_who_may_only_view_does_not_replay(client):
    (row,) = refuse({"name": "", "customer": "anna"})
    user = User.objects.create_user("vera", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_rejectedevent"))
    client.force_login(user)

    url = reverse("admin:events_rejectedevent_replay_one", args=[row.pk])
    assert client.post(url).status_code == 403
    page = client.get(reverse("admin:events_rejectedevent_changelist"))
    assert "Replay the chosen" not in page.content.decode()


# event types


def test_new_types_are_marked_until_somebody_has_reviewed_them(admin_client):
    make.event(make.customer("anna"), "Order paid")
    event_type = EventType.objects.get()
    url = reverse("admin:events_eventtype_changelist")
    before = admin_client.get(url).content.decode()

    admin_client.post(
        url, {"action": "mark_reviewed", "_selected_action": [event_type.pk]}
    )

    event_type.refresh_from_db()
    assert "new, not reviewed" in before
    assert event_type.is_reviewed
    assert LogEntry.objects.get().object_id == str(event_type.pk)


def test_staff_correct_the_label_and_the_type_of_a_field_but_not_its_code(admin_client):
    make.event(make.customer("anna"), "Order paid", product_id="77")
    event_type, field = EventType.objects.get(), EventField.objects.get()

    admin_client.post(
        reverse("admin:events_eventtype_change", args=[event_type.pk]),
        {
            "description": "",
            "mode": "enforced",
            "name": "renamed",
            "fields-TOTAL_FORMS": "1",
            "fields-INITIAL_FORMS": "1",
            "fields-0-id": str(field.pk),
            "fields-0-type": str(event_type.pk),
            "fields-0-code": "renamed",
            "fields-0-label": "Product number",
            "fields-0-value_type": "number",
        },
    )

    event_type.refresh_from_db()
    field.refresh_from_db()
    assert (event_type.name, event_type.mode) == ("Order paid", "enforced")
    assert (field.code, field.label, field.value_type) == (
        "product_id",
        "Product number",
        "number",
    )


def test_the_last_three_different_values_of_a_field_are_shown(admin_client):
    anna = make.customer("anna")
    for city in ("Riga", "Berlin", "Paris", "Paris", "Wien"):
        make.event(anna, "Order paid", address={"city": city})
    make.event(anna, "Call received", address={"city": "Rom"})

    seen = recent_values(EventType.objects.get(name="Order paid"))

    assert seen["address.city"] == ["Wien", "Paris", "Berlin"]
    url = reverse(
        "admin:events_eventtype_change",
        args=[EventType.objects.get(name="Order paid").pk],
    )
    assert "Wien · Paris · Berlin" in admin_client.get(url).content.decode()


def test_values_of_a_type_not_seen_lately_are_found_too(monkeypatch):
    monkeypatch.setattr("events.admin.types.LOOKED_THROUGH", 1)
    anna = make.customer("anna")
    make.event(anna, "Order paid", total=5)
    make.event(anna, "Call received")

    assert recent_values(EventType.objects.get(name="Order paid")) == {"total": [5]}


def test_a_type_with_events_is_not_deleted(admin_client):
    make.event(make.customer("anna"), "Order paid")
    url = reverse("admin:events_eventtype_delete", args=[EventType.objects.get().pk])

    assert admin_client.post(url, {"post": "yes"}).status_code == 403


def a_type_with_drift() -> EventType:
    """Enforced; `amount` came as text, `coupon` is not declared, `shop` is gone."""
    order = make.event_type("Order paid", mode="enforced", is_reviewed=True)
    now = timezone.now()
    for code, value_type in [("amount", "number"), ("shop", "string")]:
        EventField.objects.create(
            type=order,
            code=code,
            value_type=value_type,
            last_seen_on=now.date() - timedelta(days=30 if code == "shop" else 0),
        )
    EventType.objects.filter(pk=order.pk).update(last_seen_on=now.date())
    for code, what in [("amount", "type_changed"), ("coupon", "new_field")]:
        Drift.objects.create(
            type=order,
            code=code,
            what=what,
            found_type="string",
            source=make.source("till"),
            event_id="order-77",
            first_seen_at=now,
            last_seen_at=now,
        )
    return order


def page_of(event_type: EventType) -> str:
    return reverse("admin:events_eventtype_change", args=[event_type.pk])


def settle(client, event_type: EventType, do: str, *keys: str) -> str:
    url = reverse("admin:events_eventtype_changes", args=[event_type.pk])
    answer = client.post(url, {"do": do, "key": keys}, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def test_changes_are_counted_in_the_list_and_shown_on_the_page_of_the_type(
    admin_client,
):
    order = a_type_with_drift()
    make.event_type("Call received")
    url = reverse("admin:events_eventtype_changelist")

    page = admin_client.get(page_of(order)).content.decode()

    assert "3 changes" in admin_client.get(url).content.decode()
    assert rows(admin_client.get(url, {"changes": "yes"})) == 1
    assert rows(admin_client.get(url, {"changes": "no"})) == 1
    assert "3 changes to look at" in page
    assert "Declared as number, and it comes as text." in page
    assert "Such events are rejected and kept." in page
    assert "order-77" in page
    assert "from till" in page
    assert "no longer seen" in page


def test_a_change_is_accepted_or_dismissed_and_shown_again(admin_client):
    order = a_type_with_drift()
    amount, coupon = order.drifts.get(code="amount"), order.drifts.get(code="coupon")
    shop = order.fields.get(code="shop")

    settle(admin_client, order, "accept", f"drift-{coupon.pk}")
    assert order.fields.get(code="coupon").value_type == "string"
    settle(admin_client, order, "dismiss", f"drift-{amount.pk}", f"field-{shop.pk}")
    page = settle(admin_client, order, "accept", f"drift-{coupon.pk}", "nonsense")

    assert "to look at" not in page
    assert order.fields.get(code="amount").value_type == "number"
    assert LogEntry.objects.count() == 2
    assert "2 changes to look at" in settle(admin_client, order, "restore", "all")
    settle(admin_client, order, "accept", f"field-{shop.pk}")
    assert not order.fields.filter(code="shop").exists()


def test_who_may_only_view_settles_no_change_and_imports_nothing(client):
    order = a_type_with_drift()
    user = User.objects.create_user("vera", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_eventtype"))
    client.force_login(user)
    url = reverse("admin:events_eventtype_changes", args=[order.pk])

    assert client.post(url, {"do": "accept", "key": "drift-1"}).status_code == 403
    for page, arguments in [("import_schema", [order.pk]), ("import_new", [])]:
        url = reverse(f"admin:events_eventtype_{page}", args=arguments)
        assert client.post(url, {"text": "{}", "do": "import"}).status_code == 403
    page = client.get(page_of(order)).content.decode()
    assert "3 changes to look at" in page
    assert "It is fine</button>" not in page
    url = reverse("admin:events_eventtype_export_schema", args=[order.pk])
    assert client.get(url).status_code == 200
    assert (order.drifts.count(), order.fields.count()) == (2, 2)


def test_the_page_says_what_each_mode_would_do_to_the_last_events(admin_client):
    anna = make.customer("anna")
    for number in range(4):
        make.event(anna, "Order paid", amount=number if number else "none")
    order = EventType.objects.get()
    order.fields.update(value_type="number")

    page = admin_client.get(page_of(order)).content.decode()

    assert "Of the last 4 events 1 differ (25.0%): “amount” came as text (1)." in page


def field_form(order: EventType, **new: str) -> dict[str, str]:
    """The form of a type with its fields as they are, and one more."""
    fields = list(order.fields.all())
    data = {
        "description": "",
        "mode": order.mode,
        "is_reviewed": "on",
        "fields-TOTAL_FORMS": str(len(fields) + 1),
        "fields-INITIAL_FORMS": str(len(fields)),
    }
    for at, field in enumerate(fields):
        data |= {
            f"fields-{at}-id": str(field.pk),
            f"fields-{at}-type": str(order.pk),
            f"fields-{at}-label": field.label,
            f"fields-{at}-value_type": field.value_type,
        }
    return data | {f"fields-{len(fields)}-{name}": value for name, value in new.items()}


def test_a_field_is_declared_by_hand_and_settles_its_change(admin_client):
    order = a_type_with_drift()
    EventType.objects.filter(pk=order.pk).update(is_awaited=True)

    data = field_form(order, code="coupon", value_type="string", is_required="on")
    admin_client.post(page_of(order), data)

    field = order.fields.get(code="coupon")
    assert (field.value_type, field.is_required) == ("string", True)
    assert not order.drifts.filter(code="coupon").exists()
    assert order.drifts.filter(code="amount").exists()
    order.refresh_from_db()
    # What campaigns and events write to the row is left alone.
    assert order.is_awaited
    assert order.last_seen_on is not None


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("price-eur", "is no field code"),
        ("amount.cents", "Declare “amount” as an object first"),
        ("a.b.c.d", "is too deep"),
    ],
)
def test_a_field_that_no_event_can_carry_is_not_declared(admin_client, code, sentence):
    order = a_type_with_drift()

    page = admin_client.post(
        page_of(order), field_form(order, code=code, value_type="string")
    ).content.decode()

    assert sentence in page
    assert order.fields.count() == 2


def test_a_schema_is_exported_shown_and_imported(admin_client):
    order = a_type_with_drift()
    export = reverse("admin:events_eventtype_export_schema", args=[order.pk])
    answer = admin_client.get(export)
    data = json.loads(answer.content)
    assert 'filename="order-paid.schema.json"' in answer["Content-Disposition"]
    data["properties"]["coupon"] = {"type": ["string", "null"], "maxLength": 9}
    del data["properties"]["shop"]
    url = reverse("admin:events_eventtype_import_schema", args=[order.pk])

    shown = admin_client.post(url, {"do": "look", "text": json.dumps(data)})
    page = shown.content.decode()
    assert "new: text" in page
    assert "no longer declared" in page
    assert "a longer text is let through" in page
    assert order.fields.filter(code="shop").exists()

    admin_client.post(url, {"do": "import", "text": json.dumps(data)})
    assert set(order.fields.values_list("code", flat=True)) == {"amount", "coupon"}
    assert LogEntry.objects.count() == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Choose a file, or paste a schema."),
        ("{", "This is not JSON"),
        ("[]", "A JSON Schema is an object."),
        ('{"properties": {"a-b": {"type": "string"}}}', "properties.a-b"),
        ('{"title": "Order paid"}', "There is an event type “Order paid” already."),
        ("{}", "is a text of 1 to 128 characters"),
    ],
)
def test_a_schema_that_is_refused_makes_no_type(admin_client, text, sentence):
    make.event_type("Order paid")
    url = reverse("admin:events_eventtype_import_new")

    answer = admin_client.post(url, {"do": "import", "text": text})

    assert answer.status_code == 200
    assert sentence in answer.content.decode()
    assert EventType.objects.count() == 1


def test_a_type_is_declared_by_a_file(admin_client):
    data = {"title": "Order paid", "properties": {"amount": {"type": "number"}}}
    file = SimpleUploadedFile("order.json", json.dumps(data).encode())

    admin_client.post(
        reverse("admin:events_eventtype_import_new"), {"do": "import", "file": file}
    )

    assert EventType.objects.get().name == "Order paid"
    assert EventField.objects.get().code == "amount"


# sources and keys


def new_key(client, source, **fields):
    url = reverse("admin:events_source_new_key", args=[source.pk])
    client.get(url)
    return client.post(url, {"name": "Shop", "scopes": ["events:write"], **fields})


def secret_in(page: str) -> str:
    (secret,) = re.findall(r'id="new-key">([^<]+)<', page)
    return str(secret)


def test_a_new_key_is_shown_once_and_only_its_hash_is_kept(admin_client):
    source = make.source()

    answer = new_key(admin_client, source, scopes=["events:write", "read"])
    secret = secret_in(answer.content.decode())

    key = ApiKey.objects.get()
    assert key.hash == hash_of(secret)
    assert (key.source, key.name, key.scopes) == (
        source,
        "Shop",
        ["events:write", "read"],
    )
    assert check_key(secret, now=timezone.now()) == key
    assert "no-store" in answer["Cache-Control"]
    page = admin_client.get(reverse("admin:events_source_change", args=[source.pk]))
    assert key.prefix in page.content.decode()
    assert secret not in page.content.decode()
    session = json.dumps(dict(admin_client.session.items()))
    assert secret not in session
    assert "API key" in LogEntry.objects.get().get_change_message()


def test_reloading_the_page_with_the_key_makes_no_second_one(admin_client):
    source = make.source()
    new_key(admin_client, source)
    url = reverse("admin:events_source_new_key", args=[source.pk])

    again = admin_client.post(url, {"name": "Shop", "scopes": ["read"]}, follow=True)

    assert ApiKey.objects.count() == 1
    assert "is not shown again" in again.content.decode()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"scopes": []}, "Choose at least one thing that the key may do."),
        (
            {"expires_at_0": "2020-01-01", "expires_at_1": "10:00"},
            "This time has passed. Choose a later one.",
        ),
    ],
)
def test_a_key_that_would_open_nothing_is_refused(admin_client, fields, sentence):
    answer = new_key(admin_client, make.source(), **fields)

    assert sentence in answer.content.decode()
    assert not ApiKey.objects.exists()


def test_a_revoked_key_is_refused_and_stays_listed(admin_client):
    source = make.source()
    secret = secret_in(new_key(admin_client, source).content.decode())
    key = ApiKey.objects.get()
    url = reverse("admin:events_source_revoke_key", args=[source.pk, key.pk])

    asked = admin_client.get(url)
    still = check_key(secret, now=timezone.now())
    page = admin_client.post(url, follow=True).content.decode()

    assert "Revoke this key?" in asked.content.decode()
    assert still == key
    assert "revoked" in page
    with pytest.raises(KeyRefused):
        check_key(secret, now=timezone.now())


def test_who_may_not_make_keys_makes_none(client):
    source = make.source()
    user = User.objects.create_user("vera", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_source"))
    client.force_login(user)
    url = reverse("admin:events_source_new_key", args=[source.pk])

    assert client.get(url).status_code == 403
    assert client.post(url, {"scopes": ["read"]}).status_code == 403
    page = client.get(reverse("admin:events_source_change", args=[source.pk]))
    assert url not in page.content.decode()
    assert not ApiKey.objects.exists()


def test_the_list_of_sources_counts_the_keys_that_work(admin_client):
    source = make.source()
    for name in ("a", "b", "c"):
        new_key(admin_client, source, name=name)
    ApiKey.objects.filter(name="b").update(revoked_at=timezone.now())
    ApiKey.objects.filter(name="c").update(expires_at=timezone.now() - timedelta(1))

    page = admin_client.get(reverse("admin:events_source_changelist")).content.decode()

    assert re.search(r'data-label="Working keys">1<', page)


def source_page(source: Source) -> str:
    return reverse("admin:events_source_change", args=[source.pk])


def save_source(client, source: Source, **fields):
    return client.post(
        source_page(source),
        {
            "name": source.name,
            "is_active": "on",
            "unknown_customers": source.unknown_customers,
            "requests_per_second": "",
            "allowed_networks": "",
            **fields,
        },
    )


def test_staff_say_how_much_a_source_may_send_and_from_where(admin_client):
    source = make.source()

    answer = save_source(
        admin_client,
        source,
        requests_per_second="50",
        allowed_networks="203.0.113.9/24, ::ffff:10.1.2.3\n2001:DB8::1\n10.1.2.3",
    )

    assert answer.status_code == 302
    source.refresh_from_db()
    assert source.requests_per_second == 50
    assert source.allowed_networks == ["203.0.113.0/24", "10.1.2.3", "2001:db8::1"]
    page = admin_client.get(source_page(source)).content.decode()
    assert "203.0.113.0/24\n10.1.2.3\n2001:db8::1" in page


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"allowed_networks": "10.0.0.1 shop.example.com"}, "is no address"),
        ({"allowed_networks": "0.0.0.0/0"}, "Leave the list empty"),
        ({"allowed_networks": "8.0.0.0/5"}, "too broad"),
        ({"requests_per_second": "1000001"}, "1000000"),
        ({"requests_per_second": "-1"}, "greater than or equal to 0"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_and_nothing_is_saved(
    admin_client, fields, sentence
):
    source = make.source()

    answer = save_source(admin_client, source, **fields)

    assert answer.status_code == 200
    assert sentence in answer.content.decode()
    source.refresh_from_db()
    assert (source.requests_per_second, source.allowed_networks) == (None, [])


def test_the_page_of_a_source_tells_the_address_it_sees_and_of_a_forgotten_proxy(
    admin_client, settings
):
    url = source_page(make.source())
    forwarded = {"X-Forwarded-For": "203.0.113.7"}

    plain = admin_client.get(url).content.decode()
    behind = admin_client.get(url, headers=forwarded).content.decode()
    settings.TRUSTED_PROXIES = 1
    told = admin_client.get(url, headers=forwarded).content.decode()

    assert "You come from 127.0.0.1" in plain
    assert "TRUSTED_PROXIES" not in plain
    assert "TRUSTED_PROXIES" in behind
    assert "You come from 203.0.113.7" in told
    assert "TRUSTED_PROXIES" not in told


def test_the_page_of_a_source_tells_what_it_sent_lately(admin_client):
    source = make.source()
    make.event(make.customer(), "Order paid")
    record_events([{"name": "", "customer": "anna"}], source=source)
    record_events([{"name": ""}], source=make.source("another"))

    page = admin_client.get(source_page(source)).content.decode()

    assert re.search(r"Events</h3><strong>1</strong>", page)
    assert re.search(r"Rejected</h3><strong>1</strong>", page)
    (query,) = re.findall(r'href="([^"]*rejectedevent/\?[^"]+)"', page)
    listed = admin_client.get(query.replace("&amp;", "&"))
    assert (listed.status_code, rows(listed)) == (200, 1)


def rotate_page(key: ApiKey) -> str:
    return reverse("admin:events_source_rotate_key", args=[key.source_id, key.pk])


def test_a_key_is_rotated_and_the_new_one_shown_once(admin_client):
    source = make.source()
    secret = secret_in(new_key(admin_client, source).content.decode())
    old = ApiKey.objects.get()

    asked = admin_client.get(rotate_page(old)).content.decode()
    assert ApiKey.objects.count() == 1
    answer = admin_client.post(rotate_page(old), {"overlap": "168"})
    again = admin_client.post(rotate_page(old), {"overlap": "168"}, follow=True)

    new = ApiKey.objects.get(replaces=old)
    shown = secret_in(answer.content.decode())
    assert "How long the old key goes on" in asked
    assert "no-store" in answer["Cache-Control"]
    assert check_key(shown, now=timezone.now()) == new
    assert check_key(secret, now=timezone.now()) == old
    assert ApiKey.objects.count() == 2
    assert f"{new} replaces it" in again.content.decode()
    assert shown not in again.content.decode()
    page = admin_client.get(source_page(source)).content.decode()
    assert f"Expires in 7 days because {new} replaces it." in page
    assert f"replaces {old}" in page
    assert rotate_page(new) in page
    assert rotate_page(old) not in page
    assert f"Rotated the API key {old}: {new}." in {
        entry.get_change_message() for entry in LogEntry.objects.all()
    }


@pytest.mark.parametrize("overlap", ["", "5", "-1", "soon"])
def test_an_overlap_that_is_not_offered_is_refused(admin_client, overlap):
    new_key(admin_client, make.source())
    key = ApiKey.objects.get()

    answer = admin_client.post(rotate_page(key), {"overlap": overlap})

    assert answer.status_code == 200
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("rights", [["add_apikey"], ["change_apikey"], []])
def test_who_may_not_both_make_and_end_keys_rotates_none(client, admin_client, rights):
    new_key(admin_client, make.source())
    key = ApiKey.objects.get()
    user = User.objects.create_user("vera", is_staff=True)
    names = ["view_source", *rights]
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(user)

    assert client.post(rotate_page(key), {"overlap": "0"}).status_code == 403
    assert client.get(rotate_page(key)).status_code == 403
    page = client.get(source_page(key.source)).content.decode()
    assert rotate_page(key) not in page
    # What it sent is for those who may view events.
    assert "Last event" not in page
    assert ApiKey.objects.count() == 1


def test_the_page_of_a_source_warns_of_an_old_key_that_is_still_used(admin_client):
    new_key(admin_client, make.source())
    key = ApiKey.objects.get()
    page = admin_client.get(source_page(key.source)).content.decode()
    assert "never used" in page

    admin_client.post(rotate_page(key), {"overlap": "24"})
    now = timezone.now()
    ApiKey.objects.filter(replaces=key).update(created_at=now - timedelta(hours=1))
    ApiKey.objects.filter(pk=key.pk).update(last_used_at=now - timedelta(minutes=5))

    page = admin_client.get(source_page(key.source)).content.decode()
    assert "5 minutes ago" in page
    assert "old key still used" in page


def test_more_keys_cost_the_pages_of_a_source_no_more_queries(admin_client):
    source = make.source()

    def queries() -> list[int]:
        counts = []
        for url in (
            source_page(source),
            reverse("admin:events_apikey_changelist"),
            reverse("admin:events_source_changelist"),
            reverse("admin:index"),
        ):
            admin_client.get(url)
            with CaptureQueriesContext(connection) as captured:
                assert admin_client.get(url).status_code == 200
            counts.append(len(captured))
        return counts

    def keys_of_all_kinds() -> None:
        for overlap in ("24", "168"):
            key, _ = create_key(source, ["read"])
            admin_client.post(rotate_page(key), {"overlap": overlap})

    keys_of_all_kinds()
    few = queries()
    for _ in range(3):
        keys_of_all_kinds()

    assert queries() == few

"""Rejected events in the back office: by reason, with what can be done about each."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlencode

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from customers.models import Customer
from events import mappings, rejects, remedies, replays
from events.admin.reasons import which_of
from events.ingest import record_events
from events.models import (
    Event,
    EventField,
    EventType,
    FieldMapping,
    Kind,
    PendingEvent,
    RejectedEvent,
    Replay,
    Source,
)
from events.rejects import Which
from tests import make

pytestmark = pytest.mark.django_db

GROUPS = "admin:events_rejectedevent_groups"


def send(*items, source=None, kind=Kind.CUSTOMER):
    return record_events(items, source=source or make.source(), kind=kind)


def order(id="1", name="Order paid", customer="C-1", **more):
    return {"id": id, "name": name, "customer": customer, **more}


def hyphens(count=3, **more):
    items = [order(str(i), context={"price-eur": i}, **more) for i in range(count)]
    assert send(*items).rejected == count


def of(code):
    """The address of the one group with this code."""
    (group,) = rejects.groups(Which(code=code))
    return urlencode(group.which.to_json())


def at(page, code):
    return f"{reverse(f'admin:events_rejectedevent_{page}')}?{of(code)}"


def text(answer):
    return " ".join(answer.content.decode().split())


def staff(client, *codenames):
    user = User.objects.create_user("vera", is_staff=True)
    for codename in codenames:
        user.user_permissions.add(Permission.objects.get(codename=codename))
    client.force_login(user)
    return client


# groups


def test_events_with_the_same_reason_place_event_and_source_are_one_group():
    hyphens(3)
    send(order("x", context={"vat-eur": 1}))
    send(order("y", name="Call received", context={"price-eur": 1}))
    send(order("z", context={"price-eur": 1}), source=make.source("till"))

    found = rejects.groups(Which())

    assert [
        (one.count, one.source.name, one.code, one.field, one.name) for one in found
    ] == [
        (3, "shop", "field_code_invalid", "context.price-eur", "Order paid"),
        (1, "till", "field_code_invalid", "context.price-eur", "Order paid"),
        (1, "shop", "field_code_invalid", "context.price-eur", "Call received"),
        (1, "shop", "field_code_invalid", "context.vat-eur", "Order paid"),
    ]
    assert sum(one.count for one in found) == RejectedEvent.objects.count()


def test_a_group_tells_its_first_and_last_time_and_shows_the_latest(admin_client):
    hyphens(3)
    old = timezone.now() - timedelta(days=40)
    RejectedEvent.objects.filter(external_id="0").update(received_at=old)

    (group,) = rejects.groups(Which())
    page = text(admin_client.get(reverse(GROUPS)))

    assert (group.first_at, group.example.external_id) == (old, "2")
    assert "A field code that cannot be used" in page
    assert "“price-eur” is no field code" in page
    assert "&quot;price-eur&quot;: 2" in page
    assert "See all 3" in page


def test_what_was_replayed_or_set_aside_is_in_no_open_group():
    hyphens(3)
    RejectedEvent.objects.filter(external_id="0").update(status="replayed")
    RejectedEvent.objects.filter(external_id="1").update(status="set_aside")

    (group,) = rejects.groups(Which())

    assert group.count == 1


def test_one_click_leads_from_a_group_to_its_rows(admin_client):
    hyphens(3)
    send(order("x", context={"vat-eur": 1}))
    page = admin_client.get(reverse(GROUPS))
    urls = {one.field: one.rows_url for one in page.context["shown"]}

    for field, count in (("price-eur", 3), ("vat-eur", 1)):
        rows = admin_client.get(urls[field]).context["cl"].result_list
        assert len(rows) == count


def test_the_page_costs_as_many_queries_for_many_groups_as_for_few(admin_client):
    def cost():
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.get(reverse(GROUPS)).status_code == 200
        return len(captured)

    def group(number):
        send(order(f"x{number}", context={f"a-{number}": 1}))

    group(1)
    cost()
    few = cost()
    for number in range(2, 12):
        group(number)

    assert cost() == few


def test_only_the_biggest_groups_are_shown_and_it_is_said(admin_client, monkeypatch):
    monkeypatch.setattr(rejects, "MAX_GROUPS", 2)
    for number in range(3):
        send(order(f"x{number}", context={f"a-{number}": 1}))

    page = text(admin_client.get(reverse(GROUPS)))

    assert "The 2 biggest groups" in page


def test_the_groups_are_narrowed_to_a_reason_and_a_source(admin_client):
    hyphens()
    send(order(name=""), source=make.source("till"))

    def fields(**asked):
        page = admin_client.get(reverse(GROUPS), asked)
        return [one.group.code for one in page.context["shown"]]

    assert fields(code="name_missing") == ["name_missing"]
    assert fields(source=make.source().pk) == ["field_code_invalid"]
    # What is not understood matches nobody.
    assert fields(source="x") == []
    assert fields(code="customer_unknown") == []


def test_without_rejected_events_the_page_says_that_all_is_recorded(admin_client):
    assert "all that was sent has been recorded" in text(
        admin_client.get(reverse(GROUPS))
    )


@pytest.mark.parametrize("payload", ["{not json", "3", '{"customer": 5}', "null"])
@pytest.mark.parametrize("code", [*remedies.REMEDIES, "from_a_later_version"])
def test_every_reason_has_a_card_whatever_was_sent(admin_client, code, payload):
    RejectedEvent.objects.create(
        source=make.source(), kind="customer", payload=payload, code=code, message="No."
    )

    assert admin_client.get(reverse(GROUPS)).status_code == 200


# a field is renamed


def test_a_renamed_field_is_mapped_and_its_events_are_replayed(admin_client):
    hyphens(3)
    url = at("rename_field", "field_code_invalid")
    asked = text(admin_client.get(url))

    answer = admin_client.post(
        url,
        {"code": "price_eur", "of_source": "this", "of_event": "this"},
        follow=True,
    )

    assert 'value="price_eur"' in asked
    mapping = FieldMapping.objects.get()
    assert (mapping.source, mapping.event_name) == (make.source(), "Order paid")
    assert (mapping.sent, mapping.code) == ("price-eur", "price_eur")
    assert "3 recorded." in text(answer)
    assert Event.objects.filter(context__has_key="price_eur").count() == 3
    assert not RejectedEvent.objects.filter(status="open").exists()
    assert LogEntry.objects.filter(object_id=str(mapping.pk)).exists()
    # And the next event needs nobody.
    assert send(order("9", context={"price-eur": 9})).accepted == 1


def test_a_mapping_can_be_of_any_source_and_any_event(admin_client):
    hyphens()

    admin_client.post(
        at("rename_field", "field_code_invalid"),
        {"code": "price", "of_source": "all", "of_event": "all"},
    )

    mapping = FieldMapping.objects.get()
    assert (mapping.source, mapping.event_name, mapping.code) == (None, "", "price")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("price-euro", "“price-euro” is no field code"),
        ("", "This field is required"),
        ("1st", "“1st” is no field code"),
    ],
)
def test_a_new_name_that_is_no_field_code_is_refused(admin_client, code, sentence):
    hyphens()

    answer = admin_client.post(
        at("rename_field", "field_code_invalid"),
        {"code": code, "of_source": "this", "of_event": "this"},
    )

    assert sentence in text(answer)
    assert not FieldMapping.objects.exists()
    assert not Event.objects.exists()


def test_who_renames_it_twice_is_told_that_it_is_renamed(admin_client):
    hyphens()
    FieldMapping.objects.create(
        source=make.source(), event_name="Order paid", sent="price-eur", code="price"
    )

    answer = admin_client.post(
        at("rename_field", "field_code_invalid"),
        {"code": "price", "of_source": "this", "of_event": "this"},
    )

    assert "This field is renamed already." in text(answer)
    assert FieldMapping.objects.count() == 1


@pytest.mark.parametrize("sent", ["x" * 100 + "-1", "a.b", " price", "prix€", "1st"])
def test_the_name_that_is_mapped_is_the_one_that_was_sent(admin_client, sent):
    send(order(context={"name": "Bag", sent: 1}))

    admin_client.post(
        at("rename_field", "field_code_invalid"),
        {"code": "price", "of_source": "this", "of_event": "this"},
    )

    assert Event.objects.get().context == {"name": "Bag", "price": 1}


@pytest.mark.parametrize(
    ("sent", "suggested"),
    [("price-eur", "price_eur"), ("1st", "_1st"), ("prix€", "prix"), ("€", "")],
)
def test_a_code_close_to_what_was_sent_is_suggested(sent, suggested):
    assert remedies.suggested_code(sent) == suggested


# a field is declared


def test_a_field_is_declared_as_what_it_came_as_and_its_events_are_replayed(
    admin_client,
):
    make.event_type("Order paid", mode=EventType.Mode.ENFORCED)
    send(order(context={"amount": 5}))
    url = at("declare_field", "field_unknown")
    asked = admin_client.get(url)

    answer = admin_client.post(url, {"value_type": "number"}, follow=True)

    assert asked.context["form"].initial["value_type"] == "number"
    assert EventField.objects.get().value_type == "number"
    assert "1 recorded." in text(answer)
    assert Event.objects.get().context == {"amount": 5}


# customers are created


@pytest.fixture
def strangers():
    source = make.source(unknown_customers=Source.UnknownCustomers.REJECT)
    send(*[order(str(i), customer=f"C-{i}") for i in range(3)])
    return source


def test_the_customers_of_a_group_are_created_and_no_others_later(
    admin_client, strangers
):
    answer = admin_client.post(
        at("create_customers", "customer_unknown"), {}, follow=True
    )

    assert "3 recorded." in text(answer)
    assert Customer.objects.filter(is_stub=True).count() == 3
    assert send(order("9", customer="C-9"), source=strangers).rejected == 1


def test_a_source_is_let_create_customers_from_now_on(admin_client, strangers):
    admin_client.post(at("let_create", "customer_unknown"), {})

    strangers.refresh_from_db()
    assert strangers.unknown_customers == Source.UnknownCustomers.CREATE
    assert Event.objects.count() == 3
    assert send(order("9", customer="C-9"), source=strangers).accepted == 1
    assert LogEntry.objects.filter(object_id=str(strangers.pk)).exists()


def test_the_customers_who_share_a_contact_are_a_click_away(admin_client):
    for external_id in ("anna", "anne"):
        make.customer(external_id, email="anna@example.com")
    send(order(customer={"email": "anna@example.com"}))
    page = admin_client.get(reverse(GROUPS))
    (shown,) = page.context["shown"]
    (url,) = [one.url for one in shown.buttons if "share" in one.label]

    found = admin_client.get(url).context["cl"].result_list

    assert {one.external_id for one in found} == {"anna", "anne"}


# replaying


def test_all_are_replayed_and_the_numbers_are_told(admin_client):
    hyphens(3)
    send(order("n", name=""))
    FieldMapping.objects.create(sent="price-eur", code="price_eur")

    answer = admin_client.post(
        reverse("admin:events_rejectedevent_replay_group"), {}, follow=True
    )

    assert "3 recorded, 1 still refused." in text(answer)
    replay = Replay.objects.get()
    assert (replay.total, replay.requested_by) == (4, "admin")


def test_a_replay_without_triggering_starts_no_campaign(admin_client):
    make.event_type("Order paid", is_awaited=True)
    hyphens(1)
    FieldMapping.objects.create(sent="price-eur", code="price_eur")
    url = at("replay_group", "field_code_invalid")

    asked = text(admin_client.get(url))
    admin_client.post(url, {"as_backfill": "on"})

    assert "maximum age" in asked
    assert Event.objects.get().is_backfill
    assert not PendingEvent.objects.exists()


def test_a_big_replay_goes_on_in_the_background_and_shows_how_far_it_got(
    admin_client, monkeypatch
):
    monkeypatch.setattr(replays, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(replays, "MAX_ITEMS", 2)
    hyphens(5)
    FieldMapping.objects.create(sent="price-eur", code="price_eur")

    answer = admin_client.post(
        reverse("admin:events_rejectedevent_replay_group"), {}, follow=True
    )
    assert "5 are being replayed in the background" in text(answer)
    replays.advance_replays()
    part = admin_client.get(reverse("admin:events_rejectedevent_replays"))
    assert "2 of 5" in text(part)
    assert "HX-Refresh" not in part
    while replays.advance_replays():
        pass
    end = admin_client.get(reverse("admin:events_rejectedevent_replays"))

    assert end["HX-Refresh"] == "true"
    assert Event.objects.count() == 5


def test_a_replay_under_way_can_be_stopped(admin_client):
    hyphens(1)
    asked = replays.begin_replay(Which(), by="demo", now=timezone.now(), patience=0)
    url = reverse("admin:events_rejectedevent_stop_replay", args=[asked.pk])

    assert admin_client.get(url).status_code == 405
    admin_client.post(url)

    asked.refresh_from_db()
    assert asked.status == "stopped"


def test_only_what_was_ticked_is_replayed_or_set_aside(admin_client):
    hyphens(3)
    FieldMapping.objects.create(sent="price-eur", code="price_eur")
    url = reverse("admin:events_rejectedevent_changelist")
    ids = {row.external_id: row.pk for row in RejectedEvent.objects.all()}

    for action, one in (("replay", "0"), ("set_aside_chosen", "1")):
        admin_client.post(url, {"action": action, "_selected_action": [ids[one]]})

    assert dict(RejectedEvent.objects.values_list("external_id", "status")) == {
        "0": "replayed",
        "1": "set_aside",
        "2": "open",
    }
    assert Event.objects.get().external_id == "0"


def test_events_without_a_name_are_not_those_of_any_name():
    hyphens(1)
    send(order("n", name=""))

    assert Which(name="").rows().get().external_id == "n"
    assert Which.parse(Which(name="").to_json()).rows().get().external_id == "n"
    assert Which().rows().count() == 2


def test_all_pages_of_a_list_are_replayed_as_it_is_narrowed(admin_client):
    hyphens(3)
    send(order("n", context={"vat-eur": 1}))
    FieldMapping.objects.create(sent="price-eur", code="price_eur")
    FieldMapping.objects.create(sent="vat-eur", code="vat_eur")
    url = reverse("admin:events_rejectedevent_changelist")
    one = RejectedEvent.objects.filter(external_id="0").get()

    admin_client.post(
        f"{url}?{urlencode({'field': 'context.price-eur'})}",
        {"action": "replay", "_selected_action": [one.pk], "select_across": "1"},
    )

    assert Event.objects.count() == 3
    left = RejectedEvent.objects.get(status="open")
    assert left.external_id == "n"


def test_the_row_of_a_replayed_event_leads_to_the_event(admin_client):
    hyphens(1)
    FieldMapping.objects.create(sent="price-eur", code="price_eur")
    replays.replay(RejectedEvent.objects.all())
    row, event = RejectedEvent.objects.get(), Event.objects.get()
    page = reverse("admin:events_rejectedevent_change", args=[row.pk])

    shown = text(admin_client.get(page))

    assert reverse("admin:events_event_change", args=[event.pk]) in shown
    profile = reverse("admin:customers_customer_change", args=[event.customer_id])
    assert profile in shown

    RejectedEvent.objects.update(stored_id=event.pk + 1)
    assert "not there any more" in text(admin_client.get(page))


# setting aside


def test_a_group_is_set_aside_with_a_note_and_taken_back(admin_client):
    hyphens(3)
    send(order("n", name=""))
    url = at("set_aside", "field_code_invalid")

    answer = admin_client.post(url, {"note": "Test of the shop."}, follow=True)

    assert "3 events are set aside. Nothing is deleted." in text(answer)
    assert set(RejectedEvent.objects.values_list("code", "status")) == {
        ("field_code_invalid", "set_aside"),
        ("name_missing", "open"),
    }
    aside = admin_client.get(reverse(GROUPS), {"aside": 1})
    assert "Test of the shop. (admin," in text(aside)
    row = RejectedEvent.objects.filter(status="set_aside").first()
    page = reverse("admin:events_rejectedevent_change", args=[row.pk])
    assert "Test of the shop." in text(admin_client.get(page))

    (shown,) = aside.context["shown"]
    admin_client.post(shown.take_back_url)

    assert RejectedEvent.objects.filter(status="open", note="").count() == 4


def test_what_is_set_aside_is_not_replayed():
    hyphens(2)
    rejects.set_aside(Which(), by="demo", now=timezone.now())
    FieldMapping.objects.create(sent="price-eur", code="price_eur")

    replays.begin_replay(Which(), by="demo", now=timezone.now())

    assert not Event.objects.exists()


# who may


@pytest.mark.parametrize(
    "page", ["replay_group", "rename_field", "set_aside", "take_back"]
)
def test_who_may_only_view_sees_the_groups_and_can_do_nothing(client, page):
    hyphens()
    url = at(page, "field_code_invalid")
    staff(client, "view_rejectedevent")

    shown = text(client.get(reverse(GROUPS)))
    assert "price-eur" in shown
    assert "Rename the field" not in shown
    assert "Replay all" not in shown
    assert client.post(url, {"code": "price"}).status_code == 403
    assert RejectedEvent.objects.filter(status="open").count() == 3
    assert not FieldMapping.objects.exists()


@pytest.mark.parametrize(
    ("page", "needed"),
    [
        ("rename_field", "add_fieldmapping"),
        ("create_customers", "add_customer"),
        ("let_create", "change_source"),
    ],
)
def test_mending_a_cause_asks_for_the_right_to_change_it(
    client, strangers, page, needed
):
    hyphens()
    code = "field_code_invalid" if page == "rename_field" else "customer_unknown"
    url = at(page, code)
    staff(client, "view_rejectedevent", "change_rejectedevent")
    assert client.get(url).status_code == 403

    User.objects.get(username="vera").user_permissions.add(
        Permission.objects.get(codename=needed)
    )

    assert client.get(url).status_code == 200


def test_who_may_not_view_them_sees_none(client):
    hyphens()
    staff(client, "view_event")

    assert client.get(reverse(GROUPS)).status_code == 403
    part = reverse("admin:events_rejectedevent_replays")
    assert client.get(part).status_code == 403


def test_a_group_that_is_gone_is_not_found(admin_client):
    hyphens()
    url = at("rename_field", "field_code_invalid")
    RejectedEvent.objects.update(status="replayed")

    assert admin_client.get(url).status_code == 404


# the list of mappings


def test_the_list_of_mappings_tells_how_many_rejected_events_each_would_help(
    admin_client,
):
    hyphens(3)
    send(order("x", context={"price-eur": 1}), source=make.source("till"))
    FieldMapping.objects.create(sent="price-eur", code="price_eur")
    FieldMapping.objects.create(
        source=make.source("till"), sent="price-eur", code="price_eur"
    )
    FieldMapping.objects.create(sent="vat-eur", code="vat_eur")

    page = text(admin_client.get(reverse("admin:events_fieldmapping_changelist")))

    assert "4 rejected events" in page
    assert "1 rejected event<" in page


def test_a_mapping_made_by_hand_holds_at_once_and_ends_when_it_is_deleted(admin_client):
    send(order("0", context={"a": 1}))
    add = reverse("admin:events_fieldmapping_add")

    admin_client.post(add, {"sent": "price-eur", "code": "price_eur"})
    assert send(order("1", context={"price-eur": 1})).accepted == 1

    delete = reverse(
        "admin:events_fieldmapping_delete", args=[FieldMapping.objects.get().pk]
    )
    admin_client.post(delete, {"post": "yes"})
    assert send(order("2", context={"price-eur": 1})).rejected == 1


@pytest.mark.parametrize(
    ("sent", "code", "sentence"),
    [
        ("price-eur", "price-euro", "is no field code"),
        ("price", "price", "there is nothing to rename"),
        ("a.price", "price", "there is nothing to rename"),
        ("", "price", "This field is required"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(admin_client, sent, code, sentence):
    answer = admin_client.post(
        reverse("admin:events_fieldmapping_add"), {"sent": sent, "code": code}
    )

    assert sentence in text(answer)
    assert not FieldMapping.objects.exists()


def test_mappings_deleted_from_the_list_are_forgotten_at_once(admin_client):
    mapping = FieldMapping.objects.create(sent="price-eur", code="price_eur")
    mappings.forget()
    assert send(order("1", context={"price-eur": 1})).accepted == 1

    admin_client.post(
        reverse("admin:events_fieldmapping_changelist"),
        {
            "action": "delete_selected",
            "_selected_action": [mapping.pk],
            "post": "yes",
        },
    )

    assert send(order("2", context={"price-eur": 1})).rejected == 1


def test_what_is_replayed_is_not_offered_for_replay_again(admin_client):
    hyphens(1)
    row = RejectedEvent.objects.get()
    page = reverse("admin:events_rejectedevent_change", args=[row.pk])
    replay = reverse("admin:events_rejectedevent_replay_one", args=[row.pk])
    assert replay in text(admin_client.get(page))

    RejectedEvent.objects.update(status="replayed")

    assert replay not in text(admin_client.get(page))


@pytest.mark.parametrize("name", ["code", "name", "field", "kind", "source"])
@pytest.mark.parametrize(
    "page", ["reasons/", "reasons/replay/", "reasons/set-aside/", ""]
)
def test_an_address_with_what_no_text_can_hold_finds_nothing(admin_client, page, name):
    """A broken bookmark, or somebody who tries; and never all there are."""
    record_events(
        [{"name": "A", "customer": "C-1", "context": {"a-b": 1}}], source=make.source()
    )
    address = reverse("admin:events_rejectedevent_changelist") + page

    response = admin_client.get(f"{address}?{name}=%00", follow=True)

    assert response.status_code in (200, 404)
    if page == "reasons/":
        assert "context.a-b" not in response.content.decode()


def test_a_source_that_is_none_widens_nothing():
    assert not which_of(QueryDict("source=abc")).rows().exists()
    assert which_of(QueryDict("source=abc")).source is not None

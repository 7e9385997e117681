"""Two customers who are one person: everything becomes the kept one's, once."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction
from django.db.utils import IntegrityError
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.engine import advance_runs, settle_runs
from campaigns.models import Entry, Passage, Run, TurnedAway
from customers.merging import current_ids, merge
from customers.models import (
    Consent,
    ConsentChange,
    Customer,
    Device,
    FormerId,
    MailingCategory,
    SharedContact,
)
from customers.upsert import upsert_customers
from events.ingest import record_events
from events.models import Event, PendingEvent
from messaging import send
from messaging.models import Delivery, Message
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
EARLIER = NOW - timedelta(days=3)


def merge_them(kept="C-1", former="C-2", by="shop", now=NOW):
    return merge(kept, former, by=by, now=now)


def two(kept=None, former=None) -> tuple[Customer, Customer]:
    return make.customer("C-1", **(kept or {})), make.customer("C-2", **(former or {}))


def record(id: str, customer: str, name="Order paid", at=EARLIER, **context):
    item = {
        "id": id,
        "name": name,
        "customer": customer,
        "occurred_at": at.isoformat(),
        "context": context,
    }
    [result] = record_events([item], source=make.source()).results
    return result


# the profile


def test_the_kept_ones_values_stay_and_gaps_are_filled():
    two(
        kept={"first_name": "Anna", "city": "Berlin", "attributes": {"tier": "gold"}},
        former={
            "first_name": "A.",
            "last_name": "Berg",
            "birth_date": date(1990, 5, 1),
            "attributes": {"tier": "iron", "size": 38},
        },
    )

    merge_them()

    kept = Customer.objects.get()
    assert kept.external_id == "C-1"
    assert (kept.first_name, kept.last_name, kept.city) == ("Anna", "Berg", "Berlin")
    assert kept.birth_date == date(1990, 5, 1)
    assert kept.attributes == {"tier": "gold", "size": 38}
    assert kept.updated_at == NOW


def test_an_address_that_cannot_be_written_to_is_a_gap_where_the_others_can():
    two(
        kept={"email": "anna@", "email_is_valid": False, "phone": "+4915112345678"},
        former={"email": "anna@example.com", "phone": "+4915187654321"},
    )

    merge_them()

    kept = Customer.objects.get()
    assert (kept.email, kept.email_is_valid) == ("anna@example.com", True)
    assert (kept.phone, kept.phone_is_valid) == ("+4915112345678", True)


def test_whoever_was_known_first_was_known_since_then():
    _, other = two()
    Customer.objects.filter(pk=other.pk).update(created_at=EARLIER, is_stub=True)

    merge_them()

    kept = Customer.objects.get()
    assert (kept.created_at, kept.is_stub) == (EARLIER, False)


def test_the_profile_that_goes_is_kept_whole():
    _, other = two(former={"email": "a@example.com", "attributes": {"tier": "iron"}})
    make.consent(other, "email", yes=False)
    other.devices.create(platform="ios", token="t-1")

    merge_them(by="staff: vera")

    former = FormerId.objects.get()
    assert (former.external_id, former.customer.external_id) == ("C-2", "C-1")
    assert (former.merged_by, former.merged_at) == ("staff: vera", NOW)
    assert former.profile["email"] == "a@example.com"
    assert former.profile["attributes"] == {"tier": "iron"}
    assert former.profile["consents"][0]["granted"] is False
    assert former.profile["devices"][0]["token"] == "t-1"


# consents and devices


@pytest.mark.parametrize(
    ("kept", "former", "holds"),
    [
        ((True, 1), (False, 2), (False, "former")),
        ((False, 1), (True, 2), (True, "former")),
        ((True, 2), (False, 1), (True, "kept")),
        ((True, 1), (False, 1), (False, "former")),
        ((False, 1), (True, 1), (False, "kept")),
    ],
)
def test_the_newest_answer_holds_and_of_a_tie_the_no(kept, former, holds):
    for customer, (yes, day), origin in zip(
        two(), (kept, former), ("kept", "former"), strict=True
    ):
        customer.consents.create(
            channel="email",
            is_granted=yes,
            changed_at=EARLIER + timedelta(hours=day),
            origin=origin,
        )

    merge_them()

    consent = Consent.objects.get()
    assert (consent.is_granted, consent.origin) == holds


def test_answers_for_categories_and_the_history_of_answers_come_along():
    news = MailingCategory.objects.create(code="news", name="News")
    for id, yes in (("C-1", True), ("C-2", False)):
        upsert_customers(
            [
                {
                    "external_id": id,
                    "consents": {"email": True, "categories": {"news": {"sms": yes}}},
                }
            ],
            origin=id,
            now=EARLIER,
        )

    merge_them()

    assert set(Consent.objects.values_list("category", "is_granted")) == {
        (None, True),
        (news.pk, False),
    }
    assert ConsentChange.objects.filter(customer__external_id="C-1").count() == 3


def test_devices_of_both_are_the_kept_ones():
    one, other = two()
    one.devices.create(platform="ios", token="t-1")
    one.devices.create(platform="web", token="t-2")
    other.devices.create(platform="android", token="t-3", is_valid=False)

    assert merge_them().moved["devices"] == 1
    assert set(Device.objects.values_list("customer", "token", "is_valid")) == {
        (one.pk, "t-1", True),
        (one.pk, "t-2", True),
        (one.pk, "t-3", False),
    }


# events


def test_events_of_both_are_the_kept_ones_and_stay_as_they_were():
    one, other = two()
    make.event(one, "Call received", at=EARLIER)
    moved = make.event(other, "Order paid", at=EARLIER, amount=10)
    before = Event.objects.filter(pk=moved.pk).values().get()

    assert merge_them().moved["events"] == 1
    assert Event.objects.filter(pk=moved.pk).values().get() == before | {
        "customer_id": one.pk
    }
    assert Event.objects.filter(customer=one).count() == 2


def test_the_same_event_told_of_both_counts_once():
    two()
    record("o-1", "C-1", amount=10)
    record("o-1", "C-2", amount=10)

    moved = merge_them().moved

    assert moved.get("events", 0) == 0
    assert moved["events_twice"] == 1
    assert Event.objects.get().customer.external_id == "C-1"


@pytest.mark.parametrize(
    "other",
    [{"amount": 11}, {"name": "Order sent", "amount": 10}, {"at": NOW, "amount": 10}],
    ids=["context", "name", "time"],
)
def test_two_events_under_one_id_both_stay_and_are_told_apart(other):
    two()
    record("o-1", "C-1", amount=10)
    record("o-1", "C-2", **other)

    moved = merge_them().moved

    assert (moved["events"], moved["events_renamed"]) == (1, 1)
    assert set(Event.objects.values_list("external_id", flat=True)) == {
        "o-1",
        "o-1~C-2",
    }
    # Whichever of the two is sent again, it is known.
    assert record("o-1", "C-2", **other).status == "duplicate"


def test_an_id_that_is_told_apart_stays_within_its_limit_and_its_own():
    former = "C-" + "2" * 126
    make.customer("C-1")
    make.customer(former)
    ids = ["x" * 199 + "a", "x" * 199 + "b"]
    for id in ids:
        record(id, "C-1", amount=1)
        record(id, former, amount=2)
    record("y", "C-1", amount=1)
    record("y", former, amount=2)
    record(f"y~{former}", former, amount=3)  # Taken already.

    assert merge_them(former=former).moved["events_renamed"] == 3
    found = set(Event.objects.values_list("external_id", flat=True))
    assert len(found) == Event.objects.count() == 7
    assert all(len(id) <= 200 for id in found)


def test_events_of_the_old_id_reach_the_kept_one():
    one, _ = two()
    merge_them()

    assert record("o-9", "C-2").status == "accepted"
    assert Event.objects.get().customer == one
    assert Customer.objects.count() == 1


def test_one_batch_may_name_both_ids():
    two()
    merge_them()
    event = {"id": "o-1", "name": "Order paid", "occurred_at": EARLIER.isoformat()}

    recorded = record_events(
        [event | {"customer": "C-1"}, event | {"customer": "C-2"}],
        source=make.source(),
    )

    assert (recorded.accepted, recorded.duplicates) == (1, 1)


def test_a_source_that_may_not_create_customers_may_name_a_former_one():
    two()
    merge_them()
    careful = make.source("careful", unknown_customers="reject")

    item = {"id": "o-1", "name": "Order paid", "customer": "C-2"}
    assert record_events([item], source=careful).accepted == 1


def test_the_database_allows_nothing_else_of_events_while_merging():
    one, other = two()
    mine = make.event(one, "Order paid", at=EARLIER, amount=10)
    theirs = make.event(other, "Order paid", at=EARLIER, amount=11)
    system = make.system_event("Sale")

    def attempt(sql: str, *params: int | str) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('smartcomm.merging', %s, true)",
                [f"{other.pk} {one.pk}"],
            )
            cursor.execute(sql, params)

    def refused(sql: str, *params: int | str) -> bool:
        with pytest.raises(IntegrityError, match="Events never change"):
            attempt(sql, *params)
        return True

    to_kept = "UPDATE events_event SET customer_id = %s"
    assert refused(f"{to_kept}, context = '{{}}' WHERE id = %s", one.pk, theirs.pk)
    assert refused(f"{to_kept}, occurred_at = now() WHERE id = %s", one.pk, theirs.pk)
    assert refused(f"{to_kept}, external_id = 'z' WHERE id = %s", one.pk, theirs.pk)
    # Its ID begins alike, but nothing stands in its way.
    new_id = theirs.external_id + "~C-2"
    assert refused(
        f"{to_kept}, external_id = %s WHERE id = %s", one.pk, new_id, theirs.pk
    )
    assert refused(f"{to_kept} WHERE id = %s", other.pk, mine.pk)
    assert refused("UPDATE events_event SET context = '{}' WHERE id = %s", mine.pk)
    assert refused("DELETE FROM events_event WHERE id = %s", theirs.pk)
    assert refused("DELETE FROM events_event WHERE id = %s", mine.pk)
    assert refused("DELETE FROM events_systemevent WHERE id = %s", system.pk)
    attempt(f"{to_kept} WHERE id = %s", one.pk, theirs.pk)


def test_after_the_merge_the_database_refuses_again():
    _, other = two()
    make.event(other, "Order paid", at=EARLIER)
    merge_them()

    with pytest.raises(IntegrityError, match="never change"):
        Event.objects.update(customer_id=other.pk)


# what is at work


def test_an_event_that_campaigns_have_not_looked_at_starts_its_run_once():
    one, other = two()
    campaign = make.campaign(on="Order paid")
    make.event(other, "Order paid")
    assert PendingEvent.objects.count() == 1

    merge("C-1", "C-2", by="shop", now=timezone.now())
    dispatch_events()

    run = Run.objects.get()
    assert (run.customer, run.campaign) == (one, campaign)
    assert not PendingEvent.objects.exists()


def test_the_same_event_told_of_both_starts_one_run():
    one, _ = two()
    make.campaign(on="Order paid")
    now = timezone.now()
    record("o-1", "C-1", at=now, amount=10)
    record("o-1", "C-2", at=now, amount=10)

    merge("C-1", "C-2", by="shop", now=now)
    dispatch_events()

    assert Run.objects.get().customer == one
    assert not PendingEvent.objects.exists()


def test_news_whose_copy_was_told_as_past_still_counts_as_news():
    one, _ = two()
    make.campaign(on="Order paid")
    now = timezone.now()
    item = {
        "id": "o-1",
        "name": "Order paid",
        "occurred_at": now.isoformat(),
    }
    record_events([item | {"customer": "C-1", "backfill": True}], source=make.source())
    record_events([item | {"customer": "C-2"}], source=make.source())

    merge("C-1", "C-2", by="shop", now=now)
    dispatch_events()

    run = Run.objects.get()
    assert run.customer == one
    assert run.event == Event.objects.get()


def test_waiting_runs_of_both_go_on_and_each_message_goes_out_once():
    one = make.reachable("C-1")
    other = make.reachable("C-2")
    make.campaign(on="Order paid")
    make.event(one, "Order paid")
    make.event(other, "Order paid")
    dispatch_events()
    advance_runs()

    merge("C-1", "C-2", by="shop", now=timezone.now())
    while send.send_messages():
        pass
    settle_runs()

    runs = Run.objects.all()
    assert [(run.customer, run.status) for run in runs] == [(one, "finished")] * 2
    sent = Message.objects.all()
    assert [(m.customer, m.status, m.address) for m in sent] == [
        (one, "sent", one.phone)
    ] * 2
    assert set(Delivery.objects.values_list("customer", flat=True)) == {one.pk}
    assert set(Passage.objects.values_list("customer", flat=True)) == {one.pk}


def test_one_system_event_writes_to_one_person_once():
    from campaigns.broadcast import walk_broadcasts

    one = make.reachable("C-1")
    make.reachable("C-2")
    make.campaign(on="Sale", system=True)
    make.system_event("Sale")
    dispatch_system_events()
    while walk_broadcasts():
        pass
    advance_runs()
    assert Message.objects.filter(status="queued").count() == 2

    moved = merge("C-1", "C-2", by="shop", now=timezone.now()).moved
    while send.send_messages():
        pass
    settle_runs()

    assert (moved["runs"], moved["runs_ended"]) == (1, 1)
    assert [run.status for run in Run.objects.all()] == ["finished"] * 2
    assert sorted(Message.objects.values_list("status", "reason")) == [
        ("sent", ""),
        ("suppressed", "cancelled"),
    ]
    ended = Run.objects.get(system_event=None)
    assert ended.customer == one
    assert "“C-2” was merged into “C-1”" in ended.reason


def test_a_run_for_a_copy_of_an_event_ends_where_the_kept_one_has_the_same():
    one = make.reachable("C-1")
    make.reachable("C-2")
    make.campaign(on="Order paid")
    now = timezone.now()
    record("o-1", "C-1", at=now, amount=10)
    record("o-1", "C-2", at=now, amount=10)
    dispatch_events()
    advance_runs()

    moved = merge("C-1", "C-2", by="shop", now=now).moved
    while send.send_messages():
        pass
    settle_runs()

    assert moved["runs_ended"] == 1
    assert Message.objects.filter(status="sent").count() == 1
    # Nothing points to the copy, which is gone.
    event = Event.objects.get()
    assert set(Run.objects.values_list("event", flat=True)) == {event.pk, None}
    assert set(Message.objects.values_list("event", flat=True)) == {event.pk}
    assert Run.objects.filter(customer=one).count() == 2


def test_a_run_for_a_copy_goes_on_under_the_event_that_stands_for_it():
    one, _ = two()
    record("o-1", "C-1", at=(now := timezone.now()))
    dispatch_events()  # Nothing waits for it yet.
    campaign = make.campaign(on="Order paid")
    record("o-1", "C-2", at=now)
    dispatch_events()

    merge("C-1", "C-2", by="shop", now=now)

    run = Run.objects.get()
    assert (run.customer, run.campaign, run.status) == (one, campaign, "waiting")
    assert run.event == Event.objects.get()


def test_a_message_in_a_senders_hands_is_made_anew_for_the_kept_one(monkeypatch):
    """It was rendered and checked for the former, whose address is not theirs."""
    one = make.reachable("C-1")
    make.message(make.reachable("C-2"), make.content("sms", text="Hi"))
    prepare = send._prepare

    def merged_meanwhile(batch, *, now):
        prepared = prepare(batch, now=now)
        monkeypatch.setattr(send, "_prepare", prepare)
        merge("C-1", "C-2", by="shop", now=now)
        return prepared

    monkeypatch.setattr(send, "_prepare", merged_meanwhile)
    while send.send_messages():
        pass

    message = Message.objects.get()
    assert (message.status, message.address) == ("sent", one.phone)
    assert Delivery.objects.count() == 1


def test_who_entered_a_campaign_once_does_not_enter_it_again():
    one, other = two()
    make.campaign(on="Order paid", entry={"rule": "once"})
    make.event(other, "Order paid")
    dispatch_events()

    merge("C-1", "C-2", by="shop", now=timezone.now())
    make.event(one, "Order paid")
    dispatch_events()

    assert Entry.objects.get().customer == one
    assert Run.objects.count() == 1


def test_the_later_entry_counts_when_both_had_entered():
    one, other = two()
    campaign = make.campaign(on="Order paid")
    for customer, at in ((one, EARLIER), (other, NOW)):
        Entry.objects.create(customer=customer, campaign=campaign, entered_at=at)

    merge_them()

    entry = Entry.objects.get()
    assert (entry.customer, entry.entered_at) == (one, NOW)


def test_what_both_were_turned_away_for_is_told_once():
    one, other = two()
    campaign = make.campaign(on="Shop opened", system=True, entry={"rule": "once"})
    version = campaign.versions.get()
    event = make.system_event("Shop opened")
    for customer in (one, other):
        TurnedAway.objects.create(
            customer=customer,
            campaign=campaign,
            version=version,
            system_event=event,
            at=NOW,
        )

    merge_them()

    assert TurnedAway.objects.get().customer == one


def test_changes_that_staff_made_stay_to_be_seen(admin_user):
    one, other = two()
    type = ContentType.objects.get_for_model(Customer)
    LogEntry.objects.create(
        user=admin_user, content_type=type, object_id=other.pk, action_flag=CHANGE
    )

    merge_them()

    assert LogEntry.objects.get().object_id == str(one.pk)


# IDs


def test_a_merge_asked_for_again_changes_nothing_and_answers_the_same():
    two(former={"city": "Riga"})
    record("o-1", "C-2")
    first = merge_them()

    again = merge_them(now=NOW + timedelta(days=1))

    assert (first.is_new, again.is_new) == (True, False)
    assert (again.pk, again.external_id, again.former_id) == (
        first.pk,
        "C-1",
        "C-2",
    )
    assert (again.merged_at, again.moved) == (first.merged_at, first.moved)
    assert first.moved == {"events": 1}
    assert FormerId.objects.count() == 1


def test_chains_are_flattened():
    two()
    last = make.customer("C-3")
    merge_them("C-1", "C-2")
    merge_them("C-3", "C-1")

    assert current_ids(["C-1", "C-2", "C-3", "C-4"]) == {
        "C-1": (last.pk, "C-3"),
        "C-2": (last.pk, "C-3"),
    }
    # The first merge, asked for again, tells who it is now.
    assert merge_them("C-1", "C-2").external_id == "C-3"
    assert Customer.objects.get() == last


def test_a_former_id_stands_for_the_customer_it_leads_to():
    one, _ = two()
    make.customer("C-3")
    merge_them("C-1", "C-2")

    assert merge_them(kept="C-2", former="C-3").external_id == "C-1"
    assert Customer.objects.get() == one


def test_current_ids_is_one_query(django_assert_num_queries):
    two()
    merge_them()

    with django_assert_num_queries(1):
        current_ids([f"C-{number}" for number in range(500)])


def test_upserts_of_the_old_id_change_the_kept_one_and_say_so():
    two()
    merge_them()

    [result] = upsert_customers(
        [{"external_id": "C-2", "city": "Riga", "consents": {"email": True}}],
        origin="shop",
        now=NOW,
    ).results

    assert (result.status, result.external_id) == ("updated", "C-2")
    assert [(w.code, w.field) for w in result.warnings] == [
        ("customer_merged", "external_id")
    ]
    assert Customer.objects.get().city == "Riga"
    assert Consent.objects.get().customer.external_id == "C-1"


def test_a_batch_with_the_old_and_the_new_id_is_taken_in_the_order_told():
    two()
    merge_them()

    results = upsert_customers(
        [
            {"external_id": "C-1", "city": "Riga", "first_name": "Anna"},
            {"external_id": "C-2", "city": "Tartu"},
            {"external_id": "C-3", "city": "Oslo"},
        ],
        origin="shop",
        now=NOW,
    ).results

    assert [result.status for result in results] == ["updated", "updated", "created"]
    kept = Customer.objects.get(external_id="C-1")
    assert (kept.city, kept.first_name) == ("Tartu", "Anna")
    assert Customer.objects.count() == 2


# over HTTP


def test_merging_over_http_and_what_the_old_id_answers_then():
    two(former={"email": "a@example.com"})
    record("o-1", "C-2")
    api = Api()

    response = api.post("/customers/C-1/merge", {"from": "C-2"})
    again = api.post("/customers/C-1/merge", {"from": "C-2"})

    assert response.status_code == again.status_code == 200
    answer = response.json()
    assert answer == again.json()
    assert (answer["external_id"], answer["former_id"]) == ("C-1", "C-2")
    assert answer["moved"] == {"events": 1}
    shown = api.get("/customers/C-2").json()
    assert (shown["external_id"], shown["former_ids"]) == ("C-1", ["C-2"])
    assert shown["email"] == "a@example.com"
    [event] = api.get("/customers/C-2/events").json()["results"]
    assert event["id"] == "o-1"
    assert api.get("/customers/C-2/messages").json()["results"] == []
    put = api.put("/customers/C-2", {"city": "Riga"})
    assert (put.status_code, put.json()["external_id"]) == (200, "C-1")
    assert put.json()["warnings"][0]["code"] == "customer_merged"
    assert FormerId.objects.get().merged_by == "shop"


def test_messages_are_listed_by_the_old_id_too():
    _, other = two()
    make.message(other)
    merge_them()

    for id in ("C-1", "C-2"):
        [message] = Api().get(f"/messages?customer={id}").json()["results"]
        assert message["customer"] == "C-1"


@pytest.mark.parametrize(
    ("kept", "body", "status", "code"),
    [
        ("C-1", {"from": "C-1"}, 422, "merge_with_itself"),
        ("C-1", {"from": "C-9"}, 404, "customer_unknown"),
        ("C-9", {"from": "C-1"}, 404, "customer_unknown"),
        ("C-9", {"from": "old"}, 404, "customer_unknown"),
        ("old", {"from": "C-1"}, 409, "merge_reversed"),
        ("C-2", {"from": "old"}, 409, "merged_elsewhere"),
        ("C-1", {}, 422, "required"),
        ("C-1", {"from": ""}, 422, "value_invalid"),
        ("C-1", {"from": 5}, 422, "type_wrong"),
        ("C-1", {"from": "C\x002"}, 422, "value_invalid"),
        ("C-1", {"from": "C-2", "to": "C-3"}, 422, "key_unknown"),
        ("C-1", ["C-2"], 422, "not_an_object"),
    ],
)
def test_what_cannot_be_merged_is_refused_and_changes_nothing(kept, body, status, code):
    two()
    make.customer("old")
    merge_them("C-1", "old")
    before = list(Customer.objects.order_by("pk").values())

    problem(Api().post(f"/customers/{kept}/merge", body), status, code)

    assert list(Customer.objects.order_by("pk").values()) == before
    assert FormerId.objects.count() == 1


def test_a_contact_that_both_had_is_no_longer_shared():
    for id in ("C-1", "C-2"):
        upsert_customers(
            [{"external_id": id, "email": "a@example.com"}], origin="shop", now=NOW
        )
    assert SharedContact.objects.count() == 1

    merge_them()

    assert not SharedContact.objects.exists()


def test_a_long_history_costs_no_more_statements_than_a_short_one():
    costs = []
    for number, size in enumerate((1, 40)):
        make.customer(f"K-{number}")
        other = make.customer(f"F-{number}")
        for event in range(size):
            make.event(other, "Order paid", at=EARLIER, number=event)
            make.message(other)
        with CaptureQueriesContext(connection) as spent:
            moved = merge_them(f"K-{number}", f"F-{number}").moved
        assert moved["events"] == moved["messages"] == size
        costs.append(len(spent))

    assert costs[0] == costs[1]

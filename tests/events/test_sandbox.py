"""Trying events: what they would be stored as and would touch, with nothing kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.utils import timezone

from campaigns.broadcast import walk_broadcasts
from campaigns.dispatch import dispatch_events, dispatch_system_events
from campaigns.engine import advance_runs
from campaigns.models import Broadcast, Passage, Run
from customers.models import Customer
from events import sandbox
from events.models import Event, EventField, EventType, RejectedEvent, Source
from segments.models import Segment
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db


@pytest.fixture
def api() -> Api:
    return Api()


def event(number: int = 1, /, **more: Any) -> dict[str, Any]:
    return {"id": f"e-{number}", "name": "Order paid", "customer": "C-1", **more}


def tried(api: Api, body: Any, path: str = "/events") -> dict[str, Any]:
    """The answer of a dry run, which has left every table as it was."""
    before = rows()
    response = api.post(f"{path}?dry_run=true", body)
    assert rows() == before
    told: dict[str, Any] = response.json()
    all_rejected = told["rejected"] == len(told["results"])
    assert response.status_code == (422 if all_rejected else 200), response.content
    assert told["dry_run"] is True
    return told


def rows() -> dict[str, int]:
    """How many rows each table has."""
    return {
        model._meta.label: model._default_manager.count()
        for model in apps.get_models()
        # Its only row is that of the key which makes the calls.
        if model._meta.label != "events.ApiKey"
    }


def segment(name: str, rule: dict[str, Any]) -> Segment:
    return Segment.objects.create(name=name, rule=rule)


# What is stored, and that nothing is


def test_an_event_of_a_new_type_for_a_new_customer_is_told_and_nothing_is_kept(api):
    told = tried(
        api,
        event(
            occurred_at="2026-01-20T10:15:00+03:00",
            context={"price": 49.9, "on": "2026-01-20", "shop": {"city": "Riga"}},
        ),
    )

    assert (told["accepted"], told["duplicates"], told["rejected"]) == (1, 0, 0)
    assert told["notes"] == []
    (item,) = told["results"]
    assert (item["index"], item["id"], item["status"]) == (0, "e-1", "accepted")
    assert item["stored"] == {
        "id": "e-1",
        "name": "Order paid",
        "kind": "customer",
        "customer": "C-1",
        "customer_created": True,
        "occurred_at": "2026-01-20T07:15:00Z",
        "context": {"price": 49.9, "on": "2026-01-20", "shop": {"city": "Riga"}},
        "backfill": False,
        "type_created": True,
        "fields_learnt": [
            {"code": "on", "type": "date"},
            {"code": "price", "type": "number"},
            {"code": "shop", "type": "object"},
            {"code": "shop.city", "type": "string"},
        ],
    }
    assert not Customer.objects.exists()
    assert not EventType.objects.exists()
    assert not EventField.objects.exists()


def test_what_was_tried_is_learnt_all_the_same_when_it_is_sent(api):
    """Nothing that this process keeps in memory takes the trial for real."""
    tried(api, event(context={"price": 1}))

    assert api.post("/events", event(context={"price": 1})).status_code == 202

    assert Event.objects.get().external_id == "e-1"
    assert EventField.objects.get().code == "price"


def test_a_refused_event_tells_why_and_is_not_kept(api):
    told = tried(api, {"events": [event(context={"price-eur": 1}), event(2)]})

    refused, accepted = told["results"]
    assert refused["status"] == "rejected"
    assert refused["code"] == "field_code_invalid"
    assert refused["field"] == "context.price-eur"
    assert refused["message"].endswith(".")
    assert "stored" not in refused
    assert accepted["status"] == "accepted"
    assert not RejectedEvent.objects.exists()


def test_where_every_event_would_be_refused_so_is_the_dry_run(api):
    assert tried(api, {"events": [{}, 5]})["rejected"] == 2
    assert api.post("/events?dry_run=true", {"events": []}).status_code == 200


def test_a_duplicate_shows_what_is_stored_already(api):
    anna = make.customer("C-1")
    make.event(anna, "Order paid", id="e-1", price=10)

    told = tried(api, event(context={"price": 99}))

    (item,) = told["results"]
    assert item["status"] == "duplicate"
    assert item["stored"]["context"] == {"price": 10}
    assert not item["stored"]["customer_created"]
    assert "segments" not in item


def test_the_same_id_twice_in_a_dry_run_is_a_duplicate_the_second_time(api):
    told = tried(api, {"events": [event(), event()]})

    assert [one["status"] for one in told["results"]] == ["accepted", "duplicate"]
    first, second = told["results"]
    assert second["stored"]["occurred_at"] == first["stored"]["occurred_at"]


def test_a_customer_named_by_an_e_mail_is_found_or_told_as_new(api):
    make.customer("C-7", email="anna@example.com")

    known, new = tried(
        api,
        {
            "events": [
                event(1, customer={"email": "Anna@Example.com"}),
                event(2, customer={"email": "bob@example.com"}),
            ]
        },
    )["results"]

    assert known["stored"]["customer"] == "C-7"
    assert not known["stored"]["customer_created"]
    assert new["stored"]["customer"] == "email:bob@example.com"
    assert new["stored"]["customer_created"]


def test_an_unknown_customer_is_refused_where_the_source_may_not_create_any(api):
    Source.objects.update(unknown_customers=Source.UnknownCustomers.REJECT)

    (item,) = tried(api, event())["results"]

    assert item["code"] == "customer_unknown"


def test_no_bell_is_rung(api, django_capture_on_commit_callbacks):
    make.customer("C-1")
    make.campaign()

    with django_capture_on_commit_callbacks() as rung:
        told = tried(api, event())

    assert told["results"][0]["campaigns"][0]["starts"]
    assert rung == []


def test_an_idempotency_key_is_left_for_the_real_request(api):
    with_key = {"Idempotency-Key": "k-1"}
    assert api.post("/events?dry_run=true", event(), **with_key).status_code == 200

    sent = api.post("/events", event(), **with_key)

    assert sent.status_code == 202
    assert "Idempotency-Replay" not in sent
    assert sent.json()["accepted"] == 1


def test_an_idempotency_key_that_is_none_is_refused_here_too(api):
    bad = {"Idempotency-Key": "x" * 300}

    for query in ("", "?dry_run=true"):
        assert api.post(f"/events{query}", event(), **bad).status_code == 400


def test_false_stores_and_other_words_are_refused(api):
    problem(api.post("/events?dry_run=yes", event()), 400, "parameter_invalid")
    problem(api.post("/events?dry_run=", event()), 400, "parameter_invalid")
    problem(
        api.post("/events?dry_run=true&dry_run=false", event()),
        400,
        "parameter_invalid",
    )
    assert not Event.objects.exists()

    assert api.post("/events?dry_run=false", event()).status_code == 202
    assert Event.objects.exists()


def test_a_misspelt_dry_run_is_refused_and_stores_nothing(api):
    told = problem(api.post("/events?dryrun=true", event()), 400, "parameter_invalid")

    assert "dry_run" in told["detail"]
    assert not Event.objects.exists()


def test_more_than_twenty_events_are_too_many_to_try(api):
    events = {"events": [event(n) for n in range(21)]}

    told = problem(api.post("/events?dry_run=true", events), 422, "dry_run_too_many")

    assert "20" in told["detail"]
    assert tried(api, {"events": events["events"][:20]})["accepted"] == 20


def test_strange_bodies_are_refused_as_they_are_when_they_are_sent(api):
    for raw in (b"", b"{", b"[]", b'{"events": 5}', b'{"name": "\\ud83d"}', b"[1]"):
        real = api.post("/events", raw=raw)
        dry = api.post("/events?dry_run=true", raw=raw)
        assert dry.status_code == real.status_code, raw


# Segments


def test_a_customer_enters_a_segment_with_the_event_that_fits(api):
    anna = make.customer("C-1")
    make.event(anna, "Order paid", price=60)
    segment(
        "Twice",
        {
            "event": "Order paid",
            "where": [{"field": "price", "op": ">", "value": 50}],
            "count": {"op": ">=", "value": 2},
        },
    )
    segment("Others", {"event": "Call received"})
    segment("Cities", {"attribute": "city", "op": "=", "value": "Riga"})

    large, small = tried(
        api,
        {
            "events": [
                event(1, context={"price": 60}),
                event(2, customer="C-2", context={"price": 5}),
            ]
        },
    )["results"]

    assert large["segments"] == [
        {
            "id": Segment.objects.get(name="Twice").pk,
            "name": "Twice",
            "before": False,
            "after": True,
            "conditions": [
                {
                    "sentence": "“Order paid” with price is more than 50 at least "
                    "2 times",
                    "fits": True,
                }
            ],
        }
    ]
    (told,) = small["segments"]
    assert (told["before"], told["after"]) == (False, False)
    assert not told["conditions"][0]["fits"]


def test_a_customer_leaves_a_segment_of_those_who_never_did(api):
    make.event(make.customer("C-9"), "Order paid")
    make.customer("C-1")
    segment("Never", {"not": {"event": "Order paid"}})

    (told,) = tried(api, event())["results"][0]["segments"]

    assert (told["before"], told["after"]) == (True, False)


def test_a_segment_is_touched_by_the_event_beside_or_since_which_others_count(api):
    anna = make.customer("C-1")
    make.event(anna, "Viewed", at=timezone.now() - timedelta(days=400))
    make.event(make.customer("C-9"), "Order paid")
    dear = {"field": "price", "op": ">", "value": 50}
    paid = {"event": "Order paid", "where": [dear]}
    segment("Not paid", {"event": "Viewed", "without": paid})
    segment("Since", {"event": "Viewed", "period": {"since": paid}})

    told = tried(api, event(context={"price": 99}))["results"][0]["segments"]

    assert [(one["name"], one["before"], one["after"]) for one in told] == [
        ("Not paid", True, False),
        ("Since", False, False),
    ]
    assert [one["conditions"][0]["fits"] for one in told] == [True, True]
    small = tried(api, event(context={"price": 1}))["results"][0]["segments"]
    assert [one["conditions"][0]["fits"] for one in small] == [False, False]


def test_a_segment_that_asks_for_another_is_touched_through_it(api):
    make.customer("C-1")
    make.event(make.customer("C-9"), "Order paid")
    inner = segment("Inner", {"event": "Order paid"})
    segment("Outer", {"all": [{"segment": inner.pk}]})

    told = tried(api, event())["results"][0]["segments"]

    assert {(one["name"], one["before"], one["after"]) for one in told} == {
        ("Inner", False, True),
        ("Outer", False, True),
    }


def test_an_event_outside_the_period_does_not_fit(api):
    make.customer("C-1")
    segment("Lately", {"event": "Order paid", "period": {"last": 7, "unit": "days"}})

    old = (timezone.now() - timedelta(days=8)).isoformat()
    (told,) = tried(api, event(occurred_at=old))["results"][0]["segments"]

    assert not told["conditions"][0]["fits"]
    assert not told["after"]


def test_a_segment_that_is_broken_spoils_nothing(api):
    make.customer("C-1")
    segment("Broken", {"all": [{"event": "Order paid"}, {"segment": 99}]})

    (told,) = tried(api, event())["results"][0]["segments"]

    assert "There is no segment 99" in told["problem"]
    assert not told["after"]


def test_of_many_segments_some_are_asked_and_the_notes_say_so(api, monkeypatch):
    from segments import sandbox as of_segments

    monkeypatch.setattr(of_segments, "MOST", 2)
    make.customer("C-1")
    for number in range(3):
        segment(f"Segment {number}", {"event": "Order paid"})

    told = tried(api, event())

    assert len(told["results"][0]["segments"]) == 2
    assert "3 segments speak of “Order paid”" in told["notes"][0]


# Campaigns


def test_a_campaign_would_start_and_go_as_far_as_its_message(api):
    anna = make.reachable("C-1", city="Riga")
    rule = {"attribute": "city", "op": "=", "value": "$city"}
    found = make.campaign(
        make.step(
            "who", "filter_customers", {"rule": rule}, positive="sms", negative=None
        ),
        make.sms("Hello {{ client.eventContext.name }} {{ client.firstName }}"),
        name="Thanks",
    )

    (told,) = tried(api, event(context={"city": "Riga"}))["results"][0]["campaigns"]

    assert (told["id"], told["name"], told["starts"]) == (found.pk, "Thanks", True)
    assert told["reasons"] == []
    assert [(one["step"], one.get("way", "")) for one in told["path"]] == [
        ("who", "positive"),
        ("sms", ""),
    ]
    # The text lacks what neither the event nor the customer has.
    assert told["lacks"] == [
        {"step": "sms", "variables": ["client.eventContext.name", "client.firstName"]}
    ]
    assert "name" in told["path"][1]["reason"]
    assert not Run.objects.filter(customer=anna).exists()


def test_a_filter_goes_negative_and_says_which_field_is_missing(api):
    make.customer("C-1", city="Riga")
    rule = {"attribute": "city", "op": "=", "value": "$city"}
    make.campaign(
        make.step(
            "who", "filter_customers", {"rule": rule}, positive="sms", negative=None
        ),
        make.sms(),
    )

    (told,) = tried(api, event())["results"][0]["campaigns"]

    assert told["starts"]
    assert told["path"][0]["way"] == "negative"
    assert "“city”" in told["path"][0]["reason"]


def test_a_message_that_could_not_be_sent_says_why(api):
    make.customer("C-1")
    make.campaign(make.sms())

    (told,) = tried(api, event())["results"][0]["campaigns"]

    assert "phone number" in told["path"][0]["reason"]


def test_a_condition_of_the_trigger_that_does_not_fit_shows_the_value_seen(api):
    make.customer("C-1")
    make.campaign(where=[{"field": "price", "op": ">", "value": 50}])

    (told,) = tried(api, event(context={"price": 49.9}))["results"][0]["campaigns"]

    assert not told["starts"]
    assert told["conditions"] == [
        {"sentence": "price is more than 50", "fits": False, "value": 49.9}
    ]
    assert told["reasons"] == [
        "The campaign asks that price is more than 50; the event says 49.9."
    ]


def test_a_backfill_and_an_old_event_start_nothing(api):
    make.customer("C-1")
    make.campaign()
    old = (timezone.now() - timedelta(days=4)).isoformat()

    backfill, late = tried(
        api, {"events": [event(1, backfill=True), event(2, occurred_at=old)]}
    )["results"]

    assert "backfill" in backfill["campaigns"][0]["reasons"][0]
    assert "72 hours" in late["campaigns"][0]["reasons"][0]
    assert not backfill["campaigns"][0]["starts"]
    assert not late["campaigns"][0]["starts"]


def test_who_entered_before_is_turned_away_by_the_entry_rule(api):
    anna = make.customer("C-1")
    make.campaign(entry={"rule": "once"})
    make.event(anna, "Order paid")
    dispatch_events()

    (told,) = tried(api, event())["results"][0]["campaigns"]

    assert not told["starts"]
    assert "once only" in told["reasons"][0]


def test_two_events_of_one_trial_enter_once_where_that_is_the_rule(api):
    make.customer("C-1")
    make.campaign(entry={"rule": "interval", "days": 7})

    first, second = tried(api, {"events": [event(1), event(2)]})["results"]

    assert first["campaigns"][0]["starts"]
    assert "within 7 days" in second["campaigns"][0]["reasons"][0]


def test_a_paused_campaign_is_not_touched(api):
    from campaigns import publish

    publish.pause(make.campaign())

    assert "campaigns" not in tried(api, event())["results"][0]


def test_a_system_event_tells_whom_it_would_reach_and_what_its_texts_lack(api):
    for number in range(7):
        customer = make.customer(f"V-{number}")
        make.event(customer, "Product viewed", product_id=number % 2)
    rule = {
        "event": "Product viewed",
        "where": [{"field": "product_id", "op": "=", "value": "$product_id"}],
    }
    make.campaign(
        make.step(
            "who", "filter_customers", {"rule": rule}, positive="sms", negative=None
        ),
        make.sms("{{ client.firstName }}: {{ client.eventContext.name }} is back"),
        on="In stock",
        system=True,
        entry={"rule": "once"},
    )
    item = {"id": "s-1", "name": "In stock", "context": {"product_id": 0}}

    (told,) = tried(api, item, "/system-events")["results"][0]["campaigns"]

    assert told["starts"]
    assert told["reach"] == {
        "count": 4,
        "exact": True,
        "margin": 0,
        "sample": ["V-0", "V-2", "V-4", "V-6"],
    }
    assert told["lacks"] == [{"step": "sms", "variables": ["client.eventContext.name"]}]
    assert [one["step"] for one in told["path"]] == ["who", "sms"]

    # The real thing reaches as many; and then, once each, nobody any more.
    api.post("/system-events", item)
    dispatch_system_events()
    while walk_broadcasts():
        pass
    assert Broadcast.objects.get().entered == 4
    (again,) = tried(api, item | {"id": "s-2"}, "/system-events")["results"][0][
        "campaigns"
    ]
    assert again["reach"]["count"] == 0


def test_a_system_event_without_the_field_that_a_filter_needs_reaches_nobody(api):
    make.event(make.customer("V-1"), "Product viewed", product_id=1)
    rule = {
        "event": "Product viewed",
        "where": [{"field": "product_id", "op": "=", "value": "$product_id"}],
    }
    make.campaign(
        make.step(
            "who", "filter_customers", {"rule": rule}, positive="sms", negative=None
        ),
        make.sms(),
        on="In stock",
        system=True,
    )

    (told,) = tried(api, {"name": "In stock"}, "/system-events")["results"][0][
        "campaigns"
    ]

    assert told["reach"]["count"] == 0
    assert "“product_id”" in told["path"][0]["reason"]


def test_a_system_event_for_everyone_reaches_everyone(api):
    make.customer("A")
    make.customer("B")
    make.campaign(make.sms(), on="Shop opens", system=True)

    (told,) = tried(api, {"name": "Shop opens"}, "/system-events")["results"][0][
        "campaigns"
    ]

    assert told["reach"]["count"] == 2
    assert told["path"][0]["action"] == "send_sms"


def test_a_fault_in_an_app_above_is_noted_and_the_rest_is_told(api, monkeypatch):
    def broken(coming: Any, trial: Any) -> Any:
        raise RuntimeError("a fault")

    monkeypatch.setitem(sandbox._looks, "campaigns", ("campaigns", broken))
    make.customer("C-1")

    told = tried(api, event())

    assert told["results"][0]["stored"]["customer"] == "C-1"
    assert told["notes"] == ["The campaigns could not be asked; the log tells why."]


def test_when_time_is_up_the_rest_is_told_without_segments_and_campaigns(
    api, monkeypatch
):
    monkeypatch.setattr(sandbox, "SECONDS", 0.0)
    make.customer("C-1")
    make.campaign()

    told = tried(api, event())

    assert told["results"][0]["status"] == "accepted"
    assert "campaigns" not in told["results"][0]
    assert any("Time ran out" in note for note in told["notes"])


# The same as the real thing


def test_what_the_engine_does_afterwards_is_what_was_told(api):
    """Customers of two cities, four campaigns, and every verdict holds."""
    for number in range(6):
        make.reachable(f"C-{number}", city="Riga" if number % 2 else "Paris")
    riga = {"attribute": "city", "op": "=", "value": "Riga"}
    filtered = (
        make.step(
            "who", "filter_customers", {"rule": riga}, positive="sms", negative=None
        ),
        make.sms(),
    )
    make.campaign(*filtered, name="Filter")
    make.campaign(name="Where", where=[{"field": "price", "op": ">=", "value": 3}])
    make.campaign(name="Once", entry={"rule": "once"})
    make.campaign(name="Young", max_age_hours=1)
    now = timezone.now()
    items = [
        event(
            number,
            # Of two events of a batch that may enter once, the lower id does.
            id=f"e-{number:02}",
            customer=f"C-{number % 6}",
            occurred_at=(now - timedelta(minutes=20 * number)).isoformat(),
            context={"price": number} if number % 3 else {},
        )
        for number in range(12)
    ]

    told = tried(api, {"events": items})
    api.post("/events", {"events": items})
    dispatch_events()
    advance_runs()

    expected = {
        (one["name"], item["id"]): [
            (step["step"], step["way"]) for step in one["path"] if "way" in step
        ]
        for item in told["results"]
        for one in item["campaigns"]
        if one["starts"]
    }
    happened: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for run in Run.objects.select_related("campaign", "event"):
        passed = Passage.objects.filter(run=run).order_by("pk")
        happened[run.campaign.name, run.event.external_id] = list(
            passed.values_list("step__key", "way")
        )
    assert happened == expected
    assert {name for name, _ in expected} == {"Filter", "Where", "Once", "Young"}

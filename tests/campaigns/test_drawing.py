"""A campaign as JSON: read strictly, written back the same."""

from __future__ import annotations

import copy

import pytest

from campaigns import drawing, publish
from campaigns.drawing import read, save_draft
from campaigns.models import Campaign, Version
from events.models import EventType
from messaging.models import Content
from segments import usage
from segments.models import Segment
from smartcomm.core.errors import Conflict, Several
from tests import make

pytestmark = pytest.mark.django_db

#: The example of the product's description, without its name.
EXAMPLE: dict = {
    "trigger": {
        "kind": "system_event",
        "event": "Product in stock",
        "where": [],
        "max_age_hours": 72,
    },
    "entry": {"rule": "every_event"},
    "start": "viewers",
    "steps": [
        {
            "key": "viewers",
            "action": "filter_customers",
            "config": {
                "rule": {
                    "event": "Product viewed",
                    "period": {"last": 90, "unit": "days"},
                    "where": [
                        {"field": "product_id", "op": "=", "value": "$product_id"}
                    ],
                }
            },
            "next": {"positive": "mail", "negative": None},
        },
        {
            "key": "mail",
            "action": "send_email",
            "config": {
                "subject": "{{ client.eventContext.name }} is back",
                "html": "<p>It is.</p>",
                "text": "It is.",
                "category": None,
                "missing": "skip",
            },
            "next": {"sent": None},
        },
    ],
}


def changed(**places):
    """The example with other values: changed(steps__0__key="x")."""
    data = copy.deepcopy(EXAMPLE)
    for place, value in places.items():
        *path, last = place.split("__")
        spot = data
        for part in path:
            spot = spot[int(part) if part.isdigit() else part]
        spot[int(last) if last.isdigit() else last] = value
    return data


def test_what_is_saved_is_written_back_the_same():
    campaign = Campaign.objects.create(name="Back in stock")

    version = save_draft(campaign, EXAMPLE)

    assert drawing.as_json(Version.objects.get(pk=version.pk)) == EXAMPLE
    assert (version.number, version.status) == (1, "draft")


def test_what_is_left_out_has_the_value_of_the_description():
    sparse = copy.deepcopy(EXAMPLE)
    sparse["trigger"] = {"kind": "system_event", "event": "Product in stock"}
    del sparse["entry"]
    for key in ("category", "missing"):
        del sparse["steps"][1]["config"][key]

    assert read(sparse) == EXAMPLE


@pytest.mark.parametrize(
    ("place", "data"),
    [
        ("", []),
        ("triger", changed(triger={})),
        ("trigger", changed(trigger=None)),
        ("trigger.kind", changed(trigger__kind="webhook")),
        ("trigger.event", changed(trigger__event=7)),
        ("trigger.event", changed(trigger__event=0)),
        ("start", changed(start=False)),
        ("steps.1.config.text", changed(steps__1__config__text=0)),
        ("trigger.evnt", changed(trigger__evnt="x")),
        ("trigger.max_age_hours", changed(trigger__max_age_hours=0)),
        ("trigger.where.0.op", changed(trigger__where=[{"field": "a", "op": "is"}])),
        (
            "trigger.where.0.value",
            changed(trigger__where=[{"field": "a", "op": "=", "value": "$a"}]),
        ),
        ("entry.rule", changed(entry={"rule": "twice"})),
        ("entry.days", changed(entry={"rule": "interval"})),
        ("entry.days", changed(entry={"rule": "once", "days": 3})),
        ("start", changed(start=7)),
        ("steps", changed(steps={})),
        ("steps.0", changed(steps__0="x")),
        ("steps.0.key", changed(steps__0__key="two words")),
        ("steps.0.key", changed(steps__0__key=["viewers"])),
        ("steps.1.key", changed(steps__1__key="viewers")),
        ("steps.0.nxt", changed(steps__0__nxt={})),
        ("steps.0.action", changed(steps__0__action="teleport")),
        ("steps.0.config.rule", changed(steps__0__config={})),
        ("steps.0.config.rules", changed(steps__0__config={"rules": {}})),
        (
            "steps.0.config.rule.evnt",
            changed(steps__0__config__rule={"event": "A", "evnt": 1}),
        ),
        ("steps.1.config.subject", changed(steps__1__config__subject="{{ client.")),
        ("steps.1.config.subject", changed(steps__1__config__subject="")),
        ("steps.1.config.text", changed(steps__1__config__text=7)),
        ("steps.1.config.missing", changed(steps__1__config__missing="guess")),
        ("steps.1.config.category", changed(steps__1__config__category="nowhere")),
        ("steps.1.next", changed(steps__1__next=[])),
        ("steps.1.next.sent", changed(steps__1__next={"sent": 3})),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(place, data):
    campaign = Campaign.objects.create(name="Back in stock")

    with pytest.raises(Several) as caught:
        save_draft(campaign, data)

    assert place in [error.field for error in caught.value.errors]
    assert not Version.objects.exists()


def test_all_errors_are_told_at_once():
    with pytest.raises(Several) as caught:
        read(changed(entry={"rule": "twice"}, steps__0__action="teleport", start=7))

    assert {error.field for error in caught.value.errors} == {
        "entry.rule",
        "steps.0.action",
        "start",
    }


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"for": 3},
        {"for": 0, "unit": "days"},
        {"for": 3, "unit": "weeks"},
        {"for": 10**9, "unit": "days"},
        {"for": True, "unit": "days"},
        {"for": 3, "unit": "days", "until": "2026-12-01"},
        {"until": "soon"},
        {"until": "2026-12-01T09:00:00"},
        {"time_of_day": "25:00"},
        {"time_of_day": 9},
        {"time_of_day": "09:00+03:00"},
    ],
)
def test_a_wait_that_makes_no_sense_is_refused(config):
    with pytest.raises(Several):
        read(changed(steps__1=make.step("mail", "wait", config, done=None)))


# Publishing


def test_publishing_freezes_the_texts_and_waits_for_the_event():
    make.event_type("Product viewed")
    campaign = Campaign.objects.create(name="Back in stock")
    save_draft(campaign, EXAMPLE)

    published = publish.publish(campaign)

    version = published.version
    assert version.status == "published"
    event_type = EventType.objects.get(name="Product in stock")
    assert event_type.is_awaited
    assert event_type.kind == "system"
    content = Content.objects.get()
    assert content.subject == "{{ client.eventContext.name }} is back"
    assert version.steps.get(key="mail").content == content
    # An event nobody has seen yet is declared, and the marketer is told.
    assert any("Product in stock" in warning for warning in published.warnings)


def test_publishing_again_supersedes_and_takes_the_number_on():
    campaign = make.campaign(make.sms("one"))
    save_draft(campaign, drawing.as_json(campaign.versions.get()))
    publish.publish(campaign)

    assert list(campaign.versions.values_list("number", "status")) == [
        (2, "published"),
        (1, "superseded"),
    ]


@pytest.mark.parametrize(
    ("message", "data"),
    [
        ("no event “Product viewed”", EXAMPLE),
        (
            "“>” does not fit",
            changed(
                steps__0__config__rule={"attribute": "city", "op": ">", "value": 5}
            ),
        ),
        ("Choose the event", changed(trigger__event="")),
        ("nowhere", changed(steps__1__next={"sent": "nowhere"})),
        (
            "does not come before it",
            changed(
                start="again",
                steps=[
                    make.step(
                        "again",
                        "refresh_filter",
                        {"filter": "who"},
                        positive="who",
                        negative=None,
                    ),
                    make.step(
                        "who",
                        "filter_customers",
                        {"rule": {"attribute": "city", "op": "is set"}},
                        positive=None,
                        negative=None,
                    ),
                ],
            ),
        ),
        (
            "none",
            changed(steps__0=make.step("viewers", "refresh_filter", {"filter": "x"})),
        ),
        ("viewers → mail → viewers", changed(steps__1__next={"sent": "viewers"})),
        ("nowhere", changed(start="nowhere")),
        ("step", changed(steps=[], start="")),
    ],
)
def test_a_drawing_that_is_not_sound_is_saved_but_not_published(message, data):
    campaign = Campaign.objects.create(name="Back in stock")
    save_draft(campaign, data)

    with pytest.raises(Several, match=message):
        publish.publish(campaign)

    campaign.refresh_from_db()
    assert campaign.status == "draft"
    assert not EventType.objects.filter(is_awaited=True).exists()


def test_a_trigger_of_the_wrong_kind_is_refused():
    make.event_type("Order paid")
    campaign = make.draft(on="Order paid", system=True)

    with pytest.raises(Several, match="Choose the other trigger"):
        publish.publish(campaign)


@pytest.mark.parametrize("name", ["Order paid", "Order returned", "Bag bought"])
def test_a_filter_may_ask_for_an_event_that_publishing_declares(name):
    """That of the trigger, of a wait, of a goal."""
    rule = {"event": name, "count": {"op": "<=", "value": 2}}
    wait = {"event": "Order returned", "for": 2, "unit": "days"}
    shares = {
        "shares": [{"name": "a", "percent": 50}, {"name": "b", "percent": 50}],
        "goal": {"event": "Bag bought", "days": 7},
    }
    campaign = make.draft(
        make.step("wait", "wait_for_event", wait, happened="who", timed_out=None),
        make.step(
            "who", "filter_customers", {"rule": rule}, positive="half", negative=None
        ),
        make.step("half", "ab_split", shares, a=None, b=None),
        on="Order paid",
    )

    published = publish.publish(campaign)

    assert any("seen yet" in one for one in published.warnings)
    assert EventType.objects.get(name=name).kind == "customer"


def test_a_filter_may_not_ask_for_an_event_that_nobody_declares():
    rule = {"event": "Order payed"}
    who = make.step(
        "who", "filter_customers", {"rule": rule}, positive=None, negative=None
    )
    with pytest.raises(Several, match="There is no event “Order payed”"):
        publish.publish(make.draft(who, on="Order paid"))


def test_of_a_new_name_publishing_makes_one_kind_only():
    wait = {"event": "Bag", "for": 1, "unit": "days"}
    step = make.step("wait", "wait_for_event", wait, happened=None, timed_out=None)
    with pytest.raises(Several, match="It cannot be both"):
        publish.publish(make.draft(step, on="Bag", system=True))
    assert not EventType.objects.exists()


def test_no_step_takes_the_name_of_planned_times():
    wait = {"event": "schedule.reached", "for": 1, "unit": "days"}
    step = make.step("wait", "wait_for_event", wait, happened=None, timed_out=None)
    with pytest.raises(Several, match="of planned times and of no customer"):
        publish.publish(make.draft(step, on="Order paid"))


def test_there_must_be_a_draft_to_publish():
    with pytest.raises(Conflict, match="nothing to publish"):
        publish.publish(make.campaign())


def test_who_waits_for_an_event_follows_the_campaign_s_state():
    campaign = make.campaign(on="Order paid")

    def awaited():
        return EventType.objects.get(name="Order paid").is_awaited

    assert awaited()
    publish.pause(campaign)
    assert not awaited()
    publish.resume(campaign)
    assert awaited()
    publish.archive(campaign)
    assert not awaited()


def test_states_are_left_in_order_only():
    campaign = make.draft()
    for deed in (publish.pause, publish.resume):
        with pytest.raises(Conflict, match="The campaign is draft"):
            deed(campaign)
    publish.archive(campaign)
    for refused in (publish.archive, publish.publish):
        with pytest.raises(Conflict, match="archived"):
            refused(campaign)
    campaign.refresh_from_db()
    with pytest.raises(Conflict, match="archived"):
        save_draft(campaign, EXAMPLE)


def test_since_when_a_campaign_was_in_a_state_is_kept():
    campaign = make.draft()
    assert not campaign.state_changes.exists()

    publish.publish(campaign)
    campaign.refresh_from_db()
    publish.pause(campaign)
    make.publish_again(campaign, entry={"rule": "once"})
    publish.resume(campaign)
    make.publish_again(campaign, entry={"rule": "every_event"})
    with pytest.raises(Conflict):
        publish.resume(campaign)
    publish.archive(campaign)

    changes = list(campaign.state_changes.all())
    states = ["published", "paused", "published", "archived"]
    assert [change.status for change in changes] == states
    assert changes[0].at == campaign.versions.get(number=1).published_at


def test_a_segment_that_a_campaign_asks_for_is_not_deleted():
    segment = Segment.objects.create(
        name="Parisians", rule={"attribute": "city", "op": "=", "value": "Paris"}
    )
    campaign = make.campaign(
        make.step(
            "who",
            "filter_customers",
            {"rule": {"not": {"segment": segment.pk}}},
            positive=None,
            negative=None,
        ),
        name="Elsewhere",
    )

    with pytest.raises(Conflict, match="the campaign “Elsewhere”"):
        usage.refuse_if_used(segment)

    publish.archive(campaign)
    usage.refuse_if_used(segment)


# Its pace

PACE = {"limit": 500, "per": "hour", "first": "longest_interest", "stop_after": 5000}


def with_pace(pace=PACE, **changes):
    return {**copy.deepcopy(EXAMPLE), "pace": pace, **changes}


def test_a_pace_is_read_and_written_back_the_same():
    campaign = Campaign.objects.create(name="Slowly")
    drawn = drawing.as_json(save_draft(campaign, with_pace()))

    assert drawn["pace"] == PACE
    assert read(drawn) == drawn
    # Redrawn without one it has none; and what is not told is the default.
    assert "pace" not in drawing.as_json(save_draft(campaign, EXAMPLE))
    assert read(with_pace({"limit": 1, "per": "day"}))["pace"] == {
        "limit": 1,
        "per": "day",
        "first": "oldest_customer",
    }


@pytest.mark.parametrize(
    ("pace", "places"),
    [
        (7, ["pace"]),
        ({}, ["pace.limit", "pace.per"]),
        ({**PACE, "limit": 0}, ["pace.limit"]),
        ({**PACE, "limit": True}, ["pace.limit"]),
        ({**PACE, "per": "week"}, ["pace.per"]),
        ({**PACE, "per": ["hour"]}, ["pace.per"]),
        ({**PACE, "first": "richest"}, ["pace.first"]),
        ({**PACE, "stop_after": 0}, ["pace.stop_after"]),
        ({**PACE, "stop_at": 1}, ["pace.stop_at"]),
    ],
)
def test_a_pace_that_is_not_understood_is_refused_with_its_place(pace, places):
    with pytest.raises(Several) as caught:
        read(with_pace(pace))
    assert [error.field for error in caught.value.errors] == places


def test_a_pace_is_for_what_goes_through_the_whole_base():
    trigger = {"kind": "event", "event": "Order paid"}
    with pytest.raises(Several) as caught:
        read(with_pace(trigger=trigger))
    [error] = caught.value.errors
    assert (error.field, "whole base" in error.message) == ("pace", True)


def paced(rule, *, first="longest_interest", negative=None, leading=True):
    for name in ("Product viewed", "Order paid"):
        make.event_type(name)
    who = make.step(
        "who", "filter_customers", {"rule": rule}, positive="sms", negative=negative
    )
    campaign = make.draft(
        *([who] if leading else []),
        make.sms(),
        on="Product in stock",
        system=True,
        pace={**PACE, "first": first},
    )
    found = publish.check(campaign.versions.get())
    of_others = ("has been seen yet", "has had yet")
    return [error.message for error in found.errors], [
        one for one in found.warnings if not any(words in one for words in of_others)
    ]


VIEWED = {"event": "Product viewed"}
SAME = [{"field": "product_id", "op": "=", "value": "$product_id"}]


def test_interest_needs_an_event_in_the_leading_filter():
    berlin = {"attribute": "city", "op": "=", "value": "Berlin"}
    never = {"not": VIEWED}
    for rule in (berlin, never, {**VIEWED, "count": {"op": "=", "value": 0}}):
        [error], _ = paced({"all": [berlin, rule]})
        assert "“who” asks for none itself" in error
        assert paced({"all": [berlin, rule]}, first="oldest_customer")[0] == []
    [error], _ = paced(VIEWED, leading=False)
    assert "the first step is none" in error
    assert paced({"all": [berlin, VIEWED]}) == ([], [])


def test_several_events_that_show_interest_are_told():
    paid = {"event": "Order paid"}
    _, [warning] = paced({"any": [VIEWED, paid]}, first="latest_interest")
    assert "“Product viewed” and “Order paid”: by whichever of them was last" in warning
    # What asks for the very product shows interest in it; what does not, does not.
    assert paced({"all": [{**VIEWED, "where": SAME}, paid]}) == ([], [])


def test_the_negative_way_of_a_leading_filter_is_taken_by_nobody():
    _, [warning] = paced(VIEWED, negative="sms")
    assert "nobody takes its way “No”" in warning

"""The page of rehearsals, as a marketer sees it."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse
from django.utils import timezone

from campaigns import drawing
from campaigns.models import Rehearsal
from campaigns.rehearsing import bars
from tests import make

pytestmark = pytest.mark.django_db

RESULT = {
    "events": 12,
    "tick_minutes": 8,
    "turned_away": 3,
    "report": {
        "version": 1,
        "status": "published",
        "entered": 9,
        "finished": 8,
        "waiting": 1,
        "failed": 0,
        "steps": [
            {
                "key": "sms",
                "action": "send_sms",
                "in": 9,
                "out": {"sent": 7},
                "waiting": 1,
                "failed": 0,
            }
        ],
        "messages": {
            "queued": 9,
            "sent": 7,
            "delivered": 0,
            "opened": 0,
            "clicked": 0,
            "failed": 0,
            "suppressed": {"no_consent": 1},
            "pending": 1,
            "unknown": 0,
        },
    },
    "runs_by_day": {},
    "messages_by_day": [],
    "missing_variables": [{"reason": "There is no value for name.", "count": 2}],
    "why": [],
    "failed": [],
    "samples": [
        {
            "channel": "sms",
            "step": "sms",
            "customer": "C-anna",
            "customer_id": 1,
            "address": "+4915112345678",
            "event": "Order paid",
            "event_id": "o-1",
            "event_kind": "event",
            "event_pk": 17,
            "occurred_at": None,
            "sent_at": None,
            "subject": "",
            "body": "Hello <b>Anna</b>",
            "html": "",
        }
    ],
}


def page(campaign):
    return reverse("admin:campaigns_campaign_rehearsal", args=[campaign.pk])


def done(campaign, **more):
    now = timezone.now()
    return Rehearsal.objects.create(
        campaign=campaign,
        version=campaign.versions.get(),
        days=7,
        until=now,
        asked_at=now,
        status="done",
        result={
            **RESULT,
            "drawing": drawing.as_json(campaign.versions.get()),
            **more,
        },
    )


def test_one_is_asked_for_and_waits(admin_client, admin_user):
    campaign = make.draft()
    answer = admin_client.post(
        page(campaign), {"deed": "ask", "days": "7"}, follow=True
    )

    order = Rehearsal.objects.get()
    assert (order.days, order.status, order.asked_by) == (7, "waiting", admin_user)
    text = answer.content.decode()
    assert "It begins in a moment" in text
    assert 'hx-trigger="every 1s"' in text


def test_one_that_was_kept_without_its_drawing_says_so(admin_client):
    campaign = make.campaign()
    done(campaign)
    Rehearsal.objects.update(result=RESULT)

    text = admin_client.get(page(campaign)).content.decode()

    assert "Kept without its drawing" in text
    assert "would have entered" in text
    assert "The drawing has changed since" not in text


@pytest.mark.parametrize("result", [None, {}, {"drawing": {}}, {"report": {}}])
def test_one_that_was_half_kept_says_so(admin_client, result):
    campaign = make.campaign()
    done(campaign)
    Rehearsal.objects.update(result=result)

    text = admin_client.get(page(campaign)).content.decode()

    assert "not all was kept" in text


def test_what_was_half_kept_says_nothing_of_what_is_published(admin_client):
    campaign = make.draft()
    done(campaign)
    drawn = drawing.as_json(campaign.versions.get())
    Rehearsal.objects.update(result={"drawing": drawn})
    url = reverse("admin:campaigns_campaign_publish", args=[campaign.pk])

    text = admin_client.get(url).content.decode()

    assert "it has not been rehearsed" in text


def test_it_can_be_stopped(admin_client):
    campaign = make.draft()
    admin_client.post(page(campaign), {"deed": "ask", "days": "7"})
    answer = admin_client.post(page(campaign), {"deed": "stop"}, follow=True)
    assert "The rehearsal was stopped." in answer.content.decode()


def test_a_second_one_and_a_span_that_is_none_are_refused_in_words(admin_client):
    campaign = make.draft()
    for days in ("7", "7", "0", "x"):
        answer = admin_client.post(
            page(campaign), {"deed": "ask", "days": days}, follow=True
        )
    assert "is a number from 1 to 365" in answer.content.decode()
    assert Rehearsal.objects.count() == 1


def test_the_result_is_told(admin_client):
    campaign = make.draft()
    done(campaign)
    text = admin_client.get(page(campaign)).content.decode()
    for told in (
        "<b>9</b>would have entered",
        "<b>3</b>turned away",
        "There is no value for name.",
        "No consent",
        "C-anna",
        "Hello &lt;b&gt;Anna&lt;/b&gt;",
        "right to 8 minutes",
        reverse("admin:events_event_change", args=[17]),
    ):
        assert told in text
    assert "has changed since" not in text


def test_numbers_stand_on_the_drawing_that_was_rehearsed(admin_client):
    campaign = make.draft()
    done(campaign)
    drawing.save_draft(
        campaign,
        {
            **drawing.as_json(campaign.versions.get()),
            "start": "later",
            "steps": [
                make.step("later", "wait", {"for": 1, "unit": "days"}, done=None)
            ],
        },
    )

    text = admin_client.get(page(campaign)).content.decode()

    assert "The drawing has changed since" in text
    assert 'data-step="sms"' in text
    assert 'data-step="later"' not in text


def test_before_publishing_the_rehearsal_of_this_drawing_is_told(admin_client):
    campaign = make.draft()
    publishing = reverse("admin:campaigns_campaign_publish", args=[campaign.pk])
    assert "has not been rehearsed" in admin_client.get(publishing).content.decode()

    order = done(campaign)
    text = admin_client.get(publishing).content.decode()
    assert "9 would have entered, and 7 messages would have been sent" in text
    assert f"?rehearsal={order.pk}" in text

    order.result["drawing"]["entry"] = {"rule": "once"}
    order.save()
    assert "has not been rehearsed" in admin_client.get(publishing).content.decode()


def test_samples_are_for_those_who_may_see_customers(client, django_user_model):
    campaign = make.draft()
    done(campaign)
    user = django_user_model.objects.create_user("mia", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_campaign"))
    client.force_login(user)

    text = client.get(page(campaign)).content.decode()
    assert "would have entered" in text
    assert "C-anna" not in text
    assert client.post(page(campaign), {"deed": "ask", "days": "7"}).status_code == 403


def test_bars_stand_for_every_day_and_the_highest_is_whole():
    campaign = make.draft()
    order = done(campaign)
    today = timezone.localdate(order.until)
    found = bars(
        order,
        [
            {"day": str(today), "channel": "sms", "count": 10},
            {"day": str(today), "channel": "email", "count": 10},
            {"day": str(today - timedelta(days=2)), "channel": "sms", "count": 5},
        ],
    )
    assert len(found) == 8
    assert [(bar.day, bar.total) for bar in found if bar.total] == [
        (today - timedelta(days=2), 5),
        (today, 20),
    ]
    assert [height for _, _, height in found[-1].parts] == ["50.00", "50.00"]
    assert date.fromisoformat(str(found[0].day)) == today - timedelta(days=7)


def test_an_order_of_another_campaign_is_not_found(admin_client):
    other = done(make.draft())
    campaign = make.draft()
    assert admin_client.get(f"{page(campaign)}?rehearsal={other.pk}").status_code == 404
    assert admin_client.get(f"{page(campaign)}?rehearsal=x").status_code == 404

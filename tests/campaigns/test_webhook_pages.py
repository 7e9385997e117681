"""Calls to systems outside in the back office, and what receivers are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from campaigns.models import Run, WebhookCall
from campaigns.webhooks import send, signing
from campaigns.webhooks.admin import EXAMPLE
from tests import make
from tests.campaigns.test_webhooks import call_step, go, receiver, started  # noqa: F401
from tests.receiver import Reply

pytestmark = pytest.mark.django_db

DOCS = Path(__file__).parents[2] / "docs" / "webhooks-out.md"


def page(name, *arguments):
    return reverse(f"admin:campaigns_{name}", args=arguments)


def staff(*codenames):
    user = User.objects.create_user("anna", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def text(answer):
    assert answer.status_code == 200
    return answer.content.decode()


# What receivers are told


def example(source):
    names: dict = {}
    exec(source, names)
    return names["verify"]


def code_in_docs():
    return re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]


def test_the_code_in_the_docs_and_on_the_page_is_the_same(admin_client):
    assert code_in_docs() == EXAMPLE.read_text()
    shown = admin_client.get(page("webhookcall_receivers"))
    assert shown.context["example"] == code_in_docs()


def test_the_code_in_the_docs_takes_our_calls_and_no_others(receiver):  # noqa: F811
    verify = example(code_in_docs())
    started(receiver, context={"city": "Zürich"})
    send.send_calls()
    [call] = receiver.calls
    [secret] = signing.secrets()
    verify(secret, call.headers, call.body)
    for wrong in (
        (secret, call.headers, call.body + b" "),
        ("whsec_" + "A" * 40, call.headers, call.body),
        (secret, {**call.headers, "webhook-id": "other"}, call.body),
        (secret, {**call.headers, "webhook-timestamp": "1796119205"}, call.body),
        (secret, {**call.headers, "webhook-signature": "v1,"}, call.body),
    ):
        with pytest.raises(ValueError, match=r"signature is wrong|too old"):
            verify(*wrong)


def test_a_receiver_misses_nothing_while_the_secret_changes(receiver, settings):  # noqa: F811
    verify = example(code_in_docs())
    [old] = signing.secrets()
    new = "whsec_" + "B" * 40
    settings.WEBHOOK_SECRET = f"{new},{old}"
    started(receiver)
    send.send_calls()
    for secret in (old, new):
        verify(secret, receiver.calls[0].headers, receiver.calls[0].body)


def test_the_secret_is_shown_only_to_whom_it_is_meant_for():
    client = staff("view_webhookcall")
    url = page("webhookcall_receivers")
    [secret] = signing.secrets()
    assert "You may not see it" in text(client.get(url))
    assert client.post(url).status_code == 403

    user = User.objects.get()
    user.user_permissions.add(Permission.objects.get(codename="see_webhook_secret"))
    assert secret not in text(client.get(url))
    shown = client.post(url)
    assert secret in text(shown)
    assert "no-store" in shown["Cache-Control"]
    assert staff_without().get(url).status_code == 403


def staff_without():
    user = User.objects.create_user("ben", is_staff=True)
    client = Client()
    client.force_login(user)
    return client


# Calls


def test_the_run_tells_tries_answer_and_reason(receiver, admin_client):  # noqa: F811
    receiver.script = [Reply(503), Reply(404, b'{"error": "no such shop"}')]
    started(receiver)
    url = page("run_change", Run.objects.get().pk)
    assert "Waits for the answer to its call." in text(admin_client.get(url))
    send.send_calls()
    assert "queued after 1 try. It answered 503" in text(admin_client.get(url))
    send.forget_away()
    WebhookCall.objects.update(due_at=timezone.now())
    send.send_calls()
    go()
    shown = text(admin_client.get(url))
    assert "failed after 2 tries. It answered 404 Not Found" in shown
    assert "no such shop" in shown


def test_the_page_of_a_call_tells_all_of_it(receiver, admin_client):  # noqa: F811
    receiver.reply = Reply(body=b'{"left": 3, "html": "<script>"}')
    started(receiver, context={"city": "Riga"})
    call = WebhookCall.objects.get()
    url = page("webhookcall_change", call.pk)
    assert "Not tried yet." in text(admin_client.get(url))
    send.send_calls()
    shown = text(admin_client.get(url))
    assert "&quot;left&quot;: 3" in shown
    assert "<script>&quot;" not in shown
    assert "&quot;city&quot;: &quot;Riga&quot;" in shown
    assert str(call.webhook_id) in shown
    assert "Try again now" not in shown

    # One whose sender died.
    WebhookCall.objects.update(attempts=3, status="failed")
    assert "Of 2 more nothing is known" in text(admin_client.get(url))


def test_the_list_finds_calls_by_state_customer_and_id(receiver, admin_client):  # noqa: F811
    anna = make.customer("anna")
    started(receiver, customer=anna)
    call = WebhookCall.objects.get()
    url = page("webhookcall_changelist")
    for asked, found in (
        ({"status__exact": "queued"}, 1),
        ({"status__exact": "failed"}, 0),
        ({"q": "anna"}, 1),
        ({"q": str(call.webhook_id)}, 1),
        ({"q": "ben"}, 0),
    ):
        answer = admin_client.get(url, asked)
        assert len(answer.context["cl"].result_list) == found, asked


def test_calls_are_tried_and_cancelled_by_hand(receiver, admin_client):  # noqa: F811
    receiver.reply = Reply(500)
    started(receiver)
    send.send_calls()
    call = WebhookCall.objects.get()
    admin_client.post(page("webhookcall_deed", call.pk, "retry"))
    call.refresh_from_db()
    assert call.due_at <= timezone.now()

    listed = page("webhookcall_changelist")
    chosen = {"action": "cancel", "_selected_action": [call.pk]}
    said = text(admin_client.post(listed, chosen, follow=True))
    assert "1 cancelled. Their runs go on by “Failed”." in said
    said = text(admin_client.post(listed, chosen, follow=True))
    assert "1 left alone: only calls that wait can be cancelled." in said
    call.refresh_from_db()
    assert call.status == "cancelled"
    assert call.reason.startswith("Cancelled by ")


def test_who_may_only_look_does_nothing_by_hand(receiver):  # noqa: F811
    started(receiver)
    call = WebhookCall.objects.get()
    client = staff("view_webhookcall", "view_campaign")
    shown = text(client.get(page("webhookcall_change", call.pk)))
    assert "Try again now" not in shown
    for deed in ("retry", "cancel"):
        answer = client.post(page("webhookcall_deed", call.pk, deed))
        assert answer.status_code == 403
    assert client.get(page("webhookcall_deed", call.pk, "retry")).status_code == 405


# A test call


def send_test(client, campaign, receiver, **data):  # noqa: F811
    data = {"url": receiver.url(), "give_up_hours": 24, "profile": "on", **data}
    return client.post(page("campaign_try_webhook", campaign.pk) + "?step=stock", data)


def test_a_test_call_shows_what_went_out_and_what_came_back(receiver, admin_client):  # noqa: F811
    receiver.reply = Reply(body=b'{"left": 3}')
    campaign = make.draft()
    make.event(make.customer("anna"), "Order paid", city="Riga")
    shown = text(send_test(admin_client, campaign, receiver, body="where = $city"))
    [call] = receiver.calls
    told = call.json
    assert (told["test"], told["run"], told["step"]) == (True, None, "stock")
    assert (told["customer"]["external_id"], told["body"]) == (
        "anna",
        {"where": "Riga"},
    )
    assert call.headers["webhook-id"] in shown
    assert "&quot;left&quot;: 3" in shown
    assert "a run goes on by “Done”" in shown
    assert not WebhookCall.objects.exists()
    [secret] = signing.secrets()
    example(code_in_docs())(secret, call.headers, call.body)
    assert secret not in shown


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(404, b"gone"), "It answered 404 Not Found: gone A run goes on by"),
        (Reply(500), "A run would try again."),
        (Reply(302, headers={"Location": "/x"}), "Redirects are not followed"),
    ],
)
def test_a_test_call_says_what_an_answer_would_mean(
    receiver,  # noqa: F811
    admin_client,
    reply,
    words,
):
    receiver.reply = reply
    make.customer()
    assert words in text(send_test(admin_client, make.draft(), receiver))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"url": "https://10.0.0.1/"}, "is not on the open internet"),
        ({"url": "http://example.com/"}, "by https only"),
        ({"url": ""}, "required"),
        ({"body": "nonsense"}, "is not understood"),
        ({"customer": "nobody"}, "There is no customer “nobody”."),
        ({"body": "where = $city"}, "The event has no “city”."),
    ],
)
def test_a_test_call_that_cannot_be_made_says_why(
    receiver,  # noqa: F811
    admin_client,
    data,
    words,
):
    make.customer()
    assert words in text(send_test(admin_client, make.draft(), receiver, **data))
    assert receiver.calls == []


def test_who_may_not_edit_sends_no_test_call(receiver):  # noqa: F811
    answer = send_test(staff("view_campaign"), make.draft(), receiver)
    assert (answer.status_code, receiver.calls) == (403, [])


def test_the_panel_offers_a_test_call_and_saves_what_is_filled_in(
    receiver,  # noqa: F811
    admin_client,
):
    campaign = make.draft(call_step(receiver, body={"kind": "gift"}))
    url = page("campaign_panel", campaign.pk, "step") + "?step=stock"
    shown = text(admin_client.get(url))
    assert "Send a test call" in shown
    assert "kind = gift" in shown
    assert "$answers.stock.field" in shown
    stamp = re.search(r'name="stamp" value="([^"]+)"', shown)[1]
    saved = admin_client.post(
        url,
        {
            "stamp": stamp,
            "step-key": "stock",
            "url": "https://erp.example.com/",
            "body": "product = $product_id",
            "give_up_hours": 2,
        },
    )
    assert saved.status_code == 200
    assert campaign.versions.get().steps.get().config == {
        "url": "https://erp.example.com/",
        "body": {"product": "$product_id"},
        "profile": False,
        "give_up_hours": 2,
    }


def test_the_empty_list_offers_no_new_one(admin_client):
    url = reverse("admin:campaigns_webhookcall_changelist")

    assert "There is nothing here yet." in text(admin_client.get(url))
    assert "Nothing fits what you asked for." in text(admin_client.get(url, {"q": "x"}))
    assert "Create a new item" not in text(admin_client.get(url))

"""The editor, through the admin: every click makes a draft, and nothing is lost."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from campaigns import drawing
from campaigns.actions.wait import WaitForm
from campaigns.dispatch import dispatch_events
from campaigns.engine import advance_runs
from campaigns.models import Campaign, Version, WebhookCall
from customers.models import Attribute
from events.models import EventField, EventType, Kind
from messaging.models import Template
from segments import offers
from tests import make
from tests.segments.test_builder_drafts import sent_by

pytestmark = pytest.mark.django_db


@pytest.fixture
def marketer(client: Client) -> Client:
    client.force_login(user_who_may("view", "add", "change", "publish"))
    return client


def user_who_may(*deeds: str) -> User:
    user = User.objects.create_user("_".join(deeds), is_staff=True)
    codes = [f"{deed}_campaign" for deed in deeds]
    user.user_permissions.set(
        Permission.objects.filter(
            content_type__app_label="campaigns", codename__in=codes
        )
    )
    return user


def panel_url(campaign: Campaign, what: str) -> str:
    return reverse("admin:campaigns_campaign_panel", args=[campaign.pk, what])


def drawn(campaign: Campaign) -> dict[str, Any]:
    """What the editor shows: the draft, or what is published."""
    versions = campaign.versions.exclude(status=Version.Status.SUPERSEDED)
    version = versions.order_by("-number")[0]
    return drawing.as_json(version)


def leads(campaign: Campaign) -> dict[str, Any]:
    definition = drawn(campaign)
    return {"": definition["start"]} | {
        step["key"]: step["next"] for step in definition["steps"]
    }


def stamp(client: Client, campaign: Campaign) -> str:
    """The stamp that the page of the campaign hands to its panels."""
    page = client.get(panel_url(campaign, "trigger")).content.decode()
    return re.search(r'name="stamp" value="(\w+)"', page).group(1)  # type: ignore[union-attr]


def send(
    client: Client, campaign: Campaign, what: str, data: Any = None, **params: str
) -> Any:
    """Fill in a panel that was opened just now, and save it."""
    url = panel_url(campaign, what)
    query = {**params}
    sent = {"stamp": stamp(client, campaign), **(data or {})}
    return client.post(url, sent, query_params=query)


TRIGGER = {
    "trigger-kind": "event",
    "trigger-event": "Order paid",
    "trigger-entry": "every_event",
    "trigger-max_age_hours": "72",
}


# the page


def test_a_campaign_is_shown_as_a_picture_with_words(marketer):
    steps = [
        make.step(
            "who",
            "filter_customers",
            {"rule": {"attribute": "city", "op": "=", "value": "Paris"}},
            positive="sms",
            negative=None,
        ),
        make.sms("See you soon"),
    ]
    campaign = make.draft(*steps, on="Order paid")

    page = marketer.get(
        reverse("admin:campaigns_campaign_change", args=[campaign.pk])
    ).content.decode()

    assert "“Order paid”. May enter at every event." in page
    assert "See you soon" in page
    assert "Paris" in page
    assert page.count('class="cp-arrow') == 4
    assert page.count("<svg") == 1
    # For those who do not see it: where every way leads, in words.
    assert "Yes: goes on to step 2." in page
    assert "No: ends here." in page
    # No JSON in sight.
    assert '"action"' not in page


def test_what_is_wrong_with_a_drawing_is_told_on_the_page_and_in_the_box(marketer):
    campaign = make.draft(make.sms(), make.step("lost", "send_sms", {"text": "x"}))

    page = marketer.get(
        reverse("admin:campaigns_campaign_change", args=[campaign.pk])
    ).content.decode()

    assert page.count("Nobody ever comes to step “lost”") >= 2
    assert "cp-has-warning" in page


def test_a_problem_leads_to_the_panel_where_it_is_put_right(marketer):
    campaign = make.draft(make.sms("Hello you"))

    page = marketer.get(
        reverse("admin:campaigns_campaign_change", args=[campaign.pk]),
        {"open": "step", "step": "sms"},
    ).content.decode()

    assert 'data-kind="step"' in page
    assert "Hello you</textarea>" in page


def test_a_step_that_is_gone_is_said_to_be_gone(marketer):
    campaign = make.draft(make.sms())
    page = reverse("admin:campaigns_campaign_change", args=[campaign.pk])

    assert "not in the drawing" in str(
        marketer.get(page, {"open": "step", "step": "x"}).content
    )
    answer = marketer.get(panel_url(campaign, "step"), {"step": "x"})
    assert answer.status_code == 404
    assert "not in the drawing" in answer.content.decode()


# a new campaign


def test_a_campaign_begins_with_a_name_and_what_starts_it(marketer):
    answer = marketer.post(
        reverse("admin:campaigns_campaign_add"),
        {
            **TRIGGER,
            "name": "Welcome",
            "description": "For all",
            "trigger-entry": "interval",
            "trigger-days": "30",
        },
    )

    campaign = Campaign.objects.get()
    assert answer.status_code == 302
    page = reverse("admin:campaigns_campaign_change", args=[campaign.pk])
    assert answer.url.startswith(f"{page}?open=add")
    assert (campaign.name, campaign.status) == ("Welcome", "draft")
    assert campaign.created_by is not None
    assert drawn(campaign) == {
        "trigger": {
            "kind": "event",
            "event": "Order paid",
            "where": [],
            "max_age_hours": 72,
        },
        "entry": {"rule": "interval", "days": 30},
        "start": "",
        "steps": [],
    }
    assert "First step" in marketer.get(answer.url).content.decode()
    # The event is only spoken of: publishing declares it.
    assert not EventType.objects.exists()


def test_what_was_typed_stays_when_a_new_campaign_is_refused(marketer):
    make.draft(name="Taken")

    answer = marketer.post(
        reverse("admin:campaigns_campaign_add"),
        {**TRIGGER, "name": "Taken", "trigger-entry": "interval"},
    )

    page = answer.content.decode()
    assert answer.status_code == 422
    assert "already exists" in page
    assert "Say after how many days they may enter again." in page
    assert 'value="Taken"' in page
    assert 'value="Order paid"' in page
    assert Campaign.objects.count() == 1


# the trigger


def test_the_trigger_is_changed_in_place(marketer):
    campaign = make.draft(make.sms(), on="Order paid")
    make.event_type("Product in stock", kind=Kind.SYSTEM)

    answer = send(
        marketer,
        campaign,
        "trigger",
        {
            **TRIGGER,
            "trigger-kind": "system_event",
            "trigger-event": "Product in stock",
            "trigger-entry": "once",
        },
    )

    assert answer.status_code == 200
    assert "System event occurred" in answer.content.decode()
    definition = drawn(campaign)
    assert definition["trigger"]["kind"] == "system_event"
    assert definition["trigger"]["event"] == "Product in stock"
    assert definition["entry"] == {"rule": "once"}
    assert leads(campaign) == {"": "sms", "sms": {"sent": None}}


def test_events_are_offered_by_kind(marketer):
    make.event_type("Order paid")
    make.event_type("Product in stock", kind=Kind.SYSTEM)
    campaign = make.draft()

    page = marketer.get(panel_url(campaign, "trigger")).content.decode()

    by_kind = dict(
        re.findall(r'<datalist id="cp-events-(\w+)">(.*?)</datalist>', page, re.DOTALL)
    )
    assert "Order paid" in by_kind["event"]
    assert "Product in stock" not in by_kind["event"]
    assert "Product in stock" in by_kind["system_event"]


def test_an_event_of_the_other_kind_is_refused_beside_its_field(marketer):
    make.event_type("Product in stock", kind=Kind.SYSTEM)
    campaign = make.draft(on="Order paid")

    answer = send(
        marketer, campaign, "trigger", {**TRIGGER, "trigger-event": "Product in stock"}
    )

    page = answer.content.decode()
    assert answer.status_code == 422
    assert "“Product in stock” is a system event. Choose the other trigger" in page
    assert 'value="Product in stock"' in page
    assert drawn(campaign)["trigger"]["event"] == "Order paid"


# steps


def test_a_step_is_chosen_from_all_actions_and_added_on_the_way(marketer):
    campaign = make.draft(make.sms())

    chooser = marketer.get(
        panel_url(campaign, "add"), {"after": "sms", "way": "sent"}
    ).content.decode()
    form = marketer.get(
        panel_url(campaign, "add"), {"after": "sms", "way": "sent", "action": "wait"}
    ).content.decode()
    answer = send(
        marketer,
        campaign,
        "add",
        {"number": "2", "unit": "days"},
        after="sms",
        way="sent",
        action="wait",
    )

    for label in ("Filter customers", "Send e-mail", "Wait"):
        assert label in chooser
    # There is no filter yet that could be asked again.
    assert "Refresh filter" not in chooser
    assert "A new step after “sms”, way “Sent”." in form
    assert answer.status_code == 200
    assert "Step “wait” is added." in answer.content.decode()
    assert leads(campaign) == {
        "": "sms",
        "sms": {"sent": "wait"},
        "wait": {"done": None},
    }
    assert drawn(campaign)["steps"][1]["config"] == {"for": 2, "unit": "days"}


def test_a_step_that_is_not_finished_comes_back_as_it_was_filled_in(marketer):
    campaign = make.draft(make.sms())

    answer = send(
        marketer,
        campaign,
        "add",
        {"subject": "", "text": "Dear {{ client.firstName }}", "missing": "skip"},
        after="sms",
        way="sent",
        action="send_email",
    )

    page = answer.content.decode()
    assert answer.status_code == 422
    assert "This field is required." in page
    assert "Dear {{ client.firstName }}</textarea>" in page
    assert leads(campaign) == {"": "sms", "sms": {"sent": None}}


def test_a_text_that_cannot_be_rendered_is_refused_beside_its_field(marketer):
    campaign = make.draft(make.sms())

    answer = send(
        marketer,
        campaign,
        "step",
        {"text": "{{ client.firstNam", "step-key": "sms"},
        step="sms",
    )

    assert answer.status_code == 422
    assert "cp-has-wrong" in answer.content.decode()
    assert drawn(campaign)["steps"][0]["config"]["text"] == "Hello"


class Fields(HTMLParser):
    """What a browser would send of a form's inputs."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sent: dict[str, str] = {}
        self.select = self.area = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name, value = given.get("name") or "", given.get("value") or ""
        if tag == "select":
            self.select = name
        elif tag == "option" and self.select:
            if "selected" in given or self.select not in self.sent:
                self.sent[self.select] = value
        elif tag == "textarea":
            self.area = name
            self.sent[name] = ""
        elif tag == "input" and name:
            if given.get("type") in ("checkbox", "radio") and "checked" not in given:
                return
            self.sent[name] = value

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self.select = ""
        elif tag == "textarea":
            self.area = ""

    def handle_data(self, data: str) -> None:
        if self.area:
            self.sent[self.area] += data


def viewed(field_code: str) -> dict[str, Any]:
    return {
        "event": "Product viewed",
        "where": [{"field": "product_id", "op": "=", "value": f"${field_code}"}],
    }


def test_a_filter_is_built_by_clicking_and_may_use_the_events_values(marketer):
    make.event(make.customer(), "Product viewed", product_id=7)
    campaign = make.draft(
        make.step(
            "who",
            "filter_customers",
            {"rule": viewed("product_id")},
            positive=None,
            negative=None,
        ),
        on="Product in stock",
        system=True,
    )

    form = marketer.get(panel_url(campaign, "step"), {"step": "who"}).content.decode()
    sent = Fields(form).sent
    assert sent["trigger-event"] == "Product in stock"
    answer = marketer.post(
        panel_url(campaign, "step"), sent, query_params={"step": "who"}
    )
    assert answer.status_code == 200
    kept = drawn(campaign)["steps"][0]["config"]["rule"]
    assert "$product_id" in json.dumps(kept)

    # The same clicks in a new step.
    sent = {name: text for name, text in sent.items() if name.startswith("rule.")}
    where = {"after": "who", "way": "negative", "action": "filter_customers"}
    answer = send(marketer, campaign, "add", sent, **where)
    assert answer.status_code == 200
    assert drawn(campaign)["steps"][1]["config"]["rule"] == kept
    assert leads(campaign)["who"] == {"positive": None, "negative": "filter"}


def test_a_filter_without_a_condition_is_not_taken(marketer):
    campaign = make.draft(make.sms())
    where = {"after": "", "way": "", "action": "filter_customers"}

    form = marketer.get(panel_url(campaign, "add"), where).content.decode()
    answer = marketer.post(
        panel_url(campaign, "add"), Fields(form).sent, query_params=where
    )

    assert answer.status_code == 422
    assert "Add at least one condition." in answer.content.decode()
    assert leads(campaign) == {"": "sms", "sms": {"sent": None}}


def test_an_earlier_filter_can_be_asked_again(marketer):
    campaign = branching()
    where = {"after": "no", "way": "sent", "action": "refresh_filter"}

    form = marketer.get(panel_url(campaign, "add"), where).content.decode()
    answer = send(marketer, campaign, "add", {"filter": "who"}, **where)

    assert '<option value="who">' in form
    assert '<option value="yes">' not in form
    assert answer.status_code == 200
    assert leads(campaign)["no"] == {"sent": "refresh"}
    assert drawn(campaign)["steps"][3]["config"] == {"filter": "who"}


def test_a_step_is_changed_and_renamed_and_keeps_its_place(marketer):
    campaign = make.draft(make.sms("Hello"))

    answer = send(
        marketer,
        campaign,
        "step",
        {"text": "Bye", "missing": "fail", "step-key": "farewell"},
        step="sms",
    )

    assert answer.status_code == 200
    assert leads(campaign) == {"": "farewell", "farewell": {"sent": None}}
    config = drawn(campaign)["steps"][0]["config"]
    assert (config["text"], config["missing"]) == ("Bye", "fail")


def test_a_short_name_that_is_taken_is_refused_and_nothing_changes(marketer):
    campaign = make.draft(
        make.sms(), make.step("other", "send_sms", {"text": "x"}, sent=None)
    )

    answer = send(
        marketer, campaign, "step", {"text": "New", "step-key": "other"}, step="sms"
    )

    assert answer.status_code == 422
    page = answer.content.decode()
    assert "There is a step called “other” already." in page
    assert "New</textarea>" in page
    assert drawn(campaign)["steps"][0]["config"]["text"] == "Hello"


RULE = {"rule": {"attribute": "city", "op": "=", "value": "Paris"}}


def branching() -> Campaign:
    return make.draft(
        make.step("who", "filter_customers", RULE, positive="yes", negative="no"),
        make.step("yes", "send_sms", {"text": "y"}, sent=None),
        make.step("no", "send_sms", {"text": "n"}, sent=None),
    )


def test_removing_a_branching_step_asks_which_way_to_keep(marketer):
    campaign = branching()

    asked = marketer.get(
        panel_url(campaign, "remove"), {"step": "who"}
    ).content.decode()
    answer = send(marketer, campaign, "remove", {"keep": "negative"}, step="who")

    assert "They go on with “yes”" in asked
    assert "Removed too, since nobody would come to them: “no”." in asked
    assert "They go on with “no”" in asked
    assert "They end here" in asked
    assert answer.status_code == 200
    assert leads(campaign) == {"": "no", "no": {"sent": None}}


def test_a_way_can_be_reached_by_keyboard_between_the_steps_it_joins(marketer):
    campaign = branching()
    url = reverse("admin:campaigns_campaign_change", args=[campaign.pk])

    shown = marketer.get(url).content.decode()

    box = r'class="cp-box" data-step="(\w*)"'
    plus = r'class="cp-plus"[^>]*data-after="(\w*)" data-way="(\w*)"'
    found = re.finditer(f"{box}|{plus}", shown)
    assert [" ".join(filter(None, one.groups())) for one in found] == [
        "",
        "",
        "who",
        "who positive",
        "who negative",
        "yes",
        "no",
    ]


def test_a_click_can_be_undone(marketer):
    campaign = branching()
    before = drawn(campaign)

    page = send(marketer, campaign, "remove", {"keep": ""}, step="who").content.decode()
    kept = re.search(r'name="definition" value="([^"]*)"', page)
    definition = kept.group(1).replace("&quot;", '"').replace("&#x27;", "'")
    assert drawn(campaign)["steps"] == []
    answer = send(marketer, campaign, "undo", {"definition": definition})

    assert answer.status_code == 200
    assert drawn(campaign) == before


def test_a_branch_may_join_another_or_end(marketer):
    campaign = branching()

    chooser = marketer.get(
        panel_url(campaign, "add"), {"after": "yes", "way": "sent"}
    ).content.decode()
    send(marketer, campaign, "connect", {"to": "no"}, after="yes", way="sent")
    assert leads(campaign)["yes"] == {"sent": "no"}
    ends = {"to": "", "stranded": "keep"}
    send(marketer, campaign, "connect", ends, after="who", way="positive")

    # Only where it would not run in a circle.
    assert 'value="no"' in chooser
    assert 'value="who"' not in chooser
    assert leads(campaign)["who"] == {"positive": None, "negative": "no"}


@pytest.mark.parametrize(
    ("what", "data", "place"),
    [
        ("add", {}, {"after": "", "way": "", "action": "end"}),
        ("connect", {"to": ""}, {"after": "", "way": ""}),
        ("connect", {"to": "no"}, {"after": "", "way": ""}),
        ("move", {"to": json.dumps(["", ""])}, {"step": "over"}),
    ],
)
def test_what_becomes_of_steps_that_nobody_would_come_to_is_asked(
    marketer, what, data, place
):
    campaign = make.draft(
        make.step("who", "filter_customers", RULE, positive="yes", negative="no"),
        make.step("yes", "send_sms", {"text": "y"}, sent="over"),
        make.step("no", "send_sms", {"text": "n"}, sent="over"),
        make.step("over", "end", {}),
    )
    before = drawn(campaign)

    asked = send(marketer, campaign, what, data, **place)

    assert asked.status_code == 409
    assert drawn(campaign) == before
    shown = asked.content.decode()
    assert "Then nobody would come to “who”, “yes”" in shown
    assert "What shall become of these steps?" in shown

    told = {**data, "stranded": "keep"}
    assert send(marketer, campaign, what, told, **place).status_code == 200
    assert {"who", "yes"} < leads(campaign).keys()
    drawing.save_draft(campaign, before)
    told = {**data, "stranded": "remove"}
    assert send(marketer, campaign, what, told, **place).status_code == 200
    assert not {"who", "yes"} & leads(campaign).keys()


def test_what_a_share_led_to_is_asked_about_when_it_is_taken_away(marketer):
    shares = [{"name": "A", "percent": 50}, {"name": "B", "percent": 50}]
    campaign = make.draft(
        make.step("ab", "ab_split", {"shares": shares}, A=None, B="sms"),
        make.sms(),
    )
    told = {
        "shares_name": ["A", "C"],
        "shares_percent": ["50", "50"],
        "step-key": "ab",
    }

    answer = send(marketer, campaign, "step", told, step="ab")

    assert answer.status_code == 409
    assert "Then nobody would come to “sms” any more." in answer.content.decode()


def test_a_circle_is_refused_in_words(marketer):
    campaign = branching()

    answer = send(marketer, campaign, "connect", {"to": "who"}, after="yes", way="sent")

    assert answer.status_code == 409
    assert "who → yes → who" in answer.content.decode()
    assert leads(campaign)["yes"] == {"sent": None}


def test_a_step_is_moved(marketer):
    campaign = make.draft(
        make.step("sms", "send_sms", {"text": "x"}, sent="wait"),
        make.step("wait", "wait", {"for": 1, "unit": "days"}, done=None),
    )

    page = marketer.get(panel_url(campaign, "move"), {"step": "sms"}).content.decode()
    answer = send(
        marketer, campaign, "move", {"to": json.dumps(["wait", "done"])}, step="sms"
    )

    assert "after “wait”, way “Then”" in page
    assert answer.status_code == 200
    assert leads(campaign) == {
        "": "wait",
        "wait": {"done": "sms"},
        "sms": {"sent": None},
    }


# texts


def test_a_send_step_can_begin_with_a_saved_template(marketer):
    template = Template.objects.create(
        name="Thanks", channel="sms", text="Thank you!", missing="fail"
    )
    Template.objects.create(name="Other", channel="email", subject="x", text="y")
    campaign = make.draft(make.sms())
    where = {"after": "sms", "way": "sent", "action": "send_sms"}

    plain = marketer.get(panel_url(campaign, "add"), where).content.decode()
    begun = marketer.get(
        panel_url(campaign, "add"), {**where, "template": template.pk}
    ).content.decode()

    assert "Thanks" in plain
    assert "Other" not in plain
    assert "Thank you!</textarea>" in begun
    assert '<option value="fail" selected>' in begun


def test_the_variables_of_the_event_and_of_the_customer_are_offered(marketer):
    make.event(make.customer(), "Order paid", amount=5, lines=[1])
    EventField.objects.filter(code="amount").update(label="Sum")
    Attribute.objects.create(code="tier", label="Tier")
    campaign = make.draft(make.sms(), on="Order paid")

    page = marketer.get(panel_url(campaign, "step"), {"step": "sms"}).content.decode()

    assert 'data-insert="{{ client.eventContext.amount }}"' in page
    assert ">Sum</button>" in page
    assert 'data-insert="{{ client.firstName }}"' in page
    assert 'data-insert="{{ client.attributes.tier }}"' in page
    assert "eventContext.lines" not in page


# versions, people, rights


def test_editing_a_published_campaign_makes_a_draft_and_leaves_it_at_work(marketer):
    campaign = make.campaign(make.sms("Old"))
    page = reverse("admin:campaigns_campaign_change", args=[campaign.pk])
    assert "differs from what is published" not in marketer.get(page).content.decode()

    answer = send(
        marketer, campaign, "step", {"text": "New", "step-key": "sms"}, step="sms"
    )

    assert "This draft differs from what is published." in answer.content.decode()
    # What can be done with it now is told at once.
    assert "Publish…" in answer.content.decode()
    published = campaign.versions.get(status=Version.Status.PUBLISHED)
    assert drawing.as_json(published)["steps"][0]["config"]["text"] == "Old"
    draft = campaign.versions.get(status=Version.Status.DRAFT)
    assert (draft.number, published.number) == (2, 1)


def test_who_saves_second_loses_nothing_and_overwrites_nothing(marketer):
    campaign = make.draft(make.sms("Hello"))
    old = stamp(marketer, campaign)
    send(marketer, campaign, "step", {"text": "First", "step-key": "sms"}, step="sms")

    answer = marketer.post(
        panel_url(campaign, "step"),
        {"stamp": old, "text": "Second", "step-key": "sms"},
        query_params={"step": "sms"},
    )

    page = answer.content.decode()
    assert answer.status_code == 409
    assert "Somebody changed this drawing meanwhile" in page
    assert "Second</textarea>" in page
    assert drawn(campaign)["steps"][0]["config"]["text"] == "First"

    # The panel that came back can be saved as it is.
    new = re.search(r'name="stamp" value="(\w+)"', page).group(1)
    marketer.post(
        panel_url(campaign, "step"),
        {"stamp": new, "text": "Second", "step-key": "sms"},
        query_params={"step": "sms"},
    )
    assert drawn(campaign)["steps"][0]["config"]["text"] == "Second"


def test_what_was_written_for_a_step_that_is_gone_is_not_taken_away(marketer):
    campaign = make.draft(make.sms("Hello"))
    old = stamp(marketer, campaign)
    send(marketer, campaign, "remove", step="sms")

    answer = marketer.post(
        panel_url(campaign, "step"),
        {"stamp": old, "text": "Precious", "step-key": "sms"},
        query_params={"step": "sms"},
    )

    # No page comes that would stand where the panel is.
    assert answer.status_code == 409
    assert answer["Content-Type"].startswith("text/plain")
    assert "What you wrote is still here" in answer.content.decode()


def test_undoing_over_what_somebody_else_did_is_refused_in_its_own_words(marketer):
    campaign = make.draft(make.sms("Hello"))
    before = json.dumps(drawn(campaign))
    old = stamp(marketer, campaign)
    send(marketer, campaign, "step", {"text": "Mine", "step-key": "sms"}, step="sms")

    answer = marketer.post(
        panel_url(campaign, "undo"), {"stamp": old, "definition": before}
    )

    assert answer.status_code == 409
    assert "Nothing was done" in answer.content.decode()
    assert "save again" not in answer.content.decode()
    assert drawn(campaign)["steps"][0]["config"]["text"] == "Mine"


def test_who_changed_what_is_kept(marketer):
    campaign = make.draft(make.sms())

    send(marketer, campaign, "step", {"text": "New", "step-key": "sms"}, step="sms")

    entry = LogEntry.objects.get()
    assert entry.object_id == str(campaign.pk)
    assert entry.get_change_message() == "Step “sms” is saved."


def test_saving_a_step_without_a_change_is_no_change(marketer):
    campaign = make.campaign(make.sms("Same"))

    send(
        marketer,
        campaign,
        "step",
        {"text": "Same", "missing": "skip", "step-key": "sms"},
        step="sms",
    )

    page = reverse("admin:campaigns_campaign_change", args=[campaign.pk])
    assert "differs from what is published" not in marketer.get(page).content.decode()
    assert not LogEntry.objects.exists()


def test_name_and_description_are_changed_in_place(marketer):
    make.draft(name="Taken")
    campaign = make.draft(name="Old")

    refused = send(marketer, campaign, "name", {"name": "Taken"})
    assert refused.status_code == 422
    assert "already exists" in refused.content.decode()

    send(marketer, campaign, "name", {"name": "New", "description": "Why"})
    campaign.refresh_from_db()
    assert (campaign.name, campaign.description) == ("New", "Why")


@pytest.mark.parametrize(
    ("what", "params", "data"),
    [
        ("trigger", {}, TRIGGER),
        ("step", {"step": "sms"}, {"text": "New", "step-key": "sms"}),
        ("remove", {"step": "sms"}, {}),
        ("connect", {"after": "", "way": ""}, {"to": "", "stranded": "keep"}),
        ("name", {}, {"name": "New"}),
    ],
)
def test_who_may_only_look_changes_nothing(client, what, params, data):
    campaign = make.draft(make.sms(), name="Old")
    before = drawn(campaign)
    client.force_login(user_who_may("view"))

    page = client.get(reverse("admin:campaigns_campaign_change", args=[campaign.pk]))
    answer = client.post(panel_url(campaign, what), data, query_params=params)

    assert page.status_code == 200
    assert "Add a step" not in page.content.decode()
    assert answer.status_code == 403
    campaign.refresh_from_db()
    assert (campaign.name, drawn(campaign)) == ("Old", before)
    # The same click of somebody who may: the refusal was about the right.
    client.force_login(user_who_may("view", "change"))
    sent = {"stamp": stamp(client, campaign), **data}
    answer = client.post(panel_url(campaign, what), sent, query_params=params)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "data",
    [{"unit": "days"}, {"number": "2", "unit": "days", "until": "2030-01-01"}],
)
def test_a_wait_that_is_not_one_of_four_is_refused_in_words_of_the_form(data):
    form = WaitForm(data)

    assert form.errors["__all__"] == [
        "Fill in one of the four: how long, until a date, until a date in the event, "
        "or until a time of day."
    ]


@pytest.mark.parametrize("what", ["trigger", "name"])
def test_who_may_only_look_is_offered_no_save(client, what):
    campaign = make.draft(make.sms())
    client.force_login(user_who_may("view"))

    page = client.get(panel_url(campaign, what)).content.decode()

    assert 'type="submit"' not in page
    assert "<fieldset disabled" in page
    assert "You may look at this campaign, and not change it." in page


def test_who_may_not_look_sees_nothing(client):
    campaign = make.draft()
    client.force_login(User.objects.create_user("nobody", is_staff=True))

    for name, args in [
        ("change", []),
        ("panel", ["trigger"]),
        ("report", []),
        ("runs", []),
        ("versions", []),
        ("publish", []),
        ("state", ["pause"]),
    ]:
        url = reverse(f"admin:campaigns_campaign_{name}", args=[campaign.pk, *args])
        assert client.get(url).status_code == 403, name


def test_an_archived_campaign_can_be_read_and_not_changed(marketer):
    campaign = make.draft()
    Campaign.objects.update(status=Campaign.Status.ARCHIVED)

    page = marketer.get(reverse("admin:campaigns_campaign_change", args=[campaign.pk]))
    answer = marketer.post(panel_url(campaign, "trigger"), TRIGGER)

    assert "It can be read, and no longer changed." in page.content.decode()
    assert answer.status_code == 403

    step = marketer.get(panel_url(campaign, "step"), {"step": "sms"}).content.decode()
    assert "Copy it to go on from it." in step
    assert "Skip this customer, and say so" in step


def test_the_page_costs_the_same_for_a_large_drawing(marketer):
    def chain(length: int) -> Campaign:
        keys = [f"s{number}" for number in range(length)]
        followers = [*keys[1:], None]
        return make.draft(
            *(
                make.step(key, "send_sms", {"text": "x"}, sent=after)
                for key, after in zip(keys, followers, strict=True)
            )
        )

    def queries(campaign: Campaign) -> int:
        with CaptureQueriesContext(
            connection,
        ) as context:
            marketer.get(reverse("admin:campaigns_campaign_change", args=[campaign.pk]))
        return len(context)

    small, large = chain(1), chain(30)
    queries(small)  # Whatever is cached is cached now.

    assert queries(small) == queries(large)


# preview


def test_a_text_is_shown_as_a_real_customer_with_a_real_event_would_get_it(client):
    client.force_login(User.objects.create_superuser("root"))
    make.event(make.customer(first_name="Bert"), "Order paid", name="Hat")
    campaign = make.draft(make.sms("Hello"), on="Order paid")

    panel = client.get(panel_url(campaign, "step"), {"step": "sms"}).content.decode()
    sent = Fields(panel).sent
    text = "{{ client.firstName }}: {{ client.eventContext.name }}"
    shown = client.post(reverse("admin:messaging_preview"), {**sent, "text": text})

    assert reverse("admin:messaging_preview") in panel
    assert (sent["channel"], sent["event_name"]) == ("sms", "Order paid")
    assert "Bert: Hat" in shown.content.decode()
    # Looking writes nothing.
    assert drawn(campaign)["steps"][0]["config"]["text"] == "Hello"


# what values are offered


def test_values_of_a_wait_are_those_of_the_event_that_started_the_run(marketer):
    wait = make.step(
        "paid",
        "wait_for_event",
        {
            "event": "Order paid",
            "where": [{"field": "product", "op": "=", "value": "$seen_product"}],
            "for": 1,
            "unit": "days",
        },
    )
    campaign = make.draft(wait, on="Product viewed")
    url = panel_url(campaign, "step") + "?step=paid"

    shown = marketer.get(url).content.decode()
    # The same when it comes back with what is wrong.
    refused = marketer.post(url, {**sent_by(shown), "step-key": "?"})
    for html in (shown, refused.content.decode()):
        assert html.count("of=field&amp;event=Order+paid") == 1  # The field.
        assert html.count("of=field&amp;event=Product+viewed") == 1  # The value.


CALL = make.step(
    "stock",
    "call_webhook",
    {"url": "https://erp.example.com/stock"},
    done="who",
    failed=None,
)
WHO = make.step(
    "who",
    "filter_customers",
    {"rule": {"attribute": "city", "op": "=", "value": "$answers.stock.city"}},
    positive="note",
    negative=None,
)
NOTE = make.step("note", "record_event", {"event": "X"}, done="sms", failed=None)


def test_what_a_system_outside_has_answered_is_offered_to_the_steps_after_it(marketer):
    campaign = make.campaign(CALL, WHO, NOTE, make.sms(), on="Order paid")
    make.event(make.customer(), "Order paid")
    while dispatch_events() + advance_runs():
        pass
    told = {"place": {"city": "Paris"}, "left": 3, "tags": ["a"]}
    assert WebhookCall.objects.update(answer=told) == 1

    def panel(step):
        return marketer.get(
            panel_url(campaign, "step"), {"step": step}
        ).content.decode()

    rule = "more=answers.stock.left+answers.stock.place.city"
    assert rule in panel("who")
    assert 'data-insert="$answers.stock.left"' in panel("note")
    assert 'data-insert="{{ client.answers.stock.place.city }}"' in panel("sms")
    assert "answers.stock.left" not in panel("stock")
    asked = {"of": "field", "more": "answers.stock.left answers.stock.city"}
    offered = offers.asked({**asked, "q": "left"})
    assert [one.value for one in offered] == ["answers.stock.left"]
    new = marketer.get(
        panel_url(campaign, "add"),
        {"after": "note", "way": "failed", "action": "set_attribute"},
    ).content.decode()
    assert 'data-insert="$answers.stock.left"' in new


def test_where_no_answer_has_come_yet_it_is_said_how_to_name_one(marketer):
    campaign = make.draft(CALL, WHO, NOTE, make.sms(), on="Order paid")
    html = marketer.get(panel_url(campaign, "step"), {"step": "note"}).content.decode()
    assert "It has not answered yet. Write $answers.stock.field" in html


def save_unchanged(marketer: Client, campaign: Campaign, what: str) -> int:
    """Open a panel and save it as it is, of the first step."""
    about = {"step": drawn(campaign)["steps"][0]["key"]} if what == "step" else {}
    form = marketer.get(panel_url(campaign, what), about).content.decode()
    answer = marketer.post(
        panel_url(campaign, what), Fields(form).sent, query_params=about
    )
    return answer.status_code


def test_a_filter_on_an_event_that_publishing_declares_can_be_saved(marketer):
    rule = {"event": "Order paid", "count": {"op": ">=", "value": 2}}
    campaign = make.draft(
        make.step(
            "who", "filter_customers", {"rule": rule}, positive=None, negative=None
        ),
        on="Order paid",
    )
    assert save_unchanged(marketer, campaign, "step") == 200
    rule["event"] = "Order payed"
    other = make.draft(
        make.step(
            "who", "filter_customers", {"rule": rule}, positive=None, negative=None
        ),
        on="Order paid",
    )
    assert save_unchanged(marketer, other, "step") == 422


@pytest.mark.parametrize("is_known", [True, False])
def test_blanks_around_the_name_of_an_event_stay_where_they_are_sent(
    marketer, is_known
):
    name = " Bag paid "
    if is_known:
        make.event_type(name)
    found = name if is_known else "Bag paid"
    goal = {"event": name, "where": [], "days": 7}
    held = {"percent": 10, "goal": goal}
    for action, config, ways in (
        (
            "wait_for_event",
            {"event": name, "for": 1, "unit": "days"},
            {"happened": None, "timed_out": None},
        ),
        ("record_event", {"event": name, "context": {}}, {"done": None}),
        ("control_group", held, {"treated": None, "control": None}),
    ):
        campaign = make.draft(make.step("one", action, config, **ways), on=name)
        assert save_unchanged(marketer, campaign, "step") == 200
        saved = drawn(campaign)["steps"][0]["config"]
        assert saved.get("goal", saved)["event"] == found
        assert save_unchanged(marketer, campaign, "trigger") == 200
        assert drawn(campaign)["trigger"]["event"] == found

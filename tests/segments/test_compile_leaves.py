"""What the newer conditions mean, one by one. See test_agreement.py as well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from campaigns.models import Campaign
from customers.models import Attribute, MailingCategory
from events.ingest import record_events
from messaging.models import ChannelSettings, Message, Suppression
from segments.compile import (
    MissingField,
    chosen_events,
    chosen_messages,
    compile_rule,
    customers_matching,
    event_fits,
)
from segments.dictionary import Dictionary
from segments.models import Membership, Segment
from segments.rules import RuleError, parse
from smartcomm.core.db import fetch_all
from tests import make

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def members(data, *, now=NOW, **how):
    rule = parse(data, event_values="context" in how)
    return customers_matching(compile_rule(rule, now=now, **how))


def event(customer, name, days_ago=0.0, /, **context):
    at = NOW - timedelta(days=days_ago)
    return make.event(customer, name, at=at, now=NOW, **context)


# Events


def test_who_viewed_a_product_and_did_not_pay_for_that_same_one():
    anna, bert, cleo = (make.customer() for _ in range(3))
    for customer in (anna, bert, cleo):
        event(customer, "Viewed", 3, product_id=7)
    event(anna, "Paid", 1, product_id="7")  # The same by value.
    event(bert, "Paid", 1, product_id=8)
    event(cleo, "Paid", 5, product_id=7)  # Before.
    rule = {"event": "Viewed", "without": {"event": "Paid", "same": ["product_id"]}}

    assert members(rule) == {bert.pk}
    rule["without"]["order"] = "after"
    assert members(rule) == {bert.pk, cleo.pk}
    rule["with"] = rule.pop("without")
    assert members(rule) == {anna.pk}


def test_how_often_is_asked_of_the_events_that_have_another_beside_them():
    anna = make.customer()
    for product in (1, 2, 3):
        event(anna, "Viewed", 3, product_id=product)
    event(anna, "Paid", 1, product_id=1)
    without = {"event": "Paid", "same": "product_id"}

    for times in (2, 3):
        rule = {
            "event": "Viewed",
            "without": without,
            "count": {"op": ">=", "value": times},
        }
        assert members(rule) == ({anna.pk} if times == 2 else set())


def test_an_event_is_never_its_own_other():
    once, twice = make.customer(), make.customer()
    event(once, "Paid", 1, product_id=1)
    event(twice, "Paid", 1, product_id=1)
    event(twice, "Paid", 1, product_id=1)
    again = {"event": "Paid", "with": {"event": "Paid", "same": ["product_id"]}}

    assert members(again) == {twice.pk}
    again["with"]["order"] = "after"  # At the same instant is not after.
    assert members(again) == set()


@pytest.mark.parametrize("value", [None, [7], {"x": 7}])
def test_what_is_no_single_value_is_the_same_as_nothing(value):
    anna = make.customer()
    event(anna, "Viewed", 2, product_id=value)
    event(anna, "Paid", 1, product_id=value)
    rule = {"event": "Viewed", "with": {"event": "Paid", "same": ["product_id"]}}

    assert members(rule) == set()


def test_since_another_event_is_strictly_after_the_last_of_them():
    anna, bert, cleo, dora = (make.customer() for _ in range(4))
    for customer in (anna, bert, cleo):
        event(customer, "Viewed", 5)
        event(customer, "Viewed", 3)
    event(anna, "Paid", 1)
    event(bert, "Paid", 4)
    event(cleo, "Paid", 3)  # In the same instant.
    event(dora, "Paid", 1)  # She viewed nothing: no period, so nothing is in it.
    rule = {"event": "Paid", "period": {"since": {"event": "Viewed"}}}

    assert members(rule) == {anna.pk}
    never = {**rule, "count": {"op": "=", "value": 0}}
    assert members(never) == {bert.pk, cleo.pk, dora.pk}
    assert members({"all": [{"event": "Viewed"}, never]}) == {bert.pk, cleo.pk}


def test_the_first_event_is_asked_apart_from_the_last():
    anna = make.customer()
    event(anna, "Paid", 40)
    event(anna, "Paid", 2)

    def asked(word, op, value):
        return members({"event": "Paid", word: {"op": op, "value": value}}) != set()

    assert asked("days_since_first", "=", 40)
    assert asked("days_since_last", "=", 2)
    assert asked("first", "before", "2026-10-20")
    assert not asked("last", "before", "2026-10-20")


def test_a_month_of_the_calendar_is_that_of_the_project(settings):
    settings.TIME_ZONE = "Europe/Berlin"
    october, november = make.customer(), make.customer()
    for customer, hour in ((october, 22), (november, 23)):
        at = datetime(2026, 10, 31, hour, 30, tzinfo=UTC)
        make.event(customer, "Paid", at=at, now=NOW)

    assert members({"event": "Paid", "period": {"this": "month"}}) == {november.pk}
    assert members({"event": "Paid", "period": {"previous": "month"}}) == {october.pk}


def test_the_source_is_part_of_what_is_chosen():
    anna = make.customer()
    event(anna, "Paid", 1)
    item = {"name": "Paid", "customer": anna.external_id}
    record_events([item], source=make.source("till"), now=NOW)
    make.source("web")

    def count(source, times):
        rule = {"event": "Paid", "source": source, "count": {"op": "=", "value": times}}
        return members(rule) == {anna.pk}

    assert count("shop", 1)
    assert count(["shop", "till"], 2)
    assert count("web", 0)


def test_the_event_s_values_take_their_places_everywhere():
    anna = make.customer()
    event(anna, "Viewed", 3, product_id=7)
    event(anna, "Paid", 1, product_id=7)
    line = [{"field": "product_id", "op": "=", "value": "$product_id"}]
    rules = [
        {"event": "Paid", "period": {"since": {"event": "Viewed", "where": line}}},
        {"event": "Paid", "with": {"event": "Viewed", "where": line}},
        {"event": "Paid", "where": line, "first": {"op": "after", "value": "$day"}},
    ]

    for rule in rules:
        found = [
            members(rule, context={"product_id": product, "day": "2026-11-01"})
            for product in (7, 8)
        ]
        assert found == [{anna.pk}, set()]
        with pytest.raises(MissingField):
            members(rule, context={})


def test_the_events_that_made_it_so_can_be_named():
    anna = make.customer()
    seven = event(anna, "Viewed", 3, product_id=7)
    eight = event(anna, "Viewed", 3, product_id=8)
    event(anna, "Paid", 1, product_id=8)
    rule = parse(
        {"event": "Viewed", "without": {"event": "Paid", "same": ["product_id"]}}
    )
    known = Dictionary.of(rule)

    query = chosen_events(rule, now=NOW, dictionary=known, restrict=[anna.pk])
    assert fetch_all(query.sql, query.params) == [
        (seven.pk, anna.pk, NOW - timedelta(days=3))
    ]
    assert event_fits(rule, seven.pk, now=NOW, dictionary=known)
    assert not event_fits(rule, eight.pk, now=NOW, dictionary=known)


# Attributes


def test_age_is_that_of_the_last_birthday(settings):
    settings.TIME_ZONE = "Europe/Berlin"
    today = make.customer(birth_date="2008-11-20")
    tomorrow = make.customer(birth_date="2008-11-21")
    ahead = make.customer(birth_date="2027-01-01")
    unknown = make.customer()
    adult = {"attribute": "age", "op": ">=", "value": 18}

    assert members(adult) == {today.pk}
    # The day is that of the project: in Berlin it is the 21st by now.
    assert members(adult, now=NOW.replace(hour=23)) == {today.pk, tomorrow.pk}
    assert members({"attribute": "age", "op": "=", "value": "17"}) == {tomorrow.pk}
    # Who is not born yet has no age.
    assert members({"attribute": "age", "op": "is not set"}) == {ahead.pk, unknown.pk}
    assert members({"attribute": "age", "op": "!=", "value": 18}) == {
        tomorrow.pk,
        ahead.pk,
        unknown.pk,
    }


def test_an_attribute_that_was_declared_as_age_is_meant_by_it():
    Attribute.objects.create(code="age", type="string")
    anna = make.customer(birth_date="1990-01-01", attributes={"age": "35-44"})

    assert members({"attribute": "age", "op": "=", "value": "35-44"}) == {anna.pk}
    with pytest.raises(RuleError, match="does not fit"):
        members({"attribute": "age", "op": ">", "value": 30})


def test_a_birthday_is_today_and_in_the_days_to_come():
    today = make.customer(birth_date="1990-11-20")
    in_a_week = make.customer(birth_date="1985-11-27")
    make.customer(birth_date="1985-11-28")
    make.customer(birth_date="1985-11-19")
    born_today = make.customer(birth_date="2026-11-20")
    new_year = make.customer(birth_date="1970-01-02")

    def within(days):
        rule = {"attribute": "birth_date", "op": "anniversary within", "value": days}
        return members(rule)

    assert within(0) == {today.pk}
    assert within(7) == {today.pk, in_a_week.pk}
    assert new_year.pk in within(45)
    assert born_today.pk not in within(364)
    assert born_today.pk in within(365)


def test_what_expires_soon():
    Attribute.objects.create(code="expires", type="date")
    dates = ["2026-11-22T12:00:00Z", "2026-11-23T12:00:00Z", "2026-11-20T11:59:59Z"]
    soon, later, over = (make.customer(attributes={"expires": day}) for day in dates)

    def ahead(op, days):
        return members(
            {"attribute": "expires", "op": f"days ahead {op}", "value": days}
        )

    assert ahead("<=", 2) == {soon.pk}
    assert ahead(">=", 3) == {later.pk}
    assert ahead("<=", 40) == {soon.pk, later.pk}
    assert over.pk not in ahead(">=", 0)


def test_lists_are_asked_for_what_they_include():
    Attribute.objects.create(code="tags", type="list")
    both = make.customer(attributes={"tags": ["tea", 10]})
    tea = make.customer(attributes={"tags": ["tea"]})
    empty, none = make.customer(attributes={"tags": []}), make.customer()
    make.event(both, "Paid", items=["Bag", "Hat"])
    make.event(tea, "Paid", items="Bag")  # No list.

    def tags(op, value):
        return members({"attribute": "tags", "op": op, "value": value})

    assert tags("includes", "tea") == {both.pk, tea.pk}
    assert tags("includes", "10") == {both.pk}
    assert tags("includes", "te") == set()
    assert tags("includes any of", ["jazz", 10]) == {both.pk}
    assert tags("includes all of", ["tea", 10]) == {both.pk}
    assert tags("includes none of", ["tea"]) == {empty.pk, none.pk}
    many = [f"x{n}" for n in range(50)]
    assert tags("includes any of", [*many, "tea"]) == {both.pk, tea.pk}
    assert tags("includes all of", [*many, "tea"]) == set()
    assert members({"attribute": "tags", "op": "is set"}) == {
        both.pk,
        tea.pk,
        empty.pk,
    }
    line = {"field": "items", "op": "includes", "value": "Bag"}
    assert members({"event": "Paid", "where": [line]}, now=timezone.now()) == {both.pk}


# Messages, consent, reach, segments


def letter(customer, *, campaign=None, channel="email", test=False, **stages):
    return Message.objects.create(
        customer=customer,
        channel=channel,
        content=make.content(channel),
        campaign_id=campaign,
        is_test=test,
        due_at=NOW,
        expires_at=NOW,
        created_at=NOW,
        **{f"{stage}_at": NOW - timedelta(days=n) for stage, n in stages.items()},
    )


def test_who_got_a_campaign_and_did_not_open_it():
    campaign = Campaign.objects.create(name="Hello")
    opened, ignored, tested, other = (make.customer() for _ in range(4))
    seen = letter(opened, campaign=campaign.pk, sent=5, opened=2)
    letter(ignored, campaign=campaign.pk, sent=5)
    letter(tested, campaign=campaign.pk, test=True, sent=5)
    letter(other, campaign=campaign.pk)  # It never went out.
    got = {"message": "sent", "campaign": campaign.pk}
    read = {"message": "opened", "campaign": campaign.pk}

    assert members(got) == {opened.pk, ignored.pk}
    assert members({"all": [got, {"not": read}]}) == {ignored.pk}
    # The period is that of the opening, not of the sending.
    assert members({**read, "period": {"last": 3, "unit": "days"}}) == {opened.pk}
    assert members({**got, "period": {"last": 3, "unit": "days"}}) == set()
    assert members({**got, "channel": "sms"}) == set()
    assert members({**got, "days_since_last": {"op": ">=", "value": 5}}) == {
        opened.pk,
        ignored.pk,
    }
    query = chosen_messages(parse(read), now=NOW)
    assert fetch_all(query.sql, query.params) == [
        (seen.pk, opened.pk, NOW - timedelta(days=2))
    ]


def test_an_answer_is_yes_or_no_or_was_never_given():
    yes, no, never = (make.customer() for _ in range(3))
    make.consent(yes, "email")
    make.consent(no, "email", yes=False)

    def answered(what):
        return members({"consent": "email", "is": what})

    assert answered("yes") == {yes.pk}
    assert answered("no") == {no.pk}
    assert answered("unanswered") == {never.pk}
    assert members({"not": {"consent": "email", "is": "unanswered"}}) == {
        yes.pk,
        no.pk,
    }
    assert members({"consent": "sms", "is": "yes"}) == set()


def test_reachable_is_who_would_be_written_to_now():
    anna, bert = make.reachable(), make.reachable()
    silent = make.customer(email="s@example.com")
    reach = {"reachable": "email"}

    assert members(reach) == {anna.pk, bert.pk}
    for held in [("email", bert.email), ("sms", anna.email)]:
        Suppression.objects.create(channel=held[0], address=held[1], reason="bounced")
    assert members(reach) == {anna.pk}
    assert members({"not": reach}) == {bert.pk, silent.pk}
    ChannelSettings.objects.create(channel="email", default_consent=True)
    assert members(reach) == {anna.pk, silent.pk}
    MailingCategory.objects.create(code="news", name="News", default_email=False)
    assert members({**reach, "category": "news"}) == set()


def test_a_list_of_customers_is_a_segment_like_any_other():
    anna, bert = make.customer(city="Paris"), make.customer(city="Paris")
    listed = Segment.objects.create(name="Guests", kind="static")
    within = Segment.objects.create(name="Within", rule={"segment": listed.pk})
    Membership.objects.create(customer=anna, segment=listed, since=NOW)

    assert members({"segment": listed.pk}) == {anna.pk}
    assert members({"segment": within.pk}) == {anna.pk}
    assert members({"not": {"segment": within.pk}}) == {bert.pk}
    assert members({"segment": listed.pk}, restrict=[bert.pk]) == set()


# Names


@pytest.mark.parametrize(
    ("data", "place", "message"),
    [
        ({"event": "A", "source": "nobody"}, "source", "no source “nobody”"),
        (
            {"event": "A", "with": {"event": "A", "source": ["shop", "nobody"]}},
            "with.source",
            "no source",
        ),
        (
            {"event": "A", "period": {"since": {"event": "B"}}},
            "period.since.event",
            "no event “B”",
        ),
        (
            {"event": "A", "without": {"event": "System"}},
            "without.event",
            "a system event",
        ),
        ({"message": "sent", "campaign": 9}, "campaign", "no campaign 9"),
        (
            {"consent": "email", "category": "x", "is": "no"},
            "category",
            "no mailing category “x”",
        ),
        (
            {"reachable": "email", "category": "x"},
            "category",
            "no mailing category “x”",
        ),
        ({"segment": 999}, "segment", "no segment 999"),
        ({"attribute": "age", "op": "contains", "value": "1"}, "op", "does not fit"),
        ({"attribute": "city", "op": "includes", "value": "1"}, "op", "does not fit"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_its_place(data, place, message):
    make.event_type("A")
    make.event_type("System", "system")
    make.source("shop")

    with pytest.raises(RuleError, match=message) as caught:
        members({"any": [{"event": "A"}, {"not": data}]})
    assert caught.value.field == f"any.1.not.{place}"


def test_what_is_wrong_within_a_segment_is_said_of_that_segment():
    inner = Segment.objects.create(name="Inner", rule={"event": "Gone"})
    outer = Segment.objects.create(name="Outer", rule={"segment": inner.pk})

    with pytest.raises(RuleError, match="In the segment “Inner”: There is no") as told:
        members({"all": [{"segment": outer.pk}]})
    assert told.value.field == "all.0.segment"


def test_a_segment_whose_rule_is_not_understood_is_broken():
    broken = Segment.objects.create(name="Old", rule={"did": "it"})

    with pytest.raises(RuleError, match="The segment “Old” is broken"):
        members({"segment": broken.pk})

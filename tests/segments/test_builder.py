from __future__ import annotations

import json
from typing import Any

import pytest
from django import forms
from django.http import QueryDict
from django.utils import timezone

from customers.models import Attribute
from events.models import EventField, EventType, Kind, Source
from segments import builder, drafts, offers, rules
from segments.builder import Options, RuleField, WhereField
from segments.models import Segment
from tests import make
from tests.segments.test_builder_drafts import sent_by

pytestmark = pytest.mark.django_db

HEADLINE = {
    "all": [
        {
            "event": "Product viewed",
            "where": [{"field": "name", "op": "=", "value": "Bag"}],
            "period": {"last": 30, "unit": "days"},
            "count": {"op": ">=", "value": 3},
        },
        {
            "event": "Order paid",
            "period": {"last": 30, "unit": "days"},
            "count": {"op": "=", "value": 0},
        },
        {"attribute": "city", "op": "in", "value": ["Paris", "Berlin"]},
    ]
}


class SegmentForm(forms.Form):
    rule = RuleField()


class FilterForm(forms.Form):
    rule = RuleField(allow_event_values=True, event_name_from="trigger")


class TriggerForm(forms.Form):
    where = WhereField(event_name_from="trigger")


@pytest.fixture(autouse=True)
def _known_events():
    for name in ("Product viewed", "Order paid"):
        make.event_type(name)
    viewed = EventType.objects.get(name="Product viewed")
    for code, type_ in (("name", "string"), ("price", "number"), ("gift", "boolean")):
        EventField.objects.create(type=viewed, code=code, value_type=type_)


def sent(form: forms.Form, **changes: str | list[str] | None) -> QueryDict:
    """What a browser would send of the form, with some fields changed."""
    data = QueryDict(mutable=True)
    for name, texts in sent_by(form.as_p()).items():
        data.setlist(name, texts)
    for name, change in changes.items():
        if change is None:
            data.pop(name, None)
        else:
            data.setlist(name, change if isinstance(change, list) else [change])
    return data


def press(data: QueryDict, deed: str, at: str = "", what: str = "") -> QueryDict:
    """The form after one of the builder's buttons was pressed."""
    asked = data.copy()
    asked.update({"prefix": "rule", "do": deed, "at": at, "what": what})
    after = QueryDict(mutable=True)
    for name, texts in sent_by(builder.answer(asked)).items():
        after.setlist(name, texts)
    return after


def rule_in(data: QueryDict, *, event_values: bool = False) -> object:
    form = FilterForm(data) if event_values else SegmentForm(data)
    assert form.is_valid(), form.errors
    return form.cleaned_data["rule"]


# From a form to a rule


def test_the_headline_rule_is_built_by_buttons_and_fields_alone():
    data = sent(SegmentForm())
    data = press(data, "add", what="event")
    data["rule.0.event"] = "Product viewed"
    data["rule.0.count.low"] = "3"
    data["rule.0.period"] = "last"
    data = press(data, "changed", "0.period")
    data["rule.0.last"] = "30"
    data = press(data, "add", "0", "where")
    data["rule.0.where.0.field"] = "name"
    data["rule.0.where.0.low"] = "Bag"
    data = press(data, "add", what="event")
    data["rule.1.event"] = "Order paid"
    data["rule.1.ask"] = "never"
    data["rule.1.period"] = "last"
    data["rule.1.last"] = "30"
    data = press(data, "add", what="attribute")
    data["rule.2.attribute"] = "city"
    data["rule.2.op"] = "in"
    data = press(data, "changed", "2.op")
    data["rule.2.list.new"] = "Paris, Berlin"

    assert rule_in(data) == HEADLINE


def test_a_saved_rule_comes_back_unchanged_and_does_not_count_as_changed():
    form = SegmentForm(initial={"rule": HEADLINE})

    again = SegmentForm(sent(form), initial={"rule": HEADLINE})

    assert again.is_valid()
    assert again.cleaned_data["rule"] == HEADLINE
    assert again.changed_data == []


def test_a_change_of_one_number_is_a_change():
    form = SegmentForm(initial={"rule": HEADLINE})

    again = SegmentForm(sent(form, **{"rule.0.last": "31"}), initial={"rule": HEADLINE})

    assert again.changed_data == ["rule"]


def test_an_empty_rule_chooses_nobody_and_is_refused():
    form = SegmentForm(sent(SegmentForm()))

    assert form.errors == {"rule": ["Add at least one condition."]}


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"rule.0.event": ""}, "rule.0.event", "Choose an event."),
        ({"rule.0.event": "Unheard"}, "rule.0.event", "There is no event “Unheard”."),
        ({"rule.0.count.low": ""}, "rule.0.count.low", "Give a number."),
        ({"rule.0.count.low": "many"}, "rule.0.count.low", "Write a whole number"),
        ({"rule.0.last": "0"}, "rule.0.last", "takes a whole number from 1"),
        ({"rule.0.where.0.field": ""}, "rule.0.where.0.field", "Choose a field."),
        ({"rule.0.where.0.field": "a-b"}, "rule.0.where.0.field", "is no field code"),
        ({"rule.0.where.0.low": ""}, "rule.0.where.0.low", "Give a value."),
        ({"rule.2.list": None}, "rule.2.list.new", "Give at least one value."),
        ({"rule.2.attribute": "shoe"}, "rule.2.attribute", "no attribute “shoe”"),
        (
            {"rule.0.period": "span", "rule.0.from": "soon"},
            "rule.0.from",
            "Write a date such as 2026-10-01",
        ),
        ({"rule.0.period": "span"}, "rule.0.from", "Give at least one date."),
        ({"rule.0.ask": "days between"}, "rule.0.days.low", "Give a number."),
        ({"rule.0.ask": "date on"}, "rule.0.date.low", "Give a date."),
    ],
)
def test_what_is_missing_or_wrong_is_said_beside_its_field_and_nothing_is_lost(
    changes, name, message
):
    data = sent(SegmentForm(initial={"rule": HEADLINE}), **changes)
    form = SegmentForm(data)

    assert not form.is_valid()
    html = str(form["rule"])

    said = html.split(f'data-problems="{name}"')[1].split("</ul>")[0]
    assert message in said
    again = sent_by(html)
    for key, text in changes.items():
        if text:
            assert again[key] == [text]
    assert again["rule.1.event"] == ["Order paid"]


def test_half_a_rule_is_never_a_rule():
    data = press(sent(SegmentForm(initial={"rule": HEADLINE})), "add", what="attribute")

    form = SegmentForm(data)

    assert form.errors == {"rule": [builder.NOT_FINISHED]}
    assert form.cleaned_data == {}


def test_an_empty_group_is_not_finished():
    data = press(sent(SegmentForm(initial={"rule": HEADLINE})), "add", what="group")

    assert not SegmentForm(data).is_valid()


def test_a_rule_that_is_not_understood_is_shown_as_such_and_not_saved_over():
    stored = {"evnt": "Order paid"}
    form = SegmentForm(initial={"rule": stored})

    html = str(form["rule"])
    again = SegmentForm(sent(form), initial={"rule": stored})

    assert "This rule cannot be shown here, and has not been changed." in html
    assert not again.is_valid()
    data = press(sent(form), "restart")
    assert data["rule.kind"] == "all"


def test_a_text_that_no_form_can_hold_is_refused_visibly():
    stored = {"attribute": "city", "op": "=", "value": "Pa\rris"}

    html = str(SegmentForm(initial={"rule": stored})["rule"])

    assert "This rule cannot be shown here" in html


# Buttons


def test_conditions_are_copied_moved_grouped_and_removed():
    a, b = ({"attribute": "city", "op": "=", "value": v} for v in ("A", "B"))
    data = sent(SegmentForm(initial={"rule": {"all": [a, b]}}))

    assert rule_in(press(data, "duplicate", "0")) == {"all": [a, a, b]}
    assert rule_in(press(data, "down", "0")) == {"all": [b, a]}
    assert rule_in(press(data, "up", "1")) == {"all": [b, a]}
    assert rule_in(press(data, "up", "0")) == {"all": [a, b]}
    assert rule_in(press(data, "remove", "0")) == {"all": [b]}
    grouped = press(data, "group", "1")
    assert rule_in(grouped) == {"all": [a, {"any": [b]}]}
    assert rule_in(press(grouped, "down", "0")) == {"all": [{"any": [a, b]}]}
    assert rule_in(press(grouped, "ungroup", "1")) == {"all": [a, b]}


def test_a_condition_moves_into_and_out_of_groups_as_the_eye_sees_it():
    one, two, three = (
        {"attribute": "city", "op": "=", "value": v} for v in ("1", "2", "3")
    )
    data = sent(SegmentForm(initial={"rule": {"all": [one, {"any": [two, three]}]}}))

    out = press(data, "down", "1.1")
    assert rule_in(out) == {"all": [one, {"any": [two]}, three]}
    assert rule_in(press(out, "up", "2")) == {"all": [one, {"any": [two, three]}]}
    above = press(data, "up", "1.0")
    assert rule_in(above) == {"all": [one, two, {"any": [three]}]}


def test_lines_on_a_context_are_copied_and_removed():
    rule = {"all": [{**HEADLINE["all"][0]}]}
    data = sent(SegmentForm(initial={"rule": rule}))

    twice = rule_in(press(data, "duplicate", "0.where.0"))
    none = rule_in(press(data, "remove", "0.where.0"))

    line = {"field": "name", "op": "=", "value": "Bag"}
    assert twice["all"][0]["where"] == [line, line]
    assert "where" not in none["all"][0]


@pytest.mark.parametrize("kind", ["all", "any", "none"])
def test_a_group_says_all_any_or_none(kind):
    condition = {"attribute": "city", "op": "is set"}
    data = sent(
        SegmentForm(initial={"rule": {"all": [condition]}}), **{"rule.kind": kind}
    )

    assert (
        rule_in(data)
        == {
            "all": {"all": [condition]},
            "any": {"any": [condition]},
            "none": {"not": {"any": [condition]}},
        }[kind]
    )


def test_a_condition_is_turned_into_its_opposite():
    condition = {"attribute": "city", "op": "is set"}
    data = sent(
        SegmentForm(initial={"rule": {"all": [condition]}}), **{"rule.0.negated": "on"}
    )

    assert rule_in(data) == {"all": [{"not": condition}]}


@pytest.mark.parametrize(
    ("deed", "at"),
    [
        ("explode", "0"),
        ("remove", "7"),
        ("remove", "0.where.5"),
        ("up", ""),
        ("add", "0"),
        ("remove", "²"),
        ("remove", "9" * 5000),
        ("remove", "where"),
    ],
)
def test_a_button_of_a_part_that_is_gone_changes_nothing(deed, at):
    data = sent(SegmentForm(initial={"rule": HEADLINE}))

    with pytest.raises(KeyError):
        press(data, deed, at)


def test_what_was_typed_for_another_question_is_kept_when_one_comes_back():
    data = sent(SegmentForm(initial={"rule": HEADLINE}), **{"rule.0.ask": "never"})
    data = press(data, "changed", "0.ask")
    data["rule.0.ask"] = "count >="

    assert rule_in(press(data, "changed", "0.ask")) == HEADLINE


# Values


def test_a_value_is_meant_as_the_field_says():
    rule = {
        "event": "Product viewed",
        "where": [{"field": "name", "op": "=", "value": "10"}],
    }
    data = sent(
        SegmentForm(initial={"rule": rule}), **{"rule.0.where.0.field": "price"}
    )

    number = press(data, "changed", "0.where.0.field")
    number_rule = rule_in(number)
    number["rule.0.where.0.field"] = "gift"
    yes_or_no = press(number, "changed", "0.where.0.field")
    yes_or_no["rule.0.where.0.low"] = "yes"

    assert number_rule["all"][0]["where"][0]["value"] == 10
    assert rule_in(yes_or_no)["all"][0]["where"][0]["value"] is True


def test_a_declared_attribute_offers_the_comparisons_of_its_type():
    Attribute.objects.create(code="points", label="Points", type="number")
    rule = {"attribute": "points", "op": ">", "value": 3}

    html = str(SegmentForm(initial={"rule": rule})["rule"])

    assert "Points</option>" in html
    assert ">is more than</option>" in html
    assert ">contains</option>" not in html


def test_values_of_a_list_are_typed_pasted_or_taken_from_the_event():
    rule = {"attribute": "city", "op": "in", "value": ["Paris"]}
    data = sent(FilterForm(initial={"rule": rule}))

    typed = data.copy()
    typed["rule.0.list.new"] = 'Berlin;\tRome\n "Washington"'
    quoted = data.copy()
    quoted["rule.0.list.new"] = '"Washington, D.C."'
    from_event = data.copy()
    from_event["rule.0.list.as"] = "event"
    from_event["rule.0.list.new"] = "cities"

    def value(sent_data):
        return rule_in(sent_data, event_values=True)["all"][0]["value"]

    assert value(typed) == ["Paris", "Berlin", "Rome", '"Washington"']
    assert value(quoted) == ["Paris", "Washington, D.C."]
    assert value(from_event) == "$cities"


def test_a_long_list_is_lines_of_one_field():
    cities = [f"City {i}" for i in range(300)]
    rule = {"attribute": "city", "op": "in", "value": cities}
    data = sent(SegmentForm(initial={"rule": rule}))

    assert len(data["rule.0.list.lines"].splitlines()) == 300
    data["rule.0.list.lines"] += "\nOne more\n\n"
    assert rule_in(data)["all"][0]["value"] == [*cities, "One more"]


def test_a_dollar_is_a_dollar_and_the_events_value_is_chosen_not_typed():
    rule = {"attribute": "city", "op": "=", "value": "x"}
    data = sent(FilterForm(initial={"rule": rule}), **{"rule.0.low": "$5"})
    chosen = data.copy()
    chosen["rule.0.low.as"] = "event"
    chosen["rule.0.low"] = "address.city"

    literal = rule_in(data, event_values=True)
    from_event = rule_in(chosen, event_values=True)

    assert literal["all"][0]["value"] == "$$5"
    assert from_event["all"][0]["value"] == "$address.city"
    assert not SegmentForm(chosen).is_valid(), "a segment has no event"


def test_an_event_value_is_offered_only_where_an_event_starts_things():
    rule = {"attribute": "city", "op": "=", "value": "x"}

    assert 'value="event"' in str(FilterForm(initial={"rule": rule})["rule"])
    assert 'value="event"' not in str(SegmentForm(initial={"rule": rule})["rule"])


# Embedding


def test_several_builders_stand_in_one_form_by_their_prefixes():
    one, two = (
        {"all": [{"attribute": "city", "op": "=", "value": v}]} for v in ("1", "2")
    )
    data = sent(FilterForm(prefix="steps-0", initial={"rule": one}))
    data.update(sent(FilterForm(prefix="steps-1", initial={"rule": two})))

    forms_ = [FilterForm(data, prefix=f"steps-{i}") for i in range(2)]

    assert [form.is_valid() for form in forms_] == [True, True]
    assert [form.cleaned_data["rule"] for form in forms_] == [one, two]


def test_a_list_of_lines_may_be_empty_and_speaks_of_the_chosen_event():
    lines = [{"field": "name", "op": "=", "value": "Bag"}]

    empty = TriggerForm(sent(TriggerForm()))
    full = TriggerForm(sent(TriggerForm(initial={"where": lines})))

    assert empty.is_valid()
    assert empty.cleaned_data["where"] == []
    assert full.is_valid()
    assert full.cleaned_data["where"] == lines
    data = sent(TriggerForm(initial={"where": lines}), trigger="Product viewed")
    html = str(TriggerForm(data)["where"])
    assert "of=field&amp;event=Product+viewed" in html


def test_a_line_on_a_field_that_no_event_has_carried_is_a_warning_only():
    rule = {"event": "Product viewed", "where": [{"field": "size", "op": "is set"}]}
    form = SegmentForm(initial={"rule": rule})

    assert "No such event has carried this field yet." in str(form["rule"])
    assert SegmentForm(sent(form)).is_valid()


def test_a_segment_that_is_gone_is_shown_as_gone():
    rule = {"all": [{"segment": 999}]}
    form = SegmentForm(initial={"rule": rule})

    html = str(form["rule"])

    assert "Segment 999, not there any more" in html
    again = SegmentForm(sent(form))
    assert "There is no segment 999." in again.errors["rule"][0]


def test_what_is_shown_is_escaped():
    Segment.objects.create(name="<b>x</b>", rule=HEADLINE)
    rule = {
        "all": [
            {"attribute": "city", "op": "=", "value": '"><script>alert(1)</script>'},
            {"segment": Segment.objects.get().pk},
        ]
    }

    html = str(SegmentForm(initial={"rule": rule})["rule"])

    assert "<script>" not in html
    assert "<b>x" not in html


def test_showing_a_rule_costs_the_same_queries_however_long_it_is(
    django_assert_num_queries,
):
    segment = Segment.objects.create(name="One", rule=HEADLINE)
    parts = [*HEADLINE["all"], {"segment": segment.pk}]
    for number in (1, 20):
        field = RuleField()
        with django_assert_num_queries(3):
            field.widget.render("rule", {"all": parts * number})


def test_the_depth_and_the_names_of_a_form_cannot_be_abused():
    data = QueryDict(mutable=True)
    data["rule." + "0." * 200 + "kind"] = "attribute"
    data["rule.where.where.0.kind"] = "x"
    data["rule.0.kind"] = "unheard"

    draft = drafts.read(data, "rule")

    assert len(list(drafts.walk(draft))) < 30
    assert builder.check(draft, "rule", Options()).problems


def test_the_rule_that_is_cleaned_is_the_rule_of_the_language():
    form = SegmentForm(sent(SegmentForm(initial={"rule": HEADLINE})))
    assert form.is_valid()

    stored = json.loads(json.dumps(form.cleaned_data["rule"]))

    assert rules.to_json(rules.parse(stored)) == HEADLINE


def test_system_events_are_not_offered_for_segments():
    make.event_type("Product in stock", Kind.SYSTEM)

    names = [offer.value for offer in offers.event_names("")]

    assert names == ["Order paid", "Product viewed"]


def test_without_an_input_for_it_the_event_stays_the_one_that_was_set():
    rule = {"attribute": "city", "op": "=", "value": "$city"}
    form = FilterForm(initial={"rule": rule})
    form.fields["rule"].event_name = "Product viewed"

    data = press(sent(form), "duplicate", "0")

    html = str(FilterForm(data)["rule"])
    assert html.count("of=field&amp;event=Product+viewed") == 2


# The whole language by clicking


def test_an_event_is_chosen_by_source_and_by_another_event_beside_it():
    data = press(sent(SegmentForm()), "add", what="event")
    data["rule.0.event"] = "Product viewed"
    data = press(data, "add", "0", "source")
    data["rule.0.source.new"] = "Shop, Till"
    data = press(data, "add", "0", "without")
    data["rule.0.without.event"] = "Order paid"
    data["rule.0.without.same.new"] = "product_id"
    data["rule.0.without.order"] = "after"
    data = press(data, "add", "0.without", "where")
    data["rule.0.without.where.0.field"] = "amount"
    data["rule.0.without.where.0.op"] = "is set"
    without = {
        "event": "Order paid",
        "where": [{"field": "amount", "op": "is set"}],
        "same": ["product_id"],
        "order": "after",
    }

    rule = written(data)

    assert rule["all"] == [
        {"event": "Product viewed", "source": ["Shop", "Till"], "without": without}
    ]
    assert "without" not in written(press(data, "remove", "0.without"))["all"][0]
    assert "source" not in written(press(data, "remove", "0", "source"))["all"][0]


def written(data: QueryDict) -> Any:
    """The JSON of the draft in a form, with no look at what exists."""
    found = drafts.write(drafts.read(data, "rule"), "rule")
    assert found.problems == []
    return rules.to_json(rules.parse(found.data))


def test_a_period_since_another_event_begins_with_the_one_spoken_of_before():
    data = sent(SegmentForm(initial={"rule": HEADLINE}), **{"rule.1.period": "since"})

    asked = rule_in(press(data, "changed", "1.period"))

    viewed = {"event": "Product viewed", "where": HEADLINE["all"][0]["where"]}
    assert asked["all"][1]["period"] == {"since": viewed}


def test_the_other_event_of_a_period_is_kept_while_another_period_is_tried():
    since = {"event": "Product viewed", "where": [{"field": "name", "op": "is set"}]}
    rule = {"event": "Order paid", "period": {"since": since}}
    data = sent(SegmentForm(initial={"rule": rule}), **{"rule.0.period": "any"})

    data = press(data, "changed", "0.period")

    assert "period" not in rule_in(data)["all"][0]
    data["rule.0.period"] = "since"
    assert rule_in(press(data, "changed", "0.period"))["all"][0] == rule


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"period": "this", "calendar": "week"},
            {"event": "Order paid", "period": {"this": "week"}},
        ),
        (
            {"period": "previous", "calendar": "quarter"},
            {"event": "Order paid", "period": {"previous": "quarter"}},
        ),
        (
            {"period": "times", "from": "2026-10-01T09:00"},
            {"event": "Order paid", "period": {"from": "2026-10-01T09:00:00+00:00"}},
        ),
        (
            {"ask": "first after", "first.low": "2026-10-01"},
            {"event": "Order paid", "first": {"op": "after", "value": "2026-10-01"}},
        ),
        (
            {"ask": "date before", "date.low": "2026-10-01T09:30"},
            {
                "event": "Order paid",
                "last": {"op": "before", "value": "2026-10-01T09:30:00+00:00"},
            },
        ),
        (
            {"ask": "firstdays between", "firstdays.low": "1", "firstdays.high": "9"},
            {
                "event": "Order paid",
                "days_since_first": {"op": "between", "value": [1, 9]},
            },
        ),
    ],
)
def test_periods_and_questions_are_built(values, expected, settings):
    settings.TIME_ZONE = "UTC"
    data = press(sent(SegmentForm()), "add", what="event")
    data["rule.0.event"] = "Order paid"
    for name, text in values.items():
        data[f"rule.0.{name}"] = text

    assert rule_in(data) == {"all": [expected]}


def test_a_time_is_of_the_projects_zone(settings):
    settings.TIME_ZONE = "Europe/Berlin"
    rule = {"attribute": "registered_at", "op": "after"}
    summer = {**rule, "value": "2026-07-01T09:00:00+02:00"}
    elsewhere = {**rule, "value": "2026-07-01T09:00:00-05:00"}

    data = sent(SegmentForm(initial={"rule": {"all": [summer, elsewhere]}}))

    assert data["rule.0.low"] == "2026-07-01T09:00"
    assert data["rule.1.low"] == "2026-07-01T09:00:00-05:00", "no field could hold it"
    assert rule_in(data) == {"all": [summer, elsewhere]}
    data["rule.0.low.as"] = "date"
    as_day = rule_in(press(data, "changed", "0.low.as"))
    assert as_day["all"][0]["value"] == "2026-07-01"


def test_messages_consents_and_reach_are_asked_for():
    data = sent(SegmentForm())
    for what in ("message", "consent", "consent"):
        data = press(data, "add", what=what)
    data["rule.0.stage"] = "clicked"
    data["rule.0.channel"] = "email"
    data["rule.0.ask"] = "never"
    data["rule.0.period"] = "last"
    data["rule.0.last"] = "90"
    data["rule.1.answer"] = "unanswered"
    data["rule.1.channel"] = "sms"
    data["rule.2.answer"] = "unreachable"

    assert rule_in(data) == {
        "all": [
            {
                "message": "clicked",
                "channel": "email",
                "period": {"last": 90, "unit": "days"},
                "count": {"op": "=", "value": 0},
            },
            {"consent": "sms", "is": "unanswered"},
            {"not": {"reachable": "email"}},
        ]
    }


def test_campaigns_and_segments_are_shown_by_name_and_kept_by_number():
    campaign = make.campaign(make.sms("Hello"))
    segment = Segment.objects.create(name="Lookers", rule=HEADLINE)
    rule = {
        "all": [
            {"message": "sent", "campaign": campaign.pk},
            {"segment": segment.pk},
        ]
    }

    data = sent(SegmentForm(initial={"rule": rule}))

    assert data["rule.0.campaign.text"] == campaign.name
    assert data["rule.1.segment.text"] == "Lookers"
    assert rule_in(data) == rule


def test_a_name_typed_to_the_end_is_a_choice_and_half_a_name_is_none():
    segment = Segment.objects.create(name="Lookers", rule=HEADLINE)
    data = press(sent(SegmentForm()), "add", what="segment")

    data["rule.0.segment.text"] = "lookers"
    typed = press(data, "changed", "0.segment.text")
    data["rule.0.segment.text"] = "look"
    half = press(data, "changed", "0.segment.text")

    assert rule_in(typed) == {"all": [{"segment": segment.pk}]}
    assert half["rule.0.segment.text"] == "look"
    form = SegmentForm(half)
    assert not form.is_valid()
    assert "Choose one of the segments offered." in str(form["rule"])


def test_a_condition_becomes_its_opposite_and_back():
    segment = Segment.objects.create(name="Lookers", rule=HEADLINE)
    parts = [
        {"attribute": "city", "op": "is set"},
        {"segment": segment.pk},
        {"reachable": "email"},
    ]
    once = twice = sent(SegmentForm(initial={"rule": {"all": parts}}))
    for path in ("0", "1", "2"):
        once = press(once, "negate", path)
    for path in ("0", "1", "2") * 2:
        twice = press(twice, "negate", path)

    assert rule_in(once) == {"all": [{"not": part} for part in parts]}
    assert rule_in(twice) == {"all": parts}


def test_a_comparison_that_does_not_fit_gives_way_to_one_that_does():
    Attribute.objects.create(code="tags", label="Tags", type="list")
    rule = {"attribute": "city", "op": "=", "value": "Paris"}
    data = sent(SegmentForm(initial={"rule": rule}), **{"rule.0.attribute": "tags"})

    data = press(data, "changed", "0.attribute")

    assert rule_in(data)["all"][0] == {
        "attribute": "tags",
        "op": "includes",
        "value": "Paris",
    }


def test_one_value_becomes_the_first_of_a_list_and_back():
    rule = {"attribute": "city", "op": "=", "value": "Paris"}
    data = sent(SegmentForm(initial={"rule": rule}), **{"rule.0.op": "in"})

    data = press(data, "changed", "0.op")

    assert rule_in(data)["all"][0]["value"] == ["Paris"]
    data["rule.0.op"] = "="
    assert rule_in(press(data, "changed", "0.op"))["all"][0] == rule


# Dragging and undo


def test_a_part_is_put_where_it_was_dropped():
    one, two, three = (
        {"attribute": "city", "op": "=", "value": v} for v in ("1", "2", "3")
    )
    data = sent(SegmentForm(initial={"rule": {"all": [one, {"any": [two, three]}]}}))

    def dropped(path, place):
        return rule_in(press(data, "move", path, place))

    assert dropped("0", "1:1") == {"all": [{"any": [two, one, three]}]}
    assert dropped("1.1", ":0") == {"all": [three, one, {"any": [two]}]}
    assert dropped("1.0", "1:1") == {"all": [one, {"any": [three, two]}]}
    assert dropped("1", ":0") == {"all": [{"any": [two, three]}, one]}


@pytest.mark.parametrize(
    ("path", "place"), [("1", "1:0"), ("0", "0:0"), ("", ":0"), ("0", "1:x"), ("9", "")]
)
def test_no_group_is_dropped_into_itself_and_nothing_elsewhere(path, place):
    city = {"attribute": "city", "op": "is set"}
    data = sent(SegmentForm(initial={"rule": {"all": [city, {"any": [city]}]}}))

    with pytest.raises(KeyError):
        press(data, "move", path, place)


def test_undo_shows_a_state_that_was():
    before = sent(SegmentForm(initial={"rule": HEADLINE}))
    after = press(before, "remove", "0")
    after["state"] = before.urlencode()

    assert rule_in(press(after, "show")) == HEADLINE


# Offers


def test_segments_are_offered_with_what_is_known_of_them():
    Segment.objects.create(name="Bag lovers", rule=HEADLINE, count=1200)
    Segment.objects.create(name="Bags, by hand", kind="static", count=1)
    Segment.objects.create(name="Bags of old", rule={}, archived_at=timezone.now())

    found = [(one.value, one.note) for one in offers.segments("bag")]

    assert found == [
        ("Bag lovers", "A rule, 1,200 customers"),
        ("Bags, by hand", "A list, 1 customer"),
    ]


def test_sources_and_campaigns_are_offered_by_name():
    Source.objects.create(name="Web shop")
    Source.objects.create(name="Till")
    campaign = make.campaign(make.sms("Hello"))

    assert [one.value for one in offers.sources("shop")] == ["Web shop"]
    assert [one.key for one in offers.campaigns(campaign.name[:4])] == [
        str(campaign.pk)
    ]
    assert offers.campaigns("nothing so called") == []

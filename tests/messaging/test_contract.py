"""What a text asks for, against what events really carry."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from customers.models import Attribute
from messaging import contract
from messaging.contract import Finding, check
from messaging.language import TemplateError
from tests import make

pytestmark = pytest.mark.django_db
ITEM = "client.eventContext.item"


def paid(count: int, **context: Any) -> None:
    anna = make.customer()
    for _ in range(count):
        make.event(anna, "Order paid", **context)


def messages(*texts: str, event: str = "Order paid") -> list[str]:
    return [finding.message for finding in check(texts, event)]


def test_what_some_events_lack_is_told_in_percent():
    paid(3, item="Bag", price=5)
    paid(1, price=5)
    found = check(
        ["{{ client.eventContext.item }} {{ client.eventContext.price }}"], "Order paid"
    )
    assert found == [
        Finding(ITEM, 0.25, "`item` is missing in 25 % of the last 4 events.")
    ]


@pytest.mark.parametrize("value", [None, "", "  "])
def test_an_empty_value_is_missing_here_as_it_is_when_sending(value):
    paid(1, item=value)
    paid(1, item="Bag")
    assert messages("{{ client.eventContext.item }}") == [
        "`item` is missing in 50 % of the last 2 events."
    ]


def test_what_no_event_has_is_told_so():
    paid(2, item="Bag")
    assert messages("{{ client.eventContext.itme }}") == [
        "`itme` is missing in all of the last 2 events."
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{{ client.eventContext.item | default: 'it' }}",
        "{% if client.eventContext.item %}{{ client.eventContext.item }}{% endif %}",
        "{{ client.firstName }} {{ client.attributes.tier }} {{ client.event.name }}",
        "{{ client.eventContext.address.city }}",
        "{% for l in client.eventContext.lines %}{{ l.name }}{% endfor %}",
    ],
)
def test_a_text_that_provides_for_what_is_missing_is_in_order(text):
    Attribute.objects.create(code="tier")
    paid(1, item="Bag", address={"city": "Rome"}, lines=[{"name": "Cap"}])
    paid(1, address={"city": "Rome"}, lines=[{"name": "Cap"}])
    assert messages(text) == []


def test_a_default_does_not_hide_a_misspelt_name():
    paid(2, item="Bag")
    assert messages("{{ client.eventContext.itme | default: 'it' }}") == [
        "`itme` is in none of the last 2 events."
    ]


def test_a_loop_tells_what_its_items_lack():
    paid(1, lines=[{"name": "Cap"}, {"n": 1}])
    text = "{% for l in client.eventContext.lines %}{{ l.name }}{% endfor %}"
    assert messages(text) == ["`l.name` is missing in the only event."]


def test_a_filter_that_fails_for_some_events_is_told():
    paid(1, price="5.00")
    paid(1, price="cheap")
    assert messages("{{ client.eventContext.price | money }}") == [
        "In 50 % of the last 2 events it fails: Line 1: “cheap” is not an amount."
    ]


def test_variables_that_cannot_exist_are_told_whatever_the_event():
    assert check(["{{ client.fristName }} {{ client.attributes.teir }}"], "") == [
        Finding(
            "client.fristName",
            1.0,
            "There is no variable client.fristName. Did you mean client.firstName?",
        ),
        Finding("client.attributes.teir", 1.0, "There is no attribute “teir”."),
    ]


def test_an_event_that_never_arrived_is_told():
    never = "No event of the type “Order paid” has arrived yet."
    assert messages("{{ client.eventContext.item }}") == [never]
    make.event_type("Order paid")
    assert messages("{{ client.eventContext.item }}") == [never]
    assert messages("Hello {{ client.firstName }}") == []


def test_before_the_first_event_declared_fields_are_asked():
    kind = make.event_type("Order paid")
    kind.fields.create(code="item", value_type="string")
    kind.fields.create(code="address.city", value_type="string")
    text = "{{ client.eventContext.item }} {{ client.eventContext.address.city }}"
    never = "No event of the type “Order paid” has arrived yet."
    assert messages(text) == [never]
    assert messages(text + "{{ client.eventContext.itme }}") == [
        never,
        "“Order paid” has no field “itme”.",
    ]


def test_system_events_are_asked_too():
    make.system_event("Product in stock", item="Bag")
    make.system_event("Product in stock")
    assert messages("{{ client.eventContext.item }}", event="Product in stock") == [
        "`item` is missing in 50 % of the last 2 events."
    ]


def test_only_the_last_events_count(monkeypatch):
    monkeypatch.setattr(contract, "EVENTS", 2)
    paid(3)
    paid(2, item="Bag")
    assert messages("{{ client.eventContext.item }}") == []


def test_a_rare_type_is_found_beyond_the_newest_events(monkeypatch):
    monkeypatch.setattr(contract, "WINDOW", 5)
    paid(2)
    for _ in range(10):
        make.event(make.customer(), "Product viewed")
    assert messages("{{ client.eventContext.item }}") == [
        "`item` is missing in all of 2 events."
    ]


def test_a_text_that_is_not_liquid_is_refused():
    with pytest.raises(TemplateError):
        check(["{{"], "Order paid")


def test_many_events_cost_no_more_queries_than_one():
    counts = []
    for _ in range(2):
        paid(5, item="Bag")
        with CaptureQueriesContext(connection) as queries:
            check(["{{ client.eventContext.item }}"], "Order paid")
        counts.append(len(queries))
    assert counts[0] == counts[1]

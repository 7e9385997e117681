"""Fields that a source calls otherwise are renamed as its events arrive."""

from __future__ import annotations

import json

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from events import mappings
from events.ingest import record_events
from events.mappings import rename
from events.models import (
    Event,
    EventField,
    EventType,
    FieldMapping,
    Kind,
    RejectedEvent,
    SystemEvent,
)
from events.wire import Refusal
from tests import make


def mapping(sent, code, **more):
    made = FieldMapping.objects.create(sent=sent, code=code, **more)
    mappings.forget()
    return made


def send(context, *, source=None, name="Order paid", id="1"):
    item = {"id": id, "name": name, "customer": "C-1", "context": context}
    return record_events([item], source=source or make.source())


def stored(id="1"):
    return Event.objects.get(external_id=id).context


@pytest.mark.django_db
def test_a_field_with_a_hyphen_arrives_under_its_new_name():
    mapping("price-eur", "price_eur")

    answer = send({"name": "Bag", "price-eur": 49.9})

    assert answer.accepted == 1
    assert stored() == {"name": "Bag", "price_eur": 49.9}
    # What was learnt is what is stored.
    learnt = EventField.objects.values_list("code", flat=True)
    assert set(learnt) == {"name", "price_eur"}


@pytest.mark.django_db
def test_what_is_still_refused_is_kept_as_it_was_sent():
    mapping("price-eur", "price_eur")

    send({"price-eur": 1, "vat-eur": 2})

    row = RejectedEvent.objects.get()
    assert (row.code, row.field) == ("field_code_invalid", "context.vat-eur")
    assert json.loads(row.payload)["context"] == {"price-eur": 1, "vat-eur": 2}


@pytest.mark.django_db
def test_nothing_is_overwritten_when_the_new_name_is_taken():
    mapping("price-eur", "price_eur")

    answer = send({"price_eur": 1, "price-eur": 2})

    result = answer.results[0]
    assert (result.status, result.code) == ("rejected", "field_mapping_conflict")
    assert result.field == "context.price-eur"
    assert "“price-eur” is renamed to “price_eur” here" in result.message
    assert not Event.objects.exists()
    assert RejectedEvent.objects.get().code == "field_mapping_conflict"


@pytest.mark.django_db
def test_of_several_mappings_the_most_specific_holds():
    shop, till = make.source("shop"), make.source("till")
    mapping("p-1", "of_all")
    mapping("p-1", "of_event", event_name="Order paid")
    mapping("p-1", "of_source", source=shop)
    mapping("p-1", "of_both", source=shop, event_name="Order paid")

    send({"p-1": 1}, source=shop, name="Order paid", id="1")
    send({"p-1": 1}, source=shop, name="Call received", id="2")
    send({"p-1": 1}, source=till, name="Order paid", id="3")
    send({"p-1": 1}, source=till, name="Call received", id="4")

    assert [list(stored(str(i))) for i in (1, 2, 3, 4)] == [
        ["of_both"],
        ["of_source"],
        ["of_event"],
        ["of_all"],
    ]


@pytest.mark.django_db
def test_a_mapping_of_the_source_goes_before_one_of_the_event():
    mapping("p-1", "of_event", event_name="Order paid")
    mapping("p-1", "of_source", source=make.source())

    send({"p-1": 1})

    assert stored() == {"of_source": 1}


@pytest.mark.django_db
def test_a_mapping_of_another_source_or_event_is_none_of_mine():
    mapping("p-1", "p", source=make.source("till"))
    mapping("p-1", "p", event_name="Call received")

    assert send({"p-1": 1}).rejected == 1


@pytest.mark.django_db
def test_a_system_event_is_renamed_too():
    mapping("product-id", "product_id")
    item = {"name": "Product in stock", "context": {"product-id": 77}}

    record_events([item], source=make.source(), kind=Kind.SYSTEM)

    assert SystemEvent.objects.get().context == {"product_id": 77}


@pytest.mark.django_db
def test_the_renamed_field_is_what_an_enforced_type_looks_at():
    event_type = make.event_type("Order paid", mode=EventType.Mode.ENFORCED)
    EventField.objects.create(type=event_type, code="price", value_type="number")
    mapping("cost", "price")

    assert send({"cost": 5}).accepted == 1
    assert stored() == {"price": 5}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "item",
    [
        "no object",
        {"name": ["Order paid"], "customer": "C-1", "context": {"a-b": 1}},
        {"name": "Order paid", "customer": "C-1", "context": "a-b"},
        {"name": "Order paid", "customer": "C-1", "context": None},
        {"name": "Order paid", "customer": "C-1", "context": {"a": ["a-b"]}},
    ],
)
def test_what_cannot_be_renamed_goes_to_the_check_as_it_is(item):
    answers = [record_events([item], source=make.source())]
    mapping("a-b", "c", event_name="Order paid")
    mapping("a.b", "c")
    answers.append(record_events([item], source=make.source()))

    before, after = ([(r.status, r.code) for r in a.results] for a in answers)
    assert before == after


# how names are found


@pytest.mark.parametrize(
    ("context", "renames", "expected"),
    [
        ({"a": {"zip-code": 1}}, {"a.zip-code": "zip"}, {"a": {"zip": 1}}),
        # A name with a dot in it is found first.
        (
            {"a.b": 1, "a": {"b": 2}},
            {"a.b": "c"},
            {"c": 1, "a": {"b": 2}},
        ),
        ({"a": [{"b": 1}]}, {"a.b": "c"}, {"a": [{"b": 1}]}),
        ({"a": 1}, {"a.b": "c"}, {"a": 1}),
        # Each is renamed once: names may be exchanged.
        ({"a": 1, "b": 2}, {"a": "b", "b": "a"}, {"b": 1, "a": 2}),
        ({"a": 1}, {"a": "b", "b": "c"}, {"b": 1}),
        ({"": 1, " x": 2}, {" x": "x"}, {"": 1, "x": 2}),
    ],
)
def test_names_are_found_whole_and_then_by_path(context, renames, expected):
    before = json.dumps(context)

    renamed = rename(context, renames)

    assert renamed == expected
    assert json.dumps(context) == before


def test_a_name_that_is_taken_inside_is_refused_with_its_path():
    with pytest.raises(Refusal) as refused:
        rename({"a": {"zip": 1, "zip-code": 2}}, {"a.zip-code": "zip"})

    assert refused.value.field == "context.a.zip-code"


contexts = st.dictionaries(st.sampled_from("abcdef"), st.integers(), max_size=6)


@given(contexts, st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("abcxyz")))
def test_renaming_keeps_every_value_in_its_order_or_refuses(context, renames):
    try:
        renamed = rename(context, renames)
    except Refusal:
        targets = [renames.get(name, name) for name in context]
        assert len(set(targets)) < len(targets)
    else:
        assert list(renamed.values()) == list(context.values())
        assert list(renamed) == [renames.get(name, name) for name in context]


# what it costs


@pytest.mark.django_db
def test_the_mappings_are_read_once_for_many_requests():
    send({"a": 1}, id="1")
    mappings.forget()

    with CaptureQueriesContext(connection) as first:
        send({"a": 1}, id="2")
    with CaptureQueriesContext(connection) as second:
        send({"a": 1}, id="3")

    assert len(first) == len(second) + 1
    assert not [q for q in second if "fieldmapping" in q["sql"]]


@pytest.mark.django_db
def test_a_source_without_mappings_has_its_items_read_by_the_very_same_function():
    mapping("a-b", "a_b", source=make.source("till"))

    def translate(data):
        return data

    assert mappings.renaming(translate, source_id=make.source().pk) is translate


@pytest.mark.django_db
def test_another_process_knows_of_a_mapping_after_five_seconds(monkeypatch):
    clock = [1_000.0]
    monkeypatch.setattr(mappings.time, "monotonic", lambda: clock[0])
    send({"a": 1}, id="1")
    FieldMapping.objects.create(sent="a-b", code="a_b")

    clock[0] += 4.9
    assert send({"a-b": 1}, id="2").rejected == 1
    clock[0] += 0.2
    assert send({"a-b": 1}, id="3").accepted == 1


@pytest.mark.django_db
def test_what_was_read_before_a_change_is_not_kept_after_it(monkeypatch):
    read = mappings._read

    def overtaken():
        found = read()
        mapping("a-b", "a_b")
        return found

    monkeypatch.setattr(mappings, "_read", overtaken)
    assert send({"a-b": 1}, id="1").rejected == 1
    monkeypatch.setattr(mappings, "_read", read)

    assert send({"a-b": 1}, id="2").accepted == 1

"""What one click does to a drawing: nothing is lost that was not to be removed."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaigns import editing
from campaigns.graph import arrows as arrows_of
from campaigns.graph import problems, reachable
from smartcomm.core.errors import Conflict, Invalid, NotFound, UserError

WAYS = {
    "filter_customers": lambda config: ("positive", "negative"),
    "refresh_filter": lambda config: ("positive", "negative"),
    "send_sms": lambda config: ("sent",),
    "ab_split": lambda config: tuple(config["shares"]),
}


def drawing(start: str, **steps: Any) -> dict[str, Any]:
    """drawing("f", f={"positive": "a"}, a=None): an object is a filter, else an SMS."""
    made = []
    for key, leads in steps.items():
        if isinstance(leads, dict):
            action, ways = "filter_customers", {"positive": None, "negative": None}
            ways |= leads
        else:
            action, ways = "send_sms", {"sent": leads}
        made.append({"key": key, "action": action, "config": {}, "next": ways})
    return {"start": start, "steps": made}


def leads(definition: dict[str, Any]) -> dict[str, Any]:
    """The whole drawing at a glance: where every way leads."""
    return {"": definition["start"]} | {
        step["key"]: step["next"] for step in definition["steps"]
    }


def sms(key: str) -> dict[str, Any]:
    return {"key": key, "action": "send_sms", "config": {}}


# insert


def test_a_step_put_on_a_way_is_followed_by_what_came_there():
    before = drawing("a", a="b", b=None)

    after = editing.insert(before, sms("new"), after="a", way="sent", ways=WAYS)

    assert leads(after) == {
        "": "a",
        "a": {"sent": "new"},
        "new": {"sent": "b"},
        "b": {"sent": None},
    }
    assert leads(before) == {"": "a", "a": {"sent": "b"}, "b": {"sent": None}}


def test_the_first_step_comes_right_after_the_trigger():
    empty = {"start": "", "steps": []}

    after = editing.insert(empty, sms("a"), after="", way="", ways=WAYS)

    assert leads(after) == {"": "a", "a": {"sent": None}}


def test_what_came_on_the_way_goes_on_by_the_first_way_of_a_new_filter():
    step = {"key": "f", "action": "filter_customers", "config": {}}

    after = editing.insert(drawing("a", a=None), step, after="", way="", ways=WAYS)

    assert leads(after) == {
        "": "f",
        "f": {"positive": "a", "negative": None},
        "a": {"sent": None},
    }


# change


def test_a_step_keeps_its_ways_when_its_configuration_changes():
    before = drawing("f", f={"positive": "a"}, a=None)

    after = editing.change(before, "f", config={"rule": 1}, ways=WAYS)

    assert leads(after) == leads(before)
    assert editing.find(after, "f")["config"] == {"rule": 1}


def test_a_way_that_a_step_lost_is_gone_and_a_new_one_is_open():
    before = drawing("s", a=None)
    before["steps"].insert(
        0,
        {
            "key": "s",
            "action": "ab_split",
            "config": {"shares": {"A": 1, "B": 1}},
            "next": {"A": "a", "B": "a"},
        },
    )

    config = {"shares": {"A": 1, "C": 1}}
    after = editing.change(before, "s", config=config, ways=WAYS)

    assert leads(after)["s"] == {"A": "a", "C": None}


def test_whatever_spoke_of_a_step_follows_its_new_short_name():
    before = drawing("f", f={"positive": "a", "negative": "r"}, a="r", r={})
    before["steps"][2] |= {"action": "refresh_filter", "config": {"filter": "f"}}

    after = editing.change(before, "f", config={}, new_key="buyers", ways=WAYS)

    assert after["start"] == "buyers"
    assert editing.find(after, "r")["config"] == {"filter": "buyers"}

    after = editing.change(after, "r", config={"filter": "f"}, new_key="x", ways=WAYS)
    assert leads(after)["a"] == {"sent": "x"}
    assert leads(after)["buyers"] == {"positive": "a", "negative": "x"}


@pytest.mark.parametrize("name", ["b", "1 2", "", "ü" * 3, "x" * 65])
def test_a_short_name_is_refused_when_it_is_taken_or_not_one(name):
    before = drawing("a", a="b", b=None)

    if not name:
        assert editing.change(before, "a", config={}, new_key=name, ways=WAYS) == before
        return
    with pytest.raises(Invalid) as refused:
        editing.change(before, "a", config={}, new_key=name, ways=WAYS)
    assert refused.value.field == "key"


# remove


def test_who_came_to_a_removed_step_goes_on_with_what_came_after_it():
    before = drawing("a", a="b", b="c", c=None)

    after, lost = editing.remove(before, "b", keep="sent", ways=WAYS)

    assert leads(after) == {"": "a", "a": {"sent": "c"}, "c": {"sent": None}}
    assert lost == []


def test_the_way_that_is_not_kept_goes_with_the_removed_filter():
    before = drawing("f", f={"positive": "a", "negative": "b"}, a=None, b="c", c=None)

    after, lost = editing.remove(before, "f", keep="positive", ways=WAYS)

    assert leads(after) == {"": "a", "a": {"sent": None}}
    assert lost == ["b", "c"]


def test_a_loose_step_leads_to_nothing_that_went_with_a_removed_one():
    before = drawing("a", a="b", b=None, loose="b")

    after, lost = editing.remove(before, "a", keep=None, ways=WAYS)

    assert lost == ["b"]
    assert leads(after)["loose"] == {"sent": None}


def test_a_step_where_branches_join_stays_when_one_of_them_is_removed():
    before = drawing("f", f={"positive": "a", "negative": "j"}, a="j", j=None)

    after, lost = editing.remove(before, "f", keep="negative", ways=WAYS)

    assert leads(after) == {"": "j", "j": {"sent": None}}
    assert lost == ["a"]


def test_all_that_follows_goes_when_no_way_is_kept():
    before = drawing("a", a="b", b="c", c=None)

    after, lost = editing.remove(before, "b", keep=None, ways=WAYS)

    assert leads(after) == {"": "a", "a": {"sent": None}}
    assert lost == ["c"]


def test_removing_a_step_that_nobody_comes_to_takes_nothing_else_along():
    before = drawing("a", a=None, lost="far", far=None)

    after, lost = editing.remove(before, "lost", keep="sent", ways=WAYS)

    assert set(leads(after)) == {"", "a", "far"}
    assert lost == []


# connect and move


def test_a_way_may_lead_to_a_step_that_is_there():
    before = drawing("f", f={"positive": "a"}, a=None)

    after = editing.connect(before, after="f", way="negative", to="a", ways=WAYS)

    assert leads(after)["f"] == {"positive": "a", "negative": "a"}


def test_a_way_may_end():
    after = editing.connect(
        drawing("a", a="b", b=None), after="a", way="sent", to="", ways=WAYS
    )

    assert leads(after) == {"": "a", "a": {"sent": None}, "b": {"sent": None}}


def test_a_way_that_would_run_in_a_circle_is_refused():
    before = drawing("a", a="b", b=None)

    with pytest.raises(Conflict, match="a → b → a"):
        editing.connect(before, after="b", way="sent", to="a", ways=WAYS)


def test_a_step_is_moved_and_both_places_are_joined_up():
    before = drawing("a", a="b", b="c", c=None)

    after = editing.move(before, "a", after="b", way="sent", ways=WAYS)

    assert leads(after) == {
        "": "b",
        "b": {"sent": "a"},
        "a": {"sent": "c"},
        "c": {"sent": None},
    }


def test_a_moved_filter_keeps_its_negative_way():
    before = drawing("f", f={"positive": "a", "negative": "n"}, a="b", b=None, n=None)

    after = editing.move(before, "f", after="a", way="sent", ways=WAYS)

    assert leads(after)["a"] == {"sent": "f"}
    assert leads(after)["f"] == {"positive": "b", "negative": "n"}


def test_a_step_cannot_be_moved_behind_what_only_it_leads_to():
    before = drawing("f", f={"positive": "a", "negative": "n"}, a=None, n=None)

    with pytest.raises(Conflict, match="circle"):
        editing.move(before, "f", after="n", way="sent", ways=WAYS)
    with pytest.raises(Conflict, match="itself"):
        editing.move(before, "f", after="f", way="negative", ways=WAYS)


def test_a_step_that_is_gone_is_told_so():
    for deed in (
        lambda: editing.find(drawing("a", a=None), "x"),
        lambda: editing.connect(
            drawing("a", a=None), after="a", way="sent", to="x", ways=WAYS
        ),
        lambda: editing.connect(
            drawing("a", a=None), after="x", way="sent", to="a", ways=WAYS
        ),
        lambda: editing.remove(drawing("a", a=None), "x", keep=None, ways=WAYS),
    ):
        with pytest.raises(NotFound, match="Reload the page"):
            deed()


# names and stamps


def test_a_new_step_gets_a_short_name_that_is_free():
    before = {"start": "", "steps": [sms("email"), sms("email_2")]}

    assert editing.new_key(before, "send_email") == "email_3"
    assert editing.new_key(before, "filter_customers") == "filter"


def test_a_stamp_tells_two_states_of_a_drawing_apart():
    before = drawing("a", a=None)

    assert editing.stamp(before) == editing.stamp(deepcopy(before))
    assert editing.stamp(before) != editing.stamp(drawing("b", b=None))


# any clicks whatever


@st.composite
def clicks(draw: Any) -> list[tuple[str, int, int, int]]:
    deed = st.sampled_from(["insert", "remove", "connect", "move"])
    number = st.integers(0, 50)
    return draw(st.lists(st.tuples(deed, number, number, number), max_size=25))


@given(clicks())
@settings(max_examples=200, deadline=None)
def test_whatever_is_clicked_the_drawing_stays_sound(clicked):
    definition: dict[str, Any] = {"start": "", "steps": []}
    for number, (deed, one, two, three) in enumerate(clicked):
        places = [("", "")] + [
            (step["key"], way)
            for step in definition["steps"]
            for way in WAYS[step["action"]](step["config"])
        ]
        keys = [step["key"] for step in definition["steps"]] or ["none"]
        after, way = places[one % len(places)]
        key = keys[two % len(keys)]
        kind = ["send_sms", "filter_customers"][three % 2]
        step = {"key": f"k{number}", "action": kind, "config": {}}
        before = deepcopy(definition)
        try:
            if deed == "insert":
                definition = editing.insert(
                    definition, step, after=after, way=way, ways=WAYS
                )
            elif deed == "remove":
                keep = [None, "positive", "sent"][three % 3]
                definition, _ = editing.remove(definition, key, keep=keep, ways=WAYS)
            elif deed == "connect":
                definition = editing.connect(
                    definition, after=after, way=way, to=key, ways=WAYS
                )
            else:
                definition = editing.move(
                    definition, key, after=after, way=way, ways=WAYS
                )
        except UserError:
            assert definition == before
        if deed == "insert":
            gone = {s["key"] for s in before["steps"]} - {
                s["key"] for s in definition["steps"]
            }
            assert not gone

    errors = [p.message for p in problems(definition, ways=WAYS) if p.level == "error"]
    allowed = ("Nothing happens yet", "Nothing starts")
    assert [error for error in errors if not error.startswith(allowed)] == []
    assert reachable(definition["start"], arrows_of(definition["steps"])) <= {
        step["key"] for step in definition["steps"]
    }

"""A picture shows every box and every arrow, and nothing lies on anything else."""

import re
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaigns.picture import EDITING, READING, REPORTING, TRIGGER, draw

WAYS = {
    "filter": lambda config: ("positive", "negative"),
    "send": lambda config: ("sent",),
    "split": lambda config: tuple("abcde"[: config["shares"]]),
}


@st.composite
def drawings(draw: Any, *, sound: bool = True) -> dict[str, Any]:
    """Steps whose ways lead onwards; unsound: anywhere, also back and to nothing."""
    keys = [f"s{number}" for number in range(draw(st.integers(0, 14)))]
    steps = []
    for number, key in enumerate(keys):
        action = draw(st.sampled_from(sorted(WAYS)))
        config = {"shares": draw(st.integers(1, 5))} if action == "split" else {}
        targets = [None, *(keys[number + 1 :] if sound else [*keys, "gone"])]
        steps.append(
            {
                "key": key,
                "action": action,
                "config": config,
                "next": {
                    way: draw(st.sampled_from(targets)) for way in WAYS[action](config)
                },
            }
        )
    start = keys[0] if sound and keys else draw(st.sampled_from([None, "gone", *keys]))
    return {"start": start, "steps": draw(st.permutations(steps))}


def chain(*keys: str) -> list[dict[str, Any]]:
    followers: list[str | None] = [*keys[1:], None]
    return [
        {"key": key, "action": "send", "config": {}, "next": {"sent": follower}}
        for key, follower in zip(keys, followers, strict=True)
    ]


def branch(key: str, positive: str | None, negative: str | None) -> dict[str, Any]:
    ways = {"positive": positive, "negative": negative}
    return {"key": key, "action": "filter", "config": {}, "next": ways}


@given(drawings(sound=False), st.sampled_from([EDITING, READING, REPORTING]))
@settings(max_examples=150, deadline=None)
def test_no_two_boxes_overlap_and_all_lie_in_the_picture(definition, measures):
    picture = draw(definition, ways=WAYS, measures=measures)

    for one, other in combinations(picture.boxes, 2):
        assert (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or one.y + one.height <= other.y
            or other.y + other.height <= one.y
        ), (one, other)
    for box in picture.boxes:
        assert box.x >= 0
        assert box.x + box.width <= picture.width
        assert box.y >= 0
        assert box.y + box.height <= picture.height


@given(drawings(sound=False))
@settings(max_examples=100, deadline=None)
def test_every_step_has_one_box_and_every_way_one_arrow(definition):
    picture = draw(definition, ways=WAYS)

    steps = {step["key"]: step for step in definition["steps"]}
    assert sorted(b.step for b in picture.boxes if b.kind == "step") == sorted(steps)
    drawn = {(arrow.source, arrow.way): arrow.target for arrow in picture.arrows}
    assert len(drawn) == len(picture.arrows)
    expected = {("", ""): definition["start"]} | {
        (key, way): leads_to
        for key, step in steps.items()
        for way, leads_to in step["next"].items()
    }
    assert drawn.keys() == expected.keys()
    for (key, way), leads_to in expected.items():
        if leads_to in steps:
            assert drawn[key, way] in [("step", leads_to, ""), ("back", key, way)]
        else:
            assert drawn[key, way] == ("end", key, way)


@given(drawings())
@settings(max_examples=100, deadline=None)
def test_in_a_sound_drawing_every_arrow_goes_down(definition):
    picture = draw(definition, ways=WAYS)

    boxes = {(box.kind, box.step, box.way): box for box in picture.boxes}
    for arrow in picture.arrows:
        source = boxes[("step", arrow.source, "") if arrow.source else TRIGGER]
        target = boxes[arrow.target]
        assert arrow.target[0] != "back"
        assert source.y + source.height < target.y
        assert source.x < arrow.label[0] < source.x + source.width


@given(drawings(sound=False))
@settings(max_examples=100, deadline=None)
def test_no_arrow_runs_through_a_box(definition):
    picture = draw(definition, ways=WAYS)

    for arrow in picture.arrows:
        for x, upper, lower in pieces(arrow.path):
            for box in picture.boxes:
                if box.y < lower and upper < box.y + box.height:
                    # Beside boxes an arrow goes straight down, in a lane.
                    assert x is not None, (arrow, box)
                    assert not box.x < x < box.x + box.width, (arrow, box)


def pieces(path: str) -> list[tuple[float | None, float, float]]:
    """What a path is made of, as (x, from y, to y); x is None where it turns."""
    found: list[tuple[float | None, float, float]] = []
    x = y = 0.0
    for command, rest in re.findall(r"([MVC])([^MVC]*)", path):
        numbers = [float(number) for number in rest.split()]
        if command == "V":
            found.append((x, y, numbers[0]))
            y = numbers[0]
        elif command == "C":
            found.append((x if x == numbers[-2] else None, y, numbers[-1]))
            x, y = numbers[-2:]
        else:
            x, y = numbers
    return found


def test_a_chain_stands_in_one_line():
    picture = draw({"start": "a", "steps": chain("a", "b", "c")}, ways=WAYS)

    middles = {box.x + box.width // 2 for box in picture.boxes}
    assert len(middles) == 1
    assert [box.step for box in picture.boxes] == ["", "a", "b", "c", "c"]


def test_the_positive_way_lies_left_of_the_negative_one():
    steps = [branch("f", "yes", "no"), *chain("yes"), *chain("no")]

    picture = draw({"start": "f", "steps": steps}, ways=WAYS)

    x = {box.step: box.x for box in picture.boxes if box.kind == "step"}
    assert x["yes"] < x["f"] < x["no"]


def test_a_branch_that_joins_stands_below_both():
    steps = [branch("f", "a", "c"), *chain("a", "b", "c")]

    picture = draw({"start": "f", "steps": steps}, ways=WAYS)

    y = {box.step: box.y for box in picture.boxes if box.kind == "step"}
    assert y["f"] < y["a"] < y["b"] < y["c"]


def test_a_way_back_ends_in_a_mark_that_names_where_it_leads():
    steps = [branch("f", "a", None), *chain("a")]
    steps[1]["next"] = {"sent": "f"}

    picture = draw({"start": "f", "steps": steps}, ways=WAYS)

    assert ("back", "a", "sent") in [arrow.target for arrow in picture.arrows]


def test_a_step_that_no_way_leads_to_is_drawn_and_marked():
    picture = draw({"start": "a", "steps": [*chain("a"), *chain("lost")]}, ways=WAYS)

    reached = {box.step: box.is_reached for box in picture.boxes if box.kind == "step"}
    assert reached == {"a": True, "lost": False}


@pytest.mark.parametrize("definition", [{}, {"start": None, "steps": []}])
def test_an_empty_drawing_is_a_trigger_and_a_place_for_the_first_step(definition):
    picture = draw(definition, ways=WAYS)

    assert [(box.kind, box.step) for box in picture.boxes] == [
        ("trigger", ""),
        ("end", ""),
    ]

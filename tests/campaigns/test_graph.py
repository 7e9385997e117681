"""What is wrong with a drawing is told in whole sentences, all at once."""

from typing import Any

import pytest

from campaigns.graph import Problem, cycles, problems

WAYS = {
    "filter": lambda config: ("positive", "negative"),
    "send": lambda config: ("sent",),
    "split": lambda config: tuple(config["shares"]),
    "wait": lambda config: ("done",),
    "end": lambda config: (),
}
IDLE = {"filter", "split", "wait", "end"}


def step(key: str, action: str = "send", **more: Any) -> dict[str, Any]:
    """A step whose ways end on purpose, but for those that are given."""
    config = more.pop("config", {})
    ways = WAYS[action](config) if action in WAYS else ()
    ends = dict.fromkeys(ways)
    return {"key": key, "action": action, "config": config, "next": ends | more}


def told(start: Any, *steps: dict[str, Any]) -> list[Problem]:
    return problems({"start": start, "steps": list(steps)}, ways=WAYS, idle=IDLE)


@pytest.mark.parametrize(
    ("start", "steps"),
    [
        pytest.param("a", [step("a")], id="one step"),
        pytest.param("a", [step("a", sent="b"), step("b", sent=None)], id="a chain"),
        pytest.param(
            "f",
            [
                step("f", "filter", positive="a", negative="b"),
                step("a", sent="c"),
                step("b", sent="c"),
                step("c"),
            ],
            id="branches that join",
        ),
        pytest.param(
            "f",
            [step("f", "filter", positive="a", negative="a"), step("a")],
            id="both ways to the same step",
        ),
        pytest.param(
            "s",
            [
                step("s", "split", config={"shares": {"A": 50, "B": 50}}, B="a"),
                step("a"),
            ],
            id="ways that the configuration names",
        ),
    ],
)
def test_a_sound_drawing_has_no_problem(start, steps):
    assert told(start, *steps) == []


@pytest.mark.parametrize(
    ("start", "steps", "level", "at", "message"),
    [
        pytest.param(
            None,
            [],
            "error",
            "",
            "Nothing happens yet: add a first step.",
            id="no steps",
        ),
        pytest.param(
            "",
            [step("a")],
            "error",
            "",
            "Nothing starts: connect the trigger to a step.",
            id="no start",
        ),
        pytest.param(
            "b",
            [step("a")],
            "error",
            "",
            "The first step is to be “b”, but there is no such step.",
            id="unknown start",
        ),
        pytest.param(
            "a",
            [step("a", sent="nowhere")],
            "error",
            "a",
            "The way “sent” of step “a” leads to “nowhere”, but there is no such step.",
            id="a way that leads nowhere",
        ),
        pytest.param(
            "a",
            [step("a", positive=None)],
            "error",
            "a",
            "Step “a” has no way out called “positive”: it has “sent”.",
            id="a way that the action does not have",
        ),
        pytest.param(
            "a",
            [
                step("a", "split", config={"shares": {"A": 1}}, A="b", B=None),
                step("b"),
            ],
            "error",
            "a",
            "Step “a” has no way out called “B”: it has “A”.",
            id="a way that the configuration does not name",
        ),
        pytest.param(
            "a",
            [step("a", "dance")],
            "error",
            "a",
            "Step “a” is to do “dance”, which is not an action: choose another, or"
            " remove the step.",
            id="an unknown action",
        ),
        pytest.param(
            "a",
            [step("a"), step("a")],
            "error",
            "a",
            "Several steps are called “a”: give each a short name of its own.",
            id="the same key twice",
        ),
        pytest.param(
            "1 a",
            [step("1 a")],
            "error",
            "1 a",
            "“1 a” cannot be the short name of a step: use letters, digits, - and _"
            " only, 64 at most.",
            id="a bad key",
        ),
        pytest.param(
            "a",
            [step("a", sent="a")],
            "error",
            "a",
            "The steps run in a circle: a → a. Let one of them lead elsewhere.",
            id="a step that leads to itself",
        ),
        pytest.param(
            "x",
            [step("x", sent="a"), step("a", sent="b"), step("b", sent="a")],
            "error",
            "a",
            "The steps run in a circle: a → b → a. Let one of them lead elsewhere.",
            id="a circle",
        ),
        pytest.param(
            "a",
            [step("a"), step("lost")],
            "warning",
            "lost",
            "Nobody ever comes to step “lost”: no way leads to it.",
            id="an unreachable step",
        ),
        pytest.param(
            "a",
            [{**step("a"), "next": {}}],
            "warning",
            "a",
            "The way “sent” of step “a” leads nowhere: whoever takes it ends there."
            " Connect it, or let it end on purpose (null).",
            id="a way that nobody has decided on",
        ),
        pytest.param(
            "f",
            [
                step("f", "filter", positive="a", negative="w"),
                step("a"),
                step("w", "wait", done="g"),
                step("g", "filter", positive="x"),
                step("x", "end"),
            ],
            "warning",
            "w",
            "From step “w” on nothing ever happens: nobody is written to, and nothing"
            " is changed or recorded. Add a step, or remove these.",
            id="a branch on which nothing ever happens",
        ),
    ],
)
def test_a_problem_is_told_in_a_sentence(start, steps, level, at, message):
    assert told(start, *steps) == [Problem(level, at, message)]


def test_a_branch_that_ends_on_purpose_is_no_problem():
    filter_ = step("f", "filter", positive="a", negative="x")
    assert told("f", filter_, step("a"), step("x", "end")) == []


def test_everything_wrong_is_told_at_once_and_errors_come_first():
    found = told(
        "a", step("a", sent="b", positive="gone"), step("lost"), step("b", sent="a")
    )

    assert [(problem.level, problem.step) for problem in found] == [
        ("error", "a"),  # no way called positive
        ("error", "a"),  # which leads to nothing
        ("error", "a"),  # a → b → a
        ("warning", "lost"),
    ]


def test_a_circle_that_nobody_comes_to_is_told_too():
    found = told("a", step("a"), step("b", sent="c"), step("c", sent="b"))

    assert [problem.message for problem in found if problem.level == "error"] == [
        "The steps run in a circle: b → c → b. Let one of them lead elsewhere."
    ]


def test_a_very_long_chain_is_walked_without_recursion():
    to = {str(number): [str(number + 1)] for number in range(5_000)} | {"5000": ["0"]}

    assert [len(path) for path in cycles(to)] == [5_002]

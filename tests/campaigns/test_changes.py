"""What changes between two drawings is told in words."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from campaigns.changes import What, changes, summary
from tests import make


def drawing(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "trigger": {
            "kind": "event",
            "event": "Order paid",
            "where": [],
            "max_age_hours": 72,
        },
        "entry": {"rule": "every_event"},
        "start": steps[0]["key"] if steps else "",
        "steps": list(steps),
        **more,
    }


WAIT = make.step("pause", "wait", {"for": 2, "unit": "days"}, done="sms")
SMS = make.sms("Hello you")
CITY = {"attribute": "city", "op": "=", "value": "Paris"}
WHO = make.step(
    "who", "filter_customers", {"rule": CITY}, positive="sms", negative=None
)
BASE = drawing(WAIT, SMS)


def with_step(definition: dict[str, Any], key: str, **changed: Any) -> dict[str, Any]:
    made = deepcopy(definition)
    for step in made["steps"]:
        if step["key"] == key:
            step |= changed
    return made


@pytest.mark.parametrize(
    ("after", "told"),
    [
        pytest.param(BASE, [], id="nothing"),
        pytest.param(
            {**BASE, "pace": {"limit": 500, "per": "hour", "stop_after": 5000}},
            [
                (
                    "pace",
                    "",
                    "How fast customers are taken in changes.",
                    "All at once",
                    "500 an hour, oldest customer first, stop after 5,000",
                )
            ],
            id="pace",
        ),
        pytest.param(
            {**BASE, "trigger": {**BASE["trigger"], "event": "Order sent"}},
            [
                (
                    "trigger",
                    "",
                    "Something else starts it.",
                    "“Order paid” occurs",
                    "“Order sent” occurs",
                )
            ],
            id="the event",
        ),
        pytest.param(
            {**BASE, "trigger": {**BASE["trigger"], "kind": "system_event"}},
            [
                (
                    "trigger",
                    "",
                    "Something else starts it: “System event X occurred”, no longer "
                    "“Event X occurred”.",
                    "“Order paid” occurs",
                    "“Order paid” occurs",
                )
            ],
            id="the kind of trigger",
        ),
        pytest.param(
            {**BASE, "trigger": {**BASE["trigger"], "max_age_hours": 24}},
            [
                (
                    "trigger",
                    "",
                    "The age in hours from which it is too late changes.",
                    "72",
                    "24",
                )
            ],
            id="a part of the trigger that its sentence does not tell",
        ),
        pytest.param(
            {**BASE, "entry": {"rule": "interval", "days": 7}},
            [
                (
                    "entry",
                    "",
                    "How often a customer may enter changes.",
                    "May enter at every event",
                    "May not enter again within 7 days",
                )
            ],
            id="the entry rule",
        ),
        pytest.param(
            {**BASE, "start": "sms"},
            [("start", "", "It begins with “sms”, no longer with “pause”.", "", "")],
            id="the first step",
        ),
        pytest.param(
            with_step(BASE, "pause", config={"for": 3, "unit": "days"}),
            [
                (
                    "step_changed",
                    "pause",
                    "“pause” (Wait) changes.",
                    "For 2 days",
                    "For 3 days",
                )
            ],
            id="a setting, in the action's own words",
        ),
        pytest.param(
            with_step(BASE, "sms", config={"text": "Hello there"}),
            [
                (
                    "text",
                    "sms",
                    "“sms”: the text “Text” changes.",
                    "Hello you",
                    "Hello there",
                )
            ],
            id="a text",
        ),
        pytest.param(
            with_step(BASE, "sms", config={"text": "Hello you", "category": "news"}),
            [("step_changed", "sms", "“sms”: “Mailing category” changes.", "", "news")],
            id="a setting that the action's words do not tell",
        ),
        pytest.param(
            with_step(BASE, "pause", next={"done": None}),
            [
                (
                    "way",
                    "pause",
                    "“pause”, way “Then”: leads to the end, no longer to “sms”.",
                    "",
                    "",
                )
            ],
            id="a way that leads elsewhere",
        ),
        pytest.param(
            with_step(BASE, "sms", action="end", config={"reason": "Enough"}, next={}),
            [
                (
                    "step_changed",
                    "sms",
                    "“sms” does something else: End, no longer Send SMS.",
                    "Hello you",
                    "Enough",
                ),
            ],
            id="another action",
        ),
    ],
)
def test_a_change_is_told_in_words(after, told):
    assert [
        (one.what, one.step, one.sentence, one.before, one.after)
        for one in changes(BASE, after)
    ] == told


def test_steps_that_come_and_go_are_known_by_their_keys():
    found = changes(BASE, drawing(WHO, SMS))

    assert [(one.what, one.sentence) for one in found] == [
        (What.START, "It begins with “who”, no longer with “pause”."),
        (What.ADDED, "“who” is new: Filter customers."),
        (What.REMOVED, "“pause” is removed: Wait."),
    ]
    assert found[1].after == "City is “Paris”"
    assert found[2].before == "For 2 days"
    assert summary(found) == "1 first step changed, 1 step added, 1 step removed"


def test_a_step_that_only_stands_elsewhere_in_the_list_has_not_changed():
    assert changes(BASE, {**BASE, "steps": BASE["steps"][::-1]}) == []
    assert summary([]) == ""


def test_a_way_nobody_named_is_the_same_as_one_that_ends():
    assert changes(BASE, with_step(BASE, "sms", next={})) == []


def test_what_differs_in_a_text_is_marked():
    [change] = changes(BASE, with_step(BASE, "sms", config={"text": "Hello there"}))

    assert [(one.text, one.is_marked) for one in change.after_pieces] == [
        ("Hello ", False),
        ("there", True),
    ]


def test_long_texts_are_compared_in_a_moment():
    old, new = "<p>Hello</p>\n" * 5_000, "<p>Hello</p>\n" * 4_999 + "<p>Bye</p>\n"
    before = with_step(BASE, "sms", config={"text": old})
    [change] = changes(before, with_step(before, "sms", config={"text": new}))

    assert [one.text for one in change.after_pieces if one.is_marked] == [
        "<p>Bye</p>\n"
    ]


def test_a_way_that_is_gone_leads_nowhere():
    # The word for a way is that of the action which has it.
    before = drawing(
        make.step("pause", "wait", {"for": 1, "unit": "days"}, done="sms"), make.sms()
    )
    after = drawing(
        make.step(
            "pause",
            "wait_for_event",
            {"event": "Order paid", "where": [], "for": 1, "unit": "days"},
            happened=None,
            timed_out="sms",
        ),
        make.sms(),
    )
    assert [one.sentence for one in changes(before, after) if one.what == "way"] == [
        "“pause” has a new way “It did not”, which leads to “sms”.",
        "“pause” has no way “Then” any more, which led to “sms”.",
    ]

"""Segments that are saved, archived and deleted by several people at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from campaigns.publish import publish
from segments import saving
from segments.models import Segment
from segments.saving import Wanted
from smartcomm.core.errors import UserError
from tests import make
from tests.races.together import at_once

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]

PARIS = {"attribute": "city", "op": "=", "value": "Paris"}


def outcome(deed: Callable[[], Any]) -> str:
    """ "done", or the code of the refusal."""
    try:
        deed()
    except UserError as error:
        return error.code
    return "done"


def together(*deeds: Callable[[], Any]) -> list[str]:
    return at_once(len(deeds), lambda number: outcome(deeds[number]))


def asks_for(segment: Segment, other: Segment) -> Callable[[], Any]:
    wanted = Wanted(segment.name, rule={"segment": other.pk})
    return lambda: saving.change(segment, wanted, author="anna")


def test_segments_saved_at_once_make_no_circle():
    for _ in range(5):
        one, two, three = (make.segment(rule=PARIS) for _ in range(3))

        done = together(asks_for(one, two), asks_for(two, three), asks_for(three, one))

        assert sorted(done) == ["done", "done", "rule_conflict"]


@pytest.mark.parametrize(
    ("deed", "late"), [("delete", "rule_invalid"), ("archive", "rule_conflict")]
)
def test_no_new_rule_asks_for_a_segment_that_goes_at_that_moment(deed, late):
    for _ in range(5):
        one = make.segment(rule=PARIS)
        wanted = Wanted(f"asks for {one.pk}", rule={"segment": one.pk})

        gone, saved = together(
            lambda one=one: getattr(saving, deed)(one),
            lambda wanted=wanted: saving.create(wanted, author="anna"),
        )

        assert (gone, saved) in [("done", late), ("segment_used", "done")]


def test_no_campaign_is_published_on_a_segment_that_is_archived_at_that_moment():
    for _ in range(5):
        one = make.segment(rule=PARIS)
        rule = {"segment": one.pk}
        campaign = make.draft(
            make.step(
                "who",
                "filter_customers",
                {"rule": rule},
                positive="sms",
                negative=None,
            ),
            make.sms(),
        )

        gone, published = together(
            lambda one=one: saving.archive(one),
            lambda campaign=campaign: publish(campaign),
        )

        assert (gone, published) in [("done", "invalid"), ("segment_used", "done")]

"""Who uses a segment, and what follows: not deleted, not archived, told by name."""

from __future__ import annotations

from typing import Any

import pytest

from campaigns import publish
from segments import saving, usage
from segments.models import Segment
from segments.rules import RuleConflict
from smartcomm.core.errors import Conflict, Several
from tests import make

pytestmark = pytest.mark.django_db

PARIS = {"attribute": "city", "op": "=", "value": "Paris"}


def asking(segment: Segment) -> dict[str, Any]:
    config = {"rule": {"segment": segment.pk}}
    return {"key": "who", "action": "filter_customers", "config": config, "next": {}}


def test_a_published_campaign_and_a_segment_in_use_keep_a_segment_at_work():
    paris = make.segment("Parisians", PARIS)
    campaign = make.campaign(asking(paris))
    make.segment("Loyal", {"segment": paris.pk})

    with pytest.raises(Conflict) as refused:
        saving.archive(paris)

    assert "the segment “Loyal”" in refused.value.message
    assert f"the campaign “{campaign}”" in refused.value.message
    assert not Segment.objects.get(pk=paris.pk).is_archived


def test_a_draft_hinders_deleting_and_not_archiving_but_is_then_not_published():
    paris = make.segment("Parisians", PARIS)
    draft = make.draft(asking(paris))

    with pytest.raises(Conflict, match=f"the campaign “{draft}”"):
        saving.delete(paris)
    saving.archive(paris)

    with pytest.raises(Several, match="The segment “Parisians” is archived"):
        publish.publish(draft)
    saving.restore(paris)
    publish.publish(draft)


def test_an_archived_user_hinders_deleting_and_not_archiving():
    paris = make.segment("Parisians", PARIS)
    saving.archive(make.segment("Loyal", {"segment": paris.pk}))

    with pytest.raises(Conflict, match="the segment “Loyal”"):
        saving.delete(paris)
    saving.archive(paris)

    (use,) = usage.uses_of(paris.pk)
    assert (use.name, use.is_live) == ("Loyal", False)


def test_a_campaign_is_named_once_however_often_it_asks():
    paris = make.segment("Parisians", PARIS)
    again = asking(paris) | {"key": "again"}
    campaign = make.campaign(asking(paris) | {"next": {"positive": "again"}}, again)

    (use,) = usage.uses_of(paris.pk)

    assert (use.kind, use.name, use.is_live) == ("campaign", str(campaign), True)


def test_a_lists_use_is_told_as_any_segments():
    guests = make.segment("Guests")
    make.segment("Loyal", {"not": {"segment": guests.pk}})

    with pytest.raises(Conflict, match="the segment “Loyal”"):
        saving.archive(guests)


def test_an_archived_segment_comes_back_with_its_members_counted_anew():
    paris = make.kept(make.segment("Parisians", PARIS), make.customer())
    saving.archive(paris)

    restored = saving.restore(paris)

    assert not restored.is_archived
    assert restored.recount_wanted_at
    assert restored.members_of != restored.edition


def test_a_watched_segment_does_not_look_at_what_watching_records():
    make.event_type("segment.entered")
    fed = {"event": "segment.entered"}
    inner = make.segment("Comers", fed)

    for rule in (fed, {"segment": inner.pk}):
        with pytest.raises(RuleConflict, match="feed itself"):
            make.segment("Watched", rule, is_watched=True)
    with pytest.raises(RuleConflict, match="feed itself"):
        saving.change(inner, saving.Wanted("Comers", "", fed, True), author="anna")

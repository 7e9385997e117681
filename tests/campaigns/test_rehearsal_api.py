"""Rehearsals through the API."""

from __future__ import annotations

import msgspec
import pytest

from campaigns.models import Rehearsal
from campaigns.rehearsal_api import EXAMPLE, RehearsalOut
from tests import make
from tests.client import Api

pytestmark = pytest.mark.django_db


@pytest.fixture
def api() -> Api:
    return Api()


def test_one_is_ordered_read_and_stopped(api):
    campaign = make.draft()
    answer = api.post(f"/campaigns/{campaign.pk}/rehearsals", {"days": 7})
    assert answer.status_code == 202
    made = answer.json()
    assert (made["status"], made["days"], made["version"]) == ("waiting", 7, 1)

    here = f"/campaigns/rehearsals/{made['id']}"
    assert api.get(here).json() == made
    Rehearsal.objects.update(status="running", progress=0.25)
    assert api.get(here).json()["progress"] == 0.25
    assert api.delete(here).json()["status"] == "cancelled"
    assert api.delete(here).json()["status"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "field"),
    [({"days": 0}, "days"), ({"days": "7"}, "days"), ({"day": 7}, "day")],
)
def test_what_is_not_understood_is_refused_with_its_place(api, body, field):
    campaign = make.draft()
    answer = api.post(f"/campaigns/{campaign.pk}/rehearsals", body)
    assert answer.status_code in (400, 422)
    assert field in str(answer.json())
    assert not Rehearsal.objects.exists()


def test_a_second_one_is_a_conflict_and_others_are_not_found(api):
    campaign = make.draft()
    api.post(f"/campaigns/{campaign.pk}/rehearsals", {})
    assert api.post(f"/campaigns/{campaign.pk}/rehearsals", {}).status_code == 409
    assert api.get("/campaigns/rehearsals/999").status_code == 404
    assert api.post("/campaigns/999/rehearsals", {}).status_code == 404


def test_the_example_is_an_answer():
    msgspec.convert(EXAMPLE, RehearsalOut)

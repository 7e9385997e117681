"""For every reason by which the door refuses an event, it is known what can be done."""

from __future__ import annotations

import re

import pytest
from django.conf import settings

from events.remedies import REMEDIES


def codes() -> set[str]:
    found = set()
    for path in settings.BASE_DIR.glob("events/**/*.py"):
        found |= set(re.findall(r'Refusal\(\s*"([a-z_]+)"', path.read_text()))
    return found


def test_every_code_of_a_refusal_has_a_remedy():
    assert len(codes()) > 20
    assert codes() <= REMEDIES.keys()


@pytest.mark.parametrize("code", REMEDIES)
def test_a_remedy_says_what_to_do_in_whole_sentences(code):
    remedy = REMEDIES[code]

    assert remedy.advice.endswith(".")
    assert not remedy.title.endswith(".")


@pytest.mark.parametrize("code", REMEDIES)
def test_what_staff_read_about_a_reason_is_told_to_integrators_too(code):
    explained = (settings.BASE_DIR / "docs" / "api-errors.md").read_text()

    assert f"`{code}`" in explained

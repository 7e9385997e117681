"""Two people who save segments at the same moment."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse

from segments import saving
from segments.models import Segment
from tests import make
from tests.races.together import at_once
from tests.segments.test_admin import PARIS, form_at, page_of

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]


def logged_in() -> Client:
    user, _ = get_user_model().objects.get_or_create(
        username="anna", is_staff=True, is_superuser=True
    )
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_of_two_who_take_the_same_name_one_is_told_beside_it(renamed, monkeypatch):
    both = threading.Barrier(2)

    def when_both_were_checked(name: str) -> None:
        save = getattr(saving, name)

        def saved(*args: Any, **kwargs: Any) -> Segment:
            # Who changes a segment that is there has it to themselves by now, so that
            # the other never comes this far.
            with suppress(threading.BrokenBarrierError):
                both.wait(timeout=2)
            return save(*args, **kwargs)

        monkeypatch.setattr(saving, name, saved)

    pages = [page_of("change", make.segment(f"{n}", PARIS)) for n in range(renamed)]
    pages += [reverse("admin:segments_segment_add")] * (2 - renamed)
    client = logged_in()
    rule = {"rule.0.kind": ["attribute"], "rule.0.attribute": ["city"]}
    rule |= {"rule.0.op": ["="], "rule.0.low": ["Paris"], "name": ["In Paris"]}
    forms = [form_at(client, page) | rule for page in pages]
    when_both_were_checked("create")
    when_both_were_checked("change")

    answers = at_once(2, lambda n: logged_in().post(pages[n], forms[n]))

    assert sorted(answer.status_code for answer in answers) == [200, 302]
    refused = next(answer for answer in answers if answer.status_code == 200)
    errors = refused.context["adminform"].form.errors
    told = "There is a segment of this name already. Choose another."
    assert errors == {"name": [told]}
    assert Segment.objects.filter(name="In Paris").count() == 1

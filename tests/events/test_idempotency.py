"""`Idempotency-Key`: for senders whose events have no ids."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone

from events import idempotency, tasks
from events.models import Event, IdempotentRequest, RejectedEvent
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

EVENT = {"name": "Order paid", "customer": "C-1", "context": {"amount": 5}}


@pytest.fixture
def api() -> Api:
    return Api()


def send(api: Api, body: dict = EVENT, key: str = "k-1", path: str = "/events"):
    return api.post(path, body, **{"Idempotency-Key": key})


def test_sent_again_it_records_nothing_and_answers_the_same(api):
    first = send(api)
    again = send(api)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert again["Idempotency-Replay"] == "true"
    assert "Idempotency-Replay" not in first
    assert again["Content-Type"] == "application/json"
    assert Event.objects.count() == 1


def test_without_a_key_the_same_event_without_an_id_is_another_one(api):
    api.post("/events", EVENT)
    api.post("/events", EVENT)

    assert Event.objects.count() == 2


def test_what_was_rejected_is_not_kept_twice(api):
    bad = {"name": "", "customer": "C-1"}

    first, again = send(api, bad), send(api, bad)

    assert (first.status_code, again.status_code) == (422, 422)
    assert again.content == first.content
    assert RejectedEvent.objects.count() == 1


def test_another_body_under_the_same_key_is_refused(api):
    send(api)

    told = problem(send(api, EVENT | {"name": "B"}), 422, "idempotency_key_reused")

    assert "new key" in told["detail"]
    assert Event.objects.count() == 1


def test_the_same_body_at_another_address_is_another_request(api):
    body = {"name": "Shop opened"}
    send(api, body, path="/system-events")

    problem(send(api, body), 422, "idempotency_key_reused")


def test_keys_of_two_sources_have_nothing_to_do_with_each_other(api):
    send(api)
    other = send(Api(source="call centre"))

    assert "Idempotency-Replay" not in other
    assert Event.objects.count() == 2


def test_a_request_that_failed_leaves_its_key_unused(api):
    problem(api.post("/events", raw=b"{", **{"Idempotency-Key": "k"}), 400, "not_json")

    assert send(api, key="k").status_code == 202
    assert IdempotentRequest.objects.count() == 1


def test_a_fault_of_ours_leaves_nothing_behind(api, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError

    api.client.raise_request_exception = False
    monkeypatch.setattr("events.api.answer_to", fail)
    assert send(api).status_code == 500
    assert (Event.objects.count(), IdempotentRequest.objects.count()) == (0, 0)
    monkeypatch.undo()

    assert send(api).json()["accepted"] == 1


@pytest.mark.parametrize("key", ["", "ä", "a\tb", "x" * 256])
def test_a_key_that_is_none_is_refused(api, key):
    problem(send(api, key=key), 400, "idempotency_key_invalid")
    assert not Event.objects.exists()


def test_keys_are_forgotten_after_a_month_and_no_earlier(api):
    now = timezone.now()
    with time_machine.travel(now, tick=False):
        send(api)
    with time_machine.travel(now + idempotency.REMEMBERED, tick=False):
        tasks.forget_old_keys()
        assert IdempotentRequest.objects.count() == 1
    with time_machine.travel(now + idempotency.REMEMBERED + timedelta(seconds=1)):
        tasks.forget_old_keys()
        assert not IdempotentRequest.objects.exists()

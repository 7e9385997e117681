"""Bells, and a Valkey that is there but does not answer."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.core.cache import cache

from smartcomm.core import doorbell

TASK = "tests.nobody"


class Silent:
    """A cache that does not answer."""

    def __init__(self) -> None:
        self.asked = 0

    def add(self, *args: object, **options: object) -> bool:
        self.asked += 1
        raise TimeoutError("Timeout reading from socket")

    delete = add


@pytest.fixture(autouse=True)
def sent(monkeypatch):
    """The tasks that were sent; nothing of a test is remembered."""
    sent: list[str] = []
    monkeypatch.setattr(doorbell.current_app, "send_task", sent.append, raising=False)
    monkeypatch.setattr(doorbell, "_asked_again_at", 0.0, raising=False)
    cache.delete(f"doorbell:{TASK}")
    return sent


def ring(capture):
    with capture(execute=True):
        doorbell.ring(TASK)


@pytest.mark.django_db
def test_rings_before_an_answer_are_one(sent, django_capture_on_commit_callbacks):
    for _ in range(3):
        ring(django_capture_on_commit_callbacks)
    assert sent == [TASK]

    doorbell.answer(TASK)
    ring(django_capture_on_commit_callbacks)
    assert sent == [TASK, TASK]


@pytest.mark.django_db
def test_a_valkey_that_does_not_answer_is_left_alone_for_some_seconds(
    sent, monkeypatch, django_capture_on_commit_callbacks
):
    silent = Silent()
    monkeypatch.setattr(doorbell, "cache", silent)
    for _ in range(3):
        ring(django_capture_on_commit_callbacks)
        doorbell.answer(TASK)
    assert silent.asked == 1
    assert sent == []

    monkeypatch.setattr(doorbell, "LEFT_ALONE_SECONDS", -1.0)
    monkeypatch.setattr(doorbell, "_asked_again_at", 0.0)
    ring(django_capture_on_commit_callbacks)
    doorbell.answer(TASK)
    assert silent.asked == 3


def test_no_request_waits_longer_than_a_second_for_the_cache():
    options = settings.CACHES["default"]["OPTIONS"]
    assert options["socket_timeout"] <= 1
    assert options["socket_connect_timeout"] <= 1

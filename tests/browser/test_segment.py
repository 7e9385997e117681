"""A shop's page, on a site of its own, sends what a visitor does."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page
from pytest_django.live_server_helper import LiveServer

from events import schema
from events.keys import create_key
from events.models import Event, Scope
from tests import make

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def _nothing_known():
    schema.forget_known()


# As Segment's library for browsers does; the second way spares a browser asking first.
SEND = """
    async ([address, key, plain]) => {
        const message = {anonymousId: "a-1", event: "Order paid", writeKey: key};
        const headers = plain ? {"Content-Type": "text/plain"} : {
            "Content-Type": "application/json",
            "Authorization": "Basic " + btoa(key + ":"),
        };
        const answer = await fetch(address, {
            method: "POST", headers, body: JSON.stringify(message), keepalive: true,
        });
        return [answer.status, await answer.json()];
    }
"""


def go_elsewhere(page: Page, live_server: LiveServer) -> None:
    """To another origin: the same server, under another name."""
    assert "localhost" in live_server.url
    page.goto(live_server.url.replace("localhost", "127.0.0.1") + "/healthz")


@pytest.mark.parametrize("plain", [True, False])
def test_a_page_of_another_site_may_send(page: Page, live_server: LiveServer, plain):
    _, key = create_key(make.source("website"), [Scope.EVENTS])
    go_elsewhere(page, live_server)

    status, told = page.evaluate(SEND, [f"{live_server.url}/v1/t", key, plain])

    assert (status, told["accepted"]) == (200, 1)
    assert Event.objects.get().customer.external_id == "anon:a-1"


def test_a_page_of_another_site_may_read_why_it_was_refused(
    page: Page, live_server: LiveServer
):
    go_elsewhere(page, live_server)

    status, told = page.evaluate(SEND, [f"{live_server.url}/v1/t", "sck_wrong", True])

    assert (status, told["code"]) == (401, "key_refused")

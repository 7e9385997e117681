"""E-mail against a real server that accepts, refuses, is away, and drops the line."""

from __future__ import annotations

import asyncio
import email
import socket
from collections.abc import Iterator
from email import policy
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as Server
from aiosmtpd.smtp import Envelope, Session
from anymail.backends.test import EmailBackend as AnymailTestBackend
from anymail.exceptions import AnymailAPIError
from requests import Response as HttpResponse

from messaging.channels import Outcome, Outgoing, Result
from messaging.channels.email import DjangoEmail


class Mailbox:
    """What the server has taken, and how it shall behave."""

    def __init__(self) -> None:
        self.mails: list[email.message.EmailMessage] = []
        self.connections = 0
        self.recipient = "250 OK"
        self.sender = "250 OK"
        self.data = "250 OK"
        #: Close the line: at "mail", before the text, or "after_text" (taken!).
        self.drop_at = ""
        self.drop_times = 100
        self.hang = False
        self.controller = Controller(self, hostname="127.0.0.1", port=free_port())

    def _drops(self, server: Server, place: str) -> bool:
        if self.drop_at != place or self.drop_times == 0:
            return False
        self.drop_times -= 1
        assert isinstance(server.transport, asyncio.WriteTransport)
        server.transport.abort()
        return True

    async def handle_EHLO(
        self,
        server: Server,
        session: Session,
        envelope: Envelope,
        hostname: str,
        answers: Any,
    ) -> Any:
        self.connections += 1
        session.host_name = hostname
        return answers

    async def handle_MAIL(
        self,
        server: Server,
        session: Session,
        envelope: Envelope,
        address: str,
        options: Any,
    ) -> str:
        if self._drops(server, "mail"):
            return "421 Bye"
        envelope.mail_from = address
        return self.sender

    async def handle_RCPT(
        self,
        server: Server,
        session: Session,
        envelope: Envelope,
        address: str,
        options: Any,
    ) -> str:
        if "bad" in address:
            return self.recipient
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(
        self, server: Server, session: Session, envelope: Envelope
    ) -> str:
        if self.data.startswith("250"):
            content = envelope.content
            assert isinstance(content, bytes)
            self.mails.append(email.message_from_bytes(content, policy=policy.default))
        if self._drops(server, "after_text"):
            return "250 OK"
        if self.hang:
            await asyncio.sleep(5)
        return self.data


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    box.controller.start()
    yield box
    box.controller.stop()


@pytest.fixture(autouse=True)
def configured(settings, request):
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST = "127.0.0.1"
    settings.EMAIL_TIMEOUT = 2
    settings.DEFAULT_FROM_EMAIL = "Shop <news@shop.example>"
    settings.EMAIL_PORT = free_port()
    if "mailbox" in request.fixturenames:
        settings.EMAIL_PORT = request.getfixturevalue("mailbox").controller.port


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def mail(number: int = 1, address: str = "", **more: Any) -> Outgoing:
    fields = {"subject": "Hello", "body": "Hi", "html": "", "link": "", "image": ""}
    return Outgoing(
        id=number,
        attempt=1,
        channel="email",
        address=address or f"c{number}@example.com",
        **{**fields, **more},
    )


def hand_over(*mails: Outgoing) -> list[Outcome]:
    return DjangoEmail().hand_over(mails)


def results(outcomes: list[Outcome]) -> list[Result]:
    return [outcome.result for outcome in outcomes]


def test_text_and_html_arrive_as_alternatives_with_a_lasting_id(mailbox):
    [outcome] = hand_over(
        mail(
            7,
            subject="Größe",
            body="Tëxt",
            html="<p>Tëxt</p>",
            address="ok@example.com",
        )
    )
    [got] = mailbox.mails
    assert outcome == Outcome(Result.ACCEPTED, "<message-7@shop.example>")
    assert (got["Subject"], got["To"]) == ("Größe", "ok@example.com")
    assert (got["From"], got["Message-ID"]) == (
        "Shop <news@shop.example>",
        "<message-7@shop.example>",
    )
    assert got.get_body(("plain",)).get_content().strip() == "Tëxt"
    assert got.get_body(("html",)).get_content().strip() == "<p>Tëxt</p>"
    assert got.get_content_type() == "multipart/alternative"


def test_without_html_it_is_plain(mailbox):
    hand_over(mail())
    assert mailbox.mails[0].get_content_type() == "text/plain"


def test_a_group_shares_one_connection(mailbox):
    assert results(hand_over(*(mail(n) for n in range(20)))) == [Result.ACCEPTED] * 20
    assert (len(mailbox.mails), mailbox.connections) == (20, 1)


@pytest.mark.parametrize(
    ("answer", "result"),
    [("550 No such user", Result.REFUSED), ("450 Try later", Result.LATER)],
)
def test_a_refused_recipient_harms_no_other(mailbox, answer, result):
    mailbox.recipient = answer
    outcomes = hand_over(
        mail(1, "ok1@example.com"),
        mail(2, "bad@example.com"),
        mail(3, "ok3@example.com"),
    )
    assert results(outcomes) == [Result.ACCEPTED, result, Result.ACCEPTED]
    assert outcomes[1].error == f"The address was refused: {answer}"
    assert len(mailbox.mails) == 2


@pytest.mark.parametrize(
    ("answer", "result"),
    [("554 Spam", Result.REFUSED), ("452 Disk full", Result.LATER)],
)
def test_a_refused_text(mailbox, answer, result):
    mailbox.data = answer
    [outcome] = hand_over(mail())
    assert (outcome.result, outcome.error) == (
        result,
        f"The message was refused: {answer}",
    )


def test_a_server_that_does_not_take_our_own_address_is_no_fault_of_the_messages(
    mailbox,
):
    mailbox.sender = "550 Not you"
    outcomes = hand_over(mail(1), mail(2))
    assert results(outcomes) == [Result.AWAY, Result.AWAY]
    assert (
        "accept our address Shop <news@shop.example>: 550 Not you" in outcomes[0].error
    )


def test_nobody_listening_hands_over_nothing():
    outcomes = hand_over(mail(1), mail(2))
    assert results(outcomes) == [Result.AWAY, Result.AWAY]
    assert "does not let us in" in outcomes[1].error


def test_a_wrong_password_is_no_fault_of_the_messages(mailbox, settings):
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "us", "wrong"
    assert results(hand_over(mail())) == [Result.AWAY]
    assert mailbox.mails == []


def test_a_line_dropped_before_the_text_is_opened_again(mailbox):
    mailbox.drop_at, mailbox.drop_times = "mail", 1
    assert results(hand_over(mail(1), mail(2))) == [Result.ACCEPTED, Result.ACCEPTED]
    assert (len(mailbox.mails), mailbox.connections) == (2, 2)


def test_a_line_that_keeps_dropping_before_the_text_means_away(mailbox):
    mailbox.drop_at = "mail"
    assert results(hand_over(mail(1), mail(2))) == [Result.AWAY, Result.AWAY]
    assert mailbox.mails == []


def test_a_line_dropped_after_the_text_is_in_doubt_and_the_rest_goes_on(mailbox):
    mailbox.drop_at, mailbox.drop_times = "after_text", 1
    outcomes = hand_over(mail(1), mail(2))
    assert results(outcomes) == [Result.IN_DOUBT, Result.ACCEPTED]
    assert "may have arrived" in outcomes[0].error
    # It had: sending it again would have doubled it.
    assert len(mailbox.mails) == 2


def test_a_server_that_never_answers_the_text_is_in_doubt(mailbox, settings):
    settings.EMAIL_TIMEOUT = 0.3
    mailbox.hang = True
    assert results(hand_over(mail())) == [Result.IN_DOUBT]


def test_a_header_that_cannot_be_written_fails_alone(mailbox):
    outcomes = hand_over(mail(1, subject="a\nBcc: b@example.com"), mail(2))
    assert results(outcomes) == [Result.REFUSED, Result.ACCEPTED]
    assert len(mailbox.mails) == 1


def test_any_backend_of_django_will_do(settings, mailoutbox):
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    assert results(hand_over(mail(1), mail(2))) == [Result.ACCEPTED, Result.ACCEPTED]
    assert [sent.to for sent in mailoutbox] == [["c1@example.com"], ["c2@example.com"]]


def test_a_backend_without_answers_counts_as_taken(settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
    [outcome] = hand_over(mail())
    assert outcome.result is Result.ACCEPTED


class Api(AnymailTestBackend):  # type: ignore[misc]
    """A provider with an HTTP interface, that answers with a status."""

    status: int | None = None

    def post_to_esp(self, payload: Any, message: Any) -> Any:
        if self.status:
            response = HttpResponse()
            response.status_code, response.reason = self.status, "so it is"
            raise AnymailAPIError(
                "No.", status_code=self.status, response=response, backend=self
            )
        raise AnymailAPIError("Nobody answered.", backend=self)


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (400, Result.REFUSED),
        (401, Result.AWAY),
        (403, Result.AWAY),
        (422, Result.REFUSED),
        (429, Result.LATER),
        (500, Result.IN_DOUBT),
        (502, Result.IN_DOUBT),
        (503, Result.LATER),
        (None, Result.IN_DOUBT),
    ],
)
def test_the_answer_of_a_provider_is_understood(settings, monkeypatch, status, result):
    settings.EMAIL_BACKEND = f"{__name__}.Api"
    monkeypatch.setattr(Api, "status", status)
    [outcome] = hand_over(mail())
    assert outcome.result is result
    assert outcome.error


def test_the_id_of_a_provider_is_kept(settings):
    settings.EMAIL_BACKEND = "anymail.backends.test.EmailBackend"
    [outcome] = hand_over(mail())
    assert outcome == Outcome(Result.ACCEPTED, "0")

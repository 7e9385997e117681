"""E-mail through any of Django's e-mail backends."""

from __future__ import annotations

import contextlib
import smtplib
from collections.abc import Callable
from email.utils import parseaddr
from typing import Any, ClassVar

from anymail.exceptions import (
    AnymailAPIError,
    AnymailConfigurationError,
    AnymailError,
)
from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection

from messaging.channels.base import (
    InDoubt,
    Outgoing,
    Provider,
    ProviderAway,
    ProviderError,
)


class DjangoEmail(Provider):
    """One connection for a group; text and HTML as alternatives.

    What happened to the line decides what we know. Before the text of a message is on
    its way, a line that drops has carried nothing: the message is tried again, now or
    later. Once the text is on its way and no answer comes, the server may well have
    taken it: that is doubt, and it is not sent twice.
    """

    name: ClassVar[str] = "email"

    def __init__(self) -> None:
        self.connection: Any = None
        #: The text of the current message is on its way to an SMTP server.
        self.is_handing_over = False

    def send(self, message: Outgoing) -> str:
        mail = _mail(message)
        try:
            self._send(mail)
        except _Dropped:
            # A server may close a line it finds old or used enough. Once more, anew.
            try:
                self._send(mail)
            except _Dropped as error:
                raise ProviderAway(error.message) from error
        return _provider_id(mail)

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is None:
            return
        # It is only to say goodbye; every answer that matters is in.
        with contextlib.suppress(smtplib.SMTPException, OSError):
            connection.close()

    def _send(self, mail: EmailMultiAlternatives) -> None:
        self._open()
        self.is_handing_over = False
        try:
            mail.connection = self.connection
            sent = mail.send()
        except AnymailError as error:
            raise _answer_of_api(error) from error
        except smtplib.SMTPRecipientsRefused as error:
            code, text = next(iter(error.recipients.values()))
            raise _refused("The address", code, text) from error
        except smtplib.SMTPSenderRefused as error:
            # Our own address: a matter of settings, not of this message.
            self.close()
            raise ProviderAway(
                f"The mail server does not accept our address {error.sender}: "
                f"{_words(error.smtp_code, error.smtp_error)}"
            ) from error
        except smtplib.SMTPServerDisconnected as error:
            self._dropped(error)
        except smtplib.SMTPResponseException as error:
            raise _refused("The message", error.smtp_code, error.smtp_error) from error
        except smtplib.SMTPException as error:
            self.close()
            raise ProviderError(str(error), permanent=False) from error
        except OSError as error:
            self._dropped(error)
        except (ValueError, UnicodeError) as error:
            # Django will not write such headers, and nothing has been sent.
            raise ProviderError(
                f"The e-mail cannot be written: {error}", permanent=True
            ) from error
        if not sent:
            raise InDoubt("The e-mail backend did not say whether it took the message.")

    def _open(self) -> None:
        if self.connection is not None:
            return
        self.connection = get_connection()
        try:
            self.connection.open()
        except (smtplib.SMTPException, OSError) as error:
            self.close()
            raise ProviderAway(
                f"The mail server does not let us in: {error}"
            ) from error
        session = getattr(self.connection, "connection", None)
        if isinstance(session, smtplib.SMTP):
            self._watch(session)

    def _watch(self, session: smtplib.SMTP) -> None:
        """Take note while the text of a message is on its way.

        smtplib raises the same error whether the line dropped before or after it.
        """
        hand_over: Callable[[Any], Any] = session.data

        def data(msg: Any) -> Any:
            self.is_handing_over = True
            answer = hand_over(msg)
            self.is_handing_over = False
            return answer

        session.data = data  # type: ignore[method-assign]

    def _dropped(self, error: Exception) -> None:
        is_smtp = isinstance(getattr(self.connection, "connection", None), smtplib.SMTP)
        in_doubt = self.is_handing_over or not is_smtp
        self.close()
        words = str(error) or type(error).__name__
        if in_doubt:
            raise InDoubt(
                f"The line to the mail server dropped during the hand-over ({words}). "
                "The message may have arrived, so it is not sent again."
            ) from error
        raise _Dropped(f"The line to the mail server dropped: {words}") from error


class _Dropped(ProviderError):
    """The line dropped before anything of the message was on its way."""

    def __init__(self, message: str) -> None:
        super().__init__(message, permanent=False)


def _mail(message: Outgoing) -> EmailMultiAlternatives:
    # The same Message-ID at every attempt, so that a receiver can tell a repetition.
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2]
    message_id = f"<{message.key}@{domain or 'localhost'}>"
    mail = EmailMultiAlternatives(
        subject=message.subject,
        body=message.body,
        to=[message.address],
        headers={"Message-ID": message_id},
    )
    if message.html:
        mail.attach_alternative(message.html, "text/html")
    return mail


def _provider_id(mail: EmailMultiAlternatives) -> str:
    """The id that later news about the message will carry."""
    status = getattr(mail, "anymail_status", None)
    if status is not None and status.message_id is not None:
        return str(status.message_id)
    return str(mail.extra_headers["Message-ID"])


def _answer_of_api(error: AnymailError) -> ProviderError:
    """What an HTTP provider meant, by its status."""
    words = " ".join(str(error).split())[:1000]
    status = error.status_code
    if isinstance(error, AnymailAPIError) and (
        status is None or (status >= 500 and status != 503)
    ):
        # No answer, or one from a server in trouble: it may have been taken.
        return InDoubt(f"{words} It may have arrived, so it is not sent again.")
    if status in (401, 403) or isinstance(error, AnymailConfigurationError):
        return ProviderAway(f"The provider does not let us in: {words}")
    is_later = status in (408, 429, 503)
    return ProviderError(f"The message was refused: {words}", permanent=not is_later)


def _refused(what: str, code: int, text: bytes | str) -> ProviderError:
    return ProviderError(
        f"{what} was refused: {_words(code, text)}", permanent=500 <= code < 600
    )


def _words(code: int, text: bytes | str) -> str:
    words = text.decode(errors="replace") if isinstance(text, bytes) else text
    return f"{code} {' '.join(words.split())}"[:1000]

"""What became of a message and why, as lines for a page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone
from django.utils.formats import date_format

from messaging.models import Delivery, Message

OUTCOMES = {
    Delivery.Outcome.STARTED: ("is being handed over", "info", "outbound"),
    Delivery.Outcome.ACCEPTED: ("handed over and accepted", "good", "check"),
    Delivery.Outcome.RETRY: ("not taken, to be tried again", "warn", "replay"),
    Delivery.Outcome.FAILED: ("refused", "bad", "close"),
    Delivery.Outcome.UNKNOWN: (
        "no answer: it may have arrived",
        "warn",
        "question_mark",
    ),
}


@dataclass(frozen=True)
class Line:
    at: datetime | None
    title: str
    text: str
    tone: str
    icon: str


def story_of(
    message: Message, deliveries: list[Delivery], *, is_held: bool
) -> list[Line]:
    """From being asked for to how it ended, oldest first."""
    asked = "A test" if message.is_test else "Queued"
    lines = [Line(message.created_at, asked, "", "plain", "schedule_send")]
    for delivery in deliveries:
        words, tone, icon = OUTCOMES[Delivery.Outcome(delivery.outcome)]
        lines.append(
            Line(
                delivery.finished_at or delivery.started_at,
                f"Attempt {delivery.attempt} by {delivery.provider}: {words}",
                delivery.error,
                tone,
                icon,
            )
        )
    match message.status:
        case Message.Status.QUEUED if is_held:
            words = "The campaign is paused, so its messages wait."
            lines.append(Line(None, "Waits", words, "info", "pause"))
        case Message.Status.QUEUED:
            lines.append(Line(None, "Waits", _until(message), "info", "hourglass_top"))
        case Message.Status.SUPPRESSED:
            title = f"Suppressed: {message.get_reason_display().lower()}"
            lines.append(Line(None, title, message.detail, "warn", "block"))
        case Message.Status.FAILED if not deliveries:
            lines.append(Line(None, "Failed", message.detail, "bad", "error"))
    return lines


def _until(message: Message) -> str:
    if message.due_at <= timezone.now():
        return "It goes out as soon as a worker comes to it."
    when = date_format(timezone.localtime(message.due_at), "j M Y, H:i")
    return f"It is tried again at {when}."

"""May this message be sent? Asked when it is really being sent. Pure.

The answers are in the order in which they are checked: what the marketer can least
change comes first, so that a message tells the reason that lasts.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from customers.models import Channel
from messaging.models import Message

ADDRESS = {
    Channel.EMAIL: "e-mail address",
    Channel.SMS: "phone number",
    Channel.PUSH: "device for push",
}


class Situation(msgspec.Struct, frozen=True):
    """What is known about a message and its customer just before it is sent.

    An answer is True or False, or None where the customer never gave one.
    """

    channel: str
    expires_at: datetime
    address: str
    address_is_valid: bool
    address_is_suppressed: bool = False
    channel_answer: bool | None = None
    channel_default: bool = False
    #: The mailing category of the content; empty for none.
    category: str = ""
    category_answer: bool | None = None
    category_default: bool = True
    #: A test send to an address that a colleague typed: nobody's consent is asked.
    is_own_address: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """Why a message is not sent: for the report, and in words."""

    reason: str
    detail: str


def refusal(situation: Situation, *, now: datetime) -> Refusal | None:
    """Why this message must not be sent; None if it may."""
    if now > situation.expires_at:
        return Refusal(
            Message.Reason.EXPIRED,
            "It could not be sent within the time to live of its channel.",
        )
    return _about_address(situation) or _about_consent(situation)


def _about_address(situation: Situation) -> Refusal | None:
    if not situation.address:
        what = ADDRESS[Channel(situation.channel)]
        return Refusal(Message.Reason.NO_ADDRESS, f"The customer has no {what}.")
    if not situation.address_is_valid:
        what = ADDRESS[Channel(situation.channel)]
        return Refusal(
            Message.Reason.INVALID_ADDRESS,
            f"{situation.address} is no valid {what}.",
        )
    if situation.address_is_suppressed:
        return Refusal(
            Message.Reason.SUPPRESSED_ADDRESS,
            f"{situation.address} is on the list of suppressed addresses.",
        )
    return None


def _about_consent(situation: Situation) -> Refusal | None:
    if situation.is_own_address:
        return None
    channel = Channel(situation.channel).word
    if situation.channel_answer is None and not situation.channel_default:
        return Refusal(
            Message.Reason.NO_CONSENT,
            f"The customer never said yes to {channel}.",
        )
    if situation.channel_answer is False:
        return Refusal(Message.Reason.NO_CONSENT, f"The customer said no to {channel}.")
    if situation.category:
        if situation.category_answer is None and not situation.category_default:
            return Refusal(
                Message.Reason.NO_CONSENT,
                f"The customer never said yes to “{situation.category}” by {channel}.",
            )
        if situation.category_answer is False:
            return Refusal(
                Message.Reason.NO_CONSENT,
                f"The customer said no to “{situation.category}” by {channel}.",
            )
    return None

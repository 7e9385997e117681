"""How a customer may be reached: on each channel yes, or no and why.

Asked of messaging.eligibility, as sending asks it, so that the two cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from customers.models import Channel, Consent, Customer, MailingCategory
from messaging import suppressions
from messaging.eligibility import ADDRESS, Refusal, Situation, refusal
from messaging.models import ChannelSettings, Message, Suppression
from smartcomm.site.timeline import CHANNEL_ICONS


@dataclass(frozen=True)
class Takes:
    """Whether a customer takes a mailing category, and whether they said so."""

    category: str
    yes: bool
    by_default: bool


@dataclass(frozen=True)
class Reach:
    """Whether a customer may be written to on a channel, and if not, why."""

    channel: Channel
    icon: str
    addresses: list[tuple[str, bool]]
    can: bool
    sentence: str
    answer: str
    answered_at: datetime | None
    origin: str
    categories: list[Takes]


#: (channel, category's id or None) → the customer's answer.
Answers = dict[tuple[str, int | None], Consent]


def reach(customer: Customer, *, now: datetime) -> list[Reach]:
    """How the customer may be reached on each channel, in words.

    Asks for `consents` and `devices` once if they have been prefetched.
    """
    answers = _answers(customer)
    defaults = dict(ChannelSettings.objects.values_list("channel", "default_consent"))
    categories = list(MailingCategory.objects.filter(is_active=True))
    known = _addresses(customer)
    used = {channel: _used(channel, known[channel]) for channel in Channel}
    suppressed = _suppressed({channel: used[channel][0] for channel in Channel})
    found = []
    for channel in Channel:
        consent = answers.get((channel, None))
        refused = _refused(
            channel,
            used[channel],
            consent,
            is_suppressed=channel in suppressed,
            default=defaults.get(channel, False),
            now=now,
        )
        found.append(
            Reach(
                channel=channel,
                icon=CHANNEL_ICONS[channel],
                addresses=[
                    (_shown(channel, address), is_valid)
                    for address, is_valid in known[channel]
                    if address
                ],
                can=refused is None,
                sentence=refused.detail if refused else "Can be reached.",
                answer=_in_words(consent),
                answered_at=consent.changed_at if consent else None,
                origin=consent.origin if consent else "",
                categories=[_takes(row, channel, answers) for row in categories],
            )
        )
    return found


def why(
    customer: Customer, channel: str, category: str, now: datetime
) -> tuple[str, str]:
    """Whether the customer can be reached so, and what would have to change, in words.

    `category` is a code, or empty. For explaining rules of segments.
    """
    way = Channel(channel)
    answers = _answers(customer)
    mailing = MailingCategory.objects.filter(code=category).first()
    takes = _takes(mailing, way, answers) if mailing else None
    settings = ChannelSettings.objects.filter(channel=way).first() or ChannelSettings()
    used = _used(way, _addresses(customer)[way])
    refused = _refused(
        way,
        used,
        answers.get((way, None)),
        takes,
        is_suppressed=bool(_suppressed({way: used[0]})),
        default=settings.default_consent,
        now=now,
    )
    if refused is None:
        return "Can be reached.", ""
    what = ADDRESS[way]
    return refused.detail, {
        Message.Reason.NO_ADDRESS: f"The customer needs a {what}.",
        Message.Reason.INVALID_ADDRESS: f"The {what} must be corrected.",
        Message.Reason.SUPPRESSED_ADDRESS: "The address must be taken off that list.",
    }.get(Message.Reason(refused.reason), "The customer must say yes.")


def _answers(customer: Customer) -> Answers:
    return {
        (consent.channel, consent.category_id): consent
        for consent in customer.consents.all()
    }


def _refused(
    channel: Channel,
    used: tuple[str, bool],
    consent: Consent | None,
    takes: Takes | None = None,
    *,
    is_suppressed: bool,
    default: bool,
    now: datetime,
) -> Refusal | None:
    """Why the customer cannot be reached so, as sending would say; None if they can."""
    address, is_valid = used
    return refusal(
        Situation(
            channel=channel,
            expires_at=now,
            address=address,
            address_is_valid=is_valid,
            address_is_suppressed=is_suppressed,
            channel_answer=consent.is_granted if consent else None,
            channel_default=default,
            category=takes.category if takes else "",
            category_answer=None if takes is None or takes.by_default else takes.yes,
            category_default=takes is None or not takes.by_default or takes.yes,
        ),
        now=now,
    )


def _addresses(customer: Customer) -> dict[Channel, list[tuple[str, bool]]]:
    """All addresses of the customer, and whether they are valid."""
    devices = sorted(customer.devices.all(), key=lambda d: (d.updated_at, d.pk))
    return {
        Channel.EMAIL: [(customer.email, customer.email_is_valid)],
        Channel.SMS: [(customer.phone, customer.phone_is_valid)],
        Channel.PUSH: [(device.token, device.is_valid) for device in devices],
    }


def _used(channel: Channel, addresses: list[tuple[str, bool]]) -> tuple[str, bool]:
    """The address that a message would go to; of devices the last one that works."""
    if channel != Channel.PUSH:
        return addresses[0]
    working = [token for token, is_valid in addresses if is_valid]
    return (working[-1], True) if working else ("", False)


def _suppressed(addresses: dict[Channel, str]) -> set[str]:
    """The channels whose address is suppressed."""
    keys = {
        (channel.value, suppressions.key(channel, address))
        for channel, address in addresses.items()
        if address
    }
    rows = Suppression.objects.filter(address__in=[address for _, address in keys])
    found = set(rows.values_list("channel", "address"))
    return {channel for channel, _ in found & keys}


def _in_words(consent: Consent | None) -> str:
    if consent is None:
        return "never answered"
    return "yes" if consent.is_granted else "no"


def _takes(category: MailingCategory, channel: Channel, answers: Answers) -> Takes:
    answer = answers.get((channel, category.pk))
    if answer is not None:
        return Takes(category.name, answer.is_granted, by_default=False)
    yes = bool(getattr(category, f"default_{channel.value}"))
    return Takes(category.name, yes, by_default=True)


def _shown(channel: Channel, address: str) -> str:
    if channel == Channel.PUSH and len(address) > 18:
        return f"{address[:16]}…"
    return address

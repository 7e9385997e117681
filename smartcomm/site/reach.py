"""How a customer may be reached: on each channel yes, or no and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from customers.models import Channel, Consent, Customer, MailingCategory
from messaging.models import ChannelSettings, Suppression
from smartcomm.site.timeline import CHANNEL_ICONS


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
    categories: list[tuple[str, bool, bool]]


def reach(customer: Customer) -> list[Reach]:
    """How the customer may be reached on each channel, in words."""
    answers: dict[tuple[str, int | None], Consent] = {
        (consent.channel, consent.category_id): consent
        for consent in customer.consents.all()
    }
    defaults = dict(ChannelSettings.objects.values_list("channel", "default_consent"))
    categories = list(MailingCategory.objects.filter(is_active=True))
    suppressed = _suppressed(customer)
    return [
        _reach_on(channel, customer, answers, defaults, categories, suppressed)
        for channel in Channel
    ]


def _suppressed(customer: Customer) -> set[tuple[str, str]]:
    addresses = [customer.email, customer.email.lower(), customer.phone]
    addresses += [device.token for device in customer.devices.all()]
    found = Suppression.objects.filter(address__in=[a for a in addresses if a])
    return {(channel, a) for channel, a in found.values_list("channel", "address")}


def _reach_on(
    channel: Channel,
    customer: Customer,
    answers: dict[tuple[str, int | None], Consent],
    defaults: dict[str, bool],
    categories: list[MailingCategory],
    suppressed: set[tuple[str, str]],
) -> Reach:
    consent = answers.get((channel, None))
    granted = consent.is_granted if consent else defaults.get(channel, False)
    match channel:
        case Channel.EMAIL:
            what = "e-mail address"
            addresses = [(customer.email, customer.email_is_valid)]
        case Channel.SMS:
            what = "phone number"
            addresses = [(customer.phone, customer.phone_is_valid)]
        case Channel.PUSH:
            what = "device"
            addresses = [(d.token, d.is_valid) for d in customer.devices.all()]
    addresses = [(address, valid) for address, valid in addresses if address]
    usable = [address for address, valid in addresses if valid]
    # An address is suppressed as it is written to, whatever its case.
    free = [
        address
        for address in usable
        if (channel, address) not in suppressed
        and (channel, address.lower()) not in suppressed
    ]
    if not granted:
        because = (
            "they said no" if consent else "they never answered, which counts as no"
        )
    elif not addresses:
        because = f"there is no {what}"
    elif not usable:
        because = f"the {what} is not valid"
    elif not free:
        because = f"the {what} is suppressed"
    else:
        because = ""
    return Reach(
        channel=channel,
        icon=CHANNEL_ICONS[channel],
        addresses=[(_shown(channel, address), valid) for address, valid in addresses],
        can=not because,
        sentence="Can be reached." if not because else f"Cannot: {because}.",
        answer="never answered" if consent is None else ("yes" if granted else "no"),
        answered_at=consent.changed_at if consent else None,
        origin=consent.origin if consent else "",
        categories=[
            (
                category.name,
                _takes(category, channel, answers),
                (channel, category.pk) in answers,
            )
            for category in categories
        ],
    )


def _takes(
    category: MailingCategory,
    channel: Channel,
    answers: dict[tuple[str, int | None], Consent],
) -> bool:
    answer = answers.get((channel, category.pk))
    if answer is not None:
        return answer.is_granted
    return bool(getattr(category, f"default_{channel.value}"))


def _shown(channel: Channel, address: str) -> str:
    if channel == Channel.PUSH and len(address) > 18:
        return f"{address[:16]}…"
    return address

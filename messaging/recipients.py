"""What sending a batch of messages must know, in a fixed number of queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from django.db.models import BooleanField
from django.db.models.expressions import RawSQL

from customers.models import Channel, Consent, Customer, Device
from events.models import Event, SystemEvent
from messaging import answers
from messaging.eligibility import Situation
from messaging.models import ChannelSettings, Content
from messaging.render import FIELDS
from smartcomm.core.db import fetch_all


class Claimed(msgspec.Struct, frozen=True):
    """A message that this worker has leased."""

    id: int
    customer_id: int
    channel: str
    content_id: int
    event_id: int | None
    system_event_id: int | None
    run_id: int | None
    is_test: bool
    #: Set beforehand only for a test send to an address that a colleague typed.
    address: str
    attempts: int
    expires_at: datetime


class Happening(msgspec.Struct, frozen=True):
    """What a text may say about the event behind a message."""

    name: str | None = None
    occurred_at: datetime | None = None
    context: dict[str, Any] = msgspec.field(default_factory=dict)


NOTHING = Happening()


class Recipients:
    """The customers of a batch, how they may be reached, and what happened to them.

    At most ten queries, whatever the size of the batch.
    """

    def __init__(self, batch: list[Claimed]) -> None:
        customer_ids = {row.customer_id for row in batch}
        channels = {row.channel for row in batch}
        self.customers = {
            customer.pk: customer
            for customer in Customer.objects.filter(
                _is_one_of("customers_customer.id", customer_ids)
                # No text speaks of these, and reading a time is dear.
            ).defer("created_at", "updated_at")
        }
        self.contents = Content.objects.select_related("category").in_bulk(
            {row.content_id for row in batch}
        )
        self.settings = {row.channel: row for row in ChannelSettings.objects.all()}
        self.answers: dict[tuple[int, str, int | None], bool] = {
            (customer_id, channel, category_id): is_granted
            for customer_id, channel, category_id, is_granted in Consent.objects.filter(
                _is_one_of("customers_consent.customer_id", customer_ids),
                channel__in=channels,
            ).values_list("customer_id", "channel", "category_id", "is_granted")
        }
        self.tokens = self._tokens(
            {row.customer_id for row in batch if row.channel == Channel.PUSH}
        )
        self.events = _happenings(Event, {row.event_id for row in batch})
        self.system_events = _happenings(
            SystemEvent, {row.system_event_id for row in batch}
        )
        self.heard = answers.of_runs(
            {
                row.run_id: row.customer_id
                for row in batch
                if row.run_id is not None and self._wants_answers(row.content_id)
            }
        )
        self.addresses = {row.id: self._address(row) for row in batch}
        self.suppressed = _suppressed(
            _key(row.channel, self.addresses[row.id][0]) for row in batch
        )

    def situation(self, row: Claimed) -> Situation:
        """What decides whether this message may be sent."""
        address, is_valid = self.addresses[row.id]
        content = self.contents[row.content_id]
        category = content.category
        decided = self.settings.get(row.channel)
        return Situation(
            channel=row.channel,
            expires_at=row.expires_at,
            address=address,
            address_is_valid=is_valid,
            address_is_suppressed=_key(row.channel, address) in self.suppressed,
            channel_answer=self.answers.get((row.customer_id, row.channel, None)),
            channel_default=decided.default_consent if decided else False,
            category=category.name if category else "",
            category_answer=(
                self.answers.get((row.customer_id, row.channel, category.pk))
                if category
                else None
            ),
            category_default=(
                getattr(category, f"default_{row.channel}") if category else True
            ),
            is_own_address=row.is_test and bool(row.address),
        )

    def happening(self, row: Claimed) -> Happening:
        if row.event_id is not None:
            return self.events.get(row.event_id, NOTHING)
        if row.system_event_id is not None:
            return self.system_events.get(row.system_event_id, NOTHING)
        return NOTHING

    def answers_for(self, row: Claimed) -> Mapping[str, Any]:
        """What systems outside have answered in the run that asked."""
        return self.heard.get(row.run_id or 0, {})

    def _wants_answers(self, content_id: int) -> bool:
        content = self.contents[content_id]
        return any(
            answers.speaks_of_them(getattr(content, name))
            for name in FIELDS[content.channel]
        )

    def _address(self, row: Claimed) -> tuple[str, bool]:
        customer = self.customers.get(row.customer_id)
        if row.address:
            return row.address, True
        if customer is None:
            return "", False
        if row.channel == Channel.EMAIL:
            return customer.email, customer.email_is_valid
        if row.channel == Channel.SMS:
            return customer.phone, customer.phone_is_valid
        return self.tokens.get(row.customer_id, ""), True

    def _tokens(self, customer_ids: set[int]) -> dict[int, str]:
        """The device that was heard of last, of each customer."""
        if not customer_ids:
            return {}
        rows = Device.objects.filter(customer_id__in=customer_ids, is_valid=True)
        # The last one wins.
        return dict(
            rows.order_by("updated_at", "pk").values_list("customer_id", "token")
        )


def _happenings(
    model: type[Event] | type[SystemEvent], ids: set[int | None]
) -> dict[int, Happening]:
    wanted = [pk for pk in ids if pk is not None]
    if not wanted:
        return {}
    column = f"{model._meta.db_table}.id"
    rows = model._default_manager.filter(_is_one_of(column, wanted))
    return {
        pk: Happening(name, occurred_at, context)
        for pk, name, occurred_at, context in rows.values_list(
            "pk", "type__name", "occurred_at", "context"
        )
    }


def _is_one_of(column: str, ids: Iterable[int]) -> RawSQL:
    """`IN`, as one parameter: five hundred of them cost as much as the query itself."""
    return RawSQL(f"{column} = ANY(%s)", [list(ids)], BooleanField())  # noqa: S611


# The index is on the hash, since a push token may be longer than an index takes.
SUPPRESSED = """
    SELECT DISTINCT held.channel, held.address
      FROM unnest(%s::text[], %s::text[]) AS asked (channel, address)
      JOIN messaging_suppression AS held
        ON held.channel = asked.channel
       AND md5(held.address) = md5(asked.address)
       AND held.address = asked.address
"""


def _key(channel: str, address: str) -> tuple[str, str]:
    # What customers and devices carry is normalised already; see suppressions.key.
    return channel, address.lower() if channel == Channel.EMAIL else address


def _suppressed(asked: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    pairs = [(channel, address) for channel, address in asked if address]
    if not pairs:
        return set()
    channels, addresses = zip(*pairs, strict=True)
    return {
        (channel, address)
        for channel, address in fetch_all(SUPPRESSED, [list(channels), list(addresses)])
    }

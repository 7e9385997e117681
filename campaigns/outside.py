"""What rules of segments may ask about messages and campaigns: see segments.outside."""

from __future__ import annotations

from collections.abc import Collection

from campaigns.models import Campaign
from customers.models import Channel
from messaging.models import ChannelSettings, Message, Suppression
from segments.outside import Outside


def outside() -> Outside:
    return Outside(
        messages=Message._meta.db_table,
        message_counts="NOT is_test",
        moments={
            "sent": "sent_at",
            "delivered": "delivered_at",
            "opened": "opened_at",
            "clicked": "clicked_at",
        },
        suppressions=Suppression._meta.db_table,
        defaults=_defaults,
        campaigns=_campaigns,
    )


def _defaults() -> dict[str, bool]:
    decided = dict(ChannelSettings.objects.values_list("channel", "default_consent"))
    unset = ChannelSettings().default_consent
    return {channel: decided.get(channel, unset) for channel in Channel.values}


def _campaigns(ids: Collection[int] | None) -> dict[int, str]:
    rows = (
        Campaign.objects.all() if ids is None else Campaign.objects.filter(pk__in=ids)
    )
    return dict(rows.values_list("pk", "name"))

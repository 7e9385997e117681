"""What the pages of messages call the campaigns that asked for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from django.urls import reverse

from campaigns.models import Campaign
from messaging.askers import Asker


class Campaigns:
    """See `messaging.askers.Askers`."""

    def named(self, ids: Iterable[int]) -> Mapping[int, Asker]:
        return {
            campaign.pk: _asker(campaign)
            for campaign in Campaign.objects.filter(pk__in=list(ids)).only("name")
        }

    def recent(self, limit: int) -> Mapping[int, Asker]:
        at_work = Campaign.objects.exclude(status=Campaign.Status.DRAFT)
        return {
            campaign.pk: _asker(campaign)
            for campaign in at_work.only("name").order_by("-updated_at")[:limit]
        }


def _asker(campaign: Campaign) -> Asker:
    page = reverse("admin:campaigns_campaign_change", args=[campaign.pk])
    return Asker(name=campaign.name, url=page)

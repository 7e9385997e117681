"""What explaining a rule says of messages: segments know nothing of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from campaigns.models import Campaign
from messaging.models import Message
from segments.evidence import MessageShown

LONGEST = 80


def messages(ids: Collection[int]) -> Mapping[int, MessageShown]:
    """The messages with these ids, for the eye. Two queries."""
    rows = Message.objects.filter(pk__in=ids).select_related("content")
    found = list(rows.defer("html", "content__html"))
    names = dict(
        Campaign.objects.filter(
            pk__in={row.campaign_id for row in found if row.campaign_id is not None}
        ).values_list("pk", "name")
    )
    return {
        row.pk: MessageShown(
            title=row.subject or row.body[:LONGEST] or str(row.content),
            campaign=names.get(row.campaign_id or 0, ""),
            moments={
                stage: moment
                for stage, moment in (
                    ("sent", row.sent_at),
                    ("delivered", row.delivered_at),
                    ("opened", row.opened_at),
                    ("clicked", row.clicked_at),
                )
                if moment is not None
            },
        )
        for row in found
    }

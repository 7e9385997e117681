"""Why a customer got something from a campaign, or nothing, through the API."""

from __future__ import annotations

import msgspec
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from campaigns.api import find_campaign
from campaigns.why import Why, why
from customers.api import find_customer
from events.models import Scope
from smartcomm.core.api import (
    ApiView,
    BadParameter,
    next_page,
    read_text,
)
from smartcomm.core.errors import Invalid
from smartcomm.core.openapi import TEXT, operation

WHY = {
    "customer": "C-1001",
    "campaign": 3,
    "name": "Back in stock",
    "status": "published",
    "asked_at": "2026-11-20T07:15:00Z",
    "notes": [],
    "answer": {
        "event": {
            "id": "stock-77",
            "name": "Product in stock",
            "kind": "system",
            "occurred_at": "2026-11-20T07:00:00Z",
            "received_at": "2026-11-20T07:00:01Z",
            "source": "Shop",
            "context": {"product_id": 77, "name": "Bag"},
            "backfill": False,
        },
        "outcome": "not_started",
        "sentence": "Not started. The filter it begins with did not match them when it "
        "came to them.",
        "version": 1,
        "conditions": [],
        "reasons": [
            {
                "because": "filter_negative",
                "sentence": "The filter it begins with did not match them when it came "
                "to them.",
                "stored": True,
                "tree": {
                    "kind": "event",
                    "at": "",
                    "words": "“Product viewed” with product_id is the event's "
                    "product_id in the last 90 days at least once",
                    "holds": False,
                    "wanted": True,
                    "blocks": True,
                    "fact": "Never; 1 of that name, the last 2 days ago",
                    "change": "1 such event must come.",
                    "problem": "",
                    "value": None,
                    "count": 0,
                    "first": None,
                    "last": None,
                    "events": [],
                    "more": 0,
                    "left_out": [],
                    "left_out_count": 0,
                    "fields": ["product_id"],
                    "since": None,
                    "segment": None,
                    "member_since": None,
                    "parts": [],
                },
            }
        ],
        "run": None,
    },
    "others": [
        {
            "event": "stock-12",
            "name": "Product in stock",
            "at": "2026-11-12T07:00:00Z",
            "outcome": "started",
            "sentence": "Started and finished 12 Nov 2026, 10:00, at “Send e-mail”.",
            "run": 551,
        }
    ],
    "next": None,
}


class CampaignWhy(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = frozenset({"customer", "event", "cursor"})

    @operation(
        name="readCampaignWhy",
        tag="Campaigns",
        summary="Ask why a customer got something from a campaign, or nothing",
        description="The answer about one event: the run that it started, step by step "
        "with times, ways, reasons and messages, and what it waits for; or why it "
        "started none. Without `event` it is about the newest event that the campaign "
        "waits for, with a line for each of the others. What was written down is told "
        "as it is; what is not stored is recomputed of the version that was at work "
        "when the event came, and marked so, since the data may have changed.",
        parameters=[
            OpenApiParameter(
                "customer",
                {"type": "string", "minLength": 1},
                description="The external id of the customer, now or formerly.",
                required=True,
            ),
            OpenApiParameter(
                "event",
                TEXT,
                description="The id of a customer's event, or of a system event.",
            ),
            OpenApiParameter(
                "cursor",
                {
                    "type": "string",
                    "pattern": r"^(-?[0-9]{1,16}\.[123]\.[0-9]{1,18})?$",
                },
                description="Where to go on; taken from `next` of the page before.",
            ),
        ],
        answers={200: Why},
        example=WHY,
        problems=(400, 404, 422),
    )
    def get(self, request: Request, pk: int) -> Response:
        asked = read_text(request, "customer")
        if not asked:
            raise BadParameter("Name the customer: ?customer=C-1001.", field="customer")
        campaign = find_campaign(pk)
        try:
            told = why(
                find_customer(asked),
                campaign,
                event=read_text(request, "event"),
                before=read_text(request, "cursor"),
                asked_for=asked,
                now=timezone.now(),
            )
        except Invalid as error:
            raise BadParameter(error.message, field=error.field) from error
        following = next_page(request, told.next or "")
        return Response(msgspec.structs.replace(told, next=following))

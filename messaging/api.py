"""Messages as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import django_filters
import msgspec
from django import forms
from django.db.models import QuerySet
from django_filters.utils import translate_validation
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from customers.api import find_customer
from customers.merging import current_ids
from customers.models import Channel
from events.models import Scope
from messaging.models import Message
from smartcomm.core.api import LIST_PARAMETERS, ApiView, BadParameter, page
from smartcomm.core.errors import NotFound
from smartcomm.core.openapi import LIST, TEXT, operation

Meta = msgspec.Meta


class MessageOut(msgspec.Struct):
    """One text for one customer on one channel, and what became of it."""

    id: int
    customer: Annotated[str, Meta(description="The external id.")]
    channel: Annotated[str, Meta(extra_json_schema={"enum": Channel.values})]
    status: Annotated[str, Meta(extra_json_schema={"enum": Message.Status.values})]
    reason: Annotated[
        str | None,
        Meta(
            description="Why it was suppressed: "
            + ", ".join(Message.Reason.values)
            + "."
        ),
    ]
    detail: Annotated[
        str | None, Meta(description="The reason, or the provider's error, in words.")
    ]
    subject: Annotated[
        str | None,
        Meta(description="Subject of an e-mail, or title of a push message."),
    ]
    body: str | None
    html: str | None
    campaign: int | None
    step: Annotated[str | None, Meta(description="The key of the step that asked.")]
    created_at: datetime
    sent_at: datetime | None


class MessagesPage(msgspec.Struct):
    results: list[MessageOut]
    next: str | None


class WholeNumberFilter(django_filters.NumberFilter):
    field_class = forms.IntegerField


class MessageFilter(django_filters.FilterSet):
    """What a list of messages can be narrowed to."""

    customer = django_filters.CharFilter(method="of_customer")
    campaign = WholeNumberFilter(
        field_name="campaign_id",
        min_value=0,
        max_value=2**63 - 1,
    )
    channel = django_filters.ChoiceFilter(choices=Channel.choices)
    status = django_filters.MultipleChoiceFilter(choices=Message.Status.choices)

    class Meta:
        model = Message
        fields = ["customer", "campaign", "channel", "status"]

    def of_customer(
        self, rows: QuerySet[Message], name: str, external_id: str
    ) -> QuerySet[Message]:
        """Those of a customer, by the ID they have or had."""
        led_to = current_ids([external_id])
        _, external_id = led_to.get(external_id, (0, external_id))
        return rows.filter(customer__external_id=external_id)


MESSAGE = {
    "id": 1,
    "customer": "C-1001",
    "channel": "email",
    "status": "sent",
    "reason": None,
    "detail": None,
    "subject": "Bag is back",
    "body": "Dear Anna, Bag costs 49.90.",
    "html": "<p>Bag is back.</p>",
    "campaign": 3,
    "step": "mail",
    "created_at": "2026-11-20T07:15:02Z",
    "sent_at": "2026-11-20T07:15:03Z",
}


def messages() -> QuerySet[Message]:
    """Messages with all that their shape needs."""
    # What staff sent to themselves to try a text is no message of the customer's.
    return Message.objects.filter(is_test=False).select_related("customer")


FILTERS = [
    OpenApiParameter(
        "customer",
        TEXT | {"minLength": 1},
        description="Only those to the customer with this external id.",
    ),
    OpenApiParameter(
        "campaign",
        {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
        description="Only those of this campaign.",
    ),
    OpenApiParameter("channel", enum=Channel.values, description="Only this channel."),
    OpenApiParameter(
        "status",
        enum=Message.Status.values,
        many=True,
        description="Only these statuses; several are told by repeating it.",
    ),
]


class Messages(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = LIST_PARAMETERS | MessageFilter.base_filters.keys()

    @operation(
        name="listMessages",
        tag="Messages",
        summary="List messages",
        description="Newest first, with status and reason, narrowed to a customer, a "
        "campaign, a channel or some statuses.",
        parameters=[*LIST, *FILTERS],
        answers={200: MessagesPage},
        example={"results": [MESSAGE], "next": None},
        problems=(400,),
    )
    def get(self, request: Request) -> Response:
        for name in MessageFilter.base_filters:
            if "" in request.query_params.getlist(name):
                # Left out, it would be all messages that are answered.
                raise BadParameter(
                    f"“{name}” is empty. Say what to look for, or leave it out.",
                    field=name,
                )
        narrowed = MessageFilter(request.query_params, messages())
        if not narrowed.is_valid():
            raise translate_validation(narrowed.errors)
        found = narrowed.qs
        return Response(page(request, found, message_out, newest_first=True))


class CustomerMessages(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = LIST_PARAMETERS

    @operation(
        name="listCustomerMessages",
        tag="Customers",
        summary="List a customer's messages",
        description="All messages to one customer, newest first.",
        parameters=LIST,
        answers={200: MessagesPage},
        example={"results": [MESSAGE], "next": None},
        problems=(400, 404),
    )
    def get(self, request: Request, external_id: str) -> Response:
        found = messages().filter(customer=find_customer(external_id))
        return Response(page(request, found, message_out, newest_first=True))


class OneMessage(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        name="readMessage",
        tag="Messages",
        summary="Read a message",
        description="One message with its text as it was rendered, its status and why.",
        answers={200: MessageOut},
        example=MESSAGE,
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        message = messages().filter(pk=pk).first()
        if message is None:
            raise NotFound(f"There is no message {pk}.")
        return Response(message_out(message))


def message_out(message: Message) -> MessageOut:
    return MessageOut(
        id=message.pk,
        customer=message.customer.external_id,
        channel=message.channel,
        status=message.status,
        reason=message.reason or None,
        detail=message.detail or None,
        subject=message.subject or None,
        body=message.body or None,
        html=message.html or None,
        campaign=message.campaign_id,
        step=message.step or None,
        created_at=message.created_at,
        sent_at=message.sent_at,
    )

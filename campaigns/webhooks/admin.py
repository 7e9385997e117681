"""Calls to systems outside, in the back office: what became of each, and by hand."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST
from unfold.decorators import action, display

from campaigns.models import WebhookCall
from campaigns.webhooks import queue, signing
from smartcomm.core.admin import JournalAdmin, SinceFilter
from smartcomm.core.clock import database_now
from smartcomm.core.look import badge, link, quiet, to_the_minute

Status = WebhookCall.Status
TONES = {
    Status.QUEUED: "info",
    Status.SENDING: "info",
    Status.DONE: "good",
    Status.FAILED: "bad",
    Status.CANCELLED: "plain",
}
EXAMPLE = Path(__file__).with_name("verify_example.py")


class WrittenFilter(SinceFilter):
    title = "written"
    time = "created_at"


@admin.register(WebhookCall)
class WebhookCallAdmin(JournalAdmin):
    list_display: ClassVar = [
        "written",
        "whose",
        "which",
        "receiver",
        "state",
        "attempts",
        "why",
    ]
    list_display_links: ClassVar = ["written"]
    list_select_related: ClassVar = ["customer", "campaign", "step"]
    list_filter: ClassVar = ["status", "campaign", WrittenFilter]
    search_fields: ClassVar = ["customer__external_id"]
    search_help_text = "The ID of a customer, or of a call, whole"
    actions: ClassVar = ["retry", "cancel"]
    actions_on_top = True
    actions_list: ClassVar = ["for_receivers"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[WebhookCall]:
        calls: QuerySet[WebhookCall] = super().get_queryset(request)
        return calls.defer("body", "answer", "tries")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            return queryset.filter(webhook_id=UUID(term)), False
        except ValueError:
            return queryset.filter(customer__external_id=term), False

    # --- columns

    @display(description="Written")
    def written(self, call: WebhookCall) -> SafeString:
        return to_the_minute(call.created_at)

    @display(description="Customer")
    def whose(self, call: WebhookCall) -> SafeString:
        url = reverse("admin:customers_customer_change", args=[call.customer_id])
        return link(url, call.customer)

    @display(description="Campaign and step")
    def which(self, call: WebhookCall) -> SafeString:
        url = reverse("admin:campaigns_campaign_change", args=[call.campaign_id])
        return link(url, f"{call.campaign}: {call.step.key}")

    @display(description="Status")
    def state(self, call: WebhookCall) -> SafeString:
        return badge(call.get_status_display(), TONES[Status(call.status)])

    @display(description="Why")
    def why(self, call: WebhookCall) -> SafeString | str:
        said = call.reason
        return (said if len(said) <= 90 else said[:89] + "…") if said else quiet("–")

    # --- by hand

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("campaigns.change_webhookcall")

    has_cancel_permission = has_retry_permission

    @admin.action(description="Try again now", permissions=["retry"])
    def retry(self, request: HttpRequest, queryset: QuerySet[WebhookCall]) -> None:
        self._retry(request, list(queryset.values_list("pk", flat=True)))

    @admin.action(description="Cancel", permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[WebhookCall]) -> None:
        self._cancel(request, list(queryset.values_list("pk", flat=True)))

    def _retry(self, request: HttpRequest, ids: list[int]) -> None:
        done = queue.retry_calls(ids, now=database_now())
        self._tell(
            request,
            ids,
            done,
            f"{done} will be tried now.",
            "those that are done, or being made",
            "Tried again by hand.",
        )

    def _cancel(self, request: HttpRequest, ids: list[int]) -> None:
        reason = f"Cancelled by {request.user}."
        done = queue.cancel_calls(ids, reason=reason, now=database_now())
        self._tell(
            request,
            ids,
            done,
            f"{done} cancelled. Their runs go on by “Failed”.",
            "only calls that wait can be cancelled",
            "Cancelled by hand.",
        )

    def _tell(
        self,
        request: HttpRequest,
        ids: list[int],
        done: int,
        said: str,
        others: str,
        noted: str,
    ) -> None:
        if done:
            for call in WebhookCall.objects.filter(pk__in=ids).only("pk"):
                self.log_change(request, call, noted)
            self.message_user(request, said, messages.SUCCESS)
        if done < len(ids):
            self.message_user(
                request,
                f"{len(ids) - done} left alone: {others}.",
                messages.WARNING,
            )

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path(
                "receivers/",
                wrap(self.receivers_view),
                name="campaigns_webhookcall_receivers",
            ),
            path(
                "<int:pk>/<slug:deed>-by-hand/",
                wrap(require_POST(self.deed_view)),
                name="campaigns_webhookcall_deed",
            ),
            *super().get_urls(),
        ]

    def deed_view(self, request: HttpRequest, pk: int, deed: str) -> HttpResponse:
        if not self.has_retry_permission(request):
            raise PermissionDenied
        if deed == "retry":
            self._retry(request, [pk])
        elif deed == "cancel":
            self._cancel(request, [pk])
        page = reverse("admin:campaigns_webhookcall_change", args=[pk])
        return HttpResponseRedirect(page)

    # --- pages

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """One call: what it says, how often it was tried, what was answered."""
        call = self.get_object(request, object_id)
        if call is None:
            gone: HttpResponse = self._get_obj_does_not_exist_redirect(
                request, self.opts, object_id
            )
            return gone
        if not self.has_view_permission(request, call):
            raise PermissionDenied
        is_waiting = call.status == Status.QUEUED
        return TemplateResponse(
            request,
            "campaigns/webhook.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "original": call,
                "title": "",
                "call": call,
                "tone": TONES[Status(call.status)],
                "body": json.loads(call.body),
                "tries": [
                    {**one, "at": datetime.fromisoformat(one["at"])}
                    for one in call.tries
                ],
                # Of a sender that died nobody knows more than that it had begun.
                "unknown": max(call.attempts - len(call.tries), 0)
                if call.status != Status.SENDING
                else 0,
                "may_act": self.has_retry_permission(request),
                "can_retry": call.status
                in (Status.QUEUED, Status.FAILED, Status.CANCELLED),
                "can_cancel": is_waiting,
                **(extra_context or {}),
            },
        )

    @action(description="For receivers", url_path="for-receivers", icon="verified_user")
    def for_receivers(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:campaigns_webhookcall_receivers"))

    def receivers_view(self, request: HttpRequest) -> HttpResponse:
        """How a receiver knows that it was us; and the secret, for whom it is meant."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        may_see = request.user.has_perm("campaigns.see_webhook_secret")
        shown: list[str] = []
        if request.method == "POST":
            if not may_see:
                raise PermissionDenied
            shown = signing.secrets()
        return TemplateResponse(
            request,
            "campaigns/receivers.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": "For receivers of webhook calls",
                "may_see": may_see,
                "secrets": shown,
                "example": EXAMPLE.read_text(),
            },
        )

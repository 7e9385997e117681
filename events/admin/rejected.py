"""What was refused: read why, mend the cause, replay."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import action, display

from events import rejects
from events.models import (
    RejectedEvent,
)
from smartcomm.core.admin import (
    JournalAdmin,
)
from smartcomm.core.errors import UserError
from smartcomm.core.look import (
    badge,
    quiet,
    to_the_minute,
)


class CodeFilter(admin.SimpleListFilter):
    """Rejected events by their reason, with how many are open."""

    title = "reason"
    parameter_name = "code"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        counted = (
            RejectedEvent.objects.order_by()
            .values("code")
            .annotate(left=Count("pk", filter=Q(status=RejectedEvent.Status.OPEN)))
        )
        return [
            (row["code"], f"{in_words(row['code'])} ({row['left']:,} open)")
            for row in sorted(counted, key=lambda row: -row["left"])
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(code=self.value()) if self.value() else queryset


def in_words(code: str) -> str:
    """A code of a refusal as staff read it: field_code_invalid → Field code invalid."""
    return code.replace("_", " ").capitalize()


@admin.register(RejectedEvent)
class RejectedEventAdmin(JournalAdmin):
    list_display: ClassVar = [
        "reason",
        "message_",
        "name_",
        "source",
        "received",
        "state",
    ]
    list_display_links: ClassVar = ["reason"]
    list_select_related: ClassVar = ["source"]
    list_filter: ClassVar = ["status", CodeFilter, "source", "kind"]
    readonly_fields: ClassVar = ["reason", "payload_", "state", "received", "place"]
    fields: ClassVar = [
        ("reason", "state"),
        "message",
        "place",
        "payload_",
        ("source", "kind"),
        "received",
    ]
    actions: ClassVar = ["replay"]
    actions_detail: ClassVar = ["replay_one"]
    actions_on_top = True

    @display(description="Reason")
    def reason(self, row: RejectedEvent) -> str:
        return format_html('<span class="sc-nowrap">{}</span>', in_words(row.code))

    @display(description="In words")
    def message_(self, row: RejectedEvent) -> str:
        text = row.message if len(row.message) <= 110 else row.message[:109] + "…"
        return format_html('<span class="sc-wrap">{}</span>', text)

    @display(description="Event")
    def name_(self, row: RejectedEvent) -> str:
        data = _payload(row)
        name = data.get("name") if isinstance(data, dict) else None
        if isinstance(name, str) and name:
            return format_html('<span class="sc-nowrap">{}</span>', name[:40])
        return quiet("no name")

    @display(description="Received")
    def received(self, row: RejectedEvent) -> SafeString:
        return to_the_minute(row.received_at)

    @display(description="Place in what was sent")
    def place(self, row: RejectedEvent) -> str:
        return format_html("<code>{}</code>", row.field) if row.field else "–"

    @display(description="State")
    def state(self, row: RejectedEvent) -> SafeString:
        if row.status == RejectedEvent.Status.OPEN:
            return badge("open", "warn")
        when = timezone.localtime(row.replayed_at) if row.replayed_at else None
        return badge(f"replayed {when:%d %b}" if when else "replayed", "good")

    @display(description="What was sent")
    def payload_(self, row: RejectedEvent) -> SafeString:
        data = _payload(row)
        text = (
            row.payload
            if data is None
            else json.dumps(data, indent=2, ensure_ascii=False)
        )
        return format_html('<pre class="sc-code">{}</pre>', text)

    def has_replay_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("events.change_rejectedevent")

    @admin.action(description="Replay the chosen events", permissions=["replay"])
    def replay(self, request: HttpRequest, queryset: QuerySet[RejectedEvent]) -> None:
        self._replay(request, queryset)

    @action(
        description="Replay",
        icon="replay",
        url_path="replay",
        permissions=["replay"],
    )
    def replay_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = get_object_or_404(RejectedEvent, pk=object_id)
        page = reverse("admin:events_rejectedevent_change", args=[row.pk])
        if request.method != "POST":
            return TemplateResponse(
                request,
                "events/confirm_replay.html",
                {
                    **self.admin_site.each_context(request),
                    "title": "Replay this event?",
                    "opts": self.opts,
                    "row": row,
                    "page": page,
                },
            )
        self._replay(request, RejectedEvent.objects.filter(pk=row.pk))
        return HttpResponseRedirect(page)

    def _replay(self, request: HttpRequest, rows: QuerySet[RejectedEvent]) -> None:
        try:
            done = rejects.replay(rows)
        except UserError as error:
            self.message_user(request, error.message, messages.ERROR)
            return
        stored = done.accepted + done.duplicates
        told = [f"{done.accepted:,} recorded" if done.accepted else ""]
        told += [f"{done.duplicates:,} were recorded before" if done.duplicates else ""]
        told += [f"{done.rejected:,} still refused" if done.rejected else ""]
        sentence = ", ".join(part for part in told if part)
        self.message_user(
            request,
            f"{sentence}." if sentence else "There was nothing open to replay.",
            messages.SUCCESS if stored and not done.rejected else messages.WARNING,
        )


def _payload(row: RejectedEvent) -> Any:
    """What was sent, decoded; None if it is not even JSON."""
    try:
        return json.loads(row.payload)
    except ValueError:
        return None

"""The journal of what was refused, one by one: read why, mend the cause, replay.

By their reason, with what can be done about all that have it, they are shown in
events.admin.reasons.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import action, display

from events import rejects, replays
from events.admin.reasons import (
    REPLAY,
    ReasonPages,
    ReplayForm,
    events,
    example_of,
    outcome,
)
from events.models import Event, Kind, RejectedEvent, SystemEvent
from events.rejects import Which
from events.remedies import in_words
from smartcomm.core.look import badge, link, quiet, to_the_minute

Status = RejectedEvent.Status


class CodeFilter(admin.SimpleListFilter):
    """Rejected events by their reason, with how many are open."""

    title = "reason"
    parameter_name = "code"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        counted = (
            RejectedEvent.objects.order_by()
            .values("code")
            .annotate(left=Count("pk", filter=Q(status=Status.OPEN)))
        )
        return [
            (row["code"], f"{in_words(row['code'])} ({row['left']:,} open)")
            for row in sorted(counted, key=lambda row: -row["left"])
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(code=self.value()) if self.value() else queryset


class _AskedFilter(admin.SimpleListFilter):
    """What a link from a group narrows the journal to. Offers nothing else."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        value = request.GET.get(self.parameter_name or "")
        return [] if value is None else [(value, value or "none")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() is None:
            return queryset
        return queryset.filter(**{str(self.parameter_name): self.value()})


class NameFilter(_AskedFilter):
    title = "event"
    parameter_name = "name"


class FieldFilter(_AskedFilter):
    title = "place"
    parameter_name = "field"


#: The parameters of the list, and what of a rejected event each asks for.
ASKED = {
    "source__id__exact": "source",
    "kind__exact": "kind",
    "code": "code",
    "name": "name",
    "field": "field",
    "q": "external_id",
}


@admin.register(RejectedEvent)
class RejectedEventAdmin(ReasonPages):
    list_display: ClassVar = [
        "reason",
        "message_",
        "name_",
        "sender",
        "received",
        "state",
    ]
    list_display_links: ClassVar = ["reason"]
    list_select_related: ClassVar = ["source"]
    list_filter: ClassVar = [
        "status",
        CodeFilter,
        NameFilter,
        FieldFilter,
        "source",
        "kind",
    ]
    search_fields: ClassVar = ["external_id"]  # Switches the box on; see below.
    search_help_text = "The whole ID of an event"
    readonly_fields: ClassVar = [
        "reason",
        "payload_",
        "state",
        "received",
        "place",
        "name_",
        "became",
        "aside",
    ]
    fields: ClassVar = [
        ("reason", "state"),
        "message",
        "place",
        "became",
        "aside",
        "payload_",
        ("name_", "external_id"),
        ("source", "kind", "format"),
        "received",
    ]
    actions: ClassVar = ["replay", "set_aside_chosen"]
    actions_list: ClassVar = ["by_reason"]
    actions_detail: ClassVar = ["replay_one"]
    actions_on_top = True

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if term := search_term.strip():
            queryset = queryset.filter(external_id=term)
        return queryset, False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        hidden = set()
        if obj is not None and obj.status != Status.REPLAYED:
            hidden.add("became")
        if obj is not None and obj.status != Status.SET_ASIDE:
            hidden.add("aside")
        return [field for field in self.fields if field not in hidden]

    @display(description="Reason")
    def reason(self, row: RejectedEvent) -> str:
        return format_html('<span class="sc-nowrap">{}</span>', in_words(row.code))

    @display(description="In words")
    def message_(self, row: RejectedEvent) -> str:
        text = row.message if len(row.message) <= 110 else row.message[:109] + "…"
        return format_html('<span class="sc-wrap">{}</span>', text)

    @display(description="Event")
    def name_(self, row: RejectedEvent) -> str:
        if row.name:
            return format_html('<span class="sc-nowrap">{}</span>', row.name[:40])
        return quiet("no name")

    @display(description="Source")
    def sender(self, row: RejectedEvent) -> SafeString:
        return format_html('<span class="sc-nowrap">{}</span>', row.source)

    @display(description="Received")
    def received(self, row: RejectedEvent) -> SafeString:
        return to_the_minute(row.received_at)

    @display(description="Place in what was sent")
    def place(self, row: RejectedEvent) -> str:
        return format_html("<code>{}</code>", row.field) if row.field else "–"

    @display(description="State")
    def state(self, row: RejectedEvent) -> SafeString:
        if row.status == Status.OPEN:
            return badge("open", "warn")
        if row.status == Status.SET_ASIDE:
            return badge("set aside", "plain")
        when = timezone.localtime(row.replayed_at) if row.replayed_at else None
        return badge(f"replayed {when:%d %b}" if when else "replayed", "good")

    @display(description="Is now")
    def became(self, row: RejectedEvent) -> SafeString | str:
        """The event that was recorded, unless it has been erased since."""
        kind = Event if row.kind == Kind.CUSTOMER else SystemEvent
        event: Any = kind._default_manager.filter(pk=row.stored_id or 0).first()
        if event is None:
            return quiet("not there any more")
        page = reverse(f"admin:events_{kind._meta.model_name}_change", args=[event.pk])
        if not isinstance(event, Event):
            return link(page, f"The system event {event.external_id}")
        profile = reverse("admin:customers_customer_change", args=[event.customer_id])
        return format_html(
            "{} of {}",
            link(page, f"The event {event.external_id}"),
            link(profile, event.customer),
        )

    @display(description="Set aside")
    def aside(self, row: RejectedEvent) -> SafeString:
        by = f"by {row.set_aside_by}" if row.set_aside_by else ""
        when = to_the_minute(row.set_aside_at)
        note = f": {row.note}" if row.note else ""
        return format_html('<span class="sc-wrap">{} {}{}</span>', when, by, note)

    @display(description="What was sent")
    def payload_(self, row: RejectedEvent) -> SafeString:
        return format_html('<pre class="sc-code">{}</pre>', example_of(row))

    # Deeds

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """What is replayed or set aside is not offered for replay."""
        open_one = RejectedEvent.objects.filter(pk=object_id, status=Status.OPEN)
        found: list[Any] = super().get_actions_detail(request, object_id)
        return found if open_one.exists() else []

    def has_replay_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm(REPLAY)

    @admin.action(description="Replay the chosen events", permissions=["replay"])
    def replay(self, request: HttpRequest, queryset: QuerySet[RejectedEvent]) -> None:
        asked = replays.begin_replay(
            self._chosen(request),
            by=request.user.get_username(),
            now=timezone.now(),
        )
        self.message_user(request, *outcome(asked))

    @admin.action(description="Set the chosen events aside", permissions=["replay"])
    def set_aside_chosen(
        self, request: HttpRequest, queryset: QuerySet[RejectedEvent]
    ) -> None:
        count = rejects.set_aside(
            self._chosen(request), by=request.user.get_username(), now=timezone.now()
        )
        self.message_user(request, f"{events(count)} set aside.", messages.SUCCESS)

    @action(description="By reason", icon="category", url_path="by-reason")
    def by_reason(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:events_rejectedevent_groups"))

    @action(
        description="Replay",
        icon="replay",
        url_path="replay",
        permissions=["replay"],
    )
    def replay_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = get_object_or_404(RejectedEvent, pk=object_id)
        page = reverse("admin:events_rejectedevent_change", args=[row.pk])
        form = ReplayForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            return self.begin(request, Which(ids=(row.pk,)), form, back=page)
        return self._ask(
            request,
            Which(ids=(row.pk,)),
            title="Replay this event?",
            text="It is sent through the same door again. If the reason is gone, the "
            "event is recorded; if not, it stays here.",
            verb="Replay",
            form=form,
            back=page,
        )

    def _chosen(self, request: HttpRequest) -> Which:
        """Those that were ticked; or all that the list is narrowed to."""
        if request.POST.get("select_across") != "1":
            chosen = request.POST.getlist(helpers.ACTION_CHECKBOX_NAME)
            return Which(ids=tuple(int(pk) for pk in chosen if pk.isdigit()))
        asked = {
            name: request.GET[parameter]
            for parameter, name in ASKED.items()
            if request.GET.get(parameter) is not None
        }
        if not asked.get("external_id"):
            asked.pop("external_id", None)
        return Which.parse({**asked, "source": _number(asked.get("source"))})


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None

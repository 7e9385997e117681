"""Campaigns, their broadcasts and runs, in the back office."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import (
    Exists,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    prefetch_related_objects,
)
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import slugify
from django.views.decorators.http import require_POST
from unfold.decorators import display
from unfold.views import ChangeList

from campaigns import drawing, exchange, pages, panels, rehearsing, report_page
from campaigns.desk import Desk
from campaigns.editor import drawing_page, panel_view
from campaigns.forms import NameForm, TriggerForm, media
from campaigns.models import Broadcast, Campaign, Run, Version
from campaigns.moving_page import move_page
from campaigns.side_panel import events_by_kind
from campaigns.triggers import TRIGGERS
from campaigns.webhooks import admin as webhooks_admin  # noqa: F401  (registers)
from campaigns.webhooks.panel import try_view
from campaigns.why_page import why_page
from smartcomm.core.admin import JournalAdmin, ModelAdmin
from smartcomm.core.errors import Invalid, Several, UserError
from smartcomm.core.look import badge, link, to_the_minute
from smartcomm.core.strict_json import NotJson, decode

#: A campaign's file is no larger.
MOST_BYTES = 2 * 1024 * 1024


class CampaignList(ChangeList):
    """The list, with the numbers of the campaigns on this page, and only of those."""

    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        campaigns = list(self.result_list)
        at_work = Version.objects.exclude(status=Version.Status.SUPERSEDED)
        prefetch_related_objects(
            campaigns, Prefetch("versions", at_work, to_attr="shown_versions")
        )
        numbers = panels.numbers_of(campaign.pk for campaign in campaigns)
        for campaign in campaigns:
            campaign.numbers = numbers[campaign.pk]
        self.result_list = campaigns


@admin.register(Campaign)
class CampaignAdmin(ModelAdmin):
    """The list; the page of one campaign is the editor (see editor.py, pages.py)."""

    list_display: ClassVar = [
        "name",
        "status_badge",
        "trigger",
        "entered",
        "sent",
        "updated_at",
    ]
    list_filter: ClassVar = ["status"]
    search_fields: ClassVar = ["name", "description"]
    search_help_text = "Name, description, or an event it speaks of"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Campaign]:
        return super().get_queryset(request).select_related("created_by")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return CampaignList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """By words of the name and description, or by an event it starts or waits
        with, now or in its draft."""
        named, may_repeat = super().get_search_results(request, queryset, search_term)
        term = search_term.strip()
        if not term:
            return named, may_repeat
        speaking = Version.objects.filter(
            Q(event_name__icontains=term) | Q(steps__config__event__icontains=term),
            campaign=OuterRef("pk"),
        ).exclude(status=Version.Status.SUPERSEDED)
        return named | queryset.filter(Exists(speaking)), may_repeat

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only what never started anything is deleted; the rest is archived."""
        if obj is None:
            return False
        untouched = not obj.versions.exclude(status=Version.Status.DRAFT).exists()
        return untouched and super().has_delete_permission(request, obj)

    # --- columns

    @display(description="Status", ordering="status")
    def status_badge(self, campaign: Campaign) -> SafeString:
        shown = badge(
            campaign.get_status_display(), panels.STATUS_TONES[campaign.status]
        )
        drafts = {version.status for version in campaign.shown_versions}  # type: ignore[attr-defined]
        if campaign.status != Campaign.Status.DRAFT and Version.Status.DRAFT in drafts:
            return format_html("{} {}", shown, badge("New draft", "info"))
        return shown

    @display(description="Starts when")
    def trigger(self, campaign: Campaign) -> str:
        versions = {version.status: version for version in campaign.shown_versions}  # type: ignore[attr-defined]
        version = versions.get(Version.Status.PUBLISHED) or versions.get(
            Version.Status.DRAFT
        )
        if version is None:
            return "–"
        trigger = TRIGGERS[version.trigger_kind].told(version)
        said = panels.say_trigger({"trigger": trigger}, when=True)
        return panels.sentence(said)

    @display(description="Entered")
    def entered(self, campaign: Campaign) -> str:
        return f"{campaign.numbers.entered:,}"  # type: ignore[attr-defined]

    @display(description="Sent")
    def sent(self, campaign: Campaign) -> str:
        return f"{campaign.numbers.sent:,}"  # type: ignore[attr-defined]

    # --- pages

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        own = [
            path("<int:pk>/panel/<slug:what>/", wrap(self.panel_view), name="panel"),
            path(
                "<int:pk>/try-webhook/",
                wrap(require_POST(self.try_webhook_view)),
                name="try_webhook",
            ),
            path("<int:pk>/report/", wrap(self.report_view), name="report"),
            path(
                "<int:pk>/report/<slug:what>.csv",
                wrap(self.report_file_view),
                name="report_file",
            ),
            path("<int:pk>/runs/", wrap(self.runs_view), name="runs"),
            path("<int:pk>/rehearsal/", wrap(self.rehearsal_view), name="rehearsal"),
            path("<int:pk>/why/", wrap(self.why_view), name="why"),
            path("<int:pk>/versions/", wrap(self.versions_view), name="versions"),
            path(
                "<int:pk>/versions/<int:number>/move/",
                wrap(self.move_view),
                name="move",
            ),
            path("<int:pk>/export/", wrap(self.export_view), name="export"),
            path("import/", wrap(require_POST(self.import_view)), name="import"),
            path("<int:pk>/publish/", wrap(self.publish_view), name="publish"),
            path("<int:pk>/state/<slug:deed>/", wrap(self.state_view), name="state"),
        ]
        for pattern in own:
            pattern.name = f"campaigns_campaign_{pattern.name}"
        return [*own, *super().get_urls()]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if not object_id.isdigit():
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        return drawing_page(Desk.of(self, request, object_id))

    def add_view(
        self,
        request: HttpRequest,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """A new campaign: its name, and what starts it. The steps come afterwards."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        data = request.POST if request.method == "POST" else None
        name_form, trigger_form = NameForm(data), TriggerForm(data)
        if data is not None and all([name_form.is_valid(), trigger_form.is_valid()]):
            try:
                campaign = self._make(request, name_form, trigger_form)
            except UserError as error:
                trigger_form.add_error(None, error.message)
            else:
                page = reverse("admin:campaigns_campaign_change", args=[campaign.pk])
                return HttpResponseRedirect(f"{page}?open=add&after=&way=")
        return TemplateResponse(
            request,
            "campaigns/add.html",
            {
                **self.admin_site.each_context(request),
                "title": "New campaign",
                "opts": self.opts,
                "name_form": name_form,
                "form": trigger_form,
                "events_by_kind": events_by_kind(),
                "media": media(),
            },
            status=422 if data is not None else 200,
        )

    @transaction.atomic
    def _make(
        self, request: HttpRequest, name_form: NameForm, trigger_form: TriggerForm
    ) -> Campaign:
        campaign: Campaign = name_form.save(commit=False)
        campaign.created_by = request.user  # type: ignore[assignment]
        campaign.save()
        empty = {"start": "", "steps": []}
        drawing.save_draft(
            campaign,
            trigger_form.definition(empty),
            user=request.user,  # type: ignore[arg-type]
        )
        self.log_addition(request, campaign, "Made.")
        return campaign

    def panel_view(self, request: HttpRequest, pk: int, what: str) -> HttpResponse:
        return panel_view(Desk.of(self, request, pk), what)

    def try_webhook_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return try_view(Desk.of(self, request, pk))

    def report_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return report_page.page(Desk.of(self, request, pk))

    def report_file_view(
        self, request: HttpRequest, pk: int, what: str
    ) -> StreamingHttpResponse:
        return report_page.file(Desk.of(self, request, pk), what)

    def runs_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return pages.runs_page(Desk.of(self, request, pk))

    def rehearsal_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return rehearsing.page(Desk.of(self, request, pk))

    def why_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return why_page(Desk.of(self, request, pk))

    def export_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The campaign as a file: see campaigns.exchange."""
        desk = Desk.of(self, request, pk)
        try:
            told = exchange.export(desk.campaign)
        except UserError as error:
            messages.error(request, error.message)
            return HttpResponseRedirect(
                reverse("admin:campaigns_campaign_versions", args=[pk])
            )
        answer = HttpResponse(
            json.dumps(told, ensure_ascii=False, indent=2, sort_keys=True) + "\n",
            content_type="application/json",
        )
        name = f"{slugify(desk.campaign.name)[:80] or 'campaign'}.json"
        answer["Content-Disposition"] = f'attachment; filename="{name}"'
        return answer

    def import_view(self, request: HttpRequest) -> HttpResponse:
        """A new campaign, as a draft, of what a file says."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        file = request.FILES.get("file")
        try:
            if file is None or (file.size or 0) > MOST_BYTES:
                raise Invalid("Choose a file of a campaign, of 2 MB at most.")
            campaign = exchange.read(
                decode(file.read()),
                name=request.POST.get("name", "").strip(),
                user=request.user,  # type: ignore[arg-type]
            )
        except Several as several:
            for error in several.errors:
                messages.error(request, error.message)
        except NotJson:
            messages.error(request, "This is no file of a campaign: it is not JSON.")
        except UserError as one:
            messages.error(request, one.message)
        else:
            self.log_addition(request, campaign, "Read from a file.")
            messages.success(request, f"“{campaign}” is a draft now.")
            return HttpResponseRedirect(
                reverse("admin:campaigns_campaign_change", args=[campaign.pk])
            )
        return HttpResponseRedirect(reverse("admin:campaigns_campaign_add"))

    def versions_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return pages.versions_page(Desk.of(self, request, pk))

    def move_view(self, request: HttpRequest, pk: int, number: int) -> HttpResponse:
        return move_page(Desk.of(self, request, pk), number)

    def publish_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return pages.publish_page(Desk.of(self, request, pk))

    def state_view(self, request: HttpRequest, pk: int, deed: str) -> HttpResponse:
        return pages.state_page(Desk.of(self, request, pk), deed)


@admin.register(Broadcast)
class BroadcastAdmin(JournalAdmin):
    """How system events went through the base."""

    list_display: ClassVar = [
        "began",
        "campaign",
        "what",
        "status_badge",
        "walked",
        "examined",
        "entered",
        "reason",
    ]
    list_display_links: ClassVar = ["began"]
    list_filter: ClassVar = ["status", "campaign"]
    list_select_related: ClassVar = ["campaign", "version", "system_event__type"]
    readonly_fields: ClassVar = ["walked"]
    fields: ClassVar = [
        ("campaign", "version"),
        "system_event",
        ("status", "walked"),
        "reason",
        ("examined", "entered"),
        ("portions", "still_match"),
        ("period_taken", "taken_at"),
        ("created_at", "finished_at"),
        ("attempts", "due_at"),
    ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [name for row in self.fields for name in _names(row)]

    @display(description="Began")
    def began(self, broadcast: Broadcast) -> SafeString:
        return to_the_minute(broadcast.created_at)

    @display(description="System event")
    def what(self, broadcast: Broadcast) -> str:
        return str(broadcast.system_event)

    @display(description="Status")
    def status_badge(self, broadcast: Broadcast) -> SafeString:
        return badge(
            broadcast.get_status_display(), panels.STATUS_TONES[broadcast.status]
        )

    @display(description="Progress")
    def walked(self, broadcast: Broadcast) -> SafeString:
        return progress_bar(broadcast.progress)


@admin.register(Run)
class RunAdmin(JournalAdmin):
    """Customers on their way, and where they have been."""

    list_display: ClassVar = [
        "started",
        "whose",
        "which",
        "status_badge",
        "step",
        "what",
        "reason",
    ]
    list_display_links: ClassVar = ["started"]
    list_filter: ClassVar = ["status", "campaign"]
    list_select_related: ClassVar = [
        "customer",
        "campaign",
        "step",
        "event__type",
        "system_event__type",
    ]
    search_fields: ClassVar = ["customer__external_id"]
    search_help_text = "The ID of a customer, whole"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Run], search_term: str
    ) -> tuple[QuerySet[Run], bool]:
        term = search_term.strip()
        if term:
            queryset = queryset.filter(customer__external_id=term)
        return queryset, False

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        runs = self.get_queryset(request).select_related(
            "customer",
            "campaign",
            "version",
            "step",
            "event__type",
            "event__source",
            "system_event__type",
            "system_event__source",
        )
        if not object_id.isdigit():
            messages.error(request, "There is no such run.")
            return HttpResponseRedirect(reverse("admin:campaigns_run_changelist"))
        run = get_object_or_404(runs, pk=object_id)
        if not self.has_view_permission(request, run):
            raise PermissionDenied
        return pages.run_page(self, request, run)

    @display(description="Started")
    def started(self, run: Run) -> SafeString:
        return to_the_minute(run.started_at)

    @display(description="Campaign")
    def which(self, run: Run) -> SafeString:
        url = reverse("admin:campaigns_campaign_runs", args=[run.campaign_id])
        return link(url, run.campaign)

    @display(description="Customer")
    def whose(self, run: Run) -> SafeString:
        url = reverse("admin:customers_customer_change", args=[run.customer_id])
        return link(url, run.customer)

    @display(description="Status")
    def status_badge(self, run: Run) -> SafeString:
        return badge(run.get_status_display(), panels.STATUS_TONES[run.status])

    @display(description="Started by")
    def what(self, run: Run) -> str:
        started_by = run.event or run.system_event
        return str(started_by.type) if started_by else "–"


def progress_bar(part: float) -> SafeString:
    """How far something is, from 0 to 1."""
    percent = round(part * 100)
    return format_html(
        '<span style="display:inline-flex;align-items:center;gap:8px">'
        '<progress value="{0}" max="100" style="width:90px;height:8px;'
        'accent-color:var(--color-primary-600)">{0}%</progress>'
        "<span>{0}%</span></span>",
        percent,
    )


def _names(row: Any) -> tuple[str, ...]:
    return row if isinstance(row, tuple) else (row,)

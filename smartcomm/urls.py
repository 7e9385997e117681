from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, register_converter
from django.urls.converters import StringConverter
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from campaigns import api as campaigns
from campaigns import approving_api as approving
from campaigns import broadcasts_api as broadcasts
from campaigns import rehearsal_api as rehearsals
from campaigns import report_api as reports
from campaigns import versions_api as versions
from campaigns import why_api as whys
from customers import api as customers
from events import api as events
from events import rejects_api as rejects
from events import types_api as types
from events.compat import api as compat
from messaging import api as messaging
from segments import api as segments
from smartcomm.core.api import NoSuchAddress
from smartcomm.site.health import healthz


class ExternalId(StringConverter):
    """An ID may hold slashes, but a slash at its end is only a slip in an address."""

    regex = r"[^/](?:(?s:.*)[^/])?"


register_converter(ExternalId, "external_id")

api: list[URLPattern | URLResolver] = [
    path("events", events.RecordEvents.as_view()),
    path("system-events", events.RecordSystemEvents.as_view()),
    path("cloudevents", compat.CloudEvents.as_view()),
    path("event-types", types.EventTypes.as_view()),
    path("event-types/schema", types.NamedTypeSchema.as_view()),
    path("event-types/<int:pk>", types.OneEventType.as_view()),
    path("event-types/<int:pk>/schema", types.TypeSchema.as_view()),
    path("rejected-events", rejects.RejectedEvents.as_view()),
    path("rejected-events/replay", rejects.ReplayRejected.as_view()),
    path("rejected-events/replays/<int:pk>", rejects.OneReplay.as_view()),
    path("customers", customers.Customers.as_view()),
    path("customers/<external_id:external_id>/events", events.History.as_view()),
    path(
        "customers/<external_id:external_id>/messages",
        messaging.CustomerMessages.as_view(),
    ),
    path(
        "customers/<external_id:external_id>/merge",
        customers.MergeCustomers.as_view(),
    ),
    path("customers/<external_id:external_id>", customers.OneCustomer.as_view()),
    path("segments", segments.Segments.as_view()),
    path("segments/preview", segments.Preview.as_view()),
    path("segments/<int:pk>", segments.OneSegment.as_view()),
    path("segments/<int:pk>/customers", segments.SegmentCustomers.as_view()),
    path("segments/<int:pk>/versions", segments.SegmentVersions.as_view()),
    path("segments/<int:pk>/archive", segments.ArchiveSegment.as_view()),
    path("segments/<int:pk>/restore", segments.RestoreSegment.as_view()),
    path("segments/<int:pk>/explain", segments.SegmentExplain.as_view()),
    path("campaigns", campaigns.Campaigns.as_view()),
    path("campaigns/import", campaigns.ImportCampaign.as_view()),
    path("campaigns/<int:pk>", campaigns.OneCampaign.as_view()),
    path("campaigns/<int:pk>/export", campaigns.ExportCampaign.as_view()),
    path("campaigns/<int:pk>/publish", campaigns.PublishCampaign.as_view()),
    path("campaigns/<int:pk>/pause", campaigns.PauseCampaign.as_view()),
    path("campaigns/<int:pk>/resume", campaigns.ResumeCampaign.as_view()),
    path("campaigns/<int:pk>/archive", campaigns.ArchiveCampaign.as_view()),
    path("campaigns/<int:pk>/report", reports.CampaignReport.as_view()),
    path("campaigns/<int:pk>/versions", versions.CampaignVersions.as_view()),
    path(
        "campaigns/<int:pk>/versions/<int:number>/diff",
        versions.CampaignVersionDiff.as_view(),
    ),
    path("campaigns/<int:pk>/broadcasts", broadcasts.Broadcasts.as_view()),
    path(
        "campaigns/<int:pk>/broadcasts/<int:number>",
        broadcasts.OneBroadcast.as_view(),
    ),
    path(
        "campaigns/<int:pk>/broadcasts/<int:number>/stop",
        broadcasts.StopBroadcast.as_view(),
    ),
    path("campaigns/<int:pk>/versions/<int:number>/move", versions.MoveRuns.as_view()),
    path("campaigns/<int:pk>/publish-requests", approving.PublishRequests.as_view()),
    path(
        "campaigns/<int:pk>/publish-requests/decision",
        approving.PublishDecision.as_view(),
    ),
    path("campaigns/moves/<int:pk>", versions.OneMove.as_view()),
    path("campaigns/<int:pk>/rehearsals", rehearsals.Rehearsals.as_view()),
    path("campaigns/rehearsals/<int:pk>", rehearsals.OneRehearsal.as_view()),
    path("campaigns/<int:pk>/why", whys.CampaignWhy.as_view()),
    path("messages", messaging.Messages.as_view()),
    path("messages/<int:pk>", messaging.OneMessage.as_view()),
    # Documentation, open to all: it holds nothing but the product's own words.
    path("schema", SpectacularAPIView.as_view(), name="api-schema"),
    path(
        "docs",
        SpectacularSwaggerView.as_view(url_name="api-schema"),
        name="api-docs",
    ),
]

# Where Segment's clients look for it: at the root, and under short names as well.
segment: list[URLPattern | URLResolver] = [
    *[
        path(name, compat.SegmentMessages.as_view())
        for name in ("batch", "b", "import")
    ],
    *[
        path(name, compat.SegmentMessages.as_view(type=type))
        for type in ("track", "page", "screen", "identify", "group", "alias")
        for name in (type, type[0])
    ],
    path("<path:path>", compat.NoSegmentAddress.as_view()),
]

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("healthz", healthz),
    path("admin/", admin.site.urls),
    path("api/v1/", include(api)),
    path("api/<path:path>", NoSuchAddress.as_view()),
    path("v1/", include(segment)),
]

handler404 = "smartcomm.core.problems.page_not_found"
handler500 = "smartcomm.core.problems.server_error"

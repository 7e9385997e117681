"""The page on which runs of an older version are taken over to the one at work."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from campaigns import moving
from campaigns.desk import Desk, page_context
from smartcomm.core.errors import UserError


def move_page(desk: Desk, number: int) -> HttpResponse:
    """What moving would do (GET); do it (POST)."""
    if not desk.may_publish:
        raise PermissionDenied
    version = next((one for one in desk.versions if one.number == number), None)
    if version is None:
        raise Http404
    there = reverse("admin:campaigns_campaign_versions", args=[desk.campaign.pk])
    try:
        if desk.request.method == "POST":
            by = desk.request.user.get_username()
            move = moving.order(version, by=by)
            said = (
                f"The runs of version {number} are being moved to version "
                f"{move.to_version.number}."
            )
            desk.admin.log_change(desk.request, desk.campaign, said)
            messages.success(desk.request, said)
            return HttpResponseRedirect(there)
        forecast = moving.forecast(version)
    except UserError as error:
        messages.error(desk.request, error.message)
        return HttpResponseRedirect(there)
    return TemplateResponse(
        desk.request,
        "campaigns/move.html",
        page_context(desk, tab="versions", forecast=forecast),
    )

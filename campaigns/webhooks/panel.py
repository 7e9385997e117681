"""The button “Send a test call” in the panel of a step."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from campaigns.actions import ACTIONS
from campaigns.actions.webhook import NAME
from campaigns.desk import Desk
from campaigns.forms import read_config, step_form
from campaigns.triggers import event_of
from campaigns.webhooks import body
from campaigns.webhooks.trying import try_call


def try_view(desk: Desk) -> HttpResponse:
    """Call as the panel is filled in, saved or not; show what went out and came in."""
    if not desk.may_edit:
        raise PermissionDenied
    request, action = desk.request, ACTIONS[NAME]
    form = step_form(action, desk.definition, data=request.POST)
    config = read_config(action, form)
    context: dict[str, Any] = {}
    if config is None:
        errors = form.errors.values()
        context["wrong"] = [message for one in errors for message in one]
    else:
        asker = body.Asker(
            desk.campaign.pk,
            desk.campaign.name,
            desk.shown_number,
            request.GET.get("step", "") or "call",
        )
        context["trial"] = try_call(
            config,
            asker,
            external_id=request.POST.get("customer", "").strip(),
            event_name=event_of(desk.definition),
            now=timezone.now(),
        )
        desk.admin.log_change(request, desk.campaign, "A test call was sent.")
    return TemplateResponse(request, "campaigns/panels/_tried_call.html", context)

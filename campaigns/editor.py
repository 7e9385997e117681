"""The editor: one page with the picture, and a panel for whatever is clicked.

The drawing lives in the database: every saved panel makes a new draft. A panel sends
the stamp of the drawing it was opened on; when somebody else has changed it since,
the panel comes back as it was filled in, beside the newer picture.
"""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse

from campaigns.desk import Desk, page_context
from campaigns.forms import media
from campaigns.models import Campaign
from campaigns.side_panel import Panel, Refused, open_panel
from smartcomm.core.errors import Conflict, NotFound, Several, UserError

CHANGED = "Somebody changed this drawing meanwhile; the picture shows it now."
HAS_TO_SAVE = " Nothing of yours is lost: save again to put it on top."
NOT_DONE = " Nothing was done: look at it, and then choose again."
GONE = (
    "Somebody removed this step meanwhile. What you wrote is still here: copy what you"
    " need before you reload the page."
)


class Changed(Conflict):
    """Somebody else was quicker."""

    code = "changed_meanwhile"


def drawing_page(desk: Desk) -> HttpResponse:
    """The page of a campaign. `?open=step&step=mail` comes with a panel open."""
    if what := desk.request.GET.get("open"):
        desk.panel = open_panel(desk, what)
        try:
            _ = desk.panel.html
        except UserError as error:
            desk.panel, desk.said, desk.went_wrong = None, error.message, True
    return TemplateResponse(
        desk.request,
        "campaigns/drawing.html",
        page_context(desk, tab="drawing", media=media()),
    )


def panel_view(desk: Desk, what: str) -> HttpResponse:
    """A panel (GET), or what it does (POST)."""
    request = desk.request
    if request.method != "POST":
        try:
            return HttpResponse(open_panel(desk, what).html)
        except UserError as error:
            return _nothing(desk, error)
    if not desk.may_edit:
        raise PermissionDenied
    panel = open_panel(desk, what, data=request.POST)
    try:
        with transaction.atomic():
            # Whoever comes second waits here, and then sees what the first one did.
            Campaign.objects.select_for_update().get(pk=desk.campaign.pk)
            if request.POST.get("stamp") != desk.stamp:
                raise Changed(CHANGED + (HAS_TO_SAVE if panel.is_form else NOT_DONE))
            panel.save()
    except Refused:
        return _workspace(desk, panel, status=422)
    except UserError as error:
        desk.refresh()
        panel.wrong = (
            [one.message for one in error.errors]
            if isinstance(error, Several)
            else [error.message]
        )
        if not (panel.is_form or panel.stranded):
            desk.said, desk.went_wrong = " ".join(panel.wrong), True
            return _workspace(desk, None, status=error.status)
        return _workspace(desk, panel, status=error.status)
    return _workspace(desk, None)


def _workspace(desk: Desk, panel: Panel | None, *, status: int = 200) -> HttpResponse:
    """The picture and the panel anew."""
    desk.panel = panel
    try:
        html = _workspace_html(desk)
    except NotFound:
        # What the panel is about is gone, but not what was written there.
        return HttpResponse(GONE, status=409, content_type="text/plain; charset=utf-8")
    return HttpResponse(html, status=status)


def _workspace_html(desk: Desk) -> str:
    """The workspace, and with it the head: there may be something to publish now."""
    context = {"desk": desk, "tab": "drawing", "anew": True}
    return "".join(
        render_to_string(f"campaigns/{name}.html", context, request=desk.request)
        for name in ("_workspace", "_head")
    )


def _nothing(desk: Desk, error: UserError) -> HttpResponse:
    html = render_to_string(
        "campaigns/panels/none.html", {"said": error.message}, request=desk.request
    )
    return HttpResponse(html, status=error.status)

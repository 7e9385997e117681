"""Where the boxes and buttons of a drawing lead."""

from __future__ import annotations

from typing import Any

from django import template
from django.urls import reverse
from django.utils.http import urlencode

register = template.Library()


@register.simple_tag
def panel_link(desk: Any, what: str, **params: str) -> str:
    """The address of a panel; empty parameters are part of it."""
    return str(desk.panel_url(what, **params))


@register.simple_tag
def box_link(face: Any, desk: Any, shown: Any) -> dict[str, str]:
    """A box leads to its panel: as a fragment, or as a page where no script runs."""
    if face.box.kind == "trigger":
        what, params = "trigger", {}
        if not desk.may_edit:
            return {}
    else:
        what, params = "step", {"step": face.box.step}
    page = reverse("admin:campaigns_campaign_change", args=[desk.campaign.pk])
    if shown.mode == "reporting":
        return {}
    query = urlencode({"open": what, **params})
    return {"page": f"{page}?{query}", "panel": desk.panel_url(what, **params)}

"""The side bar: the back office by what people do in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse, reverse_lazy

from events.models import RejectedEvent


@dataclass(frozen=True)
class Place:
    """A list in the side bar. `model` is app.model, as in a permission."""

    title: str
    icon: str
    model: str
    page: str = "changelist"

    @property
    def url_name(self) -> str:
        return f"admin:{self.model.replace('.', '_')}_{self.page}"

    @property
    def permission(self) -> str:
        app, model = self.model.split(".")
        return f"{app}.view_{model}"


#: Icons are names of Material Symbols.
PLACES: dict[str, list[Place]] = {
    "Customers": [
        Place("Customers", "group", "customers.customer"),
        Place("Shared contacts", "merge", "customers.sharedcontact"),
        Place("Mailing categories", "category", "customers.mailingcategory"),
        Place("Attributes", "label", "customers.attribute"),
    ],
    "Events": [
        Place("Event journal", "receipt_long", "events.event"),
        Place("System events", "cell_tower", "events.systemevent"),
        Place("Rejected events", "report", "events.rejectedevent", "groups"),
        Place("Event types", "schema", "events.eventtype"),
        Place("Field mappings", "sync_alt", "events.fieldmapping"),
        Place("Imports", "upload_file", "events.import"),
    ],
    "Segments": [
        Place("Segments", "donut_small", "segments.segment"),
    ],
    "Campaigns": [
        Place("Campaigns", "campaign", "campaigns.campaign"),
        Place("Runs", "route", "campaigns.run"),
        Place("Broadcasts", "podcasts", "campaigns.broadcast"),
        Place("Webhook calls", "webhook", "campaigns.webhookcall"),
    ],
    "Messages": [
        Place("Messages", "mail", "messaging.message"),
        Place("Templates", "draft", "messaging.template"),
        Place("Suppressions", "block", "messaging.suppression"),
    ],
    "Settings": [
        Place("Sources and API keys", "key", "events.source"),
        Place("Channel settings", "tune", "messaging.channelsettings"),
        Place("Users", "person", "auth.user"),
        Place("Groups", "badge", "auth.group"),
    ],
}

MANY = 100


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """The groups and items for the side bar: what this user may view, and no more."""
    home = {"title": "Home", "icon": "home", "link": reverse_lazy("admin:index")}
    groups: list[dict[str, Any]] = [{"items": [home]}]
    for title, places in PLACES.items():
        items = [
            item
            for place in places
            if request.user.has_perm(place.permission) and (item := _item(place))
        ]
        if items:
            groups.append({"title": title, "separator": False, "items": items})
    return groups


def _item(place: Place) -> dict[str, Any] | None:
    """The item, unless nobody serves that list: tests/guards tell about those."""
    try:
        link = reverse(place.url_name)
    except NoReverseMatch:
        return None
    item: dict[str, Any] = {"title": place.title, "icon": place.icon, "link": link}
    if place.model == "events.rejectedevent" and (left := open_rejects()):
        item["badge"] = f"{MANY - 1}+" if left >= MANY else str(left)
        item["badge_variant"] = "warning"
    return item


def open_rejects() -> int:
    """How many rejected events wait for somebody, counted up to MANY."""
    left = RejectedEvent.objects.filter(status=RejectedEvent.Status.OPEN)
    return left.order_by()[:MANY].count()

"""One campaign before one person: what is drawn, and what they may do with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from campaigns import drawing, editing, graph, panels, planned
from campaigns.models import Campaign, Version

if TYPE_CHECKING:
    from campaigns.admin import CampaignAdmin
    from campaigns.side_panel import Panel

Definition = dict[str, Any]


@dataclass(frozen=True)
class Deed:
    """Something done to a campaign as a whole, after a page that says what it means."""

    label: str
    symbol: str
    offered_when: frozenset[str]
    sentences: tuple[str, ...]


DEEDS = {
    "pause": Deed(
        "Pause",
        "pause_circle",
        frozenset({Campaign.Status.PUBLISHED}),
        (
            "New runs, steps and messages stop at once. Nothing is lost: who is under"
            " way stays where they are, and messages not sent yet wait.",
            "Events that come in while it is paused start nothing.",
        ),
    ),
    "resume": Deed(
        "Resume",
        "play_circle",
        frozenset({Campaign.Status.PAUSED}),
        (
            "Who is under way goes on, and messages that waited are sent, as far as"
            " they are not too late by then.",
            "Events that came in while it was paused do not start it afterwards.",
        ),
    ),
    "copy": Deed(
        "Copy",
        "content_copy",
        frozenset(Campaign.Status.values),
        ("A new campaign is made with the same drawing, as a draft.",),
    ),
    "archive": Deed(
        "Archive",
        "inventory_2",
        frozenset(
            {Campaign.Status.DRAFT, Campaign.Status.PUBLISHED, Campaign.Status.PAUSED}
        ),
        (
            "This ends the campaign for good. Runs under way end where they are, and"
            " messages not sent yet are not sent.",
            "It can still be read and copied, and its numbers stay.",
        ),
    ),
}


@dataclass
class Desk:
    """One campaign before one person: what is drawn, and what they may do."""

    admin: CampaignAdmin
    request: HttpRequest
    campaign: Campaign
    #: Why the last click did nothing, or what it did.
    said: str = ""
    went_wrong: bool = False
    #: What the drawing was before the last click, to go back to.
    before: Definition | None = None
    panel: Panel | None = None

    @classmethod
    def of(cls, admin: CampaignAdmin, request: HttpRequest, pk: Any) -> Desk:
        campaign = get_object_or_404(admin.get_queryset(request), pk=pk)
        if not admin.has_view_or_change_permission(request, campaign):
            raise PermissionDenied
        return cls(admin, request, campaign)

    @cached_property
    def versions(self) -> list[Version]:
        return list(self.campaign.versions.prefetch_related("steps"))

    def _version(self, status: str) -> Version | None:
        return next((one for one in self.versions if one.status == status), None)

    @property
    def draft(self) -> Version | None:
        return self._version(Version.Status.DRAFT)

    @property
    def published(self) -> Version | None:
        return self._version(Version.Status.PUBLISHED)

    @property
    def shown_number(self) -> int:
        """The number of the version that the drawing shows."""
        version = self.draft or self.published
        return version.number if version is not None else 0

    @cached_property
    def definition(self) -> Definition:
        version = self.draft or self.published
        if version is not None:
            return drawing.as_json(version)
        return {
            "trigger": {
                "kind": Version.Trigger.EVENT.value,
                "event": "",
                "where": [],
                "max_age_hours": 72,
            },
            "entry": {"rule": Version.Entry.EVERY_EVENT.value},
            "start": "",
            "steps": [],
        }

    @property
    def stamp(self) -> str:
        return editing.stamp(self.definition)

    @property
    def differs(self) -> bool:
        """There is a draft that is not what is at work."""
        draft, published = self.draft, self.published
        return bool(
            draft and published and drawing.as_json(draft) != drawing.as_json(published)
        )

    @property
    def can_be_published(self) -> bool:
        """There is a draft, and it is not the same as what is at work."""
        return self.draft is not None and (self.published is None or self.differs)

    @property
    def may_edit(self) -> bool:
        return (
            self.admin.has_change_permission(self.request, self.campaign)
            and self.campaign.status != Campaign.Status.ARCHIVED
        )

    @property
    def may_publish(self) -> bool:
        return self.may_edit and self.request.user.has_perm(
            "campaigns.publish_campaign"
        )

    @property
    def tone(self) -> str:
        return panels.STATUS_TONES[self.campaign.status]

    @property
    def deeds(self) -> list[tuple[str, str, str]]:
        """What can be done to the campaign as a whole now: name, label, symbol."""
        may_copy = self.admin.has_add_permission(self.request)
        return [
            (name, deed.label, deed.symbol)
            for name, deed in DEEDS.items()
            if self.campaign.status in deed.offered_when
            and (may_copy if name == "copy" else self.may_publish)
        ]

    @cached_property
    def problems(self) -> list[graph.Problem]:
        return graph.problems(self.definition, ways=panels.ways())

    @property
    def picture(self) -> panels.Shown:
        return panels.show(
            self.definition,
            mode="editing" if self.may_edit else "reading",
            problems=self.problems,
        )

    def next_times(self, version: Version) -> list[datetime]:
        """When a version starts next by itself; see planned.next_times."""
        return planned.next_times(version, now=timezone.now())

    @property
    def comes_next(self) -> list[datetime]:
        """When what is at work starts next by itself."""
        if self.campaign.status != Campaign.Status.PUBLISHED or not self.published:
            return []
        return self.next_times(self.published)

    @property
    def undo(self) -> str:
        return json.dumps(self.before) if self.before is not None else ""

    def save(self, definition: Definition, said: str) -> None:
        """Make this the draft; everything shown from now on is it."""
        before = self.definition
        drawing.save_draft(self.campaign, definition, user=self.request.user)  # type: ignore[arg-type]
        self.refresh()
        if self.definition != before:
            self.admin.log_change(self.request, self.campaign, said)
            self.said, self.before = said, before

    def refresh(self) -> None:
        for name in ("versions", "definition", "problems"):
            self.__dict__.pop(name, None)
        self.campaign.refresh_from_db()

    def panel_url(self, what: str, **params: str) -> str:
        url = reverse("admin:campaigns_campaign_panel", args=[self.campaign.pk, what])
        return f"{url}?{urlencode(params)}" if params else url


def page_context(desk: Desk, *, tab: str, **more: Any) -> dict[str, Any]:
    """What every page of a campaign needs."""
    return {
        **desk.admin.admin_site.each_context(desk.request),
        "title": str(desk.campaign),
        "opts": desk.admin.opts,
        "original": desk.campaign,
        "is_fullwidth": "1",
        "desk": desk,
        "tab": tab,
        **more,
    }

"""The editor: one page with the picture, and a panel for whatever is clicked.

The drawing lives in the database: every saved panel makes a new draft. A panel sends
the stamp of the drawing it was opened on; when somebody else has changed it since,
the panel comes back as it was filled in, beside the newer picture.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import urlencode

from campaigns import drawing, editing, graph, panels
from campaigns.actions import ACTIONS
from campaigns.forms import (
    EVENT_INPUT,
    KINDS,
    KeyForm,
    NameForm,
    TriggerForm,
    media,
    read_config,
    step_form,
    trigger_initial,
)
from campaigns.models import Campaign, Version
from campaigns.picture import ways_out
from customers.models import Attribute
from events.models import EventField, EventType
from messaging.models import Template
from messaging.render import FIELDS, VARIABLES
from smartcomm.core.errors import Conflict, NotFound, Several, UserError

if TYPE_CHECKING:
    from campaigns.admin import CampaignAdmin

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


class Changed(Conflict):
    """Somebody else was quicker."""

    code = "changed_meanwhile"


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


@dataclass
class Panel:
    """What stands beside the picture: opened by GET, carried out by POST.

    Subclasses are one kind each. `data` is what was sent, and shown again as it was.
    """

    desk: Desk
    params: dict[str, str]
    data: Any = None
    wrong: list[str] = field(default_factory=list)

    name: ClassVar[str]
    template: ClassVar[str]

    @property
    def step(self) -> str:
        """The step it is about, marked in the picture."""
        return self.params.get("step", "")

    @property
    def url(self) -> str:
        return self.desk.panel_url(self.name, **self.params)

    def context(self) -> dict[str, Any]:
        return {}

    def save(self) -> None:
        """Do it. Raises UserError, or Refused when the form itself says why not."""
        raise Http404

    @property
    def html(self) -> str:
        """The panel as a fragment."""
        return render_to_string(
            self.template,
            {"panel": self, "desk": self.desk, **self.context()},
            request=self.desk.request,
        )


class Refused(Exception):
    """The panel's form has errors; they are shown beside its fields."""


class NamePanel(Panel):
    name = "name"
    template = "campaigns/panels/name.html"

    @cached_property
    def form(self) -> NameForm:
        return NameForm(self.data, instance=self.desk.campaign)

    def context(self) -> dict[str, Any]:
        return {"form": self.form}

    def save(self) -> None:
        if not self.form.is_valid():
            # What was typed must not be shown as the campaign's name.
            self.desk.campaign.refresh_from_db()
            raise Refused
        self.desk.campaign.save(update_fields=["name", "description", "updated_at"])
        said = f"The campaign is called “{self.desk.campaign}”."
        self.desk.admin.log_change(self.desk.request, self.desk.campaign, said)
        self.desk.said = said


class TriggerPanel(Panel):
    name = "trigger"
    template = "campaigns/panels/trigger.html"

    @cached_property
    def form(self) -> TriggerForm:
        return TriggerForm(self.data, initial=trigger_initial(self.desk.definition))

    def context(self) -> dict[str, Any]:
        return {"form": self.form, "events_by_kind": events_by_kind()}

    def save(self) -> None:
        if not self.form.is_valid():
            raise Refused
        definition = self.form.definition(self.desk.definition)
        self.desk.save(definition, "The trigger is saved.")


class StepPanel(Panel):
    """An existing step."""

    name = "step"
    template = "campaigns/panels/step.html"

    @cached_property
    def drawn(self) -> dict[str, Any]:
        return editing.find(self.desk.definition, self.step)

    @cached_property
    def form(self) -> forms.Form:
        initial = {**self.drawn["config"], **_texts(self.params.get("template"))}
        return step_form(
            ACTIONS[self.drawn["action"]],
            self.desk.definition,
            key=self.step,
            data=self.data,
            initial=initial,
        )

    @cached_property
    def key_form(self) -> KeyForm:
        return KeyForm(self.data, initial={"key": self.step}, prefix="step")

    def context(self) -> dict[str, Any]:
        action = ACTIONS.get(self.drawn["action"])
        if action is None:
            return {"drawn": self.drawn}
        return {
            "drawn": self.drawn,
            "sentence": panels.say(self.drawn),
            "key_form": self.key_form,
            **step_context(self, action.name, self.form),
        }

    def save(self) -> None:
        action = ACTIONS[self.drawn["action"]]
        config = read_config(action, self.form)
        if not self.key_form.is_valid() or config is None:
            raise Refused
        key = self.key_form.cleaned_data["key"]
        definition = editing.change(
            self.desk.definition,
            self.step,
            config=config,
            new_key=key,
            ways=panels.ways(),
        )
        self.desk.save(definition, f"Step “{key}” is saved.")


class AddPanel(Panel):
    """What shall come on a way: a new step, one that is there, or the end."""

    name = "add"

    @property
    def after(self) -> str:
        return self.params.get("after", "")

    @property
    def way(self) -> str:
        return self.params.get("way", "")

    @property
    def step(self) -> str:
        return ""

    @property
    def action(self) -> str:
        return self.params.get("action", "")

    @property
    def template(self) -> str:  # type: ignore[override]
        kind = "new" if self.action else "choose"
        return f"campaigns/panels/{kind}.html"

    @cached_property
    def form(self) -> forms.Form:
        if self.action not in ACTIONS:
            raise Http404
        return step_form(
            ACTIONS[self.action],
            self.desk.definition,
            data=self.data,
            initial=_texts(self.params.get("template")),
        )

    @property
    def place(self) -> str:
        """Where it will stand, in words."""
        return place_in_words(self.desk.definition, self.after, self.way)

    def context(self) -> dict[str, Any]:
        if self.action:
            return step_context(self, self.action, self.form)
        definition = self.desk.definition
        now = editing.leads_to(definition, self.after, self.way)
        return {
            "actions": [
                (action, self.desk.panel_url(self.name, **self.params, action=name))
                for name, action in ACTIONS.items()
                if name != "refresh_filter" or _has_filter(definition)
            ],
            "leads_to": now,
            "targets": [
                (step["key"], f"{step['key']}: {panels.say(step)}")
                for step in definition["steps"]
                if step["key"] != now and self._may_lead_to(step["key"])
            ],
        }

    def _may_lead_to(self, key: str) -> bool:
        try:
            editing.connect(
                self.desk.definition,
                after=self.after,
                way=self.way,
                to=key,
                ways=panels.ways(),
            )
        except UserError:
            return False
        return True

    def save(self) -> None:
        definition, form = self.desk.definition, self.form
        config = read_config(ACTIONS[self.action], form)
        if config is None:
            raise Refused
        key = editing.new_key(definition, self.action)
        step = {"key": key, "action": self.action, "config": config}
        definition = editing.insert(
            definition, step, after=self.after, way=self.way, ways=panels.ways()
        )
        self.desk.save(definition, f"Step “{key}” is added.")


class ConnectPanel(AddPanel):
    """Let a way lead to a step that is there, or to the end."""

    name = "connect"

    def save(self) -> None:
        to = self.data.get("to", "")
        definition = editing.connect(
            self.desk.definition,
            after=self.after,
            way=self.way,
            to=to,
            ways=panels.ways(),
        )
        said = f"It leads to “{to}” now." if to else "It ends there now."
        self.desk.save(definition, f"{self.place[:1].upper()}{self.place[1:]}: {said}")


class RemovePanel(Panel):
    name = "remove"
    template = "campaigns/panels/remove.html"

    def context(self) -> dict[str, Any]:
        definition = self.desk.definition
        drawn = editing.find(definition, self.step)
        choices = []
        led = {key for key in (drawn.get("next") or {}).values() if key}
        for way in ways_out(drawn, panels.ways()):
            follower = (drawn.get("next") or {}).get(way)
            if follower is None:
                continue
            _, lost = editing.remove(
                definition, self.step, keep=way, ways=panels.ways()
            )
            choices.append(
                {
                    "way": way,
                    "label": panels.way_label(drawn["action"], way),
                    "follower": follower,
                    "lost": lost,
                }
            )
        if led:
            _, lost = editing.remove(
                definition, self.step, keep=None, ways=panels.ways()
            )
            choices.append({"way": "", "lost": lost})
        return {"drawn": drawn, "choices": choices, "sentence": panels.say(drawn)}

    def save(self) -> None:
        definition, lost = editing.remove(
            self.desk.definition,
            self.step,
            keep=self.data.get("keep") or None,
            ways=panels.ways(),
        )
        gone = ", ".join(f"“{key}”" for key in [self.step, *lost])
        word = "Steps" if lost else "Step"
        verb = "are" if lost else "is"
        self.desk.save(definition, f"{word} {gone} {verb} removed.")


class MovePanel(Panel):
    name = "move"
    template = "campaigns/panels/move.html"

    def context(self) -> dict[str, Any]:
        definition = self.desk.definition
        editing.find(definition, self.step)
        places = [("", "", "right after the trigger")]
        places += [
            (step["key"], way, place_in_words(definition, step["key"], way))
            for step in definition["steps"]
            if step["key"] != self.step
            for way in ways_out(step, panels.ways())
        ]
        return {
            "places": [
                (json.dumps([after, way]), words)
                for after, way, words in places
                if editing.leads_to(definition, after, way) != self.step
                and self._may_stand(after, way)
            ]
        }

    def _may_stand(self, after: str, way: str) -> bool:
        try:
            self._moved(after, way)
        except UserError:
            return False
        return True

    def _moved(self, after: str, way: str) -> Definition:
        return editing.move(
            self.desk.definition, self.step, after=after, way=way, ways=panels.ways()
        )

    def save(self) -> None:
        try:
            after, way = json.loads(self.data.get("to", ""))
        except ValueError as error:
            raise Conflict("Choose where the step shall stand.") from error
        self.desk.save(self._moved(after, way), f"Step “{self.step}” is moved.")


class UndoPanel(Panel):
    """Go back to what was drawn before the last click."""

    name = "undo"
    template = "campaigns/panels/none.html"

    def save(self) -> None:
        try:
            definition = json.loads(self.data.get("definition", ""))
        except ValueError as error:
            raise Conflict("There is nothing to undo.") from error
        self.desk.save(definition, "Undone.")


PANELS: dict[str, type[Panel]] = {
    panel.name: panel
    for panel in (
        NamePanel,
        TriggerPanel,
        StepPanel,
        AddPanel,
        ConnectPanel,
        RemovePanel,
        MovePanel,
        UndoPanel,
    )
}


def open_panel(desk: Desk, what: str, *, data: Any = None) -> Panel:
    """The panel of this name, about what the address asks for."""
    if what not in PANELS:
        raise Http404
    params = {
        name: str(value)
        for name, value in desk.request.GET.items()
        if name in ("step", "after", "way", "action", "template")
    }
    return PANELS[what](desk, params, data)


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
                raise Changed(
                    "Somebody changed this drawing meanwhile; the picture shows it now."
                    " Nothing of yours is lost: save again to put it on top."
                )
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
        if panel.name in ("connect", "undo"):
            desk.said, desk.went_wrong = " ".join(panel.wrong), True
            return _workspace(desk, None, status=error.status)
        return _workspace(desk, panel, status=error.status)
    return _workspace(desk, None)


def _workspace(desk: Desk, panel: Panel | None, *, status: int = 200) -> HttpResponse:
    """The picture and the panel anew."""
    desk.panel = panel
    try:
        html = _workspace_html(desk)
    except NotFound as error:
        # What the panel is about is gone.
        desk.panel, desk.said, desk.went_wrong = None, error.message, True
        html = _workspace_html(desk)
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


def events_by_kind() -> dict[str, list[str]]:
    """The names of events that can start a campaign, by kind of trigger."""
    names: dict[str, list[str]] = {kind: [] for kind in KINDS}
    of_kind = {kind: trigger for trigger, kind in KINDS.items()}
    for name, kind in EventType.objects.values_list("name", "kind"):
        names[of_kind[kind]].append(name)  # type: ignore[index]
    return names


def place_in_words(definition: Definition, after: str, way: str) -> str:
    """“after “mail” (Sent)”."""
    if not after:
        return "right after the trigger"
    step = editing.find(definition, after)
    return f"after “{after}”, way “{panels.way_label(step['action'], way)}”"


def step_context(panel: Panel, action: str, form: forms.Form) -> dict[str, Any]:
    """What the form of a step needs on its panel."""
    kind = ACTIONS[action]
    event = panel.desk.definition["trigger"].get("event") or ""
    channel = getattr(kind, "channel", None)
    context: dict[str, Any] = {
        "action": kind,
        "form": form,
        "event_input": EVENT_INPUT,
        "event": event,
        "form_template": [
            f"campaigns/panels/forms/{action}.html",
            "campaigns/panels/forms/plain.html",
        ],
    }
    if channel is not None:
        context |= {
            "channel": str(channel),
            "templates": Template.objects.filter(channel=channel).only("name"),
            "variables": variables(event),
            "chosen_template": panel.params.get("template", ""),
        }
    return context


def variables(event: str) -> list[dict[str, Any]]:
    """Groups of variables that a text may use, to be put in by a click."""
    fields = EventField.objects.filter(type__name=event)
    of_event = [
        (_variable(f"eventContext.{one.code}"), str(one))
        for one in fields
        if one.value_type not in (EventField.Type.OBJECT, EventField.Type.LIST)
    ]
    return [
        {
            "label": f"from “{event}”" if event else "from the event",
            "items": of_event,
            "empty": "No such event has been seen with a context yet.",
        },
        {
            "label": "about the customer",
            "items": [(_variable(one.name), one.label) for one in VARIABLES]
            + [
                (_variable(f"attributes.{one.code}"), str(one))
                for one in Attribute.objects.all()
            ],
        },
    ]


def _variable(path: str) -> str:
    return f"{{{{ client.{path} }}}}"


def _texts(template_id: str | None) -> dict[str, Any]:
    """The texts of a saved template, to begin a step with."""
    if not template_id or not template_id.isascii() or not template_id.isdigit():
        return {}
    template = Template.objects.filter(pk=template_id).first()
    if template is None:
        return {}
    return {
        **{name: getattr(template, name) for name in FIELDS[template.channel]},
        "category": template.category.code if template.category else "",
        "missing": template.missing,
    }


def _has_filter(definition: Definition) -> bool:
    return any(step["action"] == "filter_customers" for step in definition["steps"])

"""Rejected events by their reason: see what is wrong, mend the cause, replay all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.core.exceptions import NON_FIELD_ERRORS, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.request import QueryDict
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.views.decorators.http import require_POST
from unfold.widgets import (
    UnfoldAdminRadioSelectWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from events import mappings, rejects, replays, schema
from events.admin.mappings import MappingForm
from events.declare import Declaration, Field, update_type
from events.models import (
    EventField,
    EventType,
    RejectedEvent,
    Replay,
    Source,
)
from events.rejects import Group, Which
from events.remedies import (
    Deed,
    context_of,
    field_as_sent,
    remedy,
    suggested_code,
    value_at,
)
from smartcomm.core.admin import JournalAdmin, storable
from smartcomm.core.errors import UserError

Status = RejectedEvent.Status

#: So many finished replays are shown, of the last day.
SHOWN_REPLAYS = 4
SHOWN_FOR = timedelta(days=1)

REPLAY = "events.change_rejectedevent"

# --- which of them --------------------------------------------------------------------


#: No source: numbers begin with 1.
NOBODY = 0


def which_of(asked: QueryDict) -> Which:
    """The rejected events that an address names; none, where it is not understood."""
    asked = storable(asked)
    source = asked.get("source", "")
    is_number = source.isascii() and source.isdigit()
    return Which(
        source=int(source) if is_number else NOBODY if source else None,
        kind=asked.get("kind"),
        code=asked.get("code"),
        field=asked.get("field"),
        name=asked.get("name"),
    )


def address(page: str, which: Which) -> str:
    """The address of a page about these."""
    url = reverse(f"admin:events_rejectedevent_{page}")
    query = urlencode(which.to_json())
    return f"{url}?{query}" if query else url


def rows_address(which: Which, status: str) -> str:
    """The journal of single rejected events, narrowed to these."""
    names = {"source": "source__id__exact", "kind": "kind__exact"}
    query = {names.get(name, name): value for name, value in which.to_json().items()}
    url = reverse("admin:events_rejectedevent_changelist")
    return f"{url}?{urlencode({'status__exact': status, **query})}"


# --- forms ----------------------------------------------------------------------------


class ReplayForm(forms.Form):
    """How to replay."""

    as_backfill = forms.BooleanField(
        label="Without triggering",
        required=False,
        help_text="Store them and count them in segments, but start no campaign.",
        widget=UnfoldBooleanSwitchWidget(),
    )


class RenameForm(ReplayForm):
    """What a field shall be called, and for which events."""

    code = forms.CharField(
        label="New field code",
        max_length=64,
        help_text="Letters, digits and underscores, not starting with a digit.",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )
    of_source = forms.ChoiceField(
        label="In events from",
        choices=[("this", "this source"), ("all", "any source")],
        initial="this",
        widget=UnfoldAdminRadioSelectWidget(),
    )
    of_event = forms.ChoiceField(
        label="In the event",
        choices=[("this", "this event"), ("all", "any event")],
        initial="this",
        widget=UnfoldAdminRadioSelectWidget(),
    )
    field_order = ["code", "of_source", "of_event", "as_backfill"]

    def __init__(self, group: Group, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group
        self.sent = field_as_sent(group.example)
        self.fields["code"].initial = suggested_code(self.sent)
        self.fields["of_source"].choices = [  # type: ignore[attr-defined]
            ("this", f"{group.source} only"),
            ("all", "any source"),
        ]
        self.fields["of_event"].choices = [  # type: ignore[attr-defined]
            ("this", f"“{group.name}” only"),
            ("all", "any event"),
        ]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if self.errors:
            return data
        form = MappingForm(
            {
                "source": self.group.source.pk if data["of_source"] == "this" else "",
                "event_name": self.group.name if data["of_event"] == "this" else "",
                "sent": self.sent,
                "code": data["code"],
            }
        )
        if not form.is_valid():
            for name, errors in form.errors.items():
                self.add_error("code" if name == "code" else None, errors)
            if form.has_error(NON_FIELD_ERRORS, "unique"):
                self.add_error(None, "Replay these events, or change the mapping.")
        self.mapping = form
        return data


class DeclareForm(ReplayForm):
    """The type of a field that is to be declared."""

    value_type = forms.ChoiceField(
        label="Type of value",
        choices=EventField.Type.choices,
        widget=UnfoldAdminSelectWidget(),
    )
    field_order = ["value_type", "as_backfill"]


class SetAsideForm(forms.Form):
    note = forms.CharField(
        label="Note",
        required=False,
        max_length=rejects.MAX_NOTE,
        help_text="Why they need no replay, for whoever looks later. May stay empty.",
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
    )


# --- what is shown --------------------------------------------------------------------


@dataclass(frozen=True)
class Button:
    label: str
    icon: str
    url: str
    is_main: bool = False


@dataclass(frozen=True)
class Shown:
    """A group as its card shows it."""

    group: Group
    title: str
    advice: str
    field: str
    example: str
    example_url: str
    rows_url: str
    buttons: list[Button]
    take_back_url: str = ""


def example_of(row: RejectedEvent) -> str:
    """What was sent, laid out to be read; as it came if it is not even JSON."""
    try:
        return json.dumps(json.loads(row.payload), indent=2, ensure_ascii=False)
    except ValueError:
        return row.payload


def show(group: Group, request: HttpRequest, *, status: str) -> Shown:
    found = remedy(group.code)
    may = request.user.has_perm
    buttons: list[Button] = []
    if status == Status.OPEN:
        for deed in found.deeds:
            buttons += _buttons(deed, group, may, is_main=not buttons)
        if may(REPLAY):
            buttons.append(
                Button("Replay…", "replay", address("replay_group", group.which))
            )
            buttons.append(
                Button("Set aside…", "archive", address("set_aside", group.which))
            )
    take_back = ""
    if status == Status.SET_ASIDE and may(REPLAY):
        take_back = address("take_back", group.which)
    return Shown(
        group=group,
        title=found.title,
        advice=found.advice,
        field=group.field.removeprefix("context."),
        example=example_of(group.example),
        example_url=reverse(
            "admin:events_rejectedevent_change", args=[group.example.pk]
        ),
        rows_url=rows_address(group.which, status),
        buttons=buttons,
        take_back_url=take_back,
    )


def _buttons(
    deed: Deed, group: Group, may: Callable[[str], bool], *, is_main: bool
) -> list[Button]:
    """The button for a deed, if there is something to do and one may do it."""

    def button(label: str, icon: str, url: str) -> list[Button]:
        return [Button(label, icon, url, is_main)]

    match deed:
        case Deed.RENAME if may(REPLAY) and may("events.add_fieldmapping"):
            return button(
                "Rename the field…", "edit", address("rename_field", group.which)
            )
        case Deed.DECLARE if may(REPLAY) and may("events.add_eventfield"):
            return button(
                "Declare the field…", "add_task", address("declare_field", group.which)
            )
        case Deed.CREATE_CUSTOMERS if may(REPLAY) and may("customers.add_customer"):
            return button(
                "Create these customers…",
                "person_add",
                address("create_customers", group.which),
            )
        case Deed.LET_CREATE if may(REPLAY) and may("events.change_source"):
            return button(
                "Let this source create customers…",
                "group_add",
                address("let_create", group.which),
            )
        case Deed.OPEN_TYPE if may("events.view_eventtype"):
            event_type = EventType.objects.filter(name=group.name).first()
            if event_type is not None:
                url = reverse("admin:events_eventtype_change", args=[event_type.pk])
                return button("Open the event type", "schema", url)
        case Deed.OPEN_MAPPINGS if may("events.view_fieldmapping"):
            url = reverse("admin:events_fieldmapping_changelist")
            return button("Open the field mappings", "sync_alt", url)
        case Deed.FIND_CUSTOMERS if may("customers.view_customer"):
            contact = contact_of(group.example)
            if contact:
                url = reverse("admin:customers_customer_changelist")
                return button(
                    "Show the customers who share it",
                    "group",
                    f"{url}?{urlencode({'q': contact})}",
                )
    return []


def contact_of(row: RejectedEvent) -> str:
    """The e-mail or phone by which an event names its customer."""
    try:
        data = json.loads(row.payload)
    except ValueError:
        return ""
    customer = data.get("customer") if isinstance(data, dict) else None
    if not isinstance(customer, dict):
        return ""
    found = customer.get("email") or customer.get("phone")
    return found if isinstance(found, str) else ""


def outcome(asked: Replay) -> tuple[str, int]:
    """What a replay has come to, as a sentence and its level."""
    told = [f"{asked.accepted:,} recorded" if asked.accepted else ""]
    told += [f"{asked.duplicates:,} were recorded before" if asked.duplicates else ""]
    told += [f"{asked.rejected:,} still refused" if asked.rejected else ""]
    sentence = ", ".join(part for part in told if part)
    if asked.status == Replay.Status.WAITING:
        so_far = f" So far: {sentence}." if sentence else ""
        return (
            f"{asked.total:,} are being replayed in the background; this page shows "
            f"how far it got.{so_far}",
            messages.INFO,
        )
    if not sentence:
        return "There was nothing open to replay.", messages.WARNING
    stored = asked.accepted + asked.duplicates
    good = stored and not asked.rejected
    return f"{sentence}.", messages.SUCCESS if good else messages.WARNING


# --- pages ----------------------------------------------------------------------------


class ReasonPages(JournalAdmin):
    """The pages of rejected events by reason, beside the journal of single ones."""

    def get_urls(self) -> list[Any]:
        def at(address: str, view: Callable[..., HttpResponse], name: str) -> Any:
            page = self.admin_site.admin_view(view)
            return path(address, page, name=f"events_rejectedevent_{name}")

        return [
            at("reasons/", self.groups, "groups"),
            at("reasons/replay/", self.replay_group, "replay_group"),
            at("reasons/rename/", self.rename_field, "rename_field"),
            at("reasons/declare/", self.declare_field, "declare_field"),
            at("reasons/create-customers/", self.create_customers, "create_customers"),
            at("reasons/let-create/", self.let_create, "let_create"),
            at("reasons/set-aside/", self.set_aside, "set_aside"),
            at("reasons/take-back/", require_POST(self.take_back), "take_back"),
            at("replays/", self.replays, "replays"),
            at("replays/<int:pk>/stop/", require_POST(self.stop), "stop_replay"),
            *super().get_urls(),
        ]

    # The groups

    def groups(self, request: HttpRequest) -> HttpResponse:
        self._may(request, "events.view_rejectedevent")
        status = Status.SET_ASIDE if request.GET.get("aside") else Status.OPEN
        which = which_of(request.GET)
        found = rejects.groups(which, status=status, limit=rejects.MAX_GROUPS + 1)
        shown = [
            show(group, request, status=status) for group in found[: rejects.MAX_GROUPS]
        ]
        return TemplateResponse(
            request,
            "events/rejected_groups.html",
            {
                **self.admin_site.each_context(request),
                "title": "Rejected events",
                "opts": self.opts,
                "shown": shown,
                "events": sum(one.group.count for one in shown),
                "is_cut": len(found) > len(shown),
                "is_aside": status == Status.SET_ASIDE,
                "which": which,
                "is_narrowed": bool(which.to_json()),
                "sources": Source.objects.values_list("pk", "name"),
                "codes": self._codes(status),
                "may_replay": request.user.has_perm(REPLAY),
                "replay_all_url": address("replay_group", which),
                "rows_url": rows_address(which, status),
                "mappings_url": reverse("admin:events_fieldmapping_changelist")
                if request.user.has_perm("events.view_fieldmapping")
                else "",
                **self._replays(),
            },
        )

    def _codes(self, status: str) -> list[tuple[str, str]]:
        rows = RejectedEvent.objects.filter(status=status).order_by()
        codes = rows.values_list("code", flat=True).distinct()
        return sorted((code, remedy(code).title) for code in codes)

    # Replays

    def replays(self, request: HttpRequest) -> HttpResponse:
        """How far replays got; asked again every two seconds while one is under way."""
        self._may(request, "events.view_rejectedevent")
        context = self._replays()
        answer = TemplateResponse(
            request,
            "events/_replays.html",
            {**context, "may_replay": request.user.has_perm(REPLAY)},
        )
        if not context["is_under_way"]:
            # The groups have changed with it.
            answer["HX-Refresh"] = "true"
        return answer

    def _replays(self) -> dict[str, Any]:
        since = timezone.now() - SHOWN_FOR
        waiting = list(
            Replay.objects.filter(status=Replay.Status.WAITING).order_by("pk")
        )
        ended = Replay.objects.exclude(status=Replay.Status.WAITING)
        ended = ended.filter(created_at__gte=since).order_by("-pk")
        return {
            "replays": [*waiting, *ended[:SHOWN_REPLAYS]],
            "is_under_way": bool(waiting),
        }

    def stop(self, request: HttpRequest, pk: int) -> HttpResponse:
        self._may(request, REPLAY)
        if replays.stop_replay(pk, now=timezone.now()):
            self.message_user(
                request, "The replay is stopped. What was replayed stays so."
            )
        return self._to_groups()

    # Deeds

    def replay_group(self, request: HttpRequest) -> HttpResponse:
        self._may(request, REPLAY)
        which = which_of(request.GET)
        form = ReplayForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            return self.begin(request, which, form)
        return self._ask(
            request,
            which,
            title="Replay these events?",
            text="They are sent through the same door again. What is no longer refused "
            "is recorded; what still is stays here, with the reason of today.",
            verb="Replay",
            form=form,
        )

    def rename_field(self, request: HttpRequest) -> HttpResponse:
        self._may(request, REPLAY, "events.add_fieldmapping")
        group = self._group(request, "field_code_invalid", "field_unknown")
        form = RenameForm(group, request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            mapping = form.mapping.save()
            mappings.forget()
            self.log_addition(request, mapping, f"Renamed {mapping}.")
            self.message_user(
                request,
                f"From now on “{mapping.sent}” is renamed to “{mapping.code}” as it "
                f"arrives, everywhere within {mappings.TRUSTED_SECONDS:.0f} seconds.",
                messages.SUCCESS,
            )
            return self.begin(request, group.which, form)
        return self._ask(
            request,
            group.which,
            group=group,
            title="Rename the field",
            text="A field mapping is made: events that come with the old name are "
            "renamed as they arrive, before they are checked. These events are "
            "replayed with it at once.",
            sent=form.sent,
            verb="Rename and replay",
            form=form,
        )

    def declare_field(self, request: HttpRequest) -> HttpResponse:
        self._may(request, REPLAY, "events.add_eventfield")
        group = self._group(request, "field_unknown")
        event_type = EventType.objects.filter(name=group.name).first()
        code = field_as_sent(group.example)
        if event_type is None:
            raise Http404("Its event type is not there any more.")
        value = value_at(context_of(group.example), code)
        form = DeclareForm(
            request.POST if request.method == "POST" else None,
            initial={"value_type": schema.type_of(value) or EventField.Type.STRING},
        )
        if request.method == "POST" and form.is_valid():
            field = Field(code, type=EventField.Type(form.cleaned_data["value_type"]))
            try:
                update_type(event_type, Declaration(fields=(field,)))
            except UserError as error:
                self.message_user(request, error.message, messages.ERROR)
                return self._to_groups()
            self.log_change(request, event_type, f"Declared the field {code}.")
            self.message_user(
                request,
                f"“{code}” is declared for “{event_type}”.",
                messages.SUCCESS,
            )
            return self.begin(request, group.which, form)
        return self._ask(
            request,
            group.which,
            group=group,
            title=f"Declare “{code}”",
            text=f"Events “{event_type}” may carry it from now on. These events are "
            "replayed at once.",
            verb="Declare and replay",
            form=form,
        )

    def create_customers(self, request: HttpRequest) -> HttpResponse:
        self._may(request, REPLAY, "customers.add_customer")
        group = self._group(request, "customer_unknown")
        form = ReplayForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            return self.begin(request, group.which, form, create_customers=True)
        return self._ask(
            request,
            group.which,
            group=group,
            title="Create these customers?",
            text="Each customer these events name, and we do not know, is created with "
            "nothing but the ID, until a source tells who they are. The events are "
            "recorded for them at once. The source itself may still not create any.",
            verb="Create and replay",
            form=form,
        )

    def let_create(self, request: HttpRequest) -> HttpResponse:
        self._may(request, REPLAY, "events.change_source")
        group = self._group(request, "customer_unknown")
        source = group.source
        form = ReplayForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            source.unknown_customers = Source.UnknownCustomers.CREATE
            source.save(update_fields=["unknown_customers"])
            self.log_change(
                request, source, "Unknown customers are created from now on."
            )
            self.message_user(
                request,
                f"Events from {source} create the customers they name from now on.",
                messages.SUCCESS,
            )
            return self.begin(request, group.which, form)
        return self._ask(
            request,
            group.which,
            group=group,
            title=f"Let {source} create customers?",
            text="From now on an event of an unknown customer creates one with nothing "
            "but the ID. These events are replayed at once.",
            verb="Let it, and replay",
            form=form,
        )

    def set_aside(self, request: HttpRequest) -> HttpResponse:
        self._may(request, REPLAY)
        which = which_of(request.GET)
        form = SetAsideForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            count = rejects.set_aside(
                which,
                by=request.user.get_username(),
                note=form.cleaned_data["note"].strip(),
                now=timezone.now(),
            )
            self.message_user(
                request,
                f"{events(count)} set aside. Nothing is deleted.",
                messages.SUCCESS,
            )
            return self._to_groups()
        return self._ask(
            request,
            which,
            title="Set these events aside?",
            text="They need no replay, and no longer stand among those to be mended. "
            "They are kept whole, and can be taken back at any time.",
            verb="Set aside",
            form=form,
        )

    def take_back(self, request: HttpRequest) -> HttpResponse:
        self._may(request, REPLAY)
        count = rejects.take_back(which_of(request.GET))
        self.message_user(request, f"{events(count)} open again.", messages.SUCCESS)
        return self._to_groups()

    def begin(
        self,
        request: HttpRequest,
        which: Which,
        form: forms.Form,
        *,
        create_customers: bool = False,
        back: str = "",
    ) -> HttpResponse:
        """Replay, as far as a request has time for it, and say what it came to."""
        asked = replays.begin_replay(
            which,
            by=request.user.get_username(),
            now=timezone.now(),
            as_backfill=form.cleaned_data.get("as_backfill", False),
            create_customers=create_customers,
        )
        self.message_user(request, *outcome(asked))
        return HttpResponseRedirect(back) if back else self._to_groups()

    # Parts of pages

    def _ask(
        self,
        request: HttpRequest,
        which: Which,
        *,
        title: str,
        text: str,
        verb: str,
        form: forms.Form,
        group: Group | None = None,
        sent: str = "",
        back: str = "",
    ) -> HttpResponse:
        """The page that says what will happen, and asks."""
        found = [group] if group else rejects.groups(which, limit=2)
        return TemplateResponse(
            request,
            "events/rejected_deed.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": title,
                "text": text,
                "verb": verb,
                "form": form,
                "sent": sent,
                "count": found[0].count if len(found) == 1 else which.rows().count(),
                "group": found[0] if len(found) == 1 else None,
                "reason": remedy(found[0].code).title if len(found) == 1 else "",
                "replays": isinstance(form, ReplayForm),
                "page": back or reverse("admin:events_rejectedevent_groups"),
            },
        )

    def _group(self, request: HttpRequest, *codes: str) -> Group:
        """The one group that the address names, which must be of one of the codes."""
        found = rejects.groups(which_of(request.GET), limit=1)
        if not found or found[0].code not in codes:
            raise Http404("There are no such rejected events any more.")
        return found[0]

    def _may(self, request: HttpRequest, *permissions: str) -> None:
        if not request.user.has_perms(permissions):
            raise PermissionDenied

    def _to_groups(self) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:events_rejectedevent_groups"))


def events(count: int) -> str:
    return "1 event is" if count == 1 else f"{count:,} events are"

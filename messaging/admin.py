"""The journal of messages, templates, and what the installation decided."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST
from unfold.decorators import display
from unfold.widgets import (
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from customers import search
from customers.models import Attribute, Channel, Customer, MailingCategory
from events.models import Event, EventField, EventType, SystemEvent
from messaging import answers, askers, channels, contract, queue, render, suppressions
from messaging.language import TemplateError
from messaging.models import (
    ChannelSettings,
    Content,
    Delivery,
    Hold,
    Message,
    Suppression,
    Template,
)
from messaging.preview import draft_from, preview, secured
from messaging.story import story_of
from smartcomm.core.admin import JournalAdmin, ModelAdmin, SinceFilter
from smartcomm.core.clock import database_now
from smartcomm.core.errors import UserError
from smartcomm.core.look import badge, link, quiet, to_the_minute

ICONS = {Channel.EMAIL: "mail", Channel.SMS: "sms", Channel.PUSH: "notifications"}
TONES = {
    Message.Status.QUEUED: "info",
    Message.Status.SENDING: "info",
    Message.Status.SENT: "good",
    Message.Status.DELIVERED: "good",
    Message.Status.OPENED: "good",
    Message.Status.CLICKED: "good",
    Message.Status.FAILED: "bad",
    Message.Status.SUPPRESSED: "warn",
    Message.Status.UNKNOWN: "warn",
}


def _unbroken(html: SafeString) -> SafeString:
    return format_html('<span class="sc-nowrap">{}</span>', html)


def channel_badge(channel: str) -> SafeString:
    return badge(Channel(channel).label, icon=ICONS[Channel(channel)])


# --- the journal ------------------------------------------------------------------


class CreatedFilter(SinceFilter):
    title = "created"
    time = "created_at"


class CampaignFilter(admin.SimpleListFilter):
    title = "campaign"
    parameter_name = "campaign"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        known = dict(askers.recent(100))
        chosen = _number(request.GET.get(self.parameter_name))
        if chosen is not None and chosen not in known:
            known |= askers.named([chosen])
            known.setdefault(chosen, askers.Asker(f"Campaign {chosen}", ""))
        return [(str(pk), asker.name) for pk, asker in known.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = _number(self.value())
        return queryset if chosen is None else queryset.filter(campaign_id=chosen)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


@admin.register(Message)
class MessageAdmin(JournalAdmin):
    list_display: ClassVar = ["made", "who", "gist", "channel_", "state", "asker"]
    list_display_links: ClassVar = ["made"]
    list_select_related: ClassVar = ["customer"]
    list_filter: ClassVar = [
        "channel",
        "status",
        "reason",
        CampaignFilter,
        CreatedFilter,
        "is_test",
    ]
    search_fields: ClassVar = ["customer__external_id"]  # Switches the box on.
    search_help_text = "A customer: ID, e-mail, phone or name, or how it begins"
    actions: ClassVar = ["queue_again"]
    actions_on_top = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        messages_: QuerySet[Message] = super().get_queryset(request)
        return messages_.defer("html", "image", "link", "provider_id")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        listed = super().get_changelist_instance(request)
        names = askers.named(message.campaign_id for message in listed.result_list)
        for message in listed.result_list:
            message.asker = names.get(message.campaign_id)
        return listed

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        exactly = Customer.objects.filter(external_id=term)
        found = list(exactly.values_list("pk", flat=True))
        if not found:
            matches = search.find(Customer.objects.all(), term)
            found = list(matches.values_list("pk", flat=True)[:200])
        return queryset.filter(customer_id__in=found), False

    @display(description="Created")
    def made(self, message: Message) -> SafeString:
        return to_the_minute(message.created_at)

    @display(description="Customer")
    def who(self, message: Message) -> SafeString:
        if not message.customer_id:
            return quiet("–")
        url = reverse("admin:customers_customer_change", args=[message.customer_id])
        return _unbroken(link(url, message.customer))

    @display(description="Message")
    def gist(self, message: Message) -> SafeString:
        text = message.subject or message.body
        if not text:
            return quiet("not written")
        text = text if len(text) <= 70 else text[:69] + "…"
        return format_html('<span class="sc-wrap">{}</span>', text)

    @display(description="Channel")
    def channel_(self, message: Message) -> SafeString:
        if message.is_test:
            return format_html("{} {}", channel_badge(message.channel), badge("test"))
        return channel_badge(message.channel)

    @display(description="Status")
    def state(self, message: Message) -> SafeString:
        label = message.get_status_display()
        if message.reason:
            label = f"{label}: {message.get_reason_display().lower()}"
        return badge(label, TONES[Message.Status(message.status)])

    @display(description="Campaign")
    def asker(self, message: Any) -> SafeString:
        if message.campaign_id is None:
            return quiet("–")
        if message.asker is None:
            return quiet(f"Campaign {message.campaign_id}")
        return _unbroken(link(message.asker.url, message.asker.name))

    def has_queue_again_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("messaging.change_message")

    @admin.action(
        description="Queue failed messages again", permissions=["queue_again"]
    )
    def queue_again(self, request: HttpRequest, queryset: QuerySet[Message]) -> None:
        self._queue_again(request, list(queryset.values_list("pk", flat=True)))

    def _queue_again(self, request: HttpRequest, ids: list[int]) -> None:
        again = queue.queue_again(ids, now=database_now())
        if again:
            for message in Message.objects.filter(pk__in=ids):
                self.log_change(request, message, "Queued again.")
            self.message_user(
                request,
                f"{again} queued again, for one more attempt.",
                messages.SUCCESS,
            )
        if again < len(ids):
            self.message_user(
                request,
                f"{len(ids) - again} left alone: only failed messages can be queued "
                "again. Of all others it is known, or possible, that they went out.",
                messages.WARNING,
            )

    def get_urls(self) -> list[Any]:
        return [
            path(
                "<int:pk>/queue-again/",
                self.admin_site.admin_view(require_POST(self.queue_one_again)),
                name="messaging_message_queue_again",
            ),
            *super().get_urls(),
        ]

    def queue_one_again(self, request: HttpRequest, pk: int) -> HttpResponse:
        if not self.has_queue_again_permission(request):
            raise PermissionDenied
        self._queue_again(request, [pk])
        page = reverse("admin:messaging_message_change", args=[pk])
        return HttpResponseRedirect(page)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """One message: what became of it and why, and how it looks."""
        message = self.get_object(request, object_id)
        if message is None:
            gone: HttpResponse = self._get_obj_does_not_exist_redirect(
                request, self.opts, object_id
            )
            return gone
        if not self.has_view_permission(request, message):
            raise PermissionDenied
        status = Message.Status(message.status)
        deliveries = Delivery.objects.filter(message=message).order_by("pk")
        is_held = Hold.objects.filter(campaign_id=message.campaign_id).exists()
        asker = askers.named([message.campaign_id]).get(message.campaign_id)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": message,
            "title": "",
            "message": message,
            "customer": Customer.objects.filter(pk=message.customer_id).first(),
            "icon": ICONS[Channel(message.channel)],
            "tone": TONES[status],
            "asker": asker,
            "event": self._event(message),
            "story": story_of(message, list(deliveries), is_held=is_held),
            "shown": self._shown(message),
            "may_queue_again": status == Message.Status.FAILED
            and self.has_queue_again_permission(request),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "messaging/message.html", context)

    def _event(self, message: Message) -> Event | SystemEvent | None:
        if message.event_id is not None:
            events = Event.objects.select_related("type")
            return events.filter(pk=message.event_id).first()
        if message.system_event_id is not None:
            system_events = SystemEvent.objects.select_related("type")
            return system_events.filter(pk=message.system_event_id).first()
        return None

    def _shown(self, message: Message) -> dict[str, Any]:
        """What was sent; or else what it would look like if it were sent now."""
        shown = {"channel": message.channel, "was_sent": True}
        if message.attempts:
            return {**shown, **_look(message)}
        customer = Customer.objects.filter(pk=message.customer_id).first()
        content = Content.objects.filter(pk=message.content_id).first()
        if customer is None or content is None:
            return {}
        event = self._event(message)
        try:
            rendered = render.render(
                content,
                customer=customer,
                context=event.context if event else None,
                event_name=event.type.name if event else None,
                occurred_at=event.occurred_at if event else None,
                answers=answers.of_runs(
                    {message.run_id: message.customer_id} if message.run_id else {}
                ).get(message.run_id or 0),
            )
        except TemplateError as error:
            return {**shown, "was_sent": False, "error": error.message}
        return {
            **shown,
            "was_sent": False,
            "missing": rendered.missing,
            **_look(rendered),
        }


def _look(rendered: Message | render.Rendered) -> dict[str, str]:
    """What messaging/_shown.html needs of a rendered text."""
    return {
        "subject": rendered.subject,
        "body": rendered.body,
        "html": secured(rendered.html) if rendered.html else "",
        "link": rendered.link,
        "image": rendered.image,
    }


# --- templates --------------------------------------------------------------------


def _textarea(rows: int, placeholder: str = "", *, code: bool = False) -> forms.Widget:
    return UnfoldAdminTextareaWidget(
        attrs={
            "rows": rows,
            "placeholder": placeholder,
            "data-takes-variables": "",
            **({"class": "sm-code", "spellcheck": "false"} if code else {}),
        }
    )


def _line(placeholder: str = "") -> forms.Widget:
    attrs = {"placeholder": placeholder, "data-takes-variables": ""}
    return UnfoldAdminTextInputWidget(attrs=attrs)


class TemplateForm(forms.ModelForm):
    """The texts of one channel. Which one is decided before the form is shown."""

    channel = forms.ChoiceField(choices=Channel, widget=forms.HiddenInput)

    class Meta:
        model = Template
        fields: ClassVar = [
            "channel",
            "name",
            "subject",
            "html",
            "title",
            "text",
            "link",
            "image",
            "category",
            "missing",
        ]
        widgets: ClassVar = {
            "subject": _line("{{ client.eventContext.name }} is back"),
            "html": _textarea(14, "<p>Dear {{ client.firstName }}, …</p>", code=True),
            "title": _line(),
            "text": _textarea(5, "Dear {{ client.firstName }}, …"),
            "link": _line("https://"),
            "image": _line("https://"),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        channel = self.channel_in_hand
        for name in {name for names in render.FIELDS.values() for name in names}:
            if name not in render.FIELDS[channel]:
                self.fields.pop(name, None)
        self.fields["channel"].initial = channel
        category = self.fields.get("category")
        if isinstance(category, forms.ModelChoiceField):
            category.queryset = MailingCategory.objects.filter(is_active=True)
            category.empty_label = "None: the channel's consent is enough"

    @property
    def channel_in_hand(self) -> str:
        if self.instance.pk:
            return str(self.instance.channel)
        asked = self.data.get("channel") or self.initial.get("channel") or ""
        return asked if asked in render.FIELDS else Channel.EMAIL

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        channel = self.channel_in_hand
        texts = {name: cleaned.get(name, "") for name in render.FIELDS[channel]}
        for problem in render.problems(channel, texts):
            self.add_error(problem.field, problem.message)
        return cleaned


@admin.register(Template)
class TemplateAdmin(ModelAdmin):
    form = TemplateForm
    change_form_template = "messaging/template_form.html"
    compressed_fields = False
    list_display: ClassVar = ["name", "channel_", "gist", "updated"]
    list_filter: ClassVar = ["channel", "category"]
    search_fields: ClassVar = ["name"]

    class Media:
        css: ClassVar = {"all": ["messaging/messaging.css"]}
        js: ClassVar = ["messaging/templates.js"]

    @display(description="Channel")
    def channel_(self, template: Template) -> SafeString:
        return channel_badge(template.channel)

    @display(description="Text")
    def gist(self, template: Template) -> SafeString:
        text = template.subject or template.title or template.text
        text = text if len(text) <= 70 else text[:69] + "…"
        return format_html('<span class="sc-wrap">{}</span>', text)

    @display(description="Changed", ordering="updated_at")
    def updated(self, template: Template) -> SafeString:
        return to_the_minute(template.updated_at)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        channel = obj.channel if obj else self._channel(request)
        return [
            (None, {"fields": ["channel", "name"]}),
            (
                Channel(channel).label,
                {"fields": [*render.FIELDS[channel], "category", "missing"]},
            ),
        ]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {
            **super().get_changeform_initial_data(request),
            "channel": self._channel(request),
        }

    def _channel(self, request: HttpRequest) -> str:
        asked = request.POST.get("channel") or request.GET.get("channel") or ""
        return asked if asked in render.FIELDS else Channel.EMAIL

    def add_view(
        self,
        request: HttpRequest,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        if request.method == "GET" and "channel" not in request.GET:
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": "New template",
                "choices": [
                    (channel, ICONS[channel], CHANNEL_HINTS[channel])
                    for channel in Channel
                ],
            }
            return TemplateResponse(request, "messaging/new_template.html", context)
        return super().add_view(request, form_url, extra_context)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        template = context.get("original")
        chosen = request.POST.get("event_name")
        if chosen is None:
            chosen = likely_event(template) if template else ""
        context |= {
            "event_names": EventType.objects.values_list("name", flat=True),
            "chosen_event": chosen,
            "offered": offered(chosen),
            "own_address": self._own_address(request, context),
        }
        return super().render_change_form(request, context, *args, **kwargs)

    def _own_address(self, request: HttpRequest, context: dict[str, Any]) -> str:
        template = context.get("original")
        channel = template.channel if template else self._channel(request)
        email = getattr(request.user, "email", "")
        return str(email) if channel == Channel.EMAIL else ""

    def save_model(
        self, request: HttpRequest, obj: Any, form: Any, change: Any
    ) -> None:
        super().save_model(request, obj, form, change)
        texts = [getattr(obj, name) for name in render.FIELDS[obj.channel]]
        chosen = request.POST.get("event_name", "")
        for finding in contract.check(texts, chosen):
            self.message_user(request, finding.message, messages.WARNING)

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path(
                "preview/", wrap(require_POST(self.preview)), name="messaging_preview"
            ),
            path("test/", wrap(require_POST(self.send_test)), name="messaging_test"),
            path("variables/", wrap(self.variables), name="messaging_variables"),
            *super().get_urls(),
        ]

    def preview(self, request: HttpRequest) -> HttpResponse:
        """The texts of a form as a customer gets them: see messaging/_preview.html."""
        _ask_for(request.user, "customers.view_customer", "events.view_event")
        data = request.POST
        draft = draft_from(data)
        if draft.channel not in render.FIELDS:
            return HttpResponse("There is no such channel.", status=422)
        shown = preview(
            draft,
            external_id=data.get("customer", "").strip(),
            event_name=data.get("event_name", ""),
            event=_chosen_event(data.get("event"), data.get("system_event")),
        )
        context = {
            "preview": shown,
            "shown": {
                "channel": shown.channel,
                "missing": shown.rendered.missing,
                **_look(shown.rendered),
            },
            "error_label": render.LABELS.get(shown.error_field, ""),
        }
        return TemplateResponse(request, "messaging/_previewed.html", context)

    def send_test(self, request: HttpRequest) -> HttpResponse:
        """Queue the texts of a form as a test, to an address of one's own."""
        _ask_for(request.user, "customers.view_customer", "messaging.change_template")
        data = request.POST
        draft = draft_from(data)
        if draft.channel not in render.FIELDS:
            return HttpResponse("There is no such channel.", status=422)
        shown = preview(
            draft,
            external_id=data.get("customer", "").strip(),
            event_name=data.get("event_name", ""),
            event=_chosen_event(data.get("event"), data.get("system_event")),
        )
        problem, message = shown.error, None
        address = data.get("address", "").strip()
        if not problem and not address:
            problem = "Say where to send it."
        if not problem and shown.customer is not None:
            try:
                message = queue.send_test(
                    _as_content(data),
                    customer=shown.customer,
                    event=shown.event,
                    address=address,
                    now=timezone.now(),
                )
            except UserError as error:
                problem = error.message
        context = {"message": message, "problem": problem, "address": address}
        return TemplateResponse(request, "messaging/_tested.html", context)

    def variables(self, request: HttpRequest) -> HttpResponse:
        """What the texts may use, for an event by name."""
        _ask_for(request.user, "events.view_eventtype")
        context = {"offered": offered(request.GET.get("event_name", ""))}
        return TemplateResponse(request, "messaging/_variables.html", context)


CHANNEL_HINTS = {
    Channel.EMAIL: "A subject, HTML, and a plain text beside it.",
    Channel.SMS: "A short text to a phone number.",
    Channel.PUSH: "A title, a text, a link and a picture, to a device.",
}


def _ask_for(user: AbstractBaseUser | AnonymousUser, *permissions: str) -> None:
    if not all(user.has_perm(permission) for permission in permissions):  # type: ignore[union-attr]
        raise PermissionDenied


def _chosen_event(
    event: str | None, system_event: str | None
) -> Event | SystemEvent | None:
    if (pk := _number(event)) is not None:
        events = Event.objects.select_related("type", "customer")
        return events.filter(pk=pk).first()
    if (pk := _number(system_event)) is not None:
        system_events = SystemEvent.objects.select_related("type")
        return system_events.filter(pk=pk).first()
    return None


def _as_content(data: Any) -> Template:
    draft = draft_from(data)
    return Template(
        channel=draft.channel,
        missing=data.get("missing") or Template._meta.get_field("missing").default,
        **{name: getattr(draft, name) for name in render.FIELDS[draft.channel]},
    )


def likely_event(template: Template) -> str:
    """The name of the event that carries most of what a template asks for."""
    codes: set[str] = set()
    for name in render.FIELDS[template.channel]:
        with suppress(TemplateError):
            codes |= {
                variable.removeprefix(contract.CONTEXT)
                for variable in render.variables(getattr(template, name))
                if variable.startswith(contract.CONTEXT)
            }
    if not codes:
        return ""
    fields = EventField.objects.filter(code__in=codes).order_by()
    carried = fields.values("type__name").annotate(many=Count("pk"))
    best = carried.order_by("-many", "type__name").first()
    return best["type__name"] if best else ""


def offered(event_name: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Variables to choose from: group, then name and label. Three queries."""
    groups = [
        (
            "Customer",
            [(f"client.{one.name}", one.label) for one in render.VARIABLES],
        ),
        (
            "Attributes",
            [
                (f"client.attributes.{attribute.code}", str(attribute))
                for attribute in Attribute.objects.all()
            ],
        ),
    ]
    if event_name:
        fields = EventField.objects.filter(type__name=event_name)
        groups.insert(
            0,
            (
                "Event",
                [
                    *((f"client.eventContext.{one.code}", str(one)) for one in fields),
                    ("client.event.name", "Name of the event"),
                    ("client.event.occurredAt", "When it occurred"),
                ],
            ),
        )
    return [(name, variables) for name, variables in groups if variables]


# --- what the installation decided ------------------------------------------------


class SuppressionForm(forms.ModelForm):
    class Meta:
        model = Suppression
        fields: ClassVar = ["channel", "address", "reason"]
        widgets: ClassVar = {"address": UnfoldAdminTextInputWidget()}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("channel") and cleaned.get("address"):
            key = suppressions.key(cleaned["channel"], cleaned["address"])
            cleaned["address"] = key
            if not key:
                self.add_error("address", "This is not an address.")
        return cleaned


@admin.register(Suppression)
class SuppressionAdmin(ModelAdmin):
    """Addresses that nobody writes to, whatever consents say."""

    form = SuppressionForm
    list_display: ClassVar = ["address", "channel_", "reason", "since"]
    list_filter: ClassVar = ["channel"]
    ordering: ClassVar = ["-pk"]
    search_fields: ClassVar = ["address"]
    search_help_text = "A whole address"

    @display(description="Channel")
    def channel_(self, suppression: Suppression) -> SafeString:
        return channel_badge(suppression.channel)

    @display(description="Since")
    def since(self, suppression: Suppression) -> SafeString:
        return to_the_minute(suppression.created_at)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if term := search_term.strip():
            keys = {suppressions.key(channel, term) for channel in Channel.values}
            queryset = queryset.filter(address__in=keys)
        return queryset, False


@admin.register(ChannelSettings)
class ChannelSettingsAdmin(ModelAdmin):
    """One row a channel: they are there from the beginning, and stay."""

    list_display: ClassVar = ["channel_", "default_consent_", "ttl", "provider"]
    list_display_links: ClassVar = ["channel_"]
    fields: ClassVar = ["default_consent", "ttl_hours"]
    ordering: ClassVar = ["channel"]
    list_fullwidth = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[ChannelSettings]:
        ChannelSettings.objects.bulk_create(
            [ChannelSettings(channel=channel) for channel in Channel],
            ignore_conflicts=True,
        )
        rows: QuerySet[ChannelSettings] = super().get_queryset(request)
        return rows

    @display(description="Channel")
    def channel_(self, row: ChannelSettings) -> SafeString:
        return channel_badge(row.channel)

    @display(description="Customers who never answered")
    def default_consent_(self, row: ChannelSettings) -> SafeString:
        if row.default_consent:
            return badge("are written to", "warn")
        return badge("are not written to", "good")

    @display(description="Time to live")
    def ttl(self, row: ChannelSettings) -> str:
        return f"{row.ttl_hours} hours" if row.ttl_hours != 1 else "1 hour"

    @display(description="Provider")
    def provider(self, row: ChannelSettings) -> str:
        name = channels.provider_class(row.channel).name
        if name == "outbox":
            return "Local outbox: counts as sent, nothing leaves the house"
        return name

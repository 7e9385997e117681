"""A customer's profile: who they are, how they may be reached, and all that happened.

The one page that knows of every app, so it stands at the top and not in customers: it
takes the place of the ordinary change page, and the form moves to `edit/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from itertools import groupby
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet, prefetch_related_objects
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, path, reverse
from django.utils import formats, timezone
from django.utils.dateparse import parse_date

from campaigns.models import Campaign, Run
from customers.admin import CustomerAdmin
from customers.models import Attribute, Channel, Consent, Customer, MailingCategory
from events import history
from events.models import EventField, Kind
from messaging.models import ChannelSettings, Message, Suppression
from segments.models import Segment
from smartcomm.core.errors import UserError
from smartcomm.core.paging import (
    Page,
    Place,
    Stream,
    merge,
    newest_below,
    read_cursor,
)
from smartcomm.site import membership

PER_PAGE = 30

#: Beside history.SYSTEM_EVENTS and history.CUSTOMER_EVENTS: at the same moment the
#: event comes first, then the run it started, then the message of the run.
RUNS, MESSAGES = 3, 4


# --- the time line ----------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of the time line, ready to be shown."""

    place: Place
    kind: str
    label: str
    icon: str
    title: str
    at: datetime
    url: str = ""
    gist: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    facts: Sequence[tuple[str, Any]] = ()
    badge: tuple[str, str] | None = None
    text: str = ""


#: What the filter offers; the first is everything.
KINDS = {
    "": "Everything",
    "event": "Events",
    "system": "System events",
    "run": "Campaign runs",
    "message": "Messages",
}


@dataclass(frozen=True)
class Asked:
    """What the filters of the time line were set to."""

    kind: str = ""
    name: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None
    since_text: str = ""
    until_text: str = ""

    @classmethod
    def read(cls, request: HttpRequest) -> Asked:
        """Read the query string; what is not understood in it is left out."""
        kind = request.GET.get("kind", "")
        since, until = _day(request.GET.get("since")), _day(request.GET.get("until"))
        return cls(
            kind=kind if kind in KINDS else "",
            name=request.GET.get("name", "")[:128],
            text=request.GET.get("text", "").strip()[:200],
            since=since,
            until=until + timedelta(days=1) if until else None,
            since_text=since.date().isoformat() if since else "",
            until_text=until.date().isoformat() if until else "",
        )

    @property
    def is_anything(self) -> bool:
        return bool(self.kind or self.name or self.text or self.since or self.until)


def _day(text: str | None) -> datetime | None:
    try:
        day = parse_date(text or "")
        return timezone.make_aware(datetime.combine(day, time())) if day else None
    except (ValueError, OverflowError):
        return None


def timeline(
    customer: Customer, asked: Asked, *, before: str, limit: int = PER_PAGE
) -> Page[Line]:
    """The customer's events, system events, runs and messages, newest first."""
    streams: dict[int, Stream[Any]] = {}
    within = {"since": asked.since, "until": asked.until, "text": asked.text}
    if asked.kind in ("", "event", "system"):
        found = history.streams(customer, name=asked.name, **within)  # type: ignore[arg-type]
        if asked.kind:
            wanted = "event" if asked.kind == "event" else "system"
            number = {
                "event": history.CUSTOMER_EVENTS,
                "system": history.SYSTEM_EVENTS,
            }[wanted]
            found = {number: found[number]} if number in found else {}
        streams |= found
    if not asked.name:
        if asked.kind in ("", "run"):
            streams[RUNS] = _runs(customer, asked)
        if asked.kind in ("", "message"):
            streams[MESSAGES] = _messages(customer, asked)
    page = merge(streams, before=before, limit=limit)
    return Page(_lines(page.items), page.next)


@dataclass(frozen=True)
class _Found:
    """A row of a stream with its place."""

    row: Any
    place: Place


def _runs(customer: Customer, asked: Asked) -> Stream[_Found]:
    rows = Run.objects.filter(customer=customer)
    rows = rows.select_related("campaign", "version", "step")
    if asked.text:
        rows = rows.filter(
            Q(campaign__name__icontains=asked.text) | Q(reason__icontains=asked.text)
        )
    return _stream(rows, RUNS, "started_at", asked)


def _messages(customer: Customer, asked: Asked) -> Stream[_Found]:
    rows = Message.objects.filter(customer=customer).select_related("content")
    rows = rows.defer("html", "content__html")
    if asked.text:
        rows = rows.filter(
            Q(subject__icontains=asked.text)
            | Q(body__icontains=asked.text)
            | Q(detail__icontains=asked.text)
        )
    return _stream(rows, MESSAGES, "created_at", asked)


def _stream(
    rows: QuerySet[Any], number: int, at: str, asked: Asked
) -> Stream[_Found]:
    if asked.since is not None:
        rows = rows.filter(**{f"{at}__gte": asked.since})
    if asked.until is not None:
        rows = rows.filter(**{f"{at}__lt": asked.until})

    def fetch(bound: tuple[datetime, int] | None, limit: int) -> list[_Found]:
        return [
            _Found(row, Place(getattr(row, at), number, row.pk))
            for row in newest_below(rows, at, bound, limit)
        ]

    return fetch


def _lines(items: Sequence[Any]) -> list[Line]:
    types = {item.type_id for item in items if isinstance(item, history.Item)}
    labels: dict[int, dict[str, str]] = {}
    fields = EventField.objects.filter(type_id__in=types).exclude(label="")
    for type_id, code, label in fields.values_list("type_id", "code", "label"):
        labels.setdefault(type_id, {})[code] = label
    asked_by = {
        found.row.campaign_id
        for found in items
        if isinstance(found, _Found) and isinstance(found.row, Message)
    }
    campaigns = dict(Campaign.objects.filter(pk__in=asked_by).values_list("pk", "name"))
    lines = []
    for item in items:
        if isinstance(item, history.Item):
            lines.append(_event_line(item, labels.get(item.type_id, {})))
        elif isinstance(item.row, Message):
            lines.append(_message_line(item, campaigns))
        else:
            lines.append(_run_line(item))
    return lines


def _event_line(item: history.Item, labels: dict[str, str]) -> Line:
    own = item.kind == Kind.CUSTOMER
    model = "event" if own else "systemevent"
    facts: list[tuple[str, Any]] = [
        ("Source", item.source),
        ("Received", item.received_at),
        ("ID", item.id),
    ]
    return Line(
        place=item.place,
        kind="event" if own else "system",
        label="Event" if own else "System event",
        icon="bolt" if own else "cell_tower",
        title=item.name,
        at=item.occurred_at,
        url=reverse(f"admin:events_{model}_change", args=[item.pk]),
        gist=_gist(item.context, labels),
        context=item.context,
        labels=labels,
        facts=facts,
        badge=("backfill", "plain") if item.is_backfill else None,
    )


def _gist(context: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    """The first few plain values, for the line before it is opened."""
    plain = (
        (labels.get(code) or code, value)
        for code, value in context.items()
        if isinstance(value, str | int | float) and value != ""
    )
    return dict([pair for pair, _ in zip(plain, range(4), strict=False)])


RUN_TONES = {
    Run.Status.WAITING: "info",
    Run.Status.FINISHED: "good",
    Run.Status.FAILED: "bad",
}


def _run_line(found: _Found) -> Line:
    run: Run = found.row
    facts: list[tuple[str, Any]] = [
        ("Version", run.version.number),
        ("Step", run.step.key),
    ]
    if run.finished_at is not None:
        facts.append(("Over", run.finished_at))
    elif run.due_at is not None:
        facts.append(("Goes on", run.due_at))
    return Line(
        place=found.place,
        kind="run",
        label="Campaign run",
        icon="campaign",
        title=run.campaign.name,
        at=run.started_at,
        url=_url("campaigns_campaign_change", run.campaign_id),
        facts=facts,
        badge=(run.get_status_display().lower(), RUN_TONES[Run.Status(run.status)]),
        text=run.reason,
    )


MESSAGE_TONES = {
    Message.Status.QUEUED: "info",
    Message.Status.SENDING: "info",
    Message.Status.FAILED: "bad",
    Message.Status.SUPPRESSED: "warn",
    Message.Status.UNKNOWN: "warn",
}
CHANNEL_ICONS = {
    Channel.EMAIL: "mail",
    Channel.SMS: "sms",
    Channel.PUSH: "notifications",
}


def _message_line(found: _Found, campaigns: dict[int, str]) -> Line:
    message: Message = found.row
    title = message.subject or message.body[:80] or str(message.content)
    why = message.get_reason_display() if message.reason else ""
    facts: list[tuple[str, Any]] = []
    if message.campaign_id in campaigns:
        facts.append(("Campaign", campaigns[message.campaign_id]))
    if message.step:
        facts.append(("Step", message.step))
    if message.address:
        facts.append(("To", message.address))
    if message.sent_at is not None:
        facts.append(("Sent", message.sent_at))
    return Line(
        place=found.place,
        kind="message",
        label=message.get_channel_display(),
        icon=CHANNEL_ICONS[Channel(message.channel)],
        title=title,
        at=message.created_at,
        url=_url("messaging_message_change", message.pk),
        facts=facts,
        badge=(
            message.get_status_display().lower() + (f": {why.lower()}" if why else ""),
            MESSAGE_TONES.get(Message.Status(message.status), "good"),
        ),
        text=message.detail or (message.body if message.subject else ""),
    )


def _url(name: str, pk: int) -> str:
    try:
        return reverse(f"admin:{name}", args=[pk])
    except NoReverseMatch:
        return ""


def by_day(
    lines: Sequence[Line], *, after: datetime | None
) -> list[tuple[str, list[Line]]]:
    """The lines under the names of their days.

    The first day has no name if it is that of `after`, the last line shown before.
    """
    today = timezone.localdate()
    shown = timezone.localdate(after) if after else None
    days: list[tuple[str, list[Line]]] = []
    for day, group in groupby(lines, key=lambda line: timezone.localdate(line.at)):
        if day == today:
            name = "Today"
        elif day == today - timedelta(days=1):
            name = "Yesterday"
        else:
            name = formats.date_format(day, "D j M Y")
        days.append(("" if day == shown else name, list(group)))
    return days


# --- how they may be reached ------------------------------------------------------


@dataclass(frozen=True)
class Reach:
    """Whether a customer may be written to on a channel, and if not, why."""

    channel: Channel
    icon: str
    addresses: list[tuple[str, bool]]
    can: bool
    sentence: str
    answer: str
    answered_at: datetime | None
    origin: str
    categories: list[tuple[str, bool, bool]]


def reach(customer: Customer) -> list[Reach]:
    """How the customer may be reached on each channel, in words."""
    answers: dict[tuple[str, int | None], Consent] = {
        (consent.channel, consent.category_id): consent
        for consent in customer.consents.all()
    }
    defaults = dict(
        ChannelSettings.objects.values_list("channel", "default_consent")
    )
    categories = list(MailingCategory.objects.filter(is_active=True))
    suppressed = _suppressed(customer)
    return [
        _reach_on(channel, customer, answers, defaults, categories, suppressed)
        for channel in Channel
    ]


def _suppressed(customer: Customer) -> set[tuple[str, str]]:
    addresses = [customer.email, customer.email.lower(), customer.phone]
    addresses += [device.token for device in customer.devices.all()]
    found = Suppression.objects.filter(address__in=[a for a in addresses if a])
    return {(channel, a) for channel, a in found.values_list("channel", "address")}


def _reach_on(
    channel: Channel,
    customer: Customer,
    answers: dict[tuple[str, int | None], Consent],
    defaults: dict[str, bool],
    categories: list[MailingCategory],
    suppressed: set[tuple[str, str]],
) -> Reach:
    consent = answers.get((channel, None))
    granted = consent.is_granted if consent else defaults.get(channel, False)
    match channel:
        case Channel.EMAIL:
            what = "e-mail address"
            addresses = [(customer.email, customer.email_is_valid)]
        case Channel.SMS:
            what = "phone number"
            addresses = [(customer.phone, customer.phone_is_valid)]
        case Channel.PUSH:
            what = "device"
            addresses = [(d.token, d.is_valid) for d in customer.devices.all()]
    addresses = [(address, valid) for address, valid in addresses if address]
    usable = [address for address, valid in addresses if valid]
    # An address is suppressed as it is written to, whatever its case.
    free = [
        address
        for address in usable
        if (channel, address) not in suppressed
        and (channel, address.lower()) not in suppressed
    ]
    if not granted:
        because = (
            "they said no" if consent else "they never answered, which counts as no"
        )
    elif not addresses:
        because = f"there is no {what}"
    elif not usable:
        because = f"the {what} is not valid"
    elif not free:
        because = f"the {what} is suppressed"
    else:
        because = ""
    return Reach(
        channel=channel,
        icon=CHANNEL_ICONS[channel],
        addresses=[(_shown(channel, address), valid) for address, valid in addresses],
        can=not because,
        sentence="Can be reached." if not because else f"Cannot: {because}.",
        answer="never answered" if consent is None else ("yes" if granted else "no"),
        answered_at=consent.changed_at if consent else None,
        origin=consent.origin if consent else "",
        categories=[
            (
                category.name,
                _takes(category, channel, answers),
                (channel, category.pk) in answers,
            )
            for category in categories
        ],
    )


def _takes(
    category: MailingCategory,
    channel: Channel,
    answers: dict[tuple[str, int | None], Consent],
) -> bool:
    answer = answers.get((channel, category.pk))
    if answer is not None:
        return answer.is_granted
    return bool(getattr(category, f"default_{channel.value}"))


def _shown(channel: Channel, address: str) -> str:
    if channel == Channel.PUSH and len(address) > 18:
        return f"{address[:16]}…"
    return address


# --- the page ---------------------------------------------------------------------


class ProfileAdmin(CustomerAdmin):
    """Customers, with the profile in the place of the change page."""

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:pk>/edit/", wrap(self.edit), name="customers_customer_edit"),
            path(
                "<int:pk>/timeline/",
                wrap(self.more),
                name="customers_customer_timeline",
            ),
            path(
                "<int:pk>/segments/",
                wrap(self.segments),
                name="customers_customer_segments",
            ),
            *super().get_urls(),
        ]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The profile. Nothing is changed here: see `edit`."""
        customer = self.get_object(request, object_id)
        if customer is None:
            redirect: HttpResponse = self._get_obj_does_not_exist_redirect(
                request, self.opts, object_id
            )
            return redirect
        if not self.has_view_or_change_permission(request, customer):
            raise PermissionDenied
        prefetch_related_objects([customer], "consents", "devices")
        asked = Asked.read(request)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": customer,
            "title": "",
            "customer": customer,
            "facts": facts(customer),
            "attributes": attributes(customer),
            "reach": reach(customer),
            "segment_count": Segment.objects.count()
            if request.user.has_perm("segments.view_segment")
            else 0,
            "asked": asked,
            "kinds": KINDS,
            "names": history.names_of(customer),
            "edit_url": reverse("admin:customers_customer_edit", args=[customer.pk])
            if self.has_change_permission(request, customer)
            else "",
            **self._page(request, customer, asked, before=""),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "customers/profile.html", context)

    def more(self, request: HttpRequest, pk: int) -> HttpResponse:
        """A part of the time line: older lines, or all anew for other filters."""
        customer = self._customer(request, pk)
        before = request.GET.get("before", "")
        asked = Asked.read(request)
        try:
            context = self._page(request, customer, asked, before=before)
        except UserError as error:
            return HttpResponse(error.message, status=error.status, content_type="text/plain")
        context |= {"customer": customer, "asked": asked}
        return TemplateResponse(request, "customers/timeline.html", context)

    def segments(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The segments the customer is in, asked of each segment's rule now."""
        customer = self._customer(request, pk)
        if not request.user.has_perm("segments.view_segment"):
            raise PermissionDenied
        found = membership.of(customer, now=timezone.now())
        return TemplateResponse(
            request, "customers/segments.html", {"customer": customer, "found": found}
        )

    def _customer(self, request: HttpRequest, pk: int) -> Customer:
        customer: Customer | None = self.get_object(request, str(pk))
        if customer is None or not self.has_view_or_change_permission(request, customer):
            raise PermissionDenied
        return customer

    def _page(
        self, request: HttpRequest, customer: Customer, asked: Asked, *, before: str
    ) -> dict[str, Any]:
        page = timeline(customer, asked, before=before)
        last = read_cursor(before).at if before else None
        older = ""
        if page.next:
            parameters = request.GET.copy()
            parameters["before"] = page.next
            address = reverse("admin:customers_customer_timeline", args=[customer.pk])
            older = f"{address}?{parameters.urlencode()}"
        return {
            "days": by_day(page.items, after=last),
            "older": older,
            "is_first": not before,
        }

    def edit(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The form, which elsewhere is the change page."""
        if not self.has_change_permission(request, self.get_object(request, str(pk))):
            raise PermissionDenied
        answer: HttpResponse = super().change_view(request, str(pk))
        return answer

    def response_post_save_change(
        self, request: HttpRequest, obj: Customer
    ) -> HttpResponse:
        return self._to_profile(obj)

    def response_post_save_add(self, request: HttpRequest, obj: Customer) -> HttpResponse:
        return self._to_profile(obj)

    def _to_profile(self, customer: Customer) -> HttpResponse:
        url = reverse("admin:customers_customer_change", args=[customer.pk])
        return HttpResponseRedirect(url)


def facts(customer: Customer) -> list[tuple[str, Any]]:
    """Who they are, as far as it is known."""
    age = _age(customer)
    born = customer.birth_date
    told: list[tuple[str, Any]] = [
        ("Gender", customer.get_gender_display() if customer.gender else ""),
        ("Born", (born, f"{age} years") if born else ""),
        ("City", customer.city),
        ("Country", customer.country),
        ("Language", customer.language),
        ("Time zone", customer.time_zone),
        ("Registered", customer.registered_at or ""),
        ("Known since", customer.created_at),
        ("Last change", customer.updated_at),
    ]
    return [(label, value) for label, value in told if value != ""]


def _age(customer: Customer) -> int | None:
    born = customer.birth_date
    if born is None:
        return None
    today = timezone.localdate()
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


def attributes(customer: Customer) -> list[tuple[str, str, Any]]:
    """The customer's attributes with their labels; those not declared by their codes."""
    labels = {a.code: str(a) for a in Attribute.objects.all()}
    return sorted(
        (
            (labels.get(code, code), code, value)
            for code, value in customer.attributes.items()
        ),
        key=lambda row: row[0].lower(),
    )

"""The time line of a profile: events, runs and messages of one customer on one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from itertools import groupby
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils import formats, timezone
from django.utils.dateparse import parse_date

from campaigns.models import Campaign, Run
from customers.models import Channel, Customer, FormerId
from events import history
from events.models import EventField, Kind
from messaging.models import Message
from smartcomm.core.paging import Page, Place, Stream, merge, newest_below
from smartcomm.site.merging import in_words

PER_PAGE = 30

#: Beside history.SYSTEM_EVENTS and history.CUSTOMER_EVENTS: at the same moment the
#: event comes first, then the run it started, then the message of the run.
RUNS, MESSAGES, MERGES = 3, 4, 5


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


#: What one needs to open the page of a line.
PERMISSIONS = {
    "event": "events.view_event",
    "system": "events.view_systemevent",
    "run": "campaigns.view_run",
    "message": "messaging.view_message",
}

#: What the filter offers; the first is everything.
KINDS = {
    "": "Everything",
    "event": "Events",
    "system": "System events",
    "run": "Campaign runs",
    "message": "Messages",
    "merge": "Merges",
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
            name=_text(request, "name")[:128],
            text=_text(request, "text").strip()[:200],
            since=since,
            until=until + timedelta(days=1) if until else None,
            since_text=since.date().isoformat() if since else "",
            until_text=until.date().isoformat() if until else "",
        )

    @property
    def is_anything(self) -> bool:
        return bool(self.kind or self.name or self.text or self.since or self.until)


def _text(request: HttpRequest, name: str) -> str:
    """What was asked, without NUL, which the database can not even be asked for."""
    return request.GET.get(name, "").replace("\0", "")


def _day(text: str | None) -> datetime | None:
    try:
        day = parse_date(text or "")
        return timezone.make_aware(datetime.combine(day, time())) if day else None
    except (ValueError, OverflowError):
        return None


def timeline(
    customer: Customer, asked: Asked, *, before: str, limit: int = PER_PAGE
) -> Page[Line]:
    """What happened to the customer, newest first: events, system events, runs,
    messages, and merges with other customers."""
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
        if asked.kind in ("", "merge"):
            streams[MERGES] = _merges(customer, asked)
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


def _merges(customer: Customer, asked: Asked) -> Stream[_Found]:
    rows = FormerId.objects.filter(customer=customer)
    if asked.text:
        rows = rows.filter(external_id__icontains=asked.text)
    return _stream(rows, MERGES, "merged_at", asked)


def _stream(rows: QuerySet[Any], number: int, at: str, asked: Asked) -> Stream[_Found]:
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
        if found.row.campaign_id is not None
    }
    campaigns = dict(Campaign.objects.filter(pk__in=asked_by).values_list("pk", "name"))
    lines = []
    for item in items:
        if isinstance(item, history.Item):
            lines.append(_event_line(item, labels.get(item.type_id, {})))
        elif isinstance(item.row, Message):
            lines.append(_message_line(item, campaigns))
        elif isinstance(item.row, FormerId):
            lines.append(_merge_line(item))
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
    if item.is_backfill:
        facts.append(("Backfilled", "yes"))
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
        url=_url("campaigns_run_change", run.pk),
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
    label = message.get_channel_display()
    if message.is_test:
        label += " test, to staff"
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
        label=label,
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


def _merge_line(found: _Found) -> Line:
    former: FormerId = found.row
    told = [former.profile.get(name, "") for name in ("first_name", "last_name")]
    name = " ".join(told)
    facts: list[tuple[str, Any]] = [("Former ID", former.external_id)]
    if name.strip():
        facts.append(("Name then", name.strip()))
    if former.profile.get("email"):
        facts.append(("E-mail then", former.profile["email"]))
    if former.merged_by:
        facts.append(("By", former.merged_by))
    return Line(
        place=found.place,
        kind="merge",
        label="Merge",
        icon="merge",
        title=f"“{former.external_id}” became a part of this customer",
        at=former.merged_at,
        facts=facts,
        text=f"With it came {in_words(former.moved)}.",
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

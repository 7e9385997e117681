"""The page where people try events of a source: nothing is stored, nothing is sent."""

from __future__ import annotations

import json
import shlex
from typing import Any, ClassVar

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, path, reverse
from django.utils import timezone
from unfold.decorators import action

from customers.models import Customer
from events.models import Event, Kind, Source, SystemEvent
from events.sandbox import CampaignTouched, SegmentTouched, Tried, TriedItem, try_events
from events.wire import UNSTORABLE
from smartcomm.core.bodies import items_of
from smartcomm.core.errors import UserError

#: What an editor holds at most; a call of the API takes more.
MAX_TEXT = 200_000
DOORS = {Kind.CUSTOMER: "/api/v1/events", Kind.SYSTEM: "/api/v1/system-events"}
EXAMPLES: dict[Kind, dict[str, Any]] = {
    Kind.CUSTOMER: {
        "id": "order-8812-paid",
        "name": "Order paid",
        "customer": "C-1001",
        "context": {"name": "Bag", "product_id": 77, "price": 49.9},
    },
    Kind.SYSTEM: {
        "id": "stock-77",
        "name": "Product in stock",
        "context": {"product_id": 77, "name": "Bag"},
    },
}
#: The two ways of a filter, as the pictures of campaigns call them.
WAYS = {"positive": "Yes", "negative": "No"}


class TryingMixin:
    """A button “Try it” on the page of a source, and the page it leads to."""

    actions_detail: ClassVar = ["try_it"]

    @action(description="Try it", url_path="try-it", icon="science")
    def try_it(self, request: HttpRequest, object_id: int) -> HttpResponse:
        return HttpResponseRedirect(
            reverse("admin:events_source_try", args=[object_id])
        )

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view  # type: ignore[attr-defined]
        return [
            path("<int:source_id>/try/", wrap(self.trial), name="events_source_try"),
            *super().get_urls(),  # type: ignore[misc]
        ]

    def trial(self, request: HttpRequest, source_id: int) -> HttpResponse:
        """The editor; a POST is answered with what would become of the events."""
        if not request.user.has_perm("events.view_source"):
            raise PermissionDenied
        source = get_object_or_404(Source, pk=source_id)
        if request.method == "POST":
            return TemplateResponse(
                request, "events/_tried.html", answer(request, source)
            )
        kind = _kind(request.GET.get("kind"))
        texts = {one: starting_text(request, source, one) for one in Kind}
        return TemplateResponse(
            request,
            "events/try.html",
            {
                **self.admin_site.each_context(request),  # type: ignore[attr-defined]
                "opts": self.opts,  # type: ignore[attr-defined]
                "title": f"Try events of {source}",
                "original": source,
                "source": source,
                "page": reverse("admin:events_source_change", args=[source.pk]),
                "kinds": Kind,
                "kind": kind,
                "text": texts[kind],
                "texts": {str(one.value): text for one, text in texts.items()},
            },
        )


def _kind(sent: str | None) -> Kind:
    return Kind.SYSTEM if sent == Kind.SYSTEM else Kind.CUSTOMER


def starting_text(request: HttpRequest, source: Source, kind: Kind) -> str:
    """The last event of the source, to be sent anew; or the example of the contract."""
    sent = EXAMPLES[kind]
    model = Event if kind == Kind.CUSTOMER else SystemEvent
    if request.user.has_perm(f"events.view_{model._meta.model_name}"):
        sent = _recent(source, kind) or sent
    return json.dumps(sent, indent=2, ensure_ascii=False)


#: Among so many of the newest events one of the source is looked for.
NEWEST = 5_000


def _recent(source: Source, kind: Kind) -> dict[str, Any] | None:
    """What was sent last, without its id and time: sent like this it would be new."""
    model: Any = Event if kind == Kind.CUSTOMER else SystemEvent
    last = model.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    event = (
        model.objects.filter(source=source, pk__gt=last - NEWEST)
        .select_related("type", *(["customer"] if kind == Kind.CUSTOMER else []))
        # One that campaigns wait for shows most.
        .order_by("-type__is_awaited", "-pk")
        .first()
    )
    if event is None:
        return None
    sent = {"name": event.type.name}
    if kind == Kind.CUSTOMER:
        sent["customer"] = event.customer.external_id
    return {**sent, "context": event.context}


def answer(request: HttpRequest, source: Source) -> dict[str, Any]:
    """What the fragment beside the editor shows."""
    kind = _kind(request.POST.get("kind"))
    text = request.POST.get("text", "")[: MAX_TEXT + 1]
    shown: dict[str, Any] = {
        "kind": kind,
        "source": source,
        "curl": curl(request, kind, text),
    }
    if len(text) > MAX_TEXT:
        return {**shown, "problem": "This is too long for an editor. Try less of it."}
    try:
        items = items_of(text.encode(errors="surrogatepass"), "events")
        tried = try_events(items, source=source, kind=kind, now=timezone.now())
    except UserError as error:
        return {**shown, "problem": error.message}
    people = names(request, tried)
    return {
        **shown,
        "tried": tried,
        "items": [in_words(request, item, people) for item in tried.results],
        "may_see_segments": request.user.has_perm("segments.view_segment"),
        "may_see_campaigns": request.user.has_perm("campaigns.view_campaign"),
    }


def curl(request: HttpRequest, kind: Kind, text: str) -> str:
    """The same dry run from a shell."""
    try:
        sent = json.loads(text)
        body = json.dumps(sent, ensure_ascii=False)
        if UNSTORABLE.search(body):
            # Half a surrogate pair goes out as the escape it came as.
            body = json.dumps(sent)
    except (ValueError, RecursionError):
        body = text.strip()
    address = request.build_absolute_uri(f"{DOORS[kind]}?dry_run=true")
    return (
        f"curl {shlex.quote(address)} \\\n"
        "  -H 'Authorization: Bearer YOUR-KEY' \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(body)}"
    )


def names(request: HttpRequest, tried: Tried) -> dict[str, Customer]:
    """The customers of a trial by their external ids; none for who may not see them."""
    if not request.user.has_perm("customers.view_customer"):
        return {}
    ids = {one.stored.customer for one in tried.results if one.stored}
    found = Customer.objects.filter(external_id__in=[one for one in ids if one])
    return {customer.external_id: customer for customer in found}


def in_words(
    request: HttpRequest, item: TriedItem, people: dict[str, Customer]
) -> dict[str, Any]:
    """One item as the page tells it."""
    stored = item.stored
    customer = people.get(stored.customer or "") if stored else None
    who = (stored.customer or "") if stored else ""
    if customer is not None and customer.full_name:
        who = f"{customer.full_name} ({who})"
    return {
        "item": item,
        "number": item.index + 1,
        "stored": stored,
        "who": who or "the customer",
        "customer": customer,
        "segments": [_segment(one) for one in item.segments],
        "campaigns": [_campaign(one) for one in item.campaigns],
    }


def _segment(told: SegmentTouched) -> dict[str, Any]:
    if told.problem:
        moves, tone, icon = "cannot be asked", "warn", "error"
    elif told.after and not told.before:
        moves, tone, icon = "would enter", "good", "login"
    elif told.before and not told.after:
        moves, tone, icon = "would leave", "warn", "logout"
    elif told.after:
        moves, tone, icon = "stays in", "plain", "check"
    else:
        moves, tone, icon = "stays out of", "plain", "remove"
    return {
        "told": told,
        "moves": moves,
        "tone": tone,
        "icon": icon,
        "url": _url("segments_segment_change", told.id),
    }


def _campaign(told: CampaignTouched) -> dict[str, Any]:
    return {
        "told": told,
        "url": _url("campaigns_campaign_change", told.id),
        "steps": [
            {"told": step, "way": WAYS.get(step.way, step.way.replace("_", " "))}
            for step in told.path
        ],
        "lacks": [
            (one.step, [name.removeprefix("client.") for name in one.variables])
            for one in told.lacks
        ],
    }


def _url(name: str, pk: int) -> str:
    try:
        return reverse(f"admin:{name}", args=[pk])
    except NoReverseMatch:
        return ""

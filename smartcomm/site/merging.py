"""The pages that merge customers: find the other one, see both side by side, confirm.

They show what belongs to a customer in every app, so they stand here and not in
customers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from campaigns.models import Run
from customers import search, sharing
from customers.merging import merge, merged_values, suggested
from customers.models import (
    Attribute,
    Consent,
    Customer,
    Device,
    FormerId,
)
from customers.wire import COLUMNS
from events.models import Event
from messaging.models import Message
from smartcomm.core.errors import UserError

#: How many customers the search for the other one offers.
OFFERED = 10

#: What is counted of each, in the order shown: icon, word, table.
COUNTED = [
    ("bolt", "Events", Event),
    ("mail", "Messages", Message),
    ("route", "Campaign runs", Run),
    ("devices", "Devices", Device),
    ("fact_check", "Consents", Consent),
]

#: What people call what a merge moved, in the order told: one, many.
WORDS = {
    "events": ("event", "events"),
    "messages": ("message", "messages"),
    "runs": ("campaign run", "campaign runs"),
    "devices": ("device", "devices"),
    "consents": ("consent", "consents"),
    "events_twice": ("event known of both", "events known of both"),
    "runs_ended": ("run ended, a twin", "runs ended, twins"),
}


@dataclass(frozen=True)
class Row:
    """One value of both, and which of them stays."""

    label: str
    kept: Any
    former: Any
    #: "kept", "former", or empty where there is nothing to choose.
    stays: str

    @property
    def is_lost(self) -> bool:
        """Whether the former has a value that the profile will not show any more."""
        return self.stays == "kept" and bool(self.former) and self.former != self.kept


def compare(kept: Customer, former: Customer) -> list[Row]:
    """What is known of either, side by side. One query, for the labels."""
    values = merged_values(kept, former)
    fields = {field.name: field for field in Customer._meta.fields}
    rows = []
    for name in COLUMNS:
        label = str(fields[name].verbose_name)
        mine, theirs = getattr(kept, name), getattr(former, name)
        if mine or theirs:
            stays = "kept" if values[name] == mine else "former"
            rows.append(Row(label[:1].upper() + label[1:], mine, theirs, stays))
    labels = {a.code: str(a) for a in Attribute.objects.all()}
    for code in sorted(kept.attributes.keys() | former.attributes.keys()):
        mine, theirs = kept.attributes.get(code), former.attributes.get(code)
        stays = "kept" if code in kept.attributes else "former"
        rows.append(Row(labels.get(code, code), mine, theirs, stays))
    return rows


def merge_url(kept: Customer, former: Customer | None = None) -> str:
    """The page that merges the one into the other; without, to find the other."""
    url = reverse("admin:customers_customer_merge", args=[kept.pk])
    return f"{url}?with={former.pk}" if former else url


def in_words(moved: dict[str, int]) -> str:
    """What a merge moved, as it stands in a sentence."""
    told = [
        f"{moved[key]:,} {one if moved[key] == 1 else many}"
        for key, (one, many) in WORDS.items()
        if moved.get(key)
    ]
    return ", ".join(told) or "nothing but the profile"


@dataclass(frozen=True)
class Shares:
    """Another customer with the same contact, and the page that merges the two."""

    customer: Customer
    what: str
    url: str


def sharing_with(customer: Customer, *, may_merge: bool) -> list[Shares]:
    """Who else has the e-mail or phone of a customer; a few. Two queries."""
    contacts = {
        kind: getattr(customer, kind)
        for kind in sharing.KINDS
        if getattr(customer, f"{kind}_is_valid")
    }
    owners = sharing.customers_with(contacts.items())
    found: dict[int, tuple[Customer, list[str]]] = {}
    for (kind, _), others in owners.items():
        for other in others:
            if other.pk != customer.pk:
                words = "e-mail" if kind == "email" else "phone"
                found.setdefault(other.pk, (other, []))[1].append(words)
    return [
        Shares(
            other,
            " and ".join(words),
            merge_url(*suggested(customer, other)) if may_merge else "",
        )
        for other, words in list(found.values())[: sharing.NAMED]
    ]


class MergeMixin:
    """The pages of a customer's admin that merge."""

    def merge_page(self: Any, request: HttpRequest, pk: int) -> HttpResponse:
        """Find the other customer; see both; merge."""
        kept: Customer | None = self.get_object(request, str(pk))
        if kept is None or not self.has_change_permission(request, kept):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": kept,
            "kept": kept,
            "title": "Merge customers",
        }
        chosen = request.POST.get("with") or request.GET.get("with", "")
        former = self.get_object(request, chosen) if chosen.isdigit() else None
        answer: HttpResponse
        if former is None or former.pk == kept.pk:
            answer = self._find_other(request, kept, context, is_gone=bool(chosen))
            return answer
        if request.method == "POST":
            answer = self._merge(request, kept, former)
            return answer
        context |= {
            "former": former,
            "rows": compare(kept, former),
            "counts": [
                (icon, word, *(_count(model, one) for one in (kept, former)))
                for icon, word, model in COUNTED
            ],
            "swapped": merge_url(former, kept),
            "is_suggested": suggested(kept, former) == (kept, former),
        }
        return TemplateResponse(request, "customers/merge.html", context)

    def _find_other(
        self: Any,
        request: HttpRequest,
        kept: Customer,
        context: dict[str, Any],
        *,
        is_gone: bool,
    ) -> HttpResponse:
        text = request.GET.get("q", "").replace("\0", "").strip()[:200]
        found: list[Customer] = []
        if text:
            rows = search.find(self.get_queryset(request), text)
            found = list(rows.exclude(pk=kept.pk).order_by("-pk")[:OFFERED])
        context |= {
            "text": text,
            "is_gone": is_gone,
            "found": [(other, merge_url(*suggested(kept, other))) for other in found],
            "shares": sharing_with(kept, may_merge=True),
        }
        return TemplateResponse(request, "customers/merge_with.html", context)

    def _merge(
        self: Any, request: HttpRequest, kept: Customer, former: Customer
    ) -> HttpResponse:
        try:
            merged = merge(
                kept.external_id,
                former.external_id,
                by=f"staff: {request.user.get_username()}",
                now=timezone.now(),
            )
        except UserError as error:
            self.message_user(request, error.message, messages.ERROR)
            return HttpResponseRedirect(reverse("admin:customers_customer_changelist"))
        kept = Customer.objects.get(pk=merged.pk)
        self.log_change(request, kept, f"Merged “{merged.former_id}” into it.")
        self.message_user(
            request,
            f"“{merged.former_id}” is a part of “{merged.external_id}” now: "
            f"{in_words(merged.moved)}.",
            messages.SUCCESS,
        )
        return HttpResponseRedirect(
            reverse("admin:customers_customer_change", args=[kept.pk])
        )

    def merge_two(
        self: Any, request: HttpRequest, queryset: Any
    ) -> HttpResponse | None:
        """The action of the list: two were chosen."""
        chosen = list(queryset[:3])
        if len(chosen) != 2:
            self.message_user(
                request, "Choose two customers to merge them.", messages.WARNING
            )
            return None
        return HttpResponseRedirect(merge_url(*suggested(*chosen)))


def _count(model: Any, customer: Customer) -> int:
    return int(model._default_manager.filter(customer=customer).count())


def former_ids(customer: Customer) -> list[FormerId]:
    """The IDs a customer had before, the last merge first. One query."""
    return list(customer.former_ids.all())


def likeliest(owners: Sequence[Customer]) -> tuple[Customer, Customer]:
    """The two to look at first: somebody known and a stub, if there are both."""
    known_first = sorted(owners, key=lambda one: one.is_stub)
    last = known_first[-1]
    return known_first[0], last if last.is_stub else known_first[1]

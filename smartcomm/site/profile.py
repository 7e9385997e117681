"""A customer's profile: who they are, how they may be reached, and all that happened.

The one page that knows of every app, so it stands at the top and not in customers: it
takes the place of the ordinary change page, and the form moves to `edit/`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from django.contrib.admin import action
from django.core.exceptions import PermissionDenied
from django.db.models import prefetch_related_objects
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone

from campaigns.why import lately
from campaigns.why_page import OUTCOMES
from campaigns.why_page import address as why_address
from customers.admin import CustomerAdmin
from customers.models import Attribute, Customer
from events import history
from segments.models import Segment
from segments.nearly import nearly
from segments.reading import TooDear
from smartcomm.core.errors import UserError
from smartcomm.core.paging import read_cursor
from smartcomm.site import membership
from smartcomm.site.merging import MergeMixin, former_ids, merge_url, sharing_with
from smartcomm.site.reach import reach
from smartcomm.site.timeline import KINDS, PERMISSIONS, Asked, by_day, timeline


class ProfileAdmin(MergeMixin, CustomerAdmin):
    """Customers, with the profile in the place of the change page."""

    actions: ClassVar[list[str]] = ["merge_two"]

    @action(description="Merge two customers", permissions=["change"])
    def merge_two(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        return super().merge_two(request, queryset)

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:pk>/edit/", wrap(self.edit), name="customers_customer_edit"),
            path(
                "<int:pk>/merge/",
                wrap(self.merge_page),
                name="customers_customer_merge",
            ),
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
            path(
                "<int:pk>/campaigns/",
                wrap(self.campaigns),
                name="customers_customer_campaigns",
            ),
            path(
                "<int:pk>/nearly/",
                wrap(self.nearly),
                name="customers_customer_nearly",
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
        may_change = self.has_change_permission(request, customer)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": customer,
            "title": "",
            "customer": customer,
            "facts": facts(customer),
            "attributes": attributes(customer),
            "reach": reach(customer, now=timezone.now()),
            "segment_count": Segment.objects.count()
            if request.user.has_perm("segments.view_segment")
            else 0,
            "may_view_campaigns": request.user.has_perm("campaigns.view_campaign"),
            "asked": asked,
            "kinds": KINDS,
            "names": history.names_of(customer),
            "edit_url": reverse("admin:customers_customer_edit", args=[customer.pk])
            if may_change
            else "",
            "merge_url": merge_url(customer) if may_change else "",
            "former_ids": former_ids(customer),
            "shares": sharing_with(customer, may_merge=may_change),
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
            return HttpResponse(
                error.message, status=error.status, content_type="text/plain"
            )
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

    def campaigns(self, request: HttpRequest, pk: int) -> HttpResponse:
        """What became of the customer's latest events in campaigns, in a line each."""
        customer = self._customer(request, pk)
        if not request.user.has_perm("campaigns.view_campaign"):
            raise PermissionDenied
        lines = [
            (
                one.campaign,
                one.line,
                *OUTCOMES[one.line.outcome],
                why_address(
                    one.campaign.pk, customer=customer.external_id, event=one.line.event
                ),
            )
            for one in lately(customer, now=timezone.now())
        ]
        return TemplateResponse(
            request, "customers/campaigns.html", {"customer": customer, "lines": lines}
        )

    def nearly(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The segments that the customer misses by a single condition."""
        customer = self._customer(request, pk)
        if not request.user.has_perm("segments.view_segment"):
            raise PermissionDenied
        told: dict[str, Any] = {"customer": customer}
        try:
            told["nearly"] = nearly(customer.pk, now=timezone.now())
        except TooDear:
            told["error"] = "Asking took too long, and was stopped."
        return TemplateResponse(request, "customers/nearly.html", told)

    def _customer(self, request: HttpRequest, pk: int) -> Customer:
        customer: Customer | None = self.get_object(request, str(pk))
        if customer is None or not self.has_view_or_change_permission(
            request, customer
        ):
            raise PermissionDenied
        return customer

    def _page(
        self, request: HttpRequest, customer: Customer, asked: Asked, *, before: str
    ) -> dict[str, Any]:
        page = timeline(customer, asked, before=before)
        may_open = {
            kind for kind, name in PERMISSIONS.items() if request.user.has_perm(name)
        }
        lines = [
            line if line.kind in may_open else replace(line, url="")
            for line in page.items
        ]
        last = read_cursor(before).at if before else None
        older = ""
        if page.next:
            parameters = request.GET.copy()
            parameters["before"] = page.next
            address = reverse("admin:customers_customer_timeline", args=[customer.pk])
            older = f"{address}?{parameters.urlencode()}"
        return {
            "days": by_day(lines, after=last),
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

    def response_post_save_add(
        self, request: HttpRequest, obj: Customer
    ) -> HttpResponse:
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
    """The customer's attributes with their labels, or their codes if not declared."""
    labels = {a.code: str(a) for a in Attribute.objects.all()}
    return sorted(
        (
            (labels.get(code, code), code, value)
            for code, value in customer.attributes.items()
        ),
        key=lambda row: row[0].lower(),
    )

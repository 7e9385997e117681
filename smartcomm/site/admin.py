"""What the back office registers as a whole: the profile page, the contacts that
customers share, users and groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as BaseGroupAdmin
from django.contrib.auth.admin import UserAdmin as BaseUserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from customers import sharing
from customers.merging import suggested
from customers.models import Customer, SharedContact
from smartcomm.core.admin import (
    JournalAdmin,
    ModelAdmin,
    OlderNewerList,
    badge,
    link,
)
from smartcomm.core.look import quiet, to_the_minute
from smartcomm.site.merging import likeliest, merge_url
from smartcomm.site.profile import ProfileAdmin

admin.site.unregister(User)
admin.site.unregister(Group)
# The form of customers' own admin becomes a page of its own beside the profile.
admin.site.unregister(Customer)
admin.site.register(Customer, ProfileAdmin)


@admin.register(User)
class UserAdmin(BaseUserAdmin, ModelAdmin):  # type: ignore[misc]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    # What people may do comes from their groups, so that it can be told and changed
    # in one place.
    autocomplete_fields: ClassVar = ["groups"]
    filter_horizontal: ClassVar = []
    fieldsets: ClassVar = [
        (None, {"fields": ["username", "password"]}),
        ("Who they are", {"fields": [("first_name", "last_name"), "email"]}),
        (
            "What they may do",
            {"fields": ["is_active", "is_staff", "is_superuser", "groups"]},
        ),
        ("When", {"fields": [("last_login", "date_joined")]}),
    ]
    readonly_fields: ClassVar = ["last_login", "date_joined"]


@admin.register(Group)
class GroupAdmin(BaseGroupAdmin, ModelAdmin):  # type: ignore[misc]
    pass


# --- customers who share a contact ------------------------------------------------


class SharedList(OlderNewerList):
    """The list, with the customers of all its rows."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        load_owners(request, self.result_list)


def load_owners(request: HttpRequest, rows: Sequence[Any]) -> None:
    """Give each row its customers, and whether this user may merge them. Two queries,
    however many rows."""
    may_merge = request.user.has_perm("customers.change_customer")
    owners = sharing.customers_with((row.kind, row.value) for row in rows)
    for row in rows:
        row.owners, row.may_merge = owners[row.kind, row.value], may_merge


@admin.register(SharedContact)
class SharedContactAdmin(JournalAdmin):
    """E-mails and phones that several customers have, newest first."""

    list_display: ClassVar = ["contact", "kind_", "customers", "merging", "found"]
    list_display_links: ClassVar = ["contact"]
    list_filter: ClassVar = ["kind"]
    search_fields: ClassVar = ["value"]
    search_help_text = "The whole e-mail or phone"
    fields: ClassVar = ["value", "kind", "customers", "merging", "found_at"]
    readonly_fields: ClassVar = ["customers", "merging"]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[SharedList]:
        return SharedList

    def get_search_results(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        # By the index, which knows whole ones.
        text = search_term.strip()
        if text:
            queryset = queryset.filter(value__in={text, text.lower()})
        return queryset, False

    def get_object(self, request: HttpRequest, *args: Any, **more: Any) -> Any:
        shared = super().get_object(request, *args, **more)
        if shared is not None:
            load_owners(request, [shared])
        return shared

    @display(description="Contact", ordering="value")
    def contact(self, shared: SharedContact) -> str:
        return shared.value

    @display(description="What")
    def kind_(self, shared: SharedContact) -> str:
        return badge(shared.get_kind_display())

    @display(description="Customers")
    def customers(self, shared: Any) -> str:
        owners = shared.owners
        few = format_html_join(
            SafeString("<br>"),
            "{} <span class='sc-none sc-nowrap'>{}</span> {}",
            (
                (
                    link(
                        reverse("admin:customers_customer_change", args=[one.pk]),
                        str(one),
                    ),
                    one.external_id if one.full_name else "",
                    badge("only an ID", "warn") if one.is_stub else "",
                )
                for one in owners[: sharing.NAMED]
            ),
        )
        if len(owners) > sharing.NAMED:
            few = format_html("{}<br>{}", few, quiet("and others"))
        if not few:
            return quiet("nobody any more")
        return format_html('<div class="sc-wrap">{}</div>', few)

    @display(description="One person?")
    def merging(self, shared: Any) -> str:
        if len(shared.owners) < 2 or not shared.may_merge:
            return quiet("–")
        kept, former = suggested(*likeliest(shared.owners))
        return format_html(
            '<a class="sc-button sc-button-small" href="{}">'
            '<span class="material-symbols-outlined">merge</span> Merge…</a>',
            merge_url(kept, former),
        )

    @display(description="Found", ordering="found_at")
    def found(self, shared: SharedContact) -> str:
        return to_the_minute(shared.found_at)

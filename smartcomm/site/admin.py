"""What the back office registers as a whole: the profile page, users and groups."""

from __future__ import annotations

from typing import ClassVar

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as BaseGroupAdmin
from django.contrib.auth.admin import UserAdmin as BaseUserAdmin
from django.contrib.auth.models import Group, User
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from customers.models import Customer
from smartcomm.core.admin import ModelAdmin
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

"""Who may look at what of segments."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest


def may_view_segments(request: HttpRequest) -> None:
    if not request.user.has_perm("segments.view_segment"):
        raise PermissionDenied


def may_view_customers(request: HttpRequest) -> None:
    if not request.user.has_perm("customers.view_customer"):
        raise PermissionDenied

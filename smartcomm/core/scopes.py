"""What a key may do."""

from __future__ import annotations

from typing import Any, Protocol, cast

from rest_framework.permissions import BasePermission
from rest_framework.request import Request


class Caller(Protocol):
    """Who calls: a source, by a key that may do some things."""

    scopes: list[str]
    source: Any


def caller_of(request: Request) -> Caller:
    """Who calls. Only for requests that a permission has let through."""
    return cast(Caller, request.auth)


class HasScope(BasePermission):
    """The key's scopes contain the one that the view asks for with this method."""

    def has_permission(self, request: Request, view: Any) -> bool:
        method = "GET" if request.method == "HEAD" else str(request.method)
        if request.auth is None:
            return False
        if method == "OPTIONS" or not hasattr(view, method.lower()):
            return True  # Goes on to 405.
        needed = view.scopes[method]
        self.message = f"The key lacks the scope “{needed}”."
        return needed in caller_of(request).scopes

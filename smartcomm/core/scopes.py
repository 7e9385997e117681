"""What a key may do."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request


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
        return needed in request.auth.scopes

"""Who calls the API: a source, by one of its keys."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from events.keys import KeyRefused, check_key, is_trusted
from events.models import ApiKey
from smartcomm.core import gate


def read_key(secret: str, meta: Mapping[str, Any], *, now: datetime) -> ApiKey:
    """The key with this secret, shown by a request; KeyRefused or TooManyFailures.

    Where wrong keys come from by the dozen, one that this process has not seen work
    is not even looked up: guessing costs the database nothing.
    """
    if gate.is_over(meta) and not is_trusted(secret):
        gate.turn_away(meta)
    return check_key(secret, now=now)


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer <key>`. `request.auth` is the ApiKey, with its source."""

    def authenticate(self, request: Request) -> tuple[None, ApiKey] | None:
        secret = self.secret_of(request)
        if secret is None:
            return None
        try:
            key = read_key(secret, request.META, now=timezone.now())
        except KeyRefused as error:
            raise AuthenticationFailed(error.message) from error
        return None, key

    def secret_of(self, request: Request) -> str | None:
        """The key that a request shows, if it shows one."""
        scheme, _, secret = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        return str(secret.strip().decode("latin-1"))

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = ApiKeyAuthentication
    name = "key"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "A key of a source. Made in the admin under Settings, "
            "or by `manage.py create_api_key`.",
        }

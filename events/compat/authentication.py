"""How Segment's clients show their key."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from rest_framework.authentication import get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from events.authentication import ApiKeyAuthentication
from smartcomm.core.bodies import read_body
from smartcomm.core.strict_json import decode_items

#: Browsers send text/plain, to be spared asking first whether they may.
ANY_TEXT = re.compile(r"(application/json|text/plain)\s*(;|\Z)", re.IGNORECASE)


class WriteKeyAuthentication(ApiKeyAuthentication):
    """The key as user name of Basic, as Bearer, or as `writeKey` in the body.

    A refusal still asks for Bearer: at Basic, browsers ask their user for a password.
    """

    def secret_of(self, request: Request) -> str | None:
        scheme, _, encoded = get_authorization_header(request).partition(b" ")
        if scheme.lower() == b"basic":
            try:
                shown = base64.b64decode(encoded.strip(), validate=True)
            except (binascii.Error, ValueError) as error:
                raise AuthenticationFailed(
                    "The user name of Basic authentication must be a key, followed by "
                    "a colon, all in base64."
                ) from error
            user, _, _ = shown.partition(b":")
            if user:
                return user.decode("latin-1")
        if secret := super().secret_of(request):
            return secret
        body = body_of(request)
        key = body.get("writeKey") if isinstance(body, dict) else None
        return key if isinstance(key, str) and key.isascii() and key else None


def body_of(request: Request) -> Any:
    """The body of a message or of a batch, read once: it may have to tell the key.

    An item that cannot be held is an `Unfit`, and spoils no other.
    """
    kept: dict[str, Any] = request.parser_context
    if "body" not in kept:
        kept["body"] = decode_items(read_body(request, types=ANY_TEXT), "batch")
    return kept["body"]

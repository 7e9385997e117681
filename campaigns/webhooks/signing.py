"""Signatures by the specification of Standard Webhooks (standardwebhooks.com).

The secret is the installation's. Unless WEBHOOK_SECRET says otherwise it follows from
SECRET_KEY, so that all machines of an installation sign alike and a backup of that one
secret is enough. Several secrets, with commas, all sign: so a receiver can change from
one to the next without missing a call.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from datetime import datetime

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

PREFIX = "whsec_"
#: How long a key is, by the specification.
LEAST, MOST = 24, 64


def secrets() -> list[str]:
    """The secrets that calls are signed with, as receivers are told them."""
    configured = [one.strip() for one in settings.WEBHOOK_SECRET.split(",")]
    if told := [one for one in configured if one]:
        return told
    key = hmac.digest(settings.SECRET_KEY.encode(), b"webhooks", hashlib.sha256)
    return [PREFIX + base64.b64encode(key).decode()]


def sign(webhook_id: str, body: bytes, *, now: datetime) -> dict[str, str]:
    """The headers that tell the receiver who calls, when, and that this is the body."""
    timestamp = str(int(now.timestamp()))
    content = f"{webhook_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(
            "v1," + base64.b64encode(_digest(secret, content)).decode()
            for secret in secrets()
        ),
    }


def _digest(secret: str, content: bytes) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not LEAST <= len(key) <= MOST:
        # What it says is not shown: it may be nearly right.
        raise ImproperlyConfigured(
            f"WEBHOOK_SECRET must be {PREFIX} and {LEAST} to {MOST} bytes in Base64."
        )
    return hmac.digest(key, content, hashlib.sha256)

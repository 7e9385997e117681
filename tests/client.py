"""A caller of the API, as a master system is one: with a key, over HTTP."""

from __future__ import annotations

import json
from typing import Any

from django.test import Client

from events.keys import create_key
from events.models import Scope
from tests import make

ALL = tuple(Scope.values)


class Api:
    """Api() may do everything, Api("read") only that, Api(key="") shows no key."""

    def __init__(self, *scopes: str, source: str = "shop", key: str | None = None):
        if key is None:
            _, key = create_key(make.source(source), scopes or ALL)
        self.key = key
        self.client = Client(enforce_csrf_checks=True)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        type: str = "application/json",
        **headers: str,
    ) -> Any:
        """The answer. Paths are those below /api/v1, or whole addresses."""
        if self.key:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        data = raw if raw is not None else b"" if body is None else json.dumps(body)
        address = path if path.startswith("http") else f"/api/v1{path}"
        return self.client.generic(
            method, address, data, content_type=type, headers=headers
        )

    def get(self, path: str, **headers: Any) -> Any:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        return self.call("POST", path, body, **more)

    def put(self, path: str, body: Any, **more: Any) -> Any:
        return self.call("PUT", path, body, **more)

    def delete(self, path: str) -> Any:
        return self.call("DELETE", path)


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """The problem that a response tells, with all that every problem must have."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    told: dict[str, Any] = response.json()
    assert told["status"] == status
    assert told["code"] == code, told
    assert told["type"] == f"urn:smartcomm:problem:{code}"
    assert told["title"]
    assert told["detail"].endswith("."), told["detail"]
    return told

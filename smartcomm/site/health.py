"""Whether this installation can do its work, for load balancers and `make run`."""

from collections.abc import Callable

from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when the database and Valkey answer, else 503; the body says which."""
    states = {
        "database": _state(_ask_database),
        "valkey": _state(_ask_valkey),
    }
    healthy = all(state == "ok" for state in states.values())
    return JsonResponse(states, status=200 if healthy else 503)


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _ask_valkey() -> None:
    cache.get("healthz")


def _state(ask: Callable[[], None]) -> str:
    # Whatever goes wrong here is the answer, and must not become a 500.
    try:
        ask()
    except Exception as error:
        return type(error).__name__
    return "ok"

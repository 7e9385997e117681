"""Every address of the API: refused without a key, refused without the scope, told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import StringIO

import pytest
from django.conf import settings
from django.core.management import call_command
from django.urls import URLPattern, URLResolver, get_resolver

from events.models import Scope
from smartcomm.core.api import ApiView
from smartcomm.core.problems import FRAMEWORK
from tests.client import Api, problem

# method, address below /api/v1, the scope that it asks for.
CALLS = [
    ("POST", "events", "events:write"),
    ("POST", "system-events", "events:write"),
    ("POST", "cloudevents", "events:write"),
    ("GET", "event-types", "read"),
    ("POST", "event-types", "manage"),
    ("GET", "event-types/schema", "read"),
    ("PUT", "event-types/schema", "manage"),
    ("GET", "event-types/<int:pk>", "read"),
    ("PUT", "event-types/<int:pk>", "manage"),
    ("GET", "event-types/<int:pk>/schema", "read"),
    ("PUT", "event-types/<int:pk>/schema", "manage"),
    ("GET", "rejected-events", "read"),
    ("POST", "rejected-events/replay", "manage"),
    ("GET", "rejected-events/replays/<int:pk>", "read"),
    ("POST", "customers", "customers:write"),
    ("GET", "customers/<external_id:external_id>", "read"),
    ("PUT", "customers/<external_id:external_id>", "customers:write"),
    ("POST", "customers/<external_id:external_id>/merge", "customers:write"),
    ("GET", "customers/<external_id:external_id>/events", "read"),
    ("GET", "customers/<external_id:external_id>/messages", "read"),
    ("GET", "segments", "read"),
    ("POST", "segments", "manage"),
    ("POST", "segments/preview", "read"),
    ("GET", "segments/<int:pk>", "read"),
    ("PUT", "segments/<int:pk>", "manage"),
    ("DELETE", "segments/<int:pk>", "manage"),
    ("GET", "segments/<int:pk>/customers", "read"),
    ("POST", "segments/<int:pk>/customers", "manage"),
    ("GET", "segments/<int:pk>/explain", "read"),
    ("GET", "segments/<int:pk>/versions", "read"),
    ("POST", "segments/<int:pk>/archive", "manage"),
    ("POST", "segments/<int:pk>/restore", "manage"),
    ("GET", "campaigns", "read"),
    ("POST", "campaigns", "manage"),
    ("POST", "campaigns/import", "manage"),
    ("GET", "campaigns/<int:pk>", "read"),
    ("GET", "campaigns/<int:pk>/export", "read"),
    ("PUT", "campaigns/<int:pk>", "manage"),
    ("POST", "campaigns/<int:pk>/publish", "manage"),
    ("POST", "campaigns/<int:pk>/pause", "manage"),
    ("POST", "campaigns/<int:pk>/resume", "manage"),
    ("POST", "campaigns/<int:pk>/archive", "manage"),
    ("GET", "campaigns/<int:pk>/report", "read"),
    ("GET", "campaigns/<int:pk>/versions", "read"),
    ("GET", "campaigns/<int:pk>/versions/<int:number>/diff", "read"),
    ("GET", "campaigns/<int:pk>/broadcasts", "read"),
    ("GET", "campaigns/<int:pk>/broadcasts/<int:number>", "read"),
    ("POST", "campaigns/<int:pk>/broadcasts/<int:number>/stop", "manage"),
    ("GET", "campaigns/<int:pk>/versions/<int:number>/move", "read"),
    ("POST", "campaigns/<int:pk>/versions/<int:number>/move", "manage"),
    ("GET", "campaigns/<int:pk>/publish-requests", "read"),
    ("POST", "campaigns/<int:pk>/publish-requests", "manage"),
    ("POST", "campaigns/<int:pk>/publish-requests/decision", "manage"),
    ("GET", "campaigns/moves/<int:pk>", "read"),
    ("POST", "campaigns/<int:pk>/rehearsals", "manage"),
    ("GET", "campaigns/rehearsals/<int:pk>", "read"),
    ("DELETE", "campaigns/rehearsals/<int:pk>", "manage"),
    ("GET", "campaigns/<int:pk>/why", "read"),
    ("GET", "messages", "read"),
    ("GET", "messages/<int:pk>", "read"),
]
#: Open to all: they hold nothing but the product's own words.
OPEN = {"schema", "docs"}

each_call = pytest.mark.parametrize(("method", "address", "scope"), CALLS)


def named(address: str) -> str:
    """An address as the schema writes it."""
    return re.sub("<(?:[a-z_]+:)?([a-z_]+)>", r"{\1}", address).replace("{pk}", "{id}")


def path_of(address: str) -> str:
    return "/" + address.replace("<int:pk>", "1").replace("<int:number>", "1").replace(
        "<external_id:external_id>", "C-1"
    )


def views() -> Iterator[tuple[str, type]]:
    """Every address of the API as it is wired, with its view."""
    for resolver in get_resolver().url_patterns:
        if isinstance(resolver, URLResolver) and str(resolver.pattern) == "api/v1/":
            for pattern in resolver.url_patterns:
                assert isinstance(pattern, URLPattern)
                yield str(pattern.pattern), vars(pattern.callback)["view_class"]


def test_the_table_above_has_every_call_that_is_wired():
    wired = {
        (method, address, scope)
        for address, view in views()
        if address not in OPEN
        for method, scope in view.scopes.items()
    }

    assert wired == set(CALLS)


def test_every_method_of_every_view_asks_for_a_scope():
    for address, view in views():
        if address in OPEN:
            continue
        assert issubclass(view, ApiView), address
        methods = {
            name.upper()
            for name in ("get", "post", "put", "patch", "delete")
            if hasattr(view, name)
        }
        assert methods == set(view.scopes), address
        assert set(view.scopes.values()) <= set(Scope.values), address


@each_call
@pytest.mark.django_db
def test_without_a_key_it_is_refused(method, address, scope):
    response = Api(key="").call(method, path_of(address), {})

    problem(response, 401, "key_missing")
    assert response["WWW-Authenticate"] == "Bearer"


@each_call
@pytest.mark.django_db
def test_with_every_scope_but_the_right_one_it_is_refused(method, address, scope):
    others = [one for one in Scope.values if one != scope]

    response = Api(*others).call(method, path_of(address), {})

    assert scope in problem(response, 403, "scope_missing")["detail"]


@each_call
@pytest.mark.django_db
def test_with_the_right_scope_alone_it_is_not(method, address, scope):
    response = Api(scope).call(method, path_of(address), {})

    assert response.status_code not in (401, 403, 405, 500)


# The schema


@pytest.fixture(scope="module")
def schema() -> dict:
    """As `manage.py spectacular --validate --fail-on-warn` writes it."""
    written = StringIO()
    call_command(
        "spectacular",
        validate=True,
        fail_on_warn=True,
        format="openapi-json",
        stdout=written,
    )
    return json.loads(written.getvalue())


def operations(schema: dict) -> Iterator[tuple[str, str, dict]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_the_schema_has_every_call(schema):
    told = {(method, path) for method, path, _ in operations(schema)}

    assert told == {
        (
            method,
            "/api/v1/" + named(address),
        )
        for method, address, _ in CALLS
    }


def test_every_call_is_described_with_words_and_an_example(schema):
    for method, path, operation in operations(schema):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["description"].rstrip().endswith("."), where
        assert operation["tags"], where
        assert operation["security"] == [{"key": []}], where
        for status, answer in operation["responses"].items():
            if not status.startswith("2") or method == "DELETE":
                continue
            content = answer["content"]["application/json"]
            assert "$ref" in content["schema"], f"{where} {status}"
            assert content["examples"], f"{where} {status}"
        if "requestBody" in operation:
            for content in operation["requestBody"]["content"].values():
                assert content["examples"], where


def test_every_call_tells_how_it_refuses(schema):
    for method, path, operation in operations(schema):
        for status in ("401", "403", "429", "503"):
            answer = operation["responses"][status]
            assert "application/problem+json" in answer["content"], f"{method} {path}"


def test_every_call_tells_of_the_parameters_and_the_bodies_it_refuses(schema):
    for method, path, operation in operations(schema):
        refused = ["400"] if method == "GET" else []
        if "requestBody" in operation:
            refused = ["400", "413", "415", "422"]
        for status in refused:
            answer = operation["responses"].get(status, {"content": {}})
            where = f"{method} {path} {status}"
            assert "application/problem+json" in answer["content"], where


def test_every_parameter_that_is_understood_is_told(schema):
    for address, view in views():
        if address in OPEN or "GET" not in view.scopes:
            continue
        path = "/api/v1/" + named(address)
        told = {
            parameter["name"]
            for parameter in schema["paths"][path]["get"].get("parameters", [])
            if parameter["in"] == "query"
        }
        assert told == set(view.parameters), address


def test_two_shapes_never_share_a_name(schema):
    """The schema knows a struct by its name alone."""
    import msgspec

    names: dict[str, str] = {}

    def walk(parent: type[msgspec.Struct]) -> None:
        for shape in parent.__subclasses__():
            if shape.__module__.endswith(("api", ".problems")):
                assert shape.__module__ == names.setdefault(
                    shape.__name__, shape.__module__
                )
            walk(shape)

    walk(msgspec.Struct)
    assert "CustomerOut" in names


#: Codes that no call of the API answers, and where they are told.
NOT_OF_THE_API = {
    "campaigns/editor.py": {"changed_meanwhile"},
    "events/admin/mappings.py": {"same"},
    "events/keys.py": {"key_rotated", "key_ended"},
    "segments/admin/page.py": {"changed_meanwhile"},
    # In the list of rows that could not be imported.
    "events/importing/desk.py": {"plan_invalid"},
    "events/importing/plan.py": {
        "plan_invalid",
        "column_unknown",
        "columns_collide",
        "value_type",
    },
    "events/importing/reading.py": {
        "file_unreadable",
        "row_too_long",
        "columns_wrong",
        "csv_invalid",
    },
    "smartcomm/site/demo/showcase.py": {"offers"},
    # No refusal by itself: the base of the others.
    "smartcomm/core/errors.py": {"refused"},
}
CODE = re.compile(
    r'\bcode(?:: ClassVar\[str\])?\s*=\s*"([a-z_]+)"|Refusal\(\s*"([a-z_]+)"'
    r'|problem\(\s*\d+,\s*"([a-z_]+)"'
)


def codes_by_file() -> dict[str, set[str]]:
    """Every code that a refusal anywhere in the product can have."""
    apps = ("customers", "events", "segments", "campaigns", "messaging", "smartcomm")
    found = {
        str(path.relative_to(settings.BASE_DIR)): {
            code for codes in CODE.findall(path.read_text()) for code in codes if code
        }
        for app in apps
        for path in (settings.BASE_DIR / app).rglob("*.py")
    }
    return {path: codes for path, codes in found.items() if codes}


def test_every_code_that_a_refusal_can_have_is_explained():
    explained = (settings.BASE_DIR / "docs" / "api-errors.md").read_text()
    raised = codes_by_file()
    raised["FRAMEWORK"] = {code for code, _ in FRAMEWORK.values()}

    missing = {
        path: unknown
        for path, codes in raised.items()
        if (
            unknown := {
                code
                for code in codes - NOT_OF_THE_API.get(path, set())
                if f"`{code}`" not in explained
            }
        )
    }

    assert sum(map(len, raised.values())) > 100
    assert missing == {}


def test_a_code_that_is_left_out_above_is_still_there():
    raised = codes_by_file()

    for path, codes in NOT_OF_THE_API.items():
        assert codes <= raised.get(path, set()), path


@pytest.mark.django_db
def test_the_schema_is_served_without_a_key(client):
    response = client.get("/api/v1/schema", headers={"Accept": "application/json"})

    assert response.status_code == 200
    assert b'"openapi"' in response.content

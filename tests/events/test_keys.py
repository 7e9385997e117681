"""Keys: shown once, kept hashed, refused when expired, revoked or switched off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from events import keys
from events.keys import KeyRefused, check_key, create_key, revoke_key
from events.models import ApiKey, Source
from smartcomm.core.errors import Invalid
from tests import make
from tests.client import Api, problem

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _nobody_trusted():
    keys._trusted.clear()


def forget() -> None:
    """What happens by itself some seconds later."""
    keys._trusted.clear()


def test_only_the_hash_of_a_key_is_kept():
    key, secret = create_key(make.source(), ["read"], name="Till")

    stored = ApiKey.objects.values().get()
    assert secret.startswith("sck_")
    assert len(secret) > 40
    assert secret not in str(stored)
    assert stored["prefix"] == secret[:12]
    assert (stored["name"], stored["scopes"]) == ("Till", ["read"])
    assert check_key(secret, now=NOW) == key


def test_a_key_without_scopes_cannot_be_made():
    with pytest.raises(Invalid):
        create_key(make.source(), [])


def test_an_unknown_scope_cannot_be_given():
    with pytest.raises(Invalid):
        create_key(make.source(), ["everything"])


def test_an_expired_key_is_refused_from_that_moment():
    _, secret = create_key(make.source(), ["read"], expires_at=NOW)

    check_key(secret, now=NOW - timedelta(seconds=1))
    with pytest.raises(KeyRefused, match="expired"):
        check_key(secret, now=NOW)


def test_a_revoked_key_is_refused_and_stays_listed():
    key, secret = create_key(make.source(), ["read"])
    check_key(secret, now=NOW)

    revoke_key(key, now=NOW)

    with pytest.raises(KeyRefused, match="revoked"):
        check_key(secret, now=NOW)
    assert ApiKey.objects.get().revoked_at == NOW


def test_a_key_revoked_by_another_process_is_refused_within_seconds(monkeypatch):
    _, secret = create_key(make.source(), ["read"])
    seconds = 1000.0
    monkeypatch.setattr(keys.time, "monotonic", lambda: seconds)
    check_key(secret, now=NOW)
    ApiKey.objects.update(revoked_at=NOW)

    seconds += 5.1
    with pytest.raises(KeyRefused):
        check_key(secret, now=NOW)


def test_the_keys_of_a_source_that_is_switched_off_are_refused():
    _, secret = create_key(make.source(), ["read"])
    Source.objects.update(is_active=False)

    with pytest.raises(KeyRefused, match="switched off"):
        check_key(secret, now=NOW)


def test_a_key_seen_within_seconds_costs_no_query():
    _, secret = create_key(make.source(), ["read"])
    check_key(secret, now=NOW)
    forget()

    with CaptureQueriesContext(connection) as first:
        check_key(secret, now=NOW)
    with CaptureQueriesContext(connection) as second:
        check_key(secret, now=NOW)

    assert (len(first), len(second)) == (1, 0)


def test_the_last_use_is_written_at_most_once_a_minute():
    _, secret = create_key(make.source(), ["read"])

    def last_use(at: datetime) -> datetime | None:
        forget()
        check_key(secret, now=at)
        return ApiKey.objects.get().last_used_at

    assert last_use(NOW) == NOW
    assert last_use(NOW + timedelta(seconds=59)) == NOW
    minute = NOW + timedelta(seconds=61)
    assert last_use(minute) == minute


def test_many_unknown_keys_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(keys, "TRUSTED_KEYS", 3)
    for number in range(5):
        with pytest.raises(KeyRefused):
            check_key(f"sck_{number}", now=NOW)
        _, secret = create_key(make.source(), ["read"])
        check_key(secret, now=NOW)

    assert len(keys._trusted) <= 3


# Over HTTP


@pytest.mark.parametrize(
    "header",
    ["Bearer nonsense", "Bearer ", "Bearer", "Bearer \xff", "Bearer a b"],
)
def test_a_key_that_is_not_known_is_refused_with_a_challenge(header):
    response = Api(key="").get("/segments", Authorization=header)

    problem(response, 401, "key_refused")
    assert response["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["", "Basic YTpi", "Token abc"])
def test_without_a_key_one_is_asked_for(header):
    response = Api(key="").get("/segments", Authorization=header)

    told = problem(response, 401, "key_missing")
    assert response["WWW-Authenticate"] == "Bearer"
    assert "Bearer" in told["detail"]


def test_the_detail_tells_why_a_key_is_refused():
    api = Api()
    ApiKey.objects.update(expires_at=NOW - timedelta(days=900))

    assert "expired" in problem(api.get("/segments"), 401, "key_refused")["detail"]


def test_the_scheme_is_read_without_regard_to_case():
    api = Api()

    assert api.get("/segments", Authorization=f"bearer {api.key}").status_code == 200


# The command


def run(*, scope: list[str], **options: str) -> str:
    out = StringIO()
    words = [f"--{name}={value}" for name, value in options.items()]
    words += [f"--scope={one}" for one in scope]
    call_command("create_api_key", *words, stdout=out)
    return out.getvalue()


def test_the_command_prints_the_key_and_nothing_else():
    printed = run(source="Till", scope=["events:write,read", "manage"], name="Test")

    secret = printed.strip()
    assert printed == f"{secret}\n"
    key = check_key(secret, now=NOW)
    assert key.source.name == "Till"
    assert key.scopes == ["events:write", "read", "manage"]
    assert key.name == "Test"


def test_the_command_takes_a_source_that_exists():
    source = make.source("Till")

    run(source="Till", scope=["read"])

    assert ApiKey.objects.get().source == source


def test_the_command_sets_an_end():
    run(source="Till", scope=["read"], expires="2099-01-31")

    assert ApiKey.objects.get().expires_at == datetime(2099, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"scope": ["read,everything"]}, "events:write"),
        ({"scope": [""]}, "Choose"),
        ({"scope": ["read"], "expires": "soon"}, "soon"),
        ({"scope": ["read"], "expires": "2026-02-30"}, "2026-02-30"),
        ({"scope": ["read"], "expires": "2001-01-01"}, "expired"),
        ({"scope": ["read"], "source": " "}, "1 to 128"),
    ],
)
def test_the_command_refuses_what_it_does_not_understand(options, word):
    with pytest.raises(CommandError, match=word):
        run(**{"source": "Till", **options})

    assert not ApiKey.objects.exists()

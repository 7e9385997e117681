"""Keys: shown once, kept hashed, refused when expired, revoked or switched off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from events import keys
from events.keys import (
    KeyRefused,
    check_key,
    create_key,
    revoke_key,
    rotate_key,
    state_of,
)
from events.models import ApiKey, Source
from smartcomm.core.errors import Conflict, Invalid
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


# Rotation


def rotated(overlap: timedelta = timedelta(hours=24), **more) -> tuple:
    """The old key and its secret, the new key and its secret."""
    old, secret = create_key(make.source(), ["read", "manage"], name="Till", **more)
    new, new_secret = rotate_key(old, overlap=overlap, now=NOW)
    return old, secret, new, new_secret


def test_a_rotated_key_is_replaced_by_one_of_the_same_name_and_scopes():
    old, secret, new, new_secret = rotated()

    assert secret != new_secret
    assert (new.source, new.name, new.scopes) == (old.source, old.name, old.scopes)
    assert (new.replaces, new.expires_at) == (old, None)
    assert ApiKey.objects.count() == 2


def test_both_keys_work_until_the_overlap_is_over():
    _, secret, new, new_secret = rotated(timedelta(hours=24))

    just_before = NOW + timedelta(hours=24) - timedelta(seconds=1)
    assert check_key(secret, now=just_before).name == "Till"
    assert check_key(new_secret, now=just_before) == new
    with pytest.raises(KeyRefused, match="another one replaces it"):
        check_key(secret, now=NOW + timedelta(hours=24))
    assert check_key(new_secret, now=NOW + timedelta(days=900)) == new


def test_without_an_overlap_the_old_key_is_refused_at_once():
    old, secret = create_key(make.source(), ["read"])
    check_key(secret, now=NOW)

    rotate_key(old, overlap=timedelta(), now=NOW)

    with pytest.raises(KeyRefused):
        check_key(secret, now=NOW)


def test_a_key_rotated_by_another_process_is_refused_within_seconds(monkeypatch):
    seconds = 1000.0
    monkeypatch.setattr(keys.time, "monotonic", lambda: seconds)
    old, secret = create_key(make.source(), ["read"])
    check_key(secret, now=NOW)
    read_before = dict(keys._trusted)
    rotate_key(old, overlap=timedelta(), now=NOW)
    keys._trusted.update(read_before)  # As another process has it.
    assert check_key(secret, now=NOW)

    seconds += 5.1
    with pytest.raises(KeyRefused):
        check_key(secret, now=NOW)


def test_an_overlap_makes_no_key_live_longer_than_it_was_to():
    old, *_ = rotated(timedelta(days=7), expires_at=NOW + timedelta(days=1))

    assert ApiKey.objects.get(pk=old.pk).expires_at == NOW + timedelta(days=1)


def test_a_new_key_gets_as_long_a_life_as_the_old_one_had():
    old, _ = create_key(make.source(), ["read"])
    ApiKey.objects.update(
        created_at=NOW - timedelta(days=80), expires_at=NOW + timedelta(days=10)
    )

    new, _ = rotate_key(old, overlap=timedelta(days=7), now=NOW)

    assert new.expires_at == NOW + timedelta(days=90)


def test_a_key_is_rotated_once():
    old, _, new, _ = rotated()

    with pytest.raises(Conflict, match=f"{new} replaces it") as refusal:
        rotate_key(old, overlap=timedelta(), now=NOW)

    assert refusal.value.code == "key_rotated"
    assert ApiKey.objects.count() == 2
    assert ApiKey.objects.get(pk=old.pk).expires_at == NOW + timedelta(hours=24)
    newest, _ = rotate_key(new, overlap=timedelta(), now=NOW)
    assert newest.replaces == new


@pytest.mark.parametrize("ended", [{"revoked_at": NOW}, {"expires_at": NOW}])
def test_a_key_that_does_not_work_is_not_rotated(ended):
    key, _ = create_key(make.source(), ["read"])
    ApiKey.objects.update(**ended)

    with pytest.raises(Conflict, match="Make a new key"):
        rotate_key(key, overlap=timedelta(), now=NOW)

    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=91)])
def test_an_overlap_without_sense_is_refused(overlap):
    key, _ = create_key(make.source(), ["read"])

    with pytest.raises(Invalid, match="90 days"):
        rotate_key(key, overlap=overlap, now=NOW)


# What is told of a key


def state(key: ApiKey, now: datetime = NOW) -> keys.State:
    return state_of(ApiKey.objects.get(pk=key.pk), now=now)


def test_the_state_of_a_key_says_whether_it_works_until_when_and_why():
    old, _, new, _ = rotated(timedelta(days=3))
    other, _ = create_key(make.source(), ["read"], expires_at=NOW + timedelta(days=40))

    assert state(new) == keys.State("works", works=True)
    assert state(other).sentence == "Expires in 40 days."
    assert not state(other).is_ending
    assert state(old).sentence == f"Expires in 3 days because {new} replaces it."
    assert (state(old).works, state(old).is_ending) == (True, True)
    late = state(old, NOW + timedelta(days=3))
    assert (late.word, late.works) == ("expired", False)
    assert late.sentence == f"Expired because {new} replaces it."
    revoke_key(new, now=NOW)
    assert state(new) == keys.State("revoked")


def test_an_old_key_that_is_still_used_is_told_of():
    old, _, new, _ = rotated()
    ApiKey.objects.filter(pk=new.pk).update(created_at=NOW)

    def used(at: datetime) -> datetime | None:
        ApiKey.objects.filter(pk=old.pk).update(last_used_at=at)
        return state(old).still_used

    assert used(NOW - timedelta(hours=1)) is None
    assert used(NOW + timedelta(seconds=30)) is None
    assert used(NOW + timedelta(minutes=5)) == NOW + timedelta(minutes=5)
    assert state(new).still_used is None


def test_keys_that_end_soon_and_will_be_missed_are_found():
    soon = NOW + timedelta(days=5)

    def key(name: str, **more) -> ApiKey:
        made, _ = create_key(make.source(more.pop("source", "shop")), ["read"], **more)
        return made

    ends = key("ends", expires_at=soon)
    key("much later", expires_at=NOW + timedelta(days=30))
    key("never")
    revoke_key(key("revoked", expires_at=soon), now=NOW)
    key("over", expires_at=NOW)
    key("off", expires_at=soon, source="off")
    Source.objects.filter(name="off").update(is_active=False)
    quiet, busy = key("rotated, not used"), key("rotated, still used")
    for old in (quiet, busy):
        new, _ = rotate_key(old, overlap=timedelta(days=2), now=NOW)
        ApiKey.objects.filter(pk=new.pk).update(created_at=NOW - timedelta(hours=2))
    ApiKey.objects.filter(pk=busy.pk).update(last_used_at=NOW - timedelta(hours=1))

    assert list(keys.ending_keys(now=NOW)) == [busy, ends]


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(), "0 seconds"),
        (timedelta(seconds=1), "1 second"),
        (timedelta(seconds=119), "119 seconds"),
        (timedelta(minutes=5, seconds=10), "5 minutes"),
        (timedelta(hours=23, minutes=59), "24 hours"),
        (timedelta(days=6, hours=23, minutes=59), "7 days"),
        (timedelta(seconds=-5), "0 seconds"),
    ],
)
def test_a_span_of_time_in_words(span, words):
    assert keys.in_words(span) == words


# The commands


def call(name: str, *words: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command(name, *words, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_a_key_is_rotated_by_command_which_prints_the_new_one_and_nothing_else():
    old, secret = create_key(make.source("Till"), ["read"])
    before = timezone.now()

    out, err = call("rotate_api_key", old.prefix, "--overlap", "24h")

    new = check_key(out.strip(), now=timezone.now())
    assert out == f"{out.strip()}\n"
    assert new.replaces == old
    ends = ApiKey.objects.get(pk=old.pk).expires_at
    assert ends is not None
    assert before <= ends - timedelta(hours=24) <= timezone.now()
    assert f"{old} of Till works until {ends:%Y-%m-%d %H:%M} UTC." in err
    assert check_key(secret, now=timezone.now()) == old


@pytest.mark.parametrize(
    ("overlap", "span"),
    [
        ("now", timedelta()),
        ("30m", timedelta(minutes=30)),
        ("7d", timedelta(days=7)),
    ],
)
def test_the_command_reads_overlaps(overlap, span):
    old, _ = create_key(make.source(), ["read"])

    call("rotate_api_key", old.prefix, "--overlap", overlap)

    ends = ApiKey.objects.get(pk=old.pk).expires_at
    assert ends is not None
    assert abs(timezone.now() + span - ends) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sck_nothing_"], "No key begins with"),
        ([""], "No key begins with"),
        (["sck_"], "Several keys begin with"),
        (["{prefix}", "--overlap", "soon"], "“soon” is no overlap"),
        (["{prefix}", "--overlap", "-1d"], "is no overlap"),
        (["{prefix}", "--overlap", "91d"], "90 days"),
    ],
)
def test_the_command_rotates_nothing_that_it_does_not_understand(words, sentence):
    key, _ = create_key(make.source(), ["read"])
    create_key(make.source(), ["read"])
    given = [word.format(prefix=key.prefix) for word in words]

    with pytest.raises(CommandError, match=sentence):
        # After "--overlap=" a dash is no option.
        call("rotate_api_key", *given[:1], *["=".join(given[1:])] * (len(given) > 1))

    assert ApiKey.objects.count() == 2


def test_a_key_is_revoked_by_command_as_lists_show_it():
    key, secret = create_key(make.source("Till"), ["read"])

    out, _ = call("revoke_api_key", f"{key.prefix}…")

    assert "is revoked" in out
    with pytest.raises(KeyRefused):
        check_key(secret, now=timezone.now())
    assert "was revoked before" in call("revoke_api_key", key.prefix)[0]
    with pytest.raises(CommandError, match="No key begins"):
        call("revoke_api_key", "sck_nothing_")


def test_keys_are_listed_with_their_state_and_without_their_secrets():
    old, secret = create_key(make.source("Till"), ["read"], name="Kiosk")
    new, _ = rotate_key(old, overlap=timedelta(days=3), now=timezone.now())
    revoke_key(create_key(make.source("Shop"), ["manage"])[0], now=NOW)

    out, _ = call("list_api_keys")

    head, shop, first, second = out.splitlines()
    assert head.split() == ["KEY", "SOURCE", "NAME", "SCOPES", "STATE", "LAST", "USED"]
    assert "Shop" in shop
    assert "revoked" in shop
    assert first.split() == [new.prefix, "Till", "Kiosk", "read", "works", "never"]
    assert second.endswith(f"Expires in 3 days because {new} replaces it.")
    assert secret not in out
    only, _ = call("list_api_keys", "--source", "Shop")
    assert len(only.splitlines()) == 2
    with pytest.raises(CommandError, match="no source “Tills”"):
        call("list_api_keys", "--source", "Tills")


def test_listing_more_keys_costs_no_more_queries():
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            call("list_api_keys")
        return len(captured)

    rotated()
    few = queries()
    for _ in range(5):
        rotated()

    assert queries() == few


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

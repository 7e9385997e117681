"""`manage.py import_events`: every row is imported, a duplicate, or rejected."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime

import pytest
from django.core.management import CommandError
from django.db import connection
from django.test.utils import CaptureQueriesContext

from customers.models import Customer
from events.importing import run
from events.models import (
    Event,
    EventType,
    Import,
    PendingEvent,
    RejectedEvent,
    Source,
    SystemEvent,
)
from events.replays import replay
from tests import make
from tests.events.importing.files import (
    an_event,
    csv_file,
    import_events,
    last_import,
    ndjson_file,
    numbers,
    packed,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _own_directory(settings, tmp_path):
    settings.DATA_DIR = tmp_path / "data"


HEADER = "id,event,customer,occurred_at,price"


def rejected_csv() -> list[dict[str, str]]:
    path = run.errors_path(last_import())
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def rejected_ndjson() -> list[dict]:
    text = run.errors_path(last_import()).read_text()
    return [json.loads(line) for line in text.splitlines()]


# What is read, and as what


def test_a_csv_file_becomes_events(tmp_path):
    path = csv_file(
        tmp_path / "f.csv",
        HEADER,
        "o-1,Order paid,C-1,2026-11-20T10:15:00+03:00,49.9",
        "o-2,Call received,C-2,2026-11-20T10:15:00Z,",
    )

    printed = import_events(path)

    assert "2 rows read = 2 imported + 0 duplicates + 0 rejected" in printed
    first, second = Event.objects.order_by("external_id")
    assert (first.external_id, first.type.name) == ("o-1", "Order paid")
    assert first.customer.external_id == "C-1"
    assert first.occurred_at == datetime(2026, 11, 20, 7, 15, tzinfo=UTC)
    assert first.context == {"price": 49.9}
    assert second.context == {}
    assert first.source.name == "shop"
    one = last_import()
    assert (one.status, one.percent, one.claim) == ("finished", 100, None)


def test_ndjson_is_read_as_the_api_reads_it(tmp_path):
    path = ndjson_file(tmp_path / "f", [an_event(1, context={"a": {"b": [1, None]}})])

    import_events(packed(path))

    assert Event.objects.get().context == {"a": {"b": [1, None]}}


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ("49.9", 49.9),
        ("49", 49),
        ("-3", -3),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("", None),
        ("007", "007"),
        ("4915112345678", "4915112345678"),
        ("+4915112345678", "+4915112345678"),
        ("1234567890", "1234567890"),
        ("1e5", "1e5"),
        ("49,90", "49,90"),
        ("NaN", "NaN"),
        ("2026-11-20", "2026-11-20"),
        (" 5", " 5"),
    ],
)
def test_a_value_becomes_a_number_only_where_nothing_is_lost_by_it(
    tmp_path, fields, context
):
    path = csv_file(tmp_path / "f.csv", "event;customer;value", f"Viewed;C-1;{fields}")

    import_events(path, delimiter="semicolon")

    found = Event.objects.get().context
    assert found == ({} if context is None else {"value": context})
    assert type(found.get("value")) is type(context)


def test_a_column_is_all_numbers_or_all_texts(tmp_path):
    path = csv_file(
        tmp_path / "f.csv", "event,customer,sku", "V,C-1,77", "V,C-2,A77", "V,C-3,78"
    )

    import_events(path)

    assert [e.context["sku"] for e in Event.objects.order_by("pk")] == [
        "77",
        "A77",
        "78",
    ]


def test_what_is_known_of_a_field_counts_more_than_how_it_looks(tmp_path):
    make.event(make.customer(), "Viewed", sku="A1", ean=5)
    path = csv_file(
        tmp_path / "f.csv", "event,customer,sku,ean", "Viewed,other,77,4006381333931"
    )

    import_events(path)

    event = Event.objects.get(customer__external_id="other")
    assert event.context == {"sku": "77", "ean": 4006381333931}


def test_what_is_told_counts_most_and_a_value_that_does_not_fit_is_rejected(tmp_path):
    path = csv_file(
        tmp_path / "f.csv",
        "event,customer,Menge,Neu",
        "V,C-1,007,yes",
        "V,C-2,viele,no",
        "V,C-3,5,perhaps",
    )

    import_events(
        path, map=["Menge=context.amount:number", "Neu=context.is_new:boolean"]
    )

    assert Event.objects.get().context == {"amount": 7, "is_new": True}
    assert [(row["_line"], row["_code"], row["_field"]) for row in rejected_csv()] == [
        ("3", "value_type", "Menge"),
        ("4", "value_type", "Neu"),
    ]


def test_columns_go_where_they_are_told_to_and_constants_fill_what_is_missing(tmp_path):
    path = csv_file(
        tmp_path / "f.csv",
        "Kunde,Wann,Product no,name,secret,address.city",
        "C-1,20.11.2026 10:15,77,Bag,x,Bonn",
    )

    import_events(
        path,
        map=["Kunde=customer", "Wann=occurred_at", "name=context.name"],
        set=["name=Order paid", "context.channel=shop"],
        skip=["secret"],
        time_zone="Europe/Berlin",
        time_format="%d.%m.%Y %H:%M",
    )

    event = Event.objects.get()
    assert event.type.name == "Order paid"
    assert event.occurred_at == datetime(2026, 11, 20, 9, 15, tzinfo=UTC)
    assert event.context == {
        "product_no": 77,
        "name": "Bag",
        "channel": "shop",
        "address": {"city": "Bonn"},
    }


def test_beside_an_event_a_name_is_something_else(tmp_path):
    path = csv_file(tmp_path / "f.csv", "name,event,customer", "Bag,Viewed,C-1")

    import_events(path)

    assert Event.objects.get().type.name == "Viewed"
    assert Event.objects.get().context == {"name": "Bag"}


def test_a_customer_may_be_told_by_email(tmp_path):
    make.customer("C-7", email="anna@example.com")
    path = csv_file(tmp_path / "f.csv", "event,E-Mail", "Viewed,anna@example.com")

    import_events(path)

    assert Event.objects.get().customer.external_id == "C-7"


def test_flat_ndjson_is_mapped_like_csv(tmp_path):
    path = ndjson_file(
        tmp_path / "f",
        [
            {
                "event": "Viewed",
                "user_id": "C-1",
                "ts": "2026-10-01T10:00:00Z",
                "n": "07",
            }
        ],
    )

    import_events(path, map=["ts=occurred_at"])

    event = Event.objects.get()
    assert event.context == {"n": "07"}
    assert event.occurred_at == datetime(2026, 10, 1, 10, tzinfo=UTC)


def test_a_key_that_nobody_mapped_is_rejected_and_not_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr("events.importing.guess.LOOKED_AT", 1)
    path = ndjson_file(
        tmp_path / "f",
        [{"event": "V", "user": "C-1"}, {"event": "V", "user": "C-2", "late": 5}],
    )

    import_events(path)

    assert numbers(last_import()) == (2, 1, 0, 1)
    assert rejected_ndjson()[0]["_code"] == "column_unknown"


def test_system_events_are_imported_too(tmp_path):
    path = csv_file(tmp_path / "f.csv", "id,event,product_id", "s-1,Back in stock,7")

    import_events(path, system=True)

    assert SystemEvent.objects.get().context == {"product_id": 7}
    assert not Customer.objects.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"map": ["nothing=id"]}, "There is no column “nothing”"),
        ({"map": ["price=context.price-eur"]}, "“price-eur” is no field code"),
        ({"map": ["price=total"]}, "“total” is no field"),
        ({"map": ["price=id"]}, ""),
        ({"map": ["price=context.a", "id=context.a"]}, "goes into context.a already"),
        ({"map": ["price=context.price:money"]}, "is no type"),
        ({"map": ["price"]}, "is not understood"),
        ({"skip": ["event"]}, "Say what happened"),
        ({"skip": ["customer"]}, "Say whose events they are"),
        ({"time_zone": "Berlin"}, "is no time zone"),
        ({"time_format": "%d.%m.%Y"}, "name the time zone"),
        ({"delimiter": "x"}, "--delimiter is one of"),
        ({"source": " "}, "1 to 128"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_before_anything_is_read(
    tmp_path, options, words
):
    path = csv_file(tmp_path / "f.csv", HEADER, "o-1,Viewed,C-1,,5")

    if not words:
        import_events(path, **options)
        return
    with pytest.raises(CommandError, match=words):
        import_events(path, **options)
    assert not Event.objects.exists()
    assert not Import.objects.exists()
    assert not Source.objects.exists()


def test_a_file_that_is_not_there_is_told_in_a_sentence(tmp_path):
    with pytest.raises(CommandError, match="No such file"):
        import_events(tmp_path / "nothing.csv")


# Nothing is doubled


@pytest.mark.parametrize("is_packed", [False, True])
def test_the_same_file_again_gives_duplicates_and_changes_nothing(tmp_path, is_packed):
    """Also rows without an id, and also when it is packed meanwhile."""
    path = csv_file(
        tmp_path / "f.csv",
        HEADER,
        "o-1,Viewed,C-1,,5",
        ",Viewed,C-1,,5",
        ",Viewed,C-1,,5",
    )
    import_events(path)
    before = list(Event.objects.order_by("pk").values())
    assert len(before) == 3

    printed = import_events(packed(path) if is_packed else path)

    assert "3 rows read = 0 imported + 3 duplicates + 0 rejected" in printed
    assert list(Event.objects.order_by("pk").values()) == before


def test_rows_without_an_id_have_one_made_of_the_file_and_the_line(tmp_path):
    path = csv_file(tmp_path / "f.csv", "event,customer", "V,C-1", "V,C-1")
    other = csv_file(tmp_path / "g.csv", "event,customer", "V,C-1", "V,C-2")

    import_events(path)
    import_events(other)

    # The same line of another file is another event.
    ids = set(Event.objects.values_list("external_id", flat=True))
    assert len(ids) == 4
    assert {one.rsplit("-", 1)[1] for one in ids} == {"2", "3"}


# Nothing is lost


def test_rejected_rows_come_in_a_file_that_can_be_mended_and_imported(tmp_path):
    path = csv_file(
        tmp_path / "f.csv",
        "event;customer;note;price",
        "Viewed;C-1;good;1",
        'Viewed;;"no; customer";2',
        "Viewed;C-3;one too many;3;4",
        "",
        'Viewed;"C-4"x;quotes;5',
        f"{'x' * 129};C-5;long;6",
    )

    printed = import_events(path)

    one = last_import()
    assert numbers(one) == (5, 1, 0, 4)
    assert one.blank == 1
    assert "5 rows read = 1 imported + 0 duplicates + 4 rejected" in printed
    assert "1 blank lines ignored" in printed
    errors = run.errors_path(one)
    assert errors.stat().st_size == one.errors_bytes
    lines = errors.read_text().splitlines()
    assert lines[0] == "_line;_code;_field;_message;_id;event;customer;note;price"
    codes = [line.split(";")[:3] for line in lines[1:]]
    assert codes == [
        ["3", "customer_missing", "customer"],
        ["4", "columns_wrong", ""],
        ["6", "csv_invalid", ""],
        ["7", "name_too_long", "event"],
    ]
    assert lines[1].endswith(';Viewed;;"no; customer";2')
    assert lines[2].endswith(";Viewed;C-3;one too many;3;4")
    assert lines[3].endswith(';Viewed;"C-4"x;quotes;5')

    # Mended, but for one; a program may have left the columns in another order.
    text = errors.read_text().replace(";Viewed;;", ";Viewed;C-2;")
    text = text.replace("too many;3;4", "too many;3").replace('"C-4"x', "C-4")
    mended = tmp_path / "mended.csv"
    mended.write_text(text)
    import_events(mended)

    assert numbers(last_import()) == (4, 3, 0, 1)
    assert sorted(e.context["note"] for e in Event.objects.all()) == [
        "good",
        "no; customer",
        "one too many",
        "quotes",
    ]
    # Its first ids are kept, so mending the rest and sending all again doubles nothing.
    again = tmp_path / "again.csv"
    again.write_text(text.replace("x" * 129, "Viewed"))
    import_events(again)
    assert numbers(last_import()) == (4, 1, 3, 0)
    assert Event.objects.count() == 5
    with run.errors_path(one).open() as file:
        assert file.readline().startswith("_line")


def test_rejected_ndjson_is_kept_to_the_letter_and_can_be_mended(tmp_path):
    path = ndjson_file(
        tmp_path / "f",
        [
            '{"name": "V", "customer": "", "context": {"n": 1.50, "u": "\\u00fc"}}',
            '{"name": "V", "customer": "C-2", "context": {"n": 2}',
            "[1, 2]",
            "{}",
            an_event(1),
        ],
    )

    import_events(path)

    assert numbers(last_import()) == (5, 1, 0, 4)
    text = run.errors_path(last_import()).read_text()
    lines = text.splitlines()
    assert lines[0].startswith(
        '{"name": "V", "customer": "", "context": {"n": 1.50, "u": "\\u00fc"}, "_line"'
    )
    rejected = rejected_ndjson()
    assert [one["_line"] for one in rejected] == [1, 2, 3, 4]
    assert [one["_code"] for one in rejected] == [
        "customer_missing",
        "not_json",
        "not_an_object",
        "name_missing",
    ]
    assert rejected[1]["_raw"].endswith('"context": {"n": 2}')
    assert rejected[2]["_raw"] == "[1, 2]"

    rejected[0]["customer"] = "C-1"
    rejected[1]["_raw"] += "}"
    mended = ndjson_file(tmp_path / "mended", rejected)
    import_events(mended)

    assert numbers(last_import()) == (4, 2, 0, 2)
    assert Event.objects.get(customer__external_id="C-2").context == {"n": 2}
    # What is refused twice carries one reason, and is the same event still.
    assert [one["_id"] for one in rejected_ndjson()] == [
        one["_id"] for one in rejected[2:]
    ]
    import_events(mended, map=["name=name"])
    assert Event.objects.count() == 3


def test_a_rejected_event_is_kept_with_the_others_and_counts_as_replayed_once_mended(
    tmp_path,
):
    source = make.source("careful", unknown_customers="reject")
    make.customer("C-1")
    path = csv_file(
        tmp_path / "f.csv", "event,customer", "V,C-1", "V,C-2", "V,C-3", "V"
    )
    import_events(path, source="careful")
    assert set(RejectedEvent.objects.values_list("code", "status", "source__name")) == {
        ("customer_unknown", "open", "careful"),
        ("columns_wrong", "open", "careful"),
    }

    # One is replayed where it is kept; then all come again as a file.
    make.customer("C-2")
    replay(RejectedEvent.objects.filter(payload__contains="C-2"))
    make.customer("C-3")
    errors = run.errors_path(last_import())
    errors.write_text(errors.read_text().replace(",V\n", ",V,C-1\n"))
    import_events(errors, source="careful")

    assert numbers(last_import()) == (3, 2, 1, 0)
    assert Event.objects.filter(source=source).count() == 4
    assert not RejectedEvent.objects.filter(status="open").exists()


def test_a_file_that_does_not_fit_at_all_does_not_bury_what_systems_have_sent(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "KEPT_REJECTED", 20)
    monkeypatch.setattr(run, "BATCH", 10)
    path = csv_file(tmp_path / "f.csv", "event,customer", *(["V,"] * 100))

    import_events(path)

    assert numbers(last_import()) == (100, 0, 0, 100)
    assert RejectedEvent.objects.count() == 20
    assert len(rejected_csv()) == 100


def test_what_was_refused_can_be_copied_where_one_wants_it(tmp_path):
    path = csv_file(tmp_path / "f.csv", "event,customer", "V,")

    import_events(path, errors=tmp_path / "refused.csv")

    assert (tmp_path / "refused.csv").read_text().splitlines()[1].endswith(",V,")


# Campaigns


def test_nothing_is_triggered_unless_it_is_asked_for(tmp_path):
    make.event_type("Order paid", is_awaited=True)
    path = ndjson_file(tmp_path / "f", [an_event(1, backfill=False), an_event(2)])
    import_events(path)
    assert not PendingEvent.objects.exists()
    assert Event.objects.filter(is_backfill=True).count() == 2

    path = ndjson_file(tmp_path / "f", [an_event(3), an_event(4, backfill=True)])
    import_events(path, triggers=True)

    assert PendingEvent.objects.get().event.external_id == "e-3"


def test_a_type_that_is_enforced_is_enforced_for_files_too(tmp_path):
    make.event_type("Order paid", mode=EventType.Mode.ENFORCED)
    import_events(ndjson_file(tmp_path / "f", [an_event(1)]))

    assert numbers(last_import()) == (1, 0, 0, 1)
    assert rejected_ndjson()[0]["_code"] == "field_unknown"


# A look before


def test_a_dry_run_shows_what_would_become_of_the_first_rows_and_changes_nothing(
    tmp_path,
):
    make.source()
    path = csv_file(
        tmp_path / "f.csv", HEADER, "o-1,Viewed,C-1,,5", "o-1,Viewed,C-1,,5", "o-2,,,,"
    )
    import_events(csv_file(tmp_path / "g.csv", HEADER, "o-1,Viewed,C-1,,5"))

    printed = import_events(path, dry_run=True)

    assert "price → context.price (number)" in printed
    assert "line 2: duplicate" in printed
    assert "line 4: REJECTED name_missing" in printed
    assert Event.objects.count() == 1
    assert Import.objects.count() == 1
    assert not RejectedEvent.objects.exists()


def test_a_dry_run_makes_no_source_no_type_and_no_customer(tmp_path):
    path = csv_file(tmp_path / "f.csv", HEADER, "o-1,Viewed,C-1,,5")

    assert '"price": 5' in import_events(path, dry_run=True, source="new")

    for model in (Source, EventType, Customer, Event, Import):
        assert not model.objects.exists()
    # And nothing believes in what was taken back.
    import_events(path, source="new")
    assert Event.objects.get().type.name == "Viewed"
    assert [field.code for field in EventType.objects.get().fields.all()] == ["price"]


# What it costs


@pytest.mark.parametrize("bad", [False, True])
def test_a_batch_costs_as_many_queries_whatever_its_size(tmp_path, monkeypatch, bad):
    def queries(size: int) -> int:
        events = [an_event(n, id=f"{size}-{n}") for n in range(size)]
        if bad:
            events = [{**one, "customer": ""} for one in events[1:]] + events[:1]
        path = ndjson_file(tmp_path / f"f{size}", events)
        with CaptureQueriesContext(connection) as captured:
            import_events(path)
        assert last_import().rows == size
        return len(captured)

    queries(3)
    assert queries(5) == queries(500)

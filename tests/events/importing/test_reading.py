"""Bytes → rows: whatever it is packed and written in, row by row or refused by name."""

from __future__ import annotations

import csv
import gzip
import io
import json
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.importing import reading
from events.importing.reading import Rows, Shape, Unreadable, digest_of, look_at
from tests.events.importing.files import csv_file, ndjson_file, packed


def read(path: Path, shape: Shape | None = None, **place: int) -> list:
    """Each row as its value, or as the code of why it is refused."""
    with closing(Rows(path, shape or look_at(path), **place)) as rows:
        return [row.refusal.code if row.refusal else row.value for row in rows]


def places(path: Path) -> list[tuple[int, int]]:
    with closing(Rows(path, look_at(path))) as rows:
        return [(rows.offset, rows.line) for _ in rows]


def header(path: Path) -> list[str]:
    with closing(Rows(path, look_at(path))) as rows:
        return rows.header


# What a file is


@pytest.mark.parametrize(
    ("content", "shape"),
    [
        (b"a,b\n1,2\n", Shape("csv")),
        (b"a;b\n1,5;2\n", Shape("csv", delimiter=";")),
        (b"a\tb\n1\t2\n", Shape("csv", delimiter="\t")),
        (b"a|b\n1|2\n", Shape("csv", delimiter="|")),
        (b'a;"b, c, d"\n1;2\n', Shape("csv", delimiter=";")),
        (b"only\n1\n", Shape("csv")),
        (b'{"a": 1}\n', Shape("ndjson")),
        (b'\n\n  {"a": 1}\n', Shape("ndjson")),
        (b'\xef\xbb\xbf{"a": 1}\n', Shape("ndjson")),
        ("a,ü\n1,2\n".encode("utf-16"), Shape("csv", encoding="utf-16")),
        (gzip.compress(b"a,b\n1,2\n"), Shape("csv", is_gzip=True)),
    ],
)
def test_what_a_file_is_written_in_is_told_by_its_content(tmp_path, content, shape):
    path = tmp_path / "file.txt"
    path.write_bytes(content)

    assert look_at(path) == shape


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n\n", "nothing but blank lines"),
        (b'[{"a": 1}]', "one object on each line"),
        (b"PK\x03\x04rest", "Save a spreadsheet as CSV"),
        (b"\x00\x01\x00\x03", "no text"),
        ("a,b".encode("utf-32"), "UTF-32"),
        (gzip.compress(b"a,b\n" * 1000)[:-9], "not copied whole"),
        (b"\x1f\x8b\x08\x00broken", "not copied whole"),
    ],
)
def test_what_is_no_such_file_is_refused_in_a_sentence(tmp_path, content, words):
    path = tmp_path / "file"
    path.write_bytes(content)

    with pytest.raises(Unreadable, match=words):
        look_at(path)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("a,b,a", "Two columns are called “a”"),
        ("a,,b", "Column 2 has no name"),
        (",".join(f"c{n}" for n in range(501)), "at most 500"),
        ('a,"b', "never closed"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(tmp_path, first, words):
    path = csv_file(tmp_path / "f.csv", first, "1,2,3")

    with pytest.raises(Unreadable, match=words):
        read(path)


# CSV


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n3,4", [["1", "2"], ["3", "4"]]),
        ("a,b\r\n1,2\r\n", [["1", "2"]]),
        ('a,b\n"1,5","say ""hi"""\n', [["1,5", 'say "hi"']]),
        ('a,b\n"two\nlines",2\n3,4\n', [["two\nlines", "2"], ["3", "4"]]),
        ("a,b\n\n,\n  , \n1,2\n", [["1", "2"]]),
        ("\n\na,b\n1,2\n", [["1", "2"]]),
        ("a,b\n1,2,3\n4\n5,6\n", ["columns_wrong", "columns_wrong", ["5", "6"]]),
        ('a,b\n"1"x,2\n3,4\n', ["csv_invalid", ["3", "4"]]),
        ('a,b\n"1,2\n3,4\n5,6\n', ["csv_invalid", ["3", "4"], ["5", "6"]]),
        ("a,b\n1\r2,3\n4,5\n", ["csv_invalid", ["4", "5"]]),
        ("a,b\n1\0,2\n", [["1\0", "2"]]),
    ],
)
def test_the_rows_of_a_csv_file(tmp_path, text, rows):
    path = tmp_path / "f.csv"
    path.write_bytes(text.encode())

    assert read(path) == rows
    assert read(packed(path)) == rows


def test_a_row_says_on_which_line_it_begins(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text('a,b\n"x\ny\nz",1\n\n2,3\n"4,5\n6,7\n')

    with closing(Rows(path, look_at(path))) as rows:
        assert [row.number for row in rows] == [2, 6, 7, 8]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_be_in_utf_8_or_carry_the_mark_of_utf_16(tmp_path, encoding):
    path = csv_file(tmp_path / "f.csv", "name,city", "Jürgen,Köln", encoding=encoding)

    assert read(path) == [["Jürgen", "Köln"]]
    assert header(path) == ["name", "city"]


def test_another_encoding_has_to_be_told_and_until_then_only_its_lines_are_refused(
    tmp_path,
):
    path = csv_file(
        tmp_path / "f.csv", "name,city", "Jürgen,Bonn", "Anna,Ulm", encoding="cp1252"
    )

    assert read(path) == ["not_utf8", ["Anna", "Ulm"]]
    told = look_at(path, encoding="cp1252")
    assert read(path, told) == [["Jürgen", "Bonn"], ["Anna", "Ulm"]]


def test_what_is_wrong_in_an_encoding_refuses_the_line_and_not_the_file(tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes("a,b\n1,2\n".encode("utf-16") + b"\x00")
    assert read(path) == [["1", "2"], "not_utf8"]

    path.write_bytes(b"a,b\n\x81,2\n3,4\n")  # Nothing, in Windows-1252.
    told = look_at(path, encoding="cp1252")
    assert read(path, told) == ["not_utf8", ["3", "4"]]


@pytest.mark.parametrize("pack", [False, True])
def test_a_line_without_an_end_is_one_refused_row_and_the_next_is_read(
    tmp_path, monkeypatch, pack
):
    monkeypatch.setattr(reading, "MAX_ROW_BYTES", 100)
    monkeypatch.setattr(reading, "CHUNK", 64)
    for path, good in [
        (csv_file(tmp_path / "a", "a,b", "1,2", "x" * 1000 + ",y", "3,4"), ["3", "4"]),
        (
            csv_file(tmp_path / "b", '{"a": 1}', f'{{"b": "{"x" * 990}"}}', '{"c":1}'),
            {"c": 1},
        ),
    ]:
        found = packed(path) if pack else path
        rows = read(found)
        assert rows[-2:] == ["row_too_long", good]
        assert len(rows) == 3
        # A line of exactly so many bytes more than may be has its end with it.
        offset, line = places(found)[-2]
        assert read(found, offset=offset, line=line) == [good]


def test_a_quote_that_is_never_closed_costs_one_row_however_long_the_file(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(reading, "MAX_ROW_BYTES", 2000)
    lines = [f"{n},x" for n in range(1000)]
    path = csv_file(tmp_path / "f", "a,b", *lines[:10], '"open,x', *lines[10:])

    found = read(path)

    assert found[10] == "csv_invalid"
    assert [row[0] for row in found if isinstance(row, list)] == [
        str(n) for n in range(1000)
    ]


# NDJSON


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('{"a": 1', "not_json"),
        ('{"a": NaN}', "not_json"),
        ('{"a": 1, "a": 2}', "key_duplicate"),
        ('{"a": 1e999}', "number_too_large"),
        ('{"a": "\\ud83d"}', {"a": "\ud83d"}),
        ("nonsense", "not_json"),
        ("[1]", [1]),
        ("3", 3),
    ],
)
def test_the_lines_of_ndjson(tmp_path, line, found):
    path = ndjson_file(tmp_path / "f", ['{"first": 1}', "", line, '{"last": 1}'])

    assert read(path) == [{"first": 1}, found, {"last": 1}]


def test_a_line_of_ndjson_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b'{"a": 1}\n{"a": "\xff"}\n{"b": 1}\n')

    assert read(path) == [{"a": 1}, "not_utf8", {"b": 1}]


# Going on in the middle


def texts() -> st.SearchStrategy[str]:
    return st.text(
        # Python writes a lone \\r without quotes, which no reader can know.
        st.characters(blacklist_categories=["Cs"], blacklist_characters="\r")
        | st.sampled_from('",;\n\t \\'),
        max_size=12,
    )


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.lists(texts(), min_size=3, max_size=3), min_size=1, max_size=12),
    delimiter=st.sampled_from(list(reading.DELIMITERS)),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    members=st.integers(0, 3),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_the_csv_module_writes_is_read_back_whole_and_from_every_place(
    tmp_path_factory, rows, delimiter, encoding, members, end
):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
    writer.writerow(["a", "b", "c"])
    writer.writerows(rows)
    path = tmp_path_factory.mktemp("f") / "f.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    if members:
        path = packed(path, members=members)
    shape = look_at(path, delimiter=delimiter, format="csv")
    expected = [row for row in rows if any(field.strip() for field in row)]

    assert read(path, shape) == expected
    with closing(Rows(path, shape)) as seen:
        for number, _ in enumerate(seen, 1):
            rest = read(path, shape, offset=seen.offset, line=seen.line)
            assert rest == expected[number:]


@settings(max_examples=150, deadline=None)
@given(
    items=st.lists(
        st.dictionaries(texts(), texts() | st.integers() | st.none(), max_size=3),
        min_size=1,
        max_size=12,
    ),
    members=st.integers(0, 3),
    as_it_is=st.booleans(),
)
def test_what_json_writes_is_read_back_whole_and_from_every_place(
    tmp_path_factory, items, members, as_it_is
):
    path = tmp_path_factory.mktemp("f") / "f"
    lines = [json.dumps(one, ensure_ascii=not as_it_is) for one in items]
    path.write_text("\n\n".join(lines))
    if members:
        path = packed(path, members=members)
    shape = look_at(path)

    assert read(path, shape) == items
    with closing(Rows(path, shape)) as seen:
        for number, _ in enumerate(seen, 1):
            rest = read(path, shape, offset=seen.offset, line=seen.line)
            assert rest == items[number:]


def test_the_same_content_has_the_same_digest_however_it_is_packed(tmp_path):
    path = csv_file(tmp_path / "f", "a,b", "1,2", "3,4")

    assert digest_of(path) == digest_of(packed(path, members=3))
    assert digest_of(path) != digest_of(csv_file(tmp_path / "g", "a,b", "1,2"))

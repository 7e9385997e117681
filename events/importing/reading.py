"""A file → its rows, one after the other, in memory that does not grow.

CSV and NDJSON, plain or gzip, told by content and never by name. A place in a file is
how many bytes of it, unpacked and as UTF-8, have been consumed by whole rows: a plain
file is entered there at once, and a packed one is unpacked up to there.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from events.wire import Refusal
from smartcomm.core.errors import Invalid, UserError
from smartcomm.core.strict_json import NotJson, Unfit, decode, decode_item

#: A row may have so many bytes; a longer one is refused, and passed over in pieces.
MAX_ROW_BYTES = 1024 * 1024
#: A CSV row may go over so many lines.
MAX_ROW_LINES = 10_000
MAX_COLUMNS = 500
CHUNK = 256 * 1024

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
ENCODINGS = {
    "utf-8": "UTF-8",
    "utf-16": "UTF-16",
    "cp1252": "Windows-1252 (Western Europe)",
}

Format = Literal["csv", "ndjson"]

csv.field_size_limit(MAX_ROW_BYTES)


class Unreadable(Invalid):
    """A file of which nothing, or nothing more, can be read."""

    code = "file_unreadable"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a file is written in."""

    format: Format
    encoding: str = "utf-8"
    delimiter: str = ","
    is_gzip: bool = False


@dataclass(slots=True)
class Row:
    """One row, or why it cannot be read. `number` is the line of the file it is on."""

    number: int
    #: As it stands in the file: a line of text.
    raw: bytes
    #: The fields of a CSV row in their order; or one decoded JSON value.
    value: Any = None
    refusal: Refusal | None = None


class Rows:
    """The rows of a file from a place on. Iterate once; close when done.

    After each row, `offset` and `line` tell where the next one begins, and `blank`
    counts the rows with nothing in them that were passed over.
    """

    def __init__(
        self, path: Path, shape: Shape, *, offset: int = 0, line: int = 0
    ) -> None:
        self.shape = shape
        self.header: list[str] = []
        self.offset = 0
        self.line = 0
        self.blank = 0
        self._back: deque[bytes] = deque()
        self._stream = _Stream(path, shape)
        try:
            if shape.format == "csv":
                self._read_header()
            if offset > self.offset:
                self._stream.enter(offset, now_at=self.offset)
                self.offset, self.line = offset, line
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stream.close()

    @property
    def read_bytes(self) -> int:
        """How much of the file as it lies on the disk has been read."""
        if self._stream.is_plain:
            return self.offset + self._stream.begins_at
        return self._stream.read_bytes

    def __iter__(self) -> Iterator[Row]:
        return self._csv() if self.shape.format == "csv" else self._ndjson()

    def _next_line(self) -> bytes:
        if self._back:
            return self._back.popleft()
        return self._stream.readline()

    def _taken(self, lines: Sequence[bytes], passed_over: int = 0) -> int:
        """Say that these lines are consumed. Returns the number of the first."""
        number = self.line + 1
        self.offset += sum(map(len, lines)) + passed_over
        self.line += len(lines)
        return number

    def _too_long(self, lines: list[bytes]) -> Row:
        """A row with a line that has no end within reason: passed over to its end."""
        rest = 0 if lines[-1].endswith(b"\n") else self._stream.pass_over()
        number = self._taken(lines, rest)
        return Row(
            number,
            lines[0][:1000],
            refusal=Refusal(
                "row_too_long",
                f"Line {number} is longer than {MAX_ROW_BYTES // 1024**2} MiB. Only "
                "its beginning is kept here; shorten it in the file it came from.",
            ),
        )

    # NDJSON

    def _ndjson(self) -> Iterator[Row]:
        while line := self._stream.readline():
            if len(line) > MAX_ROW_BYTES:
                yield self._too_long([line])
                continue
            number = self._taken([line])
            if line.isspace():
                self.blank += 1
                continue
            yield read_json_line(number, line)

    # CSV

    def _read_header(self) -> None:
        for fields, lines, error in self._records():
            self._taken(lines)
            if error is not None:
                raise Unreadable(
                    f"The first line, with the names of the columns, is broken: "
                    f"{error.message}"
                )
            if not any(field.strip() for field in fields):
                continue
            self.header = [field.strip() for field in fields]
            break
        else:
            raise Unreadable("The file is empty. The first line names the columns.")
        if len(self.header) > MAX_COLUMNS:
            raise Unreadable(
                f"The first line has {len(self.header):,} columns; at most "
                f"{MAX_COLUMNS} are read. Is it the right delimiter?"
            )
        seen: set[str] = set()
        for position, name in enumerate(self.header, 1):
            if not name:
                raise Unreadable(
                    f"Column {position} has no name. The first line names the columns: "
                    "give it one, or take the column out."
                )
            if name in seen:
                raise Unreadable(
                    f"Two columns are called “{name}”. Give one of them another name."
                )
            seen.add(name)

    def _csv(self) -> Iterator[Row]:
        width = len(self.header)
        for fields, lines, error in self._records():
            if lines and len(lines[-1]) > MAX_ROW_BYTES:
                yield self._too_long(lines)
                continue
            number = self._taken(lines)
            if error is None and not any(map(str.strip, fields)):
                self.blank += 1
                continue
            if error is None and len(fields) != width:
                error = Refusal(
                    "columns_wrong",
                    f"There are {len(fields)} fields here, and {width} columns in the "
                    "first line. Is a delimiter missing, or a quote?",
                )
            yield Row(number, b"".join(lines), fields or None, error)

    def _records(self) -> Iterator[tuple[list[str], list[bytes], Refusal | None]]:
        """Fields of each row, the lines it took, and what is wrong with its form.

        The reader of the csv module asks for a line only when it needs one, so the
        lines it took are exactly those of the row.
        """
        lines: list[bytes] = []
        is_text = True
        size = 0

        def feed() -> Iterator[str]:
            nonlocal is_text, size
            while line := self._next_line():
                lines.append(line)
                size += len(line)
                if size > MAX_ROW_BYTES or len(lines) > MAX_ROW_LINES:
                    return
                try:
                    yield line.decode()
                except UnicodeDecodeError:
                    is_text = False
                    yield line.decode(errors="backslashreplace")

        def reader() -> Any:
            return csv.reader(feed(), delimiter=self.shape.delimiter, strict=True)

        records = reader()
        while True:
            lines, is_text, size = [], True, 0
            fields: list[str] = []
            error: Refusal | None = None
            try:
                fields = next(records)
            except StopIteration:
                if not lines:
                    return
                records = reader()  # A line too long stopped the feed.
            except csv.Error as problem:
                error = Refusal("csv_invalid", f"{_csv_words(str(problem))}.")
                # Perhaps one quote too many took in all that follows: only the first
                # line is to blame, and the others are read again.
                if len(lines) > 1 and len(lines[-1]) <= MAX_ROW_BYTES:
                    self._back.extendleft(reversed(lines[1:]))
                    del lines[1:]
                records = reader()
            if error is None and not is_text:
                error = not_utf8()
            yield fields, lines, error


def read_json_line(number: int, line: bytes) -> Row:
    """One line of NDJSON, decoded; or why it cannot be."""
    try:
        return Row(number, line, decode(line))
    except UserError:
        pass  # Perhaps half an emoji, or a key twice: that is looked at closely.
    try:
        value = decode_item(line.decode())
    except UnicodeDecodeError:
        return Row(number, line, refusal=not_utf8())
    except NotJson as problem:
        message = problem.message.replace("It is", "This line is")
        return Row(number, line, refusal=Refusal("not_json", message))
    if isinstance(value, Unfit):
        refusal = Refusal(value.code, value.message, field=value.field)
        return Row(number, line, refusal=refusal)
    return Row(number, line, value)


def not_utf8() -> Refusal:
    return Refusal(
        "not_utf8",
        "This line is not UTF-8. Save the file as UTF-8, or tell its encoding.",
    )


def _csv_words(problem: str) -> str:
    """What the csv module says, as a person reads it."""
    if "unexpected end" in problem:
        return "A quote is opened on this line and never closed"
    if "expected after" in problem:
        return (
            "After a closing quote comes something else than a delimiter; a quote "
            "inside a quoted field is written twice"
        )
    if "new-line" in problem:
        return "There is a carriage return in the middle of this line"
    return f"This is no CSV: {problem}"


class _Stream:
    """The lines of a file, unpacked and as UTF-8."""

    def __init__(self, path: Path, shape: Shape) -> None:
        self._file = path.open("rb")
        self.is_plain = not shape.is_gzip and shape.encoding == "utf-8"
        lines: Any = _unpacked(self._file) if shape.is_gzip else self._file
        if shape.encoding != "utf-8":
            lines = io.BufferedReader(_AsUtf8(lines, shape.encoding), CHUNK)
        self._lines = lines
        self.begins_at = 0
        with _told():
            if lines.peek(3)[:3] == codecs.BOM_UTF8:
                lines.read(3)
                self.begins_at = 3

    @property
    def read_bytes(self) -> int:
        return self._file.tell()

    def readline(self) -> bytes:
        try:
            line: bytes = self._lines.readline(MAX_ROW_BYTES + 1)
        except BROKEN as error:
            raise _broken(error) from error
        return line

    def pass_over(self) -> int:
        """Skip the rest of a line. Returns how many bytes it had."""
        passed = 0
        with _told():
            while piece := self._lines.readline(CHUNK):
                passed += len(piece)
                if piece.endswith(b"\n"):
                    break
        return passed

    def enter(self, offset: int, *, now_at: int) -> None:
        """Go on to a place; what is packed has to be unpacked up to there."""
        if self.is_plain:
            self._file.seek(self.begins_at + offset)
            return
        left = offset - now_at
        with _told():
            while left and (piece := self._lines.read(min(left, CHUNK))):
                left -= len(piece)

    def close(self) -> None:
        self._file.close()


#: What an archive that is broken raises as it is unpacked.
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)


def _broken(error: Exception) -> Unreadable:
    if isinstance(error, EOFError):
        return Unreadable(
            "The file ends in the middle of what is packed: it was not copied whole. "
            "Copy it again and import that; rows that are in already are told as "
            "duplicates."
        )
    return Unreadable(
        f"The file cannot be unpacked ({error}). Pack it again and import that; rows "
        "that are in already are told as duplicates."
    )


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise _broken(error) from error


def _unpacked(file: Any) -> io.BufferedReader:
    # All members of the archive, one after the other.
    return io.BufferedReader(gzip.GzipFile(fileobj=file), CHUNK)


class _AsUtf8(io.RawIOBase):
    """A stream in another encoding, as UTF-8.

    What is wrong in it comes out as bytes that are no UTF-8 either, so that the line
    is refused and not the file.
    """

    def __init__(self, source: Any, encoding: str) -> None:
        self._source = source
        self._pass = "surrogatepass" if encoding == "utf-16" else "surrogateescape"
        self._decoder = codecs.getincrementaldecoder(encoding)(self._pass)
        self._ready = b""
        self._is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._is_over:
            piece = self._source.read(CHUNK // 4)
            self._is_over = not piece
            try:
                text = self._decoder.decode(piece, final=self._is_over)
            except UnicodeDecodeError:  # Half a character at the very end.
                self._ready = b"\xff"
            else:
                self._ready = text.encode("utf-8", self._pass)
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


# What a file is


def look_at(
    path: Path, *, format: str = "", encoding: str = "", delimiter: str = ""
) -> Shape:
    """Find out what a file is written in; what is told already is not guessed."""
    with path.open("rb") as file:
        head = file.read(4)
        is_gzip = head[:2] == b"\x1f\x8b"
        if head[:4] == b"PK\x03\x04":
            raise Unreadable(
                "This is a ZIP archive or a spreadsheet. Save a spreadsheet as CSV; "
                "unpack an archive, or pack the file with gzip."
            )
        file.seek(0)
        with _told():
            source: Any = _unpacked(file) if is_gzip else file
            head = source.read(CHUNK)
            if len(head) < CHUNK and is_gzip:
                source.read(1)  # Notice an archive that is cut off.
    if not head:
        raise Unreadable("The file is empty.")
    encoding = encoding or _encoding_of(head)
    try:
        text = head.decode(encoding, errors="replace").removeprefix("\ufeff")
    except LookupError as error:
        raise Unreadable(f"The encoding “{encoding}” is not known.") from error
    first = text.lstrip()[:1]
    if not first:
        raise Unreadable("The file is empty: there is nothing but blank lines in it.")
    if not format:
        if first == "[":
            raise Unreadable(
                "This is a JSON list. Write one object on each line, without brackets "
                "around them and commas between them (NDJSON)."
            )
        format = "ndjson" if first == "{" else "csv"
    if format == "csv" and not delimiter:
        delimiter = _delimiter_of(text, is_cut=len(head) == CHUNK)
    return Shape(
        format="ndjson" if format == "ndjson" else "csv",
        encoding=encoding,
        delimiter=delimiter or ",",
        is_gzip=is_gzip,
    )


def _encoding_of(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise Unreadable("The file is in UTF-32. Save it as UTF-8.")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head[:200].count(0) * 5 > len(head[:200]):
        raise Unreadable(
            "This is no text, or UTF-16 without its mark. Save the file as UTF-8."
        )
    return "utf-8"


def _delimiter_of(text: str, *, is_cut: bool) -> str:
    """The one that cuts most of the first lines into as many fields as the header."""
    lines = text.splitlines(keepends=True)
    # The last one may be cut off.
    lines = lines[: len(lines) - 1 or 1][:30] if is_cut else lines[:30]

    def fitness(delimiter: str) -> tuple[int, int]:
        try:
            rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            return (0, 0)
        width = len(rows[0]) if rows else 0
        return (sum(len(row) == width for row in rows) if width > 1 else 0, width)

    best = max(DELIMITERS, key=fitness)
    return best if fitness(best) > (0, 0) else ","


def digest_of(path: Path) -> str:
    """The digest of a file's content, unpacked. Reads all of it, in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        source: Any = _unpacked(file) if is_gzip else file
        with _told():
            while piece := source.read(CHUNK):
                digest.update(piece)
    return digest.hexdigest()

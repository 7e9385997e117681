"""The file of refused rows: as they were sent, with what is wrong with each.

In the format of the file they came from, so that it can be corrected and imported
again. What we add begins with an underscore and is not imported; `_id` gives an event
that came without an id the same one again, however often it is sent.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from events.importing.plan import OURS, RAW
from events.importing.reading import Row, Shape, Unreadable


class RefusedRows:
    """Rows of one batch, until they are written behind those that were committed."""

    def __init__(self, path: Path, shape: Shape, header: Sequence[str]) -> None:
        self._path = path
        self._shape = shape
        self._skip = {at for at, name in enumerate(header) if name in OURS}
        self._header = [name for name in header if name not in OURS]
        self._text = io.StringIO()
        self._rows = csv.writer(
            self._text, delimiter=shape.delimiter, lineterminator="\n"
        )

    def add(
        self, row: Row, *, code: str, field: str, message: str, id: str = ""
    ) -> None:
        ours = (row.number, code, field, message, id)
        if self._shape.format == "csv":
            self._add_csv(row, ours)
        else:
            self._add_json(row, ours)

    def _add_csv(self, row: Row, ours: tuple[Any, ...]) -> None:
        if isinstance(row.value, list):
            sent = [one for at, one in enumerate(row.value) if at not in self._skip]
            self._rows.writerow([*ours, *sent])
            return
        # Its quotes are wrong, so it cannot be cut into fields: as it stands.
        self._rows.writerow([*ours, ""])
        self._text.seek(self._text.tell() - 1)
        self._text.write(_text_of(row).rstrip("\r\n") + "\n")

    def _add_json(self, row: Row, ours: tuple[Any, ...]) -> None:
        added = dict(zip(OURS, ours, strict=True))
        if not added["_id"]:
            del added["_id"]
        text = _text_of(row).strip()
        if not isinstance(row.value, dict) or row.refusal is not None:
            line = _json({RAW: text, **added})
        elif row.value.keys() & OURS:
            sent = {key: one for key, one in row.value.items() if key not in OURS}
            line = _json({**sent, **added})
        else:
            # Exactly as it was sent, to the last digit.
            sent_text = text[:-1].rstrip()
            comma = "" if sent_text == "{" else ", "
            line = f"{sent_text}{comma}{_json(added)[1:]}"
        self._text.write(line + "\n")

    def clear(self) -> None:
        self._text.seek(0)
        self._text.truncate()

    def write(self, *, committed: int) -> int:
        """Append the rows at the place that was committed. Returns the new place.

        What stands behind it belongs to a batch that never was, and goes.
        """
        text = self._text.getvalue()
        self.clear()
        if not text:
            return committed
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            if file.tell() < committed:
                raise Unreadable(
                    f"The file of refused rows is not what it was: {self._path.name} "
                    f"should have {committed:,} bytes. Put it back, or import the file "
                    "anew."
                )
            file.truncate(committed)
            if committed == 0:
                file.write(self._beginning())
            file.write(text.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def _beginning(self) -> bytes:
        if self._shape.format != "csv":
            return b""
        header = io.StringIO()
        csv.writer(
            header, delimiter=self._shape.delimiter, lineterminator="\n"
        ).writerow([*OURS, *self._header])
        # Who sends another encoding than UTF-8 opens it in a program that has to be
        # told that this is UTF-8.
        mark = codecs.BOM_UTF8 if self._shape.encoding != "utf-8" else b""
        return mark + header.getvalue().encode()


def _text_of(row: Row) -> str:
    return row.raw.decode("utf-8", "backslashreplace")


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
